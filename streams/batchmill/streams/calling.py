"""Questions that are asked one by one: what their answers mean, and how an online chunk ends.

    sealed -> prepared -> attempting -> done

An online chunk has no batch behind it. Its one attempt names every member, and only once that is durable the calls run.
Answers come one at a time and become results in small cuts; a member with an outcome leaves the chunk, and with the
last one the chunk is done. Each member ends in exactly one outcome:

    answered, or refused as this very question      its row, as a batch would have brought it
    the service could not, or was asked too fast    throttled: it waits, no attempt is burnt
    never started (a pause, no lease, a closed gate)   let go: back to the queue as if the attempt had not been
    money, credentials, address, model              let go, and the job pauses
    nobody knows                                    outcome unknown: perhaps paid for, sent again or dead-lettered

Whoever finds a chunk in `attempting` that he did not just put there himself knows nothing of any of its calls. What
they may have cost at most is booked on the chunk as doubtful; it is the price of a crash, bounded by how many members
an online chunk may have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Outcome
from batchmill.streams import view as read
from batchmill.streams.answering import Price, bounded, outcomes
from batchmill.streams.chunking import custom_id_of, members
from batchmill.streams.collecting import let_go, queued
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.ports import (
    MustPauseError,
    NotStartedError,
    OutcomeUnknownError,
    ProviderError,
    RowOutcome,
)
from batchmill.streams.refusing import pause
from batchmill.streams.settling import end_if_unwanted
from batchmill.streams.submitting import may_create
from batchmill.streams.view import StateView

__all__ = ["Called", "Terms", "after_calls", "in_doubt", "may_call"]

_STAGE: Final = "caller"
_UNKNOWN: Final = frozenset({Reason.OUTCOME_UNKNOWN})
#: what an attempt is called whose process is gone
WORKER_GONE: Final = "worker_gone"


@dataclass(frozen=True, slots=True)
class Called:
    """How the call of one member ended."""

    request_id: str
    ended: RowOutcome | ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """By what the members of a chunk are judged and costed."""

    retry: RetrySpec
    on_unknown: Literal["resend", "dead"]
    price: Price
    worst: Callable[[Life], int]  #: nano-dollars that one call of the life costs at most; 0 where there is no price
    output_bytes_max: int


def after_calls(view: StateView, chunk: Chunk, called: Sequence[Called], terms: Terms, now_ms: int) -> list[Order]:
    """One cut: these members get their outcomes; with the last of them the chunk is done."""
    pairs = [(_member(view, chunk, each.request_id), each.ended) for each in called]
    ran = [(life, ended) for life, ended in pairs if not isinstance(ended, NotStartedError | MustPauseError)]
    unknown = [life for life, ended in ran if isinstance(ended, OutcomeUnknownError)]
    free = [life for life, ended in pairs if isinstance(ended, NotStartedError | MustPauseError)]
    row, orders = outcomes(
        view,
        chunk,
        [(life, _row(chunk, life, ended, terms)) for life, ended in ran],
        retry=terms.retry,
        price=terms.price,
        now_ms=now_ms,
        terminal=_UNKNOWN if terms.on_unknown == "dead" else frozenset(),
    )
    row = replace(
        row,
        cancelled=row.cancelled + len(free),
        doubtful_nanos=row.doubtful_nanos + sum(terms.worst(life) for life in unknown),
    )
    # The chunk's row last: whoever counts results looks up there what chunk they are of, until it is done.
    return [*orders, *_freed(view, chunk, free, now_ms), *_paused(view, chunk, pairs, now_ms), Put(_done(row))]


def in_doubt(view: StateView, chunk: Chunk) -> list[Called]:
    """What is known of the calls of an attempt that another process began: nothing."""
    unknown = OutcomeUnknownError(WORKER_GONE, hint="the process that sent it, if it did, is gone")
    return [Called(life.request_id, unknown) for life in members(view, chunk.chunk_id)]


def may_call(view: StateView, chunk: Chunk) -> bool:
    """The last question before each call: a pause or a cancellation stops those that have not begun."""
    return may_create(view, chunk)


def _member(view: StateView, chunk: Chunk, request_id: str) -> Life:
    life = read.life(view, request_id)
    assert chunk.state is ChunkState.ATTEMPTING, f"chunk {chunk.chunk_id} is {chunk.state}"
    assert life is not None, f"{request_id} was called and is no life"
    assert life.chunk_id == chunk.chunk_id, f"{request_id} was called as a member of {chunk.chunk_id}, it is none"
    return life


def _row(chunk: Chunk, life: Life, ended: RowOutcome | ProviderError, terms: Terms) -> RowOutcome:
    """The member's outcome as a row; what an error left open costs nothing on the record: it is the chunk's doubt."""
    if isinstance(ended, RowOutcome):
        return bounded(ended, terms.output_bytes_max)
    unknown = isinstance(ended, OutcomeUnknownError)
    return RowOutcome(
        custom_id=custom_id_of(chunk, life),
        outcome=Outcome.MISSING if unknown else Outcome.ERROR,
        reason=Reason.OUTCOME_UNKNOWN if unknown else Reason.THROTTLED,
        http_status=ended.http_status,
        error_code=ended.code,
        billed=False,
    )


def _done(row: Chunk) -> Chunk:
    """The chunk, done if every member has its outcome."""
    if row.succeeded + row.errored + row.expired + row.cancelled + row.missing < row.members:
        return row
    note = f"{row.missing} of {row.members} calls have an unknown outcome" if row.missing else None
    return replace(row, state=ChunkState.DONE, note=note, due_at_ms=None)


def _freed(view: StateView, chunk: Chunk, lives: Sequence[Life], now_ms: int) -> list[Order]:
    """Back to the queue; those that nobody waits for any more end."""
    orders: list[Order] = []
    for life in lives:
        kept, said = end_if_unwanted(view, let_go(chunk, life, now_ms), stage=_STAGE, now_ms=now_ms)
        orders += [Put(kept), *said] if said else [Put(queued(kept, now_ms))]
    return [*orders, Wake("sealing")] if lives else []


def _paused(
    view: StateView, chunk: Chunk, pairs: Sequence[tuple[Life, RowOutcome | ProviderError]], now_ms: int
) -> list[Order]:
    """Money, credentials, a wrong address or model: the next call would fare no better."""
    code = next((ended.code for _, ended in pairs if isinstance(ended, MustPauseError)), None)
    return [] if code is None else pause(view, chunk, code, now_ms)
