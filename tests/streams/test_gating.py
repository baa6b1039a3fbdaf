"""The gate: each condition by hand, what cannot be told, and that it is neither blind nor nervous."""

import random
from typing import Any

import pytest

from batchmill.schemas.promotion import GateSpec
from batchmill.streams.comparing import Ended, Outcome, Pair, compare
from batchmill.streams.gating import Finding, Gate, Rule, gate, sentence


def pairs(n: int, *, right: tuple[int, int] = (0, 0), alike: int | None = None, **more: Any) -> list[Pair]:
    """`n` records; the first so many right under each; of all of them `alike` the same."""
    made = []
    for at in range(n):
        a, b = (("yes" if at < known else f"no-{side}") for side, known in zip("ab", right, strict=True))
        if alike is not None:
            a, b = "yes", "yes" if at < alike else "no"
        outcomes = [Outcome(ended=Ended.VALIDATED, output={"label": label}, **more) for label in (a, b)]
        truth = None if alike is not None else {"label": "yes"}
        made.append(Pair(key=str(at), a=outcomes[0], b=outcomes[1], truth=truth))
    return made


def judged(spec: GateSpec, records: list[Pair], **more: Any) -> Gate:
    return gate(spec, compare(records, fields=spec.fields, confidence=spec.confidence), **more)


def finding(found: Gate, rule: Rule) -> Finding | None:
    return next((each.finding for each in found.conditions if each.rule is rule), None)


def test_a_gate_passes_if_all_is_met_and_each_condition_has_its_figure() -> None:
    spec = GateSpec(min_accuracy=0.8, min_agreement=0.8, max_cost_ratio=1.2)
    found = judged(spec, pairs(200, right=(180, 180), cost_nanos=5), benchmark=200)
    assert found.passed  # the two are wrong in different ways: 180 of 200 agree
    assert [each.figure for each in found.conditions] == [200, 0.9, 0, 0.9, 1, 0]


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.9, Finding.MET), (0.91, Finding.NOT_MET)])
def test_accuracy_is_the_share_of_the_benchmark_that_is_right(accuracy: float, verdict: Finding) -> None:
    found = judged(GateSpec(min_accuracy=accuracy), pairs(200, right=(180, 180)), benchmark=200)
    assert finding(found, Rule.MIN_ACCURACY) is verdict


def test_without_a_benchmark_no_accuracy_can_be_known_and_that_is_said() -> None:
    found = judged(GateSpec(min_accuracy=0.5), pairs(200, alike=200))
    (said,) = [each for each in found.conditions if each.rule is Rule.MIN_ACCURACY]
    assert (found.passed, said.finding) == (False, Finding.NOT_MET)
    assert "add gate.benchmark" in sentence(said)
    assert finding(found, Rule.MAX_ACCURACY_DROP) is None


def test_below_the_minimum_nothing_is_told() -> None:
    spec = GateSpec(min_agreement=0.5, max_cost_ratio=2, min_accuracy=0.5, minimum=100)
    found = judged(spec, pairs(99, right=(99, 99), cost_nanos=5), benchmark=300)
    assert not found.passed
    assert {each.finding for each in found.conditions} == {Finding.CANNOT_TELL}


def test_a_small_benchmark_counts_once_all_of_it_is_known() -> None:
    spec = GateSpec(min_accuracy=0.5, minimum=30)
    live = pairs(40, alike=40)
    assert judged(spec, [*pairs(20, right=(20, 20)), *live], benchmark=20).passed
    assert finding(judged(spec, [*pairs(19, right=(19, 19)), *live], benchmark=20), Rule.MIN_ACCURACY) is (
        Finding.CANNOT_TELL
    )


def test_a_benchmark_on_its_way_is_waited_for() -> None:
    found = judged(GateSpec(min_accuracy=0.5), pairs(200, right=(200, 200)), benchmark=300, waiting=100)
    assert finding(found, Rule.MIN_ACCURACY) is Finding.CANNOT_TELL
    assert finding(found, Rule.MAX_ACCURACY_DROP) is Finding.CANNOT_TELL


