"""One task and its pools: what it asks for, holds, posts and gives back; and many of them with an overseer."""

import json
from dataclasses import replace
from typing import Any

import pytest

from batchmill.schemas.asking import ModelSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Grant, Job
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJob, compile_job
from batchmill.streams.costing import parse_prices
from batchmill.streams.granting import (
    PUT_BACK_MS,
    Need,
    Share,
    available,
    budget_of,
    creates_pool,
    follow,
    granted,
    heard_anew,
    is_over_budget,
    money_pool,
    needs_of,
    output_limit,
    queue_pool,
    refuse_over_budget,
    reserve,
    unpriced,
    used,
    waits,
    worst_case,
)
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.view import MemoryView
from tests.streams.making import make_spec
from tests.streams.rows import NOW_MS, make_chunk, make_job, make_life

POOL = money_pool("triage")
PRICES = parse_prices(json.dumps({"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}))
LANE = "default|gpt-5-mini|/v1/chat/completions|batch"


def job_with(**budget: int) -> Job:
    return make_job(versions_json=json.dumps({"v1": {"budget": budget}}))


def prepared(number: int = 1) -> Chunk:
    row, _ = make_chunk([], ChunkState.PREPARED)
    return replace(row, members=4, tokens=40, chunk_id=f"c{number}", created_at_ms=NOW_MS + number)


def carried(view: MemoryView, orders: Any) -> list[Order]:
    """As the stages do: chunks and jobs with what follows."""
    done: list[Order] = []
    for order in orders:
        rows = follow(view, order.row) if isinstance(order, Put) and isinstance(order.row, Chunk | Job) else [order]
        for each in rows:
            if isinstance(each, Put):
                view.put(each.row)
            done.append(each)
    return done


def view_of(*chunks: Chunk, **grant: int) -> MemoryView:
    view = MemoryView()
    view.put(job_with(job_nanos=1_000))
    for chunk in chunks:
        view.put(chunk)
    if grant:
        view.put(a_grant(**grant))
    return view


def a_grant(**sums: int) -> Grant:
    told = {"asked": 0, "granted": 0, "reserved": 0, "posted": 0, "returned": 0, **sums}
    return Grant(pool=POOL, **told, updated_at_ms=NOW_MS)


def the_grant(view: MemoryView, pool: str = POOL) -> Grant:
    row = read.grant(view, pool)
    assert row is not None
    return row


def the_chunk(view: MemoryView, number: int = 1) -> Chunk:
    row = read.chunk(view, f"c{number}")
    assert row is not None
    return row


def ask(view: MemoryView, number: int, amount: int) -> bool:
    found = reserve(view, the_chunk(view, number), [Need(POOL, amount)], NOW_MS)
    carried(view, found.orders)
    return found.held


# -- asking and reserving ----------------------------------------------------------------------------------------------


def test_a_chunk_that_lacks_a_grant_asks_once_and_waits() -> None:
    view = view_of(prepared())
    assert not ask(view, 1, 100)
    assert (the_grant(view).asked, the_chunk(view).waits_for) == (100, POOL)
    assert waits(view, the_chunk(view))
    again = reserve(view, the_chunk(view), [Need(POOL, 100)], NOW_MS + 5)
    assert (again.orders, again.held) == ((), False)


def test_a_granted_amount_is_reserved_with_the_chunks_own_row() -> None:
    view = view_of(prepared())
    ask(view, 1, 100)
    assert Wake("dispatch") in carried(view, granted(view, {POOL: 100}, {}, NOW_MS))
    assert not waits(view, the_chunk(view))
    found = reserve(view, the_chunk(view), [Need(POOL, 100)], NOW_MS)
    assert {type(order.row) for order in found.orders if isinstance(order, Put)} == {Chunk, Grant}
    carried(view, found.orders)
    assert (the_chunk(view).reserved_nanos, the_chunk(view).waits_for) == (100, None)
    assert (the_grant(view).reserved, available(the_grant(view))) == (100, 0)


def test_a_grant_that_comes_twice_or_late_changes_nothing() -> None:
    view = view_of(prepared())
    ask(view, 1, 100)
    carried(view, granted(view, {POOL: 100}, {}, NOW_MS))
    assert granted(view, {POOL: 100}, {}, NOW_MS) == []
    assert granted(view, {POOL: 60}, {}, NOW_MS) == []


def test_only_the_oldest_asks_and_the_next_when_it_has_gone() -> None:
    view = view_of(prepared(1), prepared(2))
    assert not ask(view, 1, 100)
    assert not ask(view, 2, 30)
    assert the_grant(view).asked == 100
    carried(view, granted(view, {POOL: 100}, {}, NOW_MS))
    assert waits(view, the_chunk(view, 2))
    assert ask(view, 1, 100)
    assert not waits(view, the_chunk(view, 2)), "it is its turn, to ask"
    assert not ask(view, 2, 30)
    assert the_grant(view).asked == 130


def test_a_younger_chunk_does_not_take_what_an_older_one_waits_for() -> None:
    view = view_of(prepared(1), prepared(2), granted=50, asked=50)
    assert not ask(view, 1, 100)
    assert not ask(view, 2, 10)


def test_an_older_chunk_that_comes_late_asks_for_its_own_need_and_what_is_too_much_for_it_goes_back() -> None:
    view = view_of(prepared(2))
    ask(view, 2, 100)
    view.put(prepared(1))
    assert not ask(view, 1, 30)
    assert the_grant(view).asked == 30
    assert granted(view, {}, {POOL: 50}, NOW_MS) == [], "that was about the other one"
    carried(view, granted(view, {POOL: 100}, {}, NOW_MS))
    assert ask(view, 1, 30)
    assert sums(view, POOL) == (30, 0, 70)


def test_what_does_not_suffice_is_not_kept_while_the_rest_is_waited_for() -> None:
    view = view_of(prepared(), asked=40, granted=40)
    assert not ask(view, 1, 100)
    assert (available(the_grant(view)), the_grant(view).returned, the_grant(view).asked) == (0, 40, 140)


def test_a_grant_that_nobody_waits_for_any_more_goes_back_at_once() -> None:
    view = view_of(prepared())
    ask(view, 1, 100)
    carried(view, [Put(replace(the_chunk(view), state=ChunkState.ENDED, reason=Reason.CANCELLED))])
    assert the_chunk(view).waits_for is None
    assert the_grant(view).asked == 0
    carried(view, granted(view, {POOL: 100}, {}, NOW_MS))
    assert (the_grant(view).granted, the_grant(view).returned) == (100, 100)


def test_a_pause_lets_the_next_in_line_ask() -> None:
    view = view_of(prepared(1), replace(prepared(2), job="other"))
    view.put(replace(job_with(job_nanos=5), job="other"))
    pool = queue_pool("default", "gpt-5-mini")
    for number, amount in ((1, 100), (2, 30)):
        carried(view, reserve(view, the_chunk(view, number), [Need(pool, amount)], NOW_MS).orders)
    paused = replace(job_with(job_nanos=1_000), paused=True)
    assert Wake("dispatch") in carried(view, [Put(paused)])
    assert the_grant(view, pool).asked == 0
    assert not waits(view, the_chunk(view, 2))
    assert waits(view, the_chunk(view, 1))


def test_a_pause_gives_back_what_only_the_paused_waited_for() -> None:
    view = view_of(prepared(), granted=40, asked=100)
    ask(view, 1, 100)
    carried(view, [Put(replace(job_with(job_nanos=1_000), paused=True))])
    assert (available(the_grant(view)), the_grant(view).returned) == (0, 40)


def test_pools_are_reserved_in_one_order() -> None:
    share = Share(queue_max=500, queue_counts="tokens", creates_max=10)
    chunk = prepared()
    pools = [need.pool for need in needs_of(chunk, nanos=7, share=share)]
    assert pools == [POOL, queue_pool("default", "gpt-5-mini"), creates_pool("default")]
    view = view_of(chunk, granted=7, asked=7)
    found = reserve(view, chunk, needs_of(chunk, nanos=7, share=share), NOW_MS)
    carried(view, found.orders)
    assert (the_chunk(view).reserved_nanos, the_chunk(view).waits_for) == (7, queue_pool("default", "gpt-5-mini"))


def test_an_account_that_counts_requests_has_one_queue_for_all_models() -> None:
    (need,) = needs_of(prepared(), nanos=None, share=Share(queue_max=500, queue_counts="requests"))
    assert need == Need(queue_pool("default", "*"), 4)


def test_a_chunk_larger_than_the_queue_needs_all_of_it() -> None:
    (need,) = needs_of(prepared(), nanos=None, share=Share(queue_max=30, queue_counts="tokens"))
    assert need.amount == 30


def test_an_online_chunk_holds_money_only() -> None:
    share = Share(queue_max=500, creates_max=10)
    assert needs_of(replace(prepared(), mode="online"), nanos=7, share=share) == (Need(POOL, 7),)


def test_without_a_limit_nothing_is_needed() -> None:
    assert needs_of(prepared(), nanos=None, share=Share()) == ()
    view = view_of(prepared())
    assert reserve(view, the_chunk(view), (), NOW_MS).orders == ()


# -- settling up -------------------------------------------------------------------------------------------------------


def held(state: ChunkState, **changes: Any) -> MemoryView:
    """A chunk in `state` that holds 100 nano-dollars, 40 tokens of the queue and a creation."""
    chunk = replace(prepared(), state=state, reserved_nanos=100, reserved_tokens=40, reserved_creates=1, **changes)
    view = view_of(chunk, asked=100, granted=100, reserved=100)
    for pool, amount in ((queue_pool("default", "gpt-5-mini"), 40), (creates_pool("default"), 1)):
        view.put(replace(a_grant(asked=amount, granted=amount, reserved=amount), pool=pool))
    return view


def sums(view: MemoryView, pool: str) -> tuple[int, int, int]:
    row = the_grant(view, pool)
    return row.reserved, row.posted, row.returned


QUEUE, CREATES = queue_pool("default", "gpt-5-mini"), creates_pool("default")


def test_a_creation_is_used_up_with_the_attempt() -> None:
    view = held(ChunkState.UPLOADED)
    carried(view, [Put(replace(the_chunk(view), state=ChunkState.ATTEMPTING))])
    assert [sums(view, pool) for pool in (POOL, QUEUE, CREATES)] == [(100, 0, 0), (40, 0, 0), (0, 1, 0)]


def test_the_queue_is_free_when_the_batch_has_ended_and_the_money_is_not() -> None:
    view = held(ChunkState.OPEN)
    carried(view, [Put(replace(the_chunk(view), state=ChunkState.ENDED, reserved_creates=0))])
    assert [sums(view, pool) for pool in (POOL, QUEUE)] == [(100, 0, 0), (0, 0, 40)]


def test_a_chunk_that_is_done_posts_what_it_cost_and_returns_the_rest() -> None:
    view = held(ChunkState.COLLECTED)
    done = replace(the_chunk(view), state=ChunkState.DONE, cost_nanos=30, wasted_nanos=5, doubtful_nanos=2)
    carried(view, [Put(done)])
    assert sums(view, POOL) == (0, 37, 63)
    assert the_chunk(view).reserved_nanos == 0


def test_what_costs_more_than_was_held_is_posted_all_the_same() -> None:
    view = held(ChunkState.COLLECTED)
    carried(view, [Put(replace(the_chunk(view), state=ChunkState.DONE, cost_nanos=90, wasted_nanos=90))])
    assert sums(view, POOL) == (0, 180, 0)
    assert available(the_grant(view)) == -80


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ChunkState.ATTEMPTING, {"state": ChunkState.PREPARED}),
        (ChunkState.OPEN, {"state": ChunkState.PREPARED}),
        (ChunkState.OPEN, {"state": ChunkState.ENDED, "reason": Reason.PROVIDER_CANCELLED}),
        (ChunkState.PREPARED, {"state": ChunkState.SEALED}),
        (ChunkState.PREPARED, {"state": ChunkState.ENDED, "reason": Reason.CANCELLED}),
        (ChunkState.ATTEMPTING, {"state": ChunkState.HELD}),
        (ChunkState.ENDED, {"state": ChunkState.FAILED}),
    ],
)
def test_an_attempt_that_had_no_effect_gives_everything_back(before: ChunkState, after: dict[str, Any]) -> None:
    view = held(before)
    carried(view, [Put(replace(the_chunk(view), **after))])
    assert [sums(view, pool) for pool in (POOL, QUEUE, CREATES)] == [(0, 0, 100), (0, 0, 40), (0, 0, 1)]


