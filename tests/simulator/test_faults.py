"""Every fault does what its line in the table says, and nothing else."""

import json

import httpx
import pytest

from batchmill.agents.simulator import FAULTS

ALWAYS = {"rate": 1}


def _rows(make, count=20):
    return [make.row(f"row-{n}", f"Text number {n} here.") for n in range(count)]


# Requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "status"), [("accept_then_500", 500), ("accept_then_503", 503)])
async def test_accept_then_error_answers_badly_and_the_batch_lives_under_its_label(started, make, fault, status):
    async with started(faults={fault: {"nth": [1]}}) as client:
        file_id = (await client.upload(_rows(make))).json()["id"]
        answer = await client.create(file_id, metadata={"chunk": "c7"})
        assert answer.status_code == status

        [found] = (await client.http.get("/v1/batches")).json()["data"]

        assert found["metadata"] == {"chunk": "c7"}
        assert (await client.ended(found["id"])).status == "completed"
        ledger = client.ledger()
        assert ledger.batches_by_label("chunk") == {"c7": 1}
        [seen] = ledger.requests_to("POST", "/v1/batches")
        assert (seen.status, seen.fault, seen.batch_id) == (status, fault, found["id"])
        assert (await client.create(file_id)).status_code == 200


@pytest.mark.parametrize(
    "rule", [{"accept_then_disconnect": ALWAYS}, {"accept_then_hang": {"rate": 1, "seconds": 0.2}}]
)
async def test_accept_then_silence_drops_the_connection_and_the_batch_lives(started, make, rule):
    async with started(faults=rule) as client:
        file_id = (await client.upload(_rows(make))).json()["id"]
        with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending a response"):
            await client.create(file_id)
        [found] = (await client.http.get("/v1/batches")).json()["data"]
        assert (await client.ended(found["id"])).status == "completed"
        [seen] = client.ledger().requests_to("POST", "/v1/batches")
        assert (seen.status, seen.batch_id) == (0, found["id"])


async def test_a_hanging_create_is_alive_on_the_other_side_while_the_client_gives_up(started, make):
    async with started(faults={"accept_then_hang": {"rate": 1, "seconds": 60}}) as client:
        file_id = (await client.upload(_rows(make))).json()["id"]
        client.http.timeout = httpx.Timeout(0.3)
        with pytest.raises(httpx.ReadTimeout):
            await client.create(file_id)
        assert len(client.ledger().batches_created) == 1


async def test_rejections_create_nothing_and_429_says_when_to_come_again(started, make):
    rules = {"reject_429": {"nth": [1], "seconds": 7}, "reject_quota": {"nth": [2]}, "reject_500": {"nth": [3]}}
    async with started(faults=rules) as client:
        file_id = (await client.upload(_rows(make))).json()["id"]
        throttled, quota, broken = [await client.create(file_id) for _ in range(3)]
        assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "7")
        assert throttled.json()["error"]["code"] == "rate_limit_exceeded"
        assert (quota.status_code, quota.json()["error"]["type"]) == (429, "insufficient_quota")
        assert "retry-after" not in quota.headers
        assert broken.status_code == 500
        assert client.ledger().batches_created == ()
        assert (await client.create(file_id)).status_code == 200


async def test_failed_uploads_leave_no_file_and_the_accepted_one_does(started, make, config):
    rules = {"upload_500": {"nth": [1]}, "upload_disconnect": {"nth": [2]}, "upload_accept_then_500": {"nth": [3]}}
    async with started(faults=rules) as client:
        assert (await client.upload(_rows(make))).status_code == 500
        with pytest.raises((httpx.RemoteProtocolError, httpx.WriteError, httpx.ReadError)):
            await client.upload(_rows(make, 2000))
        assert client.ledger().files_created == ()
        assert (await client.upload(_rows(make))).status_code == 500
        assert len(client.ledger().files_created) == 1
        assert list(config.data_dir.glob("upload-*")) == []


