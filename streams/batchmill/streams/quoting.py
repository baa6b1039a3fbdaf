"""What bringing a dead letter back would take, told beforehand: which way it goes, and what that can cost.

The decisions are the real ones (`dead_lettering.redrive` of a life, `redriving.redriven` of an event that never had
one), asked over the rows as they are known outside; so what is told is what would be done. Outside may be behind: a
quote is no promise. Prices are those frozen with the job. Expected is one attempt; the most is every attempt that the
job allows, each at its dearest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.records import DeadLetter, Excluded, WorkItem
from batchmill.schemas.state import Job, Life, Meta, Source
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.costing import PriceList, expected_nanos, worst_case_nanos
from batchmill.streams.dead_lettering import FOREIGN_GENERATION, RawRecord, redrive
from batchmill.streams.events import RawLimits
from batchmill.streams.granting import output_limit
from batchmill.streams.orders import Emit, Put
from batchmill.streams.redriving import Waiting, redriven
from batchmill.streams.routing import Route, from_here
from batchmill.streams.view import MemoryView

__all__ = ["STAYS", "Kept", "Quote", "Way", "attempts_max", "cost_of", "quote", "quote_event"]


class Way(StrEnum):
    """What would become of a letter."""

    ASKED = "asked again"
    NORMALIZED = "normalized again"  #: it never had a request; what it is asked depends on the job as it is now
    COMMITTED = "committed again"
    JUDGED = "judged again"  #: from the stored answer
    SUPERSEDED = "superseded"
    OVER = "over already"  #: its life has moved on, or has expired
    FOREIGN = "no event"  #: a record that was found on one of our own topics and is none of ours
    GONE = "gone"  #: retention has removed what would be needed
    FAILS = "would fail again"  #: as the job and the limits are now
    UNTRIED = "not tried"  #: it never had a request, and nobody has looked at its event


#: not worth asking for: nothing would come of it
STAYS: Final = frozenset({Way.SUPERSEDED, Way.OVER, Way.FOREIGN, Way.GONE, Way.FAILS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """One letter's way; costs are None where there is no price, and 0 where nothing is paid for."""

    way: Way
    expected_nanos: int | None = 0
    most_nanos: int | None = 0
    note: str = ""


#: topic (short name) -> the first offset that the log of the life's partition still has
Kept = Mapping[str, int]


def quote(
    life: Life | None,
    source: Source | None,
    row: Job | None,
    *,
    kept: Kept,
    jobs: CompiledJobs,
    prices: PriceList,
    now_ms: int,
) -> Quote:
    """What a redrive of `life` would do. `prices` are those of a job that was applied without any."""
    if life is None or life.status is not Status.FAILED_TERMINAL:
        return Quote(way=Way.OVER)
    if source is not None and source.request_id != life.request_id:
        return Quote(way=Way.SUPERSEDED)
    moved = _moved(life, source, row, now_ms)
    if moved is None:
        return Quote(way=Way.OVER)
    if moved.status is Status.VALIDATED:
        return Quote(way=Way.COMMITTED) if _has(kept, "validated", life.verdict_offset) else Quote(way=Way.GONE)
    if not _has(kept, "normalized", life.input_offset):
        return Quote(way=Way.GONE)
    if moved.result_offset is not None and _has(kept, "results", moved.result_offset):
        return Quote(way=Way.JUDGED)
    compiled = None if row is None else jobs.of(row, life.version)
    if compiled is None:
        return Quote(way=Way.ASKED, expected_nanos=None, most_nanos=None)
    return _priced(Way.ASKED, life.route, life.tokens_estimate, compiled, compiled.costed_by(prices))


def quote_event(
    letter: DeadLetter,
    event: RawRecord | None,
    rows: Iterable[Job],
    *,
    jobs: CompiledJobs,
    prices: PriceList,
    limits: RawLimits,
    default_job: str | None,
    now_ms: int,
) -> Quote:
    """What a redrive of a letter without a life would do; `event` is what raw still holds."""
    if letter.origin.generation == FOREIGN_GENERATION:
        return Quote(way=Way.FOREIGN)
    view = MemoryView()
    for row in rows:
        view.put(replace(row, paused=False))
    asked = Waiting(Meta(name="quoted", value_json="0"), 0)
    orders = redriven(view, asked, letter, event, jobs=jobs, now_ms=now_ms, limits=limits, default_job=default_job)
    records = [order.record for order in orders if isinstance(order, Emit)]
    match records:
        case [WorkItem() as item]:
            row = next(each for each in rows if each.job == item.job)
            compiled = jobs.of(replace(row, paused=False), item.version)
            assert compiled is not None, "the event was normalized by it"
            return _priced(Way.NORMALIZED, item.route, item.tokens_estimate, compiled, compiled.costed_by(prices))
        case [Excluded() as excluded]:
            return Quote(way=Way.NORMALIZED, note=excluded.reason)
        case [DeadLetter() as again]:
            return Quote(way=Way.FAILS, note=again.reason)
        case _:
            gone = letter.original is None and event is None
            return Quote(way=Way.GONE) if gone else Quote(way=Way.FAILS, note="its job is not applied")


def attempts_max(retry: RetrySpec) -> int:
    """The most attempts that count, whatever it fails for."""
    by_reason = [rule.max_attempts for rule in retry.on.values() if rule.max_attempts is not None]
    return max(retry.max_attempts, *by_reason) if by_reason else retry.max_attempts


def _moved(life: Life, source: Source | None, row: Job | None, now_ms: int) -> Life | None:
    view = MemoryView()
    for each in (life, source, row):
        if each is not None:
            view.put(each)
    lives = [order.row for order in redrive(view, life.request_id, now_ms=now_ms) if isinstance(order, Put)]
    return next((each for each in lives if isinstance(each, Life)), None)


def _has(kept: Kept, topic: str, offset: int | None) -> bool:
    return offset is not None and offset >= kept.get(topic, 0)


def cost_of(route: str, tokens: int, job: CompiledJob, prices: PriceList) -> tuple[int | None, int | None]:
    """What a question of so many tokens is expected to cost, and the most that all its attempts can; None: unknown.

    A job that chooses its mode by deadline pays batch as a rule, and online at most. Expected is the route it is asked
    by; the most is the dearest that the cascade may still come to, at each attempt.
    """
    prefer, found = job.spec.mode.prefer, job.routes.of(route)
    usual = "batch" if prefer == "auto" else prefer
    expected = expected_nanos(
        prices, found.model.name, usual, input_tokens=tokens, output_tokens_max=output_limit(found.model, found.form)
    )
    steps = from_here(job.routes, found)
    dearest = [_dearest(each, tokens, job, prices) for each in steps]
    known = [nanos for nanos in dearest if nanos is not None]
    attempts = attempts_max(job.spec.retry) + len(steps) - 1
    return expected, max(known) * attempts if len(known) == len(dearest) else None


def _priced(way: Way, route: str, tokens: int, job: CompiledJob, prices: PriceList) -> Quote:
    expected, most = cost_of(route, tokens, job, prices)
    return Quote(way=way, expected_nanos=expected, most_nanos=most)


def _dearest(route: Route, tokens: int, job: CompiledJob, prices: PriceList) -> int | None:
    limit, prefer = output_limit(route.model, route.form), job.spec.mode.prefer
    if limit is None:
        return None
    room = route.form.output_tokens_max(job.spec.retry.truncated.times) or limit
    mode = "online" if prefer == "auto" else prefer
    return worst_case_nanos(prices, route.model.name, mode, input_tokens=tokens, output_tokens_max=room)
