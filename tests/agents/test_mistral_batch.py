"""The Mistral adapter where it is unlike the others: a filtered list, the job's model, reasons in messages only."""

import asyncio
import json
import re

import pytest

from batchmill.agents.providers import mistral_batch
from batchmill.agents.providers.mistral_batch import MistralBatchProvider
from batchmill.schemas.status import ChunkState
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    CreateOrder,
    Label,
    MustPauseError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    RemoteStatus,
    TransientError,
)
from batchmill.streams.submitting import after_look
from tests.agents.provider_worlds import CHUNK, OTHER, a_label, a_world, an_id
from tests.agents.scripts import CLOSE, reply, scripted
from tests.streams.rows import make_chunk, make_life

ENDPOINT = "/v1/chat/completions"
LABEL = Label(app="app", chunk_id=CHUNK, chunk_attempt=2, payload_sha256="ab" * 32, members=2)
METADATA = {
    "batchmill_app": "app",
    "batchmill_chunk": CHUNK,
    "batchmill_attempt": "2",
    "batchmill_sha256": "ab" * 32,
}


@pytest.fixture
def world(tmp_path):
    return lambda faults=None, **more: a_world("mistral", tmp_path, faults, **more)


def a_script(**account):
    return scripted(MistralBatchProvider, "/v1", kind="mistral", **account)


async def nothing():
    return
    yield b""


def create(provider, file_id="f1", model="mistral-small-latest"):
    order = CreateOrder(label=LABEL, endpoint=ENDPOINT, model=model, file_id=file_id, size_bytes=0, content=nothing)
    return provider.create(order, may_start=lambda: True)


def a_job(status="QUEUED", **changes):
    return {
        "id": "j1",
        "object": "batch",
        "status": status,
        "created_at": 1_000,
        "input_files": ["f1"],
        "metadata": METADATA,
        "errors": [],
        "total_requests": 2,
        "succeeded_requests": 0,
        "failed_requests": 0,
    } | changes


def a_page(*jobs):
    return reply(200, {"object": "list", "total": len(jobs), "data": list(jobs)})


async def upload(w, payload):
    async def content():
        yield payload

    return await w.provider.upload(name="c.jsonl", size_bytes=len(payload), content=content(), may_start=lambda: True)


# -- create and find ---------------------------------------------------------------------------------------------------


async def test_create_says_what_it_wants_and_whose_it_is():
    async with a_script() as (script, provider):
        script.answers = [reply(200, a_job())]
        batch = await create(provider)
    ((line, head, body),) = script.heard
    assert line == "POST /v1/batch/jobs HTTP/1.1"
    assert "authorization: bearer sk-k\r\n" in head.lower()
    assert json.loads(body) == {
        "input_files": ["f1"],
        "endpoint": ENDPOINT,
        "model": "mistral-small-latest",
        "metadata": METADATA,
        "timeout_hours": 24,
    }
    assert (batch.batch_id, batch.status, batch.input_file_id) == ("j1", RemoteStatus.RUNNING, "f1")
    assert batch.label == {"app": "app", "chunk_id": CHUNK, "chunk_attempt": "2", "payload_sha256": "ab" * 32}


async def test_the_list_is_filtered_by_the_server_and_compared_here():
    async with a_script() as (script, provider):
        other = a_job(id="j2", metadata=METADATA | {"batchmill_sha256": "cd" * 32})
        script.answers = [a_page(other, a_job(), a_job(id="j3", metadata=None)), a_page()]
        found = await provider.find(label=LABEL, since_ms=0)
    assert [batch.batch_id for batch in found] == ["j1"]
    assert all(f"batchmill_app=app&batchmill_chunk={CHUNK}" in line for line, _, _ in script.heard)
    assert [re.search(r"page=(\d+)", line)[1] for line, _, _ in script.heard] == ["0", "1"]


async def test_a_filter_that_finds_nothing_proves_nothing_so_the_whole_list_is_read():
    async with a_script() as (script, provider):
        script.answers = [a_page(), a_page(a_job()), a_page()]
        (found,) = await provider.find(label=LABEL, since_ms=0)
    assert found.batch_id == "j1"
    assert ["batchmill_app" in line for line, _, _ in script.heard] == [True, False, False]


async def test_the_search_ends_at_a_page_of_older_jobs_and_never_before():
    async with a_script() as (script, provider):
        script.answers = [a_page(), a_page(a_job(id="j1", metadata={})), a_page(a_job(id="j2", created_at=1))]
        assert await provider.find(label=LABEL, since_ms=900_000) == ()