@pytest.mark.parametrize("state", [ChunkState.PREPARED, ChunkState.UPLOADED])
def test_a_chunk_that_moves_on_keeps_what_it_holds(state: ChunkState) -> None:
    view = held(ChunkState.PREPARED)
    carried(view, [Put(replace(the_chunk(view), state=state, failures=1))])
    assert [sums(view, pool) for pool in (POOL, QUEUE, CREATES)] == [(100, 0, 0), (40, 0, 0), (1, 0, 0)]


def test_what_is_settled_twice_counts_once() -> None:
    view = held(ChunkState.COLLECTED)
    carried(view, [Put(replace(the_chunk(view), state=ChunkState.DONE, cost_nanos=30))])
    before = the_grant(view)
    carried(view, [Put(replace(the_chunk(view), updated_at_ms=NOW_MS + 9))])
    assert the_grant(view) == before


# -- too large ---------------------------------------------------------------------------------------------------------


def test_a_chunk_that_can_never_fit_is_split_and_gives_back_what_it_held_elsewhere() -> None:
    view = view_of(prepared())
    ask(view, 1, 100)
    carried(view, granted(view, {}, {POOL: 99}, NOW_MS))
    chunk = the_chunk(view)
    assert (chunk.state, chunk.reason, chunk.waits_for) == (ChunkState.ENDED, Reason.PROVIDER_CANCELLED, None)
    assert POOL in (chunk.note or "")


