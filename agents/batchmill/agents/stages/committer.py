"""validated -> committed: the agent that meets verdicts, and the effect that writes them downstream.

What lives here: intend, make durable, write, settle, in that order; and which sinks are left alone for now because they
failed. What must not: which life may be written and what the sink's answer means (`streams.committing`).

What fails as one is a *line*: a sink, or a topic of Kafka. A line that fails holds its writes back, and they are asked
for again under the same commit ids, later and later; no other line waits for it: from its first failure until it takes
a write again it is tried beside the others.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from batchmill.agents import clock
from batchmill.agents.foreign import TopicUnusableError
from batchmill.agents.runtime import FAILPOINTS, NotOwnedError, PoisonEffectError, Slice, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.agents.stages.traces import Traces
from batchmill.schemas import codec
from batchmill.schemas.jobs import PlaceSpec
from batchmill.schemas.records import Committed, Verdict
from batchmill.schemas.state import Life
from batchmill.streams import view as read
from batchmill.streams.committing import (
    Intent,
    Terms,
    Version,
    inside_write,
    intend,
    line_of,
    meet_verdict,
    note_down,
    note_forgotten,
    note_up,
    place_of,
    settle,
    write_of,
)
from batchmill.streams.isolating import isolate_commit, verdict_gone
from batchmill.streams.limiting import Bucket, Share, counted
from batchmill.streams.orders import Emit, Order
from batchmill.streams.ports import ProviderError, Sink, SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.publishing import publication
from batchmill.streams.refusing import backoff_ms
from batchmill.streams.scoring import decision_of
from batchmill.streams.sinks import SINKS

__all__ = ["Committer"]

STAGE = "committer"
EFFECT = "commit"
#: after a pass, unless woken, the next one waits this many times as long as the pass took: a paused job may have any
#: number of verdicts, all looked at in every pass and left alone
PASSES_APART = 10
#: between two passes at least, however soon something is due
_REST_SECONDS_MIN = 0.05
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committer:
    """The agent of `validated`."""

    kit: Kit
    sinks: Mapping[str, Sink]
    effects: EffectSettings
    traces: Traces
    tasks_total: int
    #: by task: how many lives its last pass left alone, by sink and cause
    waiting: dict[int, Mapping[tuple[str, str], int]] = field(default_factory=dict)

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            verdict = self.kit.read(task, record, Verdict, stage=STAGE)
            if verdict is not None:
                orders = meet_verdict(task.view, verdict, record.offset, now_ms)
                self.kit.carry(task, orders, src=record.src)
        task.finish(slice_)

    async def run(self, task: Task) -> None:
        """Write what is validated, pass by pass; rest when nothing waits, or nothing may be written."""
        lines = _Lines()
        try:
            while True:
                began_s = clock.monotonic_s()
                due_s = await self._pass(task, lines)
                took_s = clock.monotonic_s() - began_s
                idle_s = max(self.effects.idle_seconds, PASSES_APART * took_s)
                await task.rest(EFFECT, min(idle_s, max(_REST_SECONDS_MIN, due_s)))
        finally:
            lines.cancel()
            self.waiting.pop(task.partition, None)

    async def _pass(self, task: Task, lines: "_Lines") -> float:
        """Look at everything that is validated once, cut by cut; in how many seconds more may be done."""
        began_s = clock.monotonic_s()
        after: str | None = None
        waiting: Counter[tuple[str, str]] = Counter()
        dues_s: list[float] = []
        while True:
            await task.capacity()
            lines.raise_what_failed()
            intent = self._intend(task, lines, after)
            waiting.update(intent.waiting)
            dues_s += _dues(intent)
            await self._write(task, lines, intent)
            after = intent.after
            if after is None:
                self.waiting[task.partition] = dict(waiting)
                lines.forget_unneeded(began_s)
                self.kit.carry(task, note_forgotten(task.view, lines.failed()), src=f"effect:{EFFECT}")
                return min([*dues_s, *lines.dues_s()], default=float("inf"))
            await asyncio.sleep(0)

    def _intend(self, task: Task, lines: "_Lines", after: str | None) -> Intent:
        terms = Terms(
            sinks=SINKS,
            share=Share(task.partition, self.tasks_total),
            down=lines.closed(),
            trial=lines.failed(),
            now_s=clock.monotonic_s(),
            buckets=lines.buckets,
        )
        limit = 1 if task.guard.one_at_a_time else self.effects.commit_rows
        intent = intend(task.view, self.kit.jobs, terms, now_ms=clock.wall_ms(), limit=limit, after=after)
        lines.buckets = dict(intent.buckets)
        self.kit.carry(task, intent.orders, src=f"effect:{EFFECT}")
        return intent

    async def _write(self, task: Task, lines: "_Lines", intent: Intent) -> None:
        """Have every line write its part; wait for those that are well."""
        parts: dict[str, list[Life]] = defaultdict(list)
        for life in (*intent.lives, *intent.inside):
            parts[line_of(place_of(task.view, self.kit.jobs, life))].append(life)
        well = [lines.begin(task, line, self._line(task, lines, line, lives)) for line, lives in parts.items()]
        await asyncio.gather(*(each for each in well if each is not None))

    async def _line(self, task: Task, lines: "_Lines", line: str, lives: Sequence[Life]) -> None:
        """Write the lives of one line; what it failed with, if it did, is remembered by it."""
        try:
            async with task.effect(EFFECT, lives[0].request_id):
                await task.durable()
                why = await self._attempt(task, lives)
        except LogSlowError as error:
            why = type(error).__name__
        except PoisonEffectError:
            orders = isolate_commit(task.view, lives[0].request_id, clock.wall_ms())
            self.kit.carry(task, orders, src=f"effect:{EFFECT}")
            return
        except NotOwnedError:
            return  # the next owner asks again
        if why is None:
            lines.is_up(line)
            self.kit.carry(task, note_up(task.view, line), src=f"effect:{EFFECT}/{line}")
        else:
            lines.is_down(line)
            _log.warning("sink_unreachable", line=line, writes=len(lives), error=why, tries=lines.failures[line])
            self.kit.carry(task, note_down(task.view, line, why, clock.wall_ms()), src=f"effect:{EFFECT}/{line}")

    async def _attempt(self, task: Task, lives: Sequence[Life]) -> str | None:
        """Read the bodies and write them; why it failed, or None."""
        name = place_of(task.view, self.kit.jobs, lives[0]).sink
        if name in SINKS and SINKS[name].inside:
            return await self._write_inside(task, lives)
        if name not in self.sinks:
            return f"no sink {name} is configured here"
        writes = [write_of(life, verdict, place) for life, verdict, place in await self._bodies(task, lives)]
        return await self._ask(task, name, writes) if writes else None

    async def _bodies(self, task: Task, lives: Sequence[Life]) -> list[tuple[Life, Verdict, PlaceSpec]]:
        """Each life with its verdict and place; a life whose verdict retention removed is put down."""
        offsets = [life.verdict_offset for life in lives if life.verdict_offset is not None]
        bodies = await self.kit.bodies(task, "validated", offsets)
        told: list[tuple[Life, Verdict, PlaceSpec]] = []
        for life in lives:
            found = None if life.verdict_offset is None else bodies.get(life.verdict_offset)
            if found is None:
                _log.error("verdict_gone", request_id=life.request_id, offset=life.verdict_offset)
                orders = verdict_gone(life, clock.wall_ms()) if read.life(task.view, life.request_id) == life else []
                self.kit.carry(task, orders, src=f"effect:{EFFECT}/{life.request_id}")
                continue
            verdict = codec.decode(found.value or b"", Verdict)
            told.append((life, verdict, place_of(task.view, self.kit.jobs, life)))
        return told

    async def _ask(self, task: Task, name: str, writes: Sequence[SinkWrite]) -> str | None:
        await FAILPOINTS.reach("sink.before")
        try:
            with self.traces.commit(name, len(writes)):
                results = await self.sinks[name].apply(writes)
        except ProviderError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the port says: whatever it raises, nobody knows; ask again
            return type(error).__name__
        await FAILPOINTS.reach("sink.after")
        self._settle(task, name, list(zip(writes, results, strict=True)))
        return None

    def _settle(self, task: Task, name: str, answers: Sequence[tuple[SinkWrite, SinkResult]]) -> None:
        """No await in here: the answers of a cut and what they count for are one transaction."""
        done: list[tuple[Committed, bool]] = []
        for write, result in answers:
            job = self.kit.compiled(task, write.job, write.version)
            fires = job is not None and bool(job.then)
            orders = settle(task.view, write, result, sink=name, now_ms=clock.wall_ms(), fires=fires)
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/{write.commit_id}")
            done += [(record, result.changed) for record in _committed(orders)]
        self.kit.carry(task, counted(task.view, done), src=f"effect:{EFFECT}")

    # -- inside --------------------------------------------------------------------------------------------------------

    async def _write_inside(self, task: Task, lives: Sequence[Life]) -> str | None:
        bodies = await self._bodies(task, lives)
        topics = {place.table for _, _, place in bodies if place.sink == "kafka"}
        ours = topics & set(self.kit.topics.values())
        try:
            for topic in topics - ours:
                assert self.kit.foreign is not None, "the kafka sink has nobody to look after its topics"
                await self.kit.foreign.look(topic)
        except TopicUnusableError as error:
            return f"topic: {error}"
        except Exception as error:  # noqa: BLE001 - the broker did not tell; it is asked again
            return type(error).__name__
        for life, verdict, place in bodies:
            self._put_inside(task, life, verdict, place, is_ours=place.table in ours)
        return None

    def _put_inside(self, task: Task, life: Life, verdict: Verdict, place: PlaceSpec, *, is_ours: bool) -> None:
        """Intent, output and settlement of one life; no await in here."""
        found = inside_write(task.view, life, verdict, place, clock.wall_ms())
        if found is None:
            return
        write, intended = found
        src = f"effect:{EFFECT}/{write.commit_id}"
        self.kit.carry(task, intended, src=src)
        refused = f"{place.table} is a topic of batchmill's own" if is_ours else None
        orders: list[Order] = []
        if place.sink == "decisions":
            decision = decision_of(life, verdict, clock.wall_ms())
            orders = [] if decision is None else [Emit(decision, key=decision.request_id.encode())]
            refused = "its source names no answer that was to be scored" if decision is None else None
        elif place.sink == "kafka" and not is_ours:
            output = publication(write)
            if task.fits(output.key, output.value, output.headers):
                orders = [output]
            else:
                refused = "with its headers it is larger than a record may be (runtime.record_bytes_max)"
        self.kit.carry(task, orders, src=src)
        outcome = SinkOutcome.APPLIED if refused is None else SinkOutcome.REFUSED
        result = SinkResult(commit_id=write.commit_id, outcome=outcome, error=refused)
        self._settle(task, place.sink, [(write, result)])


def _committed(orders: Sequence[Order]) -> list[Committed]:
    return [order.record for order in orders if isinstance(order, Emit) and isinstance(order.record, Committed)]


def _dues(intent: Intent) -> list[float]:
    dues_s = [] if intent.due_s is None else [intent.due_s]
    return dues_s if intent.due_ms is None else [*dues_s, (intent.due_ms - clock.wall_ms()) / 1_000]


class _Lines:
    """What one task knows of its lines: which are being written, which failed, and when they are tried again."""

    def __init__(self) -> None:
        self.buckets: dict[Version, Bucket] = {}
        self.failures: Counter[str] = Counter()
        self._until_s: dict[str, float] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}

    def closed(self) -> frozenset[str]:
        """Lines that take nothing now."""
        now_s = clock.monotonic_s()
        return frozenset(self._busy) | {line for line, until_s in self._until_s.items() if until_s > now_s}

    def failed(self) -> frozenset[str]:
        """Lines that did not take what they were last asked for."""
        return frozenset(line for line, failures in self.failures.items() if failures)

    def dues_s(self) -> list[float]:
        """In how many seconds each failed line is tried again."""
        now_s = clock.monotonic_s()
        return [until_s - now_s for line, until_s in self._until_s.items() if line not in self._busy]

    def begin(self, task: Task, line: str, writing: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Write; the writing to wait for, or None for a line that failed and is tried beside the others."""
        assert line not in self._busy, f"line {line} has a cut under way"
        busy = asyncio.ensure_future(writing)
        self._busy[line] = busy
        is_well = not self.failures[line]
        busy.add_done_callback(lambda _: self._ended(line) if is_well or busy.cancelled() else self._tried(task, line))
        return busy if is_well else None

    def is_up(self, line: str) -> None:
        self.failures[line] = 0
        self._until_s.pop(line, None)

    def is_down(self, line: str) -> None:
        self.failures[line] += 1
        self._until_s[line] = clock.monotonic_s() + backoff_ms(self.failures[line] - 1) / 1_000

    def forget_unneeded(self, began_s: float) -> None:
        """Lines whose time had come before a pass began that then had nothing for them: they are not tried for ever."""
        for line, until_s in tuple(self._until_s.items()):
            if until_s <= began_s and line not in self._busy:
                self.is_up(line)

    def raise_what_failed(self) -> None:
        """A writing that nobody waited for and that raised stops the effect, as any other would."""
        for line, busy in tuple(self._busy.items()):
            if busy.done():
                self._ended(line)
                busy.result()

    def cancel(self) -> None:
        for busy in self._busy.values():
            busy.cancel()

    def _ended(self, line: str) -> None:
        self._busy.pop(line, None)

    def _tried(self, task: Task, line: str) -> None:
        """One that raised stays, for the effect to find it."""
        if self._busy[line].exception() is None:
            self._ended(line)
        task.wake(EFFECT)
