"""Documents, pieces and snapshots: the same everywhere for the same documents, bounded, and cut where people would."""

import hashlib
import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.costing import estimate_tokens
from batchmill.streams.indexing import (
    DOCUMENT_BYTES_MAX,
    VECTOR_SCALE,
    Cutting,
    Document,
    DocumentError,
    EmbedderMark,
    SnapshotError,
    cut,
    document_of,
    document_sha256,
    pieces_of,
    read_snapshot,
    snapshot_lines,
    snapshot_of,
    whole_numbers,
    words,
)

GROUPS = ("sales", "legal", "staff")
texts = st.text(alphabet="ab .!?\n\u00e9\u4e2d\u3002", min_size=1, max_size=400).filter(lambda text: text.strip() != "")


def line(**told: Any) -> bytes:
    return json.dumps({"id": "a", "text": "A text."} | told).encode()


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    ids = draw(st.lists(st.text(alphabet="abc#1", min_size=1, max_size=4), unique=True, min_size=1, max_size=6))
    times = st.none() | st.integers(0, 2_000).map(lambda day: f"20{day % 80 + 10}-01-01")
    made = []
    for name in ids:
        told = {"id": name, "text": draw(texts), "valid_from": draw(times), "valid_until": draw(times)}
        allow = draw(st.none() | st.lists(st.sampled_from(GROUPS), max_size=3))
        made.append(document_of(json.dumps(told | ({} if allow is None else {"allow": allow})).encode()))
    return made


def named(inside: list[Document], how: Cutting) -> str:
    return hashlib.sha256(b"".join(snapshot_lines(snapshot_of(inside, cutting=how)))).hexdigest()


# -- documents ---------------------------------------------------------------------------------------------------------


def test_a_document_says_who_may_see_it_and_when() -> None:
    found = document_of(line(allow=["b", "a", "b"], valid_from="2026-01-01", valid_until="2026-01-01T01:00:00+01:00"))
    assert found.allow == ("a", "b")
    assert found.valid_from_ms == found.valid_until_ms == 1_767_225_600_000


def test_without_allow_everybody_may_see_it_and_with_an_empty_one_nobody() -> None:
    assert document_of(line()).allow is None
    assert document_of(line(allow=[])).allow == ()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (b"\xff", "not UTF-8"),
        (b'{"id":"a","id":"b","text":"x"}', "same member twice"),
        (b"[]", "expected a JSON object"),
        (line(alow=["sales"]), "a member that is not known"),
        (line(allow=None), "`allow`: expected a list"),
        (line(allow="sales"), "`allow`: expected a list"),
        (line(allow=[""]), "`allow`: a group is a text"),
        (line(allow=["x"] * 1_001), "at most 1000 groups"),
        (line(id=""), "`id`: expected 1 to 256"),
        (line(id=" a"), "`id`: expected 1 to 256"),
        (line(id="a\nb"), "`id`: expected 1 to 256"),
        (line(id=7), "`id`: expected a text"),
        (line(text=" \n\x00 "), "`text`: expected a text that is not blank"),
        (line(text=None), "`text`: expected a text"),
        (line(valid_from="soon"), "`valid_from`: expected an RFC 3339 time"),
        (line(valid_until="2026-13-01"), "`valid_until`: expected an RFC 3339 time"),
        (line(updated_at=5), "`updated_at`: expected an RFC 3339 time"),
        (line(text="x" * DOCUMENT_BYTES_MAX), "at most 4194304 are taken"),
    ],
)
def test_what_is_no_document_is_refused_with_what_was_expected(told: bytes, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        document_of(told)


def test_two_ways_of_writing_one_document_are_one_document() -> None:
    one = document_of(line(text="caf\u00e9\r\n\r\n\r\nau lait ", allow=["b", "a"], updated_at="2026-01-01T00:00:00Z"))
    other = document_of(line(text="cafe\u0301\n\nau lait", allow=["a", "b"], updated_at="2026-01-01T02:00:00+02:00"))
    assert one == other
    assert document_sha256(one) == document_sha256(other)


# -- cutting -----------------------------------------------------------------------------------------------------------


@given(text=texts, tokens=st.integers(20, 60), overlap=st.integers(0, 10))
def test_pieces_hold_every_word_in_order_and_none_is_too_long(text: str, tokens: int, overlap: int) -> None:
    document = document_of(json.dumps({"id": "a", "text": text}).encode())
    how = Cutting(tokens_max=tokens, overlap_tokens=overlap)
    pieces = cut(document.text, how)
    assert all(estimate_tokens(len(piece.encode())) <= tokens for piece in pieces)
    assert all(piece in document.text and piece for piece in pieces)
    at = 0
    for piece in pieces:
        found = document.text.find(piece, max(0, at - overlap * 4 - 2))
        assert not document.text[at:found].strip()
        at = max(at, found + len(piece))
    assert not document.text[at:].strip()


def test_a_piece_ends_with_a_paragraph_rather_than_inside_the_next_one() -> None:
    first, second = "One two three. " * 8, "Four five six. " * 8
    pieces = cut(f"{first.strip()}\n\n{second.strip()}", Cutting(tokens_max=40, overlap_tokens=0))
    assert [piece[:3] for piece in pieces] == ["One", "Fou"]


def test_the_next_piece_begins_with_the_last_sentences_of_the_one_before() -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(30))
    pieces = cut(text, Cutting(tokens_max=40, overlap_tokens=10))
    for before, after in pairwise(pieces):
        again = after.split(". ")[0]
        assert again in before
        assert before.split(". ")[-1].rstrip(".") == again.rstrip(".")


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "." * 10_000, "\u4e2d" * 3_000, "a \n" * 3_000, "b\n" + " " * 9_000 + "x", "!\u201d" * 3_000]
)
def test_a_text_without_sentences_is_cut_all_the_same(text: str) -> None:
    document = document_of(json.dumps({"id": "a", "text": text}).encode())
    pieces = cut(document.text, Cutting(tokens_max=50, overlap_tokens=5))
    assert all(0 < len(piece.encode()) <= 200 for piece in pieces)
    assert len("".join(pieces)) >= len(document.text.replace("\n", "").replace(" ", ""))


