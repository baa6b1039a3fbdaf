"""The schema of an answer, in the words that Anthropic can hold an answer to.

What lives here: one pure function. What must not: validating; the validator does that, against the author's own schema.
So a word that cannot be sent may be left out: it is written into the description, where the model may heed it. An
object is closed where it was open: what a closed one allows, the open one allows too.
"""

from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["narrowed"]

#: Formats of texts that are held to; others are said in words.
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
#: Words that are sent as they are.
_SENT = frozenset({"type", "enum", "const", "$ref", "title", "required"})
#: How deep a schema may be nested; deeper ones come from a generator gone wrong.
_DEPTH_MAX = 64


def narrowed(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema to send, members in the author's order; None when no answer could be held to it.

    That is: somewhere an object has free names, and closing it would leave nothing to say.
    """
    try:
        return _part(schema, 0)
    except _OpenError:
        return None


class _OpenError(Exception):
    """An object without named members that is not closed."""


def _part(schema: Any, depth: int) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
        raise _OpenError  # `true` allows everything
    sent: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _SENT:
            sent[word] = value
        elif word in {"properties", "$defs", "definitions"}:
            sent[word] = {name: _part(part, depth + 1) for name, part in value.items()}
        elif word in {"anyOf", "allOf", "oneOf"}:
            # one of several is one of them at least
            sent["anyOf" if word == "oneOf" else word] = [_part(part, depth + 1) for part in value]
        elif word == "items":
            sent[word] = _part(value, depth + 1)
        elif (word == "format" and value in _FORMATS) or (word == "minItems" and value in {0, 1}):
            sent[word] = value
        elif word not in {"description", "additionalProperties"}:
            said[word] = value
    return _closed(sent, schema) | _described(schema.get("description"), said)


def _closed(sent: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    kinds = schema.get("type")
    is_object = kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in schema
    if not is_object:
        return sent
    if not schema.get("properties") and schema.get("additionalProperties") is not False:
        raise _OpenError
    return sent | {"additionalProperties": False}


def _described(description: Any, said: Mapping[str, Any]) -> dict[str, str]:
    words = [description] if isinstance(description, str) else []
    words += [orjson.dumps(said, option=orjson.OPT_SORT_KEYS).decode()] if said else []
    return {"description": "\n\n".join(words)} if words else {}
