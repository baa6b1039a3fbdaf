"""The OpenAI adapter against a server that does exactly what it is told, down to the bytes it holds back.

What only this tier shows: that a broken exchange is told as known or unknown, that nothing is ever sent twice, and
what really goes over the wire.
"""

import asyncio
import json
from dataclasses import fields

import pytest

from batchmill.agents import clock
from batchmill.agents.providers.openai_batch import OpenAIBatchProvider
from batchmill.agents.providers.registry import Providers
from batchmill.agents.settings import AccountSettings, Settings, SettingsError
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
from tests.agents.scripts import CLOSE, HANG, Cut, reply, scripted

LABEL = Label(app="app", chunk_id="app-3-7", chunk_attempt=2, payload_sha256="ab" * 32, members=2)
METADATA = {
    "batchmill_app": "app",
    "batchmill_chunk": "app-3-7",
    "batchmill_attempt": "2",
    "batchmill_sha256": "ab" * 32,
}


def refusal(status, code=None, kind=None, **more):
    return reply(status, {"error": {"code": code, "type": kind, "message": "you said: PRIVATE PROMPT"}}, **more)


def a_batch(**changes):
    return {
        "id": "batch_1",
        "object": "batch",
        "status": "validating",
        "created_at": 1_000,
        "input_file_id": "file-1",
        "metadata": METADATA,
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
    } | changes


def a_script(**account):
    return scripted(OpenAIBatchProvider, "/v1", **account)


async def nothing():
    return
    yield b""


def create(provider, may_start=lambda: True):
    order = CreateOrder(
        label=LABEL,
        endpoint="/v1/chat/completions",
        model="gpt-5-mini",
        file_id="file-1",
        size_bytes=0,
        content=nothing,
    )
    return provider.create(order, may_start=may_start)


async def test_create_says_what_it_wants_and_whose_it_is():
    async with a_script() as (script, provider):
        script.answers = [reply(200, a_batch())]
        batch = await create(provider)
    assert (batch.batch_id, batch.status, batch.created_at_ms) == ("batch_1", RemoteStatus.RUNNING, 1_000_000)
    line, head, body = script.heard[0]
    assert line == "POST /v1/batches HTTP/1.1"
    assert "authorization: Bearer sk-k" in head
    assert json.loads(body) == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": METADATA,
    }


UNKNOWN = {
    "the connection closes after the request": CLOSE,
    "no answer comes in time": HANG,
    "500": refusal(500),
    "502 without a body": reply(502, body=b""),
    "503 slow_down": refusal(503, "slow_down"),
    "408": refusal(408),
    "409": refusal(409),
    "an answer that is not JSON": reply(200, body=b"<html>"),
    "an answer without an id": reply(200, {"object": "batch"}),
    "an answer that is a list": reply(200, [1]),
    "an answer that breaks off": Cut(reply(200, a_batch())[:-5]),
    "not HTTP at all": b"SSH-2.0-x\r\n\r\n",
}


@pytest.mark.parametrize("how", UNKNOWN)
async def test_a_create_whose_answer_is_lost_is_unknown_and_was_sent_once(how):
    async with a_script(total_timeout_seconds=0.3) as (script, provider):
        script.answers = [UNKNOWN[how]]
        with pytest.raises(OutcomeUnknownError) as caught:
            await create(provider)
        assert len(script.heard) == 1
        assert "PRIVATE" not in str(caught.value)
        assert [(c.operation, c.outcome) for c in script.calls] == [("create", "OutcomeUnknownError")]


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (refusal(400, "invalid_request"), RefusedError, "invalid_request"),
        (refusal(400, None, "invalid_request_error"), RefusedError, "invalid_request_error"),
        (refusal(413), RefusedError, "http_413"),
        (refusal(404, "model_not_found"), RefusedError, "model_not_found"),
        (refusal(404), NotFoundError, "http_404"),
        (refusal(401, "invalid_api_key"), MustPauseError, "invalid_api_key"),
        (refusal(402), MustPauseError, "http_402"),
        (refusal(403), MustPauseError, "http_403"),
        (refusal(429, "rate_limit_exceeded"), TransientError, "rate_limit_exceeded"),
        (refusal(429, None, "insufficient_quota"), MustPauseError, "insufficient_quota"),
        (refusal(429, "project_spend_limit_exceeded", "x"), MustPauseError, "project_spend_limit_exceeded"),
        (refusal(400, "billing_hard_limit_reached"), MustPauseError, "billing_hard_limit_reached"),
        pytest.param(reply(302, {}, headers=["location: /elsewhere"]), RefusedError, "http_302", id="302"),
    ],
)
async def test_a_create_that_was_refused_is_known_not_to_exist(answer, error, code):
    async with a_script() as (script, provider):
        script.answers = [answer]
        with pytest.raises(error) as caught:
            await create(provider)
        assert type(caught.value) is error
        assert caught.value.code == code
        assert "PRIVATE" not in str(caught.value)
        assert len(script.heard) == 1


