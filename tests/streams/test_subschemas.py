"""Parts of a schema are found as written, through references and combinations, and a circle ends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.subschemas import in_order, item_of, member_of, members_of, required_of, target_of, walk

ROOT: dict[str, Any] = {
    "allOf": [{"$ref": "#/$defs/base"}],
    "anyOf": [{"properties": {"c": {"type": "string"}}, "required": ["c"]}, {"$ref": "#"}],
    "properties": {"a": {"$ref": "#/$defs/x~1y"}},
    "required": ["a"],
    "$defs": {
        "base": {"properties": {"b": {}}, "required": ["b"]},
        "x/y": {"type": "array", "items": {"$ref": "#"}},
        "loop": {"$ref": "#/$defs/loop"},
    },
}


def test_members_come_from_all_that_a_part_is_combined_of() -> None:
    assert list(members_of(ROOT, ROOT)) == ["a", "b", "c"]
    assert required_of(ROOT, ROOT) == {"a", "b"}  # what one of several requires need not be there


def test_references_lead_into_the_document_and_nowhere_else() -> None:
    assert target_of(ROOT["properties"]["a"], ROOT)["type"] == "array"
    assert item_of(ROOT["properties"]["a"], ROOT) == {"$ref": "#"}
    for reference in ("#/$defs/loop", "#/nowhere", "https://example.org/x"):
        assert target_of({"$ref": reference}, ROOT) == {}


def test_names_that_are_free_are_declared_by_their_schema() -> None:
    free = {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}}
    assert member_of(free, "a", free) == {"type": "string"}
    assert member_of(free, "b", free) == {"type": "integer"}
    assert member_of({"additionalProperties": True}, "b", {}) is None


def test_every_part_is_walked_once_with_its_path() -> None:
    assert [path for path, _ in walk(ROOT)] == [
        "$", "$.allOf[0]", "$.anyOf[0]", "$.anyOf[0].properties.c", "$.anyOf[1]", "$.properties.a",
        "$.$defs.base", "$.$defs.base.properties.b", "$.$defs.x/y", "$.$defs.x/y.items", "$.$defs.loop",
    ]  # fmt: skip


@pytest.mark.parametrize("schema", [True, None, "x", [], {"properties": []}, {"items": 5, "anyOf": {}, "required": 5}])
def test_a_schema_that_is_none_has_no_parts(schema: Any) -> None:
    assert (members_of(schema, schema), required_of(schema, schema), item_of(schema, schema)) == ({}, frozenset(), None)
    assert len(list(walk(schema))) == isinstance(schema, dict)


VALUES = st.recursive(
    st.integers() | st.text(max_size=2),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("abcde"), part, max_size=4),
    max_leaves=8,
)


@given(VALUES)
def test_ordering_changes_the_order_and_nothing_else(value: Any) -> None:
    assert in_order(value, ROOT, ROOT) == value
    if isinstance(value, dict):
        names = list(in_order(value, ROOT, ROOT))
        assert [name for name in names if name in "abc"] == sorted(name for name in names if name in "abc")
        assert names == sorted(names, key=lambda name: name not in "abc")
