"""The official SDK, unmodified, completes a full round of Message Batches and meets the error paths it knows."""

from dataclasses import replace

import pytest

from batchmill.agents.simulator import RunningSimulator
from tests.simulator.anthropic_client import SCHEMA, request, requests

anthropic = pytest.importorskip("anthropic", reason="the official SDK is a development dependency")


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


def client_of(simulator):
    return anthropic.Anthropic(api_key="test", base_url=simulator.base_url, max_retries=0)


@pytest.fixture
def sdk(simulator):
    with client_of(simulator) as client:
        yield client


def ended(sdk, batch_id):
    for _ in range(1000):
        batch = sdk.messages.batches.retrieve(batch_id)
        if batch.processing_status == "ended":
            return batch
    raise AssertionError(batch)


def test_a_full_round_with_the_official_sdk(sdk, simulator):
    made = sdk.messages.batches.create(requests=[*requests(20), request("bad", max_tokens=0)])
    assert (made.processing_status, made.request_counts.processing) == ("in_progress", 21)
    batch = ended(sdk, made.id)
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (20, 1)
    assert batch.ended_at >= batch.created_at
    results = {line.custom_id: line.result for line in sdk.messages.batches.results(made.id)}
    assert len(results) == 21
    bad = results.pop("bad")
    assert (bad.type, bad.error.error.type, bad.error.request_id) == ("errored", "invalid_request_error", None)
    for result in results.values():
        assert (result.type, result.message.stop_reason) == ("succeeded", "end_turn")
        assert result.message.content[0].text.startswith("{")
        assert result.message.usage.output_tokens > 0
    assert {bill.custom_id for bill in simulator.ledger().bills} == results.keys()
    told = sum(result.message.usage.input_tokens for result in results.values())
    assert told == sum(bill.input_tokens for bill in simulator.ledger().bills)
    assert sdk.messages.batches.delete(made.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve(made.id)


def test_the_sdk_walks_the_list_in_both_directions(sdk):
    made = [sdk.messages.batches.create(requests=[request(f"row-{n}")]).id for n in range(5)][::-1]
    assert [batch.id for batch in sdk.messages.batches.list(limit=2)] == made
    older = sdk.messages.batches.list(limit=2, after_id=made[1])
    assert [batch.id for batch in older] == made[2:]
    newer = [batch.id for batch in sdk.messages.batches.list(limit=2, before_id=made[4])]
    assert sorted(newer) == sorted(made[:4])


def test_the_sdk_cancels_and_reads_what_was_not_run(config):
    slow = replace(config, latency_seconds=(5, 5))
    with RunningSimulator(slow) as simulator, client_of(simulator) as sdk:
        cancelled = sdk.messages.batches.create(requests=requests(100))
        assert sdk.messages.batches.cancel(cancelled.id).processing_status == "canceling"
        batch = ended(sdk, cancelled.id)
        assert batch.cancel_initiated_at is not None
        kinds = {line.result.type for line in sdk.messages.batches.results(cancelled.id)}
        assert "canceled" in kinds
        assert kinds <= {"succeeded", "canceled"}


def test_the_sdk_reads_an_expired_batch_and_cannot_cancel_it(simulator, sdk):
    simulator.set_faults({"expire": {"rate": 1, "share": 1}})
    expired = ended(sdk, sdk.messages.batches.create(requests=requests(3)).id)
    assert [line.result.type for line in sdk.messages.batches.results(expired.id)] == ["expired"] * 3
    with pytest.raises(anthropic.BadRequestError):
        sdk.messages.batches.cancel(expired.id)


def test_the_sdk_refuses_to_read_results_that_are_not_there_yet(simulator, sdk):
    simulator.set_faults({"late_output_file": {"rate": 1, "seconds": 60}})
    batch = ended(sdk, sdk.messages.batches.create(requests=requests(1)).id)
    with pytest.raises(anthropic.AnthropicError, match="results_url"):
        sdk.messages.batches.results(batch.id)


@pytest.mark.parametrize(
    ("fault", "error", "kind", "code"),
    [
        ("reject_429", "RateLimitError", "rate_limit_error", None),
        ("reject_quota", "RateLimitError", "rate_limit_error", "enforced_spend_limit_reached"),
        ("reject_billing", "PaymentRequiredError", "billing_error", None),
        ("reject_500", "InternalServerError", "api_error", None),
        ("reject_overloaded", "OverloadedError", "overloaded_error", None),
        ("accept_then_503", "ServiceUnavailableError", "api_error", None),
    ],
)
def test_the_sdk_reads_every_refusal_in_its_own_words(simulator, sdk, fault, error, kind, code):
    simulator.set_faults({fault: 1})
    with pytest.raises(getattr(anthropic, error)) as refused:
        sdk.messages.batches.create(requests=requests(1))
    assert (refused.value.type, refused.value.error_code) == (kind, code)
    assert refused.value.request_id.startswith("req_")
    assert ("retry-after" in refused.value.response.headers) is (fault == "reject_429")


def test_the_sdk_is_refused_for_a_custom_id_that_comes_twice_or_is_no_id(sdk, simulator):
    for asked in ([request("a"), request("a")], [request("a b")]):
        with pytest.raises(anthropic.BadRequestError, match="custom_id"):
            sdk.messages.batches.create(requests=asked)
    assert simulator.ledger().batches_created == ()


def test_the_sdk_with_its_own_retries_pays_three_batches_for_one_call_and_the_ledger_shows_it(sdk, simulator):
    simulator.set_faults({"accept_then_500": 1})
    with pytest.raises(anthropic.InternalServerError):
        sdk.with_options(max_retries=2).messages.batches.create(requests=requests(1))
    assert list(simulator.ledger().batches_by_input().values()) == [3]


def test_the_sdk_retries_a_spend_limit_that_no_retry_can_lift(sdk, simulator):
    simulator.set_faults({"reject_quota": 1})
    with pytest.raises(anthropic.RateLimitError):
        sdk.with_options(max_retries=1).messages.batches.create(requests=requests(1))
    assert len(simulator.ledger().requests_to("POST", "/v1/messages/batches")) == 2


def test_a_schema_as_the_sdk_sends_it_passes_the_checks(sdk):
    wide = {**SCHEMA, "properties": {**SCHEMA["properties"], "score": {"type": "number", "minimum": 0, "maximum": 1}}}
    for schema, kind in ((wide, "errored"), (anthropic.transform_schema(wide), "succeeded")):
        form = {"format": {"type": "json_schema", "schema": schema}}
        batch = ended(sdk, sdk.messages.batches.create(requests=[request("row", output_config=form)]).id)
        assert [line.result.type for line in sdk.messages.batches.results(batch.id)] == [kind]
