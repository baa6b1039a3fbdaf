"""Two contenders over the same records: laws of comparing, cases by hand, and how often a test cries wolf."""

import json
import random
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.comparing import CHANGED_MAX, USABLE, Comparison, Contended, Ended, Outcome, Pair, compare, same

LABELS = ("pos", "neg", "neu")


def an_outcome(output: Any = None, *, ended: Ended = Ended.VALIDATED, **more: Any) -> Outcome:
    return Outcome(ended=ended, output=None if ended is Ended.DEAD else output, **more)


DEAD = an_outcome(ended=Ended.DEAD)


def labelled(a: str | None, b: str | None, truth: str | None = None, key: str = "k") -> Pair:
    def told(label: str | None) -> Outcome:
        return DEAD if label is None else an_outcome({"label": label})

    return Pair(key=key, a=told(a), b=told(b), truth=None if truth is None else {"label": truth})


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    ended = draw(st.sampled_from(Ended))
    output = {"label": draw(st.sampled_from(LABELS)), "n": draw(st.integers(0, 2))}
    return an_outcome(
        output,
        ended=ended,
        checks=draw(st.dictionaries(st.sampled_from(["schema", "rule"]), st.booleans())),
        cost_nanos=draw(st.none() | st.integers(0, 1_000)),
        tokens=draw(st.none() | st.integers(1, 100)),
    )


TRUTHS = st.none() | st.fixed_dictionaries({"label": st.sampled_from(LABELS)})
PAIRS = st.lists(st.builds(Pair, key=st.text(max_size=3), a=outcomes(), b=outcomes(), truth=TRUTHS), max_size=40)


def exchanged(pairs: list[Pair]) -> list[Pair]:
    return [Pair(key=pair.key, a=pair.b, b=pair.a, truth=pair.truth) for pair in pairs]


def mirrored(one: Contended | None, other: Contended | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.a, one.b, one.lost, one.won, one.p, one.p_adjusted, one.drop.low) == (
        other.b,
        other.a,
        other.won,
        other.lost,
        other.p,
        other.p_adjusted,
        pytest.approx(-other.drop.high),
    )


@given(PAIRS)
def test_contenders_exchanged_tell_the_same_of_each_other(pairs: list[Pair]) -> None:
    forth, back = compare(pairs), compare(exchanged(pairs))
    assert (forth.agreement, forth.neither, forth.changes) == (back.agreement, back.neither, back.changes)
    assert {(b, a): n for (a, b), n in forth.ended.items()} == back.ended
    for one, other in zip(forth.checks, back.checks, strict=True):
        assert (one.id, one.a, one.b) == (other.id, other.b, other.a)
        assert mirrored(one.both, other.both)
    for field, again in zip(forth.fields, back.fields, strict=True):
        assert (field.name, field.agreement) == (again.name, again.agreement)
        assert mirrored(field.accuracy, again.accuracy)
        assert {(b, a): n for (a, b), n in field.confusions.items()} == again.confusions
    assert (forth.cost.a, forth.cost.b, forth.tokens.a) == (back.cost.b, back.cost.a, back.tokens.b)
    assert mirrored(
        None if forth.accuracy is None else forth.accuracy.whole, None if back.accuracy is None else back.accuracy.whole
    )


def significant(found: Comparison) -> list[str]:
    tests = [(each.id, each.both) for each in found.checks] + [(each.name, each.accuracy) for each in found.fields]
    tests += [] if found.accuracy is None else [("accuracy", found.accuracy.whole)]
    return [name for name, each in tests if each is not None and each.p_adjusted <= 0.05]


@given(st.lists(st.tuples(outcomes(), TRUTHS), max_size=40))
def test_a_contender_agrees_with_itself_and_no_test_says_otherwise(told: list[tuple[Outcome, Any]]) -> None:
    found = compare([Pair(key="k", a=each, b=each, truth=truth) for each, truth in told])
    assert found.agreement is None or found.agreement.value == 1
    assert all(each.agreement is None or each.agreement.value == 1 for each in found.fields)
    assert (found.changes, found.changed, significant(found)) == (0, (), [])
    assert all(price.ratio is None or price.ratio.value == 1 for price in (found.cost, found.tokens))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1], [2], False),
    ],
)
def test_values_are_the_same_if_their_json_is(one: Any, other: Any, alike: bool) -> None:
    assert same(one, other) is alike


def test_a_record_given_up_by_one_differs_and_by_both_says_nothing() -> None:
    found = compare([labelled("pos", "pos"), labelled("pos", None), labelled(None, None)])
    assert found.agreement is not None
    assert (found.agreement.count, found.agreement.of, found.neither, found.changes) == (1, 2, 1, 1)
    (label,) = found.fields
    assert label.confusions == {("pos", "(none)"): 1, ("pos", "pos"): 1}


