"""One look a second, shared by everybody who listens; nobody listens: nobody looks. A look that takes long is taken
less often: never more than a tenth of the time is spent looking.

A listener that is slow misses intermediate states, never the newest one, and holds up nobody. Nobody is told for longer
than LISTEN_SECONDS: whoever listens on comes again, and is asked again who they are.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from batchmill.agents import clock
from batchmill.agents.desk.model import Change, DeskError, ErrorKind

__all__ = ["LISTEN_SECONDS", "Watch"]

LISTEN_SECONDS: Final = 300.0

_NAME: Final = "desk-watch"
#: rest after a look, as a multiple of what it took
_REST: Final = 9


class Watch:
    """`look` is called in a thread."""

    def __init__(
        self,
        *,
        look: Callable[[], Change],
        seconds: float,
        listeners_max: int,
        listen_seconds: float = LISTEN_SECONDS,
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._listeners_max = listeners_max
        self._listen_seconds = listen_seconds
        self._listeners: set[asyncio.Queue[Change]] = set()
        self._newest: Change | None = None
        self._looking: asyncio.Task[None] | None = None

    async def listen(self) -> AsyncGenerator[Change]:
        """The newest state now, and every other one from then on, for as long as one may listen."""
        if len(self._listeners) >= self._listeners_max:
            told = f"{self._listeners_max} listen already (desk.listeners_max); try again later"
            raise DeskError(ErrorKind.UNAVAILABLE, told)
        mine: asyncio.Queue[Change] = asyncio.Queue(maxsize=1)
        self._listeners.add(mine)
        try:
            if self._newest is not None:
                mine.put_nowait(self._newest)
            if self._looking is None:
                self._looking = asyncio.create_task(self._run(), name=_NAME)
            until_s = clock.monotonic_s() + self._listen_seconds
            while (left_seconds := until_s - clock.monotonic_s()) > 0:
                try:
                    change = await asyncio.wait_for(mine.get(), left_seconds)
                except TimeoutError:
                    return
                yield change
        finally:
            self._listeners.discard(mine)

    async def _run(self) -> None:
        try:
            while self._listeners:
                begun = clock.monotonic_s()
                await self._once()
                await asyncio.sleep(max(self._seconds, _REST * (clock.monotonic_s() - begun)))
        finally:
            self._looking = self._newest = None

    async def _once(self) -> None:
        try:
            seen = await asyncio.to_thread(self._look)
        except Exception:  # noqa: BLE001  the view is being made anew, the file is busy: the next look tells
            return
        if seen == self._newest:
            return
        self._newest = seen
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(seen)
