"""What becomes of work that kills the process which touches it: it ends as `poison`, and everything else goes on.

Known failures are data and never come here. The runtime calls for this after the third death on the same row.
"""

from dataclasses import replace
from typing import Final

from batchmill.schemas import codec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Submitted, WorkItem
from batchmill.schemas.state import Chunk, Life, Meta
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.collecting import acknowledge
from batchmill.streams.dead_lettering import RawRecord, of_raw
from batchmill.streams.facts import Condemned, Fact, SinkRefused
from batchmill.streams.index import CORRECTION_ROWS
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.settling import moved, obituary
from batchmill.streams.view import StateView

__all__ = [
    "answer_gone",
    "isolate_chunk",
    "isolate_commit",
    "isolate_judgement",
    "isolate_record",
    "verdict_gone",
]

_CLOSED: Final = frozenset({ChunkState.DONE, ChunkState.FAILED})
#: states of a chunk of which something is, was, or may be at the provider
_SENT: Final = frozenset(
    {ChunkState.ATTEMPTING, ChunkState.OPEN, ChunkState.ENDED, ChunkState.DOWNLOADED, ChunkState.COLLECTED}
)


def isolate_chunk(view: StateView, chunk_id: str, step: str, now_ms: int) -> list[Order]:
    """Give a chunk up: its members that have no outcome yet are dead-lettered as poison, in cuts.

    What those may have cost is doubtful, and counts against a budget.
    """
    chunk = read.chunk(view, chunk_id)
    if chunk is None or chunk.state in _CLOSED:
        return []
    note = f"the worker died three times in step {step}; look at its payload with `batchmill batches show {chunk_id}`"
    return [Put(_given_up(chunk, note, now_ms)), Wake("poll")]


def isolate_commit(view: StateView, request_id: str, now_ms: int) -> list[Order]:
    """Give a commit up: whether the sink holds it is not known, its commit id says where to look."""
    life = read.life(view, request_id)
    if life is None or life.status is not Status.VALIDATED or life.reverted:
        return []
    error = f"the worker died three times while writing commit {life.commit_id or '(not named yet)'}"
    return _unwritten(life, Reason.POISON, error, now_ms)


def verdict_gone(life: Life, now_ms: int) -> list[Order]:
    """Put down a validated life whose verdict retention removed while it waited: there is nothing to write."""
    error = f"retention removed its verdict, offset {life.verdict_offset} of validated; redrive asks anew"
    return _unwritten(life, Reason.BODY_GONE, error, now_ms)


def isolate_judgement(view: StateView, row: str, now_ms: int) -> list[Order]:
    """Give up judging the answer of life `row`; or a decision of the row of that name, whose life stays in review."""
    if row.startswith(CORRECTION_ROWS):
        life = read.life(view, row.removeprefix(CORRECTION_ROWS).partition("/")[0])
        waits = life is not None and life.status is Status.NEEDS_REVIEW
        shown = [Put(evolve(life, reason=Reason.POISON, updated_at_ms=now_ms))] if life is not None and waits else []
        return [Delete(Meta.schema, row), *shown]
    life = read.life(view, row)
    if life is None or life.status is not Status.SUCCEEDED_UNVALIDATED or life.result_offset is None:
        return []
    error = f"the worker died three times while judging its answer, offset {life.result_offset} of results"
    return _unjudged(life, Reason.POISON, error, now_ms)


def answer_gone(life: Life, topic: str, now_ms: int) -> list[Order]:
    """Put down a life whose answer or input retention removed before it was judged; `topic` is where it lay."""
    offset = life.result_offset if topic == "results" else life.input_offset
    error = f"retention removed what its judge reads, offset {offset} of {topic}; redrive asks anew"
    return _unjudged(life, Reason.BODY_GONE, error, now_ms)


