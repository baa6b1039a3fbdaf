"""Documents -> pieces -> the snapshot of an index: bytes that are the same wherever the same documents are indexed.

What lives here: what a document may say, where its text is cut, what counts as a word, the form of a snapshot and the
way back from it. What must not: ranking pieces, and who is shown which (`retrieving`).

A *piece* is a part of one document's text, short enough to stand beside a record; its id is the document's, `#` and its
number. A *snapshot* is canonical JSON, one line for how it was made and one for each document, sorted by id; its
SHA-256 names it. Vectors are whole numbers in it, so that nothing in it depends on how a machine adds up.
"""

import base64
import hashlib
import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from batchmill.streams.costing import BYTES_PER_TOKEN
from batchmill.streams.jsontext import JsonObject, canonical, decode_object
from batchmill.streams.unusable import Unusable

__all__ = [
    "DOCUMENT_BYTES_MAX",
    "VECTOR_SCALE",
    "Cutting",
    "Document",
    "DocumentError",
    "EmbedderMark",
    "Piece",
    "Ranking",
    "Snapshot",
    "SnapshotError",
    "Vector",
    "cut",
    "document_of",
    "document_sha256",
    "moment_ms",
    "pieces_of",
    "read_snapshot",
    "snapshot_lines",
    "snapshot_of",
    "whole_numbers",
    "words",
]

#: of one line of a file of documents
DOCUMENT_BYTES_MAX: Final = 4 * 2**20
#: length that vectors are brought to before they are rounded: products of two stay exact as 32-bit floats
VECTOR_SCALE: Final = 2_048
#: of this module and of `words`: another one reads no snapshot of this one
FORM: Final = 1
_ID_CHARS_MAX = 256
_TITLE_CHARS_MAX = 1_000
_GROUPS_MAX = 1_000
_GROUP_CHARS_MAX = 256
_DIMENSIONS_MAX = 8_192
_MEMBERS = frozenset({"id", "text", "title", "allow", "valid_from", "valid_until", "updated_at"})
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d))?\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: behind a sentence or a line; begins only where a run of marks begins, so that a long run is gone through once
_SENTENCE_END = re.compile("(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019)\\]]*+\\s++|[\u3002\uff01\uff1f]++|\n")
_WORD_END = re.compile(r"\s++")
_WORD = re.compile(r"\w+")
#: written without spaces: two characters at a time are its words
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")

Vector = tuple[int, ...]


class DocumentError(ValueError):
    """A document cannot be taken; the message says which member and what is expected, never what it says."""


class SnapshotError(ValueError):
    """The bytes are no snapshot that this version reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What may be shown beside a record. `allow`: the groups that may see it; None: everybody; empty: nobody."""

    id: str
    text: str
    title: str | None = None
    allow: tuple[str, ...] | None = None
    valid_from_ms: int | None = None
    valid_until_ms: int | None = None  #: not any more at this time
    updated_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a document as it is shown, and its vector where the index has an embedder."""

    id: str
    document: Document
    text: str
    vector: Vector | None = None

    @property
    def indexed(self) -> str:
        """What is searched: its document's title belongs to every piece."""
        return self.text if self.document.title is None else f"{self.document.title}\n{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """How texts are cut into pieces; tokens are estimates."""

    tokens_max: int = 200
    overlap_tokens: int = 30  #: of the end of a piece with which the next one begins, in whole sentences

    def __post_init__(self) -> None:
        if not 20 <= self.tokens_max <= 4_000:
            raise DocumentError("a piece has from 20 to 4,000 tokens")
        if not 0 <= self.overlap_tokens <= self.tokens_max // 2:
            raise DocumentError("pieces overlap by at most half of their tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Numbers that the order of pieces depends on, in thousandths where they have fractions."""

    k1_thousandths: int = 1_200
    b_thousandths: int = 750
    fusion: int = 60  #: of reciprocal ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderMark:
    """Which function made the vectors: its name, and the hash of its source."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that an index is made of; pieces in the order of their documents' ids."""

    cutting: Cutting
    ranking: Ranking
    embedder: EmbedderMark | None
    documents: tuple[Document, ...]  #: their texts are in the pieces alone
    sources: Mapping[str, str]  #: id -> hash of the document as it was given
    pieces: tuple[Piece, ...]


# -- documents ---------------------------------------------------------------------------------------------------------


