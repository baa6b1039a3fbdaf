"""What a refusal means for a chunk: another attempt later, a pause of the job, or the end of its batch.

A batch that is refused as a whole never burns its members' attempts. If the refusal names a line, that member alone is
refused; the others dissolve into smaller chunks, so that a bad line which is not named is found by halving. Money and
credentials pause the job. Whatever else fails leaves the chunk where it is, for a bounded while.
"""

from dataclasses import replace
from typing import Final

from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams.chunking import at_step, ended_for, members
from batchmill.streams.facts import FREE, AttemptRefused
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    MustPauseError,
    NotFoundError,
    ProviderError,
    RefusedError,
)
from batchmill.streams.settling import carried, obituary, pause_by_itself
from batchmill.streams.view import StateView

__all__ = ["ATTEMPTS_MAX", "REFUSALS_MAX", "backoff_ms", "fail_batch", "pause", "try_later"]

_STAGE: Final = "submitter"
#: states in which nothing but reading is left, and the longest wait between two tries of it
_READS: Final = frozenset({ChunkState.OPEN, ChunkState.ENDED, ChunkState.DOWNLOADED, ChunkState.COLLECTED})
_READ_AGAIN_MS_MAX: Final = 15_000
#: uploads of one payload that the provider refuses before its job pauses
REFUSALS_MAX: Final = 5
#: create calls of one chunk before a person is asked
ATTEMPTS_MAX: Final = 100
_BACKOFF_MS_BASE: Final = 2_000
_BACKOFF_MS_MAX: Final = 300_000


def fail_batch(
    view: StateView, chunk: Chunk, failure: BatchFailure, now_ms: int, *, not_before_ms: int | None = None
) -> list[Order]:
    """A batch was refused as a whole, at create or after it had been accepted; certainly nothing ran.

    `not_before_ms` is how long the provider asked us to wait.
    """
    match failure.action:
        case Action.DEFER_CHUNK:
            return [Put(_deferred(chunk, failure, now_ms, not_before_ms)), Wake("dispatch")]
        case Action.PAUSE_JOB:
            return [Put(_again(chunk, failure.code, None, now_ms)), *pause(view, chunk, failure.code, now_ms)]
        case Action.RETRY_ROW:
            return [*_without_line(view, chunk, failure, now_ms), Wake("poll")]
        case Action.TERMINAL:
            # Whatever is wrong is wrong for the next chunk too: one chunk of dead letters, not the whole queue.
            ended = ended_for(chunk, Reason.REFUSED_BY_PROVIDER, failure.code, now_ms)
            return [Put(ended), *pause(view, chunk, failure.code, now_ms), Wake("poll")]


def try_later(view: StateView, chunk: Chunk, error: ProviderError, now_ms: int) -> list[Order]:
    """A call other than create failed: the chunk stays where it is and waits; money pauses the job.

    What we believe about the remote batch does not change. A payload that is refused again and again pauses it, too: an
    address or a permission is wrong, and it is wrong for every batch of the job.
    """
    waits = error.retry_after_seconds
    due = now_ms + (_patience_ms(chunk) if waits is None else round(waits * 1000))
    row = replace(chunk, failures=chunk.failures + 1, due_at_ms=due, note=error.code, updated_at_ms=now_ms)
    unwanted = isinstance(error, RefusedError | NotFoundError) and chunk.state is ChunkState.PREPARED
    stops = isinstance(error, MustPauseError) or (unwanted and row.failures >= REFUSALS_MAX)
    return [Put(row), *(pause(view, chunk, error.code, now_ms) if stops else [])]


def backoff_ms(failures: int) -> int:
    """How long a step waits after it failed for the (failures + 1)th time in a row."""
    return int(min(_BACKOFF_MS_MAX, _BACKOFF_MS_BASE * 2 ** min(failures, 16)))


def _patience_ms(chunk: Chunk) -> int:
    """Reading again what is paid for costs nothing and is waited for: it is tried more often than what spends."""
    wait_ms = backoff_ms(chunk.failures)
    return min(wait_ms, _READ_AGAIN_MS_MAX) if chunk.state in _READS else wait_ms


def _deferred(chunk: Chunk, failure: BatchFailure, now_ms: int, not_before_ms: int | None) -> Chunk:
    if chunk.attempt >= ATTEMPTS_MAX and not chunk.cancel_requested:
        note = f"{failure.code} on attempt {chunk.attempt}: approve it to go on, or cancel the job"
        return at_step(chunk, ChunkState.HELD, now_ms, batch_id=None, remote_status=None, note=note)
    wait = max(not_before_ms or 0, backoff_ms(chunk.attempt - 1))
    return _again(chunk, failure.code, now_ms + wait, now_ms)


def _again(chunk: Chunk, note: str, due_at_ms: int | None, now_ms: int) -> Chunk:
    """Back to where the next attempt begins; a cancelled chunk has none."""
    if chunk.cancel_requested:
        return ended_for(chunk, Reason.CANCELLED, note, now_ms)
    return at_step(
        chunk, ChunkState.PREPARED, now_ms, due_at_ms=due_at_ms, batch_id=None, remote_status=None, note=note
    )


def pause(view: StateView, chunk: Chunk, code: str, now_ms: int) -> list[Order]:
    """Pause the chunk's job, for the provider's `code`."""
    return pause_by_itself(view, chunk.job, code, now_ms)


def _without_line(view: StateView, chunk: Chunk, failure: BatchFailure, now_ms: int) -> list[Order]:
    """Refuse the member whose line is named, and let the others dissolve into smaller chunks."""
    ended = ended_for(chunk, Reason.PROVIDER_CANCELLED, failure.code, now_ms)
    life = None if failure.line is None else _member_at(view, chunk, failure.line)
    if life is None:
        return [Put(ended)]
    fact = AttemptRefused(sends=life.sends, reason=Reason.REQUEST_INVALID, charge=FREE)
    refused, _ = carried(life, fact, now_ms)
    said = obituary(refused, stage=_STAGE, error=failure.code, now_ms=now_ms)
    return [Put(replace(ended, errored=1)), Put(refused), said]


def _member_at(view: StateView, chunk: Chunk, line: int) -> Life | None:
    """The member on a 1-based line of the payload: lines are in the order of ids."""
    after: str | None = None
    passed = 0
    while cut := members(view, chunk.chunk_id, after=after):
        if line <= passed + len(cut):
            return cut[line - passed - 1] if line > passed else None
        passed, after = passed + len(cut), cut[-1].request_id
    return None
