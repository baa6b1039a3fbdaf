"""A question is paid for once: whoever has it too waits for the answer, is answered by it, or asks in its turn."""

import json
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.asking import NearSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Result, Verdict
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import redrive
from batchmill.streams.facts import Cancelled, Refused
from batchmill.streams.following import FOLLOWERS_MAX, walk
from batchmill.streams.orders import Wake
from batchmill.streams.queueing import from_store
from batchmill.streams.settling import moved
from batchmill.streams.validating import validate
from tests.streams.making import NOW_MS, answer, carry_out, life_of, make_raw, make_row, make_spec, make_view, take_in


class Task:
    """One task whose provider answers when the test says so."""

    def __init__(self, **changes: object) -> None:
        self.view = make_view(make_row(make_spec(**{"dedupe": "content"} | changes)))
        self.results: list[Result] = []
        self.paid: list[str] = []  #: ask keys
        self.records: list[object] = []
        self._jobs = CompiledJobs()
        self._offsets = count()

    def event(self, source: str, text: str) -> Life:
        offset = next(self._offsets)
        item = take_in(self.view, make_raw({"body": text}, key=source.encode(), offset=offset), offset=offset)
        return life_of(self.view, item.request_id)

    def now(self, life: Life) -> Life:
        return life_of(self.view, life.request_id)

    def waiting(self) -> list[Life]:
        return [row for _, row in self.view.scan("queue", "", limit=1_000) if isinstance(row, Life)]

    def answered(self, life: Life, output: str | None = None) -> None:
        """The provider answers a life that was sent."""
        self.paid.append(life.ask_key)
        told = output or json.dumps({"label": life.ask_key, "confidence": 0.9})
        self._judged(answer(self.view, life.request_id, told))

    def refused(self, life: Life) -> None:
        self.view.put(moved(self.now(life), Refused(reason=Reason.TOO_LARGE_FOR_PROVIDER), NOW_MS))

    def settled(self) -> None:
        """The effect `stored`, until it rests."""
        after, quiet = None, False
        while not quiet:
            step = walk(self.view, after, NOW_MS)
            carry_out(self.view, step.orders)
            after = step.after
            lives = [row for _, row in self.view.scan("stored", "", limit=1_000) if isinstance(row, Life)]
            for life in lives:
                self._read_again(life)
            quiet = not lives and not step.orders and after is None

    def _read_again(self, life: Life) -> None:
        at = life.result_offset
        stored = self.results[at] if at is not None and at < len(self.results) else None
        for record in carry_out(self.view, from_store(self.view, life, stored, NOW_MS, jobs=self._jobs)):
            if isinstance(record, Result):
                self._judged(record)

    def _judged(self, result: Result) -> None:
        self.results.append(result)
        orders = validate(self.view, result, len(self.results) - 1, jobs=self._jobs, now_ms=NOW_MS)
        self.records += [result, *carry_out(self.view, orders)]

    def verdict(self, life: Life) -> Verdict:
        return next(each for each in self.records if isinstance(each, Verdict) and each.request_id == life.request_id)


def test_the_second_to_ask_waits_and_is_answered_with_the_first_at_no_cost() -> None:
    task = Task()
    first, second = task.event("a", "fire"), task.event("b", "fire")
    assert [life.request_id for life in task.waiting()] == [first.request_id]
    assert second.follows == first.request_id
    task.answered(first)
    task.settled()
    after = task.now(second)
    assert (after.status, after.cost_nanos, after.sends) == (Status.VALIDATED, 0, 0)
    copied = task.results[-1]
    assert (copied.answered_by, copied.of_request_id, copied.cost_nanos) == ("store", first.request_id, 0)
    assert copied.similarity is None


def test_nobody_follows_a_follower() -> None:
    task = Task()
    first = task.event("a", "fire")
    assert {task.event(source, "fire").follows for source in "bcd"} == {first.request_id}


def test_another_question_is_not_waited_for() -> None:
    task = Task()
    task.event("a", "fire")
    assert task.event("b", "fire!").follows is None
    assert len(task.waiting()) == 2


def test_by_source_two_sources_with_one_text_ask_two_questions() -> None:
    task = Task(dedupe="source")
    assert task.event("a", "fire").ask_key != task.event("b", "fire").ask_key
    assert len(task.waiting()) == 2


def test_when_the_one_that_asks_ends_without_an_answer_the_next_asks_and_the_others_follow_it() -> None:
    task = Task()
    first, *others = (task.event(source, "fire") for source in "abcd")
    task.refused(first)
    task.settled()
    (leads,) = task.waiting()
    assert leads.request_id in {life.request_id for life in others}
    rest = [task.now(life).follows for life in others if life.request_id != leads.request_id]
    assert rest == [leads.request_id] * 2


def test_a_follower_is_cancelled_as_every_queued_life_is() -> None:
    task = Task()
    first, second = task.event("a", "fire"), task.event("b", "fire")
    task.view.put(moved(task.now(second), Cancelled(), NOW_MS))
    task.answered(first)
    task.settled()
    assert task.now(second).reason is Reason.CANCELLED
    assert task.now(second).follows is None


def test_one_that_is_brought_back_waits_for_whoever_asks_by_then() -> None:
    task = Task()
    first = task.event("a", "fire")
    task.refused(first)
    second = task.event("b", "fire")
    assert second.follows is None
    carry_out(task.view, redrive(task.view, first.request_id, now_ms=NOW_MS))
    assert task.now(first).follows == second.request_id
    task.answered(second)
    task.settled()
    assert task.now(first).status is Status.VALIDATED


