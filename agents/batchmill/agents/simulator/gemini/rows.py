"""Law: the lines of Gemini batch files, read, checked and written. Pure.

A row is told by its `key`; its answer is a `response`, its failure an `error` of google.rpc (a number and a text), and
both lie in one file. A request that the model does not take fails by itself.

Of no document: what becomes of rows that a cancelled batch did not come to (here they are in no file), and whether a
line that is not JSON fails the whole batch (here it does).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson
from typing_extensions import override

from batchmill.agents.simulator.answering import Question
from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.dialect import Dialect, RowRequest
from batchmill.agents.simulator.records import Batch, BatchProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.agents.simulator.answering import Answer

__all__ = ["GeminiChecker", "GeminiDialect", "model_of"]

MODELS: Final = "models/"
INVALID_ARGUMENT: Final = "INVALID_ARGUMENT"
#: members of `Schema` in the API; another one is a request it cannot read
_SCHEMA_WORDS: Final = frozenset(
    {
        *("type", "format", "title", "description", "nullable", "enum", "default", "example", "pattern"),
        *("items", "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "anyOf"),
        *("properties", "required", "propertyOrdering", "minProperties", "maxProperties", "additionalProperties"),
    }
)
_FAILURES: Final[Mapping[int, tuple[int, str]]] = MappingProxyType(
    {
        400: (3, "Request contains an invalid argument."),
        404: (5, "The model is not found."),
        429: (8, "Resource has been exhausted (e.g. check quota)."),
        500: (13, "An internal error has occurred."),
    }
)


class GeminiChecker:
    def __init__(self, model: str, *, rows_max: int) -> None:
        self.rows = 0
        self.model: str | None = model
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
        if not isinstance(row, dict) or not isinstance(row.get("request"), dict):
            return _problem(number, f"Line {number} is not a request.")
        key = row.get("key")
        if not isinstance(key, str) or (digest := digest_of(key)) in self._seen:
            return _problem(number, f"The key of line {number} is missing or was used before.")
        self._seen.add(digest)
        return None

    def end(self) -> BatchProblem | None:
        return None if self.rows else BatchProblem(code=INVALID_ARGUMENT, message="The input holds no requests.")


class GeminiDialect(Dialect):
    one_file = True
    expires_whole = True
    cancels_at_once = True

    @override
    def checker(self, batch: Batch, *, rows_max: int) -> GeminiChecker:
        return GeminiChecker(batch.model or "", rows_max=rows_max)

    @override
    def request(self, line: bytes) -> RowRequest:
        row = orjson.loads(line)
        invalid = _failure(row["key"], 400) if _is_unreadable(row["request"]) else None
        return RowRequest(custom_id=row["key"], question=_question(row["request"]), invalid=invalid)

    @override
    def answered(self, batch: Batch, row: RowRequest, answer: Answer) -> bytes:
        response: dict[str, Any] = {
            "candidates": [_candidate(answer)],
            "modelVersion": batch.model,
            "responseId": digest_of(batch.id, row.custom_id).hex()[:24],
        }
        if answer.usage_told:
            response["usageMetadata"] = _usage(answer)
        return _line({"key": row.custom_id, "response": response})

    @override
    def failed(self, batch: Batch, row: RowRequest, status: int) -> bytes:
        return _line({"key": row.custom_id}) if status == 0 else _failure(row.custom_id, status)

    @override
    def not_run(self, batch: Batch, row: RowRequest, *, expired: bool) -> bytes:
        return b""


def model_of(name: str) -> str:
    """A model's name without its collection."""
    return name.removeprefix(MODELS)


def _problem(number: int, message: str) -> BatchProblem:
    return BatchProblem(code=INVALID_ARGUMENT, message=message, line=number)


def _question(request: dict[str, Any]) -> Question:
    said = _list(request.get("contents"))
    texts = [(turn.get("role", "user"), _text_of(turn)) for turn in said if isinstance(turn, dict)]
    config = _dict(request.get("generationConfig"))
    system = _text_of(_dict(request.get("systemInstruction")))
    schema, unsound = config.get("responseSchema"), config.get("responseJsonSchema")
    return Question(
        model="",  # the batch's
        text=next((text for role, text in reversed(texts) if role == "user"), ""),
        chars=len(system) + sum(len(text) for _, text in texts),
        prefix=system,
        schema=_json_schema(schema) if schema is not None else unsound,
        schema_unsound=unsound is not None,
        json_only=config.get("responseMimeType") == "application/json",
        output_tokens_max=config.get("maxOutputTokens"),
    )


def _text_of(content: dict[str, Any]) -> str:
    parts = _list(content.get("parts"))
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _json_schema(schema: Any) -> Any:
    """Types are written in capitals here; the rest has the meaning it has in JSON Schema."""
    if isinstance(schema, list):
        return [_json_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {word: _json_schema(part) for word, part in schema.items() if word != "properties"}
    if isinstance(schema.get("properties"), dict):
        plain["properties"] = {name: _json_schema(part) for name, part in schema["properties"].items()}
    if isinstance(plain.get("type"), str):
        plain["type"] = plain["type"].lower()
    return plain


def _is_unreadable(request: dict[str, Any]) -> bool:
    contents = request.get("contents")
    if not isinstance(contents, list) or not contents or not all(isinstance(turn, dict) for turn in contents):
        return True
    config = request.get("generationConfig", {})
    if not isinstance(config, dict) or not isinstance(config.get("maxOutputTokens", 1), int):
        return True
    schemas = _schemas(config.get("responseSchema"))
    return any(not isinstance(schema, dict) or schema.keys() - _SCHEMA_WORDS for schema in schemas)


def _schemas(schema: Any) -> Iterator[Any]:
    if schema is None:
        return
    yield schema
    if isinstance(schema, dict):
        members = schema.get("properties")
        for part in [*(members.values() if isinstance(members, dict) else ()), *_list(schema.get("anyOf"))]:
            yield from _schemas(part)
        yield from _schemas(schema.get("items"))


def _candidate(answer: Answer) -> dict[str, Any]:
    """A refusal has no content: the candidate is stopped for safety."""
    if answer.refused:
        return {"finishReason": "SAFETY", "index": 0}
    content: dict[str, Any] = {"role": "model"}
    if answer.content:
        content["parts"] = [{"text": answer.content}]
    return {"content": content, "finishReason": "MAX_TOKENS" if answer.truncated else "STOP", "index": 0}


def _usage(answer: Answer) -> dict[str, int]:
    cached = {"cachedContentTokenCount": answer.cached_tokens} if answer.cached_tokens else {}
    return cached | {
        "promptTokenCount": answer.input_tokens,
        "candidatesTokenCount": answer.output_tokens,
        "totalTokenCount": answer.input_tokens + answer.output_tokens,
    }


def _failure(key: str, status: int) -> bytes:
    code, message = _FAILURES[status]
    return _line({"key": key, "error": {"code": code, "message": message}})


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
