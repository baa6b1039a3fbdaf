"""Hints, gathered: those that arrive while a command is being written go into the next one together.

What lives here: how many commands a second, and how many hints may wait. What must not: Kafka; writing is handed in.
Whoever told a hint learns whether it was written: only then may its sender be thanked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from batchmill.streams.hinting import HINTS_MAX, Hint

__all__ = ["HINTS_WAITING_MAX", "TellError", "Teller"]

#: hints that may wait for their command
HINTS_WAITING_MAX = 4 * HINTS_MAX
_WRITE_SECONDS = 10.0


class TellError(Exception):
    """The hint was not written; the sender should try again."""


class Teller:
    """Writes at most one command per `gap_seconds`. `write` raises one of `away` when nobody takes it just now."""

    def __init__(
        self,
        *,
        write: Callable[[Sequence[Hint]], Awaitable[None]],
        away: tuple[type[Exception], ...],
        gap_seconds: float,
    ) -> None:
        self._write = write
        self._away: tuple[type[Exception], ...] = (*away, TimeoutError)
        self._gap_seconds = gap_seconds
        self._waiting: dict[Hint, asyncio.Future[bool]] = {}
        self._bell = asyncio.Event()
        self.well = True  #: did the last write succeed

    async def tell(self, hint: Hint) -> None:
        """Return when a command that holds the hint is in the log; raises TellError."""
        told = self._waiting.get(hint)
        if told is None:
            if len(self._waiting) >= HINTS_WAITING_MAX:
                raise TellError("too many hints wait already")
            told = self._waiting[hint] = asyncio.get_running_loop().create_future()
            self._bell.set()
        if not await asyncio.shield(told):
            raise TellError("the command could not be written")

    async def run(self) -> None:
        """Write what waits, until cancelled."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                await self._tell_some()
                await asyncio.sleep(self._gap_seconds)

    async def _tell_some(self) -> None:
        # Taken out first: a hint that comes again while we write is about something newer.
        taken = {hint: self._waiting.pop(hint) for hint in list(islice(self._waiting, HINTS_MAX))}
        written = False
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await self._write(list(taken))
            written = True
        except self._away:
            pass  # each of those who wait is told
        finally:
            self.well = written
            for told in taken.values():
                told.set_result(written)
