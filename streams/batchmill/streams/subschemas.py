"""The parts of a JSON Schema as its author wrote them: which members there are, which must be there, what is inside.

What lives here: reading. What must not: judging a value (`shapes`), or what a provider makes of it (`dialects`). A
schema that is malformed has no parts; `shapes` says what is wrong with it. References are followed inside the document.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["in_order", "item_of", "member_of", "members_of", "required_of", "target_of", "walk"]

#: references that are followed one after the other; more lead in a circle
_DEPTH_MAX = 32
_COMBINED = ("allOf", "anyOf", "oneOf", "then", "else", "dependentSchemas")
_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


def walk(schema: Any, path: str = "$") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every part with its path (`$.properties.label`), outer ones first; a part that is referred to comes once."""
    waiting = [(path, schema)]
    while waiting:
        where, part = waiting.pop()
        if isinstance(part, Mapping):
            yield where, part
            waiting.extend(reversed(list(_inside(part, where))))


def target_of(part: Any, root: Any) -> Mapping[str, Any]:
    """`part`, or what its reference leads to."""
    for _ in range(_DEPTH_MAX):
        if not isinstance(part, Mapping):
            return {}
        if not isinstance(part.get("$ref"), str):
            return part
        part = _referred(part["$ref"], root)
    return {}


def members_of(part: Any, root: Any) -> dict[str, Any]:
    """Name -> schema of each member that `part` declares, in the author's order."""
    found: dict[str, Any] = {}
    for each in _combined(part, root, _COMBINED):
        properties = each.get("properties")
        for name, member in properties.items() if isinstance(properties, Mapping) else ():
            found.setdefault(name, member)
    return found


def required_of(part: Any, root: Any) -> frozenset[str]:
    """The members that are always there."""
    named = [each.get("required") for each in _combined(part, root, ("allOf",))]
    return frozenset(name for names in named if isinstance(names, list) for name in names if isinstance(name, str))


def member_of(part: Any, name: str, root: Any) -> Any:
    """The schema of one member; None when `part` declares none of that name."""
    declared = members_of(part, root)
    if name in declared:
        return declared[name]
    for each in _combined(part, root, _COMBINED):
        if isinstance(each.get("additionalProperties"), Mapping):
            return each["additionalProperties"]
        if isinstance(each.get("patternProperties"), Mapping):
            return {}
    return None


def item_of(part: Any, root: Any) -> Any:
    """The schema of an item; None when `part` says nothing of its items."""
    found = (each.get("items") for each in _combined(part, root, _COMBINED))
    return next((items for items in found if isinstance(items, Mapping)), None)


def in_order(value: Any, part: Any, root: Any) -> Any:
    """`value` with its members in the order in which the schema declares them, others behind."""
    if isinstance(value, list):
        items = item_of(part, root)
        return [in_order(each, items, root) for each in value]
    if not isinstance(value, dict):
        return value
    declared = members_of(part, root)
    names = [*(name for name in declared if name in value), *(name for name in value if name not in declared)]
    return {name: in_order(value[name], declared.get(name), root) for name in names}


def _inside(part: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for word, value in part.items():
        if word in _NAMED and isinstance(value, Mapping):
            yield from ((f"{where}.{word}.{name}", each) for name, each in value.items())
        elif word in _LISTED and isinstance(value, list):
            yield from ((f"{where}.{word}[{at}]", each) for at, each in enumerate(value))
        elif word in _SINGLE:
            yield f"{where}.{word}", value


def _combined(part: Any, root: Any, words: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """`part` and what it is combined of, each once: a combination may lead back into itself."""
    waiting, seen = [part], set[int]()
    while waiting:
        whole = waiting.pop(0)
        if not isinstance(whole, Mapping) or id(whole) in seen:
            continue
        seen.add(id(whole))
        yield whole
        if isinstance(whole.get("$ref"), str):  # what stands beside it counts as well
            waiting.insert(0, _referred(whole["$ref"], root))
        for word in words:
            more = whole.get(word)
            more = more.values() if word == "dependentSchemas" and isinstance(more, Mapping) else more
            waiting.extend([more] if isinstance(more, Mapping) else more if isinstance(more, Iterable) else ())


def _referred(reference: str, root: Any) -> Any:
    """Only what lies in the same document: nothing is fetched."""
    found = root if reference == "#" or reference.startswith("#/") else None
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
