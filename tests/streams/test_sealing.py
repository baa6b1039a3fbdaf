"""Which lives share a chunk, and when it is closed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.ids import chunk_id
from batchmill.schemas.jobs import ChunkSpec, ModeSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.chunking import CUT_MEMBERS, members
from batchmill.streams.costing import Expectation, expected_nanos, prices_of
from batchmill.streams.orders import Put
from batchmill.streams.sealing import ChunkLimits, Queue, age_ms_max, next_age_ms, queues, seal
from batchmill.streams.view import MemoryView
from tests.streams.making import carry_out
from tests.streams.rows import LANE, NOW_MS, PLACE, make_chunk, make_job, make_life, put_rows

QUEUE = Queue(LANE, "triage", "v1")
LIMITS = ChunkLimits(
    count_max=50_000, bytes_max=10**9, tokens_max=10**9, age_ms_max=60_000, chunks_on_the_way_max=4, hold=False
)


def waiting(count: int, **changes: Any) -> MemoryView:
    lives = [make_life(number, queued_at_ms=NOW_MS + number, **changes) for number in range(count)]
    return put_rows(make_job(), *lives)


def sealed(view: MemoryView, limits: ChunkLimits = LIMITS, *, at_ms: int = NOW_MS) -> list[Chunk]:
    """Every chunk there is, once there is nothing left to do."""
    for _ in range(100):
        orders = seal(view, QUEUE, limits, PLACE, at_ms)
        if not orders:
            break
        carry_out(view, orders)
    return [row for row in view.rows(Chunk.schema) if isinstance(row, Chunk)]


def members_of(view: MemoryView, chunk: Chunk) -> list[Life]:
    return members(view, chunk.chunk_id, limit=10**6)


def test_what_waits_fills_one_chunk_until_it_is_old_enough() -> None:
    view = waiting(3)
    (filling,) = sealed(view)
    assert (filling.state, filling.members, filling.bytes, filling.tokens) == (ChunkState.FILLING, 3, 300, 30)
    assert next_age_ms(view, QUEUE, LIMITS) == NOW_MS + 60_000
    assert sealed(view, at_ms=NOW_MS + 59_999)[0].state is ChunkState.FILLING
    assert sealed(view, at_ms=NOW_MS + 60_000)[0].state is ChunkState.SEALED
    assert next_age_ms(view, QUEUE, LIMITS) is None


def test_the_oldest_go_first_and_a_cut_is_bounded() -> None:
    view = waiting(CUT_MEMBERS + 5)
    orders = seal(view, QUEUE, LIMITS, PLACE, NOW_MS)
    taken = [order.row for order in orders if isinstance(order, Put) and isinstance(order.row, Life)]
    assert [life.queued_at_ms for life in taken] == [NOW_MS + number for number in range(CUT_MEMBERS)]
    carry_out(view, orders)
    (chunk,) = sealed(view)
    assert (chunk.members, len(members_of(view, chunk))) == (CUT_MEMBERS + 5, CUT_MEMBERS + 5)


def test_count_closes_a_chunk_and_the_rest_open_the_next() -> None:
    view = waiting(5)
    counts = [(chunk.members, str(chunk.state)) for chunk in sealed(view, replace(LIMITS, count_max=2))]
    assert counts == [(2, "sealed"), (2, "sealed"), (1, "filling")]


def test_a_life_larger_than_every_limit_goes_alone() -> None:
    view = waiting(2)
    chunks = sealed(view, replace(LIMITS, bytes_max=50))
    assert [(chunk.members, str(chunk.state)) for chunk in chunks] == [(1, "sealed"), (1, "filling")]


def test_chunk_ids_are_counted_and_the_same_again_after_a_crash() -> None:
    first = [chunk.chunk_id for chunk in sealed(waiting(3), replace(LIMITS, count_max=1))]
    again = [chunk.chunk_id for chunk in sealed(waiting(3), replace(LIMITS, count_max=1))]
    assert first == again == [chunk_id("app", 3, counter) for counter in range(3)]


def test_a_job_that_holds_submissions_closes_into_held() -> None:
    assert sealed(waiting(1), replace(LIMITS, count_max=1, hold=True))[0].state is ChunkState.HELD


def test_a_paused_or_unheard_of_job_is_left_alone() -> None:
    paused = waiting(3)
    paused.put(make_job(paused=True))
    assert seal(paused, QUEUE, LIMITS, PLACE, NOW_MS) == []
    unheard = put_rows(make_life())
    assert seal(unheard, QUEUE, LIMITS, PLACE, NOW_MS) == []
    assert queues(unheard) == []


def test_a_version_the_task_has_not_heard_of_waits() -> None:
    view = waiting(1, version="v2")
    assert queues(view) == []
    view.put(make_job(versions_json='{"v1":{},"v2":{}}'))
    assert queues(view) == [Queue(LANE, "triage", "v2")]


def test_only_so_many_chunks_are_on_the_way_and_the_queue_waits() -> None:
    view = waiting(9)
    limits = replace(LIMITS, count_max=1, chunks_on_the_way_max=2)
    assert [str(chunk.state) for chunk in sealed(view, limits)] == ["sealed", "sealed"]
    assert len(view.scan("queue", "", limit=99)) == 7
    first = next(row for row in view.rows(Chunk.schema) if isinstance(row, Chunk))
    view.put(replace(first, state=ChunkState.DONE))
    assert len(sealed(view, limits)) == 3


def test_a_full_chunk_stays_open_until_there_is_room_on_the_way() -> None:
    busy, _ = make_chunk([make_life(90)], ChunkState.OPEN, chunk_id="busy")
    filling, inside = make_chunk([make_life(91)], ChunkState.FILLING)
    view = waiting(2)
    for row in (busy, filling, *inside):
        view.put(row)
    limits = replace(LIMITS, count_max=1, chunks_on_the_way_max=1)
    assert seal(view, QUEUE, limits, PLACE, NOW_MS + 10**6) == []
    view.put(replace(busy, state=ChunkState.DONE))
    assert [str(each.state) for each in sealed(view, limits) if each.chunk_id == filling.chunk_id] == ["sealed"]


def test_lanes_jobs_and_versions_do_not_share_a_chunk() -> None:
    view = put_rows(make_job(versions_json='{"v1":{},"v2":{}}'), make_job(job="other"))
    for number, changes in enumerate([{}, {"version": "v2"}, {"lane": "a|b|/c|batch"}, {"job": "other"}, {}]):
        view.put(make_life(number, **changes))
    found = queues(view)
    assert len(found) == 4
    for queue in found:
        carry_out(view, seal(view, queue, LIMITS, PLACE, NOW_MS))
    assert sorted(chunk.members for chunk in view.rows(Chunk.schema) if isinstance(chunk, Chunk)) == [1, 1, 1, 2]
    assert queues(view) == found


def test_an_answered_life_and_one_that_waits_for_a_retry_are_not_sealed() -> None:
    view = put_rows(
        make_job(), make_life(1, result_offset=5), make_life(2, status=Status.FAILED_RETRYABLE, due_at_ms=1)
    )
    assert queues(view) == []


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(1, 90),
    st.integers(1, 90),
)
def test_no_chunk_exceeds_a_limit_unless_it_is_one_life_and_none_is_left_out_or_doubled(
    sizes: list[tuple[int, int]], count_max: int, bytes_max: int, tokens_max: int
) -> None:
    lives = [
        make_life(number, queued_at_ms=NOW_MS + number, bytes_estimate=size, tokens_estimate=tokens)
        for number, (size, tokens) in enumerate(sizes)
    ]
    view = put_rows(make_job(), *lives)
    limits = ChunkLimits(
        count_max=count_max, bytes_max=bytes_max, tokens_max=tokens_max, age_ms_max=0, chunks_on_the_way_max=99
    )
    chunks = sealed(view, limits)
    for chunk in chunks:
        inside = members_of(view, chunk)
        assert chunk.state is ChunkState.SEALED
        assert (chunk.members, chunk.bytes) == (len(inside), sum(life.bytes_estimate for life in inside))
        assert chunk.members <= count_max
        assert chunk.members == 1 or (chunk.bytes <= bytes_max and chunk.tokens <= tokens_max)
    assert sum(chunk.members for chunk in chunks) == len(lives)


def test_a_life_that_may_exceed_its_budget_never_enters_a_chunk() -> None:
    view = waiting(4)
    dear = {make_life(number).request_id for number in (1, 3)}
    limits = replace(LIMITS, over_budget=lambda life: life.request_id in dear)
    (filling,) = sealed(view, limits)
    ended = {
        row.request_id: row.reason
        for row in view.rows(Life.schema)
        if isinstance(row, Life) and row.status is Status.FAILED_TERMINAL
    }
    assert ended == dict.fromkeys(dear, Reason.OVER_BUDGET)
    assert filling.members == 2


def test_chunks_that_wait_for_a_grant_hold_up_their_own_job_and_no_other() -> None:
    limits = replace(LIMITS, count_max=1, chunks_on_the_way_max=1)
    waits, _ = make_chunk([], ChunkState.PREPARED, waits_for="money/other", job="other")
    view = waiting(1)
    view.put(replace(waits, chunk_id="c0"))
    assert {chunk.state for chunk in sealed(view, limits) if chunk.job == "triage"} == {ChunkState.SEALED}
    view = waiting(1)
    view.put(replace(waits, chunk_id="c0", job="triage"))
    assert {chunk.state for chunk in sealed(view, limits)} == {ChunkState.PREPARED}


PRICES = prices_of({"gpt-5-mini": {"input": "0.25", "output": "2", "above": {"15": {"input": "25"}}}})
COSTS = Expectation(prices=PRICES, model="gpt-5-mini", output_tokens_max={"": 200})


def expected_of(lives: list[Life]) -> int:
    told = [
        expected_nanos(PRICES, "gpt-5-mini", "batch", input_tokens=life.tokens_estimate, output_tokens_max=200)
        for life in lives
    ]
    return sum(nanos or 0 for nanos in told)


def test_a_closed_chunk_carries_what_its_members_are_expected_to_cost_call_by_call() -> None:
    lives = [make_life(number, tokens_estimate=tokens) for number, tokens in enumerate((10, 15, 16, 17))]
    (chunk,) = sealed(put_rows(make_job(), *lives), replace(LIMITS, count_max=4, costs=COSTS))
    assert chunk.state is ChunkState.SEALED
    assert chunk.estimated_nanos == expected_of(lives) > 4 * 25 * 2_000, "the longer prompts are a hundred times dearer"


def test_an_estimate_grows_with_every_cut_of_a_filling_chunk() -> None:
    view = waiting(2)
    (first,) = sealed(view, replace(LIMITS, costs=COSTS))
    put_rows_into(view, make_life(7, queued_at_ms=NOW_MS + 7))
    (second,) = sealed(view, replace(LIMITS, costs=COSTS))
    assert second.chunk_id == first.chunk_id
    assert second.estimated_nanos == first.estimated_nanos // 2 * 3 == expected_of(members_of(view, second))


def test_an_unpriced_chunk_carries_no_estimate() -> None:
    (chunk,) = sealed(waiting(1), replace(LIMITS, costs=replace(COSTS, model="unheard-of")))
    assert chunk.estimated_nanos == 0


def put_rows_into(view: MemoryView, *lives: Life) -> None:
    for life in lives:
        view.put(life)


@pytest.mark.parametrize(
    ("max_age", "deadline", "age_ms"),
    [(60, None, 60_000), (60, 86_400, 60_000), (60, 7_230, 30_000), (60, 7_200, 0), (60, 10, 0)],
)
def test_a_chunk_fills_no_longer_than_leaves_a_batch_its_time(
    max_age: float, deadline: int | None, age_ms: int
) -> None:
    mode = ModeSpec(deadline_seconds=deadline, chunk=ChunkSpec(max_age_seconds=max_age))
    assert age_ms_max(mode, typical_seconds=7_200) == age_ms
