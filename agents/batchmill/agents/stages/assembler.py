"""raw -> normalized, of parts: the turn of effect `arrivals` that takes up wholes which are complete or overdue.

What lives here: reading the parts of one whole back from the log. What must not: what becomes of them
(`streams.assembling`).
"""

from dataclasses import dataclass

from batchmill.agents import clock
from batchmill.agents.runtime import Task
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.streams.assembling import assemble, offsets_of
from batchmill.streams.controlling import jobs
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.joining import Group, due

__all__ = ["Assembler"]

EFFECT = "arrivals"
#: wholes of one job in one turn: each may take as much memory as an event may
_WHOLES_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembler:
    """Takes up wholes."""

    kit: Kit
    limits: RawLimits

    async def turn(self, task: Task) -> int:
        """How many wholes left their wait."""
        taken = 0
        for job in jobs(task.view):
            for group in () if job.paused else due(task.view, job.job, clock.wall_ms(), _WHOLES_MAX):
                await task.capacity()
                try:
                    taken += await self._take_up(task, group)
                except LogSlowError:
                    return taken
        return taken

    async def _take_up(self, task: Task, group: Group) -> bool:
        orders = assemble(
            task.view,
            group,
            await self._events(task, group),
            jobs=self.kit.jobs,
            now_ms=clock.wall_ms(),
            limits=self.limits,
        )
        self.kit.carry(task, orders, src=f"effect:{EFFECT}/{group.name}")
        return bool(orders)

    async def _events(self, task: Task, group: Group) -> dict[int, RawRecord]:
        """What raw still holds of the parts. An offset of another generation is no place in this topic."""
        if group.generation != self.kit.raw_generation:
            return {}
        found = await self.kit.bodies(task, "raw", offsets_of(task.view, group))
        return {offset: self.kit.raw_record(record) for offset, record in found.items()}
