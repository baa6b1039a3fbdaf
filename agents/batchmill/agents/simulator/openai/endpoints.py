"""Law: what a model can be asked, one row per endpoint: how its body is checked, read and answered. Pure.

A body is the same in a row of a batch and in a single call; only what wraps it differs.
"""

from __future__ import annotations

import array
import base64
import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.answering import Embed, Question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchmill.agents.simulator.answering import Answer

__all__ = ["CHAT", "EMBEDDINGS", "ENDPOINTS", "Complaint", "Endpoint"]

CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
EMBEDDINGS: Final = "/v1/embeddings"
_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_TEXTS_MAX: Final = 2_048  # of one embeddings request
_DIMENSIONS_MAX: Final = 3_072
_DIMENSIONS: Final = MappingProxyType({"text-embedding-3-large": 3_072})
_DIMENSIONS_DEFAULT: Final = 1_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What is wrong with a body; `param` without the `body.` that batches put before it."""

    code: str
    message: str
    param: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    check: Callable[[dict[str, Any]], Complaint | None]
    question: Callable[[dict[str, Any]], Question]  #: of a body that passed the check
    #: request id and seconds since the epoch first
    answered: Callable[[str, int, Question, Answer], dict[str, Any]]


# Chat completions --------------------------------------------------------------------------------------------------


def _checked_chat(body: dict[str, Any]) -> Complaint | None:
    messages = body.get("messages")
    if messages is None:
        return _missing("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return Complaint(code="invalid_request", message="messages must be a list of messages.", param="messages")
    return None


def _chat_question(body: dict[str, Any]) -> Question:
    form = body.get("response_format") or {}
    return _question(
        body["model"],
        _messages(body["messages"]),
        kind=form.get("type"),
        schema=(form.get("json_schema") or {}).get("schema"),
        tokens_max=body.get("max_completion_tokens") or body.get("max_tokens"),
        logprobs=body.get("logprobs") is True,
    )


def _question(
    model: str,
    messages: list[tuple[Any, str]],
    *,
    kind: Any,
    schema: Any,
    tokens_max: Any,
    logprobs: bool,
) -> Question:
    return Question(
        model=model,
        text=next((text for role, text in reversed(messages) if role == "user"), ""),
        chars=sum(len(text) for _, text in messages),
        prefix="".join(text for role, text in messages if role in _SYSTEM_ROLES),
        schema=schema if kind == "json_schema" else None,
        json_only=kind == "json_object",
        output_tokens_max=tokens_max,
        logprobs=logprobs,
    )


def _completion(request_id: str, created_at: int, question: Question, answer: Answer) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": f"chatcmpl-{request_id[:24]}",
        "object": "chat.completion",
        "created": created_at,
        "model": question.model,
        "choices": [_choice(answer)],
    }
    if answer.usage_told:
        body["usage"] = {
            "prompt_tokens": answer.input_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.input_tokens + answer.output_tokens,
            "prompt_tokens_details": _input_details(answer),
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
    return body


def _choice(answer: Answer) -> dict[str, Any]:
    content, refusal = (None, answer.content) if answer.refused else (answer.content, None)
    message = {"role": "assistant", "content": content, "refusal": refusal}
    told = {"content": _tokens(answer), "refusal": None} if answer.logprobs else None
    finish = "length" if answer.truncated else "stop"
    return {"index": 0, "message": message, "logprobs": told, "finish_reason": finish}


def _tokens(answer: Answer) -> list[dict[str, Any]]:
    return [
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
        for token, logprob in answer.logprobs
    ]


# Responses ---------------------------------------------------------------------------------------------------------


def _checked_response(body: dict[str, Any]) -> Complaint | None:
    asked = body.get("input")
    if asked is None:
        return _missing("input")
    items = isinstance(asked, list) and asked and all(isinstance(item, dict) for item in asked)
    if not items and not (isinstance(asked, str) and asked):
        return Complaint(code="invalid_request", message="input must be a text or a list of items.", param="input")
    return None


def _response_question(body: dict[str, Any]) -> Question:
    asked, told = body["input"], body.get("instructions")
    messages = [("user", asked)] if isinstance(asked, str) else _messages(asked)
    form = (body.get("text") or {}).get("format") or {}
    return _question(
        body["model"],
        [("system", told), *messages] if isinstance(told, str) else messages,
        kind=form.get("type"),
        schema=form.get("schema"),
        tokens_max=body.get("max_output_tokens"),
        logprobs="message.output_text.logprobs" in (body.get("include") or []),
    )


def _response(request_id: str, created_at: int, question: Question, answer: Answer) -> dict[str, Any]:
    """What the real service repeats of the request (instructions, tools, ...) is repeated as unset."""
    status = "incomplete" if answer.truncated else "completed"
    kind = "json_object" if question.json_only else "text"
    form = {"type": kind} if question.schema is None else {"type": "json_schema", "name": "output"}
    body: dict[str, Any] = {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created_at,
        "status": status,
        "background": False,
        "completed_at": None if answer.truncated else created_at,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.truncated else None,
        "instructions": None,
        "max_output_tokens": question.output_tokens_max,
        "metadata": {},
        "model": question.model,
        "output": _items(request_id, answer, status),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": form if question.schema is None else form | {"schema": question.schema, "strict": True}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }
    if answer.usage_told:
        body["usage"] = {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": _input_details(answer),
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        }
    return body


def _items(request_id: str, answer: Answer, status: str) -> list[dict[str, Any]]:
    part: dict[str, Any] = {
        "type": "output_text",
        "text": answer.content,
        "annotations": [],
        "logprobs": _tokens(answer),
    }
    if answer.refused:
        part = {"type": "refusal", "refusal": answer.content}
    return [{"id": f"msg_{request_id}", "type": "message", "status": status, "role": "assistant", "content": [part]}]


# Embeddings --------------------------------------------------------------------------------------------------------


def _checked_embedding(body: dict[str, Any]) -> Complaint | None:
    asked = body.get("input")
    if asked is None:
        return _missing("input")
    texts = asked if isinstance(asked, list) else [asked]
    if not 1 <= len(texts) <= _TEXTS_MAX or not all(isinstance(text, str) and text for text in texts):
        message = f"'$.input' is invalid: give a text, or 1 to {_TEXTS_MAX} of them; none is empty."
        return Complaint(code="invalid_request", message=message, param="input")
    dimensions = body.get("dimensions", 1)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= _DIMENSIONS_MAX:
        return Complaint(code="invalid_value", message="dimensions is out of range.", param="dimensions")
    return None


def _embedding_question(body: dict[str, Any]) -> Question:
    texts = tuple(body["input"]) if isinstance(body["input"], list) else (body["input"],)
    dimensions = body.get("dimensions") or _DIMENSIONS.get(body["model"], _DIMENSIONS_DEFAULT)
    embed = Embed(texts=texts, dimensions=dimensions, packed=body.get("encoding_format") == "base64")
    return Question(model=body["model"], text=texts[0], chars=sum(map(len, texts)), embed=embed)


def _embeddings(_request_id: str, _created_at: int, question: Question, answer: Answer) -> dict[str, Any]:
    packed = question.embed is not None and question.embed.packed
    shown = [_packed(vector) if packed else vector for vector in answer.vectors]
    body: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(shown)],
        "model": question.model,
    }
    if answer.usage_told:
        body["usage"] = {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens}
    return body


def _packed(vector: list[float]) -> str:
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


# Shared ------------------------------------------------------------------------------------------------------------


def _input_details(answer: Answer) -> dict[str, int]:
    return {"cached_tokens": answer.cached_tokens, "cache_write_tokens": answer.cache_write_tokens}


def _messages(items: list[dict[str, Any]]) -> list[tuple[Any, str]]:
    return [(item.get("role"), _text_of(item.get("content"))) for item in items]


def _missing(name: str) -> Complaint:
    return Complaint(code="missing_required_parameter", message=f"Missing required parameter: '{name}'.", param=name)


def _text_of(content: Any) -> str:
    """Content is a text, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


ENDPOINTS: Final[Mapping[str, Endpoint]] = MappingProxyType(
    {
        CHAT: Endpoint(check=_checked_chat, question=_chat_question, answered=_completion),
        RESPONSES: Endpoint(check=_checked_response, question=_response_question, answered=_response),
        EMBEDDINGS: Endpoint(check=_checked_embedding, question=_embedding_question, answered=_embeddings),
    }
)