def _unjudged(life: Life, reason: Reason, error: str, now_ms: int) -> list[Order]:
    assert life.output_sha256 is not None, f"answered life {life.request_id} has no answer"
    assert life.result_offset is not None, f"nothing says where the answer of {life.request_id} lies"
    fact = Condemned(
        sends=life.sends, output_sha256=life.output_sha256, result_offset=life.result_offset, reason=reason
    )
    ended = moved(life, fact, now_ms)
    return [Put(ended), obituary(ended, stage="validator", error=error, now_ms=now_ms)]


def _unwritten(life: Life, reason: Reason, error: str, now_ms: int) -> list[Order]:
    assert life.output_sha256 is not None, f"validated life {life.request_id} has no output"
    ended = evolve(moved(life, SinkRefused(output_sha256=life.output_sha256), now_ms), reason=reason)
    return [Put(ended), obituary(ended, stage="committer", error=error, now_ms=now_ms)]


def isolate_record(view: StateView, topic: str, record: RawRecord, *, raw: bool, now_ms: int) -> list[Order]:
    """Put down a record that kills whoever handles it; the life it is about ends, if it had one that waits for it.

    `topic` is the short name of where it was found; `record` is it as found there, a raw event exactly when `raw`.
    """
    error = f"the worker died three times on {topic}/{record.origin.partition}/{record.origin.offset}"
    if topic == "submitted":
        return [*_acknowledged(view, record, now_ms), _letter(record, topic, error, now_ms)]
    life = None if raw or record.key is None else read.life(view, record.key.decode("ascii", "replace"))
    fact = None if life is None else _end_of(life, topic, record.origin.offset)
    if life is not None and fact is not None:
        ended = evolve(moved(life, fact, now_ms), reason=Reason.POISON)
        return [Put(ended), obituary(ended, stage=topic, error=error, now_ms=now_ms)]
    return [_letter(record, topic, error, now_ms)]


def _letter(record: RawRecord, topic: str, error: str, now_ms: int) -> Emit:
    return of_raw(_as_raw(record, topic), stage=topic, reason=Reason.POISON, error=error, now_ms=now_ms)


def _acknowledged(view: StateView, record: RawRecord, now_ms: int) -> list[Order]:
    """The line was seen, that is all its chunk waits for."""
    try:
        return acknowledge(view, [codec.decode(record.value or b"", Submitted)], now_ms)
    except codec.CodecError:
        return []


def _end_of(life: Life, topic: str, offset: int) -> Fact | None:
    """What ends a life whose next record cannot be handled."""
    sha256 = life.output_sha256
    if topic == "results" and life.status is Status.SUCCEEDED_UNVALIDATED and sha256 is not None:
        return Condemned(sends=life.sends, output_sha256=sha256, result_offset=offset, reason=Reason.POISON)
    if topic == "validated" and life.status is Status.VALIDATED and sha256 is not None:
        return SinkRefused(output_sha256=sha256)
    return None


def _as_raw(record: RawRecord, topic: str) -> RawRecord:
    """A work item that never became a life is its raw event, for the books."""
    if topic != "normalized":
        return record
    try:
        return replace(record, origin=codec.decode(record.value or b"", WorkItem).origin)
    except codec.CodecError:
        return record


def _given_up(chunk: Chunk, note: str, now_ms: int) -> Chunk:
    return replace(
        chunk,
        state=ChunkState.ENDED,
        reason=Reason.POISON,
        note=note,
        cursor=None,
        due_at_ms=None,
        failures=0,
        doubtful_nanos=chunk.doubtful_nanos + _untold_nanos(chunk),
        updated_at_ms=now_ms,
    )


def _untold_nanos(chunk: Chunk) -> int:
    """What members without an outcome may have cost: their share of what was held, or else expected."""
    if chunk.state not in _SENT or chunk.reason is not None:
        return 0
    settled = chunk.succeeded + chunk.errored + chunk.expired + chunk.cancelled + chunk.missing
    most = max(chunk.reserved_nanos, chunk.estimated_nanos)
    return -(-most * max(0, chunk.members - settled) // max(1, chunk.members))
