"""A whole installation on this machine for a few minutes: Kafka, simulator, workers, projector, overseer as processes.

The demo and the bench stand on it. What lives here: starting, waiting until ready, stopping, and the settings that make
everything quick on a loopback. What must not: records, reports, or deciding when something is done.

    work_dir/batchmill.toml   the settings, for the commands that look at what is left
    work_dir/kafka            the broker, when it is ours
    work_dir/simulator        the provider's memory and its ledger
    work_dir/data             state, payloads, sink and view
    work_dir/logs             what every process said
"""

import asyncio
import json
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from batchmill.agents.clock import monotonic_s
from batchmill.agents.kafka import RunningCluster, find_or_start
from batchmill.agents.kafka.launcher import ForeignCluster
from batchmill.agents.kafka.network import free_ports
from batchmill.agents.settings import CONFIG_VARIABLE, Settings, child_environment, load_settings, nest, origins
from batchmill.agents.simulator import SimulatorConfig, config_to_json
from batchmill.agents.supervise import ProcessGroup, ProcessSpec, Restarts, batchmill_argv
from batchmill.agents.topics import TopicAdmin, desired

__all__ = [
    "CONFIG_FILE",
    "KAFKA_FOLDER",
    "FolderTakenError",
    "Rig",
    "RigError",
    "RigPlan",
    "decided_settings",
    "fresh_folder",
    "kafka_for",
    "running_rig",
]

Say = Callable[[str], None]

CONFIG_FILE = "batchmill.toml"
KAFKA_FOLDER = "kafka"
SIMULATOR = "simulator"
PROJECTOR = "projector"
OVERSEER = "overseer"
_HOST = "127.0.0.1"
_READY_SECONDS_MAX = 60.0
_LOOK_SECONDS = 0.1
_PROBE_SECONDS_MAX = 2.0
#: the marker that tells a folder we made from one we must not empty
_MARKER = "made-by-batchmill-demo"

#: On a loopback everything answers at once, so every wait is short; the order of the waits is that of production.
QUICK: Mapping[str, Any] = {
    "partitions": 8,
    "loopback_only": "true",
    "accounts.openai.requests_per_minute": 60_000,
    "accounts.openai.open_batches_max": 64,
    "accounts.openai.connect_timeout_seconds": 2,
    "accounts.openai.read_timeout_seconds": 3,
    "accounts.openai.total_timeout_seconds": 4,
    "accounts.openai.transfer_timeout_seconds": 30,
    "accounts.openai.poll_min_seconds": 0.5,
    "accounts.openai.poll_max_seconds": 1,
    "accounts.openai.reconcile_grace_seconds": 1,
    "accounts.openai.clock_skew_seconds": 5,
    "accounts.openai.lease_seconds": 4,
    "accounts.openai.cooldown_max_seconds": 2,
    "effects.idle_seconds": 0.2,
    "runtime.heartbeat_record_seconds": 1,
    "runtime.drain_timeout_seconds": 8,
    "log.format": "json",
}


class RigError(Exception):
    """Something did not come up, or did not stay up; the message says which log to read."""


