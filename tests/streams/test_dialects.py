"""What each provider makes of an output schema is told by path, and nothing is told of what it takes as it is."""

from typing import Any

import pytest

from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.dialects import carries, losses

CLOSED = {
    "type": "object",
    "additionalProperties": False,
    "required": ["label", "n"],
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}, "n": {"type": ["number", "null"]}},
}


def of_member(member: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": ["x"], "properties": {"x": member}}


def told(schema: Any, provider: str) -> list[tuple[str, str, bool]]:
    return [(loss.path, loss.word, loss.refused) for loss in losses(schema, provider)]


@pytest.mark.parametrize("provider", sorted(name for name, facts in PROVIDERS.items() if facts.protocol))
def test_a_closed_schema_of_plain_words_is_sent_as_it_is(provider: str) -> None:
    assert losses(CLOSED, provider) == ()
    assert carries(CLOSED, provider)


@pytest.mark.parametrize("provider", ["openai", "azure", "mistral", "compatible"])
@pytest.mark.parametrize(
    ("schema", "path", "word"),
    [
        (CLOSED | {"additionalProperties": True}, "$", "additionalProperties"),
        (CLOSED | {"required": ["label"]}, "$", "required"),
        (of_member({"type": "object", "properties": {}}), "$.properties.x", "additionalProperties"),
        (of_member({"oneOf": [{"type": "string"}]}), "$.properties.x", "oneOf"),
        (
            of_member({"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
            "$.properties.x",
            "uniqueItems",
        ),
        (of_member({"type": "string", "default": ""}), "$.properties.x", "default"),
    ],
)
def test_what_strict_mode_does_not_take_makes_the_whole_a_hint(
    schema: Any, path: str, word: str, provider: str
) -> None:
    ((loss),) = losses(schema, provider)
    assert (loss.path, loss.word, loss.refused) == (path, word, False)
    assert "strict: false" in loss.sent
    assert carries(schema, provider)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "array", "items": CLOSED}, ("$", "type", True)),
        ({"anyOf": [CLOSED]}, ("$", "anyOf", True)),
        (of_member({"type": "string", "format": "uri"}), ("$.properties.x", "format", True)),
        (of_member({"type": "string", "format": "date"}), None),
        (of_member({"type": "string", "minLength": 1}), ("$.properties.x", "minLength", False)),
        (of_member({"type": "integer", "enum": list(range(1_001))}), ("$", "values in enumerations", True)),
        (of_member({"type": "integer", "minimum": 1, "multipleOf": 2}), None),
    ],
)
def test_what_openai_refuses_is_an_error_before_a_whole_batch_fails(schema: Any, expected: Any) -> None:
    for provider in ("openai", "azure"):
        assert told(schema, provider) == ([] if expected is None else [expected])
    assert not any(refused for *_, refused in told(schema, "compatible"))


@pytest.mark.parametrize("schema", [{"type": "array", "items": {"type": "object"}}, {"anyOf": [{"type": "object"}]}])
def test_a_strange_root_that_is_sent_as_a_hint_is_a_warning_since_nobody_documents_it(schema: Any) -> None:
    found = [loss for loss in losses(schema, "openai") if loss.path == "$" and loss.word in {"type", "anyOf"}]
    assert found
    assert not any(loss.refused for loss in found)


def test_objects_eleven_deep_are_more_than_strict_mode_promises() -> None:
    schema: Any = {"type": "string"}
    for _ in range(10):
        schema = of_member(schema)
    assert told(schema, "openai") == []
    assert told(of_member(schema), "openai") == [("$", "levels of objects", False)]


@pytest.mark.parametrize(
    ("member", "word", "refused"),
    [
        ({"type": "number", "minimum": 0}, "minimum", False),
        ({"type": "string", "maxLength": 9}, "maxLength", False),
        ({"type": "string", "pattern": "^a"}, "pattern", False),
        ({"type": "string", "format": "iri"}, "format", False),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "minItems", False),
        ({"oneOf": [{"type": "string"}]}, "oneOf", False),
        ({"type": "object", "properties": {"y": {"type": "string"}}}, "additionalProperties", False),
        ({"enum": [["a"]]}, "enum", True),
    ],
)
def test_anthropic_is_told_in_words_what_it_cannot_hold_an_answer_to(member: Any, word: str, refused: bool) -> None:
    assert told(of_member(member), "anthropic") == [("$.properties.x", word, refused)]


@pytest.mark.parametrize(
    "member",
    [
        {"type": "string", "format": "uri"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "string", "default": "", "description": "of an invoice"},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ],
)
def test_what_anthropic_takes_is_not_told(member: Any) -> None:
    assert told(of_member(member), "anthropic") == []


@pytest.mark.parametrize("member", [{"type": "object"}, True, {"type": "array", "items": True}])
def test_free_names_leave_anthropic_without_any_schema(member: Any) -> None:
    assert not carries(of_member(member), "anthropic")
    assert carries(of_member(member), "openai")


CIRCLE = {
    **of_member({"$ref": "#/$defs/node"}),
    "$defs": {"node": of_member({"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})},
}


def test_a_schema_that_refers_to_itself_is_refused_by_anthropic_and_loosened_by_gemini() -> None:
    assert ("$", "$ref", True) in told(CIRCLE, "anthropic")
    assert ("$", "$ref", False) in told(CIRCLE, "gemini")
    assert told(CIRCLE, "openai") == []
    twice = {
        **of_member({"$ref": "#/$defs/y"}),
        "$defs": {"y": {"type": "string"}, "ys": of_member({"$ref": "#/$defs/y"})},
    }
    assert ("$", "$ref", True) not in told(twice, "anthropic")


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ["uniqueItems"]),
        ({"type": "number", "multipleOf": 2, "exclusiveMinimum": 0}, ["multipleOf", "exclusiveMinimum"]),
        ({"type": "string", "format": "date"}, ["format"]),
        ({"type": "string", "format": "date-time", "minLength": 1, "pattern": "a"}, []),
        ({"oneOf": [{"type": "string"}]}, ["oneOf"]),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, ["prefixItems"]),
        ({"const": True}, ["const"]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, ["additionalProperties"]),
    ],
)
def test_gemini_is_told_less_and_that_is_said(member: Any, words: list[str]) -> None:
    assert [word for _, word, _ in told(of_member(member), "gemini")] == words


def test_a_provider_without_an_adapter_loses_nothing() -> None:
    assert losses({"type": "array"}, "bedrock") == ()
    assert losses({"type": "array"}, "nobody") == ()