def test_one_that_fits_after_all_is_not_split() -> None:
    view = view_of(prepared())
    ask(view, 1, 100)
    assert granted(view, {}, {POOL: 100}, NOW_MS) == []


def test_a_single_record_that_can_never_fit_stands_aside_for_a_while() -> None:
    view = view_of(replace(prepared(1), members=1), prepared(2))
    ask(view, 1, 100)
    ask(view, 2, 10)
    carried(view, granted(view, {}, {POOL: 99}, NOW_MS))
    aside = the_chunk(view, 1)
    assert (aside.waits_for, aside.due_at_ms) == (POOL, NOW_MS + PUT_BACK_MS)
    assert "used up" in (aside.note or "")
    assert not waits(view, the_chunk(view, 2))
    assert not ask(view, 2, 10)
    assert the_grant(view).asked == 10
    assert not ask(view, 1, 100), "its time has come again"
    assert (the_chunk(view, 1).due_at_ms, the_grant(view).asked) == (None, 100)


def test_a_job_that_is_applied_again_calls_back_those_that_stood_aside() -> None:
    view = view_of(replace(prepared(), members=1))
    ask(view, 1, 100)
    carried(view, granted(view, {}, {POOL: 99}, NOW_MS))
    carried(view, heard_anew(view, job_with(job_nanos=2_000), NOW_MS + 1))
    assert the_chunk(view).due_at_ms == NOW_MS + 1


