"""Which Kafka: the one that is named, a container, or a process of our own; in that order.

What lives here: the order. What must not: how a container (`container`) or a process (`local`) is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from typing_extensions import override

from batchmill.agents.kafka.container import engine_answers, start_container
from batchmill.agents.kafka.errors import KafkaStartError
from batchmill.agents.kafka.local import start_cluster

__all__ = ["ForeignCluster", "RunningCluster", "find_or_start"]

Say = Callable[[str], None]


class RunningCluster(Protocol):
    """A Kafka that answers. Leaving the context stops what was started for it, and nothing else."""

    @property
    def bootstrap_servers(self) -> str: ...

    def stop(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class ForeignCluster(RunningCluster):
    """Somebody else's: it was running before us and runs on after us."""

    servers: str

    @property
    @override
    def bootstrap_servers(self) -> str:
        return self.servers

    @override
    def stop(self) -> None:
        """Do nothing: it is not ours to stop."""

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def find_or_start(data_dir: Path, *, bootstrap_servers: str | None = None, say: Say = lambda _: None) -> RunningCluster:
    """Return a Kafka to use: the one named in `bootstrap_servers`, else a container, else a local process.

    `bootstrap_servers` is what the user *said* (KAFKA_BOOTSTRAP_SERVERS or a flag), None when nothing was said.
    """
    if bootstrap_servers:
        say(f"using the Kafka at {bootstrap_servers}")
        return ForeignCluster(bootstrap_servers)
    if engine_answers():
        try:
            return start_container(data_dir, say=say)
        except KafkaStartError as error:
            # An engine without a way to the image is common (no network, no credentials), and we have another road.
            say(f"{error}; starting Kafka as a process instead")
    return start_cluster(data_dir, say=say)
