"""The checks on one answer, in their order: what each asks, how each ends, and that no note repeats the answer."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.jobs import CheckKind, ConfidenceSpec, JudgeSpec, LengthSpec, Severity
from batchmill.schemas.reasons import Reason
from batchmill.streams.judging import Judgement, compile_judge, in_sample, judge_text
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
) -> Judgement:
    text = output if isinstance(output, str) else orjson.dumps(GOOD if output is None else output).decode()
    compiled = compile_judge(make_spec(judge=judge, output_schema=schema))
    return judge_text(compiled, request_id=request_id, text=text, finish_reason=finish, refusal=refusal)


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


@settings(max_examples=200)
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
