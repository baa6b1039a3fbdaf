"""A transaction request that got stuck and arrives late must not end the next transaction (rule 7).

The fault is real: an EndTxn of version 0 does not say which transaction it means. The first test shows that the broker
believes it; the second that a producer in doubt is initialised again, and that the broker then turns it away.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import InvalidProducerEpoch, NoError, RequestTimedOutError, for_code
from aiokafka.protocol.transaction import EndTxnRequest

from batchmill.agents.runtime.producers import LostOwnershipError, TaskProducer


class StuckProducer(TaskProducer):
    """Its first EndTxn stays in the network until the test delivers it."""

    stuck: tuple[int, Any, dict[str, Any]] | None = None

    def _watch(self, kafka: Any) -> None:
        send = kafka.client.send

        async def holding(node_id: int, request: Any, **options: Any) -> Any:
            if isinstance(request, EndTxnRequest) and self.stuck is None:
                self.stuck = (node_id, request, options)
                raise RequestTimedOutError("stuck in the network")
            return await send(node_id, request, **options)

        kafka.client.send = holding
        super()._watch(kafka)

    async def deliver(self) -> type[Exception]:
        assert self.stuck is not None
        node_id, request, options = self.stuck
        response = await self.kafka.client.send(node_id, request, **options)
        return for_code(response.error_code)


@asynccontextmanager
async def _stuck(bootstrap: str, prefix: str) -> AsyncIterator[tuple[StuckProducer, str]]:
    topic = f"{prefix}.flow"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = StuckProducer(f"{prefix}-task-0", {"bootstrap_servers": bootstrap, "transaction_timeout_ms": 10_000})
    await producer.start()
    try:
        yield producer, topic
    finally:
        await producer.stop()


async def _committed(bootstrap: str, topic: str) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        found: list[bytes] = []
        for _ in range(3):
            for records in (await consumer.getmany(timeout_ms=300)).values():
                found += [record.value for record in records]
        return found
    finally:
        await consumer.stop()


async def _one(producer: TaskProducer, topic: str, value: bytes) -> None:
    await producer.kafka.begin_transaction()
    await producer.kafka.send_and_wait(topic, value, partition=0)


async def test_without_recycling_a_late_end_publishes_half_of_the_next_transaction(
    bootstrap_servers: str, topic_prefix: str
) -> None:
    async with _stuck(bootstrap_servers, topic_prefix) as (producer, topic):
        await _one(producer, topic, b"one")
        await producer.kafka.commit_transaction()
        assert producer.doubtful
        await _one(producer, topic, b"half of two")
        assert await producer.deliver() is NoError
        assert await _committed(bootstrap_servers, topic) == [b"one", b"half of two"]


async def test_after_recycling_a_late_end_is_turned_away(bootstrap_servers: str, topic_prefix: str) -> None:
    async with _stuck(bootstrap_servers, topic_prefix) as (producer, topic):
        await _one(producer, topic, b"one")
        await producer.kafka.commit_transaction()
        assert producer.doubtful
        _, epoch = producer.id_and_epoch
        await producer.recycle()
        assert producer.id_and_epoch[1] == epoch + 1
        assert not producer.doubtful
        await _one(producer, topic, b"half of two")
        assert await producer.deliver() is InvalidProducerEpoch
        assert await _committed(bootstrap_servers, topic) == [b"one"]
        await producer.kafka.commit_transaction()
        assert await _committed(bootstrap_servers, topic) == [b"one", b"half of two"]


async def test_a_plain_transaction_leaves_no_doubt(bootstrap_servers: str, topic_prefix: str) -> None:
    async with _stuck(bootstrap_servers, topic_prefix) as (producer, topic):
        producer.stuck = (0, None, {})  # nothing more gets stuck
        for number in range(5):
            await _one(producer, topic, b"%d" % number)
            await producer.kafka.commit_transaction()
        assert not producer.doubtful


async def test_a_zombie_that_recycles_finds_out_that_it_is_one(bootstrap_servers: str, topic_prefix: str) -> None:
    async with _stuck(bootstrap_servers, topic_prefix) as (producer, topic):
        await _one(producer, topic, b"one")
        await producer.kafka.commit_transaction()
        heir = TaskProducer(
            producer.transactional_id, {"bootstrap_servers": bootstrap_servers, "transaction_timeout_ms": 10_000}
        )
        await heir.start()
        with pytest.raises(LostOwnershipError):
            await producer.recycle()
        await heir.stop()
