"""Tasks that share a budget, an overseer, and a log between them, in memory: whatever may happen between commits.

What lives here: a task's rows with and without what it has not committed, the overseer's reading behind the log, and
crashes of both. What must not: what has to hold (`test_overseeing`).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Grant, Job, Row
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.granting import PUT_BACK_MS, Need, follow, granted, money_pool, queue_pool, reserve, used, waits
from batchmill.streams.orders import Order, Put
from batchmill.streams.overseeing import Books, Limits
from batchmill.streams.view import MemoryView
from tests.streams.rows import NOW_MS, make_chunk, make_job

__all__ = ["JOBS", "NANOS", "QUEUE", "QUEUE_MAX", "SharedTask", "SharedWorld"]

JOBS = ("alpha", "beta")
QUEUE = queue_pool("default", "gpt-5-mini")
QUEUE_MAX = 40
#: what one record needs of each pool
NANOS, TOKENS = 10, 3


def job_row(name: str, budget: int, **changes: Any) -> Job:
    declared = {"v1": {"budget": {"job_nanos": budget}}}
    return make_job(job=name, versions_json=json.dumps(declared), **changes)


@dataclass(slots=True)
class SharedTask:
    """One task: rows, what of them is committed, and how far it has read its own partition of `control`."""

    partition: int
    world: "SharedWorld"
    view: MemoryView = field(default_factory=MemoryView)
    read_to: int = 0
    committed_read_to: int = 0
    _undo: list[tuple[str, str, Row | None]] = field(default_factory=list)
    _written: dict[tuple[str, str], Row] = field(default_factory=dict)

    def carry(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if not isinstance(order, Put):
                continue
            row = (
                replace(order.row, updated_at_ms=self.world.tick()) if isinstance(order.row, Chunk | Job) else order.row
            )
            rows = follow(self.view, row) if isinstance(row, Chunk | Job) else [order]
            for each in rows:
                if isinstance(each, Put):
                    self._undo.append((each.row.schema, each.row.key, self.view.get(each.row.schema, each.row.key)))
                    self._written[each.row.schema, each.row.key] = each.row
                    self.view.put(each.row)

    def carry_new(self, job: str, members: int) -> None:
        self.carry([Put(self.world.new_chunk(job, members))])

    def commit(self) -> None:
        self.world.state.append((self.partition, list(self._written.values()), self.read_to))
        self.committed_read_to = self.read_to
        self._undo, self._written = [], {}

    def crash(self) -> None:
        for table, key, before in reversed(self._undo):
            if before is None:
                self.view.delete(table, key)
            else:
                self.view.put(before)
        self._undo, self._written = [], {}
        self.read_to = self.committed_read_to

    def take(self) -> bool:
        """The next record of `control`."""
        log = self.world.control[self.partition]
        if self.read_to == len(log):
            return False
        self.redeliver(self.read_to)
        self.read_to += 1
        return True

    def redeliver(self, at: int) -> None:
        log = self.world.control[self.partition]
        if at < len(log):
            self.carry(granted(self.view, *log[at], self.world.tick()))

    def chunks(self) -> list[Chunk]:
        rows = [row for row in self.view.rows(Chunk.schema) if isinstance(row, Chunk)]
        return sorted(rows, key=lambda row: row.chunk_id)

    def grants(self) -> list[Grant]:
        return [row for row in self.view.rows(Grant.schema) if isinstance(row, Grant)]

    def step(self, chunk: Chunk, luck: int) -> bool:
        """Take a chunk one step further; False when there is nothing to do for it."""
        job = read.job(self.view, chunk.job)
        assert job is not None
        match chunk.state:
            case ChunkState.PREPARED:
                early = chunk.due_at_ms is not None and chunk.due_at_ms > self.world.now_ms
                if job.paused or early or waits(self.view, chunk):
                    return False
                found = reserve(self.view, chunk, needs(chunk), self.world.tick())
                self.carry(found.orders)
                row = read.chunk(self.view, chunk.chunk_id)
                assert row is not None
                if found.held:
                    self.carry([Put(replace(row, state=ChunkState.ATTEMPTING))])
                return bool(found.orders) or found.held
            case ChunkState.ATTEMPTING:
                back = luck % 4 == 0
                self.carry([Put(replace(chunk, state=ChunkState.PREPARED if back else ChunkState.OPEN))])
            case ChunkState.OPEN:
                failed = {"reason": Reason.PROVIDER_CANCELLED} if luck % 5 == 0 else {}
                self.carry([Put(replace(chunk, state=ChunkState.ENDED, **failed))])
            case ChunkState.ENDED if chunk.reason is Reason.PROVIDER_CANCELLED:
                self._settle(chunk)
            case ChunkState.ENDED:
                cost = luck % (NANOS * chunk.members + 1)
                self.carry([Put(replace(chunk, state=ChunkState.DONE, cost_nanos=cost))])
            case _:
                return False
        return True

    def _settle(self, chunk: Chunk) -> None:
        """Into two halves; a single record has had its day."""
        half = chunk.members // 2
        for members in (half, chunk.members - half) if half else ():
            self.carry([Put(self.world.new_chunk(chunk.job, members))])
        self.carry([Put(replace(chunk, state=ChunkState.FAILED))])


def needs(chunk: Chunk) -> list[Need]:
    return [
        Need(money_pool(chunk.job), NANOS * chunk.members),
        Need(QUEUE, min(QUEUE_MAX, TOKENS * chunk.members)),
    ]


class SharedWorld:
    """Everything, and the overseer."""

    def __init__(self, tasks: int, budget: int) -> None:
        self.state: list[tuple[int, list[Row], int]] = []
        self.control: list[list[tuple[dict[str, int], dict[str, int]]]] = [[] for _ in range(tasks)]
        self.budgets = dict.fromkeys(JOBS, budget)
        self.tasks = [SharedTask(partition, self) for partition in range(tasks)]
        self.now_ms = NOW_MS
        self._made = 0
        for task in self.tasks:
            task.carry(Put(job_row(name, budget)) for name in JOBS)
            task.commit()
        self.appoint()

    def tick(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def new_chunk(self, job: str, members: int) -> Chunk:
        self._made += 1
        row, _ = make_chunk([], ChunkState.PREPARED)
        return replace(row, chunk_id=f"c{self._made:06d}", job=job, members=members, created_at_ms=NOW_MS + self._made)

    def appoint(self) -> None:
        """A new overseer: reads all of the state, and of `control` what no task had read by then."""
        self.books = Books(Limits(queue_max={"default": QUEUE_MAX}))
        self.seen = 0
        self.oversee_reading(len(self.state))
        read_to = {partition: at for partition, _, at in self.state}
        for partition, log in enumerate(self.control):
            for totals, _ in log[read_to.get(partition, 0) :]:
                self.books.handed(partition, totals)

    def oversee_reading(self, count: int) -> None:
        for partition, rows, _ in self.state[self.seen : self.seen + count]:
            for row in rows:
                if isinstance(row, Grant | Job):
                    self.books.row(partition, row)
        self.seen = min(len(self.state), self.seen + count)

    def hand_out(self) -> bool:
        """Decide and write; the overseer is told of what is in the log."""
        found = self.books.decide(NOW_MS)
        for each in found:
            self.control[each.partition].append((dict(each.granted), dict(each.most)))
            self.books.handed(each.partition, each.granted)
            self.books.told(each)
        return bool(found)

    def apply(self, task: SharedTask, job: str) -> None:
        """The newest budget reaches one task."""
        row = read.job(task.view, job)
        assert row is not None
        task.carry([Put(replace(job_row(job, self.budgets[job]), paused=row.paused))])

    def pause(self, task: SharedTask, job: str, *, paused: bool) -> None:
        row = read.job(task.view, job)
        assert row is not None
        task.carry([Put(replace(row, paused=paused))])

    def exposed(self, pool: str) -> int:
        """The truth: what is handed and not returned for certain, or used all the same, summed over the tasks."""
        return sum(self._exposed(task, pool) for task in self.tasks)

    def _exposed(self, task: SharedTask, pool: str) -> int:
        handed = [totals.get(pool, 0) for totals, _ in self.control[task.partition]]
        row = read.grant(task.view, pool)
        if row is None:
            return max(handed, default=0)
        return max([row.granted, used(row), *handed]) - row.returned

    def settle(self) -> None:
        """Until nothing moves any more: everything is applied, read, handed out, and every batch comes to its end."""
        for task in self.tasks:
            for job in JOBS:
                self.apply(task, job)
                self.pause(task, job, paused=False)
        for _ in range(3):  # those that were put back have their turn too
            self._rest()
            self.now_ms += PUT_BACK_MS
        self._rest()

    def _rest(self) -> None:
        for _ in range(10_000):
            moved = False
            for task in self.tasks:
                while task.take():
                    moved = True
                for chunk in task.chunks():
                    moved = task.step(chunk, 7) or moved
                task.commit()
            self.oversee_reading(len(self.state))
            moved = self.hand_out() or moved
            if not moved:
                return
        raise AssertionError("it never comes to rest")
