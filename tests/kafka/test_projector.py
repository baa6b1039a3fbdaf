"""The projector against a real log: only what is committed, each record once, over restarts, rebuilds and gaps."""

from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from batchmill.agents.ingest import SourceRecord, ingest
from batchmill.agents.projector import Projector, queries
from batchmill.agents.projector.projector import PositionLostError
from batchmill.agents.projector.reading import View
from batchmill.agents.settings import Settings, load_settings
from batchmill.agents.topics import TopicAdmin, desired
from batchmill.schemas.codec import encode
from batchmill.schemas.records import Control

WAIT_SECONDS = 30


@pytest.fixture
async def settings(bootstrap_servers: str, topic_prefix: str, tmp_path: Path) -> Settings:
    made = load_settings(
        {
            "kafka.bootstrap_servers": bootstrap_servers,
            "topic_prefix": topic_prefix,
            "partitions": 2,
            "data_dir": tmp_path,
            "view.fold_records": 700,
            "view.fold_interval_ms": 20,
        }
    )
    async with TopicAdmin(made) as admin:
        await admin.apply()
    return made


async def feed(settings: Settings, count: int) -> None:
    await ingest(settings, (SourceRecord(line=n, key=b"%d" % n, value=b"{}") for n in range(count)), run="r")


def raw_count(settings: Settings) -> int:
    with View(settings.view_path) as view:
        return view.number("SELECT COUNT(*) FROM raw WHERE at_ms IS NOT NULL")


async def test_everything_is_folded_once_and_a_restart_reads_on_where_the_file_is(settings: Settings) -> None:
    await feed(settings, 2_000)
    async with Projector(settings) as projector:
        assert await projector.catch_up(timeout_seconds=WAIT_SECONDS) == 2_000
    await feed(settings, 500)
    async with Projector(settings) as projector:
        assert await projector.catch_up(timeout_seconds=WAIT_SECONDS) == 500
    assert raw_count(settings) == 2_500
    async with Projector(settings, rebuild=True) as projector:
        assert await projector.catch_up(timeout_seconds=WAIT_SECONDS) == 2_500
    assert raw_count(settings) == 2_500


async def test_an_aborted_transaction_is_not_seen_and_does_not_stop_the_view(settings: Settings) -> None:
    topic = f"{settings.topic_prefix}.control.v1"
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers, transactional_id=f"{settings.topic_prefix}-x"
    )
    await producer.start()
    try:
        for number, commit in enumerate((True, False, True)):
            await producer.begin_transaction()
            command = Control(
                command_id=str(number),
                command="pause",
                job="j",
                version=None,
                body_json="{}",
                actor="me",
                issued_at_ms=1,
            )
            await producer.send_and_wait(topic, value=encode(command), partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()
    async with Projector(settings) as projector:
        await projector.catch_up(timeout_seconds=WAIT_SECONDS)
        with View(settings.view_path) as view:
            assert {command.command_id for command in queries.commands(view)} == {"0", "2"}
        assert await projector.catch_up(timeout_seconds=WAIT_SECONDS) == 0


async def test_records_that_retention_took_are_noted_as_a_gap(settings: Settings) -> None:
    await feed(settings, 100)
    async with Projector(settings) as projector:
        await projector.catch_up(timeout_seconds=WAIT_SECONDS)
    await feed(settings, 100)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        at = TopicPartition(f"{settings.topic_prefix}.raw.v1", 0)
        await admin.delete_records({at: RecordsToDelete(before_offset=-1)})
    finally:
        await admin.close()
    async with Projector(settings) as projector:
        await projector.catch_up(timeout_seconds=WAIT_SECONDS)
    with View(settings.view_path) as view:
        assert queries.freshness(view).gaps == 1


async def test_a_topic_that_was_made_anew_is_refused_until_the_view_is_rebuilt(settings: Settings) -> None:
    await feed(settings, 100)
    async with Projector(settings) as projector:
        await projector.catch_up(timeout_seconds=WAIT_SECONDS)
    async with TopicAdmin(settings) as admin:
        raw = desired(settings)[0].name
        await admin.delete([raw])
        while await admin.read([raw]):
            pass
        await admin.apply()
    with pytest.raises(PositionLostError, match="--rebuild"):
        async with Projector(settings):
            pass
    async with Projector(settings, rebuild=True) as projector:
        assert await projector.catch_up(timeout_seconds=WAIT_SECONDS) == 0
