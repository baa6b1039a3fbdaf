"""The loop that takes chunks one step further: which chunks are due, how many at once, what a step's error means.

What lives here: scheduling. What must not: what a step does (`submitter`, `collector`) or which step is next
(`streams.submitting.todo`). A step that ends for any reason leaves a row that says how far it got.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import NotOwnedError, PoisonEffectError, Task
from batchmill.agents.settings import SettingsError
from batchmill.agents.stages.kit import Kit
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.granting import waits
from batchmill.streams.isolating import isolate_chunk
from batchmill.streams.ports import ProviderError, TransientError
from batchmill.streams.refusing import try_later
from batchmill.streams.submitting import Todo, todo

__all__ = ["ChunkLoop", "Step", "current_row"]

_log = structlog.get_logger(__name__)

Step = Callable[[Task, Chunk], Awaitable[None]]

#: rows of one state looked through in a turn: chunks of a paused job stand in front of others
_ROWS_PER_STATE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLoop:
    """Drives the chunks of a task that are in `states` through `steps`."""

    kit: Kit
    name: str
    states: tuple[ChunkState, ...]
    steps: Mapping[Todo, Step]
    at_once: int
    idle_seconds: float
    modes: tuple[str, ...]  #: which way to the provider the chunks go
    at_most: Mapping[Todo, int] = field(default_factory=dict)  #: of one step at the same time, where fewer than of all
    by_file: Callable[[Chunk], bool]  #: does the chunk's provider take its payload as an uploaded file

    async def run(self, task: Task) -> None:
        running: dict[str, Todo] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                for chunk, step in self._due(task, running)[: self.at_once - len(running)]:
                    running[chunk.chunk_id] = step
                    group.create_task(self._one(task, chunk, step, running))
                await task.rest(self.name, self.idle_seconds)

    def _due(self, task: Task, running: dict[str, Todo]) -> list[tuple[Chunk, Todo]]:
        now_ms = clock.wall_ms()
        found: list[tuple[Chunk, Todo]] = []
        busy = Counter(running.values())
        for state in self.states:
            for _, row in task.view.scan("chunk", f"{state}/", limit=_ROWS_PER_STATE):
                assert isinstance(row, Chunk)
                if row.mode not in self.modes or row.chunk_id in running:
                    continue
                step = self._next(task, row, now_ms)
                if step is not None and step in self.steps and busy[step] < self.at_most.get(step, self.at_once):
                    busy[step] += 1
                    found.append((row, step))
        return found

    async def _one(self, task: Task, chunk: Chunk, step: Todo, running: dict[str, Todo]) -> None:
        src = f"effect:{step}/{chunk.chunk_id}"
        try:
            await task.capacity()
            async with task.effect(step, chunk.chunk_id):
                now = current_row(task, chunk)
                if (
                    self._next(task, now, clock.wall_ms()) is step
                ):  # a command may have come while we waited for our turn
                    await self.steps[step](task, now)
        except ProviderError as error:
            self._later(task, chunk, error, src)
        except SettingsError as error:
            _log.error("account_unknown", chunk_id=chunk.chunk_id, error=str(error))
            self._later(task, chunk, TransientError("account_unknown"), src)
        except OSError as error:
            # Of the payload directory. It is the disk that is ill, not the chunk: the name is enough to look there.
            _log.warning("payloads_unreachable", chunk_id=chunk.chunk_id, step=step, error=error.strerror)
            self._later(task, chunk, TransientError("payloads_unreachable"), src)
        except PoisonEffectError:
            self.kit.carry(task, isolate_chunk(task.view, chunk.chunk_id, step, clock.wall_ms()), src=src)
        except NotOwnedError:
            return  # the new owner finds the row as it is
        finally:
            del running[chunk.chunk_id]
            if task.owned and not task.draining:
                task.wake(self.name)

    def _later(self, task: Task, chunk: Chunk, error: ProviderError, src: str) -> None:
        current = current_row(task, chunk)
        if current.state is chunk.state:
            self.kit.carry(task, try_later(task.view, current, error, clock.wall_ms()), src=src)

    def _next(self, task: Task, row: Chunk, now_ms: int) -> Todo | None:
        job = read.job(task.view, row.job)
        stopped = job is None or job.paused or waits(task.view, row)
        return todo(row, by_file=self.by_file(row), paused=stopped, now_ms=now_ms)


def current_row(task: Task, chunk: Chunk) -> Chunk:
    """The row as it stands: commands may have changed it while a call was under way."""
    row = read.chunk(task.view, chunk.chunk_id)
    assert row is not None, f"chunk {chunk.chunk_id} vanished"
    return row
