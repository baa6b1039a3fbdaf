"""What a template reads is followed through loops, aliases and guards; what it says is told by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.rendering import compile_prompt
from batchmill.streams.templating import reads_of, said_in, told
from batchmill.streams.unusable import Unusable


def read(template: str) -> list[tuple[str, bool]]:
    """(what is read, whether it is known to be there)."""
    return [(told(each.steps), each.steps in each.sure) for each in reads_of(template)]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ input.a }}{{ input['b c'] }}", [("input.a", False), ("input.b c", False)]),
        ("{{ input.a.b[0].c }}", [("input.a.b[0].c", False)]),
        ("{{ input }}", [("input", False)]),
        ("{% for x in input.lines %}{{ x.qty }}{% endfor %}", [("input.lines", False), ("input.lines[].qty", False)]),
        (
            "{% for x in input.lines | sort(attribute='n') %}{{ x.qty }}{% endfor %}",
            [("input.lines", False), ("input.lines[].qty", False)],
        ),
        (
            "{% for x in input.a %}{% for y in x.b %}{{ y.c }}{% endfor %}{% endfor %}",
            [("input.a", False), ("input.a[].b", False), ("input.a[].b[].c", False)],
        ),
        (
            "{% for x in input.a if x.on is defined %}{{ x.on }}{% endfor %}",
            [("input.a", False), ("input.a[].on", True), ("input.a[].on", True)],
        ),
        ("{% set c = input.customer %}{{ c.name }}", [("input.customer", False), ("input.customer.name", False)]),
        ("{% with c = input.customer %}{{ c.name }}{% endwith %}", [("input.customer", False), ("input.customer.name", False)]),
        ("{{ (input.lines | first).qty }}", [("input.lines[].qty", False)]),
        ("{{ input.body.upper() }}{{ input.map.items() }}", [("input.body", False), ("input.map", False)]),
        ("{{ input.get('a') }}", [("input.a", True), ("input", False)]),
        ("{{ input.a | default('') }}{{ input.b | d(input.c) }}", [("input.a", True), ("input.b", True), ("input.c", False)]),
        ("{% if input.a is defined %}{{ input.a }}{% else %}{{ input.a }}{% endif %}", [("input.a", True), ("input.a", True), ("input.a", False)]),
        ("{% if input.a is undefined %}-{% else %}{{ input.a }}{% endif %}", [("input.a", True), ("input.a", True)]),
        ("{% if input.a is not defined %}-{% elif input.b %}{{ input.a }}{% endif %}", [("input.a", True), ("input.b", False), ("input.a", True)]),
        ("{% if 'a' in input and input.a %}{{ input.a }}{% endif %}", [("input.a", True), ("input", False), ("input.a", True), ("input.a", True)]),
        ("{% if input.a is defined or input.b is defined %}{{ input.a }}{% endif %}", [("input.a", True), ("input.b", True), ("input.a", False)]),
        ("{{ input.a if input.a is string else '-' }}", [("input.a", True), ("input.a", True)]),
        ("{% if not (input.a is none) %}{{ input.a }}{% endif %}", [("input.a", True), ("input.a", False)]),
        ("{% macro m(x) %}{{ x.y }}{{ input.a }}{% endmacro %}{{ m(input.b) }}", [("input.a", False), ("input.b", False)]),
        ("{% for k, v in input.map.items() %}{{ k }}{{ v.w }}{% endfor %}", [("input.map", False)]),
        ("{% for input in input.lines %}{{ input.qty }}{% endfor %}{{ input.a }}", [("input.lines", False), ("input.lines[].qty", False), ("input.a", False)]),
    ],
)  # fmt: skip
def test_reads_are_followed(template: str, expected: list[tuple[str, bool]]) -> None:
    assert read(template) == expected


def test_a_read_is_told_at_its_own_line() -> None:
    assert [each.line for each in reads_of("a\n{{ input.a }}\n\n{% if\n input.b %}{% endif %}")] == [2, 5]


NAMES = st.sampled_from(["a", "b", "c"])
GUARDS = st.sampled_from(
    [
        "{{% if input.{0} is defined %}}{{{{ input.{0} }}}}{{% endif %}}",
        "{{{{ input.{0} | default('-') }}}}",
        "{{% if '{0}' in input %}}{{{{ input.{0} }}}}{{% endif %}}",
        "{{% if input.{0} is undefined %}}-{{% else %}}{{{{ input.{0} }}}}{{% endif %}}",
        "{{{{ input.{0} if input.{0} is defined and input.{0} else '-' }}}}",
        "{{% set x = input.get('{0}') %}}",
        "{{{{ input.{0} }}}}",
        "{{% if input.{0} %}}x{{% endif %}}",
    ]
)


@given(st.lists(st.tuples(GUARDS, NAMES), max_size=5), st.sets(NAMES))
def test_a_template_fails_on_a_record_only_where_a_read_is_not_sure(parts: list[tuple[str, str]], there: set[str]) -> None:
    template = "".join(guard.format(name) for guard, name in parts) or "-"
    unsure = {steps[0] for steps, sure in ((r.steps, r.steps in r.sure) for r in reads_of(template)) if steps and not sure}
    prompt = compile_prompt(system=None, user=template)
    try:
        prompt.user_text(dict.fromkeys(there, "x"))
    except Unusable:
        assert unsure - there
    else:
        assert not unsure - there


def test_what_is_said_leaves_out_comments_and_what_is_printed() -> None:
    text = "One {# not this #}\nTwo {{ input.a }} more{% if input.b %}\nThree{% else %} or\nFour{% endif %}"
    assert [(each.line, each.text) for each in said_in(text)] == [
        (1, "One"),
        (2, "Two  more"),
        (3, "Three  or"),
        (4, "Four"),
    ]
