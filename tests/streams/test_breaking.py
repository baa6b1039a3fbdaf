"""When failures stop a job, and what is no failure of its version."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import BreakerSpec
from batchmill.schemas.reasons import REASONS, Fault, Reason
from batchmill.schemas.state import Job, Life
from batchmill.schemas.status import Status
from batchmill.streams import breaking
from batchmill.streams.breaking import Breaker, Outcome, breaker_of, outcome_of
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Put
from batchmill.streams.view import MemoryView
from tests.streams.making import make_row, make_spec
from tests.streams.rows import make_life

SPEC = BreakerSpec(consecutive=5, ratio=0.5, window=12)
GOOD, BAD = Reason.LOW_CONFIDENCE, Reason.NOT_JSON


def job_row(breaker: BreakerSpec | None = SPEC, **changes: object) -> Job:
    return make_row(make_spec(breaker=breaker), **changes)


class Task:
    """One task's view and breaker; a judged answer is one move of a fresh life."""

    def __init__(self, row: Job) -> None:
        self.view = MemoryView()
        self.view.put(row)
        self.breaker = Breaker()
        self.met = 0

    @property
    def job(self) -> Job:
        row = self.view.get(Job.schema, "triage")
        assert isinstance(row, Job)
        return row

    def judged(self, reason: Reason | None, **about: Any) -> str | None:
        """One more answer, good or failed for `reason`; the pause reason, if it stops the job."""
        status = Status.VALIDATED if reason is None else Status.FAILED_RETRYABLE
        return self.moved(Status.SUCCEEDED_UNVALIDATED, status, reason, **about)

    def moved(self, before: Status, after: Status, reason: Reason | None, **about: Any) -> str | None:
        self.met += 1
        name = f"{self.met:032d}"
        life = make_life(**{"request_id": name, "job": "triage", "version": "v1", "status": before, **about})
        self.view.put(life)
        moved = evolve(life, status=after, reason=reason)
        orders = self.breaker.seen(self.view, moved)
        self.view.put(moved)
        for order in orders:
            assert isinstance(order, Put)
            assert isinstance(order.row, Job)
            self.put(order.row)
        return self.job.pause_reason if orders else None

    def put(self, row: Job) -> None:
        self.breaker.heard(self.view, row)
        self.view.put(row)


def test_so_many_failures_in_a_row_pause_the_job_and_say_why() -> None:
    task = Task(job_row())
    assert [task.judged(BAD) for _ in range(4)] == [None] * 4
    assert task.judged(BAD) == "breaker: version v1, 5 answers in a row failed, most for not_json"
    assert task.job.paused


def test_one_good_answer_begins_the_row_anew() -> None:
    task = Task(job_row())
    assert [task.judged(reason) for reason in (BAD, BAD, BAD, BAD, None, BAD, BAD, BAD, BAD)] == [None] * 9


def test_a_share_of_failures_counts_once_the_window_is_full() -> None:
    task = Task(job_row())
    assert [task.judged(reason) for reason in [BAD, None] * 5] == [None] * 10
    assert task.judged(None) is None
    assert task.judged(BAD) == "breaker: version v1, 6 of the last 12 answers failed, most for not_json"


def test_failures_leave_the_window_as_newer_outcomes_come() -> None:
    task = Task(job_row())
    for reason in [BAD, BAD, None] * 2 + [None] * 20 + [BAD, None] * 2:
        assert task.judged(reason) is None


def test_versions_are_counted_apart() -> None:
    task = Task(job_row())
    assert [task.judged(BAD, version=f"v{number % 2}") for number in range(8)] == [None] * 8


def test_a_life_aside_neither_trips_the_breaker_nor_calms_it() -> None:
    task = Task(job_row())
    assert [task.judged(BAD, aside=True) for _ in range(20)] == [None] * 20
    assert [task.judged(BAD) for _ in range(4)] == [None] * 4
    assert task.judged(None, aside=True) is None
    assert task.judged(BAD) is not None


def test_what_was_asked_and_what_was_judged_are_counted_apart_for_they_come_in_no_common_order() -> None:
    task = Task(job_row())
    for _ in range(4):
        assert task.moved(Status.PROCESSING, Status.FAILED_TERMINAL, Reason.REQUEST_INVALID) is None
        assert task.judged(BAD) is None
    assert task.moved(Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED, None) is None
    assert task.moved(Status.PROCESSING, Status.FAILED_TERMINAL, Reason.REQUEST_INVALID) is None
    assert "5 answers in a row" in (task.judged(BAD) or "")


def test_a_job_without_a_breaker_goes_on() -> None:
    task = Task(job_row(None))
    assert [task.judged(BAD) for _ in range(500)] == [None] * 500