@pytest.mark.parametrize(
    ("b", "limit", "verdict"),
    [(178, 0, Finding.MET), (160, 0, Finding.NOT_MET), (160, 0.2, Finding.MET), (100, 0.2, Finding.NOT_MET)],
)
def test_only_a_sure_drop_of_accuracy_counts(b: int, limit: float, verdict: Finding) -> None:
    found = judged(GateSpec(max_accuracy_drop=limit), pairs(200, right=(180, b)), benchmark=200)
    assert finding(found, Rule.MAX_ACCURACY_DROP) is verdict


@pytest.mark.parametrize(("alike", "verdict"), [(190, Finding.MET), (189, Finding.NOT_MET)])
def test_agreement_is_the_share_of_the_sample(alike: int, verdict: Finding) -> None:
    found = judged(GateSpec(min_agreement=0.95), pairs(200, alike=alike))
    assert finding(found, Rule.MIN_AGREEMENT) is verdict


def priced(a: int, b: int | None, *, ended: Ended = Ended.VALIDATED) -> list[Pair]:
    one = Outcome(ended=Ended.VALIDATED, output={}, cost_nanos=a)
    other = Outcome(ended=ended, output={}, cost_nanos=b)
    return [Pair(key=str(at), a=one, b=other) for at in range(100)]


@pytest.mark.parametrize(
    ("records", "verdict"),
    [
        (priced(100, 120), Finding.MET),
        (priced(100, 121), Finding.NOT_MET),
        (priced(100, None), Finding.CANNOT_TELL),
        (priced(100, 1, ended=Ended.DEAD), Finding.NOT_MET),
        (priced(0, 1), Finding.CANNOT_TELL),
    ],
)
def test_cost_is_compared_by_success(records: list[Pair], verdict: Finding) -> None:
    assert finding(judged(GateSpec(max_cost_ratio=1.2), records), Rule.MAX_COST_RATIO) is verdict


def checked(seed: int, shares: list[tuple[float, float]], n: int = 300) -> list[Pair]:
    chance = random.Random(seed)
    made = []
    for at in range(n):
        told = [{f"rule-{k}": chance.random() < share[side] for k, share in enumerate(shares)} for side in (0, 1)]
        a, b = (Outcome(ended=Ended.VALIDATED, output={}, checks=checks) for checks in told)
        made.append(Pair(key=str(at), a=a, b=b))
    return made


def test_a_rule_that_fails_more_often_stops_the_gate_and_is_named() -> None:
    found = judged(GateSpec(), checked(1, [(0.95, 0.95), (0.95, 0.8)]))
    (said,) = [each for each in found.conditions if each.rule is Rule.MAX_RULE_DROP]
    assert (found.passed, said.finding) == (False, Finding.NOT_MET)
    assert said.note.startswith("rule-1: passed by")


def test_answers_that_are_lost_stop_the_gate_though_no_rule_was_asked() -> None:
    a, b = Outcome(ended=Ended.VALIDATED, output={}), Outcome(ended=Ended.DEAD)
    records = [Pair(key=str(at), a=a, b=b if at % 5 == 0 else a) for at in range(200)]
    assert finding(judged(GateSpec(), records), Rule.MAX_RULE_DROP) is Finding.NOT_MET


def test_a_gate_over_equal_versions_is_rarely_shut_however_many_rules_there_are() -> None:
    """Twenty rules, 200 contests: without care for many tests some 60 % would be stopped."""
    shut = sum(not judged(GateSpec(), checked(seed, [(0.9, 0.9)] * 20)).passed for seed in range(200))
    assert shut <= 15, shut


def test_a_gate_stops_a_real_drop() -> None:
    shut = sum(not judged(GateSpec(), checked(seed, [(0.95, 0.95)] * 9 + [(0.95, 0.82)])).passed for seed in range(40))
    assert shut >= 38, shut


def test_what_cannot_be_told_does_not_pass() -> None:
    assert not judged(GateSpec(), []).passed
