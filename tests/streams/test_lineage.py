"""What an event says of where it comes from is read strictly, and is written as it is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.lineage import NESTED_MAX, PARENT, PARTS_MAX, Part, parent_of, parts_of, whole_of, written

REQUESTS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32)
PARTS = st.integers(1, PARTS_MAX).flatmap(
    lambda of: st.builds(
        Part, st.integers(1, of), st.just(of), REQUESTS, st.tuples(st.integers(0, 2**62), st.integers(0, 999))
    )
)
WHOLE = "a" * 32


@given(st.lists(PARTS, max_size=NESTED_MAX))
def test_what_is_written_is_read_back(parts: list[Part]) -> None:
    assert parts_of(written(parts)) == tuple(parts)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "1/2",
        f"0/2/{WHOLE}/1.0",
        f"3/2/{WHOLE}/1.0",
        f"1/{PARTS_MAX + 1}/{WHOLE}/1.0",
        f"1/2/{WHOLE.upper()}/1.0",
        f"1/2/{WHOLE}/1",
        f"1/2/{WHOLE}/1.0 ",
        f"1/2/{WHOLE}/1.0\n",
        " ".join([f"1/2/{WHOLE}/1.0"] * (NESTED_MAX + 1)),
    ],
)
def test_what_cannot_be_a_part_is_none(text: str | None) -> None:
    assert parts_of(text) == ()


@pytest.mark.parametrize("named", ["", "x", WHOLE + "a", "A" * 32, WHOLE[:-1] + "1"])
def test_a_parent_that_is_no_request_is_passed_over(named: str) -> None:
    assert parent_of({PARENT: named}) is None
    assert parent_of({PARENT: WHOLE}) == WHOLE


@given(st.text(min_size=1), st.integers(1, 99))
def test_the_source_of_a_part_names_that_of_its_whole(source: str, number: int) -> None:
    assert whole_of(f"{source}#{number}") == source
