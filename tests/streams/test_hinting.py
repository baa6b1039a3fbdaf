"""A hint makes a poll earlier, and changes nothing that is believed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.records import Control
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState
from batchmill.streams.controlling import refusal
from batchmill.streams.hinting import COMMAND, HINTS_MAX, JOB, Hint, command_body, look_command
from batchmill.streams.orders import Put, Wake
from batchmill.streams.submitting import Todo, todo
from tests.streams.rows import NOW_MS, make_chunk, make_job, put_rows

LATER_MS = NOW_MS + 60_000


def look(*batch_ids: str, body: str | None = None) -> Control:
    return Control(
        command_id="c1",
        command=COMMAND,
        job=JOB,
        version=None,
        body_json=body or command_body(Hint("openai", each) for each in batch_ids),
        actor="webhook",
        issued_at_ms=NOW_MS,
    )


def an_open_chunk(**changes: Any) -> Chunk:
    told: dict[str, Any] = {"batch_id": "batch_1", "due_at_ms": LATER_MS, **changes}
    return make_chunk([], told.pop("state", ChunkState.OPEN), **told)[0]


def test_the_open_chunk_of_a_named_batch_is_polled_now() -> None:
    chunk = an_open_chunk()
    (put, wake) = look_command(put_rows(make_job(), chunk), look("batch_0", "batch_1"), NOW_MS)
    assert wake == Wake("poll")
    assert put == Put(replace(chunk, due_at_ms=NOW_MS))
    assert todo(put.row, by_file=True, paused=True, now_ms=NOW_MS) is Todo.POLL


@pytest.mark.parametrize(
    "chunk",
    [
        an_open_chunk(batch_id="batch_2"),
        an_open_chunk(batch_id=None),
        an_open_chunk(due_at_ms=NOW_MS - 1),
        an_open_chunk(due_at_ms=None),
        an_open_chunk(failures=1),
        an_open_chunk(looks=1),
        *(an_open_chunk(state=state) for state in ChunkState if state is not ChunkState.OPEN),
    ],
)
def test_nothing_else_is_touched(chunk: Chunk) -> None:
    assert look_command(put_rows(make_job(), chunk), look("batch_1"), NOW_MS) == []


@given(st.sampled_from(ChunkState), st.integers(0, 3), st.integers(0, 3), st.none() | st.integers(0, 2 * NOW_MS))
def test_a_hint_changes_the_due_time_only_and_only_makes_it_earlier(
    state: ChunkState, failures: int, looks: int, due_at_ms: int | None
) -> None:
    chunk = an_open_chunk(state=state, failures=failures, looks=looks, due_at_ms=due_at_ms)
    for order in look_command(put_rows(make_job(), chunk), look("batch_1"), NOW_MS):
        if isinstance(order, Put):
            assert isinstance(order.row, Chunk)
            assert replace(order.row, due_at_ms=due_at_ms) == chunk
            assert order.row.due_at_ms is not None
            assert due_at_ms is not None
            assert order.row.due_at_ms < due_at_ms


def test_a_hint_that_comes_twice_is_one_poll() -> None:
    view = put_rows(make_job(), an_open_chunk())
    for order in look_command(view, look("batch_1"), NOW_MS):
        if isinstance(order, Put):
            view.put(order.row)
    assert look_command(view, look("batch_1"), NOW_MS) == []


def test_a_look_needs_no_job_and_is_admitted() -> None:
    assert refusal(put_rows(), look("batch_1")) is None


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"batches": "batch_1"}',
        '{"batches": ["batch_1"]}',
        '{"batches": [{"batch_id": 1, "account": "openai"}]}',
        '{"batches": [{"batch_id": "batch_1"}]}',
        command_body([Hint("a", "b")] * (HINTS_MAX + 1)),
        "{" * 100_000,
    ],
)
def test_a_look_that_is_ill_formed_is_refused(body: str) -> None:
    assert refusal(put_rows(), look(body=body)) is not None
