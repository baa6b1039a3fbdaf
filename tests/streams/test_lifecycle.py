"""The table of lives: total, quiet on repetition, and never silent about money."""

from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from batchmill.streams.facts import (
    FREE,
    Answered,
    AnswerFound,
    Attempted,
    AttemptFailed,
    AttemptRefused,
    BroughtForward,
    Cancelled,
    Charge,
    CommitApplied,
    CommitIntended,
    Condemned,
    Fact,
    NotPromoted,
    Passed,
    PutBack,
    Recalled,
    Redriven,
    Refused,
    Rejected,
    Released,
    RetryDue,
    ReviewAccepted,
    ReviewDeclined,
    ReviewDeferred,
    ReviewUndone,
    SentToReview,
    SetAside,
    SinkRefused,
    Spent,
    Superseded,
    TakenBack,
    TakenIn,
)
from batchmill.streams.lifecycle import FACTS, TABLE, Impossible, Moved, Stale, evolve, markdown, step
from tests.streams.rows import NOW_MS, make_life

LATER_MS = NOW_MS + 1_000
CHARGE = Charge(cost_nanos=70, input_tokens=5, output_tokens=2)
ANSWER = {"sends": 1, "output_sha256": "sha", "result_offset": 9}

#: a fact of every kind that fits a life as `fitting` makes it
EXAMPLES: dict[type[Fact], Fact] = {
    TakenIn: TakenIn(chunk_id="c1"),
    Released: Released(chunk_id="c1"),
    Attempted: Attempted(chunk_id="c1", sends=2),
    AnswerFound: AnswerFound(output_sha256="sha"),
    Refused: Refused(reason=Reason.RENDER_ERROR),
    Answered: Answered(sends=1, output_sha256="sha", charge=CHARGE),
    AttemptFailed: AttemptFailed(sends=1, reason=Reason.PROVIDER_ERROR, due_at_ms=LATER_MS, charge=CHARGE),
    AttemptRefused: AttemptRefused(sends=1, reason=Reason.REQUEST_INVALID, charge=CHARGE),
    RetryDue: RetryDue(),
    Spent: Spent(),
    Passed: Passed(**ANSWER, confidence=0.9),
    SentToReview: SentToReview(**ANSWER, confidence=0.2, reason=Reason.LOW_CONFIDENCE),
    Rejected: Rejected(**ANSWER, reason=Reason.NOT_JSON, due_at_ms=LATER_MS),
    Condemned: Condemned(**ANSWER, reason=Reason.MODEL_REFUSAL),
    ReviewAccepted: ReviewAccepted(seen_sha256="sha", output_sha256="corrected"),
    ReviewDeclined: ReviewDeclined(seen_sha256="sha"),
    ReviewDeferred: ReviewDeferred(seen_sha256="sha", until_ms=LATER_MS),
    ReviewUndone: ReviewUndone(seen_sha256="sha"),
    CommitIntended: CommitIntended(output_sha256="sha", commit_id="commit"),
    CommitApplied: CommitApplied(output_sha256="sha", commit_id="commit"),
    TakenBack: TakenBack(commit_id="commit"),
    PutBack: PutBack(commit_id="commit"),
    SinkRefused: SinkRefused(output_sha256="sha"),
    Superseded: Superseded(),
    Cancelled: Cancelled(),
    NotPromoted: NotPromoted(),
    BroughtForward: BroughtForward(seq=9, promotion=2),
    SetAside: SetAside(),
    Recalled: Recalled(),
    Redriven: Redriven(to=Status.QUEUED, asked_at_ms=LATER_MS, result_offset=None),
}
#: facts about members of a chunk
INSIDE = (Released, Attempted)

statuses = st.sampled_from(list(Status))
facts = st.sampled_from(list(EXAMPLES.values()))


def fitting(status: Status, fact: Fact) -> Life:
    """A life in `status` to which no number or hash of the example is a surprise."""
    chunk_id = "c1" if isinstance(fact, INSIDE) else None
    told: dict[str, Any] = {"chunk_id": chunk_id}
    if isinstance(fact, TakenBack | PutBack):
        told |= {"commit_id": "commit", "reverted": isinstance(fact, PutBack)}
    if isinstance(fact, ReviewUndone):
        told |= {"review_sha256": "asked", "reason": Reason.DECLINED if status is Status.FAILED_TERMINAL else None}
    return make_life(status=status, sends=1, attempt=1, output_sha256="sha", **told)


def test_no_cell_of_the_table_is_blank() -> None:
    assert set(FACTS) == set(get_args(Fact)) == set(EXAMPLES)
    assert set(TABLE) == {(status, fact) for status in Status for fact in FACTS}


@pytest.mark.parametrize("fact", EXAMPLES.values(), ids=lambda fact: type(fact).__name__)
@pytest.mark.parametrize("status", Status)
def test_step_does_what_the_cell_says(status: Status, fact: Fact) -> None:
    life = fitting(status, fact)
    taken = step(life, fact, LATER_MS)
    match TABLE[status, type(fact)]:
        case "stale":
            assert isinstance(taken.verdict, Stale)
            assert taken.life.status is status
        case "impossible":
            assert isinstance(taken.verdict, Impossible)
            assert taken.life is life
        case "as told":
            assert isinstance(taken.verdict, Moved)
            assert taken.life.status is Status.QUEUED
        case target:
            assert isinstance(taken.verdict, Moved)
            assert taken.life.status is target
            assert taken.life.updated_at_ms == LATER_MS


@given(statuses, facts)
def test_a_repeated_fact_never_moves_twice(status: Status, fact: Fact) -> None:
    once = step(fitting(status, fact), fact, LATER_MS)
    if not once.moved:
        return
    again = step(once.life, fact, LATER_MS)
    assert again.life.status is once.life.status


