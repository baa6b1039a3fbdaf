"""Law: the lines of OpenAI batch files, read, checked and written. Pure.

Checking stops at the first bad line and one bad line fails the whole batch, as the real service does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from batchmill.agents.simulator.answering import Question
from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.dialect import RowRequest, Ways
from batchmill.agents.simulator.records import Batch, BatchProblem

if TYPE_CHECKING:
    from batchmill.agents.simulator.answering import Answer

__all__ = ["ENDPOINTS", "OpenAIChecker", "OpenAIDialect"]

ENDPOINTS: Final = ("/v1/chat/completions",)
_ROW_FIELDS: Final = ("custom_id", "method", "url", "body")
_FAILURES: Final = {
    400: ("invalid_request_error", "invalid_value", "The request was not accepted by the model."),
    429: ("rate_limit_error", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", "server_error", "The server had an error while processing your request."),
}


class OpenAIChecker:
    def __init__(self, endpoint: str, *, rows_max: int) -> None:
        self.rows = 0
        self.model: str | None = None
        self._endpoint = endpoint
        self._rows_max = rows_max
        self._seen: set[bytes] = set()

    def line(self, number: int, line: bytes) -> BatchProblem | None:
        if not line.strip():
            return None
        self.rows += 1
        if self.rows > self._rows_max:
            return _problem(number, "too_many_tasks", f"The batch has more than {self._rows_max} requests.")
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            return _problem(number, "invalid_json_line", "This line is not parseable as valid JSON.")
        return self._envelope(number, row) or self._body(number, row["body"])

    def end(self) -> BatchProblem | None:
        if self.rows:
            return None
        return BatchProblem(code="empty_file", message="The input file is empty. Please ensure it contains requests.")

    def _envelope(self, number: int, row: dict[str, Any]) -> BatchProblem | None:
        for name in _ROW_FIELDS:
            if row.get(name) is None:
                return _missing(number, name)
        custom_id = row["custom_id"]
        if not isinstance(custom_id, str):
            return _problem(number, "invalid_request", "custom_id must be a string.", "custom_id")
        digest = digest_of(custom_id)
        if digest in self._seen:
            return _problem(number, "duplicate_custom_id", "The custom_id of this line was used before.", "custom_id")
        self._seen.add(digest)
        if row["method"] != "POST":
            return _problem(number, "invalid_method", "The method must be POST.", "method")
        if row["url"] != self._endpoint:
            return _problem(number, "invalid_url", "The url of this line does not match the batch's endpoint.", "url")
        return None

    def _body(self, number: int, body: Any) -> BatchProblem | None:
        if not isinstance(body, dict):
            return _problem(number, "invalid_request", "body must be an object.", "body")
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return _missing(number, "body.model")
        self.model = self.model or model
        if model != self.model:
            return _problem(number, "mismatched_model", "All requests of a batch must use one model.", "body.model")
        if body.get("stream"):
            return _problem(number, "streaming_unsupported", "Streaming is not supported in batches.", "body.stream")
        messages = body.get("messages")
        if messages is None:
            return _missing(number, "body.messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            return _problem(number, "invalid_request", "messages must be a list of messages.", "body.messages")
        return None


class OpenAIDialect:
    ways = Ways()

    def checker(self, batch: Batch, *, rows_max: int) -> OpenAIChecker:
        return OpenAIChecker(batch.endpoint, rows_max=rows_max)

    def request(self, line: bytes) -> RowRequest:
        row = orjson.loads(line)
        return RowRequest(custom_id=row["custom_id"], question=_question(row["body"]))

    def answered(self, batch: Batch, row: RowRequest, answer: Answer) -> bytes:
        request_id = _request_id(batch, row)
        body: dict[str, Any] = {
            "id": f"chatcmpl-{request_id[:24]}",
            "object": "chat.completion",
            "created": batch.created_ms // 1000,
            "model": row.question.model,
            "choices": [_choice(answer)],
        }
        if answer.usage_told:
            body["usage"] = _usage(answer)
        return _line(batch, row, {"status_code": 200, "request_id": request_id, "body": body})

    def failed(self, batch: Batch, row: RowRequest, status: int) -> bytes:
        if status == 0:
            return _line(batch, row, {"status_code": 0, "request_id": "", "body": {}})
        kind, code, message = _FAILURES[status]
        error = {"message": message, "type": kind, "param": None, "code": code}
        response = {"status_code": status, "request_id": _request_id(batch, row), "body": {"error": error}}
        return _line(batch, row, response)

    def not_run(self, batch: Batch, row: RowRequest, *, expired: bool) -> bytes:
        code = "batch_expired" if expired else "batch_cancelled"
        why = "before it could be executed because the batch"
        message = f"This request was not executed {why} {'expired' if expired else 'was cancelled'}."
        return _line(batch, row, None, {"code": code, "message": message})


def _problem(number: int, code: str, message: str, param: str | None = None) -> BatchProblem:
    return BatchProblem(code=code, message=message, line=number, param=param)


def _missing(number: int, name: str) -> BatchProblem:
    return _problem(number, "missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def _question(body: dict[str, Any]) -> Question:
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


def _text_of(content: Any) -> str:
    """Content is a text, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _choice(answer: Answer) -> dict[str, Any]:
    content, refusal = (None, answer.content) if answer.refused else (answer.content, None)
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {"index": 0, "message": message, "finish_reason": "length" if answer.truncated else "stop"}


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _request_id(batch: Batch, row: RowRequest) -> str:
    return digest_of(batch.id, row.custom_id).hex()[:32]


def _line(batch: Batch, row: RowRequest, response: Any, error: Any = None) -> bytes:
    line_id = f"batch_req_{_request_id(batch, row)}"
    line = {"id": line_id, "custom_id": row.custom_id, "response": response, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
