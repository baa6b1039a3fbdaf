"""A commit starts its followers exactly once, with the same events whoever asks; what cannot be sent is told."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.ids import partition_for
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.promotion import ThenSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, RawEvent, Verdict, WorkItem
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams.dead_lettering import FOREIGN_GENERATION
from batchmill.streams.lifecycle import evolve
from batchmill.streams.lineage import PARENT, PART, PARTS_MAX, Part, parts_of, written
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.staging import EVENT_BYTES_MAX, again, compile_then, fire, fire_nothing, firing, regrouped
from batchmill.streams.view import MemoryView
from tests.streams.making import make_spec
from tests.streams.rows import NOW_MS, emitted, life_in, make_item, make_life, make_source, put_rows

TASKS = 5
WHOLE = "b" * 32


def committed(**changes: Any) -> Life:
    told: dict[str, Any] = {
        "status": Status.COMMITTED,
        "fires": True,
        "commit_id": "c",
        "verdict_offset": 9,
        "output_sha256": "sha",
        "source_id": "doc",
        "seq": 7,
        "promotion": 2,
    }
    return make_life(**(told | changes))


def feeding(*then: ThenSpec) -> JobSpec:
    return make_spec(then=then, place=PlaceSpec(sink="none", table="none"))


def verdict_of(life: Life, output: Any) -> Verdict:
    return Verdict(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        seq=life.seq,
        promotion=life.promotion,
        attempt=1,
        status=VerdictStatus.VALIDATED,
        output_json=json.dumps(output),
        output_sha256="sha",
        checks=(),
        confidence=None,
        target_key=life.target_key,
        decided_by="rules",
        judged_at_ms=NOW_MS,
    )


def fired(life: Life, *then: ThenSpec, output: Any = None, item_input: Any = None, view: Any = None) -> list[Order]:
    item = make_item(request_id=life.request_id, input_json=json.dumps(item_input or {"body": "x"}))
    told = verdict_of(life, output if output is not None else {"label": "bug"})
    compiled = compile_then(feeding(*then))
    return fire(view or put_rows(life), life, told, item, then=compiled, tasks=TASKS, now_ms=NOW_MS)


def events(orders: list[Order]) -> list[RawEvent]:
    return [each for each in emitted(orders) if isinstance(each, RawEvent)]


def test_a_follower_gets_what_was_asked_and_answered_and_a_word_of_where_from() -> None:
    life = committed()
    orders = fired(life, ThenSpec(job="next"))
    (event,) = events(orders)
    assert orjson.loads(event.payload_json) == {"input": {"body": "x"}, "output": {"label": "bug"}}
    assert (event.job, event.source_id, event.seq) == ("next", "doc", None)
    assert event.metadata == {PARENT: life.request_id}
    (emit,) = [order for order in orders if isinstance(order, Emit)]
    assert (emit.key, emit.partition) == (b"doc", partition_for(b"doc", TASKS))
    assert not life_in(orders, life.request_id).fires


def test_what_the_answering_version_is_called_is_no_part_of_the_event() -> None:
    """Else an unchanged answer under a new prompt would have all that follows paid for once more."""
    old, new = committed(), committed(request_id="c" * 32, version="v2", promotion=3)
    payloads = {events(fired(life, ThenSpec(job="next")))[0].payload_json for life in (old, new)}
    assert len(payloads) == 1


def test_a_follower_whose_condition_does_not_hold_gets_nothing() -> None:
    wanted = [ThenSpec(job="bugs", when='output.label == "bug"'), ThenSpec(job="rest", when='output.label != "bug"')]
    assert [event.job for event in events(fired(committed(), *wanted))] == ["bugs"]


def test_a_split_makes_one_event_for_each_item_all_in_the_partition_of_the_whole() -> None:
    life = committed()
    orders = fired(life, ThenSpec(job="next", split="$.input.pages"), item_input={"pages": ["a", "b"], "title": "t"})
    told = events(orders)
    assert [orjson.loads(event.payload_json) for event in told] == [
        {"input": {"title": "t"}, "output": {"label": "bug"}, "item": item, "part": number, "parts": 2}
        for number, item in enumerate("ab", 1)
    ]
    assert [event.source_id for event in told] == ["doc#1", "doc#2"]
    parts = [parts_of(event.metadata[PART]) for event in told]
    assert parts == [(Part(number, 2, life.request_id, (7, 2)),) for number in (1, 2)]
    assert {(order.key, order.partition) for order in orders if isinstance(order, Emit)} == {
        (b"doc", partition_for(b"doc", TASKS))
    }


def test_a_part_hands_its_place_on_and_a_part_of_a_part_has_both() -> None:
    outer = Part(2, 3, WHOLE, (1, 0))
    life = committed(source_id="doc#2", part=written([outer]))
    (on,) = events(fired(life, ThenSpec(job="next")))
    assert (on.source_id, parts_of(on.metadata[PART])) == ("doc#2", (outer,))
    orders = fired(life, ThenSpec(job="next", split="$.output.parts"), output={"parts": [1, 2]})
    inner = events(orders)[1]
    assert inner.source_id == "doc#2#2"
    assert parts_of(inner.metadata[PART]) == (Part(2, 2, life.request_id, (7, 2)), outer)
    assert {order.key for order in orders if isinstance(order, Emit)} == {b"doc#2"}


def test_an_empty_list_has_no_parts_and_a_whole_output_can_be_the_list() -> None:
    split = ThenSpec(job="next", split="$.output")
    assert events(fired(committed(), split, output=[])) == []
    (event,) = events(fired(committed(), split, output=["a"]))
    assert orjson.loads(event.payload_json) == {"input": {"body": "x"}, "item": "a", "part": 1, "parts": 1}


@pytest.mark.parametrize(
    ("then", "output", "reason"),
    [
        (ThenSpec(job="next", when="output.label"), {"label": "bug"}, Reason.FILTER_ERROR),
        (ThenSpec(job="next", when="output.gone > 1"), {"label": "bug"}, Reason.FILTER_ERROR),
        (ThenSpec(job="next", split="$.output.label"), {"label": "bug"}, Reason.INVALID_INPUT),
        (ThenSpec(job="next", split="$.output.gone"), {"label": "bug"}, Reason.INVALID_INPUT),
        (ThenSpec(job="next", split="$.output.l"), {"l": [0] * (PARTS_MAX + 1)}, Reason.OVERSIZED),
        (ThenSpec(job="next"), {"text": "x" * EVENT_BYTES_MAX}, Reason.OVERSIZED),
        (ThenSpec(job="next", split="$.output.l"), {"l": list(range(40)), "t": "x" * 700_000}, Reason.OVERSIZED),
    ],
)
def test_what_cannot_be_sent_is_a_letter_of_the_follower_and_the_others_get_theirs(
    then: ThenSpec, output: Any, reason: Reason
) -> None:
    life = committed()
    if "t" in output or "text" in output:
        orders = fired(life, then, output=output)
    else:
        orders = fired(life, then, ThenSpec(job="other"), output=output)
        assert [event.job for event in events(orders)] == ["other"]
    (letter,) = [each for each in emitted(orders) if isinstance(each, DeadLetter)]
    assert (letter.job, letter.reason, letter.request_id) == ("next", reason, None)
    assert letter.origin.generation == FOREIGN_GENERATION, "it is no raw event, and counts for none"
    assert life.request_id in letter.error
    assert "xxx" not in letter.error
    assert not life_in(orders, life.request_id).fires


def test_bodies_that_retention_took_are_told_and_a_redrive_fires_again() -> None:
    life = committed()
    view = put_rows(life)
    then = compile_then(feeding(ThenSpec(job="next")))
    orders = fire(view, life, None, None, then=then, tasks=TASKS, now_ms=NOW_MS)
    (letter,) = [each for each in emitted(orders) if isinstance(each, DeadLetter)]
    assert letter.reason is Reason.BODY_GONE
    view.put(life_in(orders, life.request_id))
    brought_back = again(view, letter)
    assert life_in(brought_back, life.request_id).fires
    assert Wake("then") in brought_back
    assert again(view, replace(letter, stage="normalizer")) == []


def test_a_commit_that_kills_who_fires_it_is_given_up_aloud() -> None:
    life = committed()
    then = compile_then(feeding(ThenSpec(job="next"), ThenSpec(job="other")))
    orders = fire_nothing(put_rows(life), life.request_id, then=then, error="it died", now_ms=NOW_MS)
    assert [(each.job, each.reason) for each in emitted(orders)] == [("next", Reason.POISON), ("other", Reason.POISON)]
    assert not life_in(orders, life.request_id).fires


def test_a_commit_that_was_overtaken_before_it_fired_starts_nothing() -> None:
    life = committed()
    view = put_rows(life, make_source(life, committed_request_id="d" * 32, committed_seq=8))
    orders = fired(life, ThenSpec(job="next"), view=view)
    assert emitted(orders) == []
    assert not life_in(orders, life.request_id).fires


def test_a_life_whose_verdict_moved_on_is_looked_at_again() -> None:
    life = committed()
    view = put_rows(evolve(life, verdict_offset=10))
    assert fired(life, ThenSpec(job="next"), view=view) == []
    assert firing(view, 10) == [evolve(life, verdict_offset=10)]


def test_an_answer_that_another_whole_waits_for_is_told_to_it() -> None:
    life = committed(fires=False, part=written([Part(1, 2, WHOLE, (1, 0))]), parent=WHOLE)
    other = written([Part(1, 2, "d" * 32, (1, 1))])
    told = regrouped(life, make_item(part=other, parent="d" * 32))
    assert (told.part, told.parent, told.fires) == (other, "d" * 32, True)
    assert regrouped(life, make_item(part=life.part, parent=WHOLE)) is life
    queued = evolve(life, status=Status.QUEUED, commit_id=None)
    assert not regrouped(queued, make_item(part=other)).fires, "its commit will"
    assert not regrouped(evolve(life, aside=True), make_item(part=other)).fires


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["fire", "crash", "commit"]), max_size=12))
def test_whatever_crashes_a_commit_fires_exactly_once(steps: list[str]) -> None:
    """`fire` orders what is to be done, `commit` makes it durable, `crash` loses what was not."""
    life = committed()
    then = compile_then(feeding(ThenSpec(job="next", split="$.output.l")))
    durable, told = life, verdict_of(life, {"l": [1, 2, 3]})
    item: WorkItem = make_item(request_id=life.request_id, input_json="{}")
    written_events: list[RawEvent] = []
    view: MemoryView = put_rows(durable)
    pending: list[Order] = []
    for step in [*steps, "crash", "fire", "commit"]:
        if step == "fire":
            orders = [
                order
                for seen in firing(view, 10)
                for order in fire(view, seen, told, item, then=then, tasks=TASKS, now_ms=NOW_MS)
            ]
            pending += orders
            for order in orders:
                if isinstance(order, Put):
                    view.put(order.row)
        elif step == "commit":
            written_events += events(pending)
            for order in pending:
                if isinstance(order, Put) and isinstance(order.row, Life):
                    durable = order.row
            pending = []
        else:
            view, pending = put_rows(durable), []
    assert [event.source_id for event in written_events] == ["doc#1", "doc#2", "doc#3"]
    assert not durable.fires


def test_a_commit_that_was_taken_back_starts_nothing_until_it_is_put_back() -> None:
    life = committed(status=Status.VALIDATED, reverted=True)
    assert firing(put_rows(life), 10) == []
    letter = emitted(fired(committed(), ThenSpec(job="next", split="$.output.label")))[0]
    assert isinstance(letter, DeadLetter)
    redriven = again(put_rows(evolve(life, fires=False)), replace(letter, original_uri=f"then:{life.request_id}/next"))
    assert firing(put_rows(life_in(redriven, life.request_id)), 10) == []
    assert fired(committed(), ThenSpec(job="next"), view=put_rows(life)) == []
    back = evolve(life, status=Status.COMMITTED, reverted=False)
    assert firing(put_rows(back), 10) == [back]
    assert len(events(fired(back, ThenSpec(job="next")))) == 1
