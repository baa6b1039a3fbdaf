"""The pace of single calls, in virtual time: in order, within the rates, together in a pause, alone in a trial."""

import asyncio
from bisect import bisect_left
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.agents.providers import congestion, pacing
from batchmill.agents.providers.congestion import Breaker, Concurrency
from batchmill.agents.providers.pacing import Ended, Pacer
from batchmill.agents.providers.rate_headers import Allowance, Rates, rates_in
from tests.agents.virtual import in_virtual_time

MINUTE = 60.0


def a_pacer(requests=None, tokens=None, concurrent=1_000, cooldown_max=60.0):
    return Pacer(
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        concurrent_max=concurrent,
        cooldown_max_seconds=cooldown_max,
    )


def now_s():
    return asyncio.get_running_loop().time()


async def a_turn(pacer, *, prompt=1, answer=0, model="m"):
    return await pacer.admit(model=model, prompt_tokens=prompt, answer_tokens=answer)


async def a_call(pacer, *, prompt=1, answer=0, seconds=0.05, ended=Ended.ANSWERED, **done):
    turn = await a_turn(pacer, prompt=prompt, answer=answer)
    await asyncio.sleep(seconds)
    pacer.done(turn, ended, **done)
    return turn


async def hungry(pacer, seconds, *, workers=50, size=lambda _: 1):
    """Always more to ask than may be asked: (second, amount) of each call that went out in that time."""
    until_s, sent = now_s() + seconds, []

    async def worker(number):
        while now_s() < until_s:
            amount = size(number + len(sent))
            turn = await a_turn(pacer, prompt=amount)
            if now_s() < until_s:
                sent.append((turn.sent_s, amount))
            await asyncio.sleep(0.05)
            pacer.done(turn, Ended.ANSWERED)

    await asyncio.gather(*(worker(number) for number in range(workers)))
    return sent


def most_in_a_minute(sent):
    times, sums = [at for at, _ in sent], [0, *accumulate(size for _, size in sent)]
    return max(sums[bisect_left(times, at + MINUTE)] - sums[number] for number, at in enumerate(times))


# -- rates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_minute", [30, 600, 6_000])
def test_a_minute_of_calls_uses_the_limit_and_none_exceeds_it(per_minute):
    sent = in_virtual_time(hungry(a_pacer(requests=per_minute), 3 * MINUTE))
    assert most_in_a_minute(sent) <= per_minute
    assert len(sent) >= 0.95 * 3 * per_minute


@pytest.mark.parametrize("limit", [6_000, 60_000])
def test_tokens_are_used_up_and_not_exceeded_whatever_the_prompts_weigh(limit):
    """The largest prompt takes several bucketfuls, which aiolimiter alone refuses."""
    sizes = [40, 700, 90, 15, 1_500]
    sent = in_virtual_time(hungry(a_pacer(tokens=limit), 3 * MINUTE, size=lambda n: sizes[n % 5]))
    # The one that waits when time is up has taken its pieces, too.
    assert sum(size for _, size in sent) >= 0.95 * 3 * limit - max(sizes)
    # A call's last piece decides when it leaves, so that a window may hold the earlier pieces of one more call.
    assert most_in_a_minute(sent) <= limit + max(sizes)


def test_a_large_question_is_not_overtaken_by_small_ones_behind_it():
    async def story():
        pacer, order = a_pacer(tokens=6_000), []

        async def ask(name, prompt):
            await a_call(pacer, prompt=prompt, seconds=0)
            order.append(name)

        await asyncio.gather(ask("first", 100), ask("large", 900), *(ask(f"small {n}", 5) for n in range(20)))
        return order

    assert in_virtual_time(story()) == ["first", "large", *(f"small {n}" for n in range(20))]


def test_a_worker_uses_its_share_of_the_rates():
    async def story():
        pacer = a_pacer(requests=600)
        pacer.set_share(owned=2, of=8)
        return await hungry(pacer, MINUTE)

    assert 0.95 * 150 <= len(in_virtual_time(story())) <= 150


def test_what_calls_use_beyond_their_estimate_is_taken_from_the_next_ones():
    async def story():
        pacer = a_pacer(tokens=6_000)
        turn = await a_turn(pacer, prompt=50)
        pacer.used(turn, input_tokens=0, output_tokens=1_050)
        pacer.done(turn, Ended.ANSWERED)
        began_s = now_s()
        await a_call(pacer, prompt=50)
        return now_s() - began_s

    # 1,000 tokens more than expected are ten seconds of the rate, 1 s of which the bucket held.
    assert in_virtual_time(story()) == pytest.approx(10, abs=1)


