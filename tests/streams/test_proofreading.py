"""All of a prompt's remarks together: by name, each once, and none for a prompt that leaves nothing open."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.jobs import ChunkSpec, InputSpec, JobSpec, ModeSpec
from batchmill.streams.finding import Lint
from batchmill.streams.linting import errors
from batchmill.streams.proofreading import remarks
from tests.streams.making import OUTPUT_SCHEMA, make_spec

GIVEN = InputSpec(schema_json='{"type":"object","required":["body"],"properties":{"body":{"type":"string"}}}')
STRICT = OUTPUT_SCHEMA | {"required": ["label", "confidence", "summary"]}


def spec_of(**changes: Any) -> JobSpec:
    ask = {name: changes.pop(name) for name in ("examples_json", "missing") if name in changes}
    spec = make_spec(**({"given": GIVEN, "output_schema": STRICT} | changes))
    return replace(spec, ask=replace(spec.ask, **ask))


def test_a_prompt_that_leaves_nothing_open_is_not_remarked_on() -> None:
    assert remarks(spec_of()) == ()


@pytest.mark.parametrize(
    ("changes", "lint", "where", "error"),
    [
        ({"user": "{{ input.bdy }}"}, Lint.UNKNOWN_MEMBER, "$.ask.prompt.user", True),
        ({"given": InputSpec()}, Lint.UNDECLARED_INPUT, "$.ask.prompt.user", False),
        ({"examples_json": '[{"input":{"body":"x"},"output":{}}]'}, Lint.UNFIT_EXAMPLE, "$.ask.examples", True),
        ({"output_schema": OUTPUT_SCHEMA, "missing": "Omit it."}, Lint.OUTPUT_DIALECT, "$.ask.output", False),
        ({"output_schema": {"type": "string"}}, Lint.OUTPUT_DIALECT, "$.ask.output", True),
        ({"system": "Sort properly."}, Lint.VAGUE_WORDING, "$.ask.prompt.system", False),
        ({"params": '{"max_output_tokens":3}'}, Lint.SMALL_ANSWER_ROOM, "$.ask.model.params", False),
        ({"mode": ModeSpec(chunk=ChunkSpec(max_tokens=5))}, Lint.CHUNK_TOO_SMALL, "$.mode.chunk", True),
        ({"mode": ModeSpec(chunk=ChunkSpec(max_tokens=500))}, Lint.CHUNK_TOO_SMALL, "$.mode.chunk", False),
    ],
)
def test_each_is_told_where_it_is_to_be_changed(changes: dict[str, Any], lint: Lint, where: str, error: bool) -> None:
    found = remarks(spec_of(**changes))
    assert {(each.lint, each.where, each.error) for each in found} == {(lint, where, error)}


def test_an_example_longer_than_the_room_for_answers_is_told_by_its_number() -> None:
    output = {"label": "a", "confidence": 1, "summary": "x" * 900}
    examples = json.dumps([{"input": {"body": "x"}, "output": each} for each in (output | {"summary": "x"}, output)])
    (told,) = remarks(spec_of(examples_json=examples))
    assert (told.lint, told.line) == (Lint.SMALL_ANSWER_ROOM, 2)


def test_losses_of_one_kind_are_told_together() -> None:
    schema = STRICT | {"properties": {name: {"type": "number", "minimum": n} for n, name in enumerate("abcdefg")}}
    schema |= {"required": list("abcdefg")}
    spec = spec_of(output_schema=schema)
    model = replace(spec.ask.model, provider="anthropic", endpoint="/v1/messages")
    (told,) = remarks(replace(spec, ask=replace(spec.ask, model=model)))
    assert "$.properties.a `minimum`" in told.message
    assert "and 2 more" in told.message


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "{{ input.body"},
        {"given": InputSpec(schema_json='{"type":"strin"}')},
        {"examples_json": "[1]"},
        {"output_schema": {"type": "strin"}},
    ],
)
def test_what_does_not_compile_is_an_error_of_the_job_and_not_remarked_on(changes: dict[str, Any]) -> None:
    spec = spec_of(**changes)
    assert errors(spec)
    assert all(each.lint is Lint.OUTPUT_DIALECT for each in remarks(spec))


def test_a_schema_that_leads_into_itself_ends() -> None:
    node = {"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}}
    assert remarks(spec_of(output_schema=node | {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}))
