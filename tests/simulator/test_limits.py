"""The limiter, for any stream of requests; and each limit as a client meets it."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.simulator import Limits, QueueRoom, Rate, limits_from_json
from batchmill.agents.simulator.limits import Client, Limiter, limits_to_json
from batchmill.agents.simulator.openai.headers import duration

CHAT = "/v1/chat/completions"
WHO = Client("openai", "key", "gpt")
ROUNDING = 1e-6
steps = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 400)), max_size=60)
rates = st.builds(Rate, requests_per_minute=st.integers(1, 300), tokens_per_minute=st.integers(1, 30_000))


@given(rate=rates, burst=st.floats(1, 60), steps=steps)
def test_no_span_of_time_lets_more_through_than_the_rate_and_one_burst(rate, burst, steps):
    limiter, now = Limiter(Limits(rates={"gpt": rate}, burst_seconds=burst)), 100.0
    passed = []
    for gap, tokens in steps:
        now += gap
        if limiter.ask(WHO, tokens=tokens, now_s=now).limited_by is None:
            passed.append((now, tokens))
    for first, (since, _) in enumerate(passed):
        for last in range(first, len(passed)):
            span = passed[last][0] - since
            requests, tokens = last - first + 1, sum(tokens for _, tokens in passed[first : last + 1])
            assert (
                requests
                <= max(rate.requests_per_minute / 60 * burst, 1) + rate.requests_per_minute / 60 * span + ROUNDING
            )
            assert tokens <= max(rate.tokens_per_minute / 60 * burst, 1) + rate.tokens_per_minute / 60 * span + ROUNDING


@given(rate=rates, burst=st.floats(1, 60), steps=steps)
def test_whoever_waits_as_told_is_let_in_and_a_refusal_takes_nothing(rate, burst, steps):
    limiter, now = Limiter(Limits(rates={"gpt": rate}, burst_seconds=burst)), 0.0
    for gap, tokens in steps:
        now += gap
        verdict = limiter.ask(WHO, tokens=tokens, now_s=now)
        if verdict.limited_by == "requests":
            assert limiter.ask(WHO, tokens=0, now_s=now).limited_by == "requests"
            now += verdict.wait_seconds
            assert limiter.ask(WHO, tokens=0, now_s=now).limited_by is None
        elif verdict.limited_by == "tokens" and verdict.wait_seconds is not None:
            assert verdict.requests.remaining >= 1
            now += verdict.wait_seconds
            assert limiter.ask(WHO, tokens=tokens, now_s=now).limited_by is None
        elif verdict.limited_by == "tokens":
            assert tokens > rate.tokens_per_minute / 60 * burst


@given(rate=rates, steps=steps)
def test_what_is_shown_as_used_and_refused_is_what_was_asked(rate, steps):
    limiter, now, passed, refused, taken = Limiter(Limits(rates={"*": rate})), 0.0, 0, 0, 0
    for gap, tokens in steps:
        now += gap
        fits = limiter.ask(WHO, tokens=tokens, now_s=now).limited_by is None
        passed, refused, taken = passed + fits, refused + (not fits), taken + tokens * fits
    for shown in limiter.shown(now):
        assert (shown["requests"]["used"], shown["requests"]["refused"]) == (passed, refused)
        assert shown["tokens"]["used"] == taken
        assert shown["requests"]["limit"] == rate.requests_per_minute


def test_keys_models_and_providers_have_buckets_of_their_own():
    limiter = Limiter(Limits(rates={"*": Rate(requests_per_minute=1)}))
    for client in (WHO, Client("openai", "other", "gpt"), Client("openai", "key", "o"), Client("x", "key", "gpt")):
        assert limiter.ask(client, tokens=1, now_s=0).limited_by is None
        assert limiter.ask(client, tokens=1, now_s=0).limited_by == "requests"


@given(
    st.builds(
        Limits,
        rates=st.dictionaries(st.text(min_size=1), rates, max_size=3),
        queues=st.dictionaries(st.text(min_size=1), st.builds(QueueRoom, tokens_max=st.integers(1)), max_size=3),
        control_per_minute=st.none() | st.integers(1),
        creates_per_hour=st.none() | st.integers(1),
    )
)
def test_limits_survive_their_json_form(limits):
    assert limits_from_json(limits_to_json(limits)) == limits


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"rate": {}},
        {"rates": {"*": {"rpm": 1}}},
        {"rates": {"*": {"requests_per_minute": 0}}},
        {"rates": 5},
        {"queues": {"*": 7}},
        {"burst_seconds": 0},
        {"creates_per_hour": "many"},
    ],
)
def test_limits_that_say_nothing_sensible_are_refused(value):
    with pytest.raises(ValueError):
        limits_from_json(value)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0ms"), (0.0111, "12ms"), (1.5, "1.5s"), (360, "6m0s"), (3_720.25, "1h2m0.25s")]
)
def test_a_duration_is_written_as_the_real_service_writes_it(seconds, told):
    assert duration(seconds) == told


# As a client meets them --------------------------------------------------------------------------------------------


def _body(make, text="A good film.", **body):
    return make.row("unused", text, **body)["body"]


async def test_a_call_over_the_rate_is_429_with_the_providers_headers_and_is_not_billed(started, make):
    limits = Limits(rates={"*": Rate(requests_per_minute=2, tokens_per_minute=1_000)})
    async with started(limits=limits) as client:
        first, second, third = [await client.http.post(CHAT, json=_body(make)) for _ in range(3)]
        assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == (
            "2",
            "1",
        )
        used = client.ledger().bills[0].input_tokens
        assert first.headers["x-ratelimit-remaining-tokens"] == str(1_000 - used)
        assert second.status_code == 200
        assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 20 < float(third.headers["retry-after"]) <= 30.01
        assert len(client.ledger().bills) == 2
        [shown] = (await client.http.get("/admin/limits")).json()["clients"]
        assert (shown["requests"]["used"], shown["requests"]["refused"]) == (2, 1)
        assert "test" not in str(shown)


async def test_what_a_hammering_client_got_through_is_measured_and_is_what_was_billed(started, make):
    limits = Limits(rates={"*": Rate(requests_per_minute=600)}, burst_seconds=5)
    async with started(limits=limits, single_latency_seconds=(0, 0)) as client:
        answers = await asyncio.gather(*(client.http.post(CHAT, json=_body(make, f"Text {n}.")) for n in range(150)))
        [shown] = (await client.http.get("/admin/limits")).json()["clients"]
        ledger = client.ledger()
    statuses = Counter(answer.status_code for answer in answers)
    assert 50 <= statuses[200] <= 10 * (5 + shown["since_seconds"])
    assert statuses[200] + statuses[429] == 150
    assert (shown["requests"]["used"], shown["requests"]["refused"]) == (statuses[200], statuses[429])
    assert Counter(seen.status for seen in ledger.requests_to("POST", CHAT)) == statuses
    assert len(ledger.bills) == statuses[200]


async def test_a_call_larger_than_the_bucket_is_told_so_without_a_time_to_come_again(started, make):
    async with started(limits=Limits(rates={"*": Rate(tokens_per_minute=100)})) as client:
        answer = await client.http.post(CHAT, json=_body(make, max_completion_tokens=1_000))
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "tokens")
        assert "retry-after" not in answer.headers


async def test_control_calls_and_creates_have_their_own_limits_and_single_calls_do_not_count(started, make):
    async with started(limits=Limits(creates_per_hour=1)) as client:
        file_id = (await client.upload([make.row("row-1")])).json()["id"]
        assert (await client.create(file_id)).status_code == 200
        refused = await client.create(file_id)
        assert refused.status_code == 429
        assert 3_500 < float(refused.headers["retry-after"]) <= 3_600.01
        assert len(client.ledger().batches_created) == 1
        changed = await client.http.post("/admin/limits", json={"control_per_minute": 1})
        assert changed.json()["clients"] == []
        assert [(await client.http.get("/v1/batches")).status_code for _ in range(2)] == [200, 429]
        assert (await client.http.post(CHAT, json=_body(make))).status_code == 200
        await client.http.delete("/admin/limits")
        assert (await client.http.get("/v1/batches")).status_code == 200


async def test_a_batch_that_finds_the_queue_full_is_accepted_and_fails_and_passes_when_there_is_room(started, make):
    content = make.jsonl([make.row(f"row-{n}", "x" * 391) for n in range(10)])  # 100 tokens each, with "Classify."
    limits = Limits(queues={"gpt-4o-mini": QueueRoom(tokens_max=1_500)})
    async with started(limits=limits, latency_seconds=(0.6, 0.6)) as client:
        first = await client.open(content)
        await client.until(first["id"], lambda batch: batch["status"] == "in_progress")
        [queue] = (await client.http.get("/admin/limits")).json()["queues"]
        assert queue == {"provider": "openai", "model": "gpt-4o-mini", "tokens": 1_000, "requests": 10}
        second = await client.round(content)
        assert (second.status, second.batch["errors"]["data"][0]["code"]) == ("failed", "token_limit_exceeded")
        other = make.jsonl([make.row(f"row-{n}", "x" * 391, model="gpt-4o") for n in range(20)])
        assert (await client.open(other))["status"] == "validating"
        assert (await client.ended(first["id"])).status == "completed"
        assert (await client.round(content)).status == "completed"


async def test_the_queue_can_count_requests_and_limits_set_while_running_outlive_a_restart(started, make):
    async with started() as client:
        await client.http.post("/admin/limits", json={"queues": {"*": {"requests_max": 3}}})
        assert (await client.http.post("/admin/limits", json={"queue": {}})).status_code == 400
    async with started() as client:
        failed = await client.round([make.row(f"row-{n}") for n in range(4)])
        assert failed.batch["errors"]["data"][0]["code"] == "request_limit_exceeded"
        assert (await client.round([make.row(f"row-{n}") for n in range(3)])).status == "completed"
