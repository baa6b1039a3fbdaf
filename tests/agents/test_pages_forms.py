"""Any answer becomes a form and comes back as the same answer; whatever is posted gives a form, never an error."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.web.pages.asked import Control
from batchmill.agents.web.pages.fields import Field, Note, noted, read, sent
from batchmill.agents.web.pages.forms import ITEMS_MAX, changed, posted, shown

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\n", "\r\n", "a\r", "\u202egnp", "<script>", "null", "0", "=1", "\x00", "\ufeff", " "]
)
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4), max_leaves=12
)


def _wrapped(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["object", ["object", "null"]]),
                "properties": st.dictionaries(_texts, inner, max_size=4),
            },
            optional={"required": st.lists(_texts, max_size=3), "additionalProperties": st.booleans() | inner},
        )
        | st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner}, optional={"prefixItems": st.lists(inner, max_size=2)}
        )
        | st.builds(lambda part, word: {word: [part, {"type": "null"}]}, inner, st.sampled_from(["anyOf", "oneOf"]))
        | st.builds(lambda part: {"allOf": [part]}, inner)
    )


_TYPES = ("string", "number", "integer", "boolean", "null")
_ODD = (True, False, {}, {"$ref": "#"}, {"$ref": "#/nowhere"}, {"$ref": "https://a.example/"}, {"not": {}})
_WORDS = ("type", "enum", "properties", "required", "items", "prefixItems", "$ref", "anyOf", "allOf", "title")
_leaves = (
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["string", "number", "integer", "boolean", "null", ["string", "null"], ["string", "number"]]
            )
        },
        optional={"maxLength": st.integers(0, 200), "minimum": st.integers(), "title": _texts, "format": _texts},
    )
    | st.builds(lambda choices: {"enum": choices}, st.lists(_scalars, max_size=11))
    | st.builds(lambda value: {"const": value}, _values)
    | st.sampled_from(
        [True, False, {}, {"$ref": "#"}, {"$ref": "#/nowhere"}, {"$ref": "https://a.example/"}, {"not": {}}]
    )
)
_schemas = st.recursive(_leaves, _wrapped, max_leaves=8) | st.none()
#: schemas that are none at all
_rubbish = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "enum", "properties", "required", "items", "prefixItems", "$ref", "anyOf", "allOf", "title"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


def browser(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What a browser makes of texts: every line end becomes CR LF, and it can send no half characters."""
    return [(name, "\r\n".join(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))) for name, text in pairs]


