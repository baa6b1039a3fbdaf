"""Money in whole nano-dollars: exact, frozen, and never 0 for what has no price."""

from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.status import Outcome
from batchmill.streams.costing import (
    KINDS,
    OUTPUT_TOKENS_ASSUMED,
    TIERS,
    Bill,
    Expectation,
    PriceError,
    Usage,
    brief,
    cost_nanos,
    dollars_per_million,
    entry_of,
    estimate_tokens,
    expected_nanos,
    parse_prices,
    price_of,
    priced,
    prices_of,
    together_nanos,
    total,
    worst_case_nanos,
    write_prices,
)
from batchmill.streams.ports import RowOutcome

LIST = (
    '{"models": {"gpt-5-mini": {"input": "0.25", "cached": "0.025", "output": "2"},'
    ' "odd": {"input": "0.000001", "output": 3}}}'
)
PRICES = parse_prices(LIST)
MANY = Usage(input_tokens=10**8, output_tokens=10**7)
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


def test_tokens_written_to_the_cache_are_a_part_of_input_and_dearer() -> None:
    prices = prices_of({"m": {"input": "1", "cached": "0.1", "cache_write": "1.25", "output": "5"}})
    usage = Usage(input_tokens=1_000_000, output_tokens=0, cached_tokens=200_000, cache_write_tokens=400_000)
    assert cost_nanos(prices, "m", "online", usage) == 400_000_000 + 20_000_000 + 500_000_000
    overlapping = Usage(input_tokens=10, output_tokens=0, cached_tokens=8, cache_write_tokens=8)
    assert cost_nanos(prices, "m", "online", overlapping) == 8 * 100 + 2 * 1_250


def test_a_batch_rate_of_its_own_goes_before_the_percentage() -> None:
    entry = {"input": "2", "cached": "0.5", "output": "8", "batch": {"cached": "0.5"}, "batch_percent": 40}
    prices = prices_of({"m": entry})
    assert cost_nanos(prices, "m", "batch", Usage(input_tokens=10**6, output_tokens=0)) == 800_000_000
    cached = Usage(input_tokens=10**6, output_tokens=0, cached_tokens=10**6)
    assert cost_nanos(prices, "m", "batch", cached) == 500_000_000


@pytest.mark.parametrize(("input_tokens", "dollars"), [(200_000, 3), (200_001, 6), (400_000, 6), (400_001, 9)])
def test_a_longer_prompt_is_dearer_in_all_its_tokens(input_tokens: int, dollars: int) -> None:
    above = {"400000": {"input": "9"}, "200000": {"input": "6", "output": "20"}}
    prices = prices_of({"m": {"input": "3", "output": "15", "above": above}})
    cost = cost_nanos(prices, "m", "online", Usage(input_tokens=input_tokens, output_tokens=0))
    assert cost == input_tokens * dollars * 1_000


def test_a_band_leaves_at_the_usual_rate_what_it_does_not_mention() -> None:
    entry = {"input": "3", "cached": "1", "output": "15", "batch": {"output": "6"}, "above": {"100": {"input": "6"}}}
    longer = price_of("m", entry).bands[1]
    usual = price_of("m", entry).bands[0]
    assert (longer.cached, longer.output) == (usual.cached, usual.output)
    assert longer.input.online == 2 * usual.input.online
    # what it does mention takes no batch rate from below: that would be the cheaper prompt's
    dearer = price_of("m", entry | {"above": {"100": {"output": "30"}}}).bands[1].output
    assert dearer is not None
    assert dearer.batch is None


@pytest.mark.parametrize(("input_tokens", "cost"), [(0, 0), (499_999, 0), (500_000, 1), (999_999, 1), (1_500_000, 2)])
def test_half_a_nano_dollar_rounds_up(input_tokens: int, cost: int) -> None:
    tiny = parse_prices('{"models": {"m": {"input": "0.000000001", "output": 0}}}')
    assert cost_nanos(tiny, "m", "online", Usage(input_tokens=input_tokens, output_tokens=0)) == cost


def test_an_unknown_model_or_mode_is_unpriced_not_free() -> None:
    usage = Usage(input_tokens=1, output_tokens=1)
    assert cost_nanos(PRICES, "gpt-6", "batch", usage) is None
    assert cost_nanos(PRICES, "gpt-5-mini", "carrier-pigeon", usage) is None
    assert total([5, None, 7, None]) == Bill(12, 2)


