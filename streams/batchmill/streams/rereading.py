"""A cut of a run: what becomes of the next raw events of a task's list, or of the next requests that are written.

What lives here: taking lines in order, up to the task's part of the run's limit. What must not: how far a run is, and
whether it may go on (`rerunning`). What was looked up for an event before is found again; what the version wants beside
that is asked first (`lacking`), and kept with the cut. What the version does not take is counted and no letter: the
event is accounted for already; so is one that waits to be taken up for the first time, which stays as it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from batchmill.schemas.records import Origin, WorkItem
from batchmill.schemas.state import Arrival, Life, Source
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import PriceList
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import RawLimits, decoded, header
from batchmill.streams.facts import BroughtForward
from batchmill.streams.items import Standing, item_of
from batchmill.streams.looking_up import Lookups, WaitsError
from batchmill.streams.normalizing import BENCHMARK_HEADER
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.quoting import cost_of
from batchmill.streams.rerunning import Fate, Line, Progress, RunState, compiled_of, ended, run_id_of
from batchmill.streams.settling import moved
from batchmill.streams.tooling import Found, Question
from batchmill.streams.unusable import Unusable
from batchmill.streams.view import StateView

__all__ = ["Lines", "Reading", "lacking", "rerun_cut", "write_cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How events are taken in, and what their questions cost: what the process was set to."""

    limits: RawLimits
    default_job: str | None
    prices: PriceList  #: for jobs that were applied without


Lines = Sequence[tuple[Line | None, RawRecord | None]]
NOTHING_FOUND: Final[Mapping[int, Found]] = {}


def lacking(
    view: StateView,
    progress: Progress,
    lines: Lines,
    held: Mapping[int, Found],
    *,
    jobs: CompiledJobs,
    reading: Reading,
) -> dict[int, tuple[Question, ...]]:
    """What is to be looked up before these lines can be taken, by offset; raises IndexAwaitedError."""
    cut = _Cut(view, progress, jobs, reading, held)
    found: dict[int, tuple[Question, ...]] = {}
    for line, raw in lines:
        try:
            cut.take(line, raw)
        except WaitsError:
            assert raw is not None, "an event that is gone waits for nothing"
            found[raw.origin.offset] = cut.lacking
    return found


def rerun_cut(
    view: StateView,
    progress: Progress,
    lines: Lines,
    *,
    size_bytes: int,
    jobs: CompiledJobs,
    reading: Reading,
    now_ms: int,
    held: Mapping[int, Found] = NOTHING_FOUND,
) -> list[Order]:
    """Take the next lines of the part with their events; None for a line that cannot be read, and for an event that
    retention has removed. Stops in front of the first that might exceed the task's part of the limit. `held` is what
    was looked up for them, by offset; none of them may lack anything.
    """
    cut = _Cut(view, progress, jobs, reading, held)
    orders: list[Order] = []
    fates: Counter[str] = Counter(progress.counts)
    most = progress.most_nanos
    for taken, (line, raw) in enumerate(lines):
        fate, item = cut.take(line, raw)
        cost = cut.cost(item, fate)
        limit = progress.part.max_nanos
        if limit is not None and (cost is None or most + cost > limit):
            told = replace(progress, done=progress.done + taken, most_nanos=most, counts=dict(fates), tries=0)
            note = "the next question might cost more than is left" if cost is not None else "a question has no price"
            return [*orders, *ended(told, RunState.OVER_COST, note)]
        most += cost or 0
        fates[fate] += 1
        if item is not None:
            orders += [Emit(item, item.request_id.encode()), *cut.kept(now_ms)]
    after = replace(
        progress,
        done=progress.done + len(lines),
        at_byte=progress.at_byte + size_bytes,
        tries=0,
        most_nanos=most,
        counts=dict(fates),
    )
    return [*orders, Put(after.row)]


