"""Repairs: what each makes of an answer, what none of them may do, and that no text is too much for them."""

import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.jobs import Repair
from batchmill.streams.repairing import LIBRARY_BYTES_MAX, repaired

ALL = (Repair.CODE_FENCE, Repair.TRAILING_TEXT, Repair.JSON_REPAIR)
FENCE, AROUND, LIBRARY = ALL
BYTES_MAX = 4 * 2**20

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), values, min_size=1, max_size=4)


def made(text: str, *repairs: Repair) -> Any:
    found = repaired(text, repairs or ALL, bytes_max=BYTES_MAX)
    return None if found is None else found[0]


@pytest.mark.parametrize(
    ("text", "repair", "value"),
    [
        ('```json\n{"a": 1}\n```', FENCE, {"a": 1}),
        ('Here you are:\n```\n{"a": 1}\n```\nAnything else?', FENCE, {"a": 1}),
        ('```{"a": 1}```', FENCE, {"a": 1}),
        ('```json\n{"a": "x ``` y"}\n```', FENCE, {"a": "x ``` y"}),
        ('{"a": 1} I hope this helps!', AROUND, {"a": 1}),
        ('As asked [see above]: {"a": "}"} - done', AROUND, {"a": "}"}),
        ('Result: [{"a": 1}, {"a": 2}].', AROUND, [{"a": 1}, {"a": 2}]),
        ("{'a': 'x', 'b': None, 'c': True}", LIBRARY, {"a": "x", "b": None, "c": True}),
        ('{"a": 1, "b": [1, 2,],}', LIBRARY, {"a": 1, "b": [1, 2]}),
        ('{"a": "x" "b": 1.10}', LIBRARY, {"a": "x", "b": 1.1}),
        ('{a: "x"}', LIBRARY, {"a": "x"}),
        ('{"a": [1, 2}', LIBRARY, {"a": [1, 2]}),
        ('{"a": "two\nlines"}', LIBRARY, {"a": "two\nlines"}),
    ],
)
def test_a_repair_finds_the_answer_it_is_named_for_and_is_told(text: str, repair: Repair, value: Any) -> None:
    assert repaired(text, (repair,), bytes_max=BYTES_MAX) == (value, (repair,))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot answer that.",
        "hello {world}",
        "[see the note]",
        "{this is prose}",
        '"just a text" and more',
        '{"a": 1} {"a": 2}',
        '```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```',
        '{"a": 1, "a": 2}',
        '{"a": "b", "c"}',
        "{'a': 'x', and some prose here}",
        '{"a": 1e999}',
        '{"a": "\\ud800"}',
        '{"a": "fi',
        '{"a": 1, "b": [1, 2',
        '{"a": }',
        '{"a": "\ud800",}',
        "```",
        "``` ```",
        '```json\n{"a": 1}\n```\n{"a": 2}',
        '{"why": {"label": "spam"}, "label": "ham"',
        '{"why": {"label": "spam"}, "label": ham',
        "Options [1] [2",
        "{x} " * 16 + '{"a": 1} {"a": 2}',
        '{"a": 1,} ' + "{x} " * 16 + '{"a": 2}',
    ],
)
def test_what_could_be_read_in_two_ways_or_is_no_answer_stays_none(text: str) -> None:
    assert made(text) is None


def test_a_fence_inside_of_a_value_is_part_of_it() -> None:
    text = 'Here it is: {"code": "```5```"}'
    assert made(text, FENCE) is None
    assert made(text) == {"code": "```5```"}


@pytest.mark.parametrize("value", ["<5", "!true", "~5", "5%", "$5", "+5", "5\u20ac", "\u22645", "\u00b15"])
def test_a_sign_that_changes_what_a_word_means_is_not_mended_away(value: str) -> None:
    assert made(f'{{"a": {value}}}', LIBRARY) is None
    assert made(f'{{"a": "{value}",}}', LIBRARY) == {"a": value}


def test_repairs_are_tried_in_the_order_declared_each_on_what_the_one_before_left() -> None:
    text = "Sure:\n```json\n{'a': 1,}\n```"
    assert repaired(text, (FENCE, LIBRARY), bytes_max=BYTES_MAX) == ({"a": 1}, (FENCE, LIBRARY))
    assert repaired(text, (FENCE, AROUND), bytes_max=BYTES_MAX) is None
    assert repaired('Sure: {"a": 1}', (FENCE, AROUND), bytes_max=BYTES_MAX) == ({"a": 1}, (AROUND,))
    assert repaired('Sure: {"a": 1}', (), bytes_max=BYTES_MAX) is None


def test_the_library_is_given_short_texts_only() -> None:
    assert made("{'a': '" + "x" * LIBRARY_BYTES_MAX + "'}", LIBRARY) is None
    assert made("{'a': [" + "'x'," * 5_000 + "]}", LIBRARY) is None
    assert made("{'a': [" + "'x'," * 500 + "]}", LIBRARY) == {"a": ["x"] * 500}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 2_000_000,
        "{" * 60_000 + "}" * 60_000,
        '{"' + '\\"' * 1_000_000,
        '{"a": "' + "\\" * 60_000 + '"}',
        "```" * 1_000_000,
        "[" + '"x' * 30_000 + "]",
        "{" + "'," * 30_000 + "}",
        "x{" * 1_000_000,
    ],
)
def test_hostile_texts_are_refused_in_bounded_time(text: str) -> None:
    began = time.process_time()
    made(text)
    assert time.process_time() - began < 20


@given(objects, st.sampled_from(["```json\n%s\n```", "Here: %s", "%s\nThat is all.", "```\n%s\n```\nbye"]))
@settings(max_examples=100, deadline=None)
def test_what_stood_inside_is_what_comes_out(value: Any, around: str) -> None:
    assert made(around % json.dumps(value)) == value


@given(st.text(max_size=200), st.lists(st.sampled_from(ALL), max_size=3, unique=True))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_a_repair_raise_and_none_becomes_an_empty_answer(text: str, repairs: list[Repair]) -> None:
    found = repaired(text, tuple(repairs), bytes_max=BYTES_MAX)
    if found is not None:
        assert found[0] not in ("", None)
        assert set(found[1]) <= set(repairs)
        assert found[1]
        if found[0] in ({}, []):
            assert {"{}", "[]"} & {text.replace(blank, "") for blank in " "} or any(mark in text for mark in "{[")


@given(objects)
@settings(max_examples=100, deadline=None)
def test_the_library_never_changes_a_word_or_a_number(value: Any) -> None:
    spoilt = json.dumps(value, ensure_ascii=False)[:-1] + ",}"
    found = made(spoilt, LIBRARY)
    assert found is None or words(found) == words(value)


def words(value: Any) -> list[str]:
    """All that is spelt in names and values, in its order."""
    if isinstance(value, dict):
        return [word for pair in value.items() for part in pair for word in words(part)]
    if isinstance(value, list):
        return [word for item in value for word in words(item)]
    return re.findall(r"[^\W_]+", str(value).casefold())
