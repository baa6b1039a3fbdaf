"""Law: from a right answer to a wrong one of the same form: what a model gets wrong while its JSON stays valid.

Four kinds, one of which is made, seeded like everything here: a text that was invented, an item that was left out, two
items whose texts were exchanged, another member of an enum. A mistake that the schema would not allow is not made.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import jsonschema_rs

from batchmill.agents.simulator.chance import pick

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mistaken"]

_LETTERS_SHIFT: Final = 7  # far enough that the result is no word of the same text
_DEPTH_MAX: Final = 16


def mistaken(value: Any, schema: Any, seed: str) -> Any:
    """`value` with one mistake in it; as it is when no mistake fits `schema`."""
    valid = jsonschema_rs.validator_for(schema if schema is not None else True).is_valid
    kinds = [_invented, _left_out, _exchanged, _relabelled]
    first = pick(len(kinds), seed, "mistake")
    for kind in kinds[first:] + kinds[:first]:
        made = [wrong for wrong in kind(value, schema) if wrong != value and valid(wrong)]
        if made:
            return made[pick(len(made), seed, "which")]
    return value


def _invented(value: Any, schema: Any) -> Iterator[Any]:
    for path, found in _leaves(value):
        if isinstance(found, str) and found and _enum_at(schema, path) is None:
            yield _with(value, path, "".join(map(_shifted, found)))


def _left_out(value: Any, _schema: Any) -> Iterator[Any]:
    for path, found in _nodes(value):
        if isinstance(found, list):
            for at in range(len(found)):
                yield _with(value, path, found[:at] + found[at + 1 :])


def _exchanged(value: Any, schema: Any) -> Iterator[Any]:
    """Two items of a list keep their other members and exchange one text."""
    for path, found in _nodes(value):
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            continue
        for at, (left, right) in enumerate(pairwise(found)):
            for name in left.keys() & right.keys():
                texts = isinstance(left[name], str) and isinstance(right[name], str)
                if texts and left[name] != right[name] and _enum_at(schema, (*path, at, name)) is None:
                    there, back = (*path, at, name), (*path, at + 1, name)
                    once = _with(value, there, right[name])
                    yield _with(once, back, left[name])


def _relabelled(value: Any, schema: Any) -> Iterator[Any]:
    for path, _ in _leaves(value):
        for other in _enum_at(schema, path) or ():
            yield _with(value, path, other)


def _shifted(char: str) -> str:
    if char.isascii() and char.isalpha():
        first = ord("a") if char.islower() else ord("A")
        return chr(first + (ord(char) - first + _LETTERS_SHIFT) % 26)
    return str((int(char) + _LETTERS_SHIFT) % 10) if char.isascii() and char.isdigit() else char


def _nodes(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    yield path, value
    if len(path) >= _DEPTH_MAX:
        return
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, member in members:
        yield from _nodes(member, (*path, step))


def _leaves(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    return ((path, found) for path, found in _nodes(value) if not isinstance(found, dict | list))


def _with(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    made = copy.deepcopy(value)
    holder = made
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = new
    return made


def _enum_at(schema: Any, path: tuple[str | int, ...]) -> list[Any] | None:
    """The enum that the schema has for this place, as far as plain properties and items lead there."""
    for step in path:
        if not isinstance(schema, dict):
            return None
        schema = schema.get("items") if isinstance(step, int) else (schema.get("properties") or {}).get(step)
    return schema.get("enum") if isinstance(schema, dict) else None
