"""committed -> taken back, or put back: the effect that carries out `revert` and `replay` commands.

What lives here: note what is asked for, make it durable, ask the sinks, settle, cut by cut. What must not: which
commits a command is about and what a sink's answer means (`streams.reverting`). A sink that fails is asked again,
later and later; commands of the same job wait behind it, since their order counts, those of other jobs do not.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import FAILPOINTS, PoisonEffectError, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit
from batchmill.agents.stages.traces import Traces
from batchmill.streams.ports import RevertibleSink, Sink, SinkChange, SinkOutcome, SinkResult
from batchmill.streams.refusing import backoff_ms
from batchmill.streams.reverting import Asked, Progress, change_of, current, next_cut, noted, settle_change, under_way
from batchmill.streams.sinks import SINKS

__all__ = ["Changer"]

EFFECT = "change"
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Wait:
    """How long a command stays aside after a sink could not be reached."""

    failures: int = 0
    until_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changer:
    """The effect of reverts and replays."""

    kit: Kit
    sinks: Mapping[str, Sink]
    effects: EffectSettings
    traces: Traces

    async def run(self, task: Task) -> None:
        """Step by step, one of each command in turn, until none can go on; then rest until woken."""
        waits: dict[str, _Wait] = {}
        while True:
            went_on = False
            commands = under_way(task.view)
            waits = {each.command_id: waits.get(each.command_id, _Wait()) for each in commands}
            for progress in commands:
                wait = waits[progress.command_id]
                if wait.until_s <= clock.monotonic_s():
                    await task.capacity()
                    went_on = await self._step(task, progress, wait) or went_on
            if not went_on:
                await task.rest(EFFECT, self.effects.idle_seconds)

    async def _step(self, task: Task, progress: Progress, wait: "_Wait") -> bool:
        """Whether the command went on; not while a write is in doubt, nor when a sink could not be reached."""
        if not progress.asking:
            return self._choose(task, progress)
        if await self._change(task, progress):
            wait.failures = 0
            return True
        wait.failures += 1
        wait.until_s = clock.monotonic_s() + backoff_ms(wait.failures - 1) / 1_000
        return False

    def _choose(self, task: Task, progress: Progress) -> bool:
        limit = 1 if task.guard.one_at_a_time else self.effects.commit_rows
        orders = next_cut(task.view, self.kit.jobs, progress, sinks=SINKS, limit=limit)
        self.kit.carry(task, orders, src=f"effect:{EFFECT}/{progress.command_id}")
        return bool(orders)

    async def _change(self, task: Task, progress: Progress) -> bool:
        """Ask for what is noted and settle it; False when a sink could not be reached."""
        try:
            async with task.effect(EFFECT, progress.asking[0].request_id):
                await task.durable()
                parts: dict[str, list[tuple[Asked, SinkChange]]] = defaultdict(list)
                for asked in progress.asking[:1] if task.guard.one_at_a_time else progress.asking:
                    sink, change = change_of(task.view, self.kit.jobs, progress, asked)
                    parts[sink].append((asked, change))
                reached = [await self._ask(task, progress, sink, part) for sink, part in parts.items()]
                return all(reached)
        except PoisonEffectError:
            asked = progress.asking[0]
            _log.error("change_given_up", command_id=progress.command_id, request_id=asked.request_id)
            why = "the worker died three times of it"
            refused = SinkResult(commit_id=asked.commit_id, outcome=SinkOutcome.REFUSED, error=why)
            self._settle(task, progress, "the sink", [(asked, refused)])
            return True

    async def _ask(self, task: Task, progress: Progress, name: str, part: Sequence[tuple[Asked, SinkChange]]) -> bool:
        if not hasattr(self.sinks.get(name), "change"):  # it keeps history, and is not set here
            _log.warning("sink_unreachable", sink=name, changes=len(part), error="it is not configured here")
            return False
        sink = cast("RevertibleSink", self.sinks[name])  # `next_cut` asks for nothing of any other
        await FAILPOINTS.reach("change.before")
        try:
            with self.traces.commit(name, len(part)):
                results = await sink.change([change for _, change in part])
        except Exception as error:  # noqa: BLE001 - the port says: whatever it raises, nobody knows; ask again
            _log.warning("sink_unreachable", sink=name, changes=len(part), error=type(error).__name__)
            return False
        await FAILPOINTS.reach("change.after")
        answers = [(asked, result) for (asked, _), result in zip(part, results, strict=True)]
        self._settle(task, progress, name, answers)
        return True

    def _settle(self, task: Task, progress: Progress, name: str, answers: Sequence[tuple[Asked, SinkResult]]) -> None:
        """No await in here: the changes of a cut and the row that says so are one transaction."""
        now = current(task.view, progress)
        src = f"effect:{EFFECT}/{progress.command_id}"
        for asked, result in answers:
            now, orders = settle_change(task.view, now, asked, result, sink=name, now_ms=clock.wall_ms())
            self.kit.carry(task, orders, src=src)
        self.kit.carry(task, [noted(now)], src=src)
