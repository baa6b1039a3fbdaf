"""An answer as a form made from its JSON Schema, and back.

What lives here: `shown` (value -> form), `posted` (what a browser sent -> the same form), `changed` (a button that adds
or removes, which works without a script). What must not: HTML, checks, the desk. Pure and total: any value of any
schema is shown, what no control fits as JSON text, and reads back as the same value; anything posted gives a form.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchmill.agents.web.pages.asked import Asked, Control, asked
from batchmill.agents.web.pages.fields import MISSING, Field, choice_of, read, spelled, step_text
from batchmill.agents.web.pages.unseen import has_unseen

__all__ = ["CONTROLS_MAX", "ITEMS_MAX", "blank", "changed", "posted", "shown"]

#: a form with more controls helps nobody: JSON text instead
CONTROLS_MAX = 1_000
#: of one list
ITEMS_MAX = 100
#: levels of objects and lists shown as controls
_DEPTH_MAX = 16
#: levels that a new value is filled in
_BLANK_DEPTH_MAX = 4
_ROOT = "r"
_LONG_CHARS = 70
_EMPTY = {"text": "an empty text", "null": "no value (null)", "absent": "left out"}

Sent = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where we are: in the schema, in the form, in the value."""

    root: Any
    schema: Any
    name: str = _ROOT
    where: str = "$"
    key: str = ""
    optional: bool = False
    item: bool = False
    fresh: Collection[str] = ()  #: names that a button has just filled in

    @property
    def depth(self) -> int:
        return self.name.count(".")

    def member(self, position: int, key: str, schema: Any, *, optional: bool) -> "_Place":
        return replace(
            self,
            schema=schema,
            name=f"{self.name}.{position}",
            where=self.where + step_text(key),
            key=key,
            optional=optional,
            item=False,
        )

    def at(self, number: int, position: int, ask: Asked) -> "_Place":
        """Item `number` in the form, which is the one at `position` of the list."""
        schema = ask.first[position] if position < len(ask.first) else ask.items
        name = f"{self.name}.{number}"
        where = f"{self.where}[{position}]"
        key = str(position + 1)
        return replace(self, schema=schema, name=name, where=where, key=key, optional=False, item=True)


def shown(schema: Any, value: Any) -> Field:
    """The form for `value`. `schema` None: JSON text."""
    place = _Place(root=schema, schema=schema)
    if schema is None or _count(value) > CONTROLS_MAX:
        return _json(place, Asked(control=Control.JSON), value)
    return _shown(place, value)


def posted(schema: Any, pairs: Sequence[tuple[str, str]]) -> Field:
    """The form as the browser sent it, whatever it sent."""
    return _posted(_Place(root=schema, schema=schema), _gathered(pairs))


def changed(schema: Any, pairs: Sequence[tuple[str, str]], order: str) -> Field:
    """The form after the button `order`: a verb and the name of a field. One without sense changes nothing."""
    verb, _, name = order.partition(" ")
    now = posted(schema, pairs)
    found = _find(now, name)
    match verb:
        case "json" if found is now:
            return _as_json(schema, now)
        case "form" if found is now:
            return _as_form(schema, now)
        case "add" if found is not None and "add" in found.orders:
            number = 1 + max((int(member.name.rpartition(".")[2]) for member in found.members), default=-1)
            return _again(schema, [*pairs, ("a." + name, str(number))], f"{name}.{number}")
        case "drop" if found is not None and found.item:
            parent, _, number_text = name.rpartition(".")
            return posted(schema, [pair for pair in pairs if pair != ("a." + parent, number_text)])
        case "put" if found is not None:
            return _again(schema, pairs, name)
        case "cut" | "null" if found is not None and verb in found.orders:
            state = "absent" if verb == "cut" else "null"
            kept = [pair for pair in pairs if pair[0][2:] != name]
            return posted(schema, [*kept, ("m." + name, state)])
        case _:
            return now


def blank(schema: Any, root: Any, depth: int = _BLANK_DEPTH_MAX) -> Any:
    """What a new value begins as: objects and lists that must be there are, the rest is MISSING."""
    ask = asked(schema, root)
    if ask.control == Control.LIST:
        return []
    if ask.control != Control.OBJECT:
        return MISSING
    inner = {name: blank(ask.members[name], root, depth - 1) for name in ask.members if name in ask.required and depth}
    return {name: value for name, value in inner.items() if value is not MISSING}


def _again(schema: Any, pairs: Sequence[tuple[str, str]], fresh: str) -> Field:
    return _posted(_Place(root=schema, schema=schema, fresh=(fresh,)), _gathered(pairs))


def _as_json(schema: Any, now: Field) -> Field:
    reading = read(now)
    if reading.problems:
        return now
    return replace(_json(_Place(root=schema, schema=schema), Asked(control=Control.JSON), reading.value), fresh=True)


