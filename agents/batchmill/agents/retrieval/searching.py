"""One loaded snapshot: what may be seen is told first, then what of it answers best, by words, by meaning, or both.

What lives here: ranking. What must not: how many pieces are shown and how long they may be (`streams.retrieving`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchmill.agents.retrieval.embedders import Embedder
from batchmill.agents.retrieval.lexical import Lexical
from batchmill.agents.retrieval.vectors import Vectors
from batchmill.streams.indexing import Document, Piece, Snapshot
from batchmill.streams.retrieving import Inquiry, RetrievalError, fused

__all__ = ["Index"]

_EVER_MS = 2**62
#: pieces of each ranking that are fused, for each that is wanted
_FUSED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """The vectors of all pieces, and who makes that of a query."""

    vectors: Vectors
    embedder: Embedder

    def scores(self, query: str) -> Any:
        (vector,) = self.embedder.embed([query])
        if len(vector) != self.vectors.dimensions:
            raise RetrievalError(f"the embedder {self.embedder.mark.name!r} gave a vector of another length")
        return self.vectors.scores(vector)


class Index:
    """A `Retriever`."""

    def __init__(self, snapshot: Snapshot, embedder: Embedder | None) -> None:
        """Count words and stack vectors; takes seconds for a large one."""
        assert (embedder and embedder.mark) == snapshot.embedder, "an index is asked by the embedder that made it"
        self.snapshot = snapshot
        self._lexical = Lexical((piece.indexed for piece in snapshot.pieces), snapshot.ranking)
        self._sight = _Sight(snapshot)
        self._meaning: _Meaning | None = None
        if embedder is not None:
            stacked = Vectors([piece.vector for piece in snapshot.pieces if piece.vector is not None])
            self._meaning = _Meaning(vectors=stacked, embedder=embedder)

    def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
        seen = self._sight.of(inquiry.groups, inquiry.at_ms)
        by_words = self._lexical.scores(inquiry.query)
        if self._meaning is None:
            chosen = _best(by_words, seen, limit)
        else:
            by_meaning = self._meaning.scores(inquiry.query)
            rankings = [_best(scores, seen, limit * _FUSED) for scores in (by_words, by_meaning)]
            chosen = fused(rankings, constant=self.snapshot.ranking.fusion)[:limit]
        return [self.snapshot.pieces[number] for number in chosen]


class _Sight:
    """Which pieces a record may see, as one truth value for each. The same rule as `retrieving.visible`, in bulk."""

    def __init__(self, snapshot: Snapshot) -> None:
        places = {document.id: at for at, document in enumerate(snapshot.documents)}
        self._document = np.asarray([places[each.document.id] for each in snapshot.pieces], dtype=np.int64)
        self._from = _times([each.valid_from_ms for each in snapshot.documents], -_EVER_MS)
        self._until = _times([each.valid_until_ms for each in snapshot.documents], _EVER_MS)
        self._public = np.asarray([each.allow is None for each in snapshot.documents], dtype=bool)
        self._groups = _members(snapshot.documents)

    def of(self, groups: frozenset[str], at_ms: int) -> Any:
        allowed = self._public.copy()
        for group in groups & self._groups.keys():
            allowed[self._groups[group]] = True
        valid = (self._from <= at_ms) & (at_ms < self._until)
        return (allowed & valid)[self._document]


def _times(given: Sequence[int | None], otherwise: int) -> Any:
    return np.asarray([otherwise if each is None else each for each in given], dtype=np.int64)


def _members(documents: Sequence[Document]) -> dict[str, Any]:
    """Group -> places of the documents that name it."""
    places: dict[str, list[int]] = {}
    for at, document in enumerate(documents):
        for group in document.allow or ():
            places.setdefault(group, []).append(at)
    return {group: np.asarray(found, dtype=np.int64) for group, found in places.items()}


def _best(scores: Any, seen: Any, limit: int) -> list[int]:
    """Numbers of the best pieces that are seen and score at all; of equals the lower number is first."""
    (candidates,) = np.nonzero(seen & (scores > 0))
    if len(candidates) > limit:
        found = scores[candidates]
        least = np.partition(found, len(found) - limit)[len(found) - limit]
        candidates = candidates[found >= least]
    order = np.lexsort((candidates, -scores[candidates]))
    return [int(each) for each in candidates[order][:limit]]
