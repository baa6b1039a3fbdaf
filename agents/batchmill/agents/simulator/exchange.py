"""Law: one HTTP exchange as the ledger sees it, and the ways a connection can go wrong on purpose.

The recorder is the outermost layer: the line of a request is on disk before the first byte of its answer leaves, and a
connection dropped without an answer is a line with status 0. Responses here that end badly close the socket themselves.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response
from typing_extensions import override

from batchmill.agents.simulator.ledger_writer import LedgerWriter, entry_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from batchmill.agents.simulator.calling import Called

__all__ = ["Disconnect", "HalfFile", "Hang", "Recorder", "note", "silence"]

_NOTES: Final = "batchmill.notes"
_ABORT: Final = "batchmill.abort"
_UNRECORDED: Final = ("/admin", "/livez")
_CHUNK_BYTES: Final = 64 * 1024


def note(request: Request, **facts: str) -> None:
    """Put ids and the fault that struck into the ledger line of this request."""
    request.scope[_NOTES].update(facts)


class Recorder:
    def __init__(self, app: ASGIApp, ledger: Callable[[], LedgerWriter]) -> None:
        self._app = app
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[_NOTES] = {}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._record(scope, message["status"])
            await send(message)

        async def abort(*, answered: bool) -> None:
            if not answered:
                await self._record(scope, 0)
            await _drop_connection(receive, send)

        scope[_ABORT] = abort
        await self._app(scope, receive, sent)

    async def _record(self, scope: Scope, status: int) -> None:
        if not scope["path"].startswith(_UNRECORDED):
            facts = {"method": scope["method"], "path": scope["path"], "status": status, **scope[_NOTES]}
            await self._ledger().append(entry_bytes("request", facts))


async def _drop_connection(receive: Receive, send: Send) -> None:
    """Close the socket under the server: no protocol has a polite way to answer nothing."""
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("this server gives no access to its connection; run the simulator under uvicorn")
    transport.abort()
    await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Disconnect(Response):
    """No answer: the connection drops."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope[_ABORT](answered=False)


class Hang(Response):
    """No answer for some seconds, or until the client gives up; then the connection drops."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(_gone(receive), self._seconds)
        await scope[_ABORT](answered=False)


def silence(called: Called) -> Response | None:
    """The end of a call that the client shall hear nothing of; None where it shall hear something."""
    if called.status != 0:
        return None
    return Disconnect() if called.seconds is None else Hang(called.seconds)


class HalfFile(Response):
    """The head promises a whole file, the body stops in the middle of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(media_type="application/octet-stream")
        self._path = path

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = self._path.stat().st_size
        headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        left = size // 2
        with self._path.open("rb") as file:
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                left -= len(chunk)
        await asyncio.sleep(0)  # let the half leave before the socket is closed
        await scope[_ABORT](answered=True)
