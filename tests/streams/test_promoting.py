"""A version takes the place of another: which lives come forward, which stand aside, and what is written again."""

from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, Excluded
from batchmill.schemas.state import Job, Life, Source
from batchmill.schemas.status import Status
from batchmill.streams import committing, promoting, queueing
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS
from batchmill.streams.controlling import control
from batchmill.streams.dead_lettering import redrive
from batchmill.streams.facts import Superseded
from batchmill.streams.orders import Put
from batchmill.streams.ports import SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.settling import unwanted
from batchmill.streams.versioning import promotions_of, shadows_of
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import NOW_MS, make_item, make_job, make_life, make_source, origin, put_rows


def life_of(view: MemoryView, life: Life) -> Life:
    found = read.life(view, life.request_id)
    assert found is not None
    return found


def two_versions(**changes: Any) -> Job:
    return make_job(versions_json='{"v1":{},"v2":{}}', promotions_json=FIRST, shadows_json='{"v2":0}', **changes)


FIRST = '[{"version":"v1","number":0,"at_ms":1,"command_id":"c0"}]'


def command(name: str, version: str, command_id: str = "c1") -> Control:
    return Control(
        command_id=command_id,
        command=name,
        job="triage",
        version=version,
        body_json="{}",
        actor="someone",
        issued_at_ms=NOW_MS,
    )


def carried(view: MemoryView, name: str, version: str, command_id: str = "c1") -> list[Any]:
    """The command, and every sweep it leaves, to the end."""
    said = carry_out(view, control(view, command(name, version, command_id), NOW_MS, NOW_MS))
    while under_way := promoting.sweeps(view):
        for sweep in under_way:
            lives, after = promoting.next_cut(view, sweep)
            outcomes = []
            for life in lives:
                outcome, orders = promoting.come_forward(view, sweep, life, NOW_MS)
                outcomes.append(outcome)
                said += carry_out(view, orders)
            carry_out(view, promoting.carried_on(view, after, outcomes))
    return said


def answered(number: int, **changes: Any) -> Life:
    """A life of `v1` that was committed."""
    made = {"status": Status.COMMITTED, "output_sha256": "a", "commit_id": "k", "verdict_offset": 1}
    return make_life(number, **{**made, **changes})


def shadow(number: int, front: Life, **changes: Any) -> Life:
    """What `v2` says of the same event."""
    told = {"source_id": front.source_id, "target_key": front.target_key, "seq": front.seq, "origin": front.origin}
    made = {"version": "v2", "aside": True, "status": Status.VALIDATED, "output_sha256": "b", "verdict_offset": 2}
    return make_life(number, **{**told, **made, **changes})


def test_a_promotion_lets_what_was_held_be_written_and_sets_the_former_aside() -> None:
    front = answered(1)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front, committed_request_id=front.request_id))
    assert view.scan("commit", "", limit=9) == []
    carried(view, "promote", "v2")
    ahead, behind = life_of(view, held), life_of(view, front)
    assert (ahead.aside, ahead.status, ahead.promotion) == (False, Status.VALIDATED, 1)
    assert (behind.aside, behind.status) == (True, Status.COMMITTED)
    assert [row for _, row in view.scan("commit", "", limit=9)] == [ahead]
    source = read.source(view, "triage", front.source_id)
    assert source is not None
    assert source.request_id == held.request_id


def test_a_rollback_writes_again_what_the_former_version_had_written() -> None:
    front = answered(1)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front, committed_request_id=front.request_id))
    carried(view, "promote", "v2")
    committed = replace(life_of(view, held), status=Status.COMMITTED, commit_id="k2")
    source = read.source(view, "triage", front.source_id)
    assert source is not None
    view.put(committed)
    view.put(replace(source, committed_request_id=held.request_id, committed_promotion=1))
    carried(view, "promote", "v1", "c2")
    back = life_of(view, front)
    assert (back.aside, back.status, back.commit_id, back.promotion) == (False, Status.VALIDATED, None, 2)
    assert (life_of(view, held).aside, life_of(view, held).status) == (True, Status.COMMITTED)
    job = read.job(view, "triage")
    assert job is not None
    assert [(each.version, each.number) for each in promotions_of(job)] == [("v1", 0), ("v2", 1), ("v1", 2)]


