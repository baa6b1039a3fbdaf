"""What a promise is made of: what is known beforehand, what was found, and the joins that several promises share.

What lives here: `Expect`, `Finding`, the histories of lives, and the question whether a bill was called for. What must
not: the promises themselves (`invariants`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.state import Life
from batchmill.schemas.status import Outcome, Status
from tests.chaos.evidence import Evidence, Seen

__all__ = ["LABEL_CHUNK", "Expect", "Finding", "bills_beyond_failures", "bills_without_intent", "histories"]

#: metadata of a batch that names its chunk
LABEL_CHUNK = "batchmill_chunk"
_SHOWN_MAX = 5
#: a life that is here may be asked again
_ENDED_TRY = frozenset({Status.FAILED_RETRYABLE, Status.FAILED_TERMINAL})


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise: how many things were looked at, and which of them break it."""

    name: str
    checked: int
    violations: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        shown = "; ".join(self.violations[:_SHOWN_MAX])
        return f"{self.name}: {self.checked} checked, {len(self.violations)} violations{': ' + shown if shown else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What the harness knows beforehand: the answer that belongs to a raw value, and what may still be under way."""

    answers_to: Callable[[bytes, dict[str, Any]], bool] | None = None  #: does this output belong to that raw value
    usable: Callable[[str], bool] | None = None  #: would the job take this text for an answer
    drained: bool = True  #: nothing may be in flight or held any more


def histories(evidence: Evidence) -> Iterator[tuple[str, list[tuple[Life | None, Life]]]]:
    per_life: dict[str, list[Life]] = defaultdict(list)
    for seen in evidence.state:
        if isinstance(seen.value, Life):
            per_life[seen.value.request_id].append(seen.value)
    for request, rows in per_life.items():
        yield request, list(zip([None, *rows[:-1]], rows, strict=True))


def bills_without_intent(evidence: Evidence) -> Iterator[str]:
    assert evidence.ledger is not None
    intents: dict[str, Seen] = {}
    for seen in evidence.flow.get("submitted", ()):
        intents.setdefault(seen.value.custom_id, seen)
    created = {made.batch_id: made for made in evidence.ledger.batches_created}
    for bill in evidence.ledger.bills:
        intent = intents.get(bill.custom_id)
        made = created[bill.batch_id]
        if intent is None:
            yield f"line {bill.custom_id} was billed, and no intent to send it is on record"
        elif intent.value.chunk_id != made.metadata.get(LABEL_CHUNK):
            yield f"line {bill.custom_id} was billed in another chunk's batch than it was meant for"
        elif intent.at_ms > made.at_ms:
            yield f"the intent to send {bill.custom_id} is {intent.at_ms - made.at_ms} ms younger than its batch"


def bills_beyond_failures(evidence: Evidence, expect: Expect) -> Iterator[str]:
    """A request is billed again only after something that entitles to another try was recorded."""
    assert evidence.ledger is not None
    failed, unusable = _failures_in_state(evidence), _failures_in_results(evidence, expect)
    billed: Counter[str] = Counter()
    for bill in evidence.ledger.bills:
        sent = parse_custom_id(bill.custom_id)
        billed[sent.request_id if sent else bill.custom_id] += 1
    for request, n in billed.items():
        entitled = max(failed[request], unusable[request])
        if n > 1 + entitled:
            yield f"request {request} was billed {n} times after {entitled} recorded failures"


def _failures_in_state(evidence: Evidence) -> Counter[str]:
    """Two moves may share a transaction: to be asked again a life must have failed in between."""
    again = {(Status.PROCESSING, Status.QUEUED), (Status.SUCCEEDED_UNVALIDATED, Status.QUEUED)}
    failures: Counter[str] = Counter()
    for request, moves in histories(evidence):
        for before, after in moves:
            between = before is not None and (before.status, after.status) in again
            failures[request] += after.status in _ENDED_TRY or between
    return failures


def _failures_in_results(evidence: Evidence, expect: Expect) -> Counter[str]:
    failures: Counter[str] = Counter()
    for result in evidence.values("results"):
        bad = result.outcome is not Outcome.SUCCEEDED or bool(result.refusal)
        failures[result.request_id] += bad or (expect.usable is not None and not expect.usable(result.output or ""))
    return failures
