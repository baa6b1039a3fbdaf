"""The brokers we start are real: they keep what was committed, can be harmed, and leave nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from batchmill.agents.kafka import KafkaStartError, LocalCluster, start_cluster
from batchmill.agents.kafka.network import answers


async def create_topic(servers: str, name: str, *, partitions: int = 1, copies: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(name, partitions, copies)])
        assert [code for _, code, *_ in response.topic_errors] == [0]
    finally:
        await admin.close()


async def transact(servers: str, txn_id: str, topic: str, values: list[bytes], *, commit: bool) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=txn_id, acks="all")
    await producer.start()
    try:
        await producer.begin_transaction()
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


async def read_all(servers: str, topic: str, *, until: bytes) -> list[bytes]:
    """Everything committed up to and with `until`; bounded by the test's timeout."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        seen: list[bytes] = []
        while until not in seen:
            batches = await consumer.getmany(timeout_ms=200)
            seen += [record.value for batch in batches.values() for record in batch]
        return seen
    finally:
        await consumer.stop()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def eventually(what: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def test_a_read_committed_reader_sees_the_committed_and_not_the_aborted(
    bootstrap_servers: str, topic_prefix: str
) -> None:
    await create_topic(bootstrap_servers, topic_prefix)
    await transact(bootstrap_servers, f"{topic_prefix}-a", topic_prefix, [b"1", b"2"], commit=True)
    await transact(bootstrap_servers, f"{topic_prefix}-b", topic_prefix, [b"never"], commit=False)
    await transact(bootstrap_servers, f"{topic_prefix}-a", topic_prefix, [b"3"], commit=True)
    assert await read_all(bootstrap_servers, topic_prefix, until=b"3") == [b"1", b"2", b"3"]


async def test_a_topic_nobody_declared_does_not_appear_by_writing_to_it(
    bootstrap_servers: str, topic_prefix: str
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, request_timeout_ms=1000)
    await admin.start()
    await producer.start()
    try:
        with pytest.raises(Exception, match=r".*"):
            await asyncio.wait_for(producer.send_and_wait(topic_prefix, b"x"), 5)
        assert topic_prefix not in await admin.list_topics()
    finally:
        await producer.stop()
        await admin.close()


async def test_what_was_committed_survives_kill_9_and_a_restart(own_broker: LocalCluster) -> None:
    servers = own_broker.bootstrap_servers
    await create_topic(servers, "kept")
    await transact(servers, "writer", "kept", [b"before"], commit=True)
    await asyncio.to_thread(own_broker.kill, 0)
    assert not answers(own_broker.nodes[0].port)
    await asyncio.to_thread(own_broker.restart, 0)
    await transact(servers, "writer", "kept", [b"after"], commit=True)
    assert await read_all(servers, "kept", until=b"after") == [b"before", b"after"]


def test_the_same_folder_is_the_same_cluster_also_on_other_ports(tmp_path: Path) -> None:
    with start_cluster(tmp_path) as first:
        asyncio.run(create_topic(first.bootstrap_servers, "kept"))
        asyncio.run(transact(first.bootstrap_servers, "w", "kept", [b"1"], commit=True))
    with start_cluster(tmp_path) as second:
        assert first.bootstrap_servers != second.bootstrap_servers
        assert asyncio.run(read_all(second.bootstrap_servers, "kept", until=b"1")) == [b"1"]


def test_a_paused_broker_is_silent_and_a_resumed_one_answers(own_broker: LocalCluster) -> None:
    port = own_broker.nodes[0].port
    own_broker.pause(0)
    assert not answers(port, timeout_seconds=0.5)
    own_broker.resume(0)
    assert eventually(lambda: answers(port))


def test_stop_leaves_no_process_even_of_a_paused_broker(tmp_path: Path) -> None:
    cluster = start_cluster(tmp_path)
    (pid,) = cluster.pids.values()
    assert not gone(pid)
    cluster.pause(0)
    cluster.stop()
    cluster.stop()
    assert gone(pid)
    assert not answers(cluster.nodes[0].port)


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_a_starter_killed_with_9_takes_its_broker_along(tmp_path: Path, paused: bool) -> None:
    program = (
        "import sys, time; from pathlib import Path; from batchmill.agents.kafka import start_cluster\n"
        f"c = start_cluster(Path({str(tmp_path)!r})); {'c.pause(0);' if paused else ''}\n"
        "print(*c.pids.values(), flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    assert eventually(lambda: gone(pid))


def test_a_broker_that_cannot_start_says_so_with_the_end_of_its_log(tmp_path: Path) -> None:
    with start_cluster(tmp_path):
        pass
    (tmp_path / "cluster-id").write_text("c29tZWJvZHktZWxzZXM")
    (tmp_path / "broker-0" / "data" / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=7\n")
    with pytest.raises(KafkaStartError, match="ended while starting") as caught:
        start_cluster(tmp_path)
    assert "broker.log" in str(caught.value)
    assert "node" in str(caught.value)


def test_a_port_that_somebody_has_is_refused_and_not_mistaken_for_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        with pytest.raises(KafkaStartError, match=f"port {port} .* already in use"):
            start_cluster(tmp_path, ports=[port])


async def test_three_brokers_keep_serving_transactions_while_one_is_dead(
    three_brokers: LocalCluster, topic_prefix: str
) -> None:
    servers = three_brokers.bootstrap_servers
    await create_topic(servers, topic_prefix, partitions=3, copies=3)
    await transact(servers, topic_prefix, topic_prefix, [b"1"], commit=True)
    await asyncio.to_thread(three_brokers.kill, 2)
    await transact(servers, topic_prefix, topic_prefix, [b"2"], commit=True)
    await asyncio.to_thread(three_brokers.restart, 2)
    assert len(three_brokers.pids) == 3
    assert await read_all(servers, topic_prefix, until=b"2") == [b"1", b"2"]


def test_a_folder_of_one_broker_is_not_reopened_as_three(tmp_path: Path) -> None:
    (tmp_path / "broker-0").mkdir()
    with pytest.raises(KafkaStartError, match="holds a cluster of 1 brokers"):
        start_cluster(tmp_path, brokers=3)


def test_a_guard_killed_with_9_takes_its_broker_along(tmp_path: Path) -> None:
    with start_cluster(tmp_path) as cluster:
        (pid,) = cluster.pids.values()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert eventually(lambda: gone(pid))
        assert eventually(lambda: cluster.pids == {})


def test_in_the_foreground_it_says_its_address_and_ends_when_asked(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "batchmill.agents.kafka", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().partition(":")
        assert host == "127.0.0.1"
        assert answers(int(port))
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not answers(int(port))
