"""The official google-genai SDK, unmodified: full rounds by file and inline, and the errors it knows."""

import json
from dataclasses import replace

import httpx
import pytest

from batchmill.agents.simulator import RunningSimulator
from batchmill.agents.simulator.limits import Limits

genai = pytest.importorskip("google.genai", reason="the official SDK is a development dependency")
errors = pytest.importorskip("google.genai.errors")

MODEL = "gemini-2.5-flash"
ENDED = {"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"}
SCHEMA = {"type": "OBJECT", "properties": {"label": {"type": "STRING", "enum": ["pos", "neg"]}}, "required": ["label"]}


@pytest.fixture
def simulator(config):
    with RunningSimulator(config) as simulator:
        yield simulator


@pytest.fixture
def sdk(simulator):
    return genai.Client(api_key="test", http_options={"base_url": f"{simulator.base_url}/gemini"})


def _request(text, **config):
    config = {"responseMimeType": "application/json", "responseSchema": SCHEMA} | config
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}


def _uploaded(sdk, path, count, **config):
    rows = [{"key": f"row-{n}", "request": _request(f"Text {n}.", **config)} for n in range(count)]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return sdk.files.upload(file=path, config={"display_name": "input", "mime_type": "application/jsonl"})


def _ended(sdk, name):
    for _ in range(1000):
        batch = sdk.batches.get(name=name)
        if batch.state.name in ENDED:
            return batch
    raise AssertionError(batch)


def _inline(count):
    return [
        {
            "contents": [{"role": "user", "parts": [{"text": f"Text {n}."}]}],
            "metadata": {"key": f"row-{n}", "part": "a"},
            "config": {"response_mime_type": "application/json", "response_schema": SCHEMA},
        }
        for n in range(count)
    ]


def test_a_full_round_by_file_with_the_official_sdk(sdk, simulator, tmp_path):
    file = _uploaded(sdk, tmp_path / "input.jsonl", 30)
    assert (file.size_bytes, file.display_name, file.state.name) == (
        (tmp_path / "input.jsonl").stat().st_size,
        "input",
        "ACTIVE",
    )

    made = sdk.batches.create(model=MODEL, src=file.name, config={"display_name": "c1"})
    assert made.state.name == "JOB_STATE_PENDING"
    batch = _ended(sdk, made.name)

    assert (batch.state.name, batch.display_name, batch.model) == ("JOB_STATE_SUCCEEDED", "c1", f"models/{MODEL}")
    rows = [json.loads(line) for line in sdk.files.download(file=batch.dest.file_name).splitlines()]
    assert len({row["key"] for row in rows}) == 30
    assert [row["key"] for row in rows] != [f"row-{n}" for n in range(30)]
    for row in rows:
        [candidate] = row["response"]["candidates"]
        assert candidate["finishReason"] == "STOP"
        assert json.loads(candidate["content"]["parts"][0]["text"])["label"] in {"pos", "neg"}
    bills = simulator.ledger().bills
    told = [row["response"]["usageMetadata"] for row in rows]
    assert sum(bill.output_tokens for bill in bills) == sum(usage["candidatesTokenCount"] for usage in told)
    assert {bill.model for bill in bills} == {MODEL}


def test_an_input_file_is_sent_in_pieces_and_gone_once_it_is_deleted(sdk, simulator, tmp_path):
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"x" * (9 * 2**20))  # the SDK sends eight mebibytes at a time
    file = sdk.files.upload(file=path, config={"mime_type": "application/jsonl"})
    assert file.size_bytes == path.stat().st_size
    assert [each.name for each in sdk.files.list()] == [file.name]
    with pytest.raises(errors.ClientError) as refused:
        sdk.files.download(file=file.name)
    assert refused.value.status == "INVALID_ARGUMENT"
    sdk.files.delete(name=file.name)
    for look in (lambda: sdk.files.get(name=file.name), lambda: sdk.batches.create(model=MODEL, src=file.name)):
        with pytest.raises(errors.ClientError):
            look()
    assert simulator.ledger().batches_created == ()


