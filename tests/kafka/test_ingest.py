"""Files into a real raw topic, read back by an independent consumer."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.cli.program import run
from batchmill.agents.commands import read_commands
from batchmill.agents.ingest import Format, IngestReport, SourceRecord, declare_end, ingest, open_records
from batchmill.agents.settings import Settings, load_settings
from batchmill.agents.topics import KafkaUnreachableError, TopicAdmin
from batchmill.schemas.ids import partition_for
from batchmill.schemas.records import Control
from batchmill.streams.controlling import control, refusal
from batchmill.streams.view import MemoryView


@pytest.fixture
async def settings(bootstrap_servers: str, topic_prefix: str) -> Settings:
    made = load_settings({"kafka.bootstrap_servers": bootstrap_servers, "topic_prefix": topic_prefix, "partitions": 3})
    async with TopicAdmin(made) as admin:
        await admin.apply()
    return made


async def read_raw(settings: Settings) -> list[Any]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, isolation_level="read_committed", group_id=None
    )
    await consumer.start()
    try:
        tps = [TopicPartition(f"{settings.topic_prefix}.raw.v1", p) for p in range(settings.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        records: list[Any] = []
        while len(records) < sum(ends.values()):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records += batch
        return records
    finally:
        await consumer.stop()


async def declared(settings: Settings) -> list[Control]:
    """The commands, once the broker has finished the transaction that wrote them."""
    for _ in range(100):
        if found := await read_commands(settings):
            return found
        await asyncio.sleep(0.1)
    return []


async def test_every_line_arrives_once_with_job_run_and_key(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    lines = [b'{"id": %d}' % n for n in range(5000)] + [b"{broken", b'{"id": 7}']
    file.write_bytes(b"\n".join(lines))
    seen: list[int] = []
    with open_records(str(file), Format.JSONL, key="id") as opened:
        report = await ingest(
            settings, opened.records, run="r1", job="triage", on_progress=lambda report: seen.append(report.sent)
        )
    records = await read_raw(settings)
    assert sorted(record.value for record in records) == sorted(lines)
    assert {tuple(record.headers) for record in records} == {
        (("batchmill-job", b"triage"), ("batchmill-run", b"r1")),
    }
    assert all(record.partition == partition_for(record.key, 3) for record in records if record.key is not None)
    assert (report.read, report.sent, report.without_key, report.repeated, report.refused) == (5002, 5002, 1, 1, 0)
    assert seen == sorted(seen)
    assert seen[-1] == 5002


async def test_what_kafka_cannot_take_is_refused_by_line_and_the_rest_is_sent(settings: Settings) -> None:
    def records() -> Iterator[SourceRecord]:
        yield SourceRecord(line=1, value=b"x" * 3_000_000)
        yield SourceRecord(line=2, trouble="3 cells, the header has 2")
        yield SourceRecord(line=3, value=b"x" * settings.runtime.record_bytes_max)

    report = await ingest(settings, records(), run="r")
    assert (report.read, report.sent, report.refused) == (3, 1, 2)
    assert [line for line, _ in report.refused_lines] == [1, 2]
    assert [len(record.value) for record in await read_raw(settings)] == [settings.runtime.record_bytes_max]


async def test_the_same_content_has_the_same_manifest(settings: Settings) -> None:
    def records() -> Iterator[SourceRecord]:
        yield SourceRecord(line=1, value=b"a")
        yield SourceRecord(line=2, value=b"b")

    first: IngestReport = await ingest(settings, records(), run="r1")
    second = await ingest(settings, records(), run="r2")
    assert first.content_sha256 == second.content_sha256 != ""


async def test_a_run_that_came_to_its_end_declares_it_to_every_task(settings: Settings) -> None:
    values = [b"a", b"", b"bc"]
    report = await ingest(settings, (SourceRecord(line=n, value=value) for n, value in enumerate(values)), run="r1")
    assert await read_commands(settings) == []  # sent, and not declared yet
    await declare_end(settings, report, source="x.jsonl", actor="me")
    (command,) = await declared(settings)
    assert (command.command, command.command_id, command.job, command.actor) == ("manifest", report.manifest, "", "me")
    body = orjson.loads(command.body_json)
    hashed = hashlib.sha256(b"".join(len(value).to_bytes(8, "big") + value for value in values)).hexdigest()
    assert (body["run"], body["source"], body["count"], body["sha256"]) == ("r1", "x.jsonl", 3, hashed)
    assert report.began_ms <= body["began_ms"] <= body["ended_ms"]
    assert refusal(MemoryView(), command) is None
    assert control(MemoryView(), command, 1, 1) == []


async def test_the_command_declares_the_end_of_what_it_sent(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"id": 1}\n{"id": 2}\n')
    at = [f"kafka.bootstrap_servers={settings.kafka.bootstrap_servers}", f"topic_prefix={settings.topic_prefix}"]
    set_ = [word for each in (*at, f"partitions={settings.partitions}") for word in ("--set", each)]
    code = await asyncio.to_thread(run, [*set_, "ingest", str(file), "--job", "triage", "--run", "r9", "--json"])
    told = orjson.loads(capsys.readouterr().out)
    (command,) = await declared(settings)
    assert (code, command.job, command.command_id) == (0, "triage", told["manifest"])
    body = orjson.loads(command.body_json)
    assert (body["run"], body["source"], body["count"]) == ("r9", "x.jsonl", 2)
    assert body["sha256"] == told["content_sha256"]


async def test_no_broker_is_said_in_words() -> None:
    settings = load_settings({"kafka.bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(KafkaUnreachableError, match=r"127\.0\.0\.1:1"):
        await ingest(settings, iter(()), run="r")
