"""The contract of each endpoint, as PROVIDERS say the real service behaves."""

import json

import pytest


async def test_a_batch_goes_from_upload_to_answers_in_the_shapes_of_the_real_service(client, make):
    rows = [make.row(f"row-{n}", f"Sentence number {n} was fine.") for n in range(20)]
    created = await client.open(rows, metadata={"chunk": "c1", "sha256": "abc"})
    assert created["status"] == "validating"
    assert created["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert created["expires_at"] - created["created_at"] == 86_400

    ended = await client.ended(created["id"])

    assert ended.batch["status"] == "completed"
    assert ended.batch["metadata"] == {"chunk": "c1", "sha256": "abc"}
    assert ended.batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert ended.batch["error_file_id"] is None
    assert ended.batch["model"] == "gpt-4o-mini"
    assert {line["custom_id"] for line in ended.output} == {row["custom_id"] for row in rows}
    for line in ended.output:
        body = line["response"]["body"]
        answer = json.loads(body["choices"][0]["message"]["content"])
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        assert body["choices"][0]["finish_reason"] == "stop"
        assert answer.keys() == {"label", "confidence", "reason"}
        assert answer["label"] in {"pos", "neg", "neu"}
    told = [line["response"]["body"]["usage"] for line in ended.output]
    assert ended.batch["usage"]["input_tokens"] == sum(usage["prompt_tokens"] for usage in told)
    assert ended.batch["usage"]["output_tokens"] == sum(usage["completion_tokens"] for usage in told)


async def test_the_same_text_gets_the_same_answer_under_another_id_in_another_batch(client, make):
    first = await client.round([make.row("a-1", "An even temper.")])
    second = await client.round([make.row("b-2", "An even temper.")])
    assert first.contents["a-1"] == second.contents["b-2"]


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic abc"}, {"authorization": "Bearer"}])
async def test_a_request_without_a_bearer_token_is_refused_with_401(client, headers):
    client.http.headers.pop("authorization")
    answer = await client.http.get("/v1/batches", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_a_configured_key_is_the_only_one_accepted(started):
    async with started(api_key="right") as client:
        assert (await client.http.get("/v1/batches")).json()["error"]["code"] == "invalid_api_key"
        right = {"authorization": "Bearer right"}
        assert (await client.http.get("/v1/batches", headers=right)).status_code == 200


async def test_a_file_is_kept_byte_for_byte_and_can_be_read_listed_and_deleted(client, make):
    content = make.jsonl([make.row("row-1", "Grüße, 你好 \u2028 --boundary-like\r\n--")])
    file = (await client.upload(content)).json()
    assert (file["object"], file["bytes"], file["purpose"]) == ("file", len(content), "batch")
    assert (await client.http.get(f"/v1/files/{file['id']}")).json() == file
    assert (await client.http.get(f"/v1/files/{file['id']}/content")).content == content
    assert [item["id"] for item in (await client.http.get("/v1/files")).json()["data"]] == [file["id"]]

    deleted = await client.http.delete(f"/v1/files/{file['id']}")

    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    for gone in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
        assert (await client.http.get(gone)).status_code == 404


async def test_a_create_on_a_deleted_file_is_refused_and_makes_nothing(client, make):
    file_id = (await client.upload([make.row("row-1")])).json()["id"]
    await client.http.delete(f"/v1/files/{file_id}")
    answer = await client.create(file_id)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input_file_id"
    assert client.ledger().batches_created == ()


async def test_a_batch_ends_well_although_its_input_was_deleted_while_it_ran(client, make):
    batch = await client.open([make.row("row-1")])
    await client.http.delete(f"/v1/files/{batch['input_file_id']}")
    ended = await client.ended(batch["id"])
    assert (ended.status, len(ended.output)) == ("completed", 1)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/unknown"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": None}, "input_file_id"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata"),
    ],
)
async def test_a_create_with_a_wrong_parameter_is_refused_by_its_name(client, make, change, param):
    file_id = (await client.upload([make.row("row-1")])).json()["id"]
    answer = await client.create(**{"file_id": file_id, **change})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert client.ledger().batches_created == ()


