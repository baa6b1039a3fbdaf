"""One bad line fails the whole batch, with one entry that says where and why, and nothing is billed."""

import json

import pytest


def _with(row, **changes):
    return {**row, **changes}


def _body(row, **changes):
    return {**row, "body": {**row["body"], **changes}}


CASES = [
    ("invalid_json_line", lambda row: b"{not json"),
    ("invalid_json_line", lambda row: b"[1, 2]"),
    ("missing_required_parameter", lambda row: {name: row[name] for name in ("custom_id", "method", "url")}),
    ("missing_required_parameter", lambda row: _with(row, custom_id=None)),
    ("missing_required_parameter", lambda row: _body(row, model=None)),
    ("missing_required_parameter", lambda row: _body(row, messages=None)),
    ("duplicate_custom_id", lambda row: _with(row, custom_id="row-0")),
    ("mismatched_model", lambda row: _body(row, model="gpt-4o")),
    ("invalid_url", lambda row: _with(row, url="/v1/embeddings")),
    ("invalid_method", lambda row: _with(row, method="GET")),
    ("streaming_unsupported", lambda row: _body(row, stream=True)),
    ("invalid_request", lambda row: _with(row, body=[])),
    ("invalid_request", lambda row: _body(row, messages=[])),
]


@pytest.mark.parametrize(("code", "spoil"), CASES)
async def test_a_bad_line_fails_the_batch_with_its_code_and_number(client, make, code, spoil):
    bad = spoil(make.row("row-1"))
    bad = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    content = make.jsonl([make.row("row-0")]) + bad + b"\n" + make.jsonl([make.row("row-2")])

    ended = await client.round(content)

    assert ended.status == "failed"
    [entry] = ended.batch["errors"]["data"]
    assert (entry["code"], entry["line"]) == (code, 2)
    assert ended.batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert (ended.batch["output_file_id"], ended.batch["error_file_id"]) == (None, None)
    assert ended.batch["failed_at"] is not None
    ledger = client.ledger()
    assert ledger.bills == ()
    assert [(end.status, end.code) for end in ledger.batches_ended] == [("failed", code)]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
async def test_an_empty_file_fails_the_batch(client, content):
    ended = await client.round(content)
    assert [entry["code"] for entry in ended.batch["errors"]["data"]] == ["empty_file"]


async def test_too_many_rows_fail_the_batch(started, make):
    async with started(batch_rows_max=3) as client:
        ended = await client.round([make.row(f"row-{n}") for n in range(4)])
        assert [entry["code"] for entry in ended.batch["errors"]["data"]] == ["too_many_tasks"]


async def test_a_model_without_a_price_does_not_exist_when_there_is_no_fallback(started, make):
    async with started(fallback_price=None) as client:
        ended = await client.round([make.row("row-1", model="nobody")])
        assert [entry["code"] for entry in ended.batch["errors"]["data"]] == ["model_not_found"]


async def test_custom_ids_may_be_long_and_in_any_script(client, make):
    names = ["Ω" * 150, "id with spaces", "行-1"]
    ended = await client.round([make.row(name) for name in names])
    assert {line["custom_id"] for line in ended.output} == set(names)


async def test_the_last_line_needs_no_line_end_and_windows_line_ends_do_no_harm(client, make):
    content = make.jsonl([make.row(f"row-{n}") for n in range(3)]).replace(b"\n", b"\r\n").rstrip()
    ended = await client.round(content)
    assert len(ended.output) == 3
