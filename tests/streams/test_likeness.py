"""How alike two inputs are: the estimate, its error, and that it is the same everywhere."""

import subprocess
import sys
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.likeness import VALUES, Likeness, alike, bands, likeness_of, similarity, threshold_of

texts = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "epsilon"]), min_size=1, max_size=60).map(" ".join)


def of(value: object, *, shingle: int = 1, threshold: float = 0.9) -> Likeness:
    made = likeness_of(value, shingle, threshold)
    assert made is not None
    return made


def pair(chance: Random, share: float, words: int = 400) -> tuple[str, str]:
    """Two texts of distinct words of which `share` of the union is common."""
    common = round(words * share)
    names = [f"w{chance.randrange(10**12)}" for _ in range(words)]
    alone = (words - common) // 2
    left, right = names[common : common + alone], names[common + alone :]
    return " ".join(names[:common] + left), " ".join(names[:common] + right)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.97])
def test_the_estimate_is_off_by_no_more_than_its_error_says(share: float) -> None:
    chance = Random(7)
    found = [similarity(of(one).key, of(other).key) for one, other in (pair(chance, share) for _ in range(100))]
    error = (share * (1 - share) / VALUES) ** 0.5
    assert abs(mean(found) - share) < 4 * error / 10  # the mean of a hundred
    assert max(abs(each - share) for each in found) < 5 * error
    assert mean((each - share) ** 2 for each in found) ** 0.5 < 1.5 * error


@pytest.mark.parametrize(("threshold", "share", "at_least"), [(0.9, 0.95, 0.97), (0.8, 0.88, 0.9), (0.5, 0.7, 0.85)])
def test_pairs_above_the_threshold_share_a_band(threshold: float, share: float, at_least: float) -> None:
    chance = Random(11)
    both = [[set(bands(of(text, threshold=threshold).key)) for text in pair(chance, share)] for _ in range(200)]
    assert mean(bool(one & other) for one, other in both) >= at_least


def test_pairs_that_have_little_in_common_share_a_band_seldom() -> None:
    chance = Random(13)
    both = [[set(bands(of(text).key)) for text in pair(chance, 0.3)] for _ in range(200)]
    assert mean(bool(one & other) for one, other in both) < 0.05


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_pair_is_placed_together_as_often_as_it_is_alike(share: float) -> None:
    chance = Random(17)
    together = [of(one).placing == of(other).placing for one, other in (pair(chance, share) for _ in range(400))]
    assert abs(mean(together) - share) < 0.08


@given(texts)
def test_what_is_the_same_is_all_alike_and_case_and_marks_do_not_count(text: str) -> None:
    assert similarity(of({"body": text}).key, of({"body": f" {text.upper()}! "}).key) == 1


@given(texts, texts)
def test_likeness_has_no_order(one: str, other: str) -> None:
    first, second = of(one, threshold=0.5).key, of(other, threshold=0.5).key
    assert similarity(first, second) == similarity(second, first)
    assert alike(first, second) == alike(second, first)


def test_a_number_counts_and_so_does_where_it_stands() -> None:
    bill = {"text": "please pay", "amount": 5, "paid": False}
    assert similarity(of(bill).key, of(bill | {"amount": 500}).key) < 1
    assert similarity(of(bill).key, of(bill | {"paid": True}).key) < 1
    assert similarity(of({"a": 1}).key, of({"b": 1}).key) < 1


def test_an_input_with_nothing_in_it_is_like_none() -> None:
    assert likeness_of({"body": "", "note": None, "parts": [" !"]}, 5, 0.9) is None


def test_a_text_shorter_than_a_shingle_is_one() -> None:
    assert of("two words", shingle=5).key == of("Two words.", shingle=5).key


def test_a_key_says_what_counts_as_alike() -> None:
    assert threshold_of(of("x", threshold=0.875).key) == 0.875


def test_the_same_text_has_the_same_signature_in_every_process() -> None:
    told = "from batchmill.streams.likeness import likeness_of; print(likeness_of({'a': 'one two three'}, 2, 0.9))"
    said = []
    for seed in ("0", "1"):
        ran = subprocess.run(
            [sys.executable, "-c", told], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        said.append(ran.stdout.decode().strip())
    assert said == [str(likeness_of({"a": "one two three"}, 2, 0.9))] * 2
