"""raw -> normalized, once more, and validated -> committed: the effect of replays.

What lives here: bringing this task's part of a run out of the payload store, reading its raw events and looking up what
they need, in cuts, at the run's pace. What must not: which events are read, or what becomes of one
(`streams.rerunning`). A part that is not in the store is looked for again, a bounded number of times: then the run has
failed, and its events stay as they are.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from batchmill.agents import clock
from batchmill.agents.payloads import FilePayloadStore, PayloadDamagedError, PayloadError
from batchmill.agents.runtime import LogRecord, PoisonEffectError, Task
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.agents.tools.asking import ask_all
from batchmill.agents.tools.sources import SourceAwayError, ToolSources
from batchmill.streams.assembling import again, offsets_again
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.limiting import Bucket, allowance, seconds_to_token
from batchmill.streams.orders import Order
from batchmill.streams.refusing import backoff_ms
from batchmill.streams.rereading import Lines, Reading, lacking, rerun_cut, write_cut
from batchmill.streams.rerunning import (
    CUT_LINES,
    LINE_BYTES_MAX,
    Kind,
    Line,
    Next,
    Progress,
    RunState,
    current,
    ended,
    next_of,
    put_off,
    read_line,
    under_way,
)
from batchmill.streams.retrieving import IndexAwaitedError
from batchmill.streams.tooling import Found

__all__ = ["Rerunner"]

EFFECT: Final = "rerun"
#: times a look-up fails while others are answered before it counts as refused
_LOOKUP_TRIES_MAX: Final = 5
#: between two looks for a part that is not there
_LOOK_AGAIN_SECONDS: Final = 10.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Pace:
    """What this process knows of a run beside its row."""

    verified: bool = False  #: the part matches its name
    bucket: Bucket | None = None
    not_before_s: float = 0.0
    held: dict[int, Found] = field(default_factory=dict)  #: what was looked up for the next lines, by offset
    failures: int = 0  #: in a row, of looking things up for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerunner:
    """The effect of replays."""

    kit: Kit
    payloads: FilePayloadStore
    reading: Reading
    sources: ToolSources
    effects: EffectSettings

    async def run(self, task: Task) -> None:
        """A cut of each run in turn, until none can go on; then rest until woken, or until the next is due."""
        paces: dict[str, _Pace] = {}
        while True:
            went_on = False
            runs = under_way(task.view)
            paces = {each.run: paces.get(each.run) or _Pace() for each in runs}
            for progress in runs:
                went_on = await self._step(task, progress, paces[progress.run]) or went_on
            if not went_on:
                due_s = min((pace.not_before_s for pace in paces.values()), default=0.0) - clock.monotonic_s()
                await task.rest(
                    EFFECT, min(self.effects.idle_seconds, due_s) if due_s > 0 else self.effects.idle_seconds
                )

    async def _step(self, task: Task, progress: Progress, pace: _Pace) -> bool:
        """Whether the run went on."""
        todo, orders = next_of(task.view, progress, self.kit.jobs)
        if orders:
            self._carry(task, progress, orders)
        if todo is not Next.READ:
            return todo is Next.END
        room = self._room(progress, pace) if clock.monotonic_s() >= pace.not_before_s else 0
        if not room:
            return False
        await task.capacity()
        try:
            async with task.effect(EFFECT, progress.run):
                return await self._cut(task, progress, pace, room)
        except PoisonEffectError:
            _log.error("rerun_given_up", run=progress.run, done=progress.done)
            self._end(
                task, progress, ended(progress, RunState.FAILED, "the worker died three times of its next events")
            )
        except (PayloadError, OSError) as error:
            _log.error("rerun_unreadable", run=progress.run, tries=progress.tries, error=str(error))
            why = f"its list {progress.part.uri} is not in the payload store, or is damaged"
            self._put_off(task, progress, pace, why)
        except IndexAwaitedError:
            self._put_off(task, progress, pace, "its index could not be loaded")
        except LogSlowError:
            return False
        return True

    def _room(self, progress: Progress, pace: _Pace) -> int:
        """Lines that the run's rate allows now."""
        rate = progress.part.per_second
        if rate is None:
            return CUT_LINES
        now_s = clock.monotonic_s()
        pace.bucket = allowance(pace.bucket, now_s, rate)
        if pace.bucket.tokens < 1:
            pace.not_before_s = now_s + seconds_to_token(pace.bucket, rate)
        return min(CUT_LINES, int(pace.bucket.tokens))

    async def _cut(self, task: Task, progress: Progress, pace: _Pace, room: int) -> bool:
        texts, size_bytes = await self._texts(progress, pace, room)
        if progress.kind is Kind.WRITE:
            requests = [text.decode("ascii", "replace") for text in texts]
            orders: Sequence[Order] = write_cut(
                task.view, progress, requests, size_bytes=size_bytes, now_ms=clock.wall_ms()
            )
        else:
            found = await self._asked(task, progress, pace, [read_line(text) for text in texts], size_bytes)
            if found is None:
                return False
            orders = found
        if current(task.view, progress.run) != progress:
            return True  # a person has spoken meanwhile: look anew
        self._carry(task, progress, orders)
        if pace.bucket is not None:
            pace.bucket = Bucket(pace.bucket.tokens - len(texts), pace.bucket.at_s)
        return True

    async def _asked(
        self, task: Task, progress: Progress, pace: _Pace, lines: Sequence[Line | None], size_bytes: int
    ) -> Sequence[Order] | None:
        """What a cut comes to, of the rows as they are when its events have been read and what they need was looked up;
        None while a source is away.
        """
        offsets = [line.offset for line in lines if line is not None]
        events = await self.kit.bodies(task, "raw", offsets)
        found = await self._wholes(task, progress, [(line, self._event(line, events)) for line in lines])
        if not await self._look_up(task, progress, pace, found):
            return None
        orders = rerun_cut(
            task.view,
            progress,
            found,
            size_bytes=size_bytes,
            jobs=self.kit.jobs,
            reading=self.reading,
            now_ms=clock.wall_ms(),
            held=pace.held,
        )
        pace.held, pace.failures = {}, 0
        return orders

    async def _wholes(self, task: Task, progress: Progress, lines: Lines) -> Lines:
        """Of a job that joins parts, a whole's last event stands for the whole: it is made anew of all of them."""
        job = self.kit.compiled(task, progress.job, progress.version)
        if job is None or job.spec.join is None:
            return lines
        made: list[tuple[Line | None, RawRecord | None]] = []
        for line, raw in lines:
            if raw is None:
                made.append((line, None))
                continue
            parts = await self.kit.bodies(task, "raw", offsets_again(task.view, raw, progress.job))
            found = {offset: self.kit.raw_record(record) for offset, record in parts.items()}
            made.append((line, again(task.view, raw, progress.job, found)))
        return made

    async def _look_up(self, task: Task, progress: Progress, pace: _Pace, lines: Lines) -> bool:
        """Ask what the version wants to know of these events beside what is kept; whether nothing is lacking by now.
        A question that fails again and again, while others are answered, is taken to be refused.
        """
        missing = lacking(task.view, progress, lines, pace.held, jobs=self.kit.jobs, reading=self.reading)
        if not missing:
            return True
        held = [pace.held.get(offset, Found()) for offset in missing]
        told = await asyncio.gather(
            *(ask_all(self.sources, each, known) for each, known in zip(missing.values(), held, strict=True))
        )
        tried = pace.failures >= _LOOKUP_TRIES_MAX and any(not findings.away for findings in told)
        for (offset, questions), findings in zip(missing.items(), told, strict=True):
            known = findings.found
            for question in questions:
                error = findings.away.get(question.key)
                if tried and error is not None and not isinstance(error, SourceAwayError):
                    known = known.refused(question, str(error))
            pace.held[offset] = known
        if not lacking(task.view, progress, lines, pace.held, jobs=self.kit.jobs, reading=self.reading):
            return True
        wait_s = backoff_ms(pace.failures) / 1_000
        pace.failures += 1
        pace.not_before_s = clock.monotonic_s() + wait_s
        _log.warning("rerun_lookups_away", run=progress.run, records=len(missing), again_in_s=wait_s)
        return False

    def _put_off(self, task: Task, progress: Progress, pace: _Pace, why: str) -> None:
        self._end(task, progress, put_off(progress, why))
        pace.not_before_s = clock.monotonic_s() + _LOOK_AGAIN_SECONDS

    async def _texts(self, progress: Progress, pace: _Pace, room: int) -> tuple[Sequence[bytes], int]:
        """The next lines of the part, and their bytes. The part was read through once: it is what it was named for."""
        part = progress.part
        if not pace.verified:
            await self.payloads.verify(part.uri)
            pace.verified = True
        wanted = min(room, part.lines - progress.done)
        read = await self.payloads.read_range(part.uri, progress.at_byte, wanted * LINE_BYTES_MAX)
        texts = read.split(b"\n")[:-1][:wanted]
        if not texts:
            raise PayloadDamagedError(f"{part.uri} has fewer lines than the {part.lines} it was told to have")
        return texts, sum(len(text) + 1 for text in texts)

    def _event(self, line: Line | None, events: Mapping[int, LogRecord]) -> RawRecord | None:
        found = None if line is None else events.get(line.offset)
        return None if found is None else self.kit.raw_record(found)

    def _end(self, task: Task, progress: Progress, orders: Sequence[Order]) -> None:
        if current(task.view, progress.run) == progress:
            self._carry(task, progress, orders)

    def _carry(self, task: Task, progress: Progress, orders: Sequence[Order]) -> None:
        self.kit.carry(task, orders, src=f"effect:{EFFECT}/{progress.run}")
