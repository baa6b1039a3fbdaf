"""Sources that jobs may ask, real ones: a SQLite file, a PostgreSQL server, a web server on loopback."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from aiohttp import web

from batchmill.agents.settings import Settings, load_settings
from batchmill.streams.tooling import Fetch, Lookup

__all__ = ["ITEMS", "Shelf", "a_fetch", "a_lookup", "fill_postgres", "fill_sqlite", "serving", "set_up"]

ITEMS = [("A1", "lamp", 2.5), ("A2", "chair", 10.0), ("B'; DROP TABLE items; --", "odd", 1.0)]
CREATE = "CREATE TABLE items (sku TEXT PRIMARY KEY, name TEXT, price DOUBLE PRECISION)"


def a_lookup(sql: str = "SELECT name, price FROM items WHERE sku = :sku", **changes: Any) -> Lookup:
    given = {"source": "shop", "params": (("sku", "A1"),), "rows_max": 5, "timeout_seconds": 5} | changes
    return Lookup(sql=sql, **given)


def a_fetch(path: str = "/items/A1", **changes: Any) -> Fetch:
    return Fetch(path=path, **({"source": "stock", "timeout_seconds": 5} | changes))


def fill_sqlite(path: Path) -> Path:
    import sqlite3  # noqa: PLC0415 - beside psycopg, whose names are alike

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(CREATE)
        connection.executemany("INSERT INTO items VALUES (?, ?, ?)", ITEMS)
    return path


def fill_postgres(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CREATE)
        for item in ITEMS:
            connection.execute("INSERT INTO items VALUES (%s, %s, %s)", item)


class Shelf:
    """What the web server knows: answers by path, and how often it was asked for each."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.away = False
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._item
        self.url = ""

    async def _item(self, request: web.Request) -> web.StreamResponse:
        sku = request.match_info["rest"].rpartition("/")[2]
        return web.json_response({"sku": sku, "left": len(sku)})

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.raw_path] += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.away:
            return web.Response(status=503, headers={"retry-after": "0"})
        return await self.answer(request)


@contextmanager
def serving() -> Iterator[Shelf]:
    """The server, in a thread of its own: it answers while the test waits."""
    shelf, ready, loop = Shelf(), threading.Event(), asyncio.new_event_loop()

    async def start() -> None:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", shelf.take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        shelf.url = f"http://{host}:{port}"
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield shelf
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def set_up(**flags: Any) -> Settings:
    """Settings with sources; dotted names, `.` written as `__`."""
    told = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings({"loopback_only": True, **told})
