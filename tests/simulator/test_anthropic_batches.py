"""The contract of the Message Batches endpoints, byte for byte where the official SDK smooths things over."""

import hashlib
import json
from contextlib import asynccontextmanager
from datetime import datetime
from importlib import import_module

import httpx
import pytest

from tests.simulator.anthropic_client import SCHEMA, Batches, request, requests

NONE = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}


@pytest.fixture
def service(started):
    @asynccontextmanager
    async def start(**changes):
        async with started(**changes) as client:
            yield Batches(client)

    return start


@pytest.fixture
async def batches(service):
    async with service() as batches:
        yield batches


async def test_a_batch_runs_at_once_and_tells_nothing_until_all_of_it_has_ended(batches):
    made = await batches.open(requests(20))
    assert made["id"].startswith("msgbatch_")
    assert (made["type"], made["processing_status"]) == ("message_batch", "in_progress")
    assert made["request_counts"] == NONE | {"processing": 20}
    names = ("ended_at", "archived_at", "cancel_initiated_at", "results_url")
    assert [made[name] for name in names] == [None] * 4
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert (expires - created).total_seconds() == 86_400

    ended = await batches.ended(made["id"])

    assert ended["request_counts"] == NONE | {"succeeded": 20}
    assert ended["results_url"] == str(batches.http.base_url) + f"/v1/messages/batches/{made['id']}/results"
    lines = await batches.lines(made["id"])
    ids = [line["custom_id"] for line in lines]
    assert sorted(ids) == sorted(f"row-{n}" for n in range(20))
    assert ids != [f"row-{n}" for n in range(20)]
    for line in lines:
        message = line["result"]["message"]
        assert json.loads(message["content"][0]["text"])["label"] in {"pos", "neg", "neu"}
        assert (message["stop_reason"], message["model"]) == ("end_turn", "claude-haiku-4-5")
        assert message["usage"]["service_tier"] == "batch"


async def test_a_poll_says_when_to_come_again_while_the_batch_runs(batches):
    made = await batches.open(requests(1))
    assert (await batches.get(made["id"])).headers["retry-after"] == "10"
    await batches.ended(made["id"])
    assert "retry-after" not in (await batches.get(made["id"])).headers


async def test_every_answer_names_its_request_and_an_error_repeats_it(batches):
    answer = await batches.get("msgbatch_nobody")
    assert answer.status_code == 404
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
    assert body["request_id"] == answer.headers["request-id"]
    assert (await batches.list()).headers["request-id"] != body["request_id"]


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"x-api-key": ""}, 401, "authentication_error"),
        ({"x-api-key": "wrong"}, 401, "authentication_error"),
        ({"x-api-key": "right", "anthropic-version": ""}, 400, "invalid_request_error"),
    ],
)
async def test_a_key_and_a_version_are_asked_for(service, headers, status, kind):
    async with service(api_key="right") as batches:
        answer = await batches.http.get(Batches.PATH, headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b'{"requests":[]}',
        b'{"requests":[{"custom_id":"a","params":{}]}',
        b'{"requests":[{"custom_id":"a","params":{}},{"custom_id":"a","params":{}}]}',
        [request("")],
        [request("a" * 65)],
        [request("dots.are.not")],
        [{"custom_id": "a"}],
        [{"custom_id": "a", "params": []}],
        [{"params": {}}],
        [request("a") | {"method": "POST"}],
    ],
)
async def test_a_create_with_a_bad_frame_or_custom_id_is_refused_as_a_whole(batches, body):
    answer = await batches.create(body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert batches.ledger().batches_created == ()
    assert (await batches.list()).json() == {"data": [], "has_more": False, "first_id": None, "last_id": None}


BAD = {
    "no model": {"model": None},
    "no room for an answer": {"max_tokens": 0},
    "no limit": {"max_tokens": None},
    "no message": {"messages": []},
    "a system message": {"messages": [{"role": "system", "content": "x"}]},
    "an empty message": {"messages": [{"role": "user", "content": ""}]},
    "a stream": {"stream": True},
    "speed": {"speed": "fast"},
    "store": {"store": True},
    "a word of another provider": {"max_completion_tokens": 10},
    "an open object": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    "a bound": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "number", "minimum": 1}}}},
    "a nested bound": {
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "array", "items": {"minLength": 1}}}}
    },
    "no such format": {"output_config": {"format": {"type": "json_object"}}},
}


async def test_bad_parameters_are_errored_rows_of_their_own_unbilled_and_the_others_are_answered(batches):
    asked = [request(name.replace(" ", "-"), **params) for name, params in BAD.items()]
    batch, lines = await batches.round([*asked, request("good")])
    results = {line["custom_id"]: line["result"] for line in lines}
    assert batch["request_counts"] == NONE | {"succeeded": 1, "errored": len(BAD)}
    assert results.pop("good")["type"] == "succeeded"
    assert results.keys() == {name.replace(" ", "-") for name in BAD}
    for result in results.values():
        assert result["type"] == "errored"
        assert result["error"]["error"]["type"] == "invalid_request_error"
        assert result["error"]["request_id"] is None
    assert [bill.custom_id for bill in batches.ledger().bills] == ["good"]


