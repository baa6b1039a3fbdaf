"""JSON Schemas: every mistake with its place and what was expected, nothing of the value, and nothing fetched."""

from typing import Any

import pytest

from batchmill.streams.shapes import ERRORS_MAX, ShapeError, compile_shape

SECRET = "hunter2-secret"


def notes(schema: Any, value: Any) -> list[tuple[str, str]]:
    shape = compile_shape(schema)
    found = [(mismatch.path, mismatch.note) for mismatch in shape.mismatches(value)]
    assert shape.fits(value) is (not found)
    return found


@pytest.mark.parametrize(
    ("schema", "value", "path", "note"),
    [
        ({"type": "string"}, 5, "$", "expected the type string"),
        ({"type": ["string", "null"]}, 5, "$", "string"),
        ({"required": ["a"]}, {}, "$", 'the member "a" is required'),
        ({"properties": {"a": {"enum": ["x", "y"]}}}, {"a": SECRET}, "$.a", 'expected enum ["x","y"]'),
        ({"properties": {"a": {"const": 5}}}, {"a": SECRET}, "$.a", "expected const 5"),
        ({"properties": {"a": {"maxLength": 3}}}, {"a": SECRET}, "$.a", "expected maxLength 3"),
        ({"properties": {"a": {"pattern": "^x"}}}, {"a": SECRET}, "$.a", 'expected pattern "^x"'),
        ({"properties": {"a": {"format": "date"}}}, {"a": SECRET}, "$.a", 'expected format "date"'),
        ({"properties": {"a": {"format": "email"}}}, {"a": SECRET}, "$.a", 'expected format "email"'),
        ({"properties": {"a b": {"type": "null"}}}, {"a b": SECRET}, "$['a b']", "null"),
        ({"additionalProperties": False}, {SECRET: 1}, "$", "only declared members"),
        ({"additionalProperties": {"type": "null"}}, {SECRET: 1}, "$.*", "null"),
        ({"patternProperties": {"h": {"type": "null"}}}, {SECRET: 1}, "$.*", "null"),
        ({"propertyNames": {"maxLength": 2}}, {SECRET: 1}, "$", "propertyNames"),
        ({"items": {"type": "integer"}}, [1, SECRET], "$[1]", "integer"),
        ({"uniqueItems": True}, [SECRET, SECRET], "$", "uniqueItems"),
        ({"oneOf": [{"type": "null"}]}, SECRET, "$", "`oneOf`"),
        ({"anyOf": [{"type": "null"}, {"const": 1}]}, SECRET, "$", "`anyOf`"),
        ({"not": {"type": "string"}}, SECRET, "$", "`not`"),
        ({"contains": {"type": "null"}}, [SECRET], "$", "`contains`"),
        ({"minProperties": 2}, {SECRET: 1}, "$", "expected minProperties 2"),
        ({"minimum": 3}, 1, "$", "expected minimum 3"),
        ({"multipleOf": 2}, 3, "$", "expected multipleOf 2"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}}, SECRET, "$", "null"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": SECRET}, "$", '"b"'),
        ({"unevaluatedProperties": False}, {SECRET: 1}, "$", "only declared members"),
        ({"properties": {"a": False}}, {"a": SECRET}, "$.a", "alse"),
    ],
)
def test_a_mistake_is_told_by_place_and_expectation(schema: Any, value: Any, path: str, note: str) -> None:
    ((where, told),) = notes(schema, value)
    assert where == path
    assert note in told
    assert SECRET not in where + told


def test_all_mistakes_are_told_up_to_a_number() -> None:
    schema = {"items": {"type": "integer"}}
    assert len(notes(schema, ["x"] * 5)) == 5
    assert len(notes(schema, ["x"] * 500)) == ERRORS_MAX


def test_a_long_piece_of_the_schema_is_cut() -> None:
    ((_, told),) = notes({"enum": ["x" * 50] * 100}, 1)
    assert len(told) < 200


def test_text_that_is_hard_on_backtracking_engines_is_answered_at_once() -> None:
    assert notes({"pattern": "^(a+)+$"}, "a" * 50_000 + "b") == [("$", 'expected pattern "^(a+)+$"')]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"left": value, "op": "none"}
    return value


#: as people write expressions: each kind of node holds nodes
EXPRESSION = {
    "anyOf": [
        {"properties": {"op": {"const": kind}, "left": {"$ref": "#"}}, "required": ["op", "left"]} for kind in "+-*/"
    ]
}


def test_a_deep_answer_cannot_stall_a_schema_that_leads_into_itself() -> None:
    ((where, told),) = notes(EXPRESSION, nested(60))
    assert (where, "too deep" in told) == ("$", True)
    assert notes(EXPRESSION, {"op": "+", "left": {"op": "-", "left": []}}) == []


def test_mistakes_of_a_large_answer_are_not_listed_but_are_mistakes() -> None:
    schema = {"items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
    ((where, told),) = notes(schema, list(range(100_000)))
    assert (where, "too large" in told) == ("$", True)
    assert notes(schema, ["x"] * 100_000) == []


def test_a_chain_of_parts_that_doubles_at_each_link_is_refused() -> None:
    parts = {f"p{at}": {"allOf": [{"$ref": f"#/$defs/p{at + 1}"}] * 2} for at in range(40)}
    with pytest.raises(ShapeError, match="too many ways"):
        compile_shape({"$ref": "#/$defs/p0", "$defs": {**parts, "p40": {"type": "null"}}})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/x.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/absent"},
        {"type": "strin"},
        {"minLength": -1},
        {"pattern": "("},
        {"pattern": "(?=lookahead)"},
        5,
        "x",
        None,
    ],
)
def test_a_schema_that_is_wrong_or_leads_elsewhere_is_refused(schema: Any) -> None:
    with pytest.raises(ShapeError):
        compile_shape(schema)
