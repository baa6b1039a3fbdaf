"""Dead letters of two jobs on a real log: written out, priced, and brought back once what they lacked is there; and a
job that stops before it makes more of them."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.commands import issue
from batchmill.agents.demo.rig import Rig
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector import queries
from batchmill.agents.projector.letters import Wanted, letters
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.schemas.jobs import BreakerSpec, ChunkSpec, JobSpec, ModeSpec, RetrySpec
from batchmill.schemas.status import Status
from batchmill.schemas.versions import version_of
from batchmill.streams.costing import parse_prices, write_prices
from tests.kafka.small_rig import command_line, eventually, publish, small_rig, the_lives
from tests.streams.making import make_spec

pytestmark = pytest.mark.timeout(240)

PRICES = write_prices(parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}'))
SPEC = make_spec(mode=ModeSpec(chunk=ChunkSpec(max_age_seconds=0.1)), prices_json=PRICES)
LATE = ("late-a", "late-b")


async def said(rig: Rig, *words: str) -> str:
    process = await command_line(rig, *words)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told: bytes = out
    return told.decode()


def standing(rig: Rig) -> list[Any]:
    try:
        with View(rig.settings.view_path) as view:
            return list(letters(view, Wanted(), now_ms=0))
    except ViewMissingError:
        return []


async def apply(rig: Rig, spec: JobSpec) -> None:
    version, body = version_of(spec), spec.to_json()
    issued = await issue(rig.settings, "apply", spec.job, actor="me", version=version, body_json=body, wait_seconds=30)
    assert issued.effective


async def test_letters_of_jobs_that_were_not_applied_are_exported_priced_and_brought_back_once_they_are(
    broker: RunningCluster, tmp_path: Path
) -> None:
    settings = {"effects.unknown_job_seconds": 1}
    async with small_rig(tmp_path, broker, SPEC, settings) as rig:
        for job in LATE:
            await publish(rig, job, {f"{job}-{number}": f"Text {number} of {job}." for number in range(3)})
        await eventually("all are dead letters", lambda: len(standing(rig)) == 6)

        lines = [
            json.loads(line) for line in (await said(rig, "dlq", "export", "--reason", "unknown_job")).splitlines()
        ]
        assert {json.loads(line["original"])["body"] for line in lines} == {
            f"Text {number} of {job}." for job in LATE for number in range(3)
        }
        where = ("dlq", "redrive", "--reason", "unknown_job", "--where", f"job in {json.dumps(LATE)}")
        too_soon = json.loads(await said(rig, *where, "--json"))
        assert [(each["way"], each["count"]) for each in too_soon["by_reason"]] == [("would fail again", 3)] * 2

        await asyncio.gather(*(apply(rig, replace(SPEC, job=job)) for job in LATE))
        plan = json.loads(await eventually("the view knows both jobs", lambda: _planned(rig, where)))
        assert (plan["count"], plan["unpriced"]) == (6, 0)
        assert 0 < plan["expected_usd"] < plan["most_usd"]
        await said(rig, *where, "--max-cost", "1", "--execute")
        for job in LATE:
            await eventually(
                f"{job} is committed",
                lambda job=job: [life.status for life in the_lives(rig, job)] == [Status.COMMITTED] * 3,
            )
        assert standing(rig) == []

        cut_off = replace(SPEC, job="cut", breaker=BreakerSpec(consecutive=3), retry=RetrySpec(max_attempts=1))
        model = replace(SPEC.ask.model, params_json='{"max_output_tokens":1}')
        await apply(rig, replace(cut_off, ask=replace(SPEC.ask, model=model)))
        await publish(rig, "cut", {f"cut-{number}": f"Text {number}." for number in range(30)})
        paused = await eventually("the job pauses by itself", lambda: _paused(rig, "cut"))
        assert re.fullmatch("breaker: version [a-z2-7]+, 3 answers in a row failed, most for truncated", paused)


def _paused(rig: Rig, job: str) -> str | None:
    with View(rig.settings.view_path) as view:
        rows = queries.jobs(view, job)
    return rows[0].pause_reason if rows else None


async def _planned(rig: Rig, words: tuple[str, ...]) -> str | None:
    told = await said(rig, *words, "--json")
    return told if json.loads(told)["count"] == 6 else None
