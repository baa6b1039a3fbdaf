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
    from batchmill.agents.simulator.records import Batch, StoredFile

__all__ = [
    "Refusal",
    "after_create",
    "batch_at",
    "body_of",
    "cancelled",
    "content_of",
    "flaps",
    "guarded",
    "keep_lines",
    "object_in",
    "received",
    "retry_after",
    "struck",
    "within",
]


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of ours
    """Raised by a handler; becomes the answer."""

    def __init__(self, status: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, dict(headers or {})


def retry_after(seconds: float | None) -> dict[str, str]:
    """The header that says how long to wait; none where nobody knows."""
    return {} if seconds is None else {"retry-after": f"{seconds:g}"}


def guarded(
    handler: Callable[[Core, Request], Awaitable[Response]],
    *,
    provider: str,
    key_of: Callable[[Core, Request], str],
    throttled: Callable[[Verdict], Refusal],
    control: bool = True,
    told: Callable[[Core, Request, Refusal], Refusal] | None = None,
) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of a handler. `key_of` refuses who may not call; `throttled` whom a limit stops.

    `control`: a call counts against the limit of control calls. `told`: what a client hears in place of a refusal.
    """

    async def endpoint(request: Request) -> Response:
        core: Core = request.app.state.core
        try:
            key = key_of(core, request)
            if control:
                within(core.ask_control(provider, key), throttled)
            return await handler(core, request)
        except Refusal as refusal:
            heard = refusal if told is None else told(core, request, refusal)
            return JSONResponse(heard.body, status_code=heard.status, headers=heard.headers)

    return endpoint


def within(verdict: Verdict, throttled: Callable[[Verdict], Refusal]) -> None:
    if verdict.limited_by is not None:
        raise throttled(verdict)


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


def batch_at(core: Core, request: Request, batch_id: str, *, provider: str, absent: Callable[[str], Refusal]) -> Batch:
    note(request, batch_id=batch_id)
    batch = core.store.batch(batch_id)
    if batch is None or batch.provider != provider:
        raise absent(batch_id)
    return batch


def flaps(
    core: Core,
    request: Request,
    batch: Batch,
    *,
    absent: Callable[[str], Refusal],
    failed: Callable[[int], Refusal],
) -> bool:
    """Let a look at a batch go wrong, if it shall; True: this one sees it as if it still ran."""
    fault = struck(core, request, Place.RETRIEVE, batch.stable_key)
    if fault is Fault.RETRIEVE_500:
        raise failed(500)
    if fault is Fault.RETRIEVE_404:
        raise absent(batch.id)
    return Fault.STATUS_FLAP in batch.faults and batch.status.ended and core.store.count(f"read:{batch.id}") == 2


async def cancelled(core: Core, request: Request, batch: Batch, failed: Callable[[int], Refusal]) -> Batch:
    """Ask for the end of a batch that runs; the batch after that."""
    faults = core.strikes(Place.CANCEL, batch.stable_key)
    note(request, **({"fault": faults[0]} if faults else {}))
    asked = await core.cancel_batch(batch, ignored=Fault.CANCEL_IGNORED in faults)
    if Fault.CANCEL_500 in faults:
        raise failed(500)
    return asked


def content_of(
    core: Core,
    request: Request,
    file: StoredFile,
    failed: Callable[[int], Refusal],
    *,
    absent: Callable[[str], Refusal] | None = None,
    media_type: str = "application/octet-stream",
) -> Response:
    """A file's content, or what goes wrong with it; only with `absent` can it be told to be gone."""
    fault = struck(core, request, Place.DOWNLOAD, file.sha256)
    if fault is Fault.DOWNLOAD_500:
        raise failed(500)
    if fault is Fault.DOWNLOAD_404 and absent is not None:
        raise absent(file.id)
    path = core.store.payload_path(file.id)
    return HalfFile(path) if fault else FileResponse(path, media_type=media_type)


async def received(parts: AsyncIterator[bytes], sink: Callable[[bytes], None], *, size_max: int) -> bool:
    """Hand on what comes in; False once it is more than allowed."""
    size = 0
    async for part in parts:
        size += len(part)
        if size > size_max:
            return False
        sink(part)
    return True
