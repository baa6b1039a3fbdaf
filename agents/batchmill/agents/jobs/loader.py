"""`job.yaml` and the files beside it -> the frozen `JobSpec`.

Three readings, each telling all its mistakes at once: the words (against the published JSON Schema), the files these
name, and the meaning (`lint`). What batchmill has no code for yet is refused by name: a setting that is silently
ignored would be a promise broken later.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs

from batchmill.agents.jobs import lint
from batchmill.agents.jobs.lines import Lined, Steps, read_yaml
from batchmill.agents.jobs.problems import JobFileError, Problem
from batchmill.schemas.jobs import (
    AskSpec,
    BudgetSpec,
    ChunkSpec,
    ConfidenceSpec,
    InputSpec,
    JobSpec,
    JobSpecError,
    JudgeSpec,
    LengthSpec,
    ModelSpec,
    ModeSpec,
    OnlineSpec,
    PlaceSpec,
    RetryRule,
    RetrySpec,
    TruncationSpec,
)
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.versions import version_of
from batchmill.streams.capabilities import PROVIDERS

__all__ = ["JOB_FILE", "LoadedJob", "job_schema", "load_job", "seconds_of"]

JOB_FILE = "job.yaml"
_TEXT_BYTES_MAX = 2**20
NANO_DOLLARS = 10**9
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")

#: Declared in the design, not carried out yet: where, and what to do meanwhile.
_NOT_YET: Mapping[Steps, str] = {
    ("ask", "routes"): "write one job per model, and let publishers choose the job",
    ("judge", "rules"): "use required, categories, lengths and the output schema",
    ("gate",): "compare a sample by hand before `batchmill job apply`",
    ("drift",): "leave it out",
    ("then",): "consume the committed topic",
    ("schedule",): "run `batchmill ingest` from cron",
    ("on_delete",): "deletions are excluded as tombstones",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedJob:
    """A job folder that is right, and what is odd about it."""

    spec: JobSpec
    version: str
    file: Path
    warnings: tuple[Problem, ...]


@cache
def job_schema() -> dict[str, Any]:
    """The published JSON Schema of `job.yaml`."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("job.schema.json").read_text("utf-8"))
    return schema


def load_job(path: Path) -> LoadedJob:
    """Read a job folder (or its `job.yaml`); JobFileError lists every mistake found."""
    file = path / JOB_FILE if path.is_dir() else path
    lined = read_yaml(file)
    _stop_on([*_unsupported(lined), *_misspelt(lined)])
    texts = _Texts(lined)
    texts.problems += _unserved(lined)
    try:
        spec = _spec(lined.data, texts)
    except JobSpecError as error:
        texts.problems.append(_of_spec_error(lined, error))
        raise JobFileError(texts.problems) from None
    _stop_on(texts.problems)
    found = list(lint.findings(spec, lined, texts.read))
    _stop_on(found)
    return LoadedJob(spec=spec, version=version_of(spec), file=file, warnings=tuple(found))


def seconds_of(duration: float | str) -> float:
    """`6h` -> 21600.0; a bare number is seconds already."""
    if not isinstance(duration, str):
        return float(duration)
    match = _DURATION.fullmatch(duration)
    assert match is not None, "the grammar lets only durations through"
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def _stop_on(problems: list[Problem]) -> None:
    if any(problem.level == "error" for problem in problems):
        raise JobFileError(sorted(problems, key=lambda problem: (str(problem.file), problem.line)))


def _unsupported(lined: Lined) -> Iterator[Problem]:
    for steps, instead in _NOT_YET.items():
        if steps in lined.lines:
            name = ".".join(str(step) for step in steps)
            yield Problem(
                file=lined.file,
                line=lined.line(steps),
                what=f"`{name}` is not supported by this version of batchmill",
                hint=instead,
            )


