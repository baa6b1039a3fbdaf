"""An example is held to what the job itself holds records and answers to."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.jobs import (
    CheckKind,
    ConfidenceSpec,
    FunctionSpec,
    InputSpec,
    JudgeSpec,
    LengthSpec,
    RuleSpec,
    ScoringSpec,
    Severity,
)
from batchmill.streams.finding import Lint
from batchmill.streams.trying import unfit_examples
from tests.streams.making import OUTPUT_SCHEMA, make_spec

GIVEN = InputSpec(
    schema_json=json.dumps({"type": "object", "required": ["body"], "properties": {"body": {"type": "string"}}}),
    required=("body",),
    max_chars={"body": 5},
)
RIGHT = {"input": {"body": "on fire"}, "output": {"label": "bug", "confidence": 0.9}}


def told(
    *examples: Any, judge: JudgeSpec | None = None, output_schema: Any = OUTPUT_SCHEMA
) -> list[tuple[int | None, str]]:
    spec = make_spec(given=GIVEN, judge=judge, output_schema=output_schema)
    spec = replace(spec, ask=replace(spec.ask, examples_json=json.dumps(examples)))
    found = list(unfit_examples(spec))
    assert all(each.error and each.lint is Lint.UNFIT_EXAMPLE and each.where == "$.ask.examples" for each in found)
    return [(each.line, each.message) for each in found]


def test_examples_that_the_job_would_take_and_pass_are_no_matter() -> None:
    assert told(RIGHT, RIGHT) == []


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ({"input": {"body": 5}, "output": RIGHT["output"]}, "input.body: expected the type string"),
        ({"input": {"body": " "}, "output": RIGHT["output"]}, "input.body: expected to be there and not blank"),
        (
            {"input": RIGHT["input"], "output": {"label": "bug"}},
            'output: the member "confidence" is required (check schema)',
        ),
        ({"input": RIGHT["input"], "output": {"label": 1, "confidence": 1}}, "output.label: expected the type string"),
    ],
)
def test_an_example_is_told_by_its_number_and_path(example: Any, said: str) -> None:
    ((number, message),) = told(RIGHT, example)[:1]
    assert number == 2
    assert message.startswith(said)


def test_the_checks_of_the_judge_hold_for_examples_too() -> None:
    judge = JudgeSpec(categories={"label": ("billing",)}, lengths={"label": LengthSpec(max=2)})
    assert [message.partition(":")[0] for _, message in told(RIGHT, judge=judge)] == ["output.label", "output.label"]


def test_what_is_only_warned_of_is_no_fault_of_an_example() -> None:
    judge = JudgeSpec(categories={"label": ("billing",)}, severity={CheckKind.CATEGORY: Severity.WARN})
    assert told(RIGHT, judge=judge) == []


def test_an_example_may_show_doubt() -> None:
    judge = JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.95), review_sample=1)
    assert told(RIGHT, judge=judge) == []


def test_where_free_text_is_asked_for_an_example_answers_in_text() -> None:
    assert told({"input": RIGHT["input"], "output": "Fine."}, output_schema=None) == []
    ((_, message),) = told(RIGHT, output_schema=None)
    assert "free text" in message


def test_rules_and_functions_are_asked_about_the_input_of_the_example_too() -> None:
    rule = RuleSpec(id="short", require="size(output.label) <= size(input.body)")
    assert told(RIGHT, judge=JudgeSpec(rules=(rule,))) == []
    long = {"input": {"body": "x"}, "output": RIGHT["output"]}
    ((_, message),) = told(long, judge=JudgeSpec(rules=(rule,)))
    assert "check short" in message


def test_a_function_that_is_not_installed_here_is_not_asked() -> None:
    function = FunctionSpec(id="nobody", name="nobody")
    assert told(RIGHT, judge=JudgeSpec(functions=(function,))) == []


def test_nobody_has_given_a_second_opinion_on_an_example() -> None:
    assert told(RIGHT, judge=JudgeSpec(scoring=ScoringSpec(job="other", agree="score.label == output.label"))) == []
