"""One control of a form and what a browser sends of it.

What lives here: the frozen field, the names of what is posted, reading a field back into a value, notes put beside the
fields they are about. What must not: JSON Schema (`asked`), building fields (`forms`), HTML.

    t.NAME text   d.NAME number   o.NAME choice   j.NAME JSON   m.NAME object | null | absent   x.NAME other members
    a.NAME the items of a list, by their numbers   e.NAME what an empty text or number means

NAME is the way from the root by position (`r.0.2`), never by what a schema or an answer calls it: those are hostile.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from typing_extensions import override

from batchmill.agents.web.pages.asked import Control
from batchmill.agents.web.pages.unseen import escaped_unseen
from batchmill.streams.jsontext import decode
from batchmill.streams.unusable import Unusable

__all__ = [
    "FORM_BYTES_MAX",
    "MISSING",
    "Field",
    "Note",
    "Reading",
    "choice_of",
    "noted",
    "read",
    "sent",
    "spelled",
    "step_text",
    "unfolded",
]

#: of one posted form; an answer is at most 768 KiB in canonical form, and a form names every value once
FORM_BYTES_MAX = 4 * 2**20
#: before the JSON text of a choice; `null` and `absent` stand without
_VALUE = "="


class _Missing:
    """The member is not there (None is JSON null)."""

    @override
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something said about the place `where` of the answer (`$.a[0].b`)."""

    where: str
    text: str
    severity: str = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One control, with what stands in it."""

    control: Control
    name: str
    where: str
    label: str
    key: str = ""  #: in the object it is a member of
    hint: str = ""
    text: str = ""
    lines: bool = False  #: a text of several lines
    whole: bool = False  #: a number without a fraction
    options: tuple[tuple[str, str], ...] = ()
    chosen: str = ""
    empties: tuple[tuple[str, str], ...] = ()  #: what an empty text or number may mean
    empty: str = ""
    members: tuple["Field", ...] = ()
    rest: str | None = None  #: members the schema does not name, as JSON; None: no control for them
    nothing: str = ""  #: null | absent: an object or a list that is not there
    orders: tuple[str, ...] = ()  #: add | drop | put | cut | null | json | form: the buttons beside it
    item: bool = False
    fresh: bool = False  #: has just been added: the caret belongs here
    lost: bool = False  #: the browser did not send it
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a form says. `value` holds only when there are no problems."""

    value: Any
    problems: tuple[Note, ...]


def sent(field: Field) -> list[tuple[str, str]]:
    """The pairs a browser posts when nobody touches the form."""
    if field.nothing:
        return [("m." + field.name, field.nothing)]
    match field.control:
        case Control.TEXT | Control.NUMBER:
            letter = "t." if field.control == Control.TEXT else "d."
            empty = [("e." + field.name, field.empty)] if field.empties else []
            return [(letter + field.name, field.text), *empty]
        case Control.CHOICE:
            return [("o." + field.name, field.chosen)] if field.chosen else []
        case Control.JSON:
            return [("j." + field.name, field.text)]
        case Control.OBJECT:
            pairs = [("m." + field.name, "object"), *_sent_members(field)]
            return pairs if field.rest is None else [*pairs, ("x." + field.name, field.rest)]
        case Control.LIST:
            marks = [("a." + field.name, member.name.rpartition(".")[2]) for member in field.members]
            return [("a." + field.name, ""), *marks, *_sent_members(field)]


def _sent_members(field: Field) -> Iterator[tuple[str, str]]:
    for member in field.members:
        yield from sent(member)


def read(field: Field) -> Reading:
    """The value that stands in the form, and what cannot be read."""
    problems: list[Note] = []
    value = _read(field, problems)
    if value is MISSING:
        problems.append(Note(where=field.where, text="a value is needed"))
    return Reading(value=None if problems else value, problems=tuple(problems))


