"""Replays through the whole of it: nothing is asked or written twice, whoever is killed, while live records flow.

What lives here: only what a broker and processes can show. The laws are those of `streams/test_rerunning`.
"""

import asyncio
import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents import clock
from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.projector.reruns import ReplayRow, replay
from batchmill.agents.replays.scheduling import Scheduler, scheduled
from batchmill.agents.simulator import read_ledger
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.jobs import ChunkSpec, JobSpec, JudgeSpec, ModeSpec, PlaceSpec, RuleSpec
from batchmill.schemas.promotion import ScheduleSpec
from batchmill.schemas.versions import version_of
from batchmill.streams.costing import parse_prices, write_prices
from batchmill.streams.rerunning import RunState
from tests.kafka.small_rig import command_line, eventually, publish, small_rig

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

LABELS = ("pos", "neu", "neg")
RECORDS, LIVE = 90, 30
OUTPUT = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": list(LABELS)}},
    "required": ["label"],
    "additionalProperties": False,
}
PRICES = write_prices(parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}'))
V1 = JobSpec(
    job="sentiment",
    ask=AskSpec(
        user="{{ input.body }}",
        model=ModelSpec(provider="openai", name="gpt-5-mini", params_json='{"max_output_tokens":60}'),
        output_schema_json=json.dumps(OUTPUT),
    ),
    mode=ModeSpec(chunk=ChunkSpec(max_count=20, max_age_seconds=0.3)),
    place=PlaceSpec(sink="sqlite", table="sentiment"),
    prices_json=PRICES,
)
#: other rules; then another question, too
RULED = replace(
    V1, judge=JudgeSpec(rules=(RuleSpec(id="not_neg", require='output.label != "neg"', severity="review"),))
)
ASKED = replace(V1, ask=replace(V1.ask, system="Be strict."))


def text_of(number: int) -> str:
    return f"Sentence number {number} of a long book."


def rows(rig: Rig, sql: str, *values: Any) -> list[Any]:
    try:
        with View(rig.settings.view_path) as view:
            return list(view.rows(sql, values))
    except ViewMissingError:
        return []


def committed(rig: Rig, spec: JobSpec) -> Counter[str]:
    """Commits of a version, by source."""
    sql = "SELECT source_id FROM commits WHERE job = ? AND version = ? AND kind = 'commit'"
    return Counter(row["source_id"] for row in rows(rig, sql, spec.job, version_of(spec)))


def in_front(rig: Rig) -> Counter[tuple[str, str]]:
    """Lives that answer for their events, by version and status."""
    sql = "SELECT version, status FROM lives WHERE NOT aside AND job = ?"
    return Counter((row["version"], row["status"]) for row in rows(rig, sql, V1.job))


def asked(rig: Rig) -> Counter[str]:
    """Requests that the provider has answered, as its ledger says."""
    sent = (parse_custom_id(bill.custom_id) for bill in read_ledger(rig.plan.simulator.ledger_file).bills)
    return Counter(each.request_id for each in sent if each is not None)


def the_run(rig: Rig, name: str) -> ReplayRow | None:
    with View(rig.settings.view_path) as view:
        return replay(view, name)


async def said(rig: Rig, *words: str) -> Mapping[str, Any]:
    process = await command_line(rig, *words, "--json")
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found: Mapping[str, Any] = json.loads(out)
    return found


async def give(rig: Rig, command: str, spec: JobSpec) -> None:
    version, body = version_of(spec), spec.to_json() if command == "apply" else "{}"
    issued = await issue(rig.settings, command, spec.job, actor="me", version=version, body_json=body, wait_seconds=30)
    assert issued.effective


async def put_in_force(rig: Rig, spec: JobSpec) -> None:
    await give(rig, "apply", spec)
    await give(rig, "promote", spec)
    sql = "SELECT COUNT(*) AS n FROM jobs WHERE version = ?"
    await eventually("the view knows it", lambda: rows(rig, sql, version_of(spec))[0]["n"] == rig.settings.partitions)


async def done(rig: Rig, name: str) -> ReplayRow:
    found: ReplayRow = await eventually(
        f"{name} is done, not {the_run(rig, name)}",
        lambda: (row := the_run(rig, name)) is not None and row.state is RunState.DONE and row,
    )
    return found


