"""Law: what the routes of providers have in common, in no provider's words: refuse, read, strike, fail on purpose.

The words of an answer are handed in. Where an exchange goes wrong is decided by the fault, here; how a refusal is
written, by the provider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import FileResponse, JSONResponse, Response

from batchmill.agents.simulator.exchange import Disconnect, HalfFile, Hang, note
from batchmill.agents.simulator.faults import Fault, Place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from starlette.requests import Request

    from batchmill.agents.simulator.core import Core
    from batchmill.agents.simulator.limits import Verdict
    from batchmill.agents.simulator.records import StoredFile

__all__ = [
    "Refusal",
    "after_create",
    "body_of",
    "content_of",
    "guarded",
    "keep_lines",
    "object_in",
    "received",
    "struck",
    "within",
]


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """Raised by a handler; becomes the answer."""

    def __init__(self, status: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, dict(headers or {})


def guarded(
    handler: Callable[[Core, Request], Awaitable[Response]],
    *,
    provider: str,
    key_of: Callable[[Core, Request], str],
    throttled: Callable[[float | None], Refusal],
) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of a handler. `key_of` refuses who may not call; `throttled` whom a limit stops."""

    async def endpoint(request: Request) -> Response:
        core: Core = request.app.state.core
        try:
            key = key_of(core, request)
            within(core.ask_control(provider, key), throttled)
            return await handler(core, request)
        except Refusal as refusal:
            return JSONResponse(refusal.body, status_code=refusal.status, headers=refusal.headers)

    return endpoint


def within(verdict: Verdict, throttled: Callable[[float | None], Refusal]) -> None:
    if verdict.limited_by is not None:
        raise throttled(verdict.wait_seconds)


def struck(core: Core, request: Request, place: Place, key: str) -> Fault | None:
    """The fault that fires here, noted in the ledger line of this request."""
    fault = core.strike(place, key)
    note(request, **({"fault": fault} if fault else {}))
    return fault


async def body_of(request: Request, *, bytes_max: int, too_large: Refusal) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise too_large
    return bytes(body)


def object_in(body: bytes, *, otherwise: Refusal) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise otherwise from None
    if not isinstance(value, dict):
        raise otherwise
    return value


async def keep_lines(core: Core, lines: Iterable[bytes], *, provider: str, filename: str, purpose: str) -> StoredFile:
    """Requests that came inline become a file, so that they are worked like any others."""
    upload = core.upload()
    try:
        for line in lines:
            upload.write(line)
        upload.close()
        return await core.keep_upload(upload, provider=provider, filename=filename, purpose=purpose)
    finally:
        upload.discard()


def after_create(core: Core, fault: Fault | None, shown: Response, failed: Callable[[int], Refusal]) -> Response:
    """The batch exists; what the client hears of it is another matter."""
    match fault:
        case Fault.ACCEPT_THEN_500:
            raise failed(500)
        case Fault.ACCEPT_THEN_503:
            raise failed(503)
        case Fault.ACCEPT_THEN_DISCONNECT:
            return Disconnect()
        case Fault.ACCEPT_THEN_HANG:
            return Hang(core.plan[fault].seconds)
        case _:
            return shown


def content_of(core: Core, request: Request, file: StoredFile, failed: Callable[[int], Refusal]) -> Response:
    fault = struck(core, request, Place.DOWNLOAD, file.sha256)
    if fault is Fault.DOWNLOAD_500:
        raise failed(500)
    path = core.store.payload_path(file.id)
    return HalfFile(path) if fault else FileResponse(path, media_type="application/octet-stream")


async def received(parts: AsyncIterator[bytes], sink: Callable[[bytes], None], *, size_max: int) -> bool:
    """Hand on what comes in; False once it is more than allowed."""
    size = 0
    async for part in parts:
        size += len(part)
        if size > size_max:
            return False
        sink(part)
    return True
