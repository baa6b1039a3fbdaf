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
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs

from batchmill.agents.jobs import lint
from batchmill.agents.jobs.lines import Lined, Steps, read_yaml
from batchmill.agents.jobs.problems import JobFileError, Problem
from batchmill.agents.jobs.resolving import resolved
from batchmill.agents.jobs.texts import Texts
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.spec_rules import JobSpecError
from batchmill.schemas.versions import version_of
from batchmill.streams.capabilities import PROVIDERS

__all__ = ["JOB_FILE", "LoadedJob", "job_schema", "load_job"]

JOB_FILE = "job.yaml"

#: Declared in the design, not carried out yet: where, and what to do meanwhile.
_NOT_YET: Mapping[Steps, str] = {
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
    texts = Texts(lined)
    texts.problems += _unserved(lined)
    try:
        spec = resolved(lined.data, texts)
    except JobSpecError as error:
        texts.problems.append(_of_spec_error(lined, error))
        raise JobFileError(texts.problems) from None
    _stop_on(texts.problems)
    found = list(lint.findings(spec, lined, texts))
    _stop_on(found)
    return LoadedJob(spec=spec, version=version_of(spec), file=file, warnings=tuple(found))


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
    """Providers that there is no adapter for, and endpoints that they do not have."""
    ask = lined.data["ask"]
    yield from _unserved_model(lined, ("ask", "model"), ask["model"])
    for at, route in enumerate(ask.get("routes", ())):
        if "model" in route:
            yield from _unserved_model(lined, ("ask", "routes", at, "model"), route["model"])


def _unserved_model(lined: Lined, steps: Steps, model: Mapping[str, Any]) -> Iterator[Problem]:
    kind, endpoint = model["provider"], model.get("endpoint")
    facts = PROVIDERS.get(kind)
    if facts is None or facts.protocol is None:
        served = [name for name, row in PROVIDERS.items() if row.protocol is not None]
        near = difflib.get_close_matches(kind, served, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there is one for {', '.join(served)}"
        what = f"{_dotted(steps)}.provider: there is no adapter for {kind!r}"
        yield Problem(file=lined.file, line=lined.line((*steps, "provider")), what=what, hint=hint)
    elif endpoint is not None and endpoint not in facts.can.endpoints:
        what = f"{_dotted(steps)}.endpoint: {facts.title} has no {endpoint}"
        hint = f"it has {', '.join(facts.can.endpoints)}"
        yield Problem(file=lined.file, line=lined.line((*steps, "endpoint")), what=what, hint=hint)


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
    if "duration" in path or path[-2:-1] in (["max_age"], ["deadline"], ["backoff"], ["backoff_max"], ["undo"]):
        return "must be seconds or a duration such as 30s, 15m, 6h"
    names = {
        "seq": "must be `log` or a path such as $.updated_at",
        "key": "must be `source_id` or a path such as $.a.b",
        "partition": "must be `date` or a path such as $.label",
        "breaker": "must be false, or a mapping with consecutive, ratio and window",
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
    "examples_json": "examples",
    "undo_seconds": "undo",
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
