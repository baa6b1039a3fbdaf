"""What is answered when it does not go well: one form (RFC 9457), one table from our errors to HTTP's numbers.

A browser that asks for a page gets the same as one; programs, the API and htmx get the form. A detail says why and what
to do. It holds no payload: what was sent is not repeated, what was found is not shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from batchmill.agents.desk.model import DeskError, ErrorKind
from batchmill.agents.logs import get_logger
from batchmill.agents.web.pages.rendering import rendered

__all__ = [
    "API",
    "CONTENT_TYPE",
    "LOGIN",
    "MEANINGS",
    "SCHEMA",
    "STATUS",
    "handlers",
    "problem",
    "refusal",
    "responses",
]

API: Final = "/api/"
LOGIN: Final = "/login"
CONTENT_TYPE: Final = "application/problem+json"
STATUS: Final[Mapping[ErrorKind, int]] = {
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.REFUSED: 422,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.UNAVAILABLE: 503,
}
#: every status that is not a success, and what it means here
MEANINGS: Final[Mapping[int, str]] = {
    400: "The request cannot be read.",
    401: "Nobody is known by this token, or there is none.",
    403: "The role does not suffice, or the request comes from another site.",
    404: "There is no such thing.",
    408: "The request took too long to come in.",
    409: "Decided, changed or held by somebody else meanwhile.",
    413: "The request is too large.",
    421: "This server does not go by that name.",
    422: "Understood and refused: a value is out of bounds, or a correction does not pass its checks.",
    429: "Too many wrong tokens from this address.",
    503: "The broker or the view cannot be reached; the same call may pass later.",
}
_FIELDS_MAX: Final = 20
_FIELD_CHARS_MAX: Final = 100

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "checks": {
            "type": "array",
            "description": "The failed checks of a correction.",
            "items": {
                "type": "object",
                "required": ["id", "severity", "passed"],
                "properties": {
                    "id": {"type": "string"},
                    "severity": {"type": "string"},
                    "passed": {"type": "boolean"},
                    "path": {"type": ["string", "null"]},
                    "note": {"type": ["string", "null"]},
                },
            },
        },
        "fields": {
            "type": "array",
            "description": "Which parts of the request are wrong.",
            "items": {
                "type": "object",
                "required": ["where", "wrong"],
                "properties": {"where": {"type": "string"}, "wrong": {"type": "string"}},
            },
        },
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    where: str
    wrong: str


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Response:
    """The answer; `more`: `checks` or `fields`."""
    told = {"type": f"urn:batchmill:{status}", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = orjson.dumps({**told, **(more or {})})
    return Response(body, status_code=status, media_type=CONTENT_TYPE, headers=dict(headers or {}))


def refusal(
    path: str,
    asked: Headers,
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Response:
    """As a page where a browser asks for one, else as `problem`. `asked`: the headers of the request."""
    wants_page = "text/html" in asked.get("accept", "") and "hx-request" not in asked
    if not wants_page or path.startswith(API):
        return problem(status, detail, headers=headers, more=more)
    back, back_name = (LOGIN, "Log in") if status == 401 else ("/review", "To the queue")
    title = MEANINGS.get(status, HTTPStatus(status).phrase).rstrip(".")
    frame = {"user": None, "signed_in": False, "here": "", "change": None}
    told = {"title": title, "detail": detail, "back": back, "back_name": back_name}
    page = rendered("error.html", status=status, **frame, **told)
    page.headers.update(headers or {})
    return page


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of these."""
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": MEANINGS[status], "content": content} for status in sorted(statuses)}


def handlers() -> dict[Any, Any]:
    """What FastAPI is told to do with errors."""
    return {
        DeskError: _desk_error,
        RequestValidationError: _unreadable,
        HTTPException: _http_error,
        Exception: _bug,
    }


async def _desk_error(request: Request, error: DeskError) -> Response:
    checks = {"checks": [asdict(check) for check in error.checks]} if error.checks else {}
    return refusal(request.url.path, request.headers, STATUS[error.kind], str(error), more=checks)


async def _unreadable(request: Request, error: RequestValidationError) -> Response:
    """Where and what kind of mistake; never the value."""
    fields = [_Field(where=_where(each["loc"]), wrong=str(each["type"])) for each in error.errors()[:_FIELDS_MAX]]
    detail, more = "parts of the request are missing or wrong", {"fields": [asdict(each) for each in fields]}
    return refusal(request.url.path, request.headers, 422, detail, more=more)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return refusal(request.url.path, request.headers, error.status_code, str(error.detail), headers=error.headers)


async def _bug(request: Request, error: Exception) -> Response:
    get_logger(__name__).error("web_bug", path=request.url.path, kind=type(error).__name__, exc_info=error)
    return refusal(request.url.path, request.headers, 500, "a bug of ours; the server's log has more")


def _where(loc: Sequence[Any]) -> str:
    return ".".join(str(part) for part in loc)[:_FIELD_CHARS_MAX]
