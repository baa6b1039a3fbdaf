"""All pages as one router, and the files they are made with.

What lives here: putting the parts in order, static files from a closed list, the login page. What must not: anything a
page shows.
"""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from batchmill.agents import clock
from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import DeskError, ErrorKind
from batchmill.agents.settings import ReviewSettings, WebSettings
from batchmill.agents.web.operating import Operations
from batchmill.agents.web.pages.operating import operating_router
from batchmill.agents.web.pages.queues import queue_router
from batchmill.agents.web.pages.records import record_router
from batchmill.agents.web.pages.rendering import ASSETS, rendered
from batchmill.agents.web.pages.site import PageRoute, Site, went_to

__all__ = ["pages_router"]

_YEAR = "public, max-age=31536000, immutable"


def pages_router(
    *,
    desk: Desk,
    operations: Operations,
    review: ReviewSettings,
    web: WebSettings,
    now_ms: Callable[[], int] = clock.wall_ms,
) -> APIRouter:
    """Every page; include it after the API and the posting side of the login."""
    site = Site(desk=desk, operations=operations, review=review, web=web, now_ms=now_ms)
    router = APIRouter(include_in_schema=False, route_class=PageRoute)
    _plain(router)
    for part in (queue_router(site), record_router(site), operating_router(site)):
        router.include_router(part)
    return router


def _plain(router: APIRouter) -> None:
    @router.get("/")
    async def start() -> Response:
        return went_to("/review")

    @router.get("/login")
    async def login(request: Request) -> Response:
        return rendered(
            "login.html",
            user=None,
            signed_in=False,
            here="",
            change=None,
            failed=request.query_params.get("failed") == "1",
            next=request.query_params.get("next", "/review"),
        )

    @router.get("/static/{name:path}")
    async def static(name: str) -> Response:
        path = ASSETS.get(name)
        if path is None:
            raise DeskError(ErrorKind.NOT_FOUND, "there is no such file")
        return FileResponse(path, headers={"Cache-Control": _YEAR})