async def test_a_model_that_does_not_exist_errs_row_by_row_and_the_batch_simply_ends(service):
    async with service(fallback_price=None) as batches:
        batch, lines = await batches.round(requests(3, model="claude-nobody"))
        assert (batch["processing_status"], batch["request_counts"]) == ("ended", NONE | {"errored": 3})
        assert {line["result"]["error"]["error"]["type"] for line in lines} == {"not_found_error"}
        assert batches.ledger().bills == ()


async def test_a_batch_may_mix_models_and_each_row_is_billed_at_half_of_its_own_price(batches):
    models = {"row-a": "claude-haiku-4-5", "row-b": "claude-sonnet-4-5"}
    await batches.round([request(custom_id, model=model) for custom_id, model in models.items()])
    bills = {bill.custom_id: bill for bill in batches.ledger().bills}
    for custom_id, (price_in, price_out) in {"row-a": (1_000, 5_000), "row-b": (3_000, 15_000)}.items():
        bill = bills[custom_id]
        assert bill.model == models[custom_id]
        assert bill.cost_nanos == (bill.input_tokens * price_in + bill.output_tokens * price_out) // 2


async def test_the_ledger_names_an_inline_batch_by_its_lines(batches):
    lines = [json.dumps(row, separators=(",", ":")).encode() for row in requests(3)]
    await batches.ended((await batches.open(b'{"requests":[' + b",".join(lines) + b"]}"))["id"])
    (made,) = batches.ledger().batches_created
    payload = b"".join(line + b"\n" for line in lines)
    assert (made.provider, made.endpoint, made.metadata) == ("anthropic", "/v1/messages", {})
    assert made.input_sha256 == hashlib.sha256(payload).hexdigest()
    assert batches.ledger().batches_by_input() == {made.input_sha256: 1}
    assert {bill.request_sha256 for bill in batches.ledger().bills} == {
        hashlib.sha256(line).hexdigest() for line in lines
    }


async def test_a_request_written_over_many_lines_is_one_line_of_the_payload(batches):
    body = json.dumps({"requests": requests(2)}, indent=2).encode()
    batch, lines = await batches.round(body)
    assert batch["request_counts"] == NONE | {"succeeded": 2}
    assert {line["custom_id"] for line in lines} == {"row-0", "row-1"}


async def test_a_body_larger_than_the_service_takes_is_refused(batches, monkeypatch):
    monkeypatch.setattr(import_module("batchmill.agents.simulator.anthropic.routes"), "BODY_BYTES_MAX", 1_000)
    answer = await batches.create(requests(20))
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
    assert batches.ledger().batches_created == ()


async def test_a_body_that_breaks_off_makes_nothing(batches):
    async def half():
        yield b'{"requests":['
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await batches.http.post(Batches.PATH, content=half(), headers={"content-length": "100000"})
    assert batches.ledger().batches_created == ()
    assert (await batches.list()).json()["data"] == []


async def test_results_are_not_there_until_the_batch_has_ended(service):
    async with service(latency_seconds=(0.2, 0.2)) as batches:
        made = await batches.open(requests(1))
        early = await batches.results(made["id"])
        assert (early.status_code, early.json()["error"]["type"]) == (404, "not_found_error")
        await batches.ended(made["id"])
        assert (await batches.results(made["id"])).status_code == 200


async def test_a_cancelled_batch_bills_what_was_done_and_names_the_rest(service):
    async with service(latency_seconds=(0.5, 0.5), cancelling_seconds=0.3) as batches:
        made = await batches.open(requests(50))
        asked = (await batches.cancel(made["id"])).json()
        assert asked["processing_status"] == "canceling"
        assert asked["request_counts"] == NONE | {"processing": 50}
        assert asked["cancel_initiated_at"] is not None
        assert (await batches.cancel(made["id"])).status_code == 200  # asking twice changes nothing
        ended = await batches.ended(made["id"])
        lines = await batches.lines(made["id"])
        done = [line["custom_id"] for line in lines if line["result"]["type"] == "succeeded"]
        left = [line for line in lines if line["result"] == {"type": "canceled"}]
        assert len(done) + len(left) == 50
        assert left
        assert ended["request_counts"] == NONE | {"succeeded": len(done), "canceled": len(left)}
        assert {bill.custom_id for bill in batches.ledger().bills} == set(done)
        assert (await batches.cancel(made["id"])).status_code == 400


