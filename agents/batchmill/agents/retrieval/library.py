"""The indexes one process has loaded: by the hash of their snapshot, a bounded number, the one used last stays longest.

What lives here: reading a snapshot from the payload store, which verifies its hash, and remembering who was asked for
and is not there. What must not: what becomes of a record whose index is not there (`streams.normalizing`).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import structlog

from batchmill.agents import clock
from batchmill.agents.installed import InstalledError
from batchmill.agents.payloads import PayloadError
from batchmill.agents.retrieval.embedders import load_embedder
from batchmill.agents.retrieval.searching import Index
from batchmill.streams.indexing import SnapshotError, read_snapshot

__all__ = ["SNAPSHOT_BYTES_MAX", "IndexGoneError", "Library", "load_index", "snapshot_uri"]

_log = structlog.get_logger(__name__)

#: of one snapshot; it is held in memory, with its words some times over
SNAPSHOT_BYTES_MAX = 2**30
#: snapshots that were asked for and are not loaded, remembered at once
_WANTED_MAX = 64
#: between two attempts at a snapshot that could not be loaded
RETRY_SECONDS = 5.0


class IndexGoneError(Exception):
    """The snapshot cannot be had here; the message says why and what to do."""


class Snapshots(Protocol):
    """Of a payload store, what loading needs."""

    def read(self, uri: str) -> AsyncIterator[bytes]: ...

    async def size(self, uri: str) -> int: ...


def snapshot_uri(sha256: str) -> str:
    return f"payload:sha256/{sha256}"


async def load_index(store: Snapshots, sha256: str) -> Index:
    """Read, verify and prepare one, or IndexGoneError."""
    uri = snapshot_uri(sha256)
    try:
        if await store.size(uri) > SNAPSHOT_BYTES_MAX:
            raise IndexGoneError(f"the snapshot {sha256[:16]} is larger than {SNAPSHOT_BYTES_MAX} bytes")
        parts = [part async for part in store.read(uri)]
        return await asyncio.to_thread(_prepared, b"".join(parts))
    except PayloadError as error:
        raise IndexGoneError(f"{error}; `batchmill index build` makes it again from the same documents") from None
    except SnapshotError as error:
        raise IndexGoneError(f"{uri} {error}") from None
    except InstalledError as error:
        raise IndexGoneError(f"{error}; {error.hint}") from None


def _prepared(data: bytes) -> Index:
    snapshot = read_snapshot(_lines(data))
    mark = snapshot.embedder
    embedder = None if mark is None else load_embedder(mark.name, sha256=mark.sha256)
    return Index(snapshot, embedder)


def _lines(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = data.find(b"\n", at) + 1 or len(data)
        yield data[at:end]
        at = end


class Library:
    """`Indexes` of a worker. `of` answers at once; `load_wanted` fetches what was asked for in vain or is expected."""

    def __init__(self, *, store: Snapshots, indexes_max: int, retry_seconds: float = RETRY_SECONDS) -> None:
        self._store = store
        self._retry_seconds = retry_seconds
        self._retry_at_s: dict[str, float] = {}
        self._indexes_max = indexes_max
        self._loaded: dict[str, Index] = {}
        self._wanted: dict[str, None] = {}
        self._faults: dict[str, str] = {}
        self._loading = asyncio.Lock()

    def of(self, sha256: str) -> Index | None:
        found = self._loaded.pop(sha256, None)
        if found is not None:
            self._loaded[sha256] = found
        elif len(self._wanted) < _WANTED_MAX:
            self._wanted[sha256] = None
        return found

    def expect(self, sha256: str) -> None:
        """It will be asked for: load it, unless one that is in use would have to go."""
        if sha256 not in self._loaded and len(self._loaded) + len(self._wanted) < self._indexes_max:
            self._wanted[sha256] = None

    def fault(self, sha256: str) -> str:
        """Why the snapshot could not be loaded when that was last tried."""
        return self._faults.get(sha256, "it is not loaded yet")

    async def load_wanted(self) -> None:
        """One attempt at each; what fails is wanted again by whoever asks again."""
        async with self._loading:
            now_s = clock.monotonic_s()
            self._retry_at_s = {sha256: at_s for sha256, at_s in self._retry_at_s.items() if at_s > now_s}
            known = self._loaded.keys() | self._retry_at_s.keys()
            self._wanted = {sha256: None for sha256 in self._wanted if sha256 not in known}
            for sha256 in list(self._wanted)[: self._indexes_max]:
                await self._load(sha256)
                self._wanted.pop(sha256, None)  # not before: whoever loads may be cancelled, and others want it too

    async def _load(self, sha256: str) -> None:
        try:
            self._loaded[sha256] = await load_index(self._store, sha256)
        except IndexGoneError as error:
            self._retry_at_s[sha256] = clock.monotonic_s() + self._retry_seconds
            if self._faults.get(sha256) != str(error):
                _log.error("index_gone", sha256=sha256[:16], why=str(error))
            self._faults = dict(list(self._faults.items())[1 - _WANTED_MAX :]) | {sha256: str(error)}
            return
        self._faults.pop(sha256, None)
        _log.info("index_loaded", sha256=sha256[:16], pieces=len(self._loaded[sha256].snapshot.pieces))
        while len(self._loaded) > self._indexes_max:
            del self._loaded[next(iter(self._loaded))]
