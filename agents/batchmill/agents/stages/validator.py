"""results -> validated: the agent that has each answer judged. What is judged, and how, is `streams.validating`.

An answer that has to be judged beside its input is only noted here; effect `judge` (`stages.judge`) comes back to it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from batchmill.agents import clock
from batchmill.agents.runtime import Slice, Task
from batchmill.agents.stages.kit import Kit
from batchmill.schemas.records import Result
from batchmill.streams.validating import refuses, validate

__all__ = ["Validator"]

STAGE = "validator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """The agent of `results`."""

    kit: Kit
    refused: Callable[[Result], None]  #: told of each answer that did not count; counts its cost as wasted

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            result = self.kit.read(task, record, Result, stage=STAGE)
            if result is not None:
                orders = validate(task.view, result, record.offset, jobs=self.kit.jobs, now_ms=now_ms)
                self.kit.carry(task, orders, src=record.src)
                if refuses(orders):
                    self.refused(result)
        task.finish(slice_)
