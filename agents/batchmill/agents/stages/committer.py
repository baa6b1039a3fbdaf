"""validated -> committed: the agent that meets verdicts, and the effect that writes them downstream.

What lives here: intend, make durable, write, settle, in that order. What must not: which life may be written and what
the sink's answer means (`streams.committing`). A sink that fails holds the writes back; they are asked for again under
the same commit ids.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from batchmill.agents import clock
from batchmill.agents.runtime import FAILPOINTS, PoisonEffectError, Slice, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.agents.stages.traces import Traces
from batchmill.schemas import codec
from batchmill.schemas.records import Verdict
from batchmill.schemas.state import Life
from batchmill.streams import view as read
from batchmill.streams.committing import Intent, intend, meet_verdict, place_of, settle, write_of
from batchmill.streams.isolating import isolate_commit, verdict_gone
from batchmill.streams.ports import Sink, SinkWrite
from batchmill.streams.refusing import backoff_ms

__all__ = ["Committer"]

STAGE = "committer"
EFFECT = "commit"
#: after a pass, unless woken, the next one waits this many times as long as the pass took: a paused job may have any
#: number of verdicts, all looked at in every pass and left alone
PASSES_APART = 10
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committer:
    """The agent of `validated`."""

    kit: Kit
    sinks: Mapping[str, Sink]
    effects: EffectSettings
    traces: Traces

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            verdict = self.kit.read(task, record, Verdict, stage=STAGE)
            if verdict is not None:
                orders = meet_verdict(task.view, verdict, record.offset, now_ms)
                self.kit.carry(task, orders, src=record.src)
        task.finish(slice_)

    async def run(self, task: Task) -> None:
        """Write what is validated, cut by cut, until nothing waits; then rest until woken."""
        after: str | None = None
        failures = 0
        began_s = clock.monotonic_s()
        while True:
            await task.capacity()
            limit = 1 if task.guard.one_at_a_time else self.effects.commit_rows
            intent = intend(task.view, now_ms=clock.wall_ms(), limit=limit, after=after)
            self.kit.carry(task, intent.orders, src=f"effect:{EFFECT}")
            failures = failures + 1 if not await self._write(task, intent) else 0
            after = intent.after
            if failures:
                await task.rest(EFFECT, backoff_ms(failures - 1) / 1_000)
            elif after is None:
                took_s = clock.monotonic_s() - began_s
                await task.rest(EFFECT, max(self.effects.idle_seconds, PASSES_APART * took_s))
                began_s = clock.monotonic_s()
            else:
                await asyncio.sleep(0)

    async def _write(self, task: Task, intent: Intent) -> bool:
        """Ask the sinks for the intended writes and settle them; False when a sink could not be reached."""
        if not intent.lives:
            return True
        try:
            async with task.effect(EFFECT, intent.lives[0].request_id):
                await task.durable()
                return await self._ask_sinks(task, await self._writes(task, intent.lives))
        except LogSlowError:
            return False
        except PoisonEffectError:
            orders = isolate_commit(task.view, intent.lives[0].request_id, clock.wall_ms())
            self.kit.carry(task, orders, src=f"effect:{EFFECT}")
            return True

    async def _writes(self, task: Task, lives: Sequence[Life]) -> dict[str, list[SinkWrite]]:
        """The writes of `lives`, by sink; a life whose verdict retention removed is put down."""
        offsets = [life.verdict_offset for life in lives if life.verdict_offset is not None]
        bodies = await self.kit.bodies(task, "validated", offsets)
        writes: dict[str, list[SinkWrite]] = defaultdict(list)
        for life in lives:
            found = None if life.verdict_offset is None else bodies.get(life.verdict_offset)
            if found is None:
                _log.error("verdict_gone", request_id=life.request_id, offset=life.verdict_offset)
                orders = verdict_gone(life, clock.wall_ms()) if read.life(task.view, life.request_id) == life else []
                self.kit.carry(task, orders, src=f"effect:{EFFECT}/{life.request_id}")
                continue
            place = place_of(task.view, self.kit.jobs, life)
            writes[place.sink].append(write_of(life, codec.decode(found.value or b"", Verdict), place))
        return writes

    async def _ask_sinks(self, task: Task, writes: Mapping[str, Sequence[SinkWrite]]) -> bool:
        reached = True
        for name, asked in writes.items():
            await FAILPOINTS.reach("sink.before")
            try:
                with self.traces.commit(name, len(asked)):
                    results = await self.sinks[name].apply(asked)
            except Exception as error:  # noqa: BLE001 - the port says: whatever it raises, nobody knows; ask again
                _log.warning("sink_unreachable", sink=name, writes=len(asked), error=type(error).__name__)
                reached = False
                continue
            await FAILPOINTS.reach("sink.after")
            for write, result in zip(asked, results, strict=True):
                orders = settle(task.view, write, result, sink=name, now_ms=clock.wall_ms())
                self.kit.carry(task, orders, src=f"effect:{EFFECT}/{write.commit_id}")
        return reached
