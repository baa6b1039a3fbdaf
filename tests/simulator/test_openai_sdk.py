"""The official SDK, unmodified, completes full rounds on every endpoint and meets the error paths it knows."""

import asyncio
import json
import time

import pytest

from batchmill.agents.simulator import RunningSimulator

openai = pytest.importorskip("openai", reason="the official SDK is a development dependency")

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
ASKED = [{"role": "system", "content": "Classify."}, {"role": "user", "content": "A good film."}]


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


@pytest.fixture
def sdk(simulator):
    with openai.OpenAI(api_key="test", base_url=f"{simulator.base_url}/v1", max_retries=0) as client:
        yield client


def _create(sdk, file, **extra):
    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **extra}
    return sdk.batches.create(**asked)


def _ended(sdk, batch_id):
    for _ in range(1000):
        batch = sdk.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
        time.sleep(0.005)
    raise AssertionError(batch)


def _lines(sdk, file_id):
    return [json.loads(line) for line in sdk.files.content(file_id).text.splitlines()]


def test_a_full_round_with_the_official_sdk(sdk, make, tmp_path):
    path = tmp_path / "input.jsonl"
    path.write_bytes(make.jsonl([make.row(f"row-{n}", f"Text {n}.") for n in range(30)]))
    file = sdk.files.create(file=path, purpose="batch")
    assert (file.purpose, file.bytes, file.filename) == ("batch", path.stat().st_size, "input.jsonl")

    batch = _ended(sdk, _create(sdk, file, metadata={"chunk": "c1"}).id)

    assert (batch.status, batch.metadata, batch.request_counts.completed) == ("completed", {"chunk": "c1"}, 30)
    lines = _lines(sdk, batch.output_file_id)
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


# Every endpoint, alone and in a batch ------------------------------------------------------------------------------


def test_single_calls_on_the_three_endpoints_parse_into_the_sdks_own_types(sdk, simulator, make):
    text = make.row("unused")["body"]["response_format"]["json_schema"]
    chat = sdk.chat.completions.create(model="gpt-4o-mini", messages=ASKED)
    told = sdk.responses.create(
        model="gpt-4o-mini",
        instructions="Classify.",
        input="A good film.",
        text={"format": {"type": "json_schema", **text}},
    )
    many = sdk.responses.create(model="gpt-4o-mini", input=[{"role": "user", "content": "A good film."}])
    vectors = sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two"], dimensions=8)

    assert chat.choices[0].message.content
    assert (told.status, json.loads(told.output_text).keys()) == ("completed", {"label", "confidence", "reason"})
    assert (
        many.output_text
        == sdk.chat.completions.create(model="gpt-4o-mini", messages=ASKED[1:]).choices[0].message.content
    )
    assert [len(each.embedding) for each in vectors.data] == [8, 8]
    assert sum(number**2 for number in vectors.data[0].embedding) == pytest.approx(1)
    assert vectors.data[0].embedding != vectors.data[1].embedding
    bills = simulator.ledger().bills
    assert [bill.input_tokens for bill in bills[:2]] == [chat.usage.prompt_tokens, told.usage.input_tokens]
    assert (bills[3].input_tokens, bills[3].output_tokens) == (vectors.usage.prompt_tokens, 0)
    assert {bill.tier for bill in bills} == {"online"}


