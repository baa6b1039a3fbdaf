"""What a job looks up, fetches and works out for each record, as decisions: what is asked, what becomes of the answers.

A record is asked about at most twice (one SELECT, one GET) and never because of an answer: what is asked follows from
its input alone, so there is no loop. `wanted` says what that is, `Found` is what was found so far, `equip` puts it
into the input, where it counts as content: request id and ask key are made of it.

What must not live here: asking (`agents.tools`), and what is kept of it (`looking_up`). Notes never quote a value.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import orjson

from batchmill.schemas.asking import FetchSpec, LookupSpec, ToolsSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams import pathtext, sqltext
from batchmill.streams.expressions import Condition, ConditionError, Scope, compile_condition
from batchmill.streams.finding import Finding
from batchmill.streams.jsontext import JsonObject, canonical
from batchmill.streams.paths import ABSENT, Path, PathError, compile_path
from batchmill.streams.unusable import Unusable

__all__ = [
    "ANSWER_BYTES_MAX",
    "FETCH",
    "LOOKUP",
    "Fetch",
    "Found",
    "Lookup",
    "Question",
    "ToolError",
    "Tools",
    "Wanted",
    "account_of",
    "compile_tools",
    "equip",
    "mistakes",
    "told",
    "wanted",
]

#: members of what is put into the input, beside the calculations
LOOKUP: Final = "lookup"
FETCH: Final = "fetch"
#: of one answer as canonical JSON; two of them are a row of state
ANSWER_BYTES_MAX: Final = 16 * 1024
#: of one result of a calculation
RESULT_BYTES_MAX: Final = 4 * 1024
#: of a text that is handed to a source
PARAMETER_CHARS_MAX: Final = 1_000
VARIABLES: Final = frozenset({"input", "tools"})
_INT64: Final = 2**63
_KEY_CHARS: Final = 32
_NOTE_CHARS_MAX: Final = 300

Scalar = str | int | float | bool
ToolName = Literal["lookup", "fetch"]


class ToolError(ValueError):
    """The declaration of a tool cannot work; the message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One question to a database of the settings. Its parameters are handed over beside the text, never in it."""

    source: str
    sql: str
    params: tuple[tuple[str, Scalar], ...]
    rows_max: int
    timeout_seconds: float

    @property
    def tool(self) -> ToolName:
        return "lookup"

    @property
    def key(self) -> str:
        """Names what is asked, by content."""
        return _digest(LOOKUP, self.source, self.sql, [list(each) for each in self.params], self.rows_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """One GET of an API of the settings; the path is encoded already."""

    source: str
    path: str
    timeout_seconds: float

    @property
    def tool(self) -> ToolName:
        return "fetch"

    @property
    def key(self) -> str:
        """Names what is asked, by content."""
        return _digest(FETCH, self.source, self.path)


Question = Lookup | Fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """A compiled `ToolsSpec`."""

    spec: ToolsSpec
    lookup: Mapping[str, Path]  #: parameter -> where it lies
    fetch: Mapping[str, Path]
    calculate: tuple[tuple[str, Condition], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be asked about one record; `failed` says of a tool why nothing can be asked with it."""

    questions: tuple[Question, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Names all of it, by content; what it costs to wait for is no part of it."""
        return _digest("tools", *(question.key for question in self.questions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found out so far about one record, by the questions' keys: answers, and why there is none."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | None) -> "Found":
        told = {} if text is None else orjson.loads(text)
        return cls(answers=told.get("answers", {}), failed=told.get("failed", {}))

    def to_json(self) -> str:
        return canonical({"answers": dict(self.answers), "failed": dict(self.failed)}).decode()

    def missing(self, asked: Wanted) -> tuple[Question, ...]:
        """The questions that have neither an answer nor a refusal."""
        return tuple(each for each in asked.questions if each.key not in self.answers and each.key not in self.failed)

    def about(self, asked: Wanted) -> "Found":
        """Only what these questions have found."""
        keys = {question.key for question in asked.questions}
        answers = {key: answer for key, answer in self.answers.items() if key in keys}
        return Found(answers=answers, failed={key: note for key, note in self.failed.items() if key in keys})

    def answered(self, question: Question, answer: Any) -> "Found":
        """With one more answer; the first one counts. One that is too large is no answer."""
        if question.key in self.answers:
            return self
        try:
            size = len(canonical(answer))
        except Unusable:
            return self.refused(question, "its answer has no canonical form in JSON")
        if size > ANSWER_BYTES_MAX:
            return self.refused(question, f"its answer has {size} bytes, at most {ANSWER_BYTES_MAX} are taken")
        return replace(self, answers={**self.answers, question.key: answer})

    def refused(self, question: Question, note: str) -> "Found":
        """With a question that has no answer for this record."""
        return replace(self, failed={**self.failed, question.key: note[:_NOTE_CHARS_MAX]})


# -- a job's tools -----------------------------------------------------------------------------------------------------


def compile_tools(spec: ToolsSpec) -> Tools:
    """Compile all parts, or raise ToolError, PathError or ConditionError."""
    for where, attempt in _attempts(spec):
        wrong = attempt()
        if wrong is not None:
            raise ToolError(f"{where.removeprefix('$.')} {wrong}")
    return Tools(
        spec=spec,
        lookup={} if spec.lookup is None else _paths(spec.lookup.params),
        fetch={} if spec.fetch is None else _paths(spec.fetch.params),
        calculate=tuple((name, compile_condition(text, variables=VARIABLES)) for name, text in spec.calculate.items()),
    )


def mistakes(spec: ToolsSpec) -> Iterator[Finding]:
    """Everything that is wrong with them, each where it stands."""
    for where, attempt in _attempts(spec):
        try:
            wrong = attempt()
        except (PathError, ConditionError) as error:
            wrong = str(error)
        if wrong is not None:
            yield Finding(where=where, message=wrong, error=True)


def _attempts(spec: ToolsSpec) -> Iterator[tuple[str, Callable[[], str | None]]]:
    base = "$.ask.tools"
    if spec.lookup is not None:
        sql, names = spec.lookup.sql, tuple(spec.lookup.params)
        yield f"{base}.lookup.sql", lambda: sqltext.fault(sql, names)
        yield from _path_attempts(f"{base}.lookup.params", spec.lookup.params)
    if spec.fetch is not None:
        path, given = spec.fetch.path, tuple(spec.fetch.params)
        yield f"{base}.fetch.path", lambda: pathtext.fault(path, given)
        yield from _path_attempts(f"{base}.fetch.params", spec.fetch.params)
    for name, text in spec.calculate.items():
        yield f"{base}.calculate.{name}", lambda name=name, text=text: _calculation_fault(name, text)  # type: ignore[misc]


def _path_attempts(where: str, params: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], str | None]]]:
    for name, path in params.items():
        yield f"{where}.{name}", lambda path=path: _path_fault(path)  # type: ignore[misc]


def _path_fault(path: str) -> str | None:
    compile_path(path)
    return None


def _calculation_fault(name: str, text: str) -> str | None:
    if name in {LOOKUP, FETCH}:
        return "has the name under which an answer is put: choose another"
    compile_condition(text, variables=VARIABLES)
    return None


def _paths(params: Mapping[str, str]) -> Mapping[str, Path]:
    return {name: compile_path(path) for name, path in sorted(params.items())}


# -- what is asked -----------------------------------------------------------------------------------------------------


def wanted(tools: Tools, item_input: JsonObject) -> Wanted:
    """What is to be asked about a record; `Unusable` when its place in the input is taken."""
    into = tools.spec.into
    if into in item_input:
        note = f"$.{into}: is there already, and the job's tools put their answers there (ask.tools.into)"
        raise Unusable(Reason.INVALID_INPUT, note)
    questions: list[Question] = []
    failed: dict[str, str] = {}
    for tool, ask in ((LOOKUP, _lookup), (FETCH, _fetch)):
        try:
            question = ask(tools, item_input)
        except _ParameterError as wrong:
            failed[tool] = str(wrong)
            continue
        if question is not None:
            questions.append(question)
    return Wanted(questions=tuple(questions), failed=failed)


class _ParameterError(ValueError):
    """The record does not give a parameter; free of payload."""


def _lookup(tools: Tools, item_input: JsonObject) -> Question | None:
    spec: LookupSpec | None = tools.spec.lookup
    if spec is None:
        return None
    params = tuple((name, _scalar(name, path, item_input)) for name, path in tools.lookup.items())
    return Lookup(
        source=spec.source,
        sql=spec.sql,
        params=params,
        rows_max=spec.rows_max,
        timeout_seconds=spec.timeout_seconds,
    )


def _fetch(tools: Tools, item_input: JsonObject) -> Question | None:
    spec: FetchSpec | None = tools.spec.fetch
    if spec is None:
        return None
    values = {name: _segment(name, path, item_input) for name, path in tools.fetch.items()}
    try:
        path = pathtext.fill(spec.path, values)
    except pathtext.PathTextError as wrong:
        raise _ParameterError(str(wrong)) from None
    return Fetch(source=spec.api, path=path, timeout_seconds=spec.timeout_seconds)


def _scalar(name: str, path: Path, item_input: JsonObject) -> Scalar:
    found = path.find(item_input)
    if found is ABSENT or found is None:
        raise _ParameterError(f"the parameter {name} is expected at {path.text}, and nothing is there")
    if not isinstance(found, str | int | float):
        raise _ParameterError(f"the parameter {name} at {path.text} is no text, number or boolean")
    if isinstance(found, str) and (len(found) > PARAMETER_CHARS_MAX or "\0" in found):
        kind = f"is longer than {PARAMETER_CHARS_MAX} characters or holds a NUL"
        raise _ParameterError(f"the parameter {name} at {path.text} {kind}")
    if type(found) is int and not -_INT64 <= found < _INT64:
        raise _ParameterError(f"the parameter {name} at {path.text} has more than 64 bits")
    return found


def _segment(name: str, path: Path, item_input: JsonObject) -> str:
    found = _scalar(name, path, item_input)
    if isinstance(found, bool | float):
        raise _ParameterError(f"the parameter {name} at {path.text} is expected to be a text or a whole number")
    return str(found)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:_KEY_CHARS]


# -- what becomes of the answers ---------------------------------------------------------------------------------------


def equip(tools: Tools, item_input: JsonObject, asked: Wanted, found: Found) -> None:
    """Put everything under `into`; `Unusable` where a tool has nothing for this record and the job needs it."""
    assert not found.missing(asked), "something is still to be asked"
    put: dict[str, Any] = {}
    for tool, note in asked.failed.items():
        _do_without(tools, tool, note)
        put[tool] = None
    for question in asked.questions:
        if question.key not in found.answers:
            _do_without(tools, question.tool, found.failed[question.key])
        put[question.tool] = found.answers.get(question.key)
    put |= _calculated(tools, item_input, put)
    item_input[tools.spec.into] = put


def _do_without(tools: Tools, where: str, note: str) -> None:
    if tools.spec.on_failure == "dead":
        raise Unusable(Reason.TOOL_FAILED, f"ask.tools.{where}: {note}")


def _calculated(tools: Tools, item_input: JsonObject, put: Mapping[str, Any]) -> dict[str, Any]:
    scope = Scope({"input": item_input, "tools": put})
    results: dict[str, Any] = {}
    for name, expression in tools.calculate:
        try:
            results[name] = _result(expression.value(scope))
        except ConditionError as wrong:
            _do_without(tools, f"calculate.{name}", str(wrong))
            results[name] = None
    return results


def _result(value: Any) -> Any:
    if not _is_json(value):
        raise ConditionError("its result has no form in JSON: make it a text, number, boolean, list or map")
    try:
        size = len(canonical(value))
    except Unusable:
        raise ConditionError("its result has no canonical form in JSON") from None
    if size > RESULT_BYTES_MAX:
        raise ConditionError(f"its result has {size} bytes, at most {RESULT_BYTES_MAX} are taken")
    return value


def _is_json(value: Any) -> bool:
    match value:
        case None | bool() | str() | int():
            return True
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_is_json, value))
        case dict():
            return all(isinstance(name, str) and _is_json(each) for name, each in value.items())
        case _:
            return False


def told(question: Question) -> JsonObject:
    """What is asked, for people: the one place where parameters are shown."""
    match question:
        case Lookup():
            return {"source": question.source, "sql": question.sql, "params": dict(question.params)}
        case Fetch():
            return {"api": question.source, "path": question.path}


def account_of(spec: ToolsSpec, item_input: JsonObject) -> JsonObject:
    """What was asked about a record and what was found, from the input of its work item."""
    put = item_input.get(spec.into)
    if not isinstance(put, dict):
        return {}
    before = {name: value for name, value in item_input.items() if name != spec.into}
    asked = wanted(compile_tools(spec), before)
    shown: JsonObject = {each.tool: {**told(each), "found": put.get(each.tool)} for each in asked.questions}
    shown |= {tool: {"not_asked": note} for tool, note in asked.failed.items()}
    return shown | {name: {"cel": text, "found": put.get(name)} for name, text in spec.calculate.items()}
