"""Money in whole nano-dollars: exact, frozen, and never 0 for what has no price."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.status import Outcome
from batchmill.streams.costing import (
    Bill,
    PriceError,
    Usage,
    cost_nanos,
    estimate_tokens,
    parse_prices,
    priced,
    total,
    worst_case_nanos,
)
from batchmill.streams.ports import RowOutcome

LIST = (
    '{"models": {"gpt-5-mini": {"input": "0.25", "cached": "0.025", "output": "2"},'
    ' "odd": {"input": "0.000001", "output": 3}}}'
)
PRICES = parse_prices(LIST)
tokens = st.integers(0, 10**9)


def test_a_million_tokens_each_way_cost_what_the_list_says() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    assert cost_nanos(PRICES, "gpt-5-mini", "online", usage) == 2_250_000_000
    assert cost_nanos(PRICES, "gpt-5-mini", "batch", usage) == 1_125_000_000


def test_cached_tokens_are_a_part_of_input_and_cheaper() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0, cached_tokens=400_000)
    assert cost_nanos(PRICES, "gpt-5-mini", "online", usage) == 150_000_000 + 10_000_000
    impossible = Usage(input_tokens=10, output_tokens=0, cached_tokens=10_000)
    assert cost_nanos(PRICES, "gpt-5-mini", "online", impossible) == 250


@pytest.mark.parametrize(("input_tokens", "cost"), [(0, 0), (499_999, 0), (500_000, 1), (999_999, 1), (1_500_000, 2)])
def test_half_a_nano_dollar_rounds_up(input_tokens: int, cost: int) -> None:
    tiny = parse_prices('{"models": {"m": {"input": "0.000000001", "output": 0}}}')
    assert cost_nanos(tiny, "m", "online", Usage(input_tokens=input_tokens, output_tokens=0)) == cost


def test_an_unknown_model_or_mode_is_unpriced_not_free() -> None:
    usage = Usage(input_tokens=1, output_tokens=1)
    assert cost_nanos(PRICES, "gpt-6", "batch", usage) is None
    assert cost_nanos(PRICES, "gpt-5-mini", "carrier-pigeon", usage) is None
    assert total([5, None, 7, None]) == Bill(12, 2)


@pytest.mark.parametrize("name", ["gpt-5-mini-2025-08-07", "gpt-5-mini-20250807", "gpt-5-mini"])
def test_a_dated_name_costs_what_its_undated_name_costs(name: str) -> None:
    assert PRICES.of(name) is PRICES.models["gpt-5-mini"]
    assert PRICES.of("gpt-5-mini-turbo") is None


@given(tokens, tokens, tokens)
def test_more_tokens_never_cost_less_and_the_worst_case_bounds_them(a: int, b: int, cached: int) -> None:
    usage = Usage(input_tokens=a, output_tokens=b, cached_tokens=min(a, cached))
    cost = cost_nanos(PRICES, "gpt-5-mini", "batch", usage)
    more = cost_nanos(
        PRICES, "gpt-5-mini", "batch", Usage(input_tokens=a + 1, output_tokens=b, cached_tokens=min(a, cached))
    )
    worst = worst_case_nanos(PRICES, "gpt-5-mini", "batch", input_tokens=a, output_tokens_max=b)
    assert cost is not None
    assert more is not None
    assert worst is not None
    assert 0 <= cost <= more
    assert cost <= worst


def row(**changes: object) -> RowOutcome:
    told: dict[str, object] = {"model": "gpt-5-mini", "input_tokens": 1_000_000, "output_tokens": 0} | changes
    return RowOutcome(custom_id="c", outcome=Outcome.SUCCEEDED, reason=None, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (125_000_000, PRICES.id)),
        ({"model": None}, (125_000_000, PRICES.id)),
        ({"model": "renamed-by-a-gateway"}, (125_000_000, PRICES.id)),
        ({"usage_known": False}, (None, None)),
        ({"billed": False}, (0, None)),
    ],
)
def test_a_row_is_priced_by_its_answer_else_by_what_was_asked(
    changes: dict[str, object], expected: tuple[int | None, str | None]
) -> None:
    assert priced(PRICES, "batch", "gpt-5-mini", row(**changes)) == expected


def test_a_row_of_an_unlisted_model_is_unpriced() -> None:
    assert priced(PRICES, "batch", "gpt-6", row(model="gpt-6")) == (None, None)


def test_the_id_of_a_price_list_changes_with_its_prices_only() -> None:
    spaced = LIST.replace(": ", ":   ")
    assert parse_prices(spaced).id == PRICES.id
    assert parse_prices(LIST.replace('"2"', '"2.1"')).id != PRICES.id


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '{"models": []}',
        '{"models": {"m": {"input": "0.1"}}}',
        '{"models": {"m": {"input": "cheap", "output": 1}}}',
        '{"models": {"m": {"input": "-1", "output": 1}}}',
        '{"models": {"m": {"input": "0.0000000001", "output": 1}}}',
        '{"models": {"m": {"input": "NaN", "output": 1}}}',
    ],
)
def test_a_price_list_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PriceError):
        parse_prices(text)


def test_an_estimate_is_never_below_a_quarter_of_the_bytes() -> None:
    assert [estimate_tokens(size) for size in (0, 1, 4, 5, 400)] == [0, 1, 1, 2, 100]
