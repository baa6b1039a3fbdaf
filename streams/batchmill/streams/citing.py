"""Whether what an answer quotes stands in its input, and where.

A passage is text of the output; it is sought in the texts that the input has at `within`, as it is (exact), or with
white space and letter case left out of account (folded). What lives here: finding passages and places. What must not:
what a missing one means for a life.

`null` quotes nothing and is passed over; a blank text, or anything that is no text, is not found. An output member that
is absent quotes nothing either: `required` asks for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from batchmill.schemas.jobs import CitationSpec
from batchmill.streams.cel_functions import folded
from batchmill.streams.paths import ABSENT, Path, compile_path

__all__ = ["PASSAGES_MAX", "Citation", "Passage", "Texts", "compile_citation", "found_in", "uncited", "written"]

#: passages of one citation that are looked up
PASSAGES_MAX: Final = 1_000
#: characters of text gone through for one citation
WORK_CHARS_MAX: Final = 200_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Characters `start` to `end` of the input's member `path` that the output's member `cited_by` is found in."""

    path: str
    start: int
    end: int
    cited_by: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A compiled `CitationSpec`."""

    spec: CitationSpec
    field: Path
    within: Path


@dataclass(frozen=True, slots=True)
class _Quote:
    steps: tuple[str | int, ...]  #: from the output to the passage
    text: Any  #: what is quoted; no text where something else stands there
    source: Any  #: the document it names; ABSENT: any


@dataclass(frozen=True, slots=True)
class _Document:
    path: str
    id: Any
    text: str
    sought: str  #: what is searched
    places: tuple[int, ...] | None  #: of each character of `sought` in `text`; None: the same place


class Texts:
    """The documents of one input, folded once for all citations that look into them."""

    def __init__(self, item_input: Any) -> None:
        self._input = item_input
        self._read: dict[tuple[str, bool, bool], tuple[_Document, ...]] = {}

    def of(self, citation: Citation, *, placed: bool) -> tuple[_Document, ...]:
        is_folded = citation.spec.match == "folded"
        key = (citation.within.text, is_folded, placed)
        if key not in self._read:
            self._read[key] = tuple(_documents(citation.within, self._input, is_folded=is_folded, placed=placed))
        return self._read[key]


def compile_citation(spec: CitationSpec) -> Citation:
    """Compile, or PathError."""
    return Citation(spec, compile_path(spec.field), compile_path(spec.within))


def uncited(citation: Citation, texts: Texts, output: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(where in the output, what was expected) of each passage that is not in the input."""
    left = WORK_CHARS_MAX
    documents = texts.of(citation, placed=False)
    quotes = list(islice(_quotes(citation, output), PASSAGES_MAX + 1))
    for quote in quotes[:PASSAGES_MAX]:
        left -= sum(len(document.sought) for document in documents)
        if left < 0:
            yield (), "expected less text to be searched for all passages"
            return
        if next(_places(quote, documents, citation), None) is None:
            named = quote.source is not ABSENT and citation.spec.source is not None
            yield quote.steps, f"expected to occur in {'the document it names' if named else citation.within.text}"
    if len(quotes) > PASSAGES_MAX:
        yield (), f"expected at most {PASSAGES_MAX} passages"


def found_in(citation: Citation, texts: Texts, output: Any) -> Iterator[Passage]:
    """Where each passage stands: the first place of each, as far as the same work goes that `uncited` may do."""
    documents = texts.of(citation, placed=True)
    chars = sum(len(document.sought) for document in documents)
    for quote in islice(_quotes(citation, output), min(PASSAGES_MAX, WORK_CHARS_MAX // max(1, chars))):
        for document, at, length in islice(_places(quote, documents, citation), 1):
            start, end = at, at + length
            if document.places is not None:
                start, end = document.places[at], document.places[at + length - 1] + 1
            yield Passage(path=document.path, start=start, end=end, cited_by=written(quote.steps))


def _quotes(citation: Citation, output: Any) -> Iterator[_Quote]:
    """The passages at `field`: a text, a list, an object of them, or objects that hold one each."""
    spec, steps = citation.spec, citation.field.steps
    value = citation.field.find(output)
    if value is ABSENT or value is None:
        return
    each: list[tuple[tuple[str | int, ...], Any]] = [(steps, value)]
    if isinstance(value, list):
        each = [((*steps, at), item) for at, item in enumerate(value)]
    elif isinstance(value, dict) and spec.quote is None:
        each = [((*steps, name), member) for name, member in value.items()]
    for where, item in each:
        if spec.quote is not None:
            quoted = item.get(spec.quote, ABSENT) if isinstance(item, dict) else ABSENT
            source = item.get(spec.source, ABSENT) if spec.source and isinstance(item, dict) else ABSENT
            if quoted is not None:
                yield _Quote((*where, spec.quote), quoted, source)
        elif item is not None:
            yield from _nested(where, item)


def _nested(where: tuple[str | int, ...], item: Any) -> Iterator[_Quote]:
    """A text, or a list of texts under a member."""
    if isinstance(item, list):
        for at, each in enumerate(item):
            yield _Quote((*where, at), each, ABSENT)
    else:
        yield _Quote(where, item, ABSENT)


def _places(
    quote: _Quote, documents: tuple[_Document, ...], citation: Citation
) -> Iterator[tuple[_Document, int, int]]:
    """(document, place in what is searched, length) of the passage in each document that may hold it."""
    if not isinstance(quote.text, str) or not quote.text.strip():
        return
    if citation.spec.source is not None and quote.source is ABSENT:
        return
    sought = folded(quote.text) if citation.spec.match == "folded" else quote.text
    for document in documents:
        if quote.source is not ABSENT and not _same(document.id, quote.source):
            continue
        at = document.sought.find(sought)
        if at >= 0:
            yield document, at, len(sought)


def _same(one: Any, other: Any) -> bool:
    """An id may be a text or a whole number."""
    return type(one) is type(other) and isinstance(one, str | int) and one == other


def _documents(within: Path, item_input: Any, *, is_folded: bool, placed: bool) -> Iterator[_Document]:
    value = within.find(item_input)
    each = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
    for at, item in each:
        path = within.steps if at is None else (*within.steps, at)
        known, text = ABSENT, item
        if isinstance(item, dict):
            known, text, path = item.get("id", ABSENT), item.get("text"), (*path, "text")
        if not isinstance(text, str):
            continue
        if not is_folded:
            yield _Document(written(path), known, text, text, None)
        elif placed:
            yield _Document(written(path), known, text, *_folded_with_places(text))
        else:
            yield _Document(written(path), known, text, folded(text), None)


def _folded_with_places(text: str) -> tuple[str, tuple[int, ...]]:
    """As `folded`, and from where in `text` each character of it comes: folding may make several of one."""
    parts: list[str] = []
    places: list[int] = []
    blank = True  # what stands before the first word is left out
    for at, char in enumerate(text):
        if char.isspace():
            if not blank:
                parts.append(" ")
                places.append(at)
            blank = True
            continue
        blank = False
        told = char.casefold()
        parts.append(told)
        places.extend([at] * len(told))
    if parts and parts[-1] == " ":
        parts.pop()
        places.pop()
    return "".join(parts), tuple(places)


def written(steps: tuple[str | int, ...]) -> str:
    """As `$.a.b[0]`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
