"""Real repeats, published at once: each distinct question is billed once, and the report says what the bills say.

What lives here: only what a broker, processes and a ledger can show. The laws are those of `streams/test_following`.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.simulator import Ledger, read_ledger
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.jobs import ChunkSpec, JobSpec, ModeSpec, PlaceSpec
from batchmill.schemas.status import Status
from batchmill.schemas.versions import version_of
from tests.kafka.small_rig import command_line, eventually, publish, small_rig, the_lives

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

#: remarks of pilots and airports after bird strikes (US federal records), one in ten of them said before
BIRDS = Path(__file__).parent / "data" / "birds.jsonl"
OUTPUT = {
    "type": "object",
    "properties": {"phase": {"type": "string", "enum": ["takeoff", "flight", "landing", "unknown"]}},
    "required": ["phase"],
    "additionalProperties": False,
}
ONCE = JobSpec(
    job="once",
    ask=AskSpec(
        user="In which phase of flight was it? {{ input.body }}",
        model=ModelSpec(provider="openai", name="gpt-5-mini", params_json='{"max_output_tokens":60}'),
        output_schema_json=json.dumps(OUTPUT),
    ),
    mode=ModeSpec(chunk=ChunkSpec(max_count=40, max_age_seconds=0.5)),
    place=PlaceSpec(sink="sqlite", table="once"),
    dedupe="content",
)
EACH = replace(ONCE, job="each", dedupe="source", place=PlaceSpec(sink="sqlite", table="each"))


def texts() -> dict[str, str]:
    rows = map(json.loads, BIRDS.read_text().splitlines())
    return {row["id"]: row["text"] for row in rows}


async def committed(rig: Rig, job: str, count: int) -> None:
    await eventually(
        f"all of {job} is committed",
        lambda: sum(life.status is Status.COMMITTED for life in the_lives(rig, job)) == count,
    )


async def told(rig: Rig, job: str) -> Any:
    command = await command_line(rig, "savings", "--job", job, "--json")
    said, errors = await command.communicate()
    assert command.returncode == 0, errors
    return json.loads(said)


def ledger(rig: Rig) -> Ledger:
    return read_ledger(rig.plan.simulator.ledger_file)


def billed(rig: Rig, job: str) -> dict[str, int]:
    """What the ledger says of each request of a job."""
    requests = {life.request_id for life in the_lives(rig, job)}
    sums: Counter[str] = Counter()
    for bill in ledger(rig).bills:
        if bill.custom_id[:32] in requests:
            sums[bill.custom_id[:32]] += bill.cost_nanos
    return dict(sums)


async def test_the_report_is_the_difference_between_two_bills(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    records = texts()
    distinct = len(set(records.values()))
    assert distinct < 0.95 * len(records)
    async with small_rig(tmp_path, broker, ONCE, {"topic_prefix": topic_prefix}) as rig:
        await publish(rig, ONCE.job, records)
        await committed(rig, ONCE.job, len(records))
        other = await issue(
            rig.settings, "apply", EACH.job, actor="me", version=version_of(EACH), body_json=EACH.to_json(),
            wait_seconds=30,
        )  # fmt: skip
        assert other.effective
        await publish(rig, EACH.job, records)
        await committed(rig, EACH.job, len(records))
        once, each = billed(rig, ONCE.job), billed(rig, EACH.job)
        report = await told(rig, ONCE.job)
    assert (len(once), len(each)) == (distinct, len(records)), "each distinct question is billed exactly once"
    assert sum(once.values()) + sum(each.values()) == ledger(rig).cost_nanos
    levers = {line["lever"]: line for line in report["savings"]}
    shared = levers["followers"]["saved_nanos"] + levers["stored"]["saved_nanos"]
    assert levers["followers"]["count"] + levers["stored"]["count"] == len(records) - distinct
    assert levers["followers"]["count"] > 0, "published at once: some waited for an answer that was on its way"
    assert report["paid_nanos"] == sum(once.values())
    assert shared == sum(each.values()) - sum(once.values())
    assert all(line["unpriced"] == 0 for line in report["savings"])