async def test_an_upload_is_refused_without_a_file_with_another_purpose_or_too_large(started):
    async with started(upload_bytes_max=1000) as client:
        files = {"file": ("input.jsonl", b"{}\n")}
        other = await client.http.post("/v1/files", data={"purpose": "fine-tune"}, files=files)
        none = await client.http.post("/v1/files", data={"purpose": "batch"}, files={"other": b"x"})
        large = await client.upload(b"x" * 1001)
        no_form = await client.http.post("/v1/files", json={"purpose": "batch"})
        assert [answer.status_code for answer in (other, none, large, no_form)] == [400, 400, 413, 400]
        assert client.ledger().files_created == ()


async def test_the_list_is_paged_newest_first_and_complete(client, make):
    made = [(await client.open([make.row(f"row-{n}")]))["id"] for n in range(7)]
    seen, after = [], None
    for _ in range(4):
        query = {"limit": 3} | ({"after": after} if after else {})
        page = (await client.http.get("/v1/batches", params=query)).json()
        seen += [batch["id"] for batch in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == made[::-1]
    assert (await client.http.get("/v1/batches", params={"limit": 0})).status_code == 400
    assert (await client.http.get("/v1/batches", params={"after": "batch_nobody"})).status_code == 404


async def test_unknown_things_are_404(client):
    for path in ("/v1/batches/batch_nobody", "/v1/files/file-nobody", "/v1/files/file-nobody/content"):
        answer = await client.http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]
    assert (await client.http.post("/v1/batches/batch_nobody/cancel")).status_code == 404


async def test_a_cancelled_batch_delivers_and_bills_what_was_done_and_names_the_rest(started, make):
    async with started(latency_seconds=(1.0, 1.0)) as client:
        batch = await client.open([make.row(f"row-{n}", f"Text {n}.") for n in range(100)])
        await client.until(batch["id"], lambda batch: batch["request_counts"]["completed"] >= 5)
        asked = (await client.http.post(f"/v1/batches/{batch['id']}/cancel")).json()
        assert asked["status"] == "cancelling"

        ended = await client.ended(batch["id"])

        assert ended.status == "cancelled"
        assert len(ended.output) >= 5
        assert len(ended.output) + len(ended.error) == 100
        assert {line["error"]["code"] for line in ended.error} == {"batch_cancelled"}
        assert {line["response"] for line in ended.error} == {None}
        assert {bill.custom_id for bill in client.ledger().bills} == {line["custom_id"] for line in ended.output}
        assert (await client.http.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 409


async def test_a_batch_cancelled_while_validating_ends_at_once_without_files_or_bills(started, make):
    async with started(validating_seconds=5) as client:
        batch = await client.open([make.row("row-1")])
        asked = (await client.http.post(f"/v1/batches/{batch['id']}/cancel")).json()
        assert (asked["status"], asked["output_file_id"], asked["error_file_id"]) == ("cancelled", None, None)
        assert client.ledger().bills == ()
        assert [end.status for end in client.ledger().batches_ended] == ["cancelled"]


async def test_a_cancel_that_comes_while_finalizing_loses_the_race(started, make):
    async with started(finalizing_seconds=0.5) as client:
        batch = await client.open([make.row("row-1")])
        await client.until(batch["id"], lambda batch: batch["status"] == "finalizing")
        assert (await client.http.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 200
        assert (await client.ended(batch["id"])).status == "completed"


async def test_timestamps_follow_the_life(client, make):
    batch = (await client.round([make.row("row-1")])).batch
    times = [batch[name] for name in ("created_at", "in_progress_at", "finalizing_at", "completed_at")]
    assert times == sorted(times)
    assert [batch[name] for name in ("failed_at", "expired_at", "cancelling_at", "cancelled_at")] == [None] * 4


async def test_how_likely_each_token_was_is_told_when_it_is_asked_for(client, make):
    asked, silent = make.row("asked", "An even temper."), make.row("silent", "An even temper.")
    asked["body"]["logprobs"] = True
    ended = await client.ended((await client.open([asked, silent]))["id"])
    choices = {line["custom_id"]: line["response"]["body"]["choices"][0] for line in ended.output}
    tokens = choices["asked"]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == choices["asked"]["message"]["content"]
    assert all(-1.2 <= token["logprob"] <= 0 for token in tokens)
    assert choices["silent"]["logprobs"] is None
    assert choices["silent"]["message"] == choices["asked"]["message"]
