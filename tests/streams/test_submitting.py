"""One provider batch per chunk: each durable step, and what is believed after each answer or silence."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Job, Life
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS, members
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    RefusedError,
    RemoteBatch,
    RemoteStatus,
    StoredPayload,
    TransientError,
)
from batchmill.streams.refusing import ATTEMPTS_MAX, REFUSALS_MAX, backoff_ms, fail_batch, try_later
from batchmill.streams.submitting import (
    LEASE_SECONDS,
    NOT_FOUND,
    CreateSchedule,
    Todo,
    after_create,
    after_look,
    begin_cut,
    file_deleted,
    may_create,
    may_spend,
    payload_missing,
    prepared,
    refuse_member,
    todo,
    twins_of,
    uploaded,
    weed,
)
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import NOW_MS, emitted, life_in, make_chunk, make_job, make_life, make_source, put_rows

PAYLOAD = StoredPayload(uri="file:p", sha256="sha", size_bytes=9)
BYTES_MAX = 10**8
SCHEDULE = CreateSchedule(grace_ms=60_000, spacing_ms=30_000, looks_min=2)


def stage(state: ChunkState, count: int = 3, **changes: Any) -> tuple[MemoryView, Chunk]:
    """A view with one chunk in `state` and its members."""
    sent = {} if state in {ChunkState.SEALED, ChunkState.PREPARED, ChunkState.UPLOADED} else {"payload_sha256": "sha"}
    status = Status.PROCESSING if state in {ChunkState.ATTEMPTING, ChunkState.OPEN} else Status.QUEUED
    sends = 1 if status is Status.PROCESSING else 0
    lives = [make_life(number, status=status, sends=sends, attempt=sends) for number in range(count)]
    chunk, inside = make_chunk(lives, state, **{**sent, **changes})
    sources = [make_source(life) for life in inside]
    return put_rows(make_job(), chunk, *inside, *sources), chunk


def row(view: MemoryView, chunk: Chunk) -> Chunk:
    found = read.chunk(view, chunk.chunk_id)
    assert found is not None
    return found


def remote(batch_id: str = "b1", status: RemoteStatus = RemoteStatus.RUNNING, **changes: Any) -> RemoteBatch:
    told = {"created_at_ms": NOW_MS, "label": {"chunk_attempt": "1"}, **changes}
    return RemoteBatch(batch_id=batch_id, status=status, status_text=str(status), **told)


# -- what to do --------------------------------------------------------------------------------------------------------

STEPS: list[tuple[dict[str, Any], Todo | None, Todo | None]] = [
    ({"state": ChunkState.FILLING}, None, None),
    ({"state": ChunkState.HELD}, None, None),
    ({"state": ChunkState.SEALED}, Todo.PREPARE, None),
    ({"state": ChunkState.PREPARED}, Todo.UPLOAD, None),
    ({"state": ChunkState.PREPARED, "file_id": "f"}, Todo.DELETE_FILE, Todo.DELETE_FILE),
    ({"state": ChunkState.UPLOADED, "file_id": "f"}, Todo.BEGIN, None),
    ({"state": ChunkState.ATTEMPTING, "file_id": "f"}, Todo.LOOK, Todo.LOOK),
    ({"state": ChunkState.ATTEMPTING, "file_id": "f", "remote_status": NOT_FOUND}, Todo.DELETE_FILE, Todo.DELETE_FILE),
    ({"state": ChunkState.ATTEMPTING, "remote_status": NOT_FOUND}, Todo.LOOK, Todo.LOOK),
    ({"state": ChunkState.OPEN, "remote_status": "running"}, Todo.POLL, Todo.POLL),
    ({"state": ChunkState.OPEN, "remote_status": "running", "cancel_requested": True}, Todo.CANCEL, Todo.CANCEL),
    ({"state": ChunkState.OPEN, "remote_status": "cancelling", "cancel_requested": True}, Todo.POLL, Todo.POLL),
    ({"state": ChunkState.ENDED}, Todo.DOWNLOAD, Todo.DOWNLOAD),
    ({"state": ChunkState.ENDED, "reason": Reason.CANCELLED}, Todo.SETTLE, Todo.SETTLE),
    ({"state": ChunkState.ENDED, "reason": Reason.CANCELLED, "file_id": "f"}, Todo.DELETE_FILE, Todo.DELETE_FILE),
    ({"state": ChunkState.DOWNLOADED}, Todo.COLLECT, Todo.COLLECT),
    ({"state": ChunkState.COLLECTED}, Todo.FINISH, Todo.FINISH),
    ({"state": ChunkState.DONE}, None, None),
    ({"state": ChunkState.FAILED}, None, None),
]


@pytest.mark.parametrize(("changes", "going", "paused"), STEPS, ids=str)
def test_the_row_says_what_is_next_and_a_pause_stops_only_what_leads_to_spending(
    changes: dict[str, Any], going: Todo | None, paused: Todo | None
) -> None:
    chunk = replace(make_chunk([make_life()], ChunkState.SEALED)[0], **changes)
    assert todo(chunk, by_file=True, paused=False, now_ms=NOW_MS) is going
    assert todo(chunk, by_file=True, paused=True, now_ms=NOW_MS) is paused
    assert todo(replace(chunk, due_at_ms=NOW_MS + 1), by_file=True, paused=False, now_ms=NOW_MS) is None


def test_where_the_payload_goes_with_the_create_call_nothing_is_uploaded() -> None:
    chunk = make_chunk([make_life()], ChunkState.PREPARED)[0]
    assert todo(chunk, by_file=False, paused=False, now_ms=NOW_MS) is Todo.BEGIN
    assert todo(chunk, by_file=False, paused=True, now_ms=NOW_MS) is None


def test_every_chunk_state_has_its_step() -> None:
    assert {changes["state"] for changes, _, _ in STEPS} == set(ChunkState)


# -- the lease ---------------------------------------------------------------------------------------------------------


def spend(**changes: Any) -> bool:
    told = {
        "now_boottime_s": 1_000.0,
        "last_commit_boottime_s": 999.0,
        "fenced_boottime_s": 0.0,
        "previous_owner_clean": True,
        "http_timeout_s": 30.0,
    }
    return may_spend(**{**told, **changes})


def test_money_is_spent_only_shortly_after_our_own_commit() -> None:
    assert spend()
    assert not spend(last_commit_boottime_s=1_000.0 - LEASE_SECONDS)


def test_a_new_owner_waits_until_the_old_one_cannot_have_a_call_under_way() -> None:
    assert not spend(fenced_boottime_s=961.0, previous_owner_clean=False)
    assert spend(fenced_boottime_s=960.0, previous_owner_clean=False)
    assert spend(fenced_boottime_s=999.0, previous_owner_clean=True)


# -- sealed -> prepared -> uploaded ------------------------------------------------------------------------------------


def test_members_nobody_waits_for_are_weeded_before_they_cost_anything() -> None:
    view, chunk = stage(ChunkState.SEALED)
    gone = members(view, chunk.chunk_id)[1]
    view.put(make_source(gone, request_id="newer"))
    said = carry_out(view, weed(view, chunk, members(view, chunk.chunk_id), NOW_MS))
    assert [(each.request_id, each.reason) for each in said] == [(gone.request_id, Reason.SUPERSEDED)]
    assert (row(view, chunk).members, row(view, chunk).bytes, row(view, chunk).tokens) == (2, 200, 20)
    assert len(members(view, chunk.chunk_id)) == 2


def test_once_there_is_a_payload_its_members_are_frozen() -> None:
    view, chunk = stage(ChunkState.SEALED, payload_sha256="sha")
    view.put(make_source(members(view, chunk.chunk_id)[1], request_id="newer"))
    assert weed(view, chunk, members(view, chunk.chunk_id), NOW_MS) == []


def test_a_member_that_cannot_be_sent_ends_and_the_chunk_goes_on() -> None:
    view, chunk = stage(ChunkState.SEALED)
    life = members(view, chunk.chunk_id)[0]
    (said,) = carry_out(view, refuse_member(view, chunk, life.request_id, Reason.RENDER_ERROR, "why", NOW_MS))
    assert (said.reason, said.error, row(view, chunk).members) == (Reason.RENDER_ERROR, "why", 2)


def test_a_member_of_an_attempt_that_had_no_effect_can_be_refused_when_its_payload_is_made_again() -> None:
    view, chunk = stage(ChunkState.SEALED, payload_sha256="sha", attempt=1)
    named = replace(members(view, chunk.chunk_id)[0], status=Status.PROCESSING, sends=1, attempt=1)
    view.put(named)
    (said,) = carry_out(view, refuse_member(view, chunk, named.request_id, Reason.BODY_GONE, "why", NOW_MS))
    assert (said.reason, said.cost_nanos, row(view, chunk).members) == (Reason.BODY_GONE, 0, 2)


def test_a_payload_moves_the_chunk_on_and_an_empty_one_ends_it() -> None:
    view, chunk = stage(ChunkState.SEALED)
    carry_out(view, prepared(chunk, PAYLOAD, NOW_MS, bytes_max=BYTES_MAX))
    assert (row(view, chunk).state, row(view, chunk).payload_sha256) == (ChunkState.PREPARED, "sha")
    empty, _ = make_chunk([], ChunkState.SEALED)
    carry_out(view, prepared(empty, PAYLOAD, NOW_MS, bytes_max=BYTES_MAX))
    assert row(view, empty).state is ChunkState.FAILED


def test_a_payload_that_came_out_larger_than_the_provider_takes_dissolves_before_it_is_sent() -> None:
    view, chunk = stage(ChunkState.SEALED)
    carry_out(view, prepared(chunk, PAYLOAD, NOW_MS, bytes_max=PAYLOAD.size_bytes - 1))
    assert (row(view, chunk).state, row(view, chunk).reason) == (ChunkState.ENDED, Reason.PROVIDER_CANCELLED)


def test_a_rebuilt_payload_that_differs_is_held_for_a_person() -> None:
    view, chunk = stage(ChunkState.SEALED, payload_sha256="before")
    carry_out(view, prepared(chunk, PAYLOAD, NOW_MS, bytes_max=BYTES_MAX))
    assert (row(view, chunk).state, row(view, chunk).payload_sha256) == (ChunkState.HELD, "sha")
    carry_out(view, prepared(replace(chunk, payload_sha256="sha"), PAYLOAD, NOW_MS, bytes_max=BYTES_MAX))
    assert row(view, chunk).state is ChunkState.PREPARED


def test_a_payload_that_vanished_is_built_again() -> None:
    view, chunk = stage(ChunkState.PREPARED, payload_sha256="sha", payload_uri="file:p")
    carry_out(view, payload_missing(chunk, NOW_MS))
    assert (row(view, chunk).state, row(view, chunk).payload_sha256) == (ChunkState.SEALED, "sha")


def test_a_step_that_comes_back_after_a_cancellation_does_not_undo_it() -> None:
    view, chunk = stage(ChunkState.ENDED, reason=Reason.CANCELLED)
    life = members(view, chunk.chunk_id)[0]
    assert weed(view, chunk, members(view, chunk.chunk_id), NOW_MS) == []
    assert refuse_member(view, chunk, life.request_id, Reason.RENDER_ERROR, "why", NOW_MS) == []
    assert prepared(chunk, PAYLOAD, NOW_MS, bytes_max=BYTES_MAX) == payload_missing(chunk, NOW_MS) == []
    assert begin_cut(view, replace(chunk, state=ChunkState.UPLOADED), NOW_MS) == []
    assert uploaded(replace(chunk, state=ChunkState.FAILED), "f", NOW_MS) == []


def test_a_file_uploaded_for_a_cancelled_chunk_is_deleted_again() -> None:
    view, chunk = stage(ChunkState.ENDED, reason=Reason.CANCELLED)
    carry_out(view, uploaded(chunk, "f1", NOW_MS))
    assert row(view, chunk).state is ChunkState.ENDED
    assert todo(row(view, chunk), by_file=True, paused=True, now_ms=NOW_MS) is Todo.DELETE_FILE


@pytest.mark.parametrize(
    ("changes", "paused", "may"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"cancel_requested": True}, False, False),
        ({"attempt": 2}, False, False),
        ({"state": ChunkState.ENDED}, False, False),
    ],
    ids=str,
)
def test_the_last_question_before_a_create_hears_what_was_said_meanwhile(
    changes: dict[str, Any], *, paused: bool, may: bool
) -> None:
    view, chunk = stage(ChunkState.ATTEMPTING, attempt=1)
    view.put(replace(chunk, **changes))
    view.put(make_job(paused=paused))
    assert may_create(view, chunk) is may


@pytest.mark.parametrize("error", [TransientError("not now"), MustPauseError("no money")])
def test_a_cancelled_chunk_that_was_certainly_not_created_ends(error: ProviderError) -> None:
    view, chunk = stage(ChunkState.ATTEMPTING, attempt=1, cancel_requested=True)
    carry_out(view, after_create(view, chunk, error, NOW_MS))
    assert (row(view, chunk).state, row(view, chunk).reason) == (ChunkState.ENDED, Reason.CANCELLED)


def test_upload_and_deletion_are_noted() -> None:
    view, chunk = stage(ChunkState.PREPARED)
    carry_out(view, uploaded(chunk, "f1", NOW_MS))
    assert (row(view, chunk).state, row(view, chunk).file_id) == (ChunkState.UPLOADED, "f1")
    carry_out(view, file_deleted(row(view, chunk), NOW_MS))
    assert row(view, chunk).file_id is None


# -- attempting --------------------------------------------------------------------------------------------------------


def begun(view: MemoryView, chunk: Chunk) -> list[Any]:
    said: list[Any] = []
    while row(view, chunk).state is ChunkState.UPLOADED:
        said += carry_out(view, begin_cut(view, row(view, chunk), NOW_MS))
    return said


def test_an_attempt_is_durable_only_with_its_last_cut() -> None:
    view, chunk = stage(ChunkState.UPLOADED, CUT_MEMBERS + 3, payload_sha256="sha", file_id="f")
    first = carry_out(view, begin_cut(view, chunk, NOW_MS))
    assert (len(first), row(view, chunk).state) == (CUT_MEMBERS, ChunkState.UPLOADED)
    second = carry_out(view, begin_cut(view, row(view, chunk), NOW_MS))
    done = row(view, chunk)
    assert (done.state, done.attempt, done.attempt_at_ms, done.cursor) == (ChunkState.ATTEMPTING, 1, NOW_MS, None)
    assert [each.line for each in [*first, *second]] == list(range(1, CUT_MEMBERS + 4))
    assert [each.request_id for each in [*first, *second]] == sorted(each.request_id for each in [*first, *second])


def test_a_cut_that_is_exactly_full_is_followed_by_an_empty_one() -> None:
    view, chunk = stage(ChunkState.UPLOADED, CUT_MEMBERS, payload_sha256="sha")
    assert len(begun(view, chunk)) == CUT_MEMBERS
    assert row(view, chunk).state is ChunkState.ATTEMPTING


def test_a_second_attempt_names_the_same_lines_and_sends_nobody_again() -> None:
    view, chunk = stage(ChunkState.UPLOADED, payload_sha256="sha")
    first = begun(view, chunk)
    view.put(replace(row(view, chunk), state=ChunkState.UPLOADED))
    second = begun(view, chunk)
    assert [each.custom_id for each in first] == [each.custom_id for each in second]
    assert ({each.chunk_attempt for each in first}, {each.chunk_attempt for each in second}) == ({1}, {2})
    lives = members(view, chunk.chunk_id)
    assert [(life.status, life.sends, life.attempt) for life in lives] == [(Status.PROCESSING, 1, 1)] * 3


def test_the_line_carries_the_send_it_belongs_to() -> None:
    view, chunk = stage(ChunkState.UPLOADED, 1, payload_sha256="sha")
    (said,) = begun(view, chunk)
    sent = parse_custom_id(said.custom_id)
    assert sent is not None
    assert (sent.sends, said.attempt) == (1, 1)


def test_a_chunk_that_lost_a_member_is_not_attempted() -> None:
    view, chunk = stage(ChunkState.UPLOADED, payload_sha256="sha")
    with pytest.raises(AssertionError, match="3 members, 2 were found"):
        begin_cut(_without_one(view, chunk), chunk, NOW_MS)


def _without_one(view: MemoryView, chunk: Chunk) -> MemoryView:
    view.delete(Life.schema, members(view, chunk.chunk_id)[0].request_id)
    return view


# -- after the create --------------------------------------------------------------------------------------------------


def after(outcome: RemoteBatch | ProviderError, **changes: Any) -> tuple[MemoryView, Chunk]:
    view, chunk = stage(ChunkState.ATTEMPTING, attempt=1, attempt_at_ms=NOW_MS, file_id="f", **changes)
    carry_out(view, after_create(view, chunk, outcome, NOW_MS))
    return view, row(view, chunk)


def test_a_batch_that_was_made_is_open() -> None:
    _, chunk = after(remote())
    assert (chunk.state, chunk.batch_id, chunk.remote_status) == (ChunkState.OPEN, "b1", "running")


def test_silence_means_looking_and_never_sending_again() -> None:
    _, chunk = after(OutcomeUnknownError("timeout"))
    assert chunk.state is ChunkState.ATTEMPTING
    assert todo(replace(chunk, due_at_ms=None), by_file=True, paused=False, now_ms=NOW_MS) is Todo.LOOK


def test_a_refusal_that_may_pass_later_sends_the_same_chunk_later() -> None:
    view, chunk = after(TransientError("slow_down", retry_after_seconds=7))
    assert (chunk.state, chunk.due_at_ms, chunk.attempt) == (ChunkState.PREPARED, NOW_MS + 7_000, 1)
    assert {life.status for life in members(view, chunk.chunk_id)} == {Status.PROCESSING}


def test_a_chunk_deferred_without_end_waits_for_a_person() -> None:
    view, chunk = stage(ChunkState.ATTEMPTING, attempt=ATTEMPTS_MAX)
    carry_out(view, after_create(view, chunk, TransientError("slow_down"), NOW_MS))
    assert row(view, chunk).state is ChunkState.HELD
    assert "approve" in (row(view, chunk).note or "")


def test_money_pauses_the_job_and_keeps_the_chunk() -> None:
    view, chunk = after(MustPauseError("insufficient_quota"))
    job = read.job(view, "triage")
    assert isinstance(job, Job)
    assert (job.paused, job.pause_reason) == (True, "insufficient_quota")
    assert (chunk.state, chunk.due_at_ms) == (ChunkState.PREPARED, None)


def test_a_refusal_for_good_costs_one_chunk_and_pauses_the_job() -> None:
    view, chunk = after(RefusedError("model_not_found"))
    job = read.job(view, "triage")
    assert isinstance(job, Job)
    assert (job.paused, chunk.state, chunk.reason) == (True, ChunkState.ENDED, Reason.REFUSED_BY_PROVIDER)


def test_a_named_line_is_refused_and_the_others_are_let_go() -> None:
    view, chunk = stage(ChunkState.OPEN, batch_id="b")
    second = members(view, chunk.chunk_id)[1]
    failure = BatchFailure(action=Action.RETRY_ROW, code="invalid_json_line", line=2)
    orders = fail_batch(view, chunk, failure, NOW_MS)
    refused = life_in(orders, second.request_id)
    assert (refused.status, refused.reason) == (Status.FAILED_TERMINAL, Reason.REQUEST_INVALID)
    assert [each.error for each in emitted(orders)] == ["invalid_json_line"]
    carry_out(view, orders)
    assert (row(view, chunk).state, row(view, chunk).reason) == (ChunkState.ENDED, Reason.PROVIDER_CANCELLED)
    assert len(members(view, chunk.chunk_id)) == 2


@pytest.mark.parametrize("line", [None, 0, 99])
def test_a_line_that_is_not_named_blames_nobody(line: int | None) -> None:
    view, chunk = stage(ChunkState.OPEN, batch_id="b")
    failure = BatchFailure(action=Action.RETRY_ROW, code="invalid_json_line", line=line)
    assert emitted(fail_batch(view, chunk, failure, NOW_MS)) == []


def test_a_line_far_down_is_found_across_pages() -> None:
    view, chunk = stage(ChunkState.OPEN, CUT_MEMBERS + 5)
    failure = BatchFailure(action=Action.RETRY_ROW, code="bad", line=CUT_MEMBERS + 2)
    (said,) = emitted(fail_batch(view, chunk, failure, NOW_MS))
    assert said.request_id == make_life(CUT_MEMBERS + 1).request_id


def test_a_failed_call_changes_nothing_but_the_wait() -> None:
    view, chunk = stage(ChunkState.OPEN, batch_id="b", remote_status="running")
    carry_out(view, try_later(view, chunk, TransientError("server_error"), NOW_MS))
    later = row(view, chunk)
    assert (later.state, later.batch_id, later.remote_status) == (ChunkState.OPEN, "b", "running")
    assert (later.failures, later.due_at_ms) == (1, NOW_MS + backoff_ms(0))
    carry_out(view, try_later(view, later, MustPauseError("no_key", retry_after_seconds=1), NOW_MS))
    assert getattr(read.job(view, "triage"), "paused", None) is True
    assert row(view, chunk).due_at_ms == NOW_MS + 1_000


@pytest.mark.parametrize(
    ("state", "waits_ms_max"), [(ChunkState.OPEN, 15_000), (ChunkState.ENDED, 15_000), (ChunkState.PREPARED, 300_000)]
)
def test_what_only_reads_is_tried_again_sooner_than_what_spends(state: ChunkState, waits_ms_max: int) -> None:
    view, chunk = stage(state, failures=30)
    carry_out(view, try_later(view, chunk, TransientError("server_error"), NOW_MS))
    assert row(view, chunk).due_at_ms == NOW_MS + waits_ms_max


@pytest.mark.parametrize("error", [RefusedError("not_allowed"), NotFoundError("http_404", http_status=404)])
def test_an_upload_that_is_refused_again_and_again_pauses_the_job(error: ProviderError) -> None:
    view, chunk = stage(ChunkState.PREPARED)
    for _ in range(REFUSALS_MAX):
        assert getattr(read.job(view, "triage"), "paused", None) is False
        carry_out(view, try_later(view, row(view, chunk), error, NOW_MS))
    job = read.job(view, "triage")
    assert isinstance(job, Job)
    assert (job.paused, job.pause_reason, row(view, chunk).state) == (True, error.code, ChunkState.PREPARED)


@given(st.integers(0, 10**6))
def test_the_wait_of_a_step_is_bounded(failures: int) -> None:
    assert 2_000 <= backoff_ms(failures) <= 300_000


# -- looking -----------------------------------------------------------------------------------------------------------


def looked(
    view: MemoryView, chunk: Chunk, found: list[RemoteBatch], at_ms: int = NOW_MS
) -> tuple[Chunk, tuple[str, ...]]:
    answer = after_look(row(view, chunk), found, at_ms, SCHEDULE)
    carry_out(view, answer.orders)
    return row(view, chunk), answer.cancel


def test_a_batch_that_may_be_ours_holds_everything_until_its_results_tell() -> None:
    """An attempt that cannot be told from other work on the account is neither adopted nor sent again."""
    view, chunk = stage(ChunkState.ATTEMPTING, attempt=1, attempt_at_ms=NOW_MS)
    for hours in range(1, 25):
        now, cancel = looked(view, chunk, [remote("b7", identified=False)], NOW_MS + hours * 3_600_000)
        assert (now.state, now.batch_id, now.attempt, cancel) == (ChunkState.ATTEMPTING, None, 1, ())
        assert now.due_at_ms is not None
        assert now.due_at_ms <= NOW_MS + hours * 3_600_000 + 300_000
    told, _ = looked(view, chunk, [remote("b7"), remote("b8", identified=False)], NOW_MS + 90_000_000)
    assert (told.state, told.batch_id) == (ChunkState.OPEN, "b7")


def test_a_batch_that_may_be_ours_is_cancelled_only_by_policy() -> None:
    view, chunk = stage(ChunkState.ATTEMPTING, attempt=1, attempt_at_ms=NOW_MS)
    found = [remote("b7", identified=False), remote("b8", RemoteStatus.ENDED, identified=False)]
    policy = replace(SCHEDULE, cancel_unread=True)
    assert after_look(row(view, chunk), found, NOW_MS, SCHEDULE).cancel == ()
    assert after_look(row(view, chunk), found, NOW_MS, policy).cancel == ("b7",)


def test_a_batch_that_is_not_known_to_be_ours_is_no_twin() -> None:
    view, chunk = stage(ChunkState.OPEN, batch_id="b1")
    found = [remote("b1"), remote("b2", identified=False)]
    assert twins_of(row(view, chunk), found, lambda _: 1, NOW_MS).orders == ()


def lost(**changes: Any) -> tuple[MemoryView, Chunk]:
    return stage(ChunkState.ATTEMPTING, **{"attempt": 1, "attempt_at_ms": NOW_MS, "file_id": "f", **changes})


def test_one_batch_is_adopted() -> None:
    chunk, cancel = looked(*lost(), [remote("b7")])
    assert (chunk.state, chunk.batch_id, cancel) == (ChunkState.OPEN, "b7", ())


def test_of_several_the_first_is_adopted_and_those_that_run_are_cancelled() -> None:
    found = [
        remote("late", created_at_ms=NOW_MS + 9),
        remote("first"),
        remote("over", RemoteStatus.ENDED, created_at_ms=NOW_MS + 5),
        remote("failed", RemoteStatus.FAILED, created_at_ms=NOW_MS - 9),
    ]
    chunk, cancel = looked(*lost(), found)
    assert (chunk.batch_id, chunk.twins, cancel) == ("first", 3, ("late",))


def test_a_refused_batch_of_an_earlier_attempt_is_not_this_one() -> None:
    earlier = remote("b1", RemoteStatus.FAILED)
    chunk, _ = looked(*lost(attempt=2), [earlier])
    assert chunk.state is ChunkState.ATTEMPTING
    chunk, _ = looked(*lost(attempt=2), [replace(earlier, status=RemoteStatus.RUNNING)])
    assert chunk.batch_id == "b1"


def until_sent_again(view: MemoryView, chunk: Chunk, steps: Callable[[Chunk], None]) -> Chunk:
    for _ in range(50):
        now = row(view, chunk)
        if now.state is not ChunkState.ATTEMPTING:
            return now
        steps(now)
        step = todo(replace(now, due_at_ms=None), by_file=True, paused=False, now_ms=NOW_MS)
        if step is Todo.DELETE_FILE:
            carry_out(view, file_deleted(now, NOW_MS))
        else:
            looked(view, chunk, [])
    raise AssertionError("looked for ever")


def test_an_attempt_is_void_only_after_looks_through_the_grace_time_before_and_after_its_file_is_gone() -> None:
    view, chunk = lost()
    seen: list[tuple[int, bool]] = []
    after_all = until_sent_again(view, chunk, lambda now: seen.append((now.looks, now.file_id is not None)))
    assert seen == [(0, True), (1, True), (2, True), (3, True), (0, False), (1, False), (2, False)]
    assert (after_all.state, after_all.file_id, after_all.attempt) == (ChunkState.PREPARED, None, 1)


def test_a_cancelled_chunk_that_was_never_created_is_not_sent_again() -> None:
    view, chunk = lost(cancel_requested=True)
    after_all = until_sent_again(view, chunk, lambda _: None)
    assert (after_all.state, after_all.reason) == (ChunkState.ENDED, Reason.CANCELLED)


def test_twins_are_cancelled_and_their_waste_is_counted_once() -> None:
    view, chunk = stage(ChunkState.OPEN, batch_id="b1")
    found = [remote("b1"), remote("b2"), remote("b3", RemoteStatus.ENDED), remote("b4", RemoteStatus.FAILED)]
    for _ in range(2):
        answer = twins_of(row(view, chunk), found, lambda _: 100, NOW_MS)
        carry_out(view, answer.orders)
        assert answer.cancel == ("b2",)
    assert (row(view, chunk).twins, row(view, chunk).wasted_nanos) == (2, 200)
    assert twins_of(chunk, [remote("b1")], lambda _: 100, NOW_MS).orders == ()
