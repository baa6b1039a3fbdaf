"""Of each route is told what would be told of it as the only question, at its own place, and what only a choice has."""

from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.asking import ModelSpec, RouteSpec
from batchmill.schemas.jobs import BudgetSpec, ConfidenceSpec, InputSpec, JobSpec, JudgeSpec
from batchmill.streams.finding import Lint
from batchmill.streams.linting import findings
from batchmill.streams.proofreading import remarks
from tests.streams.making import OUTPUT_SCHEMA, make_spec

STRICT = OUTPUT_SCHEMA | {"required": ["label", "confidence", "summary"]}
MODEL = ModelSpec(provider="openai", name="gpt-5", params_json='{"max_output_tokens":200}')
INPUT = '{"type":"object","properties":{"body":{"type":"string"}},"required":["body"],"additionalProperties":false}'
FINE = RouteSpec(name="fine", when="size(input.body) > 5", model=MODEL)


def spec_with(
    *routes: RouteSpec, cascade: tuple[str, ...] = (), on: Any = ("rejected", "unsure"), **more: Any
) -> JobSpec:
    spec = make_spec(**({"output_schema": STRICT} | more))
    return replace(spec, ask=replace(spec.ask, routes=routes, cascade=cascade, escalate_on=on))


def told(spec: JobSpec) -> list[tuple[str, bool]]:
    return [(each.where, each.error) for each in findings(spec)]


def test_routes_that_work_have_nothing_to_be_told() -> None:
    assert told(spec_with(FINE, replace(FINE, name="last", when=None), cascade=("last",))) == []


@pytest.mark.parametrize(
    ("route", "where", "error"),
    [
        (replace(FINE, when="size("), "$.ask.routes[0].when", True),
        (replace(FINE, when="output.label == 'x'"), "$.ask.routes[0].when", True),
        (replace(FINE, user="{{ nope }}"), "$.ask.routes[0]", True),
        (replace(FINE, model=replace(MODEL, params_json='{"n":1,"max_tokens":3}')), "$.ask.routes[0]", True),
        (replace(FINE, model=replace(MODEL, params_json="{}")), "$.ask.routes[0].model.params", False),
        (replace(FINE, when=None), "$.ask.routes[0]", False),
    ],
)
def test_what_is_wrong_with_a_route_is_told_where_the_route_says_it(route: RouteSpec, where: str, error: bool) -> None:
    assert told(spec_with(route)) == [(where, error)]


def test_what_is_wrong_with_the_question_is_told_once_however_many_routes_share_it() -> None:
    spec = spec_with(FINE, replace(FINE, name="other"), user="{{ nope }}")
    assert told(spec) == [("$.ask", True)]


def test_a_budget_needs_a_limit_on_the_answers_of_every_route() -> None:
    spec = spec_with(replace(FINE, model=replace(MODEL, params_json="{}")), budget=BudgetSpec(job_nanos=1))
    assert ("$.budget", True) in told(spec)


def test_one_name_of_a_model_at_two_providers_has_no_one_price() -> None:
    other = ModelSpec(provider="azure", name="gpt-5-mini", params_json='{"max_output_tokens":1}')
    assert ("$.ask.routes[0].model.name", True) in told(spec_with(replace(FINE, model=other)))


def test_a_cascade_that_nothing_leads_to_is_a_warning() -> None:
    last = RouteSpec(name="last", model=MODEL)
    doubt = JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.5))
    assert told(spec_with(last, cascade=("last",), on=("unsure",))) == [("$.ask.cascade", False)]
    assert told(spec_with(last, cascade=("last",), on=("unsure",), judge=doubt)) == []
    assert told(spec_with(last, cascade=("last",), on=("rejected",))) == []


def test_what_a_providers_dialect_loses_is_told_for_every_provider_that_is_asked() -> None:
    lengths = STRICT | {"properties": STRICT["properties"] | {"label": {"type": "string", "maxLength": 5}}}
    other = ModelSpec(
        provider="anthropic", name="claude", endpoint="/v1/messages", params_json='{"max_output_tokens":9}'
    )
    alone = [each for each in remarks(spec_with(output_schema=lengths)) if each.lint is Lint.OUTPUT_DIALECT]
    both = [
        each
        for each in remarks(spec_with(replace(FINE, model=other), output_schema=lengths))
        if each.lint is Lint.OUTPUT_DIALECT
    ]
    assert len(both) == len(alone) + 1


def test_a_template_of_a_route_is_held_to_the_input_schema() -> None:
    spec = spec_with(replace(FINE, user="{{ input.bdoy }}"), given=InputSpec(schema_json=INPUT))
    (found,) = [each for each in remarks(spec) if each.lint is Lint.UNKNOWN_MEMBER]
    assert (found.where, found.line, found.error) == ("$.ask.routes[0].prompt.user", 1, True)
