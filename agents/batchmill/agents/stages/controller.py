"""control -> task state: the agent of operators' commands, and the effect that brings dead letters back.

What lives here: handing commands to their decisions. What must not: what a command does (`streams.controlling`,
`streams.dead_lettering`, `streams.hinting`, `streams.importing`, `streams.promoting`, `streams.rerunning`,
`streams.reverting`).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import LogRecord, Slice, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.schemas import codec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, DeadLetter
from batchmill.streams import hinting, importing, promoting, redriving, rerunning, reverting
from batchmill.streams.controlling import control, jobs, read_up_to, refusal, sweep
from batchmill.streams.dead_lettering import RawRecord, of_raw
from batchmill.streams.events import RawLimits
from batchmill.streams.orders import Order
from batchmill.streams.redriving import Waiting, redrive_command, redriven, waiting

__all__ = ["Controller"]

_log = structlog.get_logger(__name__)

STAGE = "controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The agent of `control`."""

    kit: Kit
    limits: RawLimits
    default_job: str | None
    effects: EffectSettings

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            command = self.kit.read(task, record, Control, stage=STAGE)
            if command is None:
                continue
            wrong = refusal(task.view, command)
            if wrong is not None:
                self._refuse(task, record, command, wrong)
                continue
            self.kit.carry(task, _orders(task, command, record, now_ms), src=record.src)
        self.kit.carry(task, read_up_to(slice_.end), src=slice_.records[-1].src)
        task.finish(slice_)

    def _refuse(self, task: Task, record: LogRecord, command: Control, wrong: str) -> None:
        """Said aloud, as of any record that cannot be taken: whoever waits for the command finds the letter."""
        _log.error("command_refused", command=command.command, job=command.job, command_id=command.command_id)
        letter = of_raw(
            self.kit.foreign_record(record),
            stage=STAGE,
            reason=Reason.UNDECODABLE,
            error=f"command {command.command} refused: {wrong}",
            now_ms=clock.wall_ms(),
        )
        self.kit.carry(task, [letter], src=record.src)

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

    async def run_promotions(self, task: Task) -> None:
        """Bring forward the lives of a version that was promoted, end those of one that was rejected, cut by cut."""
        while True:
            under_way = promoting.sweeps(task.view)
            for sweep_ in under_way:
                await task.capacity()
                self._promote(task, sweep_)
                await asyncio.sleep(0)
            if not under_way:
                await task.rest("promote", self.effects.idle_seconds)

    def _promote(self, task: Task, sweep_: promoting.Sweep) -> None:
        """No await in here: a cut and how far it got are one transaction, and each life sees what became of others."""
        lives, after = promoting.next_cut(task.view, sweep_)
        outcomes: list[str] = []
        for life in lives:
            outcome, orders = promoting.come_forward(task.view, sweep_, life, clock.wall_ms())
            outcomes.append(outcome)
            self.kit.carry(task, orders, src=f"effect:promote/{life.request_id}")
        self.kit.carry(task, promoting.carried_on(task.view, after, outcomes), src=f"effect:promote/{sweep_.job}")

    async def run_redrive(self, task: Task) -> None:
        """Read letters that were asked back, and their events, and normalize those again."""
        while True:
            asked = waiting(task.view, self.effects.step_rows)
            if not asked or not await self._redrive(task, asked):
                await task.rest("redrive", self.effects.idle_seconds)

    async def _events(self, task: Task, letters: Iterable[DeadLetter]) -> Mapping[int, LogRecord]:
        """The raw events of letters, by offset. An origin of another generation is no place in this topic."""
        ours = [each.origin.offset for each in letters if each.origin.generation == self.kit.raw_generation]
        return await self.kit.bodies(task, "raw", ours)

    def _event(self, letter: DeadLetter, events: Mapping[int, LogRecord]) -> RawRecord | None:
        ours = letter.origin.generation == self.kit.raw_generation
        found = events.get(letter.origin.offset) if ours else None
        return None if found is None else self.kit.raw_record(found)

    async def _redrive(self, task: Task, asked: Sequence[Waiting]) -> bool:
        await task.capacity()
        try:
            found = await self.kit.bodies(task, "dead-letter", [each.offset for each in asked])
            letters = {offset: told for offset, record in found.items() if (told := _letter(record)) is not None}
            events = await self._events(task, letters.values())
        except LogSlowError:
            return False
        for each in asked:
            letter = letters.get(each.offset)
            orders = redriven(
                task.view,
                each,
                letter,
                None if letter is None else self._event(letter, events),
                jobs=self.kit.jobs,
                now_ms=clock.wall_ms(),
                limits=self.limits,
                default_job=self.default_job,
            )
            self.kit.carry(task, orders, src=f"effect:redrive/{each.offset}")
        return True


def _letter(record: LogRecord) -> DeadLetter | None:
    """None: somebody else's record lies there, which is no letter and takes up nothing."""
    try:
        return codec.decode(record.value or b"", DeadLetter)
    except codec.CodecError:
        return None


def _orders(task: Task, command: Control, record: LogRecord, now_ms: int) -> list[Order]:
    match command.command:
        case redriving.COMMAND:
            return redrive_command(task.view, command, task.partition, now_ms)
        case hinting.COMMAND:
            return hinting.look_command(task.view, command, now_ms)
        case importing.COMMAND:
            return importing.import_command(task.view, command, task.partition)
        case rerunning.COMMAND:
            return rerunning.rerun_command(task.view, command, task.partition, record.timestamp_ms)
        case "revert" | "replay":
            return reverting.change_command(task.view, command, record.offset)
        case _:
            return control(task.view, command, record.timestamp_ms, now_ms)
