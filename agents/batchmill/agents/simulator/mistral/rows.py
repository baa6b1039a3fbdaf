"""Law: the lines of Mistral batch files, read, checked and written. Pure.

A line is `custom_id` and `body`; the model may be the job's. Result lines are OpenAI's but for the error object. A
request that the model does not take fails by itself.

Of no document: what becomes of rows that a cancelled or timed out job did not come to (here they are in no file), and
whether a line that is not JSON fails the whole job (here it does).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson
from typing_extensions import override

from batchmill.agents.simulator.answering import Embed, Question
from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.dialect import Dialect, RowRequest
from batchmill.agents.simulator.mistral.objects import error_object
from batchmill.agents.simulator.records import Batch, BatchProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.agents.simulator.answering import Answer

__all__ = ["ENDPOINTS", "MistralChecker", "MistralDialect"]

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
ENDPOINTS: Final = (CHAT, EMBEDDINGS)
DIMENSIONS: Final = 1_024
#: members of a chat request that only OpenAI knows; the service forbids what it does not know
_UNKNOWN: Final = frozenset({"max_completion_tokens", "seed", "logprobs", "top_logprobs", "store", "user"})
_FAILURES: Final[Mapping[int, tuple[str, str | None, str]]] = MappingProxyType(
    {
        400: ("invalid_request_error", None, "The request was not accepted by the model."),
        404: ("invalid_model", "1500", "Invalid model"),
        429: ("rate_limited", "1300", "Rate limit exceeded"),
        500: ("server_error", None, "Internal server error"),
    }
)


class MistralChecker:
    def __init__(self, model: str | None, *, rows_max: int) -> None:
        self.rows = 0
        self.model = model
        self._rows_max = rows_max
        self._seen: set[bytes] = set()

    def line(self, number: int, line: bytes) -> BatchProblem | None:
        if not line.strip():
            return None
        self.rows += 1
        if self.rows > self._rows_max:
            return _problem(number, f"The batch has more than {self._rows_max} requests.")
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        body = row.get("body") if isinstance(row, dict) else None
        if not isinstance(row, dict) or not isinstance(body, dict):
            return _problem(number, f"Line {number} is not a JSON object with a body.")
        return self._named(number, row, body)

    def end(self) -> BatchProblem | None:
        if not self.rows:
            return BatchProblem(code="empty_file", message="The input files hold no requests.")
        if self.model is None:
            return BatchProblem(code="no_model", message="Neither the job nor its requests name a model.")
        return None

    def _named(self, number: int, row: dict[str, Any], body: dict[str, Any]) -> BatchProblem | None:
        custom_id, model = row.get("custom_id"), body.get("model")
        if custom_id is not None and (digest := digest_of(str(custom_id))) in self._seen:
            return _problem(number, f"The custom_id of line {number} was used before.")
        if custom_id is not None:
            self._seen.add(digest)
        if model is not None:
            self.model = self.model or str(model)
            if model != self.model:
                return _problem(number, f"Line {number} asks another model than the job.")
        return None


class MistralDialect(Dialect):
    one_file = False
    expires_whole = False
    cancels_at_once = False

    @override
    def checker(self, batch: Batch, *, rows_max: int) -> MistralChecker:
        return MistralChecker(batch.model, rows_max=rows_max)

    @override
    def request(self, line: bytes) -> RowRequest:
        row = orjson.loads(line)
        body = row["body"]
        custom_id = "" if row.get("custom_id") is None else str(row["custom_id"])
        embeds = "input" in body
        is_good = (_has_texts(body) if embeds else _has_messages(body)) and not _UNKNOWN & body.keys()
        question = _embedding(body) if embeds else _question(body)
        return RowRequest(custom_id=custom_id, question=question, invalid=None if is_good else _failure(custom_id, 400))

    @override
    def answered(self, batch: Batch, row: RowRequest, answer: Answer) -> bytes:
        body: dict[str, Any] = {
            "id": _request_id(batch, row),
            "model": row.question.model,
            **(_vectors(answer) if row.question.embed else _completion(batch, answer)),
        }
        if answer.usage_told:
            body["usage"] = _usage(answer)
        return _line(row.custom_id, {"status_code": 200, "body": body})

    @override
    def failed(self, batch: Batch, row: RowRequest, status: int) -> bytes:
        if status == 0:
            return _line(row.custom_id, {"status_code": 0, "body": {}})
        return _failure(row.custom_id, status)

    @override
    def not_run(self, batch: Batch, row: RowRequest, *, expired: bool) -> bytes:
        return b""


def _problem(number: int, message: str) -> BatchProblem:
    return BatchProblem(code="invalid_file", message=message, line=number)


def _has_messages(body: dict[str, Any]) -> bool:
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages) and all(isinstance(each, dict) for each in messages)


def _question(body: dict[str, Any]) -> Question:
    messages = body["messages"] if _has_messages(body) else []
    said = [(message.get("role"), _text_of(message.get("content"))) for message in messages]
    form = body.get("response_format")
    form = form if isinstance(form, dict) else {}
    described = form.get("json_schema")
    limit = body.get("max_tokens")
    return Question(
        model=str(body.get("model") or ""),
        text=next((text for role, text in reversed(said) if role == "user"), ""),
        chars=sum(len(text) for _, text in said),
        schema=described.get("schema") if isinstance(described, dict) and form.get("type") == "json_schema" else None,
        json_only=form.get("type") == "json_object",
        output_tokens_max=limit if isinstance(limit, int) else None,
    )


def _has_texts(body: dict[str, Any]) -> bool:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)


def _embedding(body: dict[str, Any]) -> Question:
    texts = tuple(map(str, body["input"])) if isinstance(body["input"], list) else (str(body["input"]),)
    size = body.get("output_dimension")
    embed = Embed(texts=texts, dimensions=size if isinstance(size, int) and size > 0 else DIMENSIONS)
    return Question(
        model=str(body.get("model") or ""), text="".join(texts[:1]), chars=sum(map(len, texts)), embed=embed
    )


def _vectors(answer: Answer) -> dict[str, Any]:
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(answer.vectors)]
    return {"object": "list", "data": data}


def _completion(batch: Batch, answer: Answer) -> dict[str, Any]:
    return {"object": "chat.completion", "created": batch.created_ms // 1000, "choices": [_choice(answer)]}


def _text_of(content: Any) -> str:
    """Content is a text, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _choice(answer: Answer) -> dict[str, Any]:
    """There is no word for a refusal: the model says so in its answer."""
    message = {"role": "assistant", "content": answer.content, "tool_calls": None, "prefix": False}
    return {"index": 0, "message": message, "finish_reason": "length" if answer.truncated else "stop"}


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _request_id(batch: Batch, row: RowRequest) -> str:
    return digest_of(batch.id, row.custom_id).hex()[:32]


def _failure(custom_id: str, status: int) -> bytes:
    kind, code, message = _FAILURES[status]
    body = error_object(message, kind=kind, code=code, status=status)
    return _line(custom_id, {"status_code": status, "body": body})


def _line(custom_id: str, response: dict[str, Any]) -> bytes:
    line_id = f"batch-{digest_of(custom_id).hex()[:32]}"
    line = {"id": line_id, "custom_id": custom_id or None, "response": response, "error": None}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
