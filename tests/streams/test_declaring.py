"""What the input schema does not declare is an error at its line; what a record may lack is a warning with the fix."""

import json
from typing import Any

import pytest

from batchmill.schemas.jobs import InputSpec
from batchmill.streams.declaring import undeclared
from batchmill.streams.finding import Finding, Lint
from tests.streams.making import make_spec

SCHEMA = {
    "type": "object",
    "required": ["body", "lines", "customer"],
    "properties": {
        "body": {"type": "string"},
        "note": {"type": "string"},
        "customer": {"$ref": "#/$defs/customer"},
        "lines": {
            "type": "array",
            "items": {"type": "object", "required": ["text"], "properties": {"text": {}, "qty": {}}},
        },
        "free": {"type": "object"},
        "map": {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
    },
    "$defs": {"customer": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
}


def found(user: str, schema: Any = SCHEMA, system: str | None = None, required: tuple[str, ...] = ()) -> list[Finding]:
    given = InputSpec(schema_json=None if schema is None else json.dumps(schema), required=required)
    return list(undeclared(make_spec(user=user, system=system, given=given)))


@pytest.mark.parametrize(
    "template",
    [
        "{{ input.body }} {{ input.customer.name }}",
        "{% for line in input.lines %}{{ line.text }}{{ line.qty | default(1) }}{% endfor %}",
        "{% if input.note is defined %}{{ input.note }}{% endif %}",
        "{{ input }}{{ input.lines[0].text }}",
        "{% if input.free is defined %}{{ input.free.whatever }}{% endif %}",
        "{% if input.map is defined %}{{ input.map.anything | d('') }}{% endif %}",
    ],
)
def test_what_is_declared_and_there_is_no_matter(template: str) -> None:
    assert found(template) == []


@pytest.mark.parametrize(
    ("template", "named", "hint"),
    [
        ("{{ input.bdy }}", "`input.bdy`", "did you mean `body`?"),
        ("{{ input.customer.nam }}", "`input.customer.nam`", "did you mean `name`?"),
        ("{% for x in input.lines %}{{ x.texd }}{% endfor %}", "`input.lines[].texd`", "did you mean `text`?"),
        ("{{ input.body.length }}", "`input.body.length`", "declare it there, or leave it out"),
        ("{{ input.titel | default('') }}", "`input.titel`", "declare it there, or leave it out"),
    ],
)
def test_what_is_undeclared_is_an_error_with_the_nearest_name(template: str, named: str, hint: str) -> None:
    (told,) = found(f"line one\n{template}")
    assert (told.error, told.lint, told.line, told.hint) == (True, Lint.UNKNOWN_MEMBER, 2, hint)
    assert named in told.message
    assert told.where == "$.ask.prompt.user"


def test_what_a_record_may_lack_is_a_warning_once_a_line() -> None:
    (first, second) = found("{{ input.note }} {{ input.note }}\n{% for x in input.lines %}{{ x.qty }}{% endfor %}")
    assert [(each.line, each.lint, each.error) for each in (first, second)] == [
        (1, Lint.OPTIONAL_MEMBER, False),
        (2, Lint.OPTIONAL_MEMBER, False),
    ]
    assert "{% if input.note is defined %}" in (first.hint or "")


def test_what_the_job_requires_is_there() -> None:
    assert found("{{ input.note }}", required=("note",)) == []
    assert found("{{ input.free.x }}", required=("$.free.x",)) == []


@pytest.mark.parametrize("schema", [None, {}, {"type": "object"}])
def test_a_schema_that_declares_nothing_is_told_once(schema: Any) -> None:
    (told,) = found("{{ input.body }}{{ input.note }}", schema, system="Sort.\nFor {{ input.customer }}.")
    assert (told.lint, told.error, told.where, told.line) == (
        Lint.UNDECLARED_INPUT, False, "$.ask.prompt.system", 2,
    )  # fmt: skip


def test_a_template_that_reads_nothing_needs_no_schema() -> None:
    assert found("Say hello.", None) == []


@pytest.mark.parametrize(
    "more",
    [
        {"if": {"required": ["kind"]}, "then": {"properties": {"extra": {"type": "string"}}}},
        {"if": {"required": ["kind"]}, "else": {"properties": {"extra": {"type": "string"}}}},
        {"dependentSchemas": {"kind": {"properties": {"extra": {"type": "string"}}}}},
        {"$ref": "#/$defs/base", "$defs": {"base": {"properties": {"extra": {"type": "string"}}}}},
    ],
    ids=["then", "else", "dependent", "beside a reference"],
)
def test_what_a_schema_declares_in_another_way_is_declared_as_well(more: Any) -> None:
    schema = {"type": "object", "properties": {"kind": {"type": "string"}}, **more}
    assert not any(each.error for each in found("{{ input.kind }} {{ input.extra }}", schema))


def test_a_reference_by_a_name_that_is_not_followed_says_nothing() -> None:
    schema = {"type": "object", "properties": {"item": {"$ref": "#part"}}, "$defs": {"part": {"$anchor": "part"}}}
    assert not any(each.error for each in found("{{ input.item.anything }}", schema))


def test_alternatives_of_a_schema_all_declare() -> None:
    schema = {"anyOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}}]}
    assert [each.lint for each in found("{{ input.a }}{{ input.c }}", schema)] == [
        Lint.OPTIONAL_MEMBER,
        Lint.UNKNOWN_MEMBER,
    ]