def test_what_the_sink_still_holds_is_not_written_again() -> None:
    front = answered(1)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front, committed_request_id=front.request_id))
    carried(view, "promote", "v2")
    carried(view, "promote", "v1", "c2")
    assert (life_of(view, front).aside, life_of(view, front).status) == (False, Status.COMMITTED)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": origin(99)},
        {"status": Status.FAILED_TERMINAL, "reason": Reason.NOT_JSON},
        {"epoch": 1},
    ],
    ids=["of another event", "failed", "a measurement"],
)
def test_what_is_no_answer_to_the_newest_event_stays_aside(changes: dict[str, Any]) -> None:
    front = answered(1)
    other = shadow(2, front, **changes)
    view = put_rows(two_versions(), front, other, make_source(front))
    carried(view, "promote", "v2")
    assert life_of(view, other) == other
    assert not life_of(view, front).aside


def test_what_waits_unpaid_under_the_former_version_ends_and_is_not_counted_for_the_event() -> None:
    front = make_life(1)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front))
    (letter,) = carried(view, "promote", "v2")
    assert isinstance(letter, Excluded)
    assert (letter.reason, letter.aside, letter.of_request_id) == (Reason.SUPERSEDED, True, held.request_id)
    assert life_of(view, front).status is Status.FAILED_TERMINAL


def test_a_write_in_doubt_of_the_former_version_is_still_settled() -> None:
    front = answered(1, status=Status.VALIDATED, commit_id="doubt")
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front))
    carried(view, "promote", "v2")
    waiting = {row.request_id for _, row in view.scan("commit", "", limit=9) if isinstance(row, Life)}
    assert waiting == {front.request_id, held.request_id}


def test_a_rejected_version_ends_and_nothing_of_it_counts_for_an_event() -> None:
    front = answered(1)
    held, queued = shadow(2, front), shadow(3, front, status=Status.QUEUED, output_sha256=None, verdict_offset=None)
    in_flight = shadow(4, front, status=Status.PROCESSING, chunk_id="chunk", sends=1)
    view = put_rows(two_versions(), front, held, queued, in_flight, make_source(front))
    letters = carried(view, "reject", "v2")
    assert {(letter.reason, letter.aside) for letter in letters} == {(Reason.NOT_PROMOTED, True)}
    assert [life_of(view, each).status for each in (held, queued)] == [Status.FAILED_TERMINAL] * 2
    assert life_of(view, in_flight) == in_flight
    assert type(unwanted(view, life_of(view, in_flight))).__name__ == "NotPromoted"
    job = read.job(view, "triage")
    assert job is not None
    assert not shadows_of(job)


def test_a_sweep_goes_on_where_it_stopped_and_counts_each_life_once() -> None:
    fronts = [answered(number) for number in range(CUT_MEMBERS + 5)]
    held = [shadow(10_000 + number, front) for number, front in enumerate(fronts)]
    view = put_rows(two_versions(), *fronts, *held, *(make_source(front) for front in fronts))
    carry_out(view, control(view, command("promote", "v2"), NOW_MS, NOW_MS))
    (sweep,) = promoting.sweeps(view)
    lives, after = promoting.next_cut(view, sweep)
    assert len(lives) == CUT_MEMBERS
    for life in lives:
        carry_out(view, promoting.come_forward(view, sweep, life, NOW_MS)[1])
    carry_out(view, promoting.carried_on(view, after, ["done"] * len(lives)))
    (sweep,) = promoting.sweeps(view)
    assert [len(promoting.next_cut(view, sweep)[0]), sweep.done] == [5, CUT_MEMBERS]


def test_a_newer_promotion_takes_the_place_of_one_that_is_under_way() -> None:
    front = answered(1)
    view = put_rows(two_versions(), front, shadow(2, front), make_source(front))
    carry_out(view, control(view, command("promote", "v2"), NOW_MS, NOW_MS))
    (sweep,) = promoting.sweeps(view)
    carry_out(view, control(view, command("promote", "v1", "c2"), NOW_MS, NOW_MS))
    assert promoting.carried_on(view, replace(sweep, finished=True), []) == []
    assert [(each.version, each.number) for each in promoting.sweeps(view)] == [("v1", 2)]


# -- on arrival --------------------------------------------------------------------------------------------------------


def arrived(view: MemoryView, number: int, **changes: Any) -> list[Any]:
    item = make_item(number, **changes)
    return carry_out(view, queueing.arrive(view, item, 50, now_ms=NOW_MS))


