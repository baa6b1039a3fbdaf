"""The provider port's contract as OpenAI and those who speak like it keep it, against the simulator over real HTTP.

What only this tier shows: that adapter and simulator agree on the protocol, and what the ledger says was done when the
adapter says that it does not know. What every adapter must keep is in `test_providers_alike`.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore
from batchmill.agents.providers.openai_batch import headers, online_path
from batchmill.agents.providers.openai_rows import call_of, row_of
from batchmill.agents.providers.registry import provider_for
from batchmill.agents.settings import AccountSettings
from batchmill.agents.simulator import SimulatorConfig, plan_from_json, read_ledger, running_simulator
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import ChunkState, Outcome
from batchmill.streams.ports import (
    Action,
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
from tests.streams.rows import make_chunk, make_life

ENDPOINT = "/v1/chat/completions"
LOOKS_MAX = 1_000
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["pos", "neg"]}},
    "required": ["label"],
    "additionalProperties": False,
}


class World:
    def __init__(self, provider, account, ledger_path, since_ms):
        self.provider, self.account, self.ledger_path, self.since_ms = provider, account, ledger_path, since_ms

    def batches(self):
        """Give the batches that exist, whatever the adapter was told."""
        return read_ledger(self.ledger_path).batches_created

    def lines(self, count, endpoint=ENDPOINT):
        body = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "A good film."}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": SCHEMA}},
        }
        return b"".join(
            self.provider.request_line(custom_id=f"r.{n}", endpoint=endpoint, body=json.dumps(body).encode())
            for n in range(count)
        )

    async def uploaded(self, data):
        async def content():
            yield data

        return await self.provider.upload(
            name="c.jsonl", size_bytes=len(data), content=content(), may_start=lambda: True
        )

    async def create(self, file_id, label):
        order = CreateOrder(
            label=label, endpoint=ENDPOINT, model="gpt-5-mini", file_id=file_id, size_bytes=0, content=nothing
        )
        return await self.provider.create(order, may_start=lambda: True)

    async def opened(self, count=6, **changes):
        return await self.create(await self.uploaded(self.lines(count)), a_label(**changes))

    async def until(self, batch_id, *wanted):
        for _ in range(LOOKS_MAX):
            batch = await self.provider.get(batch_id)
            if batch.status in wanted:
                return batch
            await asyncio.sleep(0.01)
        raise AssertionError(batch)

    async def rows(self, batch):
        files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        data = [b"".join([part async for part in self.provider.download(file)]) for file in files]
        return [self.provider.parse_row(line) for content in data for line in content.split(b"\n") if line]

    async def round(self, count=6):
        batch = await self.until((await self.opened(count)).batch_id, RemoteStatus.ENDED)
        return batch, await self.rows(batch)


async def nothing():
    return
    yield b""


def a_label(**changes):
    return replace(
        Label(app="app", chunk_id="app-3-7", chunk_attempt=1, payload_sha256="ab" * 32, members=6), **changes
    )


@pytest.fixture
def world(tmp_path):
    @asynccontextmanager
    async def made(faults=None, **account):
        config = SimulatorConfig(
            data_dir=tmp_path / "simulator",
            latency_seconds=(0.02, 0.05),
            validating_seconds=0.01,
            finalizing_seconds=0.01,
            cancelling_seconds=0.01,
            faults=plan_from_json(faults or {}),
        )
        async with running_simulator(config) as url:
            numbers = {"requests_per_minute": 600_000, "cooldown_max_seconds": 0.01, "clock_skew_seconds": 5.0}
            where = url if account.get("kind") == "azure" else f"{url}/v1"
            settings = AccountSettings(base_url=where, api_key="k", **numbers | account)
            provider = provider_for("acme", settings, on_call=lambda _: None, loopback_only=True)
            try:
                yield World(provider, settings, config.ledger_file, clock.wall_ms())
            finally:
                await provider.close()

    return made


async def test_a_batch_runs_from_upload_to_rows_that_name_every_request(world):
    async with world() as w:
        batch, rows = await w.round(20)
    assert (batch.status_text, batch.total, batch.completed, batch.failed) == ("completed", 20, 20, 0)
    assert sorted(row.custom_id for row in rows) == sorted(f"r.{n}" for n in range(20))
    assert [row.custom_id for row in rows] != [f"r.{n}" for n in range(20)]  # the simulator shuffles
    for row in rows:
        assert (row.outcome, row.reason, row.http_status) == (Outcome.SUCCEEDED, None, 200)
        assert json.loads(row.output)["label"] in {"pos", "neg"}
        assert row.input_tokens > 0
        assert row.usage_known


async def test_what_is_downloaded_survives_in_the_payload_store(world, tmp_path):
    async with world() as w:
        batch = await w.until((await w.opened()).batch_id, RemoteStatus.ENDED)
        store = FilePayloadStore(directory=tmp_path / "payloads")
        stored = await store.put(w.provider.download(batch.output_file_id))
        again = await store.put(w.provider.download(batch.output_file_id))
    assert stored == again
    assert await store.verify(stored.uri) == stored.size_bytes > 0


@pytest.mark.parametrize("fault", ["accept_then_500", "accept_then_503", "accept_then_disconnect", "accept_then_hang"])
async def test_a_batch_whose_creation_was_not_confirmed_is_found_by_its_label(world, fault):
    async with world({fault: {"nth": [1], "seconds": 5}}, total_timeout_seconds=0.5) as w:
        file_id = await w.uploaded(w.lines(3))
        with pytest.raises(OutcomeUnknownError):
            await w.create(file_id, a_label())
        assert len(w.batches()) == 1  # it exists: sending again would pay twice
        (found,) = await w.provider.find(label=a_label(chunk_attempt=2), since_ms=w.since_ms)
        assert found.batch_id == w.batches()[0].batch_id
        assert found.label["chunk_attempt"] == "1"
        await w.until(found.batch_id, RemoteStatus.ENDED)


async def test_a_refused_batch_of_an_earlier_attempt_is_told_from_this_one_by_what_the_adapter_read(world):
    """Adapter and decision must speak of attempts in the same words: one reads what the other wrote."""
    async with world({"token_limit_exceeded": {"nth": [1]}}) as w:
        refused = await w.opened(3)
        await w.until(refused.batch_id, RemoteStatus.FAILED)
        found = await w.provider.find(label=a_label(chunk_attempt=2), since_ms=w.since_ms)
    assert [batch.batch_id for batch in found] == [refused.batch_id]
    states = {}
    for attempt in (1, 2):
        chunk, _ = make_chunk([make_life(0)], ChunkState.ATTEMPTING, attempt=attempt, file_id="f")
        states[attempt] = after_look(chunk, found, w.since_ms).orders[0].row.state
    assert states == {1: ChunkState.OPEN, 2: ChunkState.ATTEMPTING}


async def test_a_create_that_failed_for_sure_made_nothing_and_one_that_may_have_is_unknown(world):
    faults = {"reject_429": {"nth": [1], "seconds": 7}, "reject_quota": {"nth": [2]}, "reject_500": {"nth": [3]}}
    async with world(faults) as w:
        file_id = await w.uploaded(w.lines(3))
        with pytest.raises(TransientError) as throttled:
            await w.create(file_id, a_label())
        assert throttled.value.retry_after_seconds == 7
        with pytest.raises(MustPauseError, match="insufficient_quota"):
            await w.create(file_id, a_label())
        with pytest.raises(OutcomeUnknownError):
            await w.create(file_id, a_label())
        assert w.batches() == ()
        assert list(await w.provider.find(label=a_label(), since_ms=w.since_ms)) == []


async def test_nothing_but_this_chunk_with_this_very_input_is_found(world):
    async with world() as w:
        for changes in ({"chunk_id": "app-3-8"}, {"app": "other"}, {"payload_sha256": "cd" * 32}):
            await w.opened(1, **changes)
        twins = [(await w.opened(1, chunk_attempt=attempt)).batch_id for attempt in (1, 2)]
        found = await w.provider.find(label=a_label(), since_ms=w.since_ms)
        assert {batch.batch_id for batch in found} == set(twins)
        later = await w.provider.find(label=a_label(), since_ms=w.since_ms + 3_600_000)
        assert list(later) == []


async def test_a_batch_is_found_behind_many_others(world):
    async with world() as w:
        wanted = await w.opened(1)
        file_id = await w.uploaded(w.lines(1))
        others = (w.create(file_id, a_label(chunk_id=f"app-0-{n}")) for n in range(101))  # more than a page
        await asyncio.gather(*others)
        (found,) = await w.provider.find(label=a_label(), since_ms=w.since_ms)
        assert found.batch_id == wanted.batch_id


async def test_a_file_that_was_deleted_makes_a_late_create_fail_for_sure(world):
    async with world() as w:
        file_id = await w.uploaded(w.lines(1))
        await w.provider.delete_file(file_id)
        await w.provider.delete_file(file_id)
        with pytest.raises(NotFoundError):
            await w.create(file_id, a_label())
        assert w.batches() == ()


@pytest.mark.parametrize("fault", ["upload_500", "upload_disconnect", "upload_accept_then_500"])
async def test_an_upload_that_fails_may_simply_be_made_again(world, fault):
    async with world({fault: {"nth": [1]}}) as w:
        with pytest.raises(TransientError):
            await w.uploaded(w.lines(2))
        assert await w.uploaded(w.lines(2))


async def test_a_completed_batch_without_its_files_is_still_running(world):
    async with world({"late_output_file": {"rate": 1, "seconds": 0.3}}) as w:
        made = await w.opened()
        seen = []
        for _ in range(LOOKS_MAX):
            batch = await w.provider.get(made.batch_id)
            seen.append((batch.status_text, batch.status, bool(batch.output_file_id)))
            if batch.status is RemoteStatus.ENDED:
                break
            await asyncio.sleep(0.01)
        assert ("completed", RemoteStatus.RUNNING, False) in seen
        assert seen[-1] == ("completed", RemoteStatus.ENDED, True)


async def test_file_ids_that_are_empty_are_no_files(world):
    async with world({"empty_error_file_id": 1}) as w:
        batch, rows = await w.round()
    assert batch.error_file_id is None
    assert len(rows) == 6


async def test_a_batch_over_the_token_limit_asks_to_be_deferred(world):
    async with world({"token_limit_exceeded": 1}) as w:
        batch = await w.until((await w.opened()).batch_id, RemoteStatus.FAILED)
    assert (batch.failure.action, batch.failure.code) == (Action.DEFER_CHUNK, "token_limit_exceeded")


async def test_one_bad_line_fails_its_batch_and_is_named(world):
    async with world() as w:
        file_id = await w.uploaded(w.lines(2) + b"not json\n")
        batch = await w.until((await w.create(file_id, a_label())).batch_id, RemoteStatus.FAILED)
    assert (batch.failure.code, batch.failure.line) == ("invalid_json_line", 3)
    assert batch.failure.action is Action.RETRY_ROW


async def test_an_expired_batch_gives_what_was_finished_and_the_rest_unbilled(world):
    async with world({"expire": {"rate": 1, "share": 0.5}}) as w:
        batch, rows = await w.round(20)
    kinds = {row.outcome: row for row in rows}
    assert batch.status_text == "expired"
    assert len({row.custom_id for row in rows}) == 20
    assert kinds.keys() == {Outcome.SUCCEEDED, Outcome.EXPIRED}
    assert (kinds[Outcome.EXPIRED].reason, kinds[Outcome.EXPIRED].billed) == (Reason.EXPIRED, False)


async def test_a_cancelled_batch_ends_with_every_row_told(world):
    async with world() as w:
        made = await w.opened(20)
        shown = await w.provider.cancel(made.batch_id)
        assert shown.status in {RemoteStatus.CANCELLING, RemoteStatus.ENDED}
        batch = await w.until(made.batch_id, RemoteStatus.ENDED)
        rows = await w.rows(batch)
    assert {row.outcome for row in rows} <= {Outcome.SUCCEEDED, Outcome.CANCELLED}
    assert len({row.custom_id for row in rows}) == (20 if batch.total else 0)  # cancelled while validating: no rows yet


# Other endpoints, single calls, Azure ------------------------------------------------------------------------------

ANSWERS = {
    ENDPOINT: lambda text: json.loads(text).keys() == {"label"},
    "/v1/responses": lambda text: json.loads(text).keys() == {"label"},
    "/v1/embeddings": lambda text: len(json.loads(text)) == 1_536,
}


@pytest.mark.parametrize("endpoint", ANSWERS)
@pytest.mark.parametrize("kind", ["openai", "azure", "compatible"])
async def test_a_line_gets_the_same_answer_in_a_batch_and_alone_and_both_usages_are_the_ledgers(world, endpoint, kind):
    async with world(kind=kind) as w:
        order = CreateOrder(
            label=a_label(), endpoint=endpoint, model="gpt-4o-mini", file_id=None, size_bytes=0, content=nothing
        )
        line = w.lines(1, endpoint)
        made = await w.provider.create(replace(order, file_id=await w.uploaded(line)), may_start=lambda: True)
        [batched] = await w.rows(await w.until(made.batch_id, RemoteStatus.ENDED))
        async with httpx.AsyncClient(headers=headers(w.account), base_url=w.account.url + "/") as http:
            answer = await http.post(online_path(endpoint), content=call_of(line))
        alone = row_of("r.0", answer.status_code, answer.content)
        first, second = read_ledger(w.ledger_path).bills
    assert alone == batched
    assert ANSWERS[endpoint](alone.output)
    for row, bill in ((batched, first), (alone, second)):
        told = (row.input_tokens, row.output_tokens, row.cached_tokens)
        assert told == (bill.input_tokens, bill.output_tokens, bill.cached_tokens)
    assert (first.tier, second.tier) == ("batch", "online")


@pytest.mark.parametrize("rule", ["status_scheduling", "absent_keys", "errors_list"])
async def test_a_compatible_servers_own_words_change_nothing(world, rule):
    async with world({rule: 1}, kind="compatible") as w:
        batch, rows = await w.round(3)
        assert (batch.total, len(rows)) == (3, 3)
        bad = await w.create(await w.uploaded(b"not json\n"), a_label())
        failed = await w.until(bad.batch_id, RemoteStatus.FAILED)
    assert (failed.failure.code, failed.failure.line) == ("invalid_json_line", 1)


async def test_a_bad_line_can_be_refused_at_the_upload_already(world):
    async with world({"upload_checks_lines": 1}, kind="compatible") as w:
        with pytest.raises(RefusedError) as told:
            await w.uploaded(w.lines(1) + b"not json\n")
        assert told.value.code == "invalid_json_line"
        assert w.batches() == ()
