"""A command may arrive wherever a step waits; the step must not undo it, nor spend after it."""

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.stages.chunk_loop import ChunkLoop
from batchmill.agents.stages.submitter import Submitter
from batchmill.schemas.jobs import BudgetSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control
from batchmill.schemas.state import Chunk, Grant, Life
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.collecting import GONE_POLLS_MAX
from batchmill.streams.controlling import control
from batchmill.streams.costing import Prices, parse_prices
from batchmill.streams.orders import Put
from batchmill.streams.ports import NotFoundError, RefusedError, RemoteStatus, TransientError
from batchmill.streams.submitting import Todo, todo
from tests.review.stage import MemoryTask, Provider, a_collector, a_kit, a_submitter
from tests.streams.making import make_row, make_spec
from tests.streams.rows import NOW_MS, make_chunk, make_life, make_source

SPEC = make_spec()
SHA = "0" * 64


def a_task(state: ChunkState, status: Status = Status.QUEUED, **chunk: Any) -> tuple[MemoryTask, Chunk]:
    version = make_row(SPEC).version
    lives = [make_life(number, status=status, version=version, sends=1, attempt=1) for number in range(3)]
    told = {"payload_uri": f"payload:sha256/{SHA}", "payload_sha256": SHA, "version": version, **chunk}
    row, members = make_chunk(lives, state, **told)
    return MemoryTask(make_row(SPEC), row, *members, *(make_source(life) for life in lives)), row


def tell(task: MemoryTask, command: str, body: dict[str, Any] | None = None) -> None:
    """An operator's command is taken by the controller's agent."""
    row = Control(
        command_id=f"c-{command}",
        command=command,
        job=SPEC.job,
        version=None,
        body_json=json.dumps(body or {}),
        actor="a",
        issued_at_ms=1,
    )
    for order in control(task.view, row, NOW_MS + 1, NOW_MS + 1):
        if isinstance(order, Put):
            task.put(order.row)


def once(do: Any, at: str) -> Any:
    """Run `do` at the first wait called `at`."""
    waiting = [do]

    def wait(where: str) -> None:
        if where == at and waiting:
            waiting.pop()()

    return wait


async def one_step(loop: ChunkLoop, task: MemoryTask, chunk: Chunk, step: Todo) -> Chunk:
    task.put(replace(chunk, due_at_ms=None))
    await loop._one(task, chunk, step, {chunk.chunk_id: step})
    row = read.chunk(task.view, chunk.chunk_id)
    assert row is not None
    return row


def run(step: Awaitable[Chunk]) -> Chunk:
    async def bounded() -> Chunk:
        return await asyncio.wait_for(step, 10)

    return asyncio.run(bounded())


def test_a_cancellation_during_an_upload_is_not_undone_by_it(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.PREPARED)
    provider = Provider()
    submitter = a_submitter(a_kit(), provider, tmp_path)

    async def content() -> Any:
        yield b"lines"

    stored = asyncio.run(submitter.payloads.put(content()))
    chunk = replace(chunk, payload_uri=stored.uri, payload_sha256=stored.sha256)
    task.put(chunk)
    provider.during = once(lambda: tell(task, "cancel"), "upload")
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.UPLOAD))
    assert (after.state, after.reason) == (ChunkState.ENDED, "cancelled")
    assert todo(after, by_file=True, paused=False, now_ms=NOW_MS) is Todo.DELETE_FILE


def test_a_cancellation_while_the_payload_is_written_is_not_undone_by_it(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.SEALED, payload_uri=None, payload_sha256=None)
    task.at_wait = once(lambda: tell(task, "cancel"), "capacity")
    submitter = a_submitter(a_kit(), Provider(), tmp_path)
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.PREPARE))
    assert (after.state, after.reason) == (ChunkState.ENDED, "cancelled")