def _as_form(schema: Any, now: Field) -> Field:
    reading = read(now)
    form = shown(schema, reading.value)
    if reading.problems or form.control == Control.JSON:
        return shown(schema, blank(schema, schema))
    return form


def _find(field: Field, name: str) -> Field | None:
    if field.name == name:
        return field
    return next((found for member in field.members if (found := _find(member, name)) is not None), None)


def _count(value: Any) -> int:
    """Controls that `value` takes, counted no further than the limit needs."""
    waiting, count = [value], 0
    while waiting and count <= CONTROLS_MAX:
        part = waiting.pop()
        count += 1
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return count


def _gathered(pairs: Sequence[tuple[str, str]]) -> Sent:
    gathered: dict[str, list[str]] = {}
    for name, text in pairs:
        gathered.setdefault(name, []).append(text)
    return gathered


# --- value -> field ---


def _shown(place: _Place, value: Any) -> Field:
    ask = asked(place.schema, place.root)
    if value is None and not ask.nullable and ask.control in {Control.OBJECT, Control.LIST}:
        return _json(place, ask, value)
    match ask.control:
        case Control.CHOICE:
            return _choice(place, ask, value)
        case Control.TEXT if _is_absent(value) or (isinstance(value, str) and not has_unseen(value)):
            return _text(place, ask, value)
        case Control.NUMBER if _is_absent(value) or _is_number(value):
            return _number(place, ask, value)
        case Control.OBJECT if (isinstance(value, dict) and place.depth < _DEPTH_MAX) or _is_absent(value):
            return _nothing(place, ask, value) if _is_absent(value) else _object(place, ask, value)
        case Control.LIST if _is_absent(value) or _is_short_list(place, value):
            return _nothing(place, ask, value) if _is_absent(value) else _list(place, ask, value)
        case _:
            return _json(place, ask, value)


def _is_absent(value: Any) -> bool:
    return value is None or value is MISSING


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_short_list(place: _Place, value: Any) -> bool:
    return isinstance(value, list) and len(value) <= ITEMS_MAX and place.depth < _DEPTH_MAX


def _field(place: _Place, ask: Asked, control: Control, **rest: Any) -> Field:
    label = ask.title or place.key
    fresh = place.name in place.fresh
    return Field(
        control=control,
        name=place.name,
        where=place.where,
        key=place.key,
        label=label,
        hint=ask.hint,
        item=place.item,
        fresh=fresh,
        **rest,
    )


def _text(place: _Place, ask: Asked, value: Any) -> Field:
    text = "" if _is_absent(value) else value
    empties = _empties(place, ask, value, text_too=True)
    lines = "\n" in text or len(text) > _LONG_CHARS or not ask.single_line
    empty = _empty(empties, value, place)
    return _field(place, ask, Control.TEXT, text=text, lines=lines, empties=empties, empty=empty)


def _number(place: _Place, ask: Asked, value: Any) -> Field:
    text = "" if _is_absent(value) else json.dumps(value)
    empties = _empties(place, ask, value, text_too=False)
    empty = _empty(empties, value, place)
    return _field(place, ask, Control.NUMBER, text=text, whole=ask.whole, empties=empties, empty=empty)


def _empties(place: _Place, ask: Asked, value: Any, *, text_too: bool) -> tuple[tuple[str, str], ...]:
    """What an empty control may mean here, what it means now included."""
    codes = ["text"] if text_too else []
    if ask.nullable or value is None:
        codes.append("null")
    if not place.item and (place.optional or value is MISSING):
        codes.append("absent")
    return tuple((code, _EMPTY[code]) for code in codes)


def _empty(empties: tuple[tuple[str, str], ...], value: Any, place: _Place) -> str:
    """What it means until somebody says otherwise: what was there; of a value that was, none at all."""
    if value is None:
        return "null"
    if value is MISSING:
        return "text" if place.item else "absent"
    codes = [code for code, _ in empties]
    if value == "":
        return "text"
    return next((code for code in ("null", "absent", "text") if code in codes), "")


def _choice(place: _Place, ask: Asked, value: Any) -> Field:
    chosen = "null" if value is None else "absent" if value is MISSING else choice_of(value)
    return _choice_of_code(place, ask, "" if place.item and value is MISSING else chosen)


def _choice_of_code(place: _Place, ask: Asked, chosen: str) -> Field:
    options = {choice_of(choice): _choice_label(choice) for choice in ask.choices}
    if ask.nullable or chosen == "null":
        options["null"] = _EMPTY["null"]
    if not place.item and (place.optional or chosen == "absent"):
        options["absent"] = _EMPTY["absent"]
    if chosen.startswith("="):
        options.setdefault(chosen, f"as it is: {chosen[1:]}")
    return _field(place, ask, Control.CHOICE, options=tuple(options.items()), chosen=chosen)


