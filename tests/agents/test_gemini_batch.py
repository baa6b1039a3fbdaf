"""The Gemini adapter where it is unlike the others: uploads in two calls, a name for a label, operations for batches.

What only this tier shows: that the key stays with the account's host, that a file which is gone is told from an account
that may not, and what the end of an operation means with and without results.
"""

import asyncio
import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.providers import gemini_batch
from batchmill.agents.providers.gemini_batch import GeminiBatchProvider
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import ChunkState, Outcome
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

LABEL = Label(app="app", chunk_id=CHUNK, chunk_attempt=2, payload_sha256="ab" * 32, members=2)
NAME = f"app/{CHUNK}/2/{'ab' * 16}"
SLOW = {"latency_seconds": (30, 30)}


@pytest.fixture
def world(tmp_path):
    return lambda faults=None, **more: a_world("gemini", tmp_path, faults, **more)


def a_script(**account):
    return scripted(GeminiBatchProvider, "/gemini", kind="gemini", **account)


async def nothing():
    return
    yield b""


async def content(*parts):
    for part in parts:
        yield part


def create(provider, model="gemini-2.5-flash", file_id="f1", label=LABEL):
    order = CreateOrder(
        label=label, endpoint="generateContent", model=model, file_id=file_id, size_bytes=0, content=nothing
    )
    return provider.create(order, may_start=lambda: True)


def an_operation(state="BATCH_STATE_PENDING", *, counts=None, results=None, error=None, name="b1", **metadata):
    said = {
        "state": state,
        "displayName": NAME,
        "createTime": "2025-09-07T11:55:07.827892252Z",
        "inputConfig": {"fileName": "files/f1"},
        "batchStats": counts or {},
    } | metadata
    shown = {"name": f"batches/{name}", "metadata": said}
    return shown | ({"response": results} if results else {}) | ({"error": error} if error else {})


def denied(reason=None):
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}] if reason else []
    error = {"code": 403, "status": "PERMISSION_DENIED", "message": "PRIVATE", "details": details}
    return reply(403, {"error": error})


def refused(status, word, **more):
    return reply(status, {"error": {"code": status, "status": word, "message": "PRIVATE"} | more})


# -- upload ------------------------------------------------------------------------------------------------------------


def begun(url):
    return reply(200, body=b"", headers=[f"x-goog-upload-url: {url}", "x-goog-upload-status: active"])


def finished(status="final", document=None):
    shown = {"file": {"name": "files/f9"}} if document is None else document
    return reply(200, shown, headers=[f"x-goog-upload-status: {status}"])


async def upload(provider, *parts, size=None, may_start=lambda: True):
    size = sum(map(len, parts)) if size is None else size
    return await provider.upload(name="c.jsonl", size_bytes=size, content=content(*parts), may_start=may_start)


async def test_an_upload_is_begun_and_then_sent_whole_to_the_address_it_was_given_at_the_account_s_own_host():
    async with a_script() as (script, provider):
        script.answers = [begun("https://elsewhere.example/gemini/upload/v1beta/files?upload_id=u1"), finished()]
        assert await upload(provider, b"one\n", b"two\n") == "f9"
    (first, first_head, described), (second, second_head, sent) = script.heard
    assert (first, json.loads(described)) == (
        "POST /gemini/upload/v1beta/files HTTP/1.1",
        {"file": {"displayName": "c.jsonl"}},
    )
    assert "x-goog-upload-command: start\r\n" in first_head.lower()
    assert "x-goog-upload-header-content-length: 8\r\n" in first_head.lower()
    assert second == "POST /gemini/upload/v1beta/files?upload_id=u1 HTTP/1.1"
    assert "x-goog-upload-command: upload, finalize\r\n" in second_head.lower()
    assert sent == b"one\ntwo\n"
    assert [call.operation for call in script.calls] == ["upload_begin", "upload"]


async def test_the_lease_is_asked_before_each_of_the_two():
    for granted in ([False], [True, False]):
        async with a_script() as (script, provider):
            script.answers = [begun(f"{script.url}/up?upload_id=u1")]
            asked = iter(granted)
            with pytest.raises(TransientError, match="lease_ended"):
                await upload(provider, b"x", may_start=lambda asked=asked: next(asked))
            assert len(script.heard) == len(granted) - 1


