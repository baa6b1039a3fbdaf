"""An event waits until what it needs is found out, is asked once, and finds the same again when it is read again."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import FetchSpec, LookupSpec, ToolsSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, Origin, WorkItem
from batchmill.schemas.state import Arrival, Meta
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.events import RawLimits
from batchmill.streams.looking_up import WAITS, Lookups, WaitsError, forget, record, recorded
from batchmill.streams.normalizing import JOB_RESUMED, lacking, normalize, revisit
from batchmill.streams.orders import Emit, Put, Wake
from batchmill.streams.tooling import Found, Lookup, Wanted, compile_tools
from tests.streams.making import NOW_MS, carry_out, make_raw, make_row, make_spec, make_view

LOOKUP = LookupSpec(source="shop", sql="SELECT name FROM items WHERE sku = :sku", params={"sku": "$.sku"})
FETCH = FetchSpec(api="stock", path="/items/{sku}", params={"sku": "$.sku"})
TOOLS = ToolsSpec(lookup=LOOKUP, fetch=FETCH)
RAW = make_raw({"body": "on fire", "sku": "A1"})
GIVEN = {"now_ms": NOW_MS, "limits": RawLimits()}


def a_spec(tools=TOOLS, **changes):
    spec = make_spec(**changes)
    return replace(spec, ask=replace(spec.ask, tools=tools))


def a_view(*specs):
    """The first of them is in force; the others are shadows of every event."""
    front, *others = specs
    versions = {version_of(spec): orjson.loads(spec.to_json()) for spec in specs}
    shadows = {version_of(spec): 1.0 for spec in others}
    row = make_row(front, versions_json=orjson.dumps(versions).decode(), shadows_json=orjson.dumps(shadows).decode())
    return make_view(row)


def normalized(view, raw=RAW, **changes):
    return normalize(view, raw, jobs=CompiledJobs(), **{**GIVEN, **changes})


def the_arrival(view):
    rows = view.rows(Arrival.schema)
    assert len(rows) == 1
    assert isinstance(rows[0], Arrival)
    return rows[0]


def answer(view, raw=RAW, *, lookup="lamp", left=4, refuse=()):
    """What the effect does with an arrival once its sources have spoken; the records that come of it."""
    arrival = the_arrival(view)
    found = Found.from_json(arrival.value_json)
    must, may = lacking(view, arrival, raw, jobs=CompiledJobs(), **GIVEN)
    for question in (*must, *may):
        if question.tool in refuse:
            found = found.refused(question, "it has nothing")
        else:
            found = found.answered(question, [{"name": lookup}] if isinstance(question, Lookup) else {"left": left})
    known = replace(arrival, value_json=found.to_json())
    return carry_out(view, revisit(view, known, raw, jobs=CompiledJobs(), **GIVEN))


def test_an_event_with_questions_waits_and_then_becomes_the_item_with_the_answers():
    view = a_view(a_spec())
    orders = normalized(view)
    assert [type(order) for order in orders] == [Put, Wake]
    carry_out(view, orders)
    assert the_arrival(view).waiting_for == WAITS
    must, may = lacking(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN)
    assert ([question.tool for question in must], may) == (["lookup", "fetch"], ())
    assert not revisit(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN), "unanswered it goes on waiting"
    (item,) = answer(view)
    assert isinstance(item, WorkItem)
    assert orjson.loads(item.input_json)["tools"] == {"lookup": [{"name": "lamp"}], "fetch": {"left": 4}}
    assert not view.rows(Arrival.schema)


def test_the_same_event_read_again_finds_what_was_found_and_is_the_same_request():
    view = a_view(a_spec())
    carry_out(view, normalized(view))
    (first,) = answer(view)
    (again,) = carry_out(view, normalized(view))
    assert again == first, "no question, the same input, the same ids"
    other = make_raw({"body": "on fire", "sku": "A1"}, offset=8)
    carry_out(view, normalized(view, other))
    (second,) = answer(view, other, left=3)
    assert second.request_id != first.request_id, "other answers are other content"


def test_an_answer_that_is_there_already_is_not_asked_for_again():
    view = a_view(a_spec())
    carry_out(view, normalized(view))
    arrival = the_arrival(view)
    (lookup, fetch), _ = lacking(view, arrival, RAW, jobs=CompiledJobs(), **GIVEN)
    half = replace(arrival, value_json=Found().answered(lookup, []).to_json())
    view.put(half)
    assert lacking(view, half, RAW, jobs=CompiledJobs(), **GIVEN) == ((fetch,), ())


def test_a_job_that_is_paused_meanwhile_keeps_what_was_found():
    view = a_view(a_spec())
    carry_out(view, normalized(view))
    (lookup, fetch), _ = lacking(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN)
    row = view.get("state.jobs", "triage")
    view.put(replace(row, paused=True))
    assert lacking(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN) == ((), ()), "nothing is asked"
    found = Found().answered(lookup, []).answered(fetch, {})
    known = replace(the_arrival(view), value_json=found.to_json())
    carry_out(view, revisit(view, known, RAW, jobs=CompiledJobs(), **GIVEN))
    assert (the_arrival(view).waiting_for, the_arrival(view).value_json) == (JOB_RESUMED, found.to_json())
    view.put(replace(row, paused=False))
    (item,) = carry_out(view, revisit(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN))
    assert isinstance(item, WorkItem)


def test_what_cannot_be_asked_ends_the_event_at_once():
    view = a_view(a_spec())
    (letter,) = carry_out(view, normalized(view, make_raw({"body": "x", "sku": ["A1"]})))
    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.TOOL_FAILED
    assert not view.rows(Arrival.schema)


def test_a_refusal_is_a_letter_and_is_asked_again_after_a_redrive():
    view = a_view(a_spec())
    carry_out(view, normalized(view))
    (letter,) = answer(view, refuse=("fetch",))
    assert isinstance(letter, DeadLetter)
    assert letter.reason is Reason.TOOL_FAILED
    assert not [row for row in view.rows(Meta.schema) if row.name.startswith("tools/")], "a failure is not kept"
    carry_out(view, normalized(view, replace(RAW, redrives=1)))
    assert the_arrival(view).waiting_for == WAITS


def test_a_refusal_that_the_job_does_without_is_kept_like_an_answer():
    view = a_view(a_spec(replace(TOOLS, on_failure="ask")))
    carry_out(view, normalized(view))
    (first,) = answer(view, refuse=("fetch",))
    assert orjson.loads(first.input_json)["tools"]["fetch"] is None
    (again,) = carry_out(view, normalized(view))
    assert again == first


def test_a_job_that_only_calculates_waits_for_nobody():
    view = a_view(a_spec(ToolsSpec(calculate={"long": "size(input.body) > 3"})))
    orders = normalized(view)
    assert [type(order) for order in orders] == [Emit]
    assert orjson.loads(orders[0].record.input_json)["tools"] == {"long": True}


def test_the_filter_comes_first():
    spec = a_spec()
    spec = replace(spec, input=replace(spec.input, filter="size(input.body) > 100"))
    (left_out,) = carry_out(make_view(), normalized(a_view(spec)))
    assert isinstance(left_out, Excluded)


def test_versions_that_are_tried_out_get_their_own_answers_and_hold_up_nobody():
    live, shadow = a_spec(None), a_spec(TOOLS, user="other {{ input.body }}")
    view = a_view(live, shadow)
    carry_out(view, normalized(view))
    must, may = lacking(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN)
    assert (must, [question.tool for question in may]) == ((), ["lookup", "fetch"])
    front, aside = answer(view)
    assert (front.version, front.aside) == (version_of(live), False)
    assert (aside.version, aside.aside) == (version_of(shadow), True)
    assert "tools" not in orjson.loads(front.input_json)

    other = make_raw({"body": "on fire", "sku": "A1"}, offset=8)
    carry_out(view, normalized(view, other))
    (alone,) = answer(view, other, refuse=("lookup", "fetch"))
    assert alone.version == version_of(live)


def test_a_refusal_that_a_version_on_trial_could_not_do_without_is_not_kept_for_the_day_it_is_in_force():
    tried = a_spec(user="New: {{ input.body }}")
    view = a_view(make_spec(), tried)
    carry_out(view, normalized(view))
    (item,) = answer(view, refuse=("lookup",))
    assert item.version != version_of(tried)
    promoted = a_view(tried, make_spec())
    for row in view.rows(Meta.schema):
        promoted.put(row)
    carry_out(promoted, normalized(promoted))
    assert the_arrival(promoted).waiting_for == WAITS, "it is asked again, since it may be there by now"


def test_versions_with_the_same_questions_share_their_answers():
    one, other = a_spec(), a_spec(replace(TOOLS, calculate={"one": "1"}), user="other {{ input.body }}")
    view = a_view(one, other)
    carry_out(view, normalized(view))
    must, may = lacking(view, the_arrival(view), RAW, jobs=CompiledJobs(), **GIVEN)
    assert {question.key for question in must} == {question.key for question in may}
    assert len(answer(view)) == 2
    assert len([row for row in view.rows(Meta.schema) if row.name.startswith("tools/")]) == 1


def asked_of(sku):
    return Lookup(source="shop", sql=LOOKUP.sql, params=(("sku", sku),), rows_max=1, timeout_seconds=1)


def test_a_replay_that_wants_it_fresh_asks_again_and_replaces_what_was_kept():
    view, tools = a_view(a_spec()), compile_tools(TOOLS)
    carry_out(view, normalized(view))
    answer(view, lookup="old")
    fresh = Lookups(view=view, origin=RAW.origin, fresh=True)
    with pytest.raises(WaitsError):
        fresh.equip(tools, {"body": "on fire", "sku": "A1"}, aside=False)
    found = Found()
    for question in fresh.lacking.values():
        found = found.answered(question, "new")
    held, item = Lookups(view=view, origin=RAW.origin, held=found, fresh=True), {"body": "on fire", "sku": "A1"}
    held.equip(tools, item, aside=False)
    assert item["tools"]["lookup"] == "new"
    carry_out(view, held.kept(NOW_MS))
    again = {"body": "on fire", "sku": "A1"}
    Lookups(view=view, origin=RAW.origin).equip(tools, again, aside=False)
    assert again == item


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from("abc"), st.integers(0, 9)), max_size=30), st.integers(0, 60)
)
def test_what_is_kept_first_stays_and_is_forgotten_with_its_event(kept, before):
    view, first = make_view(), {}
    for offset, sku, value in kept:
        origin, question = Origin(generation=1, partition=0, offset=offset, at_ms=0), asked_of(sku)
        asked = Wanted(questions=(question,))
        carry_out(view, record(view, origin, asked, Found().answered(question, value), NOW_MS, fresh=False))
        first.setdefault((offset, sku), value)
    for (offset, sku), value in first.items():
        origin, question = Origin(generation=1, partition=0, offset=offset, at_ms=0), asked_of(sku)
        found = recorded(view, origin, Wanted(questions=(question,)).fingerprint)
        assert found is not None
        assert found.answers == {question.key: value}
    carry_out(view, forget(view, generation=1, before_offset=before, before_ms=0, limit=100))
    left = {int(row.name.split("/")[2]) for row in view.rows(Meta.schema)}
    assert left == {offset for offset, _, _ in kept if offset >= before}
    carry_out(view, forget(view, generation=1, before_offset=0, before_ms=NOW_MS + 1, limit=100))
    assert not view.rows(Meta.schema), "after a while everything goes"


def test_a_kept_row_is_hardly_longer_than_its_answers():
    origin, question = Origin(generation=1, partition=0, offset=10**12, at_ms=0), asked_of("a")
    answer_text = "x" * 300
    asked = Wanted(questions=(question,))
    (order,) = record(make_view(), origin, asked, Found().answered(question, answer_text), NOW_MS, fresh=False)
    assert isinstance(order, Put)
    assert isinstance(order.row, Meta)
    assert len(order.row.key) + len(order.row.value_json) < len(answer_text) + 200, "docs/tools.md says so"


def test_forgetting_goes_in_cuts():
    view = make_view()
    for offset in range(10):
        origin, question = Origin(generation=1, partition=0, offset=offset, at_ms=0), asked_of("a")
        asked = Wanted(questions=(question,))
        carry_out(view, record(view, origin, asked, Found().answered(question, 1), NOW_MS, fresh=False))
    orders = forget(view, generation=2, before_offset=0, before_ms=0, limit=3)
    assert len(orders) == 3