async def test_a_create_that_could_not_connect_never_happened():
    closed = OpenAIBatchProvider(
        name="acme",
        account=AccountSettings(base_url="http://127.0.0.1:1/v1"),
        on_call=lambda _: None,
        loopback_only=True,
    )
    with pytest.raises(TransientError, match="ConnectError"):
        await create(closed)
    await closed.close()


async def test_a_lease_that_ended_while_waiting_for_a_turn_stops_the_create_before_it_is_sent():
    async with a_script() as (script, provider):
        with pytest.raises(TransientError, match="lease_ended"):
            await create(provider, may_start=lambda: False)
        assert script.heard == []
        assert script.calls == []


async def test_an_abandoned_create_is_not_sent_again_and_is_seen_as_cancelled():
    async with a_script() as (script, provider):
        script.answers = [HANG]
        call = asyncio.ensure_future(create(provider))
        while not script.heard:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [c.outcome for c in script.calls] == ["cancelled"]
        assert len(script.heard) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [(CLOSE, TransientError), (HANG, TransientError), (refusal(500), TransientError), (refusal(404), NotFoundError)],
)
async def test_a_look_up_that_breaks_changes_nothing_and_may_be_made_again(answer, error):
    async with a_script(total_timeout_seconds=0.3) as (script, provider):
        script.answers = [answer]
        with pytest.raises(error) as caught:
            await provider.get("batch_1")
        assert type(caught.value) is error


async def test_a_retry_after_is_passed_on_and_closes_the_gate():
    async with a_script(cooldown_max_seconds=0.2) as (script, provider):
        script.answers = [refusal(429, headers=["retry-after: 7"]), reply(200, a_batch())]
        with pytest.raises(TransientError) as caught:
            await provider.get("batch_1")
        assert caught.value.retry_after_seconds == 7.0
        asked_s = clock.monotonic_s()
        await provider.get("batch_1")
        assert clock.monotonic_s() - asked_s > 0.1  # bounded by cooldown_max_seconds, else it would be 7


async def test_an_upload_is_streamed_as_one_form_with_its_exact_length():
    async def content():
        yield b'{"a":1}\n'
        yield b'{"b":2}\n'

    async with a_script() as (script, provider):
        script.answers = [reply(200, {"id": "file-9"})]
        assert (
            await provider.upload(name="c.jsonl", size_bytes=16, content=content(), may_start=lambda: True) == "file-9"
        )
    line, head, body = script.heard[0]
    assert line == "POST /v1/files HTTP/1.1"
    boundary = head.split("boundary=")[1].split("\r\n")[0].encode()
    fields = body.split(b"--" + boundary)
    assert b'name="purpose"\r\n\r\nbatch\r\n' in fields[1]
    assert b'filename="c.jsonl"' in fields[2]
    assert fields[2].endswith(b'\r\n\r\n{"a":1}\n{"b":2}\n\r\n')
    assert fields[3] == b"--\r\n"


@pytest.mark.parametrize("announced", [1, 3])
async def test_an_upload_whose_content_is_not_as_long_as_announced_is_broken_off(announced):
    async def content():
        yield b"xx"

    async with a_script() as (script, provider):
        script.answers = [reply(200, {"id": "file-9"})]
        with pytest.raises(ValueError, match="another length"):
            await provider.upload(name="c.jsonl", size_bytes=announced, content=content(), may_start=lambda: True)
        assert script.heard == []


async def test_a_download_gives_the_bytes_and_one_that_breaks_off_raises():
    async with a_script() as (script, provider):
        script.answers = [
            reply(200, body=b"line one\nline two\n"),
            Cut(reply(200, body=b"x" * 100)[:-40]),
            refusal(404),
        ]
        assert b"".join([part async for part in provider.download("file-o")]) == b"line one\nline two\n"
        assert script.heard[0][0] == "GET /v1/files/file-o/content HTTP/1.1"
        with pytest.raises(TransientError):
            _ = [part async for part in provider.download("file-o")]
        with pytest.raises(NotFoundError):
            _ = [part async for part in provider.download("file-o")]


async def test_a_download_that_stalls_ends_by_its_own_limit():
    async with a_script(transfer_timeout_seconds=0.3) as (script, provider):
        script.answers = [reply(200, body=b"x" * 100)[:-40]]
        with pytest.raises(TransientError, match="timeout"):
            _ = [part async for part in provider.download("file-o")]


async def test_a_slow_reader_is_not_mistaken_for_a_slow_provider():
    async with a_script(transfer_timeout_seconds=0.2) as (script, provider):
        script.answers = [reply(200, body=b"all of it")]
        got = b""
        async for part in provider.download("file-o"):
            await asyncio.sleep(0.3)
            got += part
            break
        assert got == b"all of it"