async def test_a_download_breaks_half_way_or_answers_500_and_is_whole_the_next_time(client, make):
    content = make.jsonl(_rows(make, 500))
    file_id = (await client.upload(content)).json()["id"]
    await client.faults(download_disconnect={"nth": [1]}, download_500={"nth": [2]})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        await client.http.get(f"/v1/files/{file_id}/content")
    assert (await client.http.get(f"/v1/files/{file_id}/content")).status_code == 500
    assert (await client.http.get(f"/v1/files/{file_id}/content")).content == content


async def test_reads_lists_and_cancels_can_fail_while_the_batch_goes_on(started, make):
    rules = {"retrieve_500": {"nth": [1]}, "retrieve_404": {"nth": [2]}, "list_500": {"nth": [1]}, "cancel_500": ALWAYS}
    async with started(faults=rules, latency_seconds=(5, 5)) as client:
        batch = await client.open(_rows(make))
        path = f"/v1/batches/{batch['id']}"
        assert [(await client.http.get(path)).status_code for _ in range(3)] == [500, 404, 200]
        assert [(await client.http.get("/v1/batches")).status_code for _ in range(2)] == [500, 200]
        assert (await client.http.post(f"{path}/cancel")).status_code == 500
        assert (await client.ended(batch["id"])).status == "cancelled"


# Batches -----------------------------------------------------------------------------------------------------------


async def test_a_batch_over_the_token_limit_is_accepted_and_then_fails(started, make):
    async with started(faults={"token_limit_exceeded": {"nth": [1]}}) as client:
        ended = await client.round(_rows(make))
        assert ended.status == "failed"
        assert [entry["code"] for entry in ended.batch["errors"]["data"]] == ["token_limit_exceeded"]
        assert client.ledger().bills == ()
        assert (await client.round(_rows(make))).status == "completed"


async def test_an_expired_batch_delivers_a_share_and_bills_only_that(started, make):
    async with started(faults={"expire": {"rate": 1, "share": 0.25}}) as client:
        ended = await client.round(_rows(make))
        assert (ended.status, len(ended.output), len(ended.error)) == ("expired", 15, 5)
        assert ended.batch["expired_at"] is not None
        assert {line["error"]["code"] for line in ended.error} == {"batch_expired"}
        assert len(client.ledger().bills) == 15


async def test_results_are_shuffled_unless_that_is_turned_off(client, make):
    rows = _rows(make, 50)
    shuffled = await client.round(rows)
    await client.faults(shuffled=0)
    straight = await client.round(rows)
    asked = [row["custom_id"] for row in rows]
    assert [line["custom_id"] for line in shuffled.output] != asked
    assert [line["custom_id"] for line in straight.output] == asked


async def test_a_lagging_list_misses_a_batch_that_can_be_read_by_its_id(client, make):
    await client.faults(list_lag={"nth": [1], "seconds": 600})
    hidden, shown = [await client.open(_rows(make)) for _ in range(2)]
    listed = (await client.http.get("/v1/batches")).json()["data"]
    assert [batch["id"] for batch in listed] == [shown["id"]]
    assert (await client.http.get(f"/v1/batches/{hidden['id']}")).status_code == 200


async def test_completed_may_be_shown_before_the_output_file_id(client, make):
    await client.faults(late_output_file={"nth": [1], "seconds": 0.5})
    batch = await client.open(_rows(make))
    early = await client.until(batch["id"], lambda batch: batch["status"] == "completed")
    assert (early["output_file_id"], early["error_file_id"]) == (None, None)
    late = await client.until(batch["id"], lambda batch: batch["output_file_id"])
    assert len(await client.lines(late["output_file_id"])) == 20


async def test_a_clean_batch_may_have_an_empty_error_file_id_or_an_empty_error_file(client, make):
    await client.faults(empty_error_file_id={"nth": [1]}, empty_error_file={"nth": [2]})
    first, second = [await client.round(_rows(make)) for _ in range(2)]
    assert first.batch["error_file_id"] == ""
    content = await client.http.get(f"/v1/files/{second.batch['error_file_id']}/content")
    assert (content.status_code, content.content) == (200, b"")


