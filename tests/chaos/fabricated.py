"""A small run that never happened, right in every detail: what the checker's own tests bend.

One record is committed, one fails once and is then committed, one is put down by the normalizer, one is a duplicate.
"""

import hashlib
from dataclasses import replace
from typing import Any

from batchmill.agents.simulator.ledger import BatchCreated, BatchEnded, Bill, Ledger
from batchmill.schemas.ids import commit_id, custom_id, request_id
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, DeadLetter, Excluded, Origin, Result, Submitted, WorkItem
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Outcome, Status
from tests.chaos.evidence import Evidence, HistoryRow, Marker, Place, Seen, SinkRow, Txn
from tests.chaos.judging import LABEL_CHUNK
from tests.schemas.samples import sample

__all__ = ["CHUNK", "FIRST", "NONCE", "SECOND", "a_run"]

NONCE = "abcdefghijklmnop"
CHUNK = "c0000-0000000001-abc"
FIRST = request_id("job", "s-1", "1", "v", 0)
SECOND = request_id("job", "s-2", "2", "v", 0)
_OUTPUT = {FIRST: '{"mark":"m01"}', SECOND: '{"mark":"m02"}'}
_BEGAN_MS = 1_000_000
_TXN = Txn("worker-1", 7, 1, 1)


def a_run() -> Evidence:
    """Everything in its place."""
    lives = _life_rows()
    submitted = [_submitted(FIRST, 0, 1), _submitted(SECOND, 1, 1), _submitted(SECOND, 2, 2)]
    results = [_result(FIRST, 0, 1), _failed(SECOND, 1), _result(SECOND, 2, 2)]
    committed = [_committed(FIRST, 0), _committed(SECOND, 1)]
    return Evidence(
        raw=tuple(Seen(Place("raw", 0, n), _BEGAN_MS, b"k", b"{}") for n in range(4)),
        flow={
            "normalized": _log("normalized", [_item(FIRST, 0), _item(SECOND, 1), _item(FIRST, 3)], "bm.raw.v1/0/{}"),
            "submitted": _log("submitted", submitted, "effect:begin/{}"),
            "results": _log("results", results, "effect:poll/{}"),
            "committed": _log("committed", committed, "effect:commit/{}"),
            "dead-letter": _log("dead-letter", [_letter(2)], "bm.raw.v1/0/2"),
            "excluded": _log("excluded", [_duplicate(3)], "bm.normalized.v1/0/2"),
        },
        state=tuple(
            Seen(Place("state", 0, 1 + n), _BEGAN_MS + n, f"{row.schema}/{row.key}".encode(), row, txn=_TXN)
            for n, row in enumerate(lives)
        ),
        markers=(Marker(Place("state", 0, 0), "worker-1", 7, 1),),
        visible={_TXN: 5},
        written={_TXN: 5, Txn("worker-2", 8, 0, 3): 2},
        partitions_read=8,
        positions={("raw", 0): 4, ("normalized", 0): 3, ("submitted", 0): 3, ("results", 0): 3},
        sink=tuple(_sink_row(record) for record in committed),
        history=tuple(
            HistoryRow(commit_id=r.commit_id, target_key=r.target_key, request_id=r.request_id, previous_commit_id=None)
            for r in committed
        ),
        ledger=_ledger(),
        doomed=frozenset({Txn("worker-2", 8, 0, 3)}),
        live_commits=tuple(record.commit_id for record in committed),
    )


def _log(name: str, values: list[Any], src: str) -> tuple[Seen, ...]:
    def cause(n: int, value: Any) -> str:
        return src.format(value.origin.offset if isinstance(value, WorkItem) else n)

    return tuple(Seen(Place(name, 0, n), _BEGAN_MS + 10, b"k", v, src=cause(n, v)) for n, v in enumerate(values))


def _origin(offset: int) -> Origin:
    return Origin(generation=1, partition=0, offset=offset, at_ms=_BEGAN_MS)


def _item(request: str, offset: int) -> WorkItem:
    return replace(sample(WorkItem), request_id=request, origin=_origin(offset))


