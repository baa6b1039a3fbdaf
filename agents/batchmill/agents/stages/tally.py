"""What the stages ordered, as metrics: gathered in memory, booked once a second. Never a label with an id or a text."""

from collections import Counter
from collections.abc import Mapping

from batchmill.agents.telemetry import Telemetry
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
from batchmill.schemas.status import Outcome

__all__ = ["Tally"]

Key = tuple[CounterName, tuple[tuple[str, str], ...]]


class Tally:
    """Counts of one process since the last booking."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._counts: Counter[Key] = Counter()

    def ordered(self, record: Record) -> None:
        """Take note of one record that a stage writes."""
        match record:
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
            case DeadLetter() | Excluded():
                name: CounterName = "batchmill.dead_letters" if isinstance(record, DeadLetter) else "batchmill.excluded"
                self._add(name, {"stage": record.stage, "job": record.job or "", "reason": record.reason})
            case RawEvent() | Decision() | Control():
                pass  # written by others

    def book(self) -> None:
        """Hand the counts to the meters."""
        counts, self._counts = self._counts, Counter()
        for (name, labels), amount in counts.items():
            self._telemetry.count(name, amount, **dict(labels))

    def _result(self, record: Result) -> None:
        self._records("collector", record.job, record.outcome)
        if record.answered_by == "store":
            self._add("batchmill.cache.hits", {"job": record.job})
            return
        if record.outcome is not Outcome.SUCCEEDED:
            self._add("batchmill.retries", {"job": record.job, "reason": record.reason or ""})
            return
        model = record.model or ""
        self._telemetry.used(
            provider="openai", model=model, input_tokens=record.input_tokens, output_tokens=record.output_tokens
        )
        self._telemetry.spent(record.cost_nanos, job=record.job, model=model, tier="batch", outcome=record.outcome)

    def _records(self, stage: str, job: str, status: str) -> None:
        self._add("batchmill.records", {"stage": stage, "job": job, "status": status})

    def _add(self, name: CounterName, labels: Mapping[str, str]) -> None:
        self._counts[name, tuple(labels.items())] += 1