def test_an_item_aside_is_asked_once_and_its_source_is_as_before() -> None:
    front = answered(1)
    view = put_rows(two_versions(), front, make_source(front))
    same = {"source_id": front.source_id, "seq": front.seq, "origin": front.origin, "version": "v2", "aside": True}
    assert arrived(view, 2, **same) == []
    assert arrived(view, 2, **(same | {"origin": origin(77), "seq": 9})) == []
    life = read.life(view, make_item(2).request_id)
    assert life is not None
    assert (life.aside, life.status, life.origin) == (True, Status.QUEUED, front.origin)
    source = read.source(view, "triage", front.source_id)
    assert source is not None
    assert source.request_id == front.request_id
    assert not life_of(view, front).aside


def test_an_item_aside_whose_version_was_promoted_on_the_way_comes_forward() -> None:
    front = answered(1)
    view = put_rows(two_versions(), front, make_source(front, committed_request_id=front.request_id))
    carried(view, "promote", "v2")
    told = {"source_id": front.source_id, "seq": front.seq, "origin": front.origin, "version": "v2", "aside": True}
    arrived(view, 2, **told)
    life = read.life(view, make_item(2).request_id)
    assert life is not None
    assert (life.aside, life.promotion, life_of(view, front).aside) == (False, 1, True)


def test_the_same_request_as_the_events_own_brings_a_life_forward_with_its_answer() -> None:
    front = answered(1)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front))
    told = {"source_id": front.source_id, "seq": front.seq, "origin": front.origin, "version": "v2", "promotion": 1}
    assert arrived(view, 2, replayed=True, **told) == []
    assert (life_of(view, held).aside, life_of(view, held).status) == (False, Status.VALIDATED)
    assert life_of(view, front).aside


def test_an_event_that_is_read_again_and_changes_nothing_says_nothing() -> None:
    front = answered(1)
    view = put_rows(two_versions(), front, make_source(front, seq=9))
    same = {"source_id": front.source_id, "seq": front.seq, "replayed": True}
    assert arrived(view, 1, origin=front.origin, **same) == []
    assert arrived(view, 2, origin=origin(5), **same) == []
    assert read.life(view, make_item(2).request_id) is None


def test_a_replay_under_a_version_that_has_been_replaced_meanwhile_changes_nothing() -> None:
    front = answered(1)
    view = put_rows(two_versions(), front, make_source(front))
    carried(view, "promote", "v2")
    carried(view, "promote", "v1", "c2")
    told = {"source_id": front.source_id, "seq": front.seq, "origin": front.origin, "version": "v2", "promotion": 1}
    assert arrived(view, 2, replayed=True, **told) == []
    assert read.life(view, make_item(2).request_id) is None


def test_an_event_read_again_under_a_newer_promotion_does_not_overtake_another_of_its_rank() -> None:
    front = answered(1, seq=9)
    view = put_rows(two_versions(), front, make_source(front))
    carried(view, "promote", "v2")
    told = {"source_id": front.source_id, "seq": 9, "version": "v2", "promotion": 1, "replayed": True}
    assert arrived(view, 2, origin=origin(77), **told) == []
    assert read.life(view, make_item(2).request_id) is None
    arrived(view, 3, origin=front.origin, **told)
    assert not life_of(view, make_life(3)).aside


# -- what the sink holds meanwhile -------------------------------------------------------------------------------------


def written(life: Life, **changes: Any) -> SinkWrite:
    """The write of a life that is in doubt."""
    return SinkWrite(
        commit_id=life.commit_id or "",
        table="t",
        target_key=life.target_key,
        seq=life.seq,
        promotion=life.promotion,
        request_id=life.request_id,
        source_id=life.source_id,
        job=life.job,
        version=life.version,
        run_id=life.run_id,
        partition=None,
        output_json="{}",
        output_sha256=life.output_sha256 or "",
        **changes,
    )


def answered_by_sink(view: MemoryView, write: SinkWrite, outcome: SinkOutcome) -> None:
    result = SinkResult(commit_id=write.commit_id, outcome=outcome)
    carry_out(view, committing.settle(view, write, result, sink="memory", now_ms=NOW_MS))


def holds(front: Life, promotion: int = 0) -> Source:
    return make_source(
        front, committed_request_id=front.request_id, committed_seq=front.seq, committed_promotion=promotion
    )


