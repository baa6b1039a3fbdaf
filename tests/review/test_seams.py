"""Where rooms meet: payloads that go with the call, accounts that are gone, deadlines, budgets, crashes."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents import clock
from batchmill.agents.overseer import limits_of
from batchmill.agents.providers.registry import Providers
from batchmill.agents.settings import load_settings
from batchmill.agents.stages.collector import TWIN_TRIES_MAX
from batchmill.agents.stages.submitter import Submitter
from batchmill.schemas.jobs import ModeSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Meta
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.granting import needs_of
from batchmill.streams.overseeing import Books
from batchmill.streams.ports import CreateOrder, ProviderError, RefusedError, RemoteBatch, RemoteStatus, TransientError
from batchmill.streams.sealing import Queue, seal
from batchmill.streams.submitting import Todo
from tests.review.stage import MemoryTask, Provider, a_collector, a_kit, a_submitter
from tests.review.test_chunk_steps import a_task, one_step, run
from tests.streams.making import make_row, make_spec
from tests.streams.rows import NOW_MS, PLACE, make_chunk, make_life, make_source


class Inline(Provider):
    """Takes the payload with the create call itself."""

    def by_file(self, _chunk: Any) -> bool:
        return False

    async def create(self, order: CreateOrder, *, may_start: Any) -> RemoteBatch:
        async for _ in order.content():
            pass
        return await super().create(order, may_start=may_start)


def stored(submitter: Submitter, content: bytes) -> str:
    async def parts() -> Any:
        yield content

    return asyncio.run(submitter.payloads.put(parts())).uri


# -- a payload that goes with the create call --------------------------------------------------------------------------


@pytest.mark.parametrize("lost_at", ["before the attempt", "durable"])
def test_a_payload_damaged_or_lost_on_its_way_is_made_again_and_nothing_was_created(
    tmp_path: Path, lost_at: str
) -> None:
    task, chunk = a_task(ChunkState.PREPARED)
    provider = Inline()
    submitter = a_submitter(a_kit(), provider, tmp_path)
    uri = stored(submitter, b"{}\n")
    (path,) = (path for path in tmp_path.rglob("*") if path.name == uri.rpartition("/")[2])
    path.write_bytes(b"{]\n")
    if lost_at == "durable":
        task.at_wait = lambda where: path.unlink(missing_ok=True) if where == lost_at else None
    chunk = replace(chunk, payload_uri=uri)
    loop = submitter.dispatch()
    after = run(one_step(loop, task, chunk, Todo.BEGIN))
    assert (after.state, after.attempt, provider.calls) == (ChunkState.PREPARED, 1, [])
    after = run(one_step(loop, task, after, Todo.BEGIN))
    assert (after.state, after.payload_uri, provider.calls) == (ChunkState.SEALED, None, [])


# -- accounts ----------------------------------------------------------------------------------------------------------


def providers(**told: Any) -> Providers:
    settings = {"accounts.openai.base_url": "http://127.0.0.1:9/v1", "accounts.openai.api_key": "any", **told}
    return Providers(load_settings(settings), on_call=lambda _: None)


@pytest.mark.parametrize("state", [ChunkState.SEALED, ChunkState.PREPARED, ChunkState.UPLOADED, ChunkState.OPEN])
def test_chunks_of_an_account_that_is_gone_wait_and_the_loop_goes_on(tmp_path: Path, state: ChunkState) -> None:
    task, chunk = a_task(state, batch_id="batch-1", account="gone")
    task.put(chunk)
    collector = a_collector(a_kit(), providers(), tmp_path)  # type: ignore[arg-type]
    loop = collector.poll() if state is ChunkState.OPEN else collector.submitter.dispatch()

    async def turn() -> Chunk | None:
        for row, step in loop._due(task, {}):
            await loop._one(task, row, step, {row.chunk_id: step})
        return read.chunk(task.view, chunk.chunk_id)

    after = asyncio.run(turn())
    assert after is not None
    assert (after.state, after.note, after.due_at_ms is None) == (state, "account_unknown", False)


def test_a_job_that_names_no_account_is_held_to_the_limits_of_the_one_it_gets(tmp_path: Path) -> None:
    told = {"accounts.openai.batches_per_hour_max": 5, "accounts.openai.queued_max": 100}
    spec = make_spec()
    row = make_row(spec)
    life = make_life(0, version=row.version, job=spec.job)
    task = MemoryTask(row, life, make_source(life))
    submitter = a_submitter(a_kit(), providers(**told), tmp_path)  # type: ignore[arg-type]
    queue = Queue(life.lane, life.job, life.version)
    limits = submitter._limits(task, queue)
    assert limits is not None
    submitter.kit.carry(task, seal(task.view, queue, limits, PLACE, NOW_MS), src="effect:sealing")
    (chunk,) = [each for each in task.view.rows(Chunk.schema) if isinstance(each, Chunk)]
    needs = needs_of(chunk, nanos=None, share=submitter._share(chunk.account))
    base_url = {"accounts.openai.base_url": "http://127.0.0.1:9/v1"}
    books = Books(limits_of(load_settings({**base_url, **told})))
    assert [books.limit(need.pool) for need in needs] == [100, 5]


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_a_batch_that_will_be_late_is_given_up_although_nothing_waits_beside_it(tmp_path: Path) -> None:
    spec = make_spec(mode=ModeSpec(prefer="auto", deadline_seconds=7 * 3_600))
    row = make_row(spec)
    life = make_life(0, version=row.version, status=Status.PROCESSING, sends=1, attempt=1)
    chunk, members = make_chunk([life], ChunkState.OPEN, version=row.version, batch_id="batch-1")
    late = replace(chunk, first_queued_at_ms=clock.wall_ms() - 7 * 3_600_000)
    task = MemoryTask(row, late, *members, make_source(life))

    def stop(where: str) -> None:
        if where == "rest sealing":
            raise asyncio.CancelledError

    task.at_wait = stop
    with pytest.raises(asyncio.CancelledError):
        await a_submitter(a_kit(), Provider(), tmp_path).run_sealing(task)
    after = read.chunk(task.view, chunk.chunk_id)
    assert after is not None
    assert after.cancel_requested
    assert "poll" in task.woken


# -- answers that are paid for -----------------------------------------------------------------------------------------


def test_answers_are_collected_although_the_provider_never_lists_its_batches(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.ENDED, Status.PROCESSING, batch_id="batch-1")
    provider = Provider()
    provider.refusals["find"] = RefusedError("http_405", http_status=405)
    provider.remote = replace(provider.remote, status=RemoteStatus.ENDED, output_file_id="out")
    loop = a_collector(a_kit(), provider, tmp_path).poll()
    tries = 0
    while chunk.state is ChunkState.ENDED and tries <= 2 * TWIN_TRIES_MAX:
        tries += 1
        chunk = run(one_step(loop, task, chunk, Todo.DOWNLOAD))
    assert (chunk.state, tries) == (ChunkState.DOWNLOADED, TWIN_TRIES_MAX + 1)
    assert chunk.output_uri is not None


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.PROVIDER_CANCELLED])
def test_a_batch_that_came_late_is_cancelled_and_counted_before_its_members_are_sent_by_another(
    tmp_path: Path, reason: Reason
) -> None:
    task, chunk = a_task(ChunkState.ENDED, Status.PROCESSING, attempt=1, reason=reason, cancel_requested=True)
    task.put(Meta(name="chunks", value_json="9"))
    provider = Provider()

    async def found(**_: Any) -> list[RemoteBatch]:
        return [replace(provider.remote, batch_id="late", input_tokens=0, output_tokens=0)]

    provider.find = found  # type: ignore[method-assign]
    after = run(one_step(a_collector(a_kit(), provider, tmp_path).poll(), task, chunk, Todo.SETTLE))
    assert (after.state, after.twins, provider.calls) == (ChunkState.FAILED, 1, ["cancel"])


def test_a_cancelled_batch_of_an_account_that_is_gone_lets_its_members_go_in_the_end(tmp_path: Path) -> None:
    told = {"attempt": 1, "account": "gone", "failures": TWIN_TRIES_MAX}
    task, chunk = a_task(ChunkState.ENDED, Status.PROCESSING, reason=Reason.CANCELLED, cancel_requested=True, **told)
    collector = a_collector(a_kit(), providers(), tmp_path)  # type: ignore[arg-type]
    assert run(one_step(collector.poll(), task, chunk, Todo.SETTLE)).state is ChunkState.FAILED


def test_members_of_a_chunk_that_was_never_attempted_go_without_a_look(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.ENDED, reason=Reason.CANCELLED, cancel_requested=True)
    provider = Provider()
    after = run(one_step(a_collector(a_kit(), provider, tmp_path).poll(), task, chunk, Todo.SETTLE))
    assert (after.state, provider.calls) == (ChunkState.FAILED, [])


@pytest.mark.parametrize(
    ("refusal", "state"),
    [(TransientError("busy"), ChunkState.ATTEMPTING), (RefusedError("ended", http_status=400), ChunkState.OPEN)],
)
def test_one_of_two_batches_is_adopted_when_the_other_is_told_to_stop(
    tmp_path: Path, refusal: ProviderError, state: ChunkState
) -> None:
    task, chunk = a_task(ChunkState.ATTEMPTING, Status.PROCESSING, attempt=1)
    provider = Provider()
    provider.refusals["cancel"] = refusal

    async def found(**_: Any) -> list[RemoteBatch]:
        return [replace(provider.remote, batch_id=name) for name in ("one", "other")]

    provider.find = found  # type: ignore[method-assign]
    after = run(one_step(a_submitter(a_kit(), provider, tmp_path).dispatch(), task, chunk, Todo.LOOK))
    assert (after.state, provider.calls) == (state, ["cancel"])
