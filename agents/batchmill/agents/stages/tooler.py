"""raw -> normalized, by way of the tools: the effect that looks things up for records that wait for it.

What lives here: reading waiting events again, asking about them, handing them on with what was found. What must not:
what is asked and what an answer becomes (`streams.tooling`), and how a source is asked (`agents.tools`).

A record whose source is away goes on waiting; one that its source refuses goes on without, or ends, as its job says. A
source that answers others and fails for one record again and again refuses that one. An answer and what is made of it
are one transaction; a crash before it asks again, which harms nobody, since nothing here can write.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import FAILPOINTS, LogRecord, PoisonEffectError, Task
from batchmill.agents.settings import EffectSettings, ToolSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.agents.stages.normalizer import event_gone
from batchmill.agents.tools.asking import Findings, ask_all
from batchmill.agents.tools.sources import SourceAwayError, ToolSources
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Arrival
from batchmill.streams.controlling import jobs
from batchmill.streams.dead_lettering import of_raw
from batchmill.streams.events import RawLimits
from batchmill.streams.looking_up import WAITS, forget
from batchmill.streams.normalizing import STAGE, lacking, revisit
from batchmill.streams.orders import Delete, Order, Put
from batchmill.streams.refusing import backoff_ms
from batchmill.streams.tooling import Found, Question

__all__ = ["Tooler"]

EFFECT: Final = "tools"
#: questions of one record that failed while others were answered, before its source is taken to refuse it
_TRIES_MAX: Final = 5
#: records of one job whose tries are remembered
_REMEMBERED_MAX: Final = 10_000
_FORGET_SECONDS: Final = 60.0
_FORGET_ROWS: Final = 500
#: cuts of one such turn
_FORGET_CUTS: Final = 200
_MS_PER_HOUR: Final = 3_600_000

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Line:
    """Records of one job that wait, and how patient we are with them."""

    after: str | None = None  #: where the last turn ended
    failures: int = 0
    until_s: float = 0.0
    tries: Counter[str] = field(default_factory=Counter)  #: by arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What one turn found out about one record."""

    arrival: Arrival
    must: tuple[Question, ...] = ()
    may: tuple[Question, ...] = ()
    findings: Findings | None = None  #: None: there was nothing to ask

    @property
    def away(self) -> list[Question]:
        """What it waits for and did not get."""
        return [] if self.findings is None else [each for each in self.must if each.key in self.findings.away]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tooler:
    """The effect `tools`."""

    kit: Kit
    sources: ToolSources
    limits: RawLimits
    default_job: str | None
    tools: ToolSettings
    effects: EffectSettings

    async def run(self, task: Task) -> None:
        """One turn for each job that has records waiting, until none can go on; then rest until woken."""
        lines: dict[str, _Line] = {}
        forgot_s = clock.monotonic_s()
        while True:
            went_on = False
            for job in jobs(task.view):
                line = lines.setdefault(job.job, _Line())
                if line.until_s <= clock.monotonic_s():
                    went_on = await self._turn(task, job.job, line) or went_on
            if clock.monotonic_s() - forgot_s >= _FORGET_SECONDS:
                forgot_s = clock.monotonic_s()
                await self._forget(task)
            if not went_on:
                await task.rest(EFFECT, self.effects.idle_seconds)

    async def _turn(self, task: Task, job: str, line: _Line) -> bool:
        """Ask about some of a job's waiting records; whether any of them went on."""
        limit = 1 if task.guard.one_at_a_time else self.tools.turn_rows
        rows = task.view.scan("arrival", f"{WAITS}/{job}/", after=line.after, limit=limit)
        line.after = rows[-1][0] if len(rows) == limit else None
        waiting = [row for _, row in rows if isinstance(row, Arrival)]
        if not waiting:
            return False
        await task.capacity()
        try:
            async with task.effect(EFFECT, waiting[0].key):
                asked, gone = await self._ask_about(task, waiting)
                await FAILPOINTS.reach("tools.asked")
        except LogSlowError:
            return False
        except PoisonEffectError:
            self._give_up(task, waiting[0])
            return True
        went_on = self._settle(task, line, asked) + gone
        self._pace(job, line, asked, went_on=bool(went_on))
        if FAILPOINTS.armed:
            await task.durable()
            await FAILPOINTS.reach("tools.recorded")
        return bool(went_on)

    async def _ask_about(
        self, task: Task, waiting: Sequence[Arrival]
    ) -> tuple[Sequence[tuple[_Asked, LogRecord]], int]:
        """What was found out, and how many events retention has removed."""
        bodies = await self.kit.bodies(task, "raw", [arrival.origin.offset for arrival in waiting])
        here = [(arrival, bodies[arrival.origin.offset]) for arrival in waiting if arrival.origin.offset in bodies]
        for arrival in waiting:
            if arrival.origin.offset not in bodies:
                orders = event_gone(self.kit, arrival, clock.wall_ms())
                self.kit.carry(task, orders, src=f"effect:{EFFECT}/{arrival.key}")
        asked = await asyncio.gather(*(self._ask(task, arrival, body) for arrival, body in here))
        return [(each, body) for each, (_, body) in zip(asked, here, strict=True)], len(waiting) - len(here)

    async def _ask(self, task: Task, arrival: Arrival, body: LogRecord) -> _Asked:
        must, may = self._lacking(task, arrival, body)
        if not (must or may):
            return _Asked(arrival=arrival)
        findings = await ask_all(self.sources, (*must, *may), Found.from_json(arrival.value_json))
        return _Asked(arrival=arrival, must=must, may=may, findings=findings)

    def _settle(self, task: Task, line: _Line, asked: Sequence[tuple[_Asked, LogRecord]]) -> int:
        """Hand on what can go on; how many did. No await in here: an answer and its use are one transaction."""
        others = any(each.findings is not None and not each.findings.away for each, _ in asked)
        went_on = 0
        for each, body in asked:
            if task.view.get(Arrival.schema, each.arrival.key) != each.arrival:
                continue  # paused, cancelled or redriven meanwhile
            arrival = _with(each, self._found(line, each, others=others))
            orders = self._revisited(task, arrival, body)
            if not orders and arrival != each.arrival:
                orders = [Put(arrival)]
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/{arrival.key}")
            went_on += task.view.get(Arrival.schema, arrival.key) != arrival
        return went_on

    def _found(self, line: _Line, asked: _Asked, *, others: bool) -> Found | None:
        """What is known by now. What only versions aside ask for is not waited for."""
        if asked.findings is None:
            return None
        found, key = asked.findings.found, asked.arrival.key
        if not asked.away:
            line.tries.pop(key, None)
            for question in asked.may:
                if question.key in asked.findings.away:
                    found = found.refused(question, str(asked.findings.away[question.key]))
            return found
        blamed = [each for each in asked.away if not isinstance(asked.findings.away[each.key], SourceAwayError)]
        line.tries[key] += bool(blamed) and others
        if line.tries[key] < _TRIES_MAX:
            return found
        line.tries.pop(key)
        for question in asked.away:
            told = asked.findings.away[question.key]
            found = found.refused(question, f"{question.source} answers others and not this record: {told}")
        return found

    def _pace(self, job: str, line: _Line, asked: Sequence[tuple[_Asked, LogRecord]], *, went_on: bool) -> None:
        """Wait longer and longer while nothing of a job goes on."""
        away = [question.source for each, _ in asked for question in each.away]
        if went_on or not away:
            line.failures, line.until_s = 0, 0.0
            return
        wait_s = min(backoff_ms(line.failures) / 1_000, self.tools.wait_max_seconds)
        line.failures += 1
        line.until_s = clock.monotonic_s() + wait_s
        if len(line.tries) > _REMEMBERED_MAX:
            line.tries.clear()
        _log.warning("tool_source_away", job=job, sources=sorted(set(away)), records=len(asked), again_in_s=wait_s)

    def _give_up(self, task: Task, arrival: Arrival) -> None:
        """Put down the record whose look-up killed the worker three times."""
        _log.error("lookup_given_up", arrival=arrival.key)
        error = "the worker died three times while looking things up for it"
        raw = self.kit.gone(arrival.origin)
        letter = of_raw(raw, stage=STAGE, reason=Reason.POISON, error=error, now_ms=clock.wall_ms(), job=arrival.job)
        orders: list[Order] = [letter, Delete(Arrival.schema, arrival.key)]
        self.kit.carry(task, orders, src=f"effect:{EFFECT}/{arrival.key}")

    async def _forget(self, task: Task) -> None:
        """What was found for events that raw has lost, or long ago, in cuts."""
        start = await self.kit.log.start_offset(self.kit.topics["raw"], task.partition)
        for _ in range(_FORGET_CUTS):
            await task.capacity()
            orders = forget(
                task.view,
                generation=self.kit.raw_generation,
                before_offset=start,
                before_ms=clock.wall_ms() - self.tools.keep_hours * _MS_PER_HOUR,
                limit=_FORGET_ROWS,
            )
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/forget")
            if len(orders) < _FORGET_ROWS:
                return

    def _lacking(self, task: Task, arrival: Arrival, body: LogRecord) -> tuple[tuple[Question, ...], ...]:
        raw = self.kit.raw_record(body, generation=arrival.origin.generation)
        return lacking(
            task.view,
            arrival,
            raw,
            jobs=self.kit.jobs,
            now_ms=clock.wall_ms(),
            limits=self.limits,
            default_job=self.default_job,
        )

    def _revisited(self, task: Task, arrival: Arrival, body: LogRecord) -> list[Order]:
        raw = self.kit.raw_record(body, generation=arrival.origin.generation)
        return revisit(
            task.view,
            arrival,
            raw,
            jobs=self.kit.jobs,
            now_ms=clock.wall_ms(),
            limits=self.limits,
            default_job=self.default_job,
        )


def _with(asked: _Asked, found: Found | None) -> Arrival:
    """The row with what is known of it by now."""
    known = found is None or found == Found.from_json(asked.arrival.value_json)
    return asked.arrival if known or found is None else replace(asked.arrival, value_json=found.to_json())