@pytest.mark.parametrize(
    "answers",
    [
        [reply(200, body=b"")],
        [reply(200, body=b"", headers=["x-goog-upload-url: nonsense"])],
        [begun("http://h/up?upload_id=u"), finished("active")],
        [begun("http://h/up?upload_id=u"), finished(document={})],
        [begun("http://h/up?upload_id=u"), CLOSE],
        [refused(500, "INTERNAL")],
    ],
)
async def test_an_upload_that_is_not_known_to_be_whole_may_be_made_again(answers):
    async with a_script() as (script, provider):
        script.answers = answers
        with pytest.raises(TransientError):
            await upload(provider, b"x")


@pytest.mark.parametrize("size", [1, 3])
async def test_a_content_that_is_not_as_long_as_announced_is_broken_off(size):
    async with a_script() as (script, provider):
        script.answers = [begun("http://h/up?upload_id=u"), finished()]
        with pytest.raises(ValueError, match="another length"):
            await upload(provider, b"xx", size=size)


@pytest.mark.parametrize("fault", ["upload_500", "upload_disconnect", "upload_accept_then_500"])
async def test_an_upload_that_fails_may_simply_be_made_again(world, fault):
    async with world({fault: {"nth": [1]}}) as w:
        payload = w.payload(2)
        with pytest.raises(TransientError):
            await upload(w.provider, payload)
        assert await upload(w.provider, payload)


# -- create and find ---------------------------------------------------------------------------------------------------


async def test_create_says_what_it_wants_and_whose_it_is():
    async with a_script() as (script, provider):
        script.answers = [reply(200, an_operation())]
        batch = await create(provider)
    ((line, head, body),) = script.heard
    assert line == "POST /gemini/v1beta/models/gemini-2.5-flash:batchGenerateContent HTTP/1.1"
    assert "x-goog-api-key: sk-k\r\n" in head.lower()
    assert json.loads(body) == {"batch": {"displayName": NAME, "inputConfig": {"fileName": "files/f1"}}}
    assert (batch.batch_id, batch.status, batch.input_file_id) == ("b1", RemoteStatus.RUNNING, "f1")
    assert batch.created_at_ms == 1_757_246_107_828
    assert batch.label == {
        "app": "app",
        "chunk_id": CHUNK,
        "chunk_attempt": "2",
        "payload_sha256": "ab" * 16,
    }


names = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=120)


@given(
    app=names,
    chunk=names,
    attempt=st.integers(1, 10**9),
    others=st.tuples(names, names),
    sha256=st.integers(0, 2**256 - 1).map("{:064x}".format),
)
def test_a_name_fits_and_is_found_again_by_every_attempt_and_by_no_other_chunk(app, chunk, attempt, others, sha256):
    label = Label(app=app, chunk_id=chunk, chunk_attempt=attempt, payload_sha256=sha256, members=1)
    name = gemini_batch._display_name(label)
    assert len(name) <= gemini_batch.DISPLAY_NAME_CHARS_MAX
    document = an_operation(displayName=name)
    batch = gemini_batch._batch(document, None)
    assert batch.label["chunk_attempt"] == str(attempt)
    assert gemini_batch._answers_to(batch, replace(label, chunk_attempt=1))
    if others != (app, chunk):
        assert not gemini_batch._answers_to(batch, replace(label, app=others[0], chunk_id=others[1]))
    another = ("1" if sha256[0] == "0" else "0") + sha256[1:]
    assert not gemini_batch._answers_to(batch, replace(label, payload_sha256=another))


@pytest.mark.parametrize("name", [None, "", "my-batch", "a/b", "a/b/c/d/e", 7])
def test_a_batch_of_somebody_else_carries_no_label(name):
    assert gemini_batch._batch(an_operation(displayName=name), None).label == {}


async def test_a_refused_batch_of_an_earlier_attempt_is_told_from_this_one_by_what_the_adapter_read(world):
    async with world({"token_limit_exceeded": {"nth": [1]}}) as w:
        made = await w.opened(3)
        batch = await w.until(made.batch_id, RemoteStatus.FAILED)
        found = await w.find(3)
    assert (batch.failure.action, batch.failure.code) == (Action.DEFER_CHUNK, "RESOURCE_EXHAUSTED")
    assert [each.batch_id for each in found] == [made.batch_id]
    states = {}
    for attempt in (1, 2):
        chunk, _ = make_chunk([make_life(0)], ChunkState.ATTEMPTING, attempt=attempt, file_id="f")
        states[attempt] = after_look(chunk, found, w.since_ms).orders[0].row.state
    assert states == {1: ChunkState.OPEN, 2: ChunkState.ATTEMPTING}


