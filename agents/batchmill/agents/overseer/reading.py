"""What the overseer knows: the rows of all tasks, read_committed, and what its predecessors have handed out.

What lives here: positions, catching up, and turning log records into facts of `Books`. What must not: writing. A reader
that follows the log before it is in charge is a warm standby.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from batchmill.agents import clock
from batchmill.agents.runtime.codec import OVERSEER
from batchmill.agents.settings import Settings
from batchmill.agents.topics import KafkaUnreachableError, kafka_client_options
from batchmill.schemas.codec import decode, decode_any
from batchmill.schemas.records import Control
from batchmill.schemas.state import Grant, Job, Meta
from batchmill.streams.controlling import GRANT, READ_TO
from batchmill.streams.overseeing import Books
from batchmill.streams.topology import topic_name
from batchmill.streams.watching import Watches

__all__ = ["Reader"]

_POLL_MS = 200
_RECORDS_MAX = 5_000
#: the longest a full read of either topic may take without an end in sight
_CATCH_UP_SECONDS = 300.0
_ROWS = (f"{Grant.schema}/".encode(), f"{Job.schema}/".encode())
_KEPT = f"{OVERSEER}/".encode()
_READ_TO_KEY = f"{Meta.schema}/{READ_TO}".encode()


class Reader:
    """Follows the `state` topic; an async context. `beats` counts the heartbeats seen, `beat` is the newest.

    `kept` is what the overseer in charge remembers, by name.
    """

    def __init__(self, settings: Settings, books: Books, watches: Watches) -> None:
        self._settings = settings
        self._books = books
        self._watches = watches
        self.kept: dict[str, str] = {}
        self._state = [
            TopicPartition(topic_name(settings.topic_prefix, "state"), p) for p in range(settings.partitions)
        ]
        self._control = [
            TopicPartition(topic_name(settings.topic_prefix, "control"), p) for p in range(settings.partitions)
        ]
        self._read_to: dict[int, int] = {}
        self.beats = 0
        self.beat: Mapping[str, Any] | None = None

    async def __aenter__(self) -> Self:
        self._consumer = await self._started("read_committed")
        self._consumer.assign(self._state)
        await self._consumer.seek_to_beginning(*self._state)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._consumer.stop()

    async def fold(self) -> None:
        """One fetch of `state`, as soon as there is something."""
        fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
        for tp, records in fetched.items():
            self._take(tp.partition, records)

    async def level(self) -> None:
        """Read `state` to where it ends now."""
        await self._to(self._consumer, await self._ends(self._state))

    async def catch_up(self) -> None:
        """Read everything that was written before this call, by whomever. To be called when predecessors are fenced.

        Twice: what a task has read of `control` may have been told by half a transaction; its other half, the rows of
        the grants it took, is in the log by then, and read the second time.
        """
        await self.level()
        start = dict(self._read_to)
        await self.level()
        await self._handed_out(start)

    async def _handed_out(self, start: Mapping[int, int]) -> None:
        """The grants that no task had taken yet."""
        consumer = await self._started("read_committed")
        try:
            consumer.assign(self._control)
            first = await consumer.beginning_offsets(self._control)
            for tp in self._control:
                consumer.seek(tp, max(first[tp], start.get(tp.partition, 0)))
            for partition, records in await self._to(consumer, await self._ends(self._control)):
                for record in records:
                    self._grant(partition, record)
        finally:
            await consumer.stop()

    def _grant(self, partition: int, record: Any) -> None:
        command = decode(record.value, Control)
        if command.command == GRANT:
            self._books.handed(partition, json.loads(command.body_json).get("granted", {}))

    async def _ends(self, places: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Behind everything written, transactions that are still open included: those end soon, and then it is read."""
        consumer = await self._started("read_uncommitted")
        try:
            ends: Mapping[TopicPartition, int] = await consumer.end_offsets(places)
        finally:
            await consumer.stop()
        return ends

    async def _to(self, consumer: Any, ends: Mapping[TopicPartition, int]) -> list[tuple[int, Any]]:
        """Read on until every position is past `ends`; what `control` said, while `state` is taken as it comes."""
        found: list[tuple[int, Any]] = []
        deadline = clock.monotonic_s() + _CATCH_UP_SECONDS
        while [tp for tp, end in ends.items() if await consumer.position(tp) < end]:
            if clock.monotonic_s() > deadline:
                raise TimeoutError(f"the log was not read to its end in {_CATCH_UP_SECONDS:g} s")
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_MAX)
            for tp, records in fetched.items():
                if consumer is self._consumer:
                    self._take(tp.partition, records)
                else:
                    found.append((tp.partition, records))
        return found

    def _take(self, partition: int, records: Iterable[Any]) -> None:
        for record in records:
            key: bytes = record.key or b""
            if key == OVERSEER.encode():
                self.beats += 1
                self.beat = json.loads(record.value)
            elif key.startswith(_KEPT):
                self._keep(key.removeprefix(_KEPT).decode(), record.value)
            elif key == _READ_TO_KEY and record.value is not None:
                self._read_to[partition] = int(decode(record.value, Meta).value_json)
            elif key.startswith(_ROWS) and record.value is not None:
                row = decode_any(record.value)
                assert isinstance(row, Grant | Job), f"{key!r} of state holds a {type(row).__name__}"
                self._books.row(partition, row)
                if isinstance(row, Job):
                    self._watches.row(partition, row)

    def _keep(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.kept.pop(name, None)
        else:
            self.kept[name] = value.decode()

    async def _started(self, isolation_level: str) -> Any:
        consumer = AIOKafkaConsumer(
            **kafka_client_options(self._settings.kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation_level,
        )
        try:
            await consumer.start()
        except KafkaConnectionError as error:
            await consumer.stop()
            raise KafkaUnreachableError(
                f"no Kafka broker answers at {self._settings.kafka.bootstrap_servers}"
            ) from error
        return consumer
