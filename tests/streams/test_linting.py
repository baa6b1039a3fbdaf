"""A job is told everything that is wrong with it at once."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from batchmill.schemas.drift import DriftSpec
from batchmill.schemas.jobs import (
    BudgetSpec,
    CitationSpec,
    ConfidenceSpec,
    InputSpec,
    JudgeSpec,
    Repair,
    RuleSpec,
    ScoringSpec,
)
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


BILL = {
    "type": "object",
    "additionalProperties": False,
    "required": ["total", "count", "items"],
    "properties": {
        "total": {"type": "number"},
        "count": {"type": "integer"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["price", "quote"],
                "properties": {"price": {"type": "number"}, "quote": {"type": "string"}},
            },
        },
    },
}
GIVEN = InputSpec(schema_json=orjson.dumps({"type": "object", "properties": {"body": {"type": "string"}}}).decode())


def told_of(judge: JudgeSpec, **changes: Any) -> list[tuple[str, bool, str]]:
    spec = make_spec(**{"output_schema": BILL, "given": GIVEN, "judge": judge} | changes)
    return [(told.where, told.error, told.message) for told in findings(spec)]


def rule(require: str, **changes: Any) -> JudgeSpec:
    return JudgeSpec(rules=(RuleSpec(id="first", require="true"), RuleSpec(id="second", require=require, **changes)))


@pytest.mark.parametrize(
    "require",
    [
        "output.total == sum(output.items.map(i, i.price))",
        "output.items.all(i, occurs(i.quote, input.body))",
        "output.count == size(output.items) && output.total > 0",
        "double(output.total) * 2.0 > 1.0",
        "'output.nope' != input.body",
    ],
)
def test_rules_that_can_be_asked_are_not_spoken_of(require: str) -> None:
    assert told_of(rule(require)) == []


@pytest.mark.parametrize(
    ("judge", "where", "message"),
    [
        (
            rule("output.totl > 0"),
            "rules[1].require",
            "names output.totl, but the output schema declares no member 'totl'",
        ),
        (rule("true", when="output.nope"), "rules[1].when", "it has count, items, total"),
        (
            rule("outptu.total > 0"),
            "rules[1].require",
            "unknown variable 'outptu' at character 1, did you mean 'output'",
        ),
        (rule("score > 0"), "rules[1].require", "unknown variable 'score'"),
        (rule("output.total >"), "rules[1].require", "Failed to parse"),
        (JudgeSpec(rules=(RuleSpec(id="json", require="true"),)), "rules[0].id", "id of a check of our own"),
        (JudgeSpec(rules=(RuleSpec(id="derived", require="true"),)), "rules[0].id", "id of a check of our own"),
        (JudgeSpec(patterns={"total": "("}), "patterns", "the pattern of 'total' is no"),
        (JudgeSpec(patterns={"total": "(?<=a)b"}), "patterns", "the pattern of 'total' is no"),
        (JudgeSpec(types={"total": "money"}), "types", "there is no type 'money': known are string, number"),
        (JudgeSpec(confidence=ConfidenceSpec(review_below=0.5)), "confidence", "add `logprobs: true`"),
        (JudgeSpec(scoring=ScoringSpec(job="triage", agree="true")), "scoring.job", "opinion on itself"),
        (JudgeSpec(scoring=ScoringSpec(job="x", agree="scor > 1")), "scoring.agree", "did you mean 'score'"),
        (
            JudgeSpec(citations=(CitationSpec(id="c", field="items", quote="qoute", within="body"),)),
            "citations[0].quote",
            "declares no member 'qoute'",
        ),
        (
            JudgeSpec(citations=(CitationSpec(id="c", field="items", source="price", within="body"),)),
            "citations[0].source",
            "beside `quote`",
        ),
        (JudgeSpec(citations=(CitationSpec(id="c", field="items[*]", within="body"),)), "citations[0].field", "cannot"),
        (JudgeSpec(citations=(CitationSpec(id="c", field="items", within="a b"),)), "citations[0].within", "cannot"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_an_error_at_its_place(judge: JudgeSpec, where: str, message: str) -> None:
    told = [each for each in told_of(judge) if each[1]]
    assert [each[0] for each in told] == [f"$.judge.{where}"]
    assert message in told[0][2]


@pytest.mark.parametrize(
    ("judge", "where", "message"),
    [
        (rule("output.total * 2.0 > 1.0"), "rules[1].require", "sample of the schema with whole numbers"),
        (rule("output.total % 2 == 0"), "rules[1].require", "sample of the schema with fractions"),
        (rule("output.items.all(i, i.prize > 0)"), "rules[1].require", "a member it names is absent"),
        (rule("sum(output.items) > 0"), "rules[1].require", "sum: takes numbers"),
        (rule("input.text == 'x'"), "rules[1].require", "the input schema declares no member 'text'; it has body"),
        (
            JudgeSpec(citations=(CitationSpec(id="c", field="items", quote="quote", within="text"),)),
            "citations[0].within",
            "the input schema declares no member 'text'",
        ),
    ],
)
def test_a_rule_that_may_have_no_answer_is_a_warning(judge: JudgeSpec, where: str, message: str) -> None:
    told = told_of(judge)
    assert [each[:2] for each in told] == [(f"$.judge.{where}", False)]
    assert message in told[0][2]


def test_repairs_and_checks_on_members_need_an_answer_in_json() -> None:
    told = told_of(JudgeSpec(repairs=(Repair.CODE_FENCE,)), output_schema=None)
    assert [each[:2] for each in told] == [("$.judge.repairs", True)]
    told = told_of(JudgeSpec(types={"x": "string"}), output_schema=None)
    assert [each[:2] for each in told] == [("$.judge", True)]
    assert told_of(JudgeSpec(rules=(RuleSpec(id="short", require="size(output) < 500"),)), output_schema=None) == []


@pytest.mark.parametrize(
    ("params", "fine"),
    [
        ('{"max_output_tokens":9,"logprobs":true}', True),
        ('{"max_output_tokens":9,"logprobs":false}', False),
        ('{"max_output_tokens":9,"include":["message.output_text.logprobs"]}', True),
    ],
)
def test_confidence_of_the_tokens_needs_them_to_be_asked_for(params: str, fine: bool) -> None:
    told = told_of(JudgeSpec(confidence=ConfidenceSpec(review_below=0.5)), params=params)
    assert (told == []) is fine


def test_a_job_that_would_score_its_own_answers_for_ever_is_an_error() -> None:
    judge = JudgeSpec(scoring=ScoringSpec(job="triage", agree="score == output"))
    assert [told.where for told in errors(make_spec(judge=judge))] == ["$.judge.scoring.job"]
    assert errors(make_spec(judge=JudgeSpec(scoring=ScoringSpec(job="second", agree="score == output")))) == ()


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("label", "warning: $.drift.field: 'label' is any text"),
        ("labl", "error: $.drift.field: 'labl' is not a member of the output schema"),
        ("label[", "error: $.drift.field: cannot read the path"),
        ("confidence", None),
    ],
)
def test_a_watched_member_must_be_there_and_should_have_few_values(field: str, told: str | None) -> None:
    found = [str(each) for each in findings(make_spec(drift=DriftSpec(field=field))) if "drift" in each.where]
    assert [each for each in found if told is None or not each.startswith(told)] == []
    assert bool(found) is (told is not None)


def test_a_member_with_categories_has_few_values() -> None:
    spec = make_spec(drift=DriftSpec(field="label"), judge=JudgeSpec(categories={"label": ("a", "b")}))
    assert [each for each in findings(spec) if each.where == "$.drift.field"] == []
