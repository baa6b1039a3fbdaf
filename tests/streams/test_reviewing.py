"""People decide about the answer they saw, once, and their corrections are judged like anyone's."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas import codec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import ConfidenceSpec, FunctionSpec, JudgeSpec, ReviewSpec, RuleSpec, ScoringSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Decision, Excluded, Verdict
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Place, Status, VerdictStatus
from batchmill.streams.accounting import Books, origin_key, place_of
from batchmill.streams.checking import NO_FUNCTIONS, CheckFunction
from batchmill.streams.committing import Terms, intend, meet_verdict
from batchmill.streams.compiling import CompiledJobs, compile_job
from batchmill.streams.facts import Recalled
from batchmill.streams.lifecycle import evolve, step
from batchmill.streams.limiting import Share
from batchmill.streams.reviewing import (
    Beside,
    Ruling,
    correction,
    drawn_twice,
    needs_second,
    opinions_of,
    read_opinions,
    review,
    review_beside,
    waiting,
)
from batchmill.streams.sinks import SINKS
from batchmill.streams.unusable import Unusable
from batchmill.streams.validating import validate, validate_beside
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
    """One answer that waits in review, its verdict met at offset 20 unless a test says otherwise."""

    def __init__(
        self,
        *,
        review_spec: ReviewSpec | None = None,
        judge: JudgeSpec | None = None,
        functions: Mapping[str, CheckFunction] = NO_FUNCTIONS,
    ) -> None:
        judge = judge or JudgeSpec(review_sample=1)
        self.spec = make_spec(judge=judge, review=review_spec or ReviewSpec())
        self.view = make_view(make_row(self.spec))
        self.jobs = CompiledJobs(functions)
        self.item = take_in(self.view, make_raw())
        self.result = answer(self.view, self.item.request_id, SEEN)
        self.verdicts = self.judged()
        self.decisions: list[Decision] = []
        assert self.life.status is Status.NEEDS_REVIEW

    def judged(self) -> list[Any]:
        told: dict[str, Any] = {"jobs": self.jobs, "now_ms": NOW_MS}
        said = carry_out(self.view, validate(self.view, self.result, 11, **told))
        if self.life.status is Status.SUCCEEDED_UNVALIDATED:
            said = carry_out(self.view, validate_beside(self.view, self.life, self.result, self.item, **told))
        return said

    @property
    def life(self) -> Life:
        return life_of(self.view, self.item.request_id)

    @property
    def rows(self) -> set[str]:
        return {row.key.partition("/")[0] for row in self.view.rows(Meta.schema)}

    def meet(self, verdict: Verdict, offset: int) -> None:
        carry_out(self.view, meet_verdict(self.view, verdict, offset, NOW_MS))

    def decision(
        self,
        action: str,
        *,
        seen: str = SEEN_SHA256,
        output: str | None = None,
        actor: str = "ada",
        undoes: Decision | None = None,
        until_ms: int | None = None,
    ) -> Decision:
        return Decision(
            id=f"d{len(self.decisions)}",
            request_id=self.item.request_id,
            job="triage",
            action=action,
            output_sha256_seen=seen,
            output_json=output,
            reason="because",
            until_ms=until_ms,
            undoes=None if undoes is None else undoes.id,
            actor=actor,
            decided_at_ms=NOW_MS,
        )

    def decide(self, action: str, **changes: Any) -> list[Any]:
        return self.take(self.decision(action, **changes))

    def take(self, decision: Decision) -> list[Any]:
        """What `decisions` brings; it lies there at the offset that is its number."""
        self.decisions.append(decision)
        offset = len(self.decisions) - 1
        orders = review(self.view, decision, offset, jobs=self.jobs, now_ms=NOW_MS + 1)
        return carry_out(self.view, orders)

    def beside(self, *, item: bool = True, result: bool = True) -> list[Any]:
        """What effect `judge` does about the decisions that wait, one after the other."""
        said: list[Any] = []
        bodies = Beside(item=self.item if item else None, result=self.result if result else None)
        for each in waiting(self.view, 100):
            told = self.decisions[each.offset]
            said += carry_out(
                self.view, review_beside(self.view, each, told, bodies, jobs=self.jobs, now_ms=NOW_MS + 2)
            )
        return said

    @property
    def last(self) -> Decision:
        return self.decisions[-1]


@pytest.fixture
def room() -> Room:
    made = Room()
    made.meet(made.verdicts[0], 20)
    return made


def test_an_accepted_answer_is_validated_where_it_lies(room: Room) -> None:
    assert room.decide(Ruling.ACCEPT) == []
    assert (room.life.status, room.life.verdict_offset, room.life.output_sha256) == (Status.VALIDATED, 20, SEEN_SHA256)


def test_a_declined_answer_is_dead_lettered_with_who_and_why(room: Room) -> None:
    (letter,) = room.decide(Ruling.DECLINE)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.error) == (Reason.DECLINED, "declined by ada: because")
    assert codec.decode(codec.encode(letter), DeadLetter) == letter
    assert room.life.status is Status.FAILED_TERMINAL


def test_a_correction_takes_the_answers_place_after_its_own_judgement(room: Room) -> None:
    (verdict,) = room.decide(Ruling.CORRECT, output='{"label": "smoke", "confidence": 1.0}')
    assert isinstance(verdict, Verdict)
    assert (verdict.output_json, verdict.decided_by) == ('{"confidence":1,"label":"smoke"}', "ada")
    assert verdict.status is VerdictStatus.VALIDATED
    assert room.life.status is Status.VALIDATED
    assert room.life.output_sha256 == verdict.output_sha256 == content_sha256(verdict.output_json.encode())
    assert room.life.verdict_offset is None, "the old body must not be committed under the new hash"
    room.meet(verdict, 21)
    assert room.life.verdict_offset == 21


@pytest.mark.parametrize("output", [None, "", "no json", "[]", '{"label": 5, "confidence": 1}'])
def test_a_correction_that_would_be_rejected_leaves_the_answer_in_review(room: Room, output: str | None) -> None:
    assert room.decide(Ruling.CORRECT, output=output) == []
    assert room.life.status is Status.NEEDS_REVIEW
    assert room.life.reason is not None
    assert room.life.output_sha256 == SEEN_SHA256


@pytest.mark.parametrize("action", list(Ruling))
def test_a_decision_about_another_answer_is_stale(room: Room, action: Ruling) -> None:
    before = room.life
    assert room.decide(action, seen="0" * 64, output='{"label":"x","confidence":1}') == []
    assert room.life == before


def test_the_second_decision_and_the_unknown_one_change_nothing(room: Room) -> None:
    assert room.decide("ponder") == []
    assert room.life.status is Status.NEEDS_REVIEW
    room.decide(Ruling.ACCEPT)
    assert room.decide(Ruling.DECLINE) == []
    assert room.decide(Ruling.CORRECT, output='{"label":"x","confidence":1}') == []
    assert room.life.status is Status.VALIDATED


def test_the_door_can_refuse_a_correction_at_once(room: Room) -> None:
    job = compile_job(room.spec, room.item.version)
    good = correction(job, room.decision(Ruling.CORRECT, output='{"label":"x","confidence":1}'), None)
    assert good.reason is None
    assert correction(job, room.decision(Ruling.CORRECT, output='{"label":1}'), None).reason is Reason.SCHEMA_MISMATCH
    with pytest.raises(Unusable):
        correction(job, room.decision(Ruling.CORRECT, output="{"), None)


# -- defer and undo ----------------------------------------------------------------------------------------------------

SMOKE = '{"confidence":1,"label":"smoke"}'
SMOKE_SHA256 = content_sha256(SMOKE.encode())


def test_what_a_person_accepted_is_held_for_as_long_as_it_can_be_undone() -> None:
    room = Room(review_spec=ReviewSpec(undo_seconds=20))
    room.decide(Ruling.ACCEPT)
    assert room.life.due_at_ms == NOW_MS + 1 + 20_000


def test_a_deferred_answer_waits_on_and_remembers_until_when(room: Room) -> None:
    assert room.decide(Ruling.DEFER, until_ms=NOW_MS + 5_000) == []
    assert (room.life.status, room.life.due_at_ms) == (Status.NEEDS_REVIEW, NOW_MS + 5_000)
    room.decide(Ruling.DEFER)
    assert room.life.due_at_ms == NOW_MS + 5_000, "without an instant it says nothing"
    room.decide(Ruling.ACCEPT)
    assert room.life.status is Status.VALIDATED


def test_an_undone_correction_brings_the_answer_back_that_was_seen(room: Room) -> None:
    (verdict,) = room.decide(Ruling.CORRECT, output=SMOKE)
    room.meet(verdict, 21)
    assert room.life.output_sha256 == SMOKE_SHA256
    assert room.decide(Ruling.UNDO, undoes=room.last) == []
    assert (room.life.status, room.life.output_sha256, room.life.verdict_offset) == (
        Status.NEEDS_REVIEW,
        SEEN_SHA256,
        20,
    )
    room.decide(Ruling.ACCEPT)
    assert (room.life.status, room.life.verdict_offset) == (Status.VALIDATED, 20)


def test_an_undone_decline_waits_in_review_again_and_is_accounted_there(room: Room) -> None:
    (letter,) = room.decide(Ruling.DECLINE)
    books = Books()
    books.came_in([origin_key(letter.origin)])
    assert place_of(room.life) is Place.DEAD_LETTERED
    room.decide(Ruling.UNDO, undoes=room.last)
    assert (room.life.status, room.life.reason, room.life.verdict_offset) == (Status.NEEDS_REVIEW, None, 20)
    books.is_in(origin_key(room.life.origin), place_of(room.life))
    assert books.account().places == {Place.IN_REVIEW: 1}
    assert room.decide(Ruling.DECLINE) == [letter], "the same letter by name: it is one end, told twice"


@pytest.mark.parametrize("action", [Ruling.ACCEPT, Ruling.CORRECT, Ruling.DECLINE])
def test_an_answer_undone_before_its_verdict_was_met_can_still_be_committed(action: Ruling) -> None:
    """The offset of the verdict is known only when the committer meets it, and people may be faster."""
    room = Room()
    room.decide(action, output=SMOKE if action is Ruling.CORRECT else None)
    decided = room.last
    room.meet(room.verdicts[0], 20)
    room.decide(Ruling.UNDO, undoes=decided)
    room.decide(Ruling.ACCEPT)
    assert (room.life.status, room.life.output_sha256, room.life.verdict_offset) == (
        Status.VALIDATED,
        SEEN_SHA256,
        20,
    )


def test_a_verdict_met_after_the_undo_is_met_all_the_same() -> None:
    room = Room()
    (corrected,) = room.decide(Ruling.CORRECT, output=SMOKE)
    room.decide(Ruling.UNDO, undoes=room.last)
    assert (room.life.verdict_offset, room.life.review_offset) == (None, None)
    room.meet(room.verdicts[0], 20)
    room.meet(corrected, 21)
    assert (room.life.verdict_offset, room.life.review_offset) == (20, 20)


def test_an_undo_names_the_decision_in_force_or_changes_nothing(room: Room) -> None:
    room.decide(Ruling.ACCEPT)
    first = room.last
    room.decide(Ruling.UNDO, undoes=first)
    room.decide(Ruling.ACCEPT, actor="bob")
    second = room.last
    before = room.life
    room.decide(Ruling.UNDO, undoes=first)
    room.decide(Ruling.UNDO, undoes=room.last)
    room.decide(Ruling.UNDO)
    assert room.life == before
    room.decide(Ruling.UNDO, undoes=second)
    assert room.life.status is Status.NEEDS_REVIEW
    before = room.life
    room.decide(Ruling.UNDO, undoes=second)
    assert room.life == before


def test_what_is_being_written_downstream_is_not_undone_any_more(room: Room) -> None:
    room.decide(Ruling.ACCEPT)
    accepted = room.last
    room.view.put(evolve(room.life, commit_id="c1"))
    before = room.life
    room.decide(Ruling.UNDO, undoes=accepted)
    assert room.life == before


def test_an_undone_answer_waits_for_the_reason_it_waited_for() -> None:
    room = Room(judge=JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.95)))
    assert room.life.reason is Reason.LOW_CONFIDENCE
    room.decide(Ruling.DECLINE)
    room.decide(Ruling.UNDO, undoes=room.last)
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, Reason.LOW_CONFIDENCE)


def test_what_nobody_waits_for_any_more_ends_instead_of_coming_back(room: Room) -> None:
    room.decide(Ruling.DECLINE)
    declined = room.last
    newer = take_in(room.view, make_raw({"body": "newer"}, offset=8))
    (excluded,) = room.decide(Ruling.UNDO, undoes=declined)
    assert isinstance(excluded, Excluded)
    assert (excluded.reason, excluded.of_request_id) == (Reason.SUPERSEDED, newer.request_id)
    assert room.life.status is Status.FAILED_TERMINAL


# -- two people --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two() -> Room:
    made = Room(review_spec=ReviewSpec(double=1))
    made.meet(made.verdicts[0], 20)
    return made


def test_two_who_say_the_same_decide(two: Room) -> None:
    assert not needs_second(two.view, two.life, two.spec)
    assert two.decide(Ruling.CORRECT, output=SMOKE) == []
    assert two.life.status is Status.NEEDS_REVIEW
    assert needs_second(two.view, two.life, two.spec)
    (opinion,) = opinions_of(two.view, two.life)
    assert (opinion.actor, opinion.action, opinion.output_sha256, opinion.offset) == ("ada", "correct", SMOKE_SHA256, 0)
    (verdict,) = two.decide(Ruling.CORRECT, output=' {"label": "smoke", "confidence": 1.0}', actor="bob")
    assert (two.life.status, two.life.output_sha256, verdict.decided_by) == (Status.VALIDATED, SMOKE_SHA256, "bob")
    assert two.rows == {"decided"}


def test_two_who_differ_leave_it_to_a_third(two: Room) -> None:
    two.decide(Ruling.ACCEPT)
    assert two.decide(Ruling.DECLINE, actor="bob") == []
    assert (two.life.status, two.life.reason) == (Status.NEEDS_REVIEW, Reason.DISAGREEMENT)
    assert not needs_second(two.view, two.life, two.spec)
    two.decide(Ruling.CORRECT, output=SMOKE, actor="cleo")
    assert (two.life.status, two.life.output_sha256) == (Status.VALIDATED, SMOKE_SHA256)


def test_two_corrections_agree_only_in_the_same_answer(two: Room) -> None:
    two.decide(Ruling.CORRECT, output=SMOKE)
    two.decide(Ruling.CORRECT, output='{"label":"steam","confidence":1}', actor="bob")
    assert two.life.reason is Reason.DISAGREEMENT


def test_the_same_person_twice_is_one_opinion_the_later_one(two: Room) -> None:
    two.decide(Ruling.ACCEPT)
    two.decide(Ruling.DECLINE)
    assert [each.action for each in opinions_of(two.view, two.life)] == ["decline"]
    two.decide(Ruling.ACCEPT, actor="bob")
    assert two.life.reason is Reason.DISAGREEMENT
    two.decide(Ruling.ACCEPT)
    assert two.life.status is Status.VALIDATED, "by now they say the same"


def test_a_withdrawn_opinion_counts_no_more(two: Room) -> None:
    two.decide(Ruling.ACCEPT)
    two.decide(Ruling.DECLINE, actor="bob")
    two.decide(Ruling.UNDO, undoes=two.last, actor="bob")
    assert (two.life.status, two.life.reason) == (Status.NEEDS_REVIEW, None)
    assert [each.actor for each in opinions_of(two.view, two.life)] == ["ada"]
    two.decide(Ruling.UNDO, undoes=two.decisions[0])
    assert two.rows == set()


def test_an_undone_agreement_leaves_the_first_opinion_where_it_was(two: Room) -> None:
    two.decide(Ruling.ACCEPT)
    two.decide(Ruling.ACCEPT, actor="bob")
    two.decide(Ruling.UNDO, undoes=two.last)
    assert two.life.status is Status.NEEDS_REVIEW
    assert [each.actor for each in opinions_of(two.view, two.life)] == ["ada"]
    assert needs_second(two.view, two.life, two.spec)
    two.decide(Ruling.ACCEPT, actor="cleo")
    assert two.life.status is Status.VALIDATED


def test_putting_off_is_no_opinion(two: Room) -> None:
    two.decide(Ruling.DEFER, until_ms=NOW_MS + 5)
    assert two.rows == set()


def test_an_opinion_on_an_answer_that_is_gone_is_none(two: Room) -> None:
    two.decide(Ruling.ACCEPT)
    two.view.put(evolve(two.life, output_sha256=SMOKE_SHA256, review_sha256=SMOKE_SHA256))
    assert opinions_of(two.view, two.life) == ()
    two.decide(Ruling.ACCEPT, actor="bob", seen=SMOKE_SHA256)
    assert two.life.status is Status.NEEDS_REVIEW


def test_a_reader_of_the_row_sees_the_same_opinions(two: Room) -> None:
    two.decide(Ruling.DECLINE)
    (row,) = two.view.rows(Meta.schema)
    assert isinstance(row, Meta)
    assert row.name == f"opinion/{two.item.request_id}"
    assert read_opinions(row.value_json) == opinions_of(two.view, two.life)


@given(st.sampled_from([0.0, 0.25, 1.0]), st.text("abcdefg", min_size=32, max_size=32))
def test_who_is_decided_twice_is_the_same_everywhere(share: float, request_id: str) -> None:
    spec = make_spec(review=ReviewSpec(double=share))
    drawn = drawn_twice(request_id, spec)
    assert drawn == drawn_twice(request_id, spec)
    assert drawn or share < 1
    assert not drawn or share > 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ada", "bob", "cleo"]),
            st.sampled_from([Ruling.ACCEPT, Ruling.CORRECT, Ruling.DECLINE, Ruling.UNDO, Ruling.DEFER]),
            st.integers(0, 6),
        ),
        max_size=8,
    )
)
def test_nothing_is_carried_out_unless_two_agree_or_a_third_has_spoken(said: list[tuple[str, Ruling, int]]) -> None:
    """Told by a list of who says what just now, against the rows."""
    room = Room(review_spec=ReviewSpec(double=1))
    says: dict[str, tuple[str, Decision]] = {}
    in_force: Decision | None = None
    for actor, action, number in said:
        undoes = room.decisions[number] if number < len(room.decisions) else None
        room.decide(action, actor=actor, output=SMOKE, until_ms=NOW_MS, undoes=undoes)
        if action is Ruling.UNDO and undoes is not None:
            if undoes is in_force:
                in_force = None
            elif in_force is None:
                says = {who: told for who, told in says.items() if told[1] is not undoes}
        elif action in {Ruling.ACCEPT, Ruling.CORRECT, Ruling.DECLINE} and in_force is None:
            others = {who: told for who, told in says.items() if who != actor}
            agreed = any(told[0] == action for told in others.values())
            if len(others) > 1 or agreed:
                in_force, says = room.last, others
            else:
                says = others | {actor: (action, room.last)}
        assert (room.life.status is Status.NEEDS_REVIEW) == (in_force is None)
        if in_force is None:
            assert {each.actor for each in opinions_of(room.view, room.life)} == set(says)
            assert room.life.output_sha256 == SEEN_SHA256
            assert (room.life.reason is Reason.DISAGREEMENT) == (len(says) == 2)


# -- beside the input --------------------------------------------------------------------------------------------------

OCCURS = RuleSpec(id="occurs", require="input.body.contains(output.label)")


@pytest.fixture
def ruled() -> Room:
    """Corrections are judged by a rule over output and input; the input speaks of fire."""
    made = Room(judge=JudgeSpec(review_sample=1, rules=(OCCURS,)))
    made.meet(made.verdicts[0], 20)
    return made


def test_a_correction_is_judged_by_the_rules_that_the_answer_was_judged_by(ruled: Room) -> None:
    printer = '{"confidence":1,"label":"printer"}'
    assert ruled.decide(Ruling.CORRECT, output=printer) == []
    assert ruled.life.status is Status.NEEDS_REVIEW, "nobody has read the input yet"
    (verdict,) = ruled.beside()
    assert (verdict.output_json, verdict.decided_by) == (printer, "ada")
    assert (ruled.life.status, ruled.life.due_at_ms) == (Status.VALIDATED, NOW_MS + 2 + 15_000)
    assert ruled.rows == {"decided"}


def test_a_correction_that_breaks_a_rule_leaves_the_answer_in_review(ruled: Room) -> None:
    ruled.decide(Ruling.CORRECT, output=SMOKE)
    assert ruled.beside() == []
    assert (ruled.life.status, ruled.life.reason, ruled.life.output_sha256) == (
        Status.NEEDS_REVIEW,
        Reason.RULE_FAILED,
        SEEN_SHA256,
    )
    assert ruled.rows == set()


def test_an_undo_waits_behind_the_correction_it_takes_back(ruled: Room) -> None:
    ruled.decide(Ruling.CORRECT, output='{"confidence":1,"label":"printer"}')
    ruled.decide(Ruling.UNDO, undoes=ruled.last)
    assert len(waiting(ruled.view, 10)) == 2
    ruled.beside()
    assert (ruled.life.status, ruled.life.output_sha256) == (Status.NEEDS_REVIEW, SEEN_SHA256)


def test_a_correction_whose_input_is_gone_says_so(ruled: Room) -> None:
    ruled.decide(Ruling.CORRECT, output=SMOKE)
    assert ruled.beside(item=False) == []
    assert (ruled.life.status, ruled.life.reason) == (Status.NEEDS_REVIEW, Reason.BODY_GONE)
    ruled.decide(Ruling.ACCEPT)
    assert ruled.life.status is Status.VALIDATED, "to accept it nothing has to be read"


def test_a_stale_correction_is_not_read_for(ruled: Room) -> None:
    ruled.decide(Ruling.CORRECT, output=SMOKE, seen="0" * 64)
    assert waiting(ruled.view, 10) == []


def test_the_bodies_of_another_request_are_never_judged_beside(ruled: Room) -> None:
    ruled.decide(Ruling.CORRECT, output=SMOKE)
    (asked,) = waiting(ruled.view, 1)
    told: dict[str, Any] = {"jobs": CompiledJobs(), "now_ms": NOW_MS}
    other = replace(ruled.item, request_id="b" * 32)
    with pytest.raises(AssertionError, match="in vain"):
        review_beside(ruled.view, asked, ruled.last, Beside(item=other, result=None), **told)
    stranger = replace(ruled.last, request_id="b" * 32)
    with pytest.raises(AssertionError, match="another request"):
        review_beside(ruled.view, asked, stranger, Beside(item=ruled.item, result=None), **told)


# -- scores ------------------------------------------------------------------------------------------------------------

SCORING = ScoringSpec(job="second", agree="score.label == output.label")


def scored_room(**judge: Any) -> Room:
    made = Room(judge=JudgeSpec(scoring=SCORING, **judge))
    assert made.life.reason is Reason.AWAITING_SCORE
    made.meet(made.verdicts[0], 20)
    return made


def score(room: Room, label: str, **changes: Any) -> list[Any]:
    told = {"output": f'{{"label":"{label}"}}', "actor": "job:second"} | changes
    room.decide(Ruling.SCORE, **told)
    return room.beside()


def test_a_score_that_agrees_lets_the_answer_pass_at_once() -> None:
    room = scored_room()
    (verdict,) = score(room, "fire")
    assert (verdict.status, verdict.decided_by, verdict.output_json) == (VerdictStatus.VALIDATED, "job:second", SEEN)
    assert verdict.checks[-1].passed
    assert (room.life.status, room.life.due_at_ms, room.life.reason) == (Status.VALIDATED, None, None)
    room.meet(verdict, 21)
    terms = Terms(sinks=SINKS, share=Share(0, 1))
    assert [life.request_id for life in intend(room.view, room.jobs, terms, now_ms=NOW_MS + 3, limit=9).lives] == [
        room.item.request_id
    ]


def test_a_score_that_disagrees_sends_it_to_a_person_and_is_on_record() -> None:
    room = scored_room()
    (verdict,) = score(room, "flood")
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, Reason.DISAGREEMENT)
    assert (verdict.status, verdict.checks[-1].passed) == (VerdictStatus.NEEDS_REVIEW, False)
    room.meet(verdict, 21)
    room.decide(Ruling.ACCEPT)
    assert (room.life.status, room.life.verdict_offset) == (Status.VALIDATED, 21)


def test_an_answer_drawn_for_a_person_is_seen_by_one_whatever_the_score() -> None:
    room = scored_room(review_sample=1)
    score(room, "fire")
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, None)


def test_an_answer_that_is_rejected_when_it_is_judged_again_does_not_pass_by_its_score() -> None:
    said = iter([True, False])
    fickle = FunctionSpec(id="fickle", name="fickle", sha256="0" * 64, params_json="{}")
    installed = {"fickle": CheckFunction(call=lambda *_: next(said), sha256="0" * 64)}
    room = Room(judge=JudgeSpec(scoring=SCORING, functions=(fickle,)), functions=installed)
    assert room.life.reason is Reason.AWAITING_SCORE
    (verdict,) = score(room, "fire")
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, Reason.RULE_FAILED)
    assert [check.passed for check in verdict.checks if check.id in {"fickle", "score"}] == [False, True]


@pytest.mark.parametrize(
    "changes",
    [{"seen": "0" * 64}, {"actor": "job:other"}, {"actor": "ada"}],
    ids=["of an older answer", "by a job that was not asked", "by a person"],
)
def test_a_score_that_was_not_asked_for_changes_nothing(changes: dict[str, Any]) -> None:
    room = scored_room()
    before = room.life
    assert score(room, "fire", **changes) == []
    assert room.life == before


def test_a_person_may_decide_before_the_score_and_then_it_is_stale() -> None:
    room = scored_room()
    room.decide(Ruling.DECLINE)
    before = room.life
    assert score(room, "fire") == []
    assert room.life == before
    room.decide(Ruling.UNDO, undoes=room.decisions[0])
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, None)
    assert score(room, "fire") == []
    assert room.life.status is Status.NEEDS_REVIEW, "a person has it in hand"


def test_an_undone_correction_leaves_the_confidence_of_the_answer() -> None:
    room = Room(judge=JudgeSpec(review_sample=1, confidence=ConfidenceSpec(field="confidence", review_below=0.1)))
    assert room.life.confidence == 0.9
    room.decide(Ruling.CORRECT, output='{"confidence":1,"label":"smoke"}')
    assert room.life.confidence == 1
    room.decide(Ruling.UNDO, undoes=room.last)
    assert (room.life.output_sha256, room.life.confidence) == (SEEN_SHA256, 0.9)


def test_a_score_does_not_overrule_an_opinion() -> None:
    room = Room(judge=JudgeSpec(scoring=SCORING), review_spec=ReviewSpec(double=1))
    room.decide(Ruling.DECLINE)
    score(room, "fire")
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, None)
    assert [each.actor for each in opinions_of(room.view, room.life)] == ["ada"]


@pytest.mark.parametrize("gone", ["item", "result"])
def test_a_score_without_the_bodies_it_is_about_leaves_it_to_a_person(gone: str) -> None:
    room = scored_room()
    room.decide(Ruling.SCORE, output='{"label":"fire"}', actor="job:second")
    assert room.beside(**{gone: False}) == []
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, Reason.BODY_GONE)


def test_a_score_that_cannot_be_read_leaves_it_to_a_person() -> None:
    room = scored_room()
    assert score(room, "fire", output="{") == []
    assert (room.life.status, room.life.reason) == (Status.NEEDS_REVIEW, Reason.UNDECODABLE)


def test_what_a_score_let_pass_is_not_undone_in_the_name_of_an_earlier_decision() -> None:
    room = scored_room()
    room.decide(Ruling.ACCEPT)
    accepted = room.last
    room.view.put(evolve(room.life, status=Status.NEEDS_REVIEW, reason=Reason.AWAITING_SCORE))
    score(room, "fire")
    before = room.life
    assert before.status is Status.VALIDATED
    room.decide(Ruling.UNDO, undoes=accepted)
    assert room.life == before


def test_what_was_written_once_is_not_undone_when_it_is_recalled(room: Room) -> None:
    room.decide(Ruling.ACCEPT)
    accepted = room.last
    written = evolve(room.life, status=Status.COMMITTED, commit_id="c1")
    room.view.put(step(written, Recalled(), NOW_MS).life)
    before = room.life
    assert (before.status, before.commit_id) == (Status.VALIDATED, None)
    room.decide(Ruling.UNDO, undoes=accepted)
    assert room.life == before
