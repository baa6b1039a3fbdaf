"""The pages in this process, over a desk without a broker: the real application, gate and all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from batchmill.agents.commands import Issued
from batchmill.agents.desk.model import Role, User
from batchmill.agents.settings import WebSettings
from batchmill.agents.web.access import Gate
from batchmill.agents.web.app import create_app
from batchmill.agents.web.operating import Operations
from batchmill.agents.web.pages.routes import pages_router
from batchmill.agents.web.tokens import TokenFile
from batchmill.schemas.jobs import JobSpec
from tests.agents.desk_world import World

__all__ = ["ORIGIN", "Pages", "some_pages"]

ORIGIN = "http://127.0.0.1:8780"
HERE = User(name="me@here", role=Role.OPERATOR)


@dataclass(frozen=True, kw_only=True)
class Pages:
    """`given` are the commands that were issued."""

    world: World
    app: Gate
    tokens: TokenFile
    given: list[dict[str, Any]]

    def browser(self, role: Role | None = None, *, name: str = "ada") -> httpx.AsyncClient:
        """Somebody with a token of this role; None: whoever sits at this machine."""
        transport = httpx.ASGITransport(app=self.app, client=("127.0.0.1", 50_000), raise_app_exceptions=True)
        headers = {"accept": "text/html", "sec-fetch-site": "same-origin", "origin": ORIGIN}
        cookies = {} if role is None else {WebSettings().cookie_name: self.token(name, role)}
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers, cookies=cookies)

    def token(self, name: str, role: Role) -> str:
        return self.tokens.create(name, role)


@contextmanager
def some_pages(
    folder: Path, *, spec: JobSpec | None = None, eager: bool = True, local: User | None = HERE, **review: Any
) -> Iterator[Pages]:
    world = World(folder, spec=spec, eager=eager, **review)
    given: list[dict[str, Any]] = []

    async def issue(command: str, job: str, *, actor: str, body_json: str, wait_seconds: float) -> Issued:
        given.append({"command": command, "job": job, "actor": actor, "body": body_json, "wait": wait_seconds})
        return Issued(command_id=f"command-{len(given)}", partitions=1, laggards=())

    tokens = TokenFile(folder / "tokens.json", now_ms=lambda: world.now_ms)
    desk, web = world.desk(), WebSettings()
    operations = Operations(view_path=world.view_path, issue=issue, wait_seconds=1)
    pages = pages_router(desk=desk, operations=operations, review=world.settings, web=web, now_ms=lambda: world.now_ms)
    app = create_app(
        desk=desk,
        operations=operations,
        tokens=tokens,
        settings=web,
        hosts=("127.0.0.1", "localhost"),
        local=local,
        pages=(pages,),
    )
    yield Pages(world=world, app=app, tokens=tokens, given=given)
    world.close()
