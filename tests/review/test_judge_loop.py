"""The effect `judge`: answers and corrections are judged beside their inputs, once, whatever happens in between."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from batchmill.agents.runtime import PoisonEffectError
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.judge import JudgeLoop
from batchmill.agents.stages.kit import LogSlowError
from batchmill.agents.stages.reviewer import Reviewer
from batchmill.agents.stages.validator import Validator
from batchmill.schemas import codec
from batchmill.schemas.jobs import JobSpec, JudgeSpec, RuleSpec, ScoringSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Decision, RawEvent, Result, Verdict, WorkItem
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Status
from tests.review.stage import MemoryLog, MemoryTask, a_kit, slice_of
from tests.streams.making import NOW_MS, answer, life_of, make_raw, make_row, make_spec, take_in

OCCURS = RuleSpec(id="occurs", require="input.body.contains(output.label)")
RULED = JudgeSpec(rules=(OCCURS,), on_reject="dead")


class DiedError(Exception):
    """The worker was killed."""


class Bench:
    """A task whose events are answered, and the log in which answers, inputs and decisions lie."""

    def __init__(self, spec: JobSpec, *, step_rows: int = 2) -> None:
        self.log = MemoryLog()
        self.task = MemoryTask(make_row(spec))
        self.refused: list[Result] = []
        kit = a_kit(self.log)
        self.validator = Validator(kit=kit, refused=self.refused.append)
        self.reviewer = Reviewer(kit=kit)
        effects = EffectSettings(idle_seconds=0.01, step_rows=step_rows)
        self.loop = JudgeLoop(kit=kit, refused=self.refused.append, effects=effects)
        self.items: list[WorkItem] = []
        self.results: list[Result] = []

    def event(self, label: str) -> str:
        """An event about a fire, answered with `label`; its request id."""
        number = len(self.items)
        raw = make_raw({"body": f"fire {number}"}, offset=number)
        item = take_in(self.task.view, replace(raw, key=f"s{number}".encode()), offset=number)
        self.items.append(item)
        self.log.add("t.normalized.v1", number, codec.encode(item))
        text = f'{{"label":"{label}","confidence":1}}'
        self.results.append(answer(self.task.view, item.request_id, text))
        self.log.add("t.results.v1", number, codec.encode(self.results[-1]))
        return item.request_id

    def slice(self) -> None:
        """The validator's slice over all results."""
        self.validator.on_slice(self.task, slice_of("t.results.v1", *map(codec.encode, self.results)))

    def decide(self, *decisions: Decision) -> None:
        for offset, each in enumerate(decisions):
            self.log.add("t.decisions.v1", offset, codec.encode(each))
        self.reviewer.on_slice(self.task, slice_of("t.decisions.v1", *map(codec.encode, decisions)))

    def run(self, until: Callable[[], bool]) -> None:
        async def work() -> None:
            running = asyncio.create_task(self.loop.run(self.task))
            while not until() and not running.done():
                await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.result()

        asyncio.run(work())

    def life(self, name: str) -> Life:
        return life_of(self.task.view, name)

    def over(self) -> bool:
        return not self.task.view.scan("judge", "", limit=1) and not self.task.view.scan("correction", "", limit=1)

    def said(self, kind: type) -> list[object]:
        return [each for each in self.task.records if isinstance(each, kind)]


def a_decision(name: str, bench: Bench, action: str, output: str | None = None, undoes: str | None = None) -> Decision:
    return Decision(
        id=f"{action}-1",
        request_id=name,
        job="triage",
        action=action,
        output_sha256_seen=bench.life(name).output_sha256 or "",
        output_json=output,
        reason=None,
        undoes=undoes,
        actor="ada",
        decided_at_ms=NOW_MS,
    )


def test_a_job_whose_judge_reads_no_input_is_judged_in_the_slice() -> None:
    bench = Bench(make_spec())
    name = bench.event("fire")
    bench.slice()
    assert bench.life(name).status is Status.VALIDATED
    assert "judge" not in bench.task.woken


def test_answers_are_judged_beside_their_own_inputs_cut_by_cut() -> None:
    bench = Bench(make_spec(judge=RULED))
    names = [bench.event("fire" if number % 2 else "flood") for number in range(5)]
    bench.slice()
    assert bench.task.woken.count("judge") == 5
    assert bench.said(Verdict) == []
    bench.run(bench.over)
    passed, dead = Status.VALIDATED, Status.FAILED_TERMINAL
    assert [bench.life(name).status for name in names] == [dead, passed, dead, passed, dead]
    assert [result.request_id for result in bench.refused] == [names[0], names[2], names[4]], "each counted once"
    assert len(bench.said(Verdict)) == 2
    assert all(letter.checks for letter in bench.said(DeadLetter) if isinstance(letter, DeadLetter))


