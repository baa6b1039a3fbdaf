"""The schema of an answer, in the words of Gemini's `responseSchema`: a part of OpenAPI 3.0, not JSON Schema.

What lives here: one pure function. What must not: validating; the validator does that, against the author's own schema.
So a word that cannot be said may be left out, and a bound may become wider, but nothing that the author allows is
forbidden, unless the answer could not be described at all (a value of any kind becomes a text).

`responseJsonSchema` would take JSON Schema as it is, but batches answer it with noise where single calls do not.
References are written out, for no document says whether batches know them; one that leads into itself ends as an object
of any members. Names of types are in capitals, and `propertyOrdering` keeps the author's order, in which models answer.
"""

import json
from collections.abc import Mapping
from typing import Any

from batchmill.agents.providers.loose import listed, mapping

__all__ = ["response_schema"]

#: Parts of a schema once it is written out; more come from references that multiply each other.
_PARTS_MAX = 2_000
_TYPES = {
    "string": "STRING",
    "number": "NUMBER",
    "integer": "INTEGER",
    "boolean": "BOOLEAN",
    "array": "ARRAY",
    "object": "OBJECT",
}
#: type -> the formats it is known to take; another one is refused
_FORMATS = {
    "STRING": frozenset({"date-time"}),
    "NUMBER": frozenset({"float", "double"}),
    "INTEGER": frozenset({"int32", "int64"}),
}
#: type -> bounds that mean the same there
_BOUNDS = {
    "STRING": ("minLength", "maxLength", "pattern"),
    "NUMBER": ("minimum", "maximum"),
    "INTEGER": ("minimum", "maximum"),
    "ARRAY": ("minItems", "maxItems"),
    "OBJECT": ("minProperties", "maxProperties"),
}
#: bounds that are not reached -> those that are
_EXCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
#: keywords by which a schema without a type tells what it is about
_TOLD_BY = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minimum": "number",
    "maximum": "number",
}
_ALTERNATIVES = ("anyOf", "oneOf")


def response_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the schema to send, equal ones for equal schemas; None when written out it would be too large to send."""
    try:
        return _Writer(schema).part(schema, frozenset())
    except _EndlessError:
        return None


class _EndlessError(Exception):
    """More parts than anyone would write."""


class _Writer:
    """Writes one schema out. `trail`: the references inside which a part lies."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _PARTS_MAX

    def part(self, schema: Any, trail: frozenset[str]) -> dict[str, Any]:
        self._left -= 1
        if self._left < 0:
            raise _EndlessError
        if not isinstance(schema, Mapping):
            return {"type": "STRING"}
        if "$ref" in schema:
            return self._referred(schema, trail)
        if "allOf" in schema:
            return self._combined(schema, trail)
        if _is_null(schema):
            return _described(schema) | {"type": "STRING", "nullable": True}
        choices = _choices(schema)
        if choices is None:
            return self._one(schema, trail)
        solid = [choice for choice in choices if not _is_null(choice)]
        written = [self.part(choice, trail) for choice in solid]
        made = written[0] if len(written) == 1 else {"anyOf": written} if written else {"type": "STRING"}
        return _described(schema) | made | ({"nullable": True} if len(solid) < len(choices) else {})

    def _referred(self, schema: Mapping[str, Any], trail: frozenset[str]) -> dict[str, Any]:
        reference = str(schema["$ref"])
        if reference in trail:
            return _described(schema) | {"type": "OBJECT"}
        target = _resolved(reference, self._root)
        own = {word: value for word, value in schema.items() if word != "$ref"}
        return self.part(_merged(target, own), trail | {reference})

    def _combined(self, schema: Mapping[str, Any], trail: frozenset[str]) -> dict[str, Any]:
        whole: Mapping[str, Any] = {}
        for part in listed(schema["allOf"]):
            reference = str(part.get("$ref")) if isinstance(part, Mapping) and "$ref" in part else None
            if reference is not None and reference in trail:
                continue
            trail |= frozenset() if reference is None else {reference}
            target = {} if reference is None else _resolved(reference, self._root)
            own = {word: value for word, value in mapping(part).items() if word != "$ref"}
            whole = _merged(whole, _merged(target, own))
        return self.part(_merged(whole, {word: v for word, v in schema.items() if word != "allOf"}), trail)

    def _one(self, schema: Mapping[str, Any], trail: frozenset[str]) -> dict[str, Any]:
        """A schema of one kind."""
        kind = _kind(schema)
        made: dict[str, Any] = _described(schema) | {"type": kind} | _bounded(schema, kind) | _members(schema)
        if kind == "OBJECT":
            made |= self._object(schema, trail)
        elif kind == "ARRAY":
            made["items"] = self._items(schema, trail)
        return made

    def _object(self, schema: Mapping[str, Any], trail: frozenset[str]) -> dict[str, Any]:
        members = mapping(schema.get("properties"))
        if not members:
            return {}
        made: dict[str, Any] = {
            "properties": {name: self.part(part, trail) for name, part in members.items()},
            "propertyOrdering": list(members),
        }
        required = [name for name in listed(schema.get("required")) if name in members]
        return made | ({"required": required} if required else {})

    def _items(self, schema: Mapping[str, Any], trail: frozenset[str]) -> dict[str, Any]:
        places = listed(schema.get("prefixItems"))
        if places:
            return {"anyOf": [self.part(part, trail) for part in places]}
        return self.part(schema.get("items"), trail)