@pytest.mark.parametrize("where", ["effect begin", "capacity", "durable"])
def test_nothing_is_created_after_a_cancellation(tmp_path: Path, where: str) -> None:
    task, chunk = a_task(ChunkState.UPLOADED, file_id="file-1")
    task.at_wait = once(lambda: tell(task, "cancel"), where)
    provider = Provider()
    submitter = a_submitter(a_kit(), provider, tmp_path)
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.BEGIN))
    assert provider.calls == []
    assert (after.state, after.reason) == (ChunkState.ENDED, "cancelled")


def test_nothing_is_created_after_a_pause_and_the_chunk_waits_where_it_may_go_on(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.UPLOADED, file_id="file-1")
    task.at_wait = once(lambda: tell(task, "pause"), "durable")
    provider = Provider()
    submitter = a_submitter(a_kit(), provider, tmp_path)
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.BEGIN))
    assert provider.calls == []
    assert after.state is ChunkState.PREPARED


def test_a_cancelled_chunk_whose_create_had_no_effect_is_not_sent_again(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.UPLOADED, file_id="file-1")
    provider = Provider()
    provider.refusals["create"] = TransientError("busy")
    provider.during = once(lambda: tell(task, "cancel"), "create")
    submitter = a_submitter(a_kit(), provider, tmp_path)
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.BEGIN))
    assert (after.state, after.reason) == (ChunkState.ENDED, "cancelled")


def test_a_create_whose_input_file_is_gone_is_made_again_from_the_payload(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.UPLOADED, file_id="file-1")
    provider = Provider()
    provider.refusals["create"] = NotFoundError("no_such_file", http_status=400)
    after = run(one_step(a_submitter(a_kit(), provider, tmp_path).dispatch(), task, chunk, Todo.BEGIN))
    assert after.state is ChunkState.PREPARED
    job = read.job(task.view, chunk.job)
    assert job is not None
    assert not job.paused


def test_without_the_lease_the_loop_waits_instead_of_asking_again_and_again(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.UPLOADED, file_id="file-1")
    task.previous_owner_clean, task.fenced_boottime_s = False, task.last_commit_boottime_s
    task.view.put(chunk)
    loop = a_submitter(a_kit(), Provider(), tmp_path).dispatch()
    asked = 0

    def counted(where: str) -> None:
        nonlocal asked
        asked += where == "effect begin"

    task.at_wait = counted

    async def a_while() -> None:
        try:
            async with asyncio.timeout(0.2):
                await loop.run(task)
        except TimeoutError:
            pass

    asyncio.run(a_while())
    assert 0 < asked < 40


@pytest.mark.parametrize("refusal", [TransientError("http_409", http_status=409), NotFoundError("http_404")])
def test_a_batch_that_ended_before_it_could_be_cancelled_is_collected(tmp_path: Path, refusal: Exception) -> None:
    task, chunk = a_task(ChunkState.OPEN, Status.PROCESSING, batch_id="batch-1", cancel_requested=True)
    provider = Provider()
    provider.refusals["cancel"] = refusal
    provider.remote = replace(provider.remote, status=RemoteStatus.ENDED, output_file_id="out")
    after = run(one_step(a_collector(a_kit(), provider, tmp_path).poll(), task, chunk, Todo.CANCEL))
    assert after.state is ChunkState.ENDED
    assert after.reason is None


@pytest.mark.parametrize("state", [ChunkState.PREPARED, ChunkState.ENDED])
def test_a_provider_that_deletes_no_files_keeps_nobody_waiting(tmp_path: Path, state: ChunkState) -> None:
    reason = Reason.CANCELLED if state is ChunkState.ENDED else None
    task, chunk = a_task(state, file_id="file-1", reason=reason)
    provider = Provider()
    provider.refusals["delete_file"] = RefusedError("http_405", http_status=405)
    collector = a_collector(a_kit(), provider, tmp_path)
    loop = collector.poll() if state is ChunkState.ENDED else collector.submitter.dispatch()
    after = run(one_step(loop, task, chunk, Todo.DELETE_FILE))
    assert (after.state, after.file_id, after.due_at_ms) == (state, None, None)


