"""Which pieces of an index are put beside a record: permissions and validity first, then rank, number and tokens.

What lives here: what a record asks and may see, and the way from ranked pieces to its context. What must not: how
pieces are ranked (an index does, behind `Retriever`), and what a piece is (`indexing`).

Who may see what fails closed: a document that names groups is shown to records of these groups alone, a record without
a group sees only what is for everybody. Groups are told by the event as it came: cleaning may make one name of two
(NFKC, markup, a cut), which does no harm to a text, and to a permission does. Validity is judged at the time of the
event, never at that of the look-up, so that the same event finds the same whenever it is read again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from batchmill.schemas.asking import RetrievalSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.indexing import Document, Piece
from batchmill.streams.jsontext import JsonObject
from batchmill.streams.paths import ABSENT, Path, compile_path
from batchmill.streams.unusable import Unusable

__all__ = [
    "QUERY_CHARS_MAX",
    "IndexAwaitedError",
    "Indexes",
    "Inquiry",
    "NoIndexes",
    "Retrieval",
    "RetrievalError",
    "Retriever",
    "attach",
    "compile_retrieval",
    "found_for",
    "fused",
    "groups_of",
    "visible",
]

#: of a record's query; the rest of a longer one is not looked up
QUERY_CHARS_MAX: Final = 4_000
#: groups of one record
_GROUPS_MAX: Final = 1_000
#: pieces looked at for each that may be shown: those that do not fit the tokens are passed over
_SPARE: Final = 4


class IndexAwaitedError(Exception):
    """The index is not loaded: nothing can be said of the record before it is, or is given up."""


class RetrievalError(Exception):
    """The index is there and cannot answer, as when its embedder fails; the message says why, never the query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What one record asks of an index, and as whom."""

    query: str
    groups: frozenset[str]
    at_ms: int  #: of its event


class Retriever(Protocol):
    """A loaded index."""

    def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
        """Pieces that answer best, best first, of what the inquirer may see; or RetrievalError."""
        ...


class Indexes(Protocol):
    """The loaded indexes of a process."""

    def of(self, sha256: str) -> Retriever | None:
        """The index of that snapshot; None while it is not loaded."""
        ...

    def fault(self, sha256: str) -> str:
        """Why it is not."""
        ...


class NoIndexes:
    """Where no index is ever loaded, as where nothing is normalized."""

    def of(self, sha256: str) -> Retriever | None:  # noqa: ARG002 - the port's signature
        return None

    def fault(self, sha256: str) -> str:  # noqa: ARG002 - the port's signature
        return "no index is loaded here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """A compiled `RetrievalSpec`."""

    spec: RetrievalSpec
    query: Path
    allow: Path | None
    indexes: Indexes


def compile_retrieval(spec: RetrievalSpec, indexes: Indexes) -> Retrieval:
    """Compile, or PathError."""
    allow = None if spec.allow is None else compile_path(spec.allow)
    return Retrieval(spec=spec, query=compile_path(spec.query), allow=allow, indexes=indexes)


def attach(retrieval: Retrieval, payload: JsonObject, *, groups: frozenset[str], at_ms: int) -> None:
    """Put the context into `payload` under `into`; raise `Unusable`, or IndexAwaitedError while there is no index.
    `groups`: of the event before it was cleaned (`groups_of`).

    A record never brings its own context: what an answer may cite would be what its sender made up.
    """
    spec = retrieval.spec
    if spec.into in payload:
        note = f"$.{spec.into}: expected not to be there, retrieval writes it; rename it, or set ask.retrieval.into"
        raise Unusable(Reason.INVALID_INPUT, note)
    index = retrieval.indexes.of(spec.sha256)
    if index is None:
        raise IndexAwaitedError
    inquiry = Inquiry(query=_query(retrieval, payload), groups=groups, at_ms=at_ms)
    try:
        found = found_for(spec, index, inquiry)
    except RetrievalError as error:
        raise Unusable(Reason.INDEX_GONE, f"index {spec.index}: {error}") from None
    if not found and spec.on_empty == "dead":
        raise Unusable(Reason.NO_CONTEXT, f"index {spec.index} holds nothing that this record asks for and may see")
    payload[spec.into] = [{"id": each.id, "document": each.document.id, "text": each.text} for each in found]


def found_for(spec: RetrievalSpec, index: Retriever, inquiry: Inquiry) -> list[Piece]:
    """What is shown, best first: at most `top` pieces, together at most `tokens_max` tokens."""
    if not inquiry.query.strip():
        return []
    ranked = index.ranked(inquiry, limit=spec.top * _SPARE)
    hidden = [each.id for each in ranked if not visible(each.document, inquiry.groups, inquiry.at_ms)]
    assert not hidden, f"the index {spec.index} gave pieces that may not be shown: {hidden[:3]}"
    return _within(ranked, spec)


def visible(document: Document, groups: frozenset[str], at_ms: int) -> bool:
    """Whether a record of these groups may see the document at that time."""
    begun = document.valid_from_ms is None or document.valid_from_ms <= at_ms
    over = document.valid_until_ms is not None and document.valid_until_ms <= at_ms
    allowed = document.allow is None or not groups.isdisjoint(document.allow)
    return begun and not over and allowed


def fused(rankings: Iterable[Sequence[int]], *, constant: int) -> list[int]:
    """Reciprocal rank fusion of rankings of piece numbers, in whole numbers; of equals the lower number is first."""
    scores: dict[int, int] = {}
    for ranking in rankings:
        for place, number in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0) + _ONE // (constant + place)
    return sorted(scores, key=lambda number: (-scores[number], number))


_ONE: Final = 10**12


def _within(ranked: Sequence[Piece], spec: RetrievalSpec) -> list[Piece]:
    chosen: list[Piece] = []
    left = spec.tokens_max
    for piece in ranked:
        tokens = estimate_tokens(len(piece.text.encode()))
        if tokens <= left:
            chosen.append(piece)
            left -= tokens
        if len(chosen) == spec.top:
            break
    return chosen


def _query(retrieval: Retrieval, payload: JsonObject) -> str:
    """A text, or texts of a list one after another; anything else asks nothing."""
    found = retrieval.query.find(payload)
    texts = found if isinstance(found, list) else [found]
    return "\n".join(each for each in texts if isinstance(each, str))[:QUERY_CHARS_MAX]


def groups_of(retrieval: Retrieval, payload: JsonObject) -> frozenset[str]:
    """A group, or a list of them; anything that is no text is no group, and neither is a text without a character."""
    found: Any = ABSENT if retrieval.allow is None else retrieval.allow.find(payload)
    each = found[:_GROUPS_MAX] if isinstance(found, list) else [found]
    return frozenset(one for one in each if isinstance(one, str) and one)
