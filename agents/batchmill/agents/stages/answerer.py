"""results -> results: the effect that answers lives from what was paid for before.

What lives here: reading stored answers back from the log, in cuts, and handing them to their decisions. What must not:
who may have which answer (`streams.queueing`, `streams.following`).
"""

from dataclasses import dataclass
from typing import Final

from batchmill.agents import clock
from batchmill.agents.runtime import Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.schemas import codec
from batchmill.schemas.records import Result
from batchmill.schemas.state import Life
from batchmill.streams import view as read
from batchmill.streams.following import walk
from batchmill.streams.queueing import from_store

__all__ = ["Answerer"]

EFFECT: Final = "stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answerer:
    """The effect `stored`."""

    kit: Kit
    effects: EffectSettings

    async def run(self, task: Task) -> None:
        """Answer lives whose question was answered before, from the log, and set those going that waited for one."""
        after: str | None = None
        while True:
            step = walk(task.view, after, clock.wall_ms())
            self.kit.carry(task, step.orders, src="effect:follow")
            after = step.after
            if not await self._answer_stored(task) and not step.orders:
                await task.rest(EFFECT, self.effects.idle_seconds)

    async def _answer_stored(self, task: Task) -> bool:
        """One turn; False when nothing moved: none waits, or their version was not heard of yet."""
        lives = [row for _, row in task.view.scan("stored", "", limit=self.effects.step_rows) if isinstance(row, Life)]
        if not lives:
            return False
        await task.capacity()
        try:
            offsets = [life.result_offset for life in lives if life.result_offset is not None]
            bodies = await self.kit.bodies(task, "results", offsets)
        except LogSlowError:
            return False
        did_move = False
        for life in lives:
            if life.result_offset is None or read.life(task.view, life.request_id) != life:
                continue
            body = bodies.get(life.result_offset)
            stored = None if body is None else codec.decode(body.value or b"", Result)
            orders = from_store(task.view, life, stored, clock.wall_ms(), jobs=self.kit.jobs)
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/{life.request_id}")
            did_move = did_move or bool(orders)
        return did_move
