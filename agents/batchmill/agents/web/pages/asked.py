"""What a JSON Schema asks for at one place: the control that fits, whether null is allowed, what is said beside it.

What lives here: following `$ref` inside the document, reading a subschema. What must not: values, HTML, validation (the
schema is asked again by the desk). Total: of a schema that no control can show, JSON is asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Asked", "Control", "asked"]

#: references and wrappers followed at one place; a circle ends here
_HOPS_MAX = 16
#: the words of a schema that a control cannot show
_BEYOND = ("if", "not", "patternProperties", "$dynamicRef", "dependentSchemas", "oneOf", "anyOf", "allOf")


class Control(StrEnum):
    """What is put on the page."""

    TEXT = "text"
    NUMBER = "number"
    CHOICE = "choice"
    OBJECT = "object"
    LIST = "list"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One place of a schema, read."""

    control: Control
    nullable: bool = False
    choices: tuple[Any, ...] = ()
    members: Mapping[str, Any] = field(default_factory=dict)  #: subschemas by name, in the order of the schema
    required: frozenset[str] = frozenset()
    others: bool = False  #: members that the schema does not name are wanted
    first: tuple[Any, ...] = ()  #: subschemas of the first items
    items: Any = None  #: subschema of the other items
    title: str = ""
    hint: str = ""
    single_line: bool = False
    whole: bool = False  #: a number without a fraction


def asked(schema: Any, root: Any) -> Asked:
    """Read `schema`, a part of the document `root`."""
    plain, nullable = _unwrapped(schema, root)
    title, hint = _said(plain, "title"), ". ".join(_hints(plain))
    choices = _choices(plain)
    if choices is not None:
        nullable = nullable or None in choices
        kept = tuple(choice for choice in choices if choice is not None)
        return Asked(control=Control.CHOICE, choices=kept, nullable=nullable, title=title, hint=hint)
    kinds, null = _kinds(plain)
    nullable = nullable or null
    if any(word in plain for word in _BEYOND):
        return Asked(control=Control.JSON, nullable=nullable, title=title, hint=hint)
    match kinds:
        case ["string"]:
            return Asked(control=Control.TEXT, nullable=nullable, title=title, hint=hint, single_line=_is_short(plain))
        case ["integer"] | ["number"] | ["integer", "number"]:
            return Asked(control=Control.NUMBER, nullable=nullable, title=title, hint=hint, whole=kinds == ["integer"])
        case ["boolean"]:
            return Asked(control=Control.CHOICE, nullable=nullable, choices=(True, False), title=title, hint=hint)
        case ["object"]:
            return _object(plain, nullable=nullable, title=title, hint=hint)
        case ["array"]:
            return _list(plain, nullable=nullable, title=title, hint=hint)
        case _:
            return Asked(control=Control.JSON, nullable=nullable, title=title, hint=hint)


def _object(plain: Mapping[str, Any], *, nullable: bool, title: str, hint: str) -> Asked:
    members = plain.get("properties")
    if not isinstance(members, dict) or not members:
        return Asked(control=Control.JSON, nullable=nullable, title=title, hint=hint)
    required = plain.get("required")
    names = required if isinstance(required, list) else []
    return Asked(
        control=Control.OBJECT,
        nullable=nullable,
        members=members,
        required=frozenset(name for name in names if isinstance(name, str)),
        others=plain.get("additionalProperties", False) is not False,
        title=title,
        hint=hint,
    )


def _list(plain: Mapping[str, Any], *, nullable: bool, title: str, hint: str) -> Asked:
    first = plain.get("prefixItems")
    items = plain.get("items")
    if not isinstance(items, dict) and not isinstance(first, list):
        return Asked(control=Control.JSON, nullable=nullable, title=title, hint=hint)
    return Asked(
        control=Control.LIST,
        nullable=nullable,
        first=tuple(first) if isinstance(first, list) else (),
        items=items,
        title=title,
        hint=hint,
    )


def _unwrapped(schema: Any, root: Any) -> tuple[Mapping[str, Any], bool]:
    """`schema` without references, single `allOf` and "or null"; words beside them win over words inside."""
    nullable = False
    for _ in range(_HOPS_MAX):
        if not isinstance(schema, dict):
            return {}, nullable
        inner, outer, null = _inner(schema, root)
        nullable = nullable or null
        if inner is None:
            return schema, nullable
        if not isinstance(inner, dict):
            return {}, nullable
        schema = {**inner, **outer}
    return {}, nullable


def _inner(schema: dict[str, Any], root: Any) -> tuple[Any, dict[str, Any], bool]:
    """(what is wrapped or None, the words beside the wrapper, whether null is allowed beside it)."""
    if "$ref" in schema:
        return _referred(schema["$ref"], root), _without(schema, "$ref"), False
    every = schema.get("allOf")
    if isinstance(every, list) and len(every) == 1:
        return every[0], _without(schema, "allOf"), False
    for word in ("anyOf", "oneOf"):
        ways = schema.get(word)
        if isinstance(ways, list) and len(ways) == 2 and _NULL in ways and ways != [_NULL, _NULL]:
            return ways[1 - ways.index(_NULL)], _without(schema, word), True
    return None, schema, False


_NULL = {"type": "null"}


def _without(schema: dict[str, Any], word: str) -> dict[str, Any]:
    return {name: part for name, part in schema.items() if name != word}


def _referred(reference: Any, root: Any) -> Any:
    """What `#/a/b` names inside the document; `{}` (anything) when it leads nowhere we follow."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return {}
    part = root
    for raw in reference[1:].split("/")[1:]:
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict) and step in part:
            part = part[step]
        elif isinstance(part, list) and step.isascii() and step.isdigit() and len(step) < 7 and int(step) < len(part):
            part = part[int(step)]
        else:
            return {}
    return part


def _choices(plain: Mapping[str, Any]) -> list[Any] | None:
    if "const" in plain:
        return [plain["const"]]
    listed = plain.get("enum")
    return listed if isinstance(listed, list) and listed else None


def _kinds(plain: Mapping[str, Any]) -> tuple[list[Any], bool]:
    """(the types but null, sorted; whether null is one of them)."""
    kind = plain.get("type")
    kinds = kind if isinstance(kind, list) else [] if kind is None else [kind]
    if not kinds and isinstance(plain.get("properties"), dict):
        return ["object"], False
    names = sorted({name for name in kinds if isinstance(name, str)})
    return [name for name in names if name != "null"], "null" in names


def _is_short(plain: Mapping[str, Any]) -> bool:
    longest = plain.get("maxLength")
    return "format" in plain or "pattern" in plain or (isinstance(longest, int) and longest <= 80)


def _hints(plain: Mapping[str, Any]) -> Iterator[str]:
    if said := _said(plain, "description").rstrip(". "):
        yield said
    for low, high, words in (
        ("minimum", "maximum", "from {} to {}"),
        ("exclusiveMinimum", "exclusiveMaximum", "between {} and {}, these excluded"),
        ("minLength", "maxLength", "{} to {} characters"),
        ("minItems", "maxItems", "{} to {} items"),
    ):
        if low in plain or high in plain:
            yield words.format(plain.get(low, "any"), plain.get(high, "any"))
    for word in ("format", "pattern", "multipleOf"):
        if word in plain:
            yield f"{word} {plain[word]}"
    if plain.get("uniqueItems") is True:
        yield "no item twice"


def _said(plain: Mapping[str, Any], word: str) -> str:
    said = plain.get(word)
    return said if isinstance(said, str) else ""
