"""Law: the OpenAI endpoints for files, batches and single calls: read the request, ask the core, answer in its words.

Faults of uploads, creates, reads and downloads strike here, because here is where an answer can go wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchmill.agents import clock
from batchmill.agents.simulator.calling import NO_MODEL, Call, Called
from batchmill.agents.simulator.doors import (
    Refusal,
    after_create,
    batch_at,
    body_of,
    cancelled,
    content_of,
    flaps,
    guarded,
    object_in,
    retry_after,
    struck,
    within,
)
from batchmill.agents.simulator.exchange import Disconnect, note, silence
from batchmill.agents.simulator.faults import Fault, Place
from batchmill.agents.simulator.multipart import FormReader, MultipartError, boundary_of
from batchmill.agents.simulator.openai.endpoints import CHAT, ENDPOINTS, Endpoint
from batchmill.agents.simulator.openai.headers import rate_headers
from batchmill.agents.simulator.openai.objects import batch_object, error_object, file_object, list_object
from batchmill.agents.simulator.openai.rows import OpenAIChecker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request

    from batchmill.agents.simulator.core import Core, Upload
    from batchmill.agents.simulator.limits import Verdict
    from batchmill.agents.simulator.records import Batch, StoredFile

__all__ = ["PROVIDER", "routes"]

PROVIDER: Final = "openai"
PREFIX: Final = "/v1"
AZURE_PREFIX: Final = "/openai/v1"
WINDOW: Final = "24h"
PAGE_DEFAULT: Final = 20
BATCHES_PAGE_MAX: Final = 100
FILES_PAGE_MAX: Final = 10_000
BODY_BYTES_MAX: Final = 256 * 1024  # of a create request; files have their own limit
CALL_BYTES_MAX: Final = 32 * 1024 * 1024
REQUEST_ID: Final = "x-client-request-id"  # the one a client may choose for a single call
METADATA_PAIRS_MAX: Final = 16
METADATA_KEY_CHARS_MAX: Final = 64
METADATA_VALUE_CHARS_MAX: Final = 512


def routes() -> Sequence[Route]:
    return [route for prefix in (PREFIX, AZURE_PREFIX) for route in _routes_under(prefix)]


def _routes_under(prefix: str) -> list[Route]:
    return [
        # first, because routes are tried in order and these are asked thousands of times a second
        *(
            Route(prefix + path.removeprefix(PREFIX), _endpoint(_single_call, control=False), methods=["POST"])
            for path in ENDPOINTS
        ),
        Route(prefix + "/files", _endpoint(_create_file), methods=["POST"]),
        Route(prefix + "/files", _endpoint(_list_files), methods=["GET"]),
        Route(prefix + "/files/{file_id}", _endpoint(_get_file), methods=["GET"]),
        Route(prefix + "/files/{file_id}", _endpoint(_delete_file), methods=["DELETE"]),
        Route(prefix + "/files/{file_id}/content", _endpoint(_file_content), methods=["GET"]),
        Route(prefix + "/batches", _endpoint(_create_batch), methods=["POST"]),
        Route(prefix + "/batches", _endpoint(_list_batches), methods=["GET"]),
        Route(prefix + "/batches/{batch_id}", _endpoint(_get_batch), methods=["GET"]),
        Route(prefix + "/batches/{batch_id}/cancel", _endpoint(_cancel_batch), methods=["POST"]),
    ]


def _endpoint(
    handler: Callable[[Core, Request], Awaitable[Response]], *, control: bool = True
) -> Callable[[Request], Awaitable[Response]]:
    return guarded(handler, provider=PROVIDER, key_of=_authorized, throttled=_throttled, control=control, told=_told)


_SAYS_NO: Final = frozenset({400, 404})


def _told(core: Core, request: Request, refusal: Refusal) -> Refusal:
    """A fault may make what says no look like a failure of the service."""
    if refusal.status not in _SAYS_NO or core.strike(Place.ANSWER, request.url.path) is None:
        return refusal
    note(request, fault=Fault.REFUSED_AS_500)
    return _server_error()


def _refusal(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    retry_after_seconds: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Refusal:
    body = error_object(message, kind=kind, param=param, code=code)
    return Refusal(status, body, headers={**(headers or {}), **retry_after(retry_after_seconds)})


def _is_azure(request: Request) -> bool:
    return request.url.path.startswith(AZURE_PREFIX)


def _authorized(core: Core, request: Request) -> str:
    """The API key: a bearer token, or the header `api-key` as Azure has it."""
    key = _key_of(request)
    if not key:
        raise _refusal(401, "You didn't provide an API key. Provide it as a Bearer token in the Authorization header.")
    if core.config.api_key is not None and key != core.config.api_key:
        raise _refusal(401, "Incorrect API key provided.", code="invalid_api_key")
    return key


def _key_of(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("api-key", "")


def _throttled(rates: Verdict) -> Refusal:
    message = f"Rate limit reached ({rates.limited_by} per minute). Please try again later."
    if rates.wait_seconds is None:
        message = "Request too large: it asks for more tokens than the rate limit lets through at once."
    return _refusal(
        429,
        message,
        kind=rates.limited_by or "requests",
        code="rate_limit_exceeded",
        retry_after_seconds=rates.wait_seconds,
        headers=rate_headers(rates),
    )


def _server_error(status: int = 500) -> Refusal:
    return _refusal(status, "The server had an error while processing your request.", kind="server_error")


# Files -------------------------------------------------------------------------------------------------------------


async def _create_file(core: Core, request: Request) -> Response:
    fault = struck(core, request, Place.UPLOAD, request.headers.get("content-length", ""))
    if fault is Fault.UPLOAD_500:
        raise _server_error()
    if fault is Fault.UPLOAD_DISCONNECT:
        await anext(request.stream())
        return Disconnect()
    upload = core.upload()
    try:
        form = await _receive(core, request, upload)
        if fault is Fault.UPLOAD_CHECKS_LINES:
            _check_lines(core, upload)
        file = await _keep(core, form, upload)
    finally:
        upload.discard()
    note(request, file_id=file.id)
    if fault is Fault.UPLOAD_ACCEPT_THEN_500:
        raise _server_error()
    return JSONResponse(file_object(file))


async def _receive(core: Core, request: Request, upload: Upload) -> FormReader:
    try:
        boundary = boundary_of(request.headers.get("content-type", ""))
        form = FormReader(boundary, file_field="file", sink=upload.write)
        async for chunk in request.stream():
            form.feed(chunk)
            if upload.size_bytes > core.config.upload_bytes_max:
                raise _refusal(413, f"The file is larger than {core.config.upload_bytes_max} bytes.", param="file")
        form.close()
    except MultipartError as error:
        raise _refusal(400, f"Invalid form: {error}.") from None
    upload.close()
    return form


def _check_lines(core: Core, upload: Upload) -> None:
    """By the endpoint of the first line: the batch, which names one, does not exist yet."""
    with upload.path.open("rb") as lines:
        checker = OpenAIChecker(_endpoint_of(lines.readline()), rows_max=core.config.batch_rows_max)
        lines.seek(0)
        problems = (checker.line(number, line) for number, line in enumerate(lines, start=1))
        problem = next((found for found in problems if found is not None), None) or checker.end()
    if problem is not None:
        message = f"Line {problem.line}: {problem.message}"
        raise _refusal(400, message, param=problem.param, code=problem.code)


def _endpoint_of(line: bytes) -> str:
    try:
        url = orjson.loads(line)["url"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return CHAT
    return url if isinstance(url, str) and url in ENDPOINTS else CHAT


async def _keep(core: Core, form: FormReader, upload: Upload) -> StoredFile:
    if form.filename is None:
        raise _refusal(400, "'file' is a required property", param="file")
    if form.fields.get("purpose") != "batch":
        raise _refusal(400, "Invalid value for 'purpose': this simulator takes 'batch' only.", param="purpose")
    return await core.keep_upload(upload, provider=PROVIDER, filename=form.filename, purpose="batch")


def _file(core: Core, request: Request) -> StoredFile:
    file_id = request.path_params["file_id"]
    note(request, file_id=file_id)
    file = core.store.file(PROVIDER, file_id)
    if file is None:
        raise _no_file(file_id)
    return file


def _no_file(file_id: str) -> Refusal:
    return _refusal(404, f"No such File object: {file_id}", param="id")


async def _list_files(core: Core, request: Request) -> Response:
    limit = _limit(request, default=FILES_PAGE_MAX, most=FILES_PAGE_MAX)
    found = core.store.files_after(PROVIDER, request.query_params.get("after"), limit + 1)
    if found is None:
        raise _refusal(404, "No such File object in 'after'.", param="after")
    return JSONResponse(list_object([file_object(file) for file in found[:limit]], has_more=len(found) > limit))


async def _get_file(core: Core, request: Request) -> Response:
    return JSONResponse(file_object(_file(core, request)))


async def _delete_file(core: Core, request: Request) -> Response:
    file = _file(core, request)
    await core.delete_file(file)
    return JSONResponse({"id": file.id, "object": "file", "deleted": True})


async def _file_content(core: Core, request: Request) -> Response:
    file = _file(core, request)
    return content_of(core, request, file, _server_error, absent=_no_file)


# Batches -----------------------------------------------------------------------------------------------------------


async def _create_batch(core: Core, request: Request) -> Response:
    _, asked = await _asked(request, BODY_BYTES_MAX)
    endpoint, metadata = _checked(asked)
    file = core.store.file(PROVIDER, str(asked["input_file_id"]))
    if file is None or file.purpose != "batch":
        message = f"Invalid 'input_file_id': no such File object for a batch: {asked['input_file_id']}"
        raise _refusal(400, message, param="input_file_id", code="invalid_input_file_id")
    note(request, file_id=file.id)
    within(core.ask_create(PROVIDER, _key_of(request)), _throttled)
    fault = struck(core, request, Place.CREATE, file.sha256)
    _reject(core, fault)
    quirks = [Fault.EMPTY_ERROR_FILE] if _is_azure(request) else []
    batch = await core.create_batch(file, endpoint=endpoint, window=WINDOW, metadata=metadata, quirks=quirks)
    note(request, batch_id=batch.id)
    return after_create(core, fault, _shown(core, request, batch), _server_error)


def _reject(core: Core, fault: Fault | None) -> None:
    """Faults that leave nothing behind."""
    if fault is Fault.REJECT_500:
        raise _server_error()
    if fault is Fault.REJECT_OVERLOADED:
        raise _server_error(503)
    if fault is Fault.REJECT_BILLING:
        message = "Your account is not active, please check your billing details."
        raise _refusal(402, message, kind="billing_error", code="billing_not_active")
    if fault is Fault.REJECT_429:
        wait = core.plan[fault].seconds
        message = "Rate limit reached for batch creation."
        raise _refusal(429, message, kind="requests", code="rate_limit_exceeded", retry_after_seconds=wait)
    if fault is Fault.REJECT_QUOTA:
        raise _no_money()


def _no_money() -> Refusal:
    message = "You exceeded your current quota, please check your plan and billing details."
    return _refusal(429, message, kind="insufficient_quota", code="insufficient_quota")


def _shown(core: Core, request: Request, batch: Batch, *, flapping: bool = False) -> Response:
    headers = {}
    if _is_azure(request) and batch.model is not None:
        tokens, _ = core.queued(PROVIDER, batch.model)
        headers["deployment-enqueued-tokens"] = str(tokens)
    return JSONResponse(batch_object(batch, now_ms=clock.wall_ms(), flapping=flapping), headers=headers)


async def _asked(request: Request, bytes_max: int) -> tuple[bytes, dict[str, Any]]:
    body = await body_of(request, bytes_max=bytes_max, too_large=_refusal(413, "The request body is too large."))
    return body, object_in(body, otherwise=_refusal(400, "We could not parse the JSON body of your request."))


def _checked(asked: dict[str, Any]) -> tuple[str, dict[str, str]]:
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(asked.get(name), str):
            message = f"Missing required parameter: '{name}'."
            raise _refusal(400, message, param=name, code="missing_required_parameter")
    if asked["endpoint"] not in ENDPOINTS:
        message = f"Invalid value for 'endpoint': supported values are {', '.join(ENDPOINTS)}."
        raise _refusal(400, message, param="endpoint", code="invalid_value")
    if asked["completion_window"] != WINDOW:
        message = f"Invalid value for 'completion_window': the supported value is {WINDOW}."
        raise _refusal(400, message, param="completion_window", code="invalid_value")
    return asked["endpoint"], _metadata(asked.get("metadata"))


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _refusal(400, "Invalid type for 'metadata': give an object of strings.", param="metadata")
    if len(value) > METADATA_PAIRS_MAX:
        raise _refusal(400, f"Invalid 'metadata': more than {METADATA_PAIRS_MAX} pairs.", param="metadata")
    if any(len(key) > METADATA_KEY_CHARS_MAX or len(text) > METADATA_VALUE_CHARS_MAX for key, text in value.items()):
        raise _refusal(400, "Invalid 'metadata': a key or value is too long.", param="metadata")
    return value


def _batch(core: Core, request: Request) -> Batch:
    return batch_at(core, request, request.path_params["batch_id"], provider=PROVIDER, absent=_no_batch)


def _no_batch(batch_id: str) -> Refusal:
    return _refusal(404, f"No batch found with id '{batch_id}'.")


async def _get_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    flapping = flaps(core, request, batch, absent=_no_batch, failed=_server_error)
    return _shown(core, request, batch, flapping=flapping)


async def _list_batches(core: Core, request: Request) -> Response:
    after = request.query_params.get("after")
    limit = _limit(request, default=PAGE_DEFAULT, most=BATCHES_PAGE_MAX)
    if struck(core, request, Place.LIST, after or "") is not None:
        raise _server_error()
    now = clock.wall_ms()
    found = core.store.batches_after(PROVIDER, after, now_ms=now, limit=limit + 1)
    if found is None:
        raise _refusal(404, f"No batch found with id '{after}'.", param="after")
    shown = [batch_object(batch, now_ms=now) for batch in found[:limit]]
    return JSONResponse(list_object(shown, has_more=len(found) > limit))


async def _cancel_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    if batch.status.ended:
        raise _refusal(409, f"Cannot cancel a batch with status '{batch.status}'.")
    asked = await cancelled(core, request, batch, _server_error)
    return _shown(core, request, asked)


def _limit(request: Request, *, default: int, most: int) -> int:
    text = request.query_params.get("limit", str(default))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise _refusal(400, f"Invalid 'limit': a whole number from 1 to {most}.", param="limit")
    return int(text)


# Single calls ------------------------------------------------------------------------------------------------------


async def _single_call(core: Core, request: Request) -> Response:
    endpoint = ENDPOINTS[request.url.path.removeprefix("/openai")]
    body, asked = await _asked(request, CALL_BYTES_MAX)
    _check_call(endpoint, asked)
    question = endpoint.question(asked)
    custom_id = request.headers.get(REQUEST_ID, "")
    called = await core.call(
        Call(provider=PROVIDER, key=_key_of(request), question=question, body=body, custom_id=custom_id)
    )
    note(request, call_id=called.id, **({"fault": called.fault} if called.fault else {}))
    if called.answer is None:
        return silence(called) or _unanswered(called, question.model)
    shown = endpoint.answered(called.id, called.created_ms // 1000, question, called.answer)
    return Response(orjson.dumps(shown), media_type="application/json", headers=_call_headers(called))


def _check_call(endpoint: Endpoint, asked: dict[str, Any]) -> None:
    if not isinstance(asked.get("model"), str) or not asked["model"]:
        raise _refusal(400, "you must provide a model parameter", param="model")
    if asked.get("stream"):
        raise _refusal(400, "This simulator does not stream.", param="stream", code="streaming_unsupported")
    wrong = endpoint.check(asked)
    if wrong is not None:
        raise _refusal(400, wrong.message, param=wrong.param, code=wrong.code)


def _unanswered(called: Called, model: str) -> Response:
    """Refused by a limit, by the model's absence, or by a fault."""
    if called.rates.limited_by is not None:
        raise _throttled(called.rates)
    if called.status == NO_MODEL:
        raise _refusal(404, f"The model '{model}' does not exist.", param="model", code="model_not_found")
    if called.fault is Fault.CALL_QUOTA:
        raise _no_money()
    headers = _call_headers(called)
    if called.fault is Fault.CALL_429:
        message, code = "Rate limit reached. Please try again later.", "rate_limit_exceeded"
        raise _refusal(429, message, kind="requests", code=code, retry_after_seconds=called.seconds, headers=headers)
    message = "The server had an error while processing your request."
    raise _refusal(called.status, message, kind="server_error", retry_after_seconds=called.seconds, headers=headers)


def _call_headers(called: Called) -> dict[str, str]:
    return {"x-request-id": f"req_{called.id}", **rate_headers(called.rates)}