def _read(field: Field, problems: list[Note]) -> Any:
    if field.lost:
        return _wrong(field, problems, "the browser did not send this; open the record again")
    if field.nothing:
        return None if field.nothing == "null" else MISSING
    match field.control:
        case Control.TEXT:
            return unfolded(field.text) or _emptiness(field, problems)
        case Control.NUMBER:
            return _number(field, problems)
        case Control.CHOICE:
            return _choice(field, problems)
        case Control.JSON:
            if not field.text.strip():
                return _wrong(field, problems, "JSON is needed") if field.item else MISSING
            return _json(field, field.text, problems)
        case Control.OBJECT:
            return _object(field, problems)
        case Control.LIST:
            return [_read(member, problems) for member in field.members]


def _emptiness(field: Field, problems: list[Note]) -> Any:
    match field.empty:
        case "null":
            return None
        case "absent" if not field.item:
            return MISSING
        case _ if field.control == Control.TEXT:
            return ""
        case _:
            return _wrong(field, problems, "a number is needed")


def _number(field: Field, problems: list[Note]) -> Any:
    if not field.text.strip():
        return _emptiness(field, problems)
    try:
        value = decode(field.text.strip().encode(), bytes_max=4_000)
    except (Unusable, UnicodeEncodeError, ValueError):
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _wrong(field, problems, "a number is needed, written as 12 or 1.5")
    return value


def _choice(field: Field, problems: list[Note]) -> Any:
    if field.chosen == "null":
        return None
    if field.chosen == "absent" and not field.item:
        return MISSING
    if field.chosen.startswith(_VALUE):
        return _json(field, field.chosen.removeprefix(_VALUE), problems)
    return _wrong(field, problems, "choose one")


def choice_of(value: Any) -> str:
    """How an option for `value` is posted."""
    return _VALUE + json.dumps(value, sort_keys=True)


def _object(field: Field, problems: list[Note]) -> Any:
    value: dict[str, Any] = {}
    if field.rest is not None and field.rest.strip():
        others = _json(field, field.rest, problems)
        if isinstance(others, dict):
            value.update(others)
        elif others is not MISSING:
            _wrong(field, problems, "the other members must be a JSON object")
    for member in field.members:
        found = _read(member, problems)
        if found is not MISSING:
            value[member.key] = found
    return value


def _json(field: Field, text: str, problems: list[Note]) -> Any:
    try:
        return decode(unfolded(text).encode(), bytes_max=FORM_BYTES_MAX)
    except UnicodeEncodeError:
        return _wrong(field, problems, "this is not JSON: it holds half characters")
    except Unusable as wrong:
        return _wrong(field, problems, f"this is not JSON: {wrong.note}")


def _wrong(field: Field, problems: list[Note], text: str) -> Any:
    problems.append(Note(where=field.where, text=text))
    return MISSING


def noted(field: Field, notes: Sequence[Note]) -> tuple[Field, tuple[Note, ...]]:
    """(`field` with each note at the innermost field that holds its place, the notes about the whole)."""
    places = list(_places(field))
    owners = [(_owner(note.where, places), note) for note in notes]
    placed = _with_notes(field, owners)
    return replace(placed, notes=()), placed.notes


def _places(field: Field) -> Iterator[str]:
    yield field.where
    for member in field.members:
        yield from _places(member)


def _owner(where: str, places: Iterable[str]) -> str:
    holding = [place for place in places if where == place or where.startswith((place + ".", place + "["))]
    return max(holding, key=len, default="$")


def _with_notes(field: Field, owners: Sequence[tuple[str, Note]]) -> Field:
    return replace(
        field,
        notes=tuple(note for owner, note in owners if owner == field.where),
        members=tuple(_with_notes(member, owners) for member in field.members),
    )


def step_text(key: str) -> str:
    """One step of a path as checks write it: `.name`, or `['a name']`."""
    plain = key.isascii() and key.replace("-", "_").isidentifier() and not key.startswith("-")
    return f".{key}" if plain else f"['{key}']"


def unfolded(text: str) -> str:
    """`text` with the line ends it had before a browser posted it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def spelled(value: Any) -> str:
    r"""JSON text of `value` for people: indented, what cannot be seen written as `\u202e`."""
    return escaped_unseen(json.dumps(value, ensure_ascii=False, indent=2))
