"""The README is true: its picture is the topology's, its links lead somewhere, its commands exist, its scripts run."""

import asyncio
import contextlib
import io
import json
import re
import shutil
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.cli.program import run
from batchmill.agents.jobs import load_job
from batchmill.agents.jobs.planning import plan_job
from batchmill.agents.prices import load_prices
from batchmill.schemas.ids import partition_for
from batchmill.streams.events import RawLimits
from batchmill.streams.topology import mermaid
from tests.docs.pages import ROOT, blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")
TopicMaker = Callable[[str], Awaitable[str]]


def test_the_picture_is_generated_from_the_topology():
    shown = re.search(r"<!-- flow:.*?-->\n```mermaid\n(.*?)```\n<!-- /flow -->", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == mermaid()


def test_every_make_target_it_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert named
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()


async def _only_record(bootstrap_servers: str, topic: str) -> Any:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    async with consumer:
        places = [TopicPartition(topic, partition) for partition in range(3)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        async with asyncio.timeout(30):
            first = await consumer.getone()
        assert sum((await consumer.end_offsets(places)).values()) == 1
        return first


def _is_the_event_that_is_shown(record: Any) -> None:
    assert record.key == b"ticket-1042"
    assert dict(record.headers) == {"batchmill-job": b"triage"}
    assert json.loads(record.value) == {"subject": "Refund", "body": "The kettle arrived broken."}


@pytest.mark.kafka
async def test_the_python_that_publishes_an_event_does_so(bootstrap_servers: str, topic: TopicMaker):
    name = await topic("raw")
    (shown,) = blocks("README.md", "python")
    code = shown.text.replace("localhost:9092", bootstrap_servers).replace("batchmill.raw.v1", name)
    imports, _, body = code.partition("\n\n")
    scope: dict[str, Any] = {}
    exec(f"{imports}\n\nasync def publish():\n{textwrap.indent(body, '    ')}", scope)
    await scope["publish"]()
    record = await _only_record(bootstrap_servers, name)
    _is_the_event_that_is_shown(record)
    assert record.partition == partition_for(b"ticket-1042", 3), "the partitioner is the one our tasks expect"


@pytest.mark.kafka
@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")
async def test_the_kcat_that_publishes_an_event_does_so(bootstrap_servers: str, topic: TopicMaker):
    name = await topic("raw")
    (shown,) = [block.text for block in blocks("README.md", "sh") if "kcat" in block.text]
    process = await asyncio.create_subprocess_shell(
        shown.replace("localhost:9092", bootstrap_servers).replace("batchmill.raw.v1", name)
    )
    assert await process.wait() == 0
    _is_the_event_that_is_shown(await _only_record(bootstrap_servers, name))


def test_all_three_languages_publish_the_same_event_with_the_same_words():
    shown = [block.text for block in blocks("README.md") if "batchmill.raw.v1" in block.text]
    assert len(shown) == 3
    for text in shown:
        words = ("ticket-1042", "batchmill-job", "triage", "The kettle arrived broken.")
        assert [word for word in words if word not in text] == []
    assert sum("murmur2_random" in text or "DefaultPartitioner" in text for text in shown) == 2, "aiokafka has it"


def test_the_event_that_is_shown_is_asked_about_by_the_job_that_init_makes(tmp_path: Path):
    """Whoever follows the page from top to bottom must not end in dead-letter."""
    with contextlib.redirect_stderr(io.StringIO()):
        assert run(["init", str(tmp_path / "triage")]) == 0
    value = re.search(r"echo '(.*)' \|", README)
    assert value is not None
    plan = plan_job(
        load_job(tmp_path / "triage").spec,
        active=None,
        samples=[(b"ticket-1042", value[1].encode())],
        prices=load_prices(None),
        limits=RawLimits(),
        now_ms=0,
    )
    assert [(sample.outcome, sample.reason, sample.note) for sample in plan.samples] == [("asked", None, None)]
