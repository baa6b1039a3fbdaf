"""The Anthropic adapter where it is unlike the others: a payload in the create call, and nothing written on a batch.

What only this tier shows: that a create which stopped short has certainly made nothing, and that of many batches of
the same size the right one is found, told from the others, or waited for.
"""

import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.providers import anthropic_batch
from batchmill.agents.providers.anthropic_batch import AnthropicBatchProvider, headers, online_path
from batchmill.agents.settings import AccountSettings
from batchmill.schemas.ids import chunk_nonce
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.ports import (
    CreateOrder,
    MustPauseError,
    OutcomeUnknownError,
    RefusedError,
    RemoteStatus,
    TransientError,
)
from batchmill.streams.unusable import Unusable
from tests.agents.provider_worlds import CHUNK, OTHER, a_label, a_world, an_id

#: Long enough to be looked at while they run, cancelled before they would be done.
SLOW = {"latency_seconds": (30, 30)}
FOREIGN = (
    b'{"custom_id":"somebody-else-%d","params":{"model":"claude-haiku-4-5","max_tokens":5,'
    b'"messages":[{"role":"user","content":"x"}]}}\n'
)


@pytest.fixture
def world(tmp_path):
    return lambda faults=None, **more: a_world("anthropic", tmp_path, faults, **more)


async def lost(w, count=3, chunk=CHUNK):
    """Create a batch whose answer is lost: nobody here knows its id."""
    with pytest.raises(OutcomeUnknownError):
        await w.opened(count, chunk)
    return w.batches()[-1].batch_id


async def ended(w, batch_id):
    return await w.until(batch_id, RemoteStatus.ENDED)


def looked_into(w):
    """The batches whose results were opened to see whose they are, in that order."""
    seen = w.ledger().requests_to("GET", "/v1/messages/batches/")
    return [request.batch_id for request in seen if request.path.endswith("/results")]


# -- create ------------------------------------------------------------------------------------------------------------


async def test_the_payload_arrives_line_by_line_as_it_was_stored(world):
    async with world() as w:
        payload = w.payload(50)
        await w.create(payload, a_label(members=50))
        (made,) = w.batches()
        assert made.input_sha256 == hashlib.sha256(payload).hexdigest()
        assert [call.operation for call in w.calls] == ["create"]


payload_lines = st.lists(st.binary(min_size=1, max_size=30).map(lambda line: line.replace(b"\n", b"x")), min_size=1)


@given(lines=payload_lines, cuts=st.lists(st.integers(min_value=0, max_value=12), max_size=30))
def test_the_lines_become_one_list_of_the_size_that_was_announced(lines, cuts):
    payload = b"".join(line + b"\n" for line in lines)
    sent = asyncio.run(_sent(payload, _cut(payload, cuts)))
    assert sent == b'{"requests":[' + b",".join(lines) + b"]}"


@pytest.mark.parametrize(("announced", "content"), [(4, b"{}\n"), (3, b"{}\n\n"), (2, b"{}"), (0, b"")])
async def test_a_payload_that_is_not_what_was_announced_is_never_finished(announced, content):
    parts = []
    with pytest.raises(ValueError, match="announced"):
        await _sent(content, [content], size_bytes=announced, parts=parts)
    assert b"]}" not in b"".join(parts)


def _cut(data, sizes):
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return [*parts, data[at:]]


async def _sent(payload, pieces, *, size_bytes=None, parts=None, may_start=lambda: True):
    async def content():
        for piece in pieces:
            yield piece

    parts = [] if parts is None else parts
    body = anthropic_batch._Requests(an_order(len(payload) if size_bytes is None else size_bytes, content), may_start)
    async for part in body.parts():
        parts.append(part)
    assert body.is_complete
    assert body.size_bytes == sum(map(len, parts))
    return b"".join(parts)


def an_order(size_bytes, content):
    return CreateOrder(
        label=a_label(),
        endpoint="/v1/messages",
        model="claude-haiku-4-5",
        file_id=None,
        size_bytes=size_bytes,
        content=content,
    )


async def test_a_lease_that_ends_while_the_payload_is_sent_leaves_it_unfinished_and_nothing_made(world):
    async with world() as w:
        answers = iter([True, False])  # it may start; it may not finish
        with pytest.raises(TransientError, match="lease_ended"):
            await w.create(w.payload(3), a_label(members=3), may_start=lambda: next(answers))
        await asyncio.sleep(0.05)
        assert w.batches() == ()
        assert list(await w.find(3)) == []
        await w.opened(3)
        assert len(w.batches()) == 1


