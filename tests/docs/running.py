"""Scripts of pages, run as somebody who copied them would: as a process of their own."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["SECONDS_MAX", "Said", "running"]

SECONDS_MAX = 60.0


class Said:
    """What a process has printed so far."""

    def __init__(self) -> None:
        self._text = ""
        self._more = asyncio.Event()

    def take(self, text: str) -> None:
        self._text += text
        self._more.set()

    def all(self) -> str:
        return self._text

    def found(self, pattern: str) -> str | None:
        """The first whole line that matches."""
        lines = self._text.rpartition("\n")[0].splitlines()
        return next((line for line in lines if re.search(pattern, line)), None)

    async def until(self, pattern: str) -> str:
        """Wait for such a line."""
        async with asyncio.timeout(SECONDS_MAX):
            while (line := self.found(pattern)) is None:
                self._more.clear()
                await self._more.wait()
        return line


@asynccontextmanager
async def running(argv: Sequence[str], folder: Path) -> AsyncIterator[Said]:
    """Run it while the body does; what it prints is at hand. It is killed at the end."""
    process = await asyncio.create_subprocess_exec(*argv, cwd=folder, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    said = Said()

    async def read(stream: asyncio.StreamReader) -> None:
        while part := await stream.readline():
            said.take(part.decode())

    reading = asyncio.create_task(read(process.stdout))
    try:
        yield said
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