def test_one_missing_batch_after_an_outage_is_not_believed(tmp_path: Path) -> None:
    outage = GONE_POLLS_MAX + 3
    task, chunk = a_task(ChunkState.OPEN, Status.PROCESSING, batch_id="batch-1", failures=outage)
    provider = Provider()
    provider.refusals["get"] = NotFoundError("http_404")
    after = run(one_step(a_collector(a_kit(), provider, tmp_path).poll(), task, chunk, Todo.POLL))
    assert after.state is ChunkState.OPEN
    for _ in range(GONE_POLLS_MAX):
        if after.state is ChunkState.OPEN:
            after = run(one_step(a_collector(a_kit(), provider, tmp_path).poll(), task, after, Todo.POLL))
    assert after.state is ChunkState.DOWNLOADED


def test_a_listing_that_lags_behind_does_not_make_every_answer_missing(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.ENDED, Status.PROCESSING, batch_id="batch-1")
    after = run(one_step(a_collector(a_kit(), Provider(), tmp_path).poll(), task, chunk, Todo.DOWNLOAD))
    assert after.state is ChunkState.ENDED


@pytest.mark.parametrize("lost", ["get", "download out"])
def test_answers_whose_files_the_provider_lost_are_missing_in_the_end(tmp_path: Path, lost: str) -> None:
    task, chunk = a_task(ChunkState.ENDED, Status.PROCESSING, batch_id="batch-1")
    provider = Provider()
    provider.refusals[lost] = NotFoundError("http_404")
    provider.remote = replace(provider.remote, status=RemoteStatus.ENDED, output_file_id="out", error_file_id="err")
    loop = a_collector(a_kit(), provider, tmp_path).poll()
    asked = 0
    while chunk.state is ChunkState.ENDED and asked < GONE_POLLS_MAX + 5:
        asked += 1
        chunk = run(one_step(loop, task, chunk, Todo.DOWNLOAD))
    assert chunk.state is ChunkState.DOWNLOADED
    assert asked == GONE_POLLS_MAX
    assert (chunk.error_uri is None) == (lost == "get")


def test_lives_keep_what_happened_to_them_while_their_lines_were_made(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.SEALED, payload_uri=None, payload_sha256=None)
    kit = a_kit()
    submitter = a_submitter(kit, Provider(), tmp_path)
    name = make_life(0).request_id

    async def read_log(*_: Any) -> dict[int, Any]:
        life = read.life(task.view, name)
        assert life is not None
        task.put(replace(life, seq=9))
        return {}  # retention took the bodies: each member is refused

    kit.log.read = read_log
    run(one_step(submitter.dispatch(), task, chunk, Todo.PREPARE))
    life = task.view.get(Life.schema, name)
    assert isinstance(life, Life)
    assert (life.status, life.reason, life.seq) == (Status.FAILED_TERMINAL, "body_gone", 9)


