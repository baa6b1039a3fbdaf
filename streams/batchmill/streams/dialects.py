"""What a provider makes of an output schema: which of its words an answer is held to, and what is sent instead.

One function per way of saying it, each a pure reading of the schema. What must not live here: the saying itself, which
is the adapters' (`agents/providers/*_schema.py`); tests hold both to each other. Whatever a provider is not told, the
validator checks all the same: a loss costs retries, not trust.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.rendering import is_strict, not_strict
from batchmill.streams.subschemas import target_of, walk

__all__ = ["Loss", "carries", "losses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One word of a schema that does not reach the provider as it is written."""

    path: str  #: of the part it stands in: `$.properties.label`
    word: str
    sent: str  #: what is sent instead, or why the provider refuses it
    refused: bool = False  #: every request would fail


def losses(schema: Any, provider: str) -> tuple[Loss, ...]:
    """All losses of `schema` at a kind of provider, in the order of the text; none where no adapter is known."""
    return () if provider not in _DIALECTS else tuple(_DIALECTS[provider](schema))


def carries(schema: Any, provider: str) -> bool:
    """Whether the provider is sent any form of `schema` at all, so that the model may see its members."""
    return not any(loss.sent in {_NOTHING, _TOO_LARGE} for loss in losses(schema, provider))


_NOTHING: Final = "no schema is sent at all, because an object in it may have members of any name"
_TOO_LARGE: Final = "no schema is sent at all, because it is too large once its references are written out"

#: words that say nothing of the answer
_REMARKS = frozenset({"$schema", "$id", "$comment", "title", "description", "examples", "deprecated", "readOnly"})
_REMARKS |= {"writeOnly", "$defs", "definitions", "$anchor"}

# -- OpenAI's strict mode, which Azure, Mistral and compatible servers took over ---------------------------------------

_HINT = "{title} holds answers only to closed objects with all members required: sent as a hint (strict: false)"
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
#: how they are counted is documented nowhere, and deeper schemas are said to be taken
_STRICT_DEPTH_MAX = 10
_STRICT_MEMBERS_MAX = 5_000
_STRICT_VALUES_MAX = 1_000
#: taken by newer models, refused by older ones
_NEWER = frozenset({"minLength", "maxLength"})


def _hinted(title: str) -> Callable[[Any], Iterator[Loss]]:
    def found(schema: Any) -> Iterator[Loss]:
        for path, word in not_strict(schema):
            yield Loss(path=path, word=word, sent=_HINT.format(title=title))

    return found


def _strict(title: str) -> Callable[[Any], Iterator[Loss]]:
    hinted = _hinted(title)

    def found(schema: Any) -> Iterator[Loss]:
        yield from _rootless(schema, title)
        yield from hinted(schema)
        if is_strict(schema):
            yield from _strictly_refused(schema, title)

    return found


def _rootless(schema: Any, title: str) -> Iterator[Loss]:
    """Refused in strict mode; what is made of it as a mere hint is documented nowhere."""
    root = target_of(schema, schema)
    if root.get("type") != "object" or "anyOf" in root:
        word, strict = "anyOf" if "anyOf" in root else "type", is_strict(schema)
        verb = "refuses" if strict else "may refuse"
        sent = f"{title} {verb} a schema whose root is not one object: put the answer into a member"
        yield Loss(path="$", word=word, sent=sent, refused=strict)


def _strictly_refused(schema: Any, title: str) -> Iterator[Loss]:
    members = values = 0
    for path, part in walk(schema):
        form = part.get("format")
        if isinstance(form, str) and form not in _STRICT_FORMATS:
            sent = f"{title} refuses the format {form!r} in strict mode: say it in the description"
            yield Loss(path=path, word="format", sent=sent, refused=True)
        for word in sorted(_NEWER & part.keys()):
            sent = f"some models of {title} refuse it in strict mode: judge.lengths checks the same"
            yield Loss(path=path, word=word, sent=sent)
        members += len(part["properties"]) if isinstance(part.get("properties"), Mapping) else 0
        values += len(part["enum"]) if isinstance(part.get("enum"), list) else 0
    depth = _depth(schema)
    if depth > _STRICT_DEPTH_MAX:
        sent = f"{title} promises {_STRICT_DEPTH_MAX} levels of objects in strict mode, not {depth}: it may refuse it"
        yield Loss(path="$", word="levels of objects", sent=sent)
    for what, count, most in (
        ("members", members, _STRICT_MEMBERS_MAX),
        ("values in enumerations", values, _STRICT_VALUES_MAX),
    ):
        if count > most:
            yield Loss(
                path="$", word=what, sent=f"{title} takes {most} {what} in strict mode, not {count}", refused=True
            )


def _depth(schema: Any) -> int:
    """Objects inside objects, references not followed: a circle has no depth."""
    return max((path.count(".properties.") + 1 for path, part in walk(schema) if "properties" in part), default=0)


# -- Anthropic ---------------------------------------------------------------------------------------------------------

_ANTHROPIC_FORMATS = _STRICT_FORMATS | {"uri"}
_ANTHROPIC_KEPT = frozenset(
    {"type", "enum", "const", "$ref", "title", "required", "description", "properties", "$defs", "definitions"}
    | {"anyOf", "allOf", "items"}
)
_DESCRIBED = "Anthropic holds no answer to it: it is written into the description"
_NO_PROMISE = frozenset({"additionalProperties", "$schema", "$id", "$comment", "default", "examples", "deprecated"})


