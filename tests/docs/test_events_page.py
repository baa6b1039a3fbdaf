"""docs/events.md is true: its headers are those we write, its frame is ours, its consumer reads what was committed."""

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from batchmill.agents.stages.headers import headers_for, trace_id_of, traceparent_of
from batchmill.schemas.codec import encode
from batchmill.schemas.ids import partition_for, request_id
from batchmill.schemas.records import Committed, DeadLetter, Excluded, Result, Submitted, Verdict, WorkItem
from batchmill.schemas.registry import read_lock
from batchmill.streams.dead_lettering import ORIGINAL_BYTES_MAX
from tests.docs.pages import blocks, text_of
from tests.docs.running import Said, running
from tests.schemas.samples import sample

PAGE = "docs/events.md"
ABOUT_A_REQUEST = (WorkItem, Submitted, Result, Verdict, Committed, DeadLetter, Excluded)
UPSTREAM = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def _section(title: str) -> str:
    return re.split(r"^## ", text_of(PAGE).partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def _headers(record: Any, upstream: str | None = None) -> dict[str, bytes]:
    return dict(headers_for(record, src="raw/3/7", app_id="acme", raw_topic="acme.raw.v1", upstream=upstream))


def test_the_headers_of_the_tables_are_those_that_are_written():
    cells = re.findall(r"^\| (`[^|]*`) \|", _section("Headers"), re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    written = {name for kind in ABOUT_A_REQUEST for name in _headers(sample(kind))}
    by_the_task = {"src", "txn", "intent"}
    assert listed == written | by_the_task


def test_a_request_without_an_upstream_trace_has_the_one_its_id_makes():
    record = sample(Result)
    version, trace, _, flags = _headers(record)["traceparent"].decode().split("-")
    assert (version, trace, flags) == ("00", trace_id_of(record.request_id), "01")


def test_a_request_with_an_upstream_trace_continues_it_flags_included():
    version, trace, parent, flags = _headers(sample(Result), UPSTREAM)["traceparent"].decode().split("-")
    assert f"{version}-{trace}-b7ad6b7169203331-{flags}" == UPSTREAM
    assert parent != "b7ad6b7169203331"


def test_every_record_of_a_request_lies_in_its_trace_under_a_parent_of_its_own_that_repeats():
    said = [traceparent_of("r" * 32, src, None) for src in ("raw/3/7", "results/3/9", "raw/3/7")]
    assert len({each.split("-")[1] for each in said}) == 1
    assert said[0] == said[2] != said[1]


def test_the_frame_is_a_zero_byte_and_the_id_of_the_lock():
    ids = {one.schema: one.id for one in read_lock()}
    data = encode(sample(Committed))
    assert data[:1] == b"\0"
    assert int.from_bytes(data[1:5], "big") == ids["committed"]


def test_the_first_half_of_a_request_id_places_it():
    first, second = (request_id("triage", "ticket-1042", sha, "v", 0) for sha in ("a" * 64, "b" * 64))
    assert re.fullmatch(r"[a-z2-7]{32}", first)
    assert first[:16] == second[:16]
    assert first[16:] != second[16:]
    assert partition_for(first[:16].encode(), 8) == partition_for(second[:16].encode(), 8)


def test_the_size_up_to_which_letters_carry_the_original_is_as_said():
    assert f"{ORIGINAL_BYTES_MAX // 1024} KiB" in text_of(PAGE)


@asynccontextmanager
async def _transaction(bootstrap_servers: str, name: str, *, commits: bool) -> AsyncIterator[AIOKafkaProducer]:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=name) as producer:
        await producer.begin_transaction()
        yield producer
        await (producer.commit_transaction() if commits else producer.abort_transaction())


@pytest.mark.kafka
async def test_the_consumer_that_is_shown_reads_what_was_committed_and_nothing_else(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path, topic: Any
):
    name = await topic("committed")
    (code,) = [block.text for block in blocks(PAGE, "python") if block.label == "run: a consumer of committed"]
    code = code.replace("localhost:9092", bootstrap_servers).replace("batchmill.committed.v1", name)
    record = sample(Committed)
    for target, commits in (("ghost", False), ("ticket-1042", True)):
        async with _transaction(bootstrap_servers, f"{topic_prefix}-{target}", commits=commits) as producer:
            # one partition, so that whoever reads the second has passed the first
            await producer.send_and_wait(name, encode(replace(record, target_key=target)), partition=0)
    async with running([sys.executable, "-u", "-c", code], tmp_path) as said:
        line = await said.until(r"^ticket-1042 ")
        assert line == f"ticket-1042 {record.commit_id} {record.output_json}"
        assert "ghost" not in said.all()


def test_what_a_script_said_is_found_by_its_line():
    said = Said()
    said.take("one\ntwo x\n")
    assert said.found(r"^two") == "two x"
    assert said.found(r"^three") is None
