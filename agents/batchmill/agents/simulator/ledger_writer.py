"""Law: ledger lines leave in the order of their numbers, and nobody is answered before theirs are fsynced.

Writers never wait for one another: all groups that are waiting go out with one write and one fsync (in a thread). After
a kill, a torn last line is cut off, and staged groups that did not reach the file are written again, each line once.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson

from batchmill.agents import clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["LedgerWriter", "Staged", "entry_bytes"]

GROUP_LINES: Final = 1_000  # of one outbox row
_TAIL_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Staged:
    """Numbered lines, not yet in the file: in groups by the number of their first line."""

    groups: Mapping[int, bytes]


def entry_bytes(kind: str, facts: Mapping[str, Any]) -> bytes:
    """One entry without its number; the clocks are read here, when the thing happens."""
    head = {"kind": kind, "at_ms": clock.wall_ms(), "mono_s": round(clock.monotonic_s(), 6)}
    return orjson.dumps({**head, **facts})


class LedgerWriter:
    def __init__(self, path: Path, *, staged: Iterable[bytes] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        last = _mended_tail(self._fd)
        missing = [line for group in staged for line in group.splitlines(keepends=True) if _seq_of(line) > last]
        if missing:
            _write_all(self._fd, missing)
            last = _seq_of(missing[-1])
        self._next = last + 1
        self._waiting: list[tuple[Staged, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._flusher is not None:
            await self._flusher
        os.close(self._fd)

    def stage(self, entries: Iterable[bytes]) -> Staged:
        """Number the entries. What is staged must be handed to `written` before anything else is staged."""
        groups: dict[int, bytes] = {}
        waiting = iter(entries)
        while group := list(islice(waiting, GROUP_LINES)):
            lines = (b'{"seq":%d,%s\n' % (seq, entry[1:]) for seq, entry in enumerate(group, start=self._next))
            groups[self._next] = b"".join(lines)
            self._next += len(group)
        return Staged(groups)

    def written(self, staged: Staged) -> asyncio.Future[None]:
        """Resolves when the group is on disk."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((staged, done))
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush())
        return done

    async def append(self, *entries: bytes) -> None:
        await self.written(self.stage(entries))

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                groups = [lines for staged, _ in group for lines in staged.groups.values()]
                await asyncio.to_thread(_write_all, self._fd, groups)
            except OSError as error:
                _resolve(group, error)
            else:
                _resolve(group, None)
        self._flusher = None


def _resolve(group: list[tuple[Staged, asyncio.Future[None]]], error: OSError | None) -> None:
    for _, done in group:
        if done.done():  # its waiter was cancelled
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


def _write_all(fd: int, groups: Iterable[bytes]) -> None:
    start = os.fstat(fd).st_size
    try:
        for lines in groups:
            view = memoryview(lines)
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, start)  # a full disk must not leave half a line for the next group to be glued to
        raise


def _seq_of(line: bytes) -> int:
    return int(orjson.loads(line)["seq"])


def _mended_tail(fd: int) -> int:
    """Cut a torn last line off; return the number of the last whole one."""
    size = os.fstat(fd).st_size
    span = min(size, _TAIL_BYTES)
    tail = os.pread(fd, span, size - span)
    end = tail.rfind(b"\n") + 1
    if end == 0 and size > span:
        raise RuntimeError("the ledger's last line is longer than any we write; it is not a ledger of this simulator")
    os.ftruncate(fd, size - span + end)
    return 0 if end == 0 else _seq_of(tail[tail.rfind(b"\n", 0, end - 1) + 1 : end])
