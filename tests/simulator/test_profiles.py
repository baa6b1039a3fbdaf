"""Turn-round times as published, and the prompt cache: both off until they are asked for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.simulator import Price, config_from_json, config_to_json
from batchmill.agents.simulator.lives import latency_ms
from batchmill.agents.simulator.pricing import cost_nanos
from batchmill.agents.simulator.profiles import profile_seconds

CHAT = "/v1/chat/completions"
HOUR = 3_600


@given(st.floats(0, 10**10))
def test_openai_takes_14_to_84_minutes_at_any_time_of_day(wall_seconds):
    seconds = profile_seconds("openai", "openai", wall_seconds=wall_seconds, time_scale=1)
    assert 14 * 60 - 1e-6 <= seconds <= 84 * 60 + 1e-6


def test_the_hours_of_the_day_and_the_other_providers_are_as_published():
    at = {hour: profile_seconds("openai", "x", wall_seconds=hour * HOUR, time_scale=1) / 60 for hour in (6, 12, 18)}
    assert at == pytest.approx({6: 14, 12: 49, 18: 84})
    own = {name: profile_seconds("published", name, wall_seconds=0, time_scale=60) for name in ("anthropic", "gemini")}
    assert own == {"anthropic": 164, "gemini": 45}
    assert profile_seconds("published", "mistral", wall_seconds=0, time_scale=60) is None


def test_a_scale_makes_the_whole_day_faster(config):
    fast = replace(config, latency_profile="openai", time_scale=1_000)
    evening_ms = 18 * HOUR  # a day of 86.4 seconds: 18 hours are 64.8 of them
    assert latency_ms(fast, "openai", "key", evening_ms) == pytest.approx(84 * 60, abs=1)
    assert latency_ms(config, "openai", "key", 0) == latency_ms(config, "openai", "key", evening_ms) <= 50


@pytest.mark.parametrize("change", [{"latency_profile": "nobody"}, {"time_scale": 0}])
def test_a_profile_that_is_none_is_refused(config, change):
    with pytest.raises(ValueError, match=r"latency_profile|time_scale"):
        replace(config, **change)


def test_all_of_it_survives_the_json_form(config):
    changed = replace(config, latency_profile="published", time_scale=5.0, prompt_cache_tokens_min=1_024)
    price = Price(input_nanos=100, output_nanos=400, cached_nanos=10, cache_write_nanos=120)
    changed = replace(changed, prices={"m": price}, webhook_url="http://127.0.0.1:1/x")
    assert config_from_json(config_to_json(changed)) == changed


# Prompt cache ------------------------------------------------------------------------------------------------------


def _body(system, text="A good film.", model="gpt-4o"):
    return {"model": model, "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}


async def test_a_system_text_seen_before_is_told_and_billed_as_cached(started, make):
    system = "Classify each text with care. " * 20  # 150 tokens
    async with started(prompt_cache_tokens_min=100) as client:
        first = (await client.http.post(CHAT, json=_body(system))).json()["usage"]
        again = (await client.http.post(CHAT, json=_body(system, "Another text."))).json()["usage"]
        short = (await client.http.post(CHAT, json=_body("Classify."))).json()["usage"]
        other = (await client.http.post(CHAT, json=_body(system, model="gpt-4.1-mini"))).json()["usage"]
        row = make.row("row-1") | {"body": _body(system)}
        ended = await client.round([row])
        bills = client.ledger().bills
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in (first, again, short, other)]
    assert cached == [0, 150, 0, 0]
    assert ended.batch["usage"]["input_tokens_details"]["cached_tokens"] == 150
    assert [bill.cached_tokens for bill in bills] == [0, 150, 0, 0, 150]
    assert bills[1].cost_nanos == (bills[1].input_tokens - 150) * 2_500 + 150 * 1_250 + bills[1].output_tokens * 10_000
    assert (
        bills[4].cost_nanos * 2 == (bills[4].input_tokens - 150) * 2_500 + 150 * 1_250 + bills[4].output_tokens * 10_000
    )


async def test_a_model_that_charges_for_writing_the_cache_tells_what_it_wrote(started):
    price = Price(input_nanos=100, output_nanos=400, cached_nanos=10, cache_write_nanos=120)
    async with started(prompt_cache_tokens_min=2, prices={"m": price}) as client:
        usage = [(await client.http.post(CHAT, json=_body("Classify this.", model="m"))).json()["usage"] for _ in "ab"]
        first, second = client.ledger().bills
    details = [each["prompt_tokens_details"] for each in usage]
    assert details == [{"cached_tokens": 0, "cache_write_tokens": 4}, {"cached_tokens": 4, "cache_write_tokens": 0}]
    assert first.cost_nanos - second.cost_nanos == 4 * (120 - 10)


async def test_without_the_setting_nothing_is_cached(client):
    for _ in range(2):
        await client.http.post(CHAT, json=_body("Classify. " * 2_000))
    assert {bill.cached_tokens for bill in client.ledger().bills} == {0}


prices = st.builds(
    Price,
    input_nanos=st.integers(0, 1_000).map(lambda n: 2 * n),
    output_nanos=st.integers(0, 1_000).map(lambda n: 2 * n),
    cached_nanos=st.none() | st.integers(0, 1_000).map(lambda n: 2 * n),
    cache_write_nanos=st.none() | st.integers(0, 1_000).map(lambda n: 2 * n),
)
counts = st.integers(0, 10**6)


@given(price=prices, fresh=counts, cached=counts, written=counts, output=counts)
def test_half_price_is_half_to_the_last_nano_dollar_whatever_was_cached(price, fresh, cached, written, output):
    tokens = {
        "input_tokens": fresh + cached + written,
        "output_tokens": output,
        "cached_tokens": cached,
        "cache_write_tokens": written,
    }
    assert price.divides_at(50)
    assert 2 * cost_nanos(price, **tokens, percent=50) == cost_nanos(price, **tokens, percent=100)
    uncached = replace(price, cached_nanos=None, cache_write_nanos=None)
    whole = (fresh + cached + written) * price.input_nanos + output * price.output_nanos
    assert cost_nanos(uncached, **tokens, percent=100) == whole
