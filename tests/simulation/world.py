"""Tasks in memory: a log per topic and partition, a view, and transactions that a crash undoes.

What a task puts, emits and reads since its last commit exists for itself only. `commit` makes all of it visible at
once; `crash` forgets all of it. Nothing here knows what the orders mean.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from batchmill.schemas import codec
from batchmill.schemas.ids import partition_for
from batchmill.schemas.records import Origin, RawEvent, Record
from batchmill.schemas.state import Chunk, Grant, Job, Life, Row
from batchmill.streams import granting
from batchmill.streams.breaking import Breaker
from batchmill.streams.chunking import Place
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.view import MemoryView

__all__ = ["Entry", "Killed", "SimTask", "World"]

PLACE_BYTES = 16


class Killed(Exception):  # noqa: N818 - what happened, not an error of ours
    """The worker died here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the log."""

    value: Record | RawRecord
    at_ms: int


@dataclass(slots=True)
class World:
    """What survives every crash: the log, the clock, chance."""

    chance: Random
    partitions: int
    now_ms: int = 1_000_000
    log: dict[tuple[str, int], list[Entry]] = field(default_factory=lambda: defaultdict(list))
    #: every committed move of a life, in order: the row before and after
    moves: list[tuple[Life | None, Life]] = field(default_factory=list)
    #: what each task remembered of lives and jobs, in order; None where it died and forgot what it had in mind
    history: list[tuple[int, Life | Job | None]] = field(default_factory=list)
    #: rows of jobs and pools that each transaction wrote, and where its task stood in `control`
    state: list[tuple[int, list[Grant | Job], int]] = field(default_factory=list)

    def append(self, topic: str, partition: int, value: Record | RawRecord) -> int:
        self.now_ms += 1
        self.log[topic, partition].append(Entry(value, self.now_ms))
        return len(self.log[topic, partition]) - 1

    def place(self, key: bytes) -> int:
        return partition_for(key[:PLACE_BYTES], self.partitions)

    def records(self, topic: str) -> list[Any]:
        return [entry.value for partition in range(self.partitions) for entry in self.log[topic, partition]]


class SimTask:
    """One partition's owner."""

    def __init__(self, world: World, partition: int) -> None:
        self.world = world
        self.partition = partition
        self.place = Place("sim", partition)
        self.view = MemoryView()
        self.jobs = CompiledJobs()
        self.breaker = Breaker()
        self.read: dict[str, int] = defaultdict(int)
        self.committed: dict[str, int] = {}
        self.fenced_at_ms = 0
        self.committed_at_ms = world.now_ms
        self.clean = True
        self._undo: list[tuple[str, str, Row | None]] = []
        self._outbox: list[tuple[str, int, Record | RawRecord]] = []
        self._moves: list[tuple[Life | None, Life]] = []
        self._rows: list[Row] = []

    def apply(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Put(Life() as row):
                    stops = self.breaker.seen(self.view, row)
                    self._carry(order)
                    self.apply(stops)
                case Put(Chunk() | Job() as row):
                    if isinstance(row, Job):
                        self.breaker.heard(self.view, row)
                    for each in granting.follow(self.view, row):
                        self._carry(each)
                case _:
                    self._carry(order)

    def _carry(self, order: Order) -> None:
        match order:
            case Put(row):
                before = self.view.get(row.schema, row.key)
                self._undo.append((row.schema, row.key, before))
                if isinstance(row, Life):
                    self._moves.append((before if isinstance(before, Life) else None, row))
                self.view.put(row)
                self._rows.append(row)
            case Delete(table, key):
                self._undo.append((table, key, self.view.get(table, key)))
                self.view.delete(table, key)
            case Emit(record, key, partition):
                at = self.world.place(key) if partition is None else partition
                self._outbox.append((record.schema, at, _as_raw(key, record)))
            case Wake():
                pass

    def next(self, topic: str, limit: int) -> list[tuple[int, Entry]]:
        start = self.read[topic]
        found = self.world.log[topic, self.partition][start : start + limit]
        self.read[topic] = start + len(found)
        return list(enumerate(found, start))

    def commit(self) -> None:
        self.world.moves += self._moves
        for topic, partition, record in self._outbox:
            self.world.append(topic, partition, record)
        self.world.history += [(self.partition, row) for row in self._rows if isinstance(row, Life | Job)]
        self.world.state.append(
            (self.partition, [row for row in self._rows if isinstance(row, Grant | Job)], self.read["control"])
        )
        self._undo, self._outbox, self._moves, self._rows = [], [], [], []
        self.committed = dict(self.read)
        self.committed_at_ms = self.world.now_ms

    def crash(self) -> None:
        for table, key, before in reversed(self._undo):
            if before is None:
                self.view.delete(table, key)
            else:
                self.view.put(before)
        self._undo, self._outbox, self._moves, self._rows = [], [], [], []
        self.read = defaultdict(int, self.committed)
        self.jobs, self.breaker = CompiledJobs(), Breaker()
        self.world.history.append((self.partition, None))
        self.fenced_at_ms, self.clean = self.world.now_ms, False


def _as_raw(key: bytes, record: Record) -> Record | RawRecord:
    """An event that we publish ourselves lies in `raw` like anyone's."""
    if not isinstance(record, RawEvent):
        return record
    nowhere = Origin(generation=0, partition=0, offset=0, at_ms=0)
    return RawRecord(origin=nowhere, key=key, value=codec.encode(record))
