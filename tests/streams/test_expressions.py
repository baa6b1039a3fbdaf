"""CEL conditions: true, false or a reason why not, and mistakes told before any record meets them."""

from typing import Any

import pytest

from batchmill.streams.expressions import ConditionError, compile_condition

INPUT = frozenset({"input"})
SECRET = "hunter2-secret"


@pytest.mark.parametrize(
    ("source", "given", "holds"),
    [
        ("size(input.body) > 3", {"body": "long"}, True),
        ("size(input.body) > 3", {"body": "no"}, False),
        ("has(input.body) && input.body != ''", {}, False),
        ("input.n >= 1.5", {"n": 2}, True),
        ("input.n > 1", {"n": 2**53 + 1}, True),
        ("input.tags.exists(t, t.startsWith('x'))", {"tags": ["a", "xy"]}, True),
        ("input.tags.all(t, size(t) < 3)", {"tags": ["a", "xyz"]}, False),
        ("type(input.n) == int", {"n": 1}, True),
        ("'a' in input.tags", {"tags": ["a"]}, True),
        ("input.x.matches('^(a+)+$')", {"x": "a" * 5_000 + "b"}, False),
    ],
)
def test_a_condition_is_asked_of_a_record(source: str, given: dict[str, Any], holds: bool) -> None:
    assert compile_condition(source, variables=INPUT).holds({"input": given}) is holds


@pytest.mark.parametrize(
    "source",
    [
        "input.absent == 1",
        "input[input.secret] == 1",
        "int(input.secret) > 1",
        "input.secret + 1 == 2",
        "input.secret.x",
        "input.secret",
        "size(input.n) > 1",
        "input.n / input.zero > 1",
        "input.big + 1 > 1",
        "timestamp(input.secret) > timestamp('2020-01-01T00:00:00Z')",
    ],
)
def test_a_condition_without_an_answer_says_so_without_the_value(source: str) -> None:
    given = {"secret": SECRET, "n": 1, "zero": 0, "big": 2**63 - 1}
    with pytest.raises(ConditionError) as caught:
        compile_condition(source, variables=INPUT).holds({"input": given})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("size(input.body > 20", "missing"),
        ("output.label == 'x'", "unknown variable 'output'"),
        ("inptu.body == 'x'", "unknown variable 'inptu'"),
        ("input.body.reverse() == 'x'", "unknown function 'reverse'"),
        ("input.tags.all(t, u == 1)", "unknown variable 'u'"),
        ("", "Failed to parse"),
    ],
)
def test_a_condition_that_can_never_answer_is_refused_when_it_is_compiled(source: str, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        compile_condition(source, variables=INPUT)