def test_output_of_a_model_that_sells_none_is_unpriced_not_free() -> None:
    prices = prices_of({"embed": {"input": "0.02", "output": None}})
    assert cost_nanos(prices, "embed", "batch", Usage(input_tokens=1_000_000, output_tokens=0)) == 10_000_000
    assert cost_nanos(prices, "embed", "batch", Usage(input_tokens=1_000_000, output_tokens=1)) is None
    assert worst_case_nanos(prices, "embed", "batch", input_tokens=1, output_tokens_max=1) is None


@pytest.mark.parametrize("name", ["gpt-5-mini-2025-08-07", "gpt-5-mini-20250807", "gpt-5-mini"])
def test_a_dated_name_costs_what_its_undated_name_costs(name: str) -> None:
    assert PRICES.of(name) is PRICES.models["gpt-5-mini"]
    assert PRICES.of("gpt-5-mini-turbo") is None


# -- exactness ---------------------------------------------------------------------------------------------------------

#: as many digits as a float has, at any size a price has
written = st.builds(
    lambda digits, exponent: f"{digits}e-{exponent}", st.integers(0, 10**17 - 1), st.integers(8, 24)
) | st.floats(0, 10**6).map(lambda number: number if number == 0 or number > 1e-7 else 0.0)
rates = st.fixed_dictionaries(
    {"input": written, "output": written}, optional={"cached": written, "cache_write": written}
)
batch_rates = st.fixed_dictionaries({}, optional=dict.fromkeys(KINDS, written))
entries = st.builds(
    lambda base, batch, percent, above: (
        base
        | ({"batch": batch} if batch else {})
        | ({"batch_percent": percent} if percent is not None else {})
        | ({"above": above} if above else {})
    ),
    rates,
    batch_rates,
    st.none() | st.integers(0, 100),
    st.dictionaries(
        st.integers(1, 10**6).map(str),
        st.builds(lambda base, batch: base | {"batch": batch}, rates, batch_rates),
        max_size=3,
    ),
)
usages = st.builds(
    lambda fresh, cached, new, output: Usage(
        input_tokens=fresh + cached + new, output_tokens=output, cached_tokens=cached, cache_write_tokens=new
    ),
    *[st.integers(0, 10**7)] * 4,
)


def exactly(entry: dict[str, Any], tier: str, usage: Usage) -> Fraction:
    """The cost in nano-dollars by the definitions, in rational numbers."""
    starts = sorted(int(text) for text in entry.get("above", {}))
    reached = [start for start in starts if usage.input_tokens > start]
    level = entry["above"][str(reached[-1])] if reached else entry
    if level is not entry:
        mentioned = {kind: level[kind] for kind in KINDS if kind in level}
        level = {
            **{kind: entry[kind] for kind in KINDS if kind in entry},
            **mentioned,
            "batch": {
                **{kind: rate for kind, rate in entry.get("batch", {}).items() if kind not in mentioned},
                **level.get("batch", {}),
            },
        }

    def rate(kind: str) -> Fraction:
        batch = level.get("batch", {})
        if kind not in level and kind not in batch:
            kind = "input"
        online = Fraction(str(level.get(kind, level["input"])))
        if tier == "online":
            return online
        return Fraction(str(batch[kind])) if kind in batch else online * entry.get("batch_percent", 50) / 100

    fresh = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
    amounts = {
        "input": fresh,
        "cached": usage.cached_tokens,
        "cache_write": usage.cache_write_tokens,
        "output": usage.output_tokens,
    }
    return sum((count * rate(kind) for kind, count in amounts.items()), Fraction(0)) * 10**9 / 10**6


@given(entries, usages, st.sampled_from(TIERS))
def test_a_cost_is_the_exact_one_rounded_once(entry: dict[str, Any], usage: Usage, tier: str) -> None:
    cost = cost_nanos(prices_of({"m": entry}), "m", tier, usage)
    exact = exactly(entry, tier, usage)
    assert cost == int(exact + Fraction(1, 2))
    assert abs(cost - exact) <= Fraction(1, 2)


@given(st.dictionaries(st.text(max_size=20), entries, max_size=4))
def test_a_list_is_read_back_as_the_very_same_list(listed: dict[str, Any]) -> None:
    prices = prices_of(listed, source="mine", as_of="2026-11-25")
    assert parse_prices(write_prices(prices)) == prices