async def test_a_batch_is_found_behind_many_others(world):
    async with world() as w:
        wanted = await w.opened(1)
        payload = w.payload(1, OTHER)
        for _ in range(5):
            await asyncio.gather(*(w.create(payload, a_label(OTHER, members=1)) for _ in range(21)))
        (found,) = await w.find(1)
        assert found.batch_id == wanted.batch_id
        assert len([call for call in w.calls if call.operation == "find"]) == 2


@pytest.mark.parametrize(
    "pages",
    [
        [{"operations": [{"metadata": {}}]}],
        [{"nextPageToken": "t"}, {"nextPageToken": "t"}],
        [{"operations": [an_operation()], "nextPageToken": "t"}, None],
    ],
)
async def test_a_listing_that_cannot_be_read_through_never_says_not_found(pages):
    async with a_script() as (script, provider):
        script.answers = [CLOSE if page is None else reply(200, page) for page in pages]
        with pytest.raises(TransientError):
            await provider.find(label=LABEL, since_ms=0)


async def test_an_empty_account_has_nothing_to_find():
    async with a_script() as (script, provider):
        script.answers = [reply(200, {})]
        assert await provider.find(label=LABEL, since_ms=0) == ()


# -- refusals of a create ----------------------------------------------------------------------------------------------


async def test_a_file_that_was_deleted_makes_a_late_create_fail_for_sure(world):
    async with world() as w:
        file_id = await upload(w.provider, w.payload(1))
        await w.provider.delete_file(file_id)
        await w.provider.delete_file(file_id)
        with pytest.raises(NotFoundError):
            await create(w.provider, file_id=file_id)
        assert w.batches() == ()


async def test_an_unknown_model_is_refused_and_not_taken_for_a_missing_file(world):
    async with world(simulator={"fallback_price": None}) as w:
        file_id = await upload(w.provider, w.payload(1))
        with pytest.raises(RefusedError):
            await create(w.provider, model="gemini-nobody", file_id=file_id)


FILE = reply(200, {"name": "files/f1"})


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([denied()], MustPauseError),  # and the file is there
        ([denied(), denied()], NotFoundError),
        ([denied(), refused(404, "NOT_FOUND")], NotFoundError),
        ([denied(), denied("API_KEY_SERVICE_BLOCKED")], MustPauseError),
        ([denied(), refused(500, "INTERNAL")], TransientError),
        ([denied("BILLING_DISABLED")], MustPauseError),
        ([refused(400, "FAILED_PRECONDITION")], MustPauseError),
        ([refused(400, "INVALID_ARGUMENT")], RefusedError),
        ([refused(404, "NOT_FOUND"), FILE], RefusedError),
        ([refused(404, "NOT_FOUND"), denied()], NotFoundError),
        ([refused(429, "RESOURCE_EXHAUSTED")], TransientError),
        ([refused(503, "UNAVAILABLE")], OutcomeUnknownError),
        ([refused(504, "DEADLINE_EXCEEDED")], OutcomeUnknownError),
        ([reply(200, {})], OutcomeUnknownError),
        ([CLOSE], OutcomeUnknownError),
    ],
)
async def test_a_refusal_is_read_by_its_status_and_reason_and_a_denied_file_is_looked_for(answers, error):
    async with a_script() as (script, provider):
        script.answers = [*answers, FILE]
        with pytest.raises(error) as raised:
            await create(provider)
        assert type(raised.value) is error
        assert "PRIVATE" not in str(raised.value)
        asked = [line.split(" ")[0] for line, _, _ in script.heard]
    assert asked[0] == "POST"
    assert asked.count("POST") == 1  # a create is sent once, whatever it was told