def document_of(line: bytes) -> Document:
    """Read one line of a file of documents, or DocumentError. Members nobody knows are refused: one may be `allow`."""
    try:
        told = decode_object(line, bytes_max=DOCUMENT_BYTES_MAX)
    except Unusable as wrong:
        raise DocumentError(wrong.note) from None
    unknown = sorted(told.keys() - _MEMBERS)
    if unknown:
        raise DocumentError(f"has a member that is not known; known are {', '.join(sorted(_MEMBERS))}")
    found = Document(
        id=_id(told),
        text=_tidy(_text(told, "text")),
        title=None if told.get("title") is None else _tidy(_text(told, "title"))[:_TITLE_CHARS_MAX],
        allow=_allow(told),
        valid_from_ms=_time_ms(told, "valid_from"),
        valid_until_ms=_time_ms(told, "valid_until"),
        updated_at_ms=_time_ms(told, "updated_at"),
    )
    if not found.text:
        raise DocumentError("`text`: expected a text that is not blank")
    return found


def document_sha256(document: Document) -> str:
    """Of all a document says, whatever form its times and its list of groups were written in."""
    return hashlib.sha256(canonical(_facts(document) | {"text": document.text})).hexdigest()


def _text(told: JsonObject, member: str) -> str:
    value = told.get(member)
    if not isinstance(value, str):
        raise DocumentError(f"`{member}`: expected a text")
    return value


def _id(told: JsonObject) -> str:
    value = _text(told, "id")
    if not 0 < len(value) <= _ID_CHARS_MAX or not value.isprintable() or value != value.strip():
        raise DocumentError(f"`id`: expected 1 to {_ID_CHARS_MAX} printable characters")
    return unicodedata.normalize("NFC", value)


def _allow(told: JsonObject) -> tuple[str, ...] | None:
    """Absent means everybody; a null may be a join that found nothing, and must not mean that."""
    if "allow" not in told:
        return None
    value = told["allow"]
    if not isinstance(value, list) or len(value) > _GROUPS_MAX:
        raise DocumentError(f"`allow`: expected a list of at most {_GROUPS_MAX} groups; leave it out for everybody")
    if not all(isinstance(each, str) and 0 < len(each) <= _GROUP_CHARS_MAX for each in value):
        raise DocumentError(f"`allow`: a group is a text of 1 to {_GROUP_CHARS_MAX} characters")
    return tuple(sorted(set(value)))


def _time_ms(told: JsonObject, member: str) -> int | None:
    value = told.get(member)
    return None if value is None else moment_ms(value, f"`{member}`")


def moment_ms(value: Any, where: str) -> int:
    """A time that a person wrote, or DocumentError; a date is its first moment in UTC."""
    try:
        if not isinstance(value, str) or not _TIME.match(value):
            raise ValueError  # noqa: TRY301 - one message for both
        moment = datetime.fromisoformat(value.upper())
        since = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError):
        raise DocumentError(f"{where}: expected an RFC 3339 time with zone, or a date") from None
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def _tidy(text: str) -> str:
    """One form of each character, one kind of line end, one blank line at most between two paragraphs."""
    lines = [line.rstrip() for line in unicodedata.normalize("NFC", _CONTROL.sub("", text)).splitlines()]
    kept = [line for at, line in enumerate(lines) if line or (at and lines[at - 1])]
    return "\n".join(kept).strip()


# -- cutting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unit:
    """A part of a text that is not cut again: a sentence, or as much of one as fits."""

    start: int
    end: int
    ends_paragraph: bool


def cut(text: str, how: Cutting) -> list[str]:
    """The pieces of a tidy text, in order: whole sentences, up to the end of a paragraph where that is not wasteful."""
    most, again = how.tokens_max * BYTES_PER_TOKEN, how.overlap_tokens * BYTES_PER_TOKEN
    units = list(_units(text, most))
    sizes = [0]
    for unit in units:
        blank_line = 2 if unit.ends_paragraph else 0
        sizes.append(sizes[-1] + len(text[unit.start : unit.end].encode()) + blank_line)
    found = (text[units[at].start : units[end - 1].end].strip() for at, end in _packed(units, sizes, most, again))
    return [piece for piece in found if piece]


