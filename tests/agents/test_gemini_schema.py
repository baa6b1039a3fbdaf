"""The schema that is sent: in words that Gemini knows, and never narrower than the author's."""

import json

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from batchmill.agents.providers.gemini_schema import response_schema

types = pytest.importorskip("google.genai.types", reason="the official SDK is a development dependency")


@pytest.mark.parametrize(
    ("schema", "sent"),
    [
        ({"type": "string"}, {"type": "STRING"}),
        ({"type": ["string", "null"]}, {"type": "STRING", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "STRING"}, {"type": "INTEGER"}]}),
        ({"anyOf": [{"type": "null"}, {"type": "number"}]}, {"type": "NUMBER", "nullable": True}),
        ({"enum": ["a", "b"]}, {"type": "STRING", "format": "enum", "enum": ["a", "b"]}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "INTEGER", "format": "enum", "enum": ["1", "2"]}),
        ({"enum": ["a", None]}, {"type": "STRING", "format": "enum", "enum": ["a"], "nullable": True}),
        ({"const": "x"}, {"type": "STRING", "format": "enum", "enum": ["x"]}),
        ({"type": "boolean", "const": True}, {"type": "BOOLEAN"}),
        ({"type": "string", "format": "date-time"}, {"type": "STRING", "format": "date-time"}),
        ({"type": "string", "format": "email"}, {"type": "STRING"}),
        ({"type": "integer", "exclusiveMinimum": 0, "multipleOf": 5}, {"type": "INTEGER", "minimum": 0}),
        ({"items": {"type": "string"}, "maxItems": 3}, {"type": "ARRAY", "maxItems": 3, "items": {"type": "STRING"}}),
        ({"type": "array"}, {"type": "ARRAY", "items": {"type": "STRING"}}),
        ({"type": "object", "additionalProperties": False}, {"type": "OBJECT"}),
        ({"description": "d", "title": "t", "type": "string"}, {"description": "d", "title": "t", "type": "STRING"}),
        ({}, {"type": "STRING"}),
    ],
)
def test_each_word_is_said_in_the_other_language_or_left_out(schema, sent):
    assert response_schema(schema) == sent


def test_members_keep_the_author_s_order_and_only_known_ones_are_required():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {"z": {"type": "string"}, "a": {"type": "string"}},
        "required": ["z", "ghost"],
        "additionalProperties": False,
        "patternProperties": {"^x": {}},
    }
    sent = response_schema(schema)
    assert sent["propertyOrdering"] == list(sent["properties"]) == ["z", "a"]
    assert sent["required"] == ["z"]
    assert sent.keys() == {"type", "properties", "propertyOrdering", "required"}


def test_references_are_written_out_and_one_that_leads_into_itself_ends():
    schema = {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
            }
        },
        "$ref": "#/$defs/tree",
    }
    sent = response_schema(schema)
    assert sent["properties"]["name"] == {"type": "STRING"}
    assert sent["properties"]["children"] == {"type": "ARRAY", "items": {"type": "OBJECT"}}


def test_what_all_must_hold_is_added_up():
    parts = [
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
    ]
    sent = response_schema({"allOf": parts})
    assert (list(sent["properties"]), sent["required"]) == (["a", "b"], ["a", "b"])


def test_a_schema_that_multiplies_itself_is_not_sent_at_all():
    names = [f"d{n}" for n in range(16)]
    defs = {
        name: {"type": "object", "properties": {side: {"$ref": f"#/$defs/{after}"} for side in ("left", "right")}}
        for name, after in zip(names, [*names[1:], "end"], strict=True)
    }
    assert response_schema({"$defs": defs | {"end": {"type": "string"}}, "$ref": "#/$defs/d0"}) is None


# -- what holds for every schema ---------------------------------------------------------------------------------------

scalars = st.one_of(
    st.builds(lambda low: {"type": "integer", "minimum": low, "maximum": low + 3}, st.integers(-3, 3)),
    st.just({"type": "integer", "exclusiveMinimum": 0}),
    st.just({"type": "string", "minLength": 1, "maxLength": 3}),
    st.just({"type": ["string", "null"]}),
    st.just({"type": "boolean"}),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True).map(lambda e: {"enum": e}),
    st.just({"type": "null"}),
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        inner.map(lambda part: {"type": "array", "items": part, "maxItems": 2}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(
            lambda members: {
                "type": "object",
                "properties": members,
                "required": sorted(members)[:1],
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=6,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 7) | st.sampled_from(["", "a", "b", "c", "abcd"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def as_json_schema(sent):
    """What Gemini's words mean, in JSON Schema."""
    sent = dict(sent)
    nullable = sent.pop("nullable", False)
    sent.pop("propertyOrdering", None)
    kind = sent.pop("type", None)
    members = sent.pop("enum", None)
    sent.pop("format", None)
    plain = {"anyOf": [as_json_schema(part) for part in sent.pop("anyOf")]} if "anyOf" in sent else {}
    if kind is not None:
        plain["type"] = kind.lower()
    if members is not None:
        plain["enum"] = [json.loads(each) if kind in {"INTEGER", "NUMBER"} else each for each in members]
    if "properties" in sent:
        sent["properties"] = {name: as_json_schema(part) for name, part in sent["properties"].items()}
    if "items" in sent:
        sent["items"] = as_json_schema(sent["items"])
    plain |= sent
    return {"anyOf": [plain, {"type": "null"}]} if nullable else plain


@settings(suppress_health_check=[HealthCheck.filter_too_much], max_examples=300)
@given(schema=schemas, value=values)
def test_what_the_author_allows_the_sent_schema_allows(schema, value):
    assume(jsonschema_rs.is_valid(schema, value))
    assert jsonschema_rs.is_valid(as_json_schema(response_schema(schema)), value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "anyOf",
                    "oneOf",
                    "allOf",
                    "enum",
                    "$ref",
                    "required",
                    "format",
                    "const",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(schema=st.dictionaries(st.sampled_from(["type", "properties", "items", "anyOf", "allOf", "enum"]), anything))
def test_no_schema_breaks_the_writer(schema):
    response_schema(schema)


@given(schema=schemas)
def test_the_sdk_knows_every_word_that_is_sent(schema):
    types.Schema.model_validate(response_schema(schema))