def _life_rows() -> list[Any]:
    rows: list[Any] = []
    for request, offset, statuses in (
        (FIRST, 0, "queued processing succeeded_unvalidated validated committed"),
        (
            SECOND,
            1,
            "queued processing failed_retryable queued processing succeeded_unvalidated validated committed",
        ),
    ):
        base = replace(
            sample(Life),
            request_id=request,
            job="job",
            source_id=f"s-{offset + 1}",
            target_key=f"s-{offset + 1}",
            seq=offset,
            promotion=0,
            origin=_origin(offset),
            cost_nanos=10,
            redrives=0,
        )
        rows += [replace(base, status=Status(status)) for status in statuses.split()]
    return [*rows, replace(sample(Chunk), chunk_id=CHUNK, state=ChunkState.DONE)]


def _custom_id(request: str, sends: int) -> str:
    return custom_id(request, sends, NONCE)


def _submitted(request: str, _: int, sends: int) -> Submitted:
    return replace(sample(Submitted), request_id=request, chunk_id=CHUNK, custom_id=_custom_id(request, sends))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _result(request: str, _: int, sends: int) -> Result:
    return replace(
        sample(Result),
        request_id=request,
        custom_id=_custom_id(request, sends),
        outcome=Outcome.SUCCEEDED,
        output=_OUTPUT[request],
        output_sha256=_sha256(_OUTPUT[request]),
        refusal=None,
        cost_nanos=10,
        answered_by="provider",
    )


def _failed(request: str, sends: int) -> Result:
    failed = _result(request, 0, sends)
    return replace(failed, outcome=Outcome.ERROR, output=None, output_sha256=None, cost_nanos=0)


def _committed(request: str, offset: int) -> Committed:
    output = _OUTPUT[request]
    return replace(
        sample(Committed),
        request_id=request,
        job="job",
        seq=offset,
        promotion=0,
        target_key=f"s-{offset + 1}",
        commit_id=commit_id(request, offset, 0, _sha256(output)),
        output_json=output,
        output_sha256=_sha256(output),
        origin=_origin(offset),
    )


def _letter(offset: int) -> DeadLetter:
    return replace(
        sample(DeadLetter),
        id="letter-1",
        request_id=None,
        reason=Reason.UNDECODABLE,
        redrives=0,
        origin=_origin(offset),
    )


def _duplicate(offset: int) -> Excluded:
    return replace(sample(Excluded), id="letter-2", request_id=FIRST, reason=Reason.DUPLICATE, origin=_origin(offset))


def _sink_row(record: Committed) -> SinkRow:
    return SinkRow(
        target_key=record.target_key,
        output_json=record.output_json,
        output_sha256=record.output_sha256,
        request_id=record.request_id,
        seq=record.seq,
        promotion=record.promotion,
        commit_id=record.commit_id,
    )


def _ledger() -> Ledger:
    return Ledger(
        requests=(),
        files_created=(),
        files_deleted=(),
        batches_created=(a_batch("batch-1"),),
        cancels_asked=(),
        batches_ended=(
            BatchEnded(
                seq=2, at_ms=_BEGAN_MS, mono_s=0, batch_id="batch-1", status="completed", total=3, billed_rows=2,
                cost_nanos=20,
            ),
        ),
        bills=(a_bill(FIRST, 1, 3), a_bill(SECOND, 2, 4)),
    )  # fmt: skip


def a_batch(batch_id: str, *, at_ms: int = _BEGAN_MS + 50) -> BatchCreated:
    return BatchCreated(
        seq=1,
        at_ms=at_ms,
        mono_s=0,
        batch_id=batch_id,
        provider="openai",
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        input_sha256="",
        metadata={LABEL_CHUNK: CHUNK},
    )


def a_bill(request: str, sends: int, seq: int, *, batch_id: str = "batch-1") -> Bill:
    return Bill(
        seq=seq,
        at_ms=_BEGAN_MS + 60,
        mono_s=0,
        batch_id=batch_id,
        custom_id=_custom_id(request, sends),
        request_sha256="",
        result_sha256=_sha256(_OUTPUT[request]),
        model="m",
        input_tokens=1,
        output_tokens=1,
        cost_nanos=10,
        delivered=True,
    )