def test_an_answer_that_retention_removed_is_forgotten_and_one_of_many_asks_for_all() -> None:
    task = Task()
    first = task.event("a", "fire")
    task.answered(first)
    task.results.clear()
    others = [task.event(source, "fire") for source in "bcd"]
    assert all(life.result_offset is not None for life in others)
    task.settled()
    assert task.view.get(Answer.schema, first.ask_key) is None
    assert len(task.waiting()) == 1


def test_an_answer_that_its_own_version_refused_does_not_go_round() -> None:
    task = Task()
    first, second = task.event("a", "fire"), task.event("b", "fire")
    task.answered(first, '{"label": "x", "confidence": "high"}')  # not in the schema: it is not kept
    task.settled()
    assert task.now(first).status is Status.FAILED_RETRYABLE
    assert task.now(second).follows == first.request_id, "it waits for the next attempt"
    assert task.waiting() == []


def test_a_leader_with_many_followers_is_left_in_bounded_steps() -> None:
    task = Task()
    first = task.event("a", "fire")
    for number in range(FOLLOWERS_MAX + 5):
        follower = replace(first, request_id=f"{number:032d}", source_id=str(number), follows=first.request_id)
        task.view.put(follower)
    task.answered(first)
    step = walk(task.view, None, NOW_MS)
    assert len([order for order in step.orders if not isinstance(order, Wake)]) == FOLLOWERS_MAX
    carry_out(task.view, step.orders)
    rest = walk(task.view, step.after, NOW_MS)
    assert len([order for order in rest.orders if not isinstance(order, Wake)]) == 5
    carry_out(task.view, rest.orders)
    assert walk(task.view, None, NOW_MS).orders == []


acts = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(0, 5), st.integers(0, 2)),
        st.tuples(st.just("answered"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("refused"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("settled"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(acts)
def test_whatever_the_order_each_question_is_paid_once_every_follower_ends_and_none_gets_anothers_answer(told) -> None:
    task = Task()
    for act, one, two in told:
        waiting = task.waiting()
        if act == "event":
            task.event(f"s{one}", f"text {two}")
        elif act == "settled":
            task.settled()
        elif waiting:
            getattr(task, act)(waiting[one % len(waiting)])
        asking = [life.ask_key for life in task.waiting()]
        assert len(set(asking)) == len(asking), "one question waits to be sent twice"
    task.settled()
    while waiting := task.waiting():
        task.answered(waiting[0])
        task.settled()
    lives = [row for row in task.view.rows(Life.schema) if isinstance(row, Life)]
    assert {life.status for life in lives} <= {Status.VALIDATED, Status.FAILED_TERMINAL}
    assert len(set(task.paid)) == len(task.paid), "paid twice"
    for life in lives:
        if life.status is Status.VALIDATED:
            assert json.loads(task.verdict(life).output_json)["label"] == life.ask_key


# -- nearly the same ---------------------------------------------------------------------------------------------------


def near(threshold: float = 0.8) -> Task:
    return Task(dedupe="near", near=NearSpec(threshold=threshold, shingle=1))


LONG = " ".join(f"word{number}" for number in range(120))


def test_one_that_is_nearly_the_same_takes_the_answer_and_says_so() -> None:
    task = near()
    first, second = task.event("a", LONG), task.event("b", f"{LONG} please")
    assert first.ask_key != second.ask_key
    assert second.follows == first.request_id
    task.answered(first)
    task.settled()
    copied = task.results[-1]
    assert (copied.request_id, copied.answered_by, copied.cost_nanos) == (second.request_id, "near", 0)
    assert copied.of_request_id == first.request_id
    assert copied.similarity is not None
    assert copied.similarity >= 0.8
    (mark,) = [check for check in task.verdict(second).checks if check.id == "derived"]
    assert (mark.severity, mark.passed) == ("warn", True)
    assert first.request_id in (mark.note or "")
    assert not any(check.id == "derived" for check in task.verdict(first).checks)


def test_a_derived_answer_is_stored_for_nobody_and_followed_by_nobody() -> None:
    task = near()
    first, second = task.event("a", LONG), task.event("b", f"{LONG} please")
    task.answered(first)
    task.settled()
    assert task.view.get(Answer.schema, second.ask_key) is None
    third = task.event("c", f"{LONG} please")
    assert third.follows == first.request_id
    assert third.result_offset is not None


def test_what_is_not_alike_enough_is_asked_for_itself() -> None:
    task = near()
    task.event("a", LONG)
    assert task.event("b", " ".join(LONG.split()[:30])).follows is None
    assert task.event("c", "something else").follows is None


def test_when_the_one_that_is_nearly_the_same_fails_its_follower_asks_its_own_question() -> None:
    task = near()
    first, second = task.event("a", LONG), task.event("b", f"{LONG} please")
    task.refused(first)
    task.settled()
    assert [life.request_id for life in task.waiting()] == [second.request_id]


@pytest.mark.parametrize("dedupe", ["source", "content"])
def test_without_the_wish_nothing_is_compared(dedupe: str) -> None:
    task = Task(dedupe=dedupe)
    task.event("a", LONG)
    second = task.event("b", f"{LONG} please")
    assert (second.near_key, second.follows) == (None, None)
