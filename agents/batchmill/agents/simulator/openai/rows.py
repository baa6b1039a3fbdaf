"""Law: the lines of OpenAI batch files, read, checked and written. Pure.

Checking stops at the first bad line and one bad line fails the whole batch, as the real service does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.dialect import RowRequest
from batchmill.agents.simulator.openai.endpoints import EMBEDDINGS, ENDPOINTS
from batchmill.agents.simulator.records import Batch, BatchProblem

if TYPE_CHECKING:
    from batchmill.agents.simulator.answering import Answer

__all__ = ["OpenAIChecker", "OpenAIDialect"]

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
        self._inputs = 0  # one row can ask for many embeddings
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
        asked = body.get("input")
        self._inputs += len(asked) if isinstance(asked, list) and self._endpoint == EMBEDDINGS else 1
        if self._inputs > self._rows_max:
            return _problem(number, "too_many_tasks", f"The batch has more than {self._rows_max} inputs.")
        wrong = ENDPOINTS[self._endpoint].check(body)
        return None if wrong is None else _problem(number, wrong.code, wrong.message, f"body.{wrong.param}")


class OpenAIDialect:
    one_file = False
    expires_whole = False
    cancels_at_once = False

    def checker(self, batch: Batch, *, rows_max: int) -> OpenAIChecker:
        return OpenAIChecker(batch.endpoint, rows_max=rows_max)

    def request(self, line: bytes) -> RowRequest:
        row = orjson.loads(line)
        return RowRequest(custom_id=row["custom_id"], question=ENDPOINTS[row["url"]].question(row["body"]))

    def answered(self, batch: Batch, row: RowRequest, answer: Answer) -> bytes:
        request_id = _request_id(batch, row)
        body = ENDPOINTS[batch.endpoint].answered(request_id, batch.created_ms // 1000, row.question, answer)
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


def _request_id(batch: Batch, row: RowRequest) -> str:
    return digest_of(batch.id, row.custom_id).hex()[:32]


def _line(batch: Batch, row: RowRequest, response: Any, error: Any = None) -> bytes:
    line_id = f"batch_req_{_request_id(batch, row)}"
    line = {"id": line_id, "custom_id": row.custom_id, "response": response, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