@given(statuses, st.sampled_from([fact for fact in EXAMPLES.values() if hasattr(fact, "charge")]))
def test_whatever_becomes_of_a_fact_its_cost_is_posted_once(status: Status, fact: Fact) -> None:
    life = fitting(status, fact)
    taken = step(life, fact, LATER_MS)
    assert not isinstance(taken.verdict, Impossible)
    assert taken.life.cost_nanos == life.cost_nanos + 70
    assert (taken.life.input_tokens, taken.life.output_tokens) == (5, 2)


def test_a_call_without_a_price_is_counted_and_not_taken_for_free() -> None:
    unpriced = Charge(cost_nanos=None, input_tokens=5, output_tokens=2)
    life = make_life(status=Status.PROCESSING, sends=1, attempt=1)
    taken = step(life, Answered(sends=1, output_sha256="sha", charge=unpriced), LATER_MS).life
    assert (taken.cost_nanos, taken.unpriced_calls) == (0, 1)
    free = step(life, Answered(sends=1, output_sha256="sha", charge=FREE), LATER_MS).life
    assert (free.cost_nanos, free.unpriced_calls) == (0, 0)


@pytest.mark.parametrize("kind", [Answered, AttemptFailed, AttemptRefused, Passed, SentToReview, Rejected, Condemned])
def test_a_fact_about_an_older_send_is_stale_and_about_a_later_one_impossible(kind: type[Fact]) -> None:
    fact: Any = EXAMPLES[kind]
    for status in Status:
        life = evolve(fitting(status, fact), sends=2)
        assert isinstance(step(life, fact, LATER_MS).verdict, Stale)
        assert isinstance(step(life, replace(fact, sends=3), LATER_MS).verdict, Impossible)


def test_an_attempt_is_the_next_send_or_it_is_not_taken() -> None:
    life = make_life(sends=1, chunk_id="c1")
    assert step(life, Attempted(chunk_id="c1", sends=2), LATER_MS).life.sends == 2
    assert isinstance(step(life, Attempted(chunk_id="c1", sends=1), LATER_MS).verdict, Stale)
    assert isinstance(step(life, Attempted(chunk_id="c1", sends=3), LATER_MS).verdict, Impossible)


@pytest.mark.parametrize(
    "fact", [ReviewAccepted(seen_sha256="old", output_sha256="x"), ReviewDeclined(seen_sha256="old")]
)
def test_a_decision_on_an_answer_the_life_no_longer_has_is_stale(fact: Fact) -> None:
    assert isinstance(step(fitting(Status.NEEDS_REVIEW, fact), fact, LATER_MS).verdict, Stale)


@pytest.mark.parametrize("fact", [Superseded(), Cancelled()])
@pytest.mark.parametrize("status", Status)
def test_a_member_of_a_chunk_is_not_ended_from_outside(fact: Fact, status: Status) -> None:
    inside = make_life(status=status, chunk_id="c1")
    verdict = step(inside, fact, LATER_MS).verdict
    assert isinstance(verdict, Impossible)
    assert "c1" in verdict.message


def test_only_failures_that_cost_an_attempt_keep_it() -> None:
    life = make_life(status=Status.PROCESSING, sends=3, attempt=2, chunk_id="c1")
    for reason in (reason for reason in Reason if info(reason).retryable):
        failed = step(life, AttemptFailed(sends=3, reason=reason, due_at_ms=LATER_MS, charge=FREE), LATER_MS).life
        assert failed.attempt == (2 if info(reason).costs_attempt else 1)
        assert (failed.chunk_id, failed.due_at_ms, failed.reason) == (None, LATER_MS, reason)


def test_a_retry_forgets_the_answer_that_was_rejected() -> None:
    """Else the queue would take it for a stored answer to be read again."""
    failed = make_life(status=Status.FAILED_RETRYABLE, result_offset=5, due_at_ms=LATER_MS)
    queued = step(failed, RetryDue(), LATER_MS).life
    assert (queued.result_offset, queued.due_at_ms, queued.queued_at_ms) == (None, None, failed.queued_at_ms)


def test_a_redrive_starts_with_fresh_attempts_and_a_fresh_instant() -> None:
    ended = make_life(status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON, attempt=3, commit_id="c")
    again = step(ended, Redriven(to=Status.QUEUED, asked_at_ms=LATER_MS, result_offset=4), LATER_MS).life
    assert (again.attempt, again.redrives, again.queued_at_ms, again.result_offset) == (0, 1, LATER_MS, 4)
    assert (again.reason, again.commit_id) == (None, None)
    verdict = step(ended, Redriven(to=Status.COMMITTED, asked_at_ms=LATER_MS, result_offset=None), LATER_MS).verdict
    assert isinstance(verdict, Impossible)


def test_an_impossible_fact_names_life_status_and_fact() -> None:
    verdict = step(make_life(status=Status.COMMITTED), Spent(), LATER_MS).verdict
    assert isinstance(verdict, Impossible)
    assert all(told in verdict.message for told in (make_life().request_id, "committed", "Spent"))


def test_evolve_changes_what_is_named_and_nothing_else() -> None:
    life = make_life()
    changed = evolve(life, status=Status.PROCESSING, sends=4)
    assert changed == replace(life, status=Status.PROCESSING, sends=4)
    assert all(getattr(life, each.name) == getattr(make_life(), each.name) for each in fields(life))
    with pytest.raises(KeyError):
        evolve(life, colour="red")


def test_the_documented_table_has_a_row_per_fact_and_a_column_per_status() -> None:
    lines = markdown().splitlines()
    assert len(lines) == len(FACTS) + 2
    assert all(line.count("|") == len(Status) + 2 for line in lines)
