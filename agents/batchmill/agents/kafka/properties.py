"""How our brokers are configured: the one table behind the local broker and the compose file.

What lives here: broker properties as plain data, each with its reason when it is not Kafka's default. What must not:
files, processes, ports that are looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Node", "as_environment", "as_text", "node_properties", "shared_properties"]

HOST = "127.0.0.1"
REPLICAS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One broker, which is also a controller, and where it listens on the loopback."""

    node_id: int
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def voter(self) -> str:
        return f"{self.node_id}@{HOST}:{self.controller_port}"


def shared_properties(brokers: int) -> dict[str, str]:
    """What is the same on every broker of a cluster of this size, however it is run."""
    replicas = str(min(brokers, REPLICAS_MAX))
    in_sync = str(max(1, min(brokers, REPLICAS_MAX) - 1))  # three copies survive the loss of one
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        # A topic exists because the declared table says so, never because someone misspelt a name.
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        # Internal topics: few partitions, since each costs files and a leader election at start.
        "offsets.topic.num.partitions": "3",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "3",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "3",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        # One person waits for one group here; the default three seconds are for herds of consumers.
        "group.initial.rebalance.delay.ms": "0",
        # Fault tests want dead members noticed quickly.
        "group.min.session.timeout.ms": "1000",
        # A killed broker may come back under its id only after its session is over: nine seconds by default, which is
        # long at every restart.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        # 128 MB by default, taken at start, from a heap of 512.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }


def node_properties(node: Node, nodes: tuple[Node, ...], log_dir: str) -> dict[str, str]:
    """Everything one local broker is told. Voters are listed (not discovered), so ports may change between runs."""
    return shared_properties(len(nodes)) | {
        "node.id": str(node.node_id),
        "controller.quorum.voters": ",".join(each.voter for each in nodes),
        "listeners": f"PLAINTEXT://{node.address},CONTROLLER://{HOST}:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{node.address}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_dir,
    }


def as_text(properties: Mapping[str, str]) -> str:
    """Write a Java properties file."""
    return "".join(f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in properties.items())


def as_environment(properties: Mapping[str, str]) -> dict[str, str]:
    """Say the same to the container image, which reads `a.b` from the variable `KAFKA_A_B`."""
    return {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in properties.items()}
