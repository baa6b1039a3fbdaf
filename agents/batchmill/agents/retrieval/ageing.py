"""How an index differs from the documents as they are now: what was added, changed, removed, and what has expired.

What lives here: comparing a snapshot with a file of documents and with the clock that is handed in. What must not:
mending anything.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchmill.agents.retrieval.pointers import Pointer
from batchmill.streams.indexing import Document, Snapshot, document_sha256

__all__ = ["Age", "age_of", "documents_moved_on"]

_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Age:
    """Ids of documents, sorted; the first three are empty when nothing was compared."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()  #: in the index, no longer valid now
    not_yet: tuple[str, ...] = ()  #: in the index, valid later

    @property
    def stale(self) -> bool:
        """Whether building anew would make another index, or the one there is has documents that nobody sees."""
        return bool(self.added or self.changed or self.removed or self.expired)


def age_of(snapshot: Snapshot, documents: Sequence[Document] | None, *, now_ms: int) -> Age:
    """`documents`: as they are now; None: only the clock is asked."""
    inside = snapshot.documents
    over = [each.id for each in inside if each.valid_until_ms is not None and each.valid_until_ms <= now_ms]
    later = [each.id for each in inside if each.valid_from_ms is not None and each.valid_from_ms > now_ms]
    if documents is None:
        return Age(expired=tuple(over), not_yet=tuple(later))
    before, after = snapshot.sources, {each.id: document_sha256(each) for each in documents}
    return Age(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(name for name in after.keys() & before.keys() if after[name] != before[name])),
        removed=tuple(sorted(before.keys() - after.keys())),
        expired=tuple(over),
        not_yet=tuple(later),
    )


def documents_moved_on(pointer: Pointer, folder: Path) -> bool:
    """Whether the file the index was built from is still there, and is another one now."""
    file = folder / pointer.documents_file
    digest = hashlib.sha256()
    try:
        with file.open("rb") as content:
            while part := content.read(_READ_BYTES):
                digest.update(part)
    except OSError:
        return False
    return digest.hexdigest() != pointer.built_from
