"""A provider in memory that misbehaves by the seed, with a ledger of everything it billed.

It knows nothing of the system under test but the lines it was sent.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.costing import parse_prices
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    Label,
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    RemoteBatch,
    RemoteStatus,
    RowOutcome,
    TransientError,
)
from tests.simulation.oracle import answer_to

__all__ = ["NONE", "NORMAL", "PRICES", "Bill", "Faults", "SimProvider", "price"]

LISTED_AFTER_MS_MAX = 60_000
FROZEN_MS_MAX = 400_000
OUTPUT_TOKEN_NANOS = 10
OUTPUT_TOKENS_MAX = 50
#: what the system under test reserves by: `price`, at the full rate
PRICES = parse_prices('{"models": {"sim-1": {"input": "0.002", "output": "0.02"}}}')
#: of a custom id that name the request: rows of its earlier attempts are the likeliest to be mixed up
REQUEST_CHARS = 32
#: stands for the batch in the bill of a single call
ONLINE = "online"


@dataclass(frozen=True, slots=True)
class Faults:
    """How often something goes wrong, in shares of one."""

    accepted_unknown: float = 0.08
    lost_unknown: float = 0.06
    frozen: float = 0.04
    transient: float = 0.05
    no_money: float = 0.01
    queue_full: float = 0.04
    row: float = 0.2  #: of the rows fail somehow
    stray_rows: float = 0.3  #: of the result files hold repeated or foreign rows
    chatty: float = 0.0  #: of the answers are prose, whatever else happens


NORMAL = Faults()
NONE = Faults(*([0.0] * 9))


@dataclass(frozen=True, slots=True)
class Bill:
    batch_id: str
    custom_id: str
    nanos: int | None
    output: str


@dataclass(slots=True)
class _Batch:
    batch_id: str
    label: Label
    lines: list[tuple[str, str]]  #: custom id, question
    created_at_ms: int
    ends_at_ms: int
    listed_at_ms: int
    status: RemoteStatus = RemoteStatus.RUNNING
    failure: BatchFailure | None = None
    rows: list[RowOutcome] = field(default_factory=list)
    stops: bool = False


@dataclass(frozen=True, slots=True)
class _Frozen:
    at_ms: int
    file_id: str
    label: Label


class SimProvider:
    def __init__(self, chance: Random, faults: Faults) -> None:
        self.chance = chance
        self.faults = faults
        self.files: dict[str, list[tuple[str, str]]] = {}
        self.batches: dict[str, _Batch] = {}
        self.bills: list[Bill] = []
        self.calls: list[str] = []
        self._frozen: list[_Frozen] = []
        self._made = 0

    # -- what the adapter would call ----------------------------------------------------------------------------------

    def upload(self, payload: bytes) -> str:
        lines = [json.loads(line) for line in payload.splitlines()]
        file_id = self._name("file")
        self.files[file_id] = [(line["custom_id"], line["body"]["messages"][-1]["content"]) for line in lines]
        self.calls.append("upload")
        return file_id

    def delete_file(self, file_id: str) -> None:
        self.files.pop(file_id, None)

    def create(self, file_id: str, label: Label, now_ms: int) -> RemoteBatch:
        self.calls.append("create")
        fault = self._drawn()
        match fault:
            case "transient":
                raise TransientError("slow_down", http_status=429, retry_after_seconds=3)
            case "no_money":
                raise MustPauseError("insufficient_quota", http_status=429)
            case "lost_unknown":
                raise OutcomeUnknownError("timeout")
            case "frozen":
                self._frozen.append(_Frozen(now_ms + self.chance.randrange(FROZEN_MS_MAX), file_id, label))
                raise OutcomeUnknownError("timeout")
            case _:
                batch = self._accept(file_id, label, now_ms)
        if fault == "queue_full":
            batch.failure = BatchFailure(action=Action.DEFER_CHUNK, code="token_limit_exceeded")
        if fault == "accepted_unknown":
            raise OutcomeUnknownError("server_error", http_status=500)
        return self._shown(batch)

    def ask(self, custom_id: str, text: str) -> RowOutcome:
        """One question by itself; what goes wrong goes wrong for it alone."""
        self.calls.append("ask")
        fault = self._drawn()
        if fault == "transient":
            raise TransientError("slow_down", http_status=429, retry_after_seconds=3)
        if fault == "no_money":
            raise MustPauseError("insufficient_quota", http_status=429)
        if fault == "lost_unknown":
            raise OutcomeUnknownError("timeout")
        if "unreadable" in text:
            return _unbilled(custom_id, Outcome.ERROR, Reason.REQUEST_INVALID)
        row = self._with_fault(ONLINE, custom_id, text, self._row_fault(_CALL_FAULTS))
        assert row is not None
        if fault == "accepted_unknown":
            raise OutcomeUnknownError("server_error", http_status=500)
        return row

    def get(self, batch_id: str, now_ms: int) -> RemoteBatch:
        return self._shown(self._moved_on(self.batches[batch_id], now_ms))

    def find(self, label: Label, since_ms: int, now_ms: int) -> list[RemoteBatch]:
        return [
            self._shown(self._moved_on(batch, now_ms))
            for batch in self.batches.values()
            if batch.label.chunk_id == label.chunk_id
            and batch.created_at_ms >= since_ms
            and batch.listed_at_ms <= now_ms
        ]

    def cancel(self, batch_id: str, now_ms: int) -> RemoteBatch:
        batch = self.batches[batch_id]
        if batch.status is RemoteStatus.RUNNING:
            batch.stops = True
            batch.status = RemoteStatus.CANCELLING
            batch.ends_at_ms = min(batch.ends_at_ms, now_ms + 5_000)
        return self._shown(batch)

    def rows(self, batch_id: str) -> tuple[list[RowOutcome], list[RowOutcome]]:
        """The output file and the error file."""
        rows = self.batches[batch_id].rows
        return [row for row in rows if row.reason is None], [row for row in rows if row.reason is not None]

    # -- what happens meanwhile ---------------------------------------------------------------------------------------

    def thaw(self, now_ms: int, *, everything: bool = False) -> None:
        """Let create calls that were frozen on their way arrive."""
        due = [each for each in self._frozen if everything or each.at_ms <= now_ms]
        self._frozen = [each for each in self._frozen if each not in due]
        for each in due:
            if each.file_id in self.files:
                self._accept(each.file_id, each.label, now_ms)

    def finish_all(self, now_ms: int) -> None:
        for batch in self.batches.values():
            self._moved_on(batch, max(now_ms, batch.ends_at_ms))

    def _drawn(self) -> str:
        drawn, passed = self.chance.random(), 0.0
        for name in ("accepted_unknown", "lost_unknown", "frozen", "transient", "no_money", "queue_full"):
            passed += getattr(self.faults, name)
            if drawn < passed:
                return name
        return "fine"

    def _accept(self, file_id: str, label: Label, now_ms: int) -> _Batch:
        if file_id not in self.files:
            raise NotFoundError("no_such_file", http_status=404)
        batch = _Batch(
            batch_id=self._name("batch"),
            label=label,
            lines=list(self.files[file_id]),
            created_at_ms=now_ms,
            ends_at_ms=now_ms + self.chance.randrange(1_000, 90_000),
            listed_at_ms=now_ms + self.chance.randrange(LISTED_AFTER_MS_MAX),
        )
        bad = [number for number, (_, text) in enumerate(batch.lines, start=1) if "unreadable" in text]
        if bad:
            line = bad[0] if self.chance.random() < 0.5 else None
            batch.failure = BatchFailure(action=Action.RETRY_ROW, code="invalid_json_line", line=line)
        self.batches[batch.batch_id] = batch
        return batch

    def _moved_on(self, batch: _Batch, now_ms: int) -> _Batch:
        if batch.status in {RemoteStatus.RUNNING, RemoteStatus.CANCELLING} and now_ms >= batch.ends_at_ms:
            if batch.failure is not None:
                batch.status = RemoteStatus.FAILED
            else:
                batch.rows = list(self._run(batch))
                batch.status = RemoteStatus.ENDED
        return batch

    def _run(self, batch: _Batch) -> Iterator[RowOutcome]:
        rows = [row for custom_id, text in batch.lines if (row := self._answered(batch, custom_id, text)) is not None]
        if self.chance.random() < self.faults.stray_rows:
            strays = [RowOutcome(custom_id="request-1", outcome=Outcome.SUCCEEDED, reason=None, output="{}")]
            strays += [row for row in rows[:2] if row.outcome is Outcome.SUCCEEDED]
            asked = {custom_id[:REQUEST_CHARS] for custom_id, _ in batch.lines}
            others = [row for each in self.batches.values() if each is not batch for row in each.rows]
            rows += strays + [row for row in others if row.custom_id[:REQUEST_CHARS] in asked]
        self.chance.shuffle(rows)
        yield from rows

    def _answered(self, batch: _Batch, custom_id: str, text: str) -> RowOutcome | None:
        if batch.stops and self.chance.random() < 0.5:
            return _unbilled(custom_id, Outcome.CANCELLED, Reason.PROVIDER_CANCELLED)
        return self._with_fault(batch.batch_id, custom_id, text, self._row_fault(_ROW_FAULTS))

    def _row_fault(self, faults: tuple[str, ...]) -> str:
        if self.faults.chatty and self.chance.random() < self.faults.chatty:
            return "chatty"
        return self.chance.choice(faults) if self.chance.random() < self.faults.row else "fine"

    def _with_fault(self, batch_id: str, custom_id: str, text: str, fault: str) -> RowOutcome | None:
        match fault:
            case "missing":
                return None
            case "expired":
                return _unbilled(custom_id, Outcome.EXPIRED, Reason.EXPIRED)
            case "broken":
                return _unbilled(custom_id, Outcome.ERROR, Reason.PROVIDER_ERROR)
            case "invalid":
                return _unbilled(custom_id, Outcome.ERROR, Reason.REQUEST_INVALID)
            case _:
                return self._billed(batch_id, custom_id, text, fault)

    def _billed(self, batch_id: str, custom_id: str, text: str, fault: str) -> RowOutcome:
        output = "I would rather not say" if fault == "chatty" else json.dumps(answer_to(text))
        row = RowOutcome(
            custom_id=custom_id,
            outcome=Outcome.SUCCEEDED,
            reason=None,
            output=output,
            finish_reason="length" if fault == "cut" else "stop",
            model="nobody-knows" if fault == "unpriced" else "sim-1",
            input_tokens=len(text),
            output_tokens=self.chance.randrange(1, OUTPUT_TOKENS_MAX),
        )
        self.bills.append(Bill(batch_id, custom_id, price(row)[0], output))
        return row

    def _shown(self, batch: _Batch) -> RemoteBatch:
        label = batch.label
        failed = batch.status is RemoteStatus.FAILED
        return RemoteBatch(
            batch_id=batch.batch_id,
            status=batch.status,
            status_text=batch.status.value,
            created_at_ms=batch.created_at_ms,
            label={"chunk_id": label.chunk_id, "chunk_attempt": str(label.chunk_attempt)},
            output_file_id="output" if batch.status is RemoteStatus.ENDED else None,
            failure=batch.failure if failed else None,
        )

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made}"


_CALL_FAULTS = ("broken", "invalid", "chatty", "cut", "unpriced", "unpriced")
_ROW_FAULTS = ("missing", "expired", "broken", "invalid", "chatty", "cut", "unpriced", "unpriced")


def _unbilled(custom_id: str, outcome: Outcome, reason: Reason) -> RowOutcome:
    return RowOutcome(custom_id=custom_id, outcome=outcome, reason=reason, billed=False)


def price(row: RowOutcome) -> tuple[int | None, str | None]:
    """Prompt tokens cost one nano-dollar, answer tokens ten; one model has no price."""
    if row.model == "nobody-knows":
        return None, None
    return row.input_tokens + OUTPUT_TOKEN_NANOS * row.output_tokens, "prices-1"