async def test_a_deleted_file_is_gone_and_one_that_was_never_there_is_too():
    async with a_script() as (script, provider):
        script.answers = [reply(200, {"id": "file-1", "deleted": True}), refusal(404), refusal(500)]
        await provider.delete_file("file-1")
        await provider.delete_file("file-1")
        with pytest.raises(TransientError):
            await provider.delete_file("file-1")
    assert [h[0] for h in script.heard] == ["DELETE /v1/files/file-1 HTTP/1.1"] * 3


async def test_find_reads_every_page_back_to_the_attempt_and_matches_by_what_was_written_on_it():
    def item(number, created_at, **metadata):
        return a_batch(id=f"b{number}", created_at=created_at, metadata=METADATA | metadata)

    pages = [
        [item(1, 5_000), item(2, 4_990, batchmill_chunk="app-3-8"), item(3, 4_980, batchmill_attempt="1")],
        [item(4, 4_970, batchmill_app="other"), item(5, 3_600), item(6, 4_960, batchmill_sha256="cd" * 32)],
        [item(7, 100), item(8, 90)],
        [item(9, 80)],
    ]
    async with a_script(clock_skew_seconds=1_000.0) as (script, provider):
        script.answers = [reply(200, {"data": page, "has_more": True}) for page in pages]
        found = await provider.find(label=LABEL, since_ms=4_500_000)
    assert [batch.batch_id for batch in found] == ["b1", "b3", "b5"]
    # by the label's own names: who compares attempts must not know how they are written on a batch
    assert {batch.batch_id: batch.label["chunk_attempt"] for batch in found} == {"b1": "2", "b3": "1", "b5": "2"}
    assert all(batch.label.keys() < {field.name for field in fields(Label)} for batch in found)
    asked = [head.split(" ")[1] for head, _, _ in script.heard]
    assert asked == ["/v1/batches?limit=100", "/v1/batches?limit=100&after=b3", "/v1/batches?limit=100&after=b6"]


@pytest.mark.parametrize(
    "pages",
    [
        [reply(200, {"data": [a_batch(created_at=9_999)], "has_more": True})] * 3,
        [reply(200, {"data": [a_batch(created_at=9_999)], "has_more": True}), refusal(500)],
        [reply(200, {"data": [{"status": "completed"}], "has_more": False})],
        [reply(200, {"data": [], "has_more": True})],
    ],
    ids=["does not move on", "breaks on the second page", "shows a batch without an id", "is empty but has more"],
)
async def test_a_listing_that_cannot_be_read_through_never_says_not_found(pages):
    async with a_script() as (script, provider):
        script.answers = list(pages)
        with pytest.raises(TransientError):
            await provider.find(label=LABEL, since_ms=0)


@pytest.mark.parametrize("created_at", [None, 4_999.5])
async def test_a_batch_that_does_not_say_when_it_was_made_in_whole_seconds_is_still_found(created_at):
    async with a_script(clock_skew_seconds=1.0) as (script, provider):
        script.answers = [reply(200, {"data": [a_batch(created_at=created_at)], "has_more": False})]
        assert len(await provider.find(label=LABEL, since_ms=4_999_000)) == 1


async def test_an_empty_account_has_nothing_to_find():
    async with a_script() as (script, provider):
        script.answers = [reply(200, {"data": [], "has_more": False})]
        assert list(await provider.find(label=LABEL, since_ms=0)) == []


def ended(**changes):
    """Just now: documents are made when tests are collected, and the suite takes longer than the grace time."""
    just_now = int(clock.wall_ms() / 1_000) + 3_600
    return a_batch(status="completed", completed_at=just_now, output_file_id="o") | changes


