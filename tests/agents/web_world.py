"""The server of the pages and the API in this process, over a desk without a broker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter

from batchmill.agents.commands import Issued
from batchmill.agents.desk.model import Role, User
from batchmill.agents.settings import WebSettings
from batchmill.agents.web.access import Gate
from batchmill.agents.web.app import create_app
from batchmill.agents.web.operating import Operations
from batchmill.agents.web.tokens import TokenFile
from tests.agents.desk_world import World

__all__ = ["HOST", "SAME_SITE", "Web", "a_web"]

HOST = "127.0.0.1:8780"
SAME_SITE = {"sec-fetch-site": "same-origin"}
HERE = User(name="me@here", role=Role.OPERATOR)


@dataclass
class Web:
    """`given` are the commands that were issued."""

    world: World
    app: Gate
    tokens: TokenFile
    given: list[dict[str, Any]]

    def client(self, token: str | None = None, *, address: str = "127.0.0.1", **more: Any) -> httpx.AsyncClient:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **more.pop("headers", {})}
        transport = httpx.ASGITransport(app=self.app, client=(address, 50_000), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", headers=headers, **more)


@contextmanager
def a_web(
    folder: Path,
    *,
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
    local: User | None = HERE,
    pages: tuple[APIRouter, ...] = (),
    eager: bool = True,
    **settings: Any,
) -> Iterator[Web]:
    world = World(folder, eager=eager)
    given: list[dict[str, Any]] = []

    async def issue(command: str, job: str, *, actor: str, body_json: str, wait_seconds: float) -> Issued:
        if world.broken is not None:
            raise world.broken
        given.append({"command": command, "job": job, "actor": actor, "body": body_json, "wait": wait_seconds})
        return Issued(command_id=f"command-{len(given)}", partitions=1, laggards=())

    tokens = TokenFile(folder / "tokens.json", now_ms=lambda: world.now_ms)
    app = create_app(
        desk=world.desk(),
        operations=Operations(view_path=world.view_path, issue=issue, wait_seconds=1),
        tokens=tokens,
        settings=WebSettings(**settings),
        hosts=hosts,
        local=local,
        pages=pages,
    )
    yield Web(world=world, app=app, tokens=tokens, given=given)
    world.close()