@pytest.mark.parametrize("answers", [[a_page({"status": "QUEUED"})], [a_page(a_job()), CLOSE]])
async def test_a_listing_that_cannot_be_read_through_never_says_not_found(answers):
    async with a_script() as (script, provider):
        script.answers = answers
        with pytest.raises(TransientError):
            await provider.find(label=LABEL, since_ms=0)


async def test_a_job_is_found_behind_many_others(world):
    async with world() as w:
        wanted = await w.opened(1)
        payload = w.payload(1, OTHER)
        for _ in range(5):
            await asyncio.gather(*(w.create(payload, a_label(OTHER, members=1)) for _ in range(21)))
        (found,) = await w.find(1)
        assert found.batch_id == wanted.batch_id


async def test_a_refused_job_of_an_earlier_attempt_is_told_from_this_one_by_what_the_adapter_read(world):
    async with world({"token_limit_exceeded": {"nth": [1]}}) as w:
        made = await w.opened(3)
        await w.until(made.batch_id, RemoteStatus.FAILED)
        found = await w.find(3)
    states = {}
    for attempt in (1, 2):
        chunk, _ = make_chunk([make_life(0)], ChunkState.ATTEMPTING, attempt=attempt, file_id="f")
        states[attempt] = after_look(chunk, found, w.since_ms).orders[0].row.state
    assert states == {1: ChunkState.OPEN, 2: ChunkState.ATTEMPTING}


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_file_that_was_deleted_makes_a_late_create_fail_for_sure(world):
    async with world() as w:
        file_id = await upload(w, w.payload(1))
        await w.provider.delete_file(file_id)
        await w.provider.delete_file(file_id)
        with pytest.raises(NotFoundError):
            await create(w.provider, file_id=file_id)
        assert w.batches() == ()


async def test_an_unknown_model_is_refused(world):
    async with world(simulator={"fallback_price": None}) as w:
        file_id = await upload(w, w.payload(1))
        with pytest.raises(RefusedError, match="1500"):
            await create(w.provider, file_id=file_id, model="nobody")


def said(status, kind=None, code=None, param=None):
    error = {"object": "error", "message": "PRIVATE", "type": kind, "param": param, "code": code}
    return reply(status, error)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (said(400, "invalid_request_error"), RefusedError),
        (said(400, "invalid_model", "1500"), RefusedError),
        (reply(422, {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "PRIVATE"}]}), RefusedError),
        (reply(422, {"detail": [{"type": "x", "loc": ["body", "input_files", 0], "msg": "m"}]}), NotFoundError),
        (reply(401, {"detail": "Unauthorized"}), MustPauseError),
        (said(402, "payment_required"), MustPauseError),
        (said(403), MustPauseError),
        (said(404, "invalid_request_error", param="input_files"), NotFoundError),
        (said(429, "rate_limited", "1300"), TransientError),
        (said(500, "server_error"), OutcomeUnknownError),
        (said(503, "service_tier_capacity_exceeded", "3505"), OutcomeUnknownError),
        pytest.param(reply(200, {"object": "batch"}), OutcomeUnknownError, id="200-no-batch"),
        (CLOSE, OutcomeUnknownError),
    ],
)
async def test_a_refusal_of_a_create_is_read_by_its_status_and_code_and_it_is_sent_once(answer, error):
    async with a_script() as (script, provider):
        script.answers = [answer]
        with pytest.raises(error) as raised:
            await create(provider)
        assert type(raised.value) is error
        assert "PRIVATE" not in str(raised.value)
        assert len(script.heard) == 1


@pytest.mark.parametrize("fault", ["upload_500", "upload_disconnect", "upload_accept_then_500"])
async def test_an_upload_that_fails_may_simply_be_made_again(world, fault):
    async with world({fault: {"nth": [1]}}) as w:
        payload = w.payload(2)
        with pytest.raises(TransientError):
            await upload(w, payload)
        assert await upload(w, payload)


# -- the life of a job -------------------------------------------------------------------------------------------------

