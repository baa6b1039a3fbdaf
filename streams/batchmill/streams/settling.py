"""What every decision about lives shares: take a step or stop, tell who is not wanted any more, write its obituary.

Who ends a life that was cancelled or superseded is fixed by its status, so that nothing paid for is dropped uncounted
and nothing in flight is raced:

    queued, failed_retryable outside a chunk; needs_review    at once (`queueing`, `controlling`)
    members of a chunk                                       when the chunk settles without an answer (`collecting`)
    succeeded_unvalidated                                    by the validator, after the answer was noted
    validated                                                by the committer, before it intends a write
"""

from dataclasses import replace
from typing import Final

from batchmill.schemas.ids import dead_letter_id
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import Check, DeadLetter, Excluded
from batchmill.schemas.state import Job, Life
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.facts import Cancelled, Fact, NotPromoted, Superseded
from batchmill.streams.lifecycle import Impossible, step
from batchmill.streams.orders import Emit, Order, Put
from batchmill.streams.versioning import is_rejected, knows, left_at_ms, shadows_of
from batchmill.streams.view import StateView

__all__ = [
    "ENDED_AT_ONCE",
    "ImpossibleError",
    "carried",
    "end_if_unwanted",
    "life_key",
    "moved",
    "obituary",
    "pause_by_itself",
    "put_or_end",
    "unwanted",
]

#: statuses in which a life outside a chunk has nothing in flight
ENDED_AT_ONCE: Final = frozenset({Status.QUEUED, Status.FAILED_RETRYABLE, Status.NEEDS_REVIEW})


class ImpossibleError(Exception):
    """An impossible pair, on its way to the runner of the slice: it stops the worker, or isolates the record."""

    def __init__(self, impossible: Impossible) -> None:
        super().__init__(impossible.message)
        self.impossible = impossible


def carried(life: Life, fact: Fact, now_ms: int) -> tuple[Life, bool]:
    """The life after `fact` and whether it moved; raises ImpossibleError."""
    taken = step(life, fact, now_ms)
    if isinstance(taken.verdict, Impossible):
        raise ImpossibleError(taken.verdict)
    return taken.life, taken.moved


def moved(life: Life, fact: Fact, now_ms: int) -> Life:
    """The life after a fact that our own decision made, so that it cannot be stale."""
    after, did_move = carried(life, fact, now_ms)
    if not did_move:
        raise ImpossibleError(
            Impossible(life.request_id, life.status, type(fact).__name__, "made by the decision itself, yet stale")
        )
    return after


def unwanted(view: StateView, life: Life) -> Superseded | Cancelled | NotPromoted | None:
    """Why nobody waits for this life any more, if so. Says nothing about whether it may be ended now."""
    job = read.job(view, life.job)
    if job is not None and job.cancelled_before_ms is not None and life.queued_at_ms <= job.cancelled_before_ms:
        return Cancelled()
    if life.aside:
        return _unwanted_aside(job, life)
    source = read.source(view, life.job, life.source_id)
    return Superseded() if source is not None and source.request_id != life.request_id else None


def _unwanted_aside(job: Job | None, life: Life) -> Superseded | NotPromoted | None:
    """A life aside is waited for as long as its version is in force or tried out, whatever its source says since. A
    former version is asked what it is asked by name: by a benchmark record or a replay, since it is former.
    """
    if job is None or not knows(job, life.version) or life.version in {job.version, *shadows_of(job)}:
        return None
    if is_rejected(job, life.version):
        return NotPromoted()
    return Superseded() if life.queued_at_ms <= (left_at_ms(job, life.version) or 0) else None


def end_if_unwanted(view: StateView, life: Life, *, stage: str, now_ms: int) -> tuple[Life, list[Order]]:
    """The life, ended if it is not wanted, and its obituary. The row itself is the caller's to put."""
    fact = unwanted(view, life)
    if fact is None or life.status in {Status.COMMITTED, Status.FAILED_TERMINAL}:
        return life, []
    ended = moved(life, fact, now_ms)
    source = read.source(view, life.job, life.source_id)
    by = source.request_id if isinstance(fact, Superseded) and source is not None else None
    return ended, [obituary(ended, stage=stage, error="", now_ms=now_ms, of_request_id=by)]


def put_or_end(view: StateView, life: Life, *, stage: str, now_ms: int) -> list[Order]:
    """Put the life, ended first if it is not wanted."""
    kept, said = end_if_unwanted(view, life, stage=stage, now_ms=now_ms)
    return [Put(kept), *said]


def pause_by_itself(view: StateView, job_name: str, reason: str, now_ms: int) -> list[Order]:
    """Pause a job in this task without anybody having said so; the overseer tells the other tasks."""
    job = read.job(view, job_name)
    if job is None or job.paused:
        return []
    return [Put(replace(job, paused=True, pause_reason=reason, updated_at_ms=now_ms))]


def life_key(life: Life) -> bytes:
    """The record key of everything said about a life."""
    return life.request_id.encode()


def obituary(
    life: Life,
    *,
    stage: str,
    error: str,
    now_ms: int,
    of_request_id: str | None = None,
    checks: tuple[Check, ...] = (),
) -> Emit:
    """What is published when a life ends without a commit: excluded or dead-lettered, by its reason.

    `checks` are those of the answer it ended by; the failed ones are told.
    """
    assert life.status is Status.FAILED_TERMINAL, f"life {life.request_id} is {life.status}, it has not ended"
    reason = life.reason if life.reason is not None else Reason.POISON
    name = dead_letter_id(
        stage,
        reason,
        generation=life.origin.generation,
        partition=life.origin.partition,
        offset=life.origin.offset,
        request_id=life.request_id,
        redrives=life.redrives,
    )
    if info(reason).excluded:
        return Emit(_excluded(life, name, stage, reason, error, of_request_id, now_ms), key=life_key(life))
    failed = tuple(check for check in checks if not check.passed)
    return Emit(_dead_letter(life, name, stage, reason, error, failed, now_ms), key=life_key(life))


def _cost(life: Life) -> int | None:
    return None if life.unpriced_calls else life.cost_nanos


def _excluded(
    life: Life, name: str, stage: str, reason: Reason, detail: str, of_request_id: str | None, now_ms: int
) -> Excluded:
    return Excluded(
        id=name,
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        stage=stage,
        reason=reason,
        detail=detail,
        of_request_id=of_request_id,
        cost_nanos=_cost(life),
        aside=life.aside,
        excluded_at_ms=now_ms,
        origin=life.origin,
    )


def _dead_letter(
    life: Life, name: str, stage: str, reason: Reason, error: str, checks: tuple[Check, ...], now_ms: int
) -> DeadLetter:
    """Its original is not at hand: it lies in raw at `origin`, and as a work item at the life's input offset."""
    return DeadLetter(
        id=name,
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        stage=stage,
        reason=reason,
        error=error,
        retryable=info(reason).retryable,
        fault=info(reason).fault.value,
        attempt=life.attempt,
        cost_nanos=_cost(life),
        checks=checks,
        original=None,
        original_sha256="",
        original_bytes=0,
        original_uri=None,
        redrives=life.redrives,
        aside=life.aside,
        failed_at_ms=now_ms,
        origin=life.origin,
    )
