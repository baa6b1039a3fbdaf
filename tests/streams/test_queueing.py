"""What a work item means for its task: the newest event of a source wins, and no content is paid for twice."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, Result
from batchmill.schemas.state import Answer, Source
from batchmill.schemas.status import Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Put, Wake
from batchmill.streams.queueing import STORE_NONCE, arrive, from_store, recall
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import (
    NOW_MS,
    emitted,
    life_in,
    make_item,
    make_job,
    make_life,
    make_source,
    origin,
    put_rows,
    request_name,
)

ANSWER = Answer(ask_key="ask-0", request_id="whoever", result_offset=42, output_sha256="sha", stored_at_ms=NOW_MS)


def told(view: MemoryView, *items: Any) -> list[Any]:
    """The records said while the items arrive."""
    return [each for item in items for each in carry_out(view, arrive(view, item, item.origin.offset, now_ms=NOW_MS))]


def life(view: MemoryView, number: int) -> Any:
    return read.life(view, request_name(number))


def newest(view: MemoryView) -> Source:
    row = read.source(view, "triage", "s1")
    assert row is not None
    return row


def test_a_new_request_queues_and_is_its_sources_newest() -> None:
    view = put_rows(make_job())
    assert told(view, make_item(5)) == []
    assert (life(view, 5).status, life(view, 5).input_offset) == (Status.QUEUED, 5)
    assert life(view, 5).queued_at_ms == NOW_MS
    assert (newest(view).request_id, newest(view).seq) == (request_name(5), 1)


def test_an_older_event_never_gets_a_life() -> None:
    view = put_rows(make_job())
    (said,) = told(view, make_item(0, seq=5), make_item(1, seq=4))
    assert (said.reason, said.of_request_id, said.cost_nanos) == (Reason.SUPERSEDED, request_name(0), 0)
    assert life(view, 1) is None


def test_on_equal_rank_who_came_first_stays() -> None:
    view = put_rows(make_job())
    (said,) = told(view, make_item(0), make_item(1))
    assert said.reason is Reason.SUPERSEDED
    assert newest(view).request_id == request_name(0)


def test_a_later_version_of_the_same_event_is_newer() -> None:
    view = put_rows(make_job())
    said = told(view, make_item(0), make_item(1, version="v2", promotion=1))
    assert newest(view).request_id == request_name(1)
    assert [each.request_id for each in said] == [request_name(0)]


@pytest.mark.parametrize("status", [Status.QUEUED, Status.FAILED_RETRYABLE, Status.NEEDS_REVIEW])
def test_a_request_with_nothing_in_flight_is_superseded_at_once(status: Status) -> None:
    old = make_life(0, source_id="s1", status=status)
    view = put_rows(make_job(), old, make_source(old))
    (said,) = told(view, make_item(1, seq=2))
    assert (said.reason, said.request_id) == (Reason.SUPERSEDED, old.request_id)
    assert life(view, 0).status is Status.FAILED_TERMINAL


@pytest.mark.parametrize(
    "changes",
    [
        {"status": Status.PROCESSING, "chunk_id": "c"},
        {"status": Status.QUEUED, "chunk_id": "c"},
        {"status": Status.SUCCEEDED_UNVALIDATED},
        {"status": Status.VALIDATED},
        {"status": Status.COMMITTED},
    ],
    ids=str,
)
def test_a_request_on_its_way_is_left_to_whoever_has_it(changes: dict[str, Any]) -> None:
    old = make_life(0, source_id="s1", **changes)
    view = put_rows(make_job(), old, make_source(old))
    assert told(view, make_item(1, seq=2)) == []
    assert life(view, 0) == old


def test_the_same_event_read_again_says_nothing() -> None:
    view = put_rows(make_job())
    assert told(view, make_item(0), make_item(0)) == []


def test_a_known_request_is_a_duplicate_and_takes_the_newer_rank() -> None:
    view = put_rows(make_job())
    (said,) = told(view, make_item(0), make_item(0, seq=9, origin=origin(7, at_ms=NOW_MS + 5)))
    assert (said.reason, said.of_request_id, said.origin.offset) == (Reason.DUPLICATE, request_name(0), 7)
    assert (life(view, 0).seq, newest(view).seq, life(view, 0).queued_at_ms) == (9, 9, NOW_MS + 5)
    assert life(view, 0).origin.offset == 0


def test_a_known_request_that_is_older_changes_nothing() -> None:
    view = put_rows(make_job())
    told(view, make_item(0, seq=5), make_item(1, seq=6))
    before = life(view, 1)
    (said,) = told(view, make_item(0, seq=5, origin=origin(9)))
    assert said.reason is Reason.DUPLICATE
    assert (life(view, 1), newest(view).request_id) == (before, request_name(1))


def test_a_write_in_doubt_keeps_its_rank() -> None:
    """It is repeated as it was intended; a rank that changed would make it another commit."""
    doubtful = make_life(0, source_id="s1", status=Status.VALIDATED, commit_id="commit")
    view = put_rows(make_job(), doubtful, make_source(doubtful))
    told(view, make_item(0, seq=9, origin=origin(7)))
    assert (life(view, 0).seq, newest(view).seq) == (1, 9)


@pytest.mark.parametrize("reason", [Reason.SUPERSEDED, Reason.CANCELLED])
def test_a_newer_event_brings_back_what_was_superseded_or_cancelled(reason: Reason) -> None:
    ended = make_life(0, source_id="s1", status=Status.FAILED_TERMINAL, reason=reason)
    view = put_rows(make_job(cancelled_before_ms=NOW_MS), ended, make_source(ended))
    event = make_item(0, seq=3, origin=origin(7, at_ms=NOW_MS + 1))
    assert told(view, event) == []
    back = life(view, 0)
    assert (back.status, back.seq, back.origin, back.result_offset) == (Status.QUEUED, 3, event.origin, None)


def test_what_was_paid_for_before_it_was_superseded_is_not_paid_for_again() -> None:
    ended = make_life(0, source_id="s1", status=Status.FAILED_TERMINAL, reason=Reason.SUPERSEDED)
    view = put_rows(make_job(), ended, make_source(ended), ANSWER)
    told(view, make_item(0, seq=3, origin=origin(7)))
    assert life(view, 0).result_offset == 42
    assert view.scan("queue", "", limit=1) == []


@pytest.mark.parametrize("reason", [Reason.SCHEMA_MISMATCH, Reason.DECLINED, Reason.NOT_PROMOTED])
def test_what_ended_otherwise_stays_ended(reason: Reason) -> None:
    ended = make_life(0, source_id="s1", status=Status.FAILED_TERMINAL, reason=reason)
    view = put_rows(make_job(), ended, make_source(ended))
    (said,) = told(view, make_item(0, seq=3, origin=origin(7)))
    assert said.reason is Reason.DUPLICATE
    assert life(view, 0).status is Status.FAILED_TERMINAL


def test_an_event_from_before_a_cancellation_is_cancelled_with_it() -> None:
    view = put_rows(make_job(cancelled_before_ms=NOW_MS))
    (said,) = told(view, make_item(0))
    assert said.reason is Reason.CANCELLED
    assert life(view, 0) is None


def test_an_event_from_before_a_cancellation_brings_nothing_back() -> None:
    ended = make_life(0, source_id="s1", status=Status.FAILED_TERMINAL, reason=Reason.CANCELLED)
    view = put_rows(make_job(cancelled_before_ms=NOW_MS), ended, make_source(ended))
    (said,) = told(view, make_item(0, seq=3, origin=origin(7)))
    assert said.reason is Reason.DUPLICATE


def test_a_source_ranked_by_the_log_may_not_change_its_partition() -> None:
    view = put_rows(make_job())
    moved = make_item(1, seq=9, seq_from_log=True, origin=origin(5, partition=2))
    (said,) = told(view, make_item(0, seq_from_log=True), moved)
    assert isinstance(said, DeadLetter)
    assert said.reason is Reason.SOURCE_MOVED
    assert "partition 3" in said.error
    assert said.original is not None
    assert told(view, replace(moved, seq_from_log=False)) != [said]


def test_content_committed_before_is_recalled_when_it_is_the_newest_again() -> None:
    first = make_life(0, source_id="s1", status=Status.COMMITTED, commit_id="c0")
    second = make_life(1, source_id="s1", seq=2, status=Status.COMMITTED, commit_id="c1")
    held = make_source(second, committed_request_id=second.request_id, committed_seq=2)
    view = put_rows(make_job(), first, second, held)
    (said,) = told(view, make_item(0, seq=3, origin=origin(7)))
    assert said.reason is Reason.DUPLICATE
    again = life(view, 0)
    assert (again.status, again.seq, again.commit_id) == (Status.VALIDATED, 3, None)


def test_content_that_is_in_the_sink_is_not_recalled() -> None:
    first = make_life(0, source_id="s1", status=Status.COMMITTED)
    view = put_rows(make_job(), first, make_source(first, committed_request_id=first.request_id))
    told(view, make_item(0, seq=3, origin=origin(7)))
    assert life(view, 0).status is Status.COMMITTED


def test_a_commit_that_overtakes_the_newest_recalls_it() -> None:
    newest_life = make_life(0, source_id="s1", seq=3, status=Status.COMMITTED)
    view = put_rows(newest_life)
    held = make_source(newest_life, committed_request_id="other")
    assert life_in(recall(view, held, NOW_MS), newest_life.request_id).status is Status.VALIDATED
    assert recall(view, make_source(newest_life), NOW_MS) == []
    assert recall(put_rows(), held, NOW_MS) == []
    view.put(evolve(newest_life, status=Status.VALIDATED))
    assert recall(view, held, NOW_MS) == []


# -- answers from the store --------------------------------------------------------------------------------------------


def stored(**changes: Any) -> Result:
    result = Result(
        request_id="whoever",
        job="triage",
        version="v0",
        attempt=2,
        chunk_id="c",
        custom_id="old",
        outcome=Outcome.SUCCEEDED,
        output="{}",
        output_sha256="sha",
        finish_reason="stop",
        refusal=None,
        http_status=200,
        error_code=None,
        reason=None,
        model="gpt-5-mini",
        input_tokens=5,
        output_tokens=2,
        cached_tokens=1,
        cost_nanos=70,
        price_id="p",
        answered_by="provider",
        received_at_ms=1,
    )
    return replace(result, **changes)


def waiting() -> tuple[MemoryView, Any]:
    view = put_rows(make_job(), ANSWER)
    told(view, make_item(0))
    return view, life(view, 0)


def test_a_question_that_was_answered_before_costs_nothing() -> None:
    view, asked = waiting()
    assert (asked.status, asked.result_offset) == (Status.QUEUED, 42)
    orders = from_store(view, asked, stored(), NOW_MS, jobs=CompiledJobs())
    (result,) = emitted(orders)
    assert life_in(orders, asked.request_id).status is Status.SUCCEEDED_UNVALIDATED
    assert (result.request_id, result.version, result.answered_by, result.cost_nanos) == (
        asked.request_id,
        "v1",
        "store",
        0,
    )
    assert parse_custom_id(result.custom_id) == (asked.request_id, 0, STORE_NONCE)
    assert (result.output, result.input_tokens, result.output_tokens) == ("{}", 0, 0)


@pytest.mark.parametrize(
    "read_back",
    [None, stored(request_id="someone else"), stored(output_sha256="other"), stored(outcome=Outcome.ERROR)],
    ids=["gone", "another request", "another answer", "no answer"],
)
def test_an_answer_that_is_not_what_was_noted_is_not_used(read_back: Result | None) -> None:
    view, asked = waiting()
    orders = from_store(view, asked, read_back, NOW_MS, jobs=CompiledJobs())
    carry_out(view, orders)
    assert emitted(orders) == []
    assert [row for _, row in view.scan("queue", "", limit=9)] == [life(view, 0)]


def test_an_answer_nobody_waits_for_is_not_published() -> None:
    view, asked = waiting()
    view.put(make_job(cancelled_before_ms=NOW_MS))
    (said,) = emitted(from_store(view, asked, stored(), NOW_MS, jobs=CompiledJobs()))
    assert isinstance(said, Excluded)


def test_an_answer_waits_until_somebody_can_judge_it() -> None:
    view, asked = waiting()
    view.put(make_job(versions_json="{}"))
    assert from_store(view, asked, stored(), NOW_MS, jobs=CompiledJobs()) == []


# -- properties --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=25))
def test_in_whatever_order_events_arrive_the_newest_is_wanted_and_every_event_is_accounted_for(
    events: list[tuple[int, int]],
) -> None:
    view = put_rows(make_job())
    items = [make_item(content, seq=seq, origin=origin(at)) for at, (content, seq) in enumerate(events)]
    said = told(view, *items)
    lives = [each for number in range(4) if (each := life(view, number)) is not None]
    wanted = [each for each in lives if each.status is Status.QUEUED]
    if events:
        best = max(seq for _, seq in events)
        first = next(content for content, seq in events if seq == best)
        assert newest(view).seq == best
        assert [each.request_id for each in wanted] == [newest(view).request_id] == [request_name(first)]
    ended = {each.origin.offset for each in said if life_origin(lives, each) != each.origin.offset}
    assert len(ended) + len(lives) == len(events)


def life_origin(lives: list[Any], record: Any) -> int | None:
    """Where the life that a record is about comes from."""
    return next((each.origin.offset for each in lives if each.request_id == record.request_id), None)


def test_a_known_request_that_comes_as_a_part_of_another_whole_is_told_to_that_one() -> None:
    """Its answer is there already; without this the other whole would wait for a part that never comes."""
    first, other = f"1/2/{'b' * 32}/1.0", f"1/2/{'c' * 32}/2.0"
    life = make_life(status=Status.COMMITTED, commit_id="c", part=first, parent="b" * 32, source_id="s1")
    view = put_rows(life, make_source(life, committed_request_id=life.request_id, committed_seq=1))
    for seq in (1, 2):
        orders = arrive(view, make_item(seq=seq, part=other, parent="c" * 32, origin=origin(9)), 4, now_ms=NOW_MS)
        told = life_in(orders, life.request_id)
        assert (told.part, told.parent, told.fires, told.status) == (other, "c" * 32, True, Status.COMMITTED)
        assert Wake("then") in orders
        assert [each.reason for each in emitted(orders)] == [Reason.DUPLICATE]
    same = arrive(view, make_item(seq=1, part=first, parent="b" * 32, origin=origin(9)), 4, now_ms=NOW_MS)
    assert not any(isinstance(order, Put) for order in same), "the same whole knows it"
