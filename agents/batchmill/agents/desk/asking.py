"""Asking the view and the log from an event loop: in threads, a bounded number at once, with the desk's own errors."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from aiokafka.errors import KafkaError

from batchmill.agents.desk.model import DeskError, ErrorKind
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.topics import KafkaUnreachableError

__all__ = ["At", "Bodies", "Library", "Views"]

T = TypeVar("T")

At = tuple[str, int, int]  #: topic's short name, partition, offset
#: queries running at once, and readings of the log that are waited for
_ASKS_MAX: Final = 4
_READS_MAX: Final = 32


class Bodies(Protocol):
    """What the log holds at places; what is not there is absent."""

    async def read(self, places: Iterable[At]) -> dict[At, dict[str, Any]]: ...


class Views:
    """The read model; opened anew for each question, as it may be rebuilt at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asks = asyncio.Semaphore(_ASKS_MAX)

    def open(self) -> View:
        """A context; in a thread."""
        return View(self._path)

    async def ask(self, look: Callable[[View], T]) -> T:
        """What `look` finds in one view."""

        def run() -> T:
            with self.open() as view:
                return look(view)

        return await self.run(run)

    async def run(self, work: Callable[[], T]) -> T:
        """Work that opens views itself."""
        async with self._asks:
            try:
                return await asyncio.to_thread(work)
            except ViewMissingError as error:
                raise DeskError(ErrorKind.UNAVAILABLE, str(error)) from None


class Library:
    """Bodies, with a number on who may wait for them."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._readers = 0

    async def read(self, places: Iterable[At]) -> dict[At, dict[str, Any]]:
        if self._readers >= _READS_MAX:
            raise DeskError(ErrorKind.UNAVAILABLE, f"{_READS_MAX} readings of the log wait already; try again")
        self._readers += 1
        try:
            return await self._bodies.read(places)
        except (KafkaError, KafkaUnreachableError, TimeoutError, OSError):
            told = "the log cannot be read just now: is the broker up?"
            raise DeskError(ErrorKind.UNAVAILABLE, told) from None
        finally:
            self._readers -= 1
