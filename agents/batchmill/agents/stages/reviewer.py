"""decisions -> validated: the agent that carries out what people decided.

What a decision means is `streams.reviewing`; one that has to be judged beside its input is left to effect `judge`.
"""

from dataclasses import dataclass

from batchmill.agents import clock
from batchmill.agents.runtime import Slice, Task
from batchmill.agents.stages.kit import Kit
from batchmill.schemas.records import Decision
from batchmill.streams.reviewing import review

__all__ = ["Reviewer"]

STAGE = "reviewer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """The agent of `decisions`."""

    kit: Kit

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            decision = self.kit.read(task, record, Decision, stage=STAGE)
            if decision is not None:
                orders = review(task.view, decision, record.offset, jobs=self.kit.jobs, now_ms=now_ms)
                self.kit.carry(task, orders, src=record.src)
        task.finish(slice_)
