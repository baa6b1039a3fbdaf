"""What a record is shown of an index: never what it may not see, never more than its tokens, the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from batchmill.schemas.asking import RetrievalSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams.costing import estimate_tokens
from batchmill.streams.indexing import Document, Piece
from batchmill.streams.retrieving import (
    QUERY_CHARS_MAX,
    IndexAwaitedError,
    Inquiry,
    NoIndexes,
    RetrievalError,
    attach,
    compile_retrieval,
    found_for,
    fused,
    visible,
)
from batchmill.streams.unusable import Unusable

SHA = "a" * 64
AT_MS = 1_000


def spec(**told: Any) -> RetrievalSpec:
    return RetrievalSpec(**({"index": "faq", "sha256": SHA, "query": "$.question"} | told))


def piece(name: str, text: str = "Some text.", **told: Any) -> Piece:
    return Piece(id=f"{name}#1", document=Document(id=name, text="", **told), text=text)


@dataclass
class Shelf:
    """A retriever that ranks its pieces as they stand, of those that may be seen."""

    pieces: Sequence[Piece]
    asked: list[Inquiry] = field(default_factory=list)

    def of(self, sha256: str) -> "Shelf | None":
        return self if sha256 == SHA else None

    def fault(self, sha256: str) -> str:
        return f"{sha256} is not there"

    def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
        self.asked.append(inquiry)
        return [one for one in self.pieces if visible(one.document, inquiry.groups, inquiry.at_ms)][:limit]


def context(shelf: Shelf, payload: dict[str, Any], **told: Any) -> list[dict[str, str]]:
    attach(compile_retrieval(spec(**told), shelf), payload, at_ms=AT_MS)
    found: list[dict[str, str]] = payload[told.get("into", "context")]
    return found


def test_the_context_is_a_list_of_documents_as_citations_want_them() -> None:
    given_ = {"question": "how?"}
    assert context(Shelf([piece("a"), piece("b")]), given_) == [
        {"id": "a#1", "document": "a", "text": "Some text."},
        {"id": "b#1", "document": "b", "text": "Some text."},
    ]


@pytest.mark.parametrize(
    ("allow", "groups", "seen"),
    [
        (None, [], True),
        (None, ["sales"], True),
        ((), ["sales"], False),
        (("sales",), [], False),
        (("sales",), ["legal"], False),
        (("sales", "legal"), ["legal"], True),
        (("",), [""], True),
    ],
)
def test_a_document_is_seen_by_its_groups_or_by_everybody(
    allow: tuple[str, ...] | None, groups: list[str], seen: bool
) -> None:
    assert visible(Document(id="a", text="", allow=allow), frozenset(groups), AT_MS) is seen


@pytest.mark.parametrize(
    ("begins", "ends", "seen"),
    [(None, None, True), (1_000, 1_001, True), (1_001, None, False), (None, 1_000, False), (0, 999, False)],
)
def test_a_document_is_seen_while_it_is_valid(begins: int | None, ends: int | None, seen: bool) -> None:
    assert visible(Document(id="a", text="", valid_from_ms=begins, valid_until_ms=ends), frozenset(), AT_MS) is seen


@pytest.mark.parametrize(
    ("member", "groups"),
    [("sales", {"sales"}), (["sales", 7, None, "legal"], {"sales", "legal"}), (None, set()), ("", set()), ({}, set())],
)
def test_a_record_has_the_groups_that_are_texts_and_no_others(member: Any, groups: set[str]) -> None:
    shelf = Shelf([])
    context(shelf, {"question": "how?", "team": member}, allow="$.team")
    assert shelf.asked == [Inquiry(query="how?", groups=frozenset(groups), at_ms=AT_MS)]


def test_a_job_that_names_no_groups_sees_what_is_for_everybody() -> None:
    shelf = Shelf([piece("secret", allow=("sales",)), piece("open")])
    assert [each["document"] for each in context(shelf, {"question": "how?", "allow": "sales"})] == ["open"]


def test_an_index_that_gives_what_may_not_be_seen_is_a_bug_that_stops_the_worker() -> None:
    class Leaky(Shelf):
        @override
        def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
            return self.pieces[:limit]

    with pytest.raises(AssertionError, match="may not be shown"):
        context(Leaky([piece("secret", allow=("sales",))]), {"question": "how?"})


@given(
    sizes=st.lists(st.integers(1, 300), max_size=30),
    top=st.integers(1, 10),
    tokens=st.integers(1, 200),
)
def test_neither_the_tokens_nor_the_number_is_ever_exceeded_and_the_order_is_that_of_the_ranking(
    sizes: list[int], top: int, tokens: int
) -> None:
    shelf = Shelf([piece(f"d{n:02}", "x" * size) for n, size in enumerate(sizes)])
    inquiry = Inquiry(query="how?", groups=frozenset(), at_ms=AT_MS)
    found = found_for(spec(top=top, tokens_max=tokens), shelf, inquiry)
    assert sum(estimate_tokens(len(each.text)) for each in found) <= tokens
    assert len(found) <= top
    assert [each.id for each in found] == sorted(each.id for each in found)
    fits = [size for size in sizes[: top * 4] if estimate_tokens(size) <= tokens]
    assert bool(found) == bool(fits)


def test_a_record_that_brings_its_own_context_is_refused() -> None:
    with pytest.raises(Unusable, match=r"\$\.context: expected not to be there") as caught:
        context(Shelf([piece("a")]), {"question": "how?", "context": []})
    assert caught.value.reason is Reason.INVALID_INPUT


@pytest.mark.parametrize("query", [None, "", "  ", 7, [], {"a": "b"}])
def test_who_asks_nothing_is_shown_nothing_and_the_index_is_not_asked(query: Any) -> None:
    shelf = Shelf([piece("a")])
    assert context(shelf, {"question": query}) == []
    assert shelf.asked == []


def test_a_query_may_be_several_texts_and_is_bounded() -> None:
    shelf = Shelf([])
    context(shelf, {"question": ["one", 2, "two"]})
    context(shelf, {"question": "x" * (QUERY_CHARS_MAX + 1)})
    assert [inquiry.query for inquiry in shelf.asked] == ["one\ntwo", "x" * QUERY_CHARS_MAX]


def test_nothing_found_is_asked_without_or_put_down_as_the_job_says() -> None:
    assert context(Shelf([]), {"question": "how?"}, on_empty="ask") == []
    with pytest.raises(Unusable) as caught:
        context(Shelf([]), {"question": "how?"}, on_empty="dead")
    assert caught.value.reason is Reason.NO_CONTEXT


def test_an_index_that_cannot_answer_puts_the_record_down_with_why() -> None:
    class Broken(Shelf):
        @override
        def ranked(self, inquiry: Inquiry, *, limit: int) -> Sequence[Piece]:
            raise RetrievalError("the embedder 'toy' failed: ValueError")

    with pytest.raises(Unusable, match="index faq: the embedder 'toy' failed") as caught:
        context(Broken([]), {"question": "how?"})
    assert caught.value.reason is Reason.INDEX_GONE


def test_while_the_index_is_not_loaded_nothing_is_said_of_the_record() -> None:
    payload = {"question": "how?"}
    with pytest.raises(IndexAwaitedError):
        attach(compile_retrieval(spec(), NoIndexes()), payload, at_ms=AT_MS)
    assert payload == {"question": "how?"}
    assert NoIndexes().fault(SHA) == "no index is loaded here"


def test_fusion_prefers_what_several_rankings_have_and_is_stable() -> None:
    assert fused([[3, 1, 2], [2, 3]], constant=60) == [3, 2, 1]
    assert fused([[5], [4]], constant=60) == [4, 5]
    assert fused([], constant=60) == []
