"""Frozen jobs: one text per spec, nothing guessed when read, and fingerprints that move exactly when they must."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import (
    BudgetSpec,
    CheckKind,
    ChunkSpec,
    ConfidenceSpec,
    InputSpec,
    JobSpec,
    JudgeSpec,
    LengthSpec,
    ModeSpec,
    PlaceSpec,
    RetryRule,
    RetrySpec,
    Severity,
)
from batchmill.schemas.reasons import Reason
from batchmill.schemas.spec_rules import JobSpecError
from batchmill.schemas.versions import ask_fingerprint, judge_fingerprint, place_fingerprint, version_of
from tests.schemas.strategies import job_specs

OUTPUT = '{"type": "object", "properties": {"why": {"type": "string"}, "label": {"type": "string"}}}'
SPEC = JobSpec(
    job="triage",
    id_path="$.ticket_id",
    seq="$.updated_at",
    input=InputSpec(
        schema_json='{"type": "object"}', required=("body",), max_chars={"body": 8_000}, filter="size(input.body) > 20"
    ),
    ask=AskSpec(
        system="Be brief.",
        user="{{ input.body }}",
        model=ModelSpec(
            provider="openai", name="gpt-5-mini", params_json='{"temperature": 0, "max_output_tokens": 200}'
        ),
        output_schema_json=OUTPUT,
    ),
    mode=ModeSpec(deadline_seconds=21_600, chunk=ChunkSpec(max_count=150, max_age_seconds=2)),
    judge=JudgeSpec(
        required=("label",),
        categories={"label": ("refund", "order")},
        lengths={"why": LengthSpec(min=1, max=200)},
        confidence=ConfidenceSpec(field="confidence", review_below=0.7),
        review_sample=0.02,
        severity={CheckKind.LENGTH: Severity.WARN},
    ),
    retry=RetrySpec(on={Reason.TRUNCATED: RetryRule(max_attempts=1)}),
    place=PlaceSpec(sink="sqlite", table="triage"),
    budget=BudgetSpec(job_nanos=50 * 10**9),
)


def test_the_fingerprints_of_a_job_are_what_they_were_in_the_first_release() -> None:
    """A failure here means that every deployed job would be asked and paid for again."""
    assert version_of(SPEC) == "mv624fn62u6rhkwc"
    assert ask_fingerprint(SPEC) == "f8148f693f81ffa9cd4a8db31ca8358838a118c86d6d833f412f44e9040b0988"
    assert judge_fingerprint(SPEC) == "518663c329110b1cdb67630920137387ca9b4087de7097258fdcc76163134ce2"
    assert place_fingerprint(SPEC) == "929ea8c62f70937bb052cfafd361a0e9ec38c4a5b7e27c8832d7536caeb189f8"


@given(job_specs())
def test_a_job_is_read_back_equal_and_writes_the_same_text(spec: JobSpec) -> None:
    text = spec.to_json()
    back = JobSpec.from_json(text.encode())
    assert back == spec
    assert back.to_json() == text
    assert version_of(back) == version_of(spec)


@given(job_specs())
def test_the_text_of_a_job_is_canonical(spec: JobSpec) -> None:
    text = spec.to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_two_spellings_of_a_job_are_one_job() -> None:
    document = json.loads(SPEC.to_json())
    document["mode"]["chunk"]["max_age_seconds"] = 2.0
    document["ask"]["output_schema_json"] = json.dumps(json.loads(OUTPUT), indent=4)
    document["ask"]["model"]["params_json"] = '{ "temperature": 0.0, "max_output_tokens": 200 }'
    respelled = JobSpec.from_json(json.dumps(dict(reversed(document.items())), indent=2))
    assert respelled == SPEC
    assert respelled.to_json() == SPEC.to_json()
    assert version_of(respelled) == version_of(SPEC)


def test_the_order_of_the_output_schema_is_kept_because_models_answer_in_it() -> None:
    kept = SPEC.ask.output_schema_json
    assert kept is not None
    assert kept.index("why") < kept.index("label")


def test_members_with_defaults_may_be_left_out() -> None:
    short = {
        "job": "j",
        "ask": {"user": "hi", "model": {"provider": "p", "name": "m"}},
        "place": {"sink": "sqlite", "table": "t"},
    }
    spec = JobSpec.from_json(json.dumps(short))
    assert spec.seq == "log"
    assert spec.mode == ModeSpec()
    assert version_of(spec) == version_of(JobSpec.from_json(spec.to_json()))


def changed(path: str, value: Any) -> str:
    document = json.loads(SPEC.to_json())
    *way, last = path.split(".")
    member = document
    for name in way:
        member = member[name]
    member[last] = value
    return json.dumps(document)


REFUSED = [
    ("colour", "red", "$.colour"),
    ("ask.model.temperature", 0, "$.ask.model.temperature"),
    ("job", None, "$.job"),
    ("job", "a/b", "$.job"),
    ("job", "", "$.job"),
    ("seq", "newest", "$.seq"),
    ("id_path", "ticket", "$.id_path"),
    ("input.strip_control", 1, "$.input.strip_control"),
    ("input.normalize", "nfc", "$.input.normalize"),
    ("input.required", "body", "$.input.required"),
    ("input.required", [1], "$.input.required[0]"),
    ("input.max_chars", {"body": 0}, "$.input.max_chars.body"),
    ("input.schema_json", "{", "$.input.schema_json"),
    ("input.schema_json", '{"a": 1, "a": 2}', "$.input.schema_json"),
    ("input.schema_json", '{"a": NaN}', "$.input.schema_json"),
    ("input.schema_json", '{"a": 1e999}', "$.input.schema_json.a"),
    ("input.schema_json", '"\\ud800"', "$.input.schema_json"),
    ("ask.user", "  ", "$.ask.user"),
    ("ask.model", [], "$.ask.model"),
    ("ask.model.name", "a|b", "$.ask.model.name"),
    ("ask.model.params_json", "[]", "$.ask.model.params_json"),
    ("ask.output_name", "two words", "$.ask.output_name"),
    ("mode.prefer", "pigeon", "$.mode.prefer"),
    ("mode.deadline_seconds", 1.5, "$.mode.deadline_seconds"),
    ("mode.deadline_seconds", 0, "$.mode.deadline_seconds"),
    ("mode.chunk.max_count", 0, "$.mode.chunk.max_count"),
    ("judge.review_sample", 1.1, "$.judge.review_sample"),
    ("judge.review_sample", "all", "$.judge.review_sample"),
    ("judge.on_reject", "shrug", "$.judge.on_reject"),
    ("judge.categories", {"label": []}, "$.judge.categories.label"),
    ("judge.lengths", {"why": {"min": 2, "max": 1}}, "$.judge.lengths"),
    ("judge.severity", {"smell": "warn"}, "$.judge.severity"),
    ("judge.severity", {"schema": "fatal"}, "$.judge.severity.schema"),
    ("judge.confidence", {"field": "c"}, "$.judge.confidence.review_below"),
    ("retry.max_attempts", 0, "$.retry.max_attempts"),
    ("retry.backoff_seconds_max", 1, "$.retry.backoff_seconds_max"),
    ("retry.on", {"bad_luck": {}}, "$.retry.on"),
    ("retry.on", {"truncated": {"max_attempts": 0}}, "$.retry.on.truncated.max_attempts"),
    ("place.key", "id", "$.place.key"),
    ("dedupe", "never", "$.dedupe"),
    ("budget", {"job_nanos": 0}, "$.budget.job_nanos"),
    ("prices_json", "{", "$.prices_json"),
]


@pytest.mark.parametrize(("path", "value", "where"), REFUSED)
def test_what_a_job_cannot_mean_is_refused_by_its_path(path: str, value: Any, where: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        JobSpec.from_json(changed(path, value))
    assert caught.value.where == where


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"job": 1, "job": 2}', "[" * 100_000, b"\xff", " " * 5_000_000]
)
def test_what_is_no_job_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(JobSpecError):
        JobSpec.from_json(text)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_random_text_is_refused_as_a_job_spec_error_only(text: str | bytes) -> None:
    with pytest.raises(JobSpecError):
        JobSpec.from_json(text)


def with_model(**changes: Any) -> JobSpec:
    return replace(SPEC, ask=replace(SPEC.ask, model=replace(SPEC.ask.model, **changes)))


def with_ask(**changes: Any) -> JobSpec:
    return replace(SPEC, ask=replace(SPEC.ask, **changes))


def with_input(**changes: Any) -> JobSpec:
    return replace(SPEC, input=replace(SPEC.input, **changes))


def with_judge(**changes: Any) -> JobSpec:
    return replace(SPEC, judge=replace(SPEC.judge, **changes))


REORDERED = '{"type": "object", "properties": {"label": {"type": "string"}, "why": {"type": "string"}}}'

ASKS_AGAIN: dict[str, JobSpec] = {
    "system prompt": with_ask(system="Be very brief."),
    "no system prompt": with_ask(system=None),
    "user prompt": with_ask(user="{{ input.body }} "),
    "provider": with_model(provider="azure"),
    "model": with_model(name="gpt-5"),
    "endpoint": with_model(endpoint="/v1/responses"),
    "params": with_model(params_json='{"temperature": 1, "max_output_tokens": 200}'),
    "name of the output form": with_ask(output_name="verdict"),
    "order of the output form": with_ask(output_schema_json=REORDERED),
    "normalization": with_input(normalize="NFKC"),
    "control characters": with_input(strip_control=False),
    "cut": with_input(max_chars={"body": 7_999}),
}
JUDGES_AGAIN: dict[str, JobSpec] = {
    "required": with_judge(required=("label", "why")),
    "categories": with_judge(categories={"label": ("refund",)}),
    "lengths": with_judge(lengths={}),
    "confidence": with_judge(confidence=ConfidenceSpec(field="confidence", review_below=0.71)),
    "sample": with_judge(review_sample=0),
    "rejects": with_judge(on_reject="review"),
    "severity": with_judge(severity={}),
}
CHANGES_NEITHER: dict[str, JobSpec] = {
    "job name": replace(SPEC, job="other"),
    "id": replace(SPEC, id_path=None),
    "seq": replace(SPEC, seq="log"),
    "input schema": with_input(schema_json=None),
    "required input": with_input(required=()),
    "filter": with_input(filter=None),
    "account": with_model(account="second"),
    "drift": replace(SPEC, drift=DriftSpec(field="label", policy="pause")),
    "mode": replace(SPEC, mode=ModeSpec(hold_submit=True)),
    "retry": replace(SPEC, retry=RetrySpec(max_attempts=9)),
    "dedupe": replace(SPEC, dedupe="content"),
    "budget": replace(SPEC, budget=None),
    "prices": replace(SPEC, prices_json='{"models": {"gpt-5-mini": {"input": "0.25", "output": "2"}}}'),
    "place": replace(SPEC, place=PlaceSpec(sink="sqlite", table="elsewhere")),
    "order of params": with_model(params_json='{"max_output_tokens": 200, "temperature": 0}'),
}


@pytest.mark.parametrize("what", ASKS_AGAIN)
def test_what_changes_the_question_changes_ask_and_version(what: str) -> None:
    assert ask_fingerprint(ASKS_AGAIN[what]) != ask_fingerprint(SPEC)
    assert version_of(ASKS_AGAIN[what]) != version_of(SPEC)
    assert judge_fingerprint(ASKS_AGAIN[what]) == judge_fingerprint(SPEC)


@pytest.mark.parametrize("what", JUDGES_AGAIN)
def test_what_changes_only_the_judgement_keeps_the_question_and_its_paid_answer(what: str) -> None:
    assert judge_fingerprint(JUDGES_AGAIN[what]) != judge_fingerprint(SPEC)
    assert version_of(JUDGES_AGAIN[what]) != version_of(SPEC)
    assert ask_fingerprint(JUDGES_AGAIN[what]) == ask_fingerprint(SPEC)


def test_another_output_schema_is_another_question_and_another_judgement() -> None:
    other = with_ask(output_schema_json='{"type": "object"}')
    assert ask_fingerprint(other) != ask_fingerprint(SPEC)
    assert judge_fingerprint(other) != judge_fingerprint(SPEC)


@pytest.mark.parametrize("what", CHANGES_NEITHER)
def test_what_changes_neither_question_nor_judgement_keeps_the_version(what: str) -> None:
    assert CHANGES_NEITHER[what] != SPEC
    assert version_of(CHANGES_NEITHER[what]) == version_of(SPEC)


@pytest.mark.parametrize("change", [{"sink": "postgres"}, {"table": "t2"}, {"key": "$.id"}])
def test_every_part_of_place_changes_its_fingerprint_only(change: dict[str, str]) -> None:
    moved = replace(SPEC, place=replace(SPEC.place, **change))
    assert place_fingerprint(moved) != place_fingerprint(SPEC)
    assert version_of(moved) == version_of(SPEC)


@given(job_specs(), job_specs())
def test_jobs_that_differ_in_what_they_ask_never_share_a_version(one: JobSpec, other: JobSpec) -> None:
    same_ask = ask_fingerprint(one) == ask_fingerprint(other)
    same_judge = judge_fingerprint(one) == judge_fingerprint(other)
    assert (version_of(one) == version_of(other)) == (same_ask and same_judge)


@pytest.mark.parametrize("fingerprint", [ask_fingerprint, judge_fingerprint, place_fingerprint])
def test_a_fingerprint_is_a_full_sha256(fingerprint: Callable[[JobSpec], str]) -> None:
    assert len(bytes.fromhex(fingerprint(SPEC))) == 32


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"window": 49}, "$.drift.window"),
        ({"reference": 100_001}, "$.drift.reference"),
        ({"psi_above": 0}, "$.drift.psi_above"),
        ({"signals": (DriftSignal.CLASSES,)}, "$.drift.signals"),
    ],
)
def test_a_drift_section_that_could_never_alarm_or_always_would_is_refused(members: dict[str, Any], where: str) -> None:
    with pytest.raises(JobSpecError) as refused:
        DriftSpec(**members)
    assert refused.value.where == where
