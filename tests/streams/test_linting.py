"""A job is told everything that is wrong with it at once."""

from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.jobs import BudgetSpec, ConfidenceSpec, InputSpec, JudgeSpec
from batchmill.streams.compiling import compile_job
from batchmill.streams.linting import errors, findings
from tests.streams.making import OUTPUT_SCHEMA, make_spec

STRICT = OUTPUT_SCHEMA | {"required": ["label", "confidence", "summary"]}


def test_an_ordinary_job_has_nothing_to_be_told() -> None:
    assert findings(make_spec(output_schema=STRICT)) == ()


def test_all_errors_are_told_together_and_before_the_warnings() -> None:
    spec = make_spec(
        user="{{ body }}",
        given=InputSpec(schema_json='{"type":"strin"}', filter="size(", required=("$..x",)),
        params="{}",
        id_path="$.a[*]",
    )
    told = findings(spec)
    assert [finding.where for finding in told if finding.error] == [
        "$.ask", "$.input.schema", "$.input.filter", "$.id", "$.input.required",
    ]  # fmt: skip
    assert [finding.error for finding in told] == sorted((finding.error for finding in told), reverse=True)
    assert str(told[0]).startswith("error: $.ask: user template: 'body' is unknown")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"params": "{}"}, "$.ask.model.params"),
        ({"judge": JudgeSpec(required=("labl",))}, "$.judge.required"),
        ({"judge": JudgeSpec(confidence=ConfidenceSpec(field="conf", review_below=0.5))}, "$.judge.confidence.field"),
    ],
)
def test_what_may_surprise_is_a_warning(changes: dict[str, Any], where: str) -> None:
    spec = make_spec(**({"output_schema": STRICT} | changes))
    (told,) = findings(spec)
    assert (told.where, told.error) == (where, False)
    assert errors(spec) == ()


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(),
        make_spec(user="{{ nope }}"),
        make_spec(output_schema={"type": "nope"}),
        make_spec(given=InputSpec(filter="nope")),
        make_spec(judge=JudgeSpec(required=("a b",))),
        make_spec(seq="$"),
        make_spec(params='{"stream":true}'),
        replace(make_spec(), place=replace(make_spec().place, key="$.")),
    ],
)
def test_a_job_without_errors_compiles_and_one_with_errors_does_not(spec: Any) -> None:
    try:
        compile_job(spec, "v")
    except ValueError:
        assert errors(spec)
    else:
        assert not errors(spec)


def test_a_budget_without_a_limit_on_the_answer_is_an_error() -> None:
    budget = BudgetSpec(job_nanos=1)
    (told,) = errors(make_spec(params="{}", budget=budget))
    assert (told.where, told.error) == ("$.budget", True)
    assert errors(make_spec(budget=budget)) == ()