def _packed(units: Sequence[_Unit], sizes: Sequence[int], most: int, again: int) -> Iterator[tuple[int, int]]:
    """(first unit, unit behind the last) of each piece; `sizes[n]`: bytes of the first n units."""
    at = told = 0
    while told < len(units):
        end = max(at + 1, told + 1)
        while end < len(units) and sizes[end + 1] - sizes[at] <= most:
            end += 1
        if end < len(units):
            end = _at_paragraph(units, sizes, at, end, floor=told + 1, enough=most // 2)
        yield at, end
        told = at = end
        while at > 0 and told < len(units) and _may_begin(sizes, at - 1, told, most, again):
            at -= 1


def _at_paragraph(units: Sequence[_Unit], sizes: Sequence[int], at: int, end: int, *, floor: int, enough: int) -> int:
    for last in range(end, floor - 1, -1):
        if sizes[last] - sizes[at] < enough:
            return end
        if units[last - 1].ends_paragraph:
            return last
    return end


def _may_begin(sizes: Sequence[int], at: int, told: int, most: int, again: int) -> bool:
    """Whether the next piece may repeat from unit `at` on, and still has room for something new."""
    return sizes[told] - sizes[at] <= again and sizes[told + 1] - sizes[at] <= most


def _units(text: str, most: int) -> Iterator[_Unit]:
    at = 0
    for paragraph in text.split("\n\n"):
        end = at + len(paragraph)
        whole = list(_fitting(text, at, end, most))
        for number, (start, stop) in enumerate(whole, start=1):
            yield _Unit(start, stop, number == len(whole))
        at = end + 2


def _fitting(text: str, start: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    for low, high in _between(text, start, end, _SENTENCE_END):
        if len(text[low:high].encode()) <= most:
            yield low, high
            continue
        for left, right in _between(text, low, high, _WORD_END):
            # A character has at most four bytes.
            step = right - left if len(text[left:right].encode()) <= most else most // 4
            yield from ((each, min(each + step, right)) for each in range(left, right, step))


def _between(text: str, start: int, end: int, mark: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    at = start
    for found in mark.finditer(text, start, end):
        yield at, found.end()
        at = found.end()
    if at < end:
        yield at, end


def words(text: str) -> list[str]:
    """What is counted and compared: words without case, pairs of characters in scripts that put no spaces."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        at = 0
        for run in _UNSPACED.finditer(word):
            found += [word[at : run.start()]] if run.start() > at else []
            found += [run[0][n : n + 2] for n in range(max(1, len(run[0]) - 1))]
            at = run.end()
        found += [word[at:]] if at < len(word) else []
    return found


# -- snapshots ---------------------------------------------------------------------------------------------------------


def pieces_of(document: Document, how: Cutting) -> list[Piece]:
    return [
        Piece(id=f"{document.id}#{number}", document=document, text=text)
        for number, text in enumerate(cut(document.text, how), start=1)
    ]


def snapshot_of(
    documents: Iterable[Document],
    *,
    cutting: Cutting,
    ranking: Ranking | None = None,
    embedder: EmbedderMark | None = None,
    vectors: Mapping[str, Vector] | None = None,
) -> Snapshot:
    """The same for the same documents in any order. `vectors`: of every piece by its id, where there is an embedder."""
    inside = sorted(documents, key=lambda one: one.id)
    assert len({one.id for one in inside}) == len(inside), "a document was given twice"
    assert (embedder is None) == (vectors is None), "vectors and the name of who made them belong together"
    pieces = [piece for document in inside for piece in pieces_of(document, cutting)]
    bare = {document.id: replace(document, text="") for document in inside}
    pieces = [replace(piece, document=bare[piece.document.id]) for piece in pieces]
    if vectors is not None:
        pieces = [replace(piece, vector=vectors[piece.id]) for piece in pieces]
    return Snapshot(
        cutting=cutting,
        ranking=ranking or Ranking(),
        embedder=embedder,
        documents=tuple(bare.values()),
        sources={document.id: document_sha256(document) for document in inside},
        pieces=tuple(pieces),
    )


def snapshot_lines(snapshot: Snapshot) -> Iterator[bytes]:
    """Its canonical bytes, line by line; the SHA-256 of all of them names it."""
    embedder = snapshot.embedder
    head = {
        "snapshot": FORM,
        "cutting": {"tokens_max": snapshot.cutting.tokens_max, "overlap_tokens": snapshot.cutting.overlap_tokens},
        "ranking": {
            "k1_thousandths": snapshot.ranking.k1_thousandths,
            "b_thousandths": snapshot.ranking.b_thousandths,
            "fusion": snapshot.ranking.fusion,
        },
        "embedder": None if embedder is None else {"name": embedder.name, "sha256": embedder.sha256},
    }
    yield canonical(head) + b"\n"
    inside: dict[str, list[Piece]] = {document.id: [] for document in snapshot.documents}
    for piece in snapshot.pieces:
        inside[piece.document.id].append(piece)
    for document in snapshot.documents:
        told = _facts(document) | {"source": snapshot.sources[document.id]}
        yield canonical(told | {"pieces": [_written(piece) for piece in inside[document.id]]}) + b"\n"


def read_snapshot(lines: Iterable[bytes]) -> Snapshot:
    """The way back, or SnapshotError. Documents come without their text, which is in their pieces."""
    each = iter(lines)
    try:
        head = decode_object(next(each, b""), bytes_max=DOCUMENT_BYTES_MAX)
        if head.get("snapshot") != FORM:
            raise SnapshotError(f"is no snapshot of form {FORM}: build it with this version of batchmill")
        mark = head["embedder"]
        documents: list[Document] = []
        sources: dict[str, str] = {}
        pieces: list[Piece] = []
        for line in each:
            told = decode_object(line, bytes_max=_LINE_BYTES_MAX)
            document = _document(told)
            documents.append(document)
            sources[document.id] = told["source"]
            pieces += [_piece(document, number, one) for number, one in enumerate(told["pieces"], start=1)]
        return Snapshot(
            cutting=Cutting(**head["cutting"]),
            ranking=Ranking(**head["ranking"]),
            embedder=None if mark is None else EmbedderMark(**mark),
            documents=tuple(documents),
            sources=sources,
            pieces=tuple(pieces),
        )
    except (Unusable, KeyError, TypeError, ValueError, struct.error) as wrong:
        if isinstance(wrong, SnapshotError):
            raise
        raise SnapshotError(f"is no snapshot: {type(wrong).__name__}") from None


#: of a snapshot: a document's pieces overlap, and each may have a vector
_LINE_BYTES_MAX = 256 * 2**20


def whole_numbers(vector: Sequence[float]) -> Vector:
    """A direction as whole numbers; the same on every machine that was given the same floats. All zeros stay so."""
    if not 0 < len(vector) <= _DIMENSIONS_MAX:
        raise DocumentError(f"a vector has from 1 to {_DIMENSIONS_MAX} numbers")
    numbers = [float(each) for each in vector]
    largest = max(abs(each) for each in numbers)
    if not largest < float("inf"):  # NaN too
        raise DocumentError("a vector has finite numbers only")
    if largest == 0:
        return (0,) * len(numbers)
    scaled = [each / largest for each in numbers]  # so that no square is too large or too small to be held
    length = sum(each * each for each in scaled) ** 0.5
    return tuple(round(each / length * VECTOR_SCALE) for each in scaled)


def _facts(document: Document) -> dict[str, Any]:
    return {
        "document": document.id,
        "title": document.title,
        "allow": None if document.allow is None else list(document.allow),
        "valid_from_ms": document.valid_from_ms,
        "valid_until_ms": document.valid_until_ms,
        "updated_at_ms": document.updated_at_ms,
    }


def _document(told: JsonObject) -> Document:
    allow = told["allow"]
    return Document(
        id=told["document"],
        text="",
        title=told["title"],
        allow=None if allow is None else tuple(allow),
        valid_from_ms=told["valid_from_ms"],
        valid_until_ms=told["valid_until_ms"],
        updated_at_ms=told["updated_at_ms"],
    )


def _written(piece: Piece) -> dict[str, str]:
    if piece.vector is None:
        return {"text": piece.text}
    packed = struct.pack(f"<{len(piece.vector)}h", *piece.vector)
    return {"text": piece.text, "vector": base64.b64encode(packed).decode()}


def _piece(document: Document, number: int, told: Mapping[str, str]) -> Piece:
    vector = None
    if "vector" in told:
        packed = base64.b64decode(told["vector"], validate=True)
        vector = struct.unpack(f"<{len(packed) // 2}h", packed)
    return Piece(id=f"{document.id}#{number}", document=document, text=told["text"], vector=vector)