@pytest.mark.parametrize(
    ("state", "step", "after"),
    [
        (ChunkState.PREPARED, Todo.UPLOAD, ChunkState.SEALED),
        (ChunkState.DOWNLOADED, Todo.COLLECT, ChunkState.ENDED),
        (ChunkState.COLLECTED, Todo.FINISH, ChunkState.ENDED),
    ],
)
def test_a_damaged_file_is_thrown_away_and_made_again(
    tmp_path: Path, state: ChunkState, step: Todo, after: ChunkState
) -> None:
    task, chunk = a_task(state, Status.PROCESSING, batch_id="batch-1", acknowledged=3)
    collector = a_collector(a_kit(), Provider(), tmp_path)
    payloads = collector.payloads

    async def stored() -> str:
        async def content() -> Any:
            yield b"{}\n"

        return (await payloads.put(content())).uri

    uri = asyncio.run(stored())
    (path,) = (path for path in tmp_path.rglob("*") if path.name == uri.rpartition("/")[2])
    path.write_bytes(b"{]\n")
    chunk = replace(chunk, payload_uri=uri, output_uri=uri)
    loop = collector.submitter.dispatch() if step is Todo.UPLOAD else collector.poll()
    row = run(one_step(loop, task, chunk, step))
    assert row.state is after
    assert not path.exists()


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    task, chunk = a_task(ChunkState.SEALED, payload_uri=None, payload_sha256=None)
    submitter = a_submitter(a_kit(), Provider(), tmp_path)

    async def put(_: Any) -> None:
        raise OSError(28, "No space left on device")

    submitter.payloads.put = put  # type: ignore[method-assign]
    row = run(one_step(submitter.dispatch(), task, chunk, Todo.PREPARE))
    assert row.state is ChunkState.SEALED
    assert row.due_at_ms is not None


# -- what all tasks share ----------------------------------------------------------------------------------------------

BUDGET = replace(SPEC, budget=BudgetSpec(job_nanos=10**9))
PRICES = parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}')


def governed(tmp_path: Path, provider: Provider, prices: Prices = PRICES) -> tuple[MemoryTask, Chunk, Submitter]:
    """A prepared chunk of three lives, of a job with a budget."""
    task, chunk = a_task(ChunkState.PREPARED)
    version = make_row(BUDGET).version
    task.put(make_row(BUDGET))
    submitter = replace(a_submitter(a_kit(), provider, tmp_path), prices=prices)

    async def content() -> Any:
        yield b"lines"

    stored = asyncio.run(submitter.payloads.put(content()))
    chunk = replace(chunk, version=version, payload_uri=stored.uri, payload_sha256=stored.sha256)
    task.put(chunk)
    return task, chunk, submitter


def test_a_chunk_of_a_job_with_a_budget_is_not_uploaded_before_it_is_granted(tmp_path: Path) -> None:
    provider = Provider()
    task, chunk, submitter = governed(tmp_path, provider)
    loop = submitter.dispatch()
    waiting = run(one_step(loop, task, chunk, Todo.UPLOAD))
    assert (provider.calls, waiting.waits_for) == ([], "money/triage")
    grant = read.grant(task.view, "money/triage")
    assert grant is not None
    each = (100 * 1_000 + 200 * 10_000) // 2
    assert grant.asked == 3 * each
    body = {"granted": {"money/triage": grant.asked}, "most": {}}
    tell(task, "grant", body)
    uploaded = run(one_step(loop, task, waiting, Todo.UPLOAD))
    assert (provider.calls, uploaded.state) == (["upload"], ChunkState.UPLOADED)
    assert (uploaded.reserved_nanos, uploaded.waits_for) == (3 * each, None)


def test_a_waiting_chunk_is_not_due(tmp_path: Path) -> None:
    task, chunk, submitter = governed(tmp_path, Provider())
    loop = submitter.dispatch()
    run(one_step(loop, task, chunk, Todo.UPLOAD))
    assert loop._due(task, {}) == []


def test_a_chunk_whose_cost_nobody_can_bound_is_held(tmp_path: Path) -> None:
    provider = Provider()
    task, chunk, submitter = governed(tmp_path, provider, Prices(id="none", models={}))
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.UPLOAD))
    assert (after.state, provider.calls) == (ChunkState.HELD, [])


def test_without_a_limit_nothing_is_asked_for(tmp_path: Path) -> None:
    task, chunk, submitter = governed(tmp_path, Provider())
    task.put(replace(make_row(SPEC), version=chunk.version))
    after = run(one_step(submitter.dispatch(), task, chunk, Todo.UPLOAD))
    assert after.state is ChunkState.UPLOADED
    assert task.view.rows(Grant.schema) == []
