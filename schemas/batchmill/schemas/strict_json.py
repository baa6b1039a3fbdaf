"""Frozen dataclasses <-> JSON, with nothing guessed: an unknown, missing or ill-typed member is refused by its path.

Two forms are written. The canonical form (sorted members, no spaces, whole floats as integers) has stable bytes, so
fingerprints are taken of it. The compact form keeps the order of members, because a model reads them in that order.
Knows no class by name; `jobs` declares them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["StrictJsonError", "canonical_json", "compact_json", "from_json", "parse_json", "plain", "to_json"]

T = TypeVar("T")

JSON_CHARS_MAX: Final = 4 * 2**20  #: of one document; a job with its schemas and prompts is far below
DEPTH_MAX: Final = 64
_WHERE_CHARS_MAX: Final = 80


class StrictJsonError(ValueError):
    """`where` is the member's path, the message what was expected there; values are never repeated."""

    def __init__(self, where: str, wrong: str) -> None:
        super().__init__(f"{where}: {wrong}")
        self.where = where


def to_json(value: object) -> str:
    """Write the canonical text of a dataclass; every member is written, defaults too."""
    return canonical_json(plain(value))


def from_json(cls: type[T], text: str | bytes) -> T:
    """Read `cls` back from any JSON spelling of it."""
    made: T = _read(cls, parse_json(text, "$"), "$")
    return made


def canonical_json(value: object) -> str:
    """Write plain JSON data with sorted members."""
    return json.dumps(_whole(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def compact_json(text: str, where: str) -> str:
    """Rewrite JSON text without insignificant differences, members in their given order."""
    return json.dumps(parse_json(text, where), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse UTF-8, refusing what other readers would read differently: repeated members, NaN, half characters."""
    if len(text) > JSON_CHARS_MAX:
        raise StrictJsonError(where, f"is {len(text)} long, at most {JSON_CHARS_MAX} are read")
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return _whole(json.loads(decoded, object_pairs_hook=_unrepeated, parse_constant=_refuse_constant), where)
    except StrictJsonError:
        raise
    except RecursionError:
        raise StrictJsonError(where, f"is nested deeper than {DEPTH_MAX}") from None
    except ValueError as error:
        position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        told = str(error) if isinstance(error, _NotJsonError) else "is not JSON"
        raise StrictJsonError(where, told + position) from None


def plain(value: object, *, omit_defaults: bool = False) -> Any:
    """Turn dataclasses into JSON data. Omitting defaults lets a class grow without renaming what it already named."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(member, omit_defaults=omit_defaults)
            for field in fields(value)
            for member in (getattr(value, field.name),)
            if not (omit_defaults and member == _default_of(field))
        }
    if isinstance(value, Mapping):
        return {str(name): plain(member, omit_defaults=omit_defaults) for name, member in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(member, omit_defaults=omit_defaults) for member in value]
    return str(value) if isinstance(value, StrEnum) else value


class _NotJsonError(ValueError):
    """Raised inside the parser's hooks, where the path is not known yet."""


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotJsonError("names a member twice in one object")
    return members


def _refuse_constant(name: str) -> Any:
    raise _NotJsonError(f"holds {name}, which is not a JSON number")


def _whole(value: Any, where: str, depth: int = 0) -> Any:
    """`value` with whole floats as integers: 1 and 1.0 are one number and must be one text."""
    if depth > DEPTH_MAX:
        raise StrictJsonError(where[:_WHERE_CHARS_MAX], f"is nested deeper than {DEPTH_MAX}")
    if isinstance(value, dict):
        return {_sound(name, where): _whole(member, f"{where}.{name}", depth + 1) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole(member, f"{where}[{at}]", depth + 1) for at, member in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StrictJsonError(where, "is not a finite number")
        return int(value) if value.is_integer() else value
    return _sound(value, where) if isinstance(value, str) else value


def _sound(text: str, where: str) -> str:
    """`text`, once it is known to have bytes: a lone surrogate has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise StrictJsonError(where, "holds half a character (a lone surrogate)") from None
    return text


def _default_of(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def _members(cls: type) -> dict[str, tuple[Any, bool]]:
    """Member name -> (type, is it optional)."""
    hints = get_type_hints(cls)
    return {field.name: (hints[field.name], _default_of(field) is not MISSING) for field in fields(cls)}


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return None if value is None else _read(_not_none(kind), value, where)
    if origin is Literal:
        return _chosen(get_args(kind), value, where)
    if origin is tuple:
        items = _checked(list, value, where)
        return tuple(_read(get_args(kind)[0], item, f"{where}[{at}]") for at, item in enumerate(items))
    if origin is Mapping:
        key_kind, member_kind = get_args(kind)
        members = _checked(dict, value, where).items()
        return {_read(key_kind, name, where): _read(member_kind, item, f"{where}.{name}") for name, item in members}
    if is_dataclass(kind):
        return _read_dataclass(kind, _checked(dict, value, where), where)
    return _read_scalar(kind, value, where)


def _read_scalar(kind: type, value: Any, where: str) -> Any:
    if issubclass(kind, StrEnum):
        return kind(_chosen(tuple(str(member) for member in kind), value, where))
    if kind is float and type(value) is int:
        return float(value)
    return _checked(kind, value, where)


def _read_dataclass(cls: Any, value: dict[str, Any], where: str) -> Any:
    members = _members(cls)
    unknown = sorted(value.keys() - members.keys())
    if unknown:
        known = ", ".join(members)
        raise StrictJsonError(f"{where}.{unknown[0]}", f"is not a member of {cls.__name__}, which knows: {known}")
    missing = [name for name, (_, optional) in members.items() if not optional and name not in value]
    if missing:
        raise StrictJsonError(f"{where}.{missing[0]}", "is required")
    return cls(**{name: _read(members[name][0], item, f"{where}.{name}") for name, item in value.items()})


def _not_none(kind: Any) -> Any:
    (only,) = (member for member in get_args(kind) if member is not NoneType)
    return only


def _chosen(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise StrictJsonError(where, f"must be one of: {', '.join(choices)}")
    return value


def _checked(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise StrictJsonError(where, f"must be {_NAMES.get(kind, kind.__name__)}, not {_NAMES.get(type(value), '?')}")
    return value


_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}
