"""Rows of Anthropic's Messages API: a body as a request of a batch or a call, a result line or a reply as an outcome.

What lives here: pure functions and the shapes they know. What must not: any call, or judging an answer: a refusal and a
truncated text are answers that were paid for; the validator says what they are worth.

A result line must survive whatever a service writes: errors without a type, messages without content, absent usage,
bytes that are not UTF-8. Only a line in which no custom id can be found is given up (None).
"""

from collections.abc import Mapping
from typing import Any

import orjson

from batchmill.agents.providers.anthropic_schema import narrowed
from batchmill.agents.providers.errors import complaint_in, row_reason
from batchmill.agents.providers.loose import listed, mapping, plain_count, string, text
from batchmill.agents.providers.row_outcomes import Usage, answered, failed, loaded, never_ran, spoilt
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
#: Results of rows that never ran.
_NEVER_RAN = {
    "expired": Outcome.EXPIRED,
    "canceled": Outcome.CANCELLED,
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
    row, damaged = loaded(line)
    custom_id = text(row.get("custom_id"))
    if custom_id is None:
        return None
    result = mapping(row.get("result"))
    kind = string(result.get("type"))
    if kind == "succeeded":
        outcome = _answered(custom_id, mapping(result.get("message")), http_status=None)
        return spoilt(outcome) if damaged else outcome
    if kind in _NEVER_RAN:
        return never_ran(custom_id, kind, _NEVER_RAN[kind])
    # Only succeeded rows are billed, whatever else a row may be called one day.
    return _refused(custom_id, result.get("error"), http_status=None)


def row_of(custom_id: str, http_status: int, body: bytes) -> RowOutcome:
    """Read the reply to a single call."""
    document, damaged = loaded(body)
    if not 200 <= http_status < 300:
        return _refused(custom_id, document, http_status=http_status)
    outcome = _answered(custom_id, document, http_status=http_status)
    return spoilt(outcome) if damaged else outcome


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
        params["output_config"] = {**mapping(given.get("output_config")), "format": form}
    return params


def _conversation(messages: Any) -> dict[str, Any]:
    """System messages stand beside the conversation here, not in it."""
    system: list[Any] = []
    said: list[Any] = []
    for message in listed(messages):
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
    blocks = [[{"type": "text", "text": part}] if isinstance(part, str) else listed(part) for part in contents]
    return [block for content in blocks for block in content]


def _format(wanted: Any) -> dict[str, Any] | None:
    """Of an answer that is free, or whose schema no answer can be held to, nothing is sent."""
    if wanted is None or wanted == {"type": "text"}:
        return None
    schema = mapping(mapping(wanted).get("json_schema")).get("schema")
    if not isinstance(schema, dict):
        raise Unusable(Reason.REQUEST_INVALID, "its response_format is none that Anthropic knows: give a JSON Schema")
    sent = narrowed(schema)
    return None if sent is None else {"type": "json_schema", "schema": sent}


# -- outcomes ----------------------------------------------------------------------------------------------------------


def _answered(custom_id: str, message: Mapping[str, Any], *, http_status: int | None) -> RowOutcome:
    usage, stop = _usage(message), string(message.get("stop_reason"))
    said = _text_of(message.get("content"))
    if said is None and stop not in {"max_tokens", "refusal", "model_context_window_exceeded"}:
        # Paid for, but there is nothing in it.
        return failed(custom_id, Reason.PROVIDER_ERROR, "no_answer", http_status=http_status, usage=usage, billed=True)
    refused = stop == "refusal"
    return answered(
        custom_id,
        "" if refused else said or "",
        usage=usage,
        finish_reason=None if stop is None else _FINISH.get(stop, stop),
        refusal=_refusal(message, said) if refused else None,
        http_status=http_status,
        model=string(message.get("model")),
    )


def _text_of(content: Any) -> str | None:
    """All text of an answer; None when it has no block of text."""
    blocks = [mapping(block) for block in listed(content)]
    texts = [block["text"] for block in blocks if block.get("type") == "text" and isinstance(block.get("text"), str)]
    return "".join(texts) if texts else None


def _refusal(message: Mapping[str, Any], said: str | None) -> str:
    details = mapping(message.get("stop_details"))
    return said or text(details.get("explanation")) or text(details.get("category")) or "refused"


def _refused(custom_id: str, document: object, *, http_status: int | None) -> RowOutcome:
    fallback = "errored" if http_status is None else f"http_{http_status}"
    complaint = complaint_in(document, fallback)
    status = http_status or _STATUS.get(complaint.kind, _UNNAMED_STATUS)
    return failed(
        custom_id,
        row_reason(status, complaint),
        complaint.code,
        http_status=http_status,
        usage=Usage(known=False),
        billed=False,
    )


def _usage(message: Mapping[str, Any]) -> Usage:
    said = message.get("usage")
    if not isinstance(said, dict):
        return Usage(known=False)
    read, written = (
        plain_count(said.get("cache_read_input_tokens")),
        plain_count(said.get("cache_creation_input_tokens")),
    )
    return Usage(
        known=True,
        input_tokens=plain_count(said.get("input_tokens")) + read + written,
        output_tokens=plain_count(said.get("output_tokens")),
        cached_tokens=read,
        cache_write_tokens=written,
    )
