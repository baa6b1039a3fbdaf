"""The effects `then` and `arrivals` of stages: commits fire, wholes are taken up, once, whatever happens in between."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from batchmill.agents.runtime import PoisonEffectError
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.firing import Firing
from batchmill.agents.stages.normalizer import Normalizer
from batchmill.schemas import codec
from batchmill.schemas.promotion import JoinSpec, ThenSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, RawEvent, WorkItem
from batchmill.schemas.state import Arrival, Life
from batchmill.schemas.status import Status
from batchmill.streams.events import RawLimits
from batchmill.streams.lineage import PARENT, PART
from tests.review.stage import MemoryLog, MemoryTask, a_kit, slice_of
from tests.streams.making import make_row, make_spec
from tests.streams.rows import make_item, make_life
from tests.streams.test_staging import verdict_of

PARENT_SPEC = make_spec(then=(ThenSpec(job="next"),))
JOINER = make_spec(job="whole", user="{{ input.parts }}", join=JoinSpec())


class DiedError(Exception):
    """The worker was killed."""


def run(effect: Callable[[Any], Coroutine[Any, Any, None]], task: MemoryTask, until: Callable[[], bool]) -> None:
    async def work() -> None:
        running = asyncio.create_task(effect(task))
        while not until() and not running.done():
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled():
            running.result()

    asyncio.run(work())


class Mill:
    """Two commits that have yet to fire, and the log with what was asked and answered."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        row = make_row(PARENT_SPEC)
        self.lives = [self.life(number, row.version) for number in (0, 1)]
        self.task = MemoryTask(row, *self.lives)
        effects = EffectSettings(idle_seconds=0.01)
        self.effect = Firing(kit=a_kit(self.log), effects=effects, tasks_total=4)

    def life(self, number: int, version: str) -> Life:
        life = make_life(
            number, version=version, status=Status.COMMITTED, commit_id="c", verdict_offset=number, output_sha256="sha",
            fires=True,
        )  # fmt: skip
        item = make_item(request_id=life.request_id, input_json=json.dumps({"n": number}))
        self.log.add("t.normalized.v1", number, codec.encode(item))
        self.log.add("t.validated.v1", number, codec.encode(verdict_of(life, {"label": "x"})))
        return life

    def over(self) -> bool:
        return not self.task.view.scan("then", "", limit=1)

    def children(self) -> list[str | None]:
        return [each.source_id for each in self.task.records if isinstance(each, RawEvent)]


def test_every_commit_fires_once() -> None:
    mill = Mill()
    run(mill.effect.run, mill.task, mill.over)
    run(mill.effect.run, mill.task, lambda: mill.task.rests > 2)
    assert mill.children() == ["s0", "s1"]


def test_a_worker_that_dies_before_the_bodies_are_read_leaves_commits_that_fire_later() -> None:
    mill = Mill()

    def dies(where: str) -> None:
        if where == "effect then":
            raise DiedError

    mill.task.at_wait = dies
    with pytest.raises(DiedError):
        run(mill.effect.run, mill.task, mill.over)
    assert mill.children() == []
    mill.task.at_wait = lambda _: None
    run(mill.effect.run, mill.task, mill.over)
    assert mill.children() == ["s0", "s1"]


def test_a_commit_that_kills_workers_is_given_up_alone() -> None:
    mill = Mill()
    mill.task.guard.one_at_a_time = True
    condemned = iter([PoisonEffectError("then", mill.lives[0].request_id, 3)])

    def tried(where: str) -> None:
        if where == "effect then" and (error := next(condemned, None)) is not None:
            raise error

    mill.task.at_wait = tried
    run(mill.effect.run, mill.task, mill.over)
    assert mill.children() == ["s1"]
    (letter,) = [each for each in mill.task.records if isinstance(each, DeadLetter)]
    assert (letter.reason, letter.job) == (Reason.POISON, "next")


def test_bodies_that_are_gone_are_told_for_each_job_that_was_to_follow() -> None:
    mill = Mill()
    del mill.log.records["t.validated.v1", 0]
    run(mill.effect.run, mill.task, mill.over)
    assert mill.children() == ["s1"]
    assert [each.reason for each in mill.task.records if isinstance(each, DeadLetter)] == [Reason.BODY_GONE]


def a_part(number: int) -> bytes:
    metadata = {PARENT: "b" * 32, PART: f"{number}/2/{'a' * 32}/1.0"}
    return codec.encode(
        RawEvent(job="whole", source_id=f"doc#{number}", payload_json=f'{{"n":{number}}}', metadata=metadata)
    )


def test_parts_on_the_log_become_one_item_and_a_pause_holds_them() -> None:
    log, values = MemoryLog(), [a_part(2), a_part(1)]
    for offset, value in enumerate(values):
        log.add("t.raw.v1", offset, value)
    row = make_row(JOINER)
    task = MemoryTask(row)
    normalizer = Normalizer(
        kit=a_kit(log),
        limits=RawLimits(),
        default_job=None,
        rows_at_once=10,
        idle_seconds=0.01,
        unknown_job_seconds=30,
    )
    normalizer.on_slice(task, slice_of("t.raw.v1", *values))
    assert "arrivals" in task.woken
    task.view.put(replace(row, paused=True))
    run(normalizer.run, task, lambda: task.rests > 2)
    assert len(task.view.rows(Arrival.schema)) == 2
    task.view.put(row)
    run(normalizer.run, task, lambda: not task.view.rows(Arrival.schema))
    (item,) = [each for each in task.records if isinstance(each, WorkItem)]
    assert json.loads(item.input_json) == {"parts": [{"n": 1}, {"n": 2}], "missing": []}
    (other,) = [each for each in task.records if isinstance(each, Excluded)]
    assert (other.reason, other.of_request_id) == (Reason.JOINED, item.request_id)