def test_a_full_round_inline_tells_responses_apart_by_their_metadata(sdk):
    made = sdk.batches.create(model=MODEL, src=_inline(20), config={"display_name": "inline"})
    batch = _ended(sdk, made.name)
    told = [response.metadata for response in batch.dest.inlined_responses]
    assert {metadata["key"] for metadata in told} == {f"row-{n}" for n in range(20)}
    assert [metadata["key"] for metadata in told] != [f"row-{n}" for n in range(20)]
    assert {metadata["part"] for metadata in told} == {"a"}
    assert all(json.loads(each.response.text)["label"] for each in batch.dest.inlined_responses)
    assert list(sdk.files.list()) == [] or all(each.source.name == "GENERATED" for each in sdk.files.list())


def test_inline_metadata_can_be_missing_and_errors_come_in_place_of_responses(sdk, simulator):
    simulator.set_faults({"inline_metadata_missing": {"nth": [1]}, "row_429": {"nth": [2]}})
    batch = _ended(sdk, sdk.batches.create(model=MODEL, src=_inline(3), config={"display_name": "x"}).name)
    rows = batch.dest.inlined_responses
    assert [row.metadata for row in rows] == [None] * 3
    assert [row.error.code for row in rows if row.error is not None] == [8]
    assert sum(row.response is not None for row in rows) == 2


def test_the_sdk_lists_over_pages_and_deletes(sdk, tmp_path):
    file = _uploaded(sdk, tmp_path / "input.jsonl", 1)
    made = [sdk.batches.create(model=MODEL, src=file.name, config={"display_name": f"n{n}"}) for n in range(5)]
    listed = list(sdk.batches.list(config={"page_size": 2}))
    assert [batch.display_name for batch in listed] == ["n4", "n3", "n2", "n1", "n0"]
    _ended(sdk, made[0].name)
    sdk.batches.delete(name=made[0].name)
    with pytest.raises(errors.ClientError) as gone:
        sdk.batches.get(name=made[0].name)
    assert gone.value.status == "NOT_FOUND"
    assert len(list(sdk.batches.list())) == 4


def test_a_cancel_ends_a_batch_at_once_and_only_once(config):
    with RunningSimulator(replace(config, latency_seconds=(20, 20))) as simulator:
        sdk = genai.Client(api_key="any", http_options={"base_url": f"{simulator.base_url}/gemini"})
        made = sdk.batches.create(model=MODEL, src=_inline(5), config={"display_name": "x"})
        for _ in range(1000):
            if sdk.batches.get(name=made.name).state.name == "JOB_STATE_RUNNING":
                break
        sdk.batches.cancel(name=made.name)
        assert sdk.batches.get(name=made.name).state.name == "JOB_STATE_CANCELLED"
        with pytest.raises(errors.ClientError) as refused:
            sdk.batches.cancel(name=made.name)
        assert (refused.value.code, refused.value.status) == (400, "FAILED_PRECONDITION")


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        ("reject_429", 429, "RESOURCE_EXHAUSTED"),
        ("reject_quota", 429, "RESOURCE_EXHAUSTED"),
        ("reject_billing", 403, "PERMISSION_DENIED"),
        ("reject_overloaded", 503, "UNAVAILABLE"),
        ("reject_500", 500, "INTERNAL"),
        ("accept_then_503", 503, "UNAVAILABLE"),
    ],
)
def test_refusals_of_a_create_are_in_the_form_the_sdk_reads(sdk, simulator, fault, code, status):
    simulator.set_faults({fault: 1})
    with pytest.raises(errors.APIError) as refused:
        sdk.batches.create(model=MODEL, src=_inline(1), config={"display_name": "x"})
    assert (refused.value.code, refused.value.status) == (code, status)
    assert len(simulator.ledger().batches_created) == (fault == "accept_then_503")


