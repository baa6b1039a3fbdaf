"""How far two samples lie apart: tails against scipy's, laws of distances, and cells that are large enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.distances import EXPECTED_MIN, cells, chi_square_p, distance

COUNTS = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 400), min_size=1)

#: (statistic, degrees of freedom, scipy.stats.chi2.sf of scipy 1.15)
TAILS = [
    (0.3, 1, 0.583882420770365),
    (2.5, 1, 0.11384629800665763),
    (42, 1, 9.127341799289188e-11),
    (400, 1, 5.507248237212379e-89),
    (1.8, 2, 0.4065696597405992),
    (44, 2, 2.7894680928689257e-10),
    (7.5, 3, 0.0575584519726364),
    (46, 3, 5.671485959912443e-10),
    (0.3, 5, 0.9976430862605289),
    (50, 5, 1.3857973367009573e-09),
    (400, 5, 2.9666446590828377e-84),
    (20.0, 8, 0.010336050675925726),
    (15.3, 17, 0.5738826756294508),
    (74, 17, 4.368711363652921e-09),
    (36.0, 40, 0.6509161279807018),
    (120, 40, 6.35191834037896e-10),
    (57.6, 64, 0.7006427115342989),
    (160.0, 64, 3.506398863249049e-10),
    (400, 64, 4.2725812260614795e-50),
]


@pytest.mark.parametrize(("chi2", "df", "expected"), TAILS)
def test_the_tail_of_the_chi_square_distribution_is_scipys(chi2: float, df: int, expected: float) -> None:
    assert chi_square_p(chi2, df) == pytest.approx(expected, rel=1e-9)


def test_a_table_by_hand() -> None:
    # 2 x 2: rows 100 and 100, columns 120 and 80, so every cell is expected at 60 or 40
    found = distance({"a": 50, "b": 50}, {"a": 70, "b": 30})
    assert found.chi2 == pytest.approx(2 * (10**2 / 60 + 10**2 / 40))
    assert found.df == 1
    assert found.p == pytest.approx(0.0038924, rel=1e-4)


@given(COUNTS)
def test_nothing_lies_at_no_distance_from_itself(counts: dict[str, int]) -> None:
    found = distance(counts, counts)
    assert (found.psi, found.js, found.chi2) == pytest.approx((0, 0, 0), abs=1e-9)
    assert found.p == 1


@given(COUNTS, COUNTS)
def test_distances_are_symmetric_and_bounded(one: dict[str, int], other: dict[str, int]) -> None:
    there, back = distance(one, other), distance(other, one)
    assert (there.psi, there.js, there.chi2) == pytest.approx((back.psi, back.js, back.chi2))
    assert there.psi >= 0
    assert 0 <= there.js <= 1 + 1e-12
    assert 0 <= there.p <= 1


@given(COUNTS, COUNTS)
def test_merging_loses_no_count_and_leaves_no_cell_too_small(one: dict[str, int], other: dict[str, int]) -> None:
    found = cells(one, other)
    sums = sum(one.values()), sum(other.values())
    assert tuple(map(sum, zip(*found, strict=True))) == sums
    expected = [sum(cell) * min(sums) / sum(sums) for cell in found]
    assert len(found) == 1 or min(expected) >= EXPECTED_MIN


def test_small_bins_of_a_measure_merge_with_their_neighbours() -> None:
    reference, window = {"1-1": 2, "2-3": 300, "4-7": 198}, {"2-3": 120, "4-7": 78, "64-127": 2}
    begins = lambda name: float(name.partition("-")[0])  # noqa: E731
    assert cells(reference, window, place=begins) == [(302, 120), (198, 80)]


def test_a_class_that_is_new_counts_although_the_reference_never_had_it() -> None:
    found = distance({"a": 500}, {"a": 150, "new": 50})
    assert found.df == 1
    assert found.p < 1e-20
    assert found.psi > 1


def test_a_lone_stranger_is_no_cell_of_its_own() -> None:
    assert distance({"a": 500}, {"a": 199, "new": 1}).p == 1
