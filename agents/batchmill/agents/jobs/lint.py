"""What a job means, tried before anything is paid: templates, conditions, schemas, and whether they fit each other.

The compilers are those of `streams`, so that what passes here compiles in a worker.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from batchmill.agents.jobs.lines import Lined, Steps
from batchmill.agents.jobs.problems import Problem
from batchmill.schemas.jobs import JobSpec
from batchmill.streams.expressions import ConditionError, compile_condition
from batchmill.streams.paths import PathError, compile_path
from batchmill.streams.rendering import TemplateError, compile_prompt, is_strict, request_form
from batchmill.streams.shapes import ShapeError, compile_shape

__all__ = ["findings"]

_FILTER_VARIABLES = frozenset({"input"})
_TEMPLATE_LINE = re.compile(r"template, line (\d+)")
_MEMBERS_READ = re.compile(r"\binput\.([A-Za-z_][A-Za-z0-9_]*)")


def findings(spec: JobSpec, lined: Lined, read: Mapping[Steps, Path]) -> Iterator[Problem]:
    """Errors and warnings about `spec`, in the order of the file."""
    linter = _Linter(spec, lined, read)
    yield from linter.paths()
    yield from linter.input()
    yield from linter.templates()
    yield from linter.output()
    yield from linter.judge()


class _Linter:
    def __init__(self, spec: JobSpec, lined: Lined, read: Mapping[Steps, Path]) -> None:
        self._spec = spec
        self._lined = lined
        self._read = read

    def paths(self) -> Iterator[Problem]:
        spec = self._spec
        for steps, text in ((("id",), spec.id_path), (("seq",), spec.seq), (("place", "key"), spec.place.key)):
            if text is not None and text.startswith("$"):
                yield from self._tried(steps, partial(compile_path, text))

    def input(self) -> Iterator[Problem]:
        given = self._spec.input
        if given.schema_json is not None:
            yield from self._shape(("input", "schema"), given.schema_json)
        if given.filter is not None:
            compiling = partial(compile_condition, given.filter, variables=_FILTER_VARIABLES)
            yield from self._tried(("input", "filter"), compiling)
        for name in given.max_chars:
            yield from self._undeclared(("input", "text", "max_chars", name), given.schema_json, name)
        for at, name in enumerate(given.required):
            yield from self._undeclared(("input", "required", at), given.schema_json, name)

    def templates(self) -> Iterator[Problem]:
        ask = self._spec.ask
        broken = False
        for role, system, user in (("system", ask.system, "-"), ("user", None, ask.user)):
            try:
                compile_prompt(system=system, user=user)
            except TemplateError as error:
                broken = True
                file = self._read.get(("ask", "prompt", role), self._lined.file)
                line = _TEMPLATE_LINE.search(str(error))
                yield Problem(file=file, line=int(line[1]) if line else 1, what=str(error))
        if not broken:
            yield from self._tried(("ask", "model"), partial(request_form, ask))
        yield from self._template_members()

    def _template_members(self) -> Iterator[Problem]:
        """A member no declared event has would fail every record at render time."""
        schema = self._spec.input.schema_json
        for role, text in (("system", self._spec.ask.system), ("user", self._spec.ask.user)):
            for number, line in enumerate((text or "").splitlines(), start=1):
                for name in dict.fromkeys(_MEMBERS_READ.findall(line)):
                    if _declares(schema, name) is False:
                        yield Problem(
                            file=self._read.get(("ask", "prompt", role), self._lined.file),
                            line=number,
                            what=f"uses `input.{name}`, which the input schema does not declare",
                            level="warning",
                        )

    def output(self) -> Iterator[Problem]:
        text, name = self._spec.ask.output_schema_json, self._spec.ask.output_name
        steps: Steps = ("ask", "output", "schema") if ("ask", "output", "schema") in self._read else ("ask", "output")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            yield self._problem(("ask", "output", "name"), "providers take only letters, digits, '_' and '-' here")
        if text is None:
            return
        yield from self._shape(steps, text)
        schema = json.loads(text)
        if not isinstance(schema, dict) or not is_strict(schema):
            yield Problem(
                file=self._read[steps],
                line=1,
                what="is outside the strict dialect of structured output, so the model may answer in other forms",
                hint="close every object with additionalProperties: false, list all its members in required, and"
                " avoid allOf, oneOf, not, if, patternProperties",
                level="warning",
            )

    def judge(self) -> Iterator[Problem]:
        judge, schema = self._spec.judge, self._spec.ask.output_schema_json
        for at, name in enumerate(judge.required):
            yield from self._undeclared(("judge", "required", at), schema, name, level="error")
        for section, names in (("categories", judge.categories), ("lengths", judge.lengths)):
            for name in names:
                yield from self._undeclared(("judge", section, name), schema, name, level="error")
        if judge.confidence is not None:
            field = judge.confidence.field
            yield from self._undeclared(("judge", "confidence", "field"), schema, field, level="error")
        yield from self._needs_json()
        yield from self._contradictions()

    def _needs_json(self) -> Iterator[Problem]:
        judge = self._spec.judge
        if self._spec.ask.output_schema_json is None and (
            judge.required or judge.categories or judge.lengths or judge.confidence
        ):
            yield self._problem(("judge",), "looks into the members of an answer, but `ask.output` declares none")

    def _contradictions(self) -> Iterator[Problem]:
        """A category the output schema does not allow can never be answered."""
        properties = _properties(self._spec.ask.output_schema_json)
        for name, allowed in self._spec.judge.categories.items():
            options = properties.get(name, {}).get("enum") if isinstance(properties.get(name), dict) else None
            for value in allowed:
                if isinstance(options, list) and value not in options:
                    what = f"allows {value!r}, which the output schema does not"
                    yield self._problem(("judge", "categories", name), what, level="warning")

    def _undeclared(
        self, steps: Steps, schema: str | None, name: str, *, level: Literal["error", "warning"] = "warning"
    ) -> Iterator[Problem]:
        if _declares(schema, name.removeprefix("$.").split(".")[0].split("[")[0]) is False:
            yield self._problem(steps, f"`{name}` is not a member the schema declares", level=level)

    def _shape(self, steps: Steps, text: str) -> Iterator[Problem]:
        try:
            compile_shape(json.loads(text))
        except ShapeError as error:
            yield Problem(file=self._read[steps], line=1, what=f"is not a JSON Schema: {error}")

    def _tried(self, steps: Steps, compile_it: Callable[[], object]) -> Iterator[Problem]:
        try:
            compile_it()
        except (PathError, ConditionError, TemplateError) as error:
            yield self._problem(steps, f"{'.'.join(map(str, steps))}: {error}")

    def _problem(self, steps: Steps, what: str, *, level: Literal["error", "warning"] = "error") -> Problem:
        return Problem(file=self._lined.file, line=self._lined.line(steps), what=what, level=level)


def _properties(schema_json: str | None) -> dict[str, Any]:
    schema = json.loads(schema_json) if schema_json is not None else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}


def _declares(schema_json: str | None, name: str) -> bool | None:
    """None when the schema leaves open which members there are."""
    properties = _properties(schema_json)
    return name in properties if properties else None
