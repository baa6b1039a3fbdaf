"""One transaction, as short as it can be: begin, send, every delivery, offsets, commit.

What lives here: carrying out one batch. What must not: awaiting anything but the brokers of this transaction, and
deciding what a failure means; any exception that leaves here means that nobody knows whether it was committed.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from batchmill.agents.clock import boottime_s
from batchmill.agents.runtime.codec import changelog_key
from batchmill.agents.runtime.failpoints import FAILPOINTS
from batchmill.agents.runtime.outbox import Batch
from batchmill.agents.runtime.producers import TaskProducer
from batchmill.agents.runtime.records import Outgoing

__all__ = ["Committed", "Destination", "transact"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a task's transactions go besides the topics its records name."""

    group: str
    state_topic: str
    partition: int
    instance: str


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction known committed."""

    changelog_end: int | None  #: next changelog offset; None when no state was written
    sent_boottime_s: float  #: when the commit was sent, on the clock of leases
    records: int


async def transact(producer: TaskProducer, batch: Batch, to: Destination) -> Committed:
    """Write `batch`; returns only when it is known committed."""
    kafka = producer.kafka
    lanes = _lanes(batch, to, producer)
    for topic, _ in lanes:
        await kafka.partitions_for(topic)  # a look-up would prolong the open transaction
    await kafka.begin_transaction()
    if FAILPOINTS.armed:
        await FAILPOINTS.reach("commit.begun")
    ends = await _send(kafka, lanes)
    if FAILPOINTS.armed:
        await FAILPOINTS.reach("commit.delivered")
        for topic in sorted({record.topic for record in batch.records}):
            await FAILPOINTS.reach(f"commit.delivered/{topic}")
    if batch.positions:
        positions = {TopicPartition(topic, to.partition): end for topic, end in batch.positions.items()}
        await kafka.send_offsets_to_transaction(positions, to.group)
        if FAILPOINTS.armed:
            await FAILPOINTS.reach("commit.offsets")
    sent = boottime_s()
    await kafka.commit_transaction()
    changelog_end = ends.get((to.state_topic, to.partition)) if batch.writes else None
    return Committed(changelog_end, sent, sum(len(lane) for lane in lanes.values()))


def _lanes(batch: Batch, to: Destination, producer: TaskProducer) -> dict[tuple[str, int], list[Outgoing]]:
    """Records by destination, in the order in which they were emitted."""
    producer_id, epoch = producer.id_and_epoch
    txn = (("txn", f"{to.instance}/{producer_id}/{epoch}/{batch.sequence}".encode()),)
    lanes: dict[tuple[str, int], list[Outgoing]] = {}
    for record in batch.records:
        lane = lanes.setdefault((record.topic, record.partition), [])
        lane.append(record._replace(headers=record.headers + txn))
    if batch.writes:
        lane = lanes.setdefault((to.state_topic, to.partition), [])
        for write in batch.writes.values():
            key = changelog_key(write.table, write.key)
            lane.append(Outgoing(to.state_topic, to.partition, key, write.data, txn))
    return lanes


async def _send(kafka: Any, lanes: Mapping[tuple[str, int], Iterable[Outgoing]]) -> dict[tuple[str, int], int]:
    """Send all lanes and await every delivery; the position after the last record of each."""
    sent = await asyncio.gather(*(_send_lane(kafka, *where, lane) for where, lane in lanes.items()))
    if FAILPOINTS.armed:
        await FAILPOINTS.reach("commit.sent")
    ends: dict[tuple[str, int], int] = {}
    for where, batches in zip(lanes, sent, strict=True):
        for delivery, count in batches:
            ends[where] = (await delivery).offset + count
    return ends


async def _send_lane(kafka: Any, topic: str, partition: int, lane: Iterable[Outgoing]) -> list[tuple[Any, int]]:
    """(delivery, number of records) of each request-sized batch."""
    sent: list[tuple[Any, int]] = []
    builder = kafka.create_batch()
    for record in lane:
        if _append(builder, record) is None:
            sent.append((await kafka.send_batch(builder, topic, partition=partition), builder.record_count()))
            builder = kafka.create_batch()
            assert _append(builder, record) is not None, "an empty batch takes any record"
    sent.append((await kafka.send_batch(builder, topic, partition=partition), builder.record_count()))
    return sent


def _append(builder: Any, record: Outgoing) -> Any:
    return builder.append(timestamp=None, key=record.key, value=record.value, headers=list(record.headers))
