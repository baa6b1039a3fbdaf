"""What is found where: each index holds exactly the rows its reader acts on."""

import pytest

from batchmill.schemas.state import Arrival, Meta
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.index import DOWN_ROWS, entries, padded
from tests.streams.rows import LANE, NOW_MS, make_chunk, make_job, make_life, make_source, origin


def names(row: object) -> set[str]:
    return {index for index, _ in entries(row)}


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (Status.QUEUED, {"open", "queue", "asking"}),
        (Status.PROCESSING, {"open", "asking"}),
        (Status.SUCCEEDED_UNVALIDATED, {"open", "asking"}),
        (Status.VALIDATED, {"open", "commit"}),
        (Status.NEEDS_REVIEW, {"open", "review"}),
        (Status.FAILED_RETRYABLE, {"open", "retry", "asking"}),
        (Status.COMMITTED, {"run"}),
        (Status.FAILED_TERMINAL, set()),
    ],
)
def test_a_life_is_found_by_its_status(status: Status, found: set[str]) -> None:
    assert names(make_life(status=status)) == found
    assert names(make_life(status=status, chunk_id="c")) == (found - {"queue"}) | {"member"}


def test_a_queued_life_with_a_stored_answer_is_not_in_the_queue() -> None:
    assert names(make_life(result_offset=7)) == {"open", "stored", "asking"}


def test_who_waits_for_anothers_answer_is_found_by_that_one_and_neither_sent_nor_waited_for() -> None:
    waits = make_life(follows="leader")
    assert dict(entries(waits))["follow"] == f"leader/{waits.request_id}"
    assert names(waits) == {"open", "follow"}
    assert names(make_life(follows="leader", result_offset=3)) == {"open", "stored"}


def test_of_those_who_ask_a_question_the_ones_that_wait_for_another_attempt_come_last() -> None:
    asks, waits = make_life(), make_life(status=Status.FAILED_RETRYABLE)
    assert dict(entries(asks))["asking"] == f"{asks.ask_key}/0/{asks.request_id}"
    assert dict(entries(waits))["asking"] == f"{waits.ask_key}/1/{waits.request_id}"


def test_the_queue_is_ordered_by_age_within_lane_job_and_version() -> None:
    ((_, key),) = [each for each in entries(make_life()) if each[0] == "queue"]
    assert key == f"{LANE}/triage/v1/{NOW_MS:015d}/{make_life().request_id}"


def test_an_open_chunk_is_found_by_state_and_due_time_and_a_closed_one_nowhere() -> None:
    chunk, _ = make_chunk([], ChunkState.OPEN, due_at_ms=5)
    assert ("chunk", f"open/{padded(5)}/{chunk.chunk_id}") in entries(chunk)
    filling, _ = make_chunk([], ChunkState.FILLING)
    assert names(filling) == {"chunk", "chunk_job", "filling"}
    for state in (ChunkState.DONE, ChunkState.FAILED):
        assert names(make_chunk([], state)[0]) == set()


def test_arrivals_jobs_and_sources_have_their_places() -> None:
    waits = Arrival(job=None, waiting_for="job_known", since_ms=1, origin=origin(4))
    assert entries(waits) == (("arrival", f"job_known//{waits.key}"),)
    assert entries(make_job()) == (("job", "triage"),)
    assert entries(make_source(make_life())) == ()


def test_a_line_that_is_down_is_found_and_other_notes_are_not() -> None:
    assert entries(Meta(name=f"{DOWN_ROWS}sqlite", value_json="{}")) == (("down", f"{DOWN_ROWS}sqlite"),)
    assert entries(Meta(name="read_to", value_json="1")) == ()


def test_padded_times_sort_as_numbers_do() -> None:
    assert sorted([padded(10), padded(9), padded(None)]) == [padded(None), padded(9), padded(10)]


def test_a_chunk_that_waits_for_a_grant_stands_in_its_pools_line_by_age() -> None:
    chunk, _ = make_chunk([], ChunkState.PREPARED, waits_for="queue/a/m", created_at_ms=7)
    assert ("waiting", f"queue/a/m|{padded(7)}/{chunk.chunk_id}") in entries(chunk)
