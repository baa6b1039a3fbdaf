"""Single questions against a server that does as it is told: what an exchange means, and what is sent once."""

import asyncio
import json
from contextlib import asynccontextmanager

import orjson
import pytest

from batchmill.agents.providers import online
from batchmill.agents.providers.online import OnlineClient
from batchmill.agents.providers.openai_rows import request_line
from batchmill.agents.providers.registry import Providers
from batchmill.agents.settings import AccountSettings, Settings, SettingsError
from batchmill.agents.simulator import SimulatorConfig, plan_from_json, read_ledger, running_simulator
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import MustPauseError, NotStartedError, OutcomeUnknownError, TransientError
from tests.agents.scripts import CLOSE, HANG, Cut, Script, reply
from tests.agents.test_providers_http import refusal

ENDPOINT = "/v1/chat/completions"
BODY = {"messages": [{"content": "PRIVATE", "role": "user"}], "model": "gpt-5-mini"}
LINE = request_line(custom_id="r-1", endpoint=ENDPOINT, body=orjson.dumps(BODY))
ANSWER = {
    "model": "gpt-5-mini-2025-08-07",
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2},
}


@asynccontextmanager
async def a_script(**numbers):
    script = Script()
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    seen = []
    client = OnlineClient(
        name="acme",
        account=AccountSettings(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-k", **({"online_timeout_seconds": 5} | numbers)
        ),
        on_call=seen.append,
        loopback_only=True,
    )
    script.calls = seen
    try:
        yield script, client
    finally:
        script.release.set()
        await client.close()
        server.close()
        await server.wait_closed()


async def ask(client, *, may_start=lambda: True):
    return await client.ask(endpoint=ENDPOINT, line=LINE, tokens=50, may_start=may_start)


async def asked(answer, **numbers):
    """What the client makes of one answer, and what was heard and told of the call."""
    async with a_script(**numbers) as (script, client):
        script.answers = [answer]
        try:
            outcome = await ask(client)
        except Exception as error:  # noqa: BLE001 - the tests say which
            outcome = error
        return outcome, script, client


async def test_a_question_is_the_body_of_its_line_and_its_answer_a_row():
    row, script, _ = await asked(reply(200, ANSWER))
    assert (row.custom_id, row.output, row.input_tokens, row.output_tokens) == ("r-1", "yes", 9, 2)
    [(start, head, body)] = script.heard
    assert start == "POST /v1/chat/completions HTTP/1.1"
    assert "authorization: bearer sk-k" in head.lower()
    assert "content-type: application/json" in head.lower()
    assert json.loads(body) == BODY
    [call] = script.calls
    assert (call.account, call.operation, call.outcome, call.http_status) == ("acme", "ask", "ok", 200)


@pytest.mark.parametrize(
    ("answer", "reason", "code"),
    [
        (refusal(400, "context_length_exceeded"), Reason.TOO_LARGE_FOR_PROVIDER, "context_length_exceeded"),
        (refusal(400, None, "invalid_request_error"), Reason.REQUEST_INVALID, "invalid_request_error"),
        (refusal(422), Reason.REQUEST_INVALID, "http_422"),
    ],
)
async def test_a_refusal_of_the_question_is_an_unbilled_row(answer, reason, code):
    row, script, _ = await asked(answer)
    assert (row.outcome, row.reason, row.error_code, row.billed) == (Outcome.ERROR, reason, code, False)
    assert script.calls[0].outcome == "refused"


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (refusal(429, "rate_limit_exceeded"), TransientError, "rate_limit_exceeded"),
        (refusal(503, "slow_down"), TransientError, "slow_down"),
        (refusal(529, None, "overloaded_error"), TransientError, "overloaded_error"),
        (refusal(529), TransientError, "http_529"),
        (refusal(500, "server_error"), OutcomeUnknownError, "server_error"),
        (refusal(503), OutcomeUnknownError, "http_503"),
        pytest.param(reply(504, body=b"<html>"), OutcomeUnknownError, "http_504", id="504"),
        (refusal(408), OutcomeUnknownError, "http_408"),
        (refusal(401, "invalid_api_key"), MustPauseError, "invalid_api_key"),
        (refusal(402, None, "billing_error"), MustPauseError, "billing_error"),
        (refusal(429, "insufficient_quota"), MustPauseError, "insufficient_quota"),
        (refusal(404, "model_not_found"), MustPauseError, "model_not_found"),
        (refusal(400, "model_not_found"), MustPauseError, "model_not_found"),
        pytest.param(reply(405, body=b""), MustPauseError, "http_405", id="405"),
        pytest.param(reply(307, body=b"", headers=["location: /elsewhere"]), MustPauseError, "http_307", id="307"),
        (CLOSE, OutcomeUnknownError, "ServerDisconnectedError"),
        (Cut(reply(200, ANSWER)[:-5]), OutcomeUnknownError, "ClientPayloadError"),
        (b"no http at all\r\n\r\n", OutcomeUnknownError, "ClientResponseError"),
    ],
)
async def test_whatever_else_comes_back_is_told_apart_by_who_may_have_been_paid(answer, kind, code):
    error, script, _ = await asked(answer)
    assert type(error) is kind
    assert error.code == code
    assert "PRIVATE" not in str(error)
    assert len(script.heard) == 1
    assert script.calls[0].outcome == kind.__name__


async def test_silence_is_an_unknown_outcome_and_ends():
    error, script, _ = await asked(HANG, online_timeout_seconds=0.1)
    assert isinstance(error, OutcomeUnknownError)
    assert error.code == "timeout"
    assert len(script.heard) == 1


