"""Reading the log again: bodies by offset, from memory if they have just been here.

What lives here: `BodyCache` (bounded by bytes) and `LogReader` (sorted, coalesced range reads under read_committed).
What must not: trusting what is found; whoever reads by offset asserts the id it expects. A missing offset is absent
from the answer: it was deleted by retention, or never existed.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.clock import monotonic_s
from batchmill.agents.runtime.records import LogRecord, size_bytes

__all__ = ["BodyCache", "LogReader"]

#: A hole of this many offsets is read over rather than sought over: one seek costs a round trip.
COALESCE_OFFSETS = 200
READ_SECONDS = 30.0  #: longest a read may take; then it fails: silence is no proof of absence
#: Nothing arrives for so long at the last position asked for: a marker lies there (aiokafka stops in front of it).
QUIET_SECONDS = 1.5
#: How long the broker may hold a fetch; until it answers, a seek has no effect.
FETCH_WAIT_MS = 20
POLL_MS = 100
FETCH_BYTES = 512 * 1024


class BodyCache:
    """The most recently seen records, up to a number of bytes."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._records: OrderedDict[tuple[str, int, int], LogRecord] = OrderedDict()

    def put(self, record: LogRecord) -> None:
        at = (record.topic, record.partition, record.offset)
        if at in self._records:
            return
        self._records[at] = record
        self._bytes += size_bytes(record.key, record.value, record.headers)
        while self._bytes > self._bytes_max and self._records:
            _, oldest = self._records.popitem(last=False)
            self._bytes -= size_bytes(oldest.key, oldest.value, oldest.headers)

    def get(self, topic: str, partition: int, offset: int) -> LogRecord | None:
        record = self._records.get((topic, partition, offset))
        if record is not None:
            self._records.move_to_end((topic, partition, offset))
        return record

    @property
    def size_bytes(self) -> int:
        return self._bytes


class LogReader:
    """Random access to committed records; one read at a time."""

    def __init__(self, *, bootstrap_servers: str, bodies: BodyCache, options: Mapping[str, Any]) -> None:
        self._options = {**options, "bootstrap_servers": bootstrap_servers}
        self._bodies = bodies
        self._consumer: Any = None
        self._busy = asyncio.Lock()

    async def read(self, topic: str, partition: int, offsets: Iterable[int]) -> dict[int, LogRecord]:
        """The committed records at `offsets`; those that do not exist are absent."""
        found: dict[int, LogRecord] = {}
        missing = []
        for offset in sorted(set(offsets)):
            record = self._bodies.get(topic, partition, offset)
            if record is None:
                missing.append(offset)
            else:
                found[offset] = record
        if missing:
            where = TopicPartition(topic, partition)
            async with self._reading(where) as consumer:
                for group in _coalesced(missing):
                    await self._read_range(consumer, where, group, found)
        return found

    async def has_records(self, topic: str, partition: int, start: int) -> bool:
        """Whether a committed record lies at `start` or behind it."""
        where = TopicPartition(topic, partition)
        async with self._reading(where) as consumer:
            end = (await consumer.end_offsets([where]))[where]
            if end <= start:
                return False
            async for _ in _walk(consumer, where, start, end - 1):
                return True
            return False

    async def end_offset(self, topic: str, partition: int) -> int:
        """The position behind the last committed record (and behind the markers that follow it)."""
        where = TopicPartition(topic, partition)
        async with self._reading(where) as consumer:
            return int((await consumer.end_offsets([where]))[where])

    async def start_offset(self, topic: str, partition: int) -> int:
        """The position of the oldest record that retention has left."""
        where = TopicPartition(topic, partition)
        async with self._reading(where) as consumer:
            return int((await consumer.beginning_offsets([where]))[where])

    async def close(self) -> None:
        async with self._busy:
            if self._consumer is not None:
                await self._consumer.stop()
                self._consumer = None

    @asynccontextmanager
    async def _reading(self, where: TopicPartition) -> AsyncGenerator[Any]:
        """The consumer, on `where` only. Between reads it is paused: it must not wait for what nobody asked for."""
        async with self._busy:
            consumer = await self._started()
            if consumer.assignment() != {where}:
                consumer.assign([where])
            consumer.resume(where)
            try:
                yield consumer
            finally:
                consumer.pause(where)

    async def _started(self) -> Any:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **self._options,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=FETCH_BYTES,
                fetch_max_wait_ms=FETCH_WAIT_MS,
            )
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    async def _read_range(
        self, consumer: Any, where: TopicPartition, offsets: list[int], found: dict[int, LogRecord]
    ) -> None:
        """From the first to the last of `offsets`, keeping those asked for."""
        wanted = set(offsets)
        end = (await consumer.end_offsets([where]))[where]
        last = max((offset for offset in offsets if offset < end), default=-1)
        if last < 0:
            return
        async for raw in _walk(consumer, where, offsets[0], last):
            if raw.offset in wanted:
                found[raw.offset] = record = LogRecord.of(raw)
                self._bodies.put(record)


async def _walk(consumer: Any, where: TopicPartition, start: int, last: int) -> AsyncGenerator[Any]:
    """The committed records from `start` to `last`, which the broker has; raises when it does not hand them out."""
    consumer.seek(where, start)
    begun = heard = monotonic_s()
    while True:
        fetched = (await consumer.getmany(where, timeout_ms=POLL_MS)).get(where, ())
        for raw in fetched:
            if raw.offset <= last:
                yield raw
            if raw.offset >= last:
                return
        now, position = monotonic_s(), await consumer.position(where)
        heard = now if fetched else heard
        if position > last or (position == last and now - heard > QUIET_SECONDS):
            return
        if now - begun > READ_SECONDS:
            raise TimeoutError(
                f"{where.topic}/{where.partition}: offsets {position} to {last} were not handed out in "
                f"{READ_SECONDS} s; see whether the broker is well"
            )


def _coalesced(offsets: list[int]) -> list[list[int]]:
    """Sorted offsets in runs whose holes are not worth a seek."""
    runs: list[list[int]] = []
    for offset in offsets:
        if runs and offset - runs[-1][-1] <= COALESCE_OFFSETS:
            runs[-1].append(offset)
        else:
            runs.append([offset])
    return runs
