"""What a judgement does to a life, seen through the rows and records it leaves."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from batchmill.schemas import codec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import (
    ConfidenceSpec,
    JobSpec,
    JudgeSpec,
    RetrySpec,
    RuleSpec,
    ScoringSpec,
    TruncationSpec,
)
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, RawEvent, Verdict
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Outcome, Status, VerdictStatus
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs, compile_job
from batchmill.streams.facts import RetryDue
from batchmill.streams.lifecycle import evolve, step
from batchmill.streams.orders import Put
from batchmill.streams.scoring import QUESTION_BYTES_MAX
from batchmill.streams.settling import ImpossibleError
from batchmill.streams.validating import refuses, validate, validate_beside, waiting
from tests.streams.making import (
    NOW_MS,
    answer,
    carry_out,
    life_of,
    make_raw,
    make_row,
    make_spec,
    make_view,
    take_in,
)

GOOD = '{"label":"fire","confidence":0.9}'
CANONICAL = '{"confidence":0.9,"label":"fire"}'


class Desk:
    """One life, sent and answered as often as a test likes."""

    def __init__(self, spec: JobSpec | None = None) -> None:
        self.spec = spec or make_spec()
        self.view = make_view(make_row(self.spec))
        self.item = take_in(self.view, make_raw())
        self.offset = 10

    @property
    def life(self) -> Life:
        return life_of(self.view, self.item.request_id)

    def answer(self, output: str = GOOD, **changes: Any) -> list[Any]:
        self.offset += 1
        result = answer(self.view, self.item.request_id, output, **changes)
        return self.judge(result)

    def judge(self, result: Any) -> list[Any]:
        orders = validate(self.view, result, self.offset, jobs=CompiledJobs(), now_ms=NOW_MS)
        emitted = carry_out(self.view, orders)
        for record in emitted:
            assert codec.decode(codec.encode(record), type(record)) == record
        return emitted

    @property
    def stored(self) -> Answer | None:
        row = self.view.get(Answer.schema, self.item.ask_key)
        assert row is None or isinstance(row, Answer)
        return row


def test_a_good_answer_is_validated_and_kept_for_the_next_one_who_asks() -> None:
    desk = Desk()
    (verdict,) = desk.answer()
    assert isinstance(verdict, Verdict)
    assert (verdict.status, verdict.output_json, verdict.decided_by) == (VerdictStatus.VALIDATED, CANONICAL, "rules")
    assert (verdict.source_id, verdict.seq, verdict.target_key) == ("ticket-1", desk.item.seq, "ticket-1")
    assert desk.life.status is Status.VALIDATED
    assert desk.life.output_sha256 == verdict.output_sha256 == content_sha256(CANONICAL.encode())
    assert desk.life.result_offset == 11
    assert desk.stored is not None
    assert (desk.stored.result_offset, desk.stored.output_sha256) == (11, content_sha256(GOOD.encode()))


def test_the_same_result_twice_changes_nothing_the_second_time() -> None:
    desk = Desk()
    result = answer(desk.view, desk.item.request_id, GOOD)
    assert desk.judge(result)
    before = desk.life
    assert validate(desk.view, result, desk.offset, jobs=CompiledJobs(), now_ms=NOW_MS + 5) == []
    assert desk.life == before


def test_a_row_without_an_answer_is_the_collectors_business() -> None:
    desk = Desk()
    answered = answer(desk.view, desk.item.request_id, "")
    failed = replace(answered, outcome=Outcome.EXPIRED, output=None, reason=Reason.EXPIRED)
    assert desk.judge(failed) == []
    assert desk.judge(replace(failed, request_id="a" * 32)) == []


def test_a_bad_answer_is_asked_again_until_the_attempts_are_spent() -> None:
    desk = Desk(make_spec(retry=RetrySpec(max_attempts=2)))
    assert desk.answer("no json") == []
    assert (desk.life.status, desk.life.reason) == (Status.FAILED_RETRYABLE, Reason.NOT_JSON)
    assert desk.life.due_at_ms is not None
    assert desk.life.due_at_ms > NOW_MS
    assert desk.stored is None, "nobody could use it"
    desk.view.put(evolve(desk.life, status=Status.QUEUED, due_at_ms=None))
    (letter,) = desk.answer("no json")
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.stage, letter.attempt) == (Reason.NOT_JSON, "validator", 2)
    assert letter.error.startswith("json: expected one JSON value")
    assert desk.life.status is Status.FAILED_TERMINAL


@pytest.mark.parametrize(
    ("on_reject", "output", "status"),
    [
        ("retry", "no json", Status.FAILED_RETRYABLE),
        ("review", "no json", Status.NEEDS_REVIEW),
        ("dead", "no json", Status.FAILED_TERMINAL),
        ("retry", '{"label":"","confidence":1}', Status.FAILED_TERMINAL),  # low quality is not retried blindly
        ("review", '{"label":"","confidence":1}', Status.NEEDS_REVIEW),
        ("dead", '{"label":"","confidence":1}', Status.FAILED_TERMINAL),
    ],
)
def test_a_job_says_what_becomes_of_a_rejected_answer(on_reject: Any, output: str, status: Status) -> None:
    desk = Desk(make_spec(judge=JudgeSpec(required=("label",), on_reject=on_reject)))
    emitted = desk.answer(output)
    assert desk.life.status is status
    if status is Status.NEEDS_REVIEW:
        assert emitted[0].status is VerdictStatus.NEEDS_REVIEW
        assert orjson.loads(emitted[0].output_json) == (output if output == "no json" else orjson.loads(output))
    if status is Status.FAILED_TERMINAL:
        assert isinstance(emitted[0], DeadLetter)


def test_a_refusal_is_not_asked_again_but_is_remembered() -> None:
    desk = Desk()
    (letter,) = desk.answer("", refusal="I would rather not")
    assert letter.reason is Reason.MODEL_REFUSAL
    assert "rather not" not in letter.error
    assert desk.stored is not None


def test_doubt_goes_to_a_person_with_its_reason() -> None:
    desk = Desk(make_spec(judge=JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.95))))
    (verdict,) = desk.answer()
    assert verdict.status is VerdictStatus.NEEDS_REVIEW
    assert verdict.confidence == 0.9
    assert (desk.life.status, desk.life.reason) == (Status.NEEDS_REVIEW, Reason.LOW_CONFIDENCE)


def test_an_answer_nobody_waits_for_is_kept_and_its_life_ends() -> None:
    desk = Desk()
    result = answer(desk.view, desk.item.request_id, GOOD)
    newer = take_in(desk.view, make_raw({"body": "newer"}, offset=8))
    (excluded,) = desk.judge(result)
    assert isinstance(excluded, Excluded)
    assert (excluded.reason, excluded.of_request_id) == (Reason.SUPERSEDED, newer.request_id)
    assert desk.life.status is Status.FAILED_TERMINAL
    assert desk.stored is not None, "it was paid for"


def test_an_answer_of_a_cancelled_job_is_kept_and_its_life_ends() -> None:
    desk = Desk()
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.view.put(make_row(desk.spec, cancelled_before_ms=NOW_MS))
    (excluded,) = desk.judge(result)
    assert (excluded.reason, desk.life.status) == (Reason.CANCELLED, Status.FAILED_TERMINAL)
    assert desk.stored is not None


def test_a_late_answer_to_an_earlier_send_changes_nothing() -> None:
    desk = Desk(make_spec(retry=RetrySpec(max_attempts=5)))
    late = answer(desk.view, desk.item.request_id, GOOD)
    desk.view.put(evolve(desk.life, status=Status.QUEUED, sends=2))
    assert desk.judge(late) == []
    assert desk.life.status is Status.QUEUED


def test_an_answer_read_from_the_store_is_not_stored_again() -> None:
    desk = Desk()
    result = answer(desk.view, desk.item.request_id, GOOD, answered_by="store")
    orders = validate(desk.view, result, 11, jobs=CompiledJobs(), now_ms=NOW_MS)
    assert not any(isinstance(order, Put) and isinstance(order.row, Answer) for order in orders)


def test_each_answer_is_judged_under_the_version_it_was_asked_under() -> None:
    desk = Desk(make_spec(judge=JudgeSpec(required=("summary",), on_reject="dead")))
    result = answer(desk.view, desk.item.request_id, GOOD)
    strict, lax = make_row(desk.spec), make_row(make_spec())
    both = orjson.dumps(orjson.loads(strict.versions_json) | orjson.loads(lax.versions_json)).decode()
    desk.view.put(replace(lax, versions_json=both))
    (letter,) = desk.judge(result)
    assert letter.reason is Reason.RULE_FAILED


# -- truncation --------------------------------------------------------------------------------------------------------


def truncated(desk: Desk) -> Life:
    """Answered at its length limit, and queued again where that is allowed."""
    desk.answer('{"label":"fi', finish_reason="length")
    if desk.life.status is Status.FAILED_RETRYABLE:
        desk.view.put(step(desk.life, RetryDue(), NOW_MS).life)
    return desk.life


def test_an_answer_cut_off_at_the_jobs_own_limit_is_asked_again_with_more_room() -> None:
    desk = Desk(make_spec(retry=RetrySpec(max_attempts=9, truncated=TruncationSpec(factor=1.5, times=2))))
    form = compile_job(desk.spec, version_of(desk.spec)).routes.of("").form
    limits = [form.output_tokens_max(desk.life.room)]
    for _ in range(2):
        assert truncated(desk).status is Status.QUEUED
        body = orjson.loads(form.body(desk.item.input_json, room=desk.life.room))
        limits.append(body["max_completion_tokens"])
    assert limits == [200, 300, 450]
    last = truncated(desk)
    assert (last.status, last.reason, last.attempt) == (Status.FAILED_TERMINAL, Reason.TRUNCATED, 3)


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(retry=RetrySpec(truncated=TruncationSpec(times=0))),
        make_spec(params="{}"),
    ],
    ids=["by policy", "no limit of the job's that could be raised"],
)
def test_a_truncated_answer_is_not_bought_twice_at_the_same_length(spec: JobSpec) -> None:
    last = truncated(Desk(spec))
    assert (last.status, last.reason, last.room) == (Status.FAILED_TERMINAL, Reason.TRUNCATED, 0)


def test_other_failures_leave_the_room_as_it_is() -> None:
    desk = Desk()
    desk.answer("no json")
    assert (desk.life.status, desk.life.room) == (Status.FAILED_RETRYABLE, 0)


# -- beside the input --------------------------------------------------------------------------------------------------

OCCURS = RuleSpec(id="occurs", require="input.body.contains(output.label)")
SCORED = JudgeSpec(scoring=ScoringSpec(job="second", agree="score == output"))


class BesideDesk(Desk):
    """Its answers are judged by the effect, once that has read them and the input."""

    def beside(self, result: Any, item: Any = None, **changes: Any) -> list[Any]:
        (seen,) = waiting(self.view, CompiledJobs(), 9)
        orders = validate_beside(
            self.view, seen, result, item or self.item, jobs=CompiledJobs(), now_ms=NOW_MS, **changes
        )
        return carry_out(self.view, orders)


def test_an_answer_whose_judge_reads_the_input_is_noted_and_judged_later() -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(rules=(OCCURS,))))
    result = answer(desk.view, desk.item.request_id, GOOD)
    assert desk.judge(result) == []
    assert (desk.life.status, desk.life.result_offset) == (Status.SUCCEEDED_UNVALIDATED, desk.offset)
    (verdict,) = desk.beside(result)
    assert (verdict.status, verdict.output_json) == (VerdictStatus.VALIDATED, CANONICAL)
    assert (desk.life.status, desk.life.result_offset) == (Status.VALIDATED, desk.offset)
    assert desk.stored is not None
    assert waiting(desk.view, CompiledJobs(), 9) == []


def test_a_noted_answer_is_noted_once_and_never_for_an_earlier_send() -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(rules=(OCCURS,))))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    before = desk.life
    desk.offset += 1
    assert desk.judge(result) == []
    assert desk.life == before
    desk.view.put(evolve(before, sends=2, result_offset=None))
    assert desk.judge(result) == []
    assert desk.life.result_offset is None


def test_an_answer_to_a_send_that_never_was_stops_the_worker_as_ever() -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(rules=(OCCURS,))))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.view.put(evolve(desk.life, sends=0))
    with pytest.raises(ImpossibleError):
        desk.judge(result)


def test_what_became_of_a_life_meanwhile_stands() -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(rules=(OCCURS,))))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    (seen,) = waiting(desk.view, CompiledJobs(), 9)
    desk.view.put(evolve(seen, status=Status.FAILED_TERMINAL, reason=Reason.POISON))
    assert validate_beside(desk.view, seen, result, desk.item, jobs=CompiledJobs(), now_ms=NOW_MS) == []


@pytest.mark.parametrize("gone", ["results", "normalized"])
def test_an_answer_or_input_that_retention_removed_ends_the_life_by_name(gone: str) -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(rules=(OCCURS,))))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    (seen,) = waiting(desk.view, CompiledJobs(), 9)
    bodies = (None, desk.item) if gone == "results" else (result, None)
    orders = validate_beside(desk.view, seen, *bodies, jobs=CompiledJobs(), now_ms=NOW_MS)
    (letter,) = carry_out(desk.view, orders)
    assert (letter.reason, letter.stage, desk.life.status) == (Reason.BODY_GONE, "validator", Status.FAILED_TERMINAL)
    assert gone in letter.error
    assert refuses(orders)


def test_the_bodies_of_another_request_are_never_judged() -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(rules=(OCCURS,))))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    with pytest.raises(AssertionError, match="another request"):
        desk.beside(replace(result, request_id="b" * 32))
    with pytest.raises(AssertionError, match="another request"):
        desk.beside(result, replace(desk.item, request_id="b" * 32))


def test_a_letter_carries_the_failed_checks_and_no_others() -> None:
    desk = BesideDesk(make_spec(judge=JudgeSpec(required=("label",), rules=(OCCURS,), on_reject="dead")))
    result = answer(desk.view, desk.item.request_id, '{"label":"flood","confidence":1}')
    desk.judge(result)
    (letter,) = desk.beside(result)
    assert codec.decode(codec.encode(letter), DeadLetter) == letter
    assert [(check.id, check.passed) for check in letter.checks] == [("occurs", False)]


# -- second opinions ---------------------------------------------------------------------------------------------------


def test_an_answer_that_passed_is_scored_before_it_counts() -> None:
    desk = BesideDesk(make_spec(judge=SCORED))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    verdict, event = desk.beside(result)
    assert (desk.life.status, desk.life.reason) == (Status.NEEDS_REVIEW, Reason.AWAITING_SCORE)
    assert verdict.status is VerdictStatus.NEEDS_REVIEW
    assert isinstance(event, RawEvent)
    assert event.job == "second"
    assert orjson.loads(event.payload_json)["output_sha256"] == verdict.output_sha256 == desk.life.output_sha256


def test_an_answer_that_was_no_good_is_not_scored() -> None:
    desk = BesideDesk(make_spec(judge=replace(SCORED, required=("label",), on_reject="review")))
    result = answer(desk.view, desk.item.request_id, '{"label":"","confidence":1}')
    desk.judge(result)
    (verdict,) = desk.beside(result)
    assert (verdict.status, desk.life.reason) == (VerdictStatus.NEEDS_REVIEW, Reason.RULE_FAILED)


def test_an_answer_nobody_waits_for_is_not_scored() -> None:
    desk = BesideDesk(make_spec(judge=SCORED))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    take_in(desk.view, make_raw({"body": "newer"}, offset=8))
    (excluded,) = desk.beside(result)
    assert excluded.reason is Reason.SUPERSEDED


def test_an_answer_too_large_to_be_asked_about_goes_to_a_person() -> None:
    desk = BesideDesk(make_spec(judge=SCORED))
    result = answer(desk.view, desk.item.request_id, GOOD)
    desk.judge(result)
    large = orjson.dumps({"body": "x" * QUESTION_BYTES_MAX}).decode()
    (verdict,) = desk.beside(result, replace(desk.item, input_json=large))
    assert (verdict.status, desk.life.reason) == (VerdictStatus.NEEDS_REVIEW, Reason.OVERSIZED)
