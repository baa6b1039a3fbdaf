"""One sink of each kind, with what it wrote read back by other means than its own."""

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from aiohttp import web
from psycopg import sql

from batchmill.agents.sinks.files import JSONL, PARQUET, FileSink, latest
from batchmill.agents.sinks.postgres import PostgresSink
from batchmill.agents.sinks.sqlite import SqliteSink
from batchmill.agents.sinks.webhook import WebhookSink
from batchmill.agents.webhooks import signing
from batchmill.streams.ports import SinkWrite

__all__ = ["KINDS", "Receiver", "World", "a_write", "make_sink", "receiving"]

KINDS = ("sqlite", "postgres", "jsonl", "parquet", "webhook")
SECRET = "whsec_" + "c2VjcmV0IG9mIGEgdGVzdCwgbm90IHNlY3JldA=="
TABLE = "triage"


def a_write(key="t1", seq=1, promotion=1, commit=None, output='{"label":"a"}', **changes) -> SinkWrite:
    given = {"table": TABLE, "source_id": key, "job": "triage", "version": "v1", "run_id": "run-1"} | changes
    return SinkWrite(
        commit_id=commit or f"c-{key}-{seq}-{promotion}",
        target_key=key,
        seq=seq,
        promotion=promotion,
        request_id=f"r-{key}-{seq}",
        output_json=output,
        output_sha256="0" * 64,
        **given,
    )


def make_sink(kind: str, address: str) -> Any:
    """The sink of a kind; `address` is a path, a DSN or a URL."""
    match kind:
        case "sqlite":
            return SqliteSink(path=Path(address) / "sink.sqlite", busy_timeout_ms=30_000)
        case "postgres":
            return PostgresSink(
                dsn=address,
                connections_max=4,
                connect_timeout_seconds=5,
                lock_timeout_ms=20_000,
                statement_timeout_ms=30_000,
            )
        case "webhook":
            return WebhookSink(url=address, secret=SECRET, timeout_seconds=5, concurrent_max=4, loopback_only=True)
        case _:
            form = JSONL if kind == "jsonl" else PARQUET
            return FileSink(form=form, folder=Path(address), busy_timeout_ms=30_000)


class World:
    """A place for one sink. `rows`: of each target what it holds now; `history`: every row that was ever written."""

    def __init__(self, kind: str, address: str, receiver: "Receiver | None" = None) -> None:
        self.kind, self.address, self.receiver = kind, address, receiver

    def sink(self) -> Any:
        return make_sink(self.kind, self.address)

    def rows(self, table: str = TABLE) -> dict[str, dict[str, Any]]:
        if self.kind in {"jsonl", "parquet"}:
            return latest(Path(self.address) / table)
        if self.receiver is not None:
            return self.receiver.latest()
        return {row["target_key"]: row for row in self.query(f'SELECT * FROM "{table}"')}

    def history(self, table: str = TABLE) -> list[dict[str, Any]]:
        if self.kind in {"jsonl", "parquet"}:
            form = JSONL if self.kind == "jsonl" else PARQUET
            files = [file for file in (Path(self.address) / table).rglob("part-*") if ".parts" not in file.parts]
            return sorted((row for file in files for row in form.load(file)), key=_rank)
        if self.receiver is not None:
            return list(self.receiver.taken.values())
        return sorted(self.query(f'SELECT * FROM "{table}__history"'), key=_rank)

    def query(self, statement: str) -> list[dict[str, Any]]:
        if self.kind == "postgres":
            with psycopg.connect(self.address, row_factory=psycopg.rows.dict_row) as connection:
                return connection.execute(sql.SQL(statement)).fetchall()
        with contextlib.closing(sqlite3.connect(Path(self.address) / "sink.sqlite")) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement)]

    def execute(self, statement: str) -> None:
        """As the user of the table does."""
        if self.kind == "postgres":
            with psycopg.connect(self.address, autocommit=True) as connection:
                connection.execute(sql.SQL(statement))
        else:
            with contextlib.closing(sqlite3.connect(Path(self.address) / "sink.sqlite", timeout=30)) as connection:
                connection.executescript(statement)


def _rank(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["target_key"], row["seq"], row["promotion"]


class Receiver:
    """A receiver as the page of the webhook sink asks for: it knows a post again by its key, and checks who sent it."""

    def __init__(self) -> None:
        self.url = ""
        self.posts: list[tuple[str, bytes]] = []  #: each that arrived: key and body
        self.headers: list[dict[str, str]] = []
        self.faults: list[str] = []  #: of posts that were not signed as they should be
        self.taken: dict[str, dict[str, Any]] = {}  #: by idempotency key
        self.answers: dict[str, list[int]] = {}  #: target key -> what is answered to its next posts
        self.running = self.running_max = 0
        self.extra: dict[str, str] = {}
        self.delay_seconds = 0.0

    def latest(self) -> dict[str, dict[str, Any]]:
        newest: dict[str, dict[str, Any]] = {}
        for row in sorted(self.taken.values(), key=_rank):
            newest[row["target_key"]] = row
        return newest

    async def take(self, request: web.Request) -> web.Response:
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            return await self._take(request)
        finally:
            self.running -= 1

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        key = request.headers.get("Idempotency-Key", "")
        named = {name.lower(): value for name, value in request.headers.items()}
        stamp = named.get(signing.TIMESTAMP_HEADER, "0")
        wrong = signing.fault(signing.secret_bytes(SECRET), named, body, now_s=float(stamp))
        if wrong is not None or named.get(signing.ID_HEADER) != key:
            self.faults.append(wrong or "id")
        self.posts.append((key, body))
        self.headers.append(dict(request.headers))
        data = json.loads(body)["data"]
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        planned = self.answers.get(data["target_key"], [])
        status = planned.pop(0) if planned else 204
        if 200 <= status < 300:
            self.taken.setdefault(key, data)
        return web.Response(status=status, headers=self.extra)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on loopback, in a thread of its own, so that any loop may post to it."""
    receiver, loop = Receiver(), asyncio.new_event_loop()
    started, runner = threading.Event(), None

    async def serve() -> None:
        nonlocal runner
        app = web.Application(client_max_size=8 * 2**20)
        app.router.add_post("/hook", receiver.take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        started.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(timeout=10)
    try:
        yield receiver
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