async def test_a_wait_that_the_refusal_itself_asks_for_is_passed_on():
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}]
    async with a_script() as (script, provider):
        script.answers = [refused(429, "RESOURCE_EXHAUSTED", details=details)]
        with pytest.raises(TransientError) as throttled:
            await create(provider)
    assert throttled.value.retry_after_seconds == 34.5


# -- the life of a batch -----------------------------------------------------------------------------------------------

LONG_AGO = "2025-09-07T12:00:00Z"
JUST_NOW = "2999-01-01T00:00:00Z"
FILE_OUT = {"responsesFile": "files/out"}
ONE = {"successfulRequestCount": "1"}


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (an_operation(), RemoteStatus.RUNNING),
        (an_operation("BATCH_STATE_RUNNING"), RemoteStatus.RUNNING),
        (an_operation("A_STATE_OF_TOMORROW"), RemoteStatus.RUNNING),
        ({"name": "batches/b1"}, RemoteStatus.RUNNING),
        ({"name": "batches/b1", "metadata": "?"}, RemoteStatus.RUNNING),
        (an_operation("JOB_STATE_CANCELLING"), RemoteStatus.CANCELLING),
        (an_operation("BATCH_STATE_SUCCEEDED", results=FILE_OUT), RemoteStatus.ENDED),
        (an_operation("BATCH_STATE_SUCCEEDED", output=FILE_OUT), RemoteStatus.ENDED),
        (an_operation("JOB_STATE_PARTIALLY_SUCCEEDED", results=FILE_OUT), RemoteStatus.ENDED),
        (an_operation("BATCH_STATE_SUCCEEDED", endTime=JUST_NOW), RemoteStatus.RUNNING),
        (an_operation("BATCH_STATE_SUCCEEDED", endTime=LONG_AGO), RemoteStatus.ENDED),
        (an_operation("BATCH_STATE_CANCELLED"), RemoteStatus.ENDED),
        (an_operation("BATCH_STATE_CANCELLED", counts=ONE, createTime=JUST_NOW), RemoteStatus.RUNNING),
        # It never says when it ended, and its window is over.
        (an_operation("BATCH_STATE_CANCELLED", counts=ONE), RemoteStatus.ENDED),
        (an_operation("BATCH_STATE_EXPIRED"), RemoteStatus.FAILED),
        (an_operation("BATCH_STATE_EXPIRED", results=FILE_OUT), RemoteStatus.ENDED),
        (an_operation("BATCH_STATE_FAILED", error={"code": 3}), RemoteStatus.FAILED),
        (an_operation("BATCH_STATE_FAILED", results=FILE_OUT), RemoteStatus.ENDED),
    ],
)
async def test_a_batch_has_ended_when_nothing_about_it_can_change_any_more(document, status):
    async with a_script() as (script, provider):
        script.answers = [reply(200, document)]
        batch = await provider.get("b1")
    assert batch.status is status
    assert batch.output_file_id == ("out" if FILE_OUT in (document.get("response"), _output(document)) else None)


def _output(document):
    metadata = document.get("metadata")
    return metadata.get("output") if isinstance(metadata, dict) else None


@pytest.mark.parametrize(
    ("state", "error", "failure"),
    [
        ("EXPIRED", None, BatchFailure(action=Action.DEFER_CHUNK, code="EXPIRED")),
        ("FAILED", {"code": 8}, BatchFailure(action=Action.DEFER_CHUNK, code="RESOURCE_EXHAUSTED")),
        ("FAILED", {"code": 14}, BatchFailure(action=Action.DEFER_CHUNK, code="UNAVAILABLE")),
        ("FAILED", {"code": 3}, BatchFailure(action=Action.RETRY_ROW, code="INVALID_ARGUMENT")),
        ("FAILED", {"code": 13}, BatchFailure(action=Action.RETRY_ROW, code="INTERNAL")),
        ("FAILED", {"code": 5}, BatchFailure(action=Action.TERMINAL, code="NOT_FOUND")),
        ("FAILED", {"code": 7}, BatchFailure(action=Action.PAUSE_JOB, code="PERMISSION_DENIED")),
        ("FAILED", {"code": 9}, BatchFailure(action=Action.PAUSE_JOB, code="FAILED_PRECONDITION")),
        ("FAILED", None, BatchFailure(action=Action.RETRY_ROW, code="unexplained")),
    ],
)
def test_a_batch_that_failed_as_a_whole_says_what_that_asks_of_us(state, error, failure):
    assert gemini_batch._batch(an_operation(f"BATCH_STATE_{state}", error=error), None).failure == failure