def test_a_job_that_was_paused_by_someone_stays_as_it_was_paused() -> None:
    task = Task(job_row(paused=True))
    assert [task.judged(BAD) for _ in range(30)] == [None] * 30
    assert task.job.pause_reason is None


def test_after_a_resume_the_count_begins_anew() -> None:
    task = Task(job_row())
    assert [task.judged(BAD) for _ in range(4)] == [None] * 4
    task.put(replace(task.job, paused=True))
    assert task.judged(BAD) is None
    task.put(replace(task.job, paused=False))
    assert [task.judged(BAD) for _ in range(4)] == [None] * 4
    assert task.judged(BAD) is not None


def test_a_command_that_changes_neither_pause_nor_spec_leaves_the_count_as_it_is() -> None:
    task = Task(job_row())
    assert [task.judged(BAD) for _ in range(4)] == [None] * 4
    task.put(replace(task.job, last_command_id="approve-1"))
    assert task.judged(BAD) is not None


def test_the_breaker_that_is_applied_now_watches_older_versions_too() -> None:
    task = Task(job_row())
    task.put(replace(job_row(None), last_command_id="command-2"))
    assert [task.judged(BAD, version="older") for _ in range(30)] == [None] * 30
    assert breaker_of(task.job) is None


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("before", [Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED])
def test_a_dead_letter_counts_if_the_fault_is_the_jobs_or_the_providers(before: Status, reason: Reason) -> None:
    told = outcome_of(make_life(status=before), make_life(status=Status.FAILED_TERMINAL, reason=reason))
    counts = REASONS[reason].fault in {Fault.JOB, Fault.PROVIDER} and not REASONS[reason].excluded
    step = "asked" if before is Status.PROCESSING else "judged"
    assert told == (Outcome(step, reason) if counts else None)


@pytest.mark.parametrize(
    ("reason", "failed"),
    [
        *((reason, False) for reason in (None, Reason.LOW_CONFIDENCE, Reason.RULE_FAILED, Reason.AWAITING_SCORE)),
        *((reason, True) for reason in (Reason.NOT_JSON, Reason.SCHEMA_MISMATCH, Reason.MODEL_REFUSAL)),
    ],
)
def test_an_answer_in_review_is_a_failure_only_if_it_is_no_answer(reason: Reason | None, *, failed: bool) -> None:
    before = make_life(status=Status.SUCCEEDED_UNVALIDATED)
    told = outcome_of(before, make_life(status=Status.NEEDS_REVIEW, reason=reason))
    assert told == Outcome("judged", reason if failed else None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Status.QUEUED, Status.FAILED_TERMINAL),  # never asked
        (Status.PROCESSING, Status.FAILED_RETRYABLE),  # asked again, for nothing the version can help
        (Status.NEEDS_REVIEW, Status.FAILED_TERMINAL),
        (Status.VALIDATED, Status.FAILED_TERMINAL),
        (Status.VALIDATED, Status.VALIDATED),
        (Status.QUEUED, Status.SUCCEEDED_UNVALIDATED),  # answered from the store
        (Status.SUCCEEDED_UNVALIDATED, Status.SUCCEEDED_UNVALIDATED),
    ],
)
def test_other_moves_say_nothing(before: Status, after: Status) -> None:
    assert outcome_of(make_life(status=before), make_life(status=after, reason=Reason.PROVIDER_ERROR)) is None


def test_a_life_nobody_has_seen_before_says_nothing() -> None:
    life: Life = make_life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    assert outcome_of(None, life) is None


def test_windows_of_one_task_are_bounded() -> None:
    task = Task(job_row())
    for number in range(2 * breaking._WINDOWS_MAX):
        task.judged(BAD, version=f"v{number}")
    assert len(task.breaker._windows) == breaking._WINDOWS_MAX


@given(
    outcomes=st.lists(st.booleans(), max_size=80),
    consecutive=st.integers(1, 9),
    ratio=st.sampled_from([0.3, 0.5, 1.0]),
    window=st.integers(1, 12),
)
def test_it_stops_exactly_when_the_row_or_the_share_says_so(
    outcomes: list[bool], consecutive: int, ratio: float, window: int
) -> None:
    task = Task(job_row(BreakerSpec(consecutive=consecutive, ratio=ratio, window=window)))
    seen: list[bool] = []
    for failed in outcomes:
        seen.append(failed)
        row = len(seen) - 1 - max((at for at, each in enumerate(seen) if not each), default=-1)
        last = seen[-window:]
        must = failed and (row >= consecutive or (len(last) == window and sum(last) >= ratio * window))
        assert (task.judged(BAD if failed else None) is not None) is must
        if must:
            return
