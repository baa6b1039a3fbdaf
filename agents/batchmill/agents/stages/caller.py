"""normalized -> results, one by one: the effect that asks the members of online chunks and takes their answers.

What lives here: the calls of a chunk side by side, and gathering their ends into small cuts. What must not: what an
answer or an error means (`streams.calling`), or how fast calls may go (`providers.pacing`). No call starts before the
attempt that names it is durable, and each asks once more, when its turn has come, whether it may.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore, PayloadDamagedError, PayloadMissingError
from batchmill.agents.providers.online import OnlineClient
from batchmill.agents.providers.registry import Providers
from batchmill.agents.runtime import FAILPOINTS, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.chunk_loop import ChunkLoop, current_row
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.submitter import Submitter
from batchmill.agents.stages.traces import Traces
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams.calling import Called, Terms, after_calls, in_doubt, may_call
from batchmill.streams.chunking import ONLINE, custom_id_of, members
from batchmill.streams.compiling import CompiledJob
from batchmill.streams.costing import PriceList, priced, worst_case_nanos
from batchmill.streams.ports import NotStartedError, ProviderError, RowOutcome, TransientError
from batchmill.streams.submitting import Todo, begin_cut, payload_missing

__all__ = ["Caller"]

#: how long ends of calls are gathered before they are written: a commit may hold many
CUT_SECONDS = 0.05
CUT_CALLS = 64
#: how often one member is asked in one attempt while the service says that it was too much or could not be reached
ASKS_MAX = 5
LINE_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The calls of all tasks of a worker."""

    kit: Kit
    providers: Providers
    payloads: FilePayloadStore
    prices: PriceList  #: for jobs applied without prices of their own
    effects: EffectSettings
    output_bytes_max: int
    traces: Traces
    submitter: Submitter  #: shares the step that writes a payload, and the lease

    def calls(self) -> ChunkLoop:
        """The effect that follows an online chunk from sealed to done."""
        at_once = self.effects.online_chunks_at_once
        return ChunkLoop(
            kit=self.kit,
            name="calls",
            states=(ChunkState.ATTEMPTING, ChunkState.PREPARED, ChunkState.SEALED),
            steps={Todo.PREPARE: self.submitter.prepare, Todo.CALL: self._call, Todo.DOUBT: self._doubt},
            at_once=2 * at_once,
            at_most={Todo.CALL: at_once},
            idle_seconds=self.effects.idle_seconds,
            modes=(ONLINE,),
            by_file=self.providers.by_file,
        )

    async def _call(self, task: Task, chunk: Chunk) -> None:
        """Name every member in the attempt, make that durable, and only then ask."""
        if not self.submitter.may_spend(task, chunk):
            await asyncio.sleep(self.effects.idle_seconds)  # nobody wakes us when the lease begins
            return
        client = self.providers.online(chunk.account)
        if (closed_s := client.closed_seconds()) > 0:
            raise TransientError("gate_closed", retry_after_seconds=closed_s, hint="the provider asks for a pause")
        lines = await self._lines(task, chunk)
        if lines is None:
            return
        if not await self.submitter.holds(task, chunk):
            return  # it waits for a grant, or a person looks at it first
        src = f"effect:call/{chunk.chunk_id}"
        while (current := current_row(task, chunk)).state is ChunkState.PREPARED:
            self.kit.carry(task, begin_cut(task.view, current, clock.wall_ms()), src=src)
            await task.capacity()
        if current.state is not ChunkState.ATTEMPTING:
            return  # cancelled meanwhile
        await task.durable()
        await FAILPOINTS.reach("calls.before")
        await _Round(caller=self, task=task, chunk=current, client=client, lines=lines).run()

    async def _doubt(self, task: Task, chunk: Chunk) -> None:
        """Of an attempt that another process began nothing is known."""
        while (row := current_row(task, chunk)).state is ChunkState.ATTEMPTING:
            self.ended(task, chunk, in_doubt(task.view, row))
            await task.capacity()

    async def _lines(self, task: Task, chunk: Chunk) -> Mapping[str, bytes] | None:
        """The payload's lines by custom id; None when it is gone and has to be made again."""
        assert chunk.payload_uri is not None, f"chunk {chunk.chunk_id} is prepared without a payload"
        try:
            payload = b"".join([part async for part in self.payloads.read(chunk.payload_uri)])
        except (PayloadMissingError, PayloadDamagedError):
            await self.payloads.delete(chunk.payload_uri)
            orders = payload_missing(current_row(task, chunk), clock.wall_ms())
            self.kit.carry(task, orders, src=f"effect:call/{chunk.chunk_id}")
            return None
        return {orjson.loads(line)["custom_id"]: line for line in payload.splitlines()}

    def ended(self, task: Task, chunk: Chunk, called: Sequence[Called]) -> None:
        """Write down how these calls ended."""
        terms = self._terms(task, chunk)
        orders = after_calls(task.view, current_row(task, chunk), called, terms, clock.wall_ms())
        self.kit.carry(task, orders, src=f"effect:call/{chunk.chunk_id}")
        done = current_row(task, chunk)
        if done.state is ChunkState.DONE:
            self.traces.batch_done(done)

    def tokens(self, task: Task, chunk: Chunk, life: Life) -> int:
        """What one call is expected to take of the account's minute: the prompt, and the room for the answer."""
        room = self._answer_tokens_max(self._job(task, chunk), chunk, life)
        return life.tokens_estimate + (room or 0)

    def _terms(self, task: Task, chunk: Chunk) -> Terms:
        job = self._job(task, chunk)
        prices = job.costed_by(self.prices)

        def worst(life: Life) -> int:
            room = self._answer_tokens_max(job, chunk, life)
            # No tokenizer makes more than one token of a byte.
            nanos = worst_case_nanos(
                prices,
                chunk.model,
                chunk.mode,
                input_tokens=life.bytes_estimate,
                output_tokens_max=room or 0,
            )
            return nanos or 0

        return Terms(
            retry=job.spec.retry,
            on_unknown=job.spec.mode.online.on_unknown,
            price=lambda row: priced(prices, chunk.mode, chunk.model, row),
            worst=worst,
            output_bytes_max=self.output_bytes_max,
        )

    def _answer_tokens_max(self, job: CompiledJob, chunk: Chunk, life: Life) -> int | None:
        default = self.providers.of(chunk.account).capabilities.output_tokens_default
        return job.routes.of(life.route).form.output_tokens_max(life.room) or default

    def _job(self, task: Task, chunk: Chunk) -> CompiledJob:
        job = self.kit.compiled(task, chunk.job, chunk.version)
        assert job is not None, f"chunk {chunk.chunk_id} was sealed under a version this task does not have"
        return job


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """All calls of one chunk, from the first to the last."""

    caller: Caller
    task: Task
    chunk: Chunk
    client: OnlineClient
    lines: Mapping[str, bytes]

    async def run(self) -> None:
        """Ask every member, and write down the ends as they come, so many at a time or so often."""
        asked = members(self.task.view, self.chunk.chunk_id)
        found: list[Called] = []
        came = asyncio.Event()

        async def call(life: Life) -> None:
            found.append(Called(life.request_id, await self._ask(life)))
            came.set()

        try:
            async with asyncio.TaskGroup() as calls:
                for life in asked:
                    calls.create_task(call(life))
                await self._gather(asked, found, came)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # the others were only cancelled because of it

    async def _gather(self, asked: Sequence[Life], found: list[Called], came: asyncio.Event) -> None:
        left = len(asked)
        while left:
            await came.wait()
            if len(found) < min(CUT_CALLS, left):
                await asyncio.sleep(CUT_SECONDS)
            cut, found[:] = found[:CUT_CALLS], found[CUT_CALLS:]
            if not found:
                came.clear()
            await FAILPOINTS.reach("calls.answered")
            left -= len(cut)
            await self._write(asked, cut)

    async def _write(self, asked: Sequence[Life], cut: Sequence[Called]) -> None:
        self.caller.ended(self.task, self.chunk, cut)
        answered = {each.request_id for each in cut if isinstance(each.ended, RowOutcome)}
        self.caller.traces.answered(self.chunk, [life for life in asked if life.request_id in answered])
        await self.task.capacity()

    async def _ask(self, life: Life) -> RowOutcome | ProviderError:
        """One member's end. What certainly did not happen may be asked for again: the attempt that names it stands."""
        line = self.lines[custom_id_of(self.chunk, life)]
        tokens = self.caller.tokens(self.task, self.chunk, life)
        for last in range(ASKS_MAX - 1, -1, -1):
            try:
                return await self.client.ask(
                    endpoint=self.chunk.endpoint, line=line, tokens=tokens, may_start=self._may_start
                )
            except NotStartedError as error:
                return error
            except TransientError as error:
                if not last:
                    return error
            except ProviderError as error:
                return error
        raise AssertionError("unreachable: the last ask returns")

    def _may_start(self) -> bool:
        task, caller = self.task, self.caller
        return not task.draining and may_call(task.view, self.chunk) and caller.submitter.may_spend(task, self.chunk)
