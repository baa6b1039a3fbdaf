"""The members of `job.yaml` -> the frozen `JobSpec`, once the words are known to be right.

What lives here: reading the files a job names, and units (durations, dollars) into those of the spec. What must not:
what the words may be (`job.schema.json`), and what they mean together (`lint`).
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from batchmill.agents.checks import CheckLoadError, load_check
from batchmill.agents.jobs.lines import Lined, Steps
from batchmill.agents.jobs.problems import Problem
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import (
    AskSpec,
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
    JobSpecError,
    JudgeSpec,
    LengthSpec,
    ModelSpec,
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
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.streams.capabilities import PROVIDERS

__all__ = ["Texts", "resolved", "seconds_of"]

_TEXT_BYTES_MAX = 2**20
NANO_DOLLARS = 10**9
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
#: what Python's reader raises at JSON that is well-formed, besides being more than it takes
_UNREADABLE = (ValueError, RecursionError)
_TOO_DEEP_OR_LONG = "is nested too deeply, or holds a number with too many digits"
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def seconds_of(duration: float | str) -> float:
    """`6h` -> 21600.0; a bare number is seconds already."""
    if not isinstance(duration, str):
        return float(duration)
    match = _DURATION.fullmatch(duration)
    assert match is not None, "the grammar lets only durations through"
    return float(match[1]) * _UNIT_SECONDS[match[2]]


class Texts:
    """The files a job names, read once; what cannot be read is a problem at the line that names it."""

    def __init__(self, lined: Lined) -> None:
        self._lined = lined
        self._folder = lined.file.parent
        self.problems: list[Problem] = []
        self.read: dict[Steps, Path] = {}
        self.numbers: dict[Steps, tuple[int, ...]] = {}  #: of a file of documents: the line of each

    def text(self, steps: Steps, name: str | None) -> str | None:
        if name is None:
            return None
        file = self._folder / name
        self.read[steps] = file
        try:
            if not file.resolve().is_relative_to(self._folder.resolve()):
                return self.wrong(steps, f"{name} lies outside the job's folder", "copy it beside job.yaml")
            if file.stat().st_size > _TEXT_BYTES_MAX:
                return self.wrong(steps, f"{name} is larger than {_TEXT_BYTES_MAX} bytes", None)
            return file.read_text("utf-8")
        except UnicodeDecodeError:
            return self.wrong(steps, f"{name} is not UTF-8", None)
        except OSError as error:
            return self.wrong(steps, f"{name} cannot be read: {error.strerror}", f"it should be at {file}")

    def document(self, steps: Steps, name: str | None) -> str | None:
        """A file that holds a JSON document."""
        text = self.text(steps, name)
        if not text:
            return None
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            self.problems.append(Problem(file=self.read[steps], line=error.lineno, what=f"is not JSON: {error.msg}"))
            return None
        except _UNREADABLE:
            self.problems.append(Problem(file=self.read[steps], line=1, what=_TOO_DEEP_OR_LONG))
            return None
        return text

    def lines(self, steps: Steps, name: str | None) -> str | None:
        """A file of one JSON document a line, as one list."""
        text = self.text(steps, name)
        if not text:
            return None
        found = []
        full = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        self.numbers[steps] = tuple(number for number, _ in full)
        for number, line in full:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg}"
                self.problems.append(Problem(file=self.read[steps], line=number, what=what))
                return None
            except _UNREADABLE:
                self.problems.append(Problem(file=self.read[steps], line=number, what=_TOO_DEEP_OR_LONG))
                return None
        return json.dumps(found)

    def wrong(self, steps: Steps, what: str, hint: str | None) -> str:
        self.problems.append(Problem(file=self._lined.file, line=self._lined.line(steps), what=what, hint=hint))
        return ""


def resolved(data: Mapping[str, Any], texts: Texts) -> JobSpec:
    """The spec; what is wrong with the files is left in `texts.problems`, what is wrong with the spec is raised."""
    return JobSpec(
        job=data["job"],
        id_path=data.get("id"),
        seq=data.get("seq", "log"),
        dedupe=data.get("dedupe", "source"),
        input=_input(data.get("input", {}), texts),
        ask=_ask(data["ask"], texts),
        mode=_mode(data.get("mode", {})),
        judge=_judge(data.get("judge", {}), texts),
        retry=_retry(data.get("retry", {})),
        place=PlaceSpec(**data["place"]),
        budget=_budget(data.get("budget")),
        commit=CommitSpec(**data.get("commit", {})),
        review=_review(data.get("review", {})),
        breaker=None if data.get("breaker") is False else BreakerSpec(**data.get("breaker", {})),
        drift=_drift(data.get("drift")),
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
    )


def _ask(data: Mapping[str, Any], texts: Texts) -> AskSpec:
    prompt, model, output = data["prompt"], data["model"], data.get("output")
    form = {"schema": output} if isinstance(output, str) else output or {}
    where: Steps = ("ask", "output") if isinstance(output, str) else ("ask", "output", "schema")
    user = texts.text(("ask", "prompt", "user"), prompt["user"])
    endpoint = model.get("endpoint") or _default_endpoint(model["provider"])
    named = {} if endpoint is None else {"endpoint": endpoint}
    if texts.problems and not user:
        user = "unreadable"  # so that the other mistakes are found too; the job is refused all the same
    return AskSpec(
        system=texts.text(("ask", "prompt", "system"), prompt.get("system")),
        user=user or "",
        model=ModelSpec(
            provider=model["provider"],
            name=model["name"],
            account=model.get("account", model["provider"]),
            params_json=json.dumps(model.get("params", {})),
            **named,
        ),
        output_schema_json=texts.document(where, form.get("schema")),
        output_name=form.get("name", "output"),
        examples_json=texts.lines(("ask", "examples"), data.get("examples")),
        missing=data.get("missing"),
        uncertain=data.get("uncertain"),
    )


def _default_endpoint(provider: str) -> str | None:
    facts = PROVIDERS.get(provider)
    return None if facts is None else facts.can.endpoints[0]


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
    return BudgetSpec(job_nanos=_nanos(job), record_nanos=_nanos(record))


def _nanos(dollars: float | None) -> int | None:
    return None if dollars is None else round(Decimal(str(dollars)) * NANO_DOLLARS)


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
