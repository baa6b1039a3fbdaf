"""The small HTTP server beside every long-running process: is it alive, is it ready, what does it measure.

What lives here: `/livez` (200 as long as the event loop turns), `/readyz` (503 with reasons until the process says it
is ready), `/metrics` (Prometheus text). What must not: anything that changes state, or that waits for somebody else.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from typing_extensions import override

from batchmill.agents.logs import get_logger
from batchmill.agents.settings import HealthSettings

__all__ = ["PortTakenError", "bound", "health_app", "serving", "serving_health"]

#: How long a probe that is being answered may hold up the end of the process.
STOP_SECONDS = 1
STARTED_LOOK_SECONDS = 0.01
_BACKLOG = 1_024


class PortTakenError(Exception):
    """Somebody else listens there."""


#: What keeps the process from being ready; empty when it is.
Reasons = Callable[[], Sequence[str]]


def health_app(*, reasons: Reasons, metrics: Callable[[], bytes]) -> Starlette:
    """Make the application; both callables are asked at every request and must be quick."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        missing = list(reasons())
        status = "waiting" if missing else "ready"
        return JSONResponse({"status": status, "reasons": missing}, status_code=503 if missing else 200)

    async def scrape(_: Request) -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", scrape)])


@asynccontextmanager
async def serving_health(
    settings: HealthSettings, *, reasons: Reasons, metrics: Callable[[], bytes]
) -> AsyncIterator[str | None]:
    """Serve while the body runs; gives the base URL, None when switched off.

    A port that is taken is an error: a probe would be answered by somebody else.
    """
    if not settings.enabled:
        yield None
        return
    app = health_app(reasons=reasons, metrics=metrics)
    async with serving(app, host=settings.host, port=settings.port, name="health") as url:
        get_logger(__name__).info("health_listening", url=url)
        yield url


@asynccontextmanager
async def serving(
    app: ASGIApp, *, host: str, port: int, name: str, connections_max: int | None = None
) -> AsyncIterator[str]:
    """Serve any application beside what the process does; gives the base URL."""
    listening = bound(host, port, name=name)
    url = f"http://{host}:{listening.getsockname()[1]}"
    server = _GuestServer(_config(app, connections_max))
    running = asyncio.create_task(server.serve([listening]), name=name)
    try:
        while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(STARTED_LOOK_SECONDS)
        yield url
    finally:
        server.should_exit = True
        await running


def bound(host: str, port: int, *, name: str) -> socket.socket:
    """A socket that listens there; PortTakenError when another process does."""
    # asyncio switches Nagle's delay off only where the protocol is named; else every answer waits 40 ms for an ACK
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        if error.errno != errno.EADDRINUSE:
            raise
        told = f"{name}: port {port} of {host} is in use by another process; name another port, or 0 for a free one"
        raise PortTakenError(told) from None
    listening.listen(_BACKLOG)
    return listening


class _GuestServer(uvicorn.Server):
    """In somebody else's event loop: signals belong to the owner of the process."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, connections_max: int | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        limit_concurrency=connections_max,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
