"""What the members of an answer must be: its JSON Schema, what is required, categories, lengths, patterns and types.

Each kind is one check that passed, or one failed check for each fault, with its path. What lives here: these kinds, and
nothing that needs the input. What must not: what a failed check means.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.schemas.jobs import CheckKind, JobSpec, LengthSpec, Severity
from batchmill.schemas.records import Check
from batchmill.streams.paths import ABSENT, Path, compile_path
from batchmill.streams.shapes import Shape, ShapeError, compile_shape

__all__ = ["TYPES", "Members", "compile_members", "member_checks", "type_schema"]

_JSON_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_FORMATS = ("date", "date-time", "time", "email", "uri", "uuid")
#: what `types` may say of a member
TYPES = (*_JSON_TYPES, *_FORMATS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The compiled checks on members."""

    shape: Shape | None
    required: tuple[Path, ...]
    categories: tuple[tuple[Path, tuple[str, ...]], ...]
    lengths: tuple[tuple[Path, LengthSpec], ...]
    patterns: tuple[tuple[Path, Shape], ...]
    types: tuple[tuple[Path, Shape, str], ...]
    severity: Mapping[CheckKind, Severity]


def compile_members(spec: JobSpec) -> Members:
    """Compile, or ShapeError / PathError."""
    judge, schema = spec.judge, spec.ask.output_schema_json
    return Members(
        shape=None if schema is None else compile_shape(orjson.loads(schema)),
        required=tuple(compile_path(name) for name in judge.required),
        categories=tuple((compile_path(name), allowed) for name, allowed in judge.categories.items()),
        lengths=tuple((compile_path(name), bounds) for name, bounds in judge.lengths.items()),
        patterns=tuple(
            (compile_path(name), compile_shape({"pattern": pattern})) for name, pattern in judge.patterns.items()
        ),
        types=tuple((compile_path(name), compile_shape(type_schema(kind)), kind) for name, kind in judge.types.items()),
        severity={kind: judge.severity.get(kind, Severity.REJECT) for kind in CheckKind},
    )


def type_schema(kind: str) -> dict[str, str]:
    """The schema of a member of this type, or ShapeError."""
    if kind not in TYPES:
        raise ShapeError(f"there is no type {kind!r}: known are {', '.join(TYPES)}")
    return {"type": kind} if kind in _JSON_TYPES else {"type": "string", "format": kind}


def member_checks(members: Members, output: Any) -> Iterator[Check]:
    if members.shape is not None:
        yield from _kind(members, CheckKind.SCHEMA, ((m.path, m.note) for m in members.shape.mismatches(output)))
    if members.required:
        yield from _kind(members, CheckKind.REQUIRED, _absent(members.required, output))
    if members.categories:
        yield from _kind(members, CheckKind.CATEGORY, _uncategorised(members, output))
    if members.lengths:
        yield from _kind(members, CheckKind.LENGTH, _out_of_bounds(members, output))
    if members.patterns:
        yield from _kind(members, CheckKind.PATTERN, _unmatched(members, output))
    if members.types:
        yield from _kind(members, CheckKind.TYPE, _mistyped(members, output))


def _kind(members: Members, kind: CheckKind, faults: Iterator[tuple[str, str]]) -> Iterator[Check]:
    """One check per fault found, or one that passed."""
    clean = True
    for path, note in faults:
        clean = False
        yield Check(id=kind.value, severity=members.severity[kind].value, passed=False, path=path, note=note)
    if clean:
        yield Check(id=kind.value, severity=members.severity[kind].value, passed=True, path=None, note=None)


def _absent(required: tuple[Path, ...], output: Any) -> Iterator[tuple[str, str]]:
    for path in required:
        value = path.find(output)
        if value is ABSENT or value is None or (isinstance(value, str) and not value.strip()):
            yield path.text, "expected to be there and not blank"


def _uncategorised(members: Members, output: Any) -> Iterator[tuple[str, str]]:
    for path, allowed in members.categories:
        value = path.find(output)
        if value is not ABSENT and (not isinstance(value, str) or value not in allowed):
            yield path.text, f"expected one of the {len(allowed)} declared categories"


def _out_of_bounds(members: Members, output: Any) -> Iterator[tuple[str, str]]:
    for path, bounds in members.lengths:
        value = path.find(output)
        if value is ABSENT or value is None:
            continue
        low, high = bounds.min or 0, bounds.max
        if not isinstance(value, str | list) or len(value) < low or (high is not None and len(value) > high):
            yield path.text, f"expected a text or list of length {low} to {'any' if high is None else high}"


def _unmatched(members: Members, output: Any) -> Iterator[tuple[str, str]]:
    for path, shape in members.patterns:
        value = path.find(output)
        if value is not ABSENT and value is not None and not (isinstance(value, str) and shape.fits(value)):
            yield path.text, "expected a text in which the declared pattern is found"


def _mistyped(members: Members, output: Any) -> Iterator[tuple[str, str]]:
    for path, shape, kind in members.types:
        value = path.find(output)
        if value is not ABSENT and not shape.fits(value):
            yield path.text, f"expected the type {kind}"