def test_estimates_learn_what_the_provider_counts():
    async def story():
        pacer = a_pacer(tokens=60_000)
        for _ in range(20):
            turn = await a_turn(pacer, prompt=100)
            pacer.used(turn, input_tokens=50, output_tokens=0)
            pacer.done(turn, Ended.ANSWERED)
        return (await a_turn(pacer, prompt=100, answer=7)).tokens

    assert in_virtual_time(story()) == pytest.approx(57)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3_000), min_size=1, max_size=30),
    per_minute=st.integers(1, 1_000),
    tokens=st.integers(100, 100_000),
)
def test_every_question_gets_its_turn_in_the_order_of_asking_whatever_the_limits(sizes, per_minute, tokens):
    async def story():
        pacer, order = a_pacer(requests=per_minute, tokens=tokens, concurrent=4), []

        async def ask(number):
            turn = await a_turn(pacer, prompt=sizes[number])
            order.append(number)
            await asyncio.sleep(0.05)
            pacer.done(turn, Ended.ANSWERED)

        await asyncio.gather(*(ask(number) for number in range(len(sizes))))
        return order

    assert in_virtual_time(story()) == list(range(len(sizes)))


# -- what the provider says --------------------------------------------------------------------------------------------


def test_what_the_provider_says_is_left_is_waited_for():
    async def story():
        pacer = a_pacer()
        turn = await a_turn(pacer, prompt=100)
        pacer.heard(turn, Rates(Allowance(600, 5), Allowance(6_000, 0)))
        pacer.done(turn, Ended.ANSWERED)
        began_s = now_s()
        await a_call(pacer, prompt=200, seconds=0)
        return now_s() - began_s

    assert in_virtual_time(story()) == pytest.approx(2)  # 200 tokens at 100 a second


def test_calls_sent_since_then_count_against_what_is_left():
    async def story():
        pacer = a_pacer()
        first, second = await a_turn(pacer), await a_turn(pacer)
        pacer.heard(first, Rates(Allowance(60, 1), None))
        began_s = now_s()
        await a_turn(pacer)
        pacer.done(second, Ended.ANSWERED)
        return now_s() - began_s

    assert in_virtual_time(story()) == pytest.approx(1)  # the one that was left went to the second call


def test_an_older_answer_that_comes_later_says_nothing_new():
    async def story():
        pacer = a_pacer()
        old = await a_turn(pacer)
        await asyncio.sleep(1)
        new = await a_turn(pacer)
        pacer.heard(new, Rates(Allowance(60, 50), None))
        pacer.heard(old, Rates(Allowance(60, 0), None))
        began_s = now_s()
        await a_turn(pacer)
        return now_s() - began_s

    assert in_virtual_time(story()) == pytest.approx(0, abs=1e-3)


def test_models_do_not_share_what_a_provider_tells_of_one():
    async def story():
        pacer = a_pacer()
        turn = await a_turn(pacer, model="large")
        pacer.heard(turn, Rates(Allowance(1, 0), None))
        began_s = now_s()
        await a_turn(pacer, model="small")
        return now_s() - began_s

    assert in_virtual_time(story()) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("headers", "requests", "tokens"),
    [
        ({}, None, None),
        (
            {
                "x-ratelimit-limit-requests": "600",
                "x-ratelimit-remaining-requests": "599",
                "x-ratelimit-limit-tokens": "9000",
                "x-ratelimit-remaining-tokens": "8000",
            },
            Allowance(600, 599),
            Allowance(9_000, 8_000),
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-input-tokens-limit": "40000",
                "anthropic-ratelimit-input-tokens-remaining": "40000",
            },
            Allowance(50, 0),
            Allowance(40_000, 40_000),
        ),
        ({"x-ratelimit-limit-requests": "many", "x-ratelimit-remaining-requests": "1"}, None, None),
        ({"x-ratelimit-limit-requests": "600"}, None, None),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"}, None, None),
    ],
)
def test_rates_are_read_in_both_families_and_nonsense_is_not(headers, requests, tokens):
    assert rates_in(headers) == Rates(requests, tokens)


# -- refusals for load -------------------------------------------------------------------------------------------------


def test_one_refusal_holds_everybody_back_for_as_long_as_it_asks():
    async def story():
        pacer = a_pacer()
        await a_call(pacer, ended=Ended.THROTTLED, retry_after_seconds=7.0)
        refused_s = now_s()
        turns = await asyncio.gather(*(a_call(pacer) for _ in range(5)))
        return [turn.sent_s - refused_s for turn in turns]

    assert in_virtual_time(story()) == pytest.approx([7.0] * 5)


def test_a_crowd_that_is_refused_together_is_one_refusal():
    async def story():
        pacer = a_pacer()
        before = pacer.calls_max
        await asyncio.gather(*(a_call(pacer, ended=Ended.THROTTLED) for _ in range(20)))
        refused_s = now_s()
        turn = await a_turn(pacer)
        return before, pacer.calls_max, turn.sent_s - refused_s

    before, after, pause_s = in_virtual_time(story())
    assert after == int(before * congestion.KEPT_SHARE)
    assert pause_s == pytest.approx(pacing.COOLDOWN_SECONDS)


