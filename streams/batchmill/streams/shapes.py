"""JSON Schemas of a job: compiled once, asked per value, each mistake said without the value.

The schema is the job author's and may be quoted; the value is a stranger's and may not, member names included when the
schema does not declare them. Compiling never fetches: a `$ref` leads into the same document or nowhere. Patterns run on
the linear-time engine, and what a value would cost at worst is reckoned before a steep schema is asked about it
(`steepness`), so neither a text nor a nest can stall a worker.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs
import orjson

from batchmill.streams.jsontext import DEPTH_MAX
from batchmill.streams.steepness import VISITS_MAX, Steepness, extent

__all__ = ["ERRORS_MAX", "Mismatch", "Shape", "ShapeError", "compile_shape"]

#: mistakes told of one value; a thousand broken items are told as well by the first few
ERRORS_MAX = 16
#: of a value that would take more the mistakes are not listed: all are made before the first is told, at some 40
#: microseconds each
_LISTED_VISITS_MAX = 50_000
#: values at one level that a schema is asked about without being reckoned with
_PLACES_FREE = 500_000
_QUOTE_CHARS_MAX = 120
_UNDECLARED = "a member that is not declared; only declared members are allowed"
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


class ShapeError(ValueError):
    """The schema itself is wrong; the message says where."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One place where a value is not what the schema says."""

    path: str
    note: str


@dataclass(frozen=True, slots=True)
class Shape:
    """A compiled JSON Schema."""

    validator: Any
    declared: frozenset[str]  #: member names the schema knows
    steepness: Steepness
    is_steep: bool

    def fits(self, value: Any) -> bool:
        return not (self.is_steep and self._visits(value) > VISITS_MAX) and bool(self.validator.is_valid(value))

    def mismatches(self, value: Any) -> tuple[Mismatch, ...]:
        """The first ERRORS_MAX mistakes in `value`, each with its path and what was expected."""
        if self.fits(value):
            return ()
        if self._visits(value) > _LISTED_VISITS_MAX:
            return (
                Mismatch("$", "expected to fit the schema; it is too large, or too deep, for the places to be told"),
            )
        found: list[Mismatch] = []
        for error in self.validator.iter_errors(value):
            found.append(Mismatch(self._path(error.instance_path), _expectation(error)))
            if len(found) == ERRORS_MAX:
                break
        return tuple(found)

    def _visits(self, value: Any) -> int:
        levels, places = extent(value)
        return self.steepness.visits(levels) * places

    def _path(self, steps: list[str | int]) -> str:
        return "$" + "".join(f"[{step}]" if isinstance(step, int) else self._member(step) for step in steps)

    def _member(self, name: str) -> str:
        if name not in self.declared:
            return ".*"
        return f".{name}" if _PLAIN_NAME.match(name) else f"['{name}']"


def compile_shape(schema: Any) -> Shape:
    """Compile `schema` (a decoded JSON Schema); ShapeError says what is wrong with it."""
    try:
        validator = jsonschema_rs.validator_for(
            schema, validate_formats=True, offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise ShapeError(str(error).split("\n\n", maxsplit=1)[0]) from None
    steepness = Steepness(schema)
    if steepness.visits(1) >= VISITS_MAX:
        raise ShapeError("its parts refer to each other in too many ways to be asked")
    return Shape(
        validator, frozenset(_declared(schema)), steepness, steepness.visits(DEPTH_MAX) * _PLACES_FREE > VISITS_MAX
    )


def _declared(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, part in schema.items():
            if name in {"properties", "$defs", "definitions", "dependentSchemas"} and isinstance(part, dict):
                yield from part
            yield from _declared(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _declared(part)


def _expectation(error: jsonschema_rs.ValidationError) -> str:
    kind: Any = error.kind
    match kind.name:
        case "required":
            return f"the member {_quoted(kind.property)} is required"
        case "type":
            return f"expected the type {' or '.join(kind.types)}"
        case "additionalProperties" | "unevaluatedProperties":
            return _UNDECLARED
        case "falseSchema" if error.schema_path[-1:] == ["additionalProperties"]:
            return _UNDECLARED
        case "anyOf" | "oneOf" | "not" | "contains" | "propertyNames" | "falseSchema":
            return f"expected to fit `{kind.name}` of the schema"
        case name:
            return f"expected {name}{_operand(kind.as_dict())}"


def _operand(members: dict[str, Any]) -> str:
    """What the schema asks for; every member listed is a copy of a part of the schema."""
    for name in ("limit", "options", "pattern", "multiple_of", "format", "expected_value"):
        if name in members:
            return f" {_quoted(members[name])}"
    return ""


def _quoted(part: Any) -> str:
    text = orjson.dumps(part).decode()
    return text if len(text) <= _QUOTE_CHARS_MAX else f"{text[:_QUOTE_CHARS_MAX]}..."
