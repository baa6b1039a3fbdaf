"""Kafka in a container: the service of `compose.yml`, run by the docker engine that answers here.

What lives here: calling `docker`. What must not: broker settings (they are in `compose.yml`, held equal to `properties`
by a test).
"""

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from batchmill.agents.kafka.errors import KafkaStartError
from batchmill.agents.kafka.network import free_ports
from batchmill.agents.kafka.properties import HOST
from batchmill.agents.settings import child_environment

__all__ = ["COMPOSE_FILE", "ContainerCluster", "engine_answers", "start_container"]

COMPOSE_FILE = Path(__file__).resolve().with_name("compose.yml")
ENGINE_TIMEOUT_SECONDS = 5.0
START_TIMEOUT_SECONDS = 300.0  #: the image may have to be pulled
STOP_TIMEOUT_SECONDS = 60.0

Say = Callable[[str], None]


def engine_answers() -> bool:
    """Ask whether there is a docker engine with the compose plugin that takes our orders."""
    return shutil.which("docker") is not None and all(
        _docker(*words, timeout_seconds=ENGINE_TIMEOUT_SECONDS) is None for words in (("info",), ("compose", "version"))
    )


def start_container(data_dir: Path, *, say: Say = lambda _: None) -> "ContainerCluster":
    """Start the service and return once it is healthy; the same `data_dir` is the same compose project."""
    (port,) = free_ports(1)
    project = "batchmill-" + hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
    cluster = ContainerCluster(project=project, port=port)
    say("starting Kafka in a container")
    cluster.start()
    say(f"Apache Kafka answers on {cluster.bootstrap_servers}")
    return cluster


class ContainerCluster:
    """A compose project of ours."""

    def __init__(self, *, project: str, port: int) -> None:
        self._project = project
        self._port = port

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self._port}"

    def start(self) -> None:
        problem = self._compose("up", "--detach", "--wait", "kafka", timeout_seconds=START_TIMEOUT_SECONDS)
        if problem is not None:
            self.stop()
            raise KafkaStartError(f"the docker engine could not start Kafka: {problem}")

    def stop(self) -> None:
        """Remove the container and its records."""
        self._compose("down", "--volumes", "--timeout", "5", timeout_seconds=STOP_TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _compose(self, *words: str, timeout_seconds: float) -> str | None:
        files = ("--file", str(COMPOSE_FILE), "--project-name", self._project)
        return _docker("compose", *files, *words, timeout_seconds=timeout_seconds, port=self._port)


def _docker(*words: str, timeout_seconds: float, port: int | None = None) -> str | None:
    """Run one docker command; None when it went well, else the last line it said."""
    try:
        done = subprocess.run(
            ["docker", *words],
            env=child_environment() | ({} if port is None else {"KAFKA_PORT": str(port)}),  # compose.yml asks for it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return ([line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"])[-1]