def _anthropic(schema: Any) -> Iterator[Loss]:
    for path, part in _sent_as_parts(schema):
        if not isinstance(part, Mapping):
            yield Loss(path=path, word="true", sent=_NOTHING)
            continue
        yield from _anthropic_open(path, part)
        yield from (loss for word, value in part.items() for loss in _anthropic_word(path, word, value))
    if _circular(schema):
        sent = "Anthropic refuses schemas that refer to themselves: write out as many levels as are needed"
        yield Loss(path="$", word="$ref", sent=sent, refused=True)


def _sent_as_parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """What is sent as a schema; other parts are words in a description."""
    waiting = [("$", schema)]
    while waiting:
        path, part = waiting.pop(0)
        yield path, part
        for word, value in part.items() if isinstance(part, Mapping) else ():
            if word in {"properties", "$defs", "definitions"} and isinstance(value, Mapping):
                waiting += [(f"{path}.{word}.{name}", each) for name, each in value.items()]
            elif word in {"anyOf", "allOf", "oneOf"} and isinstance(value, list):
                waiting += [(f"{path}.{word}[{at}]", each) for at, each in enumerate(value)]
            elif word == "items":
                waiting.append((f"{path}.items", value))


def _anthropic_open(path: str, part: Mapping[str, Any]) -> Iterator[Loss]:
    kinds = part.get("type")
    named = kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in part
    if not named or part.get("additionalProperties") is False:
        return
    if not part.get("properties"):
        yield Loss(path=path, word="additionalProperties", sent=_NOTHING)
    else:
        sent = "Anthropic takes closed objects only: it is sent closed, so no answer has a member of another name"
        yield Loss(path=path, word="additionalProperties", sent=sent)


def _anthropic_word(path: str, word: str, value: Any) -> Iterator[Loss]:
    if word == "oneOf":
        yield Loss(path=path, word=word, sent="sent as anyOf: an answer may fit more than one")
    elif word == "enum" and isinstance(value, list) and any(isinstance(each, list | dict) for each in value):
        sent = "Anthropic refuses lists and objects in an enumeration"
        yield Loss(path=path, word=word, sent=sent, refused=True)
    elif (word == "format" and value in _ANTHROPIC_FORMATS) or (word == "minItems" and value in {0, 1}):
        return
    elif word not in _ANTHROPIC_KEPT | _NO_PROMISE:
        yield Loss(path=path, word=word, sent=_DESCRIBED)


def _circular(schema: Any) -> bool:
    """Whether a reference leads into what it stands in."""
    parts = list(walk(schema))
    led = [(f"{path}.", id(target_of(part, schema))) for path, part in parts if "$ref" in part]
    edges = {
        id(part): {goal for where, goal in led if where.startswith((f"{path}.", f"{path}["))} for path, part in parts
    }
    return any(_reaches(edges, start, start) for start in edges)


def _reaches(edges: Mapping[int, set[int]], start: int, goal: int) -> bool:
    waiting, seen = list(edges.get(start, ())), set[int]()
    while waiting:
        each = waiting.pop()
        if each == goal:
            return True
        if each not in seen:
            seen.add(each)
            waiting.extend(edges.get(each, ()))
    return False


# -- Gemini ------------------------------------------------------------------------------------------------------------

_LEFT_OUT = "Gemini has no such word: it is left out"
_GEMINI_PARTS_MAX = 2_000
_GEMINI_KEPT = frozenset(
    {"type", "properties", "required", "items", "anyOf", "allOf", "$ref", "enum", "const", "minItems"}
)
_GEMINI_KEPT |= {
    "maxItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
}
_GEMINI_FORMATS = frozenset({"date-time", "float", "double", "int32", "int64"})
_GEMINI_OTHERWISE = {
    "oneOf": "sent as anyOf: an answer may fit more than one",
    "prefixItems": "sent as a list whose every item may be of any of these kinds",
    "exclusiveMinimum": "sent as minimum: the bound itself is let through",
    "exclusiveMaximum": "sent as maximum: the bound itself is let through",
}


def _gemini(schema: Any) -> Iterator[Loss]:
    parts = list(walk(schema))
    if _circular(schema):
        yield Loss(path="$", word="$ref", sent="sent as an object of any members where it leads into itself")
    if len(parts) > _GEMINI_PARTS_MAX:
        yield Loss(path="$", word="$ref", sent=_TOO_LARGE)
    for path, part in parts:
        yield from (loss for word, value in part.items() for loss in _gemini_word(path, word, value, part))


def _gemini_word(path: str, word: str, value: Any, part: Mapping[str, Any]) -> Iterator[Loss]:
    if word in _GEMINI_OTHERWISE:
        yield Loss(path=path, word=word, sent=_GEMINI_OTHERWISE[word])
    elif word == "additionalProperties":
        if value is not False and (value is not True or not part.get("properties")):
            yield Loss(path=path, word=word, sent="sent as an object whose other members are not described")
    elif word == "format":
        if value not in _GEMINI_FORMATS:
            yield Loss(path=path, word=word, sent=_LEFT_OUT)
    elif word in {"enum", "const"}:
        values = value if word == "enum" and isinstance(value, list) else [value]
        if any(isinstance(each, bool | list | dict) for each in values):
            yield Loss(path=path, word=word, sent="Gemini enumerates texts and numbers only: it is left out")
    elif word not in _GEMINI_KEPT | _REMARKS | {"default"}:
        yield Loss(path=path, word=word, sent=_LEFT_OUT)


_DIALECTS: Final[Mapping[str, Callable[[Any], Iterator[Loss]]]] = MappingProxyType(
    {
        "openai": _strict(PROVIDERS["openai"].title),
        "azure": _strict(PROVIDERS["azure"].title),
        "compatible": _hinted("a compatible server"),
        "mistral": _hinted(PROVIDERS["mistral"].title),
        "anthropic": _anthropic,
        "gemini": _gemini,
    }
)
