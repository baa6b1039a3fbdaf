"""A real Kafka on this machine: one to three brokers as child processes, on free loopback ports.

What lives here: formatting, starting, and the faults tests inflict (kill, stop, continue, restart). What must not:
deciding whether a broker of ours is wanted (that is `launcher`).

    data_dir/cluster-id                  made once; the same folder started again is the same cluster
    data_dir/broker-N/server.properties  written at every start (ports may move)
    data_dir/broker-N/broker.log         what it said
    data_dir/broker-N/data               what it keeps
"""

import base64
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from batchmill.agents.clock import monotonic_s
from batchmill.agents.kafka.errors import KafkaStartError
from batchmill.agents.kafka.jars import ensure_jars
from batchmill.agents.kafka.java import find_java
from batchmill.agents.kafka.network import answers, free_ports, is_free
from batchmill.agents.kafka.properties import Node, as_text, node_properties
from batchmill.agents.settings import cache_dir

__all__ = ["BROKERS_MAX", "LocalCluster", "start_cluster"]

BROKERS_MAX = 3
START_TIMEOUT_SECONDS = 60.0
FORMAT_TIMEOUT_SECONDS = 60.0
STOP_GRACE_SECONDS = 5.0
STOP_GRACE_TOGETHER_SECONDS = 1.0  #: the last of three finds no quorum to say goodbye to, and would wait minutes
LOOK_EVERY_SECONDS = 0.05
LOG_TAIL_LINES = 15
_BESIDE = Path(__file__).resolve()

#: A small broker that starts fast and leaves the cores to others: serial collection, and only the quick compiler, which
#: halves the broker's CPU time until some 300,000 records have passed (measured: docs/decisions/0002-local-kafka.md).
JVM_FLAGS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")

Say = Callable[[str], None]


def start_cluster(
    data_dir: Path,
    *,
    brokers: int = 1,
    ports: Sequence[int] | None = None,
    say: Say = lambda _: None,
) -> "LocalCluster":
    """Start Kafka under `data_dir`; returns once every broker answers. `ports`: one per broker, else free ones."""
    if not 1 <= brokers <= BROKERS_MAX or (ports is not None and len(ports) != brokers):
        raise KafkaStartError(f"a local cluster has 1 to {BROKERS_MAX} brokers and one port for each")
    java = find_java()
    libs = ensure_jars(cache_dir(), say=say)
    cluster = LocalCluster(data_dir=data_dir.resolve(), nodes=_nodes(brokers, ports), java=java, libs=libs, say=say)
    cluster.start()
    return cluster


@dataclass(slots=True)
class _Process:
    """A broker that was started: its guard, and the broker's own id."""

    guard: subprocess.Popen[str]
    pid: int

    @property
    def alive(self) -> bool:
        return self.guard.poll() is None


