"""control -> task state: the agent of operators' commands, and the effect that brings dead letters back.

What lives here: handing commands to their decisions. What must not: what a command does (`streams.controlling`,
`streams.dead_lettering`).
"""

from dataclasses import dataclass

from batchmill.agents import clock
from batchmill.agents.runtime import Slice, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit
from batchmill.schemas.records import Control
from batchmill.streams.controlling import control, jobs, read_up_to, sweep
from batchmill.streams.normalizing import RawLimits

__all__ = ["Controller"]

STAGE = "controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The agent of `control`."""

    kit: Kit
    limits: RawLimits
    effects: EffectSettings

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            command = self.kit.read(task, record, Control, stage=STAGE)
            if command is not None:
                orders = control(task.view, command, record.timestamp_ms, now_ms)
                self.kit.carry(task, orders, src=record.src)
        self.kit.carry(task, read_up_to(slice_.end), src=slice_.records[-1].src)
        task.finish(slice_)

    async def run_sweep(self, task: Task) -> None:
        """End the lives of cancelled jobs that have nothing in flight, cut by cut."""
        while True:
            swept = False
            for job in jobs(task.view):
                await task.capacity()
                orders = sweep(task.view, job.job, clock.wall_ms())
                self.kit.carry(task, orders, src=f"effect:sweep/{job.job}")
                swept = swept or bool(orders)
            if not swept:
                await task.rest("sweep", self.effects.idle_seconds)