def write_cut(
    view: StateView, progress: Progress, requests: Sequence[str], *, size_bytes: int, now_ms: int
) -> list[Order]:
    """Let the next requests of the part be written once more, at the run's promotion."""
    fates: Counter[str] = Counter(progress.counts)
    orders: list[Order] = []
    for request_id in requests:
        life = read.life(view, request_id)
        source = None if life is None else read.source(view, life.job, life.source_id)
        if life is None or source is None or not _is_written(life, source, progress):
            fates[Fate.LEFT] += 1
            continue
        fates[Fate.WRITTEN] += 1
        orders.append(Put(moved(life, BroughtForward(seq=source.seq, promotion=progress.promotion), now_ms)))
    done, at_byte = progress.done + len(requests), progress.at_byte + size_bytes
    after = replace(progress, done=done, at_byte=at_byte, tries=0, counts=dict(fates))
    return [*orders, Put(after.row), Wake("commit")]


def _is_written(life: Life, source: Source, progress: Progress) -> bool:
    """What the sink holds of the source's newest event, under the run's version."""
    in_front = source.request_id == source.committed_request_id == life.request_id and not life.aside
    ours = (life.job, life.version) == (progress.job, progress.version)
    return in_front and ours and life.status is Status.COMMITTED and life.promotion < progress.promotion


class _Cut:
    """What the version makes of events that are read again, one after the other."""

    def __init__(
        self, view: StateView, progress: Progress, jobs: CompiledJobs, reading: Reading, held: Mapping[int, Found]
    ) -> None:
        job = read.job(view, progress.job)
        assert job is not None, f"run {progress.run} is of a job that the task does not know"
        self._view, self._job, self._progress, self._reading, self._held = view, job, progress, reading, held
        self._compiled = compiled_of(job, progress, jobs)
        self._lookups: Lookups | None = None

    @property
    def lacking(self) -> tuple[Question, ...]:
        """What is to be looked up for the last one."""
        assert self._lookups is not None, "nothing was taken yet"
        return (*self._lookups.lacking.values(), *self._lookups.lacking_aside.values())

    def kept(self, now_ms: int) -> list[Order]:
        """What was looked up for the last one, to be found by whoever reads it again."""
        return [] if self._lookups is None else self._lookups.kept(now_ms)

    def take(self, line: Line | None, raw: RawRecord | None) -> tuple[Fate, WorkItem | None]:
        """What becomes of one line; raises WaitsError and IndexAwaitedError, as `items` does."""
        self._lookups = None
        if line is None:
            return Fate.UNREADABLE, None
        if raw is None:
            return Fate.GONE, None
        if self._view.get(Arrival.schema, _arrival_key(raw.origin)) is not None:
            return Fate.WAITING, None
        if self._job.cancelled_before_ms is not None and raw.origin.at_ms <= self._job.cancelled_before_ms:
            return Fate.CANCELLED, None
        reading = self._reading
        try:
            event = decoded(raw, reading.limits, reading.default_job)
            if event.job != self._progress.job or header(raw, BENCHMARK_HEADER) is not None:
                return Fate.FOREIGN, None
            held = self._held.get(raw.origin.offset, Found())
            self._lookups = Lookups(
                view=self._view, origin=raw.origin, held=held, fresh=self._progress.part.fresh_tools
            )
            item = item_of(self._compiled, event, raw, self._standing(line), reading.limits, self._lookups)
        except Unusable:
            return Fate.UNUSABLE, None
        return (Fate.KNOWN if item.ask_key == line.known else Fate.ASKED), item

    def cost(self, item: WorkItem | None, fate: Fate) -> int | None:
        """The most that a question can cost, with every attempt; None: nobody knows."""
        if item is None or fate is Fate.KNOWN:
            return 0
        prices = self._compiled.costed_by(self._reading.prices)
        return cost_of(item.route, item.tokens_estimate, self._compiled, prices)[1]

    def _standing(self, line: Line) -> Standing:
        return Standing(
            promotion=self._progress.promotion,
            run_id=run_id_of(self._progress.run),
            aside=self._progress.aside,
            replayed=True,
            epoch=line.epoch,
        )


def _arrival_key(origin: Origin) -> str:
    return Arrival(job=None, waiting_for="", since_ms=0, origin=origin).key
