"""What a template reads is followed through loops, aliases and guards; what it says is told by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.rendering import compile_prompt
from batchmill.streams.templating import reads_of, said_in, told
from batchmill.streams.unusable import Unusable


def read(template: str) -> str:
    """What is read, in order; `!`: known to be there."""
    return " ".join(told(each.steps) + "!" * (each.steps in each.sure) for each in reads_of(template))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ input.a }}{{ input['b-c'] }}", "input.a input.b-c"),
        ("{{ input.a.b[0].c }}{{ input }}", "input.a.b[0].c input"),
        ("{{ input.lines[:3] }}{{ input[input.k] }}", "input.lines input input.k"),
        ("{% for x in input.a %}{{ x.b }}{{ loop.index }}{% endfor %}", "input.a input.a[].b"),
        ("{% for x in input.a | sort(attribute='n') %}{{ x.b }}{% endfor %}", "input.a input.a[].b"),
        (
            "{% for x in input.a %}{% for y in x.b %}{{ y.c }}{% endfor %}{% endfor %}",
            "input.a input.a[].b input.a[].b[].c",
        ),
        (
            "{% for x in input.a if x.b is defined %}{{ x.b }}{% endfor %}",
            "input.a input.a[].b! input.a[].b!",
        ),
        ("{% for input in input.a %}{{ input.b }}{% endfor %}{{ input.c }}", "input.a input.a[].b input.c"),
        ("{% for k, v in input.map.items() %}{{ k }}{{ v.w }}{% endfor %}", "input.map"),
        ("{% set c = input.a %}{{ c.b }}", "input.a input.a.b"),
        ("{% with c = input.a %}{{ c.b }}{% endwith %}", "input.a input.a.b"),
        ("{{ (input.a | first).b }}", "input.a[].b"),
        ("{{ input.a.upper() }}{{ input.map.items() }}", "input.a input.map"),
        ("{{ input.get('a') }}", "input.a! input"),
        ("{{ input.a | default('') }}{{ input.b | d(input.c) }}", "input.a! input.b! input.c"),
        ("{% if input.a is defined %}{{ input.a }}{% else %}{{ input.a }}{% endif %}", "input.a! input.a! input.a"),
        ("{% if input.a is undefined %}-{% else %}{{ input.a }}{% endif %}", "input.a! input.a!"),
        ("{% if input.a is not defined %}-{% elif input.b %}{{ input.a }}{% endif %}", "input.a! input.b input.a!"),
        ("{% if 'a' in input and input.a %}{{ input.a }}{% endif %}", "input.a! input input.a! input.a!"),
        ("{% if input.a is defined or input.b is defined %}{{ input.a }}{% endif %}", "input.a! input.b! input.a"),
        ("{{ input.a if input.a is string else '-' }}", "input.a! input.a!"),
        ("{% if not (input.a is none) %}{{ input.a }}{% endif %}", "input.a! input.a"),
        ("{% macro m(x) %}{{ x.y }}{{ input.a }}{% endmacro %}{{ m(input.b) }}", "input.a input.b"),
    ],
)
def test_reads_are_followed(template: str, expected: str) -> None:
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
def test_a_template_fails_on_a_record_only_where_a_read_is_not_sure(
    parts: list[tuple[str, str]], there: set[str]
) -> None:
    template = "".join(guard.format(name) for guard, name in parts) or "-"
    unsure = {
        steps[0] for steps, sure in ((r.steps, r.steps in r.sure) for r in reads_of(template)) if steps and not sure
    }
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
