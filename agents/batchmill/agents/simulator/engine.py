"""Law: the engine moves batches when they are due, and works their rows in short slices so that everybody is answered.

It decides nothing (`lives`, `working` do): it reads clocks and files, keeps what came out, and writes the ledger.
Bills, result files and the final status are one transaction: a kill before it means the rows are worked again, after
it never.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import ExitStack, suppress
from itertools import chain
from typing import TYPE_CHECKING, Final, Self

from batchmill.agents import clock
from batchmill.agents.simulator import lives
from batchmill.agents.simulator.chance import digest_of
from batchmill.agents.simulator.faults import Fault, FaultPlan
from batchmill.agents.simulator.ledger_writer import LedgerWriter, entry_bytes
from batchmill.agents.simulator.limits import Limits, QueueRoom
from batchmill.agents.simulator.pricing import tokens_of_chars
from batchmill.agents.simulator.records import Batch, BatchProblem, BatchStatus, StoredFile
from batchmill.agents.simulator.working import Bench, RowResult, worked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any, BinaryIO

    from batchmill.agents.simulator.caching import PromptCache
    from batchmill.agents.simulator.config import SimulatorConfig
    from batchmill.agents.simulator.dialect import Checker, Dialect
    from batchmill.agents.simulator.gold import GoldTable
    from batchmill.agents.simulator.store import Store

__all__ = ["Engine", "ended_facts", "record"]

BATCHES_WORKED_AT_ONCE: Final = 4
BILLS_PACKED: Final = 1_000
SLICE_SECONDS: Final = 0.005  # of the event loop, before others have their turn
IDLE_SECONDS_MAX: Final = 1.0  # between two looks, when nothing says when the next batch is due

_log = logging.getLogger(__name__)


class Engine:
    def __init__(
        self,
        *,
        config: SimulatorConfig,
        store: Store,
        ledger: LedgerWriter,
        gold: GoldTable,
        dialects: Mapping[str, Dialect],
        plan: Callable[[], FaultPlan],
        limits: Callable[[], Limits],
        cache: PromptCache,
        on_ended: Callable[[Batch], None],
    ) -> None:
        self._config = config
        self._store = store
        self._ledger = ledger
        self._gold = gold
        self._dialects = dialects
        self._plan = plan
        self._limits = limits
        self._cache = cache
        self._on_ended = on_ended
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Something is due earlier than the engine knew."""
        self._wake.set()

    async def run(self) -> None:
        try:
            while True:
                self._wake.clear()
                now = clock.wall_ms()
                self._start_due(now)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._idle_seconds(now))
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _start_due(self, now_ms: int) -> None:
        for batch_id in self._store.due_ids(now_ms):
            if len(self._busy) >= BATCHES_WORKED_AT_ONCE:
                return
            if batch_id not in self._busy:
                self._busy[batch_id] = asyncio.create_task(self._step(batch_id))

    def _idle_seconds(self, now_ms: int) -> float:
        due = self._store.next_due_ms(now_ms)
        return IDLE_SECONDS_MAX if due is None else min((due - now_ms) / 1000, IDLE_SECONDS_MAX)

    async def _step(self, batch_id: str) -> None:
        batch = self._store.batch(batch_id)
        try:
            if batch is not None:
                await self._move(batch)
        except Exception:  # noqa: BLE001 - one batch that cannot be worked must not stop the others; it ends loudly instead
            _log.exception("simulator: batch %s ended by an error of the simulator", batch_id)
            problem = BatchProblem(code="simulator_error", message="The simulator failed; see its log.")
            await self._end_failed(batch_id, problem)
        finally:
            del self._busy[batch_id]
            self._wake.set()

    async def _move(self, batch: Batch) -> None:
        if batch.status is BatchStatus.VALIDATING:
            await self._validate(batch)
        elif batch.status is BatchStatus.IN_PROGRESS:
            wait_ms = round(self._config.finalizing_seconds * 1000)
            self._store.save_batch(lives.finalizing(batch, clock.wall_ms(), wait_ms=wait_ms))
        else:
            await self._finish(batch)

    # Validating ----------------------------------------------------------------------------------------------------

    async def _validate(self, batch: Batch) -> None:
        dialect = self._dialects[batch.provider]
        checker = dialect.checker(batch, rows_max=self._config.batch_rows_max)
        tokens = 0
        problem = lives.TOKEN_LIMIT if Fault.TOKEN_LIMIT_EXCEEDED in batch.faults else None
        pace = _Pace()
        with self._store.payload_path(batch.input_file_id).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                problem = problem or checker.line(number, line)
                if problem is not None:
                    break
                if line.strip():
                    tokens += tokens_of_chars(dialect.request(line).question.chars)
                await pace.breathe()
        problem = problem or checker.end() or self._unpriced(checker.model) or self._unplaced(batch, checker, tokens)
        if problem is not None:
            await self._end_failed(batch.id, problem)
            return
        current = self._store.batch(batch.id)
        if current is not None and current.status is BatchStatus.VALIDATING:  # not cancelled meanwhile
            now, rows, model = clock.wall_ms(), checker.rows, checker.model
            self._store.save_batch(lives.begun(current, now, total=rows, model=model, queued_tokens=tokens))

    def _unplaced(self, batch: Batch, checker: Checker, tokens: int) -> BatchProblem | None:
        """No await between this look and the save of a batch that is let in: two cannot take the same room."""
        room = self._limits().queue_of(checker.model or "")
        if room == QueueRoom():
            return None
        place = (batch.provider, checker.model)
        others = [other for other in self._store.unfinished() if (other.provider, other.model) == place]
        return lives.queue_problem(others, room, requests=checker.rows, tokens=tokens)

    def _unpriced(self, model: str | None) -> BatchProblem | None:
        if model is None or self._config.price_of(model) is not None:
            return None
        return BatchProblem(
            code="model_not_found", message=f"The provided model '{model}' does not exist.", line=1, param="body.model"
        )

    async def _end_failed(self, batch_id: str, problem: BatchProblem) -> None:
        current = self._store.batch(batch_id)
        if current is not None and not current.status.ended:
            await self._end(lives.failed(current, clock.wall_ms(), problem), files=(), bills=_Bills())

    # Working rows --------------------------------------------------------------------------------------------------

    async def _finish(self, batch: Batch) -> None:
        bench = Bench(
            batch=batch,
            dialect=self._dialects[batch.provider],
            config=self._config,
            gold=self._gold,
            plan=self._plan(),
            cache=self._cache,
        )
        kinds = ("output",) if bench.dialect.one_file else ("output", "error")
        results = {kind: _ResultFile(self._store, batch, kind) for kind in kinds}
        with ExitStack() as opened:
            for result in results.values():
                opened.enter_context(result)
            tally, bills = await self._work_rows(bench, results["output"], results[kinds[-1]])
        made = [result.kept() for result in results.values()]
        ids = [*(None if file is None else file.id for file in made), None]
        now = clock.wall_ms()
        final = lives.ended(batch, now, tally, output_file_id=ids[0], error_file_id=ids[1])
        await self._end(final, files=tuple(file for file in made if file is not None), bills=bills)

    async def _work_rows(self, bench: Bench, output: _ResultFile, error: _ResultFile) -> tuple[lives.Tally, _Bills]:
        tally, bills, pace = lives.Tally(), _Bills(), _Pace()
        done = lives.rows_done(bench.batch, clock.wall_ms())
        with self._store.payload_path(bench.batch.input_file_id).open("rb") as source:
            rows = _row_places(source)
            for rank, row in enumerate(lives.working_order(bench.batch, len(rows))):
                number, start = rows[row]
                source.seek(start)
                result = worked(bench, source.readline().rstrip(b"\r\n"), number=number, run=rank < done)
                output.write(result.output)
                error.write(result.error)
                _add(tally, result)
                if result.bill is not None:
                    bills.add(entry_bytes("bill", result.bill))
                await pace.breathe()
        return tally, bills

    async def _end(self, batch: Batch, *, files: tuple[StoredFile, ...], bills: _Bills) -> None:
        def change() -> None:
            for file in files:
                self._store.add_file(file)
            self._store.save_batch(batch)

        entries = chain(bills.taken(), [entry_bytes("batch_ended", ended_facts(batch))])
        await record(self._store, self._ledger, change, entries)
        self._on_ended(batch)
        self._store.drop_unused_payload(batch.input_file_id)


