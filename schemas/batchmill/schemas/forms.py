"""Frozen dataclass <-> dictionary, the shape the Avro library wants: types verified on the way out, enums and nested
records made whole on the way in.

Types are verified once per combination: the tuple of a record's field types is looked up among those already found
right, so a record of a known shape costs one set look-up. Knows nothing of bytes or ids.
"""

from dataclasses import fields
from enum import StrEnum
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

__all__ = ["EncodeError", "Form", "UnknownMemberError"]

_SHAPES_MAX: Final = 4_096  #: remembered combinations of field types per class; beyond, they are learned anew
_LONG_MAX: Final = 2**63 - 1


class EncodeError(TypeError):
    """A record of ours that its own schema does not allow: a bug, never data."""


class UnknownMemberError(ValueError):
    """A text that names no member of a closed list; `field` says where, the text is not repeated."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class Form:
    """One class: `lower` to a dictionary, `lift` from one."""

    def __init__(self, cls: Any) -> None:
        hints = get_type_hints(cls)
        self.cls = cls
        self._names = tuple(field.name for field in fields(cls))
        self._values = attrgetter(*self._names)
        if len(self._names) == 1:  # attrgetter of one name gives the bare value
            raise ValueError(f"{cls.__name__}: a record of one field is not supported; give it a second")
        self._allowed = {name: _allowed(hints[name]) for name in self._names}
        self._shapes: set[tuple[type, ...]] = set()
        self._parts = tuple(part for name in self._names for part in _part(name, hints[name]))

    def lower(self, record: Any) -> dict[str, Any]:
        """Make the dictionary the Avro writer takes; EncodeError names the first field that is wrong."""
        values = self._values(record)
        shape = tuple(map(type, values))
        if shape not in self._shapes:
            self._learn(shape)
        datum = dict(zip(self._names, values, strict=True))
        for part in self._parts:
            part.lower(datum)
        return datum

    def lift(self, datum: dict[str, Any]) -> Any:
        """Make the record again."""
        for part in self._parts:
            part.lift(datum)
        return self.cls(**datum)

    def blame(self, record: Any) -> EncodeError:
        """Name the field that the Avro writer refused although its type is right."""
        for name, value in zip(self._names, self._values(record), strict=True):
            if isinstance(value, int) and not -_LONG_MAX - 1 <= value <= _LONG_MAX:
                return EncodeError(f"{self.cls.__name__}.{name} does not fit 64 bits")
            if isinstance(value, str) and not _encodable(value):
                return EncodeError(f"{self.cls.__name__}.{name} holds half a character (a lone surrogate)")
        return EncodeError(f"{self.cls.__name__} has a nested value that its schema does not allow")

    def _learn(self, shape: tuple[type, ...]) -> None:
        for name, kind in zip(self._names, shape, strict=True):
            if kind not in self._allowed[name]:
                wanted = " or ".join(sorted(allowed.__name__ for allowed in self._allowed[name]))
                raise EncodeError(f"{self.cls.__name__}.{name} must be {wanted}, not {kind.__name__}")
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        self._shapes.add(shape)


class _EnumPart:
    """A member of a closed list: lowered as it is, being a string."""

    def __init__(self, name: str, kind: type[StrEnum]) -> None:
        self._name = name
        self._members: dict[str | None, StrEnum | None] = {str(member): member for member in kind}
        self._members[None] = None  # a schema that forbids null never yields one

    def lower(self, datum: dict[str, Any]) -> None:
        pass

    def lift(self, datum: dict[str, Any]) -> None:
        try:
            datum[self._name] = self._members[datum[self._name]]
        except KeyError:
            raise UnknownMemberError(self._name) from None


class _RecordPart:
    """A nested record."""

    def __init__(self, name: str, form: Form) -> None:
        self._name = name
        self._form = form

    def lower(self, datum: dict[str, Any]) -> None:
        datum[self._name] = self._form.lower(datum[self._name])

    def lift(self, datum: dict[str, Any]) -> None:
        datum[self._name] = self._form.lift(datum[self._name])


class _RecordsPart:
    """A tuple of nested records, all of one class."""

    def __init__(self, name: str, form: Form) -> None:
        self._name = name
        self._form = form

    def lower(self, datum: dict[str, Any]) -> None:
        for item in datum[self._name]:
            if type(item) is not self._form.cls:
                raise EncodeError(f"{self._name}: must hold {self._form.cls.__name__}, not {type(item).__name__}")
        datum[self._name] = [self._form.lower(item) for item in datum[self._name]]

    def lift(self, datum: dict[str, Any]) -> None:
        datum[self._name] = tuple(self._form.lift(item) for item in datum[self._name])


class _TextsPart:
    """A dictionary of texts."""

    def __init__(self, name: str) -> None:
        self._name = name

    def lower(self, datum: dict[str, Any]) -> None:
        for pair in datum[self._name].items():
            if any(type(text) is not str for text in pair):
                raise EncodeError(
                    f"{self._name}: must hold only str, not {' -> '.join(type(t).__name__ for t in pair)}"
                )

    def lift(self, datum: dict[str, Any]) -> None:
        pass


_Part = _EnumPart | _RecordPart | _RecordsPart | _TextsPart


def _allowed(hint: Any) -> frozenset[type]:
    if get_origin(hint) in (Union, UnionType):
        return frozenset[type]().union(*(_allowed(member) for member in get_args(hint)))
    return frozenset({get_origin(hint) or hint})


def _part(name: str, hint: Any) -> list[_Part]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return [part for member in inner if member is not NoneType for part in _part(name, member)]
    if origin is tuple:
        return [_RecordsPart(name, Form(inner[0]))]
    if origin is dict:
        return [_TextsPart(name)]
    if issubclass(hint, StrEnum):
        return [_EnumPart(name, hint)]
    return [_RecordPart(name, Form(hint))] if hasattr(hint, "__dataclass_fields__") else []


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
