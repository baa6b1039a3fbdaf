"""A job that chooses by deadline: batch while that is in time, online for what would be late, nothing answered lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import BATCH, ONLINE, in_mode
from batchmill.streams.hastening import GUARD_MS_MIN, Haste, batched, move_late, stop_late
from batchmill.streams.sealing import Queue
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import LANE, NOW_MS, make_chunk, make_job, make_life, make_source, put_rows

HOUR = 3_600_000
HASTE = Haste(deadline_ms=6 * HOUR, typical_ms=2 * HOUR, filling_ms=60_000)
QUEUE = Queue(LANE, "triage", "v1")


def aged(number: int, age_ms: int, **changes: Any) -> Life:
    return make_life(number, queued_at_ms=NOW_MS - age_ms, **changes)


def lanes(view: MemoryView) -> list[str]:
    lives = [row for row in view.rows(Life.schema) if isinstance(row, Life)]
    return [life.lane.rpartition("|")[2] for life in sorted(lives, key=lambda life: life.request_id)]


def test_what_would_be_late_goes_online_and_the_rest_stays() -> None:
    limit = HASTE.batch_by_ms
    view = put_rows(make_job(), aged(0, limit + 1), aged(1, limit), aged(2, 0))
    carry_out(view, move_late(view, QUEUE, HASTE, NOW_MS))
    assert lanes(view) == [ONLINE, BATCH, BATCH]
    assert move_late(view, QUEUE, HASTE, NOW_MS) == []


def test_a_deadline_that_no_batch_meets_sends_everything_online() -> None:
    haste = Haste(deadline_ms=HOUR, typical_ms=2 * HOUR, filling_ms=60_000)
    view = put_rows(make_job(), aged(0, 0))
    carry_out(view, move_late(view, QUEUE, haste, NOW_MS))
    assert lanes(view) == [ONLINE]


def test_what_is_online_already_is_left_there() -> None:
    lane = in_mode(LANE, ONLINE)
    view = put_rows(make_job(), aged(0, 10 * HOUR, lane=lane))
    assert move_late(view, Queue(lane, "triage", "v1"), HASTE, NOW_MS) == []


def held(state: ChunkState, age_ms: int, **changes: Any) -> tuple[MemoryView, Chunk]:
    status = Status.PROCESSING if state in {ChunkState.ATTEMPTING, ChunkState.OPEN} else Status.QUEUED
    lives = [aged(number, age_ms, status=status) for number in range(2)]
    chunk, inside = make_chunk(lives, state, first_queued_at_ms=NOW_MS - age_ms, **changes)
    return put_rows(make_job(), chunk, *inside, *(make_source(life) for life in inside)), chunk


def after(view: MemoryView, chunk: Chunk, haste: Haste = HASTE) -> Chunk:
    carry_out(view, stop_late(view, "triage", "v1", haste, NOW_MS))
    found = read.chunk(view, chunk.chunk_id)
    assert found is not None
    return found


@pytest.mark.parametrize("state", [ChunkState.FILLING, ChunkState.SEALED, ChunkState.PREPARED, ChunkState.UPLOADED])
def test_a_chunk_that_was_not_sent_comes_apart_as_soon_as_it_would_be_late(state: ChunkState) -> None:
    view, chunk = held(state, HASTE.send_by_ms)
    assert after(view, chunk).state is state
    view, chunk = held(state, HASTE.send_by_ms + 1)
    assert after(view, chunk).state is ChunkState.ENDED


@pytest.mark.parametrize("state", [ChunkState.ATTEMPTING, ChunkState.OPEN])
def test_a_batch_that_runs_is_given_up_only_shortly_before_the_deadline(state: ChunkState) -> None:
    view, chunk = held(state, HASTE.give_up_ms)
    assert not after(view, chunk).cancel_requested
    view, chunk = held(state, HASTE.give_up_ms + 1)
    stopped = after(view, chunk)
    assert (stopped.state, stopped.cancel_requested) == (state, True)
    assert stop_late(view, "triage", "v1", HASTE, NOW_MS) == []  # asked once


def test_each_account_is_held_to_the_time_that_its_own_provider_takes() -> None:
    view, chunk = held(ChunkState.OPEN, HASTE.give_up_ms + 1)
    assert batched(view) == [("triage", "v1", chunk.account)]
    assert stop_late(view, "triage", "v1", HASTE, NOW_MS, account="other") == []
    assert stop_late(view, "triage", "v1", HASTE, NOW_MS, account=chunk.account) != []


@pytest.mark.parametrize("state", [ChunkState.ENDED, ChunkState.DOWNLOADED, ChunkState.COLLECTED])
def test_answers_that_are_there_are_collected_however_late(state: ChunkState) -> None:
    view, chunk = held(state, 10 * HOUR)
    assert after(view, chunk).state is state


def test_an_online_chunk_is_never_stopped_by_a_deadline() -> None:
    view, chunk = held(ChunkState.ATTEMPTING, 10 * HOUR, mode=ONLINE)
    assert not after(view, chunk).cancel_requested


@given(deadline_s=st.integers(1, 10**6), typical_s=st.integers(1, 10**5), filling_s=st.integers(0, 10**4))
def test_the_three_ages_come_in_order_and_leave_the_guard(deadline_s: int, typical_s: int, filling_s: int) -> None:
    haste = Haste(deadline_ms=deadline_s * 1_000, typical_ms=typical_s * 1_000, filling_ms=filling_s * 1_000)
    assert haste.batch_by_ms <= haste.send_by_ms < haste.deadline_ms
    assert haste.deadline_ms - haste.give_up_ms >= max(GUARD_MS_MIN, haste.deadline_ms // 10)
