"""What `job validate` says of an output schema is what the adapters make of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers.anthropic_schema import narrowed
from batchmill.agents.providers.gemini_schema import response_schema
from batchmill.streams.dialects import carries, losses
from batchmill.streams.rendering import is_strict

LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "enum": ["a", "b"]},
        {"type": "string", "minLength": 1},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "iri"},
        {"type": "number", "minimum": 0},
        {"type": "integer", "exclusiveMaximum": 5},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "string"}, "maxItems": 3, "uniqueItems": True},
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"const": "a"},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    ]
)


def objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Open and closed objects, all members required or none."""
    return st.builds(
        lambda members, closed, required: {
            "type": "object",
            "properties": members,
            **({"additionalProperties": False} if closed else {}),
            **({"required": list(members)} if required else {}),
        },
        st.dictionaries(st.sampled_from("xyz"), parts, min_size=1, max_size=3),
        st.booleans(),
        st.booleans(),
    )


SCHEMAS = objects(st.recursive(LEAVES, objects, max_leaves=6))


@given(SCHEMAS)
def test_anthropic_is_sent_the_same_schema_exactly_when_nothing_is_told(schema: dict[str, Any]) -> None:
    sent = narrowed(schema)
    assert (sent is not None) == carries(schema, "anthropic")
    assert (sent == schema) == (losses(schema, "anthropic") == ())


@given(SCHEMAS)
def test_openai_is_sent_a_hint_exactly_when_that_is_told(schema: dict[str, Any]) -> None:
    assert is_strict(schema) == (losses(schema, "compatible") == ())


@pytest.mark.parametrize(
    ("member", "kept"),
    [
        ({"type": "string", "minLength": 2, "pattern": "a"}, {"minLength": 2, "pattern": "a"}),
        ({"type": "number", "minimum": 1, "maximum": 2}, {"minimum": 1, "maximum": 2}),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, {"minItems": 2}),
        ({"type": "string", "format": "date-time"}, {"format": "date-time"}),
        ({"type": "string", "enum": ["a"]}, {"enum": ["a"]}),
    ],
)
def test_gemini_keeps_what_is_not_told(member: dict[str, Any], kept: dict[str, Any]) -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {"x": member}}
    assert losses(schema, "gemini") == ()
    sent = response_schema(schema)
    assert sent is not None
    assert kept.items() <= sent["properties"]["x"].items()


@pytest.mark.parametrize(
    ("member", "word"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "number", "multipleOf": 2}, "multipleOf"),
        ({"type": "string", "format": "date"}, "format"),
        ({"type": "number", "exclusiveMinimum": 2}, "exclusiveMinimum"),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, "prefixItems"),
        ({"oneOf": [{"type": "string"}, {"type": "number"}]}, "oneOf"),
        ({"enum": [True]}, "enum"),
    ],
)
def test_gemini_is_not_sent_what_is_told(member: dict[str, Any], word: str) -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {"x": member}}
    assert [loss.word for loss in losses(schema, "gemini")] == [word]
    sent = response_schema(schema)
    assert sent is not None
    assert word not in sent["properties"]["x"]
