"""A result of ours as a line of a provider's result file: OpenAI's or Anthropic's.

What lives here: pure functions, inverse to the adapters' `parse_row` for all that the form can say. What must not:
inventing what is not known: an outcome for which the provider has no line (a row that was missing) gives None, and the
caller counts it. Reasons to stop are translated where the two have a word for the same; others are handed on.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from batchmill.agents.interchange.forms import Form
from batchmill.schemas.records import Result
from batchmill.schemas.status import Outcome

__all__ = ["result_line"]

#: OpenAI's word -> Anthropic's
_STOPPED: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_FINISHED = {theirs: ours for ours, theirs in _STOPPED.items()}
_HTTP_OK = 200
_MS_PER_SECOND = 1_000


def result_line(form: Form, custom_id: str, result: Result) -> bytes | None:
    """The line, its end included; None when the form has no line for such an outcome."""
    said = _openai(custom_id, result) if form is Form.OPENAI else _anthropic(custom_id, result)
    return None if said is None else orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


# -- OpenAI ------------------------------------------------------------------------------------------------------------


def _openai(custom_id: str, result: Result) -> dict[str, Any] | None:
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    match result.outcome:
        case Outcome.SUCCEEDED:
            response = _response(result, result.http_status or _HTTP_OK, _completion(result))
        case Outcome.ERROR if result.http_status is not None:
            response = _response(result, result.http_status, {"error": _openai_error(result)} | _used(result))
        case Outcome.ERROR:
            error = _openai_error(result)
        case Outcome.EXPIRED:
            error = {"code": "batch_expired", "message": "The batch ended before this request was run."}
        case Outcome.CANCELLED:
            error = {"code": "batch_cancelled", "message": "The batch was cancelled before this request was run."}
        case Outcome.MISSING:
            return None
    return {"id": f"batch_req_{result.request_id}", "custom_id": custom_id, "response": response, "error": error}


def _response(result: Result, status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": result.request_id, "body": body}


def _completion(result: Result) -> dict[str, Any]:
    message = {"role": "assistant", "content": result.output, "refusal": result.refusal}
    stopped = result.finish_reason
    reason = _FINISHED.get(stopped, stopped) if stopped is not None else None
    return {
        "id": f"chatcmpl-{result.request_id}",
        "object": "chat.completion",
        "created": result.received_at_ms // _MS_PER_SECOND,
        "model": result.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        **_used(result),
    }


def _used(result: Result) -> dict[str, Any]:
    """Usage, where it is known: an answer without a price and without tokens came without it."""
    if _usage_unknown(result):
        return {}
    return {
        "usage": {
            "prompt_tokens": result.input_tokens,
            "completion_tokens": result.output_tokens,
            "total_tokens": result.input_tokens + result.output_tokens,
            "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
        }
    }


def _openai_error(result: Result) -> dict[str, Any]:
    code = result.error_code or (result.reason or "error")
    return {"code": code, "type": code, "message": _message(result), "param": None}


# -- Anthropic ---------------------------------------------------------------------------------------------------------


def _anthropic(custom_id: str, result: Result) -> dict[str, Any] | None:
    told = _outcome(result)
    return None if told is None else {"custom_id": custom_id, "result": told}


def _outcome(result: Result) -> dict[str, Any] | None:
    match result.outcome:
        case Outcome.SUCCEEDED:
            return {"type": "succeeded", "message": _answer(result)}
        case Outcome.ERROR:
            error = {"type": result.error_code or "api_error", "message": _message(result)}
            return {"type": "errored", "error": {"type": "error", "error": error, "request_id": None}}
        case Outcome.EXPIRED:
            return {"type": "expired"}
        case Outcome.CANCELLED:
            return {"type": "canceled"}
        case Outcome.MISSING:
            return None


def _answer(result: Result) -> dict[str, Any]:
    stopped = result.finish_reason
    reason = _STOPPED.get(stopped, stopped) if stopped is not None else None
    text = result.refusal if result.refusal is not None else result.output
    return {
        "id": f"msg_{result.request_id}",
        "type": "message",
        "role": "assistant",
        "model": result.model,
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": "refusal" if result.refusal is not None else reason,
        "stop_sequence": None,
        **_message_usage(result),
    }


def _message_usage(result: Result) -> dict[str, Any]:
    """Anthropic counts what the cache gave and took apart from the other input."""
    if _usage_unknown(result):
        return {}
    apart = result.cached_tokens + result.cache_write_tokens
    return {
        "usage": {
            "input_tokens": max(0, result.input_tokens - apart),
            "cache_read_input_tokens": result.cached_tokens,
            "cache_creation_input_tokens": result.cache_write_tokens,
            "output_tokens": result.output_tokens,
        }
    }


# -- both --------------------------------------------------------------------------------------------------------------


def _usage_unknown(result: Result) -> bool:
    return result.input_tokens == result.output_tokens == 0 and not result.cost_nanos


def _message(result: Result) -> str:
    """What a provider said is not kept, since it may quote the prompt; our word for it is."""
    return f"{result.reason or 'failed'}"