def same(one: Any, other: Any) -> bool:
    """Equal to the last type: 1, 1.0 and true are three things."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@given(_schemas | _rubbish, _values)
def test_an_untouched_form_is_the_value_it_shows(schema: Any, value: Any) -> None:
    form = shown(schema, value)
    assert same(read(form).value, value)
    again = read(posted(schema, browser(sent(form))))
    assert again.problems == ()
    assert same(again.value, value)


_names = st.builds(
    lambda letter, steps: f"{letter}.r" + "".join(f".{step}" for step in steps),
    st.sampled_from("tdojmxae"),
    st.lists(st.integers(0, 3), max_size=3),
)
_orders = st.builds(
    lambda verb, steps: f"{verb} r" + "".join(f".{step}" for step in steps),
    st.sampled_from(["add", "drop", "put", "cut", "null", "json", "form", "away"]),
    st.lists(st.integers(0, 3), max_size=3),
)
_pairs = st.lists(
    st.tuples(_names | st.text(max_size=8), st.text(max_size=8) | st.sampled_from(["0", "object", "null"]))
)


@given(_schemas | _rubbish, _pairs, _orders | st.text(max_size=8))
def test_whatever_is_posted_gives_a_form(schema: Any, pairs: list[tuple[str, str]], order: str) -> None:
    for form in (posted(schema, pairs), changed(schema, pairs, order)):
        reading = read(form)
        assert reading.problems == () or reading.value is None
        if not _anything_lost(form):
            assert same(read(posted(schema, sent(form))).value, reading.value)


def _anything_lost(form: Field) -> bool:
    return form.lost or any(map(_anything_lost, form.members))


SCHEMA = {
    "type": "object",
    "required": ["label", "lines"],
    "properties": {
        "label": {"enum": ["refund", "order"], "description": "What they want."},
        "amount": {"type": ["number", "null"], "minimum": 0, "maximum": 10},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "note": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
    },
    "$defs": {
        "line": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
        "address": {"type": "object", "properties": {"city": {"type": "string"}, "in": {"$ref": "#/$defs/address"}}},
    },
}
VALUE = {"label": "order", "amount": 2.5, "lines": [{"text": "one"}, {"text": "two"}], "note": "hm"}


def member(form: Field, key: str) -> Field:
    return next(part for part in form.members if part.key == key)


def press(form: Field, order: str) -> Field:
    return changed(SCHEMA, browser(sent(form)), order)


def test_each_member_has_the_control_that_fits() -> None:
    form = shown(SCHEMA, VALUE)
    assert [part.control for part in form.members] == ["choice", "number", "list", "text", "object"]
    assert member(form, "label").hint == "What they want"
    assert member(form, "amount").hint == "from 0 to 10"
    assert member(form, "amount").empties == (("null", "no value (null)"), ("absent", "left out"))
    assert member(form, "address").nothing == "absent"


def test_items_are_added_and_removed_without_a_script() -> None:
    form = press(shown(SCHEMA, VALUE), "add r.2")
    assert [item.fresh for item in member(form, "lines").members] == [False, False, True]
    form = press(form, "drop r.2.0")
    assert read(form).value["lines"] == [{"text": "two"}, {}]
    assert [item.where for item in member(form, "lines").members] == ["$.lines[0]", "$.lines[1]"]


def test_an_object_is_filled_in_and_left_out_again() -> None:
    form = press(shown(SCHEMA, VALUE), "put r.4")
    assert read(form).value["address"] == {}
    form = press(press(form, "put r.4.1"), "cut r.4.1")
    assert read(form).value["address"] == {}
    assert "address" not in read(press(form, "cut r.4")).value


def test_the_whole_answer_can_be_written_as_json_and_back() -> None:
    text = press(shown(SCHEMA, VALUE), "json r")
    assert text.control == Control.JSON
    assert read(text).value == VALUE
    assert press(text, "form r").control == Control.OBJECT


def test_an_answer_that_does_not_fit_is_json_until_somebody_begins_a_form() -> None:
    form = shown(SCHEMA, "no idea")
    assert (form.control, form.orders) == (Control.JSON, ("form",))
    assert [part.key for part in press(form, "form r").members] == list(SCHEMA["properties"])


def test_a_cleared_text_is_what_the_schema_allows() -> None:
    pairs = [(name, "" if name in {"t.r.3", "d.r.1"} else text) for name, text in sent(shown(SCHEMA, VALUE))]
    assert read(posted(SCHEMA, pairs)).value == {"label": "order", "amount": None, "lines": VALUE["lines"]}


@pytest.mark.parametrize("text", ["1,5", "NaN", "1e999", "true", '"1"', "0x1", "9" * 5_000, "\ud800"])
def test_what_is_no_number_is_said_at_its_field(text: str) -> None:
    pairs = [(name, text if name == "d.r.1" else old) for name, old in sent(shown(SCHEMA, VALUE))]
    form = posted(SCHEMA, pairs)
    marked, about_all = noted(form, read(form).problems)
    assert member(marked, "amount").text == text
    assert [note.where for note in member(marked, "amount").notes] == ["$.amount"]
    assert about_all == ()


def test_a_form_that_was_cut_short_is_no_correction() -> None:
    pairs = sent(shown(SCHEMA, VALUE))
    for lost in range(1, len(pairs)):
        reading = read(posted(SCHEMA, pairs[:lost]))
        assert reading.problems or set(reading.value) >= set(VALUE)


def test_notes_stand_at_the_innermost_field_that_holds_their_place() -> None:
    notes = [Note(where="$.lines[1].text", text="a"), Note(where="$.lines[9]", text="b"), Note(where="$.*", text="c")]
    form, about_all = noted(shown(SCHEMA, VALUE), notes)
    lines = member(form, "lines")
    assert [note.text for note in lines.members[1].members[0].notes] == ["a"]
    assert [note.text for note in lines.notes] == ["b"]
    assert [note.text for note in about_all] == ["c"]


def test_long_lists_and_large_answers_are_json_text() -> None:
    listing = {"type": "array", "items": {"type": "integer"}}
    assert shown(listing, list(range(ITEMS_MAX))).control == Control.LIST
    assert shown(listing, list(range(ITEMS_MAX + 1))).control == Control.JSON
    nested = {"type": "array", "items": listing}
    assert shown(nested, [list(range(50))] * 50).control == Control.JSON


def test_marks_of_a_thousand_items_are_refused_not_cut() -> None:
    listing = {"type": "array", "items": {"type": "integer"}}
    assert read(posted(listing, [("a.r", str(number)) for number in range(1_000)])).problems


def test_unseen_characters_are_written_out() -> None:
    form = shown({"type": "string"}, "abc\u202edef\U000e0041")
    assert form.text == '"abc\\u202edef\\udb40\\udc41"'
    assert read(form).value == "abc\u202edef\U000e0041"


def test_names_that_are_posted_hold_nothing_of_a_schema() -> None:
    schema = {"type": "object", "properties": {'"><script>': {"type": "string"}, "a\r\nb": {"type": "number"}}}
    assert [name for name, _ in sent(shown(schema, {}))] == ["m.r", "t.r.0", "e.r.0", "d.r.1", "e.r.1"]