async def test_a_flapping_batch_shows_in_progress_once_after_its_end(client, make):
    await client.faults(status_flap={"nth": [1]})
    batch = await client.open(_rows(make))
    await client.until(batch["id"], lambda batch: batch["status"] == "completed")
    second, third = await client.batch(batch["id"]), await client.batch(batch["id"])
    assert (second["status"], second["output_file_id"], second["completed_at"]) == ("in_progress", None, None)
    assert third["status"] == "completed"
    assert third["output_file_id"]


async def test_an_ignored_cancel_shows_cancelling_and_completes(started, make):
    async with started(faults={"cancel_ignored": ALWAYS}, latency_seconds=(0.4, 0.4)) as client:
        batch = await client.open(_rows(make))
        await client.until(batch["id"], lambda batch: batch["status"] == "in_progress")
        asked = await client.http.post(f"/v1/batches/{batch['id']}/cancel")
        assert asked.json()["status"] == "cancelling"
        ended = await client.ended(batch["id"])
        assert (ended.status, len(ended.output)) == ("completed", 20)


async def test_a_cancelled_batch_may_lose_rows_it_has_billed(started, make):
    async with started(faults={"cancel_loses_finished": ALWAYS}, latency_seconds=(0.5, 0.5)) as client:
        batch = await client.open(_rows(make))
        await client.until(batch["id"], lambda batch: batch["request_counts"]["completed"] >= 3)
        await client.http.post(f"/v1/batches/{batch['id']}/cancel")
        ended = await client.ended(batch["id"])
        assert (ended.status, ended.output, len(ended.error)) == ("cancelled", [], 20)
        assert ended.batch["request_counts"]["completed"] == 0
        bills = client.ledger().bills
        assert len(bills) >= 3
        assert not any(bill.delivered for bill in bills)


# Rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "status"), [("row_400", 400), ("row_429", 429), ("row_500", 500)])
async def test_a_failed_row_lies_in_the_error_file_with_its_status_and_is_not_billed(started, make, fault, status):
    async with started(faults={fault: {"nth": [3]}}) as client:
        ended = await client.round(_rows(make))
        [failed] = ended.error
        assert failed["custom_id"] == "row-2"
        assert (failed["error"], failed["response"]["status_code"]) == (None, status)
        assert "usage" not in failed["response"]["body"]
        assert ended.batch["request_counts"] == {"total": 20, "completed": 19, "failed": 1}
        assert "row-2" not in client.ledger().bills_by_custom_id()


async def test_a_transient_failure_spares_the_retry_and_a_permanent_one_strikes_the_text_again(started, make):
    rules = {"row_500": 0.3, "row_400": 0.2}
    async with started(faults=rules) as client:
        first = await client.round([make.row(f"try1-{n}", f"Text {n}.") for n in range(200)])
        second = await client.round([make.row(f"try2-{n}", f"Text {n}.") for n in range(200)])

    def struck(ended, status):
        found = (line for line in ended.error if line["response"]["status_code"] == status)
        return {line["custom_id"].partition("-")[2] for line in found}

    assert struck(first, 400) == struck(second, 400) != set()
    assert struck(first, 500) != struck(second, 500)
    assert 30 < len(struck(first, 500)) < 70


async def test_a_batch_whose_rows_all_failed_completes_without_an_output_file(started, make):
    async with started(faults={"row_500": ALWAYS}) as client:
        ended = await client.round(_rows(make))
        assert (ended.status, ended.batch["output_file_id"], len(ended.error)) == ("completed", None, 20)
        assert client.ledger().bills == ()


async def test_a_status_0_row_lies_in_the_error_file_and_counts_as_completed(started, make):
    async with started(faults={"row_status_0": {"nth": [1]}}) as client:
        ended = await client.round(_rows(make))
        assert ended.error[0]["response"] == {"status_code": 0, "request_id": "", "body": {}}
        assert ended.batch["request_counts"]["failed"] == 0