SOME = {"succeeded_requests": 1, "failed_requests": 1}
FILES = {"output_file": "o", "error_file": "e"}
NOW, LONG_AGO = 32_503_680_000, 1_000


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (a_job("QUEUED"), RemoteStatus.RUNNING),
        (a_job("RUNNING"), RemoteStatus.RUNNING),
        (a_job("A_STATUS_OF_TOMORROW"), RemoteStatus.RUNNING),
        ({"id": "j1"}, RemoteStatus.RUNNING),
        (a_job("CANCELLATION_REQUESTED"), RemoteStatus.CANCELLING),
        (a_job("SUCCESS", **SOME, **FILES), RemoteStatus.ENDED),
        (a_job("SUCCESS", **SOME, output_file="o", completed_at=NOW), RemoteStatus.RUNNING),
        (a_job("SUCCESS", **SOME, error_file="e", completed_at=NOW), RemoteStatus.RUNNING),
        (a_job("SUCCESS", **SOME, completed_at=LONG_AGO), RemoteStatus.ENDED),
        # It never says when it ended; its window is over, or is not.
        (a_job("SUCCESS", **SOME), RemoteStatus.ENDED),
        (a_job("SUCCESS", **SOME, created_at=NOW), RemoteStatus.RUNNING),
        (a_job("SUCCESS", succeeded_requests=2, output_file="o", error_file=""), RemoteStatus.ENDED),
        (a_job("TIMEOUT_EXCEEDED", succeeded_requests=1, output_file="o"), RemoteStatus.ENDED),
        (a_job("CANCELLED"), RemoteStatus.ENDED),
        (a_job("FAILED"), RemoteStatus.FAILED),
        (a_job("FAILED", **SOME, **FILES), RemoteStatus.ENDED),
        (a_job("FAILED", **SOME, completed_at=NOW), RemoteStatus.RUNNING),
    ],
)
async def test_a_job_has_ended_when_nothing_about_it_can_change_any_more(document, status):
    async with a_script() as (script, provider):
        script.answers = [reply(200, document)]
        assert (await provider.get("j1")).status is status


def test_a_job_that_failed_before_it_ran_is_dissolved_because_its_reason_is_no_code():
    batch = mistral_batch._batch(a_job("FAILED", errors=[{"message": "PRIVATE", "count": 1}]), None)
    assert batch.failure == BatchFailure(action=Action.RETRY_ROW, code="failed")
    assert "PRIVATE" not in repr(batch)


async def test_a_job_with_good_and_bad_rows_names_both_files_and_adds_up(world):
    async with world({"row_400": {"nth": [1]}, "row_500": {"nth": [2]}}) as w:
        batch = await w.until((await w.opened(5)).batch_id, RemoteStatus.ENDED)
        rows = await w.rows(batch)
    assert (batch.total, batch.completed, batch.failed) == (5, 3, 2)
    assert batch.error_file_id is not None
    assert len({row.custom_id for row in rows}) == 5


async def test_a_cancel_is_asked_for_and_ends_later_and_one_that_has_ended_is_a_refusal(world):
    async with world(simulator={"latency_seconds": (30, 30), "cancelling_seconds": 0.2}) as w:
        made = await w.opened(5)
        while (await w.provider.get(made.batch_id)).status_text != "RUNNING":
            await asyncio.sleep(0.01)
        assert (await w.provider.cancel(made.batch_id)).status is RemoteStatus.CANCELLING
        assert (await w.until(made.batch_id, RemoteStatus.ENDED)).status_text == "CANCELLED"
        with pytest.raises(RefusedError):
            await w.provider.cancel(made.batch_id)


async def test_a_status_that_is_taken_back_is_a_running_one_and_an_empty_file_id_is_none(world):
    async with world({"status_flap": 1, "empty_error_file_id": 1}) as w:
        made = await w.opened(2)
        assert (await w.until(made.batch_id, RemoteStatus.ENDED)).error_file_id is None
        assert (await w.provider.get(made.batch_id)).status is RemoteStatus.RUNNING
        assert (await w.provider.get(made.batch_id)).status is RemoteStatus.ENDED


async def test_a_job_of_embeddings_gives_vectors(world):
    async with world() as w:
        bodies = [{"model": "mistral-embed", "messages": [{"role": "user", "content": f"Text {n}."}]} for n in range(3)]
        payload = b"".join(
            w.provider.request_line(custom_id=an_id(n), endpoint="/v1/embeddings", body=json.dumps(body).encode())
            for n, body in enumerate(bodies)
        )
        order = CreateOrder(
            label=LABEL,
            endpoint="/v1/embeddings",
            model="mistral-embed",
            file_id=await upload(w, payload),
            size_bytes=0,
            content=nothing,
        )
        made = await w.provider.create(order, may_start=lambda: True)
        rows = await w.rows(await w.until(made.batch_id, RemoteStatus.ENDED))
        bills = w.ledger().bills
    assert {len(json.loads(row.output)) for row in rows} == {1_024}
    assert len({row.output for row in rows}) == 3
    assert sum(row.input_tokens for row in rows) == sum(bill.input_tokens for bill in bills)
