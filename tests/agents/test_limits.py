"""The account gate: in order of asking, never above the rate, closed while a provider asks for quiet."""

import asyncio

import pytest

from batchmill.agents import clock
from batchmill.agents.providers import limits
from batchmill.agents.providers.limits import AccountGate


def a_gate(per_minute=6_000, concurrent=100, cooldown_max=60.0):
    return AccountGate(requests_per_minute=per_minute, concurrent_max=concurrent, cooldown_max_seconds=cooldown_max)


def calls_in_a_minute(bucket):
    """Give the most calls a full bucket and its drip let through in any minute."""
    return bucket.max_rate + bucket.max_rate / bucket.time_period * 60


@pytest.mark.parametrize("per_minute", [2, 3, 60, 600, 6_000])
def test_no_minute_holds_more_calls_than_the_account_allows(per_minute):
    assert calls_in_a_minute(limits._limiter(per_minute)) <= per_minute + 1e-9


@pytest.mark.parametrize("per_minute", [0.2, 1])
def test_a_share_of_less_than_two_calls_a_minute_still_lets_one_through(per_minute):
    bucket = limits._limiter(per_minute)
    assert bucket.max_rate == 1
    assert bucket.time_period == 60 / per_minute


async def test_turns_are_given_in_the_order_of_asking():
    gate, order = a_gate(per_minute=60_000, concurrent=1), []

    async def ask(number):
        async with gate.turn():
            order.append(number)

    await asyncio.gather(*(ask(number) for number in range(20)))
    assert order == list(range(20))


async def test_no_more_calls_run_at_once_than_allowed():
    gate, running, most = a_gate(per_minute=600_000, concurrent=3), 0, 0

    async def call():
        nonlocal running, most
        async with gate.turn():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(call() for _ in range(12)))
    assert most == 3


async def test_a_worker_with_some_of_the_tasks_gets_that_share_of_the_rate():
    gate = a_gate(per_minute=600)
    gate.set_share(owned=2, of=8)
    assert calls_in_a_minute(gate._limiter) == pytest.approx(150)
    gate.set_share(owned=0, of=8)
    assert calls_in_a_minute(gate._limiter) == pytest.approx(75)


async def test_a_cool_down_holds_everybody_back_until_it_is_over():
    gate = a_gate()
    assert gate.cool_down(0.05) == 0.05
    until_s = clock.monotonic_s() + 0.05
    async with gate.turn():
        assert clock.monotonic_s() >= until_s - 0.01


def test_a_cool_down_is_bounded_and_never_shortened():
    gate = a_gate(cooldown_max=10)
    assert gate.cool_down(1e9) == 10
    closed_until = gate._closed_until_s
    assert gate.cool_down(None) == limits.COOLDOWN_DEFAULT_SECONDS
    assert gate._closed_until_s == closed_until
    assert gate.cool_down(-1) == 0


async def test_a_waiter_that_gives_up_does_not_block_the_next():
    gate = a_gate(concurrent=1)
    async with gate.turn():
        waiter = asyncio.ensure_future(gate.turn().__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    async with asyncio.timeout(5), gate.turn():
        pass
