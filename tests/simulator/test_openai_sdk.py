"""The official SDK, unmodified, completes a full round and meets the error paths it knows."""

import json

import pytest

from batchmill.agents.simulator import RunningSimulator

openai = pytest.importorskip("openai", reason="the official SDK is a development dependency")


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


@pytest.fixture
def sdk(simulator):
    with openai.OpenAI(api_key="test", base_url=f"{simulator.base_url}/v1", max_retries=0) as client:
        yield client


def _create(sdk, file, **extra):
    asked = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **extra}
    return sdk.batches.create(**asked)


def _ended(sdk, batch_id):
    for _ in range(1000):
        batch = sdk.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
    raise AssertionError(batch)


def test_a_full_round_with_the_official_sdk(sdk, make, tmp_path):
    path = tmp_path / "input.jsonl"
    path.write_bytes(make.jsonl([make.row(f"row-{n}", f"Text {n}.") for n in range(30)]))
    file = sdk.files.create(file=path, purpose="batch")
    assert (file.purpose, file.bytes, file.filename) == ("batch", path.stat().st_size, "input.jsonl")

    batch = _ended(sdk, _create(sdk, file, metadata={"chunk": "c1"}).id)

    assert (batch.status, batch.metadata, batch.request_counts.completed) == ("completed", {"chunk": "c1"}, 30)
    lines = [json.loads(line) for line in sdk.files.content(batch.output_file_id).text.splitlines()]
    assert len({line["custom_id"] for line in lines}) == 30
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
    assert sdk.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError):
        _create(sdk, file)


def test_the_sdk_lists_over_pages_cancels_and_reads_a_failed_batch(sdk, make):
    file = sdk.files.create(file=make.jsonl([make.row("row-1")]), purpose="batch")
    made = [_create(sdk, file).id for _ in range(5)]
    assert [batch.id for batch in sdk.batches.list(limit=2)] == made[::-1]
    _ended(sdk, made[0])
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(made[0])
    bad = sdk.files.create(file=b"not json\n", purpose="batch")
    failed = _ended(sdk, _create(sdk, bad).id)
    assert [(error.code, error.line) for error in failed.errors.data] == [("invalid_json_line", 1)]


def test_the_sdk_with_its_own_retries_pays_three_batches_for_one_call_and_the_ledger_shows_it(sdk, simulator, make):
    file = sdk.files.create(file=make.jsonl([make.row("row-1")]), purpose="batch")
    simulator.set_faults({"accept_then_500": 1})
    with pytest.raises(openai.InternalServerError):
        _create(sdk.with_options(max_retries=2), file, metadata={"chunk": "c1"})
    assert simulator.ledger().batches_by_label("chunk") == {"c1": 3}