# -- bounds ------------------------------------------------------------------------------------------------------------


def compiled(**changes: Any) -> CompiledJob:
    return compile_job(make_spec(**changes), "v1")


def test_the_worst_case_counts_every_byte_as_a_token_and_all_of_the_answers_room() -> None:
    worst = worst_case(compiled(), PRICES, LANE)
    assert worst is not None
    life = make_life(bytes_estimate=1_000)
    assert worst.of(life) == (1_000 * 1_000 + 200 * 10_000) // 2
    assert worst.of(replace(life, room=1)) == (1_000 * 1_000 + 400 * 10_000) // 2


def test_there_is_no_bound_without_a_price_or_a_limit_on_the_answer() -> None:
    assert worst_case(compiled(params="{}"), PRICES, LANE) is None
    assert worst_case(compiled(params="{}"), PRICES, LANE, output_default=10) is not None
    assert worst_case(compiled(), parse_prices('{"models": {}}'), LANE) is None


def test_an_embedding_has_no_answer_to_limit() -> None:
    model = ModelSpec(provider="openai", name="gpt-5-mini", endpoint="/v1/embeddings")
    assert output_limit(model, compiled(params="{}").routes.of("").form) == 0


def test_a_chunk_whose_cost_has_no_bound_is_held_with_the_reason() -> None:
    view = view_of(prepared())
    carried(view, unpriced(the_chunk(view), NOW_MS))
    assert the_chunk(view).state is ChunkState.HELD
    assert "max_output_tokens" in (the_chunk(view).note or "")
    assert unpriced(replace(prepared(), state=ChunkState.OPEN), NOW_MS) == []