@given(entries)
def test_a_price_is_shown_with_every_digit_it_has(entry: dict[str, Any]) -> None:
    price = price_of("m", entry)
    first = price.bands[0].input
    assert Fraction(dollars_per_million(price, first, "online")) == Fraction(str(entry["input"]))
    batch = entry.get("batch", {}).get("input")
    percent = Fraction(entry.get("batch_percent", 50), 100)
    expected = Fraction(str(entry["input"])) * percent if batch is None else Fraction(str(batch))
    assert Fraction(dollars_per_million(price, first, "batch")) == expected


@given(tokens, tokens, tokens, tokens)
def test_more_tokens_never_cost_less_and_the_worst_case_bounds_them(a: int, b: int, cached: int, new: int) -> None:
    prices = prices_of({"m": {"input": "1", "cached": "0.1", "cache_write": "1.25", "output": "5"}})
    cached = min(a, cached)
    parts = {"cached_tokens": cached, "cache_write_tokens": min(a - cached, new)}
    cost = cost_nanos(prices, "m", "batch", Usage(input_tokens=a, output_tokens=b, **parts))
    more = cost_nanos(prices, "m", "batch", Usage(input_tokens=a + 1, output_tokens=b, **parts))
    worst = worst_case_nanos(prices, "m", "batch", input_tokens=a, output_tokens_max=b)
    assert cost is not None
    assert more is not None
    assert worst is not None
    assert 0 <= cost <= more
    assert cost <= worst


# -- rows --------------------------------------------------------------------------------------------------------------


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


def test_a_row_says_what_it_wrote_to_the_cache() -> None:
    prices = prices_of({"m": {"input": "1", "cache_write": "2", "output": "5"}})
    assert priced(prices, "online", "m", row(model="m", cache_write_tokens=1_000_000))[0] == 2_000_000_000


def test_a_row_of_an_unlisted_model_is_unpriced() -> None:
    assert priced(PRICES, "batch", "gpt-6", row(model="gpt-6")) == (None, None)


# -- expectations ------------------------------------------------------------------------------------------------------


def test_an_answer_is_expected_to_use_a_quarter_of_its_room() -> None:
    expected = expected_nanos(PRICES, "gpt-5-mini", "online", input_tokens=1_000, output_tokens_max=401)
    assert expected == 1_000 * 250 + 101 * 2_000
    unlimited = expected_nanos(PRICES, "gpt-5-mini", "online", input_tokens=0, output_tokens_max=None)
    assert unlimited == OUTPUT_TOKENS_ASSUMED // 4 * 2_000


def test_what_is_unpriced_is_expected_to_cost_nothing_that_can_be_told() -> None:
    costs = Expectation(prices=PRICES, model="gpt-6", output_tokens_max={"": 10})
    assert costs.expected("batch", "", 100) == 0


def test_many_calls_are_costed_together_unless_their_prompts_may_be_long() -> None:
    prices = prices_of({"m": {"input": "1", "output": "2", "above": {"1000": {"input": "9"}}}})
    short = Usage(input_tokens=1_000, output_tokens=10)
    assert together_nanos(prices, "m", "online", short) == 1_020_000
    # two prompts of 600 tokens, or a long one: who knows
    assert together_nanos(prices, "m", "online", Usage(input_tokens=1_200, output_tokens=10)) is None
    assert together_nanos(PRICES, "gpt-5-mini", "batch", MANY) == cost_nanos(PRICES, "gpt-5-mini", "batch", MANY)
    assert together_nanos(PRICES, "unheard-of", "batch", short) is None


#: (text, what one of its tokens is in bytes at the very least and most): bounds of the vocabularies of 2024 and later
SCRIPTS = [
    ("The quick brown fox jumps over the lazy dog, as it has always done.", 3.0, 6.0),
    ("Быстрая коричневая лиса прыгает через ленивую собаку.", 3.0, 12.0),
    ("敏捷的棕色狐狸跳过懒惰的狗。", 2.0, 6.0),
    ("الثعلب البني السريع يقفز فوق الكلب الكسول", 2.0, 10.0),
    ("तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है", 3.0, 16.0),
]


