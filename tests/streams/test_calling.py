"""An online chunk ends with one outcome for each member, whatever its calls come to; doubt is booked, never dropped."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, Result
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.calling import Called, Terms, after_calls, in_doubt, may_call
from batchmill.streams.chunking import ONLINE, custom_id_of, in_mode, members
from batchmill.streams.lifecycle import evolve
from batchmill.streams.ports import (
    MustPauseError,
    NotStartedError,
    OutcomeUnknownError,
    ProviderError,
    RowOutcome,
    TransientError,
)
from batchmill.streams.routing import lane_of
from batchmill.streams.submitting import Todo, todo
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out, make_spec
from tests.streams.rows import LANE, NOW_MS, make_chunk, make_job, make_life, make_source, put_rows

WORST_NANOS = 7_000


def terms(**changes: Any) -> Terms:
    told: dict[str, Any] = {
        "retry": RetrySpec(max_attempts=2, backoff_seconds_base=10, backoff_seconds_max=60),
        "on_unknown": "resend",
        "price": lambda _: (100, "p"),
        "worst": lambda _: WORST_NANOS,
        "output_bytes_max": 1_000,
    }
    return Terms(**told | changes)


def stage(count: int = 3, *, job: dict[str, Any] | None = None, **changes: Any) -> tuple[MemoryView, Chunk]:
    lane = in_mode(LANE, ONLINE)
    lives = [make_life(n, status=Status.PROCESSING, sends=1, attempt=1, lane=lane) for n in range(count)]
    chunk, inside = make_chunk(
        lives, ChunkState.ATTEMPTING, **{"mode": ONLINE, "attempt": 1, "attempt_at_ms": NOW_MS} | changes
    )
    return put_rows(make_job(**job or {}), chunk, *inside, *[make_source(life) for life in inside]), chunk


def now(view: MemoryView, chunk: Chunk) -> Chunk:
    found = read.chunk(view, chunk.chunk_id)
    assert found is not None
    return found


def end(view: MemoryView, chunk: Chunk, ends: list[Any], **changes: Any) -> list[Any]:
    """The first members end so; a text is an answer."""
    cut = members(view, chunk.chunk_id)
    called = [
        Called(life.request_id, answer(chunk, life, ended) if isinstance(ended, str) else ended)
        for life, ended in zip(cut, ends, strict=False)
    ]
    return carry_out(view, after_calls(view, now(view, chunk), called, terms(**changes), NOW_MS + 1))


def answer(chunk: Chunk, life: Life, text: str) -> RowOutcome:
    return RowOutcome(
        custom_id=custom_id_of(chunk, life), outcome=Outcome.SUCCEEDED, reason=None, output=text, input_tokens=3
    )


def the(view: MemoryView, number: int) -> Life:
    found = read.life(view, make_life(number).request_id)
    assert found is not None
    return found


def test_answers_become_results_and_their_members_leave_as_they_come() -> None:
    view, chunk = stage(3)
    (first,) = end(view, chunk, ["a"])
    assert isinstance(first, Result)
    assert (first.output, first.cost_nanos, first.chunk_id) == ("a", 100, chunk.chunk_id)
    assert the(view, 0).status is Status.SUCCEEDED_UNVALIDATED
    assert now(view, chunk).state is ChunkState.ATTEMPTING
    assert len(members(view, chunk.chunk_id)) == 2
    end(view, chunk, ["b", "c"])
    done = now(view, chunk)
    assert (done.state, done.succeeded, done.cost_nanos, done.note) == (ChunkState.DONE, 3, 300, None)


@pytest.mark.parametrize("error", [TransientError("rate_limit_exceeded"), TransientError("overloaded_error")])
def test_a_busy_service_makes_a_member_wait_and_burns_no_attempt(error: ProviderError) -> None:
    view, chunk = stage(1)
    (said,) = end(view, chunk, [error])
    life = the(view, 0)
    assert (said.outcome, said.reason, said.cost_nanos) == (Outcome.ERROR, Reason.THROTTLED, 0)
    assert (life.status, life.attempt, life.cost_nanos) == (Status.FAILED_RETRYABLE, 0, 0)
    assert life.due_at_ms is not None
    assert life.due_at_ms > NOW_MS + 1
    assert now(view, chunk).doubtful_nanos == 0


def test_a_call_that_never_started_is_as_if_it_had_not_been() -> None:
    view, chunk = stage(2)
    assert end(view, chunk, [NotStartedError("lease_ended"), "a"]) != []
    life = the(view, 0)
    assert (life.status, life.attempt, life.chunk_id) == (Status.QUEUED, 0, None)
    assert (now(view, chunk).state, now(view, chunk).cancelled) == (ChunkState.DONE, 1)


def test_money_pauses_the_job_with_its_code_and_the_member_waits_unharmed() -> None:
    view, chunk = stage(2)
    end(view, chunk, [MustPauseError("insufficient_quota"), "a"])
    job = read.job(view, chunk.job)
    assert job is not None
    assert (job.paused, job.pause_reason) == (True, "insufficient_quota")
    assert (the(view, 0).status, the(view, 0).attempt) == (Status.QUEUED, 0)
    assert the(view, 1).status is Status.SUCCEEDED_UNVALIDATED


def test_an_unknown_outcome_is_sent_again_and_what_it_may_have_cost_is_booked() -> None:
    view, chunk = stage(2)
    (said, _) = end(view, chunk, [OutcomeUnknownError("timeout"), "a"])
    life = the(view, 0)
    assert (said.outcome, said.reason, said.error_code) == (Outcome.MISSING, Reason.OUTCOME_UNKNOWN, "timeout")
    assert (life.status, life.attempt, life.unpriced_calls) == (Status.FAILED_RETRYABLE, 0, 0)
    done = now(view, chunk)
    assert (done.doubtful_nanos, done.missing) == (WORST_NANOS, 1)
    assert done.note == "1 of 2 calls have an unknown outcome"


def test_an_unknown_outcome_is_a_dead_letter_where_the_job_wants_it_so() -> None:
    view, chunk = stage(1)
    said = end(view, chunk, [OutcomeUnknownError("timeout")], on_unknown="dead")
    assert the(view, 0).status is Status.FAILED_TERMINAL
    assert [type(each) for each in said] == [Result, DeadLetter]
    assert said[1].reason is Reason.OUTCOME_UNKNOWN
    assert now(view, chunk).doubtful_nanos == WORST_NANOS


def test_a_busy_service_is_no_unknown_outcome_where_those_are_dead_letters() -> None:
    view, chunk = stage(1)
    end(view, chunk, [TransientError("slow_down")], on_unknown="dead")
    assert the(view, 0).status is Status.FAILED_RETRYABLE


def test_an_attempt_that_another_process_began_is_in_doubt_as_a_whole() -> None:
    view, chunk = stage(3)
    end(view, chunk, ["a"])
    carry_out(view, after_calls(view, now(view, chunk), in_doubt(view, chunk), terms(), NOW_MS + 1))
    done = now(view, chunk)
    assert (done.state, done.succeeded, done.missing) == (ChunkState.DONE, 1, 2)
    assert done.doubtful_nanos == 2 * WORST_NANOS


def test_a_member_that_nobody_waits_for_any_more_ends_when_it_comes_back() -> None:
    view, chunk = stage(1, job={"cancelled_before_ms": NOW_MS + 10})
    said = end(view, chunk, [NotStartedError("lease_ended")])
    assert [type(each) for each in said] == [Excluded]
    assert the(view, 0).status is Status.FAILED_TERMINAL


def test_an_answer_that_is_paid_for_is_kept_though_the_job_was_cancelled() -> None:
    view, chunk = stage(1, job={"cancelled_before_ms": NOW_MS + 10}, cancel_requested=True)
    (said,) = end(view, chunk, ["a"])
    assert (said.output, said.cost_nanos) == ("a", 100)


def test_an_answer_too_long_for_our_records_ends_terminal_and_keeps_its_cost() -> None:
    view, chunk = stage(1)
    said = end(view, chunk, ["x" * 2_000])
    assert (said[0].reason, said[0].cost_nanos, said[0].output) == (Reason.OVERSIZED, 100, None)


def test_no_call_starts_after_a_pause_a_cancellation_or_in_another_attempt() -> None:
    view, chunk = stage()
    assert may_call(view, chunk)
    view, chunk = stage(job={"paused": True})
    assert not may_call(view, chunk)
    view, chunk = stage(cancel_requested=True)
    assert not may_call(view, chunk)


@pytest.mark.parametrize(
    ("state", "paused", "step"),
    [
        (ChunkState.SEALED, False, Todo.PREPARE),
        (ChunkState.PREPARED, False, Todo.CALL),
        (ChunkState.PREPARED, True, None),
        (ChunkState.ATTEMPTING, False, Todo.DOUBT),
        (ChunkState.ATTEMPTING, True, Todo.DOUBT),
        (ChunkState.DONE, False, None),
    ],
)
def test_the_next_step_of_an_online_chunk_is_told_by_its_row(
    state: ChunkState,
    paused: bool,
    step: Todo | None,
) -> None:
    lives = [make_life(0)]
    chunk, _ = make_chunk(lives, state, mode=ONLINE)
    assert todo(chunk, by_file=False, paused=paused, now_ms=NOW_MS) is step


@pytest.mark.parametrize(("prefer", "mode"), [("batch", "batch"), ("online", "online"), ("auto", "batch")])
def test_a_lane_names_one_of_the_two_ways(prefer: str, mode: str) -> None:
    spec = make_spec()
    object.__setattr__(spec.mode, "prefer", prefer)
    assert lane_of(spec.ask.model, spec.mode).rpartition("|")[2] == mode


ENDS = st.sampled_from(
    [
        "an answer",
        "",
        TransientError("rate_limit_exceeded"),
        NotStartedError("lease_ended"),
        MustPauseError("insufficient_quota"),
        OutcomeUnknownError("timeout"),
    ]
)


@given(ends=st.lists(ENDS, min_size=1, max_size=12), cut=st.integers(1, 5), dead=st.booleans())
def test_every_member_has_one_outcome_whatever_its_call_came_to(ends: list[Any], cut: int, dead: bool) -> None:
    view, chunk = stage(len(ends))
    changes = {"on_unknown": "dead"} if dead else {}
    left, said = list(ends), []
    while left:
        said += end(view, chunk, left[:cut], **changes)
        left = left[cut:]
    done = now(view, chunk)
    assert done.state is ChunkState.DONE
    assert done.succeeded + done.errored + done.cancelled + done.missing == len(ends)
    assert members(view, chunk.chunk_id) == []
    unknown = sum(isinstance(each, OutcomeUnknownError) for each in ends)
    assert done.doubtful_nanos == unknown * WORST_NANOS
    results = [each for each in said if isinstance(each, Result)]
    assert len(results) == sum(not isinstance(each, NotStartedError | MustPauseError) for each in ends)
    assert done.cost_nanos == sum(each.cost_nanos or 0 for each in results)
    lives = [the(view, number) for number in range(len(ends))]
    assert all(life.chunk_id is None and life.status is not Status.PROCESSING for life in lives)
    assert all(life.attempt <= 1 for life in lives)


def test_a_life_keeps_its_lane_when_it_comes_back() -> None:
    view, chunk = stage(1)
    end(view, chunk, [NotStartedError("lease_ended")])
    assert the(view, 0).lane == in_mode(LANE, ONLINE)
    assert evolve(the(view, 0), lane=LANE).lane == LANE
