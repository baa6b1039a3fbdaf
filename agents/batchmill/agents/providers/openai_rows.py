"""Rows of the OpenAI APIs: a body as an input line, a line of a result file, or a single call's answer, as an outcome.

What lives here: pure functions and the shapes they know. What must not: any call, or judging an answer: a refusal
and a truncated text are answers that were paid for; the validator says what they are worth.

A result line must survive whatever a service writes: HTTP failures with or without a body, status 0, null responses,
missing usage, bytes that are not UTF-8. Only a line in which no custom id can be found is given up (None).
"""

import array
import base64
import binascii
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.agents.providers.errors import complaint_in, row_reason
from batchmill.agents.providers.loose import listed, mapping, plain_count, string, text
from batchmill.agents.providers.openai_bodies import body_for
from batchmill.agents.providers.row_outcomes import (
    Usage,
    answered,
    failed,
    loaded,
    mean_of,
    never_ran,
    spoilt,
)
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import RowOutcome

__all__ = ["call_of", "parse_row", "request_line", "row_of"]

#: Codes of rows that never ran.
_NEVER_RAN = {
    "batch_expired": Outcome.EXPIRED,
    "batch_cancelled": Outcome.CANCELLED,
}


def request_line(*, custom_id: str, endpoint: str, body: bytes) -> bytes:
    """Frame a rendered body as an input line, line end included; equal arguments give equal bytes."""
    line = {
        "custom_id": custom_id,
        "method": "POST",
        "url": endpoint,
        "body": orjson.Fragment(body_for(endpoint, body)),
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def call_of(line: bytes) -> bytes:
    """Give the body of the single call that asks what an input line asks."""
    return orjson.dumps(orjson.loads(line)["body"])


def row_of(custom_id: str, http_status: int, body: bytes) -> RowOutcome:
    """Read the answer to a single call, or its refusal."""
    document, damaged = loaded(body)
    outcome = _answered(custom_id, {"status_code": http_status, "body": document})
    return spoilt(outcome) if damaged else outcome


def parse_row(line: bytes) -> RowOutcome | None:
    """Read one line of an output or error file."""
    row, damaged = loaded(line)
    custom_id = text(row.get("custom_id"))
    if custom_id is None:
        return None
    response, error = row.get("response"), row.get("error")
    if isinstance(response, dict) and not (isinstance(error, dict) and error):
        outcome = _answered(custom_id, response)
    else:
        outcome = _without_response(custom_id, error)
    return spoilt(outcome) if damaged else outcome


def _answered(custom_id: str, response: Mapping[str, Any]) -> RowOutcome:
    status = plain_count(response.get("status_code"))
    body = mapping(response.get("body"))
    if not 200 <= status < 300:
        return _http_failure(custom_id, status, body)
    usage, said = _usage(body), _said(body)
    if said.text is None and said.refusal is None:
        # Paid for, perhaps, but there is nothing in it.
        code = complaint_in(body, "no_answer").code if body.get("error") else "no_answer"
        return failed(custom_id, Reason.PROVIDER_ERROR, code, http_status=status, usage=usage, billed=True)
    return answered(
        custom_id,
        said.text or "",
        usage=usage,
        finish_reason=said.finish_reason,
        refusal=said.refusal,
        http_status=status,
        model=string(body.get("model")),
        logprob_mean=said.logprob_mean,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What an answer says, whatever endpoint gave it. Neither text nor refusal: nothing."""

    text: str | None
    refusal: str | None = None
    finish_reason: str | None = None
    logprob_mean: float | None = None


def _said(body: Mapping[str, Any]) -> _Said:
    """Tell the endpoint by its members: what lies between us and the provider may forget to name the object."""
    if isinstance(body.get("output"), list):
        return _said_by_response(body)
    if isinstance(body.get("data"), list):
        return _said_by_embedding(body)
    choice = mapping(next(iter(listed(body.get("choices"))), None))
    message = mapping(choice.get("message"))
    return _Said(
        text=string(message.get("content")),
        refusal=string(message.get("refusal")),
        finish_reason=string(choice.get("finish_reason")),
        logprob_mean=mean_of(listed(mapping(choice.get("logprobs")).get("content"))),
    )


def _said_by_response(body: Mapping[str, Any]) -> _Said:
    """Join the texts of all messages; other items (reasoning, say) are not part of the answer."""
    parts = [
        mapping(part)
        for item in map(mapping, listed(body.get("output")))
        if item.get("type") == "message"
        for part in listed(item.get("content"))
    ]
    texts = [
        said for part in parts if part.get("type") == "output_text" and (said := string(part.get("text"))) is not None
    ]
    refusals = [said for part in parts if part.get("type") == "refusal" and (said := text(part.get("refusal")))]
    cut = string(mapping(body.get("incomplete_details")).get("reason"))
    if not texts and cut is not None:
        texts = [""]  # all room went into reasoning: cut off before the first word
    return _Said(
        text="".join(texts) if texts else None,
        refusal="".join(refusals) or None,
        finish_reason=_FINISH.get(cut, cut) if cut else "stop",
        logprob_mean=mean_of([token for part in parts for token in listed(part.get("logprobs"))]),
    )


#: why a response is incomplete, in the words of chat completions
_FINISH = {"max_output_tokens": "length"}


def _said_by_embedding(body: Mapping[str, Any]) -> _Said:
    """The vector as a JSON array: one text was asked, so one vector is the answer."""
    vector = mapping(next(iter(listed(body.get("data"))), None)).get("embedding")
    if isinstance(vector, str):
        vector = _unpacked(vector)
    if not isinstance(vector, list) or not vector:
        return _Said(text=None)
    return _Said(text=orjson.dumps(vector).decode(), finish_reason="stop")


def _unpacked(packed: str) -> list[float] | None:
    """A vector sent as base64 is 32-bit floats, little-endian."""
    try:
        floats = array.array("f", base64.b64decode(packed, validate=True))
    except (binascii.Error, ValueError):
        return None
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()


def _http_failure(custom_id: str, status: int, body: Mapping[str, Any]) -> RowOutcome:
    complaint = complaint_in(body, f"http_{status}")
    usage = _usage(body)
    # A failed request is not billed, unless the provider says what it used.
    return failed(
        custom_id, row_reason(status, complaint), complaint.code, http_status=status, usage=usage, billed=usage.known
    )


def _without_response(custom_id: str, error: object) -> RowOutcome:
    complaint = complaint_in(error, "empty_row")
    if complaint.code in _NEVER_RAN:
        return never_ran(custom_id, complaint.code, _NEVER_RAN[complaint.code])
    return failed(
        custom_id, row_reason(0, complaint), complaint.code, http_status=None, usage=Usage(known=False), billed=False
    )


def _usage(body: Mapping[str, Any]) -> Usage:
    said = body.get("usage")
    if not isinstance(said, dict):
        return Usage(known=False)
    # Responses say input and output, the others prompt and completion; an embedding has no output.
    details = mapping(said.get("input_tokens_details") or said.get("prompt_tokens_details"))
    return Usage(
        known=True,
        input_tokens=plain_count(said.get("input_tokens", said.get("prompt_tokens"))),
        output_tokens=plain_count(said.get("output_tokens", said.get("completion_tokens"))),
        cached_tokens=plain_count(details.get("cached_tokens")),
        cache_write_tokens=plain_count(details.get("cache_write_tokens")),
    )