def test_an_embedding_is_the_same_packed_or_not_and_as_long_as_its_model_says(sdk):
    packed = sdk.embeddings.create(model="text-embedding-3-large", input="one")
    plain = sdk.embeddings.create(model="text-embedding-3-large", input="one", encoding_format="float")
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=0)
    assert len(plain.data[0].embedding) == 3_072


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (RESPONSES, {"model": "gpt-4o-mini", "input": "A good film.", "max_output_tokens": 500}),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": "A good film.", "dimensions": 4}),
    ],
)
def test_a_batch_round_on_each_other_endpoint_gives_bodies_the_sdk_can_read(sdk, simulator, make, endpoint, body):
    rows = [{"custom_id": f"row-{n}", "method": "POST", "url": endpoint, "body": body} for n in range(5)]
    file = sdk.files.create(file=make.jsonl(rows), purpose="batch")
    batch = _ended(sdk, _create(sdk, file, endpoint=endpoint).id)
    bodies = [line["response"]["body"] for line in _lines(sdk, batch.output_file_id)]
    assert len(bodies) == 5
    if endpoint == RESPONSES:
        read = [openai.types.responses.Response.model_validate(each) for each in bodies]
        assert {each.output_text for each in read} == {sdk.responses.create(**body).output_text}
        assert batch.usage.output_tokens == sum(each.usage.output_tokens for each in read)
    else:
        read = [openai.types.CreateEmbeddingResponse.model_validate(each) for each in bodies]
        alone = sdk.embeddings.create(**body).data[0].embedding
        assert all(each.data[0].embedding == pytest.approx(alone, abs=0) for each in read)
        assert batch.usage.output_tokens == 0
    batched, single = simulator.ledger().bills[0], simulator.ledger().bills[-1]
    assert single.cost_nanos == 2 * batched.cost_nanos


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (RESPONSES, {}, "body.input"),
        (RESPONSES, {"input": []}, "body.input"),
        (EMBEDDINGS, {"input": ""}, "body.input"),
        (EMBEDDINGS, {"input": ["a"] * 2_049}, "body.input"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "body.dimensions"),
    ],
)
def test_a_body_that_an_endpoint_cannot_take_fails_the_batch_at_its_line(sdk, make, endpoint, body, param):
    row = {"custom_id": "row-1", "method": "POST", "url": endpoint, "body": {"model": "gpt-4o-mini", **body}}
    file = sdk.files.create(file=make.jsonl([row]), purpose="batch")
    [error] = _ended(sdk, _create(sdk, file, endpoint=endpoint).id).errors.data
    assert (error.line, error.param) == (1, param)


def test_a_response_can_refuse_or_be_cut_off(sdk, simulator):
    cut = sdk.responses.create(model="gpt-4o-mini", input="A good film that never ends at all.", max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    simulator.set_faults({"refusal": 1})
    refused = sdk.responses.create(model="gpt-4o-mini", input="A good film.")
    assert refused.output[0].content[0].type == "refusal"


# Error paths -------------------------------------------------------------------------------------------------------


def test_the_sdk_honours_retry_after_on_a_429_and_bills_once(sdk, simulator):
    simulator.set_faults({"call_429": {"nth": [1], "seconds": 0.3}})
    began = time.monotonic()
    sdk.with_options(max_retries=1).chat.completions.create(model="gpt-4o-mini", messages=ASKED)
    assert time.monotonic() - began >= 0.3
    ledger = simulator.ledger()
    assert [seen.status for seen in ledger.requests_to("POST", CHAT)] == [429, 200]
    assert len(ledger.bills) == 1


def test_the_sdk_waits_out_a_rate_limit_by_what_it_is_told(sdk, simulator):
    simulator.set_limits({"rates": {"*": {"requests_per_minute": 60}}, "burst_seconds": 1})
    patient = sdk.with_options(max_retries=2)
    for _ in range(2):
        raw = patient.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=ASKED)
        assert raw.headers["x-ratelimit-limit-requests"] == "60"
    assert simulator.limits()["clients"][0]["requests"]["used"] == 2
    with pytest.raises(openai.RateLimitError) as told:
        sdk.chat.completions.create(model="gpt-4o-mini", messages=ASKED)
    assert told.value.code == "rate_limit_exceeded"


def test_the_sdks_own_retries_pay_twice_for_one_answer_where_a_500_comes_after_the_bill(sdk, simulator):
    simulator.set_faults({"call_bill_then_500": {"nth": [1]}})
    sdk.with_options(max_retries=1).chat.completions.create(model="gpt-4o-mini", messages=ASKED)
    assert [bill.delivered for bill in simulator.ledger().bills] == [False, True]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("call_500", "InternalServerError"),
        ("call_503", "InternalServerError"),
        ("call_quota", "RateLimitError"),
        ("call_disconnect", "APIConnectionError"),
        ("call_bill_then_disconnect", "APIConnectionError"),
    ],
)
def test_a_call_that_goes_wrong_is_the_sdks_own_error(sdk, simulator, fault, error):
    simulator.set_faults({fault: 1})
    with pytest.raises(getattr(openai, error)):
        sdk.chat.completions.create(model="gpt-4o-mini", messages=ASKED)


