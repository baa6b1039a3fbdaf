"""normalized -> submitted: the agent that takes work items in, and the effects that seal and send them.

What lives here: carrying out the submission protocol step by step, each durable before the next. What must not: which
step is next, or what an answer means (`streams.sealing`, `streams.submitting`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore, PayloadDamagedError, PayloadMissingError
from batchmill.agents.providers.registry import Providers
from batchmill.agents.runtime import FAILPOINTS, LogRecord, Slice, Task
from batchmill.agents.settings import EffectSettings, SettingsError
from batchmill.agents.stages.chunk_loop import ChunkLoop, current_row
from batchmill.agents.stages.kit import Kit
from batchmill.schemas import codec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import WorkItem
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.chunking import BATCH, ONLINE, Place, custom_id_of, members
from batchmill.streams.compiling import CompiledJob
from batchmill.streams.costing import Expectation, PriceList
from batchmill.streams.granting import (
    Share,
    Worst,
    budget_of,
    is_over_budget,
    needs_of,
    reserve,
    unpriced,
    worst_case,
)
from batchmill.streams.hastening import Haste, batched, haste_of, move_late, stop_late
from batchmill.streams.ports import CreateOrder, Label, NotFoundError, ProviderError, RefusedError, RemoteBatch
from batchmill.streams.preflight import Preflight
from batchmill.streams.queueing import arrive
from batchmill.streams.retrying import due
from batchmill.streams.sealing import ChunkLimits, Queue, age_ms_max, queues, seal
from batchmill.streams.submitting import (
    CreateSchedule,
    Todo,
    after_create,
    after_look,
    begin_cut,
    file_deleted,
    may_create,
    may_spend,
    may_upload,
    payload_missing,
    prepared,
    refuse_member,
    uploaded,
    weed,
)
from batchmill.streams.unusable import Unusable

__all__ = ["Submitter"]

STAGE = "submitter"
#: stands for a limit that is not set
_NO_LIMIT = 2**62
#: chunks whose worst case is remembered
_WORST_KEPT_MAX = 1_000
MINUTE_SECONDS = 60
#: how many seconds of its task's share of the account's rate an online chunk holds at most
ONLINE_SECONDS = 10
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """The agent of `normalized`."""

    kit: Kit
    providers: Providers
    payloads: FilePayloadStore
    prices: PriceList  #: for jobs applied without prices of their own
    effects: EffectSettings
    tasks_total: int  #: account limits are shared equally among so many tasks
    worst: dict[str, int] = field(
        default_factory=dict
    )  #: by prepared chunk, whose members do not change any more, and price list

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            item = self.kit.read(task, record, WorkItem, stage=STAGE)
            if item is None:
                continue
            orders = arrive(task.view, item, record.offset, now_ms=now_ms)
            self.kit.carry(task, orders, src=record.src)
        task.finish(slice_)

    def dispatch(self) -> ChunkLoop:
        """The effect that takes sealed chunks to the provider."""
        return ChunkLoop(
            kit=self.kit,
            name="dispatch",
            states=(ChunkState.ATTEMPTING, ChunkState.UPLOADED, ChunkState.PREPARED, ChunkState.SEALED),
            steps={
                Todo.PREPARE: self.prepare,
                Todo.DELETE_FILE: self.delete_file,
                Todo.UPLOAD: self._upload,
                Todo.BEGIN: self._attempt,
                Todo.LOOK: self._look,
            },
            at_once=self.effects.chunks_at_once,
            idle_seconds=self.effects.idle_seconds,
            modes=(BATCH,),
            by_file=self.providers.by_file,
        )

    # -- the queue -----------------------------------------------------------------------------------------------------

    async def run_sealing(self, task: Task) -> None:
        """Take queued lives into chunks, cut by cut, and close the chunks that are full or old."""
        while True:
            cut = self._stop_late(task)
            for queue in queues(task.view):
                await task.capacity()
                limits = self._limits(task, queue)
                if limits is None:
                    continue
                cut = self._move_late(task, queue, limits) or cut
                place = Place(self.kit.app_id, task.partition)
                orders = seal(task.view, queue, limits, place, clock.wall_ms())
                self.kit.carry(task, orders, src=f"effect:sealing/{queue.prefix}")
                cut = cut or bool(orders)
            if not cut:
                await task.rest("sealing", self.effects.idle_seconds)

    def _limits(self, task: Task, queue: Queue) -> ChunkLimits | None:
        job = self.kit.compiled(task, queue.job, queue.version)
        if job is None:
            return None
        mode, account = job.spec.mode, job.routes.account_of(queue.lane)
        try:
            account = self.providers.name_of(account)
            can = self.providers.of(account).capabilities
        except SettingsError as error:
            # The job may be applied before the account is: its records wait, and the other jobs go on.
            _log.error("account_unknown", job=queue.job, account=account, error=str(error))
            return None
        if queue.lane.endswith(f"|{ONLINE}"):
            return self._online_limits(task, queue, job, account)
        open_max = self.providers.account(account).open_batches_max
        share = self._share(account)
        queue_max = share.queue_max or _NO_LIMIT  # a chunk larger than the queue would wait for ever
        by_request = share.queue_counts == "requests"
        return ChunkLimits(
            count_max=min(mode.chunk.max_count, can.members_max, queue_max if by_request else _NO_LIMIT),
            bytes_max=min(mode.chunk.max_bytes, can.bytes_max),
            tokens_max=min(mode.chunk.max_tokens, _NO_LIMIT if by_request else queue_max),
            age_ms_max=age_ms_max(mode, typical_seconds=can.typical_seconds),
            chunks_on_the_way_max=max(1, open_max // self.tasks_total),
            hold=mode.hold_submit,
            account=account,
            over_budget=self._over_budget(task, queue, account),
            costs=self._expectation(job, queue.lane),
        )

    def _over_budget(self, task: Task, queue: Queue, account: str) -> Callable[[Life], bool] | None:
        """Asked of each life before it enters a chunk, where the job has a budget per record and its cost a bound."""
        row = read.job(task.view, queue.job)
        budget = None if row is None else budget_of(row)
        if budget is None or budget.record_nanos is None:
            return None
        worst = self._worst(task, queue.job, queue.version, queue.lane, account)
        return None if worst is None else partial(is_over_budget, worst=worst, record_nanos=budget.record_nanos)

    def _online_limits(self, task: Task, queue: Queue, job: CompiledJob, account: str) -> ChunkLimits:
        """An online chunk leaves at once; it holds no more than its calls take a few seconds to start.

        One more than may run is made ready, so that the next one need not wait for its payload.
        """
        mode = job.spec.mode
        calls_max = mode.online.max_count
        per_minute = self.providers.account(account).online_requests_per_minute
        if per_minute is not None:
            calls_max = min(calls_max, max(1, round(per_minute / self.tasks_total * ONLINE_SECONDS / MINUTE_SECONDS)))
        return ChunkLimits(
            count_max=calls_max,
            bytes_max=mode.chunk.max_bytes,
            tokens_max=mode.chunk.max_tokens,
            age_ms_max=0,
            chunks_on_the_way_max=2 * self.effects.online_chunks_at_once,
            hold=mode.hold_submit,
            account=account,
            over_budget=self._over_budget(task, queue, account),
            costs=self._expectation(job, queue.lane),
        )

    def _expectation(self, job: CompiledJob, lane: str) -> Expectation:
        return Expectation(
            prices=job.costed_by(self.prices),
            model=lane.split("|")[1],
            output_tokens_max={route.name: route.form.output_tokens_max() for route in job.routes.on(lane)},
        )

    def _stop_late(self, task: Task) -> bool:
        """Give the batches up that will miss their deadline. Says whether there was any."""
        late = False
        for job, version, account in batched(task.view):
            haste, now_ms = self._haste(task, job, version, account), clock.wall_ms()
            orders = [] if haste is None else stop_late(task.view, job, version, haste, now_ms, account=account)
            self.kit.carry(task, orders, src=f"effect:hasten/{job}/{version}")
            late = late or bool(orders)
        return late

    def _move_late(self, task: Task, queue: Queue, limits: ChunkLimits) -> bool:
        """Online with what waits and would be late by batch. Says whether anything was."""
        assert limits.account is not None, "limits are those of an account of the settings"
        haste = self._haste(task, queue.job, queue.version, limits.account)
        orders = [] if haste is None else move_late(task.view, queue, haste, clock.wall_ms())
        self.kit.carry(task, orders, src=f"effect:hasten/{queue.prefix}")
        return bool(orders)

    def _haste(self, task: Task, job_name: str, version: str, account: str) -> Haste | None:
        """What the deadline leaves, where the job chooses by it and its account has both ways."""
        job = self.kit.compiled(task, job_name, version)
        try:
            can = None if job is None else self.providers.of(account).capabilities
        except SettingsError:
            return None  # nothing of it moves; whoever takes its batches further says so
        return None if job is None or can is None else haste_of(job.spec.mode, can)

    async def run_retry(self, task: Task) -> None:
        """Queue the lives again whose waiting time is over."""
        while True:
            await task.capacity()
            orders = due(task.view, now_ms=clock.wall_ms(), limit=self.effects.step_rows)
            self.kit.carry(task, orders, src="effect:retry")
            if not orders:
                await task.rest("retry", self.effects.idle_seconds)

    # -- what all tasks share ------------------------------------------------------------------------------------------

    async def holds(self, task: Task, chunk: Chunk) -> bool:
        """Whether all that the chunk may cost or take up is reserved; if not, it waits, or is held for a person."""
        src = f"effect:reserve/{chunk.chunk_id}"
        row = read.job(task.view, chunk.job)
        budget = None if row is None else budget_of(row)
        nanos = None if budget is None else await self._worst_nanos(task, chunk)
        current = current_row(task, chunk)
        if current.state is not chunk.state:
            return False  # a command came
        if budget is not None and nanos is None:
            self.kit.carry(task, unpriced(current, clock.wall_ms()), src=src)
            return False
        counted = nanos if budget is not None and budget.job_nanos is not None else None
        needs = needs_of(current, nanos=counted, share=self._share(chunk.account))
        reserved = reserve(task.view, current, needs, clock.wall_ms())
        self.kit.carry(task, reserved.orders, src=src)
        return reserved.held

    async def _worst_nanos(self, task: Task, chunk: Chunk) -> int | None:
        worst = self._worst(task, chunk.job, chunk.version, chunk.lane, chunk.account)
        if worst is None:
            return None
        key = f"{chunk.chunk_id}/{worst.prices.id}"
        if key not in self.worst:
            nanos, after = 0, None
            while cut := members(task.view, chunk.chunk_id, after=after):
                nanos, after = nanos + sum(worst.of(life) for life in cut), cut[-1].request_id
                await asyncio.sleep(0)
            self.worst[key] = nanos
            if len(self.worst) > _WORST_KEPT_MAX:
                del self.worst[next(iter(self.worst))]
        return self.worst[key]

    def _worst(self, task: Task, job: str, version: str, lane: str, account: str) -> Worst | None:
        compiled = self.kit.compiled(task, job, version)
        assert compiled is not None, f"{job} is asked under a version this task does not have"
        can = self.providers.of(account).capabilities
        return worst_case(compiled, compiled.costed_by(self.prices), lane, output_default=can.output_tokens_default)

    def _share(self, account: str) -> Share:
        set_, can = self.providers.account(account), self.providers.of(account).capabilities
        return Share(queue_max=set_.queued_max, queue_counts=can.queue_counts, creates_max=set_.batches_per_hour_max)

    # -- the submission protocol ---------------------------------------------------------------------------------------

    async def prepare(self, task: Task, chunk: Chunk) -> None:
        """Weed, render, and write the payload: what is sent, by either way, lies there before it leaves."""
        src = f"effect:prepare/{chunk.chunk_id}"
        after: str | None = None
        while cut := members(task.view, chunk.chunk_id, after=after):
            self.kit.carry(task, weed(task.view, current_row(task, chunk), cut, clock.wall_ms()), src=src)
            after = cut[-1].request_id
            await task.capacity()
        stored = await self.payloads.put(self._lines(task, chunk, src))
        bytes_max = self.providers.of(chunk.account).capabilities.bytes_max
        orders = prepared(current_row(task, chunk), stored, clock.wall_ms(), bytes_max=bytes_max)
        self.kit.carry(task, orders, src=src)

    async def _lines(self, task: Task, chunk: Chunk, src: str) -> AsyncIterator[bytes]:
        """The payload, line by line in the order of request ids; a member that cannot be a line is refused."""
        provider = self.providers.of(chunk.account)
        job = self.kit.compiled(task, chunk.job, chunk.version)
        assert job is not None, f"chunk {chunk.chunk_id} was sealed under a version this task does not have"
        preflight = Preflight(provider.capabilities, model=chunk.model)
        after: str | None = None
        while cut := members(task.view, chunk.chunk_id, after=after):
            after = cut[-1].request_id
            offsets = [life.input_offset for life in cut]
            bodies = await self.kit.bodies(task, "normalized", offsets)
            lines: list[bytes] = []
            for life in cut:
                found = bodies.get(life.input_offset)
                custom_id = custom_id_of(chunk, life)
                try:
                    body = job.routes.of(life.route).form.body(_item(found, life).input_json, room=life.room)
                    line = provider.request_line(custom_id=custom_id, endpoint=chunk.endpoint, body=body)
                    preflight.check(custom_id, line)
                except Unusable as wrong:
                    now = current_row(task, chunk)
                    refused = refuse_member(task.view, now, life.request_id, wrong.reason, wrong.note, clock.wall_ms())
                    self.kit.carry(task, refused, src=src)
                    continue
                lines.append(line)
            yield b"".join(lines)
            await asyncio.sleep(0)

    async def delete_file(self, task: Task, chunk: Chunk) -> None:
        """Remove the input file of an attempt that is over, so that a create still on its way fails."""
        assert chunk.file_id is not None, f"chunk {chunk.chunk_id} has no file at the provider"
        try:
            await self.providers.of(chunk.account).delete_file(chunk.file_id)
        except RefusedError as error:  # it would be refused again, for ever; where there are no files it works without
            _log.warning("input_file_stays", chunk_id=chunk.chunk_id, file_id=chunk.file_id, error=error.code)
        orders = file_deleted(current_row(task, chunk), clock.wall_ms())
        self.kit.carry(task, orders, src=f"effect:delete/{chunk.chunk_id}")

    async def _upload(self, task: Task, chunk: Chunk) -> None:
        src = f"effect:upload/{chunk.chunk_id}"
        assert chunk.payload_uri is not None, f"chunk {chunk.chunk_id} is prepared without a payload"
        if not await self.holds(task, chunk):
            return
        try:
            file_id = await self.providers.of(chunk.account).upload(
                name=f"{chunk.chunk_id}.jsonl",
                size_bytes=await self.payloads.size(chunk.payload_uri),
                content=self.payloads.read(chunk.payload_uri),
                may_start=lambda: may_upload(task.view, chunk),
            )
        except (PayloadMissingError, PayloadDamagedError):
            await self.payloads.delete(chunk.payload_uri)
            self.kit.carry(task, payload_missing(current_row(task, chunk), clock.wall_ms()), src=src)
            return
        self.kit.carry(task, uploaded(current_row(task, chunk), file_id, clock.wall_ms()), src=src)

    async def _attempt(self, task: Task, chunk: Chunk) -> None:
        """Name every member in attempt n, make that durable, and only then send the one create call."""
        if not self.may_spend(task, chunk):
            await asyncio.sleep(self.effects.idle_seconds)  # nobody wakes us when the lease begins
            return
        src = f"effect:begin/{chunk.chunk_id}"
        if not await self._has_payload(task, chunk) or not await self.holds(task, chunk):
            return
        current = current_row(task, chunk)
        while current.state is chunk.state:
            self.kit.carry(task, begin_cut(task.view, current, clock.wall_ms()), src=src)
            await task.capacity()
            current = current_row(task, chunk)
        if current.state is not ChunkState.ATTEMPTING:
            return  # cancelled meanwhile
        await task.durable()
        await FAILPOINTS.reach("create.before")
        outcome = await self._create(task, current)
        await FAILPOINTS.reach("create.after")
        orders = after_create(task.view, current_row(task, chunk), outcome, clock.wall_ms(), self._patience(chunk))
        self.kit.carry(task, orders, src=f"effect:create/{chunk.chunk_id}")
        if FAILPOINTS.armed:
            await task.durable()
            await FAILPOINTS.reach("create.durable")

    async def _has_payload(self, task: Task, chunk: Chunk) -> bool:
        """A payload that goes with the create call itself must be there before the attempt begins."""
        if chunk.state is not ChunkState.PREPARED:
            return True
        assert chunk.payload_uri is not None, f"chunk {chunk.chunk_id} is prepared without a payload"
        if await self.payloads.exists(chunk.payload_uri):
            return True
        orders = payload_missing(current_row(task, chunk), clock.wall_ms())
        self.kit.carry(task, orders, src=f"effect:begin/{chunk.chunk_id}")
        return False

    async def _create(self, task: Task, chunk: Chunk) -> RemoteBatch | ProviderError:
        uri = chunk.payload_uri
        assert uri is not None, f"chunk {chunk.chunk_id} is attempted without a payload"
        try:
            order = CreateOrder(
                label=self.label_of(chunk),
                endpoint=chunk.endpoint,
                model=chunk.model,
                file_id=chunk.file_id,
                size_bytes=0 if chunk.file_id is not None else await self.payloads.size(uri),
                content=lambda: self.payloads.read(uri),
            )
            return await self.providers.of(chunk.account).create(
                order, may_start=lambda: may_create(task.view, chunk) and self.may_spend(task, chunk)
            )
        except ProviderError as error:
            return error
        except (PayloadMissingError, PayloadDamagedError):
            # It was to go with the call, which ended before its last bytes. The next attempt finds no file.
            await self.payloads.delete(uri)
            return NotFoundError("payload_lost", hint="the payload is gone or damaged; it is made again")

    async def _look(self, task: Task, chunk: Chunk) -> None:
        """Twins are cancelled before one is adopted: a call that fails is made again, while they still run."""
        provider, patience = self.providers.of(chunk.account), self._patience(chunk)
        found = await provider.find(label=self.label_of(chunk), since_ms=chunk.created_at_ms)
        for batch_id in after_look(current_row(task, chunk), found, clock.wall_ms(), patience).cancel:
            with suppress(RefusedError, NotFoundError):  # it has ended; what it cost is looked up in the end
                await provider.cancel(batch_id)
        looked = after_look(current_row(task, chunk), found, clock.wall_ms(), patience)
        self.kit.carry(task, looked.orders, src=f"effect:look/{chunk.chunk_id}")

    def label_of(self, chunk: Chunk) -> Label:
        """What is written on the chunk's batch, to find it again."""
        assert chunk.payload_sha256 is not None, f"chunk {chunk.chunk_id} is labelled without a payload"
        return Label(
            app=self.kit.app_id,
            chunk_id=chunk.chunk_id,
            chunk_attempt=chunk.attempt,
            payload_sha256=chunk.payload_sha256,
            members=chunk.members,
        )

    def _patience(self, chunk: Chunk) -> CreateSchedule:
        account = self.providers.account(chunk.account)
        grace_ms = round(account.reconcile_grace_seconds * 1_000)
        return CreateSchedule(
            grace_ms=grace_ms,
            spacing_ms=grace_ms,
            looks_min=account.reconcile_looks,
            cancel_unread=account.cancel_unread_batches,
        )

    def may_spend(self, task: Task, chunk: Chunk) -> bool:
        """Whether a call that costs money may start now, as far as time and ownership go."""
        account = self.providers.account(chunk.account)
        return task.owned and may_spend(
            now_boottime_s=clock.boottime_s(),
            last_commit_boottime_s=task.last_commit_boottime_s,
            fenced_boottime_s=task.fenced_boottime_s,
            previous_owner_clean=task.previous_owner_clean,
            http_timeout_s=account.online_timeout_seconds if chunk.mode == ONLINE else account.total_timeout_seconds,
            lease_s=account.lease_seconds,
        )


def _item(record: LogRecord | None, life: Life) -> WorkItem:
    if record is None:
        raise Unusable(Reason.BODY_GONE, "retention removed its work item from normalized")
    item = codec.decode(record.value or b"", WorkItem)
    assert item.request_id == life.request_id, f"offset {life.input_offset} of normalized is another request's"
    return item
