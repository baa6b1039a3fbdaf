"""One outcome per member: rows joined by name alone, strays counted, money posted, and the ledger closed."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Result
from batchmill.schemas.state import Chunk, Life, Meta
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS, custom_id_of, members
from batchmill.streams.collecting import (
    FILES_POLLS_MAX,
    GONE_POLLS_MAX,
    PollSchedule,
    RowIndex,
    RowPlace,
    after_poll,
    collect_cut,
    downloaded,
    finish,
    gone,
    next_poll_ms,
    results_missing,
    settle_cut,
    wait_for_twins,
)
from batchmill.streams.orders import Put
from batchmill.streams.ports import Action, BatchFailure, RemoteBatch, RemoteStatus, RowOutcome, StoredPayload
from batchmill.streams.settling import ImpossibleError
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import NOW_MS, PLACE, make_chunk, make_job, make_life, make_source, put_rows

POLLS = PollSchedule(wait_ms_min=1_000, wait_ms_max=60_000, age_share=10)
RETRY = RetrySpec(max_attempts=2, backoff_seconds_base=10, backoff_seconds_max=60)
NOWHERE = RowPlace(0, 0, 0)


def stage(state: ChunkState, count: int = 3, **changes: Any) -> tuple[MemoryView, Chunk]:
    lives = [make_life(number, status=Status.PROCESSING, sends=1, attempt=1) for number in range(count)]
    chunk, inside = make_chunk(lives, state, batch_id="b1", attempt_at_ms=NOW_MS, **changes)
    counted = Meta(name="chunks", value_json="1")
    return put_rows(make_job(), counted, chunk, *inside, *[make_source(life) for life in inside]), chunk


def row(view: MemoryView, chunk: Chunk) -> Chunk:
    found = read.chunk(view, chunk.chunk_id)
    assert found is not None
    return found


def remote(status: RemoteStatus, **changes: Any) -> RemoteBatch:
    return RemoteBatch(batch_id="b1", status=status, status_text="x", created_at_ms=NOW_MS, **changes)


def answer_of(chunk: Chunk, life: Life, **changes: Any) -> RowOutcome:
    told = RowOutcome(
        custom_id=custom_id_of(chunk, life),
        outcome=Outcome.SUCCEEDED,
        reason=None,
        output="{}",
        input_tokens=5,
        output_tokens=2,
    )
    return replace(told, **changes)


def price(outcome: RowOutcome) -> tuple[int | None, str | None]:
    return outcome.input_tokens * 10, "p1"


def collected(view: MemoryView, chunk: Chunk, rows: dict[str, RowOutcome]) -> list[Any]:
    """Collect to the end; returns everything said."""
    said: list[Any] = []
    while row(view, chunk).state is ChunkState.DOWNLOADED:
        cut = members(view, chunk.chunk_id)
        orders = collect_cut(view, row(view, chunk), cut, rows, retry=RETRY, price=price, now_ms=NOW_MS)
        said += carry_out(view, orders)
    return said


# -- polling -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**9))
def test_a_batch_is_polled_after_a_share_of_its_age_within_bounds(age_ms: int) -> None:
    chunk, _ = make_chunk([make_life()], ChunkState.OPEN, attempt_at_ms=NOW_MS)
    wait = next_poll_ms(chunk, POLLS, NOW_MS + age_ms) - NOW_MS - age_ms
    assert wait == min(60_000, max(1_000, age_ms // 10))


@pytest.mark.parametrize("status", [RemoteStatus.RUNNING, RemoteStatus.CANCELLING])
def test_a_batch_that_runs_is_polled_again(status: RemoteStatus) -> None:
    view, chunk = stage(ChunkState.OPEN, failures=4)
    carry_out(view, after_poll(view, chunk, remote(status), POLLS, NOW_MS))
    now = row(view, chunk)
    assert (now.state, now.remote_status, now.due_at_ms, now.failures) == (
        ChunkState.OPEN,
        str(status),
        NOW_MS + 1_000,
        0,
    )


def test_an_ended_batch_is_downloaded() -> None:
    view, chunk = stage(ChunkState.OPEN, due_at_ms=NOW_MS)
    carry_out(view, after_poll(view, chunk, remote(RemoteStatus.ENDED, output_file_id="o", completed=3), POLLS, NOW_MS))
    assert (row(view, chunk).state, row(view, chunk).due_at_ms) == (ChunkState.ENDED, None)


@pytest.mark.parametrize("counts", [{"completed": 3}, {"failed": 3}])
def test_an_ended_batch_whose_files_are_not_named_yet_is_waited_for_but_not_for_ever(counts: dict[str, int]) -> None:
    view, chunk = stage(ChunkState.OPEN)
    polls = 0
    while row(view, chunk).state is ChunkState.OPEN:
        polls += 1
        carry_out(view, after_poll(view, row(view, chunk), remote(RemoteStatus.ENDED, **counts), POLLS, NOW_MS))
    assert polls == FILES_POLLS_MAX + 1


def test_a_batch_refused_after_it_was_accepted_goes_by_its_failure() -> None:
    view, chunk = stage(ChunkState.OPEN, attempt=1)
    full = BatchFailure(action=Action.DEFER_CHUNK, code="token_limit_exceeded")
    carry_out(view, after_poll(view, chunk, remote(RemoteStatus.FAILED, failure=full), POLLS, NOW_MS))
    assert (row(view, chunk).state, row(view, chunk).batch_id) == (ChunkState.PREPARED, None)
    view, chunk = stage(ChunkState.OPEN)
    carry_out(view, after_poll(view, chunk, remote(RemoteStatus.FAILED), POLLS, NOW_MS))
    assert row(view, chunk).reason is Reason.PROVIDER_CANCELLED


def test_a_batch_the_provider_forgot_is_believed_in_for_a_while() -> None:
    view, chunk = stage(ChunkState.OPEN)
    polls = 0
    while row(view, chunk).state is ChunkState.OPEN:
        polls += 1
        carry_out(view, gone(row(view, chunk), POLLS, NOW_MS))
    assert (polls, row(view, chunk).state) == (GONE_POLLS_MAX, ChunkState.DOWNLOADED)


def test_result_files_are_noted_and_fetched_again_when_they_vanish() -> None:
    view, chunk = stage(ChunkState.ENDED)
    output = StoredPayload(uri="file:o", sha256="s", size_bytes=1)
    carry_out(view, downloaded(chunk, output, None, NOW_MS))
    now = row(view, chunk)
    assert (now.state, now.output_uri, now.error_uri) == (ChunkState.DOWNLOADED, "file:o", None)
    carry_out(view, results_missing(now, NOW_MS))
    assert row(view, chunk).state is ChunkState.ENDED


# -- joining -----------------------------------------------------------------------------------------------------------


def test_a_row_is_known_by_its_name_and_anything_else_is_a_stray() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED)
    name = custom_id_of(chunk, members(view, chunk.chunk_id)[0])
    other, _ = make_chunk([make_life()], ChunkState.OPEN, chunk_id="another")
    index = RowIndex.of(chunk)
    for each in (name, None, "request-1", custom_id_of(other, make_life()), name):
        index.add(each, RowPlace(0, 4, 2))
    assert (index.places, index.foreign, index.repeated) == ({name: RowPlace(0, 4, 2)}, 3, 1)


def test_the_row_of_another_line_is_refused() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 2)
    first, second = members(view, chunk.chunk_id)
    swapped = {custom_id_of(chunk, first): answer_of(chunk, second)}
    with pytest.raises(AssertionError, match="another line"):
        collect_cut(view, chunk, [first, second], swapped, retry=RETRY, price=price, now_ms=NOW_MS)


# -- collecting --------------------------------------------------------------------------------------------------------


def test_every_member_ends_in_exactly_one_outcome() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 6)
    lives = members(view, chunk.chunk_id)
    unbilled = {"output": None, "billed": False, "input_tokens": 0, "output_tokens": 0}
    told = [
        answer_of(chunk, lives[0]),
        answer_of(chunk, lives[1], outcome=Outcome.ERROR, reason=Reason.PROVIDER_ERROR, **unbilled),
        answer_of(chunk, lives[2], outcome=Outcome.ERROR, reason=Reason.REQUEST_INVALID, **unbilled),
        answer_of(chunk, lives[3], outcome=Outcome.EXPIRED, reason=Reason.EXPIRED, **unbilled),
        answer_of(chunk, lives[4], outcome=Outcome.CANCELLED, reason=Reason.PROVIDER_CANCELLED, **unbilled),
    ]
    said = collected(view, chunk, {each.custom_id: each for each in told})
    now = row(view, chunk)
    assert (now.succeeded, now.errored, now.expired, now.cancelled, now.missing) == (1, 2, 1, 1, 1)
    assert (now.state, now.cost_nanos) == (ChunkState.COLLECTED, 50)
    after = [read.life(view, life.request_id) for life in lives]
    assert [(life.status, life.attempt) for life in after if life is not None] == [
        (Status.SUCCEEDED_UNVALIDATED, 1),
        (Status.FAILED_RETRYABLE, 1),
        (Status.FAILED_TERMINAL, 1),
        (Status.FAILED_RETRYABLE, 0),
        (Status.FAILED_RETRYABLE, 0),
        (Status.FAILED_RETRYABLE, 1),
    ]
    assert [each.schema for each in said].count("results") == 6
    assert [each.reason for each in said if each.schema == "dead-letter"] == [Reason.REQUEST_INVALID]
    assert members(view, chunk.chunk_id) == []


def test_an_answer_is_hashed_priced_and_published_as_it_came() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    (life,) = members(view, chunk.chunk_id)
    told = answer_of(chunk, life, output="hé", finish_reason="stop", model="m")
    (result,) = collected(view, chunk, {told.custom_id: told})
    assert (result.output, result.output_sha256) == ("hé", sha256("hé".encode()).hexdigest())
    assert (result.cost_nanos, result.price_id, result.custom_id) == (50, "p1", told.custom_id)
    after = read.life(view, life.request_id)
    assert after is not None
    assert (after.cost_nanos, after.input_tokens, after.output_sha256) == (50, 5, result.output_sha256)


def test_an_unpriced_answer_is_counted_as_one() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    (life,) = members(view, chunk.chunk_id)
    told = answer_of(chunk, life)
    rows = {told.custom_id: told}
    carry_out(view, collect_cut(view, chunk, [life], rows, retry=RETRY, price=lambda _: (None, None), now_ms=NOW_MS))
    after = read.life(view, life.request_id)
    assert after is not None
    assert (after.cost_nanos, after.unpriced_calls) == (0, 1)


def test_the_last_attempt_that_fails_is_dead_lettered() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    (life,) = members(view, chunk.chunk_id)
    view.put(replace(life, attempt=2))
    said = collected(view, chunk, {})
    assert [(each.schema, each.reason) for each in said] == [
        ("results", Reason.MISSING),
        ("dead-letter", Reason.MISSING),
    ]


def test_a_member_nobody_waits_for_ends_when_it_failed_and_is_judged_when_it_was_answered() -> None:
    """An answer that was paid for is noted by the validator before it is dropped."""
    view, chunk = stage(ChunkState.DOWNLOADED, 2)
    answered, failed = members(view, chunk.chunk_id)
    view.put(make_job(cancelled_before_ms=NOW_MS))
    told = answer_of(chunk, answered)
    said = collected(view, chunk, {told.custom_id: told})
    assert [each.request_id for each in said if each.schema == "excluded"] == [failed.request_id]
    kept = read.life(view, answered.request_id)
    assert kept is not None
    assert kept.status is Status.SUCCEEDED_UNVALIDATED


def test_a_large_chunk_is_collected_in_cuts() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, CUT_MEMBERS + 7)
    rows = {(told := answer_of(chunk, life)).custom_id: told for life in members(view, chunk.chunk_id, limit=10**5)}
    first = collect_cut(view, chunk, members(view, chunk.chunk_id), rows, retry=RETRY, price=price, now_ms=NOW_MS)
    carry_out(view, first)
    assert (row(view, chunk).succeeded, row(view, chunk).state) == (CUT_MEMBERS, ChunkState.DOWNLOADED)
    collected(view, chunk, rows)
    assert row(view, chunk).succeeded == CUT_MEMBERS + 7


def test_a_member_that_was_never_sent_is_impossible() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    (life,) = members(view, chunk.chunk_id)
    unsent = replace(life, status=Status.QUEUED, sends=0)
    with pytest.raises(ImpossibleError):
        collect_cut(view, chunk, [unsent], {}, retry=RETRY, price=price, now_ms=NOW_MS)


@given(st.lists(st.sampled_from([*Outcome, None]), max_size=12), st.integers(0, 3), st.integers(0, 3))
def test_whatever_comes_back_the_counts_add_up(outcomes: list[Outcome | None], strays: int, repeats: int) -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, len(outcomes))
    index = RowIndex.of(chunk)
    rows = {}
    for life, outcome in zip(members(view, chunk.chunk_id), outcomes, strict=True):
        if outcome is None or outcome is Outcome.MISSING:
            continue
        reason = None if outcome is Outcome.SUCCEEDED else Reason.PROVIDER_ERROR
        told = answer_of(chunk, life, outcome=outcome, reason=reason)
        rows[told.custom_id] = told
        index.add(told.custom_id, NOWHERE)
    for _ in range(strays):
        index.add("stray", NOWHERE)
    again = repeats if rows else 0
    for _ in range(again):
        index.add(next(iter(rows)), NOWHERE)
    collected(view, chunk, rows)
    carry_out(view, finish(row(view, chunk), index, NOW_MS))
    done = row(view, chunk)
    counted = done.succeeded + done.errored + done.expired + done.cancelled + done.missing
    assert (counted, done.unknown_rows, done.repeated_rows) == (len(outcomes), strays, again)
    assert done.state is ChunkState.DONE


def test_a_row_of_ours_that_no_member_asked_for_is_counted() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    index = RowIndex.of(chunk)
    index.add(custom_id_of(chunk, make_life(77, status=Status.PROCESSING, sends=1)), NOWHERE)
    collected(view, chunk, {})
    carry_out(view, finish(row(view, chunk), index, NOW_MS))
    assert (row(view, chunk).unknown_rows, row(view, chunk).missing) == (1, 1)


def test_files_that_were_lost_after_they_were_collected_take_no_row_away() -> None:
    _, chunk = stage(ChunkState.COLLECTED, 3, succeeded=3)
    (put,) = finish(chunk, RowIndex.of(chunk), NOW_MS)
    assert isinstance(put, Put)
    assert isinstance(put.row, Chunk)
    assert (put.row.unknown_rows, put.row.note) == (0, None)


def test_a_ledger_that_does_not_add_up_is_not_closed() -> None:
    _, chunk = stage(ChunkState.COLLECTED, 3, succeeded=2)
    with pytest.raises(ImpossibleError, match="3 members and 2 outcomes"):
        finish(chunk, RowIndex.of(chunk), NOW_MS)


def told(**changes: Any) -> RemoteBatch:
    seen = {"total": 3, "completed": 3, "failed": 0, **changes}
    return RemoteBatch(batch_id="b", status=RemoteStatus.ENDED, status_text="completed", created_at_ms=1, **seen)


def finished(chunk: Chunk, **more: Any) -> Chunk:
    index = RowIndex.of(chunk)
    for number in range(chunk.succeeded + chunk.errored + chunk.expired + chunk.cancelled):
        index.add(custom_id_of(chunk, make_life(number, status=Status.PROCESSING, sends=1)), NOWHERE)
    (put,) = finish(chunk, index, NOW_MS, **more)
    assert isinstance(put, Put)
    assert isinstance(put.row, Chunk)
    return put.row


@pytest.mark.parametrize(
    ("seen", "note"),
    [
        ({}, None),
        ({"total": 4}, "the provider counts 4 rows of 3"),
        ({"completed": 4}, "the provider counts 4 rows that ran, 3 came"),
        ({"completed": 2, "failed": 0}, None),  # services forget to count failed rows; what came, came
        ({"total": None}, None),
    ],
)
def test_counts_that_do_not_reconcile_are_the_note_of_the_chunk(seen: dict[str, Any], note: str | None) -> None:
    _, chunk = stage(ChunkState.COLLECTED, 3, succeeded=2, errored=1)
    assert finished(chunk, told=told(**seen)).note == note


def test_what_the_provider_billed_beyond_its_rows_is_booked_and_said() -> None:
    _, chunk = stage(ChunkState.COLLECTED, 3, succeeded=2, missing=1, cost_nanos=200)
    done = finished(chunk, told=told(), told_nanos=300)
    assert (done.untold_nanos, done.doubtful_nanos) == (100, 0)
    assert done.note is not None
    assert "billed 100 nano-dollars more" in done.note
    assert finished(chunk, told=told(), told_nanos=200).untold_nanos == 0


def test_where_nobody_says_what_was_billed_a_missing_row_may_have_cost_as_much_as_another() -> None:
    _, chunk = stage(ChunkState.COLLECTED, 3, succeeded=2, missing=1, cost_nanos=201)
    assert finished(chunk, told=told()).doubtful_nanos == 101
    _, nothing = stage(ChunkState.COLLECTED, 3, missing=3, estimated_nanos=90)
    assert finished(nothing, told=None).doubtful_nanos == 90


def test_a_chunk_attempted_twice_stays_open_while_its_twin_may_be_unread() -> None:
    day_ms = 86_400_000
    unread = RemoteBatch(batch_id="x", status=RemoteStatus.RUNNING, status_text="", created_at_ms=1, identified=False)
    _, chunk = stage(ChunkState.COLLECTED, 1, succeeded=1, attempt=2)
    (put,) = wait_for_twins(chunk, [unread], day_ms, NOW_MS + 1)
    assert isinstance(put, Put)
    assert isinstance(put.row, Chunk)
    assert (put.row.state, put.row.due_at_ms) == (ChunkState.COLLECTED, NOW_MS + 60_001)
    assert wait_for_twins(chunk, [unread], day_ms, NOW_MS + day_ms + 1) == []
    assert wait_for_twins(replace(chunk, attempt=1), [unread], day_ms, NOW_MS + 1) == []
    assert wait_for_twins(chunk, [replace(unread, identified=True)], day_ms, NOW_MS + 1) == []


# -- a batch that never ran --------------------------------------------------------------------------------------------


def settled(view: MemoryView, chunk: Chunk) -> list[Any]:
    said: list[Any] = []
    while row(view, chunk).state is ChunkState.ENDED:
        said += carry_out(view, settle_cut(view, row(view, chunk), PLACE, NOW_MS))
    return said


def chunks_of(view: MemoryView, state: ChunkState) -> list[Chunk]:
    return [each for each in view.rows(Chunk.schema) if isinstance(each, Chunk) and each.state is state]


def test_members_of_a_refused_batch_go_on_in_chunks_of_half_the_size() -> None:
    view, chunk = stage(ChunkState.ENDED, 5, reason=Reason.PROVIDER_CANCELLED)
    assert settled(view, chunk) == []
    smaller = chunks_of(view, ChunkState.SEALED)
    assert [each.members for each in smaller] == [3, 2]
    for each in smaller:
        assert [(life.status, life.attempt, life.sends) for life in members(view, each.chunk_id)] == [
            (Status.QUEUED, 0, 1)
        ] * each.members
    assert row(view, chunk).state is ChunkState.FAILED


def test_no_regrouped_chunk_is_larger_than_a_cut() -> None:
    view, chunk = stage(ChunkState.ENDED, 3 * CUT_MEMBERS, reason=Reason.PROVIDER_CANCELLED)
    settled(view, chunk)
    assert [each.members for each in chunks_of(view, ChunkState.SEALED)] == [CUT_MEMBERS] * 3


def test_a_single_member_that_no_provider_takes_is_to_blame() -> None:
    view, chunk = stage(ChunkState.ENDED, 1, reason=Reason.PROVIDER_CANCELLED, note="invalid_json_line")
    (said,) = settled(view, chunk)
    assert (said.reason, said.error) == (Reason.REQUEST_INVALID, "invalid_json_line")


def test_members_of_a_batch_refused_for_good_are_dead_lettered() -> None:
    view, chunk = stage(ChunkState.ENDED, 2, reason=Reason.REFUSED_BY_PROVIDER, note="model_not_found")
    assert [each.reason for each in settled(view, chunk)] == [Reason.REFUSED_BY_PROVIDER] * 2


def test_members_of_a_cancelled_chunk_end_unless_they_were_asked_for_again() -> None:
    view, chunk = stage(ChunkState.ENDED, 2, reason=Reason.CANCELLED)
    again, over = members(view, chunk.chunk_id)
    view.put(make_job(cancelled_before_ms=NOW_MS))
    view.put(replace(again, queued_at_ms=NOW_MS + 1))
    (said,) = settled(view, chunk)
    assert (said.request_id, said.reason) == (over.request_id, Reason.CANCELLED)
    kept = read.life(view, again.request_id)
    assert kept is not None
    assert (kept.status, kept.chunk_id, kept.attempt) == (Status.QUEUED, None, 0)


def test_members_that_were_never_attempted_are_released() -> None:
    view, chunk = stage(ChunkState.ENDED, 1, reason=Reason.CANCELLED)
    (life,) = members(view, chunk.chunk_id)
    view.put(replace(life, status=Status.QUEUED, sends=0, attempt=0))
    assert settled(view, chunk) == []
    assert [each.request_id for _, each in view.scan("queue", "", limit=9) if isinstance(each, Life)] == [
        life.request_id
    ]


def test_superseded_members_of_a_refused_batch_are_not_sent_again() -> None:
    view, chunk = stage(ChunkState.ENDED, 2, reason=Reason.PROVIDER_CANCELLED)
    for life in members(view, chunk.chunk_id):
        view.put(make_source(life, request_id="newer"))
    assert [each.reason for each in settled(view, chunk)] == [Reason.SUPERSEDED] * 2
    assert chunks_of(view, ChunkState.SEALED) == []


def test_a_call_without_a_price_takes_of_the_budget_what_was_held_for_it() -> None:
    lives = [make_life(number, status=Status.PROCESSING, sends=1, attempt=1) for number in range(3)]
    chunk, members_ = make_chunk(lives, ChunkState.DOWNLOADED, reserved_nanos=100)
    view = put_rows(make_job(), chunk, *members_)
    rows = {
        custom_id_of(chunk, life): RowOutcome(
            custom_id=custom_id_of(chunk, life), outcome=Outcome.SUCCEEDED, reason=None, output="{}"
        )
        for life in members_
    }
    prices = iter([(5, "p"), (None, None), (7, "p")])
    orders = collect_cut(view, chunk, members_, rows, retry=RetrySpec(), price=lambda _: next(prices), now_ms=NOW_MS)
    carry_out(view, orders)
    after = read.chunk(view, chunk.chunk_id)
    assert after is not None
    assert (after.cost_nanos, after.doubtful_nanos) == (12, 34)


# -- money -------------------------------------------------------------------------------------------------------------


def results_of(said: list[Any]) -> list[Result]:
    return [record for record in said if isinstance(record, Result)]


def test_a_result_is_the_cost_fact_of_its_call_with_tier_and_tokens() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1, mode="online")
    (life,) = members(view, chunk.chunk_id)
    told = answer_of(chunk, life, cached_tokens=2, cache_write_tokens=1)
    (fact,) = results_of(collected(view, chunk, {told.custom_id: told}))
    assert (fact.custom_id, fact.tier, fact.cost_nanos, fact.price_id) == (told.custom_id, "online", 50, "p1")
    assert (fact.input_tokens, fact.cached_tokens, fact.cache_write_tokens) == (5, 2, 1)


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.CANCELLED, Outcome.ERROR])
def test_a_row_that_failed_and_was_billed_all_the_same_counts(outcome: Outcome) -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    (life,) = members(view, chunk.chunk_id)
    told = answer_of(chunk, life, outcome=outcome, reason=Reason.EXPIRED)
    (fact,) = results_of(collected(view, chunk, {told.custom_id: told}))
    now = read.life(view, life.request_id)
    assert now is not None
    assert fact.cost_nanos == now.cost_nanos == row(view, chunk).cost_nanos == 50


@pytest.mark.parametrize(("told_nanos", "untold"), [(149, 0), (150, 0), (151, 0), (152, 2), (900, 750)])
def test_what_roundings_come_to_is_not_billed_beyond_the_rows(told_nanos: int, untold: int) -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 3)
    rows = [answer_of(chunk, life) for life in members(view, chunk.chunk_id)]
    collected(view, chunk, {told.custom_id: told for told in rows})
    index = RowIndex.of(chunk)
    for told in rows:
        index.add(told.custom_id, NOWHERE)
    carry_out(view, finish(row(view, chunk), index, NOW_MS, told_nanos=told_nanos))
    done = row(view, chunk)
    assert (done.cost_nanos, done.untold_nanos) == (150, untold)


def test_a_repeated_row_is_counted_and_costs_nothing_again() -> None:
    view, chunk = stage(ChunkState.DOWNLOADED, 1)
    (life,) = members(view, chunk.chunk_id)
    told, index = answer_of(chunk, life), RowIndex.of(chunk)
    index.add(told.custom_id, NOWHERE)
    index.add(told.custom_id, NOWHERE)
    collected(view, chunk, {told.custom_id: told})
    carry_out(view, finish(row(view, chunk), index, NOW_MS))
    done = row(view, chunk)
    assert (done.state, done.repeated_rows, done.cost_nanos) == (ChunkState.DONE, 1, 50)


def test_smaller_chunks_of_a_refused_one_take_its_estimate_with_them() -> None:
    view, chunk = stage(ChunkState.ENDED, 4, reason=Reason.PROVIDER_CANCELLED, estimated_nanos=1_001)
    while (now := row(view, chunk)).state is ChunkState.ENDED:
        carry_out(view, settle_cut(view, now, PLACE, NOW_MS))
    smaller = [each for each in view.rows(Chunk.schema) if isinstance(each, Chunk) and each.chunk_id != chunk.chunk_id]
    assert [(each.members, each.estimated_nanos) for each in smaller] == [(2, 500), (2, 500)]
