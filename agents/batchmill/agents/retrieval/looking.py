"""What is odd about the index a job names, for whoever applies or examines it: gone, unlike its pointer, or stale.

What lives here: reading the pointer beside a job and the snapshot behind it. What must not: mending anything.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from batchmill.agents.payloads import FilePayloadStore, PayloadError
from batchmill.agents.retrieval.ageing import age_of, documents_moved_on
from batchmill.agents.retrieval.library import IndexGoneError, load_index
from batchmill.agents.retrieval.pointers import PointerError, read_pointer
from batchmill.agents.retrieval.searching import Index
from batchmill.agents.settings import Settings

__all__ = ["Shelf", "Trouble", "index_at", "store_of", "troubles_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """One thing, and what to do about it. `gone`: no record could be asked."""

    what: str
    hint: str
    gone: bool = False


def store_of(settings: Settings) -> FilePayloadStore:
    """The payload store of this installation; PayloadError when it is another host's."""
    return FilePayloadStore(directory=settings.payload_dir, shared=settings.payloads.shared)


def index_at(settings: Settings, sha256: str) -> Index:
    """The index of a snapshot, or IndexGoneError. Looking makes no store where there is none."""
    if not settings.payload_dir.is_dir():
        raise IndexGoneError(f"there is no payload store at {settings.payload_dir}; `batchmill index build` makes one")
    try:
        return asyncio.run(load_index(store_of(settings), sha256))
    except PayloadError as error:
        raise IndexGoneError(str(error)) from None


class Shelf:
    """`Indexes` of a command: loaded when they are asked for, since a command can wait; what cannot be had is told."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: dict[str, Index | IndexGoneError] = {}

    def of(self, sha256: str) -> Index | None:
        found = self.look(sha256)
        return found if isinstance(found, Index) else None

    def fault(self, sha256: str) -> str:
        return str(self.look(sha256))

    def look(self, sha256: str) -> Index | IndexGoneError:
        """The index, or why it cannot be had."""
        if sha256 not in self._found:
            try:
                self._found[sha256] = index_at(self._settings, sha256)
            except IndexGoneError as error:
                self._found[sha256] = error
        return self._found[sha256]


def troubles_of(index: Index | IndexGoneError, pointer_file: Path, *, now_ms: int) -> list[Trouble]:
    """What is wrong with an index that a job names; `index`: as it was loaded, or why it could not be."""
    rebuild = f"`batchmill index build` anew, then `batchmill job apply`: {pointer_file.name} says how it was built"
    if isinstance(index, IndexGoneError):
        hint = "until it is there, records wait and are then put down as index_gone"
        return [Trouble(what=str(index), hint=hint, gone=True)]
    found = []
    try:
        if documents_moved_on(read_pointer(pointer_file), pointer_file.parent):
            found.append(Trouble(what="the file of documents is another one than it was built from", hint=rebuild))
    except PointerError as error:
        found.append(Trouble(what=str(error), hint=rebuild))
    expired = age_of(index.snapshot, None, now_ms=now_ms).expired
    if expired:
        what = f"{len(expired)} of its documents have expired, {expired[0]!r} first: events from now on do not see them"
        found.append(Trouble(what=what, hint=rebuild))
    return found
