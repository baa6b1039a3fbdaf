"""raw -> normalized: the agent that reads strangers' events, and the effect that looks again at those that wait.

What lives here: turning log records into raw records, slices into decisions, waiting rows into a second look. What must
not: any judgement of a record (`streams.normalizing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from batchmill.agents import clock
from batchmill.agents.retrieval.library import Library
from batchmill.agents.runtime import LogRecord, Slice, Task
from batchmill.agents.stages.assembler import Assembler
from batchmill.agents.stages.kit import Kit, LogSlowError
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Arrival, Job
from batchmill.streams import view as read
from batchmill.streams.controlling import read_to
from batchmill.streams.dead_lettering import of_raw
from batchmill.streams.events import RawLimits
from batchmill.streams.normalizing import (
    INDEX_LOADED,
    JOB_KNOWN,
    JOB_RESUMED,
    give_up,
    index_gone,
    normalize,
    revisit,
)
from batchmill.streams.orders import Delete, Order
from batchmill.streams.versioning import shadows_of

__all__ = ["Normalizer", "event_gone"]

STAGE = "normalizer"
EFFECT = "arrivals"
#: jobs one task looks through for waiting records; far above any sensible count
_JOBS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalizer:
    """The agent of `raw`."""

    kit: Kit
    limits: RawLimits
    default_job: str | None
    rows_at_once: int
    idle_seconds: float
    unknown_job_seconds: float  #: how long a record of an unknown job waits at least
    library: Library
    index_seconds: float  #: how long a record whose index is not there waits
    #: job -> its row when its indexes were expected; a job says something else about them only in another row
    expected: dict[str, Job] = field(default_factory=dict)

    def on_slice(self, task: Task, slice_: Slice) -> None:
        now_ms = clock.wall_ms()
        for record in slice_.records:
            orders = normalize(
                task.view,
                self.kit.raw_record(record),
                jobs=self.kit.jobs,
                now_ms=now_ms,
                limits=self.limits,
                default_job=self.default_job,
            )
            self.kit.carry(task, orders, src=record.src)
        task.finish(slice_)

    async def run(self, task: Task) -> None:
        """Look again at waiting records whenever a job, an index or the last part of a whole has come."""
        while True:
            looked = 0
            rows = [row for _, row in task.view.scan("job", "", limit=_JOBS_MAX)]
            jobs = [row for row in rows if isinstance(row, Job)]
            await self._load(jobs)
            for prefix in self._prefixes(jobs):
                looked += await self._revisit(task, prefix)
            looked += await self._assembler.turn(task)
            if not looked:
                await task.rest(EFFECT, self.idle_seconds)

    @property
    def _assembler(self) -> Assembler:
        return Assembler(kit=self.kit, limits=self.limits)

    async def _load(self, jobs: Sequence[Job]) -> None:
        """The indexes that events were asked about in vain; and, while there is room, those that will be."""
        for row in jobs:
            if self.expected.get(row.job) != row:
                self.expected[row.job] = row
                self._expect(row)
        await self.library.load_wanted()

    def _expect(self, row: Job) -> None:
        for version in (row.version, *shadows_of(row)):
            job = self.kit.jobs.of(row, version)
            if job is not None and job.retrieval is not None:
                self.library.expect(job.retrieval.spec.sha256)

    def _prefixes(self, jobs: Sequence[Job]) -> list[str]:
        resumed = [f"{JOB_RESUMED}/{row.job}/" for row in jobs if not row.paused]
        return [*resumed, f"{INDEX_LOADED}/", f"{JOB_KNOWN}/"]

    async def _revisit(self, task: Task, prefix: str) -> int:
        """One turn over the rows under `prefix`; how many left their arrival."""
        waiting = self._due(task, prefix)
        if not waiting:
            return 0
        await task.capacity()
        try:
            bodies = await self.kit.bodies(task, "raw", [arrival.origin.offset for arrival in waiting])
        except LogSlowError:
            return 0
        drained = await self._control_is_drained(task) if prefix.startswith(JOB_KNOWN) else False
        left = 0
        for arrival in waiting:
            if task.view.get(arrival.schema, arrival.key) != arrival:
                continue
            orders = self._decided(task, arrival, bodies.get(arrival.origin.offset), drained=drained)
            self.kit.carry(task, orders, src=f"effect:{EFFECT}/{arrival.key}")
            left += bool(orders)
        return left

    def _due(self, task: Task, prefix: str) -> list[Arrival]:
        now_ms = clock.wall_ms()
        rows = [row for _, row in task.view.scan("arrival", prefix, limit=self.rows_at_once)]
        arrivals = [row for row in rows if isinstance(row, Arrival)]
        if not prefix.startswith(JOB_KNOWN):
            return arrivals
        patience_ms = round(self.unknown_job_seconds * 1_000)
        return [a for a in arrivals if _known(task, a) or now_ms - a.since_ms >= patience_ms]

    def _decided(self, task: Task, arrival: Arrival, record: LogRecord | None, *, drained: bool) -> list[Order]:
        now_ms = clock.wall_ms()
        if record is None:
            return event_gone(self.kit, arrival, now_ms)
        raw = self.kit.raw_record(record, generation=arrival.origin.generation)
        if arrival.waiting_for == JOB_KNOWN and not _known(task, arrival):
            return give_up(arrival, raw, now_ms=now_ms) if drained else []
        orders = revisit(
            task.view,
            arrival,
            raw,
            jobs=self.kit.jobs,
            now_ms=now_ms,
            limits=self.limits,
            default_job=self.default_job,
        )
        waits = arrival.waiting_for == INDEX_LOADED and not orders
        if waits and now_ms - arrival.since_ms >= self.index_seconds * 1_000:
            return index_gone(task.view, arrival, raw, jobs=self.kit.jobs, now_ms=now_ms)
        return orders

    async def _control_is_drained(self, task: Task) -> bool:
        start = read_to(task.view)
        return not await self.kit.log.has_records(self.kit.topics["control"], task.partition, start)


def event_gone(kit: Kit, arrival: Arrival, now_ms: int) -> list[Order]:
    """Retention took the event while it waited: said aloud, not skipped."""
    text = "retention removed this event from raw while it waited; publish it again"
    gone = kit.gone(arrival.origin)
    letter = of_raw(gone, stage=STAGE, reason=Reason.BODY_GONE, error=text, now_ms=now_ms, job=arrival.job)
    return [letter, Delete(arrival.schema, arrival.key)]


def _known(task: Task, arrival: Arrival) -> bool:
    return arrival.job is not None and read.job(task.view, arrival.job) is not None
