"""How a life moves: one total table, status x fact -> move, stale or impossible.

This is the only place that changes the status of a life. A *stale* fact (Kafka and providers redeliver) never moves the
status but always posts its cost. An *impossible* one is a bug of ours or corrupt state; it is returned as a value, and
the worker stops on it. There is no default cell: a test asserts that every pair is written down.

Two guards stand before the table. A fact about an older attempt, or about an answer the life no longer has, is stale; a
fact about an attempt that was never made is impossible. And a life inside a chunk is not ended from outside: it is
cancelled or superseded when its chunk settles, so that a billed answer is never dropped uncounted.
"""

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, Literal

from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from batchmill.streams.facts import (
    Answered,
    AnswerFound,
    Attempted,
    AttemptFailed,
    AttemptRefused,
    BroughtForward,
    Cancelled,
    Charge,
    CommitApplied,
    CommitIntended,
    Condemned,
    Fact,
    NotPromoted,
    Passed,
    PutBack,
    Recalled,
    Redriven,
    Refused,
    Rejected,
    Released,
    RetryDue,
    ReviewAccepted,
    ReviewDeclined,
    ReviewDeferred,
    ReviewUndone,
    SentToReview,
    SetAside,
    SinkRefused,
    Spent,
    Superseded,
    TakenBack,
    TakenIn,
)

__all__ = [
    "FACTS",
    "TABLE",
    "Cell",
    "Impossible",
    "Moved",
    "Stale",
    "Step",
    "StepVerdict",
    "evolve",
    "markdown",
    "step",
]

STALE: Final = "stale"
IMPOSSIBLE: Final = "impossible"
#: what `Redriven.to` may name
REDRIVE_TARGETS: Final = frozenset({Status.QUEUED, Status.SUCCEEDED_UNVALIDATED, Status.VALIDATED})

Cell = Status | Literal["stale", "impossible", "as told"]


@dataclass(frozen=True, slots=True)
class Moved:
    """The fact was taken; the status may be the same as before."""


@dataclass(frozen=True, slots=True)
class Stale:
    """The fact came late or twice: nothing moved, its cost was posted."""


@dataclass(frozen=True, slots=True)
class Impossible:
    """A pair that cannot happen. Carried out of the decision as a value: the worker stops and shows it."""

    request_id: str
    status: Status
    fact: str
    why: str

    @property
    def message(self) -> str:
        return (
            f"life {self.request_id} is {self.status} and met {self.fact}: {self.why}; "
            "the worker stops, look at `batchmill explain` for the life's history"
        )


StepVerdict = Moved | Stale | Impossible
MOVED: Final = Moved()
STALE_VERDICT: Final = Stale()


@dataclass(frozen=True, slots=True)
class Step:
    """The life after a fact, and what became of the fact."""

    life: Life
    verdict: StepVerdict

    @property
    def moved(self) -> bool:
        return isinstance(self.verdict, Moved)


_Q = Status.QUEUED
_P = Status.PROCESSING
_S = Status.SUCCEEDED_UNVALIDATED
_V = Status.VALIDATED
_C = Status.COMMITTED
_N = Status.NEEDS_REVIEW
_R = Status.FAILED_RETRYABLE
_T = Status.FAILED_TERMINAL
_o: Final = STALE
_X: Final = IMPOSSIBLE

_COLUMNS: Final = (_Q, _P, _S, _V, _C, _N, _R, _T)

