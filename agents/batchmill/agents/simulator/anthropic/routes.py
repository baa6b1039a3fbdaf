"""Law: the Anthropic endpoints for messages and batches of them: read the request, ask the core, answer in its words.

Faults of creates, reads and downloads strike here, because here is where an answer can go wrong.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import orjson
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchmill.agents import clock
from batchmill.agents.simulator.anthropic.headers import rate_headers
from batchmill.agents.simulator.anthropic.objects import (
    batch_object,
    deleted_object,
    error_object,
    has_results,
    list_object,
)
from batchmill.agents.simulator.anthropic.rows import (
    RequestError,
    RequestReader,
    call_problem,
    message_object,
    question_of,
)
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
from batchmill.agents.simulator.elements import ElementReader, ElementsError
from batchmill.agents.simulator.exchange import note, silence
from batchmill.agents.simulator.faults import Fault, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request

    from batchmill.agents.simulator.core import Core, Upload
    from batchmill.agents.simulator.limits import Verdict
    from batchmill.agents.simulator.records import Batch

__all__ = ["PROVIDER", "routes"]

PROVIDER: Final = "anthropic"
ENDPOINT: Final = "/v1/messages"
BATCHES: Final = "/v1/messages/batches"
WINDOW: Final = "24h"
PAGE_DEFAULT: Final = 20
PAGE_MAX: Final = 1_000
BODY_BYTES_MAX: Final = 256 * 10**6
CALL_BYTES_MAX: Final = 32 * 1024 * 1024
CUSTOM_ID: Final = "x-client-request-id"  # not the real service's: a name for a single call in the ledger
POLL_AFTER_SECONDS: Final = 10

#: What each kind of error is answered with.
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
}
#: What a client hears of a single call that a fault struck, by the status of the fault.
_CALL_FAILURES: Final = {
    429: ("rate_limit_error", "This request would exceed your rate limit. Please try again later."),
    500: ("api_error", "Internal server error"),
    503: ("overloaded_error", "Overloaded"),
}


def routes() -> Sequence[Route]:
    return [
        Route(ENDPOINT, _endpoint(_single_call, control=False), methods=["POST"]),
        Route(BATCHES, _endpoint(_create_batch), methods=["POST"]),
        Route(BATCHES, _endpoint(_list_batches), methods=["GET"]),
        Route(f"{BATCHES}/{{batch_id}}", _endpoint(_get_batch), methods=["GET"]),
        Route(f"{BATCHES}/{{batch_id}}", _endpoint(_delete_batch), methods=["DELETE"]),
        Route(f"{BATCHES}/{{batch_id}}/cancel", _endpoint(_cancel_batch), methods=["POST"]),
        Route(f"{BATCHES}/{{batch_id}}/results", _endpoint(_results), methods=["GET"]),
    ]


def _endpoint(
    handler: Callable[[Core, Request], Awaitable[Response]], *, control: bool = True
) -> Callable[[Request], Awaitable[Response]]:
    answer = guarded(handler, provider=PROVIDER, key_of=_authorized, throttled=_throttled, control=control, told=_told)

    async def endpoint(request: Request) -> Response:
        request.state.request_id = f"req_{secrets.token_hex(12)}"
        response = await answer(request)
        response.headers["request-id"] = request.state.request_id
        return response

    return endpoint


def _told(core: Core, request: Request, refusal: Refusal) -> Refusal:  # noqa: ARG001 - of every provider's
    """A refusal names its request in its body too."""
    body = {**refusal.body, "request_id": request.state.request_id}
    return Refusal(refusal.status, body, headers=refusal.headers)


def _refusal(
    kind: str,
    message: str,
    *,
    status: int | None = None,
    code: str | None = None,
    retry_after_seconds: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Refusal:
    body = error_object(kind, message, request_id=None, code=code)
    return Refusal(status or _STATUS[kind], body, headers={**(headers or {}), **retry_after(retry_after_seconds)})


def _authorized(core: Core, request: Request) -> str:
    key = _key_of(request)
    if not key:
        raise _refusal("authentication_error", "x-api-key header is required")
    if core.config.api_key is not None and key != core.config.api_key:
        raise _refusal("authentication_error", "invalid x-api-key")
    if not request.headers.get("anthropic-version"):
        raise _refusal("invalid_request_error", "anthropic-version: header is required")
    return key


def _key_of(request: Request) -> str:
    """The key comes in a header of its own or, as the official SDK has it by now, as a bearer token."""
    _, _, token = request.headers.get("authorization", "").partition(" ")
    return (request.headers.get("x-api-key") or token).strip()


def _throttled(rates: Verdict) -> Refusal:
    message = f"This request would exceed your rate limit ({rates.limited_by} per minute). Please try again later."
    headers = rate_headers(rates, now_ms=clock.wall_ms())
    return _refusal("rate_limit_error", message, retry_after_seconds=rates.wait_seconds, headers=headers)


def _server_error(status: int = 500) -> Refusal:
    return _refusal("api_error", "Internal server error", status=status)


# Create ------------------------------------------------------------------------------------------------------------


async def _create_batch(core: Core, request: Request) -> Response:
    upload = core.upload()
    try:
        rows = await _receive(request, upload)
        within(core.ask_create(PROVIDER, _key_of(request)), _throttled)
        if not core.has_room(PROVIDER, requests=rows):
            raise _refusal("rate_limit_error", "This batch would exceed the number of requests that may be queued.")
        fault = struck(core, request, Place.CREATE, upload.sha256)
        _reject(core, fault)
        batch = await core.create_inline_batch(
            upload, provider=PROVIDER, id_prefix="msgbatch_", endpoint=ENDPOINT, window=WINDOW, rows=rows
        )
    finally:
        upload.discard()
    note(request, batch_id=batch.id)
    return after_create(core, fault, _shown(request, batch), _server_error)


async def _receive(request: Request, upload: Upload) -> int:
    """The requests of the body, a line each, in the payload; gives their number."""
    reader = RequestReader()
    elements = ElementReader(field="requests", sink=lambda element: upload.write(reader.line(element)))
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise _refusal("request_too_large", "Request exceeds the maximum size")
            elements.feed(chunk)
        elements.close()
    except (ElementsError, RequestError) as error:
        raise _refusal("invalid_request_error", str(error)) from None
    if not reader.count:
        raise _refusal("invalid_request_error", "requests: List should have at least 1 item")
    upload.close()
    return reader.count


def _reject(core: Core, fault: Fault | None) -> None:
    """Faults that leave nothing behind."""
    match fault:
        case Fault.REJECT_500:
            raise _server_error()
        case Fault.REJECT_OVERLOADED:
            raise _refusal("overloaded_error", "Overloaded")
        case Fault.REJECT_429:
            message = "This request would exceed your organization's rate limit. Please try again later."
            raise _refusal("rate_limit_error", message, retry_after_seconds=core.plan[fault].seconds)
        case Fault.REJECT_QUOTA:
            message = "You have reached the spend limit of your tier."
            raise _refusal("rate_limit_error", message, code="enforced_spend_limit_reached")
        case Fault.REJECT_BILLING:
            raise _no_money()
        case _:
            return


def _no_money() -> Refusal:
    return _refusal("billing_error", "Your credit balance is too low to access the API.")


def _shown(request: Request, batch: Batch, *, flapping: bool = False) -> Response:
    shown = batch_object(batch, now_ms=clock.wall_ms(), base_url=_base_url(request), flapping=flapping)
    runs = shown["processing_status"] != "ended"
    return JSONResponse(shown, headers={"retry-after": str(POLL_AFTER_SECONDS)} if runs else {})


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


# Look, cancel, delete ----------------------------------------------------------------------------------------------


def _batch(core: Core, request: Request) -> Batch:
    return batch_at(core, request, request.path_params["batch_id"], provider=PROVIDER, absent=_no_batch)


def _no_batch(batch_id: str) -> Refusal:
    return _refusal("not_found_error", f"Message batch not found: {batch_id}")


async def _get_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    flapping = flaps(core, request, batch, absent=_no_batch, failed=_server_error)
    return _shown(request, batch, flapping=flapping)


async def _list_batches(core: Core, request: Request) -> Response:
    after, before = request.query_params.get("after_id"), request.query_params.get("before_id")
    limit = _limit(request)
    if after is not None and before is not None:
        raise _refusal("invalid_request_error", "after_id and before_id: give one of them")
    if struck(core, request, Place.LIST, after or before or "") is not None:
        raise _server_error()
    now = clock.wall_ms()
    if before is None:
        found = core.store.batches_after(PROVIDER, after, now_ms=now, limit=limit + 1)
        page = None if found is None else found[:limit]
    else:
        found = core.store.batches_before(PROVIDER, before, now_ms=now, limit=limit + 1)
        page = None if found is None else found[-limit:]
    if found is None or page is None:
        raise _no_batch(after or before or "")
    shown = [batch_object(batch, now_ms=now, base_url=_base_url(request)) for batch in page]
    return JSONResponse(list_object(shown, has_more=len(found) > limit))


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(PAGE_DEFAULT))
    if not text.isdecimal() or not 1 <= int(text) <= PAGE_MAX:
        raise _refusal("invalid_request_error", f"limit: Input should be from 1 to {PAGE_MAX}")
    return int(text)


async def _cancel_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    if batch.status.ended:
        raise _refusal("invalid_request_error", "The batch has ended and cannot be canceled.")
    asked = await cancelled(core, request, batch, _server_error)
    return _shown(request, asked)


async def _delete_batch(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    if not batch.status.ended:
        raise _refusal("invalid_request_error", "The batch is still being processed: cancel it first.")
    await core.delete_batch(batch)
    return JSONResponse(deleted_object(batch.id))


# Results -----------------------------------------------------------------------------------------------------------


async def _results(core: Core, request: Request) -> Response:
    batch = _batch(core, request)
    if not has_results(batch, now_ms=clock.wall_ms()):
        raise _refusal("not_found_error", "The results of this batch are not available.")
    file = None if batch.output_file_id is None else core.store.file(PROVIDER, batch.output_file_id)
    if file is None:
        return Response(b"", media_type="application/x-jsonl")
    return content_of(core, request, file, _server_error, media_type="application/x-jsonl")


# Single calls ------------------------------------------------------------------------------------------------------


async def _single_call(core: Core, request: Request) -> Response:
    too_large = _refusal("request_too_large", "Request exceeds the maximum size")
    body = await body_of(request, bytes_max=CALL_BYTES_MAX, too_large=too_large)
    params = object_in(body, otherwise=_refusal("invalid_request_error", "The request body is not valid JSON"))
    problem = call_problem(params)
    if problem is not None:
        raise _refusal("invalid_request_error", problem)
    question = question_of(params)
    call = Call(
        provider=PROVIDER,
        key=_key_of(request),
        question=question,
        body=body,
        custom_id=request.headers.get(CUSTOM_ID, ""),
    )
    called = await core.call(call)
    note(request, call_id=called.id, **({"fault": called.fault} if called.fault else {}))
    if called.answer is None:
        return silence(called) or _unanswered(called, question.model)
    message = message_object(f"msg_{called.id[:24]}", question.model, called.answer, tier="standard")
    return Response(orjson.dumps(message), media_type="application/json", headers=_call_headers(called))


def _unanswered(called: Called, model: str) -> Response:
    """Refused by a limit, by the model's absence, or by a fault."""
    if called.rates.limited_by is not None:
        raise _throttled(called.rates)
    if called.status == NO_MODEL:
        raise _refusal("not_found_error", f"model: {model}")
    if called.fault is Fault.CALL_QUOTA:
        raise _no_money()
    kind, message = _CALL_FAILURES[called.status]
    raise _refusal(kind, message, retry_after_seconds=called.seconds, headers=_call_headers(called))


def _call_headers(called: Called) -> dict[str, str]:
    return rate_headers(called.rates, now_ms=clock.wall_ms())
