"""The files that were sent to a provider and that came back, kept under the hash of their content.

What lives here: a directory store: write to a temporary file, fsync, rename to its sha256, fsync the directory. A file
that can be opened by its name is therefore whole, and writing the same bytes again changes nothing. What must not:
knowing what a file means, or when it may go. The address of a file is `payload:sha256/<64 hex digits>`.

A directory belongs to one host unless it is declared shared (a network file system all hosts see): a second host that
silently started an empty store of its own would pay for every lost file.
"""

import asyncio
import contextlib
import hashlib
import os
import platform
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from batchmill.streams.ports import StoredPayload

__all__ = ["READ_BYTES", "FilePayloadStore", "PayloadDamagedError", "PayloadError", "PayloadMissingError", "host_id"]

SCHEME = "payload:sha256/"
MARKER = "HOST"
READ_BYTES = 2**20
_URI = re.compile(r"payload:sha256/([0-9a-f]{64})")
_MACHINE_ID = Path("/etc/machine-id")


class PayloadError(Exception):
    """The store cannot be used as asked; the message says what to do."""


class PayloadMissingError(PayloadError):
    """There is no such file: its chunk steps back and makes it again."""


class PayloadDamagedError(PayloadError):
    """The file is there but its content does not match its name."""


class FilePayloadStore:
    """Content-addressed files below one directory. Blocking work runs in threads."""

    def __init__(self, *, directory: Path, shared: bool = False, host: str | None = None) -> None:
        self._root = directory
        self._temporary = directory / "tmp"
        self._temporary.mkdir(parents=True, exist_ok=True)
        if not shared:
            _claim(directory / MARKER, host or host_id())

    async def put(self, content: AsyncIterator[bytes]) -> StoredPayload:
        """Store what arrives piece by piece; returns once it would survive a power cut."""
        file, path = self._temporary_file()
        try:
            digest = hashlib.sha256()
            with file:
                async for part in content:
                    digest.update(part)
                    await asyncio.to_thread(file.write, part)
            return await asyncio.to_thread(self._settle, path, digest.hexdigest())
        finally:
            path.unlink(missing_ok=True)

    async def exists(self, uri: str) -> bool:
        """Is the file there? (Whole it is, if it is: see the head of this module.)"""
        return await asyncio.to_thread(self._path(uri).is_file)

    async def read(self, uri: str) -> AsyncIterator[bytes]:
        """Give the content piece by piece; a file that does not match its name raises at its end."""
        digest = hashlib.sha256()
        with await asyncio.to_thread(self._open, uri) as file:
            while part := await asyncio.to_thread(file.read, READ_BYTES):
                digest.update(part)
                yield part
        if SCHEME + digest.hexdigest() != uri:
            raise PayloadDamagedError(f"{uri} does not match its content; delete it and let its chunk make it again")

    async def read_range(self, uri: str, start: int, length: int) -> bytes:
        """Give at most `length` bytes from `start`, unchecked: the whole was checked when it was stored."""
        return await asyncio.to_thread(self._read_range, uri, start, length)

    async def size(self, uri: str) -> int:
        """Give the file's size in bytes, unread."""
        return await asyncio.to_thread(self._size, uri)

    async def verify(self, uri: str) -> int:
        """Read the file through, compare it with its name, give its size."""
        return sum([len(part) async for part in self.read(uri)])

    async def delete(self, uri: str) -> bool:
        """Remove the file; False when there was none."""
        return await asyncio.to_thread(self._delete, uri)

    def _temporary_file(self) -> tuple[BinaryIO, Path]:
        descriptor, name = tempfile.mkstemp(dir=self._temporary)
        return os.fdopen(descriptor, "wb"), Path(name)

    def _settle(self, temporary: Path, sha256: str) -> StoredPayload:
        target = self._path(SCHEME + sha256)
        size = temporary.stat().st_size
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(temporary)
            temporary.replace(target)
            for directory in (target.parent, target.parent.parent, self._root):
                _sync(directory)
        return StoredPayload(uri=SCHEME + sha256, sha256=sha256, size_bytes=size)

    def _open(self, uri: str) -> BinaryIO:
        try:
            return self._path(uri).open("rb")
        except FileNotFoundError:
            raise PayloadMissingError(
                f"{uri} is not in {self._root}: it was removed, or this is another host's directory"
            ) from None

    def _size(self, uri: str) -> int:
        with self._open(uri) as file:
            return os.fstat(file.fileno()).st_size

    def _read_range(self, uri: str, start: int, length: int) -> bytes:
        with self._open(uri) as file:
            file.seek(start)
            return file.read(length)

    def _delete(self, uri: str) -> bool:
        path = self._path(uri)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        _sync(path.parent)
        return True

    def _path(self, uri: str) -> Path:
        match = _URI.fullmatch(uri)
        if match is None:
            raise PayloadError(f"not a payload address: expected {SCHEME}<64 hex digits>")
        sha256 = match[1]
        return self._root / "sha256" / sha256[:2] / sha256


def host_id() -> str:
    """Name this host: its machine id where there is one, else its host name."""
    with contextlib.suppress(OSError):
        if machine := _MACHINE_ID.read_text(encoding="ascii").strip():
            return machine
    return platform.node()


def _claim(marker: Path, host: str) -> None:
    if not marker.exists():
        # Written aside and linked into place: of two processes starting at once one wins, and nobody reads half a name.
        descriptor, name = tempfile.mkstemp(dir=marker.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(host)
        with contextlib.suppress(FileExistsError):
            os.link(name, marker)
        Path(name).unlink()
    owner = marker.read_text(encoding="utf-8")
    if owner != host:
        raise PayloadError(
            f"{marker.parent} belongs to host {owner}, this is {host}: put the payload store on a directory all hosts"
            " see and set payloads.shared, or, if that host is gone for good, delete the file HOST in it"
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