# fmt: off
_ROWS: dict[type[Fact], tuple[Cell, ...]] = {
    #                 Q    P    S    V    C    N    R    T
    TakenIn:        (_Q,  _X,  _X,  _X,  _X,  _X,  _X,  _X),
    Released:       (_Q,  _X,  _X,  _X,  _X,  _X,  _X,  _X),
    Attempted:      (_P,  _X,  _X,  _X,  _X,  _X,  _X,  _X),
    AnswerFound:    (_S,  _X,  _o,  _o,  _o,  _o,  _o,  _o),
    Refused:        (_T,  _X,  _X,  _X,  _X,  _X,  _X,  _o),
    Answered:       (_o,  _S,  _o,  _o,  _o,  _o,  _o,  _o),
    AttemptFailed:  (_o,  _R,  _o,  _o,  _o,  _o,  _o,  _o),
    AttemptRefused: (_o,  _T,  _o,  _o,  _o,  _o,  _o,  _o),
    RetryDue:       (_o,  _o,  _o,  _o,  _o,  _o,  _Q,  _o),
    Spent:          (_X,  _X,  _X,  _X,  _X,  _X,  _T,  _o),
    Passed:         (_o,  _X,  _V,  _o,  _o,  _o,  _o,  _o),
    SentToReview:   (_o,  _X,  _N,  _o,  _o,  _o,  _o,  _o),
    Rejected:       (_o,  _X,  _R,  _o,  _o,  _o,  _o,  _o),
    Condemned:      (_o,  _X,  _T,  _o,  _o,  _o,  _o,  _o),
    ReviewAccepted: (_o,  _o,  _o,  _o,  _o,  _V,  _o,  _o),
    ReviewDeclined: (_o,  _o,  _o,  _o,  _o,  _T,  _o,  _o),
    ReviewDeferred: (_o,  _o,  _o,  _o,  _o,  _N,  _o,  _o),
    ReviewUndone:   (_o,  _o,  _o,  _N,  _o,  _o,  _o,  _N),
    CommitIntended: (_X,  _X,  _X,  _V,  _o,  _X,  _X,  _X),
    CommitApplied:  (_X,  _X,  _X,  _C,  _o,  _X,  _X,  _X),
    TakenBack:      (_o,  _o,  _o,  _o,  _V,  _o,  _o,  _o),
    PutBack:        (_o,  _o,  _o,  _C,  _o,  _o,  _o,  _o),
    SinkRefused:    (_X,  _X,  _X,  _T,  _X,  _X,  _X,  _o),
    Superseded:     (_T,  _X,  _T,  _T,  _o,  _T,  _T,  _o),
    Cancelled:      (_T,  _X,  _T,  _T,  _o,  _T,  _T,  _o),
    NotPromoted:    (_T,  _X,  _T,  _T,  _o,  _T,  _T,  _o),
    BroughtForward: (_Q,  _P,  _S,  _V,  _V,  _N,  _R,  _o),
    SetAside:       (_Q,  _P,  _S,  _V,  _C,  _N,  _R,  _T),
    Recalled:       (_o,  _o,  _o,  _o,  _V,  _o,  _o,  _o),
    Redriven:       (_o,  _o,  _o,  _o,  _o,  _o,  _o,  "as told"),
}
# fmt: on

#: every fact there is, in the order of a smooth life
FACTS: tuple[type[Fact], ...] = tuple(_ROWS)
TABLE: dict[tuple[Status, type[Fact]], Cell] = {
    (status, fact): cell for fact, row in _ROWS.items() for status, cell in zip(_COLUMNS, row, strict=True)
}

_FIELDS: Final = tuple(f.name for f in fields(Life))
_values: Final = attrgetter(*_FIELDS)
#: slot descriptors write to a fresh frozen row without the detour of `dataclasses.replace` (2.5 times as fast)
_SLOTS: Final = {name: vars(Life)[name].__set__ for name in _FIELDS}
_SETTERS: Final = tuple(_SLOTS.values())


def evolve(life: Life, **changes: Any) -> Life:
    """Make a copy of `life` with `changes`, as `dataclasses.replace` would; this runs some ten times per record."""
    made: Life = object.__new__(Life)
    for put, value in zip(_SETTERS, _values(life), strict=True):
        put(made, value)
    for name, value in changes.items():
        _SLOTS[name](made, value)
    return made


