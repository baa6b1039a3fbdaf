"""Where prices come from, and that a job keeps those it was applied with."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchmill.agents.cli.program import run
from batchmill.agents.prices import freeze, load_prices
from batchmill.agents.prices.bundled import BundledPrices
from batchmill.agents.prices.litellm import is_litellm
from batchmill.agents.prices.sources import parse_list
from batchmill.agents.settings import SettingsError
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.streams.compiling import compile_job
from batchmill.streams.costing import (
    PriceError,
    Prices,
    Usage,
    cost_nanos,
    entry_of,
    parse_prices,
    prices_of,
    write_prices,
)

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)

LITELLM = {
    "sample_spec": {"input_cost_per_token": 0.0, "max_tokens": "set this to the maximum"},
    "gpt-x": {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_tokens": 16384,
        "input_cost_per_token": 2.5e-06,
        "input_cost_per_token_batches": 1.25e-06,
        "cache_read_input_token_cost": 2.5e-07,
        "output_cost_per_token": 1e-05,
        "output_cost_per_token_batches": 5e-06,
        "input_cost_per_token_priority": 4e-06,
    },
    "gemini/long": {
        "input_cost_per_token": 1.25e-06,
        "input_cost_per_token_above_200k_tokens": 2.5e-06,
        "output_cost_per_token": 1e-05,
        "output_cost_per_token_above_200k_tokens": 1.5e-05,
        "cache_creation_input_token_cost": 1.625e-06,
        "cache_creation_input_token_cost_above_200k_tokens": 3.25e-06,
        "cache_creation_input_token_cost_above_1hr": 9e-06,
    },
    "azure/gpt-x": {"input_cost_per_token": 3e-06, "output_cost_per_token": 1.1e-05},
    "gpt-x-2024-05-13": {"input_cost_per_token": 5e-06, "output_cost_per_token": 1.5e-05},
    "gpt-x-2025-01-01": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": None},
    "tiny": {"input_cost_per_token": 2.0000000000000002e-07, "output_cost_per_token": 1.2345678901234567e-08},
    "free-or-unknown": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "by-the-second": {"input_cost_per_second": 0.0001},
}


def litellm(document: Any = LITELLM):
    return parse_list(orjson.dumps(document), source="model_prices.json", as_of="2026-11-25")


def day(year: int, month: int, on: int) -> int:
    return round(datetime(year, month, on, 12, tzinfo=UTC).timestamp() * 1000)


NOW = BundledPrices(day(2026, 11, 25))


# -- LiteLLM -----------------------------------------------------------------------------------------------------------


def test_litellms_list_is_known_by_what_is_in_it() -> None:
    assert is_litellm(LITELLM)
    assert not is_litellm({"models": LITELLM})
    assert not is_litellm({})
    assert not is_litellm([LITELLM])
    assert "LiteLLM" in litellm().source


def test_litellms_rates_are_those_of_a_token_times_a_million() -> None:
    prices = litellm().prices
    assert entry_of(prices.models["gpt-x"]) == {
        "input": "2.5",
        "cached": "0.25",
        "cache_write": "2.5",
        "output": "10",
        "batch": {"input": "1.25", "cache_write": "1.25", "output": "5"},
    }
    assert entry_of(prices.models["tiny"])["input"] == "0.20000000000000002"
    assert entry_of(prices.models["tiny"])["output"] == "0.012345678901234567"


def test_a_kind_without_a_batch_rate_in_litellms_list_takes_the_percentage() -> None:
    cached = Usage(input_tokens=1_000_000, output_tokens=0, cached_tokens=1_000_000)
    assert cost_nanos(litellm(), "gpt-x", "batch", cached) == 125_000_000


def test_litellms_steps_by_prompt_length_hold_above_them_and_those_by_time_do_not_matter() -> None:
    usage = Usage(input_tokens=200_001, output_tokens=0, cache_write_tokens=1)
    assert cost_nanos(litellm(), "gemini/long", "online", usage) == 200_000 * 2_500 + 3_250
    at_the_step = replace(usage, input_tokens=200_000)
    assert cost_nanos(litellm(), "gemini/long", "online", at_the_step) == 199_999 * 1_250 + 1_625


def test_what_litellm_lists_at_nothing_or_not_by_the_token_is_unpriced() -> None:
    for name in ("free-or-unknown", "by-the-second", "sample_spec", "unheard-of"):
        assert litellm().of(name) is None
    assert cost_nanos(litellm(), "gpt-x-2025-01-01", "online", MILLION) is None, "it lists no rate for output"


def test_a_name_with_its_provider_goes_before_the_name_alone() -> None:
    frozen = {kind: freeze(litellm(), provider=kind, model="gpt-x") for kind in ("azure", "openai", "gemini")}
    assert {kind: cost_nanos(prices, "gpt-x", "online", MILLION) for kind, prices in frozen.items()} == {
        "azure": 14_000_000_000,
        "openai": 12_500_000_000,
        "gemini": 12_500_000_000,
    }
    long = freeze(litellm(), provider="gemini", model="long")
    assert list(long.models) == ["long"]


@pytest.mark.parametrize(
    "entry",
    [
        [],
        "free",
        {"input_cost_per_token": "cheap", "output_cost_per_token": 1},
        {"input_cost_per_token": True, "output_cost_per_token": 1},
        {"input_cost_per_token": -1e-06, "output_cost_per_token": 1},
        {"input_cost_per_token": "NaN", "output_cost_per_token": 1},
        {"input_cost_per_token": "1e-999999999", "output_cost_per_token": 1},
        {"input_cost_per_token": 1e-06, "input_cost_per_token_above_0k_tokens": 1, "output_cost_per_token": 1},
    ],
)
def test_an_entry_of_litellms_that_cannot_be_read_is_refused_by_name(entry: Any) -> None:
    with pytest.raises(PriceError, match="price of odd"):
        litellm(LITELLM | {"odd": entry})


# -- genai-prices ------------------------------------------------------------------------------------------------------


def test_every_price_that_genai_prices_has_can_be_taken_over() -> None:
    listed = NOW.listed()
    assert len(listed) > 100
    assert parse_prices(write_prices(prices_of({n: entry_of(p) for n, p in listed.items()}))).models == listed


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "mistral"])
def test_what_is_taken_over_costs_what_genai_prices_itself_computes(provider: str) -> None:
    """Against the package's own arithmetic, with cache, step by prompt length, and batch."""
    from genai_prices.data import providers  # noqa: PLC0415  heavy
    from genai_prices.types import Usage as TheirUsage  # noqa: PLC0415

    at = datetime(2026, 11, 25, 12, tzinfo=UTC)
    seller = next(each for each in providers if each.id == {"gemini": "google"}.get(provider, provider))
    models = {each.id: each for each in seller.models}
    compared = 0
    for name, price in NOW.listed().items():
        kind, _, model = name.partition("/")
        if kind != provider or price.bands[0].output is None or _by_the_hour(models[model]):
            continue
        for tokens in (1_000, 100_001, 300_000):
            usage = Usage(input_tokens=tokens, output_tokens=50, cached_tokens=100, cache_write_tokens=10)
            told = TheirUsage(input_tokens=tokens, output_tokens=50, cache_read_tokens=100, cache_write_tokens=10)
            for tier, context in (("online", None), ("batch", {"processing": "batch"})):
                if tier == "batch" and price.bands[0].input.batch is None:
                    continue
                sold = models[model].calc_price(told, seller, genai_request_timestamp=at, price_context=context)
                ours = cost_nanos(Prices("x", {model: price}), model, tier, usage)
                assert ours is not None
                assert abs(ours - sold.total_price * 10**9) <= 0.5, (name, tier, tokens)
                compared += 1
    assert compared > 20