def test_counts_are_texts_and_absent_when_zero():
    counts = {"requestCount": "7", "successfulRequestCount": "5"}
    batch = gemini_batch._batch(an_operation(counts=counts), None)
    assert (batch.total, batch.completed, batch.failed) == (7, 5, 0)


async def test_a_cancel_ends_a_batch_at_once_and_one_that_has_ended_is_a_refusal(world):
    async with world(simulator=SLOW) as w:
        made = await w.opened(5)
        shown = await w.provider.cancel(made.batch_id)
        assert shown.status in {RemoteStatus.ENDED, RemoteStatus.RUNNING}  # its counts may promise results for a while
        batch = await w.until(made.batch_id, RemoteStatus.ENDED)
        assert batch.status_text == "BATCH_STATE_CANCELLED"
        with pytest.raises(RefusedError, match="FAILED_PRECONDITION"):
            await w.provider.cancel(made.batch_id)


async def test_a_cancel_that_is_ignored_leaves_a_batch_that_runs_to_its_end(world):
    async with world({"cancel_ignored": 1}, simulator={"latency_seconds": (0.5, 0.5)}) as w:
        made = await w.opened(5)
        while (await w.provider.get(made.batch_id)).status_text != "BATCH_STATE_RUNNING":
            await asyncio.sleep(0.01)
        assert (await w.provider.cancel(made.batch_id)).status is RemoteStatus.RUNNING
        batch = await w.until(made.batch_id, RemoteStatus.ENDED)
        assert (batch.status_text, len(await w.rows(batch))) == ("BATCH_STATE_SUCCEEDED", 5)


async def test_a_state_that_is_taken_back_is_a_running_one(world):
    async with world({"status_flap": 1}) as w:
        made = await w.opened(2)
        await w.until(made.batch_id, RemoteStatus.ENDED)
        assert (await w.provider.get(made.batch_id)).status is RemoteStatus.RUNNING
        assert (await w.provider.get(made.batch_id)).status is RemoteStatus.ENDED


async def test_a_file_that_is_not_there_is_not_found_and_an_account_that_may_not_is_paused(world, tmp_path):
    async with world() as w:
        store = FilePayloadStore(directory=tmp_path / "payloads")
        with pytest.raises(NotFoundError):
            await store.put(w.provider.download("nobody"))
    for operation in (lambda p: p.delete_file("f1"), lambda p: anext(aiter(p.download("f1")))):
        async with a_script() as (script, provider):
            script.answers = [denied("SERVICE_DISABLED")]
            with pytest.raises(MustPauseError):
                await operation(provider)


async def test_errors_and_answers_come_in_one_file_and_each_row_is_told_apart(world):
    async with world({"row_400": {"nth": [1]}, "row_429": {"nth": [2]}, "refusal": {"nth": [3]}}) as w:
        batch = await w.until((await w.opened(4)).batch_id, RemoteStatus.ENDED)
        rows = sorted(await w.rows(batch), key=lambda row: row.custom_id)
        assert (batch.total, batch.completed, batch.failed, batch.error_file_id) == (4, 2, 2, None)
    assert [row.custom_id for row in rows] == sorted(an_id(n) for n in range(4))
    told = {(row.outcome, row.reason, row.refusal) for row in rows}
    assert told == {
        (Outcome.ERROR, Reason.REQUEST_INVALID, None),
        (Outcome.ERROR, Reason.THROTTLED, None),
        (Outcome.SUCCEEDED, None, "SAFETY"),
        (Outcome.SUCCEEDED, None, None),
    }
    assert not any(a == b for a, b in itertools.pairwise(rows))


async def test_what_was_read_from_the_prompt_cache_is_told_as_it_was_billed(world):
    async with world(simulator={"prompt_cache_tokens_min": 1}) as w:
        rows = await w.rows(await w.until((await w.opened(4)).batch_id, RemoteStatus.ENDED))
        bills = w.ledger().bills
    assert sum(row.cached_tokens for row in rows) == sum(bill.cached_tokens for bill in bills) > 0
    assert all(row.cached_tokens < row.input_tokens for row in rows)