async def test_nothing_is_asked_or_written_twice_whoever_is_killed(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    texts = {f"s{number}": text_of(number) for number in range(RECORDS + LIVE)}
    labels = {source: LABELS[number % 3] for number, source in enumerate(texts)}
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps({"text": texts[each], "label": labels[each]}) + "\n" for each in texts))
    old = dict(list(texts.items())[:RECORDS])
    select = ("replay", "--job", V1.job, "--select")
    async with small_rig(tmp_path, broker, V1, {"topic_prefix": topic_prefix}, gold_path=gold) as rig:
        await publish(rig, V1.job, old)
        await eventually("all are committed", lambda: len(committed(rig, V1)) == RECORDS)
        before = asked(rig)
        assert before.total() == RECORDS

        # under the same version: nothing
        plan = await said(rig, *select, "all", "--run", "same", "--execute")
        assert plan["by_way"] == {"nothing: asked already": RECORDS}
        same = await done(rig, "same")
        assert (same.done, same.counts) == (RECORDS, {"known": RECORDS})

        # other rules: no request, and commits as the new rules say
        await put_in_force(rig, RULED)
        plan = await said(rig, *select, "stale", "--run", "rules", "--max-cost", "0", "--execute")
        assert (plan["by_way"], plan["most_usd"]) == ({"judged again": RECORDS}, 0)
        await done(rig, "rules")
        negative = sum(labels[each] == "neg" for each in old)
        await eventually(
            "what is not negative is written anew", lambda: len(committed(rig, RULED)) == RECORDS - negative
        )
        assert in_front(rig)[version_of(RULED), "needs_review"] == negative
        assert asked(rig) == before
        assert committed(rig, V1) == dict.fromkeys(old, 1)
        assert committed(rig, RULED) == {each: 1 for each in old if labels[each] != "neg"}

        # another question, a worker killed in the middle, live records all the while
        await put_in_force(rig, ASKED)
        dry = await said(rig, *select, "all")
        assert (dry["by_way"], dry["executed"]) == ({"asked": RECORDS}, False)
        assert 0 < dry["expected_usd"] < dry["most_usd"]
        words = ("--run", "new", "--rate", "15", "--max-cost", f"{dry['most_usd'] * 1.01:.6f}")
        await said(rig, *select, "all", *words, "--execute")
        live = asyncio.create_task(flow(rig, dict(list(texts.items())[RECORDS:])))
        await eventually("it has begun", lambda: (row := the_run(rig, "new")) is not None and row.done > 5)
        starts = rig.group.starts("worker-1")
        assert rig.group.send("worker-1", signal.SIGKILL)
        await eventually("the worker is started again", lambda: rig.group.starts("worker-1") > starts)
        middle = the_run(rig, "new")
        assert middle is not None
        assert middle.done < RECORDS
        await live
        new = await done(rig, "new")
        assert (new.done, new.counts) == (RECORDS, {"asked": RECORDS})
        await eventually("all are committed under it", lambda: len(committed(rig, ASKED)) == RECORDS + LIVE)
        assert committed(rig, ASKED) == dict.fromkeys(texts, 1)
        assert in_front(rig) == {(version_of(ASKED), "committed"): RECORDS + LIVE}
        assert set(asked(rig).values()) == {1}
        assert asked(rig).total() == RECORDS + RECORDS + LIVE


async def flow(rig: Rig, texts: Mapping[str, str]) -> None:
    """One after the other, a little apart."""
    for source, text in texts.items():
        await publish(rig, V1.job, {source: text})
        await asyncio.sleep(0.1)


async def test_a_tick_is_run_once_whoever_looks_and_a_new_place_is_written_without_asking(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    spec = replace(V1, schedules=(ScheduleSpec(cron="0 2 * * *", select="all"),))
    day_ms = 86_400_000
    async with small_rig(tmp_path, broker, spec, {"topic_prefix": topic_prefix}) as rig:
        await publish(rig, spec.job, {"s1": text_of(1)})
        await eventually("it is committed", lambda: len(committed(rig, spec)) == 1)
        with View(rig.settings.view_path) as view:
            (found,) = scheduled(view, clock.wall_ms())
        assert found.next_ms is not None
        first, second = (Scheduler(rig.settings, ready=lambda: True) for _ in range(2))
        tick_ms = found.next_ms
        (name,) = await first.look(tick_ms + 1_000)
        assert await second.look(tick_ms + 1_000) in ([name], [])  # it may not have heard of it yet
        assert await first.look(tick_ms + 2_000) == []
        run = await done(rig, name)
        assert (run.lines, run.done, run.counts) == (1, 1, {"known": 1})

        # only the place changed: what is committed is written there, too, and nobody is asked
        moved = replace(spec, place=PlaceSpec(sink="sqlite", table="moved"))
        assert version_of(moved) == version_of(spec)
        await give(rig, "apply", moved)
        plan = await said(rig, "replay", "--job", spec.job, "--write", "--run", "moved", "--execute")
        assert plan["by_way"] == {"written again": 1}
        await eventually("it is written twice", lambda: committed(rig, spec) == {"s1": 2})
        with closing(sqlite3.connect(rig.settings.sink_path)) as sink:
            assert sink.execute("SELECT COUNT(*) FROM moved").fetchone() == (1,)
        assert asked(rig).total() == 1

        (missed,) = await second.look(tick_ms + day_ms + 8 * 3_600_000)
        late = await eventually("it is told", lambda: the_run(rig, missed))
        assert late.state is RunState.SKIPPED
        assert late.note.startswith("missed")
        await give(rig, "pause", spec)
        await eventually("the view knows", lambda: all(row["paused"] for row in rows(rig, "SELECT paused FROM jobs")))
        (held,) = await second.look(tick_ms + 2 * day_ms)
        skipped = await eventually("it is told", lambda: the_run(rig, held))
        assert (skipped.state, skipped.note) == (RunState.SKIPPED, "the job was paused")
