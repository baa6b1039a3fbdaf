"""Whether every member that a template reads is declared by the input schema, and there whenever it is read.

A member that is absent is a render error of its record: paid for by nobody, but dead-lettered. So what is undeclared is
an error before anything runs, and what is optional has to be asked for (`is defined`, `default`) before it is printed.
"""

import difflib
from collections.abc import Iterator
from typing import Any

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.paths import PathError, compile_path
from batchmill.streams.subschemas import item_of, member_of, members_of, required_of, target_of
from batchmill.streams.templating import Read, Steps, reads_of, told

__all__ = ["known_input", "templates_of", "undeclared"]


_SCALARS = frozenset({"string", "number", "integer", "boolean", "null"})
_TEXT = {"type": "string"}
#: what retrieval puts beside a record
_CONTEXT = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"id": _TEXT, "document": _TEXT, "text": _TEXT},
        "required": ["id", "document", "text"],
    },
}


def known_input(spec: JobSpec) -> Any:
    """The input schema with what is put beside each record; None: nothing is declared. Questions see this input."""
    schema = None if spec.input.schema_json is None else orjson.loads(spec.input.schema_json)
    retrieval = spec.ask.retrieval
    if retrieval is None or not isinstance(schema, dict) or not members_of(schema, schema):
        return schema
    added = {retrieval.into: _CONTEXT}
    properties, required = schema.get("properties"), schema.get("required")
    return schema | {
        "properties": (properties if isinstance(properties, dict) else {}) | added,
        "required": list(dict.fromkeys([*(required if isinstance(required, list) else []), *added])),
    }


def templates_of(spec: JobSpec) -> tuple[tuple[str, str], ...]:
    """(where, text) of the job's templates."""
    both = (("$.ask.prompt.system", spec.ask.system), ("$.ask.prompt.user", spec.ask.user))
    return tuple((where, text) for where, text in both if text is not None)


def undeclared(spec: JobSpec) -> Iterator[Finding]:
    """What the templates of a job that compiles read, against its input schema."""
    schema = known_input(spec)
    reads = [(where, read) for where, text in templates_of(spec) for read in reads_of(text)]
    reads = [(where, read) for where, read in reads if not _is_added(spec, read)]
    if not members_of(schema, schema):
        yield from _nothing_declared(reads)
        return
    required, seen = _required(spec), set[tuple[str, int, Steps, str]]()
    for where, read in reads:
        for finding, steps in _faults(where, read, schema, required):
            key = (where, read.line, steps, finding.lint or "")
            if key not in seen:
                seen.add(key)
                yield finding


def _is_added(spec: JobSpec, read: Read) -> bool:
    """Whether it is no event's member, but what the job puts beside one."""
    return spec.ask.tools is not None and read.steps[:1] == (spec.ask.tools.into,)


def _nothing_declared(reads: list[tuple[str, Read]]) -> Iterator[Finding]:
    if reads:
        where, read = reads[0]
        yield Finding(
            where=where,
            line=read.line,
            lint=Lint.UNDECLARED_INPUT,
            message=f"no input schema declares what the template reads, `{told(read.steps)}` first",
            hint="name one under input.schema: a record without the member would be dead-lettered",
            error=False,
        )


def _required(spec: JobSpec) -> frozenset[Steps]:
    """What `input.required` makes sure of, with all that it lies in."""
    found: set[Steps] = set()
    for name in spec.input.required:
        try:
            steps = compile_path(name).steps
        except PathError:
            continue  # told as an error already
        found |= {steps[:at] for at in range(1, len(steps) + 1)}
    return frozenset(found)


def _faults(where: str, read: Read, schema: Any, required: frozenset[Steps]) -> Iterator[tuple[Finding, Steps]]:
    part: Any = schema
    for at, step in enumerate(read.steps):
        here = read.steps[: at + 1]
        if not isinstance(step, str):
            part = item_of(part, schema)
            continue
        declared = member_of(part, step, schema)
        if declared is None:
            if members_of(part, schema) or target_of(part, schema).get("type") in _SCALARS:
                yield _unknown(where, read.line, here, part, schema), here
            return  # where nothing is declared, nothing is known
        if step not in required_of(part, schema) and here not in read.sure and here not in required:
            yield _optional(where, read.line, here), here
        part = declared


def _unknown(where: str, line: int, steps: Steps, part: Any, schema: Any) -> Finding:
    known = list(members_of(part, schema))
    near = difflib.get_close_matches(str(steps[-1]), known, n=1)
    return Finding(
        where=where,
        line=line,
        lint=Lint.UNKNOWN_MEMBER,
        message=f"reads `{told(steps)}`, which the input schema does not declare",
        hint=f"did you mean `{near[0]}`?" if near else "declare it there, or leave it out",
        error=True,
    )


def _optional(where: str, line: int, steps: Steps) -> Finding:
    name = told(steps)
    return Finding(
        where=where,
        line=line,
        lint=Lint.OPTIONAL_MEMBER,
        message=f"reads `{name}`, which a record may lack: such a record would be dead-lettered",
        hint=f"write {{% if {name} is defined %}} around it, or require it in the input schema",
        error=False,
    )
