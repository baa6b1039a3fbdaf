"""Tweets and then news through the whole of it: counted exactly over kill -9, paused by an alarm, resumed, committed.

What lives here: only what a broker and processes can show. The laws are those of `streams/test_drifting`.
"""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector import queries
from batchmill.agents.projector.drift import WatchRow, watch_rows
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import ChunkSpec, JobSpec, ModeSpec, PlaceSpec
from batchmill.schemas.status import Status
from tests.kafka.small_rig import command_line, eventually, publish, small_rig, the_lives
from tests.streams.test_drifting import shuffled

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

#: told by answers, so that they stand still while the job is paused
SIGNALS = (DriftSignal.CLASSES, DriftSignal.OUTPUT_LENGTH, DriftSignal.VERDICTS, DriftSignal.FAILURES)
#: behind the reference one window of tweets, one of news, and not enough for a third
TWEETS, NEWS = 700, 330
TASKS = 3
OUTPUT = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["pos", "neu", "neg"]}},
    "required": ["label"],
    "additionalProperties": False,
}
SPEC = JobSpec(
    job="sentiment",
    ask=AskSpec(
        user="{{ input.body }}",
        model=ModelSpec(provider="openai", name="gpt-5-mini", params_json='{"max_output_tokens":60}'),
        output_schema_json=json.dumps(OUTPUT),
    ),
    mode=ModeSpec(chunk=ChunkSpec(max_count=50, max_age_seconds=0.5)),
    drift=DriftSpec(field="label", policy="pause", signals=SIGNALS),
    place=PlaceSpec(sink="sqlite", table="sentiment"),
)


def watch(rig: Rig) -> WatchRow | None:
    try:
        with View(rig.settings.view_path) as view:
            return next(iter(watch_rows(view, SPEC.job)), None)
    except ViewMissingError:
        return None


def counted(rig: Rig) -> dict[str, int]:
    """How many records each signal has counted, in its reference and in all its windows."""
    found = watch(rig)
    window = DriftSpec().window
    return {
        str(each.signal): sum(each.reference.values()) + each.looks * window + each.filling
        for each in (found.signals if found is not None else ())
    }


def the_job(rig: Rig) -> Any:
    with View(rig.settings.view_path) as view:
        return next(iter(queries.jobs(view, SPEC.job)), None)


def committed(rig: Rig) -> int:
    return sum(life.status is Status.COMMITTED for life in the_lives(rig, SPEC.job))


async def kill_the_overseer(rig: Rig) -> None:
    starts = rig.group.starts("overseer")
    assert rig.group.send("overseer", signal.SIGKILL)
    await eventually("the overseer is started again", lambda: rig.group.starts("overseer") > starts)


async def test_news_after_tweets_pause_the_job_whoever_is_killed(
    broker: RunningCluster, topic_prefix: str, tmp_path: Path
) -> None:
    tweets, news = shuffled("tweets", 1)[:TWEETS], shuffled("nytEditorialSnippets", 1)[:NEWS]
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps(row) + "\n" for row in [*tweets, *news]))
    settings = {"topic_prefix": topic_prefix}
    async with small_rig(tmp_path, broker, SPEC, settings, gold_path=gold) as rig:
        await publish(rig, SPEC.job, {row["id"]: row["text"] for row in tweets})
        await eventually("something is counted", lambda: counted(rig).get("classes", 0) > 0)
        await kill_the_overseer(rig)
        await eventually("all tweets are committed", lambda: committed(rig) == TWEETS)
        every = dict.fromkeys(map(str, SIGNALS), TWEETS)
        await eventually(f"everything is counted once, not {counted(rig)}", lambda: counted(rig) == every)
        await kill_the_overseer(rig)

        await publish(rig, SPEC.job, {row["id"]: row["text"] for row in news})
        await eventually("the job pauses in all tasks", lambda: the_job(rig).paused_tasks == TASKS)
        assert the_job(rig).pause_reason.startswith("drift: classes moved (PSI ")
        await kill_the_overseer(rig)
        alarm = await eventually("the alarm is held", lambda: (found := watch(rig)) and found.held and found)
        (moved,) = alarm.moved
        assert moved.signal is DriftSignal.CLASSES
        assert moved.look == 2
        assert {each.name for each in moved.shares} >= {"pos", "neu"}

        page = tmp_path / "drift.html"
        command = await command_line(rig, "drift", SPEC.job, "--json", "--html", str(page))
        told, _ = await command.communicate()
        assert command.returncode == 0, told
        (row,) = json.loads(told[told.index(b"{") :])["items"]
        assert row["alarms"][0].startswith("classes moved")
        assert "<svg" in page.read_text()

        applied = await issue(
            rig.settings, "resume", SPEC.job, actor="me", version=None, body_json="{}", wait_seconds=30
        )
        assert applied.effective
        await eventually("the rest is committed", lambda: committed(rig) == TWEETS + NEWS)
        after = await eventually("a new window began", lambda: (found := watch(rig)) and not found.held and found)
        assert after.moved == ()
        assert not the_job(rig).paused_tasks
        classes = next(each for each in after.signals if each.signal is DriftSignal.CLASSES)
        assert sum(classes.reference.values()) == 500
        assert (classes.looks, classes.filling <= NEWS - 200) == (2, True)