def step(life: Life, fact: Fact, now_ms: int) -> Step:
    """What `fact` does to `life`. Pure; the same fact twice is stale the second time."""
    doubt = _guard(life, fact)
    cell = doubt if doubt is not None else TABLE[life.status, type(fact)]
    if cell == IMPOSSIBLE:
        return Step(life, Impossible(life.request_id, life.status, type(fact).__name__, _why(life, fact)))
    charge: Charge | None = getattr(fact, "charge", None)
    changes: dict[str, Any] = {} if charge is None else _posted(life, charge)
    if cell == STALE:
        return Step(evolve(life, **changes, updated_at_ms=now_ms) if changes else life, STALE_VERDICT)
    changes |= _changes(life, fact)
    changes["status"] = fact.to if isinstance(fact, Redriven) else cell
    return Step(evolve(life, **changes, updated_at_ms=now_ms), MOVED)


def _guard(life: Life, fact: Fact) -> Literal["stale", "impossible"] | None:
    """What is decided by numbers and hashes before the table is asked."""
    match fact:
        case Attempted():
            return None if fact.sends == life.sends + 1 else STALE if fact.sends <= life.sends else IMPOSSIBLE
        case Answered() | AttemptFailed() | AttemptRefused() | Passed() | SentToReview() | Rejected() | Condemned():
            return None if fact.sends == life.sends else STALE if fact.sends < life.sends else IMPOSSIBLE
        case ReviewAccepted() | ReviewDeclined() | ReviewDeferred():
            return None if fact.seen_sha256 == life.output_sha256 else STALE
        case ReviewUndone():
            return None if _undoable(life) and fact.seen_sha256 == life.output_sha256 else STALE
        case TakenBack():
            return None if fact.commit_id == life.commit_id else STALE
        case PutBack():
            return None if life.reverted and fact.commit_id == life.commit_id else STALE
        case Superseded() | Cancelled() | NotPromoted() | TakenIn() | AnswerFound():
            return None if life.chunk_id is None else IMPOSSIBLE
        case Released():
            return None if life.chunk_id == fact.chunk_id else IMPOSSIBLE
        case Redriven():
            return None if fact.to in REDRIVE_TARGETS else IMPOSSIBLE
        case _:
            return None


def _undoable(life: Life) -> bool:
    """A person decided, and nothing came of it yet that others can see."""
    declined = life.status is Status.FAILED_TERMINAL and life.reason is Reason.DECLINED
    accepted = life.status is Status.VALIDATED and life.commit_id is None and not life.reverted
    return life.review_sha256 is not None and (declined or accepted)


def _why(life: Life, fact: Fact) -> str:
    if _guard(life, fact) is None:
        return "no such move in the table"
    if isinstance(fact, Superseded | Cancelled | NotPromoted | TakenIn | AnswerFound | Released):
        return f"it is a member of chunk {life.chunk_id}"
    return f"it was sent {life.sends} times"


def _posted(life: Life, charge: Charge) -> dict[str, Any]:
    return {
        "cost_nanos": life.cost_nanos + (charge.cost_nanos or 0),
        "unpriced_calls": life.unpriced_calls + (charge.calls if charge.cost_nanos is None else 0),
        "input_tokens": life.input_tokens + charge.input_tokens,
        "output_tokens": life.output_tokens + charge.output_tokens,
    }


def _failed(life: Life, reason: Reason, due_at_ms: int | None) -> dict[str, Any]:
    attempt = life.attempt if info(reason).costs_attempt else life.attempt - 1
    return {"chunk_id": None, "reason": reason, "due_at_ms": due_at_ms, "attempt": max(0, attempt)}


def _ended(reason: Reason) -> dict[str, Any]:
    return {"chunk_id": None, "reason": reason, "due_at_ms": None, "follows": None}


