"""committed -> raw: the effect that starts the jobs which follow a commit.

What lives here: reading what was asked and answered back from the log, in cuts, and handing it to the decision. What
must not: which jobs follow, and what their events hold (`streams.staging`). A crash in between is a life that is still
to fire.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import LogRecord, PoisonEffectError, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.schemas import codec
from batchmill.schemas.records import Verdict, WorkItem
from batchmill.schemas.state import Life
from batchmill.streams import view as read
from batchmill.streams.orders import Order
from batchmill.streams.staging import CompiledThen, fire, fire_nothing, firing

__all__ = ["Firing"]

EFFECT = "then"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """The effect `then`."""

    kit: Kit
    effects: EffectSettings
    tasks_total: int

    async def run(self, task: Task) -> None:
        """Fire what was committed, cut by cut; then rest until woken."""
        while True:
            await task.capacity()
            limit = 1 if task.guard.one_at_a_time else self.effects.step_rows
            if not await self._cut(task, firing(task.view, limit)):
                await task.rest(EFFECT, self.effects.idle_seconds)
            else:
                await asyncio.sleep(0)

    async def _cut(self, task: Task, lives: Sequence[Life]) -> bool:
        """Fire some lives; False when there were none, or the log was not to be read just now."""
        if not lives:
            return False
        try:
            async with task.effect(EFFECT, lives[0].request_id):
                await self._fire(task, lives)
        except LogSlowError:
            return False
        except PoisonEffectError:
            self._give_up(task, lives[0])
        return True

    async def _fire(self, task: Task, lives: Sequence[Life]) -> None:
        told = [life.verdict_offset for life in lives if life.verdict_offset is not None]
        verdicts = await self.kit.bodies(task, "validated", told)
        items = await self.kit.bodies(task, "normalized", [life.input_offset for life in lives])
        for life in lives:
            await task.capacity()  # the children of one life may be many
            self._carry(task, life, self._orders(task, life, verdicts, items))
            await asyncio.sleep(0)

    def _orders(
        self, task: Task, life: Life, verdicts: Mapping[int, LogRecord], items: Mapping[int, LogRecord]
    ) -> list[Order]:
        verdict = None if life.verdict_offset is None else verdicts.get(life.verdict_offset)
        item = items.get(life.input_offset)
        return fire(
            task.view,
            life,
            None if verdict is None else codec.decode(verdict.value or b"", Verdict),
            None if item is None else codec.decode(item.value or b"", WorkItem),
            then=self._then(task, life),
            tasks=self.tasks_total,
            now_ms=clock.wall_ms(),
        )

    def _then(self, task: Task, life: Life) -> tuple[CompiledThen, ...]:
        """As its version was last applied: a `when` is written for the answers of that one."""
        job = self.kit.compiled(task, life.job, life.version)
        assert job is not None, f"life {life.request_id} was committed under a version that its task does not know"
        return job.then

    def _give_up(self, task: Task, life: Life) -> None:
        _log.error("firing_given_up", request_id=life.request_id)
        seen = read.life(task.view, life.request_id) or life
        error = "the worker died three times while starting it"
        then = self._then(task, seen)
        self._carry(
            task, life, fire_nothing(task.view, life.request_id, then=then, error=error, now_ms=clock.wall_ms())
        )

    def _carry(self, task: Task, life: Life, orders: Sequence[Order]) -> None:
        self.kit.carry(task, orders, src=f"effect:{EFFECT}/{life.request_id}")
