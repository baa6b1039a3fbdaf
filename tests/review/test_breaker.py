"""A job whose answers fail, where orders are carried: it stops in the task that saw it, in the same transaction."""

from dataclasses import replace

from batchmill.agents.stages.kit import Kit
from batchmill.schemas.jobs import BreakerSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Job, Life
from batchmill.schemas.status import Status
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Order, Put
from tests.review.stage import MemoryTask, a_kit
from tests.streams.making import make_row, make_spec
from tests.streams.rows import make_life

LIMIT = 10
ROW = make_row(make_spec(breaker=BreakerSpec(consecutive=LIMIT)))


def lives(count: int) -> list[Life]:
    return [make_life(number, version=ROW.version, status=Status.SUCCEEDED_UNVALIDATED) for number in range(count)]


def failures(count: int) -> list[Order]:
    return [Put(evolve(life, status=Status.FAILED_RETRYABLE, reason=Reason.NOT_JSON)) for life in lives(count)]


def job_of(task: MemoryTask) -> Job:
    row = task.view.get(Job.schema, ROW.job)
    assert isinstance(row, Job)
    return row


def fail(kit: Kit, task: MemoryTask, count: int) -> None:
    kit.carry(task, failures(count), src="results/3/0")


def test_the_job_pauses_with_the_failure_that_is_one_too_many() -> None:
    kit, task = a_kit(), MemoryTask(ROW, *lives(LIMIT))
    fail(kit, task, LIMIT - 1)
    assert not job_of(task).paused
    kit.carry(task, failures(LIMIT)[-1:], src="results/3/1")
    assert job_of(task).paused
    assert job_of(task).pause_reason == f"breaker: version {ROW.version}, 10 answers in a row failed, most for not_json"


def test_what_comes_after_is_still_taken_down() -> None:
    kit, task = a_kit(), MemoryTask(ROW, *lives(3 * LIMIT))
    fail(kit, task, 3 * LIMIT)
    rows = [row for row in task.view.rows(Life.schema) if isinstance(row, Life)]
    assert {row.status for row in rows} == {Status.FAILED_RETRYABLE}


def test_tasks_count_apart_and_a_task_that_is_made_anew_begins_at_none() -> None:
    kit, task, other = a_kit(), MemoryTask(ROW, *lives(LIMIT)), MemoryTask(ROW, *lives(LIMIT))
    fail(kit, task, LIMIT - 1)
    fail(kit, other, LIMIT - 1)
    assert not job_of(task).paused
    assert not job_of(other).paused
    del task
    assert len(kit.breakers) == 1, "a task that is gone takes its windows along"


def test_after_a_resume_as_many_failures_again_are_needed() -> None:
    kit, task = a_kit(), MemoryTask(ROW, *lives(LIMIT))
    fail(kit, task, LIMIT)
    kit.carry(task, [Put(replace(job_of(task), paused=False, pause_reason=None))], src="control/3/1")
    again = MemoryTask(job_of(task), *lives(LIMIT))
    kit.breakers[again] = kit.breakers[task]
    fail(kit, again, LIMIT - 1)
    assert not job_of(again).paused
