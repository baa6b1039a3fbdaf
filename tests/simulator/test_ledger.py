"""The ledger holds every request and every bill, exactly, whatever the client heard."""

import hashlib
import json
from collections import Counter

import pytest

from batchmill.agents.simulator import Price, ledger_lines, read_ledger


async def test_bills_add_up_to_the_prices_of_the_tokens_to_the_last_nano_dollar(started, make):
    prices = {"gpt-4o-mini": Price(input_nanos=150, output_nanos=600)}
    faults = {"row_500": 0.1, "refusal": 0.1, "row_missing": 0.1, "row_duplicated": 0.1, "malformed_json": 0.1}
    async with started(prices=prices, faults=faults) as client:
        rows = [make.row(f"row-{n}", f"Text number {n} is what it is.") for n in range(300)]
        ended = await client.round(rows, metadata={"chunk": "c1"})
        state = (await client.http.get("/admin/state")).json()
    ledger = client.ledger()

    assert all(bill.cost_nanos == 75 * bill.input_tokens + 300 * bill.output_tokens for bill in ledger.bills)
    assert ledger.cost_nanos == sum(bill.cost_nanos for bill in ledger.bills) == state["cost_nanos"] > 0
    assert ledger.cost_nanos_by_batch() == {ended.batch["id"]: ledger.cost_nanos}
    assert ended.batch["usage"]["input_tokens"] == sum(bill.input_tokens for bill in ledger.bills)
    assert ended.batch["usage"]["output_tokens"] == sum(bill.output_tokens for bill in ledger.bills)
    assert [end.cost_nanos for end in ledger.batches_ended] == [ledger.cost_nanos]
    failed = {line["custom_id"] for line in ended.error}
    assert Counter(bill.custom_id for bill in ledger.bills) == Counter(
        row["custom_id"] for row in rows if row["custom_id"] not in failed
    )
    assert ledger.batches_by_label("chunk") == {"c1": 1}


async def test_a_bill_names_the_request_and_the_result_by_their_hashes(client, make):
    rows = [make.row(f"row-{n}", f"Text {n}.") for n in range(10)]
    ended = await client.round(rows)
    bills = client.ledger().bills_by_custom_id()
    for row in rows:
        [bill] = bills[row["custom_id"]]
        assert bill.request_sha256 == hashlib.sha256(json.dumps(row).encode()).hexdigest()
        assert bill.result_sha256 == hashlib.sha256(ended.contents[row["custom_id"]].encode()).hexdigest()
        assert bill.delivered


async def test_every_request_is_a_line_with_its_ids_before_its_answer_is_read(client, make):
    file_id = (await client.upload([make.row("row-1")])).json()["id"]
    assert client.ledger().requests[-1].file_id == file_id
    batch_id = (await client.create(file_id)).json()["id"]
    last = client.ledger().requests[-1]
    assert (last.method, last.path, last.status, last.batch_id) == ("POST", "/v1/batches", 200, batch_id)
    await client.http.get("/v1/batches/nobody")
    assert client.ledger().requests[-1].status == 404
    await client.http.delete(f"/v1/files/{file_id}")
    assert [gone.file_id for gone in client.ledger().files_deleted] == [file_id]
    client.http.headers.pop("authorization")
    await client.http.get("/v1/batches")
    assert client.ledger().requests[-1].status == 401


async def test_the_ledger_never_holds_a_payload_and_its_numbers_have_no_gap(client, make):
    await client.round([make.row("row-1", "A secret sentence.")], metadata={"chunk": "c1"})
    content = client.ledger_path.read_bytes()
    assert b"secret" not in content
    assert [line["seq"] for line in ledger_lines(client.ledger_path)] == list(range(1, content.count(b"\n") + 1))
    assert (await client.http.get("/admin/ledger")).content == content
    assert client.ledger_path.read_bytes() == content


def test_a_torn_last_line_is_not_read_and_a_mixed_ledger_is_refused(tmp_path):
    path = tmp_path / "ledger.jsonl"
    line = b'{"seq":1,"kind":"file_deleted","at_ms":1,"mono_s":1.0,"file_id":"f"}\n'
    path.write_bytes(line + b'{"seq":2,"ki')
    assert len(read_ledger(path).files_deleted) == 1
    path.write_bytes(line + line)
    with pytest.raises(ValueError, match="edited or mixed"):
        read_ledger(path)
