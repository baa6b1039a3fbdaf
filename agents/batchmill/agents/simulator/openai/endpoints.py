"""Law: what a model can be asked, one row per endpoint: how its body is checked, read and answered. Pure.

A body is the same in a row of a batch and in a single call; only what wraps it differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from batchmill.agents.simulator.answering import Question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchmill.agents.simulator.answering import Answer

__all__ = ["ENDPOINTS", "Complaint", "Endpoint"]


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
    answered: Callable[[str, int, Question, Answer], dict[str, Any]]  #: request id and seconds since the epoch first


def _checked_chat(body: dict[str, Any]) -> Complaint | None:
    messages = body.get("messages")
    if messages is None:
        return _missing("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return Complaint(code="invalid_request", message="messages must be a list of messages.", param="messages")
    return None


def _chat_question(body: dict[str, Any]) -> Question:
    messages = [(message.get("role"), _text_of(message.get("content"))) for message in body["messages"]]
    asked = next((text for role, text in reversed(messages) if role == "user"), "")
    form = body.get("response_format") or {}
    kind = form.get("type")
    return Question(
        model=body["model"],
        text=asked,
        chars=sum(len(text) for _, text in messages),
        schema=(form.get("json_schema") or {}).get("schema") if kind == "json_schema" else None,
        json_only=kind == "json_object",
        output_tokens_max=body.get("max_completion_tokens") or body.get("max_tokens"),
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
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
    return body


def _choice(answer: Answer) -> dict[str, Any]:
    content, refusal = (None, answer.content) if answer.refused else (answer.content, None)
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {"index": 0, "message": message, "finish_reason": "length" if answer.truncated else "stop"}


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
        "/v1/chat/completions": Endpoint(check=_checked_chat, question=_chat_question, answered=_completion),
    }
)
