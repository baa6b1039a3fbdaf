"""Two contenders out of a view and a log: who is meant, which lives belong together, what they said, and the gate."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchmill.agents import contenders
from batchmill.agents.contenders import Report, Wanted, gate_of, gate_report, report, wanted_by
from batchmill.agents.projector.comparing import (
    Contender,
    ContenderError,
    Standing,
    contender,
    job_row,
    reruns,
    standing,
    told,
)
from batchmill.agents.rivals import baseline
from batchmill.agents.settings import load_settings
from batchmill.schemas.promotion import GateSpec
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.schemas.versions import version_of
from batchmill.streams.baselines import Standing as Stands
from batchmill.streams.comparing import USABLE, Ended
from batchmill.streams.gating import Finding
from batchmill.streams.golden import gold_of, run_of_gold
from tests.agents.compare_world import FIRST, SECOND, World, gate_lines, two_versions

ONE, TWO = version_of(FIRST), version_of(SECOND)
POS, NEG = {"label": "pos"}, {"label": "neg"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "view.sqlite")
    made.applied(two_versions())
    yield made
    made.log.store.close()


async def compared(world: World, a: str = "current", b: str = "shadow", wanted: Wanted | None = None) -> Report:
    with world.folded().log.view() as view:
        row = job_row(view, "triage")
        return await report(view, world, contender(view, row, a), contender(view, row, b), wanted or Wanted())


# -- who is meant ------------------------------------------------------------------------------------------------------


def test_a_version_is_named_by_its_beginning_or_by_what_it_is(world: World) -> None:
    with world.log.view() as view:
        row = job_row(view, "triage")
        assert contender(view, row, "current").version == contender(view, row, ONE[:5]).version == ONE
        assert contender(view, row, "shadow") == contender(view, row, TWO) == Contender(job="triage", version=TWO)


def test_who_is_not_there_is_told_with_those_who_are(world: World) -> None:
    world.answered(FIRST, "s", POS, run="night")
    world.folded()
    with world.log.view() as view:
        row = job_row(view, "triage")
        assert contender(view, row, f"{ONE}@night") == Contender(job="triage", version=ONE, run="night")
        for text, why in [("nobody", ONE), ("", "several"), (f"{ONE}@other", "it has: night"), (f"{TWO}@", "@RUN")]:
            with pytest.raises(ContenderError, match=why):
                contender(view, row, text)
        with pytest.raises(ContenderError, match="no shadow"):
            contender(view, replace(row, shadows_json="{}"), "shadow")
        with pytest.raises(ContenderError, match="knows no job"):
            job_row(view, "another")


# -- which belong together ---------------------------------------------------------------------------------------------


async def test_lives_of_one_event_are_one_record_whatever_was_asked(world: World) -> None:
    world.answered(FIRST, "s", POS, given={"body": "  spaced"})
    world.answered(SECOND, "s", NEG, given={"body": "spaced"})
    found = await compared(world)
    assert (found.coverage.matched, found.comparison.pairs, found.comparison.changes) == (1, 1, 1)
    (changed,) = found.comparison.changed
    assert (changed.source_id, changed.a.output, changed.b.output) == ("s", POS, NEG)


async def test_lives_of_several_events_are_one_record_if_they_were_asked_the_same(world: World) -> None:
    for spec, offset in [(FIRST, 1), (SECOND, 2)]:
        world.answered(spec, "s", POS, origin=replace(world.origin("s"), offset=offset))
        world.answered(spec, "t", POS, origin=replace(world.origin("t"), offset=offset), given={"n": offset})
    assert (await compared(world)).coverage.matched == 1


async def test_the_life_of_the_same_event_goes_before_one_that_was_asked_the_same(world: World) -> None:
    world.answered(FIRST, "s", POS)
    world.answered(SECOND, "s", POS, origin=replace(world.origin("s"), offset=9))
    world.answered(SECOND, "s", NEG, given={"body": "cleaned"})
    found = await compared(world)
    assert [each.b.output for each in found.comparison.changed] == [NEG]


async def test_lives_of_one_benchmark_run_are_one_record_though_each_version_cleans_its_input(world: World) -> None:
    for spec, offset in [(FIRST, 1), (SECOND, 2)]:
        origin = replace(world.origin("s"), offset=offset)
        world.answered(spec, "s", POS, origin=origin, run="benchmark:abc", given={"body": offset})
    assert (await compared(world)).coverage.matched == 1


async def test_a_rerun_is_compared_with_the_first_answers_and_never_with_itself(world: World) -> None:
    for source, again in [("s", POS), ("t", NEG)]:
        world.answered(FIRST, source, POS)
        world.answered(FIRST, source, again, run="again", epoch=1)
    found = await compared(world, "current", "current@again")
    assert found.is_rerun
    assert found.comparison.agreement is not None
    assert (found.comparison.agreement.count, found.comparison.agreement.of) == (1, 2)
    assert (await compared(world, "current@again", "current@again")).coverage.matched == 0


async def test_a_version_that_was_first_asked_in_a_fresh_replay_is_known_by_that(world: World) -> None:
    world.answered(FIRST, "s", POS)
    world.answered(SECOND, "s", NEG, run="fresh", epoch=1)
    world.answered(SECOND, "s", POS, run="fresher", epoch=2)
    found = await compared(world)
    assert (found.coverage.matched, found.comparison.changes) == (1, 1)


async def test_noise_is_of_the_members_that_count(world: World) -> None:
    world.both("s", POS | {"why": "x"}, POS | {"why": "y"})
    world.answered(FIRST, "s", POS | {"why": "z"}, run="again", epoch=1)
    gold = gold_of([(1, {"id": "s", "output": POS})])
    (noise,) = (await compared(world, wanted=Wanted(gold=gold))).noise
    assert noise.agreement is not None
    assert noise.agreement.value == 1


async def test_the_noise_of_a_version_that_was_asked_again_is_told_beside(world: World) -> None:
    world.both("s", POS, POS)
    world.answered(FIRST, "s", NEG, run="again", epoch=1)
    found = await compared(world)
    (noise,) = found.noise
    assert (noise.first.version, noise.again.run, noise.agreement and noise.agreement.count) == (ONE, "again", 0)
    with world.log.view() as view:
        assert (reruns(view, "triage", ONE), reruns(view, "triage", TWO)) == (["again"], [])


# -- what they said ----------------------------------------------------------------------------------------------------


async def test_what_a_person_corrected_counts_as_the_version_said_it(world: World) -> None:
    world.answered(FIRST, "s", POS, status=Status.COMMITTED, judged=VerdictStatus.NEEDS_REVIEW, corrected=NEG)
    world.answered(SECOND, "s", POS)
    found = await compared(world)
    assert (found.comparison.changes, found.comparison.ended) == (0, {(Ended.NEEDS_REVIEW, Ended.VALIDATED): 1})


async def test_a_dead_record_has_its_checks_from_its_letter(world: World) -> None:
    world.answered(FIRST, "s", POS, checks={"rule": True, "schema": True})
    world.answered(
        SECOND,
        "s",
        NEG,
        status=Status.FAILED_TERMINAL,
        reason=Reason.RULE_FAILED,
        checks={"rule": False, "schema": True},
    )
    checks = {each.id: each.both for each in (await compared(world)).comparison.checks}
    assert {name: (both.lost, both.won) for name, both in checks.items() if both is not None} == {
        "rule": (1, 0), "schema": (0, 0), USABLE: (1, 0),
    }  # fmt: skip


async def test_what_is_on_its_way_or_ended_for_other_reasons_is_counted_apart(world: World) -> None:
    world.both("s", POS, POS)
    world.answered(FIRST, "t", POS)
    world.answered(SECOND, "t", POS, status=Status.QUEUED)
    world.answered(FIRST, "u", POS)
    world.answered(SECOND, "u", POS, status=Status.FAILED_TERMINAL, reason=Reason.CANCELLED)
    found = await compared(world)
    assert (found.coverage.matched, found.coverage.waiting, found.coverage.outside) == (3, 1, 1)
    assert found.comparison.pairs == 1


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.FAILED_TERMINAL])
def test_an_answer_settles_a_life_and_a_second_opinion_is_waited_for(status: Status) -> None:
    with_answer = {Status.VALIDATED, Status.COMMITTED, Status.NEEDS_REVIEW}
    settled = standing(status, None, answered=True) is Standing.SETTLED
    assert settled is (status in with_answer)
    assert standing(status, Reason.AWAITING_SCORE, answered=True) is Standing.WAITING


def test_each_reason_is_the_versions_own_or_none_of_its_business() -> None:
    ended = {reason: standing(Status.FAILED_TERMINAL, reason, answered=False) for reason in REASONS}
    ours = {reason for reason, found in ended.items() if found is Standing.SETTLED}
    assert {Reason.RULE_FAILED, Reason.NOT_JSON, Reason.MODEL_REFUSAL, Reason.TRUNCATED, Reason.DECLINED} <= ours
    assert not ours & {Reason.CANCELLED, Reason.OVER_BUDGET, Reason.BODY_GONE, Reason.POISON, Reason.NOT_PROMOTED}
    assert standing(Status.FAILED_TERMINAL, Reason.NOT_PROMOTED, answered=True) is Standing.SETTLED


async def test_an_answer_that_the_log_has_no_more_is_told(world: World) -> None:
    world.both("s", POS, POS)
    world.both("t", POS, POS)
    world.folded()
    del world.log.records["validated", 0][0]
    found = await compared(world)
    assert (found.coverage.gone, found.comparison.pairs) == (1, 1)


async def test_a_copy_of_another_versions_answer_costs_what_that_one_did(world: World) -> None:
    first = world.answered(FIRST, "s", POS, cost=70)
    second = world.answered(SECOND, "s", POS, copy_of=first)
    twin = world.answered(SECOND, "t", POS, copy_of=second)
    lost = world.answered(SECOND, "u", POS, copy_of="z" * 32)
    unpriced = world.answered(SECOND, "v", POS, unpriced=1)
    world.folded()
    with world.log.view() as view:
        found = {
            each.request_id: (each.cost_nanos, each.tokens)
            for each in told(view, [first, second, twin, lost, unpriced])
        }
    assert [found[name] for name in (first, second, twin, lost, unpriced)] == [
        (70, 15), (70, 15), (0, 0), (None, None), (None, 15)
    ]  # fmt: skip


async def test_a_sample_is_bounded_and_the_same_every_time(world: World) -> None:
    for at in range(40):
        world.both(str(at), POS if at % 4 else NEG, NEG)
    wanted = Wanted(limit=12)
    first, again = await compared(world, wanted=wanted), await compared(world, wanted=wanted)
    assert (first.coverage.matched, first.comparison.pairs, first.comparison.changes) == (40, 12, 9)
    assert first == again


# -- benchmarks, the gate, baselines -----------------------------------------------------------------------------------

KNOWN = {f"g{at}": "pos" if at < 30 else "neg" for at in range(50)}
GATED = replace(SECOND, gate=GateSpec(benchmark_json=gate_lines(KNOWN), min_accuracy=0.9, minimum=40))


def benchmarked(world: World, wrong: int) -> None:
    """Under the first version all are right, under the second so many are not."""
    run = run_of_gold(wanted_by(GATED).gold)
    for at, (source, label) in enumerate(KNOWN.items()):
        world.answered(FIRST, source, {"label": label}, run=run)
        world.answered(SECOND, source, {"label": "odd" if at < wrong else label}, run=run)


@pytest.mark.parametrize(("wrong", "passed"), [(0, True), (4, True), (12, False)])
async def test_the_gate_is_judged_by_the_benchmark(world: World, wrong: int, passed: bool) -> None:
    benchmarked(world, wrong)
    found = await compared(world, wanted=wanted_by(GATED))
    verdict = gate_of(GATED, found)
    assert verdict is not None
    assert (verdict.passed, found.coverage.benchmark, found.coverage.benchmark_settled) == (passed, 50, 50)
    assert found.comparison.accuracy is not None
    assert found.comparison.accuracy.whole.b.count == 50 - wrong


class _Reader:
    """Stands where the broker would."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, _settings: object) -> "_Reader":
        return self

    async def __aenter__(self) -> World:
        return self._world

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""