@pytest.mark.parametrize(
    ("document", "status"),
    [
        (a_batch(status="in_progress"), RemoteStatus.RUNNING),
        (a_batch(status="finalizing"), RemoteStatus.RUNNING),
        (a_batch(status="scheduling"), RemoteStatus.RUNNING),
        (a_batch(status=None), RemoteStatus.RUNNING),
        (a_batch(status="cancelling"), RemoteStatus.CANCELLING),
        (ended(request_counts={"total": 2, "completed": 2, "failed": 0}), RemoteStatus.ENDED),
        (ended(request_counts=None), RemoteStatus.ENDED),
        # All rows failed: there is no output file, and none will come.
        (
            ended(output_file_id=None, error_file_id="e", request_counts={"total": 2, "completed": 0, "failed": 2}),
            RemoteStatus.ENDED,
        ),
        # Completed before its files are filled in.
        (ended(output_file_id=None, request_counts={"total": 2, "completed": 2, "failed": 0}), RemoteStatus.RUNNING),
        (ended(output_file_id="", request_counts={"total": 2, "completed": 2, "failed": 0}), RemoteStatus.RUNNING),
        (ended(request_counts={"total": 2, "completed": 1, "failed": 1}), RemoteStatus.RUNNING),
        (
            ended(output_file_id=None, completed_at=1, request_counts={"total": 2, "completed": 2, "failed": 0}),
            RemoteStatus.ENDED,
        ),
        # It never says when it ended; its window is over, or is not.
        (ended(output_file_id=None, completed_at=None, request_counts=None), RemoteStatus.ENDED),
        (ended(output_file_id=None, completed_at=None, created_at=32_503_680_000), RemoteStatus.RUNNING),
        (a_batch(status="expired", error_file_id="e"), RemoteStatus.ENDED),
        (a_batch(status="cancelled", error_file_id="e", output_file_id=""), RemoteStatus.ENDED),
        (a_batch(status="cancelled", request_counts={"total": 0, "completed": 0, "failed": 0}), RemoteStatus.ENDED),
    ],
)
async def test_a_batch_has_ended_when_nothing_about_it_can_change_any_more(document, status):
    async with a_script() as (script, provider):
        script.answers = [reply(200, document)]
        batch = await provider.get("batch_1")
    assert batch.status is status
    assert batch.output_file_id != ""


@pytest.mark.parametrize(
    ("errors", "failure"),
    [
        (
            {"data": [{"code": "token_limit_exceeded", "line": None}]},
            (Action.DEFER_CHUNK, "token_limit_exceeded", None),
        ),
        ([{"code": "token_limit_exceeded"}], (Action.DEFER_CHUNK, "token_limit_exceeded", None)),
        ({"data": [{"code": "invalid_json_line", "line": 7}]}, (Action.RETRY_ROW, "invalid_json_line", 7)),
        ({"data": [{"code": "invalid_request", "line": None}]}, (Action.TERMINAL, "invalid_request", None)),
        ({"data": [{"code": "model_not_found", "line": 1}]}, (Action.TERMINAL, "model_not_found", 1)),
        ({"data": [{"code": "insufficient_quota"}]}, (Action.PAUSE_JOB, "insufficient_quota", None)),
        ({"data": [{"code": "too_many_tasks"}]}, (Action.RETRY_ROW, "too_many_tasks", None)),
        ({"data": [{"code": "brand_new_word"}]}, (Action.RETRY_ROW, "brand_new_word", None)),
        ({"data": []}, (Action.RETRY_ROW, "unexplained", None)),
        (None, (Action.RETRY_ROW, "unexplained", None)),
    ],
)
async def test_a_batch_that_failed_as_a_whole_says_what_that_asks_of_us(errors, failure):
    async with a_script() as (script, provider):
        script.answers = [reply(200, a_batch(status="failed", errors=errors))]
        batch = await provider.get("batch_1")
    action, code, line = failure
    assert batch.status is RemoteStatus.FAILED
    assert batch.failure == BatchFailure(action=action, code=code, line=line)


@pytest.mark.parametrize(
    "shown",
    [
        {"request_counts": {"total": 2, "completed": 1, "failed": 0}, "output_file_id": "o"},
        {"output_file_id": "o"},
        {"request_counts": {"total": 2, "completed": 0, "failed": 2}, "error_file_id": "e"},
    ],
)
async def test_a_batch_that_is_called_failed_and_ran_is_collected_because_it_was_paid_for(shown):
    async with a_script() as (script, provider):
        script.answers = [reply(200, a_batch(status="failed", errors=[{"code": "server_error"}]) | shown)]
        batch = await provider.get("batch_1")
    assert (batch.status, batch.failure) == (RemoteStatus.ENDED, None)


async def test_cancel_asks_once_and_shows_the_batch():
    async with a_script() as (script, provider):
        script.answers = [reply(200, a_batch(status="cancelling"))]
        assert (await provider.cancel("batch_1")).status is RemoteStatus.CANCELLING
    assert script.heard[0][0] == "POST /v1/batches/batch_1/cancel HTTP/1.1"


async def test_an_account_is_found_by_the_name_a_job_uses():
    here = "http://127.0.0.1:1/v1"
    accounts = {
        "openai": AccountSettings(base_url=here),
        "b": AccountSettings(base_url=here, lease_seconds=3),
    }
    providers = Providers(Settings(accounts=accounts), on_call=lambda _: None)
    assert providers.of("default") is providers.of("openai")
    assert providers.account("b").lease_seconds == 3
    with pytest.raises(SettingsError, match="no provider account zed; known: b, openai"):
        providers.of("zed")
    providers.set_share(owned=1, of=8)
    await providers.close()


def test_an_account_beyond_this_machine_is_not_even_built_when_money_is_off():
    with pytest.raises(SettingsError, match="nothing can be spent"):
        Providers(Settings(loopback_only=True), on_call=lambda _: None)
