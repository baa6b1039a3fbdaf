"""Reading a task's state back: from the local file as far as it reaches, from there to the marker in the changelog.

What lives here: the marker record that a new owner writes after fencing (positions and end offsets lie around control
records, a record does not), and the reader. What must not: writing before the fence, or deciding who owns what.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from batchmill.agents.clock import monotonic_s, wall_ms
from batchmill.agents.runtime.codec import (
    HEARTBEAT,
    MARKER,
    OVERSEER,
    OWN_TABLE,
    RowCodec,
    Write,
    changelog_key,
    split_key,
)
from batchmill.agents.runtime.config import RuntimeConfig
from batchmill.agents.runtime.failpoints import FAILPOINTS
from batchmill.agents.runtime.producers import TaskProducer
from batchmill.agents.runtime.store import Store, StoreIdentity

__all__ = ["RestoreAbandonedError", "cluster_id", "read_back", "write_marker"]

HOUR_MS = 3_600_000
POLL_MS = 200
FETCH_BYTES = 4 * 2**20

StillOurs = Callable[[], bool]


class RestoreAbandonedError(Exception):
    """The group moved on while state was being read; the next round starts afresh."""


async def cluster_id(options: Mapping[str, Any]) -> str:
    """The brokers' own name for themselves: a local file of another cluster is worthless."""
    known = ("bootstrap_servers", "client_id", "request_timeout_ms", "security_protocol", "ssl_context")
    admin = AIOKafkaAdminClient(
        **{name: value for name, value in options.items() if name in known or name.startswith("sasl_")}
    )
    await admin.start()
    try:
        described = await admin.describe_cluster()
    finally:
        await admin.close()
    return str(described.get("cluster_id") or "")


async def write_marker(producer: TaskProducer, config: RuntimeConfig, partition: int) -> int:
    """Where the state of all earlier owners ends: the offset of a record of our own, written after the fence."""
    kafka = producer.kafka
    producer_id, epoch = producer.id_and_epoch
    value = json.dumps({"instance": config.instance, "producer_id": producer_id, "epoch": epoch}).encode()
    await kafka.begin_transaction()
    written = await kafka.send_and_wait(
        config.state_topic, value, key=changelog_key(OWN_TABLE, MARKER), partition=partition
    )
    await kafka.commit_transaction()
    return int(written.offset)


@dataclass(slots=True)
class _Reading:
    """One task's progress."""

    store: Store
    marker: int
    from_local: bool = False
    rows: int = 0


async def read_back(
    config: RuntimeConfig,
    stores: Mapping[int, Store],
    markers: Mapping[int, int],
    *,
    cluster: str,
    still_ours: StillOurs,
) -> None:
    """Bring every store up to its marker; raises when the group moved on meanwhile."""
    started = monotonic_s()
    consumer = AIOKafkaConsumer(
        **config.client_options(),
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    await consumer.start()
    try:
        readings = {
            TopicPartition(config.state_topic, partition): _Reading(store, markers[partition])
            for partition, store in stores.items()
        }
        consumer.assign(list(readings))
        await _seek(consumer, readings, config, cluster)
        if FAILPOINTS.armed:
            await FAILPOINTS.reach("restore.read")
        await _read(consumer, readings, config.codec, still_ours)
    finally:
        await consumer.stop()
    for where, reading in readings.items():
        config.observer.restored(where.partition, reading.rows, monotonic_s() - started, from_local=reading.from_local)


async def _seek(
    consumer: Any, readings: Mapping[TopicPartition, _Reading], config: RuntimeConfig, cluster: str
) -> None:
    starts = await consumer.beginning_offsets(list(readings))
    oldest_ms = wall_ms() - config.tuning.store_discard_hours * HOUR_MS
    for where, reading in readings.items():
        identity = StoreIdentity(cluster, where.topic, where.partition)
        reading.from_local = reading.store.discard_unless_usable(
            identity, start=starts[where], end=reading.marker, oldest_ms=oldest_ms
        )
        consumer.seek(where, max(reading.store.position, starts[where]))


async def _read(
    consumer: Any, readings: Mapping[TopicPartition, _Reading], codec: RowCodec, still_ours: StillOurs
) -> None:
    left = set(readings)
    while left:
        if not still_ours():
            raise RestoreAbandonedError
        fetched = await consumer.getmany(*left, timeout_ms=POLL_MS)
        for where, records in fetched.items():
            reading = readings[where]
            reading.rows += len(records)
            await _off_the_loop(_apply_records, reading.store, records, codec)
            if records and records[-1].offset >= reading.marker:
                left.discard(where)


async def _off_the_loop(work: Callable[..., None], *args: object) -> None:
    """The group's heartbeat and the other tasks go on while SQLite works; never cancelled half-way."""
    running: Awaitable[None] = asyncio.ensure_future(asyncio.to_thread(work, *args))
    await asyncio.shield(running)


def _apply_records(store: Store, records: Iterable[Any], codec: RowCodec) -> None:
    """The newest of each key, and the position after the last."""
    newest: dict[tuple[str, str], bytes | None] = {}
    end = store.position
    for record in records:
        newest[split_key(record.key)] = record.value
        end = record.offset + 1
    writes = [
        _write(table, key, data, codec)
        for (table, key), data in newest.items()
        if table != OWN_TABLE or not (key in {MARKER, HEARTBEAT} or key.startswith(OVERSEER))
    ]
    store.apply(writes, expect=store.position, position=end, now_ms=wall_ms())


def _write(table: str, key: str, data: bytes | None, codec: RowCodec) -> Write:
    if data is None or table == OWN_TABLE:
        return Write(table, key, data, ())
    return Write(table, key, data, codec.entries(codec.decode(data)))
