"""Reading the log back: state up to the marker, bodies by offset; never what was not committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from batchmill.agents.runtime import BodyCache, LogReader, RuntimeConfig
from batchmill.agents.runtime.producers import TaskProducer
from batchmill.agents.runtime.restore import RestoreAbandonedError, cluster_id, read_back, write_marker
from batchmill.agents.runtime.store import Store, StoreIdentity
from tests.runtime.worker import TABLE, ItemCodec

PADDED = "x" * 3_000


@asynccontextmanager
async def _owner(config: RuntimeConfig) -> AsyncIterator[TaskProducer]:
    producer = TaskProducer(config.transactional_id(0), config.producer_options())
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def _config(bootstrap: str, prefix: str, directory: Path) -> RuntimeConfig:
    config = RuntimeConfig(
        app_id=prefix,
        instance="one",
        bootstrap_servers=bootstrap,
        partitions=1,
        state_topic=f"{prefix}.state",
        state_dir=directory,
        codec=ItemCodec(),
        place=lambda _: 0,
    )
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(config.state_topic, 1, 1)])
    await admin.close()
    return config


async def _write(
    producer: TaskProducer, topic: str, rows: dict[str, bytes | None], *, commit: bool = True
) -> list[int]:
    """Offsets of the rows, in one transaction that is committed, aborted or (None) left open."""
    kafka = producer.kafka
    await kafka.begin_transaction()
    sent = [await kafka.send(topic, value, key=f"{TABLE}/{name}".encode(), partition=0) for name, value in rows.items()]
    offsets = [(await delivery).offset for delivery in sent]
    if commit:
        await kafka.commit_transaction()
    else:
        await kafka.abort_transaction()
    return offsets


def _row(name: str) -> bytes:
    return f'["{name}", "queued"]'.encode()


async def test_a_state_of_many_fetches_is_read_to_the_marker_and_no_aborted_row_with_it(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    config = await _config(bootstrap_servers, topic_prefix, tmp_path)
    cluster = await cluster_id(config.client_options())
    assert cluster
    async with _owner(config) as before:
        names = [f"{number}{PADDED}" for number in range(1_600)]  # each row holds its name twice: about 10 MB
        for start in range(0, len(names), 200):
            await _write(before, config.state_topic, {name: _row(name) for name in names[start : start + 200]})
        await _write(before, config.state_topic, {names[0]: None, "late": _row("late")})
        await _write(before, config.state_topic, {names[1]: None, "never": _row("never")}, commit=False)
        async with _owner(config) as heir:
            marker = await write_marker(heir, config, 0)
            store = Store.open(tmp_path, StoreIdentity(cluster, config.state_topic, 0))
            await read_back(config, {0: store}, {0: marker}, cluster=cluster, still_ours=lambda: True)
            assert store.count() == len(names)  # one gone, one more
            assert store.get(TABLE, names[0]) is None
            assert store.get(TABLE, names[1]) == _row(names[1])
            assert store.get(TABLE, names[-1]) == _row(names[-1])
            assert store.get(TABLE, "never") is None
            assert len(list(store.scan("queue", "late", "latf", past=False))) == 1
            assert store.position == marker + 1
            store.close()


async def test_a_restore_stops_when_the_group_has_moved_on(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    config = await _config(bootstrap_servers, topic_prefix, tmp_path)
    async with _owner(config) as owner:
        marker = await write_marker(owner, config, 0)
        store = Store.open(tmp_path, StoreIdentity("", config.state_topic, 0))
        with pytest.raises(RestoreAbandonedError):
            await read_back(config, {0: store}, {0: marker}, cluster="", still_ours=lambda: False)
        store.close()


async def test_bodies_are_found_by_offset_and_what_was_aborted_is_absent(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    config = await _config(bootstrap_servers, topic_prefix, tmp_path)
    topic = config.state_topic
    async with _owner(config) as owner:
        first = await _write(owner, topic, {f"a{number}": _row("a") for number in range(300)})
        aborted = await _write(owner, topic, {"b": _row("b")}, commit=False)
        last = await _write(owner, topic, {f"c{number}": _row("c") for number in range(300)})
    bodies = BodyCache(bytes_max=10**6)
    log = LogReader(bootstrap_servers=bootstrap_servers, bodies=bodies, options={})
    try:
        wanted = [last[-1], first[3], aborted[0], first[0], last[0], last[-1] + 1, 10**6]
        found = await log.read(topic, 0, wanted)
        assert sorted(found) == [first[0], first[3], last[0], last[-1]]
        assert found[last[-1]].key == f"{TABLE}/c299".encode()
        assert found[last[-1]].src == f"{topic}/0/{last[-1]}"
        assert bodies.get(topic, 0, first[3]) == found[first[3]]
        several = await asyncio.gather(*(log.read(topic, 0, [offset]) for offset in first[10:40]))
        assert [list(one) for one in several] == [[offset] for offset in first[10:40]]
    finally:
        await log.close()


async def test_a_position_behind_the_last_record_has_no_records_though_a_marker_follows(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    config = await _config(bootstrap_servers, topic_prefix, tmp_path)
    topic = config.state_topic
    log = LogReader(bootstrap_servers=bootstrap_servers, bodies=BodyCache(bytes_max=1), options={})
    try:
        assert await log.end_offset(topic, 0) == 0
        assert not await log.has_records(topic, 0, 0)
        async with _owner(config) as owner:
            offsets = await _write(owner, topic, {"a": _row("a"), "b": _row("b")})
        assert await log.has_records(topic, 0, offsets[-1])
        assert not await log.has_records(topic, 0, offsets[-1] + 1)
        assert await log.end_offset(topic, 0) == offsets[-1] + 2
    finally:
        await log.close()