def doubted(view: MemoryView, life: Life) -> SinkWrite:
    """The sink is asked to take the life, and does not answer yet."""
    asked = replace(life_of(view, life), commit_id=f"doubt-{life.version}")
    view.put(asked)
    return written(asked)


def test_a_rollback_while_the_other_versions_write_is_in_doubt_is_written_above_it() -> None:
    front = answered(1)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, holds(front))
    carried(view, "promote", "v2")
    doubt = doubted(view, held)
    carried(view, "promote", "v1", "c2")
    answered_by_sink(view, doubt, SinkOutcome.APPLIED)
    back = life_of(view, front)
    assert (back.aside, back.status, back.commit_id) == (False, Status.VALIDATED, None)
    assert (back.seq, back.promotion) > (doubt.seq, doubt.promotion)


@pytest.mark.parametrize("outcome", [SinkOutcome.ALREADY, SinkOutcome.STALE])
def test_a_write_in_doubt_that_is_rolled_back_to_is_repeated_as_it_was_and_then_goes_above(
    outcome: SinkOutcome,
) -> None:
    front = answered(1, status=Status.VALIDATED, commit_id="doubt-v1")
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, make_source(front))
    carried(view, "promote", "v2")
    doubt = doubted(view, held)
    carried(view, "promote", "v1", "c2")
    again = life_of(view, front)
    assert (again.aside, again.commit_id, again.promotion) == (False, "doubt-v1", 0), "as it was asked"
    answered_by_sink(view, doubt, SinkOutcome.APPLIED)
    answered_by_sink(view, written(again), outcome)
    back = life_of(view, front)
    assert (back.aside, back.status, back.commit_id, back.promotion) == (False, Status.VALIDATED, None, 2)


def test_what_was_taken_back_is_written_again_when_its_version_is_promoted_again() -> None:
    front = answered(1, status=Status.VALIDATED, reverted=True)
    held = shadow(2, front)
    view = put_rows(two_versions(), front, held, holds(front))
    carried(view, "promote", "v2")
    carried(view, "promote", "v1", "c2")
    back = life_of(view, front)
    assert (back.aside, back.reverted, back.commit_id, back.promotion) == (False, False, None, 2)
    assert [row for _, row in view.scan("commit", "", limit=9)] == [back]


