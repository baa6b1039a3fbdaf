"""Members of documents: what is not what it should be is nothing, and nothing raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers.loose import (
    count,
    listed,
    mapping,
    number,
    plain_count,
    string,
    text,
    time_ms,
    whole,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
)


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), ("7", 7), (7.9, 7), (-1, -1), (True, None), ("-1", None), ("x", None), ("9" * 40, None), (None, None)],
)
def test_a_whole_number_comes_in_several_forms(value, number):
    assert whole(value) == number
    assert count(value) == max(number or 0, 0)


@pytest.mark.parametrize(
    ("value", "as_number", "things"),
    [(7, 7, 7), ("7", None, 0), (7.9, 7, 0), (-1, -1, 0), (True, None, 0), (float("inf"), None, 0), (None, None, 0)],
)
def test_who_reads_a_number_says_in_which_forms_it_may_come(value, as_number, things):
    assert number(value) == as_number
    assert plain_count(value) == things


def test_an_empty_text_is_a_string_and_says_nothing():
    assert (string(""), text("")) == ("", None)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        ("1970-01-01T00:00:01Z", 1_000),
        ("2025-09-07T11:55:07.827892252Z", 1_757_246_107_828),
        ("2025-09-07T13:55:07.827+02:00", 1_757_246_107_827),
        ("1970-01-01T00:00:01", 1_000),
        ("yesterday", 0),
        (7, 0),
        (None, 0),
    ],
)
def test_an_instant_is_read_with_any_number_of_decimals(value, ms):
    assert time_ms(value) == ms


@given(ANYTHING)
def test_nothing_raises_and_each_gives_its_own_kind(value):
    assert text(value) is None or text(value) == value != ""
    assert string(value) == (value if isinstance(value, str) else None)
    assert isinstance(mapping(value), dict)
    assert isinstance(listed(value), list)
    assert count(value) >= plain_count(value) >= 0
    assert isinstance(time_ms(value), int)
    assert whole(value) is None or isinstance(whole(value), int)
    assert number(value) in {None, whole(value)}