@pytest.mark.parametrize("status", [None, 500])
async def test_a_create_that_broke_before_its_last_bytes_is_known_to_have_made_nothing(status):
    heard = asyncio.Event()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if status is not None:
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}" % status)
            await writer.drain()
        writer.transport.abort() if status is None else writer.close()
        heard.set()

    async def content():
        yield b"{}\n"
        await heard.wait()
        for _ in range(200):  # more than any buffer between us holds
            yield b"x" * 100_000
            await asyncio.sleep(0)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    provider = an_adapter(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        with pytest.raises(TransientError):
            await provider.create(an_order(20_000_003, content), may_start=lambda: True)
    finally:
        await provider.close()
        server.close()


def an_adapter(url, **account):
    settings = AccountSettings(kind="anthropic", base_url=url, api_key="k", requests_per_minute=600_000, **account)
    return AnthropicBatchProvider(name="acme", account=settings, on_call=lambda _: None, loopback_only=True)


async def test_money_and_keys_pause_and_a_batch_the_service_does_not_take_is_refused(world):
    async with world({"reject_quota": {"nth": [1]}, "reject_billing": {"nth": [2]}}) as w:
        for code in ("enforced_spend_limit_reached", "billing_error"):
            with pytest.raises(MustPauseError, match=code):
                await w.opened(1)
        with pytest.raises(RefusedError, match="invalid_request_error"):
            await w.create(w.line(1) + w.line(1), a_label(members=2))
    async with world(simulator={"api_key": "another"}) as w:
        with pytest.raises(MustPauseError, match="authentication_error"):
            await w.opened(1)
        assert w.batches() == ()


async def test_only_messages_can_be_asked_whatever_a_job_calls_them():
    provider, body = an_adapter("http://127.0.0.1:1"), b'{"messages":[],"model":"m"}'
    lines = {
        provider.request_line(custom_id="r-1", endpoint=endpoint, body=body)
        for endpoint in ("/v1/messages", "/v1/chat/completions")
    }
    assert lines == {b'{"custom_id":"r-1","params":{"model":"m","messages":[],"max_tokens":4096}}\n'}
    with pytest.raises(Unusable, match="/v1/embeddings"):
        provider.request_line(custom_id="r-1", endpoint="/v1/embeddings", body=body)
    await provider.close()


async def test_what_belongs_to_input_files_is_never_called():
    provider = an_adapter("http://127.0.0.1:1")
    with pytest.raises(AssertionError, match="no input file"):
        await provider.upload(name="c.jsonl", size_bytes=0, content=_nothing(), may_start=lambda: True)
    with pytest.raises(AssertionError, match="no input file"):
        await provider.delete_file("file-1")
    await provider.close()


async def _nothing():
    return
    yield b""


def test_every_call_says_who_calls_and_single_questions_have_one_path():
    account = AccountSettings(kind="anthropic", api_key="sk-k")
    assert headers(account) == {"x-api-key": "sk-k", "anthropic-version": "2023-06-01", "user-agent": "batchmill"}
    assert "x-api-key" not in headers(AccountSettings(kind="anthropic"))
    assert {online_path(endpoint) for endpoint in ("/v1/messages", "/v1/chat/completions")} == {"v1/messages"}


# -- states ------------------------------------------------------------------------------------------------------------


async def test_a_batch_is_shown_in_the_words_of_the_port(world):
    async with world(simulator=SLOW) as w:
        made = await w.opened(4)
        assert (made.status, made.status_text, made.total, made.completed) == (
            RemoteStatus.RUNNING,
            "in_progress",
            4,
            0,
        )
        assert abs(made.created_at_ms - w.since_ms) < 5_000
        assert (await w.provider.cancel(made.batch_id)).status in {RemoteStatus.CANCELLING, RemoteStatus.ENDED}
        batch = await ended(w, made.batch_id)
        assert (batch.status_text, batch.output_file_id, batch.error_file_id) == ("ended", made.batch_id, None)
        assert batch.identified
        with pytest.raises(RefusedError):
            await w.provider.cancel(made.batch_id)


async def test_a_batch_whose_results_were_archived_has_ended_without_any(world):
    async with world({"archived": {"rate": 1, "seconds": 0}}) as w:
        batch = await ended(w, (await w.opened(2)).batch_id)
        assert (batch.output_file_id, batch.completed, batch.total) == (None, 2, 2)


async def test_bad_rows_are_told_one_by_one(world):
    async with world(simulator={"fallback_price": None}) as w:
        lines = [w.line(0), w.line(1, max_completion_tokens=0), w.line(2, model="claude-nobody")]
        batch = await ended(w, (await w.create(b"".join(lines), a_label(members=3))).batch_id)
        rows = {row.custom_id: row for row in await w.rows(batch)}
    assert (batch.completed, batch.failed, batch.total) == (1, 2, 3)
    assert rows[an_id(0)].outcome is Outcome.SUCCEEDED
    for number, code in ((1, "invalid_request_error"), (2, "not_found_error")):
        row = rows[an_id(number)]
        assert (row.outcome, row.reason, row.error_code) == (Outcome.ERROR, Reason.REQUEST_INVALID, code)
        assert not row.billed


# -- finding -----------------------------------------------------------------------------------------------------------


async def test_while_it_runs_a_batch_of_the_same_size_may_be_the_one_and_its_results_tell(world):
    async with world({"accept_then_500": 1}, simulator={"latency_seconds": (0.5, 0.5)}) as w:
        ours, theirs = await lost(w), await lost(w, 3, OTHER)
        running = await w.find(3)
        assert {batch.batch_id for batch in running} == {ours, theirs}
        assert not any(batch.identified for batch in running)
        for batch_id in (ours, theirs):
            await ended(w, batch_id)
        (found,) = await w.find(3)
        assert (found.batch_id, found.identified) == (ours, True)
        (other,) = await w.find(3, OTHER)
        assert (other.batch_id, other.identified) == (theirs, True)


async def test_batches_of_another_size_are_never_looked_into(world):
    async with world({"accept_then_500": 1}) as w:
        for count in (1, 2, 4):
            await ended(w, await lost(w, count))
        assert list(await w.find(3)) == []
        assert looked_into(w) == []


async def test_the_batches_of_other_chunks_that_we_created_ourselves_are_told_from_it_at_once(world):
    async with world({"accept_then_500": {"nth": [3]}}, simulator=SLOW) as w:
        for chunk in (OTHER, "c0001-0000000001-cccccccccccccccc"):
            await w.opened(3, chunk)
        ours = await lost(w)
        (found,) = await w.find(3)
        assert (found.batch_id, found.identified) == (ours, False)
        assert looked_into(w) == []


async def test_batches_of_somebody_else_are_left_out(world):
    async with world() as w:
        payload = b"".join(FOREIGN % number for number in range(3))
        theirs = await w.create(payload, a_label(OTHER, members=3))
        w.provider._nonces.clear()
        await ended(w, theirs.batch_id)
        assert list(await w.find(3)) == []


async def test_a_stranger_among_our_own_rows_hides_nothing(world):
    async with world({"accept_then_500": 1, "shuffled": 0}) as w:
        payload = b"".join([*(FOREIGN % number for number in range(5)), w.line(0)])
        with pytest.raises(OutcomeUnknownError):
            await w.create(payload, a_label(members=6))
        await ended(w, w.batches()[0].batch_id)
        (found,) = await w.find(6)
        assert found.identified


async def test_two_batches_of_one_chunk_are_both_found(world):
    async with world({"accept_then_500": 1}) as w:
        twins = {await lost(w), await lost(w)}
        for batch_id in twins:
            await ended(w, batch_id)
        found = await w.find(3)
        assert {batch.batch_id for batch in found} == twins
        assert all(batch.identified for batch in found)


async def test_whose_a_batch_is_is_read_once(world):
    async with world({"accept_then_500": 1}) as w:
        ours, theirs = await lost(w), await lost(w, 3, OTHER)
        for batch_id in (ours, theirs):
            await ended(w, batch_id)
        for _ in range(3):
            assert [batch.batch_id for batch in await w.find(3)] == [ours]
        assert sorted(looked_into(w)) == sorted([ours, theirs])
        assert {call.outcome for call in w.calls if call.operation == "identify"} == {"ok"}
        assert w.provider._nonces == {ours: chunk_nonce(CHUNK), theirs: chunk_nonce(OTHER)}


async def test_what_is_known_of_batches_is_bounded(world, monkeypatch):
    monkeypatch.setattr(anthropic_batch, "NONCES_MAX", 2)
    async with world(simulator=SLOW) as w:
        made = [(await w.opened(1, f"c0001-000000000{n}-cccccccccccccccc")).batch_id for n in range(4)]
        assert list(w.provider._nonces) == made[2:]


@pytest.mark.parametrize("fault", ["row_broken_line", "row_missing", "late_output_file"])
async def test_an_ended_batch_whose_rows_cannot_be_read_may_still_be_the_one(world, fault):
    async with world({"accept_then_500": 1, fault: {"rate": 1, "seconds": 60}}) as w:
        ours = await lost(w)
        await asyncio.sleep(0.3)
        (found,) = await w.until_found(bool, count=3)
        assert (found.batch_id, found.identified) == (ours, False)


async def test_an_archived_batch_is_no_candidate_any_more(world):
    async with world({"accept_then_500": 1, "archived": {"rate": 1, "seconds": 0}}) as w:
        await ended(w, await lost(w))
        assert list(await w.find(3)) == []


async def test_a_look_into_results_that_breaks_off_concludes_nothing(world):
    async with world({"accept_then_500": 1, "download_500": {"nth": [1]}}) as w:
        ours = await lost(w)
        await ended(w, ours)
        with pytest.raises(TransientError):
            await w.find(3)
        (found,) = await w.find(3)
        assert found.identified


async def test_a_batch_is_found_behind_many_others_over_many_pages(world, monkeypatch):
    monkeypatch.setattr(anthropic_batch, "PAGE_BATCHES", 3)
    async with world({"accept_then_500": {"nth": [1]}}) as w:
        ours = await lost(w)
        for number in range(10):
            await w.opened(3, f"c0009-{number:010d}-cccccccccccccccc")
        await ended(w, ours)
        (found,) = await w.find(3)
        assert (found.batch_id, found.identified) == (ours, True)
        assert len(w.ledger().requests_to("GET", "/v1/messages/batches")) > 4


async def test_a_list_that_does_not_end_concludes_nothing(world, monkeypatch):
    monkeypatch.setattr(anthropic_batch, "PAGE_BATCHES", 1)
    monkeypatch.setattr(anthropic_batch, "FIND_PAGES_MAX", 2)
    async with world(simulator=SLOW) as w:
        for number in range(3):
            await w.opened(1, f"c0009-{number:010d}-cccccccccccccccc")
        with pytest.raises(TransientError, match="listing_endless"):
            await w.find(3)


# -- what a stranger may say -------------------------------------------------------------------------------------------


def a_document(**changes):
    counts = {"processing": 0, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0}
    return {
        "id": "msgbatch_1",
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": counts,
        "created_at": "2026-11-25T10:00:00.123456+00:00",
        "ended_at": "2026-11-25T10:10:00Z",
        "results_url": "https://example.invalid/results",
    } | changes


@pytest.mark.parametrize(
    ("changes", "status", "file", "total", "created_ms"),
    [
        ({}, RemoteStatus.ENDED, "msgbatch_1", 2, 1_795_600_800_123),
        ({"processing_status": "scheduling"}, RemoteStatus.RUNNING, None, 2, 1_795_600_800_123),
        ({"request_counts": None}, RemoteStatus.ENDED, "msgbatch_1", None, 1_795_600_800_123),
        ({"request_counts": {"succeeded": "2"}}, RemoteStatus.ENDED, "msgbatch_1", 0, 1_795_600_800_123),
        ({"created_at": None}, RemoteStatus.ENDED, "msgbatch_1", 2, 0),
        ({"created_at": "soon"}, RemoteStatus.ENDED, "msgbatch_1", 2, 0),
        ({"results_url": None}, RemoteStatus.ENDED, None, 2, 1_795_600_800_123),
        ({"results_url": None, "ended_at": "2026-11-25T10:19:00Z"}, RemoteStatus.RUNNING, None, 2, 1_795_600_800_123),
        ({"results_url": None, "ended_at": None}, RemoteStatus.ENDED, None, 2, 1_795_600_800_123),
    ],
)
def test_absent_and_unknown_members_are_borne(changes, status, file, total, created_ms):
    now = anthropic_batch.datetime.fromisoformat("2026-11-25T10:20:00+00:00")
    batch = anthropic_batch._batch(a_document(**changes), now)
    assert (batch.status, batch.output_file_id, batch.total, batch.created_at_ms) == (status, file, total, created_ms)
