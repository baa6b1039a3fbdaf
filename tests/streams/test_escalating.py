"""An answer that is no good is asked for again by the cascade's next route: which is, when, and what it may cost."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import ModelSpec, RouteSpec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import ConfidenceSpec, JobSpec, JudgeSpec, RetrySpec, RuleSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Result, Verdict
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.facts import Answered, Attempted, Charge
from batchmill.streams.lifecycle import evolve, step
from batchmill.streams.orders import Wake
from batchmill.streams.queueing import from_store
from batchmill.streams.retrying import SENDS_MAX, due
from batchmill.streams.validating import refuses, validate
from tests.streams.making import NOW_MS, answer, carry_out, life_of, make_raw, make_row, make_spec, make_view, take_in

GOOD = '{"label":"fire","confidence":0.9}'
UNSURE = '{"label":"fire","confidence":0.4}'
WRONG = '{"label":"","confidence":0.9}'
MIDDLE = RouteSpec(name="middle", user="Look again: {{ input.body }}")
DEAR = RouteSpec(name="dear", model=ModelSpec(provider="openai", name="gpt-5", params_json='{"max_output_tokens":300}'))
JUDGE = JudgeSpec(
    required=("label",),
    confidence=ConfidenceSpec(field="confidence", review_below=0.8, reject_below=0.1),
    rules=(RuleSpec(id="named", require="output.label != ''"),),
)
ONCE = RetrySpec(max_attempts=1)


def spec_of(*, judge: JudgeSpec = JUDGE, retry: RetrySpec = ONCE, **ask: Any) -> JobSpec:
    spec = make_spec(judge=judge, retry=retry)
    told = {"routes": (MIDDLE, DEAR), "cascade": ("middle", "dear")} | ask
    return replace(spec, ask=replace(spec.ask, **told))


class Desk:
    """One life, sent and answered as often as a test likes."""

    def __init__(self, spec: JobSpec | None = None) -> None:
        self.spec = spec or spec_of()
        self.view = make_view(make_row(self.spec))
        self.item = take_in(self.view, make_raw())
        self.offset = 10
        self.orders: list[Any] = []

    @property
    def life(self) -> Life:
        return life_of(self.view, self.item.request_id)

    @property
    def stored(self) -> Answer | None:
        row = self.view.get(Answer.schema, self.item.ask_key)
        assert row is None or isinstance(row, Answer)
        return row

    def answer(self, output: str = GOOD, **changes: Any) -> list[Any]:
        carry_out(self.view, due(self.view, now_ms=NOW_MS + 10**9, limit=9))
        self.offset += 1
        result = answer(self.view, self.item.request_id, output, route=self.life.route, **changes)
        self.orders = validate(self.view, result, self.offset, jobs=CompiledJobs(), now_ms=NOW_MS)
        return carry_out(self.view, self.orders)


@pytest.mark.parametrize("output", [UNSURE, WRONG, "no json", '{"label":1}', '{"label":"x","confidence":0.05}'])
def test_an_answer_that_is_no_good_goes_to_the_next_route_at_once_whatever_attempts_are_left(output: str) -> None:
    desk = Desk()
    assert desk.answer(output) == []
    life = desk.life
    assert (life.status, life.route, life.due_at_ms) == (Status.FAILED_RETRYABLE, "middle", NOW_MS)
    assert life.lane == "default|gpt-5-mini|/v1/chat/completions|batch"
    assert Wake("retry") in desk.orders
    assert refuses(desk.orders), "it was paid for and is no good"
    desk.answer(output)
    assert (desk.life.route, desk.life.lane) == ("dear", "default|gpt-5|/v1/chat/completions|batch")


def test_a_good_answer_is_not_asked_for_again() -> None:
    desk = Desk()
    (verdict,) = desk.answer(GOOD)
    assert (verdict.status, desk.life.route) == (VerdictStatus.VALIDATED, "")
    assert desk.stored is not None
    assert desk.stored.route == ""


@pytest.mark.parametrize(
    ("on", "output", "goes_on"),
    [
        (("rejected",), UNSURE, False),
        (("rejected",), WRONG, True),
        (("unsure",), UNSURE, True),
        (("unsure",), WRONG, False),
        (("unsure",), '{"label":"x","confidence":0.05}', True),  # it is rejected because it is unsure
    ],
)
def test_a_job_says_what_is_no_good(on: Any, output: str, goes_on: bool) -> None:
    desk = Desk(spec_of(escalate_on=on))
    desk.answer(output)
    assert (desk.life.route == "middle") is goes_on
    assert (desk.life.status is Status.FAILED_RETRYABLE) is goes_on


@pytest.mark.parametrize("on_reject", ["retry", "review", "dead"])
def test_the_last_routes_answer_is_judged_as_ever(on_reject: Any) -> None:
    desk = Desk(spec_of(judge=replace(JUDGE, on_reject=on_reject), cascade=("dear",)))
    desk.answer("no json")
    (said,) = desk.answer("no json")
    assert desk.life.route == "dear"
    if on_reject == "review":
        assert isinstance(said, Verdict)
        assert (said.status, desk.life.reason) == (VerdictStatus.NEEDS_REVIEW, Reason.NOT_JSON)
    else:
        assert isinstance(said, DeadLetter)
        assert (said.reason, said.attempt) == (Reason.NOT_JSON, 2)


def test_doubt_of_the_last_route_goes_to_a_person() -> None:
    desk = Desk(spec_of(cascade=("dear",)))
    desk.answer(UNSURE)
    (verdict,) = desk.answer(UNSURE)
    assert (verdict.status, desk.life.reason) == (VerdictStatus.NEEDS_REVIEW, Reason.LOW_CONFIDENCE)


def test_attempts_of_all_routes_are_counted_together() -> None:
    desk = Desk(spec_of(retry=RetrySpec(max_attempts=3), cascade=("dear",)))
    desk.answer("no json")
    assert (desk.life.route, desk.life.attempt) == ("dear", 1)
    desk.answer("no json")
    assert (desk.life.status, desk.life.attempt) == (Status.FAILED_RETRYABLE, 2)
    (letter,) = desk.answer("no json")
    assert (letter.attempt, desk.life.status) == (3, Status.FAILED_TERMINAL)


def test_what_a_model_declines_is_not_put_to_another() -> None:
    desk = Desk()
    (letter,) = desk.answer("", refusal="I would rather not")
    assert (letter.reason, desk.life.route) == (Reason.MODEL_REFUSAL, "")


def test_an_answer_that_was_cut_off_has_more_room_first_and_then_another_route_with_its_own() -> None:
    desk = Desk(spec_of(retry=RetrySpec(max_attempts=5), cascade=("dear",)))
    desk.answer('{"label', finish_reason="length")
    assert (desk.life.route, desk.life.room) == ("", 1)
    desk.answer('{"label', finish_reason="length")
    assert (desk.life.route, desk.life.room, desk.life.due_at_ms) == ("dear", 0, NOW_MS)


def test_one_that_was_sent_too_often_is_asked_no_further() -> None:
    desk = Desk()
    desk.view.put(evolve(desk.life, sends=SENDS_MAX - 1))
    desk.answer(WRONG)
    assert (desk.life.route, desk.life.status) == ("", Status.FAILED_TERMINAL)


def test_an_answer_that_is_asked_for_again_is_not_offered_to_others_until_the_better_one_is_there() -> None:
    desk = Desk(spec_of(cascade=("dear",)))
    desk.answer(WRONG)
    assert desk.stored is None
    desk.answer(GOOD)
    assert desk.stored is not None
    assert (desk.stored.route, desk.stored.output_sha256) == ("dear", content_sha256(GOOD.encode()))


def test_an_answer_that_nobody_waits_for_is_not_asked_for_again_and_is_kept() -> None:
    desk = Desk()
    result = answer(desk.view, desk.item.request_id, WRONG)
    take_in(desk.view, make_raw({"body": "A newer text."}, offset=8), offset=1)
    (said,) = carry_out(desk.view, validate(desk.view, result, 11, jobs=CompiledJobs(), now_ms=NOW_MS))
    assert (said.reason, desk.life.status) == (Reason.SUPERSEDED, Status.FAILED_TERMINAL)
    assert desk.stored is not None
    assert desk.stored.route == "", "it serves whoever asks the same question later"


def test_a_stored_answer_brings_its_route_along() -> None:
    """Rules changed: the dear answer is judged again, and if it is no good now, the cheap model is not asked."""
    desk = Desk(spec_of(cascade=("dear",)))
    desk.answer(WRONG)
    desk.answer(GOOD)
    strict = replace(desk.spec, judge=replace(JUDGE, rules=(RuleSpec(id="never", require="output.label == 'x'"),)))
    first = desk.view
    desk.view = make_view(make_row(strict), *first.rows(Answer.schema))
    desk.item = take_in(desk.view, make_raw())
    assert desk.stored is not None
    stored = replace(_result(desk.life, GOOD), request_id=desk.stored.request_id, route="dear")
    orders = from_store(desk.view, desk.life, stored, NOW_MS, jobs=CompiledJobs())
    (told,) = carry_out(desk.view, orders)
    assert isinstance(told, Result)
    assert (told.route, told.answered_by, told.cost_nanos) == ("dear", "store", 0)
    assert (desk.life.route, desk.life.lane) == ("dear", "default|gpt-5|/v1/chat/completions|batch")
    (letter,) = carry_out(desk.view, validate(desk.view, told, 3, jobs=CompiledJobs(), now_ms=NOW_MS))
    assert (letter.reason, desk.life.status) == (Reason.RULE_FAILED, Status.FAILED_TERMINAL)


def _result(life: Life, output: str) -> Result:
    """What comes back for the life's next attempt."""
    return answer(make_view(life), life.request_id, output, route=life.route)