async def test_who_promotes_asks_for_the_gate_of_a_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "LogBodies", _Reader(world))
    world.applied(two_versions(FIRST, GATED))
    benchmarked(world, 12)
    world.folded()
    settings = load_settings({"view.path": str(world.path)})
    verdict, found = await gate_report(settings, "triage", TWO)
    assert verdict is not None
    assert (verdict.passed, found.a.version, found.b.version, found.comparison.pairs) == (False, ONE, TWO, 50)
    with pytest.raises(ContenderError, match="in force already"):
        await gate_report(settings, "triage", "current")


def test_whoever_promotes_needs_no_command_line() -> None:
    script = "import sys, batchmill.agents.contenders; sys.exit('batchmill.agents.cli' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


async def test_a_benchmark_record_on_its_way_keeps_the_gate_shut(world: World) -> None:
    benchmarked(world, 0)
    source = next(iter(KNOWN))
    world.answered(SECOND, source, None, run=run_of_gold(wanted_by(GATED).gold), status=Status.QUEUED)
    found = await compared(world, wanted=wanted_by(GATED))
    verdict = gate_of(GATED, found)
    assert verdict is not None
    assert (verdict.passed, found.coverage.benchmark_waiting) == (False, 1)
    assert Finding.CANNOT_TELL in {each.finding for each in verdict.conditions}


