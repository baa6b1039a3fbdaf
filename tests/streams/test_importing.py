"""Answers bought elsewhere: taken once, by the request that still waits for them, and by nobody else."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.ids import chunk_nonce, custom_id, parse_custom_id
from batchmill.schemas.records import Control, Result
from batchmill.schemas.state import Chunk, Life, Meta
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.controlling import refusal
from batchmill.streams.importing import (
    COMMAND,
    TRIES_MAX,
    Bought,
    Part,
    bought_line,
    command_body,
    counts_of,
    finish_import,
    import_command,
    import_cut,
    put_off,
    read_bought,
    standing,
    waiting,
)
from batchmill.streams.index import IMPORTED_ROWS
from batchmill.streams.ports import RowOutcome
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import NOW_MS, make_chunk, make_job, make_life, make_source, put_rows, request_name

PART = Part("payload:sha256/" + "0" * 64, 3)


def command(parts: dict[int, Part] | None = None, *, name: str = "c1", **changes: Any) -> Control:
    told: dict[str, Any] = {
        "command_id": name,
        "command": COMMAND,
        "job": "triage",
        "version": None,
        "body_json": command_body({3: PART} if parts is None else parts),
        "actor": "someone",
        "issued_at_ms": NOW_MS,
    }
    return Control(**{**told, **changes})


def bought(number: int = 0, *, send: int = 1, **changes: Any) -> Bought:
    told: dict[str, Any] = {
        "custom_id": "theirs",
        "outcome": Outcome.SUCCEEDED,
        "reason": None,
        "output": f"answer {number}",
        "finish_reason": "stop",
        "http_status": 200,
        "model": "gpt-5-mini",
        "input_tokens": 100,
        "output_tokens": 20,
    }
    return Bought(request_id=request_name(number), send=send, row=RowOutcome(**{**told, **changes}))


def price(life: Life, row: RowOutcome) -> tuple[int | None, str | None]:
    assert "|gpt-5-mini|" in life.lane
    return (7 * row.input_tokens, "list") if row.usage_known else (None, None)


def a_view(*rows: Any) -> MemoryView:
    view = put_rows(make_job(), *rows)
    carry_out(view, import_command(view, command(), 3))
    return view


def take(view: MemoryView, *lines: Bought | None) -> list[Result]:
    (progress,) = waiting(view, 10)
    return carry_out(view, import_cut(view, progress, lines, price=price, now_ms=NOW_MS))


def counts(view: MemoryView) -> dict[str, int]:
    (progress,) = waiting(view, 10)
    return dict(progress.counts)


def life(view: MemoryView, number: int = 0) -> Life:
    found = read.life(view, request_name(number))
    assert found is not None
    return found


# -- one answer --------------------------------------------------------------------------------------------------------


def test_a_request_that_waits_is_answered_at_what_the_usage_costs() -> None:
    view = a_view(make_life(0))
    (result,) = take(view, bought(0))
    after = life(view)
    assert after.status is Status.SUCCEEDED_UNVALIDATED
    assert (after.sends, after.attempt, after.chunk_id) == (1, 1, None)
    assert (after.cost_nanos, after.unpriced_calls, after.input_tokens, after.output_tokens) == (700, 0, 100, 20)
    assert (result.answered_by, result.cost_nanos, result.price_id, result.tier) == ("import", 700, "list", "batch")
    assert (result.output, result.output_sha256, result.attempt) == ("answer 0", after.output_sha256, 1)
    sent = parse_custom_id(result.custom_id)
    assert sent is not None
    assert (sent.request_id, sent.sends) == (request_name(0), 1)
    assert counts(view) == {"answered": 1}


def test_an_answer_of_unknown_usage_is_unpriced_and_never_free() -> None:
    view = a_view(make_life(0))
    (result,) = take(view, bought(0, usage_known=False, input_tokens=0, output_tokens=0))
    assert result.cost_nanos is None
    assert (life(view).cost_nanos, life(view).unpriced_calls) == (0, 1)


def test_an_answer_that_cost_nothing_is_no_call() -> None:
    view = a_view(make_life(0))
    (result,) = take(view, bought(0, billed=False))
    assert (result.cost_nanos, life(view).unpriced_calls, life(view).cost_nanos) == (0, 0, 0)


def test_the_second_answer_to_a_request_changes_nothing_in_one_cut_or_in_two() -> None:
    view = a_view(make_life(0))
    (result,) = take(view, bought(0), bought(0, output="another"))
    after = life(view)
    assert result.output == "answer 0"
    assert take(view, bought(0)) == []
    assert life(view) == after
    assert counts(view) == {"answered": 1, "past": 2}


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUEUED])
def test_only_a_queued_life_is_answered(status: Status) -> None:
    before = make_life(0, status=status, sends=0)
    view = a_view(before)
    assert take(view, bought(0)) == []
    assert life(view) == before
    assert counts(view) == {"past": 1}


def test_the_answer_to_an_earlier_send_is_not_taken_for_the_next() -> None:
    view = a_view(make_life(0, sends=2, attempt=2))
    assert take(view, bought(0, send=1), bought(0, send=2), bought(0, send=4)) == []
    (result,) = take(view, bought(0, send=3))
    assert (result.attempt, life(view).sends) == (3, 3)


@pytest.mark.parametrize("state", ChunkState)
def test_a_member_is_taken_out_of_a_batch_that_cannot_be_on_its_way(state: ChunkState) -> None:
    chunk, lives = make_chunk([make_life(0), make_life(1)], state)
    view = a_view(chunk, *lives)
    said = take(view, bought(0))
    after = read.chunk(view, chunk.chunk_id)
    assert after is not None
    if state in {ChunkState.FILLING, ChunkState.HELD}:
        assert (len(said), life(view).status) == (1, Status.SUCCEEDED_UNVALIDATED)
        assert (after.members, after.bytes, after.tokens, after.state) == (1, 100, 10, state)
        assert life(view, 1) == lives[1]
    else:
        assert said == []
        assert (after, life(view)) == (chunk, lives[0])
        assert counts(view) == {"in_flight": 1}


def test_several_members_of_one_batch_leave_it_in_one_cut() -> None:
    chunk, lives = make_chunk([make_life(number) for number in range(3)], ChunkState.HELD)
    view = a_view(chunk, *lives)
    assert len(take(view, bought(2), bought(0))) == 2
    after = read.chunk(view, chunk.chunk_id)
    assert after is not None
    assert (after.members, after.bytes, after.tokens) == (1, 100, 10)
    assert [row.request_id for _, row in view.scan("member", "", limit=9) if isinstance(row, Life)] == [request_name(1)]


def test_a_held_batch_that_may_have_been_sent_before_keeps_its_members() -> None:
    chunk, lives = make_chunk([make_life(0)], ChunkState.HELD, payload_sha256="rebuilt")
    view = a_view(chunk, *lives)
    assert take(view, bought(0)) == []
    assert counts(view) == {"in_flight": 1}


def test_an_attempt_under_way_keeps_its_own_answer() -> None:
    view = a_view(make_life(0, status=Status.PROCESSING, sends=1, attempt=1, chunk_id=None))
    assert take(view, bought(0)) == []
    assert counts(view) == {"in_flight": 1}


def test_a_stored_answer_that_is_about_to_be_read_comes_first() -> None:
    view = a_view(make_life(0, result_offset=4))
    assert take(view, bought(0)) == []
    assert counts(view) == {"past": 1}


def test_what_nobody_waits_for_any_more_is_not_answered() -> None:
    superseded, cancelled = make_life(0), make_life(1, queued_at_ms=NOW_MS - 5)
    view = a_view(superseded, cancelled, make_source(superseded, request_id=request_name(9)))
    view.put(make_job(cancelled_before_ms=NOW_MS - 5))
    assert take(view, bought(0), bought(1)) == []
    assert counts(view) == {"past": 2}


def test_requests_of_nobody_of_another_job_or_of_a_version_not_heard_of_are_unknown() -> None:
    view = a_view(make_life(0, job="other"), make_life(1, version="v9"), make_job(job="other"))
    assert take(view, bought(0), bought(1), bought(2), None) == []
    assert counts(view) == {"unknown": 3, "unreadable": 1}


# -- the command and its progress --------------------------------------------------------------------------------------


def test_a_task_without_a_part_is_done_at_once() -> None:
    view = put_rows(make_job())
    carry_out(view, import_command(view, command({0: PART}), 3))
    assert waiting(view, 10) == []
    row = read.meta(view, IMPORTED_ROWS + "c1")
    assert row is not None
    assert counts_of(row) == {}


def test_what_became_of_the_lines_is_remembered_when_the_part_is_over() -> None:
    view = a_view(make_life(0))
    take(view, bought(0), bought(1))
    (progress,) = waiting(view, 10)
    assert progress.done == 2
    carry_out(view, finish_import(view, progress))
    assert waiting(view, 10) == []
    row = read.meta(view, IMPORTED_ROWS + "c1")
    assert row is not None
    assert counts_of(row) == {"answered": 1, "unknown": 1, "unread": 1}
    assert sum(counts_of(row).values()) == PART.lines


def test_a_part_that_is_not_there_is_given_up_after_so_many_tries() -> None:
    view = a_view(make_life(0))
    for _ in range(TRIES_MAX - 1):
        carry_out(view, put_off(view, waiting(view, 1)[0]))
    assert waiting(view, 1)[0].tries == TRIES_MAX - 1
    carry_out(view, put_off(view, waiting(view, 1)[0]))
    assert waiting(view, 1) == []
    row = read.meta(view, IMPORTED_ROWS + "c1")
    assert row is not None
    assert counts_of(row) == {"unread": 3}
    assert life(view).status is Status.QUEUED


def test_a_task_does_not_remember_every_import_for_ever() -> None:
    view = put_rows(make_job())
    for number in range(40):
        carry_out(view, import_command(view, command({}, name=f"c{number:02d}"), 3))
    kept = [row.name for row in view.rows(Meta.schema) if isinstance(row, Meta)]
    assert (len(kept), kept[-1]) == (20, IMPORTED_ROWS + "c39")


@pytest.mark.parametrize(
    "body",
    ["[]", "{}", '{"files": []}', '{"files": {"0": "x"}}', '{"files": {"0": {"uri": "x", "lines": true}}}'],
)
def test_an_import_that_is_ill_formed_is_refused(body: str) -> None:
    view = put_rows(make_job())
    assert refusal(view, command(body_json=body)) is not None
    assert refusal(view, command()) is None


# -- names and lines ---------------------------------------------------------------------------------------------------


def test_an_answer_names_a_send_by_our_custom_id_or_the_first_by_a_bare_request_id() -> None:
    name = request_name(7)
    assert standing(custom_id(name, 3, chunk_nonce("x"))) == (name, 3)
    assert standing(name) == (name, 1)
    assert standing("ticket-1") is None
    assert standing(name + "-1") is None


texts = st.text(st.characters(exclude_categories=["Cs"]))
counted = st.integers(0, 2**31 - 1)


@given(
    st.builds(
        lambda number, send, row: bought(number, send=send, **row),
        st.integers(0, 10**6),
        st.integers(1, 50),
        st.fixed_dictionaries(
            {
                "custom_id": texts,
                "output": st.none() | texts,
                "refusal": st.none() | texts,
                "finish_reason": st.none() | texts,
                "model": st.none() | texts,
                "http_status": st.none() | st.integers(100, 599),
                "input_tokens": counted,
                "output_tokens": counted,
                "cached_tokens": counted,
                "cache_write_tokens": counted,
                "usage_known": st.booleans(),
                "billed": st.booleans(),
            }
        ),
    )
)
def test_a_line_of_a_part_is_read_as_it_was_written(line: Bought) -> None:
    assert read_bought(bought_line(line)) == line


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b"{}", json.dumps({"request_id": "x"}).encode()])
def test_a_line_of_another_kind_is_none(line: bytes) -> None:
    assert read_bought(line) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=30), st.lists(st.integers(1, 30)))
def test_however_the_lines_are_cut_each_request_is_answered_once_and_its_cost_posted_once(
    named: Sequence[tuple[int, int]], cuts: Sequence[int]
) -> None:
    view = a_view(*(make_life(number) for number in range(4)))
    left, said = [bought(number, send=send) for number, send in named], []
    for size in [*cuts, len(left)]:
        said += take(view, *left[:size])
        left = left[size:]
    answered = {number for number, send in named if send == 1 and number < 4}
    assert sorted(each.request_id for each in said) == sorted(request_name(number) for number in answered)
    for number in range(4):
        status = Status.SUCCEEDED_UNVALIDATED if number in answered else Status.QUEUED
        assert (life(view, number).status, life(view, number).cost_nanos) == (status, 700 * (number in answered))
    assert sum(counts(view).values()) == len(named)
    assert view.rows(Chunk.schema) == []
