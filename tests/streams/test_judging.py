"""The checks on one answer, in their order: what each asks, how each ends, and that no note repeats the answer."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.jobs import (
    CheckKind,
    CitationSpec,
    ConfidenceSpec,
    FunctionSpec,
    JudgeSpec,
    LengthSpec,
    Repair,
    RuleSpec,
    SamplingSpec,
    ScoringSpec,
    Severity,
)
from batchmill.schemas.reasons import Reason
from batchmill.streams.checking import NO_FUNCTIONS, CheckFunction
from batchmill.streams.judging import (
    Judgement,
    agrees,
    compile_judge,
    in_sample,
    in_share,
    judge_output,
    judge_text,
    passages,
)
from tests.streams.making import OUTPUT_SCHEMA, make_spec

SECRET = "hunter2-secret"
GOOD = {"label": "fire", "confidence": 0.9}


def judged(
    output: Any = None,
    judge: JudgeSpec | None = None,
    *,
    schema: Any = OUTPUT_SCHEMA,
    finish: str | None = "stop",
    refusal: str | None = None,
    request_id: str = "r" * 32,
    item_input: Any = None,
    logprob_mean: float | None = None,
    functions: Mapping[str, CheckFunction] = NO_FUNCTIONS,
) -> Judgement:
    text = output if isinstance(output, str) else orjson.dumps(GOOD if output is None else output).decode()
    compiled = compile_judge(make_spec(judge=judge, output_schema=schema), functions)
    return judge_text(
        compiled,
        request_id=request_id,
        text=text,
        finish_reason=finish,
        refusal=refusal,
        item_input=item_input,
        logprob_mean=logprob_mean,
    )


def test_a_good_answer_passes_every_check_and_becomes_canonical() -> None:
    told = judged(' {"label": "fire",\n "confidence": 0.90}')
    assert (told.reason, told.wants_review, told.output_json) == (None, False, '{"confidence":0.9,"label":"fire"}')
    assert [(check.id, check.passed) for check in told.checks] == [("json", True), ("schema", True)]


@pytest.mark.parametrize(
    ("text", "finish", "refusal", "reason"),
    [
        ('{"label": "fi', "length", None, Reason.TRUNCATED),
        ('{"label": "fire", "confidence": 1}', "length", None, Reason.TRUNCATED),
        ("", "length", "no", Reason.TRUNCATED),
        ("", "stop", "I cannot help with that", Reason.MODEL_REFUSAL),
        ("", "content_filter", None, Reason.MODEL_REFUSAL),
        ("", "stop", None, Reason.NOT_JSON),
        ("Sure! Here it is: {}", "stop", None, Reason.NOT_JSON),
        ("```json\n{}\n```", "stop", None, Reason.NOT_JSON),
        ('{"label": NaN, "confidence": 1}', "stop", None, Reason.NOT_JSON),
        ('{"label": "a", "label": "b", "confidence": 1}', "stop", None, Reason.NOT_JSON),
        ("[" * 100_000, "stop", None, Reason.NOT_JSON),
        ("x" * (5 * 2**20), "stop", None, Reason.NOT_JSON),
        ('"\ud800"', "stop", None, Reason.NOT_JSON),
        ('{"label": "fire"}', "stop", None, Reason.SCHEMA_MISMATCH),
        ("[]", "stop", None, Reason.SCHEMA_MISMATCH),
        ('{"label": "fire", "confidence": 1, "extra": 1}', "stop", None, Reason.SCHEMA_MISMATCH),
    ],
)
def test_an_answer_that_is_no_answer_is_told_by_its_first_failing_check(
    text: str, finish: str, refusal: str | None, reason: Reason
) -> None:
    told = judged(text, finish=finish, refusal=refusal)
    assert told.reason is reason
    assert any(not check.passed and check.note for check in told.checks)


def test_every_mistake_of_an_answer_is_told_with_its_path() -> None:
    told = judged({"label": 5, "confidence": "high"})
    assert [(check.path, check.note) for check in told.checks if not check.passed] == [
        ("$.label", "expected the type string"),
        ("$.confidence", "expected the type number"),
    ]


@pytest.mark.parametrize(
    ("judge", "output", "reason"),
    [
        (JudgeSpec(required=("summary",)), GOOD, Reason.RULE_FAILED),
        (JudgeSpec(required=("summary",)), GOOD | {"summary": " "}, Reason.RULE_FAILED),
        (JudgeSpec(required=("summary",)), GOOD | {"summary": "x"}, None),
        (JudgeSpec(categories={"label": ("fire", "water")}), GOOD, None),
        (JudgeSpec(categories={"label": ("Fire", "water")}), GOOD, Reason.RULE_FAILED),
        (JudgeSpec(categories={"summary": ("x",)}), GOOD, None),
        (JudgeSpec(lengths={"label": LengthSpec(min=4, max=4)}), GOOD, None),
        (JudgeSpec(lengths={"label": LengthSpec(min=5)}), GOOD, Reason.RULE_FAILED),
        (JudgeSpec(lengths={"label": LengthSpec(max=3)}), GOOD, Reason.RULE_FAILED),
        (JudgeSpec(lengths={"confidence": LengthSpec(max=3)}), GOOD, Reason.RULE_FAILED),
        (JudgeSpec(lengths={"summary": LengthSpec(min=5)}), GOOD, None),
    ],
)
def test_declared_rules_reject_what_breaks_them(judge: JudgeSpec, output: Any, reason: Reason | None) -> None:
    assert judged(output, judge).reason is reason


@pytest.mark.parametrize(
    ("severity", "reason", "review"),
    [
        (Severity.REJECT, Reason.RULE_FAILED, False),
        (Severity.REVIEW, None, Reason.RULE_FAILED),
        (Severity.WARN, None, False),
    ],
)
def test_a_job_chooses_what_a_failed_check_means(severity: Severity, reason: Reason | None, review: object) -> None:
    told = judged(GOOD, JudgeSpec(required=("summary",), severity={CheckKind.REQUIRED: severity}))
    assert (told.reason, told.wants_review) == (reason, review)
    assert not told.checks[-1].passed


@pytest.mark.parametrize(
    ("confidence", "review", "known"),
    [(0.7, False, 0.7), (0.69, Reason.LOW_CONFIDENCE, 0.69), (1, False, 1.0), (None, Reason.LOW_CONFIDENCE, None),
     ("0.9", Reason.LOW_CONFIDENCE, None), (True, Reason.LOW_CONFIDENCE, None)],
)  # fmt: skip
def test_low_or_unreadable_confidence_is_a_persons_business(confidence: Any, review: object, known: object) -> None:
    judge = JudgeSpec(confidence=ConfidenceSpec(field="confidence", review_below=0.7))
    told = judged({"label": "x", "confidence": confidence}, judge, schema={"type": "object"})
    assert (told.reason, told.wants_review, told.confidence) == (None, review, known)


def test_free_text_is_judged_as_text() -> None:
    told = judged("a plain \u00e9 answer", schema=None)
    assert (told.reason, told.output_json) == (None, '"a plain é answer"')
    assert judged("", schema=None, finish="length").reason is Reason.TRUNCATED


def test_a_rule_on_a_member_makes_the_answer_json_even_without_a_schema() -> None:
    assert judged("text", JudgeSpec(required=("label",)), schema=None).reason is Reason.NOT_JSON


def test_sampling_is_fixed_by_the_request_and_near_its_share() -> None:
    names = [f"{number:032d}" for number in range(4_000)]
    drawn = [name for name in names if in_sample(name, 0.1)]
    assert drawn == [name for name in names if in_sample(name, 0.1)]
    assert 320 < len(drawn) < 480
    assert not any(in_sample(name, 0) for name in names)
    assert all(in_sample(name, 1) for name in names)
    assert set(drawn) <= {name for name in names if in_sample(name, 0.2)}, "a larger share only adds"


def test_a_sampled_answer_goes_to_review_without_a_fault_and_a_rejected_one_is_not_sampled() -> None:
    always = JudgeSpec(review_sample=1)
    assert judged(GOOD, always).wants_review is True
    assert judged("no json", always).wants_review is False


texts = st.text(max_size=10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(output=json_values, member=st.sampled_from(["label", "confidence", "summary", SECRET]), inside=st.booleans())
def test_no_check_repeats_the_answer(output: Any, member: str, inside: bool) -> None:
    answer = {"label": output, member: {SECRET: [SECRET]} if inside else SECRET}
    judge = JudgeSpec(
        required=("summary",),
        categories={"label": ("fire",)},
        lengths={"label": LengthSpec(min=3, max=4), "summary": LengthSpec(max=1)},
        confidence=ConfidenceSpec(field="confidence", review_below=0.7),
    )
    for text in (orjson.dumps(answer).decode(), orjson.dumps(answer).decode()[:-2]):
        for check in judged(text, judge).checks:
            assert SECRET not in f"{check.path} {check.note}"


@given(texts)
def test_any_text_is_judged(text: str) -> None:
    told = judged(text)
    assert (told.output_json is None) == (told.reason is Reason.NOT_JSON)


def test_checks_are_plain_text_as_their_record_wants_them() -> None:
    for check in judged({"label": 1}, JudgeSpec(required=("summary",))).checks:
        assert (type(check.id), type(check.severity)) == (str, str)


ANY = {"type": "object"}
INVOICE = {"total": 0.3, "items": [{"price": 0.1}, {"price": 0.2}], "quotes": ["Red  FOX"], "label": "a"}
TEXT = {"text": "the red\nfox", "kind": "invoice"}


def outcomes(told: Judgement) -> list[tuple[str, str, bool]]:
    return [(check.id, check.severity, check.passed) for check in told.checks]


def test_a_repair_is_recorded_and_an_answer_that_needs_none_has_no_trace_of_it() -> None:
    judge = JudgeSpec(repairs=(Repair.CODE_FENCE, Repair.JSON_REPAIR))
    told = judged("```json\n{'label': 'fire', 'confidence': 0.9}\n```", judge)
    assert told.output_json == '{"confidence":0.9,"label":"fire"}'
    assert told.reason is None
    assert told.wants_review is False
    assert [(check.id, check.severity, check.passed, check.note) for check in told.checks[:2]] == [
        ("repair", "warn", False, "code_fence"), ("repair", "warn", False, "json_repair")
    ]  # fmt: skip
    assert outcomes(judged(GOOD, judge)) == [("json", "reject", True), ("schema", "reject", True)]
    assert judged("I would rather not.", judge).reason is Reason.NOT_JSON
    assert judged("```json\n{}\n```", JudgeSpec()).reason is Reason.NOT_JSON


@pytest.mark.parametrize(
    ("judge", "output", "paths"),
    [
        (JudgeSpec(patterns={"label": "^f[a-z]+$"}), GOOD, []),
        (JudgeSpec(patterns={"label": "^w"}), GOOD, ["label"]),
        (JudgeSpec(patterns={"confidence": "0"}), GOOD, ["confidence"]),
        (JudgeSpec(patterns={"summary": "^w"}), GOOD, []),
        (JudgeSpec(patterns={"label": "^(a+)+$"}), {"label": "a" * 100_000 + "b"}, ["label"]),
        (JudgeSpec(types={"label": "string", "confidence": "number"}), GOOD, []),
        (JudgeSpec(types={"confidence": "integer"}), GOOD, ["confidence"]),
        (JudgeSpec(types={"label": "date"}), {"label": "2024-02-30"}, ["label"]),
        (JudgeSpec(types={"label": "date"}), {"label": "2024-02-29"}, []),
        (JudgeSpec(types={"label": "email"}), {"label": None}, ["label"]),
        (JudgeSpec(types={"label": "uuid", "summary": "uri"}), {"label": "x"}, ["label"]),
    ],
)
def test_patterns_and_types_of_members_are_checked_where_they_are_there(
    judge: JudgeSpec, output: Any, paths: list[str]
) -> None:
    told = judged(output, judge, schema=ANY)
    assert [check.path for check in told.checks if not check.passed] == paths
    assert told.reason is (Reason.RULE_FAILED if paths else None)


@pytest.mark.parametrize(
    ("require", "holds"),
    [
        ("output.total == sum(output.items.map(i, i.price))", True),
        ("output.quotes.all(q, occurs(q, input.text))", True),
        ("output.quotes.all(q, occurs(q, input.kind))", False),
        ("output.total > 1", False),
        ("output.absent > 1", False),
    ],
)
def test_a_rule_is_asked_about_output_and_input(require: str, holds: bool) -> None:
    told = judged(INVOICE, JudgeSpec(rules=(RuleSpec(id="adds-up", require=require),)), schema=ANY, item_input=TEXT)
    assert outcomes(told)[-1] == ("adds-up", "reject", holds)
    assert told.reason is (None if holds else Reason.RULE_FAILED)


def test_a_rule_is_asked_only_where_its_condition_is_true_and_says_its_own_note() -> None:
    rule = RuleSpec(id="r", when="input.kind == 'receipt'", require="false", note="a sum", severity=Severity.REVIEW)
    assert judged(INVOICE, JudgeSpec(rules=(rule,)), schema=ANY, item_input=TEXT).wants_review is False
    told = judged(INVOICE, JudgeSpec(rules=(rule,)), schema=ANY, item_input={"kind": "receipt"})
    assert (told.reason, told.wants_review, told.checks[-1].note) == (None, Reason.RULE_FAILED, "a sum")
    told = judged(INVOICE, JudgeSpec(rules=(rule,)), schema=ANY, item_input={})
    assert told.checks[-1].note == "a sum; it has no answer here: a member it names is absent; guard it with has(...)"


def test_a_passage_that_the_input_lacks_is_uncited_and_named_without_the_models_words() -> None:
    judge = JudgeSpec(citations=(CitationSpec(id="cites", field="parts", within="text"),))
    told = judged({"parts": {"who": "FOX", SECRET: "cat"}}, judge, schema=ANY, item_input=TEXT)
    assert told.reason is Reason.UNCITED
    assert [(check.id, check.path) for check in told.checks if not check.passed] == [("cites", "$.parts.*")]
    (place,) = passages(compile_judge(make_spec(judge=judge)), TEXT, {"parts": {"who": "FOX", "x": "cat"}})
    assert (place.path, place.start, place.end, place.cited_by) == ("$.text", 8, 11, "$.parts.who")


def test_what_needs_an_input_that_is_gone_is_a_persons_business() -> None:
    judge = JudgeSpec(
        rules=(RuleSpec(id="r", require="input.kind == 'x'"), RuleSpec(id="own", require="output.total > 0")),
        citations=(CitationSpec(id="c", field="quotes", within="text"),),
        functions=(FunctionSpec(id="f", name="f", sha256="s"),),
    )
    told = judged(INVOICE, judge, schema=ANY, functions={"f": CheckFunction(lambda *_: True, "s")})
    assert outcomes(told)[2:] == [
        ("r", "review", False), ("own", "reject", True), ("c", "review", False), ("f", "review", False)
    ]  # fmt: skip
    assert (told.reason, told.wants_review) == (None, Reason.RULE_FAILED)


@pytest.mark.parametrize(
    ("judge", "reads"),
    [
        (JudgeSpec(), False),
        (JudgeSpec(rules=(RuleSpec(id="r", require="output.input == 1"),)), False),
        (JudgeSpec(rules=(RuleSpec(id="r", require="true", when="has(input.x)"),)), True),
        (JudgeSpec(citations=(CitationSpec(id="c", field="q", within="text"),)), True),
        (JudgeSpec(functions=(FunctionSpec(id="f", name="f"),)), True),
        (JudgeSpec(scoring=ScoringSpec(job="second", agree="score.x == output.x")), False),
        (JudgeSpec(scoring=ScoringSpec(job="second", agree="score.x == input.x")), True),
        (JudgeSpec(scoring=ScoringSpec(function=FunctionSpec(id="score", name="f"), agree="score > 1")), True),
    ],
)
def test_a_judge_says_whether_it_must_be_given_the_input(judge: JudgeSpec, reads: bool) -> None:
    assert compile_judge(make_spec(judge=judge)).reads_input is reads


@pytest.mark.parametrize(
    ("told", "sure", "reason", "review"),
    [
        (0.95, 0.9, None, False),
        (0.9, 0.8, None, False),
        (0.8, 0.6, None, Reason.LOW_CONFIDENCE),
        (0.6, 0.2, Reason.LOW_CONFIDENCE, False),
        (0.1, 0.0, Reason.LOW_CONFIDENCE, False),
        (None, None, None, Reason.LOW_CONFIDENCE),
    ],
)
def test_confidence_counts_as_often_as_it_was_right(told: Any, sure: Any, reason: Any, review: Any) -> None:
    spec = ConfidenceSpec(field="sure", review_below=0.8, reject_below=0.3, calibration=((0.5, 0.0), (1.0, 1.0)))
    judgement = judged(f'{{"sure": {told if told is not None else "null"}}}', JudgeSpec(confidence=spec), schema=ANY)
    assert judgement.confidence == (None if sure is None else pytest.approx(sure))
    assert (judgement.reason, judgement.wants_review) == (reason, review)


@pytest.mark.parametrize(("mean", "sure"), [(0.0, 1.0), (-0.693147, 0.5), (5.0, 1.0), (None, None)])
def test_confidence_without_a_field_is_that_of_the_tokens(mean: float | None, sure: float | None) -> None:
    judge = JudgeSpec(confidence=ConfidenceSpec(review_below=0.6))
    told = judged("plain text", judge, schema=None, logprob_mean=mean)
    assert told.confidence == (None if sure is None else pytest.approx(sure, abs=1e-5))
    assert told.wants_review == (False if sure == 1.0 else Reason.LOW_CONFIDENCE)


def asked(answer: Any, *, params: str = "{}", sha256: str = "s", severity: Severity = Severity.REJECT) -> Judgement:
    spec = FunctionSpec(id="iban", name="acme-iban", sha256="s", params_json=params, severity=severity)
    installed = {"acme-iban": CheckFunction(answer, sha256)}
    return judged(GOOD, JudgeSpec(functions=(spec,)), item_input={"body": "b"}, functions=installed)


def boom(*_: Any) -> Any:
    raise ValueError(SECRET)


def leave(*_: Any) -> Any:
    raise SystemExit(SECRET)


def cancel(*_: Any) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("answer", "faults"),
    [
        (lambda *_: True, []),
        (lambda *_: None, []),
        (lambda *_: [], []),
        (lambda *_: False, [(None, "expected the function to agree")]),
        (lambda *_: "a sum", [(None, "a sum")]),
        (lambda *_: ["one", ("$.label", "two")], [(None, "one"), ("$.label", "two")]),
        (lambda *_: 5, [(None, "the function answered neither true nor false nor with notes")]),
        (lambda *_: [5], [(None, "the function answered neither true nor false nor with notes")]),
        (boom, [(None, "the function acme-iban failed with ValueError")]),
        (leave, [(None, "the function acme-iban failed with SystemExit")]),
        (cancel, [(None, "the function acme-iban failed with CancelledError")]),
        (lambda o, i, p: (o, i, p) == (GOOD, {"body": "b"}, {"n": 1}), []),
    ],
)
def test_a_function_answers_by_what_it_returns(answer: Any, faults: list[Any]) -> None:
    told = asked(answer, params='{"n":1}')
    assert [(check.path, check.note) for check in told.checks if not check.passed] == faults
    assert told.reason is (Reason.RULE_FAILED if faults else None)


def test_a_function_cannot_change_the_answer_it_looks_at() -> None:
    told = asked(lambda output, *_: output.clear())
    assert told.output_json == '{"confidence":0.9,"label":"fire"}'
    assert told.reason is None


def test_a_function_that_is_missing_or_another_one_sends_to_review() -> None:
    other = asked(lambda *_: True, sha256="other")
    assert (other.reason, other.wants_review) == (None, Reason.RULE_FAILED)
    spec = FunctionSpec(id="iban", name="acme-iban", sha256="s")
    missing = judged(GOOD, JudgeSpec(functions=(spec,)), item_input={})
    assert missing.wants_review is Reason.RULE_FAILED
    assert missing.checks[-1].note == "the function acme-iban is not installed on this worker"


def test_functions_are_not_asked_about_an_answer_that_is_rejected_already() -> None:
    judge = JudgeSpec(required=("summary",), functions=(FunctionSpec(id="f", name="f", sha256="s"),))
    told = judged(GOOD, judge, item_input={}, functions={"f": CheckFunction(boom, "s")})
    assert [check.id for check in told.checks] == ["json", "schema", "required"]


def scored(score: Any, *, agree: str = "score == output.label", sample: float = 1, judge: Any = None) -> Judgement:
    second = ScoringSpec(function=FunctionSpec(id="score", name="f", sha256="s"), agree=agree, sample=sample)
    installed = {"f": CheckFunction(lambda *_: score, "s")}
    return judged(GOOD, judge or JudgeSpec(scoring=second), item_input={}, functions=installed)


def test_a_second_opinion_that_is_no_json_is_a_disagreement() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for score in (circle, object(), {1: 2}, 10**30):
        told = scored(score, agree="score.all(x, x == x)")
        assert (told.wants_review, told.checks[-1].note) == (
            Reason.DISAGREEMENT,
            "expected JSON of the function f",
        )


def test_a_second_opinion_that_disagrees_sends_to_review() -> None:
    assert scored("fire").wants_review is False
    assert outcomes(scored("fire"))[-1] == ("score", "review", True)
    assert scored("water").wants_review is Reason.DISAGREEMENT
    assert scored("fire", agree="score.label == output.label").wants_review is Reason.DISAGREEMENT
    assert [check.id for check in scored("water", sample=1e-9).checks] == ["json", "schema"]


def test_an_answer_asks_for_another_jobs_opinion_only_when_nothing_is_wrong_with_it() -> None:
    second = ScoringSpec(job="second", agree="score.label == output.label")
    assert judged(GOOD, JudgeSpec(scoring=second)).wants_score
    assert not judged("{}", JudgeSpec(scoring=second)).wants_score
    assert not judged(GOOD, JudgeSpec(scoring=ScoringSpec(job="second", agree="true", sample=1e-9))).wants_score
    warned = JudgeSpec(scoring=second, required=("summary",), severity={CheckKind.REQUIRED: Severity.WARN})
    assert judged(GOOD, warned).wants_score
    doubted = JudgeSpec(scoring=second, required=("summary",), severity={CheckKind.REQUIRED: Severity.REVIEW})
    assert not judged(GOOD, doubted).wants_score
    judge = compile_judge(make_spec(judge=JudgeSpec(scoring=second)))
    assert agrees(judge, GOOD, {}, {"label": "fire"}).passed
    assert not agrees(judge, GOOD, {}, {"label": "water"}).passed
    assert not agrees(judge, GOOD, {}, None).passed


def test_a_class_has_its_own_share_and_the_others_the_general_one() -> None:
    judge = JudgeSpec(review_sample=0, review_by=SamplingSpec(field="label", shares={"fire": 1, "true": 1, "3": 1}))
    for value, drawn in (("fire", True), ("water", False), (True, True), (3, True), (None, False), ({}, False)):
        assert judged({"label": value}, judge, schema=ANY).wants_review is drawn
    judge = JudgeSpec(review_sample=1, review_by=SamplingSpec(field="label", shares={"fire": 0}))
    assert judged({"label": "fire"}, judge, schema=ANY).wants_review is False
    assert judged({}, judge, schema=ANY).wants_review is True


def test_shares_of_different_salts_are_different_draws() -> None:
    names = [f"request-{number}" for number in range(2_000)]
    one, other = ({name for name in names if in_share(name, 0.5, salt)} for salt in ("review", "score"))
    assert 400 < len(one & other) < 600
    assert one == {name for name in names if in_sample(name, 0.5)}


EVERYTHING = JudgeSpec(
    required=("label",),
    categories={"label": ("fire",)},
    lengths={"summary": LengthSpec(max=5)},
    patterns={"label": "^f"},
    types={"confidence": "number"},
    repairs=tuple(Repair),
    rules=(
        RuleSpec(id="sum", require="output.total == sum(output.items.map(i, i.price))"),
        RuleSpec(id="quoted", require="output.quotes.all(q, occurs(q, input.text))", when="has(output.quotes)"),
        RuleSpec(id="date", require="timestamp(output.label) > timestamp('2020-01-01T00:00:00Z')"),
        RuleSpec(id="matches", require="output.label.matches(output.summary)"),
    ),
    citations=(CitationSpec(id="cites", field="quotes", within="text"),),
    confidence=ConfidenceSpec(field="confidence", review_below=0.5, reject_below=0.1),
    scoring=ScoringSpec(job="second", agree="score == output"),
    review_by=SamplingSpec(field="label", shares={"fire": 0.5}),
)
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["label", "total", "items", "price", "quotes", "summary", "confidence", SECRET]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(output=hostile, given_input=hostile, schema=st.sampled_from([ANY, OUTPUT_SCHEMA]))
def test_no_answer_and_no_input_makes_the_judge_raise(output: Any, given_input: Any, schema: Any) -> None:
    judge = compile_judge(make_spec(judge=EVERYTHING, output_schema=schema))
    item_input = {"text": given_input} if given_input is not None else None
    told = judge_output(judge, request_id="r", output=output, output_json="null", item_input=item_input)
    assert {check.id for check in told.checks} >= {"json", "sum", "quoted", "date", "matches", "cites", "confidence"}
    for check in told.checks:
        assert SECRET not in f"{check.path} {check.note}"
        f"{check.path} {check.note}".encode()
    passages(judge, item_input, output)


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("{}[]\",:'`\\ aN1\ud800\u00e9\n"), max_size=60))
def test_no_text_makes_the_judge_raise(text: str) -> None:
    told = judged(text, EVERYTHING, schema=ANY, item_input=TEXT)
    assert told.checks
    assert (told.output_json is None) == (told.reason is Reason.NOT_JSON)


@pytest.mark.parametrize(
    "text",
    ['{"a":' * 5_000 + "1" + "}" * 5_000, '{"items":[' + '{"price":1},' * 50_000 + '{"price":1}],"total":50001}',
     '{"label":"' + "x" * 700_000 + '"}', "```" + "{" * 100_000, '{"label": NaN}',
     '{"quotes":["' + "a b " * 100_000 + '"]}'],
)  # fmt: skip
def test_what_is_deep_or_huge_is_judged_too(text: str) -> None:
    told = judged(text, EVERYTHING, schema=ANY, item_input={"text": "a b " * 200_000})
    assert told.reason is not None