def test_accuracy_is_of_the_records_whose_truth_is_known_and_the_dead_are_wrong() -> None:
    pairs = [labelled("pos", "neg", "pos"), labelled("pos", "pos", "pos"), labelled(None, "pos", "pos")]
    found = compare([*pairs, labelled("pos", "pos")])
    assert found.accuracy is not None
    whole = found.accuracy.whole
    assert (whole.a.count, whole.b.count, whole.a.of, whole.lost, whole.won, whole.p) == (2, 2, 3, 1, 1, 1)


def test_members_that_nobody_named_do_not_count_against_agreement_where_there_is_a_truth() -> None:
    a, b = an_outcome({"label": "pos", "why": "x"}), an_outcome({"label": "pos", "why": "y"})
    pair = Pair(key="k", a=a, b=b, truth={"label": "pos"})
    found, strict = compare([pair]), compare([Pair(key="k", a=a, b=b)])
    assert found.agreement is not None
    assert strict.agreement is not None
    assert (found.judged, found.agreement.count, strict.agreement.count) == (("label",), 1, 0)
    assert [(each.name, each.agreement and each.agreement.count) for each in found.fields] == [("label", 1), ("why", 0)]


def test_a_check_that_only_one_version_has_is_told_and_not_tested() -> None:
    a, b = an_outcome({}, checks={"old": True}), an_outcome({}, checks={"new": False})
    found = {each.id: each for each in compare([Pair(key="k", a=a, b=b)] * 9).checks}
    assert (found["old"].both, found["old"].b, found["new"].both, found["new"].a) == (None, None, None, None)
    assert found["new"].b is not None
    assert found["new"].b.value == 0
    assert found[USABLE].both is not None


def test_costs_count_where_both_are_known_and_only_validated_records_are_successes() -> None:
    pairs = [
        Pair(key="1", a=an_outcome({}, cost_nanos=100), b=an_outcome({}, cost_nanos=50)),
        Pair(key="2", a=an_outcome({}, cost_nanos=100), b=an_outcome({}, cost_nanos=50, ended=Ended.NEEDS_REVIEW)),
        Pair(key="3", a=an_outcome({}, cost_nanos=None), b=an_outcome({}, cost_nanos=999)),
    ]
    cost = compare(pairs).cost
    assert cost.a is not None
    assert cost.b is not None
    assert cost.ratio is not None
    assert (cost.of, cost.a.value, cost.b.value, cost.ratio.value) == (2, 100, 100, 1)


def test_changed_records_are_bounded_and_all_counted() -> None:
    found = compare([labelled("pos", "neg", key=str(at)) for at in range(CHANGED_MAX + 5)])
    assert (len(found.changed), found.changes) == (CHANGED_MAX, CHANGED_MAX + 5)
    assert found.changed[0].fields == ("label",)


def test_names_that_are_no_path_are_compared_too() -> None:
    a, b = an_outcome({"the label": 1, "öl": 1}), an_outcome({"the label": 2, "öl": 1})
    found = {each.name: each.agreement and each.agreement.count for each in compare([Pair(key="k", a=a, b=b)]).fields}
    assert found == {"$['the label']": 0, "$['öl']": 1}


# -- on labelled sentences ---------------------------------------------------------------------------------------------


@cache
def sentences() -> tuple[str, ...]:
    text = files("batchmill.agents.demo").joinpath("data/sentiment.jsonl").read_text("utf-8")
    return tuple(json.loads(line)["label"] for line in text.splitlines())


def a_model(truth: str, chance: random.Random, accuracy: float) -> str:
    return truth if chance.random() < accuracy else chance.choice([label for label in LABELS if label != truth])


def a_contest(seed: int, first: float, second: float, records: int = 500) -> Comparison:
    chance = random.Random(seed)
    pairs = []
    for at, truth in enumerate(chance.sample(sentences(), records)):
        pair = labelled(a_model(truth, chance, first), a_model(truth, chance, second), truth, key=str(at))
        checks = [{f"rule-{n}": chance.random() < 0.95 for n in range(8)} for _ in range(2)]
        a = an_outcome(pair.a.output, checks=checks[0])
        pairs.append(Pair(key=pair.key, a=a, b=an_outcome(pair.b.output, checks=checks[1]), truth=pair.truth))
    return compare(pairs)


def test_equal_models_and_rules_are_rarely_told_apart() -> None:
    """200 seeded contests, nine checks in each: 5 % of them may cry wolf; more than 20 is chance once in 1,000."""
    found = [significant(a_contest(seed, 0.85, 0.85, records=200)) for seed in range(200)]
    of_accuracy = sum("accuracy" in names for names in found)
    of_checks = sum(any(name.startswith("rule-") for name in names) for names in found)
    assert max(of_accuracy, of_checks) <= 20, (of_accuracy, of_checks)


def test_a_real_drop_is_seen() -> None:
    seen = [a_contest(seed, 0.9, 0.8).accuracy for seed in range(40)]
    assert sum(found is not None and found.whole.p <= 0.05 and found.whole.drop.low > 0 for found in seen) >= 38