def _by_the_hour(model: Any) -> bool:
    prices = model.prices if isinstance(model.prices, list) else []
    return any(hasattr(each.constraint, "start_time") for each in prices)


def test_a_price_is_the_one_of_its_day() -> None:
    before, after = BundledPrices(day(2026, 10, 13)), BundledPrices(day(2026, 10, 14))
    cached = Usage(input_tokens=1_000_000, output_tokens=0, cached_tokens=1_000_000)
    costs = [cost_nanos(freeze(each, provider="openai", model="gpt-4o-mini"), "gpt-4o-mini", "batch", cached)
             for each in (before, after)]  # fmt: skip
    assert costs == [37_500_000, 75_000_000], "half of it, until the list says that a batch pays the full rate"
    assert (before.as_of, after.as_of) == ("2026-10-13", "2026-10-14")
    assert before.id != after.id


def test_a_release_sold_for_another_price_is_frozen_beside_its_model() -> None:
    frozen = freeze(NOW, provider="openai", model="gpt-4o")
    assert cost_nanos(frozen, "gpt-4o-2024-05-13", "online", MILLION) == 20_000_000_000
    assert cost_nanos(frozen, "gpt-4o-2024-08-06", "online", MILLION) == 12_500_000_000


@pytest.mark.parametrize(("provider", "model"), [("compatible", "gpt-4o"), ("openai", "gpt-99"), ("nobody", "gpt-4o")])
def test_a_server_of_ones_own_and_an_unknown_model_have_no_list_price(provider: str, model: str) -> None:
    assert freeze(NOW, provider=provider, model=model).models == {}


def test_a_model_is_found_by_its_name_alone_where_nothing_else_is_known() -> None:
    assert NOW.of("claude-haiku-4-5-20251001") == NOW.of("claude-haiku-4-5") is not None
    assert NOW.of("my-own-model") is None


