"""A whole pipeline on this machine: a broker, a simulator, workers, and somebody who watches from outside.

What lives here: starting and ending them, commands, ingest, and `Watcher`, the read_committed client that runs through
all faults. What must not: why anything is killed (`script`), what must hold afterwards (`invariants`).
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from batchmill.agents.commands import issue
from batchmill.agents.jobs import LoadedJob, load_job
from batchmill.agents.settings import Settings, child_environment, load_settings
from batchmill.agents.simulator import RunningSimulator, SimulatorConfig, start_simulator
from batchmill.agents.simulator.faults import FaultPlan
from batchmill.agents.supervise import batchmill_argv
from batchmill.agents.topics import TopicAdmin
from batchmill.schemas import codec
from batchmill.schemas.ids import partition_for, place_key
from batchmill.schemas.records import Result
from batchmill.schemas.state import Chunk, Job, Life
from batchmill.schemas.status import ChunkState, Status
from tests.chaos.evidence import (
    END_KEY,
    FLOW,
    Evidence,
    Marker,
    Place,
    Txn,
    gather,
    open_transactions,
    read_sink,
    topic_of,
)
from tests.chaos.processes import Pool, Start
from tests.chaos.workload import JOB_DIR, TABLE, Event

__all__ = ["OVERSEER", "PARTITIONS", "PROJECTOR", "Mill", "Watcher", "eventually", "running_mill"]

PARTITIONS = 4
OVERSEER, PROJECTOR = "overseer", "projector"  #: a process of the pool whose name begins so is no worker
POLL_SECONDS = 0.05
QUIET_SECONDS = 1.5  #: nothing to do for so long: drained, when nobody is being killed
_COMMAND_SECONDS_MAX = 60.0
_FINAL = frozenset({Status.COMMITTED, Status.NEEDS_REVIEW, Status.FAILED_TERMINAL})
_CLOSED = frozenset({ChunkState.DONE, ChunkState.FAILED})
_WORKER = (
    "import sys; from batchmill.agents.app import run_worker, load_settings; sys.exit(run_worker(load_settings()))"
)

#: Everything that waits is short, in the proportions of production.
TUNING: dict[str, Any] = {
    "partitions": PARTITIONS,
    "runtime.session_timeout_seconds": 6,
    "runtime.heartbeat_seconds": 1,
    "runtime.rebalance_timeout_seconds": 15,
    "runtime.heartbeat_record_seconds": 1,
    "effects.idle_seconds": 0.3,
    "accounts.openai.poll_min_seconds": 0.3,
    "accounts.openai.poll_max_seconds": 1,
    "accounts.openai.lease_seconds": 2,
    "accounts.openai.connect_timeout_seconds": 1,
    "accounts.openai.read_timeout_seconds": 3,
    "accounts.openai.total_timeout_seconds": 3,
    "accounts.openai.reconcile_grace_seconds": 2,
    "accounts.openai.requests_per_minute": 60_000,
    "accounts.openai.open_batches_max": 64,
    "health.enabled": "false",
    "log.format": "json",
    "loopback_only": "true",
}


class Watcher:
    """What a read_committed client sees while things die: counts, commits in their order, chunks, lives, fences."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.counts: Counter[str] = Counter()
        self.commits: list[str] = []
        self.facts: dict[str, int | None] = {}  #: what each call cost, by custom id, as `results` tells it
        self.chunks: dict[str, Chunk] = {}
        self.lives: dict[str, Status] = {}
        self.jobs: dict[int, Job] = {}  #: by task
        self.arrivals: set[str] = set()  #: raw records that wait, by coordinates
        self.raw_taken: set[str] = set()  #: raw records that left a trace, by coordinates
        self.markers: list[Marker] = []
        self.trouble: list[str] = []
        self._bootstrap = bootstrap
        self._names = {topic_of(prefix, name): name for name in (*FLOW, "state")}

    async def run(self) -> None:
        places = [TopicPartition(topic, p) for topic in self._names for p in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 * 2**20,
        )
        await consumer.start()
        try:
            consumer.assign(places)
            while True:
                try:
                    fetched = await consumer.getmany(timeout_ms=200)
                except KafkaError as error:  # the broker is down just now
                    self.trouble.append(type(error).__name__)
                    await asyncio.sleep(0.2)
                    continue
                for tp, records in fetched.items():
                    self._take(self._names[tp.topic], records)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await consumer.stop()

    def of_status(self, *statuses: Status) -> int:
        return sum(1 for status in self.lives.values() if status in statuses)

    @property
    def settled(self) -> bool:
        """Every life has an end or waits for a person, every chunk is closed, nothing is parked."""
        lives = all(status in _FINAL for status in self.lives.values())
        return lives and not self.arrivals and all(chunk.state in _CLOSED for chunk in self.chunks.values())

    def _take(self, name: str, fetched: Sequence[Any]) -> None:
        records = [record for record in fetched if record.key != END_KEY]
        self.counts[name] += len(records)
        if name in {"normalized", "dead-letter", "excluded"}:
            self.raw_taken |= {src for record in records if (src := _raw_src(record)) is not None}
        if name == "results":
            self._take_facts(records)
        elif name == "committed":
            self.commits += [codec.decode_any(record.value).commit_id for record in records]
        elif name == "state":
            for record in records:
                self._take_row(record)

    def _take_facts(self, records: Sequence[Any]) -> None:
        for result in (codec.decode(record.value, Result) for record in records):
            if result.answered_by == "provider":
                assert result.custom_id not in self.facts, f"{result.custom_id} has two cost facts"
                self.facts[result.custom_id] = result.cost_nanos

    def _take_row(self, record: Any) -> None:
        key: bytes = record.key
        if key == b"__marker":
            told = json.loads(record.value)
            place = Place("state", record.partition, record.offset)
            self.markers.append(Marker(place, told["instance"], told["producer_id"], told["epoch"]))
        elif key.startswith(b"state.chunks/") and record.value is not None:
            chunk = codec.decode(record.value, Chunk)
            self.chunks[chunk.chunk_id] = chunk
        elif key.startswith(b"state.lives/") and record.value is not None:
            life = codec.decode(record.value, Life)
            self.lives[life.request_id] = life.status
        elif key.startswith(b"state.jobs/") and record.value is not None:
            self.jobs[record.partition] = codec.decode(record.value, Job)
        elif key.startswith(b"state.arrivals/"):
            at = f"{record.partition}/{int(key.rpartition(b'/')[2])}"
            (self.arrivals.discard if record.value is None else self.arrivals.add)(at)
            self.raw_taken.add(at)


