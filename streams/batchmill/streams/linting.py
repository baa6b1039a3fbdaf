"""Everything that is wrong with a frozen job, told at once, before any record meets it.

`jobs.JobSpec` refuses what is ill-formed; here is told what is well-formed and still cannot work (an error), or works
otherwise than its author may think (a warning). Pure: no file, no provider is asked. What is told of prompts, examples
and the form of the answer is in `proofreading`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.compiling import FAULTS, FILTER_VARIABLES
from batchmill.streams.expressions import compile_condition
from batchmill.streams.finding import Finding
from batchmill.streams.granting import output_limit
from batchmill.streams.linting_gate import gate_findings
from batchmill.streams.linting_judge import attempts, member_paths, mistakes
from batchmill.streams.linting_lookups import looked_up
from batchmill.streams.linting_routes import choices, on_all_routes
from batchmill.streams.linting_stages import staged
from batchmill.streams.paths import compile_path
from batchmill.streams.rendering import EMBEDDINGS_ENDPOINT, request_form
from batchmill.streams.shapes import compile_shape
from batchmill.streams.tooling import mistakes as tool_mistakes

__all__ = ["Finding", "errors", "findings"]


def findings(spec: JobSpec) -> tuple[Finding, ...]:
    """All findings, errors first."""
    found = [*on_all_routes(spec, _of_question), *choices(spec), *staged(spec), *looked_up(spec)]
    return tuple(sorted(found, key=lambda finding: not finding.error))


def _of_question(spec: JobSpec) -> Iterator[Finding]:
    yield from _broken(spec)
    for where, message, error in mistakes(spec):
        yield Finding(where=where, message=message, error=error)
    yield from _surprising(spec)


def errors(spec: JobSpec) -> tuple[Finding, ...]:
    """What makes the job unusable; it must not be applied while there is any."""
    return tuple(finding for finding in findings(spec) if finding.error)


def _broken(spec: JobSpec) -> Iterator[Finding]:
    for where, attempt in _attempts(spec):
        try:
            attempt()
        except FAULTS as fault:
            yield Finding(where=where, message=str(fault), error=True)
    yield from () if spec.ask.tools is None else tool_mistakes(spec.ask.tools)
    yield from _unbounded(spec)
    yield from _watching_nothing(spec)
    yield from gate_findings(spec, _declared(spec))


def _unbounded(spec: JobSpec) -> Iterator[Finding]:
    """A budget is kept by reserving the most a request can cost."""
    try:
        form = request_form(spec.ask, spec.input)
    except FAULTS:
        return  # told already
    if spec.budget is not None and output_limit(spec.ask.model, form, _output_default(spec)) is None:
        what = "a budget needs `max_output_tokens` in ask.model.params: without it nobody knows what may be spent"
        yield Finding(where="$.budget", message=what, error=True)


def _watching_nothing(spec: JobSpec) -> Iterator[Finding]:
    """A member that no answer has would be absent in every one of them, and never move."""
    field = None if spec.drift is None else spec.drift.field
    if field is None:
        return
    try:
        first = compile_path(field).steps[0]
    except FAULTS as fault:
        yield Finding(where="$.drift.field", message=str(fault), error=True)
        return
    declared = _declared(spec)
    if declared is not None and first not in declared:
        what = f"{field!r} is not a member of the output schema"
        yield Finding(where="$.drift.field", message=what, error=True, hint=f"it has {', '.join(sorted(declared))}")


def _output_default(spec: JobSpec) -> int | None:
    """The answer's limit that is sent where the job sets none, and its provider demands one."""
    facts = PROVIDERS.get(spec.ask.model.provider)
    return None if facts is None else facts.can.output_tokens_default


def _attempts(spec: JobSpec) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each part that has to compile, and where it stands."""
    given, judge = spec.input, spec.judge
    yield "$.ask", lambda: request_form(spec.ask, spec.input)
    for where, schema in (("$.input.schema", given.schema_json), ("$.ask.output", spec.ask.output_schema_json)):
        if schema is not None:
            yield where, lambda schema=schema: compile_shape(orjson.loads(schema))  # type: ignore[misc]
    if given.filter is not None:
        source = given.filter
        yield "$.input.filter", lambda: compile_condition(source, variables=FILTER_VARIABLES)
    paths = [("$.id", spec.id_path), ("$.seq", spec.seq), ("$.place.key", spec.place.key)]
    paths += [("$.input.required", name) for name in given.required]
    paths += [("$.input.text.max_chars", name) for name in given.max_chars]
    paths += member_paths(judge)
    yield from attempts(judge)
    for where, path in paths:
        if path is not None:
            yield where, lambda path=path: compile_path(path)  # type: ignore[misc]


def _surprising(spec: JobSpec) -> Iterator[Finding]:
    params = orjson.loads(spec.ask.model.params_json)
    endless = spec.ask.model.endpoint != EMBEDDINGS_ENDPOINT  # a vector does not grow
    if endless and not {"max_output_tokens", "max_completion_tokens", "max_tokens"} & set(params):
        yield _warning("$.ask.model.params", "no max_output_tokens: one answer may cost as much as the model can write")
    declared = _declared(spec)
    if declared is not None:
        yield from _undeclared(spec, frozenset(declared))
    yield from _free_text(spec, declared or {})


def _declared(spec: JobSpec) -> Mapping[str, Any] | None:
    """The members of the answer, where the output schema names them."""
    written = spec.ask.output_schema_json
    schema = None if written is None else orjson.loads(written)
    declared = schema.get("properties") if isinstance(schema, dict) else None
    return declared if isinstance(declared, dict) else None


def _free_text(spec: JobSpec, declared: Mapping[str, Any]) -> Iterator[Finding]:
    """Values of a watched member are told in alarms, and only few of them can be told apart."""
    field = "" if spec.drift is None else (spec.drift.field or "").removeprefix("$.")
    member = declared.get(field)
    any_text = isinstance(member, dict) and member.get("type") == "string" and not {"enum", "const"} & member.keys()
    if any_text and field not in spec.judge.categories:
        what = f"{field!r} is any text: watch a member with few values, such as an enum"
        yield _warning("$.drift.field", what)


def _undeclared(spec: JobSpec, declared: frozenset[str]) -> Iterator[Finding]:
    for where, name in member_paths(spec.judge):
        try:
            first = compile_path(name).steps[0]
        except FAULTS:
            continue  # told as an error already
        if first not in declared:
            yield _warning(where, f"{name!r} is not a member of the output schema")


def _warning(where: str, message: str) -> Finding:
    return Finding(where=where, message=message, error=False)