@pytest.mark.parametrize(("tokens", "overlap"), [(19, 0), (4_001, 0), (100, 51), (100, -1)])
def test_cutting_has_bounds(tokens: int, overlap: int) -> None:
    with pytest.raises(DocumentError):
        Cutting(tokens_max=tokens, overlap_tokens=overlap)


def test_a_piece_is_called_by_its_document_and_number_and_is_searched_with_the_title() -> None:
    pieces = pieces_of(Document(id="faq", text="One. Two.", title="Questions"), Cutting())
    assert [(piece.id, piece.text, piece.indexed) for piece in pieces] == [
        ("faq#1", "One. Two.", "Questions\nOne. Two.")
    ]


def test_words_have_no_case_and_scripts_without_spaces_have_pairs() -> None:
    assert words("Don\u2019t PAY-twice, \uff21\uff22\uff23 42") == ["don", "t", "pay", "twice", "abc", "42"]
    assert words("\u8fd4\u54c1\u653f\u7b56 x\u4e2dy") == [
        "\u8fd4\u54c1",
        "\u54c1\u653f",
        "\u653f\u7b56",
        "x",
        "\u4e2d",
        "y",
    ]


# -- snapshots ---------------------------------------------------------------------------------------------------------


@given(inside=documents(), seed=st.integers())
def test_the_same_documents_in_any_order_are_the_same_snapshot(inside: list[Document], seed: int) -> None:
    how = Cutting(tokens_max=20, overlap_tokens=5)
    shuffled = random.Random(seed).sample(inside, len(inside))
    assert named(inside, how) == named(shuffled, how)


def test_every_word_of_a_document_and_every_number_of_the_cutting_counts() -> None:
    one = document_of(line(text="A text. Another one.", title="T"))
    others = [
        document_of(line(text="A text. Another two.", title="T")),
        document_of(line(text="A text. Another one.", title="U")),
        document_of(line(text="A text. Another one.", title="T", allow=["a"])),
        document_of(line(text="A text. Another one.", title="T", valid_until="2027-01-01")),
    ]
    names = {named([each], Cutting()) for each in (one, *others)} | {named([one], Cutting(tokens_max=100))}
    assert len(names) == 6


@given(inside=documents())
def test_a_snapshot_is_read_back_as_it_was(inside: list[Document]) -> None:
    mark = EmbedderMark(name="toy", sha256="0" * 64)
    how = Cutting(tokens_max=20, overlap_tokens=0)
    ids = [piece.id for document in inside for piece in pieces_of(document, how)]
    vectors = {name: whole_numbers([1.0, float(at)]) for at, name in enumerate(ids)}
    for made in (
        snapshot_of(inside, cutting=how),
        snapshot_of(inside, cutting=how, embedder=mark, vectors=vectors),
    ):
        assert read_snapshot(snapshot_lines(made)) == made


@pytest.mark.parametrize(
    "lines", [[], [b"{}"], [b"not json"], [b'{"snapshot":2}'], [b'{"snapshot":1}'], [b'{"snapshot":1,"embedder":7}']]
)
def test_what_is_no_snapshot_is_called_so(lines: list[bytes]) -> None:
    with pytest.raises(SnapshotError, match="is no snapshot"):
        read_snapshot(lines)


def test_a_snapshot_whose_line_is_damaged_is_called_so() -> None:
    head, first = snapshot_lines(snapshot_of([document_of(line())], cutting=Cutting()))
    with pytest.raises(SnapshotError, match="is no snapshot"):
        read_snapshot([head, first.replace(b"pieces", b"places")])


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=50))
def test_a_vector_keeps_its_direction_as_whole_numbers_of_one_length(vector: list[float]) -> None:
    found = whole_numbers(vector)
    length = sum(each * each for each in found) ** 0.5
    assert not any(vector) or abs(length - VECTOR_SCALE) <= len(vector) ** 0.5
    assert all(each == 0 or (each > 0) == (given > 0) for each, given in zip(found, vector, strict=True))


@pytest.mark.parametrize("vector", [[], [float("nan")], [float("inf"), 1.0], [1.0] * 8_193])
def test_what_is_no_vector_is_refused(vector: list[float]) -> None:
    with pytest.raises(DocumentError):
        whole_numbers(vector)
