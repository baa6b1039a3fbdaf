"""What people tell the pipeline: commands to every task, decisions on answers, and whether a command has taken effect.

A command's copies, one per partition, are written in one transaction that the broker ends after five seconds, so that a
door killed in the middle cannot hold up the readers. It is *effective* in a task when that task's state says so; only
the state topic is asked, the same that a restarted task reads.
"""

import getpass
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uuid_utils
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from batchmill.agents import clock
from batchmill.agents.settings import Settings
from batchmill.agents.topics import KafkaUnreachableError, TopicsMismatchError, kafka_client_options, missing
from batchmill.schemas.codec import decode, encode
from batchmill.schemas.ids import partition_for, place_key
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import Control, Decision
from batchmill.schemas.state import Job
from batchmill.streams.topology import topic_name

__all__ = [
    "AppliedVersion",
    "Issued",
    "actor_here",
    "applied_versions",
    "decide",
    "issue",
    "issue_watching",
    "new_command",
    "new_id",
    "read_commands",
]

_TRANSACTION_TIMEOUT_MS = 5_000
_POLL_MS = 100
_READ_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedVersion:
    """One frozen version of a job, as it was last applied."""

    job: str
    version: str
    spec: JobSpec
    actor: str
    applied_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A command that is in the log; `laggards` = the tasks that had not taken it when we stopped waiting."""

    command_id: str
    partitions: int
    laggards: tuple[int, ...]

    @property
    def effective(self) -> bool:
        return not self.laggards


def new_id() -> str:
    """For commands and decisions: each is its own, however equal its content."""
    return str(uuid_utils.uuid7())


def actor_here() -> str:
    """Who sits here, for the record."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"unknown@{socket.gethostname()}"


def new_command(command: str, job: str, *, actor: str, version: str | None = None, body_json: str = "{}") -> Control:
    """A command as it is given now, under an id of its own."""
    return Control(
        command_id=new_id(),
        command=command,
        job=job,
        version=version,
        body_json=body_json,
        actor=actor,
        issued_at_ms=clock.wall_ms(),
    )


async def issue(
    settings: Settings,
    command: str,
    job: str,
    *,
    actor: str,
    version: str | None = None,
    body_json: str = "{}",
    wait_seconds: float,
) -> Issued:
    """Write a command to every task and wait for it to take effect; 0 seconds = do not wait."""
    record = new_command(command, job, actor=actor, version=version, body_json=body_json)
    if wait_seconds <= 0:
        await _write(settings, record)
        return Issued(command_id=record.command_id, partitions=settings.partitions, laggards=())

    def taken(row: bytes) -> bool:
        return decode(row, Job).last_command_id == record.command_id

    seen = await issue_watching(settings, record, key=f"{Job.schema}/{job}", counts=taken, wait_seconds=wait_seconds)
    laggards = tuple(sorted(set(range(settings.partitions)) - seen.keys()))
    return Issued(command_id=record.command_id, partitions=settings.partitions, laggards=laggards)


async def issue_watching(
    settings: Settings,
    record: Control,
    *,
    key: str,
    counts: Callable[[bytes], bool] = lambda _row: True,
    told: Callable[[int, bytes], None] = lambda _partition, _row: None,
    wait_seconds: float,
) -> dict[int, bytes]:
    """Write a command to every task and wait until the state of each has the row `key` in a form that counts; gives
    that row for each task that had it in time. `told` hears of each form that the row of a task has had.
    """
    async with _consumer(settings) as consumer:
        state = [TopicPartition(topic_name(settings.topic_prefix, "state"), p) for p in range(settings.partitions)]
        consumer.assign(state)
        await consumer.seek_to_end(*state)
        for tp in state:
            await consumer.position(tp)  # resolved now, before the command can have any effect
        await _write(settings, record)
        seen: dict[int, bytes] = {}
        deadline = clock.monotonic_s() + wait_seconds
        while len(seen) < settings.partitions and clock.monotonic_s() < deadline:
            for tp, found in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                for each in found:
                    if each.key != key.encode() or each.value is None:
                        continue
                    told(tp.partition, each.value)
                    if counts(each.value):
                        seen[tp.partition] = each.value
    return seen


async def _write(settings: Settings, record: Control) -> None:
    topic, value = topic_name(settings.topic_prefix, "control"), encode(record)
    options = {
        "transactional_id": f"{settings.app_id}-command-{record.command_id}",
        "transaction_timeout_ms": _TRANSACTION_TIMEOUT_MS,
    }
    async with _producer(settings, options) as producer, producer.transaction():
        deliveries = [
            await producer.send(topic, value=value, key=str(partition).encode(), partition=partition)
            for partition in range(settings.partitions)
        ]
        for delivery in deliveries:
            await delivery


async def decide(settings: Settings, decisions: Sequence[Decision]) -> None:
    """Write decisions to the tasks of their requests, acknowledged."""
    topic = topic_name(settings.topic_prefix, "decisions")
    async with _producer(settings, {"acks": "all", "enable_idempotence": True}) as producer:
        deliveries = [
            await producer.send(
                topic,
                value=encode(decision),
                key=decision.request_id.encode(),
                partition=partition_for(place_key(decision.request_id), settings.partitions),
            )
            for decision in decisions
        ]
        for delivery in deliveries:
            await delivery


async def read_commands(settings: Settings, job: str | None = None) -> list[Control]:
    """Every command ever given (to one job), oldest first: read from one partition, which has a copy of each."""
    found: list[Control] = []
    async with _consumer(settings) as consumer:
        tp = TopicPartition(topic_name(settings.topic_prefix, "control"), 0)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        await consumer.seek_to_beginning(tp)
        deadline = clock.monotonic_s() + _READ_SECONDS
        while await consumer.position(tp) < end:
            if clock.monotonic_s() > deadline:
                raise TimeoutError(f"the control topic was not read to its end in {_READ_SECONDS:g} s; try again")
            for batch in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                found += [decode(record.value, Control) for record in batch if record.value is not None]
    return [command for command in found if job is None or command.job == job]


def applied_versions(commands: Sequence[Control]) -> dict[str, AppliedVersion]:
    """Version -> what was applied under it, in the order of first application; a later `apply` refreshes its spec."""
    versions: dict[str, AppliedVersion] = {}
    for command in commands:
        if command.command == "apply" and command.version is not None:
            versions[command.version] = AppliedVersion(
                job=command.job,
                version=command.version,
                spec=JobSpec.from_json(command.body_json),
                actor=command.actor,
                applied_at_ms=command.issued_at_ms,
            )
    return versions


@asynccontextmanager
async def _producer(settings: Settings, options: Mapping[str, Any]) -> AsyncIterator[AIOKafkaProducer]:
    size = settings.runtime.record_bytes_max
    producer = AIOKafkaProducer(**kafka_client_options(settings.kafka), max_request_size=size, **options)
    async with _running(producer, settings):
        yield producer


@asynccontextmanager
async def _consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **kafka_client_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    async with _running(consumer, settings):
        # About a topic that is not there a client asks without a rest until its time is over.
        if absent := missing(settings, ("control", "state"), await consumer.topics()):
            raise TopicsMismatchError(absent)
        yield consumer


@asynccontextmanager
async def _running(client: Any, settings: Settings) -> AsyncIterator[None]:
    try:
        await client.start()
    except KafkaConnectionError as error:
        await client.stop()
        raise KafkaUnreachableError(
            f"no Kafka broker answers at {settings.kafka.bootstrap_servers};"
            " start one (`make kafka`) or set KAFKA_BOOTSTRAP_SERVERS"
        ) from error
    try:
        yield
    finally:
        await client.stop()
