"""The stage that asks one by one, on a task in memory: durable before sent, stopped by a pause, doubt after a crash."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchmill.agents import clock
from batchmill.agents.stages.caller import ASKS_MAX, CUT_CALLS, Caller
from batchmill.agents.stages.traces import Traces
from batchmill.schemas import codec
from batchmill.schemas.jobs import ModeSpec, OnlineSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Result, Submitted
from batchmill.schemas.state import Chunk, Job, Life, Source
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import ONLINE, custom_id_of, in_mode
from batchmill.streams.costing import parse_prices
from batchmill.streams.ports import (
    MustPauseError,
    NotStartedError,
    OutcomeUnknownError,
    ProviderError,
    RowOutcome,
    TransientError,
)
from batchmill.streams.sealing import Queue
from tests.review.stage import MemoryLog, MemoryTask, Provider, a_kit, a_submitter
from tests.review.test_chunk_steps import tell
from tests.streams.making import make_raw, make_row, make_spec, make_view, take_in
from tests.streams.rows import LANE, make_chunk, make_life, make_source

PRICES = '{"models": {"gpt-5-mini": {"input": "1", "output": "2"}}}'


class Client:
    """Answers as the test says; notes what was sent, and what was true of the task at that moment."""

    def __init__(self, task: MemoryTask) -> None:
        self.task = task
        self.sent: list[str] = []
        self.running = self.most = 0
        self.answer: Callable[[str, int], RowOutcome | ProviderError] = answered
        self.during: Callable[[str], None] = lambda _: None
        self.closed_s = 0.0

    def closed_seconds(self) -> float:
        return self.closed_s

    async def ask(self, *, endpoint: str, line: bytes, tokens: int, may_start: Callable[[], bool]) -> RowOutcome:
        assert endpoint == "/v1/chat/completions"
        assert tokens > 200
        if not may_start():
            raise NotStartedError("lease_ended")
        custom_id = line.partition(b'"custom_id":"')[2].partition(b'"')[0].decode()
        assert any(isinstance(each, Submitted) and each.custom_id == custom_id for each in self.task.records)
        assert self.task.durables, "a call before its attempt was durable"
        self.sent.append(custom_id)
        self.running += 1
        self.most = max(self.most, self.running)
        self.during(custom_id)
        await asyncio.sleep(0)
        self.running -= 1
        ended = self.answer(custom_id, self.sent.count(custom_id))
        if isinstance(ended, ProviderError):
            raise ended
        return ended


class Task(MemoryTask):
    durables = 0

    async def durable(self) -> None:
        await super().durable()
        self.durables += 1


class Online(Provider):
    """The batch half of the account writes lines that name themselves."""

    client: Client

    def online(self, _account: str) -> Client:
        return self.client

    def request_line(self, *, custom_id: str, endpoint: str, body: bytes) -> bytes:
        return f'{{"custom_id":"{custom_id}","url":"{endpoint}","body":'.encode() + body + b"}\n"


def answered(custom_id: str, _times: int = 1) -> RowOutcome:
    return RowOutcome(
        custom_id=custom_id,
        outcome=Outcome.SUCCEEDED,
        reason=None,
        output='{"label":"a","confidence":1}',
        model="gpt-5-mini",
        input_tokens=10,
        output_tokens=5,
    )


class World:
    """One task with `count` queued lives of an online job whose bodies lie in the log, and its caller."""

    def __init__(self, directory: Path, count: int = 3, *, state: ChunkState = ChunkState.SEALED, **online: Any):
        self.spec = make_spec(mode=ModeSpec(prefer="online", online=OnlineSpec(**online)))
        row, log, view = make_row(self.spec), MemoryLog(), make_view(make_row(self.spec))
        kit = a_kit(log)
        lives: list[Life] = []
        for number in range(count):
            item = take_in(view, make_raw(offset=number, key=f"t-{number}".encode()), offset=number)
            log.add(kit.topics["normalized"], number, codec.encode(item))
            found = read.life(view, item.request_id)
            assert found is not None
            status = Status.PROCESSING if state is ChunkState.ATTEMPTING else Status.QUEUED
            tried = int(state is ChunkState.ATTEMPTING)
            lives.append(replace(found, status=status, sends=tried, attempt=tried))
        lane = in_mode(LANE, ONLINE)
        self.chunk, members = make_chunk(
            sorted(lives, key=lambda life: life.request_id), state, mode=ONLINE, lane=lane, version=row.version
        )
        self.task = Task(row, self.chunk, *members, *view.rows(Source.schema))
        provider = Online()
        provider.client = self.client = Client(self.task)
        submitter = a_submitter(kit, provider, directory)
        self.caller = Caller(
            kit=kit,
            providers=provider,
            payloads=submitter.payloads,
            prices=parse_prices(PRICES),
            effects=submitter.effects,
            output_bytes_max=1_000,
            traces=Traces(SimpleNamespace(traces=False)),
            submitter=submitter,
        )

    async def run(self, until: Callable[[Chunk], bool] = lambda row: row.state is ChunkState.DONE) -> Chunk:
        """The effect, until the chunk is so."""
        running = asyncio.ensure_future(self.caller.calls().run(self.task))
        try:
            async with asyncio.timeout(10):
                while not until(self.row):
                    if running.done():
                        running.result()
                    await asyncio.sleep(0.005)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return self.row

    @property
    def row(self) -> Chunk:
        found = read.chunk(self.task.view, self.chunk.chunk_id)
        assert found is not None
        return found

    @property
    def lives(self) -> list[Life]:
        return [row for row in self.task.view.rows(Life.schema) if isinstance(row, Life)]

    def results(self) -> list[Result]:
        return [each for each in self.task.records if isinstance(each, Result)]


async def test_a_chunk_is_asked_member_by_member_and_each_answer_becomes_its_members_result(tmp_path: Path) -> None:
    world = World(tmp_path)
    done = await world.run()
    assert (done.succeeded, done.members, done.doubtful_nanos) == (3, 3, 0)
    assert len(world.client.sent) == len(set(world.client.sent)) == 3
    assert {each.request_id for each in world.results()} == {life.request_id for life in world.lives}
    assert {each.custom_id for each in world.results()} == set(world.client.sent)
    assert all(life.status is Status.SUCCEEDED_UNVALIDATED for life in world.lives)
    assert done.cost_nanos == sum(each.cost_nanos or 0 for each in world.results()) == 3 * 20_000


async def test_the_calls_of_a_chunk_run_side_by_side(tmp_path: Path) -> None:
    world = World(tmp_path, 20)
    await world.run()
    assert world.client.most == 20


async def test_answers_are_written_while_others_are_still_out(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    gate, ask = asyncio.Event(), world.client.ask
    last: list[str] = []

    async def slow(**asked: Any) -> RowOutcome:
        row = await ask(**asked)
        if len(world.client.sent) == 3 and not last:
            last.append(row.custom_id)
        if last == [row.custom_id]:
            await gate.wait()
        return row

    world.client.ask = slow  # type: ignore[method-assign]
    half = await world.run(lambda row: row.succeeded == 2)
    assert half.state is ChunkState.ATTEMPTING


async def test_more_answers_than_a_cut_holds_are_all_written(tmp_path: Path) -> None:
    world = World(tmp_path, CUT_CALLS + 7)
    assert (await world.run()).succeeded == CUT_CALLS + 7


async def test_a_pause_stops_the_calls_that_have_not_begun_and_keeps_the_answers_that_come(tmp_path: Path) -> None:
    world = World(tmp_path, 5)

    def pause(_: str) -> None:
        if len(world.client.sent) == 2:
            tell(world.task, "pause")

    world.client.during = pause
    done = await world.run()
    assert len(world.client.sent) == 2
    assert (done.succeeded, done.cancelled) == (2, 3)
    waiting = [life for life in world.lives if life.status is Status.QUEUED]
    assert [life.attempt for life in waiting] == [0, 0, 0]


async def test_a_cancelled_job_is_asked_no_more_and_its_members_end(tmp_path: Path) -> None:
    world = World(tmp_path, 5)
    world.client.during = lambda _: tell(world.task, "cancel") if len(world.client.sent) == 1 else None
    done = await world.run()
    assert (len(world.client.sent), done.succeeded, done.cancelled) == (1, 1, 4)
    assert sum(life.status is Status.FAILED_TERMINAL for life in world.lives) == 4


async def test_a_task_that_drains_starts_no_more_calls(tmp_path: Path) -> None:
    world = World(tmp_path, 4)

    def drain(_: str) -> None:
        world.task.draining = True

    world.client.during = drain
    assert (await world.run()).cancelled == 3


async def test_nothing_is_asked_before_the_lease_on_spending_begins(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.task.previous_owner_clean = False
    world.task.fenced_boottime_s = clock.boottime_s() - 100  # over for a batch, not for an online call of 120 seconds
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await world.run()
    assert not world.client.sent
    assert world.row.state is ChunkState.PREPARED


async def test_a_gate_that_stays_closed_is_waited_for_before_anything_is_attempted(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.client.closed_s = 30.0
    row = await world.run(lambda row: row.due_at_ms is not None)
    assert (row.state, row.attempt, row.note) == (ChunkState.PREPARED, 0, "gate_closed")
    assert row.due_at_ms is not None
    assert 25_000 < row.due_at_ms - clock.wall_ms() <= 30_000
    assert not [each for each in world.task.records if isinstance(each, Submitted)]


async def test_a_busy_service_is_asked_again_within_the_attempt_and_then_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    names = sorted(custom_id_of(world.chunk, life) for life in world.lives)

    def busy(custom_id: str, times: int) -> RowOutcome | ProviderError:
        once = custom_id == names[0] and times > 1
        return answered(custom_id) if once else TransientError("rate_limit_exceeded")

    world.client.answer = busy
    done = await world.run()
    assert (done.succeeded, done.errored) == (1, 1)
    assert world.client.sent.count(names[1]) == ASKS_MAX
    (failed,) = [life for life in world.lives if life.status is Status.FAILED_RETRYABLE]
    assert (failed.reason, failed.attempt) == (Reason.THROTTLED, 0)


async def test_money_stops_the_job_and_what_has_not_begun_waits(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.client.answer = lambda _, __: MustPauseError("insufficient_quota")
    await world.run()
    job = read.job(world.task.view, world.spec.job)
    assert isinstance(job, Job)
    assert (job.paused, job.pause_reason) == (True, "insufficient_quota")
    assert all(life.status is Status.QUEUED and life.attempt == 0 for life in world.lives)


async def test_a_lost_answer_is_not_asked_again_in_the_attempt_and_its_worst_case_is_booked(tmp_path: Path) -> None:
    world = World(tmp_path, 2)
    world.client.answer = lambda custom_id, _: (
        OutcomeUnknownError("timeout") if custom_id == world.client.sent[0] else answered(custom_id)
    )
    done = await world.run()
    assert len(world.client.sent) == 2
    assert (done.succeeded, done.missing) == (1, 1)
    (lost,) = [life for life in world.lives if life.reason is Reason.OUTCOME_UNKNOWN]
    # a token for each byte of the line, and all of the answer's room, at a dollar and two dollars a million
    assert done.doubtful_nanos == lost.bytes_estimate * 1_000 + 200 * 2_000


async def test_a_chunk_that_another_process_was_asking_is_in_doubt_and_nothing_of_it_is_sent(tmp_path: Path) -> None:
    world = World(tmp_path, 3, state=ChunkState.ATTEMPTING)
    done = await world.run()
    assert not world.client.sent
    assert (done.missing, done.succeeded) == (3, 0)
    assert done.doubtful_nanos > 0
    assert all(life.status is Status.FAILED_RETRYABLE and life.attempt == 0 for life in world.lives)


async def test_doubt_ends_in_dead_letters_where_the_job_wants_it_so(tmp_path: Path) -> None:
    world = World(tmp_path, 2, state=ChunkState.ATTEMPTING, on_unknown="dead")
    await world.run()
    assert all(life.status is Status.FAILED_TERMINAL for life in world.lives)


async def test_a_lost_payload_is_made_again_before_anything_is_attempted(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.client.closed_s = 30.0
    prepared = await world.run(lambda row: row.due_at_ms is not None)
    assert prepared.payload_uri is not None
    await world.caller.payloads.delete(prepared.payload_uri)
    world.client.closed_s = 0.0
    world.task.put(replace(prepared, due_at_ms=None))
    done = await world.run()
    assert (done.succeeded, done.payload_sha256) == (3, prepared.payload_sha256)


# -- sealing and haste -------------------------------------------------------------------------------------------------


async def test_an_online_chunk_leaves_at_once_and_no_larger_than_the_job_says(tmp_path: Path) -> None:
    world = World(tmp_path, max_count=2)
    submitter = world.caller.submitter
    queue = Queue(in_mode(LANE, ONLINE), world.spec.job, make_row(world.spec).version)
    limits = submitter._limits(world.task, queue)
    assert limits is not None
    assert (limits.count_max, limits.age_ms_max) == (2, 0)
    assert limits.chunks_on_the_way_max == 2 * submitter.effects.online_chunks_at_once


async def test_a_job_that_would_be_late_by_batch_has_its_lives_moved_before_they_are_sealed(tmp_path: Path) -> None:
    spec = make_spec(mode=ModeSpec(prefer="auto", deadline_seconds=600))
    row = make_row(spec)
    life = make_life(0, version=row.version, job=spec.job, queued_at_ms=clock.wall_ms())
    task = MemoryTask(row, life, make_source(life))
    submitter = a_submitter(a_kit(), Online(), tmp_path)

    def stop(where: str) -> None:
        if where == "rest sealing":
            raise asyncio.CancelledError

    task.at_wait = stop
    with pytest.raises(asyncio.CancelledError):
        await submitter.run_sealing(task)
    moved = read.life(task.view, life.request_id)
    assert moved is not None
    assert moved.lane == in_mode(LANE, ONLINE)
    (chunk,) = [each for each in task.view.rows(Chunk.schema) if isinstance(each, Chunk)]
    assert (chunk.mode, chunk.state) == (ONLINE, ChunkState.SEALED)
    assert "calls" in task.woken
