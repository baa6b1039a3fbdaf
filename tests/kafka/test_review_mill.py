"""Twenty answers on a real log, decided in a real browser by two people at their keyboards, while workers run.

What must come out: the sink's rows are the decisions and nothing else, and the log tells who decided what.
"""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from batchmill.agents.demo.collecting import read_committed
from batchmill.agents.demo.rig import Rig
from batchmill.agents.desk.model import Role
from batchmill.agents.kafka import RunningCluster
from batchmill.agents.projector import reviewing
from batchmill.agents.projector.queries import LifeRow
from batchmill.agents.projector.reading import View
from batchmill.agents.web.serving import token_file
from batchmill.schemas.jobs import ChunkSpec, JobSpec, ModeSpec, ReviewSpec
from batchmill.schemas.status import Status
from tests.browser.keyboard import RECORDS, as_decided, review_everything
from tests.browser.reviewing import Outcome, Record, ReviewingSite, a_spec, records
from tests.kafka.small_rig import command_line, eventually, publish, small_rig, the_lives

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

PEOPLE = ("ada", "bob")
#: long enough to press two keys on a machine that is busy
UNDO_SECONDS = 4
STOP_SECONDS_MAX = 10


def spec() -> JobSpec:
    """The addresses of the pages' own tests, and of their good answers a person sees every one."""
    spec = a_spec()
    return replace(
        spec,
        ask=replace(spec.ask, user="{{ input.body }}"),
        judge=replace(spec.judge, review_sample=1),
        mode=ModeSpec(chunk=ChunkSpec(max_age_seconds=0.2)),
        review=ReviewSpec(undo_seconds=UNDO_SECONDS),
    )


def text_of(record: Record) -> str:
    text: str = record.given["text"]
    return text


def write_gold(path: Path, all_of_them: Sequence[Record]) -> Path:
    """What the provider answers."""
    rows = ({"text": text_of(each), "label": each.output} for each in all_of_them)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@asynccontextmanager
async def serving_people(rig: Rig) -> AsyncIterator[str]:
    """`batchmill serve` as a process; the address it says."""
    process = await command_line(rig, "serve", "--port", "0")
    assert process.stderr is not None
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX * 3):
            async for line in process.stderr:
                told = re.search(r"the review desk is at (http://\S+); a token is needed", line.decode())
                if told:
                    break
            else:
                pytest.fail("it ended without saying where it serves")
        reading = asyncio.create_task(process.stderr.read())
        yield told.group(1)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX) == 0
        await reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def reviewing_mill(rig: Rig, job: str) -> AsyncIterator[ReviewingSite]:
    """The same site as the pages' own tests have, with a broker, a worker and a projector behind it."""

    def all_wait() -> list[LifeRow]:
        lives = [life for life in the_lives(rig, job) if life.status is Status.NEEDS_REVIEW]
        return lives if len(lives) == RECORDS else []

    lives = await eventually("all answers wait for a person", all_wait)
    names = {life.source_id: life.request_id for life in lives}
    file = token_file(rig.settings)
    tokens = {name: file.create(name, Role.REVIEWER) for name in PEOPLE}

    async def outcome(request_id: str) -> Outcome:
        return _outcome(rig, job, request_id)

    async with serving_people(rig) as url:
        waiting = [names[each.source_id or ""] for each in records(RECORDS)]
        yield ReviewingSite(url=url, tokens=tokens, waiting=waiting, outcome=outcome)


def _outcome(rig: Rig, job: str, request_id: str) -> Outcome:
    (life,) = [life for life in the_lives(rig, job) if life.request_id == request_id]
    match life.status:
        case Status.COMMITTED:
            return Outcome(state="accepted", output=rows(rig)[life.source_id or ""])
        case Status.FAILED_TERMINAL:
            return Outcome(state="declined")
        case _:
            return Outcome(state="waiting")


def rows(rig: Rig) -> dict[str, Any]:
    with closing(sqlite3.connect(rig.settings.sink_path)) as sink:
        told = sink.execute("SELECT source_id, output_json FROM triage").fetchall()
    assert len(dict(told)) == len(told)
    return {source: json.loads(output) for source, output in told}


async def test_what_two_people_decide_at_their_keyboards_is_what_the_sink_holds(
    broker: RunningCluster, browser: Browser, tmp_path: Path
) -> None:
    known, job = records(RECORDS), spec()
    gold = write_gold(tmp_path / "gold.jsonl", known)
    async with small_rig(tmp_path, broker, job, {}, gold_path=gold) as rig:
        await publish(rig, job.job, {each.source_id or "": text_of(each) for each in known})
        async with reviewing_mill(rig, job.job) as site:
            plan = await review_everything(browser, site)

            async def at_rest() -> bool:
                return all([(await site.outcome(name)).state != "waiting" for name in site.waiting])

            await eventually("every decision has come to its end", at_rest)
        expected = {each.source_id: as_decided(number) for number, each in enumerate(known)}
        assert rows(rig) == {source: output for source, output in expected.items() if output is not None}
        told = await read_committed(rig.settings)
        assert sorted(record.source_id for record in told) == sorted(rows(rig))
        for number, name in enumerate(site.waiting):
            check_audit(number, audit(rig, name), [who for who in PEOPLE if name in plan.done_by[who]])


def audit(rig: Rig, request_id: str) -> list[tuple[str, str]]:
    """Action and author of each decision about a record, as the topic `decisions` has them in their order."""
    with View(rig.settings.view_path) as view:
        found = reviewing.decisions(view, request_id, limit=10)
    return [(each.action, each.actor) for each in found]


def check_audit(number: int, told: Sequence[tuple[str, str]], done_by: Sequence[str]) -> None:
    (who,) = done_by
    *earlier, last = told
    assert last == (("accept", "correct", "decline", "decline", "accept")[number % 5], who)
    if number % 5 == 3:
        (accepted, first), (undone, second) = earlier
        assert (accepted, undone, first) == ("accept", "undo", second)
    else:
        assert earlier == []
