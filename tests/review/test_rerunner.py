"""The effect of replays: it goes on where it was when the worker died, at its pace, and a list that is not there harms
nobody.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.runtime import LogRecord, PoisonEffectError
from batchmill.agents.settings import EffectSettings, load_settings
from batchmill.agents.stages import rerunner as rerunner_module
from batchmill.agents.stages.rerunner import Rerunner
from batchmill.agents.tools import ToolSources
from batchmill.schemas.records import Control, WorkItem
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from batchmill.streams.costing import Prices
from batchmill.streams.events import RawLimits
from batchmill.streams.rerunning import (
    COMMAND,
    Kind,
    Line,
    Part,
    Progress,
    Reading,
    RunState,
    current,
    line_of,
    rerun_command,
    start_body,
    steer_body,
)
from tests.review.stage import PARTITION, MemoryLog, MemoryTask, a_kit
from tests.streams.making import carry_out, make_row, make_spec
from tests.streams.rows import make_life, make_source

ROW = make_row(make_spec())
EVENTS = 450


class DiedError(Exception):
    """The worker was killed."""


def stored(folder: Path, lines: list[bytes]) -> str:
    async def content() -> AsyncIterator[bytes]:
        yield b"".join(lines)

    return asyncio.run(FilePayloadStore(directory=folder).put(content())).uri


def a_log(events: int = EVENTS) -> MemoryLog:
    log = MemoryLog()
    for number in range(events):
        value = json.dumps({"body": f"Ticket {number}."}).encode()
        headers = (("batchmill-job", b"triage"),)
        log.records["raw", number] = LogRecord("raw", PARTITION, number, 1, f"s{number}".encode(), value, headers)
    return log


class Log(MemoryLog):
    """By the short name, whatever the prefix."""

    async def read(self, topic: str, _partition: int, offsets: Any) -> dict[int, LogRecord]:
        return await super().read(topic.removeprefix("t.").removesuffix(".v1"), _partition, list(offsets))


def tell(task: MemoryTask, body: str) -> None:
    command = Control(
        command_id=body, command=COMMAND, job="triage", version=ROW.version, body_json=body, actor="me", issued_at_ms=1
    )
    carry_out(task.view, rerun_command(task.view, command, PARTITION, 1))


def a_task(part: Part, **told: Any) -> MemoryTask:
    task = MemoryTask(ROW)
    tell(task, start_body(run="r", parts={PARTITION: part}, **told))
    return task


def the_run(task: MemoryTask) -> Progress:
    found = current(task.view, "r")
    assert found is not None
    return found


def over(task: MemoryTask) -> Callable[[], bool]:
    return lambda: the_run(task).state not in {RunState.RUNNING, RunState.PAUSED}


def run(task: MemoryTask, folder: Path, until: Callable[[], bool], log: MemoryLog | None = None) -> None:
    source = Log()
    source.records = (log or a_log()).records
    rerunner = Rerunner(
        kit=a_kit(source),
        payloads=FilePayloadStore(directory=folder),
        reading=Reading(limits=RawLimits(), default_job=None, prices=Prices(id="none", models={})),
        sources=ToolSources(load_settings()),
        effects=EffectSettings(idle_seconds=0.01),
    )

    async def work() -> None:
        running = asyncio.create_task(rerunner.run(task))
        while not until() and not running.done():
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()

    asyncio.run(work())


def asked(task: MemoryTask) -> list[int]:
    return [each.origin.offset for each in task.records if isinstance(each, WorkItem)]


def a_part(folder: Path, numbers: range = range(EVENTS), **more: Any) -> Part:
    return Part(uri=stored(folder, [line_of(Line(offset=n)) for n in numbers]), lines=len(numbers), **more)


def test_every_listed_event_is_asked_once(tmp_path: Path) -> None:
    task = a_task(a_part(tmp_path))
    run(task, tmp_path, over(task))
    assert asked(task) == list(range(EVENTS))
    assert (the_run(task).state, the_run(task).counts) == (RunState.DONE, {"asked": EVENTS})


def test_a_worker_that_dies_between_two_cuts_leaves_the_rest_to_the_next_one(tmp_path: Path) -> None:
    task = a_task(a_part(tmp_path))
    cuts = 0

    def dies(where: str) -> None:
        nonlocal cuts
        cuts += where == "capacity"
        if cuts == 2:
            raise DiedError

    task.at_wait = dies
    with pytest.raises(DiedError):
        run(task, tmp_path, over(task))
    assert 0 < the_run(task).done == len(asked(task)) < EVENTS
    task.at_wait = lambda _: None
    run(task, tmp_path, over(task))
    assert asked(task) == list(range(EVENTS))


def test_a_pause_that_comes_while_events_are_read_is_obeyed_before_they_are_asked(tmp_path: Path) -> None:
    task = a_task(a_part(tmp_path))

    def pauses(where: str) -> None:
        if where == "effect rerun" and not asked(task):
            tell(task, steer_body("r", "pause"))

    task.at_wait = pauses
    run(task, tmp_path, lambda: task.rests > 3)
    assert (asked(task), the_run(task).state) == ([], RunState.PAUSED)
    task.at_wait = lambda _: None
    tell(task, steer_body("r", "resume"))
    run(task, tmp_path, over(task))
    assert asked(task) == list(range(EVENTS))


def test_events_that_retention_took_are_counted(tmp_path: Path) -> None:
    task = a_task(a_part(tmp_path, range(10)))
    log = a_log(7)
    run(task, tmp_path, over(task), log)
    assert the_run(task).counts == {"asked": 7, "gone": 3}


def test_a_rate_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = a_task(a_part(tmp_path, range(30), per_second=10.0))
    now = 0.0
    monkeypatch.setattr(rerunner_module.clock, "monotonic_s", lambda: now)

    def ticks(where: str) -> None:
        nonlocal now
        if where == "rest rerun":
            assert len(asked(task)) <= 10 * now
            now += 0.5

    task.at_wait = ticks
    run(task, tmp_path, over(task))
    assert asked(task) == list(range(30))
    assert now >= 3


@pytest.mark.parametrize("uri", ["payload:sha256/" + "0" * 64, "/etc/passwd"])
def test_a_list_that_is_not_there_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setattr(rerunner_module, "_LOOK_AGAIN_SECONDS", 0.0)
    task = a_task(Part(uri=uri, lines=5))
    run(task, tmp_path, over(task))
    assert (the_run(task).state, asked(task)) == (RunState.FAILED, [])


def test_a_list_that_is_shorter_than_it_was_told_to_be_fails_once_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerunner_module, "_LOOK_AGAIN_SECONDS", 0.0)
    part = a_part(tmp_path, range(5))
    task = a_task(Part(uri=part.uri, lines=9))
    run(task, tmp_path, over(task))
    assert (the_run(task).state, asked(task)) == (RunState.FAILED, list(range(5)))


def test_events_that_kill_workers_end_the_run(tmp_path: Path) -> None:
    task = a_task(a_part(tmp_path))

    def condemned(where: str) -> None:
        if where == "effect rerun":
            raise PoisonEffectError("rerun", "r", 3)

    task.at_wait = condemned
    run(task, tmp_path, over(task))
    assert (the_run(task).state, asked(task)) == (RunState.FAILED, [])


def test_what_is_committed_is_written_again_without_a_look_at_raw(tmp_path: Path) -> None:
    lives = [make_life(n, version=ROW.version, status=Status.COMMITTED, commit_id=f"c{n}") for n in range(300)]
    uri = stored(tmp_path, [line_of(life.request_id) for life in lives])
    task = MemoryTask(ROW, *lives, *(make_source(life, committed_request_id=life.request_id) for life in lives))
    tell(task, start_body(run="r", kind=Kind.WRITE, parts={PARTITION: Part(uri=uri, lines=300)}))
    run(task, tmp_path, over(task), a_log(0))
    rows = [row for row in task.view.rows(Life.schema) if isinstance(row, Life)]
    assert {(row.status, row.promotion) for row in rows} == {(Status.VALIDATED, 1)}
    assert the_run(task).counts == {"written": 300}
    assert task.records == []
