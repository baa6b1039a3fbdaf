"""The members of `job.yaml` -> the frozen `JobSpec`, once the words are known to be right.

What must not live here: how its files and units are read (`texts`), the question (`resolving_ask`), what the words may
be (`job.schema.json`), and what they mean together (`lint`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batchmill.agents.checks import CheckLoadError, load_check
from batchmill.agents.jobs.lines import Steps
from batchmill.agents.jobs.resolving_ask import ask_of
from batchmill.agents.jobs.texts import Texts, nanos_of, seconds_of
from batchmill.schemas.asking import NearSpec
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import (
    BreakerSpec,
    BudgetSpec,
    CheckKind,
    ChunkSpec,
    CitationSpec,
    CommitSpec,
    ConfidenceSpec,
    FunctionSpec,
    InputSpec,
    JobSpec,
    JudgeSpec,
    LengthSpec,
    ModeSpec,
    OnlineSpec,
    PlaceSpec,
    Repair,
    RetryRule,
    RetrySpec,
    ReviewSpec,
    RuleSpec,
    SamplingSpec,
    ScoringSpec,
    Severity,
    TruncationSpec,
)
from batchmill.schemas.promotion import GateSpec, JoinSpec, ScheduleSpec, ThenSpec
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.spec_rules import JobSpecError

__all__ = ["resolved"]


def resolved(data: Mapping[str, Any], texts: Texts) -> JobSpec:
    """The spec; what is wrong with the files is left in `texts.problems`, what is wrong with the spec is raised."""
    return JobSpec(
        job=data["job"],
        id_path=data.get("id"),
        seq=data.get("seq", "log"),
        dedupe=data.get("dedupe", "source"),
        input=_input(data.get("input", {}), texts),
        ask=ask_of(data["ask"], texts),
        mode=_mode(data.get("mode", {})),
        judge=_judge(data.get("judge", {}), texts),
        retry=_retry(data.get("retry", {})),
        place=PlaceSpec(**data["place"]),
        budget=_budget(data.get("budget")),
        commit=CommitSpec(**data.get("commit", {})),
        review=_review(data.get("review", {})),
        breaker=None if data.get("breaker") is False else BreakerSpec(**data.get("breaker", {})),
        drift=_drift(data.get("drift")),
        near=_near(data),
        gate=_gate(data.get("gate"), texts),
        then=tuple(ThenSpec(**each) for each in data.get("then", ())),
        join=_join(data.get("join")),
        schedules=_schedules(data.get("schedule", ())),
    )


def _input(data: Mapping[str, Any], texts: Texts) -> InputSpec:
    text = data.get("text", {})
    form = text.get("normalize", "NFC")
    return InputSpec(
        schema_json=texts.document(("input", "schema"), data.get("schema")),
        required=tuple(data.get("required", ())),
        normalize=None if form == "none" else form,
        strip_control=text.get("strip_control", True),
        max_chars=text.get("max_chars", {}),
        filter=data.get("filter"),
        keep=tuple(data.get("keep", ())),
        strip_markup=text.get("strip_markup", False),
        collapse_space=text.get("collapse_space", False),
    )


def _mode(data: Mapping[str, Any]) -> ModeSpec:
    chunk = dict(data.get("chunk", {}))
    if "max_age" in chunk:
        chunk["max_age_seconds"] = seconds_of(chunk.pop("max_age"))
    deadline = data.get("deadline")
    return ModeSpec(
        prefer=data.get("prefer", "batch"),
        deadline_seconds=None if deadline is None else round(seconds_of(deadline)),
        hold_submit=data.get("hold") == "submit",
        chunk=ChunkSpec(**chunk),
        online=OnlineSpec(**data.get("online", {})),
    )


def _budget(data: Mapping[str, Any] | None) -> BudgetSpec | None:
    if data is None:
        return None
    job, record = (data.get(f"{name}_usd") for name in ("job", "record"))
    return BudgetSpec(job_nanos=nanos_of(job), record_nanos=nanos_of(record))


def _judge(data: Mapping[str, Any], texts: Texts) -> JudgeSpec:
    confidence, review = data.get("confidence"), data.get("review", {})
    by = review.get("by")
    return JudgeSpec(
        required=tuple(data.get("required", ())),
        categories={name: tuple(allowed) for name, allowed in data.get("categories", {}).items()},
        lengths={name: LengthSpec(**bounds) for name, bounds in data.get("lengths", {}).items()},
        patterns=data.get("patterns", {}),
        types=data.get("types", {}),
        repairs=tuple(Repair(name) for name in data.get("repairs", ())),
        rules=tuple(RuleSpec(**_severity(rule)) for rule in data.get("rules", ())),
        citations=tuple(CitationSpec(**_severity(each)) for each in data.get("citations", ())),
        confidence=None if confidence is None else _confidence(confidence),
        functions=tuple(
            _function(each, texts, ("judge", "functions", at)) for at, each in enumerate(data.get("functions", ()))
        ),
        scoring=_scoring(data.get("scoring"), texts),
        review_by=None if by is None else SamplingSpec(**by),
        review_sample=review.get("sample", 0),
        on_reject=data.get("on_reject", "retry"),
        severity={CheckKind(kind): Severity(meaning) for kind, meaning in data.get("severity", {}).items()},
    )


def _severity(data: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(data)
    return told | {"severity": Severity(told.pop("else"))} if "else" in told else told


def _confidence(data: Mapping[str, Any]) -> ConfidenceSpec:
    told = dict(data)
    if told.pop("logprobs", False) == ("field" in told):
        raise JobSpecError("$.judge.confidence", "must have `field` or `logprobs: true`, one of them")
    calibration = tuple(tuple(float(part) for part in pair) for pair in told.pop("calibration", ()))
    return ConfidenceSpec(**told, calibration=calibration)


def _function(data: Mapping[str, Any], texts: Texts, steps: Steps) -> FunctionSpec:
    """Frozen with the source that is installed here."""
    told = _severity(data)
    name = told.pop("call")
    try:
        sha256 = load_check(name).sha256
    except CheckLoadError as error:
        texts.wrong((*steps, "call"), str(error), error.hint)
        sha256 = ""
    return FunctionSpec(name=name, sha256=sha256, params_json=json.dumps(told.pop("params", {})), **told)


def _scoring(data: Mapping[str, Any] | None, texts: Texts) -> ScoringSpec | None:
    if data is None:
        return None
    told = dict(data)
    call, params = told.pop("call", None), told.pop("params", {})
    told_of = {"id": "score", "call": call, "params": params}
    function = None if call is None else _function(told_of, texts, ("judge", "scoring"))
    return ScoringSpec(**told, function=function)


def _review(data: Mapping[str, Any]) -> ReviewSpec:
    told = dict(data)
    if "undo" in told:
        told["undo_seconds"] = seconds_of(told.pop("undo"))
    if "decline_reasons" in told:
        told["decline_reasons"] = tuple(told["decline_reasons"])
    return ReviewSpec(**told)


def _drift(data: Mapping[str, Any] | None) -> DriftSpec | None:
    if data is None:
        return None
    return DriftSpec(**(dict(data) | {"signals": tuple(DriftSignal(name) for name in data.get("signals", ()))}))


def _near(data: Mapping[str, Any]) -> NearSpec | None:
    """`dedupe: near` alone means the defaults."""
    wanted = data.get("near", {} if data.get("dedupe") == "near" else None)
    return None if wanted is None else NearSpec(**wanted)


def _gate(data: Mapping[str, Any] | None, texts: Texts) -> GateSpec | None:
    if data is None:
        return None
    told = dict(data)
    benchmark = texts.lines(("gate", "benchmark"), told.pop("benchmark", None))
    return GateSpec(**(told | {"fields": tuple(told.get("fields", ()))}), benchmark_json=benchmark)


def _join(data: Mapping[str, Any] | None) -> JoinSpec | None:
    if data is None:
        return None
    told = dict(data)
    if "deadline" in told:
        told["deadline_seconds"] = seconds_of(told.pop("deadline"))
    return JoinSpec(**told)


def _schedules(data: str | Sequence[Mapping[str, Any]]) -> tuple[ScheduleSpec, ...]:
    return (ScheduleSpec(cron=data),) if isinstance(data, str) else tuple(_schedule(each) for each in data)


def _schedule(data: Mapping[str, Any]) -> ScheduleSpec:
    told = dict(data)
    most = nanos_of(told.pop("max_usd", None))
    return ScheduleSpec(**told, max_nanos=most)


def _retry(data: Mapping[str, Any]) -> RetrySpec:
    rules = {}
    for name, rule in data.get("on", {}).items():
        if name not in set(Reason) or not REASONS[Reason(name)].retryable:
            known = ", ".join(sorted(reason for reason, about in REASONS.items() if about.retryable))
            raise JobSpecError(f"$.retry.on.{name}", f"is no reason that is ever retried; these are: {known}")
        rules[Reason(name)] = RetryRule(**_backoffs(rule))
    told = _backoffs({name: data[name] for name in data if name not in {"on", "truncated"}})
    return RetrySpec(on=rules, truncated=TruncationSpec(**data.get("truncated", {})), **told)


def _backoffs(data: Mapping[str, Any]) -> dict[str, Any]:
    names = {"backoff": "backoff_seconds_base", "backoff_max": "backoff_seconds_max"}
    return {names.get(name, name): seconds_of(value) if name in names else value for name, value in data.items()}