def _changes(life: Life, fact: Fact) -> dict[str, Any]:  # one arm per fact
    """The fields that change beside status, cost and time when `fact` is taken."""
    match fact:
        case TakenIn():
            return {"chunk_id": fact.chunk_id, "follows": None}
        case Released():
            return {"chunk_id": None}
        case Attempted():
            tried: dict[str, Any] = {"sends": fact.sends, "attempt": life.attempt + 1}
            return tried | {"chunk_id": fact.chunk_id, "reason": None, "follows": None}
        case AnswerFound():
            # where the answer lies as this life's own is known once it is read from `results`
            return {"output_sha256": fact.output_sha256, "result_offset": None, "reason": None}
        case Answered():
            return {"chunk_id": None, "output_sha256": fact.output_sha256, "result_offset": None, "reason": None}
        case AttemptFailed():
            return _failed(life, fact.reason, fact.due_at_ms)
        case Refused() | AttemptRefused():
            return _ended(fact.reason)
        case RetryDue():
            # An old answer was judged already; a queued life with a result offset waits for a stored answer.
            return {"due_at_ms": None, "result_offset": None, "follows": None}
        case Spent():
            return {"due_at_ms": None}
        case Passed():
            return _judged(fact) | {"reason": None}
        case SentToReview():
            return _judged(fact) | {"reason": fact.reason, "review_offset": None, "review_sha256": fact.output_sha256}
        case Rejected():
            escalated = {} if fact.route is None else {"route": fact.route, "lane": fact.lane or life.lane}
            return _failed(life, fact.reason, fact.due_at_ms) | _seen(fact) | escalated
        case Condemned():
            return _ended(fact.reason) | _seen(fact)
        case ReviewAccepted():
            return {"output_sha256": fact.output_sha256, "reason": None, "due_at_ms": fact.held_until_ms}
        case ReviewDeclined():
            return _ended(Reason.DECLINED)
        case ReviewDeferred():
            return {"due_at_ms": fact.until_ms}
        case ReviewUndone():
            # the offset is not known yet when its own verdict has not been met; it comes with that
            back = {"output_sha256": life.review_sha256, "verdict_offset": life.review_offset}
            return back | {"reason": None, "due_at_ms": None}
        case CommitIntended() | CommitApplied():
            return {"commit_id": fact.commit_id}
        case TakenBack():
            return {"reverted": True}
        case PutBack():
            return {"reverted": False}
        case SinkRefused():
            return _ended(Reason.SINK_REFUSED)
        case BroughtForward():
            return _brought_forward(life, fact)
        case SetAside():
            return {"aside": True}
        case Superseded():
            return _ended(Reason.SUPERSEDED)
        case Cancelled():
            return _ended(Reason.CANCELLED)
        case NotPromoted():
            return _ended(Reason.NOT_PROMOTED)
        case Recalled():
            # it was written once: what a person decided before that is not undone any more
            return {"commit_id": None, "review_sha256": None}
        case Redriven():
            return _redriven(life, fact)


def _seen(fact: Passed | SentToReview | Rejected | Condemned) -> dict[str, Any]:
    return {"output_sha256": fact.output_sha256, "result_offset": fact.result_offset}


def _judged(fact: Passed | SentToReview) -> dict[str, Any]:
    return _seen(fact) | {"confidence": fact.confidence}


def _brought_forward(life: Life, fact: BroughtForward) -> dict[str, Any]:
    """One that was written before, or taken back, is written again, at its new rank. A write that is in doubt is
    repeated as it was.
    """
    ahead: dict[str, Any] = {"aside": False, "seq": max(life.seq, fact.seq), "promotion": fact.promotion}
    if life.commit_id is None:
        return ahead
    if life.status is Status.COMMITTED or life.reverted:
        return ahead | {"commit_id": None, "review_sha256": None, "reverted": False}
    return {"aside": False} if life.status is Status.VALIDATED else ahead


def _redriven(life: Life, fact: Redriven) -> dict[str, Any]:
    fresh: dict[str, Any] = {"reason": None, "due_at_ms": None, "attempt": 0, "commit_id": None, "review_sha256": None}
    if fact.to is Status.QUEUED:
        fresh |= {"result_offset": fact.result_offset, "follows": None}
    return fresh | {"redrives": life.redrives + 1, "queued_at_ms": fact.asked_at_ms}


def markdown() -> str:
    """The table as the documentation prints it."""
    head = ["fact", *(status.value for status in _COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for fact, row in _ROWS.items():
        cells = [f"**{cell.value}**" if isinstance(cell, Status) else cell for cell in row]
        lines.append("| " + " | ".join([fact.__name__, *cells]) + " |")
    return "\n".join(lines) + "\n"