def test_wrong_calls_are_bad_requests_not_found_or_unauthorized(sdk):
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model="gpt-4o-mini", messages=[])
    with pytest.raises(openai.NotFoundError):
        sdk.batches.retrieve("batch_nobody")
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(default_headers={"Authorization": "Basic abc"}).batches.list()


def test_expired_and_cancelled_batches_give_what_was_done_and_name_the_rest(sdk, simulator, make):
    simulator.set_faults({"expire": {"nth": [1], "share": 0.5}})
    file = sdk.files.create(file=make.jsonl([make.row(f"row-{n}") for n in range(10)]), purpose="batch")
    expired = _ended(sdk, _create(sdk, file).id)
    assert (expired.status, len(_lines(sdk, expired.output_file_id))) == ("expired", 5)
    assert {line["error"]["code"] for line in _lines(sdk, expired.error_file_id)} == {"batch_expired"}
    running = _create(sdk, file)
    assert sdk.batches.cancel(running.id).status in {"cancelling", "cancelled"}
    assert _ended(sdk, running.id).status == "cancelled"


# Azure and compatible servers --------------------------------------------------------------------------------------


def test_azures_client_makes_a_round_at_the_v1_address_with_its_own_header_and_an_empty_error_file(simulator, make):
    base_url = f"{simulator.base_url}/openai/v1"
    with openai.AzureOpenAI(api_key="test", base_url=base_url, api_version="preview", max_retries=0) as azure:
        file = azure.files.create(file=make.jsonl([make.row("row-1"), make.row("row-2")]), purpose="batch")
        batch = _ended(azure, _create(azure, file).id)
        assert (batch.status, len(_lines(azure, batch.output_file_id))) == ("completed", 2)
        assert azure.files.content(batch.error_file_id).content == b""
        raw = azure.batches.with_raw_response.retrieve(batch.id)
        assert raw.headers["deployment-enqueued-tokens"] == "0"
    plain = openai.OpenAI(api_key="unused", base_url=base_url, default_headers={"api-key": "test"}, max_retries=0)
    with plain as sdk:
        assert sdk.responses.create(model="gpt-4o-mini", input="A good film.").output_text
    seen = simulator.ledger().requests[-1]
    assert seen.path == "/openai/v1/responses"


async def test_the_async_client_asks_many_things_at_once(simulator):
    base_url = f"{simulator.base_url}/v1"
    async with openai.AsyncOpenAI(api_key="test", base_url=base_url, max_retries=0) as sdk:
        told = await asyncio.gather(
            *(
                sdk.embeddings.create(model="text-embedding-3-small", input=f"Text {n}.", dimensions=4)
                for n in range(50)
            )
        )
    assert len({tuple(each.data[0].embedding) for each in told}) == 50
    assert len(simulator.ledger().bills) == 50


def test_a_compatible_server_has_words_and_habits_of_its_own(sdk, simulator, make):
    simulator.set_faults({"status_scheduling": 1, "absent_keys": 1, "errors_list": 1, "refused_as_500": 1})
    file = sdk.files.create(file=make.jsonl([make.row("row-1")]), purpose="batch")
    raw = sdk.batches.with_raw_response.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    shown = json.loads(raw.text)
    assert shown["status"] == "scheduling"
    assert None not in shown.values()
    assert "output_file_id" not in shown
    assert _ended(sdk, shown["id"]).status == "completed"
    bad = sdk.files.create(file=b"not json\n", purpose="batch")
    failed = sdk.batches.with_raw_response.retrieve(_ended(sdk, _create(sdk, bad).id).id)
    assert [error["code"] for error in json.loads(failed.text)["errors"]] == ["invalid_json_line"]
    with pytest.raises(openai.InternalServerError):
        sdk.batches.retrieve("batch_nobody")
    with pytest.raises(openai.InternalServerError):
        sdk.chat.completions.create(model="gpt-4o-mini", messages=[])
    simulator.set_faults({"refused_as_500": 0, "upload_checks_lines": 1})
    with pytest.raises(openai.BadRequestError, match="Line 2"):
        sdk.files.create(file=make.jsonl([make.row("row-1"), {"custom_id": "row-2"}]), purpose="batch")
    assert sdk.files.create(file=make.jsonl([make.row("row-1")]), purpose="batch").id
