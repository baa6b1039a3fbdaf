"""A worker with one bug planted in it: `python -m tests.money.planted_worker NAME`. The money table must turn red.

Each bug is one that the field ships today (see PLANTS); what it does is put over the right code before the worker runs.
"""

import sys
from collections.abc import Callable
from typing import Any

from batchmill.agents.app import load_settings, run_worker
from batchmill.agents.runtime import Task
from batchmill.agents.stages import chunk_loop, collector
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
    """The create call does not wait until the attempt is durable."""

    async def durable(_task: Task, _ticket: int | None = None) -> None:
        return None

    Task.durable = durable  # type: ignore[method-assign]


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
