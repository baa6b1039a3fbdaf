"""Single calls: answered, billed at list price, struck by their own faults, limited; and as cheap as they must be."""

import asyncio
import os
import time

import httpx
import pytest

CHAT = "/v1/chat/completions"


def _body(make, text="A good film.", **body):
    return make.row("unused", text, **body)["body"]


async def test_a_single_call_gets_the_answer_a_batch_row_would_get_and_pays_list_price(client, make):
    [row] = (await client.round([make.row("row-1", "An even temper.")])).output
    answer = await client.http.post(CHAT, json=_body(make, "An even temper."), headers={"x-client-request-id": "mine"})
    assert answer.status_code == 200
    whole, batched = answer.json(), row["response"]["body"]
    assert whole["choices"] == batched["choices"]
    assert whole["usage"] == batched["usage"]
    assert whole.keys() == batched.keys()

    ledger = client.ledger()
    batch, online = ledger.bills
    assert (batch.tier, online.tier) == ("batch", "online")
    assert (online.batch_id, online.custom_id, batch.call_id) == ("", "mine", "")
    assert online.call_id == ledger.requests[-1].call_id != ""
    assert online.cost_nanos == 2 * batch.cost_nanos > 0
    assert online.result_sha256 == batch.result_sha256
    assert ledger.cost_nanos_by_tier() == {"batch": batch.cost_nanos, "online": online.cost_nanos}
    assert sum(ledger.cost_nanos_by_tier().values()) == ledger.cost_nanos
    state = (await client.http.get("/admin/state")).json()
    assert (state["billed_calls"], state["online_cost_nanos"]) == (1, online.cost_nanos)
    assert state["cost_nanos"] == ledger.cost_nanos


@pytest.mark.parametrize(
    ("fault", "status", "code", "wait"),
    [
        ("call_429", 429, "rate_limit_exceeded", "7"),
        ("call_quota", 429, "insufficient_quota", None),
        ("call_500", 500, None, None),
        ("call_503", 503, None, "7"),
    ],
)
async def test_a_call_that_is_rejected_bills_nothing(started, make, fault, status, code, wait):
    async with started(faults={fault: {"nth": [1], "seconds": 7}}) as client:
        answer = await client.http.post(CHAT, json=_body(make))
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers.get("retry-after") == wait
        assert client.ledger().bills == ()
        assert client.ledger().requests[-1].fault == fault
        assert (await client.http.post(CHAT, json=_body(make))).status_code == 200


@pytest.mark.parametrize(("fault", "bills"), [("call_disconnect", 0), ("call_bill_then_disconnect", 1)])
async def test_a_call_can_end_in_silence_before_or_after_it_is_billed(started, make, fault, bills):
    async with started(faults={fault: {"nth": [1]}}) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await client.http.post(CHAT, json=_body(make))
        ledger = client.ledger()
        assert [bill.delivered for bill in ledger.bills] == [False] * bills
        assert (ledger.requests[-1].status, ledger.requests[-1].fault) == (0, fault)


@pytest.mark.parametrize(("fault", "bills"), [("call_hang", 0), ("call_bill_then_hang", 1)])
async def test_a_call_can_hang_and_its_bill_is_on_disk_while_the_client_waits(started, make, fault, bills):
    async with started(faults={fault: {"nth": [1], "seconds": 60}}) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.http.post(CHAT, json=_body(make), timeout=httpx.Timeout(5, read=0.5))
        assert len(client.ledger().bills) == bills


async def test_a_500_after_the_bill_is_the_ambiguous_one(started, make):
    async with started(faults={"call_bill_then_500": {"nth": [1]}}) as client:
        assert (await client.http.post(CHAT, json=_body(make))).status_code == 500
        [bill] = client.ledger().bills
        assert not bill.delivered
        assert bill.cost_nanos > 0


async def test_faults_that_spoil_content_strike_calls_as_they_strike_rows(started, make):
    async with started(faults={"refusal": 1}) as client:
        choice = (await client.http.post(CHAT, json=_body(make))).json()["choices"][0]
        assert choice["message"]["content"] is None
        assert choice["message"]["refusal"]
        assert len(client.ledger().bills) == 1


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": ""}, 400, "model"),
        ({"messages": None}, 400, "messages"),
        ({"messages": ["text"]}, 400, "messages"),
        ({"stream": True}, 400, "stream"),
    ],
)
async def test_a_call_with_a_wrong_body_is_refused_by_name_and_not_billed(client, make, change, status, param):
    answer = await client.http.post(CHAT, json=_body(make) | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert client.ledger().bills == ()


async def test_a_model_without_a_price_does_not_exist(started, make):
    async with started(fallback_price=None) as client:
        answer = await client.http.post(CHAT, json=_body(make, model="nobody"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_what_calls_came_to_is_known_after_a_restart(started, make):
    async with started() as client:
        await client.http.post(CHAT, json=_body(make))
        before = (await client.http.get("/admin/state")).json()
    async with started() as client:
        assert (await client.http.get("/admin/state")).json() == before
        assert before["billed_calls"] == 1


async def test_the_lines_of_concurrent_calls_share_their_fsyncs(client, make, monkeypatch):
    count, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: count.append(fsync(fd)))
    await asyncio.gather(*(client.http.post(CHAT, json=_body(make, f"Text {n}.")) for n in range(100)))
    ledger = client.ledger()
    assert (len(ledger.bills), len(ledger.requests)) == (100, 100)
    assert len(count) < 100  # 200 lines


async def test_a_bill_is_on_disk_before_its_answer_is_heard(client, make):
    for n in range(5):
        await client.http.post(CHAT, json=_body(make, f"Text {n}."))
        assert len(client.ledger().bills) == n + 1


async def test_the_wait_of_concurrent_calls_is_shared_not_added(started, make):
    """200 calls one after another would take 10 seconds of thinking alone."""
    async with started(single_latency_seconds=(0.05, 0.05)) as client:
        began = time.monotonic()
        answers = await asyncio.gather(*(client.http.post(CHAT, json=_body(make, f"Text {n}.")) for n in range(200)))
        assert time.monotonic() - began < 8
    assert {answer.status_code for answer in answers} == {200}
    assert len({bill.call_id for bill in client.ledger().bills}) == 200
