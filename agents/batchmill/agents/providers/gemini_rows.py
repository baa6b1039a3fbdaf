"""Rows of Gemini's batches: a canonical body as an input line, a line of a result file as an outcome.

What lives here: two pure functions and the shapes they know. What must not: any call, or judging an answer: one that
was withheld or cut is an answer that was paid for; the validator says what it is worth.

Of no document: the form of a failed row. Seen are `error` and `status` of google.rpc with numbers as codes; HTTP's
numbers are read too. A row that a cancelled or expired batch did not come to may be missing, or failed as CANCELLED.
Tokens of thoughts are billed as output; tokens of results of tools as input.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from batchmill.agents.providers.errors import GOOGLE_CODES, Complaint, row_reason
from batchmill.agents.providers.gemini_schema import response_schema
from batchmill.agents.providers.loose import count, listed, mapping, text
from batchmill.agents.providers.row_outcomes import Usage, answered, failed, finite, loaded, never_ran, spoilt
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import RowOutcome

__all__ = ["parse_row", "request_line"]

#: parameters of a chat completion -> of generationConfig; any other name is the API's own, and goes as it is
_PARAMS = {
    "max_completion_tokens": "maxOutputTokens",
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "stop": "stopSequences",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
#: names of the API's own that stand beside generationConfig
_OF_REQUEST = frozenset({"safetySettings", "tools", "toolConfig", "cachedContent"})
_SYSTEM_ROLES = frozenset({"system", "developer"})
_FINISH = {"STOP": "stop", "MAX_TOKENS": "length"}
#: the answer, or the question, was held back
_WITHHELD = frozenset(
    {
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "IMAGE_SAFETY",
        "IMAGE_PROHIBITED_CONTENT",
        "IMAGE_RECITATION",
        "ESCALATION",
        "MODEL_ARMOR",
        "JAILBREAK",
    }
)
CONTENT_FILTER = "content_filter"
CANCELLED = "CANCELLED"


def request_line(*, custom_id: str, body: bytes) -> bytes:
    """Frame a rendered body as an input line, line end included; equal arguments give equal bytes."""
    return orjson.dumps({"key": custom_id, "request": _request(orjson.loads(body))}, option=orjson.OPT_APPEND_NEWLINE)


def parse_row(line: bytes) -> RowOutcome | None:
    """Read one line of a result file."""
    row, damaged = loaded(line)
    key = text(row.get("key"))
    if key is None:
        return None
    response = row.get("response")
    outcome = _answered(key, response) if isinstance(response, dict) else _failure(key, row)
    return spoilt(outcome) if damaged else outcome


# -- the question ------------------------------------------------------------------------------------------------------


def _request(chat: Mapping[str, Any]) -> dict[str, Any]:
    """Members in one order; those of a schema keep the author's, models answer in it."""
    messages = chat["messages"]
    system = [_text_of(message) for message in messages if message["role"] in _SYSTEM_ROLES]
    given = {name: value for name, value in chat.items() if name not in {"model", "messages", "response_format"}}
    config = {_PARAMS.get(name, name): value for name, value in given.items() if name not in _OF_REQUEST}
    if isinstance(config.get("stopSequences"), str):
        config["stopSequences"] = [config["stopSequences"]]
    config |= _form(mapping(chat.get("response_format")))
    return {
        "contents": [_turn(message) for message in messages if message["role"] not in _SYSTEM_ROLES],
        **({"systemInstruction": {"parts": [{"text": each} for each in system]}} if system else {}),
        **({"generationConfig": dict(sorted(config.items()))} if config else {}),
        **{name: given[name] for name in sorted(_OF_REQUEST & given.keys())},
    }


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    role = "model" if message["role"] == "assistant" else "user"
    return {"role": role, "parts": [{"text": _text_of(message)}]}


def _text_of(message: Mapping[str, Any]) -> str:
    """Content is a text, or a list of parts of which the texts count."""
    content = message.get("content")
    parts = [mapping(part).get("text") for part in listed(content)]
    return content if isinstance(content, str) else "".join(part for part in parts if isinstance(part, str))


def _form(asked: Mapping[str, Any]) -> dict[str, Any]:
    if asked.get("type") not in {"json_schema", "json_object"}:
        return {}
    schema = response_schema(mapping(mapping(asked.get("json_schema")).get("schema")))
    described = {} if schema is None or asked["type"] == "json_object" else {"responseSchema": schema}
    return {"responseMimeType": "application/json"} | described


# -- the answer --------------------------------------------------------------------------------------------------------


def _answered(key: str, response: Mapping[str, Any]) -> RowOutcome:
    candidate = mapping(next(iter(listed(response.get("candidates"))), None))
    blocked = text(mapping(response.get("promptFeedback")).get("blockReason"))
    reason = text(candidate.get("finishReason")) or (None if candidate else blocked)
    said, usage = _said(candidate), _usage(response)
    if reason in _WITHHELD or (not candidate and blocked is not None):
        return _succeeded(key, response, usage, said or "", finish=CONTENT_FILTER, refusal=reason)
    if reason is not None and reason not in _FINISH:
        # It stopped for a reason that is no end of an answer: what is there cannot be taken for a whole one.
        return failed(key, Reason.PROVIDER_ERROR, reason, http_status=200, usage=usage, billed=True)
    if said is None and reason != "MAX_TOKENS":
        return failed(key, Reason.PROVIDER_ERROR, "no_answer", http_status=200, usage=usage, billed=True)
    return _succeeded(key, response, usage, said or "", finish=None if reason is None else _FINISH[reason])


def _said(candidate: Mapping[str, Any]) -> str | None:
    """The text of an answer without the thoughts before it."""
    parts = [mapping(part) for part in listed(mapping(candidate.get("content")).get("parts"))]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str) and not part.get("thought")]
    return "".join(texts) if texts else None


def _succeeded(
    key: str, response: Mapping[str, Any], usage: Usage, said: str, *, finish: str | None, refusal: str | None = None
) -> RowOutcome:
    return answered(
        key,
        said,
        usage=usage,
        finish_reason=finish,
        refusal=refusal,
        http_status=200,
        model=text(response.get("modelVersion")),
        logprob_mean=finite(mapping(next(iter(listed(response.get("candidates"))), None)).get("avgLogprobs")),
    )


def _failure(key: str, row: Mapping[str, Any]) -> RowOutcome:
    error = mapping(row.get("error")) or mapping(row.get("status"))
    number = count(error.get("code"))
    code, status = GOOGLE_CODES.get(number, (f"http_{number}" if number else "empty_row", number))
    if code == CANCELLED:
        return never_ran(key, code, Outcome.CANCELLED)
    reason = row_reason(status, Complaint(code=code))
    # A failed request is not billed, as far as anything says.
    return failed(key, reason, code, http_status=status or None, usage=Usage(known=False), billed=False)


def _usage(response: Mapping[str, Any]) -> Usage:
    said = response.get("usageMetadata")
    if not isinstance(said, dict):
        return Usage(known=False)
    return Usage(
        known=True,
        input_tokens=count(said.get("promptTokenCount")) + count(said.get("toolUsePromptTokenCount")),
        output_tokens=count(said.get("candidatesTokenCount")) + count(said.get("thoughtsTokenCount")),
        cached_tokens=count(said.get("cachedContentTokenCount")),
    )
