"""Citations: what counts as standing in the input, where it stands, and which path names what does not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import CitationSpec
from batchmill.streams.cel_functions import folded
from batchmill.streams.citing import PASSAGES_MAX, Passage, Texts, compile_citation, found_in, uncited, written
from batchmill.streams.citing import _folded_with_places as placed

TEXT = {"text": "The Quick\n  brown fox\tjumps."}
DOCUMENTS = {"docs": [{"id": "a", "text": "red fox"}, {"id": "b", "text": "blue Whale"}, {"text": "no id"}]}


def lacking(given_input: Any, output: Any, **spec: Any) -> list[str]:
    citation = compile_citation(CitationSpec(**{"id": "quotes", "within": "text", "field": "quotes"} | spec))
    return [written(steps) for steps, _ in uncited(citation, Texts(given_input), output)]


def places(given_input: Any, output: Any, **spec: Any) -> list[Passage]:
    citation = compile_citation(CitationSpec(**{"id": "quotes", "within": "text", "field": "quotes"} | spec))
    return list(found_in(citation, Texts(given_input), output))


@pytest.mark.parametrize(
    ("quotes", "match", "missing"),
    [
        ("quick brown", "folded", []),
        ("quick brown", "exact", ["$.quotes"]),
        ("brown fox", "exact", []),
        (["QUICK  BROWN", "cat"], "folded", ["$.quotes[1]"]),
        ({"who": "fox", "what": "jumped", "when": None}, "folded", ["$.quotes.what"]),
        ({"who": ["fox", "dog"]}, "folded", ["$.quotes.who[1]"]),
        (["", "  "], "folded", ["$.quotes[0]", "$.quotes[1]"]),
        ([5, {"a": "fox"}], "folded", ["$.quotes[0]", "$.quotes[1]"]),
        (None, "folded", []),
        ([], "folded", []),
    ],
)
def test_each_passage_that_the_text_lacks_is_told_by_its_place(quotes: Any, match: str, missing: list[str]) -> None:
    assert lacking(TEXT, {"quotes": quotes}, match=match) == missing


def test_an_absent_member_quotes_nothing_and_an_absent_text_holds_nothing() -> None:
    assert lacking(TEXT, {}) == []
    assert lacking({}, {"quotes": "fox"}) == ["$.quotes"]
    assert lacking({"text": 5}, {"quotes": "fox"}) == ["$.quotes"]


def test_a_passage_must_stand_in_the_document_it_names() -> None:
    of_one = {"within": "docs", "quote": "text", "source": "doc"}

    def told(*quotes: Any) -> list[str]:
        return lacking(DOCUMENTS, {"quotes": list(quotes)}, **of_one)

    assert told({"doc": "a", "text": "Fox"}, {"doc": "b", "text": "blue whale"}) == []
    assert told({"doc": "b", "text": "fox"}) == ["$.quotes[0].text"]
    assert told({"doc": "z", "text": "fox"}, {"text": "fox"}, {"doc": "a"}, "fox") == [
        "$.quotes[0].text", "$.quotes[1].text", "$.quotes[2].text", "$.quotes[3].text"
    ]  # fmt: skip
    assert lacking(DOCUMENTS, {"quotes": [{"text": "fox"}]}, within="docs", quote="text") == []


def test_an_id_that_is_a_number_is_not_the_text_of_its_digits() -> None:
    documents = {"docs": [{"id": 1, "text": "fox"}, {"id": "1", "text": "whale"}]}
    of_one = {"within": "docs", "quote": "text", "source": "doc"}
    assert lacking(documents, {"quotes": [{"doc": 1, "text": "fox"}, {"doc": "1", "text": "whale"}]}, **of_one) == []
    assert lacking(documents, {"quotes": [{"doc": True, "text": "fox"}]}, **of_one) == ["$.quotes[0].text"]


def test_where_a_passage_stands_is_told_in_characters_of_the_input() -> None:
    (place,) = places(TEXT, {"quotes": ["quick brown"]})
    assert (place.path, place.cited_by) == ("$.text", "$.quotes[0]")
    assert TEXT["text"][place.start : place.end] == "Quick\n  brown"
    (place,) = places(DOCUMENTS, {"quotes": "WHALE"}, within="docs")
    assert (place.path, DOCUMENTS["docs"][1]["text"][place.start : place.end]) == ("$.docs[1].text", "Whale")
    (place,) = places({"text": "Große Straße"}, {"quotes": "STRASSE"})
    assert (place.start, place.end) == (6, 12)
    assert places(TEXT, {"quotes": ["cat", None, 5]}) == []


def test_more_passages_than_are_looked_up_are_no_answer() -> None:
    assert lacking(TEXT, {"quotes": ["fox"] * PASSAGES_MAX}) == []
    assert lacking(TEXT, {"quotes": ["fox"] * (PASSAGES_MAX + 1)}) == ["$"]


def test_as_many_passages_are_placed_as_are_looked_up() -> None:
    """A page must not search on where the judge had given up."""
    given = {"text": "ab " * 1_000_000}
    quotes = {"quotes": [f"b a{at}" for at in range(PASSAGES_MAX - 1)] + ["ab"]}
    assert lacking(given, quotes)[-1] == "$"
    assert places(given, quotes) == []


@given(st.text(max_size=60))
def test_folding_with_places_is_folding(text: str) -> None:
    told, at = placed(text)
    assert told == folded(text)
    assert len(at) == len(told)
    assert list(at) == sorted(at)


@given(st.text(min_size=1, max_size=60), st.data())
def test_whatever_is_cut_from_a_text_is_found_in_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    part = text[start:end]
    if not part.strip():
        return
    assert lacking({"text": text}, {"quotes": part}, match="exact") == []
    assert lacking({"text": text}, {"quotes": part}) == []
    (place,) = places({"text": text}, {"quotes": part})
    assert folded(part) in folded(text[place.start : place.end])