async def test_a_connection_that_is_refused_was_paid_by_nobody():
    account = AccountSettings(base_url="http://127.0.0.1:9/v1", api_key="sk-k")
    client = OnlineClient(name="acme", account=account, on_call=lambda _: None, loopback_only=True)
    with pytest.raises(TransientError) as caught:
        await ask(client)
    assert not isinstance(caught.value, NotStartedError)
    await client.close()


async def test_a_stale_connection_is_not_tried_a_second_time():
    """aiohttp repeats idempotent requests by itself; a question is none."""
    async with a_script() as (script, client):
        script.answers = [reply(200, ANSWER), CLOSE, reply(200, ANSWER)]
        await ask(client)
        with pytest.raises(OutcomeUnknownError):
            await ask(client)
        assert len(script.heard) == 2


async def test_nothing_is_sent_when_it_may_not_start_any_more():
    async with a_script() as (script, client):
        with pytest.raises(NotStartedError, match="lease_ended"):
            await ask(client, may_start=lambda: False)
        assert not script.heard
        assert not script.calls
        assert client.pacer.running == 0


async def test_an_answer_that_is_too_large_is_not_read_and_not_asked_for_again(monkeypatch):
    monkeypatch.setattr(online, "REPLY_BYTES_MAX", 100)
    row, _, _ = await asked(reply(200, ANSWER | {"choices": [{"message": {"content": "x" * 500}}]}))
    assert (row.outcome, row.reason, row.billed, row.usage_known) == (Outcome.ERROR, Reason.OVERSIZED, True, False)


async def test_a_throttled_account_is_left_alone_for_as_long_as_it_asks():
    async with a_script() as (script, client):
        script.answers = [refusal(429, "rate_limit_exceeded", headers=["retry-after: 60"])]
        with pytest.raises(TransientError):
            await ask(client)
        assert 59 < client.closed_seconds() <= 60
        with pytest.raises(NotStartedError) as caught:
            await ask(client)
        assert 59 < caught.value.retry_after_seconds <= 60
        assert len(script.heard) == 1


async def test_a_service_that_does_not_answer_closes_the_gate_by_itself():
    async with a_script() as (script, client):
        script.answers = [refusal(500)] * 10
        for _ in range(10):
            with pytest.raises(OutcomeUnknownError):
                await ask(client)
        assert client.closed_seconds() > 0


async def test_what_is_left_of_the_rate_is_heard_from_the_headers():
    left = ["x-ratelimit-limit-requests: 6000", "x-ratelimit-remaining-requests: 0"]
    async with a_script() as (script, client):
        script.answers = [reply(200, ANSWER, headers=left), reply(200, ANSWER)]
        await ask(client)
        began_s = asyncio.get_running_loop().time()
        await ask(client)
        assert asyncio.get_running_loop().time() - began_s >= 0.008


def test_an_account_beyond_this_machine_is_refused_where_nothing_may_be_spent():
    with pytest.raises(SettingsError, match="loopback_only"):
        OnlineClient(name="acme", account=AccountSettings(), on_call=lambda _: None, loopback_only=True)


async def test_an_account_without_single_questions_says_so():
    account = AccountSettings(base_url="http://127.0.0.1:9/v1")
    providers = Providers(Settings(accounts={"m": account}, loopback_only=True), on_call=lambda _: None)
    assert providers.online("m").name == "m"
    del providers._online["m"]  # as for a kind that has none
    with pytest.raises(SettingsError, match="no endpoint for single questions"):
        providers.online("m")
    await providers.close()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("call_429", TransientError),
        ("call_quota", MustPauseError),
        ("call_500", OutcomeUnknownError),
        ("call_disconnect", OutcomeUnknownError),
        ("call_bill_then_500", OutcomeUnknownError),
        ("call_bill_then_disconnect", OutcomeUnknownError),
    ],
)
async def test_no_call_that_the_simulator_billed_is_told_as_certainly_free(tmp_path, fault, kind):
    config = SimulatorConfig(data_dir=tmp_path, faults=plan_from_json({fault: 1.0}))
    async with running_simulator(config) as url:
        account = AccountSettings(base_url=f"{url}/v1", api_key="sk-k", online_timeout_seconds=5)
        client = OnlineClient(name="acme", account=account, on_call=lambda _: None, loopback_only=True)
        with pytest.raises(kind) as caught:
            await ask(client)
        await client.close()
    billed = read_ledger(config.ledger_file).bills
    assert bool(billed) == ("bill" in fault)
    assert not billed or type(caught.value) is OutcomeUnknownError


@pytest.mark.parametrize(("kind", "below"), [("openai", "/v1"), ("anthropic", "")])
async def test_each_protocol_with_single_calls_completes_one_at_the_simulator(tmp_path, kind, below):
    config = SimulatorConfig(data_dir=tmp_path, single_latency_seconds=(0.0, 0.0))
    async with running_simulator(config) as url:
        account = AccountSettings(kind=kind, base_url=f"{url}{below}", api_key="k")
        providers = Providers(Settings(accounts={"a": account}, loopback_only=True), on_call=lambda _: None)
        line = providers.of("a").request_line(custom_id="r-9", endpoint=ENDPOINT, body=orjson.dumps(BODY))
        row = await providers.online("a").ask(endpoint=ENDPOINT, line=line, tokens=50, may_start=lambda: True)
        await providers.close()
    (bill,) = read_ledger(config.ledger_file).bills
    assert (row.custom_id, row.outcome) == ("r-9", Outcome.SUCCEEDED)
    assert (row.input_tokens, row.output_tokens) == (bill.input_tokens, bill.output_tokens)
