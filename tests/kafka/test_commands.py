"""Commands and decisions on a real log, with hand-made state standing in for workers."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from batchmill.agents.commands import applied_versions, decide, issue, read_commands
from batchmill.agents.settings import Settings, load_settings
from batchmill.agents.topics import TopicAdmin
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.codec import decode, encode
from batchmill.schemas.ids import partition_for
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.records import Control, Decision
from batchmill.schemas.state import Job
from batchmill.schemas.versions import version_of

SPEC = JobSpec(
    job="triage",
    ask=AskSpec(user="{{ input.x }}", model=ModelSpec(provider="openai", name="m")),
    place=PlaceSpec(sink="sqlite", table="t"),
)


@pytest.fixture
async def settings(bootstrap_servers: str, topic_prefix: str) -> Settings:
    made = load_settings({"kafka.bootstrap_servers": bootstrap_servers, "topic_prefix": topic_prefix, "partitions": 3})
    async with TopicAdmin(made) as admin:
        await admin.apply()
    return made


async def take_commands(settings: Settings, tasks: set[int]) -> None:
    """What workers do for a command, for some of the tasks: read it, and write the job's row."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, isolation_level="read_committed", group_id=None
    )
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await consumer.start()
    await producer.start()
    try:
        waiting = [TopicPartition(f"{settings.topic_prefix}.control.v1", p) for p in sorted(tasks)]
        consumer.assign(waiting)
        await consumer.seek_to_beginning(*waiting)
        while tasks:
            for tp, records in (await consumer.getmany(timeout_ms=100)).items():
                command = decode(records[-1].value, Control)
                row = Job(
                    job=command.job,
                    version="v",
                    versions_json="{}",
                    paused=False,
                    cancelled_before_ms=None,
                    last_command_id=command.command_id,
                    updated_at_ms=1,
                )
                await producer.send_and_wait(
                    f"{settings.topic_prefix}.state.v1",
                    value=encode(row),
                    key=f"state.jobs/{row.job}".encode(),
                    partition=tp.partition,
                )
                tasks.discard(tp.partition)
    finally:
        await producer.stop()
        await consumer.stop()


async def test_a_command_reaches_every_task_and_is_effective_when_all_of_them_say_so(settings: Settings) -> None:
    workers = asyncio.create_task(take_commands(settings, {0, 1, 2}))
    issued = await issue(
        settings, "apply", "triage", actor="me", version=version_of(SPEC), body_json=SPEC.to_json(), wait_seconds=30
    )
    await workers
    assert issued.effective
    assert issued.partitions == 3
    (command,) = await read_commands(settings, "triage")
    assert (command.command_id, command.command, command.actor) == (issued.command_id, "apply", "me")
    applied = applied_versions([command])[version_of(SPEC)]
    assert applied.spec == SPEC
    assert await read_commands(settings, "other") == []


async def test_tasks_that_have_not_taken_a_command_are_listed(settings: Settings) -> None:
    workers = asyncio.create_task(take_commands(settings, {1}))
    issued = await issue(settings, "pause", "triage", actor="me", wait_seconds=3)
    await workers
    assert issued.laggards == (0, 2)


async def test_nobody_is_waited_for_when_that_is_asked(settings: Settings) -> None:
    issued = await issue(settings, "redrive", "triage", actor="me", wait_seconds=0)
    assert issued.effective
    assert [command.command for command in await read_commands(settings)] == ["redrive"]


async def test_a_decision_goes_to_the_task_of_its_request(settings: Settings) -> None:
    decision = Decision(
        id="1",
        request_id="a" * 16 + "b" * 16,
        job="triage",
        action="accept",
        output_sha256_seen="s",
        output_json=None,
        reason=None,
        actor="me",
        decided_at_ms=1,
    )
    await decide(settings, [decision])
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers, group_id=None)
    await consumer.start()
    try:
        tp = TopicPartition(f"{settings.topic_prefix}.decisions.v1", partition_for(b"a" * 16, 3))
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        record = await asyncio.wait_for(consumer.getone(), 20)
    finally:
        await consumer.stop()
    assert decode(record.value, Decision) == decision
