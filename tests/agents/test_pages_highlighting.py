"""Sources are shown whole and in order, whatever is marked in them; marks never overlap, nor invent a character."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.desk.model import Passage
from batchmill.agents.web.pages.highlighting import HEAD_CHARS, Text, found_in, highlighted

_paths = st.sampled_from(["$.a", "a", "$", "$.list[0]", "$['x y']", "$.nowhere", "not a path", ""])
_passages = st.lists(
    st.builds(Passage, path=_paths, start=st.integers(-9, 60), end=st.integers(-9, 60), cited_by=st.sampled_from("pq")),
    max_size=8,
)
_values = st.text(max_size=50) | st.fixed_dictionaries(
    {"a": st.text(max_size=50), "x y": st.text(max_size=50), "list": st.lists(st.text(max_size=30) | st.integers())}
)


def text_of(part: Text) -> str:
    return "".join(segment.text for segment in part.segments)


def marks(part: Text) -> list[str]:
    return [segment.text for segment in part.segments if segment.cited_by]


def passage(start: int, end: int, path: str = "$.a", cited_by: str = "$.p") -> Passage:
    return Passage(path=path, start=start, end=end, cited_by=cited_by)


@given(_values, _passages)
def test_marks_add_and_lose_no_character(value: Any, passages: list[Passage]) -> None:
    parts = highlighted(value, passages)
    texts = [text_of(part) for part in parts if part.plain]
    if isinstance(value, str):
        assert texts == [value]
    else:
        leaves = [leaf for part in value.values() for leaf in (part if isinstance(part, list) else [part])]
        assert texts == [leaf for leaf in leaves if isinstance(leaf, str)]
    assert all(segment.text for part in parts for segment in part.segments)


@given(st.text(min_size=1, max_size=40), _passages)
def test_a_character_is_marked_exactly_when_a_passage_holds_it(text: str, passages: list[Passage]) -> None:
    (part,) = highlighted({"a": text}, passages)
    marked = [bool(segment.cited_by) for segment in part.segments for _ in segment.text]
    here = [one for one in passages if one.path in {"$.a", "a"}]
    assert marked == [any(one.start <= at < one.end for one in here) for at in range(len(text))]


def test_overlapping_passages_are_one_mark_that_names_both() -> None:
    (part,) = highlighted({"a": "the red house"}, [passage(4, 9, cited_by="$.x"), passage(8, 13, cited_by="$.y")])
    assert [(segment.text, segment.cited_by) for segment in part.segments] == [
        ("the ", ()),
        ("red house", ("$.x", "$.y")),
    ]


def test_a_long_text_is_cut_but_never_at_its_marks() -> None:
    text = "a" * 20_000 + "here" + "b" * 20_000
    cut, whole = (highlighted({"a": text}, [passage(20_000, 20_004)], whole=whole)[0] for whole in (False, True))
    assert marks(cut) == ["here"]
    assert (cut.is_cut, whole.is_cut) == (True, False)
    assert sum(segment.gap or len(segment.text) for segment in cut.segments) == len(text)
    assert len(text_of(cut)) < HEAD_CHARS + 1_000
    assert text_of(whole) == text


def test_without_citations_the_texts_of_the_answer_are_found_in_the_source() -> None:
    source = {"body": "Ship 12 boxes to Main Street, not 120.", "n": 12}
    found = found_in(source, {"street": "main street", "count": 12, "ok": True, "none": None, "list": []})
    (body, _) = highlighted(source, found)
    assert marks(body) == ["12", "Main Street"]


def test_members_with_odd_names_are_marked_under_either_way_to_write_them() -> None:
    source = {"x y": "one two"}
    for path in ("$['x y']", "$.x y"):
        (part,) = highlighted(source, [passage(4, 7, path)])
        assert marks(part) == ["two"]


def test_a_lone_letter_marks_nothing() -> None:
    assert found_in("a banana", {"grade": "a"}) == ()


@given(st.text(max_size=60), st.lists(st.text(max_size=4), max_size=4))
def test_what_was_found_is_there(source: str, texts: list[str]) -> None:
    sought = {text.strip().lower() for text in texts}
    for found in found_in({"a": source}, texts):
        assert source[found.start : found.end].lower() in sought


CONTEXT = [
    {"id": "refunds#1", "document": "refunds", "text": "Money comes back within 14 days."},
    {"id": "parcels#2", "document": "parcels", "text": "A parcel takes two days."},
]


def test_a_document_of_the_context_is_one_text_under_its_id_with_what_cites_it_marked() -> None:
    cited = passage(17, 31, path="$.context[0].text", cited_by="$.quotes[0].text")
    parts = highlighted({"question": "When?", "context": CONTEXT}, [cited])
    assert [(part.title, part.path, text_of(part)) for part in parts] == [
        (None, "$.question", "When?"),
        ("refunds#1", "$.context[0].text", CONTEXT[0]["text"]),
        ("parcels#2", "$.context[1].text", CONTEXT[1]["text"]),
    ]
    assert [marks(part) for part in parts] == [[], ["within 14 days"], []]


def test_a_list_of_other_objects_is_shown_member_by_member() -> None:
    parts = highlighted({"lines": [{"id": "a", "text": "b"}, {"id": 1, "document": "c", "text": "d"}]}, [])
    assert [part.path for part in parts] == [
        "$.lines[0].id",
        "$.lines[0].text",
        "$.lines[1].id",
        "$.lines[1].document",
        "$.lines[1].text",
    ]
    assert not any(part.title for part in parts)
