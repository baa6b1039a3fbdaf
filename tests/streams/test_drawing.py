"""A sample has its share of each class, and the same seed draws the same members."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.drawing import drawn, places_of

SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 400), min_size=1, max_size=6)


@given(SIZES, st.integers(1, 2_000))
def test_places_add_up_and_no_class_has_more_than_it_has_members(sizes: dict[str, int], wanted: int) -> None:
    places = places_of(sizes, wanted)
    assert sum(places.values()) == min(wanted, sum(sizes.values()))
    assert all(0 <= places[name] <= size for name, size in sizes.items())
    if wanted >= len(sizes):
        assert min(places.values()) >= 1


@given(SIZES, st.integers(1, 300))
def test_the_share_of_a_class_is_its_share_of_all_but_for_one_place_a_class(sizes: dict[str, int], wanted: int) -> None:
    places, total = places_of(sizes, wanted), sum(sizes.values())
    wanted = min(wanted, total)
    assert all(abs(places[name] - wanted * size / total) <= len(sizes) for name, size in sizes.items())


def test_a_rare_class_is_in_the_sample() -> None:
    assert places_of({"common": 9_990, "rare": 10}, 20) == {"common": 19, "rare": 1}


@given(st.lists(st.tuples(st.integers(0, 10_000).map(str), st.sampled_from("xyz")), unique_by=lambda each: each[0]))
def test_the_order_in_which_members_come_does_not_count(members: list[tuple[str, str]]) -> None:
    assert drawn(members, 7, seed="s") == drawn(reversed(members), 7, seed="s")


def test_another_seed_draws_others_and_a_larger_sample_of_a_class_holds_the_smaller_one() -> None:
    members = [(str(number), "one") for number in range(1_000)]
    assert drawn(members, 100, seed="a") != drawn(members, 100, seed="b")
    assert drawn(members, 50, seed="a") < drawn(members, 100, seed="a")


def test_members_of_a_class_are_drawn_evenly() -> None:
    members = [(str(number), "one") for number in range(2_000)]
    halves = Counter(int(name) < 1_000 for name in drawn(members, 1_000, seed="s"))
    assert 430 < halves[True] < 570
