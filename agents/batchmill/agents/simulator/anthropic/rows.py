"""Law: what a Claude model is asked, in a batch or a single call: read, checked and answered. Pure.

Two checks at two times, as the real service makes them: a custom id is looked at when the batch is created, and a bad
one refuses the whole; the parameters are looked at when the row is worked, and a bad one is an errored row of its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from batchmill.agents.simulator.answering import Question
from batchmill.agents.simulator.anthropic.objects import error_object
from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.dialect import RowRequest

if TYPE_CHECKING:
    from batchmill.agents.simulator.answering import Answer
    from batchmill.agents.simulator.dialect import Checker
    from batchmill.agents.simulator.records import Batch

__all__ = [
    "REQUESTS_MAX",
    "AnthropicDialect",
    "RequestError",
    "RequestReader",
    "call_problem",
    "message_object",
    "question_of",
]

REQUESTS_MAX: Final = 100_000
_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROW_FIELDS: Final = {"custom_id", "params"}
_PARAMS: Final = frozenset(
    {
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "stop_sequences",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
    }
)
_NOT_IN_A_BATCH: Final = ("stream", "speed", "store")
_KNOWN: Final = _PARAMS | set(_NOT_IN_A_BATCH)
#: Words of JSON Schema that a format may not use.
_NOT_IN_A_FORMAT: Final = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "maxItems", "uniqueItems", "minProperties", "maxProperties", "patternProperties"),
        *("oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "prefixItems"),
    }
)
_FAILURES: Final = {
    0: ("api_error", "Internal server error"),
    400: ("invalid_request_error", "The request was not accepted by the model."),
    404: ("not_found_error", "model: not found"),
    429: ("rate_limit_error", "This request would exceed your rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
}


class RequestError(ValueError):
    """Why a whole batch is refused when it is created."""


class RequestReader:
    """Checks the requests of one create call in order; what passes is one line of the payload."""

    def __init__(self) -> None:
        self.count = 0
        self._seen: set[bytes] = set()

    def line(self, element: bytes) -> bytes:
        at = f"requests.{self.count}"
        self.count += 1
        if self.count > REQUESTS_MAX:
            raise RequestError(f"requests: List should have at most {REQUESTS_MAX} items")
        row = _object(element, at)
        custom_id = row.get("custom_id")
        if not isinstance(custom_id, str) or _CUSTOM_ID.fullmatch(custom_id) is None:
            raise RequestError(f"{at}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        if not isinstance(row.get("params"), dict) or row.keys() != _ROW_FIELDS:
            raise RequestError(f"{at}: a request has a custom_id and params, an object, and nothing else")
        digest = digest_of(custom_id)
        if digest in self._seen:
            raise RequestError(f"{at}.custom_id: must be unique within the batch")
        self._seen.add(digest)
        return (orjson.dumps(row) if b"\n" in element else element) + b"\n"


def _object(element: bytes, at: str) -> dict[str, Any]:
    try:
        row = orjson.loads(element)
    except orjson.JSONDecodeError:
        raise RequestError(f"{at}: not valid JSON") from None
    assert isinstance(row, dict), "the reader of the list hands on objects only"
    return row


class AnthropicDialect:
    one_file = True
    expires_whole = False
    cancels_at_once = False

    def checker(self, batch: Batch, *, rows_max: int) -> Checker:  # noqa: ARG002 - of the protocol
        raise AssertionError(f"batch {batch.id}: its requests were checked on their way in")

    def request(self, line: bytes) -> RowRequest:
        row = orjson.loads(line)
        custom_id, params = row["custom_id"], row["params"]
        problem = _row_problem(params)
        if problem is None:
            return RowRequest(custom_id=custom_id, question=question_of(params))
        error = error_object("invalid_request_error", problem, request_id=None)
        invalid = _line(custom_id, {"type": "errored", "error": error})
        return RowRequest(custom_id=custom_id, question=Question(model="", text="", chars=0), invalid=invalid)

    def answered(self, batch: Batch, row: RowRequest, answer: Answer) -> bytes:
        message_id = f"msg_{digest_of(batch.id, row.custom_id).hex()[:24]}"
        message = message_object(message_id, row.question.model, answer, tier="batch")
        return _line(row.custom_id, {"type": "succeeded", "message": message})

    def failed(self, batch: Batch, row: RowRequest, status: int) -> bytes:
        kind, text = _FAILURES[status]
        # What the checks find has no request id; what broke on its way to the model has a worker's.
        found = status in {400, 404}
        request_id = None if found else f"workerreq_{digest_of(batch.id, row.custom_id).hex()[:24]}"
        return _line(row.custom_id, {"type": "errored", "error": error_object(kind, text, request_id=request_id)})

    def not_run(self, batch: Batch, row: RowRequest, *, expired: bool) -> bytes:  # noqa: ARG002 - of the protocol
        return _line(row.custom_id, {"type": "expired" if expired else "canceled"})


def message_object(message_id: str, model: str, answer: Answer, *, tier: str) -> dict[str, Any]:
    message = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": answer.content}] if answer.content else [],
        "stop_reason": "refusal" if answer.refused else "max_tokens" if answer.truncated else "end_turn",
        "stop_sequence": None,
    }
    return message | ({"usage": _usage(answer, tier)} if answer.usage_told else {})


def _usage(answer: Answer, tier: str) -> dict[str, Any]:
    return {
        "input_tokens": answer.input_tokens - answer.cached_tokens - answer.cache_write_tokens,
        "cache_creation_input_tokens": answer.cache_write_tokens,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": answer.output_tokens,
        "service_tier": tier,
    }


def _line(custom_id: str, result: dict[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": custom_id, "result": result}, option=orjson.OPT_APPEND_NEWLINE)


# Parameters --------------------------------------------------------------------------------------------------------


def call_problem(params: dict[str, Any]) -> str | None:
    """What is wrong with the body of a single call."""
    if params.get("stream"):
        return "stream: this simulator does not stream"
    return _params_problem(params, tokens_min=0)


def _row_problem(params: dict[str, Any]) -> str | None:
    """A batch is stricter than a single call."""
    used = next((name for name in _NOT_IN_A_BATCH if params.get(name)), None)
    return _params_problem(params, tokens_min=1) if used is None else f"{used}: not supported in a batch"


def _params_problem(params: dict[str, Any], *, tokens_min: int) -> str | None:
    model, tokens = params.get("model"), params.get("max_tokens")
    if not isinstance(model, str) or not model:
        return "model: Field required"
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < tokens_min:
        return f"max_tokens: Input should be greater than or equal to {tokens_min}"
    unknown = next((name for name in params if name not in _KNOWN), None)
    if unknown is not None:
        return f"{unknown}: Extra inputs are not permitted"
    return _messages_problem(params.get("messages")) or _format_problem(params)


def _messages_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "messages: at least one message is required"
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in {"user", "assistant"}:
            return f"messages.{number}.role: Input should be 'user' or 'assistant'"
        if not isinstance(message.get("content"), str | list) or not message["content"]:
            return f"messages.{number}.content: a text, or a list of blocks, is required"
    return None


def _format_problem(params: dict[str, Any]) -> str | None:
    form = (params.get("output_config") or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, dict) or form.keys() != {"type", "schema"} or form["type"] != "json_schema":
        return "output_config.format: expected a type, 'json_schema', and a schema"
    return _schema_problem(form["schema"])


def _schema_problem(schema: Any) -> str | None:
    """The subset of JSON Schema that answers can be held to."""
    if not isinstance(schema, dict):
        return "output_config.format.schema: expected an object"
    word = next((word for word in schema if word in _NOT_IN_A_FORMAT), None)
    if word is not None:
        return f"output_config.format.schema: '{word}' is not supported"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return "output_config.format.schema: 'additionalProperties' must be false for an object"
    return next((problem for part in _parts(schema) if (problem := _schema_problem(part))), None)


def _parts(schema: dict[str, Any]) -> list[Any]:
    named = [*(schema.get("properties") or {}).values(), *(schema.get("$defs") or {}).values()]
    items = [schema["items"]] if "items" in schema else []
    return [*named, *items, *(schema.get("anyOf") or []), *(schema.get("allOf") or [])]


def question_of(params: dict[str, Any]) -> Question:
    messages = [(message["role"], _text_of(message["content"])) for message in params["messages"]]
    form = (params.get("output_config") or {}).get("format") or {}
    system = _text_of(params.get("system"))
    return Question(
        model=params["model"],
        text=next((text for role, text in reversed(messages) if role == "user"), ""),
        chars=len(system) + sum(len(text) for _, text in messages),
        prefix=system if _may_cache(params) else "",
        schema=form.get("schema"),
        output_tokens_max=params["max_tokens"],
    )


def _may_cache(params: dict[str, Any]) -> bool:
    """Nothing is cached unasked: the request says so, or a block of its system text."""
    blocks = params["system"] if isinstance(params.get("system"), list) else []
    return any(isinstance(part, dict) and part.get("cache_control") for part in (params, *blocks))


def _text_of(content: Any) -> str:
    """Content is a text, or a list of blocks of which the texts count."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str))
