"""The application: routes, the gate around them, and an OpenAPI document that says everything that can be answered."""

from collections.abc import Collection, Sequence
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from batchmill.agents import clock
from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import Role, User
from batchmill.agents.settings import WebSettings
from batchmill.agents.web.access import Gate, needs
from batchmill.agents.web.api import api_router
from batchmill.agents.web.logging_in import Failures, login_router
from batchmill.agents.web.operating import Operations
from batchmill.agents.web.problems import SCHEMA, handlers
from batchmill.agents.web.tokens import TokenFile

__all__ = ["OPENAPI", "create_app", "openapi_of"]

OPENAPI: Final = "/api/v1/openapi.json"
_TITLE: Final = "batchmill"
_ABOUT: Final = "Review what models answered; take commits back; look after dead letters and jobs."


def create_app(
    *,
    desk: Desk,
    operations: Operations,
    tokens: TokenFile,
    settings: WebSettings,
    hosts: Collection[str],
    local: User | None,
    pages: Sequence[APIRouter] = (),
) -> Gate:
    """The whole server as one ASGI application. `hosts`: names it goes by; `local`: who comes in without tokens."""
    app = FastAPI(
        title=_TITLE,
        version=version("batchmill"),
        description=_ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        exception_handlers=handlers(),
    )
    failures = Failures(
        most=settings.failed_logins_max, seconds=settings.failed_logins_seconds, now_s=clock.monotonic_s
    )
    for router in (api_router(desk, operations), login_router(settings, tokens, failures), *pages):
        app.include_router(router)
    document = openapi_of(app, settings)

    @app.get(OPENAPI, include_in_schema=False, dependencies=[Depends(needs(Role.VIEWER))])
    async def openapi() -> Response:
        return JSONResponse(document)

    return Gate(app, settings=settings, tokens=tokens, hosts=hosts, local=local)


def openapi_of(app: FastAPI, settings: WebSettings) -> dict[str, Any]:
    """The document, with our form of problems and the two ways to say who one is."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
    )
    parts = document.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas["Problem"] = SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": settings.cookie_name},
    }
    document["security"] = [{"token": []}, {"cookie": []}]
    return document