def _choice_label(choice: Any) -> str:
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    return choice if isinstance(choice, str) and choice else json.dumps(choice, ensure_ascii=False)


def _json(place: _Place, ask: Asked, value: Any) -> Field:
    text = "" if value is MISSING else spelled(value)
    fits = place.name == _ROOT and asked(place.root, place.root).control == Control.OBJECT
    return _field(place, ask, Control.JSON, text=text, lines=True, orders=("form",) if fits else ())


def _object(place: _Place, ask: Asked, value: Mapping[str, Any]) -> Field:
    members = tuple(_shown(member, value.get(member.key, MISSING)) for member in _members(place, ask))
    others = {name: part for name, part in value.items() if name not in ask.members}
    rest = spelled(others) if others else "" if ask.others else None
    return _field(place, ask, Control.OBJECT, members=members, rest=rest, orders=_orders(place, ask))


def _members(place: _Place, ask: Asked) -> list[_Place]:
    return [
        place.member(position, key, schema, optional=key not in ask.required)
        for position, (key, schema) in enumerate(ask.members.items())
    ]


def _list(place: _Place, ask: Asked, value: Sequence[Any]) -> Field:
    members = tuple(_shown(place.at(position, position, ask), item) for position, item in enumerate(value))
    return _list_of(place, ask, members)


def _list_of(place: _Place, ask: Asked, members: tuple[Field, ...]) -> Field:
    add = ("add",) if len(members) < ITEMS_MAX else ()
    return _field(place, ask, Control.LIST, members=members, orders=add + _orders(place, ask))


def _nothing(place: _Place, ask: Asked, value: Any) -> Field:
    return _nothing_of(place, ask, "null" if value is None else "absent")


def _nothing_of(place: _Place, ask: Asked, state: str) -> Field:
    return _field(place, ask, ask.control, nothing=state, orders=("put", *_orders(place, ask, now=state)))


def _orders(place: _Place, ask: Asked, now: str = "") -> tuple[str, ...]:
    """The buttons of an object or a list that is there, or (`now`) is not."""
    if place.name == _ROOT:
        return ("json",)
    cut = ("cut",) if place.optional and now != "absent" else ()
    return cut + (("null",) if ask.nullable and now != "null" else ())


# --- what was sent -> field ---


def _posted(place: _Place, gathered: Sent) -> Field:
    ask = asked(place.schema, place.root)
    if place.name in place.fresh:
        return _shown(place, blank(place.schema, place.root))
    sent_json = gathered.get("j." + place.name)
    if sent_json is not None:
        return replace(_json(place, ask, MISSING), text=sent_json[0])
    state = gathered.get("m." + place.name, ("",))[0]
    if state in {"null", "absent"}:
        return _nothing_of(place, ask, state)
    match ask.control:
        case Control.CHOICE:
            return _choice_of_code(place, ask, gathered.get("o." + place.name, ("",))[0])
        case Control.TEXT if "t." + place.name in gathered:
            return _typed(_text(place, ask, ""), "t.", gathered)
        case Control.NUMBER if "d." + place.name in gathered:
            return _typed(_number(place, ask, 0), "d.", gathered)
        case Control.OBJECT if state == "object" and place.depth < _DEPTH_MAX:
            return _posted_object(place, ask, gathered)
        case Control.LIST if "a." + place.name in gathered and place.depth < _DEPTH_MAX:
            return _posted_list(place, ask, gathered)
        case _:
            return _field(place, ask, Control.JSON, lines=True, lost=True)


def _typed(field: Field, letter: str, gathered: Sent) -> Field:
    text = gathered[letter + field.name][0]
    empty = gathered.get("e." + field.name, ("",))[0]
    empties = dict(field.empties)
    if empty in _EMPTY:
        empties.setdefault(empty, _EMPTY[empty])
    lines = field.lines or "\n" in text
    kept = empty if empty in empties else field.empty
    return replace(field, text=text, lines=lines, empties=tuple(empties.items()), empty=kept)


def _posted_object(place: _Place, ask: Asked, gathered: Sent) -> Field:
    members = tuple(_posted(member, gathered) for member in _members(place, ask))
    rest = gathered.get("x." + place.name, (None,))[0]
    if rest is None and ask.others:
        rest = ""
    return _field(place, ask, Control.OBJECT, members=members, rest=rest, orders=_orders(place, ask))


def _posted_list(place: _Place, ask: Asked, gathered: Sent) -> Field:
    marks = (mark for mark in gathered["a." + place.name] if mark.isascii() and mark.isdigit() and len(mark) < 6)
    numbers = list(dict.fromkeys(int(mark) for mark in marks))
    if len(numbers) > ITEMS_MAX:
        return _field(place, ask, Control.JSON, lines=True, lost=True)
    members = (_posted(place.at(number, position, ask), gathered) for position, number in enumerate(numbers))
    return _list_of(place, ask, tuple(members))
