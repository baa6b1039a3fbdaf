"""How often a JSON Schema is asked about one place of a value, at worst: what a validator without memory has to do.

A schema that leads into itself in two ways at once (`anyOf` two kinds of node that both hold nodes) doubles its work
with each level of nesting, and the value says how deep it is. What lives here: counting. What must not: judging a
value (`shapes`). References that are not followed here count as leading to the schema as a whole.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from batchmill.streams.subschemas import target_of

__all__ = ["VISITS_MAX", "Steepness", "extent"]

#: from here on a count is not told exactly: it is too much for anything
VISITS_MAX = 50_000_000

_LISTED = ("allOf", "anyOf", "oneOf")
_SINGLE = ("not", "if", "then", "else")
_POINTING = ("$ref", "$dynamicRef", "$recursiveRef")
#: what is asked about members and items beside the one subschema that is theirs
_BESIDE = ("contains", "unevaluatedProperties", "unevaluatedItems", "propertyNames")


class Steepness:
    """The counts of one schema, by depth of the value."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], int] = {}

    def visits(self, levels: int) -> int:
        """Subschemas asked on one way from the top of a value to its bottom, `levels` below; at most VISITS_MAX."""
        try:
            return self._visits(self._root, levels, frozenset())
        except RecursionError:
            return VISITS_MAX  # too long a way to be counted

    def _visits(self, schema: Any, levels: int, passed: frozenset[int]) -> int:
        if not isinstance(schema, Mapping) or id(schema) in passed:
            return 1  # a circle at one and the same place ends at once
        key = (id(schema), levels)
        if key not in self._known:
            count = 1 + sum(self._visits(part, levels, passed | {id(schema)}) for part in self._here(schema))
            if levels:
                count += max((self._visits(part, levels - 1, frozenset()) for part in _below(schema)), default=0)
                count += sum(self._visits(part, levels - 1, frozenset()) for part in _beside(schema))
            self._known[key] = min(count, VISITS_MAX)
        return self._known[key]

    def _here(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        """What is asked about the same place."""
        for word in _LISTED:
            listed = schema.get(word)
            yield from listed if isinstance(listed, list) else ()
        for word in _SINGLE:
            if word in schema:
                yield schema[word]
        dependent = schema.get("dependentSchemas")
        yield from dependent.values() if isinstance(dependent, Mapping) else ()
        for word in _POINTING:
            if word in schema:
                yield target_of({"$ref": schema[word]}, self._root) or self._root


def _below(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Of these one is asked about each member or item."""
    properties, first = schema.get("properties"), schema.get("prefixItems")
    yield from properties.values() if isinstance(properties, Mapping) else ()
    yield from first if isinstance(first, list) else ()
    for word in ("additionalProperties", "items"):
        part = schema.get(word)
        yield from part if isinstance(part, list) else (part,)


def _beside(schema: Mapping[str, Any]) -> Iterator[Any]:
    patterns = schema.get("patternProperties")
    yield from patterns.values() if isinstance(patterns, Mapping) else ()
    yield from (schema[word] for word in _BESIDE if word in schema)


def extent(value: Any) -> tuple[int, int]:
    """(levels below the top, places) of a decoded value."""
    levels = places = 0
    row = [value]
    while row:
        places += len(row)
        inside = [part for part in row if isinstance(part, dict | list)]
        row = [each for part in inside for each in (part.values() if isinstance(part, dict) else part)]
        levels += bool(row)
    return levels, places
