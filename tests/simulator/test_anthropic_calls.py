"""Single calls in Anthropic's words: answered, billed, limited and struck; the official SDK reads all of it."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from batchmill.agents.simulator import RunningSimulator, limits_from_json
from batchmill.agents.simulator.anthropic.headers import instant
from tests.simulator.anthropic_client import Batches, request

anthropic = pytest.importorskip("anthropic", reason="the official SDK is a development dependency")

ASKED = request("")["params"]
RATES = {"requests_per_minute": 60, "tokens_per_minute": 1_000}


@pytest.fixture
def service(started):
    @asynccontextmanager
    async def start(**changes):
        async with started(single_latency_seconds=(0.0, 0.0), **changes) as client:
            Batches(client)
            yield client

    return start


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


@pytest.fixture
def sdk(simulator):
    with anthropic.Anthropic(api_key="test", base_url=simulator.base_url, max_retries=0) as client:
        yield client


async def ask(client, headers=None, **params):
    return await client.http.post("/v1/messages", json=ASKED | params, headers=headers or {})


def test_the_sdk_gets_an_answer_and_the_ledger_its_bill_at_list_price(sdk, simulator):
    message = sdk.messages.create(**ASKED)
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert message.content[0].text.startswith('{"label":')
    (bill,) = simulator.ledger().bills
    assert (bill.provider, bill.tier, bill.batch_id) == ("anthropic", "online", "")
    assert (bill.input_tokens, bill.output_tokens) == (message.usage.input_tokens, message.usage.output_tokens)
    assert bill.cost_nanos == bill.input_tokens * 1_000 + bill.output_tokens * 5_000


def test_a_call_and_a_row_with_the_same_parameters_get_the_same_answer(sdk):
    alone = sdk.messages.create(**ASKED).content[0].text
    made = sdk.messages.batches.create(requests=[request("row")])
    while sdk.messages.batches.retrieve(made.id).processing_status != "ended":
        continue
    (line,) = sdk.messages.batches.results(made.id)
    assert line.result.message.content[0].text == alone


@pytest.mark.parametrize(
    ("fault", "error", "kind", "waits"),
    [
        ("call_429", "RateLimitError", "rate_limit_error", True),
        ("call_quota", "PaymentRequiredError", "billing_error", False),
        ("call_500", "InternalServerError", "api_error", False),
        ("call_503", "OverloadedError", "overloaded_error", True),
        ("call_bill_then_500", "InternalServerError", "api_error", False),
    ],
)
def test_the_sdk_reads_a_call_that_failed(sdk, simulator, fault, error, kind, waits):
    simulator.set_faults({fault: 1})
    with pytest.raises(getattr(anthropic, error)) as refused:
        sdk.messages.create(**ASKED)
    assert refused.value.type == kind
    assert ("retry-after" in refused.value.response.headers) is waits
    assert len(simulator.ledger().bills) == (fault == "call_bill_then_500")


def test_the_sdk_with_its_own_retries_pays_three_answers_for_one(sdk, simulator):
    simulator.set_faults({"call_bill_then_500": 1})
    with pytest.raises(anthropic.InternalServerError):
        sdk.with_options(max_retries=2).messages.create(**ASKED)
    assert [bill.delivered for bill in simulator.ledger().bills] == [False] * 3


@pytest.mark.parametrize("fault", ["call_disconnect", "call_hang", "call_bill_then_disconnect", "call_bill_then_hang"])
async def test_a_call_may_end_in_silence_billed_or_not(service, fault):
    async with service(faults={fault: {"rate": 1, "seconds": 0.05}}) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(client)
        assert len(client.ledger().bills) == ("bill" in fault)


async def test_the_headers_of_a_limited_call_tell_what_is_left_and_when_it_is_whole_again(service):
    limits = limits_from_json({"rates": {"*": RATES}})
    async with service(limits=limits) as client:
        first = await ask(client)
        assert first.headers["anthropic-ratelimit-requests-limit"] == "60"
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "59"
        assert first.headers["anthropic-ratelimit-tokens-limit"] == "1000"
        reset = datetime.fromisoformat(first.headers["anthropic-ratelimit-requests-reset"])
        assert timedelta(0) < reset - datetime.now(UTC) < timedelta(seconds=5)
        answers = [await ask(client) for _ in range(5)]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert float(refused.headers["retry-after"]) > 0
        assert int(refused.headers["anthropic-ratelimit-tokens-remaining"]) < 204
        assert len(client.ledger().bills) == 1 + sum(answer.status_code == 200 for answer in answers)


async def test_calls_that_are_not_limited_tell_nothing_about_rates(service):
    async with service() as client:
        assert not [name for name in (await ask(client)).headers if "ratelimit" in name]


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"model": ""}, 400, "invalid_request_error"),
        ({"max_tokens": -1}, 400, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"stream": True}, 400, "invalid_request_error"),
        ({"response_format": {}}, 400, "invalid_request_error"),
        ({"model": "claude-nobody"}, 404, "not_found_error"),
    ],
)
async def test_a_call_that_cannot_be_answered_is_refused_and_not_billed(service, change, status, kind):
    async with service(fallback_price=None) as client:
        answer = await ask(client, **change)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        assert answer.json()["request_id"] == answer.headers["request-id"]
        assert client.ledger().bills == ()


async def test_a_body_that_is_no_json_object_is_refused(service):
    async with service() as client:
        for body in (b"", b"[]", b"{"):
            assert (await client.http.post("/v1/messages", content=body)).status_code == 400


async def test_a_call_is_less_strict_than_a_row_and_may_ask_for_no_token_at_all(service):
    async with service() as client:
        answer = await ask(client, max_tokens=0, speed="standard")
        assert (answer.status_code, answer.json()["stop_reason"]) == (200, "max_tokens")


async def test_a_call_can_be_named_in_the_ledger_and_spoilt_by_that_name(service):
    async with service(faults={"refusal": 1}) as client:
        answer = await ask(client, headers={"x-client-request-id": "row-7"})
        assert answer.json()["stop_reason"] == "refusal"
        assert [bill.custom_id for bill in client.ledger().bills] == ["row-7"]


async def test_a_prompt_is_cached_where_the_request_asks_for_it_and_billed_by_its_parts(service):
    system = [{"type": "text", "text": "Classify. " * 100}]  # 250 tokens
    asking = [system[0] | {"cache_control": {"type": "ephemeral"}}]
    async with service(prompt_cache_tokens_min=200) as client:
        usages = [(await ask(client, system=given)).json()["usage"] for given in (system, asking, asking)]
        parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        assert [[usage[part] for part in parts] for usage in usages] == [[253, 0, 0], [3, 250, 0], [3, 0, 250]]
        output = [usage["output_tokens"] * 5_000 for usage in usages]
        costs = [bill.cost_nanos for bill in client.ledger().bills]
        listed = [253_000, 3_000 + 250 * 1_250, 3_000 + 250 * 100]
        assert costs == [cost + more for cost, more in zip(listed, output, strict=True)]


async def test_batches_are_limited_by_calls_by_creations_and_by_what_waits(started):
    limits = {"control_per_minute": 3, "creates_per_hour": 2, "queues": {"*": {"requests_max": 5}}}
    async with started(latency_seconds=(30, 30)) as client:
        batches = Batches(client)

        async def limited(name, body):
            answer = await client.http.post("/admin/limits", json={name: limits[name]})
            assert answer.status_code == 200
            answers = [await batches.create(body) for _ in range(5)]
            kinds = {answer.json()["error"]["type"] for answer in answers if answer.status_code != 200}
            assert kinds == {"rate_limit_error"}
            return [answer.status_code for answer in answers].count(200)

        assert await limited("control_per_minute", [request("a")]) == 3
        assert await limited("creates_per_hour", [request("b")]) == 2
        for batch in (await batches.list()).json()["data"]:
            await batches.cancel(batch["id"])
            await batches.ended(batch["id"])
        assert await limited("queues", [request("c"), request("d")]) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (0.001, "1970-01-01T00:00:01Z"), (86_399.5, "1970-01-02T00:00:00Z")],
)
def test_an_instant_is_written_in_whole_seconds_that_are_never_too_early(seconds, text):
    assert instant(seconds) == text
