"""What a judgement does to a life, seen through the rows and records it leaves."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from batchmill.schemas import codec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import ConfidenceSpec, JobSpec, JudgeSpec, RetrySpec, TruncationSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, Verdict
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Outcome, Status, VerdictStatus
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs, compile_job
from batchmill.streams.facts import RetryDue
from batchmill.streams.lifecycle import evolve, step
from batchmill.streams.orders import Put
from batchmill.streams.validating import validate
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
    form = compile_job(desk.spec, version_of(desk.spec)).form
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
