"""Lines of batch files, as the two big providers write them: what one says, and which of the two it is.

What lives here: pure functions from a line to a value, and the bounded reading of lines. What must not: what becomes
of a line. A line that cannot be used raises `LineError`, which says why without a piece of it. Result lines are read by
the adapter's own `parse_row`: a file from elsewhere is read exactly as one that we fetched.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

import orjson

from batchmill.agents.providers import anthropic_rows, openai_rows
from batchmill.streams.capabilities import facts_of
from batchmill.streams.jsontext import decode_object
from batchmill.streams.ports import RowOutcome
from batchmill.streams.unusable import Unusable

__all__ = [
    "Asked",
    "Form",
    "LineError",
    "event_value",
    "numbered_lines",
    "read_request",
    "read_result",
    "request_line",
    "request_text",
]

#: far above what either provider takes for a custom id
_CUSTOM_ID_CHARS_MAX = 512


class LineError(ValueError):
    """A line cannot be used; the message says why, never what stands there."""


class Form(StrEnum):
    """Whose batch files these are."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


#: which member of a request line holds what is asked
_ASKS: Mapping[Form, str] = {Form.OPENAI: "body", Form.ANTHROPIC: "params"}


def request_line(form: Form, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
    """A rendered body as the adapter of the form frames it; an endpoint that the form has not is its usual one.

    Raises `Unusable` for a body that cannot be said in the form.
    """
    can = facts_of(form).can
    if form is Form.ANTHROPIC:
        limit = can.output_tokens_default
        return anthropic_rows.request_line(custom_id=custom_id, body=body, output_tokens_default=limit)
    known = endpoint if endpoint in can.endpoints else can.endpoints[0]
    return openai_rows.request_line(custom_id=custom_id, endpoint=known, body=body)


_PARSE: Mapping[Form, Callable[[bytes], RowOutcome | None]] = {
    Form.OPENAI: openai_rows.parse_row,
    Form.ANTHROPIC: anthropic_rows.parse_row,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request line."""

    form: Form
    custom_id: str
    asks: Mapping[str, Any]  #: `body` or `params`
    url: str | None = None  #: OpenAI's: which endpoint


def read_request(line: bytes, form: Form | None, *, bytes_max: int) -> Asked:
    """Read a request line; None: of whichever form it is."""
    try:
        told = decode_object(line, bytes_max=bytes_max)
    except Unusable as wrong:
        raise LineError(wrong.note) from None
    custom_id = told.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _CUSTOM_ID_CHARS_MAX:
        raise LineError(f"expected a `custom_id` of 1 to {_CUSTOM_ID_CHARS_MAX} characters")
    found = form or _form_of_request(told)
    if found is None:
        raise LineError("expected `body` (OpenAI) or `params` (Anthropic), one of them")
    asks = told.get(_ASKS[found])
    if not isinstance(asks, dict):
        raise LineError(f"expected an object `{_ASKS[found]}`")
    url = told.get("url")
    return Asked(form=found, custom_id=custom_id, asks=asks, url=url if isinstance(url, str) else None)


def event_value(asked: Asked) -> bytes:
    """The raw event that a request line becomes: what it asks, whole, and the last words of the user as `text`."""
    told: dict[str, Any] = {"custom_id": asked.custom_id}
    told |= {} if asked.url is None else {"url": asked.url}
    told |= {_ASKS[asked.form]: asked.asks}
    text = request_text(asked)
    told |= {} if text is None else {"text": text}
    try:
        return orjson.dumps(told)
    except TypeError:  # an integer beyond 64 bits: it was read exactly, and is written so
        return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def request_text(asked: Asked) -> str | None:
    """The last thing that the user says; None where nothing is said in words."""
    given = asked.asks.get("messages", asked.asks.get("input"))
    if isinstance(given, str):
        return given
    said = given if isinstance(given, list) else []
    if said and all(isinstance(each, str) for each in said):
        return str(said[-1])  # several texts to be embedded
    users = [each for each in said if isinstance(each, dict) and each.get("role") == "user"]
    return _words(users[-1].get("content")) if users else None


def read_result(line: bytes, form: Form | None) -> RowOutcome:
    """Read a result line; None: of whichever form it is."""
    found = form or _form_of_result(line)
    row = None if found is None else _PARSE[found](line)
    if row is None:
        raise LineError("expected a result line with a `custom_id`, and `response` (OpenAI) or `result` (Anthropic)")
    return row


def numbered_lines(file: IO[bytes], *, bytes_max: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, line without its end) of each line that is not blank; None for one that is longer than is read."""
    number = 0
    while line := file.readline(bytes_max + 1):
        number += 1
        if len(line) > bytes_max and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(bytes_max)
            yield number, None
        elif line.strip():
            yield number, line.rstrip(b"\r\n")


def _form_of_request(told: Mapping[str, Any]) -> Form | None:
    found = [form for form, member in _ASKS.items() if member in told]
    return found[0] if len(found) == 1 else None


def _form_of_result(line: bytes) -> Form | None:
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError:
        # One broken character must not make a paid row unreadable: the adapter knows what to do with it.
        return Form.ANTHROPIC if b'"result"' in line and b'"response"' not in line else Form.OPENAI
    if not isinstance(told, dict):
        return None
    if isinstance(told.get("result"), dict):
        return Form.ANTHROPIC
    return Form.OPENAI if "response" in told or "error" in told else None


def _words(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts) if texts else None
