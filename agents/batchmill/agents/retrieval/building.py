"""A file of documents -> a snapshot in the payload store, and the pointer file that a job names.

What lives here: reading the file within bounds, its mistakes told line by line, and storing. What must not: what a
document may say and where it is cut (`streams.indexing`).
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.retrieval.embedders import Embedder
from batchmill.agents.retrieval.library import SNAPSHOT_BYTES_MAX
from batchmill.agents.retrieval.pointers import Pointer, pointer_file, write_pointer
from batchmill.streams.indexing import (
    DOCUMENT_BYTES_MAX,
    Cutting,
    Document,
    DocumentError,
    Snapshot,
    Vector,
    document_of,
    pieces_of,
    snapshot_lines,
    snapshot_of,
)

__all__ = ["DOCUMENTS_MAX", "PIECES_MAX", "Built", "DocumentsError", "Read", "build_index", "read_documents"]

DOCUMENTS_MAX = 200_000
PIECES_MAX = 200_000
FILE_BYTES_MAX = SNAPSHOT_BYTES_MAX // 2
#: mistakes told at once
_MISTAKES_MAX = 20
#: texts that an embedder is given at once
_EMBEDDED_AT_ONCE = 256
#: lines of a snapshot handed to the store at once
_WRITTEN_AT_ONCE = 256


class DocumentsError(Exception):
    """The file cannot be indexed; each mistake with its line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A file of documents, as it was read."""

    documents: tuple[Document, ...]
    sha256: str  #: of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What there is now."""

    pointer: Pointer
    file: Path
    size_bytes: int


def read_documents(file: Path, *, require_allow: bool = False) -> Read:
    """Every document of the file, or DocumentsError with the first mistakes."""
    found: dict[str, int] = {}
    documents: list[Document] = []
    mistakes: list[str] = []
    digest = hashlib.sha256()
    for number, line in _numbered(file):
        digest.update(line)
        try:
            document = _document(line, found, require_allow=require_allow)
        except DocumentError as wrong:
            mistakes.append(f"{file}:{number}: {wrong}")
            if len(mistakes) >= _MISTAKES_MAX:
                mistakes.append(f"{file}: there may be more; these are the first {_MISTAKES_MAX}")
                break
            continue
        if document is not None:
            found[document.id] = number
            documents.append(document)
        if len(documents) > DOCUMENTS_MAX:
            raise DocumentsError(f"{file}:{number}: more than {DOCUMENTS_MAX:,} documents; make several indexes of it")
    if mistakes:
        raise DocumentsError("\n".join(mistakes))
    if not documents:
        raise DocumentsError(f"{file}: holds no document; write one JSON object a line, with `id` and `text`")
    return Read(documents=tuple(documents), sha256=digest.hexdigest())


def _document(line: bytes, found: Mapping[str, int], *, require_allow: bool) -> Document | None:
    """None: a blank line. `found`: id -> line of the documents before."""
    if len(line) > DOCUMENT_BYTES_MAX:
        raise DocumentError(f"longer than {DOCUMENT_BYTES_MAX} bytes")
    if not line.strip():
        return None
    document = document_of(line)
    if require_allow and document.allow is None:
        raise DocumentError("`allow`: expected to be there, as --require-allow says")
    if document.id in found:
        raise DocumentError(f"`id`: the document of line {found[document.id]} has the same")
    return document


async def build_index(
    file: Path,
    *,
    name: str,
    folder: Path,
    store: FilePayloadStore,
    cutting: Cutting,
    embedder: Embedder | None,
    now_ms: int,
    require_allow: bool = False,
) -> Built:
    """Read, cut, embed and store; the pointer is written last, so that it never points at nothing."""
    where = pointer_file(folder, name)
    read = await asyncio.to_thread(read_documents, file, require_allow=require_allow)
    snapshot = await asyncio.to_thread(_snapshot, read.documents, cutting, embedder)
    stored = await store.put(_written(snapshot))
    if stored.size_bytes > SNAPSHOT_BYTES_MAX:
        await store.delete(stored.uri)
        raise DocumentsError(f"{file}: its snapshot has more than {SNAPSHOT_BYTES_MAX:,} bytes; make several indexes")
    pointer = _pointer(name, stored.sha256, snapshot, read.sha256, _seen_from(folder, file), now_ms)
    write_pointer(where, pointer)
    return Built(pointer=pointer, file=where, size_bytes=stored.size_bytes)


def _pointer(name: str, sha256: str, snapshot: Snapshot, built_from: str, file: str, now_ms: int) -> Pointer:
    times = [each.updated_at_ms for each in snapshot.documents if each.updated_at_ms is not None]
    return Pointer(
        name=name,
        sha256=sha256,
        documents=len(snapshot.documents),
        pieces=len(snapshot.pieces),
        built_from=built_from,
        documents_file=file,
        built_at=_told(now_ms),
        newest_document=_told(max(times)) if times else None,
    )


def _seen_from(folder: Path, file: Path) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def _numbered(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line); of a line that is too long only the beginning, which is too long still."""
    try:
        with file.open("rb") as lines:
            size = os.fstat(lines.fileno()).st_size
            if size > FILE_BYTES_MAX:
                raise DocumentsError(f"{file}: {size:,} bytes, at most {FILE_BYTES_MAX:,} are taken")
            number = 0
            while line := lines.readline(DOCUMENT_BYTES_MAX + 2):
                number += 1
                yield number, line
                while not line.endswith(b"\n") and (rest := lines.readline(DOCUMENT_BYTES_MAX)):
                    line = rest
    except OSError as error:
        raise DocumentsError(f"{file} cannot be read: {error.strerror}") from None


def _snapshot(documents: tuple[Document, ...], cutting: Cutting, embedder: Embedder | None) -> Snapshot:
    made = snapshot_of(documents, cutting=cutting)
    if len(made.pieces) > PIECES_MAX:
        raise DocumentsError(f"{len(made.pieces):,} pieces, at most {PIECES_MAX:,}: cut larger ones, or make several")
    if embedder is None:
        return made
    vectors = _vectors(documents, cutting, embedder)
    return snapshot_of(documents, cutting=cutting, embedder=embedder.mark, vectors=vectors)


def _vectors(documents: tuple[Document, ...], cutting: Cutting, embedder: Embedder) -> dict[str, Vector]:
    """In the order of the ids: an embedder is given the same texts at once whatever order the file has."""
    inside = sorted(documents, key=lambda one: one.id)
    pieces = [piece for document in inside for piece in pieces_of(document, cutting)]
    vectors: dict[str, Vector] = {}
    for at in range(0, len(pieces), _EMBEDDED_AT_ONCE):
        some = pieces[at : at + _EMBEDDED_AT_ONCE]
        given = embedder.embed([piece.indexed for piece in some])
        vectors |= {piece.id: vector for piece, vector in zip(some, given, strict=True)}
    return vectors


async def _written(snapshot: Snapshot) -> AsyncIterator[bytes]:
    lines = snapshot_lines(snapshot)
    while part := [line for _, line in zip(range(_WRITTEN_AT_ONCE), lines, strict=False)]:
        yield b"".join(part)
        await asyncio.sleep(0)


def _told(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