def _raw_src(record: Any) -> str | None:
    """Coordinates of the raw record that caused this one, if one did."""
    for name, value in record.headers:
        if name == "src":
            topic, _, at = value.decode().partition(".raw.v1/")
            return at if at and not topic.startswith("effect:") else None
    return None


@dataclass(slots=True)
class Mill:
    """Everything that runs."""

    settings: Settings
    overrides: Mapping[str, Any]
    directory: Path
    simulator: RunningSimulator
    pool: Pool
    watcher: Watcher
    job: LoadedJob
    ingested: int = 0
    doomed: set[Txn] = field(default_factory=set)

    @property
    def bootstrap(self) -> str:
        return self.settings.kafka.bootstrap_servers

    def topics(self) -> dict[str, str]:
        return {topic_of(self.settings.topic_prefix, name): name for name in (*FLOW, "raw", "state")}

    async def command(self, command: str, **more: Any) -> None:
        """Write a command to every task, and wait until each has taken it."""
        issued = await issue(
            self.settings, command, self.job.spec.job, actor="chaos", wait_seconds=_COMMAND_SECONDS_MAX, **more
        )
        assert issued.effective, f"tasks {issued.laggards} did not take {command} in {_COMMAND_SECONDS_MAX:g} s"

    async def apply(self) -> None:
        await self.command("apply", version=self.job.version, body_json=self.job.spec.to_json())

    async def ingest(self, events: Iterable[Event], *, per_second: float | None = None) -> None:
        """Publish, acknowledged; evenly paced when told so."""
        topic = topic_of(self.settings.topic_prefix, "raw")
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=60_000,
            max_request_size=self.settings.runtime.record_bytes_max + 64_000,
        )
        began_s, sent_before = time.monotonic(), self.ingested
        async with producer:
            waiting = []
            for event in events:
                waiting.append(await producer.send(topic, event.value, key=event.key, headers=event.headers))
                self.ingested += 1
                if len(waiting) >= 100:
                    await asyncio.gather(*waiting)
                    waiting.clear()
                    due_s = 0.0 if per_second is None else (self.ingested - sent_before) / per_second
                    await asyncio.sleep(max(0.0, due_s - (time.monotonic() - began_s)))
            await asyncio.gather(*waiting)

    async def drained(self, seconds: float, *, quiet_seconds: float = QUIET_SECONDS) -> bool:
        """Until everything ingested has been taken and has come to rest; False when that takes too long."""
        deadline, quiet_since, seen = time.monotonic() + seconds, time.monotonic(), -1
        while time.monotonic() < deadline:
            total = sum(self.watcher.counts.values()) - self.watcher.counts["state"]
            busy = not self.watcher.settled or len(self.watcher.raw_taken) < self.ingested
            if total != seen or busy:
                quiet_since, seen = time.monotonic(), total
            elif time.monotonic() - quiet_since > quiet_seconds:
                return True
            await asyncio.sleep(0.5)
        return False

    async def open_transactions(self) -> dict[Txn, Counter[str]]:
        return await open_transactions(self.bootstrap, self.topics(), PARTITIONS)

    def sink_commits(self) -> dict[str, int]:
        """Commit ids the sink knows, whatever Kafka knows, and the task each belongs to."""
        _, history = read_sink(self.settings.sink_path, TABLE)
        return {row.commit_id: partition_for(place_key(row.request_id), PARTITIONS) for row in history}

    async def evidence(self) -> Evidence:
        """Ask everybody; call it when the workers have gone."""
        return await gather(
            bootstrap_servers=self.bootstrap,
            prefix=self.settings.topic_prefix,
            group=self.settings.app_id,
            partitions=PARTITIONS,
            sink_path=self.settings.sink_path,
            table=TABLE,
            ledger_path=self.simulator.config.ledger_file,
            generation=self.settings.raw_generation,
            doomed=frozenset(self.doomed),
            live_commits=tuple(self.watcher.commits),
        )

    def worker_said(self, name: str, event: str) -> list[dict[str, Any]]:
        """Lines of a worker's log with that event."""
        found = []
        path = self.pool.log(name)
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == event:
                    found.append(said)
        return found


