"""CEL conditions: true, false or a reason why not, and mistakes told before any record meets them."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.streams.cel_functions import WORDS_MAX
from batchmill.streams.expressions import SOURCE_CHARS_MAX, ConditionError, Scope, compile_condition

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
        ("input.a + ", "missing|mismatched|Syntax"),
        ("'inptu' == inptu.body", "unknown variable 'inptu' at character 12, did you mean 'input'"),
        ("lowr(input.body) == 'x'", "unknown function 'lowr' at character 1, did you mean 'lower'"),
        ("input.a == 1" + " " * SOURCE_CHARS_MAX, "characters long"),
    ],
)
def test_a_condition_that_can_never_answer_is_refused_when_it_is_compiled(source: str, message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        compile_condition(source, variables=INPUT)


BOTH = frozenset({"input", "output"})
OUTPUT = {
    "total": 0.3,
    "count": 3,
    "items": [{"price": 0.1, "n": 1}, {"price": 0.2, "n": 2}],
    "quotes": ["Red  FOX", "fox\njumps"],
    "tags": ["a", "b", "a", 1, 1.0, True, {"x": 1}, {"x": 1}],
    "big": 2**62,
}


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("output.total == sum(output.items.map(i, i.price))", True),
        ("0.1 + 0.2 == output.total", False),
        ("close(0.1 + 0.2, output.total)", True),
        ("close(output.total, 0.35, 0.05)", True),
        ("close(output.total, 0.36, 0.05)", False),
        ("output.count == sum(output.items.map(i, i.n))", True),
        ("output.count == 3.0 && 3.0 >= output.count && output.total < 1", True),
        ("sum(members(output.items, 'price')) == 0.3", True),
        ("sum([]) == 0 && sum([1, 0.5]) == 1.5", True),
        ("max(output.items.map(i, i.price)) == 0.2 && min(3, 1, 2.5) == 1", True),
        ("abs(0 - 3) == 3 && abs(-0.5) == 0.5", True),
        ("round(2.5) == 3 && round(-2.5) == -3 && round(2.675, 2) == 2.68 && round(7) == 7", True),
        ("lower('AbC') == 'abc' && upper('AbC') == 'ABC' && trim('  x ') == 'x'", True),
        ("size(distinct(output.tags)) == 5", True),
        ("output.quotes.all(q, occurs(q, input.text))", True),
        ("output.quotes.all(q, q.occurs(input.text))", True),
        ("occurs('dog', input.text) || occurs('', input.text)", False),
        ("occurs('red fox', ['a dog', input.text])", True),
        ("double(output.count) * 1.5 == 4.5", True),
    ],
)
def test_the_functions_added_for_rules_answer_as_a_person_would(source: str, holds: bool) -> None:
    given = {"output": OUTPUT, "input": {"text": "The red fox\n jumps."}}
    assert compile_condition(source, variables=BOTH).holds(given) is holds


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("sum(output.quotes) > 1", "sum: takes numbers"),
        ("sum(output.total) > 1", "sum: takes a list"),
        ("sum([true]) == 1", "sum: takes numbers"),
        ("max([]) == 1", "max: there is nothing to choose from"),
        ("lower(output.total) == 'x'", "lower: takes text"),
        ("occurs(output.count, input.text)", "occurs: takes text"),
        ("members(output.items, 'nope') == []", "members: an item has no such member"),
        ("round(1.5, -1) == 1", "round: takes 0 to 12 digits"),
        ("sum(1, 2, 3) == 6", "sum: it cannot take these values"),
        ("output.count * 1.5 > 1.0", r"wrap numbers that may be fractions in double"),
    ],
)
def test_a_function_without_an_answer_says_why_and_no_value(source: str, why: str, capfd: Any) -> None:
    given = {"output": OUTPUT, "input": {"text": SECRET}}
    with pytest.raises(ConditionError, match=why) as caught:
        compile_condition(source, variables=BOTH).holds(given)
    assert SECRET not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_one_failing_condition_leaves_the_scope_fit_for_the_next() -> None:
    scope = Scope({"output": OUTPUT, "input": {}})
    with pytest.raises(ConditionError):
        compile_condition("sum(output.quotes) > 1", variables=BOTH).holds(scope)
    assert compile_condition("sum(output.items.map(i, i.n)) == 3", variables=BOTH).holds(scope)


@pytest.mark.parametrize(
    ("source", "power"),
    [
        ("output.a > 1", 0),
        ("output.a.all(x, x > 1)", 1),
        ("output.a.map(x, x)[0] == 1", 2),
        ("output.a.all(x, output.b.exists(y, y == x))", 2),
        ("sum(output.a.map(x, sum(x.b.filter(y, y > 1)))) > 1", 4),
        ("output.a.all(x, x > 1) && output.b.all(x, (x) > 1)", 1),
        ("output.a == '.all(x, .all(x,' // .map(x,", 0),
        ("output.a.all(x, x in output.b)", 2),
        ("output.a.all(x, x in ['p', 'q'])", 1),
        ("output.index == input.in_all", 0),
    ],
)
def test_what_an_expression_may_cost_is_read_from_its_loops(source: str, power: int) -> None:
    assert compile_condition(source, variables=BOTH).power == power


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("output.a.map(x, x).size() > 0", 2_000),
        ("output.a.all(x, output.a.exists(y, y == x))", 2_000),
        ("output.a.all(x, output.a.all(y, output.a.all(z, true)))", 200),
        ("output.a.all(x, input.text.contains('nowhere'))", 100_000),
        ("output.a.all(x, x in output.a)", 2_000),
        ("input.text.matches(output.p)", 0),
        ("input.text.matches('x' + output.p)", 0),
        ("output.a.exists(x, output.p.matches(output.p))", 20),
    ],
)
def test_lists_too_long_for_an_expression_are_no_answer_at_once(source: str, count: int) -> None:
    condition = compile_condition(source, variables=BOTH)
    given = {"output": {"a": list(range(count)), "p": "(a?){1000}b" * 30}, "input": {"text": "text " * 20_000}}
    began = time.process_time()
    with pytest.raises(ConditionError, match="too long"):
        condition.holds(given)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("source", "seeks"),
    [
        ("input.a.matches('^a(b),c')", False),
        ("input.a.matches( r'\\d' ) && size(output.b) > 1", False),
        ("input.a.matches(output.b)", True),
        ("input.a.matches('a' + output.b)", True),
    ],
)
def test_a_pattern_of_the_jobs_own_is_told_from_one_that_a_record_brings(source: str, seeks: bool) -> None:
    condition = compile_condition(source, variables=BOTH)
    assert condition.seeks is seeks
    assert condition.holds({"output": {"b": "b"}, "input": {"a": "x"}}) is False


def test_a_list_that_an_expression_does_not_read_costs_it_nothing() -> None:
    given = {"output": {"a": [1], "other": list(range(5_000))}, "input": {"rows": list(range(5_000))}}
    assert compile_condition("output.a.map(x, x).size() == 1", variables=BOTH).holds(given)


def test_the_functions_of_one_expression_go_through_so_much_text_and_no_more() -> None:
    parts = [f"{number} " + "x" * 20_000 for number in range(100)]
    condition = compile_condition("output.a.all(x, output.a.exists(y, occurs(x, y)))", variables=BOTH)
    with pytest.raises(ConditionError, match="too long"):
        condition.holds({"output": {"a": parts}, "input": {}})


numbers = st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6).map(lambda value: round(value, 2))


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, max_size=20))
def test_a_sum_of_amounts_is_the_amount_on_the_bill(amounts: list[float]) -> None:
    cents = sum(round(amount * 100) for amount in amounts)
    condition = compile_condition("sum(input.amounts) == input.total", variables=INPUT)
    assert condition.holds({"input": {"amounts": amounts, "total": cents / 100}})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


ANY_VALUES = (
    "sum(input.a) == 1",
    "max(input.a, input.b) == 1",
    "abs(input.a) == 1",
    "round(input.a, input.b) == 1.0",
    "lower(input.a) == 'x'",
    "distinct(input.a) == input.b",
    "occurs(input.a, input.b)",
    "close(input.a, input.b)",
    "members(input.a, input.b) == []",
    "trim(input.a) == input.b",
    "input.a.matches(input.b)",
    "input.a < input.b",
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ANY_VALUES), anything, anything)
def test_no_value_makes_an_expression_do_more_than_refuse(source: str, one: Any, other: Any) -> None:
    try:
        answer = compile_condition(source, variables=INPUT).holds({"input": {"a": one, "b": other}})
    except ConditionError:
        return
    assert answer in {True, False}


def test_words_are_what_stands_between_white_space_and_there_may_not_be_too_many() -> None:
    asked = compile_condition("size(words(input.text)) == 3 && words(input.text)[1] == 'b,'", variables=INPUT)
    assert asked.holds({"input": {"text": "  a\tb,\nc "}})
    loops = compile_condition("words(input.text).all(w, size(w) == 1)", variables=INPUT)
    assert loops.holds({"input": {"text": "x " * WORDS_MAX}})
    with pytest.raises(ConditionError, match="at most 1000 words"):
        loops.holds({"input": {"text": "x " * (WORDS_MAX + 1)}})
    thrice = compile_condition(
        "words(input.text).all(a, words(input.text).all(b, words(input.text).all(c, a == b || b == c)))",
        variables=INPUT,
    )
    with pytest.raises(ConditionError, match="too long"):
        thrice.holds({"input": {"text": "x " * WORDS_MAX}})
