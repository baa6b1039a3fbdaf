"""What all stages share: decode a record of ours, carry out orders, put down what cannot be read.

What lives here: the way from decisions (`streams`) to the task that carries them out (`runtime`). What must not: a
decision. `carry` writes everything a decision ordered between two awaits, so it becomes one Kafka transaction.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

import structlog

from batchmill.agents import clock
from batchmill.agents.foreign import ForeignTopics
from batchmill.agents.runtime import LogReader, LogRecord, Task
from batchmill.agents.runtime.log import READ_SECONDS
from batchmill.agents.stages.headers import headers_for, headers_of_output
from batchmill.schemas import codec
from batchmill.schemas.records import (
    Committed,
    Control,
    Decision,
    Origin,
    RawEvent,
    Record,
    Result,
    Submitted,
    Verdict,
    WorkItem,
)
from batchmill.schemas.state import Chunk, Job, Life
from batchmill.streams import view as read
from batchmill.streams.breaking import Breaker
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.dead_lettering import FOREIGN_GENERATION, RawRecord, of_raw
from batchmill.streams.granting import follow
from batchmill.streams.orders import Delete, Emit, Order, Publish, Put, Wake
from batchmill.streams.ports import TransientError
from batchmill.streams.topology import TOPICS, topic_name

__all__ = ["Kit", "LogSlowError", "upstream_trace"]

_log = structlog.get_logger(__name__)

R = TypeVar("R", WorkItem, Submitted, Result, Verdict, Committed, Decision, Control)


class LogSlowError(TransientError):
    """The log was not read to the end in time: what was not found may be there. Nothing may be concluded from it."""

    def __init__(self) -> None:
        super().__init__("log_slow", hint="the broker did not give what was asked for in time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """The tools of one worker process, handed to each stage."""

    app_id: str
    topics: Mapping[str, str]  #: short name -> what the broker calls it
    raw_generation: int
    log: LogReader
    jobs: CompiledJobs
    carried: Callable[[Record], None]  #: told of each record that was ordered; counts it
    stepped: Callable[[Chunk | None, Chunk], None]  #: told of each chunk's row before and after
    foreign: ForeignTopics | None = None  #: None: nothing is published to topics of others
    #: each task's; a task that is handed over takes its windows along
    breakers: WeakKeyDictionary[Task, Breaker] = field(default_factory=WeakKeyDictionary)

    @staticmethod
    def names(prefix: str) -> dict[str, str]:
        """Every topic's full name by its short one."""
        return {each.name: topic_name(prefix, each.name) for each in TOPICS}

    def carry(self, task: Task, orders: Iterable[Order], *, src: str) -> None:
        """Carry out `orders`; `src` names what caused them (`topic/partition/offset`, or `effect:name/row`)."""
        for order in orders:
            match order:
                case Put(Life() as row):
                    stops = self._breaker(task).seen(task.view, row)
                    task.put(row)
                    if stops:
                        _log.error("breaker_tripped", job=row.job, version=row.version, partition=task.partition)
                        self.carry(task, stops, src=src)
                case Put(Chunk() | Job() as row):
                    if isinstance(row, Job):
                        self._breaker(task).heard(task.view, row)
                    for each in follow(task.view, row):
                        self._put_or_wake(task, each)
                case Put(row):
                    task.put(row)
                case Emit(record, key, partition):
                    self._emit(task, record, key, partition, src)
                case Publish():
                    self._publish(task, order, src)
                case Delete(table, key):
                    task.delete(table, key)
                case Wake(effect):
                    task.wake(effect)

    def _breaker(self, task: Task) -> Breaker:
        found = self.breakers.get(task)
        return found if found is not None else self.breakers.setdefault(task, Breaker())

    def _put_or_wake(self, task: Task, order: Order) -> None:
        """One of the orders that a chunk's or job's row comes with, its reservations settled."""
        match order:
            case Put(row):
                if isinstance(row, Chunk):
                    self.stepped(read.chunk(task.view, row.chunk_id), row)
                task.put(row)
            case Wake(effect):
                task.wake(effect)
            case _:
                raise AssertionError(f"a reservation was settled by {order}")

    def read(self, task: Task, record: LogRecord, kind: type[R], *, stage: str) -> R | None:
        """The record as `kind`; None after putting down one that is not: junk on our own topics stops nobody."""
        try:
            return codec.decode(record.value or b"", kind)
        except codec.CodecError as error:
            foreign = self.foreign_record(record)
            text = f"not a {kind.schema} record: {error.hint}"
            letter = of_raw(foreign, stage=stage, reason=error.reason, error=text, now_ms=clock.wall_ms())
            self.carry(task, [letter], src=record.src)
            return None

    async def bodies(self, task: Task, topic: str, offsets: Iterable[int]) -> Mapping[int, LogRecord]:
        """The records of this task at `offsets`; what is absent was removed by retention.

        A broker that goes away in the middle of a read gives nothing either, so what is not found is asked for once
        more after the broker has answered something; a read that ran into its time limit proves nothing at all.
        """
        name, wanted = self.topics[topic], set(offsets)
        found = dict(await self.log.read(name, task.partition, wanted))
        if missing := wanted - found.keys():
            await self.log.end_offset(name, task.partition)
            started_s = clock.monotonic_s()
            found |= await self.log.read(name, task.partition, missing)
            if missing - found.keys() and clock.monotonic_s() - started_s >= READ_SECONDS:
                raise LogSlowError
        return found

    def raw_record(self, record: LogRecord, *, generation: int | None = None, redrives: int = 0) -> RawRecord:
        """A record of the log as the decisions know a raw event."""
        origin = Origin(
            generation=self.raw_generation if generation is None else generation,
            partition=record.partition,
            offset=record.offset,
            at_ms=record.timestamp_ms,
        )
        return RawRecord(origin=origin, key=record.key, value=record.value, headers=record.headers, redrives=redrives)

    def foreign_record(self, record: LogRecord) -> RawRecord:
        """A record of one of our own topics, for the letter it ends in: it is no raw event."""
        return self.raw_record(record, generation=FOREIGN_GENERATION)

    def gone(self, origin: Origin) -> RawRecord:
        """A raw event whose bytes the log no longer has."""
        return RawRecord(origin=origin, key=None, value=None)

    def compiled(self, task: Task, job: str, version: str) -> CompiledJob | None:
        """One version of a job; None while this task has not heard of it."""
        row = read.job(task.view, job)
        return None if row is None else self.jobs.of(row, version)

    def _emit(self, task: Task, record: Record, key: bytes, partition: int | None, src: str) -> None:
        task.emit(
            self.topics[record.schema],
            key=key,
            value=codec.encode(record),
            src=src,
            partition=partition,
            headers=headers_for(
                record,
                src=src,
                app_id=self.app_id,
                raw_topic=self.topics["raw"],
                upstream=upstream_trace(task, record),
            ),
        )
        self.carried(record)

    def _publish(self, task: Task, order: Publish, src: str) -> None:
        assert self.foreign is not None, f"nothing looks after topics of others, such as {order.topic}"
        task.emit(
            order.topic,
            key=order.key,
            value=order.value,
            src=src,
            partition=self.foreign.partition_of(order.topic, order.key),
            headers=headers_of_output(order, src=src, app_id=self.app_id),
        )


def upstream_trace(task: Task, record: Record) -> str | None:
    """The trace context that the raw event of a request came with."""
    match record:
        case WorkItem():
            return record.traceparent
        case RawEvent() | Control():
            return None
        case _:
            life = None if record.request_id is None else read.life(task.view, record.request_id)
            return None if life is None else life.traceparent
