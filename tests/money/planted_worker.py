"""A worker with one bug planted in it: `python -m tests.money.planted_worker NAME`. The money table must turn red.

Each bug is one that the field ships today (see PLANTS); what it does is put over the right code before the worker runs.
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from batchmill.agents import clock
from batchmill.agents.app import load_settings, run_worker
from batchmill.agents.runtime import FAILPOINTS, Task
from batchmill.agents.stages import chunk_loop, collector, submitter
from batchmill.agents.stages.chunk_loop import current_row
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState
from batchmill.streams.submitting import Todo

__all__ = ["PLANTS"]


def _blind_create() -> None:
    """A create of unknown outcome is simply sent again."""
    right = chunk_loop.todo

    def todo(chunk: Chunk, **told: Any) -> Todo | None:
        waits = chunk.due_at_ms is not None and chunk.due_at_ms > told["now_ms"]
        return Todo.BEGIN if chunk.state is ChunkState.ATTEMPTING and not waits else right(chunk, **told)

    chunk_loop.todo = todo  # type: ignore[assignment]


def _no_intent() -> None:
    """The batch is created first, and the attempt written down when its id is known."""

    async def attempt(self: submitter.Submitter, task: Task, chunk: Chunk) -> None:
        if not self.may_spend(task, chunk):
            await asyncio.sleep(self.effects.idle_seconds)
            return
        outcome = await self._create(task, replace(chunk, attempt=chunk.attempt + 1))
        await FAILPOINTS.reach("create.after")
        while (current := current_row(task, chunk)).state is chunk.state:
            self.kit.carry(task, submitter.begin_cut(task.view, current, clock.wall_ms()), src="planted")
            await task.capacity()
        self.kit.carry(task, submitter.after_create(task.view, current, outcome, clock.wall_ms()), src="planted")

    submitter.Submitter._attempt = attempt  # type: ignore[method-assign]
    submitter.may_create = lambda *_: True


def _rows_are_all_there_is() -> None:
    """What was billed and no row tells is not booked."""
    right = collector.finish

    def finish(chunk: Chunk, index: Any, now_ms: int, **_: Any) -> Any:
        return right(chunk, index, now_ms)

    collector.finish = finish  # type: ignore[assignment]


PLANTS: dict[str, Callable[[], None]] = {
    "blind-create": _blind_create,
    "no-intent": _no_intent,
    "rows-only": _rows_are_all_there_is,
}

if __name__ == "__main__":
    PLANTS[sys.argv[1]]()
    sys.exit(run_worker(load_settings()))