def test_a_failed_life_that_its_event_brings_back_is_ranked_by_its_promotion() -> None:
    front = answered(1)
    failed = shadow(2, front, status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    view = put_rows(two_versions(), front, failed, holds(front))
    carried(view, "promote", "v2")
    told = {"source_id": front.source_id, "seq": front.seq, "origin": front.origin, "version": "v2", "promotion": 1}
    arrived(view, 2, replayed=True, **told)
    again = life_of(view, failed)
    assert (again.aside, again.status, again.promotion) == (False, Status.QUEUED, 1)


@pytest.mark.parametrize(("first", "fresh"), [(1, 2), (2, 1)], ids=["met first", "met last"])
def test_a_rollback_brings_back_the_freshest_of_what_the_version_had_written(first: int, fresh: int) -> None:
    old = answered(first, aside=True)
    front = answered(fresh, epoch=1, origin=old.origin, source_id=old.source_id, promotion=1)
    held = shadow(3, front)
    view = put_rows(two_versions(), old, front, held, holds(front, 1))
    carried(view, "promote", "v2")
    carried(view, "promote", "v1", "c2")
    assert [life_of(view, each).aside for each in (old, front, held)] == [True, False, True]


@pytest.mark.parametrize("in_force", ["v2", "v1"])
def test_what_failed_before_its_version_was_promoted_comes_forward_when_it_is_redriven(in_force: str) -> None:
    front = answered(1)
    failed = shadow(2, front, status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON, ask_key="another")
    view = put_rows(two_versions(), front, failed, holds(front))
    carried(view, "promote", in_force)
    carry_out(view, redrive(view, failed.request_id, now_ms=NOW_MS))
    again = life_of(view, failed)
    assert (again.status, again.aside) == (Status.QUEUED, in_force == "v1")
    assert life_of(view, front).aside is not again.aside


def test_what_failed_under_a_version_that_was_rejected_is_not_asked_again() -> None:
    front = answered(1)
    failed = shadow(2, front, status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    view = put_rows(two_versions(), front, failed, holds(front))
    carried(view, "reject", "v2")
    assert redrive(view, failed.request_id, now_ms=NOW_MS) == []


# -- by name -----------------------------------------------------------------------------------------------------------


def asked_of(view: MemoryView, version: str, front: Life, *, at_ms: int = NOW_MS) -> Life:
    """The life of a version that is asked by name about the event of another one's life."""
    told = {"source_id": front.source_id, "seq": front.seq, "origin": front.origin}
    item = make_item(7, version=version, aside=True, replayed=True, **told)
    carry_out(view, queueing.arrive(view, item, 50, now_ms=at_ms))
    return life_of(view, make_life(7))


def test_a_former_version_is_asked_what_it_is_asked_by_name() -> None:
    front = answered(1)
    held, late = shadow(2, front), answered(3, aside=True, status=Status.PROCESSING, chunk_id="k", sends=1)
    view = put_rows(two_versions(), front, held, late, holds(front))
    carried(view, "promote", "v2")
    asked = asked_of(view, "v1", held, at_ms=NOW_MS + 1)
    assert (asked.status, asked.aside, unwanted(view, asked)) == (Status.QUEUED, True, None)
    assert unwanted(view, late) == Superseded(), "what was on its way when it became former is not waited for"


def test_a_rejected_version_that_is_applied_again_is_asked_again() -> None:
    front = answered(1)
    view = put_rows(two_versions(), front, holds(front))
    asked = asked_of(view, "v2", front)
    carried(view, "reject", "v2")
    assert life_of(view, asked).reason is Reason.NOT_PROMOTED
    assert asked_of(view, "v2", front).reason is Reason.NOT_PROMOTED, "nobody waits for it"
    job = read.job(view, "triage")
    assert job is not None
    carry_out(view, [Put(replace(job, shadows_json='{"v2":0}'))])
    again = asked_of(view, "v2", front)
    assert (again.status, again.reason, again.aside) == (Status.QUEUED, None, True)


def test_what_ended_while_its_version_was_former_and_is_asked_again_while_it_is_in_force_comes_forward() -> None:
    front = answered(1)
    ended = shadow(7, front, status=Status.FAILED_TERMINAL, reason=Reason.SUPERSEDED, output_sha256=None)
    view = put_rows(two_versions(), front, ended, holds(front))
    carried(view, "promote", "v2")
    again = asked_of(view, "v2", front)
    assert (again.status, again.aside, again.promotion, life_of(view, front).aside) == (Status.QUEUED, False, 1, True)


def test_a_life_that_was_asked_aside_about_another_event_has_the_rank_of_the_event_it_answers_for() -> None:
    gold = shadow(2, answered(1), seq=32, origin=origin(33))
    view = put_rows(two_versions(), gold)
    arrived(view, 2, version="v2", promotion=1, seq=29, origin=origin(51))
    ahead = life_of(view, gold)
    assert (ahead.aside, ahead.seq, ahead.promotion) == (False, 29, 1)


def test_an_event_whose_content_the_version_had_answered_before_is_answered_by_that_when_it_is_read_again() -> None:
    """v1 answered event 51, v2 event 56 of the same text; v1 is in force again."""
    first = answered(1, origin=origin(51), seq=51)
    second = shadow(
        2, first, origin=origin(56), seq=56, aside=False, status=Status.COMMITTED, commit_id="k2", promotion=1
    )
    job = two_versions(version="v1")
    job = replace(
        job, promotions_json=FIRST[:-1] + "," + FIRST[1:].replace('"number":0', '"number":2'), shadows_json="{}"
    )
    held = make_source(second, seq=56, committed_request_id=second.request_id, committed_seq=56, committed_promotion=1)
    view = put_rows(job, first, second, held)
    told = {"source_id": first.source_id, "seq": 56, "origin": origin(56), "version": "v1", "promotion": 2}
    (letter,) = arrived(view, 1, replayed=True, **told)
    assert (letter.reason, letter.of_request_id, letter.origin) == (Reason.DUPLICATE, first.request_id, origin(56))
    ahead = life_of(view, first)
    assert (ahead.status, ahead.seq, ahead.promotion, ahead.aside) == (Status.VALIDATED, 56, 2, False)
    assert life_of(view, second).aside
    assert arrived(view, 1, replayed=True, **told) == []
