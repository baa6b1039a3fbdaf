"""Replays that the clock starts: the ticks of the jobs' schedules, each once.

The run of a tick is named after the job, the schedule and the tick's time, and a task starts a run of one name once; so
several schedulers are harmless, and one that died between choosing and telling is simply asked again. A tick that was
missed is run late, up to a bound; whatever keeps one from being started is written where the runs are, and is seen
there. A schedule holds from when its version came into force, or was last applied: earlier ticks are none.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import orjson
import structlog

from batchmill.agents import clock
from batchmill.agents.prices import load_prices
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.reruns import ReplayRow, replays
from batchmill.agents.replays.choosing import Asked
from batchmill.agents.replays.cron import ticks_around
from batchmill.agents.replays.planning import ReplayError, plan_replay
from batchmill.agents.replays.starting import skip_replay, start_replay
from batchmill.agents.settings import Settings
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.promotion import ScheduleSpec
from batchmill.schemas.state import Job
from batchmill.schemas.strict_json import canonical_json, plain

__all__ = ["LATE_SECONDS_MAX", "Scheduled", "Scheduler", "Tick", "scheduled"]

#: a tick that was missed by more is not run any more
LATE_SECONDS_MAX: Final = 6 * 3_600
#: between two looks at the clock
LOOK_SECONDS: Final = 10.0
ACTOR: Final = "schedule"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """One schedule of a job, and its ticks around now."""

    job: str
    version: str
    paused: bool
    schedule: ScheduleSpec
    last: "Tick | None"  #: None: there was none since it holds
    next_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A moment that a schedule names and that has come."""

    at_ms: int
    run: str
    found: ReplayRow | None  #: its run, if the tasks know it


def scheduled(view: View, now_ms: int, job: str | None = None) -> list[Scheduled]:
    """Every schedule of the versions in force."""
    known = {row.run: row for row in replays(view, job)}
    rows = view.typed(Job, "SELECT * FROM jobs ORDER BY job, updated_at_ms DESC")
    newest = {row.job: row for row in reversed(rows) if job in {None, row.job}}
    return [each for _, row in sorted(newest.items()) for each in _of_job(view, row, now_ms, known)]


def _of_job(view: View, row: Job, now_ms: int, known: dict[str, ReplayRow]) -> Iterator[Scheduled]:
    spec = JobSpec.from_json(orjson.dumps(orjson.loads(row.versions_json)[row.version]))
    if not spec.schedules:
        return
    holds_from_ms = view.number(
        """SELECT MAX(at_ms) FROM commands WHERE job = ? AND version = ? AND command IN ('apply', 'promote')""",
        (row.job, row.version),
    )
    for schedule in spec.schedules:
        at_ms, next_ms = ticks_around(schedule.cron, now_ms)
        last = None
        if at_ms is not None and at_ms > holds_from_ms:
            run = _run_name(row.job, schedule, at_ms)
            last = Tick(at_ms=at_ms, run=run, found=known.get(run))
        yield Scheduled(
            job=row.job, version=row.version, paused=row.paused, schedule=schedule, last=last, next_ms=next_ms
        )


def _run_name(job: str, schedule: ScheduleSpec, tick_ms: int) -> str:
    named = content_sha256(canonical_json(plain(schedule)).encode())[:8]
    return f"tick/{job}/{named}/{datetime.fromtimestamp(tick_ms / 1_000, UTC):%Y-%m-%dT%H:%MZ}"


class Scheduler:
    """Starts what is due; beside whoever keeps the read model, which it reads."""

    def __init__(self, settings: Settings, *, ready: Callable[[], bool]) -> None:
        self._settings = settings
        self._ready = ready
        self._settled: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds. What goes wrong is told and tried again: the read model is worth more than a tick."""
        while not stop.is_set():
            if self._ready():
                try:
                    # in a thread with a loop of its own: choosing may read a million rows, and the view goes on
                    await asyncio.to_thread(lambda: asyncio.run(self.look(clock.wall_ms())))
                except Exception as error:  # noqa: BLE001
                    _log.error("schedule_failed", error=f"{type(error).__name__}: {error}")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_SECONDS)

    async def look(self, now_ms: int) -> list[str]:
        """Start every tick that is due; the names of the runs that were told to the tasks."""
        with View(self._settings.view_path) as view:
            due = [(each, each.last) for each in scheduled(view, now_ms) if each.last is not None]
            told = []
            for each, tick in due:
                if tick.found is None and tick.run not in self._settled:
                    await self._tell(view, each, tick, now_ms)
                    told.append(tick.run)
                self._settled.add(tick.run)
        self._settled &= {tick.run for _, tick in due}
        return told

    async def _tell(self, view: View, each: Scheduled, tick: Tick, now_ms: int) -> None:
        late_seconds = (now_ms - tick.at_ms) / 1_000
        if late_seconds > LATE_SECONDS_MAX:
            await self._skip(each, tick, f"missed: nobody was there, and it is {late_seconds / 3_600:.0f} h late")
        elif each.paused:
            await self._skip(each, tick, "the job was paused")
        else:
            await self._start(view, each, tick, now_ms)

    async def _start(self, view: View, each: Scheduled, tick: Tick, now_ms: int) -> None:
        schedule = each.schedule
        asked = Asked(
            job=each.job,
            select=schedule.select,
            sample=schedule.sample,
            seed=tick.run,
            max_nanos=schedule.max_nanos,
            per_second=schedule.per_second,
            fresh=schedule.fresh,
        )
        prices = load_prices(self._settings.prices_file)
        try:
            plan = await plan_replay(self._settings, view, asked, prices=prices, now_ms=now_ms)
        except ReplayError as error:
            await self._skip(each, tick, str(error))
            return
        if plan.is_over:
            total = plan.total
            most = "nobody knows how much" if total.unpriced else f"${total.most_nanos / 10**9:,.2f}"
            await self._skip(each, tick, f"it could cost {most}, more than the schedule allows")
        elif not plan.handed and not plan.redriven:
            await self._skip(each, tick, "nothing was selected")
        else:
            _log.info("schedule_started", run=tick.run, events=plan.handed, redriven=len(plan.redriven))
            await start_replay(self._settings, plan, run=tick.run, actor=ACTOR, wait_seconds=0)

    async def _skip(self, each: Scheduled, tick: Tick, why: str) -> None:
        _log.warning("schedule_skipped", run=tick.run, why=why)
        await skip_replay(self._settings, each.job, each.version, run=tick.run, why=why, actor=ACTOR)