# -- files, and what is frozen -----------------------------------------------------------------------------------------


def test_the_list_of_the_settings_is_read_or_the_process_stops(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"source": "contract 7", "as_of": "2026-01-01", "models": {"m": {"input": 1, "output": 2}}}')
    loaded = load_prices(file)
    assert (loaded.source, loaded.as_of) == ("contract 7", "2026-01-01")
    assert load_prices(None).source.startswith("genai-prices ")
    for text in ("", "nonsense", "[]", '{"models": {"m": {}}}'):
        file.write_text(text)
        with pytest.raises(SettingsError, match=r"mine\.json.*BATCHMILL_PRICES_FILE"):
            load_prices(file)
    with pytest.raises(SettingsError, match=r"absent\.json"):
        load_prices(tmp_path / "absent.json")


def test_the_discount_of_the_provider_is_frozen_where_the_list_has_none() -> None:
    own = parse_list(b'{"models": {"m": {"input": 1, "output": 2}}}', source="s", as_of="d")
    assert freeze(own, provider="openai", model="m").models["m"].batch_percent == 50
    said = parse_list(b'{"models": {"m": {"input": 1, "output": 2, "batch_percent": 40}}}', source="s", as_of="d")
    assert freeze(said, provider="openai", model="m").models["m"].batch_percent == 40


def a_job(prices: Prices | None) -> JobSpec:
    return JobSpec(
        job="triage",
        ask=AskSpec(user="{{ input.text }}", model=ModelSpec(provider="openai", name="m")),
        place=PlaceSpec(sink="sqlite", table="triage"),
        prices_json=None if prices is None else write_prices(prices),
    )


def test_a_job_is_costed_by_what_was_frozen_whatever_becomes_of_the_list(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"models": {"m": {"input": 1, "output": 2}}}')
    frozen = freeze(load_prices(file), provider="openai", model="m")
    applied = JobSpec.from_json(a_job(frozen).to_json())
    file.write_text('{"models": {"m": {"input": 100, "output": 200}}}')
    used = compile_job(applied, "v").costed_by(load_prices(file))
    assert cost_nanos(used, "m", "online", MILLION) == 3_000_000_000
    assert used.id == frozen.id
    assert cost_nanos(compile_job(a_job(None), "v").costed_by(load_prices(file)), "m", "online", MILLION) == 300 * 10**9


def test_a_job_applied_unpriced_stays_unpriced_though_a_worker_knows_a_price() -> None:
    worker = parse_list(b'{"models": {"m": {"input": 1, "output": 2}}}', source="s", as_of="d")
    unpriced = freeze(NOW, provider="openai", model="m")
    assert cost_nanos(compile_job(a_job(unpriced), "v").costed_by(worker), "m", "batch", MILLION) is None


# -- commands ----------------------------------------------------------------------------------------------------------


def test_prices_show_prints_each_rate_in_both_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prices", "show", "claude-haiku-4-5", "--provider", "anthropic"]) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert ["claude-haiku-4-5", "0", "cache_write", "1.25", "0.625"] in rows
    assert "genai-prices" in err
    assert run(["prices", "show", "claude-haiku-4-5", "--provider", "anthropic", "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["models"]["claude-haiku-4-5"]["output"] == "5"


def test_prices_show_says_unpriced_and_never_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prices", "show", "gpt-99"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "unpriced" in err


def test_prices_list_can_be_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prices", "list", "openai/gpt-4o-mini", "--json"]) == 0
    models = orjson.loads(capsys.readouterr().out)["models"]
    assert "openai/gpt-4o-mini" in models
    assert all(name.startswith("openai/gpt-4o-mini") for name in models)


JOB_YAML = """job: triage
ask:
  prompt: {user: user.j2}
  model:
    provider: openai
    name: gpt-99
place: {sink: sqlite, table: triage}
"""


def test_validate_and_plan_say_that_a_model_is_unpriced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(JOB_YAML)
    (tmp_path / "user.j2").write_text("{{ input.text }}")
    (tmp_path / "samples.jsonl").write_text('{"text": "hello"}\n')
    assert run(["job", "validate", str(tmp_path), "--json"]) == 0
    problems = orjson.loads(capsys.readouterr().out)["problems"]
    (unpriced,) = (each for each in problems if "unpriced" in each["what"])
    assert (unpriced["level"], unpriced["line"]) == ("warning", 6)
    assert run(["job", "plan", str(tmp_path), "--offline", "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert (told["prices"]["models"], told["cost_mean_nanos"], told["expected_mean_nanos"]) == ({}, None, None)
    (tmp_path / "job.yaml").write_text(JOB_YAML.replace("gpt-99", "gpt-5-mini"))
    assert run(["job", "plan", str(tmp_path), "--offline", "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert list(told["prices"]["models"]) == ["gpt-5-mini"]
    assert told["expected_mean_nanos"] > 0
