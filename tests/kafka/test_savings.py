"""Real repeats, routes and a cascade: each distinct question is billed once, and the report says what the bills say.

What lives here: only what a broker, processes and a ledger can show. The laws are those of `streams/test_following`
and `agents/test_savings`.
"""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.simulator import Bill, Ledger, read_ledger
from batchmill.schemas.asking import AskSpec, ModelSpec, RouteSpec
from batchmill.schemas.jobs import ChunkSpec, JobSpec, JudgeSpec, ModeSpec, PlaceSpec, RetrySpec, RuleSpec
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
DEAR = ModelSpec(provider="openai", name="gpt-5-mini", params_json='{"max_output_tokens":60}')
CHEAP = replace(DEAR, name="gpt-5-nano")
#: every record is asked of the dear model, and nothing is spared
PLAIN = JobSpec(
    job="plain",
    ask=AskSpec(
        system="In which phase of flight was it?",
        user="{{ input.body }}",
        model=DEAR,
        output_schema_json=json.dumps(OUTPUT),
    ),
    mode=ModeSpec(chunk=ChunkSpec(max_count=40, max_age_seconds=0.5)),
    place=PlaceSpec(sink="sqlite", table="plain"),
    dedupe="source",
)
#: short remarks are asked of the cheap model, and what was said before of nobody
LEAN = replace(
    PLAIN,
    job="lean",
    ask=replace(PLAIN.ask, routes=(RouteSpec(name="short", when="size(input.body) < 90", model=CHEAP),)),
    dedupe="content",
    place=PlaceSpec(sink="sqlite", table="lean"),
)
#: everything is asked of the cheap model first, and of the dear one where that says it does not know
STEPS = replace(
    LEAN,
    job="steps",
    ask=replace(
        PLAIN.ask,
        routes=(
            RouteSpec(name="first", when="size(input.body) > 0", model=CHEAP),
            RouteSpec(name="again", model=DEAR),
        ),
        cascade=("again",),
        escalate_on=("rejected",),
    ),
    judge=JudgeSpec(rules=(RuleSpec(id="known", require="output.phase != 'unknown'"),), on_reject="dead"),
    retry=RetrySpec(max_attempts=1),
    place=PlaceSpec(sink="sqlite", table="steps"),
)
#: the cheap model is right so often; the dear one always
CHEAP_IS_RIGHT = 0.3


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


def write_gold(path: Path, said: set[str]) -> Path:
    """A right answer to every remark; the dear model never has to say that it does not know."""
    phases = ("takeoff", "flight", "landing")
    lines = (json.dumps({"text": text, "label": phases[len(text) % 3]}) for text in sorted(said))
    path.write_text("\n".join(lines))
    return path


async def apply(rig: Rig, spec: JobSpec) -> None:
    told = await issue(
        rig.settings, "apply", spec.job, actor="me", version=version_of(spec), body_json=spec.to_json(), wait_seconds=30
    )
    assert told.effective


def bills_by_text(rig: Rig, job: str, records: dict[str, str]) -> dict[str, list[Bill]]:
    """What was paid for each remark, in the order in which it was asked."""
    texts_of = {life.request_id: records[life.source_id] for life in the_lives(rig, job)}
    found = defaultdict[str, list[Bill]](list)
    for bill in ledger(rig).bills:
        if (text := texts_of.get(bill.custom_id[:32])) is not None:
            found[text].append(bill)
    return found


def cost(bills: list[Bill]) -> int:
    return sum(bill.cost_nanos for bill in bills)


def is_as_billed(
    report: Any, records: dict[str, str], plain: dict[str, list[Bill]], spared: dict[str, list[Bill]]
) -> None:
    """The report of a job that spared something, lever by lever, against its bills and those of the plain one.

    It is exact because the same question has the same tokens at both models: that is looked at first, call by call.
    """
    assert set(spared) == set(plain) == set(records.values())
    assert {len(plain[text]) for text in plain} == set(Counter(records.values()).values()), "each record is billed"
    for text, bills in spared.items():
        told = {(bill.input_tokens, bill.output_tokens) for bill in (*bills, *plain[text])}
        assert len(told) == 1, "the models count, or answer, differently: nothing could be compared"
    asked_alike = [cost(plain[text][:1]) for text in records.values()]
    paid = sum(map(cost, spared.values()))
    repeats = Counter(records.values()) - Counter(set(records.values()))
    nanos = {line["lever"]: line["saved_nanos"] for line in report["savings"]}
    repeated = nanos["followers"] + nanos["stored"]
    assert report["paid_nanos"] == paid
    assert repeated == sum(cost(spared[text]) * times for text, times in repeats.items())
    assert nanos["routes"] == sum(cost(plain[text][:1]) - cost(spared[text]) for text in records.values())
    assert repeated + nanos["routes"] == sum(asked_alike) - paid == sum(map(cost, plain.values())) - paid
    assert nanos["batch"] == sum(asked_alike), "a batch is half of single calls"
    assert paid + report["saved_nanos"] == 2 * sum(asked_alike), "all of it by single calls of the dear model"
    assert all(line["unpriced"] == 0 for line in report["savings"])


async def test_the_report_is_the_difference_between_the_bills_lever_by_lever(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    records = texts()
    distinct = set(records.values())
    assert len(distinct) < 0.95 * len(records)
    gold = write_gold(tmp_path / "gold.jsonl", distinct)
    settings, wrong = {"topic_prefix": topic_prefix}, {CHEAP.name: CHEAP_IS_RIGHT}
    async with small_rig(tmp_path, broker, PLAIN, settings, gold_path=gold, model_accuracy=wrong) as rig:
        await apply(rig, LEAN)
        await apply(rig, STEPS)
        for spec in (PLAIN, LEAN, STEPS):
            await publish(rig, spec.job, records)
        for spec in (PLAIN, LEAN, STEPS):
            await committed(rig, spec.job, len(records))
        reports = {spec.job: await told(rig, spec.job) for spec in (LEAN, STEPS)}
        plain, lean, steps = (bills_by_text(rig, spec.job, records) for spec in (PLAIN, LEAN, STEPS))
    assert sum(cost(bills) for each in (plain, lean, steps) for bills in each.values()) == ledger(rig).cost_nanos
    is_as_billed(reports["lean"], records, plain, lean)
    is_as_billed(reports["steps"], records, plain, steps)
    assert {line["lever"]: line["count"] for line in reports["lean"]["savings"]}["followers"] > 0, "some had waited"
    models = Counter(tuple(bill.model for bill in bills) for bills in lean.values())
    assert models.keys() == {(CHEAP.name,), (DEAR.name,)}, "each distinct question is billed exactly once"
    assert min(models.values()) > 20, "short and long remarks"
    asked_on = {text: bills for text, bills in steps.items() if len(bills) > 1}
    assert 10 < len(asked_on) < len(steps) / 2
    assert any(times > 1 and text in asked_on for text, times in Counter(records.values()).items())
    assert all([bill.model for bill in bills] == [CHEAP.name, DEAR.name] for bills in asked_on.values())
