"""results, decisions -> validated: the effect that judges what has to be judged beside the record's input.

What lives here: reading answers, inputs and decisions back from the log, in cuts, and handing them to their decisions.
What must not: what is judged, and how (`streams.validating`, `streams.reviewing`). A crash in between is a row that
still waits.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import LogRecord, PoisonEffectError, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.schemas import codec
from batchmill.schemas.records import Decision, Result, WorkItem
from batchmill.schemas.state import Life
from batchmill.streams import reviewing, validating
from batchmill.streams import view as read
from batchmill.streams.isolating import isolate_judgement
from batchmill.streams.scoring import SCORE

__all__ = ["JudgeLoop"]

EFFECT = "judge"
_log = structlog.get_logger(__name__)

R = TypeVar("R", WorkItem, Result, Decision)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeLoop:
    """The effect `judge`."""

    kit: Kit
    refused: Callable[[Result], None]  #: told of each answer that did not count; counts its cost as wasted
    effects: EffectSettings

    async def run(self, task: Task) -> None:
        """Answers first, then decisions, until nothing waits; then rest until woken."""
        while True:
            await task.capacity()
            limit = 1 if task.guard.one_at_a_time else self.effects.step_rows
            answers = await self._answers(task, validating.waiting(task.view, self.kit.jobs, limit))
            decisions = await self._decisions(task, reviewing.waiting(task.view, limit))
            if not (answers or decisions):
                await task.rest(EFFECT, self.effects.idle_seconds)
            else:
                await asyncio.sleep(0)

    async def _answers(self, task: Task, lives: Sequence[Life]) -> bool:
        """Judge a cut of answers; False when there was none, or the log was not to be read just now."""
        if not lives:
            return False
        try:
            async with task.effect(EFFECT, lives[0].request_id):
                await self._judge(task, lives)
        except LogSlowError:
            return False
        except PoisonEffectError:
            self._isolate(task, lives[0].request_id)
        return True

    async def _judge(self, task: Task, lives: Sequence[Life]) -> None:
        results = await self.kit.bodies(task, "results", _known([life.result_offset for life in lives]))
        items = await self.kit.bodies(task, "normalized", [life.input_offset for life in lives])
        for life in lives:
            result = _body(results, life.result_offset, Result)
            item = _body(items, life.input_offset, WorkItem)
            if result is None or item is None:
                _log.error("answer_not_judged", request_id=life.request_id, why="retention removed a body")
            orders = validating.validate_beside(
                task.view, life, result, item, jobs=self.kit.jobs, now_ms=clock.wall_ms()
            )
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/{life.request_id}")
            if result is not None and validating.refuses(orders):
                self.refused(result)
            await asyncio.sleep(0)  # one answer may take its time; a cut must not keep the worker from its group

    async def _decisions(self, task: Task, asked: Sequence[reviewing.Waiting]) -> bool:
        """Carry out a cut of decisions, as `_answers`."""
        if not asked:
            return False
        try:
            async with task.effect(EFFECT, asked[0].row.key):
                await self._review(task, asked)
        except LogSlowError:
            return False
        except PoisonEffectError:
            self._isolate(task, asked[0].row.key)
        return True

    async def _review(self, task: Task, asked: Sequence[reviewing.Waiting]) -> None:
        found = await self.kit.bodies(task, "decisions", [each.offset for each in asked])
        decisions = [_body(found, each.offset, Decision) for each in asked]
        lives = [read.life(task.view, each.request_id) for each in asked]
        inputs = [None if life is None else life.input_offset for life in lives]
        answers = [
            life.result_offset if life is not None and decision is not None and decision.action == SCORE else None
            for life, decision in zip(lives, decisions, strict=True)
        ]
        items = await self.kit.bodies(task, "normalized", _known(inputs))
        results = await self.kit.bodies(task, "results", _known(answers))
        for each, decision, input_at, answer_at in zip(asked, decisions, inputs, answers, strict=True):
            beside = reviewing.Beside(item=_body(items, input_at, WorkItem), result=_body(results, answer_at, Result))
            orders = reviewing.review_beside(
                task.view, each, decision, beside, jobs=self.kit.jobs, now_ms=clock.wall_ms()
            )
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/{each.row.key}")
            await asyncio.sleep(0)

    def _isolate(self, task: Task, row: str) -> None:
        _log.error("judgement_given_up", row=row)
        self.kit.carry(task, isolate_judgement(task.view, row, clock.wall_ms()), src=f"effect:{EFFECT}/{row}")


def _known(offsets: Sequence[int | None]) -> list[int]:
    return [offset for offset in offsets if offset is not None]


def _body(found: Mapping[int, LogRecord], offset: int | None, kind: type[R]) -> R | None:
    record = None if offset is None else found.get(offset)
    return None if record is None else codec.decode(record.value or b"", kind)