def test_refusals_in_a_row_that_say_no_time_pause_longer_each_time_within_the_bound():
    async def story():
        pacer, pauses = a_pacer(cooldown_max=5.0), []
        for _ in range(5):
            turn = await a_turn(pacer)
            pauses.append(turn.waited_seconds)
            await asyncio.sleep(0.01)
            pacer.done(turn, Ended.THROTTLED)
        return pauses

    assert in_virtual_time(story()) == pytest.approx([0, 1, 2, 4, 5], abs=1e-3)


# -- how many at once --------------------------------------------------------------------------------------------------


def test_the_width_doubles_by_the_round_until_it_is_full_and_never_exceeds_the_account():
    async def story():
        pacer, most = a_pacer(concurrent=200), 0
        until_s = now_s() + 5

        async def worker():
            nonlocal most
            while now_s() < until_s:
                turn = await a_turn(pacer)
                most = max(most, pacer.running)
                await asyncio.sleep(0.05)
                pacer.done(turn, Ended.ANSWERED)

        await asyncio.gather(*(worker() for _ in range(400)))
        return most, pacer.calls_max

    assert in_virtual_time(story()) == (200, 200)


def test_a_width_that_is_not_used_does_not_grow():
    width = Concurrency(200)
    for _ in range(1_000):
        width.passed(placed=3)
    assert width.calls_max == congestion.START_CALLS


def test_after_the_first_refusal_the_width_grows_by_one_a_round():
    width = Concurrency(200)
    width.hurt(sent_s=1, now_s=2)
    narrow = width.calls_max
    for _ in range(narrow):
        width.passed(placed=narrow)
    assert narrow <= width.calls_max <= narrow + 1
    for _ in range(2 * narrow):
        width.passed(placed=narrow + 1)
    assert width.calls_max >= narrow + 2


def test_at_least_one_call_may_always_run():
    width = Concurrency(50)
    for at in range(100):
        width.hurt(sent_s=at, now_s=at)
    assert width.calls_max == 1


def test_a_cancelled_wait_gives_its_place_back():
    async def story():
        pacer = a_pacer(concurrent=1)
        held = await a_turn(pacer)
        waiting = [asyncio.ensure_future(a_turn(pacer)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        pacer.done(held, Ended.ANSWERED)
        waiting[1].cancel()  # its place is handed to it already
        return await waiting[2]

    assert in_virtual_time(story()).model == "m"


# -- the breaker -------------------------------------------------------------------------------------------------------


def test_a_service_that_does_not_answer_is_left_alone_then_asked_by_one_call_at_a_time():
    async def story():
        pacer, sent = a_pacer(), []

        async def ask(ended):
            turn = await a_call(pacer, ended=ended)
            sent.append(turn.sent_s)

        for _ in range(congestion.FAILED_IN_A_ROW_MAX):
            await ask(Ended.UNABLE)
        opened_s = now_s()
        await asyncio.gather(ask(Ended.UNABLE), ask(Ended.ANSWERED), ask(Ended.ANSWERED))
        return [at - opened_s for at in sent[congestion.FAILED_IN_A_ROW_MAX :]]

    trial, second, third = in_virtual_time(story())
    assert trial == pytest.approx(congestion.OPEN_SECONDS)
    assert second == pytest.approx(trial + 0.05 + 2 * congestion.OPEN_SECONDS)  # it failed: twice as long
    assert third == pytest.approx(second + 0.05)  # that one passed: closed


def test_a_service_of_which_half_the_calls_fail_opens_it_too():
    breaker = Breaker()
    for number in range(congestion.OUTCOMES_NEEDED):
        assert breaker.closed
        breaker.failed(trial=False, now_s=0) if number % 2 else breaker.passed(trial=False)
    assert not breaker.closed


def test_calls_sent_before_it_opened_neither_close_it_nor_count_again():
    breaker = Breaker()
    for _ in range(congestion.FAILED_IN_A_ROW_MAX):
        breaker.failed(trial=False, now_s=10)
    breaker.passed(trial=False)
    breaker.failed(trial=False, now_s=11)
    assert breaker.wait_seconds(10) == congestion.OPEN_SECONDS


def test_a_trial_that_tells_nothing_is_followed_by_another():
    breaker = Breaker()
    for _ in range(congestion.FAILED_IN_A_ROW_MAX):
        breaker.failed(trial=False, now_s=0)
    assert breaker.start()
    assert breaker.wait_seconds(100) is None
    breaker.untold(trial=True)
    assert breaker.wait_seconds(100) == 0


def test_the_pause_of_the_breaker_doubles_to_its_bound():
    breaker, pauses = Breaker(), []
    for _ in range(congestion.FAILED_IN_A_ROW_MAX):
        breaker.failed(trial=False, now_s=0)
    for _ in range(8):
        pauses.append(breaker.wait_seconds(0))
        breaker.failed(trial=breaker.start(), now_s=0)
    assert all(later in {2 * earlier, congestion.OPEN_SECONDS_MAX} for earlier, later in pairwise(pauses))
    assert pauses[-1] == congestion.OPEN_SECONDS_MAX
