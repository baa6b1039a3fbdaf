"""What the stages ordered, as metrics: gathered in memory, booked once a second. Never a label with an id or a text."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from batchmill.agents.telemetry import Telemetry
from batchmill.agents.telemetry.genai import operation_name, provider_name
from batchmill.agents.telemetry.names import CounterName
from batchmill.schemas.records import (
    Committed,
    Control,
    DeadLetter,
    Decision,
    Excluded,
    RawEvent,
    Record,
    Result,
    Submitted,
    Verdict,
    WorkItem,
)
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState, Outcome
from batchmill.streams.chunking import ONLINE

__all__ = ["Tally"]

NANO_DOLLARS = 1_000_000_000
#: chunks whose rows are being collected; one that is not remembered any more is named by its results alone
_CHUNKS_MAX: Final = 1_000
#: the status of whatever stands aside
_ASIDE: Final = "aside"
Key = tuple[CounterName, tuple[tuple[str, str], ...]]


class Tally:
    """Counts of one process since the last booking."""

    def __init__(self, telemetry: Telemetry, *, kind_of: Callable[[str], str]) -> None:
        """`kind_of` tells which provider an account is at."""
        self._telemetry = telemetry
        self._kind_of = kind_of
        self._chunks: dict[str, Chunk] = {}
        self._counts: Counter[Key] = Counter()

    def ordered(self, record: Record) -> None:
        """Take note of one record that a stage writes. What a life aside comes to is no result of its job."""
        match record:
            case WorkItem(aside=True):
                self._records("normalizer", record.job, _ASIDE)
            case Verdict(aside=True):
                self._records("validator", record.job, _ASIDE)
            case DeadLetter(aside=True) | Excluded(aside=True):
                self._records(record.stage, record.job or "", _ASIDE)
            case WorkItem():
                self._records("normalizer", record.job, "normalized")
            case Submitted():
                self._records("submitter", record.job, "submitted")
            case Result():
                self._result(record)
            case Verdict():
                self._records("validator", record.job, record.status)
                for check in record.checks:
                    if not check.passed:
                        self._add("batchmill.validation.failures", {"job": record.job, "rule": check.id})
            case Committed():
                self._records("committer", record.job, "committed")
                self._add("batchmill.sink.writes", {"sink": record.sink, "outcome": "applied"})
                self._latency("committer", record.job, record.committed_at_ms - record.origin.at_ms)
            case DeadLetter() | Excluded():
                name: CounterName = "batchmill.dead_letters" if isinstance(record, DeadLetter) else "batchmill.excluded"
                self._add(name, {"stage": record.stage, "job": record.job or "", "reason": record.reason})
            case RawEvent() | Decision() | Control():
                pass  # written by others

    def stepped(self, before: Chunk | None, after: Chunk) -> None:
        """Take note of what became of a chunk."""
        self._remember(after)
        account = {"account": after.account}
        if before is None or before.state is not after.state:
            self._add("batchmill.chunks", account | {"state": after.state})
            self._entered(after)
        if before is not None and after.looks > before.looks:
            self._add("batchmill.reconciliations", account | {"verdict": "nothing found"})
        elif before is not None and before.looks and after.state is ChunkState.OPEN is not before.state:
            self._add("batchmill.reconciliations", account | {"verdict": "found"})
        self._doubted(before, after)

    def refused(self, answer: Result) -> None:
        """Take note of an answer that was paid for and judged to be no good."""
        self._wasted(answer.cost_nanos, answer.job, "rejected")

    def book(self) -> None:
        """Hand the counts to the meters."""
        counts, self._counts = self._counts, Counter()
        for (name, labels), amount in counts.items():
            self._telemetry.count(name, amount, **dict(labels))

    def _result(self, record: Result) -> None:
        self._records("collector", record.job, record.outcome)
        if record.answered_by in {"store", "near"}:
            self._add("batchmill.cache.hits", {"job": record.job})
            return
        if record.outcome is not Outcome.SUCCEEDED:
            self._add("batchmill.retries", {"job": record.job, "reason": record.reason or ""})
            self._wasted(record.cost_nanos, record.job, "failed")
        if record.outcome is Outcome.SUCCEEDED or record.cost_nanos != 0:
            self._paid(record)

    def _paid(self, record: Result) -> None:
        """What a call used and cost, whether or not its answer is of use."""
        chunk = self._chunks.get(record.chunk_id)
        asked = chunk.model if chunk is not None else record.model or ""
        model = record.model or asked
        if record.input_tokens or record.output_tokens:
            self._telemetry.used(
                provider=provider_name(self._kind_of(chunk.account)) if chunk is not None else "_OTHER",
                operation=operation_name(chunk.endpoint) if chunk is not None else "chat",
                asked_model=asked,
                model=model,
                input_tokens=record.input_tokens,
                output_tokens=record.output_tokens,
            )
        self._telemetry.spent(
            record.cost_nanos, job=record.job, model=model, tier=record.tier or "", outcome=record.outcome
        )

    def _wasted(self, nanos: int | None, job: str, cause: str) -> None:
        if nanos:
            self._telemetry.count("batchmill.wasted", nanos / NANO_DOLLARS, job=job, cause=cause)

    def _doubted(self, before: Chunk | None, after: Chunk) -> None:
        """Twins, rows that were billed and never came, and calls of unknown cost, as they come to light."""
        was = (0, 0, 0) if before is None else (before.wasted_nanos, before.untold_nanos, before.doubtful_nanos)
        self._wasted(max(0, after.wasted_nanos - was[0]), after.job, "twin")
        self._wasted(max(0, after.untold_nanos - was[1]), after.job, "untold")
        doubtful = after.doubtful_nanos - was[2]
        if doubtful > 0:
            cause = "missing" if after.missing and after.mode != ONLINE else "unknown"
            self._telemetry.count("batchmill.doubtful", doubtful / NANO_DOLLARS, job=after.job, cause=cause)

    def _remember(self, chunk: Chunk) -> None:
        """Results name their chunk only; what it is at which provider is told by its row, which comes with them."""
        if chunk.state in {ChunkState.DONE, ChunkState.FAILED}:
            self._chunks.pop(chunk.chunk_id, None)
            return
        self._chunks[chunk.chunk_id] = chunk
        if len(self._chunks) > _CHUNKS_MAX:
            del self._chunks[next(iter(self._chunks))]

    def _entered(self, chunk: Chunk) -> None:
        """What is measured once, when a chunk enters a state."""
        labels = {"account": chunk.account, "model": chunk.model}
        if chunk.state is ChunkState.SEALED:
            self._telemetry.measure("batchmill.batch.size", chunk.members, **labels)
        elif chunk.state is ChunkState.ENDED and chunk.attempt_at_ms is not None:
            age_ms = chunk.updated_at_ms - chunk.attempt_at_ms
            self._telemetry.measure("batchmill.batch.age", age_ms / 1_000, **labels)
        elif chunk.state is ChunkState.DONE:
            self._rows_of(chunk)
            if chunk.note is not None:
                self._add("batchmill.chunks.unreconciled", {"account": chunk.account})

    def _rows_of(self, chunk: Chunk) -> None:
        counts = {
            "succeeded": chunk.succeeded,
            "error": chunk.errored,
            "expired": chunk.expired,
            "cancelled": chunk.cancelled,
            "missing": chunk.missing,
            "unknown": chunk.unknown_rows,
            "repeated": chunk.repeated_rows,
        }
        for outcome, rows in counts.items():
            if rows:
                self._telemetry.count("batchmill.result.rows", rows, account=chunk.account, outcome=outcome)

    def _latency(self, stage: str, job: str, latency_ms: int) -> None:
        self._telemetry.measure("batchmill.record.latency", max(0, latency_ms) / 1_000, stage=stage, job=job)

    def _records(self, stage: str, job: str, status: str) -> None:
        self._add("batchmill.records", {"stage": stage, "job": job, "status": status})

    def _add(self, name: CounterName, labels: Mapping[str, str]) -> None:
        self._counts[name, tuple(labels.items())] += 1