async def test_rows_go_missing_come_twice_or_come_from_nowhere_and_are_billed_once(started, make):
    rules = {"row_missing": {"nth": [1]}, "row_duplicated": {"nth": [2]}, "row_unknown": {"nth": [3]}}
    async with started(faults=rules) as client:
        ended = await client.round(_rows(make, 5))
        ids = [line["custom_id"] for line in ended.output]
        assert sorted(name for name in ids if name.startswith("row-")) == ["row-1", "row-1", "row-2", "row-3", "row-4"]
        assert len([name for name in ids if name.startswith("unknown-")]) == 1
        bills = client.ledger().bills_by_custom_id()
        assert {name: len(found) for name, found in bills.items()} == {f"row-{n}": 1 for n in range(5)}
        assert [name for name, [bill] in bills.items() if not bill.delivered] == ["row-0"]


async def test_lines_can_be_cut_or_hold_bytes_that_are_not_utf8(started, make):
    async with started(faults={"row_broken_line": {"nth": [1]}, "row_not_utf8": {"nth": [2]}, "shuffled": 0}) as client:
        batch = await client.open(_rows(make, 3))
        done = await client.until(batch["id"], lambda batch: batch["output_file_id"])
        content = (await client.http.get(f"/v1/files/{done['output_file_id']}/content")).content
        broken, bad, good = content.splitlines()
        with pytest.raises(json.JSONDecodeError):
            json.loads(broken)
        with pytest.raises(UnicodeDecodeError):
            bad.decode()
        assert json.loads(good)["custom_id"] == "row-2"


async def test_answers_can_be_refused_cut_emptied_malformed_or_against_the_schema(started, make):
    names = ["refusal", "truncated", "empty_content", "malformed_json", "schema_violation", "usage_absent"]
    rules = {name: {"nth": [line]} for line, name in enumerate(names, start=1)}
    async with started(faults={**rules, "shuffled": 0}) as client:
        ended = await client.round(_rows(make, 6))
        bodies = [line["response"]["body"] for line in ended.output]
        choices = [body["choices"][0] for body in bodies]
        refusal, truncated, empty, malformed, violating, silent = [choice["message"] for choice in choices]
        assert refusal["content"] is None
        assert refusal["refusal"]
        assert [choice["finish_reason"] for choice in choices] == ["stop", "length", "length", "stop", "stop", "stop"]
        assert empty["content"] == ""
        for text in (truncated["content"], malformed["content"]):
            with pytest.raises(json.JSONDecodeError):
                json.loads(text)
        assert not set(make.schema["required"]) <= set(json.loads(violating["content"]))
        assert json.loads(silent["content"]).keys() == {"label", "confidence", "reason"}
        assert ["usage" in body for body in bodies] == [True] * 5 + [False]
        assert len(client.ledger().bills) == 6


async def test_an_answer_longer_than_the_request_allows_ends_with_length(client, make):
    ended = await client.round([make.row("row-1", "One two three.", max_completion_tokens=3)])
    body = ended.output[0]["response"]["body"]
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


# Switching ---------------------------------------------------------------------------------------------------------


async def test_faults_are_switched_at_run_time_and_put_back(client):
    shown = (await client.http.get("/admin/faults")).json()
    assert shown.keys() == {"shuffled"}
    await client.faults(row_500=0.5, expire={"rate": 1, "share": 0.1})
    shown = (await client.http.get("/admin/faults")).json()
    assert (shown["row_500"]["rate"], shown["expire"]["share"]) == (0.5, 0.1)
    assert (await client.http.delete("/admin/faults")).json().keys() == {"shuffled"}


@pytest.mark.parametrize("value", [{"no_such": 1}, {"row_500": 2}, {"row_500": {"often": 1}}, {"row_500": None}, [1]])
async def test_a_fault_that_does_not_exist_or_makes_no_sense_is_refused(client, value):
    answer = await client.http.post("/admin/faults", json=value)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert (await client.http.get("/admin/faults")).json().keys() == {"shuffled"}


async def test_nth_counts_from_the_moment_the_rule_was_set(client, make):
    file_id = (await client.upload(_rows(make))).json()["id"]
    for _ in range(2):
        await client.faults(reject_500={"nth": [2]})
        answers = [(await client.create(file_id)).status_code for _ in range(3)]
        assert answers == [200, 500, 200]


def test_every_fault_in_the_table_says_what_it_does():
    assert all(len(spec.law) > 10 for spec in FAULTS.values())