async def test_only_an_ended_batch_can_be_deleted_and_then_it_is_gone_but_not_what_it_cost(service):
    async with service(latency_seconds=(0.2, 0.2)) as batches:
        first = await batches.open(requests(1))
        refused = await batches.delete(first["id"])
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
        await batches.ended(first["id"])
        cost = batches.ledger().cost_nanos
        answer = await batches.delete(first["id"])
        assert answer.json() == {"id": first["id"], "type": "message_batch_deleted"}
        for gone in (batches.get, batches.results, batches.cancel, batches.delete):
            assert (await gone(first["id"])).status_code == 404
        assert (await batches.list()).json()["data"] == []
        assert (await batches.http.get("/admin/state")).json()["cost_nanos"] == cost > 0


async def test_the_list_is_walked_in_both_directions(batches):
    made = [(await batches.open([request(f"row-{n}")]))["id"] for n in range(7)][::-1]  # newest first
    first = (await batches.list(limit=3)).json()
    assert [batch["id"] for batch in first["data"]] == made[:3]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (made[0], made[2], True)
    older = (await batches.list(limit=4, after_id=made[2])).json()
    assert ([batch["id"] for batch in older["data"]], older["has_more"]) == (made[3:], False)
    newer = (await batches.list(limit=2, before_id=made[4])).json()
    assert ([batch["id"] for batch in newer["data"]], newer["has_more"]) == (made[2:4], True)
    newest = (await batches.list(limit=2, before_id=made[2])).json()
    assert ([batch["id"] for batch in newest["data"]], newest["has_more"]) == (made[:2], False)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"limit": 0}, 400),
        ({"limit": 1001}, 400),
        ({"limit": "many"}, 400),
        ({"after_id": "a", "before_id": "b"}, 400),
        ({"after_id": "msgbatch_nobody"}, 404),
    ],
)
async def test_a_list_that_cannot_be_given_is_refused(batches, query, status):
    assert (await batches.list(**query)).status_code == status


async def test_the_two_protocols_do_not_see_each_others_batches(batches):
    made = await batches.open(requests(1))
    bearer = {"authorization": "Bearer test"}
    assert (await batches.http.get(f"/v1/batches/{made['id']}", headers=bearer)).status_code == 404
    assert (await batches.http.get("/v1/batches", headers=bearer)).json()["data"] == []
    ended = await batches.ended(made["id"])
    assert ended["results_url"]
    assert (await batches.http.get("/v1/files", headers=bearer)).json()["data"] == []


# Faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "kind", "waits"),
    [
        ("reject_429", 429, "rate_limit_error", True),
        ("reject_quota", 429, "rate_limit_error", False),
        ("reject_billing", 402, "billing_error", False),
        ("reject_500", 500, "api_error", False),
        ("reject_overloaded", 529, "overloaded_error", False),
    ],
)
async def test_a_rejected_create_makes_nothing_and_says_why(batches, fault, status, kind, waits):
    await batches.faults(**{fault: {"nth": [1]}})
    answer = await batches.create(requests(1))
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert ("retry-after" in answer.headers) is waits
    code = answer.json()["error"].get("details", {}).get("error_code")
    assert code == ("enforced_spend_limit_reached" if fault == "reject_quota" else None)
    assert batches.ledger().batches_created == ()


@pytest.mark.parametrize("fault", ["accept_then_500", "accept_then_503", "accept_then_disconnect", "accept_then_hang"])
async def test_an_accepted_create_may_be_answered_by_anything(batches, fault):
    await batches.faults(**{fault: {"nth": [1], "seconds": 0.05}})
    if fault in {"accept_then_500", "accept_then_503"}:
        answer = await batches.create(requests(1))
        assert answer.status_code == int(fault[-3:])
        assert answer.json()["error"]["type"] == "api_error"
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            await batches.create(requests(1))
    (made,) = batches.ledger().batches_created
    assert [batch["id"] for batch in (await batches.list()).json()["data"]] == [made.batch_id]


async def test_an_expired_batch_names_the_rows_it_did_not_come_to(batches):
    await batches.faults(expire={"rate": 1, "share": 0.5})
    batch, lines = await batches.round(requests(20))
    assert batch["request_counts"] == NONE | {"succeeded": 10, "expired": 10}
    assert [line["result"] for line in lines if line["result"]["type"] != "succeeded"] == [{"type": "expired"}] * 10
    assert len(batches.ledger().bills) == 10


