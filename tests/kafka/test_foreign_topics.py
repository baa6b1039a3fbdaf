"""The kafka sink on a broker: a topic that is not there holds its writes, and then each output is there once, in the
partition that Kafka's own clients would choose, visible with the record that says so.
"""

from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from batchmill.agents.foreign import ForeignTopics
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector.commits import down_sinks, history
from batchmill.agents.projector.reading import View
from batchmill.schemas.jobs import ChunkSpec, ModeSpec, PlaceSpec
from batchmill.schemas.status import Status
from tests.kafka.small_rig import eventually, publish, small_rig, the_lives
from tests.streams.making import make_spec

RECORDS, PARTITIONS = 30, 5


async def _make(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    finally:
        await admin.close()


async def _read(bootstrap: str, topic: str) -> list[tuple[int, bytes, dict[str, bytes]]]:
    """Everything that is committed there: partition, key, headers."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += [(record.partition, record.key, dict(record.headers)) for record in batch]
        return found
    finally:
        await consumer.stop()


async def test_a_missing_topic_holds_its_writes_and_once_it_is_made_each_output_is_there_once(
    tmp_path: Path, broker: RunningCluster
) -> None:
    topic = f"outputs-{uuid4().hex}"
    spec = make_spec(place=PlaceSpec(sink="kafka", table=topic), mode=ModeSpec(chunk=ChunkSpec(max_age_seconds=0.1)))
    async with small_rig(tmp_path, broker, spec, {}) as rig:
        bootstrap = rig.settings.kafka.bootstrap_servers
        await publish(rig, "triage", {f"s{number}": f"Ticket {number}." for number in range(RECORDS)})

        def all_are(status: Status) -> bool:
            lives = the_lives(rig, "triage")
            return len(lives) == RECORDS and all(life.status is status for life in lives)

        def held() -> bool:
            if not all_are(Status.VALIDATED):
                return False
            with View(rig.settings.view_path) as view:
                return [each.line for each in down_sinks(view)] == [f"kafka/{topic}"]

        await eventually("all wait for the topic", held)
        await _make(bootstrap, topic)
        await eventually("all are committed", lambda: all_are(Status.COMMITTED))

        found = await _read(bootstrap, topic)
        assert sorted(key for _, key, _ in found) == sorted(f"s{number}".encode() for number in range(RECORDS))
        with View(rig.settings.view_path) as view:
            for _, key, headers in found:
                (record,) = history(view, key.decode())
                assert headers["batchmill-commit"].decode() == record.commit_id
                assert headers["ce_id"].decode() == record.commit_id
            assert down_sinks(view) == []
        topics = ForeignTopics(rig.settings.kafka)
        await topics.look(topic)
        try:
            assert all(topics.partition_of(topic, key) == partition for partition, key, _ in found)
        finally:
            await topics.close()
        assert await _where_the_client_puts(bootstrap, topic, [key for _, key, _ in found]) == [
            partition for partition, _, _ in found
        ]


async def _where_the_client_puts(bootstrap: str, topic: str, keys: list[bytes]) -> list[int]:
    """The partitions a client chooses by itself, which for a key is what Kafka's own does."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        return [(await producer.send_and_wait(topic, b"{}", key=key)).partition for key in keys]