@pytest.mark.parametrize(("text", "shortest", "longest"), SCRIPTS)
def test_an_estimate_is_within_what_a_script_can_take(text: str, shortest: float, longest: float) -> None:
    size = len(text.encode())
    assert size / longest <= estimate_tokens(size) <= size / shortest * 1.5
    assert estimate_tokens(size) <= len(text), "never more than one token a character"


def test_an_estimate_is_never_below_a_quarter_of_the_bytes() -> None:
    assert [estimate_tokens(size) for size in (0, 1, 4, 5, 400)] == [0, 1, 1, 2, 100]


# -- lists as text -----------------------------------------------------------------------------------------------------


def test_the_id_of_a_price_list_changes_with_its_prices_only() -> None:
    spaced = LIST.replace(": ", ":   ").replace('"0.25"', '"0.2500"')
    assert parse_prices(spaced).id == PRICES.id
    named = orjson.loads(LIST) | {"source": "elsewhere", "as_of": "2027-01-01"}
    assert parse_prices(orjson.dumps(named)).id == PRICES.id
    assert parse_prices(LIST.replace('"2"', '"2.1"')).id != PRICES.id


def test_an_entry_says_every_rate_once_it_is_frozen() -> None:
    assert entry_of(price_of("m", {"input": 1, "output": 2.5})) == {
        "input": "1",
        "cached": "1",
        "cache_write": "1",
        "output": "2.5",
    }


def test_a_price_on_one_line_names_both_tiers_and_the_steps() -> None:
    entry = {"input": "2.5", "cached": "0.25", "output": "15", "above": {"272000": {"input": "5"}}}
    assert brief(price_of("m", entry)) == (
        "input $2.5 / $1.25, cached $0.25 / $0.125, output $15 / $7.5 a million tokens online / batch;"
        " dearer above 272,000 prompt tokens"
    )


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '{"models": []}',
        '{"models": {"m": []}}',
        '{"models": {"m": {"input": "0.1"}}}',
        '{"models": {"m": {"input": null, "output": 1}}}',
        '{"models": {"m": {"input": "cheap", "output": 1}}}',
        '{"models": {"m": {"input": "-1", "output": 1}}}',
        '{"models": {"m": {"input": "NaN", "output": 1}}}',
        '{"models": {"m": {"input": "Infinity", "output": 1}}}',
        '{"models": {"m": {"input": true, "output": 1}}}',
        '{"models": {"m": {"input": "1e9", "output": 1}}}',
        '{"models": {"m": {"input": "1e999999999", "output": 1}}}',
        '{"models": {"m": {"input": "1e-999999999", "output": 1}}}',
        '{"models": {"m": {"input": "1e-25", "output": 1}}}',
        '{"models": {"m": {"input": 1, "output": 1, "cache-write": 1}}}',
        '{"models": {"m": {"input": 1, "output": 1, "batch": {"inputs": 1}}}}',
        '{"models": {"m": {"input": 1, "output": 1, "batch": 0.5}}}',
        '{"models": {"m": {"input": 1, "output": 1, "batch_percent": 101}}}',
        '{"models": {"m": {"input": 1, "output": 1, "batch_percent": 50.0}}}',
        '{"models": {"m": {"input": 1, "output": 1, "above": []}}}',
        '{"models": {"m": {"input": 1, "output": 1, "above": {"0": {"input": 1}}}}}',
        '{"models": {"m": {"input": 1, "output": 1, "above": {"200k": {"input": 1}}}}}',
        '{"models": {"m": {"input": 1, "output": 1, "above": {"99999999999999999999": {"input": 1}}}}}',
        '{"models": {"m": {"input": 1, "output": 1, "above": {"9": {"above": {}}}}}}',
    ],
)
def test_a_price_list_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PriceError):
        parse_prices(text)


junk = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)
odd_entries = st.recursive(junk, st.lists, max_leaves=5) | st.dictionaries(
    st.sampled_from([*KINDS, "batch", "above", "note"]), junk | st.dictionaries(st.sampled_from(KINDS), junk)
)


@given(odd_entries)
def test_an_entry_is_a_price_or_a_price_error_whatever_it_holds(entry: Any) -> None:
    try:
        made = price_of("m", entry)
    except PriceError:
        return
    assert (
        cost_nanos(prices_of({"m": entry_of(made)}), "m", "batch", Usage(input_tokens=1, output_tokens=0)) is not None
    )