async def test_a_live_event_of_the_same_source_is_no_benchmark_record_unless_it_asks_the_same(world: World) -> None:
    world.both("g0", POS, POS, given={"body": "something else"})
    world.both("g1", POS, POS)  # the input of the gold record, of a live event
    found = await compared(world, wanted=wanted_by(GATED))
    assert (found.comparison.pairs, found.coverage.benchmark_settled) == (2, 1)


async def test_gold_without_an_input_is_known_by_its_source(world: World) -> None:
    world.both("s", POS, NEG)
    gold = gold_of([(1, {"id": "s", "output": POS})])
    accuracy = (await compared(world, wanted=Wanted(gold=gold))).comparison.accuracy
    assert accuracy is not None
    assert (accuracy.whole.a.count, accuracy.whole.b.count) == (1, 0)


async def test_a_job_without_a_gate_has_no_verdict(world: World) -> None:
    world.both("s", POS, NEG)
    assert gate_of(SECOND, await compared(world)) is None


async def test_baselines_are_told_against_the_gold_or_else_against_a(world: World, tmp_path: Path) -> None:
    benchmarked(world, 40)
    rules = tmp_path / "rules.jsonl"
    lines = [{"when": 'input.body.matches("^g[0-2]?[0-9]$")', "output": POS}, {"output": NEG}]
    rules.write_text("\n".join(map(json.dumps, lines)))
    baselines = (baseline("majority:label"), baseline(f"keyword:{rules}"))
    by_gold = await compared(world, wanted=replace(wanted_by(GATED), baselines=baselines))
    by_a = await compared(world, wanted=Wanted(fields=("label",), baselines=baselines))
    for found, right_by in ((by_gold, "gold"), (by_a, "a")):
        assert found.right_by == right_by
        majority, keyword = found.contests
        assert (majority.standing, majority.found.a.count, majority.found.b.count) == (Stands.BETTER, 30, 10)
        assert (keyword.standing, keyword.found.a.count) == (Stands.BETTER, 50)


async def test_a_function_that_fails_has_no_answer_and_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    about = site / "acme-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[batchmill.baselines]\nguess = acme_guess:guess\n")
    (site / "acme_guess.py").write_text(
        "def guess(given):\n    given['body'] = given['body'][1:]\n"
        "    return {'label': {'0': 'pos', '1': 'neg'}[given['body']]}\n"
    )
    monkeypatch.syspath_prepend(str(site))
    benchmarked(world, 0)
    found = await compared(world, wanted=replace(wanted_by(GATED), baselines=(baseline("function:guess"),)))
    (contest,) = found.contests
    (note,) = found.notes
    assert contest.name.startswith("function:guess@")
    assert contest.found.a.count == 1
    assert note.endswith("failed on 48 of 50 records")
