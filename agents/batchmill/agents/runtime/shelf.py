"""What was fetched and not yet handed out: cut into slices, kept per input, given out as its task can take it.

What lives here: the bounded buffer between fetching and agents. What must not: awaiting, or acknowledging anything. At
most one fetch of each input lies here, and at most `HANDED_MAX` slices of it are with its agent; nothing is fetched for
an input whose last fetch is not handed out, or whose task's outbox is full.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from faust.types import TP

from batchmill.agents.runtime.records import LogRecord, Slice, cut
from batchmill.agents.runtime.runtime import Runtime
from batchmill.agents.runtime.task import Task

__all__ = ["Shelf"]

HANDED_MAX = 2  #: slices of one input with its agent at once


class Shelf:
    """One per consumer."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._next: dict[TP, int] = {}  #: where the next fetched slice starts
        self._slices: dict[TP, deque[Slice]] = {}
        self._handed: dict[TP, deque[int]] = {}  #: ends of the slices that are with the agent
        self._pressed: set[int] = set()

    def clear(self, positions: Mapping[TP, int]) -> None:
        """A new round begins at these positions; whatever lies here is of an older one."""
        self._next = dict(positions)
        self._slices = {tp: deque() for tp in positions}
        self._handed = {tp: deque() for tp in positions}

    @property
    def is_empty(self) -> bool:
        return not any(self._slices.values())

    def hungry(self, active: Iterable[TP]) -> set[TP]:
        """Inputs to fetch for."""
        self._note_pressure()
        return {
            tp
            for tp in active
            if tp in self._next and not self._slices[tp] and tp.partition not in self._pressed and self._task(tp)
        }

    def put(self, tp: TP, records: list[LogRecord]) -> None:
        """Cut what was fetched; what the position is already past is dropped."""
        task = self._task(tp)
        if task is None or tp not in self._next:
            self._runtime.config.observer.dropped(tp.topic, tp.partition, len(records))
            return
        records = [record for record in records if record.offset >= self._next[tp]]
        if not records:
            return
        for record in records:
            self._runtime.bodies.put(record)
        tuning = self._runtime.config.tuning
        alone = task.guard.alone(tp.topic)
        self._slices[tp].extend(
            cut(
                records,
                self._next[tp],
                task.round,
                records_max=tuning.slice_records,
                bytes_max=tuning.slice_bytes,
                alone=alone,
            )
        )
        self._next[tp] = records[-1].offset + 1

    def take(self) -> Iterator[Slice]:
        """What can be handed out now, one of each input in turn."""
        found = True
        while found and not self._runtime.draining:
            found = False
            for tp, waiting in list(self._slices.items()):
                if waiting and self._may_hand(tp):
                    slice_ = waiting.popleft()
                    self._handed[tp].append(slice_.end)
                    found = True
                    yield slice_

    def _may_hand(self, tp: TP) -> bool:
        task = self._task(tp)
        if task is None or task.full:
            return False
        handed, position = self._handed[tp], task.positions[tp.topic]
        while handed and handed[0] <= position:
            handed.popleft()
        return len(handed) < HANDED_MAX

    def _task(self, tp: TP) -> Task | None:
        """The owner of the round these positions are of."""
        return next((task for task in self._runtime.tasks() if task.partition == tp.partition), None)

    def _note_pressure(self) -> None:
        for task in self._runtime.tasks():
            if task.full != (task.partition in self._pressed):
                self._pressed ^= {task.partition}
                self._runtime.config.observer.backpressure(task.partition, on=task.full)