class FolderTakenError(RigError):
    """The folder to work in holds something that is not ours to remove."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RigPlan:
    """What to run."""

    work_dir: Path
    workers: int
    simulator: SimulatorConfig
    settings: Mapping[str, Any] = field(default_factory=dict)  #: dotted, over `QUICK`

    @property
    def worker_names(self) -> tuple[str, ...]:
        return tuple(f"worker-{number}" for number in range(1, self.workers + 1))


@dataclass(slots=True)
class Rig:
    """What runs."""

    plan: RigPlan
    settings: Settings
    group: ProcessGroup
    cluster: RunningCluster
    health: Mapping[str, str]  #: process -> URL that answers 200 when it is ready

    @property
    def workers(self) -> tuple[str, ...]:
        return self.plan.worker_names

    def log_path(self, name: str) -> Path:
        return _log_path(self.plan.work_dir, name)

    def pids(self) -> dict[str, int]:
        """Of every process of ours that runs just now; the broker's too, when it is our own child."""
        brokers: Mapping[int, int] = getattr(self.cluster, "pids", {})
        found = {name: self.group.pid(name) for name in self.health}
        found |= {f"broker-{number}": pid for number, pid in brokers.items()}
        return {name: pid for name, pid in found.items() if pid is not None}

    async def ready(self, name: str, *, starts: int = 1) -> None:
        """Wait until a process that was started at least `starts` times says it is ready. RigError if it does not."""
        deadline_s = monotonic_s() + _READY_SECONDS_MAX
        async with httpx.AsyncClient(timeout=_PROBE_SECONDS_MAX, trust_env=False) as client:
            while self.group.starts(name) < starts or not await _answers(client, self.health[name]):
                if monotonic_s() > deadline_s:
                    raise RigError(f"{name} was not ready after {_READY_SECONDS_MAX:g} s; see {self.log_path(name)}")
                await asyncio.sleep(_LOOK_SECONDS)


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`: what an earlier run left there goes, anything else is refused."""
    marker = path / _MARKER
    if path.exists() and any(path.iterdir()):
        if not marker.is_file():
            raise FolderTakenError(f"{path} is not empty and not from an earlier run; name another folder")
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return path.resolve()


@contextmanager
def kafka_for(work_dir: Path, *, say: Say) -> Iterator[RunningCluster]:
    """The Kafka that was named by a flag, a variable or a file; else one of our own that ends with the context."""
    named = load_settings().kafka.bootstrap_servers if "kafka.bootstrap_servers" in origins() else None
    with find_or_start(work_dir / KAFKA_FOLDER, bootstrap_servers=named, say=say) as cluster:
        yield cluster


@asynccontextmanager
async def running_rig(plan: RigPlan, cluster: RunningCluster, *, say: Say) -> AsyncIterator[Rig]:
    """Create the topics, start everything, wait until it is ready; stop everything on leaving."""
    simulator_port, *health_ports = free_ports(plan.workers + 3)
    decided = decided_settings(plan, cluster.bootstrap_servers, simulator_port)
    settings = load_settings(decided)
    async with TopicAdmin(settings) as admin:
        say(f"{len(await admin.apply())} topics of {settings.partitions} partitions, prefix {settings.topic_prefix}")
    members, health = _members(plan, decided, simulator_port, health_ports)
    group = ProcessGroup(
        members,
        say=lambda name, what: say(f"{name}: {what}"),
        restarts=Restarts(grace_seconds=settings.runtime.drain_timeout_seconds + 2),
    )
    try:
        async with group:
            rig = Rig(plan, settings, group, cluster, health)
            await asyncio.gather(*(rig.ready(name) for name in health))
            say(f"all {len(health)} are ready; their logs are in {plan.work_dir / 'logs'}")
            yield rig
    finally:
        await _forget_topics(settings, cluster)


def decided_settings(plan: RigPlan, servers: str, simulator_port: int) -> dict[str, Any]:
    """Everything that an environment or a file of the user's could set otherwise is set here."""
    data_dir, name = plan.work_dir / "data", f"demo-{secrets.token_hex(3)}"
    decided = {
        **QUICK,
        "app_id": name,
        "topic_prefix": name,
        "data_dir": data_dir,
        "payloads.dir": data_dir / "payloads",
        "sink.sqlite_path": data_dir / "sink.sqlite",
        "view.path": data_dir / "view.sqlite",
        "kafka.bootstrap_servers": servers,
        "accounts.openai.base_url": f"http://{_HOST}:{simulator_port}/v1",
        "accounts.openai.api_key": "not-a-secret",
        **plan.settings,
    }
    (plan.work_dir / CONFIG_FILE).write_text(_toml(nest(decided)), encoding="utf-8")
    return decided


def _members(
    plan: RigPlan, decided: Mapping[str, Any], simulator_port: int, health_ports: list[int]
) -> tuple[list[ProcessSpec], dict[str, str]]:
    config = plan.work_dir / "simulator.json"
    config.write_bytes(config_to_json(plan.simulator))
    argv = (sys.executable, "-m", "batchmill.agents.simulator", str(config), _HOST, str(simulator_port))
    members = [ProcessSpec(name=SIMULATOR, argv=argv, log_path=_log_path(plan.work_dir, SIMULATOR))]
    health = {SIMULATOR: f"http://{_HOST}:{simulator_port}/livez"}
    for name, port in zip((*plan.worker_names, PROJECTOR, OVERSEER), health_ports, strict=True):
        own = {"instance": name, "health.host": _HOST, "health.port": port, "health.enabled": "true"}
        env = child_environment({**decided, **own}) | {CONFIG_VARIABLE: str(plan.work_dir / CONFIG_FILE)}
        words = batchmill_argv(name if name in {PROJECTOR, OVERSEER} else "worker")
        members.append(ProcessSpec(name=name, argv=words, log_path=_log_path(plan.work_dir, name), env=env))
        health[name] = f"http://{_HOST}:{port}/readyz"
    return members, health


def _log_path(work_dir: Path, name: str) -> Path:
    return work_dir / "logs" / f"{name}.log"


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def _forget_topics(settings: Settings, cluster: RunningCluster) -> None:
    """On somebody else's cluster: our own end with their cluster, and with its folder."""
    if isinstance(cluster, ForeignCluster):
        async with TopicAdmin(settings) as admin:
            await admin.delete([topic.name for topic in desired(settings)])


def _toml(tree: Mapping[str, Any], path: str = "") -> str:
    """Nested settings as TOML: a JSON text is a TOML basic string."""
    plain = {name: value for name, value in tree.items() if not isinstance(value, Mapping)}
    lines = [f"[{path}]"] if path and plain else []
    lines += [f"{name} = {_toml_value(value)}" for name, value in plain.items()]
    lines += [
        _toml(value, f"{path}.{name}" if path else name) for name, value in tree.items() if isinstance(value, Mapping)
    ]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return str(value) if value in {"true", "false"} else json.dumps(str(value))