async def test_a_late_result_an_archived_one_and_a_flap_are_shown_as_the_service_would(batches):
    await batches.faults(late_output_file={"rate": 1, "seconds": 600})
    late = await batches.ended((await batches.open([request("late")]))["id"])
    assert (late["results_url"], late["archived_at"]) == (None, None)
    assert (await batches.results(late["id"])).status_code == 404

    await batches.faults(late_output_file=0, archived={"rate": 1, "seconds": 0})
    gone = await batches.ended((await batches.open([request("gone")]))["id"])
    assert gone["results_url"] is None
    assert gone["archived_at"] is not None
    assert gone["request_counts"]["succeeded"] == 1
    assert (await batches.results(gone["id"])).status_code == 404

    await batches.faults(archived=0, status_flap=1)
    flaps = await batches.open([request("flaps")])
    await batches.ended(flaps["id"])
    shown = [(await batches.get(flaps["id"])).json() for _ in range(2)]
    assert [batch["processing_status"] for batch in shown] == ["in_progress", "ended"]
    assert shown[0]["request_counts"] == NONE | {"processing": 1}


async def test_a_status_nobody_knows_and_absent_members_are_shown_when_asked_for(batches):
    await batches.faults(status_scheduling=1, absent_keys=1)
    made = await batches.open(requests(1))
    assert made["processing_status"] == "scheduling"
    assert not {"ended_at", "archived_at", "cancel_initiated_at", "results_url"} & made.keys()
    assert "archived_at" not in await batches.ended(made["id"])


async def test_a_cancel_may_be_ignored_or_lose_what_was_finished(service):
    async with service(latency_seconds=(0.3, 0.3)) as batches:
        await batches.faults(cancel_ignored=1)
        ignored = await batches.open(requests(5))
        assert (await batches.cancel(ignored["id"])).json()["processing_status"] == "canceling"
        assert (await batches.ended(ignored["id"]))["request_counts"] == NONE | {"succeeded": 5}
        await batches.faults(cancel_ignored=0, cancel_loses_finished=1)
        lost = await batches.open([request(f"lost-{n}") for n in range(200)])
        assert (await batches.cancel(lost["id"])).is_success
        assert (await batches.ended(lost["id"]))["request_counts"] == NONE | {"canceled": 200}


@pytest.mark.parametrize(
    ("fault", "status"), [("retrieve_500", 500), ("retrieve_404", 404), ("list_500", 500), ("cancel_500", 500)]
)
async def test_a_look_may_fail_and_changes_nothing(service, fault, status):
    async with service(latency_seconds=(0.2, 0.2)) as batches:
        made = await batches.open(requests(1))
        await batches.faults(**{fault: {"nth": [1]}})
        call = {"l": batches.list, "c": lambda: batches.cancel(made["id"]), "r": lambda: batches.get(made["id"])}
        answer = await call[fault[0]]()
        assert answer.status_code == status
        assert (await batches.ended(made["id"]))["processing_status"] == "ended"


async def test_results_may_fail_or_break_off(batches):
    made = await batches.ended((await batches.open(requests(50)))["id"])
    await batches.faults(download_500={"nth": [1]}, download_disconnect={"nth": [2]})
    assert (await batches.results(made["id"])).status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        await batches.results(made["id"])
    assert len(await batches.lines(made["id"])) == 50


@pytest.mark.parametrize(
    ("fault", "kind", "worker"),
    [
        ("row_400", "invalid_request_error", False),
        ("row_429", "rate_limit_error", True),
        ("row_500", "api_error", True),
    ],
)
async def test_a_row_that_fails_is_errored_in_the_words_of_the_service(batches, fault, kind, worker):
    await batches.faults(**{fault: {"nth": [2]}})
    batch, lines = await batches.round(requests(3))
    assert batch["request_counts"] == NONE | {"succeeded": 2, "errored": 1}
    (struck,) = [line["result"]["error"] for line in lines if line["custom_id"] == "row-1"]
    assert struck["error"]["type"] == kind
    assert bool(struck["request_id"]) is worker


@pytest.mark.parametrize(
    ("fault", "stop_reason", "blocks"),
    [("refusal", "refusal", 1), ("truncated", "max_tokens", 1), ("empty_content", "max_tokens", 0)],
)
async def test_an_answer_that_stops_early_says_so(batches, fault, stop_reason, blocks):
    await batches.faults(**{fault: {"nth": [1]}})
    _, (line,) = await batches.round(requests(1))
    message = line["result"]["message"]
    assert (message["stop_reason"], len(message["content"])) == (stop_reason, blocks)


async def test_the_answer_is_held_to_the_format_and_cut_at_max_tokens(batches):
    _, lines = await batches.round(
        [request("whole"), request("cut", max_tokens=2), request("free", output_config=None)]
    )
    messages = {line["custom_id"]: line["result"]["message"] for line in lines}
    assert json.loads(messages["whole"]["content"][0]["text"]).keys() == SCHEMA["properties"].keys()
    assert (messages["cut"]["stop_reason"], messages["cut"]["usage"]["output_tokens"]) == ("max_tokens", 2)
    assert messages["free"]["content"][0]["text"] == "A good film."
