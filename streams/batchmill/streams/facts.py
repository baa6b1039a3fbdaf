"""What can happen to a life: one closed set of facts, all in the past tense.

Counterpart of `orders`. A fact is a frozen value; what it means for a life stands in `lifecycle`, nowhere else.
Facts about an attempt carry `sends`, the number inside the custom id, so that an answer to an earlier attempt is told
apart from an answer to this one. Facts about money carry a `Charge`, posted whether or not the fact moves anything.
Facts about an answer carry the hash of the answer they saw.
"""

from dataclasses import dataclass

from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status

__all__ = [
    "FREE",
    "AnswerFound",
    "Answered",
    "AttemptFailed",
    "AttemptRefused",
    "Attempted",
    "BroughtForward",
    "Cancelled",
    "Charge",
    "CommitApplied",
    "CommitIntended",
    "Condemned",
    "Fact",
    "NotPromoted",
    "Passed",
    "PutBack",
    "Recalled",
    "Redriven",
    "Refused",
    "Rejected",
    "Released",
    "RetryDue",
    "ReviewAccepted",
    "ReviewDeclined",
    "ReviewDeferred",
    "ReviewUndone",
    "SentToReview",
    "SetAside",
    "SinkRefused",
    "Spent",
    "Superseded",
    "TakenBack",
    "TakenIn",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one provider call used. `cost_nanos` None = unpriced, never 0 for an unknown price."""

    cost_nanos: int | None
    input_tokens: int
    output_tokens: int
    calls: int = 1  #: 0 when no provider was called


FREE = Charge(cost_nanos=0, input_tokens=0, output_tokens=0, calls=0)


# -- on the way to the provider ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """A filling chunk took the life in."""

    chunk_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A chunk that was never attempted let the life go back to the queue."""

    chunk_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """The life is named in an attempt that is being made durable; from here on it may be paid for."""

    chunk_id: str
    sends: int  #: the new number: one more than the life has


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFound:
    """A stored answer to the same question was read again; nobody was paid."""

    output_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It cannot be sent at all (template error, larger than the provider takes); nobody was paid."""

    reason: Reason


# -- what came back ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The provider answered attempt `sends`."""

    sends: int
    output_sha256: str
    charge: Charge


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """Attempt `sends` brought no answer; another one may start at `due_at_ms`."""

    sends: int
    reason: Reason
    due_at_ms: int
    charge: Charge


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRefused:
    """Attempt `sends` was refused in a way that no further attempt can mend."""

    sends: int
    reason: Reason
    charge: Charge


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDue:
    """The waiting time of a failed attempt is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """No attempt is left."""


# -- the judgement -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Every declared check passed."""

    sends: int
    output_sha256: str
    result_offset: int
    confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentToReview:
    """A person has to decide."""

    sends: int
    output_sha256: str
    result_offset: int
    confidence: float | None
    reason: Reason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The answer is not usable, another attempt may bring a better one at `due_at_ms`."""

    sends: int
    output_sha256: str
    result_offset: int
    reason: Reason
    due_at_ms: int
    route: str | None = None  #: the next attempt goes by this route of the cascade; None: by the same
    lane: str | None = None  #: that route's


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemned:
    """The answer is not usable and another attempt would not help."""

    sends: int
    output_sha256: str
    result_offset: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewAccepted:
    """A person accepted the answer they saw, or put `output_sha256` in its place."""

    seen_sha256: str
    output_sha256: str
    held_until_ms: int | None = None  #: it is not written downstream before


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewDeclined:
    """A person declined the answer they saw."""

    seen_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewDeferred:
    """A person wants to see it again later."""

    seen_sha256: str
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewUndone:
    """A decision is taken back before anything came of it downstream: the answer they were asked about waits again."""

    seen_sha256: str  #: of the answer the decision left


# -- downstream --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitIntended:
    """The sink is about to be asked for `commit_id`; durable before the sink hears of it."""

    output_sha256: str
    commit_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitApplied:
    """The sink holds `commit_id`."""

    output_sha256: str
    commit_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """The sink does not hold `commit_id` any more: an operator had it reverted."""

    commit_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """The sink holds the reverted `commit_id` again."""

    commit_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRefused:
    """The sink will never take this value."""

    output_sha256: str


# -- decided elsewhere -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """A newer event of the same source took its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """An operator cancelled the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPromoted:
    """Its version never got permission to commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtForward:
    """Its version was promoted: from now on it answers for its raw event, at this rank."""

    seq: int
    promotion: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A life of another version answers for its raw event from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """It is the newest of its source again, but the sink holds another request: it has to commit again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """It gets another chance at the earliest step that is not yet paid for."""

    to: Status  #: queued | succeeded_unvalidated | validated
    asked_at_ms: int  #: becomes `queued_at_ms`: a cancellation before this instant is not about it
    result_offset: int | None  #: with `queued`: the stored answer to read again, if there is one


Fact = (
    TakenIn
    | Released
    | Attempted
    | AnswerFound
    | Refused
    | Answered
    | AttemptFailed
    | AttemptRefused
    | RetryDue
    | Spent
    | Passed
    | SentToReview
    | Rejected
    | Condemned
    | ReviewAccepted
    | ReviewDeclined
    | ReviewDeferred
    | ReviewUndone
    | CommitIntended
    | CommitApplied
    | TakenBack
    | PutBack
    | SinkRefused
    | Superseded
    | Cancelled
    | NotPromoted
    | BroughtForward
    | SetAside
    | Recalled
    | Redriven
)
