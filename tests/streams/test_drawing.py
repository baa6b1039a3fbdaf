"""Samples by class: so many of each as its share, the same ones in any order, in bounded memory."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.drawing import CLASSES_MAX, Drawing, quotas

COUNTS = st.dictionaries(st.text(max_size=4), st.integers(1, 1_000), max_size=20)


@given(COUNTS, st.integers(1, 500))
def test_quotas_are_the_limit_or_all_and_each_is_its_share_within_bounds(counts: dict[str, int], limit: int) -> None:
    found, total = quotas(counts, limit), sum(counts.values())
    assert sum(found.values()) == min(limit, total)
    for name, count in counts.items():
        assert found[name] <= count
        assert total <= limit or abs(found[name] - limit * count / total) <= len(counts)
    if limit >= len(counts):
        assert min(found.values(), default=1) >= 1


def test_a_rare_class_is_in_the_sample() -> None:
    assert quotas({"common": 9_990, "rare": 10}, 20) == {"common": 19, "rare": 1}


def draw(offers: list[tuple[str, str]], limit: int, seed: str = "s") -> list[str]:
    drawing: Drawing[str] = Drawing(limit=limit, seed=seed)
    for name, of_class in offers:
        drawing.offer(name, of_class, name)
    assert drawing.offered == len(offers)
    return drawing.drawn()


OFFERS = [(f"r{at}", "rare" if at % 10 == 0 else "common") for at in range(1_000)]


def test_a_sample_has_each_class_in_its_share() -> None:
    found = draw(OFFERS, 50)
    assert len(found) == 50
    assert sum(int(name[1:]) % 10 == 0 for name in found) == 5


def test_the_order_of_offers_does_not_matter_and_the_seed_does() -> None:
    other_order = OFFERS.copy()
    random.Random(3).shuffle(other_order)
    assert draw(OFFERS, 50) == draw(other_order, 50)
    assert draw(OFFERS, 50) != draw(OFFERS, 50, seed="t")


def test_a_record_that_was_drawn_is_drawn_from_a_larger_sample_too() -> None:
    assert set(draw(OFFERS, 20)) <= set(draw(OFFERS, 40))


def test_few_are_all_drawn_and_none_twice() -> None:
    assert sorted(draw(OFFERS[:30], 50)) == sorted(name for name, _ in OFFERS[:30])


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_what_is_held_is_bounded_however_many_classes_there_are(limit: int) -> None:
    drawing: Drawing[str] = Drawing(limit=limit, seed="s")
    for at in range(3_000):
        drawing.offer(f"r{at}", f"class-{at}", f"r{at}")
    assert len(drawing._held) <= CLASSES_MAX + 1
    assert max(len(held) for held in drawing._held.values()) <= limit
    assert len(drawing.drawn()) == limit
