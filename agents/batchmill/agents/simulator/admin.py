"""Law: the side door for tests and people: faults, limits, the ledger, the state. Never in the ledger itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from batchmill.agents.simulator.faults import plan_to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from batchmill.agents.simulator.core import Core

__all__ = ["routes"]


def routes() -> Sequence[Route]:
    return [
        Route("/admin/faults", _show_faults, methods=["GET"]),
        Route("/admin/faults", _change_faults, methods=["POST"]),
        Route("/admin/faults", _reset_faults, methods=["DELETE"]),
        Route("/admin/limits", _show_limits, methods=["GET"]),
        Route("/admin/limits", _change_limits, methods=["POST"]),
        Route("/admin/limits", _reset_limits, methods=["DELETE"]),
        Route("/admin/ledger", _ledger, methods=["GET"]),
        Route("/admin/state", _state, methods=["GET"]),
        Route("/livez", _livez, methods=["GET"]),
    ]


def _core(request: Request) -> Core:
    core: Core = request.app.state.core
    return core


async def _show_faults(request: Request) -> Response:
    return JSONResponse(plan_to_json(_core(request).plan))


async def _change_faults(request: Request) -> Response:
    try:
        _core(request).change_faults(orjson.loads(await request.body()))
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return await _show_faults(request)


async def _reset_faults(request: Request) -> Response:
    _core(request).reset_faults()
    return await _show_faults(request)


async def _show_limits(request: Request) -> Response:
    return JSONResponse(_core(request).shown_limits())


async def _change_limits(request: Request) -> Response:
    try:
        _core(request).change_limits(orjson.loads(await request.body()))
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return await _show_limits(request)


async def _reset_limits(request: Request) -> Response:
    _core(request).reset_limits()
    return await _show_limits(request)


async def _ledger(request: Request) -> Response:
    return FileResponse(_core(request).config.ledger_file, media_type="application/x-ndjson")


async def _state(request: Request) -> Response:
    return JSONResponse(_core(request).totals())


async def _livez(_: Request) -> Response:
    return PlainTextResponse("ok\n")