def test_an_unknown_model_and_a_missing_key_are_refused(config, tmp_path):
    with RunningSimulator(replace(config, fallback_price=None, api_key="right")) as simulator:
        right = genai.Client(api_key="right", http_options={"base_url": f"{simulator.base_url}/gemini"})
        with pytest.raises(errors.ClientError) as unknown:
            right.batches.create(model="gemini-nobody", src=_inline(1), config={"display_name": "x"})
        assert unknown.value.status == "NOT_FOUND"
        wrong = genai.Client(api_key="wrong", http_options={"base_url": f"{simulator.base_url}/gemini"})
        with pytest.raises(errors.ClientError) as refused:
            list(wrong.batches.list())
        assert refused.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"


def test_a_schema_in_the_other_form_is_answered_with_noise_when_told_to(sdk, simulator, tmp_path):
    simulator.set_faults({"json_schema_degenerate": 1})
    plain = {"type": "object", "properties": {"label": {"type": "string"}}}
    for config, is_sound in (({}, True), ({"responseSchema": None, "responseJsonSchema": plain}, False)):
        file = _uploaded(sdk, tmp_path / "input.jsonl", 1, **config)
        batch = _ended(sdk, sdk.batches.create(model=MODEL, src=file.name, config={"display_name": "x"}).name)
        [row] = [json.loads(line) for line in sdk.files.download(file=batch.dest.file_name).splitlines()]
        text = row["response"]["candidates"][0]["content"]["parts"][0]["text"]
        if is_sound:
            assert json.loads(text)["label"] in {"pos", "neg"}
        else:
            with pytest.raises(json.JSONDecodeError):
                json.loads(text)


def test_an_expired_batch_has_no_results_and_bills_nothing(sdk, simulator, tmp_path):
    simulator.set_faults({"expire": {"rate": 1, "share": 0.5}})
    file = _uploaded(sdk, tmp_path / "input.jsonl", 10)
    batch = _ended(sdk, sdk.batches.create(model=MODEL, src=file.name, config={"display_name": "x"}).name)
    assert (batch.state.name, batch.dest) == ("JOB_STATE_EXPIRED", None)
    assert simulator.ledger().bills == ()


def test_a_request_that_cannot_be_read_fails_by_itself(sdk, tmp_path):
    path = tmp_path / "input.jsonl"
    odd = SCHEMA | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    rows = [
        {"key": "good", "request": _request("Text.")},
        {"key": "odd schema", "request": _request("Text.", responseSchema=odd)},
        {"key": "no contents", "request": {}},
    ]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    file = sdk.files.upload(file=path, config={"mime_type": "application/jsonl"})
    batch = _ended(sdk, sdk.batches.create(model=MODEL, src=file.name, config={"display_name": "x"}).name)
    found = [json.loads(line) for line in sdk.files.download(file=batch.dest.file_name).splitlines()]
    codes = {row["key"]: row.get("error", {}).get("code") for row in found}
    assert codes == {"good": None, "odd schema": 3, "no contents": 3}


def test_a_batch_without_requests_fails_as_a_whole_and_says_why(simulator, sdk, tmp_path):
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"not json\n")
    file = sdk.files.upload(file=path, config={"mime_type": "application/jsonl"})
    made = sdk.batches.create(model=MODEL, src=file.name, config={"display_name": "x"})
    assert _ended(sdk, made.name).state.name == "JOB_STATE_FAILED"
    shown = httpx.get(f"{simulator.base_url}/gemini/v1beta/{made.name}", params={"key": "any"}).json()
    assert (shown["done"], shown["error"]["code"]) == (True, 3)
    assert "response" not in shown


def test_the_limits_of_a_key_hold_here_too(config):
    with RunningSimulator(replace(config, limits=Limits(creates_per_hour=1))) as simulator:
        sdk = genai.Client(api_key="any", http_options={"base_url": f"{simulator.base_url}/gemini"})
        assert sdk.batches.create(model=MODEL, src=_inline(1), config={"display_name": "x"}).name
        with pytest.raises(errors.ClientError) as refused:
            sdk.batches.create(model=MODEL, src=_inline(1), config={"display_name": "x"})
        assert refused.value.status == "RESOURCE_EXHAUSTED"
        assert refused.value.details["error"]["details"][0]["retryDelay"].endswith("s")
        assert len(simulator.ledger().batches_created) == 1
