"""What is asked follows from the input alone; what was found becomes input; what is said of it repeats no value."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import FetchSpec, LookupSpec, ToolsSpec
from batchmill.schemas.reasons import Reason
from batchmill.streams import tooling
from batchmill.streams.expressions import ConditionError
from batchmill.streams.paths import PathError
from batchmill.streams.tooling import (
    ANSWER_BYTES_MAX,
    Found,
    ToolError,
    account_of,
    compile_tools,
    equip,
    mistakes,
    wanted,
)
from batchmill.streams.unusable import Unusable

SQL = "SELECT name, price FROM items WHERE sku = :sku"
SPEC = ToolsSpec(
    lookup=LookupSpec(source="shop", sql=SQL, params={"sku": "$.sku"}),
    fetch=FetchSpec(api="stock", path="/items/{sku}", params={"sku": "$.sku"}),
    calculate={"total": "double(sum(members(tools.lookup, 'price'))) * double(input.amount)"},
)
SECRET = "hunter2"

scalars = st.one_of(st.text(max_size=30), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)


def answered(tools, item_input, lookup, fetch):
    asked = wanted(tools, item_input)
    found = Found()
    for question in asked.questions:
        found = found.answered(question, lookup if question.tool == "lookup" else fetch)
    return asked, found


def test_the_answers_and_what_is_made_of_them_are_put_under_one_name():
    tools, item = compile_tools(SPEC), {"sku": "A1", "amount": 3}
    asked, found = answered(tools, item, [{"name": "lamp", "price": 2.5}], {"left": 4})
    assert not found.missing(asked)
    equip(tools, item, asked, found)
    assert item["tools"] == {"lookup": [{"name": "lamp", "price": 2.5}], "fetch": {"left": 4}, "total": 7.5}
    told = account_of(SPEC, item)
    assert told["lookup"]["params"] == {"sku": "A1"}
    assert told["lookup"]["found"] == [{"name": "lamp", "price": 2.5}]
    assert (told["fetch"]["path"], told["total"]["found"]) == ("/items/A1", 7.5)


def test_a_value_is_handed_over_beside_the_statement_and_never_in_it():
    hostile = "A1' OR '1'='1'; DROP TABLE items; --"
    lookup, _ = wanted(compile_tools(SPEC), {"sku": hostile, "amount": 1}).questions
    assert (lookup.sql, lookup.params) == (SQL, (("sku", hostile),))


@given(st.dictionaries(st.sampled_from(["sku", "amount", "other"]), anything))
def test_any_input_gives_questions_or_a_reason_for_each_tool(item):
    asked = wanted(compile_tools(SPEC), item)
    assert {question.tool for question in asked.questions} | set(asked.failed) == {"lookup", "fetch"}
    again = {question.key: question for question in wanted(compile_tools(SPEC), item).questions}
    assert {question.key: question for question in asked.questions} == again


@given(anything, anything)
def test_the_same_parameters_ask_the_same_and_others_another(one, other):
    tools = compile_tools(replace(SPEC, fetch=None, calculate={}))
    first, second = wanted(tools, {"sku": one}), wanted(tools, {"sku": other})
    if first.questions and second.questions:
        same = json.dumps(first.questions[0].params) == json.dumps(second.questions[0].params)
        assert (first.fingerprint == second.fingerprint) == same


@pytest.mark.parametrize(
    ("sku", "why"),
    [
        (None, "nothing is there"),
        ([SECRET], "no text, number"),
        ({"a": SECRET}, "no text, number"),
        (SECRET * 1_000, "longer than"),
        (SECRET + "\0", "NUL"),
        (2**63, "64 bits"),
    ],
)
def test_a_parameter_that_cannot_be_one_is_a_named_outcome_without_its_value(sku, why):
    tools, item = compile_tools(replace(SPEC, fetch=None, calculate={})), {"sku": sku}
    asked = wanted(tools, item)
    assert not asked.questions
    with pytest.raises(Unusable) as error:
        equip(tools, item, asked, Found())
    assert error.value.reason is Reason.TOOL_FAILED
    assert why in error.value.note
    assert "sku" in error.value.note
    assert SECRET not in error.value.note


def test_a_path_takes_texts_and_whole_numbers_only():
    tools = compile_tools(replace(SPEC, lookup=None, calculate={}))
    assert wanted(tools, {"sku": 12}).questions[0].path == "/items/12"
    for wrong in (True, 1.5):
        assert "whole number" in wanted(tools, {"sku": wrong}).failed["fetch"]
    assert ".." in wanted(tools, {"sku": ".."}).failed["fetch"]


def test_a_record_that_has_the_member_already_is_refused_before_anything_is_asked():
    with pytest.raises(Unusable) as error:
        wanted(compile_tools(SPEC), {"sku": "A1", "tools": SECRET})
    assert error.value.reason is Reason.INVALID_INPUT
    assert SECRET not in error.value.note


def test_on_failure_ask_goes_on_with_nothing_in_its_place():
    tools = compile_tools(replace(SPEC, on_failure="ask"))
    item = {"sku": "A1", "amount": 3}
    asked = wanted(tools, item)
    found = Found().refused(asked.questions[0], "no such row").refused(asked.questions[1], "not found")
    equip(tools, item, asked, found)
    assert item["tools"] == {"lookup": None, "fetch": None, "total": None}


def test_on_failure_dead_ends_the_record_by_the_name_of_the_tool():
    tools, item = compile_tools(SPEC), {"sku": "A1", "amount": 3}
    asked, found = answered(tools, item, [], {})
    refused = Found().answered(asked.questions[0], []).refused(asked.questions[1], "api_refused (HTTP 404)")
    with pytest.raises(Unusable, match=r"ask\.tools\.fetch: api_refused \(HTTP 404\)"):
        equip(tools, item, asked, refused)
    assert "tools" not in item, "nothing is put there by halves"
    equip(tools, item, asked, found)


def test_the_first_answer_counts_and_a_large_one_is_none():
    lookup, fetch = wanted(compile_tools(SPEC), {"sku": "A1"}).questions
    found = Found().answered(lookup, [1]).answered(lookup, [2])
    assert found.answers[lookup.key] == [1]
    huge = found.answered(fetch, {"text": SECRET * ANSWER_BYTES_MAX})
    assert fetch.key not in huge.answers
    assert str(ANSWER_BYTES_MAX) in huge.failed[fetch.key]
    assert SECRET not in huge.failed[fetch.key]


@given(anything)
def test_what_was_found_survives_being_written_down(answer):
    lookup, _ = wanted(compile_tools(SPEC), {"sku": "A1"}).questions
    found = Found().answered(lookup, answer)
    assert set(Found.from_json(found.to_json()).answers) == set(found.answers)
    assert Found.from_json(found.to_json()).to_json() == found.to_json()


@pytest.mark.parametrize(
    ("cel", "why"),
    [
        ("tools.lookup[0].price / 0", "division"),
        ("tools.nothing", "absent"),
        ("timestamp('2026-01-01T00:00:00Z')", "no form in JSON"),
        ("words(input.text).map(a, input.text)", "bytes"),
        ("words(input.text).map(a, words(input.text).map(b, words(input.text).map(c, a + b + c)))", "too long"),
    ],
)
def test_a_calculation_is_bounded_and_says_why_it_has_no_result(cel, why):
    tools = compile_tools(replace(SPEC, fetch=None, calculate={"x": cel}))
    item = {"sku": "A1", "text": f"{SECRET} " * 300}
    asked, found = answered(tools, item, [{"price": 1}], None)
    with pytest.raises(Unusable) as error:
        equip(tools, item, asked, found)
    assert error.value.reason is Reason.TOOL_FAILED
    assert "ask.tools.calculate.x" in error.value.note
    assert why in error.value.note
    assert SECRET not in error.value.note


def test_calculations_do_without_sources():
    tools = compile_tools(ToolsSpec(calculate={"long": "size(input.body) > 3", "label": "'a' + input.body"}))
    item = {"body": "abcd"}
    asked = wanted(tools, item)
    assert not asked.questions
    equip(tools, item, asked, Found())
    assert item["tools"] == {"long": True, "label": "aabcd"}


def test_each_mistake_is_told_where_it_stands():
    spec = ToolsSpec(
        lookup=LookupSpec(source="shop", sql="DELETE FROM items", params={"sku": "$..sku"}),
        fetch=FetchSpec(api="stock", path="/a/{b}"),
        calculate={"lookup": "1", "total": "outputs.x"},
    )
    assert {finding.where for finding in mistakes(spec)} == {
        "$.ask.tools.lookup.sql",
        "$.ask.tools.lookup.params.sku",
        "$.ask.tools.fetch.path",
        "$.ask.tools.calculate.lookup",
        "$.ask.tools.calculate.total",
    }
    with pytest.raises((ToolError, PathError, ConditionError)):
        compile_tools(spec)
    assert not list(mistakes(SPEC))


def test_what_costs_waiting_only_is_no_part_of_what_is_asked():
    patient = replace(SPEC, lookup=replace(SPEC.lookup, timeout_seconds=60))
    item = {"sku": "A1"}
    assert wanted(compile_tools(patient), item).fingerprint == wanted(compile_tools(SPEC), item).fingerprint
    assert tooling.FETCH in {question.tool for question in wanted(compile_tools(SPEC), item).questions}
