"""What the desk's doors show and send: frozen values, no behaviour.

Texts of inputs and outputs are hostile (upstream and a model wrote them): every door escapes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check, Decision
from batchmill.schemas.status import Status
from batchmill.streams.citing import Passage

__all__ = [
    "Agreement",
    "Answer",
    "Bin",
    "Calibration",
    "Card",
    "Change",
    "DeskError",
    "ErrorKind",
    "Filter",
    "Gold",
    "Lock",
    "Page",
    "Pair",
    "Passage",
    "Progress",
    "QueueItem",
    "Role",
    "User",
]


class Role(StrEnum):
    """What somebody may do; each role may do what those before it may."""

    VIEWER = "viewer"  #: look
    REVIEWER = "reviewer"  #: decide
    OPERATOR = "operator"  #: revert, replay, redrive, pause

    def may(self, needed: "Role") -> bool:
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who acts: `name` is written on every decision."""

    name: str
    role: Role


class ErrorKind(StrEnum):
    """Why the desk refused; each door has its own number for each."""

    NOT_FOUND = "not_found"
    CONFLICT = "conflict"  #: decided, changed or locked by somebody else meanwhile
    REFUSED = "refused"  #: the correction fails its checks, the reason is not on the list, the cap is exceeded
    FORBIDDEN = "forbidden"
    UNAVAILABLE = "unavailable"  #: broker or view cannot be reached; the same call may pass later


class DeskError(Exception):
    """Refused: why, and what to do; free of payload. `checks`: the failed ones of a correction."""

    def __init__(self, kind: ErrorKind, message: str, checks: tuple[Check, ...] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.checks = checks


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which of the queue; None: all."""

    job: str | None = None
    reason: Reason | None = None  #: why it waits; None with `sampled` False: any but what waits for a score
    sampled: bool = False  #: only those drawn as a sample: they wait for no fault of theirs
    deferred: bool = False  #: also those that were put off
    mine: bool = False  #: only those that nobody else holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """Somebody looks at it until then."""

    holder: str
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """One line of the queue."""

    request_id: str
    job: str
    version: str
    source_id: str
    reason: Reason | None  #: None: drawn as a sample
    confidence: float | None
    risk: float  #: 0 to 1; the queue begins with the highest
    waiting_since_ms: int
    deferred_until_ms: int | None
    needs_second: bool  #: one of two independent decisions is there already
    lock: Lock | None
    cursor: str  #: its place in the queue: what comes behind it begins `after` this


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of the queue; `after` begins the next one, None at the end."""

    items: tuple[QueueItem, ...]
    total: int
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Everything shown of one record."""

    item: QueueItem
    status: Status  #: only what is `needs_review` can be decided
    aside: bool  #: nor what stands aside: another version answers for the raw event
    pending: Decision | None  #: written just now, and not yet to be seen in the record itself
    input: Any  #: decoded; None when the log no longer has it
    output: Any  #: decoded
    output_sha256: str
    output_schema: Mapping[str, Any] | None
    checks: tuple[Check, ...]
    passages: tuple[Passage, ...]
    decline_reasons: tuple[str, ...]
    undo_seconds: float
    decisions: tuple[Decision, ...]  #: of this request, oldest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a decision at the door: it is written.

    `undo_until_ms`: until when undo is offered (a decline can be undone as long as it stands); None: it cannot be.
    """

    decision: Decision
    undo_until_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a queue is. Counts of decisions are those in force: an undone one is none."""

    job: str | None
    waiting: int
    deferred: int
    awaiting_score: int
    oldest_waiting_since_ms: int | None
    by_reason: Mapping[str, int]
    by_job: Mapping[str, int]
    accepted: int
    corrected: int
    declined: int
    by_actor: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two reviewers over the records that both decided; `kappa` None: both said one and the same all the time."""

    first: str
    second: str
    records: int
    agreed: int
    kappa: float | None  #: Cohen's


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far reviewers decide alike, over answers that two decided independently."""

    job: str | None
    records: int
    alpha: float | None  #: Krippendorff's, nominal; None where there is nothing to tell apart
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers that told a confidence from `low` (included) to `high` (only the last includes it)."""

    low: float
    high: float
    records: int
    told_mean: float
    right_share: float  #: accepted as they were


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a told confidence was worth in the eyes of reviewers, and the curve that would say so."""

    job: str
    records: int
    left_out: int  #: decided, but told no confidence, or waited for another fault than their confidence
    bins: tuple[Bin, ...]
    brier: float | None  #: mean squared error of what was told
    expected_error: float | None  #: ECE over the bins
    proposed: tuple[tuple[float, float], ...]  #: for `judge.confidence.calibration`; empty: too few decisions


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """One example made by a reviewer: what was asked, what is right, and what the model had said."""

    request_id: str
    job: str
    version: str
    source_id: str
    input: Any
    output: Any
    original: Any
    action: str  #: accept | correct
    decided_by: str
    decided_at_ms: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something has changed; where the queues stand now."""

    position: int  #: how far the view has read the log
    waiting: int
    by_job: Mapping[str, int]
    locked: int
    stale_seconds: float | None  #: the view was not moved for so long; None: it is fresh