async def record(store: Store, ledger: LedgerWriter, change: Callable[[], None], entries: Iterable[bytes]) -> None:
    """A change of state and its ledger lines in one transaction; returns when the lines are on disk."""
    staged = ledger.stage(entries)
    with store.transaction():
        change()
        store.stage(staged.groups)
    await ledger.written(staged)
    store.unstage(staged.groups)


def ended_facts(batch: Batch) -> dict[str, Any]:
    return {
        "batch_id": batch.id,
        "status": batch.status,
        "total": batch.total,
        "billed_rows": batch.billed_rows,
        "cost_nanos": batch.cost_nanos,
        "code": batch.problem and batch.problem.code,
    }


class _Bills:
    """Ledger entries of a batch, packed: fifty thousand small strings would take four times their bytes."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._fresh: list[bytes] = []

    def add(self, entry: bytes) -> None:
        self._fresh.append(entry)
        if len(self._fresh) == BILLS_PACKED:
            self._packed.append(b"\n".join(self._fresh))
            self._fresh.clear()

    def taken(self) -> Iterator[bytes]:
        """In order; what is taken is let go."""
        self._packed.reverse()
        while self._packed:
            yield from self._packed.pop().split(b"\n")
        yield from self._fresh


class _Pace:
    """Lets others run after each slice of work."""

    def __init__(self) -> None:
        self._until = clock.monotonic_s() + SLICE_SECONDS

    async def breathe(self) -> None:
        if clock.monotonic_s() >= self._until:
            await asyncio.sleep(0)
            self._until = clock.monotonic_s() + SLICE_SECONDS


class _ResultFile:
    """A result file while it is written. Its id follows from the batch's, so work done again replaces it."""

    def __init__(self, store: Store, batch: Batch, kind: str) -> None:
        self._batch = batch
        self._kind = kind
        self._id = f"file-{digest_of(batch.id, kind).hex()[:24]}"
        self._path: Path = store.payload_path(self._id)
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, lines: bytes) -> None:
        if lines and self._file is not None:
            self._file.write(lines)
            self._sha256.update(lines)
            self._size += len(lines)

    def kept(self) -> StoredFile | None:
        """The file's record, or None when there is nothing to keep."""
        even_empty = self._kind == "error" and Fault.EMPTY_ERROR_FILE in self._batch.faults
        if self._size == 0 and not even_empty:
            self._path.unlink()
            return None
        return StoredFile(
            id=self._id,
            provider=self._batch.provider,
            filename=f"{self._batch.id}_{self._kind}.jsonl",
            purpose="batch_output",
            size_bytes=self._size,
            sha256=self._sha256.hexdigest(),
            created_ms=clock.wall_ms(),
        )


def _row_places(source: BinaryIO) -> list[tuple[int, int]]:
    """Line number and byte offset of every row; blank lines are not rows."""
    places, start = [], 0
    for number, line in enumerate(source, start=1):
        if line.strip():
            places.append((number, start))
        start += len(line)
    return places


def _add(tally: lives.Tally, result: RowResult) -> None:
    tally.failed += result.failed
    tally.completed += result.run and not result.failed
    if result.bill is not None:
        tally.billed_rows += 1
        tally.cost_nanos += result.bill["cost_nanos"]
        tally.input_tokens += result.bill["input_tokens"]
        tally.output_tokens += result.bill["output_tokens"]
        tally.cached_tokens += result.bill["cached_tokens"]
        tally.cache_write_tokens += result.bill["cache_write_tokens"]