@given(
    outputs=st.lists(st.sampled_from([GOOD, UNSURE, WRONG, "no json"]), min_size=1, max_size=8),
    attempts=st.integers(1, 3),
    cascade=st.sampled_from([(), ("dear",), ("middle",), ("middle", "dear"), ("dear", "middle")]),
    on=st.sampled_from([("rejected",), ("unsure",), ("rejected", "unsure")]),
    on_reject=st.sampled_from(["retry", "review", "dead"]),
)
def test_every_life_goes_down_the_cascade_once_and_each_attempt_is_paid_for_on_its_route(
    outputs: list[str], attempts: int, cascade: tuple[str, ...], on: Any, on_reject: Any
) -> None:
    judge, retry = replace(JUDGE, on_reject=on_reject), RetrySpec(max_attempts=attempts)
    desk = Desk(spec_of(judge=judge, retry=retry, cascade=cascade, escalate_on=on))
    prices, walked, paid = {"": 1, "middle": 10, "dear": 100}, [""], 0
    for output in outputs:
        if desk.life.status not in {Status.QUEUED, Status.FAILED_RETRYABLE}:
            break
        paid += prices[desk.life.route]
        _asked(desk, output, prices[desk.life.route])
        if desk.life.route != walked[-1]:
            walked.append(desk.life.route)
    assert tuple(walked[1:]) == cascade[: len(walked) - 1], "it went another way"
    assert desk.life.cost_nanos == paid
    assert desk.life.attempt <= attempts + len(cascade)
    assert desk.life.version == version_of(desk.spec)
    if desk.life.status is Status.VALIDATED:
        assert desk.stored is not None
        assert desk.stored.route == desk.life.route


def _asked(desk: Desk, output: str, nanos: int) -> None:
    """As `Desk.answer`, for money."""
    carry_out(desk.view, due(desk.view, now_ms=NOW_MS + 10**9, limit=9))
    life = desk.life
    sent = step(life, Attempted(chunk_id="c0003-0000000001-aaaaaaaaaaaaaaaa", sends=life.sends + 1), NOW_MS).life
    charge = Charge(cost_nanos=nanos, input_tokens=1, output_tokens=1)
    sha256 = content_sha256(output.encode())
    answered = step(sent, Answered(sends=sent.sends, output_sha256=sha256, charge=charge), NOW_MS).life
    result = _result(life, output)
    desk.view.put(answered)
    desk.offset += 1
    carry_out(desk.view, validate(desk.view, result, desk.offset, jobs=CompiledJobs(), now_ms=NOW_MS))