def _resolved(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Only what lies in the same document: nothing is fetched."""
    found: Any = root if reference.startswith("#") else None
    for step in reference.removeprefix("#").split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return mapping(found)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both must hold: members add up; of two words that are the same, `over` has the say."""
    both = {**under, **over}
    if isinstance(under.get("properties"), Mapping) and isinstance(over.get("properties"), Mapping):
        both["properties"] = {**under["properties"], **over["properties"]}
    if isinstance(under.get("required"), list) and isinstance(over.get("required"), list):
        both["required"] = list(dict.fromkeys([*under["required"], *over["required"]]))
    return both


def _choices(schema: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The alternatives of a value, each a schema of its own; None when there is but one kind of value."""
    word = next((word for word in _ALTERNATIVES if isinstance(schema.get(word), list)), None)
    if word is not None:
        rest = {name: value for name, value in schema.items() if name not in {word, "title", "description"}}
        return [_merged(rest, part) for part in schema[word] if isinstance(part, Mapping)]
    if isinstance(schema.get("type"), list):
        rest = {name: value for name, value in schema.items() if name not in {"title", "description"}}
        return [rest | {"type": name} for name in schema["type"]]
    return None


def _is_null(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "null" or ("const" in schema and schema["const"] is None)


def _described(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {word: schema[word] for word in ("title", "description") if isinstance(schema.get(word), str)}


def _bounded(schema: Mapping[str, Any], kind: str) -> dict[str, Any]:
    bounds = _BOUNDS.get(kind, ())
    near = {word: schema[beyond] for beyond, word in _EXCLUSIVE.items() if word in bounds and beyond in schema}
    named = schema.get("format")
    form = {"format": named} if isinstance(named, str) and named in _FORMATS.get(kind, ()) else {}
    return form | near | {word: schema[word] for word in bounds if word in schema}


def _kind(schema: Mapping[str, Any]) -> str:
    declared = schema.get("type")
    if isinstance(declared, str) and declared in _TYPES:
        return _TYPES[declared]
    told = next((name for word, name in _TOLD_BY.items() if word in schema), None)
    if told is not None:
        return _TYPES[told]
    members = _enum(schema)
    if members and all(isinstance(each, int) and not isinstance(each, bool) for each in members):
        return "INTEGER"
    return "BOOLEAN" if members and all(isinstance(each, bool) for each in members) else "STRING"


def _members(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are allowed, which are texts there whatever they are texts of."""
    members = [each for each in _enum(schema) if each is not None]
    nullable = {"nullable": True} if None in _enum(schema) else {}
    if not members or any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in members):
        return nullable
    texts = [each if isinstance(each, str) else json.dumps(each) for each in members]  # of any size, unlike orjson
    return {"format": "enum", "enum": texts} | nullable


def _enum(schema: Mapping[str, Any]) -> list[Any]:
    return [schema["const"]] if "const" in schema else listed(schema.get("enum"))
