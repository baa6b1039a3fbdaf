"""People decide about the answer they saw, once, and their corrections are judged like anyone's."""

from typing import Any

import pytest

from batchmill.schemas import codec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import JudgeSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Decision, Verdict
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams.committing import meet_verdict
from batchmill.streams.compiling import CompiledJobs, compile_job
from batchmill.streams.reviewing import Ruling, correction, review
from batchmill.streams.unusable import Unusable
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

SEEN = '{"confidence":0.9,"label":"fire"}'
SEEN_SHA256 = content_sha256(SEEN.encode())


class Room:
    """One answer that waits in review, its verdict met at offset 20."""

    def __init__(self) -> None:
        self.spec = make_spec(judge=JudgeSpec(review_sample=1))
        self.view = make_view(make_row(self.spec))
        self.item = take_in(self.view, make_raw())
        result = answer(self.view, self.item.request_id, SEEN)
        (verdict,) = carry_out(self.view, validate(self.view, result, 11, jobs=CompiledJobs(), now_ms=NOW_MS))
        carry_out(self.view, meet_verdict(self.view, verdict, 20, NOW_MS))
        assert self.life.status is Status.NEEDS_REVIEW

    @property
    def life(self) -> Life:
        return life_of(self.view, self.item.request_id)

    def decision(self, action: str, *, seen: str = SEEN_SHA256, output: str | None = None) -> Decision:
        return Decision(
            id="d1",
            request_id=self.item.request_id,
            job="triage",
            action=action,
            output_sha256_seen=seen,
            output_json=output,
            reason="because",
            actor="ada",
            decided_at_ms=NOW_MS,
        )

    def decide(self, action: str, **changes: Any) -> list[Any]:
        decision = self.decision(action, **changes)
        return carry_out(self.view, review(self.view, decision, jobs=CompiledJobs(), now_ms=NOW_MS + 1))


def test_an_accepted_answer_is_validated_where_it_lies() -> None:
    room = Room()
    assert room.decide(Ruling.ACCEPT) == []
    assert (room.life.status, room.life.verdict_offset, room.life.output_sha256) == (Status.VALIDATED, 20, SEEN_SHA256)


def test_a_declined_answer_is_dead_lettered_with_who_and_why() -> None:
    room = Room()
    (letter,) = room.decide(Ruling.DECLINE)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.error) == (Reason.DECLINED, "declined by ada: because")
    assert codec.decode(codec.encode(letter), DeadLetter) == letter
    assert room.life.status is Status.FAILED_TERMINAL


def test_a_correction_takes_the_answers_place_after_its_own_judgement() -> None:
    room = Room()
    (verdict,) = room.decide(Ruling.CORRECT, output='{"label": "smoke", "confidence": 1.0}')
    assert isinstance(verdict, Verdict)
    assert (verdict.output_json, verdict.decided_by) == ('{"confidence":1,"label":"smoke"}', "ada")
    assert verdict.status is VerdictStatus.VALIDATED
    assert room.life.status is Status.VALIDATED
    assert room.life.output_sha256 == verdict.output_sha256 == content_sha256(verdict.output_json.encode())
    assert room.life.verdict_offset is None, "the old body must not be committed under the new hash"
    carry_out(room.view, meet_verdict(room.view, verdict, 21, NOW_MS))
    assert room.life.verdict_offset == 21


@pytest.mark.parametrize("output", [None, "", "no json", "[]", '{"label": 5, "confidence": 1}'])
def test_a_correction_that_would_be_rejected_leaves_the_answer_in_review(output: str | None) -> None:
    room = Room()
    assert room.decide(Ruling.CORRECT, output=output) == []
    assert room.life.status is Status.NEEDS_REVIEW
    assert room.life.reason is not None
    assert room.life.output_sha256 == SEEN_SHA256


@pytest.mark.parametrize("action", list(Ruling))
def test_a_decision_about_another_answer_is_stale(action: Ruling) -> None:
    room = Room()
    before = room.life
    assert room.decide(action, seen="0" * 64, output='{"label":"x","confidence":1}') == []
    assert room.life == before


def test_the_second_decision_and_the_unknown_one_change_nothing() -> None:
    room = Room()
    assert room.decide("postpone") == []
    assert room.life.status is Status.NEEDS_REVIEW
    room.decide(Ruling.ACCEPT)
    assert room.decide(Ruling.DECLINE) == []
    assert room.decide(Ruling.CORRECT, output='{"label":"x","confidence":1}') == []
    assert room.life.status is Status.VALIDATED


def test_the_door_can_refuse_a_correction_at_once() -> None:
    room = Room()
    job = compile_job(room.spec, room.item.version)
    good = correction(job, room.decision(Ruling.CORRECT, output='{"label":"x","confidence":1}'))
    assert good.reason is None
    assert correction(job, room.decision(Ruling.CORRECT, output='{"label":1}')).reason is Reason.SCHEMA_MISMATCH
    with pytest.raises(Unusable):
        correction(job, room.decision(Ruling.CORRECT, output="{"))
