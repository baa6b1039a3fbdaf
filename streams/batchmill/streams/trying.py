"""Whether the examples of a job are right: each input one that the job takes, each output one that its judge passes.

A model follows its examples. One that the job itself would reject teaches it to be rejected. Not asked for is
confidence: an example may show how a doubtful record is answered.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from batchmill.schemas.jobs import JobSpec, Severity
from batchmill.streams.checking import NO_FUNCTIONS, CheckFunction
from batchmill.streams.declaring import known_input
from batchmill.streams.exemplifying import Example, examples_of
from batchmill.streams.finding import Finding, Lint
from batchmill.streams.jsontext import canonical
from batchmill.streams.judging import Judge, compile_judge, judge_output
from batchmill.streams.paths import ABSENT, compile_path
from batchmill.streams.shapes import Shape, compile_shape

__all__ = ["unfit_examples"]

WHERE = "$.ask.examples"
_NOT_ASKED = frozenset({"confidence"})


def unfit_examples(spec: JobSpec, functions: Mapping[str, CheckFunction] = NO_FUNCTIONS) -> Iterator[Finding]:
    """What is wrong with the examples of a job that compiles; `line` counts them. `functions`: the installed ones."""
    shape = None if spec.input.schema_json is None else compile_shape(known_input(spec))
    judge = compile_judge(_askable(spec, functions), functions)
    for example in examples_of(spec.ask, spec.input):
        yield from _unfit(example, "input", _input_faults(spec, shape, example))
        yield from _unfit(example, "output", _output_faults(judge, example))


def _askable(spec: JobSpec, functions: Mapping[str, CheckFunction]) -> JobSpec:
    """Without a second opinion, which nobody has given, and without functions that are not installed here."""
    there = tuple(each for each in spec.judge.functions if each.name in functions)
    return replace(spec, judge=replace(spec.judge, functions=there, scoring=None))


def _unfit(example: Example, member: str, faults: Iterator[tuple[str, str]]) -> Iterator[Finding]:
    for path, note in faults:
        inside = path.removeprefix("$")
        message = f"{member}{'.' if inside and inside[0] not in '.[' else ''}{inside}: {note}"
        yield Finding(where=WHERE, line=example.number, lint=Lint.UNFIT_EXAMPLE, message=message, error=True)


def _input_faults(spec: JobSpec, shape: Shape | None, example: Example) -> Iterator[tuple[str, str]]:
    if shape is not None:
        yield from ((fault.path, fault.note) for fault in shape.mismatches(example.input))
    for name in spec.input.required:
        path = compile_path(name)
        value = path.find(example.input)
        if value is ABSENT or value is None or (isinstance(value, str) and not value.strip()):
            yield path.text, "expected to be there and not blank"


def _output_faults(judge: Judge, example: Example) -> Iterator[tuple[str, str]]:
    if not judge.expects_json:
        if not isinstance(example.output, str):
            yield "$", "expected a text: the job asks for free text"
        return
    output_json = canonical(example.output).decode()
    told = judge_output(
        judge,
        request_id=f"example-{example.number}",
        output=example.output,
        output_json=output_json,
        item_input=example.input,
    )
    for check in told.checks:
        if not check.passed and check.severity != Severity.WARN and check.id not in _NOT_ASKED:
            yield check.path or "$", f"{check.note or 'does not pass'} (check {check.id})"