class LocalCluster:
    """Brokers that we started and that end with us. Use as a context, or call `stop`."""

    def __init__(self, *, data_dir: Path, nodes: tuple[Node, ...], java: Path, libs: Path, say: Say) -> None:
        self.nodes = nodes
        self._data_dir = data_dir
        self._java = java
        self._libs = libs
        self._say = say
        self._running: dict[int, _Process] = {}

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.address for node in self.nodes)

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the brokers that run, by node."""
        return {index: process.pid for index, process in self._running.items() if process.alive}

    def log_path(self, index: int) -> Path:
        return self._folder(index) / "broker.log"

    def start(self) -> None:
        """Format what is new, start every broker, wait until all of them answer."""
        began_s = monotonic_s()
        self._prepare()
        try:
            for index in range(len(self.nodes)):
                self._launch(index)
            for index in range(len(self.nodes)):
                self._await_answer(index)
        except BaseException:
            self.stop()
            raise
        self._say(f"Apache Kafka answers on {self.bootstrap_servers} after {monotonic_s() - began_s:.1f} s")

    def stop(self) -> None:
        """End every broker and wait until it is gone. Safe to call twice."""
        for process in self._running.values():
            self._signal(process, signal.SIGCONT)
            self._signal(process, signal.SIGTERM)
        grace_seconds = STOP_GRACE_SECONDS if len(self.nodes) == 1 else STOP_GRACE_TOGETHER_SECONDS
        deadline_s = monotonic_s() + grace_seconds
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.guard.wait(max(0.0, deadline_s - monotonic_s()))
            _bury(process)
        self._running.clear()

    def kill(self, index: int) -> None:
        """SIGKILL one broker: no goodbye, no flush."""
        _bury(self._running.pop(index))

    def restart(self, index: int) -> None:
        """Start a broker again after `kill`, or stop it properly first when it runs; returns once it answers."""
        running = self._running.pop(index, None)
        if running is not None:
            self._signal(running, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.guard.wait(STOP_GRACE_SECONDS)
            _bury(running)
        self._launch(index)
        self._await_answer(index)

    def pause(self, index: int) -> None:
        """SIGSTOP: the sockets stay open and nobody answers."""
        self._signal(self._running[index], signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """SIGCONT: undo `pause`."""
        self._signal(self._running[index], signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        known = {path.name for path in self._data_dir.glob("broker-*")}
        wanted = {f"broker-{node.node_id}" for node in self.nodes}
        if known and known != wanted:
            raise KafkaStartError(
                f"{self._data_dir} holds a cluster of {len(known)} brokers, {len(wanted)} were asked for;"
                " choose another folder, or remove this one with all its records"
            )
        cluster_id = self._cluster_id()
        formatting = [self._format(index, cluster_id) for index in range(len(self.nodes)) if not self._formatted(index)]
        for process in formatting:
            output, _ = process.communicate(timeout=FORMAT_TIMEOUT_SECONDS)
            if process.returncode != 0:
                raise KafkaStartError(f"cannot format {self._data_dir}: {output.strip()[-1000:]}")

    def _cluster_id(self) -> str:
        path = self._data_dir / "cluster-id"
        if not path.is_file():
            self._data_dir.mkdir(parents=True, exist_ok=True)
            # Sixteen bytes as Kafka writes them; the first is fixed so that the text cannot begin with a dash.
            fresh = base64.urlsafe_b64encode(b"\1" + secrets.token_bytes(15)).decode().rstrip("=")
            path.write_text(fresh, encoding="ascii")
        return path.read_text(encoding="ascii").strip()

    def _formatted(self, index: int) -> bool:
        return (self._folder(index) / "data" / "meta.properties").is_file()

    def _format(self, index: int, cluster_id: str) -> subprocess.Popen[str]:
        words = self._java_words("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", self._configure(index))
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _configure(self, index: int) -> str:
        folder = self._folder(index)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "server.properties"
        properties = node_properties(self.nodes[index], self.nodes, str(folder / "data"))
        path.write_text(as_text(properties), encoding="latin-1", errors="backslashreplace")
        return str(path)

    def _java_words(self, main: str, *words: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={_BESIDE.with_name('log4j2.properties').as_uri()}"
        return [str(self._java), *JVM_FLAGS, logging, "-cp", f"{self._libs}/*", main, *words]

    def _launch(self, index: int) -> None:
        port = self.nodes[index].port
        if not is_free(port):  # else its owner would answer in the name of a broker that cannot start
            raise KafkaStartError(f"port {port} of broker {index} is already in use; choose another one")
        words = self._java_words("kafka.Kafka", self._configure(index))
        guard = _BESIDE.with_name("guard.py")
        with self.log_path(index).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(guard), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # its own process group: our terminal's Ctrl-C is ours to act on
            )
        assert process.stdout is not None, "asked for a pipe"
        pid = process.stdout.readline().strip()
        if not pid:
            process.wait()
            raise KafkaStartError(f"the broker's guard did not start; see {self.log_path(index)}")
        self._running[index] = _Process(guard=process, pid=int(pid))

    def _await_answer(self, index: int) -> None:
        deadline_s = monotonic_s() + START_TIMEOUT_SECONDS
        process = self._running[index]
        while not answers(self.nodes[index].port):
            if not process.alive:
                raise KafkaStartError(f"broker {index} ended while starting.\n{self._tail(index)}")
            if monotonic_s() > deadline_s:
                raise KafkaStartError(
                    f"broker {index} did not answer within {START_TIMEOUT_SECONDS:g} s.\n{self._tail(index)}"
                )
            time.sleep(LOOK_EVERY_SECONDS)

    def _tail(self, index: int) -> str:
        path = self.log_path(index)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"The last {len(lines)} lines of {path}:", *lines])

    def _folder(self, index: int) -> Path:
        return self._data_dir / f"broker-{self.nodes[index].node_id}"

    @staticmethod
    def _signal(process: _Process, signum: signal.Signals) -> None:
        if process.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)


def _nodes(brokers: int, ports: Sequence[int] | None) -> tuple[Node, ...]:
    found = free_ports(brokers * 2)
    listening = ports or found[:brokers]
    return tuple(Node(node_id=i, port=listening[i], controller_port=found[brokers + i]) for i in range(brokers))


def _bury(process: _Process) -> None:
    """Kill the broker and wait for its guard, which leaves only after it has reaped the broker: then it is gone."""
    if process.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    process.guard.wait()
    for pipe in (process.guard.stdin, process.guard.stdout):
        if pipe is not None:
            pipe.close()
