"""What a plan says: what differs, whether it is asked or judged again, what samples would ask and cost."""

import json
from dataclasses import replace

import pytest

from batchmill.agents.jobs.planning import plan_job
from batchmill.schemas.asking import AskSpec, ModelSpec, RouteSpec
from batchmill.schemas.jobs import InputSpec, JobSpec, JudgeSpec, PlaceSpec
from batchmill.streams.costing import PriceList, parse_prices
from batchmill.streams.events import RawLimits

PRICES = parse_prices('{"models": {"m": {"input": "1", "cached": "1", "output": "4"}}}')
SPEC = JobSpec(
    job="triage",
    input=InputSpec(required=("body",), filter="size(input.body) > 2"),
    ask=AskSpec(
        user="{{ input.body }}",
        model=ModelSpec(provider="openai", name="m", params_json=json.dumps({"max_output_tokens": 1000})),
    ),
    place=PlaceSpec(sink="sqlite", table="t"),
)


def plan(spec: JobSpec, *values: bytes, active: JobSpec | None = None, prices: PriceList = PRICES):
    samples = [(None, value) for value in values]
    return plan_job(spec, active=active, samples=samples, prices=prices, limits=RawLimits(), now_ms=1)


def test_samples_go_through_the_real_normalizer() -> None:
    made = plan(SPEC, b'{"body": "hello"}', b'{"body": "x"}', b'{"other": 1}', b"{broken")
    assert [(sample.outcome, sample.reason) for sample in made.samples] == [
        ("asked", None),
        ("excluded", "filtered"),
        ("dead_lettered", "invalid_input"),
        ("dead_lettered", "undecodable"),
    ]
    assert made.samples[0].messages == ({"role": "user", "content": "hello"},)


def test_the_estimate_is_the_worst_case_over_the_asked_samples() -> None:
    made = plan(SPEC, b'{"body": "hello"}', b'{"body": "x"}')
    asked = made.samples[0]
    assert made.tokens_mean == asked.tokens > 0
    # batch is half: tokens at $1 and 1,000 output tokens at $4 per million
    assert made.cost_mean_nanos == pytest.approx((asked.tokens * 1_000 + 1_000 * 4_000) / 2, abs=1)


DEAR = ModelSpec(provider="openai", name="dear", params_json=json.dumps({"max_output_tokens": 10}))
STEPS = replace(
    SPEC.ask,
    routes=(RouteSpec(name="again", model=DEAR), RouteSpec(name="last", user="{{ input.body * 2 }}", model=DEAR)),
    cascade=("again",),
)


def test_what_an_event_costs_at_most_has_the_whole_cascade_in_it_and_what_it_is_expected_to_cost_its_own_route() -> (
    None
):
    prices = parse_prices('{"models": {"m": {"input": "1", "output": "4"}, "dear": {"input": "100", "output": "400"}}}')
    alone = plan(SPEC, b'{"body": "hello"}', prices=prices).samples[0]
    asked = plan(replace(SPEC, ask=STEPS), b'{"body": "hello"}', prices=prices).samples[0]
    assert asked.later == ("again",)
    assert asked.expected_nanos == alone.expected_nanos
    assert alone.cost_nanos is not None
    assert asked.cost_nanos == pytest.approx(alone.cost_nanos + (asked.tokens * 100_000 + 10 * 400_000) / 2, rel=0.05)


def test_without_a_price_of_the_model_that_the_cascade_comes_to_nobody_knows_the_most() -> None:
    asked = plan(replace(SPEC, ask=STEPS), b'{"body": "hello"}').samples[0]
    assert (asked.cost_nanos, asked.expected_nanos is None) == (None, False)


@pytest.mark.parametrize(
    "model", [ModelSpec(provider="openai", name="unheard-of"), ModelSpec(provider="openai", name="m")]
)
def test_without_a_price_or_an_output_limit_the_cost_is_unknown_not_zero(model: ModelSpec) -> None:
    made = plan(replace(SPEC, ask=replace(SPEC.ask, model=model)), b'{"body": "hello"}')
    assert made.samples[0].cost_nanos is None
    assert made.cost_mean_nanos is None


def test_a_new_prompt_is_asked_again_and_shown_as_one_difference() -> None:
    made = plan(replace(SPEC, ask=replace(SPEC.ask, user="Say: {{ input.body }}")), active=SPEC)
    assert (made.asks_again, made.judges_again) == (True, False)
    assert [(each.member, each.active, each.planned) for each in made.differences] == [
        ("ask.user", "{{ input.body }}", "Say: {{ input.body }}")
    ]
    assert made.version != made.active_version


def test_a_new_rule_is_judged_again_without_asking() -> None:
    made = plan(replace(SPEC, judge=JudgeSpec(review_sample=0.5)), active=SPEC)
    assert (made.asks_again, made.judges_again) == (False, True)


def test_a_new_place_changes_no_version() -> None:
    made = plan(replace(SPEC, place=PlaceSpec(sink="sqlite", table="other")), active=SPEC)
    assert (made.asks_again, made.judges_again) == (False, False)
    assert made.version == made.active_version
    assert [each.member for each in made.differences] == ["place.table"]


def test_the_same_job_has_no_differences() -> None:
    assert plan(SPEC, active=SPEC).differences == ()


def test_a_changed_prompt_is_shown_line_by_line_in_the_order_a_model_reads_it() -> None:
    before = replace(SPEC.ask, system="Sort.\nBe brief.", user="{{ input.body }}")
    after = replace(
        before, system="Sort.\nBe quick.", missing="Answer null.", examples_json='[{"input":{"body":"é"},"output":"x"}]'
    )
    made = plan(replace(SPEC, ask=after), active=replace(SPEC, ask=before))
    assert [text.member for text in made.texts] == ["ask.system", "ask.missing", "ask.examples_json"]
    assert made.texts[0].lines[2:] == ("@@ -1,2 +1,2 @@", " Sort.", "-Be brief.", "+Be quick.")
    assert made.texts[2].lines[-1] == '+{"input": {"body": "é"}, "output": "x"}'


def test_each_asked_sample_is_weighed_and_the_mean_is_told() -> None:
    made = plan(
        replace(SPEC, ask=replace(SPEC.ask, system="Sort it.")),
        b'{"body": "hello"}',
        b'{"body": "hello you"}',
        b'{"body": "x"}',
    )
    assert [sample.weight is not None for sample in made.samples] == [True, True, False]
    assert made.weight_mean is not None
    assert (made.weight_mean.system, made.weight_mean.record) == (2, 7 / 4)
    assert plan(SPEC, b'{"body": "x"}').weight_mean is None


def test_a_new_place_is_told() -> None:
    assert plan(replace(SPEC, place=PlaceSpec(sink="sqlite", table="other")), active=SPEC).places_again
    assert not plan(SPEC, active=SPEC).places_again
