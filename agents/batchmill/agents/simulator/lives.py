"""Law: how a batch moves, as plain functions: a batch and the time in, the next batch out. No clock, no file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batchmill.agents.simulator.chance import digest_of, unit
from batchmill.agents.simulator.faults import Fault
from batchmill.agents.simulator.profiles import profile_seconds
from batchmill.agents.simulator.records import Batch, BatchProblem, BatchStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.agents.simulator.config import SimulatorConfig
    from batchmill.agents.simulator.limits import QueueRoom

__all__ = [
    "Tally",
    "begun",
    "cancelling",
    "ended",
    "failed",
    "finalizing",
    "latency_ms",
    "outcome",
    "queue_problem",
    "rows_done",
    "working_order",
]

TOKEN_LIMIT: Final = BatchProblem(
    code="token_limit_exceeded",
    message="Enqueued token limit reached for this model. Try again once some in_progress batches have completed.",
)

REQUEST_LIMIT: Final = BatchProblem(
    code="request_limit_exceeded",
    message="Enqueued request limit reached for this model. Try again once some in_progress batches have completed.",
)


@dataclass(slots=True)
class Tally:
    """What the rows of one batch came to, summed while they are worked."""

    completed: int = 0
    failed: int = 0
    billed_rows: int = 0
    cost_nanos: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0


def queue_problem(waiting: Iterable[Batch], room: QueueRoom, *, requests: int, tokens: int) -> BatchProblem | None:
    """Whether one more batch of so many requests and prompt tokens finds room beside those that have not ended."""
    for batch in waiting:
        requests += batch.total
        tokens += batch.queued_tokens
    if room.tokens_max is not None and tokens > room.tokens_max:
        return TOKEN_LIMIT
    return REQUEST_LIMIT if room.requests_max is not None and requests > room.requests_max else None


def latency_ms(config: SimulatorConfig, provider: str, stable_key: str, now_ms: int) -> int:
    """By the profile, where there is one for this provider; else uniform between two numbers."""
    if config.latency_profile is not None:
        scale = config.time_scale
        seconds = profile_seconds(config.latency_profile, provider, wall_seconds=now_ms / 1000, time_scale=scale)
        if seconds is not None:
            return round(seconds * 1000)
    low, high = config.latency_seconds
    return round((low + (high - low) * unit(config.seed, "latency", stable_key)) * 1000)


def begun(batch: Batch, now_ms: int, *, total: int, model: str | None, queued_tokens: int) -> Batch:
    due = now_ms + batch.latency_ms
    status = BatchStatus.IN_PROGRESS
    begun = replace(batch, status=status, in_progress_ms=now_ms, due_ms=due, total=total, model=model)
    return replace(begun, queued_tokens=queued_tokens)


def failed(batch: Batch, now_ms: int, problem: BatchProblem) -> Batch:
    return replace(batch, status=BatchStatus.FAILED, ended_ms=now_ms, due_ms=None, problem=problem, total=0)


def finalizing(batch: Batch, now_ms: int, *, wait_ms: int) -> Batch:
    done = 1.0 - batch.faults[Fault.EXPIRE] if Fault.EXPIRE in batch.faults else 1.0
    due = now_ms + wait_ms
    return replace(batch, status=BatchStatus.FINALIZING, finalizing_ms=now_ms, due_ms=due, done_share=done)


def cancelling(batch: Batch, now_ms: int, *, wait_ms: int, ignored: bool) -> Batch:
    """A batch that is finalizing already is not stopped any more: the cancel loses the race and changes nothing."""
    if batch.status is BatchStatus.VALIDATING:
        return replace(batch, status=BatchStatus.CANCELLED, cancelling_ms=now_ms, ended_ms=now_ms, due_ms=None)
    if batch.status is not BatchStatus.IN_PROGRESS:
        return batch
    asked = replace(batch, status=BatchStatus.CANCELLING, cancelling_ms=now_ms)
    if ignored:
        return replace(asked, faults={**batch.faults, str(Fault.CANCEL_IGNORED): 0.0})
    return replace(asked, due_ms=now_ms + wait_ms, done_share=progress(batch, now_ms))


def outcome(batch: Batch) -> BatchStatus:
    """How a batch whose rows were worked ends."""
    if batch.status is BatchStatus.CANCELLING and Fault.CANCEL_IGNORED not in batch.faults:
        return BatchStatus.CANCELLED
    return BatchStatus.EXPIRED if batch.done_share < 1.0 else BatchStatus.COMPLETED


def ended(batch: Batch, now_ms: int, tally: Tally, *, output_file_id: str | None, error_file_id: str | None) -> Batch:
    return replace(
        batch,
        status=outcome(batch),
        ended_ms=now_ms,
        due_ms=None,
        output_file_id=output_file_id,
        error_file_id=error_file_id,
        completed=tally.completed,
        failed=tally.failed,
        billed_rows=tally.billed_rows,
        cost_nanos=tally.cost_nanos,
        input_tokens=tally.input_tokens,
        output_tokens=tally.output_tokens,
        cached_tokens=tally.cached_tokens,
        cache_write_tokens=tally.cache_write_tokens,
    )


def progress(batch: Batch, now_ms: int) -> float:
    if batch.in_progress_ms is None:
        return 0.0
    return min((now_ms - batch.in_progress_ms) / batch.latency_ms, 1.0) if batch.latency_ms else 1.0


def rows_done(batch: Batch, now_ms: int) -> int:
    """How many rows are finished, while the batch runs and when its rows are worked."""
    share = progress(batch, now_ms) if batch.status is BatchStatus.IN_PROGRESS else batch.done_share
    return int(batch.total * share)


def working_order(batch: Batch, rows: int) -> Sequence[int]:
    """The order in which rows are finished, and lie in the result files."""
    if Fault.SHUFFLED not in batch.faults:
        return range(rows)
    salt = digest_of("order", batch.stable_key).hex()
    return sorted(range(rows), key=lambda row: digest_of(salt, row))
