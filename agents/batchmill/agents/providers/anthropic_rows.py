"""Rows of Anthropic's Messages API: a body as a request of a batch or a call, a result line or a reply as an outcome.

What lives here: pure functions and the shapes they know. What must not: any call, or judging an answer: a refusal and a
truncated text are answers that were paid for; the validator says what they are worth.

A result line must survive whatever a service writes: errors without a type, messages without content, absent usage,
bytes that are not UTF-8. Only a line in which no custom id can be found is given up (None).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.agents.providers.anthropic_schema import narrowed
from batchmill.agents.providers.errors import complaint_in, row_reason
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import RowOutcome
from batchmill.streams.unusable import Unusable

__all__ = ["call_of", "parse_row", "request_line", "row_of"]

#: Of a chat body: what it may not have, because no row of a batch may.
REFUSED_PARAMS = frozenset({"stream", "stream_options", "speed", "store", "n"})
_SYSTEM_ROLES = frozenset({"system", "developer"})
_ROLES = frozenset({"user", "assistant"})
_LIMITS = ("max_completion_tokens", "max_tokens")

#: In the words of chat completions, which is what the rest of the house knows; others are passed on.
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "refusal": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
#: What a call with this error would have been answered with: result lines carry no status.
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_UNNAMED_STATUS = 500
#: Results of rows that never ran: unbilled, and no fault of theirs.
_NEVER_RAN = {
    "expired": (Outcome.EXPIRED, Reason.EXPIRED),
    "canceled": (Outcome.CANCELLED, Reason.PROVIDER_CANCELLED),
}


def request_line(*, custom_id: str, body: bytes, output_tokens_default: int | None) -> bytes:
    """Frame a rendered chat body as a request, line end included; equal arguments give equal bytes.

    Raises `Unusable` for a body that cannot be said in Anthropic's words.
    """
    params = _params(orjson.loads(body), output_tokens_default)
    return orjson.dumps({"custom_id": custom_id, "params": params}, option=orjson.OPT_APPEND_NEWLINE)


def call_of(line: bytes) -> bytes:
    """The body of the single call that asks what a payload line asks."""
    return orjson.dumps(orjson.loads(line)["params"])


def parse_row(line: bytes) -> RowOutcome | None:
    """Read one line of a result file."""
    row, damaged = _loaded(line)
    custom_id = row.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return None
    result = _mapping(row.get("result"))
    kind = _text(result.get("type"))
    if kind == "succeeded":
        outcome = _answered(custom_id, _mapping(result.get("message")), http_status=None)
        return _spoilt(outcome) if damaged else outcome
    if kind in _NEVER_RAN:
        never, reason = _NEVER_RAN[kind]
        return RowOutcome(custom_id=custom_id, outcome=never, reason=reason, error_code=kind, billed=False)
    # Only succeeded rows are billed, whatever else a row may be called one day.
    return _refused(custom_id, result.get("error"), http_status=None)


def row_of(custom_id: str, http_status: int, body: bytes) -> RowOutcome:
    """Read the reply to a single call."""
    document, damaged = _loaded(body)
    if not 200 <= http_status < 300:
        return _refused(custom_id, document, http_status=http_status)
    outcome = _answered(custom_id, document, http_status=http_status)
    return _spoilt(outcome) if damaged else outcome


# -- requests ----------------------------------------------------------------------------------------------------------


def _params(body: Mapping[str, Any], output_tokens_default: int | None) -> dict[str, Any]:
    refused = sorted(REFUSED_PARAMS & body.keys())
    if refused:
        raise Unusable(Reason.REQUEST_INVALID, f"its parameter {refused[0]!r} has no place in a batch of messages")
    given = {
        name: value for name, value in body.items() if name not in {*_LIMITS, "messages", "response_format", "stop"}
    }
    params = given | _conversation(body.get("messages"))
    params["max_tokens"] = next((body[name] for name in _LIMITS if name in body), output_tokens_default)
    if "stop" in body:
        params["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else body["stop"]
    form = _format(body.get("response_format"))
    if form is not None:
        params["output_config"] = {**_mapping(given.get("output_config")), "format": form}
    return params


def _conversation(messages: Any) -> dict[str, Any]:
    """System messages stand beside the conversation here, not in it."""
    system: list[Any] = []
    said: list[Any] = []
    for message in _list(messages):
        role = message.get("role")
        if role in _SYSTEM_ROLES:
            system.append(message.get("content"))
        elif role in _ROLES:
            said.append(message)
        else:
            raise Unusable(Reason.REQUEST_INVALID, "a message has a role other than system, user or assistant")
    return {"messages": said} | ({"system": _joined(system)} if system else {})


def _joined(contents: list[Any]) -> Any:
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents)
    blocks = [[{"type": "text", "text": part}] if isinstance(part, str) else _list(part) for part in contents]
    return [block for content in blocks for block in content]


def _format(wanted: Any) -> dict[str, Any] | None:
    """Of an answer that is free, or whose schema no answer can be held to, nothing is sent."""
    if wanted is None or wanted == {"type": "text"}:
        return None
    schema = _mapping(_mapping(wanted).get("json_schema")).get("schema")
    if not isinstance(schema, dict):
        raise Unusable(Reason.REQUEST_INVALID, "its response_format is none that Anthropic knows: give a JSON Schema")
    sent = narrowed(schema)
    return None if sent is None else {"type": "json_schema", "schema": sent}


# -- outcomes ----------------------------------------------------------------------------------------------------------


def _loaded(line: bytes) -> tuple[dict[str, Any], bool]:
    """Decode a line; bytes that are not UTF-8 are replaced, because the row was paid for and must be told apart."""
    damaged = False
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        text = line.decode("utf-8", errors="replace")
        damaged = "\N{REPLACEMENT CHARACTER}" in text
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError:
            return {}, True
    return (row if isinstance(row, dict) else {}), damaged


def _answered(custom_id: str, message: Mapping[str, Any], *, http_status: int | None) -> RowOutcome:
    usage, stop = _usage(message), _text(message.get("stop_reason"))
    text = _text_of(message.get("content"))
    if text is None and stop not in {"max_tokens", "refusal", "model_context_window_exceeded"}:
        # Paid for, but there is nothing in it.
        return _failed(custom_id, Reason.PROVIDER_ERROR, "no_answer", http_status=http_status, usage=usage, billed=True)
    refused = stop == "refusal"
    return RowOutcome(
        custom_id=custom_id,
        outcome=Outcome.SUCCEEDED,
        reason=None,
        output="" if refused else text or "",
        finish_reason=None if stop is None else _FINISH.get(stop, stop),
        refusal=_refusal(message, text) if refused else None,
        http_status=http_status,
        model=_text(message.get("model")),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        usage_known=usage.known,
    )


def _text_of(content: Any) -> str | None:
    """All text of an answer; None when it has no block of text."""
    blocks = [_mapping(block) for block in _list(content)]
    texts = [block["text"] for block in blocks if block.get("type") == "text" and isinstance(block.get("text"), str)]
    return "".join(texts) if texts else None


def _refusal(message: Mapping[str, Any], text: str | None) -> str:
    details = _mapping(message.get("stop_details"))
    return text or _text(details.get("explanation")) or _text(details.get("category")) or "refused"


def _refused(custom_id: str, document: object, *, http_status: int | None) -> RowOutcome:
    fallback = "errored" if http_status is None else f"http_{http_status}"
    complaint = complaint_in(document, fallback)
    status = http_status or _STATUS.get(complaint.kind, _UNNAMED_STATUS)
    return _failed(
        custom_id,
        row_reason(status, complaint),
        complaint.code,
        http_status=http_status,
        usage=_Usage(known=False),
        billed=False,
    )


def _failed(
    custom_id: str, reason: Reason, code: str, *, http_status: int | None, usage: "_Usage", billed: bool
) -> RowOutcome:
    return RowOutcome(
        custom_id=custom_id,
        outcome=Outcome.ERROR,
        reason=reason,
        http_status=http_status,
        error_code=code,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        usage_known=usage.known or not billed,
        billed=billed,
    )


def _spoilt(row: RowOutcome) -> RowOutcome:
    """Keep what a damaged line cost; its text cannot be trusted."""
    if row.outcome is not Outcome.SUCCEEDED:
        return row
    usage = _Usage(
        known=row.usage_known,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cache_write_tokens=row.cache_write_tokens,
    )
    return _failed(
        row.custom_id, Reason.PROVIDER_ERROR, "line_not_utf8", http_status=row.http_status, usage=usage, billed=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    known: bool
    input_tokens: int = 0  #: all of them, cached ones too, as the rest of the house counts
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0


def _usage(message: Mapping[str, Any]) -> _Usage:
    said = message.get("usage")
    if not isinstance(said, dict):
        return _Usage(known=False)
    read, written = _count(said.get("cache_read_input_tokens")), _count(said.get("cache_creation_input_tokens"))
    return _Usage(
        known=True,
        input_tokens=_count(said.get("input_tokens")) + read + written,
        output_tokens=_count(said.get("output_tokens")),
        cached_tokens=read,
        cache_write_tokens=written,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
