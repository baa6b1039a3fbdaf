"""The official mistralai SDK, unmodified: full rounds by file and inline, listing with filters, and the errors."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from batchmill.agents.simulator import RunningSimulator
from batchmill.agents.simulator.limits import Limits

client = pytest.importorskip("mistralai.client", reason="the official SDK is a development dependency")
errors = pytest.importorskip("mistralai.client.errors")

MODEL = "mistral-small-latest"
ENDPOINT = "/v1/chat/completions"
ENDED = {"SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"}


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


@pytest.fixture
def sdk(simulator):
    return _client(simulator)


def _client(simulator, key="test"):
    return client.Mistral(api_key=key, server_url=f"{simulator.base_url}/mistral")


def _body(make, text):
    form = {"type": "json_schema", "json_schema": {"name": "o", "schema": make.schema, "strict": True}}
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 200, "response_format": form}


def _rows(make, count):
    return [{"custom_id": f"row-{n}", "body": _body(make, f"Text {n}.")} for n in range(count)]


def _uploaded(sdk, content):
    return sdk.files.upload(file={"file_name": "input.jsonl", "content": content}, purpose="batch")


def _create(sdk, file, **extra):
    asked = {"input_files": [file.id], "endpoint": ENDPOINT, "model": MODEL, **extra}
    return sdk.batch.jobs.create(**asked)


def _ended(sdk, job_id, **extra):
    for _ in range(1000):
        job = sdk.batch.jobs.get(job_id=job_id, **extra)
        if job.status in ENDED:
            return job
    raise AssertionError(job)


def _lines(sdk, file_id):
    return [json.loads(line) for line in sdk.files.download(file_id=file_id).read().splitlines()]


def test_a_full_round_by_file_with_the_official_sdk(sdk, simulator, make):
    content = make.jsonl(_rows(make, 30))
    file = _uploaded(sdk, content)
    assert (file.purpose, file.size_bytes, file.filename) == ("batch", len(content), "input.jsonl")
    assert file.sample_type == "batch_request"

    made = _create(sdk, file, metadata={"chunk": "c1"})
    assert made.status in {"QUEUED", "RUNNING"}
    job = _ended(sdk, made.id)

    assert (job.status, job.metadata, job.model) == ("SUCCESS", {"chunk": "c1"}, MODEL)
    assert (job.total_requests, job.completed_requests, job.succeeded_requests, job.failed_requests) == (30, 30, 30, 0)
    assert job.error_file is None
    rows = _lines(sdk, job.output_file)
    assert {row["custom_id"] for row in rows} == {f"row-{n}" for n in range(30)}
    assert [row["custom_id"] for row in rows] != [f"row-{n}" for n in range(30)]
    for row in rows:
        body = row["response"]["body"]
        assert (row["response"]["status_code"], row["error"], body["model"]) == (200, None, MODEL)
        assert json.loads(body["choices"][0]["message"]["content"])["label"] in {"pos", "neg", "neu"}
    assert sdk.files.retrieve(file_id=job.output_file).sample_type == "batch_result"
    assert {bill.model for bill in simulator.ledger().bills} == {MODEL}
    assert sdk.files.delete(file_id=file.id).deleted
    for look in (lambda: sdk.files.retrieve(file_id=file.id), lambda: _create(sdk, file)):
        with pytest.raises(errors.SDKError) as gone:
            look()
        assert gone.value.status_code == 404


def test_a_full_round_inline_gives_the_rows_in_the_job_itself(sdk, make):
    made = sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=_rows(make, 10))
    job = _ended(sdk, made.id, inline=True)
    assert {row["custom_id"] for row in job.outputs} == {f"row-{n}" for n in range(10)}
    assert len(job.input_files) == 1
    assert _ended(sdk, made.id).outputs is None


def test_the_model_may_be_the_rows_but_must_be_one(sdk, make):
    rows = _rows(make, 2)
    for row in rows:
        row["body"]["model"] = MODEL
    assert _ended(sdk, sdk.batch.jobs.create(endpoint=ENDPOINT, requests=rows).id).model == MODEL
    rows[1]["body"]["model"] = "mistral-large-latest"
    failed = _ended(sdk, sdk.batch.jobs.create(endpoint=ENDPOINT, requests=rows).id)
    assert (failed.status, len(failed.errors), failed.output_file) == ("FAILED", 1, None)
    nameless = _ended(sdk, sdk.batch.jobs.create(endpoint=ENDPOINT, requests=_rows(make, 1)).id)
    assert nameless.status == "FAILED"


def test_a_row_with_a_member_the_service_does_not_know_fails_by_itself(sdk, make):
    rows = _rows(make, 3)
    rows[1]["body"]["max_completion_tokens"] = 5
    job = _ended(sdk, sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=rows).id)
    assert (job.status, job.succeeded_requests, job.failed_requests) == ("SUCCESS", 2, 1)
    [row] = _lines(sdk, job.error_file)
    assert (row["custom_id"], row["response"]["status_code"]) == ("row-1", 400)
    assert row["response"]["body"]["object"] == "error"


def test_the_list_is_filtered_and_paged_by_the_service(sdk, make):
    file = _uploaded(sdk, make.jsonl(_rows(make, 1)))
    made = [_create(sdk, file, metadata={"chunk": f"c{n % 2}", "app": "a"}).id for n in range(5)]
    for job_id in made:
        _ended(sdk, job_id)

    def listed(**asked):
        found = sdk.batch.jobs.list(**asked)
        return found.total, [job.id for job in found.data]

    newest_first = made[::-1]
    assert listed() == (5, newest_first)
    assert listed(order_by="created") == (5, made)
    assert listed(page=1, page_size=2) == (5, newest_first[2:4])
    assert listed(metadata={"chunk": "c1"}) == (2, [made[3], made[1]])
    assert listed(metadata={"chunk": "c1", "app": "b"}) == (0, [])
    assert listed(status=["SUCCESS"], model=MODEL) == (5, newest_first)
    assert listed(status=["QUEUED", "FAILED"]) == (0, [])
    now = datetime.now(UTC)
    assert listed(created_after=now - timedelta(hours=1))[0] == 5
    assert listed(created_after=now + timedelta(hours=1))[0] == 0


def test_a_job_is_cancelled_on_request_and_only_while_it_runs(config, make):
    with RunningSimulator(replace(config, latency_seconds=(20, 20), cancelling_seconds=0.2)) as simulator:
        sdk = _client(simulator)
        made = sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=_rows(make, 5))
        for _ in range(1000):
            if sdk.batch.jobs.get(job_id=made.id).status == "RUNNING":
                break
        assert sdk.batch.jobs.cancel(job_id=made.id).status == "CANCELLATION_REQUESTED"
        job = _ended(sdk, made.id)
        assert (job.status, job.total_requests) == ("CANCELLED", 5)
        with pytest.raises(errors.SDKError) as refused:
            sdk.batch.jobs.cancel(job_id=made.id)
        assert refused.value.status_code == 400
        assert sdk.batch.jobs.delete(job_id=made.id).deleted
        with pytest.raises(errors.SDKError) as gone:
            sdk.batch.jobs.get(job_id=made.id)
        assert gone.value.status_code == 404


@pytest.mark.parametrize(
    ("fault", "status", "exists"),
    [
        ("reject_429", 429, 0),
        ("reject_quota", 429, 0),
        ("reject_billing", 402, 0),
        ("reject_500", 500, 0),
        ("reject_overloaded", 503, 0),
        ("accept_then_503", 503, 1),
    ],
)
def test_refusals_of_a_create_are_in_the_form_the_sdk_reads(sdk, simulator, make, fault, status, exists):
    simulator.set_faults({fault: 1})
    with pytest.raises(errors.SDKError) as refused:
        sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=_rows(make, 1))
    assert refused.value.status_code == status
    assert json.loads(refused.value.body)["object"] == "error"
    assert len(simulator.ledger().batches_created) == exists


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "/v1/unknown"},
        {"input_files": None},
        {"input_files": ["a", "b"]},
        {"timeout_hours": 1_000},
        {"model": 7},
        {"metadata": {"k": 1}},
    ],
)
def test_a_create_in_the_wrong_form_is_422_with_its_place(simulator, change):
    asked = {"endpoint": ENDPOINT, "input_files": ["a"], "model": MODEL, **change}
    headers = {"authorization": "Bearer any"}
    answer = httpx.post(f"{simulator.base_url}/mistral/v1/batch/jobs", json=asked, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0].keys() == {"type", "loc", "msg"}


def test_an_unknown_model_and_a_wrong_key_are_refused(config, make):
    with RunningSimulator(replace(config, fallback_price=None, api_key="right")) as simulator:
        with pytest.raises(errors.SDKError) as unknown:
            _client(simulator, "right").batch.jobs.create(endpoint=ENDPOINT, model="nobody", requests=_rows(make, 1))
        assert json.loads(unknown.value.body)["code"] == "1500"
        with pytest.raises(errors.SDKError) as refused:
            _client(simulator, "wrong").batch.jobs.list()
        assert refused.value.status_code == 401


def test_a_job_that_runs_out_of_time_keeps_what_was_finished(sdk, simulator, make):
    simulator.set_faults({"expire": {"rate": 1, "share": 0.5}})
    job = _ended(sdk, sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=_rows(make, 10)).id)
    assert (job.status, job.succeeded_requests, job.error_file) == ("TIMEOUT_EXCEEDED", 5, None)
    rows = _lines(sdk, job.output_file)
    assert {row["custom_id"] for row in rows} == {bill.custom_id for bill in simulator.ledger().bills}


def test_the_limits_of_a_key_hold_here_too(config, make):
    with RunningSimulator(replace(config, limits=Limits(creates_per_hour=1))) as simulator:
        sdk = _client(simulator)
        assert sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=_rows(make, 1)).id
        with pytest.raises(errors.SDKError) as refused:
            sdk.batch.jobs.create(endpoint=ENDPOINT, model=MODEL, requests=_rows(make, 1))
        assert refused.value.status_code == 429
        assert float(refused.value.headers["retry-after"]) > 0
        assert len(simulator.ledger().batches_created) == 1