@asynccontextmanager
async def running_mill(
    bootstrap: str,
    directory: Path,
    *,
    prefix: str,
    gold: Path | None = None,
    faults: FaultPlan | None = None,
    model_accuracy: Mapping[str, float] | None = None,
    seed: int = 0,
    latency_seconds: tuple[float, float] = (0.3, 1.0),
    overrides: Mapping[str, Any] | None = None,
    job_dir: Path = JOB_DIR,
    job: LoadedJob | None = None,
    account: Callable[[str], Mapping[str, Any]] | None = None,
    worker: tuple[str, ...] = ("-c", _WORKER),
) -> AsyncIterator[Mill]:
    """Topics made, simulator up, watcher watching; no worker yet. Nothing is left running afterwards."""
    config = SimulatorConfig(
        data_dir=directory / "simulator",
        seed=seed,
        accuracy=1.0,
        model_accuracy=model_accuracy or {},
        gold_path=gold,
        latency_seconds=latency_seconds,
        faults=faults or {},
    )
    simulator = await asyncio.to_thread(start_simulator, config)
    told = {
        **TUNING,
        "app_id": prefix,
        "topic_prefix": prefix,
        "data_dir": directory / "data",
        "kafka.bootstrap_servers": bootstrap,
        "accounts.openai.base_url": f"{simulator.base_url}/v1",
        "accounts.openai.api_key": "any",
        **(account(simulator.base_url) if account is not None else {}),
        **(overrides or {}),
    }
    settings = load_settings(told)

    def command(name: str, failpoint: str | None) -> Start:
        own = {**told, "instance": name} | ({"failpoint": failpoint} if failpoint else {})
        helper = next((kind for kind in (OVERSEER, PROJECTOR) if name.startswith(kind)), None)
        argv = [sys.executable, *worker] if helper is None else batchmill_argv(helper)
        return Start(argv, child_environment(own))

    pool, watcher = Pool(directory / "logs", command), Watcher(bootstrap, prefix)
    mill = Mill(settings, told, directory, simulator, pool, watcher, job or load_job(job_dir))
    watching: asyncio.Task[None] | None = None
    try:
        async with TopicAdmin(settings) as admin:
            await admin.apply()
        watching = asyncio.create_task(watcher.run())
        yield mill
    finally:
        await pool.kill_all()
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        await asyncio.to_thread(simulator.kill)


async def eventually(true: Callable[[], Any], *, seconds: float, every: float = POLL_SECONDS) -> bool:
    """Until it is so, or the time is over; whether it was."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every)
    return True


def is_stopped(pid: int) -> bool:
    """Has the kernel stopped it (SIGSTOP)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