def _unserved(lined: Lined) -> Iterator[Problem]:
    """A provider that there is no adapter for, or an endpoint that it does not have."""
    model = lined.data["ask"]["model"]
    kind, endpoint = model["provider"], model.get("endpoint")
    facts = PROVIDERS.get(kind)
    if facts is None or facts.protocol is None:
        served = [name for name, row in PROVIDERS.items() if row.protocol is not None]
        near = difflib.get_close_matches(kind, served, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is one for {', '.join(served)}"
        what = f"ask.model.provider: there is no adapter for {kind!r}"
        yield Problem(file=lined.file, line=lined.line(("ask", "model", "provider")), what=what, hint=hint)
    elif endpoint is not None and endpoint not in facts.can.endpoints:
        what = f"ask.model.endpoint: {facts.title} has no {endpoint}"
        hint = f"it has {', '.join(facts.can.endpoints)}"
        yield Problem(file=lined.file, line=lined.line(("ask", "model", "endpoint")), what=what, hint=hint)


def _misspelt(lined: Lined) -> Iterator[Problem]:
    validator = jsonschema_rs.validator_for(job_schema())
    for error in validator.iter_errors(lined.data):
        steps: Steps = tuple(error.instance_path)
        if error.kind.name == "additionalProperties":
            for name in error.kind.as_dict()["unexpected"]:
                if (*steps, name) not in _NOT_YET:
                    yield _unknown_member(lined, steps, name, error)
            continue
        yield Problem(file=lined.file, line=lined.line(steps), what=f"{_dotted(steps)} {_expected(error)}")


def _unknown_member(lined: Lined, steps: Steps, name: str, error: Any) -> Problem:
    known = _known_members(error.schema_path)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    where = f" in {_dotted(steps)}" if steps else ""
    return Problem(file=lined.file, line=lined.line((*steps, name)), what=f"unknown member `{name}`{where}", hint=hint)


def _known_members(schema_path: list[str | int]) -> list[str]:
    part: Any = job_schema()
    for step in schema_path[:-1]:
        part = part[step]
    return sorted(part.get("properties", {}))


def _dotted(steps: Steps) -> str:
    return ".".join(str(step) for step in steps) or "the job"


def _expected(error: Any) -> str:
    kind = error.kind.as_dict()
    match error.kind.name:
        case "required":
            return f"needs the member `{kind['property']}`"
        case "type":
            return f"must be {' or '.join(_TYPE_NAMES[each] for each in kind['types'])}"
        case "enum":
            return f"must be one of: {', '.join(str(option) for option in kind['options'])}"
        case "pattern":
            return _PATTERN_NAMES.get(kind["pattern"], f"must match {kind['pattern']}")
        case "minimum" | "maximum":
            return f"must be at {'least' if error.kind.name == 'minimum' else 'most'} {kind['limit']}"
        case "exclusiveMinimum":
            return f"must be more than {kind['limit']}"
        case "minLength" | "minItems":
            return "must not be empty"
        case "oneOf":
            return _one_of(error)
        case name:
            return f"does not fit `{name}` of the job schema"


_TYPE_NAMES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_PATTERN_NAMES = {
    "^\\$": "must be a path such as $.a.b",
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "must be 1 to 64 letters, digits, '.', '_' or '-'",
    "^[a-z][a-z0-9_]{0,62}$": "must be lower-case letters, digits and '_', beginning with a letter",
}


def _one_of(error: Any) -> str:
    path = [str(step) for step in error.schema_path]
    if "duration" in path or path[-2:-1] in (["max_age"], ["deadline"], ["backoff"], ["backoff_max"]):
        return "must be seconds or a duration such as 30s, 15m, 6h"
    names = {
        "seq": "must be `log` or a path such as $.updated_at",
        "key": "must be `source_id` or a path such as $.a.b",
    }
    for name, sentence in names.items():
        if name in path:
            return sentence
    return "must be a file name, or a mapping with `schema` and `name`" if "output" in path else "is not as expected"


def _of_spec_error(lined: Lined, error: JobSpecError) -> Problem:
    """A mistake the frozen spec found, with its members named as in the file."""
    told = _FILE_NAME.sub(lambda found: _FILE_NAMES[found[0]], str(error))
    where = _FILE_NAME.sub(lambda found: _FILE_NAMES[found[0]], error.where)
    steps: Steps = tuple(part for part in where.removeprefix("$").split(".") if part)
    return Problem(file=lined.file, line=lined.line(steps), what=told.removeprefix("$."))


#: member of the frozen spec -> what the file calls it
_FILE_NAMES = {
    "backoff_seconds_base": "backoff",
    "backoff_seconds_max": "backoff_max",
    "deadline_seconds": "deadline",
    "id_path": "id",
    "job_nanos": "job_usd",
    "max_age_seconds": "max_age",
    "output_schema_json": "output",
    "params_json": "params",
    "record_nanos": "record_usd",
    "schema_json": "schema",
}
_FILE_NAME = re.compile(rf"\b(?:{'|'.join(_FILE_NAMES)})\b")


class _Texts:
    """The files a job names, read once; what cannot be read is a problem at the line that names it."""

    def __init__(self, lined: Lined) -> None:
        self._lined = lined
        self._folder = lined.file.parent
        self.problems: list[Problem] = []
        self.read: dict[Steps, Path] = {}

    def text(self, steps: Steps, name: str | None) -> str | None:
        if name is None:
            return None
        file = self._folder / name
        self.read[steps] = file
        try:
            if not file.resolve().is_relative_to(self._folder.resolve()):
                return self._wrong(steps, f"{name} lies outside the job's folder", "copy it beside job.yaml")
            if file.stat().st_size > _TEXT_BYTES_MAX:
                return self._wrong(steps, f"{name} is larger than {_TEXT_BYTES_MAX} bytes", None)
            return file.read_text("utf-8")
        except UnicodeDecodeError:
            return self._wrong(steps, f"{name} is not UTF-8", None)
        except OSError as error:
            return self._wrong(steps, f"{name} cannot be read: {error.strerror}", f"it should be at {file}")

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
        return text

    def _wrong(self, steps: Steps, what: str, hint: str | None) -> str:
        self.problems.append(Problem(file=self._lined.file, line=self._lined.line(steps), what=what, hint=hint))
        return ""


def _spec(data: Mapping[str, Any], texts: _Texts) -> JobSpec:
    return JobSpec(
        job=data["job"],
        id_path=data.get("id"),
        seq=data.get("seq", "log"),
        dedupe=data.get("dedupe", "source"),
        input=_input(data.get("input", {}), texts),
        ask=_ask(data["ask"], texts),
        mode=_mode(data.get("mode", {})),
        judge=_judge(data.get("judge", {})),
        retry=_retry(data.get("retry", {})),
        place=PlaceSpec(**data["place"]),
        budget=_budget(data.get("budget")),
    )


def _input(data: Mapping[str, Any], texts: _Texts) -> InputSpec:
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


def _ask(data: Mapping[str, Any], texts: _Texts) -> AskSpec:
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


def _judge(data: Mapping[str, Any]) -> JudgeSpec:
    confidence = data.get("confidence")
    return JudgeSpec(
        required=tuple(data.get("required", ())),
        categories={name: tuple(allowed) for name, allowed in data.get("categories", {}).items()},
        lengths={name: LengthSpec(**bounds) for name, bounds in data.get("lengths", {}).items()},
        confidence=None if confidence is None else ConfidenceSpec(**confidence),
        review_sample=data.get("review", {}).get("sample", 0),
        on_reject=data.get("on_reject", "retry"),
        severity=data.get("severity", {}),
    )


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