def test_a_worker_that_dies_before_the_bodies_are_read_leaves_rows_that_wait() -> None:
    bench = Bench(make_spec(judge=RULED))
    name = bench.event("flood")
    bench.slice()

    def dies(where: str) -> None:
        if where == "effect judge":
            raise DiedError

    bench.task.at_wait = dies
    with pytest.raises(DiedError):
        bench.run(bench.over)
    assert (bench.life(name).status, bench.refused) == (Status.SUCCEEDED_UNVALIDATED, [])
    bench.task.at_wait = lambda _: None
    bench.run(bench.over)
    assert (bench.life(name).status, len(bench.refused)) == (Status.FAILED_TERMINAL, 1)


def test_a_log_that_is_slow_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(make_spec(judge=RULED))
    name = bench.event("fire")
    bench.slice()
    right, tries = bench.log.read, 0

    async def slow(*told: object) -> object:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise LogSlowError
        return await right(*told)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.log, "read", slow)
    bench.run(bench.over)
    assert bench.life(name).status is Status.VALIDATED
    assert bench.task.rests >= 1


@pytest.mark.parametrize("topic", ["t.results.v1", "t.normalized.v1"])
def test_a_body_that_is_gone_ends_its_own_life_and_no_other(topic: str) -> None:
    bench = Bench(make_spec(judge=RULED))
    first, second = bench.event("fire"), bench.event("fire")
    bench.slice()
    del bench.log.records[topic, 0]
    bench.run(bench.over)
    assert (bench.life(first).reason, bench.life(second).status) == (Reason.BODY_GONE, Status.VALIDATED)
    (letter,) = bench.said(DeadLetter)
    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.BODY_GONE


def test_an_answer_that_kills_workers_is_given_up_alone() -> None:
    bench = Bench(make_spec(judge=RULED))
    first, second = sorted([bench.event("fire"), bench.event("fire")])
    bench.slice()
    bench.task.guard.one_at_a_time = True
    condemned = iter([PoisonEffectError("judge", first, 3)])

    def tried(where: str) -> None:
        if where == "effect judge" and (error := next(condemned, None)) is not None:
            raise error

    bench.task.at_wait = tried
    bench.run(bench.over)
    assert (bench.life(first).reason, bench.life(second).status) == (Reason.POISON, Status.VALIDATED)


def test_a_correction_and_what_came_after_it_are_carried_out_in_their_order() -> None:
    bench = Bench(make_spec(judge=replace(RULED, review_sample=1)))
    name = bench.event("fire")
    bench.slice()
    bench.run(bench.over)
    assert bench.life(name).status is Status.NEEDS_REVIEW
    bench.decide(
        a_decision(name, bench, "correct", '{"label":"flood","confidence":1}'),
        a_decision(name, bench, "accept"),
        a_decision(name, bench, "undo", undoes="accept-1"),
    )
    assert bench.life(name).status is Status.NEEDS_REVIEW, "all of them wait"
    bench.run(bench.over)
    assert (bench.life(name).status, bench.life(name).reason) == (Status.NEEDS_REVIEW, Reason.RULE_FAILED)
    assert bench.task.view.rows(Meta.schema) == []


def test_a_correction_that_kills_workers_is_given_up_and_its_answer_stays_in_review() -> None:
    bench = Bench(make_spec(judge=replace(RULED, review_sample=1)))
    name = bench.event("fire")
    bench.slice()
    bench.run(bench.over)
    bench.decide(a_decision(name, bench, "correct", '{"label":"fire","confidence":0}'))

    def condemned(where: str) -> None:
        if where == "effect judge":
            raise PoisonEffectError("judge", "correction", 3)

    bench.task.at_wait = condemned
    bench.run(bench.over)
    assert (bench.life(name).status, bench.life(name).reason) == (Status.NEEDS_REVIEW, Reason.POISON)


def test_a_cut_of_answers_lets_others_work_between_two_of_them() -> None:
    bench = Bench(make_spec(judge=RULED), step_rows=20)
    names = [bench.event("fire") for _ in range(20)]
    bench.slice()
    judged: set[int] = set()

    async def watch() -> None:
        with suppress(asyncio.CancelledError):
            while True:
                judged.add(sum(bench.life(name).status is Status.VALIDATED for name in names))
                await asyncio.sleep(0)

    async def both() -> None:
        watching = asyncio.create_task(watch())
        await bench.loop._judge(bench.task, [bench.life(name) for name in names])
        watching.cancel()
        await watching

    asyncio.run(both())
    assert len(judged) > 10


def test_a_score_is_held_against_the_answer_as_it_came() -> None:
    bench = Bench(make_spec(judge=JudgeSpec(scoring=ScoringSpec(job="second", agree="score.label == output.label"))))
    names = [bench.event("fire"), bench.event("flood")]
    bench.slice()
    bench.run(bench.over)
    assert [each.job for each in bench.said(RawEvent) if isinstance(each, RawEvent)] == ["second", "second"]
    scores = [replace(a_decision(name, bench, "score", '{"label":"fire"}'), actor="job:second") for name in names]
    bench.decide(*scores)
    bench.run(bench.over)
    assert [(bench.life(name).status, bench.life(name).reason) for name in names] == [
        (Status.VALIDATED, None),
        (Status.NEEDS_REVIEW, Reason.DISAGREEMENT),
    ]
