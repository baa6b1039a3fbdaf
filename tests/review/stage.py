"""A task in memory for the doers of `agents.stages`: what they write is seen at once, and a test may step in wherever
they wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.runtime import LogRecord, Slice
from batchmill.agents.settings import AccountSettings, EffectSettings
from batchmill.agents.stages.collector import Collector
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.submitter import Submitter
from batchmill.agents.stages.traces import Traces
from batchmill.schemas import codec
from batchmill.schemas.records import Record
from batchmill.schemas.state import Chunk, Row
from batchmill.streams.capabilities import facts_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import Prices
from batchmill.streams.ports import CreateOrder, RemoteBatch, RemoteStatus, RowOutcome, TransientError
from batchmill.streams.view import MemoryView

__all__ = ["MemoryLog", "MemoryTask", "Provider", "a_collector", "a_kit", "a_submitter", "slice_of"]

PARTITION = 3


class MemoryTask:
    """What stages ask of a task. `at_wait` runs wherever a real one could be interrupted by other work."""

    def __init__(self, *rows: Row) -> None:
        self.partition = PARTITION
        self.view = MemoryView()
        self.owned, self.draining = True, False
        self.guard = SimpleNamespace(one_at_a_time=False)
        self.last_commit_boottime_s = clock.boottime_s()
        self.fenced_boottime_s = 0.0
        self.previous_owner_clean = True
        self.records: list[Record] = []
        self.finished: list[Slice] = []
        self.woken: list[str] = []
        self.rests = 0
        self.at_wait: Callable[[str], None] = lambda _: None
        for row in rows:
            self.view.put(row)

    def put(self, row: Row) -> None:
        self.view.put(row)

    def delete(self, table: str, key: str) -> None:
        self.view.delete(table, key)

    def emit(self, _topic: str, *, value: bytes, **_: Any) -> None:
        self.records.append(codec.decode_any(value))

    def fits(self, key: bytes | None, value: bytes | None, headers: Iterable[Any] = ()) -> bool:
        return len(key or b"") + len(value or b"") <= 1_000_000 and headers is not None

    def wake(self, effect: str) -> None:
        self.woken.append(effect)

    def finish(self, slice_: Slice) -> None:
        self.finished.append(slice_)

    async def capacity(self) -> None:
        self.at_wait("capacity")

    async def durable(self) -> None:
        self.at_wait("durable")
        self.last_commit_boottime_s = clock.boottime_s()

    async def rest(self, effect: str, _seconds: float) -> bool:
        self.rests += 1
        self.at_wait(f"rest {effect}")
        await asyncio.sleep(0)
        return False

    @asynccontextmanager
    async def effect(self, name: str, _row_id: str) -> AsyncIterator[None]:
        self.at_wait(f"effect {name}")
        yield


class MemoryLog:
    """The log reader over records that are at hand."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], LogRecord] = {}

    def add(self, topic: str, offset: int, value: bytes) -> None:
        self.records[topic, offset] = LogRecord(topic, PARTITION, offset, 1, b"k", value, ())

    async def read(self, topic: str, _partition: int, offsets: Sequence[int]) -> dict[int, LogRecord]:
        return {offset: self.records[topic, offset] for offset in offsets if (topic, offset) in self.records}

    async def end_offset(self, *_: Any) -> int:
        return 0


class Provider:
    """A provider whose answers are functions of the test; counts the calls that were sent."""

    name = "openai"
    capabilities = facts_of("openai").can

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.during: Callable[[str], None] = lambda _: None
        self.remote = RemoteBatch(
            batch_id="batch-1", status=RemoteStatus.RUNNING, status_text="in_progress", created_at_ms=1
        )
        self.refusals: dict[str, Exception] = {}

    def of(self, _account: str) -> "Provider":
        return self

    def name_of(self, account: str) -> str:
        return account

    def account(self, _account: str) -> AccountSettings:
        return AccountSettings()

    def by_file(self, _chunk: Chunk) -> bool:
        return self.account("").can.input_file

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        self.during(name)
        await asyncio.sleep(0)
        if name in self.refusals:
            raise self.refusals[name]

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
        return f"{custom_id} {endpoint} ".encode() + body + b"\n"

    def parse_row(self, _line: bytes) -> RowOutcome | None:
        return None

    async def upload(self, *, content: AsyncIterator[bytes], **_: Any) -> str:
        async for _part in content:
            pass
        await self._call("upload")
        return "file-1"

    async def create(self, _order: CreateOrder, *, may_start: Callable[[], bool]) -> RemoteBatch:
        if not may_start():
            raise TransientError("lease_ended")
        await self._call("create")
        return self.remote

    async def get(self, _batch_id: str) -> RemoteBatch:
        await self._call("get")
        return self.remote

    async def cancel(self, _batch_id: str) -> RemoteBatch:
        await self._call("cancel")
        return self.remote

    async def find(self, **_: Any) -> Sequence[RemoteBatch]:
        await self._call("find")
        return ()

    async def delete_file(self, _file_id: str) -> None:
        await self._call("delete_file")

    async def download(self, file_id: str) -> AsyncIterator[bytes]:
        await self._call(f"download {file_id}")
        yield b""


def a_kit(log: MemoryLog | None = None) -> Kit:
    return Kit(
        app_id="app",
        topics=Kit.names("t"),
        raw_generation=1,
        log=log or MemoryLog(),
        jobs=CompiledJobs(),
        carried=lambda _: None,
        stepped=lambda _, __: None,
    )


def a_submitter(kit: Kit, provider: Provider, directory: Path) -> Submitter:
    payloads = FilePayloadStore(directory=directory)
    effects = EffectSettings(idle_seconds=0.01)
    prices = Prices(id="none", models={})
    return Submitter(kit=kit, providers=provider, payloads=payloads, prices=prices, effects=effects, tasks_total=1)


def a_collector(kit: Kit, provider: Provider, directory: Path) -> Collector:
    submitter = a_submitter(kit, provider, directory)
    return Collector(
        kit=kit,
        providers=provider,
        payloads=submitter.payloads,
        prices=submitter.prices,
        effects=submitter.effects,
        line_bytes_max=10_000,
        output_bytes_max=1_000,
        traces=Traces(SimpleNamespace(traces=False)),
        submitter=submitter,
    )


def slice_of(topic: str, *values: bytes, **changes: Any) -> Slice:
    records = tuple(LogRecord(topic, PARTITION, at, 1, b"k", value, ()) for at, value in enumerate(values))
    return Slice(topic, PARTITION, records, 0, len(records), 1)
