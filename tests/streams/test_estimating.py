"""Intervals and tests: known values, laws, and how often they are right when the truth is known."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.estimating import drop_of, drop_p, holm, mcnemar, quotient, share, times

CONFIDENCE = 0.95
COUNTS = st.integers(0, 300)

#: (count, of, low, high) at 95 %: the ends by hand, the last by Newcombe (1998), table I
WILSON = [
    (0, 10, 0.0, 0.27753279986288993),
    (10, 10, 0.7224672001371107, 1.0),
    (5, 10, 0.23659309051256377, 0.7634069094874362),
    (81, 263, 0.255274567771556, 0.36621141003040716),
]


@pytest.mark.parametrize(("count", "of", "low", "high"), WILSON)
def test_wilsons_interval_is_the_known_one(count: int, of: int, low: float, high: float) -> None:
    found = share(count, of, CONFIDENCE)
    assert found is not None
    assert (found.interval.low, found.interval.high) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))


def test_of_nothing_there_is_no_share() -> None:
    assert share(0, 0, CONFIDENCE) is None


#: two-sided binomial tests of one half, by hand
MCNEMAR = [
    (0, 0, 1.0),
    (1, 0, 1.0),
    (5, 0, 1 / 16),
    (6, 0, 1 / 32),
    (8, 1, 20 / 512),
    (2, 2, 1.0),
    (10, 3, 0.0922851562),
]


@pytest.mark.parametrize(("lost", "won", "p"), MCNEMAR)
def test_mcnemars_exact_test_is_the_known_one(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p)


def test_mcnemars_test_takes_large_counts() -> None:
    assert mcnemar(5_000, 5_000) == 1
    assert mcnemar(9_000, 1_000) == 0 or mcnemar(9_000, 1_000) < 1e-300
    assert mcnemar(5_300, 4_700) == pytest.approx(2.0e-9, rel=0.1)


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_holm_never_makes_a_p_smaller_nor_changes_their_order(found: dict[str, float]) -> None:
    adjusted = holm(found)
    assert all(found[name] <= adjusted[name] <= 1 for name in found)
    by_p = sorted(found, key=lambda name: (found[name], name))
    assert [adjusted[name] for name in by_p] == sorted(adjusted.values())


@given(COUNTS, COUNTS, COUNTS)
def test_a_drop_is_the_rise_of_the_exchanged(lost: int, won: int, rest: int) -> None:
    of = lost + won + rest or 1
    one, other = drop_of(lost, won, of, CONFIDENCE), drop_of(won, lost, of, CONFIDENCE)
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert mcnemar(lost, won) == mcnemar(won, lost)
    assert -1 <= one.low <= one.high <= 1


@given(COUNTS, st.integers(1, 300))
def test_more_confidence_is_a_wider_interval(count: int, rest: int) -> None:
    narrow, wide = share(count, count + rest, 0.8), share(count, count + rest, 0.99)
    assert narrow is not None
    assert wide is not None
    assert 0 <= wide.interval.low <= narrow.interval.low <= narrow.value <= narrow.interval.high
    assert narrow.interval.high <= wide.interval.high <= 1


def test_a_drop_beyond_a_limit_is_surer_the_more_records_show_it() -> None:
    assert drop_p(20, 0, 100, 0.05) > drop_p(200, 0, 1_000, 0.05)
    assert drop_p(200, 0, 1_000, 0.05) < 1e-6
    assert drop_p(50, 0, 1_000, 0.05) > 0.9


def test_a_quotient_of_sums_and_its_comparison() -> None:
    cost, done = [10, 10, 20, 20], [1, 1, 1, 0]
    found = quotient(cost, done, CONFIDENCE)
    assert found is not None
    assert found.value == 20
    assert found.interval is not None
    assert found.interval.low < 20 < found.interval.high
    twice = times((cost, done), ([2 * each for each in cost], done), CONFIDENCE)
    assert twice is not None
    assert twice.value == 2
    assert twice.interval is not None
    assert (twice.interval.low, twice.interval.high) == (pytest.approx(2), pytest.approx(2))  # each record alike


def test_what_cannot_be_divided_is_none() -> None:
    assert quotient([1, 2], [0, 0], CONFIDENCE) is None
    assert quotient([], [], CONFIDENCE) is None
    assert times(([0, 0], [1, 1]), ([1, 1], [1, 1]), CONFIDENCE) is None
    assert times(([1, 1], [1, 1]), ([1, 1], [0, 0]), CONFIDENCE) is None
    free = times(([1, 1], [1, 1]), ([0, 0], [1, 1]), CONFIDENCE)
    assert free is not None
    assert (free.value, free.interval) == (0, None)


AMOUNTS = st.lists(st.tuples(st.integers(1, 1_000), st.integers(1, 1_000), st.booleans(), st.booleans()), min_size=2)


@given(AMOUNTS)
def test_a_quotient_of_quotients_turns_over_with_its_contenders(
    rows: list[tuple[int, int, bool, bool]],
) -> None:
    one = [a for a, _, _, _ in rows], [int(s) for _, _, s, _ in rows]
    other = [b for _, b, _, _ in rows], [int(t) for _, _, _, t in rows]
    forth, back = times(one, other, CONFIDENCE), times(other, one, CONFIDENCE)
    assert (forth is None) == (back is None)
    if forth is not None and back is not None and forth.interval is not None and back.interval is not None:
        assert forth.value == pytest.approx(1 / back.value)
        assert forth.interval.low == pytest.approx(1 / back.interval.high)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 400 draws at 95 %, some 380; fewer than 360 would be chance once in many millions."""
    chance = random.Random(7)
    held = {"share": 0, "drop": 0, "ratio": 0}
    for _ in range(400):
        right = [(chance.random() < 0.9, chance.random() < 0.8) for _ in range(150)]
        found = share(sum(a for a, _ in right), 150, CONFIDENCE)
        assert found is not None
        held["share"] += found.interval.low <= 0.9 <= found.interval.high
        lost, won = sum(a and not b for a, b in right), sum(b and not a for a, b in right)
        drop = drop_of(lost, won, 150, CONFIDENCE)
        held["drop"] += drop.low <= 0.1 <= drop.high
        costs = [chance.expovariate(1 / 100) for _ in right], [chance.expovariate(1 / 150) for _ in right]
        ratio = times((costs[0], [int(a) for a, _ in right]), (costs[1], [int(b) for _, b in right]), CONFIDENCE)
        assert ratio is not None
        assert ratio.interval is not None
        held["ratio"] += ratio.interval.low <= 1.5 * 0.9 / 0.8 <= ratio.interval.high
    assert min(held.values()) >= 360, held