def test_the_budget_is_that_of_the_version_applied_now() -> None:
    row = make_job(
        version="v2", versions_json=json.dumps({"v1": {"budget": {"job_nanos": 1}}, "v2": {"budget": {"job_nanos": 2}}})
    )
    budget = budget_of(row)
    assert budget is not None
    assert (budget.job_nanos, budget.record_nanos) == (2, None)
    assert budget_of(make_job()) is None


# -- one record --------------------------------------------------------------------------------------------------------


def test_a_record_may_cost_its_budget_and_not_more() -> None:
    worst = worst_case(compiled(), PRICES, LANE)
    assert worst is not None
    life = make_life(cost_nanos=500)
    exact = 500 + worst.of(life)
    assert not is_over_budget(life, worst, exact)
    assert is_over_budget(life, worst, exact - 1)


def test_a_call_without_a_price_counts_as_the_dearest() -> None:
    worst = worst_case(compiled(), PRICES, LANE)
    assert worst is not None
    life = make_life(unpriced_calls=1)
    assert is_over_budget(life, worst, 2 * worst.of(life) - 1)
    assert not is_over_budget(life, worst, 2 * worst.of(life))


def test_a_record_over_its_budget_is_a_dead_letter() -> None:
    put, letter = refuse_over_budget([make_life()], NOW_MS)
    assert isinstance(put, Put)
    assert isinstance(letter, Emit)
    assert (put.row.status, put.row.reason) == (Status.FAILED_TERMINAL, Reason.OVER_BUDGET)
    assert letter.record.reason is Reason.OVER_BUDGET


def test_used_is_the_sum_of_all_that_became_of_grants() -> None:
    assert used(a_grant(granted=100, reserved=1, posted=2, returned=4)) == 7


def test_a_chunk_whose_need_has_grown_keeps_no_part_while_it_waits_and_loses_none_when_it_ends() -> None:
    """It would wait for what it holds itself: of a budget of 120, 100 and 50 more."""
    creates = creates_pool("default")
    row = replace(prepared(), state=ChunkState.UPLOADED, reserved_nanos=100, reserved_creates=1)
    view = view_of(row, asked=100, granted=100, reserved=100)
    view.put(replace(a_grant(asked=1, granted=1, reserved=1), pool=creates))
    found = reserve(view, row, [Need(POOL, 150), Need(creates, 1)], NOW_MS)
    carried(view, found.orders)
    waiting, grant = the_chunk(view), the_grant(view)
    assert (waiting.reserved_nanos, waiting.reserved_creates, waiting.waits_for) == (0, 0, POOL)
    assert (grant.reserved, grant.returned, grant.asked - used(grant)) == (0, 100, 150)
    assert (the_grant(view, creates).reserved, the_grant(view, creates).returned) == (0, 1)
    carried(view, [Put(replace(waiting, state=ChunkState.ENDED, reason=Reason.CANCELLED))])
    grant = the_grant(view)
    assert (grant.reserved, grant.returned, grant.asked) == (0, 100, 100)


def test_what_the_waiting_batches_of_a_paused_job_hold_goes_back_so_that_no_other_job_waits_for_its_resume() -> None:
    queue, creates = queue_pool("default", "gpt-5-mini"), creates_pool("default")
    rows = [replace(prepared(each), reserved_nanos=10, reserved_tokens=40, waits_for=creates) for each in (1, 2)]
    view = view_of(*rows, asked=20, granted=20, reserved=20)
    view.put(replace(a_grant(asked=80, granted=80, reserved=80), pool=queue))
    view.put(replace(a_grant(asked=1), pool=creates))
    carried(view, [Put(replace(job_with(job_nanos=1_000), paused=True))])
    for pool, returned in ((POOL, 20), (queue, 80), (creates, 0)):
        grant = the_grant(view, pool)
        assert (grant.reserved, grant.returned, grant.asked) == (0, returned, grant.granted)
    assert [(each.reserved_nanos, each.reserved_tokens) for each in (the_chunk(view, 1), the_chunk(view, 2))] == [
        (0, 0),
        (0, 0),
    ]
