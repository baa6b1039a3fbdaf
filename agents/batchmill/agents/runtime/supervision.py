"""The loops of a task: each effect runs once per owned task, from the moment it is owned until it is frozen.

What lives here: starting, cancelling, and what an end means. What must not: what an effect does.
"""

import asyncio
from collections.abc import Awaitable, Callable

from batchmill.agents.runtime.errors import NotOwnedError
from batchmill.agents.runtime.failstop import Exit, fail_stop
from batchmill.agents.runtime.task import Task

__all__ = ["EffectRunner"]

Run = Callable[[Task], Awaitable[None]]


class EffectRunner:
    """All effects of all owned tasks of this worker."""

    def __init__(self) -> None:
        self._effects: dict[str, Run] = {}
        self._running: dict[int, set[asyncio.Task[None]]] = {}

    def add(self, name: str, run: Run) -> None:
        assert name not in self._effects, f"effect {name} was added twice"
        self._effects[name] = run

    def start(self, task: Task) -> None:
        running = self._running.setdefault(task.partition, set())
        for name, run in self._effects.items():
            loop = asyncio.create_task(self._guarded(name, run, task), name=f"{name}-{task.partition}")
            running.add(loop)
            loop.add_done_callback(running.discard)

    def stop(self, task: Task) -> None:
        for loop in tuple(self._running.pop(task.partition, ())):
            loop.cancel()

    @staticmethod
    async def _guarded(name: str, run: Run, task: Task) -> None:
        try:
            await run(task)
        except NotOwnedError:
            return  # the task is being handed over; its next owner starts the loop again
        except Exception as error:  # noqa: BLE001
            fail_stop(Exit.EFFECT_RAISED, "an effect raised", error=error, effect=name, partition=task.partition)
