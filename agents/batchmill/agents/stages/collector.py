"""submitted -> results: the agent that acknowledges what was sent, and the effects that poll, download and collect.

What lives here: bringing result files home and walking them in cuts. What must not: what a row or a poll means
(`streams.collecting`). A local error while polling never changes what we believe about the remote batch.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore, PayloadDamagedError, PayloadMissingError
from batchmill.agents.providers.registry import Providers
from batchmill.agents.runtime import FAILPOINTS, Slice, Task
from batchmill.agents.settings import EffectSettings, SettingsError
from batchmill.agents.stages.chunk_loop import ChunkLoop, current_row
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.lines import placed_lines
from batchmill.agents.stages.submitter import Submitter
from batchmill.agents.stages.traces import Traces
from batchmill.schemas.records import Submitted
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams.answering import bounded
from batchmill.streams.chunking import BATCH, ONLINE, Place, custom_id_of, members
from batchmill.streams.collecting import (
    PollSchedule,
    RowIndex,
    RowPlace,
    acknowledge,
    after_poll,
    collect_cut,
    downloaded,
    finish,
    gone,
    is_gone,
    results_missing,
    settle_cut,
    wait_for_twins,
)
from batchmill.streams.costing import PriceList, Usage, priced, together_nanos
from batchmill.streams.orders import Order
from batchmill.streams.ports import (
    BatchProvider,
    NotFoundError,
    ProviderError,
    RefusedError,
    RemoteBatch,
    RemoteStatus,
    RowOutcome,
    StoredPayload,
    TransientError,
)
from batchmill.streams.submitting import Todo, twins_of

__all__ = ["Collector"]

STAGE = "collector"
#: tries to hear a done batch's counts; it is closed without them then
TOLD_TRIES_MAX = 6
#: tries to read the provider's list of batches: answers that are paid for do not wait for it for ever
TWIN_TRIES_MAX = 12

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """The agent of `submitted`."""

    kit: Kit
    providers: Providers
    payloads: FilePayloadStore
    prices: PriceList  #: for jobs applied without prices of their own
    effects: EffectSettings
    line_bytes_max: int
    output_bytes_max: int
    traces: Traces
    submitter: Submitter  #: shares the step that removes an input file

    def on_slice(self, task: Task, slice_: Slice) -> None:
        seen = [(record, self.kit.read(task, record, Submitted, stage=STAGE)) for record in slice_.records]
        lines = [line for _, line in seen if line is not None]
        orders = acknowledge(task.view, lines, clock.wall_ms())
        self.kit.carry(task, orders, src=slice_.records[-1].src)
        task.finish(slice_)

    def poll(self) -> ChunkLoop:
        """The effect that follows a batch from open to done."""
        return ChunkLoop(
            kit=self.kit,
            name="poll",
            states=(ChunkState.COLLECTED, ChunkState.DOWNLOADED, ChunkState.ENDED, ChunkState.OPEN),
            steps={
                Todo.POLL: self._poll,
                Todo.CANCEL: self._cancel,
                Todo.DOWNLOAD: self._download,
                Todo.COLLECT: self._collect,
                Todo.FINISH: self._finish,
                Todo.SETTLE: self._settle,
                Todo.DELETE_FILE: self.submitter.delete_file,
            },
            at_once=self.effects.chunks_at_once,
            idle_seconds=self.effects.idle_seconds,
            modes=(BATCH, ONLINE),
            by_file=self.providers.by_file,
        )

    # -- open -> ended -------------------------------------------------------------------------------------------------

    async def _poll(self, task: Task, chunk: Chunk) -> None:
        try:
            remote = await self._provider(chunk).get(_batch_id(chunk))
        except NotFoundError:
            self._gone(task, chunk)
            return
        self._seen(task, chunk, remote)

    async def _cancel(self, task: Task, chunk: Chunk) -> None:
        try:
            remote = await self._provider(chunk).cancel(_batch_id(chunk))
        except (NotFoundError, RefusedError, TransientError):
            # One that has just ended cannot be cancelled any more, and its answers are paid for: look what it is.
            await self._poll(task, chunk)
            return
        self._seen(task, chunk, remote)

    def _seen(self, task: Task, chunk: Chunk, remote: RemoteBatch) -> None:
        orders = after_poll(task.view, current_row(task, chunk), remote, self._schedule(chunk), clock.wall_ms())
        self._carry(task, chunk, orders)

    def _gone(self, task: Task, chunk: Chunk) -> None:
        self._carry(task, chunk, gone(current_row(task, chunk), self._schedule(chunk), clock.wall_ms()))

    # -- ended -> downloaded -------------------------------------------------------------------------------------------

    async def _download(self, task: Task, chunk: Chunk) -> None:
        """Bring both files home; on the way out look for twins, batches of this chunk that nobody follows."""
        provider = self._provider(chunk)
        try:
            remote = await provider.get(_batch_id(chunk))
            if remote.status is not RemoteStatus.ENDED:
                # It had ended when it was polled: this answer is older, and names no files yet.
                raise TransientError("not_ended", hint="the provider takes back that the batch has ended")
            output = await self._stored(provider, chunk, remote.output_file_id)
            await FAILPOINTS.reach("download.half")
            errors = await self._stored(provider, chunk, remote.error_file_id)
        except NotFoundError:
            self._gone(task, chunk)
            return
        await self._look_for_twins(task, chunk)
        self._carry(task, chunk, downloaded(current_row(task, chunk), output, errors, clock.wall_ms()))

    async def _stored(self, provider: BatchProvider, chunk: Chunk, file_id: str | None) -> StoredPayload | None:
        """The file, or None for one that the provider has denied often enough: the other one is still worth having."""
        try:
            return None if not file_id else await self.payloads.put(provider.download(file_id))
        except NotFoundError:
            if not is_gone(chunk):
                raise
            return None

    async def _look_for_twins(self, task: Task, chunk: Chunk) -> Sequence[RemoteBatch]:
        label = self.submitter.label_of(chunk)
        try:
            provider = self._provider(chunk)
            found = await provider.find(label=label, since_ms=chunk.created_at_ms)
        except (ProviderError, SettingsError) as error:
            if chunk.failures < TWIN_TRIES_MAX:
                raise
            _log.warning("twins_not_looked_for", chunk_id=chunk.chunk_id, batch_id=chunk.batch_id, error=str(error))
            return ()
        looked = twins_of(
            current_row(task, chunk), found, lambda twin: self._cost_of(task, chunk, twin), clock.wall_ms()
        )
        self._carry(task, chunk, looked.orders)
        for batch_id in looked.cancel:
            await provider.cancel(batch_id)
        return found

    def _cost_of(self, task: Task, chunk: Chunk, twin: RemoteBatch) -> int:
        """What a twin was billed by its own count, else what the chunk itself cost; 0 while there is no price."""
        billed = self._billed(task, chunk, twin)
        return chunk.cost_nanos if billed is None else billed

    def _billed(self, task: Task, chunk: Chunk, batch: RemoteBatch) -> int | None:
        """What a batch as a whole was billed, by its own count; None where it does not say, or there is no price."""
        if batch.input_tokens is None or batch.output_tokens is None:
            return None
        usage = Usage(
            input_tokens=batch.input_tokens, output_tokens=batch.output_tokens, cached_tokens=batch.cached_tokens
        )
        return together_nanos(self._prices(task, chunk), chunk.model, chunk.mode, usage)

    def _prices(self, task: Task, chunk: Chunk) -> PriceList:
        job = self.kit.compiled(task, chunk.job, chunk.version)
        return self.prices if job is None else job.costed_by(self.prices)

    # -- downloaded -> collected -> done -------------------------------------------------------------------------------

    async def _collect(self, task: Task, chunk: Chunk) -> None:
        job = self.kit.compiled(task, chunk.job, chunk.version)
        assert job is not None, f"chunk {chunk.chunk_id} was sent under a version this task does not have"
        prices = job.costed_by(self.prices)
        try:
            index = await self._indexed(chunk)
            while current_row(task, chunk).state is ChunkState.DOWNLOADED:
                rows = await self._rows(chunk, index, members(task.view, chunk.chunk_id))
                # Membership is frozen but lives are not: newer events may have touched them while files were read.
                cut = members(task.view, chunk.chunk_id)
                orders = collect_cut(
                    task.view,
                    current_row(task, chunk),
                    cut,
                    rows,
                    retry=job.spec.retry,
                    price=lambda row: priced(prices, chunk.mode, chunk.model, row),
                    now_ms=clock.wall_ms(),
                )
                self._carry(task, chunk, orders)
                self.traces.answered(chunk, cut)
                await task.capacity()
        except (PayloadMissingError, PayloadDamagedError):
            await self._fetch_again(task, chunk)

    async def _fetch_again(self, task: Task, chunk: Chunk) -> None:
        """A result file is gone, or is not what it was: what is left of it would be in the way of a new one."""
        for uri in (chunk.output_uri, chunk.error_uri):
            if uri is not None:
                await self.payloads.delete(uri)
        self._carry(task, chunk, results_missing(current_row(task, chunk), clock.wall_ms()))

    async def _finish(self, task: Task, chunk: Chunk) -> None:
        if chunk.acknowledged < chunk.members:
            await task.rest("poll", self.effects.idle_seconds)  # its lines are still on their way to our own agent
            return
        try:
            index = await self._indexed(chunk)
        except (PayloadMissingError, PayloadDamagedError):
            await self._fetch_again(task, chunk)
            return
        if (chunk.twins or chunk.attempt > 1) and await self._twins_to_come(task, chunk):
            return
        told = await self._told(chunk)
        told_nanos = None if told is None else self._billed(task, chunk, told)
        orders = finish(current_row(task, chunk), index, clock.wall_ms(), told=told, told_nanos=told_nanos)
        self._carry(task, chunk, orders)
        self._say_what_is_wrong(current_row(task, chunk))
        self.traces.batch_done(chunk)

    async def _twins_to_come(self, task: Task, chunk: Chunk) -> bool:
        """Count twins again: those that ran on have ended by now, or were cancelled. Some may not be told yet."""
        found = await self._look_for_twins(task, chunk)
        window_ms = self._provider(chunk).capabilities.window_seconds * 1_000
        waiting = wait_for_twins(current_row(task, chunk), found, window_ms, clock.wall_ms())
        self._carry(task, chunk, waiting)
        return bool(waiting)

    async def _told(self, chunk: Chunk) -> RemoteBatch | None:
        """The batch in the provider's own counts; None when it was gone before, or does not say for long."""
        if chunk.failures >= TOLD_TRIES_MAX or is_gone(chunk):
            return None
        try:
            return await self._provider(chunk).get(_batch_id(chunk))
        except NotFoundError:
            raise TransientError(
                "counts_gone", hint="one denial of a batch that was read before proves little"
            ) from None

    def _say_what_is_wrong(self, done: Chunk) -> None:
        if done.state is ChunkState.DONE and done.note is not None:
            _log.warning("counts_do_not_reconcile", chunk_id=done.chunk_id, batch_id=done.batch_id, found=done.note)

    async def _settle(self, task: Task, chunk: Chunk) -> None:
        """Let the members of a batch that never ran go, cut by cut.

        One of an attempt that was given up may have come late; its members are about to be sent by another.
        """
        if chunk.attempt and chunk.mode == BATCH:
            await self._look_for_twins(task, chunk)
        place = Place(self.kit.app_id, task.partition)
        while (row := current_row(task, chunk)).state is ChunkState.ENDED:
            self._carry(task, chunk, settle_cut(task.view, row, place, clock.wall_ms()))
            await task.capacity()

    # -- files ---------------------------------------------------------------------------------------------------------

    async def _indexed(self, chunk: Chunk) -> RowIndex:
        """One pass over the stored files: where each row lies."""
        index, provider = RowIndex.of(chunk), self._provider(chunk)
        for number, uri in enumerate((chunk.output_uri, chunk.error_uri)):
            if uri is None:
                continue
            async for start, line in placed_lines(self.payloads.read(uri), line_bytes_max=self.line_bytes_max):
                row = None if line is None else provider.parse_row(line)
                size = 0 if line is None else len(line)
                index.add(None if row is None else row.custom_id, RowPlace(number, start, size))
            await asyncio.sleep(0)
        return index

    async def _rows(self, chunk: Chunk, index: RowIndex, cut: Sequence[Life]) -> dict[str, RowOutcome]:
        provider, uris = self._provider(chunk), (chunk.output_uri, chunk.error_uri)
        rows: dict[str, RowOutcome] = {}
        for life in cut:
            place = index.places.get(custom_id_of(chunk, life))
            if place is None:
                continue
            uri = uris[place.file]
            assert uri is not None, f"a row of {chunk.chunk_id} lies in a file that was not stored"
            row = provider.parse_row(await self.payloads.read_range(uri, place.start, place.length))
            assert row is not None, f"a row of {chunk.chunk_id} was readable a moment ago"
            rows[row.custom_id] = bounded(row, self.output_bytes_max)
        return rows

    def _provider(self, chunk: Chunk) -> BatchProvider:
        return self.providers.of(chunk.account)

    def _schedule(self, chunk: Chunk) -> PollSchedule:
        account = self.providers.account(chunk.account)
        return PollSchedule(
            wait_ms_min=round(account.poll_min_seconds * 1_000), wait_ms_max=round(account.poll_max_seconds * 1_000)
        )

    def _carry(self, task: Task, chunk: Chunk, orders: Sequence[Order]) -> None:
        self.kit.carry(task, orders, src=f"effect:poll/{chunk.chunk_id}")


def _batch_id(chunk: Chunk) -> str:
    assert chunk.batch_id is not None, f"chunk {chunk.chunk_id} is open without a batch"
    return chunk.batch_id
