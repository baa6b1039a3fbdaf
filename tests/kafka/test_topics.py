"""Planning, applying and verifying against a real cluster."""

import asyncio
from dataclasses import replace

import pytest

from batchmill.agents.settings import Settings, load_settings
from batchmill.agents.topics import (
    ChangeKind,
    KafkaUnreachableError,
    TopicAdmin,
    TopicsMismatchError,
    desired,
    verify,
)


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> Settings:
    return load_settings({"kafka.bootstrap_servers": bootstrap_servers, "topic_prefix": topic_prefix, "partitions": 2})


async def test_an_empty_cluster_is_planned_applied_and_then_as_declared(settings: Settings) -> None:
    async with TopicAdmin(settings) as admin:
        planned = await admin.plan()
        assert {change.kind for change in planned} == {ChangeKind.CREATE}
        assert await admin.apply() == planned
        assert await admin.plan() == []
        assert await admin.apply() == []
    await verify(settings)


async def test_a_drifted_setting_is_planned_and_mended_and_the_operators_own_is_kept(settings: Settings) -> None:
    raw = desired(settings)[0]
    async with TopicAdmin(settings) as admin:
        await admin.apply()
        await admin._alter({raw.name: {**raw.configs, "retention.ms": "1000", "segment.bytes": "2097152"}})
        while not (planned := await admin.plan()):
            await asyncio.sleep(0.02)  # a broker hears of a change a moment after it was acknowledged
        (change,) = planned
        assert (change.what, change.have, change.want) == ("retention.ms", "1000", raw.configs["retention.ms"])
        await admin.apply()
        assert await admin.plan() == []
        mended = (await admin.read([raw.name]))[raw.name]
        assert mended.own_configs["segment.bytes"] == "2097152"


async def test_start_up_refuses_missing_topics_and_names_the_command(settings: Settings) -> None:
    with pytest.raises(TopicsMismatchError, match="batchmill topics apply"):
        await verify(settings)


async def test_a_wrong_partition_count_is_refused_before_anything_is_changed(settings: Settings) -> None:
    async with TopicAdmin(settings) as admin:
        await admin._create([replace(desired(settings)[0], partitions=3)])
        with pytest.raises(TopicsMismatchError, match="for life"):
            await admin.apply()
        names = [topic.name for topic in desired(settings)]
        assert list(await admin.read(names)) == [names[0]]


async def test_no_broker_is_said_with_the_address_that_was_tried() -> None:
    settings = load_settings({"kafka.bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(KafkaUnreachableError, match=r"127\.0\.0\.1:1"):
        await verify(settings)
