"""A raw record becomes work items, or is put down with a reason, or waits: raw -> normalized.

An event is answered by the version in force. Beside it others may be asked: shadow versions about a share of the live
events, any version about a benchmark record. Those items stand aside. Nothing is asked of the outside; whether a
request is new is not decided here but by its own task (`queueing`). A record waits as an `Arrival` when its job is
unknown or paused, while its index is not loaded, and while something is looked up for it. What one version makes of an
event is `items`.
"""

from dataclasses import dataclass
from typing import Final

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import WorkItem
from batchmill.schemas.state import Arrival, Job
from batchmill.streams import view as views
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.dead_lettering import RawRecord, of_raw
from batchmill.streams.events import Event, RawLimits, decoded, header, named_job, run_of, source_of
from batchmill.streams.items import Standing, item_of
from batchmill.streams.joining import coming, meet
from batchmill.streams.lineage import JOINED
from batchmill.streams.looking_up import WAITS, Lookups, WaitsError
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.retrieving import IndexAwaitedError
from batchmill.streams.tooling import Found, Question
from batchmill.streams.unusable import Unusable
from batchmill.streams.versioning import is_rejected, promotion_of, shadow_run, shadows_of
from batchmill.streams.view import StateView

__all__ = [
    "BENCHMARKED_MAX",
    "BENCHMARK_HEADER",
    "INDEX_LOADED",
    "JOB_KNOWN",
    "JOB_RESUMED",
    "STAGE",
    "give_up",
    "index_gone",
    "is_sampled",
    "lacking",
    "live_run",
    "normalize",
    "revisit",
]

STAGE: Final = "normalizer"
#: names the versions, with commas between, that are asked about a benchmark record
BENCHMARK_HEADER: Final = "batchmill-benchmark"
#: what an arrival waits for
JOB_KNOWN: Final = "job_known"
JOB_RESUMED: Final = "job_resumed"
INDEX_LOADED: Final = "index"

#: versions that one benchmark record can be asked under
BENCHMARKED_MAX: Final = 16


def normalize(
    view: StateView,
    raw: RawRecord,
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None = None,
    held: str | None = None,
) -> list[Order]:
    """What to do with one raw record: one work item, dead letter, exclusion or arrival. Beside a work item, or the
    exclusion of a benchmark record, there may be items aside, of versions that are tried out; beside the arrival of a
    part, what becomes of its whole. `held` is what was looked up for it while it waited.
    """
    known, lookups = _Known(held=held), Lookups(view=view, origin=raw.origin, held=Found.from_json(held))
    try:
        decided = _decided(view, raw, known, jobs, now_ms, limits, default_job, lookups)
        return [*decided, *lookups.kept(now_ms)]
    except Unusable as wrong:
        return [_put_down(raw, known, wrong.reason, wrong.note, now_ms)]
    except IndexAwaitedError:
        return [Put(_waiting(raw, known, INDEX_LOADED, now_ms))]
    except WaitsError:
        return [Put(_waiting(raw, known, WAITS, now_ms)), Wake("tools")]


def lacking(
    view: StateView,
    arrival: Arrival,
    raw: RawRecord,
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None = None,
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """What is to be looked up for a record that waits: (what it waits for, what only versions aside ask for)."""
    lookups = Lookups(view=view, origin=raw.origin, held=Found.from_json(arrival.value_json))
    try:
        _decided(view, raw, _Known(), jobs, now_ms, limits, default_job, lookups)
    except (Unusable, IndexAwaitedError):
        return (), ()
    except WaitsError:
        must, may = tuple(lookups.lacking.values()), tuple(lookups.lacking_aside.values())
        return (may, ()) if header(raw, BENCHMARK_HEADER) is not None else (must, may)
    return (), ()


def revisit(
    view: StateView,
    arrival: Arrival,
    raw: RawRecord,
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None = None,
) -> list[Order]:
    """Look again at a record that waited; it goes on waiting (for something else, perhaps) or leaves its arrival."""
    assert raw.origin == arrival.origin, f"arrival {arrival.key} was read back as another record"
    orders = normalize(
        view, raw, jobs=jobs, now_ms=now_ms, limits=limits, default_job=default_job, held=arrival.value_json
    )
    for order in orders:
        match order:
            case Put(Arrival(waiting_for=still, job=job)):
                return [] if (still, job) == (arrival.waiting_for, arrival.job) else orders
            case _:
                continue
    return [*orders, Delete(Arrival.schema, arrival.key)]


def give_up(arrival: Arrival, raw: RawRecord, *, now_ms: int) -> list[Order]:
    """Dead-letter a record whose job nobody has heard of, once control was read to its end."""
    assert arrival.waiting_for == JOB_KNOWN, f"arrival {arrival.key} waits for {arrival.waiting_for}"
    error = f"job {arrival.job!r} is not known; `batchmill job apply` it, then redrive"
    known = _Known(job=arrival.job)
    return [_put_down(raw, known, Reason.UNKNOWN_JOB, error, now_ms), Delete(Arrival.schema, arrival.key)]


def index_gone(view: StateView, arrival: Arrival, raw: RawRecord, *, jobs: CompiledJobs, now_ms: int) -> list[Order]:
    """Dead-letter a record whose index could not be had for as long as it is waited for."""
    assert arrival.waiting_for == INDEX_LOADED, f"arrival {arrival.key} waits for {arrival.waiting_for}"
    known, row = _Known(job=arrival.job), None if arrival.job is None else views.job(view, arrival.job)
    known.version, job = (None, None) if row is None else (row.version, jobs.of(row))
    why = "a version that is tried out wants an index that is not there"
    if job is not None and job.retrieval is not None:
        spec = job.retrieval.spec
        why = f"index {spec.index}: {job.retrieval.indexes.fault(spec.sha256)}"
    return [_put_down(raw, known, Reason.INDEX_GONE, why, now_ms), Delete(Arrival.schema, arrival.key)]


def live_run(job: str, version: str) -> str:
    """The run that live events of a version belong to."""
    return f"live:{job}:{version}"


@dataclass(slots=True)
class _Known:
    """What has been found out about a record so far, for the letter it may end in."""

    job: str | None = None
    version: str | None = None
    source_id: str | None = None
    held: str | None = None  #: what was looked up for it


def _put_down(raw: RawRecord, known: _Known, reason: Reason, error: str, now_ms: int) -> Emit:
    return of_raw(
        raw,
        stage=STAGE,
        reason=reason,
        error=error,
        now_ms=now_ms,
        job=known.job,
        version=known.version,
        source_id=known.source_id,
    )


def _decided(
    view: StateView,
    raw: RawRecord,
    known: _Known,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
    default_job: str | None,
    lookups: Lookups,
) -> list[Order]:
    known.job = named_job(raw)
    event = decoded(raw, limits, default_job)
    known.job = event.job
    row = views.job(view, known.job) if known.job is not None else None
    if row is None or row.paused:
        return [Put(_waiting(raw, known, JOB_KNOWN if row is None else JOB_RESUMED, now_ms))]
    if raw.redrives == 0 and row.cancelled_before_ms is not None and raw.origin.at_ms <= row.cancelled_before_ms:
        raise Unusable(Reason.CANCELLED, "the job was cancelled after this event")
    named = header(raw, BENCHMARK_HEADER)
    if named is not None:
        return _told(_benchmark(row, event, raw, known, jobs, named, now_ms, limits, lookups), lookups)
    known.version = row.version
    job = _compiled(jobs, row)
    known.source_id = source_of(job, event, raw, limits)
    if job.spec.join is not None and JOINED not in event.metadata:
        here = coming(raw, job.spec.job, job.version, known.source_id, event)
        return meet(view, here, job.spec.join, now_ms=now_ms, bytes_max=limits.value_bytes_max)
    beside = _shadowed(row, event, raw, jobs, limits, lookups)
    standing = Standing(promotion=promotion_of(row, row.version), run_id=run_of(raw) or live_run(row.job, row.version))
    return _told([_asked(item_of(job, event, raw, standing, limits, lookups)), *beside], lookups)


def _told(orders: list[Order], lookups: Lookups) -> list[Order]:
    """All or nothing: an event whose versions aside still lack something waits as a whole, for as long as one try."""
    if lookups.lacking_aside:
        raise WaitsError
    return orders


def _asked(item: WorkItem) -> Emit:
    return Emit(item, item.request_id.encode())


def _compiled(jobs: CompiledJobs, row: Job) -> CompiledJob:
    job = jobs.of(row)
    assert job is not None, f"job {row.job} promotes version {row.version}, which its row does not hold"
    return job


# -- beside the version in force ---------------------------------------------------------------------------------------


def _shadowed(
    row: Job, event: Event, raw: RawRecord, jobs: CompiledJobs, limits: RawLimits, lookups: Lookups
) -> list[Order]:
    """Items of the shadow versions that this event falls to. What such a version cannot take is no letter: the version
    in force answers for the event.
    """
    orders: list[Order] = []
    for version, share in shadows_of(row).items():
        job = jobs.of(row, version)
        if job is None or not share:
            continue
        if JOINED in event.metadata and job.tools is not None:
            continue  # a whole has no arrival of its own to wait by: it would be held up for as long as that version is
        try:
            if is_sampled(source_of(job, event, raw, limits), version, share):
                standing = Standing(promotion=0, run_id=shadow_run(row.job, version), aside=True)
                orders.append(_asked(item_of(job, event.copied(), raw, standing, limits, lookups)))
        except (Unusable, IndexAwaitedError, WaitsError):
            continue
    return orders


def is_sampled(source_id: str, version: str, share: float) -> bool:
    """Whether a version that is asked about `share` of all sources is asked about this one: always the same ones."""
    drawn = int(content_sha256(f"{version}/{source_id}".encode())[:15], 16)
    return drawn < share * 16**15


def _benchmark(
    row: Job,
    event: Event,
    raw: RawRecord,
    known: _Known,
    jobs: CompiledJobs,
    named: str,
    now_ms: int,
    limits: RawLimits,
    lookups: Lookups,
) -> list[Order]:
    """A record whose right answer is known: every named version is asked, and none of the answers is written."""
    asked: list[Order] = []
    said: list[str] = []
    for version in named.split(",")[:BENCHMARKED_MAX]:
        job = jobs.of(row, version)
        if job is None:
            said.append(f"{version[:16]}: no such version")
            continue
        if is_rejected(row, version):
            said.append(f"{version}: rejected")
            continue
        standing = Standing(promotion=0, run_id=run_of(raw) or f"benchmark:{row.job}", aside=True)
        try:
            asked.append(_asked(item_of(job, event.copied(), raw, standing, limits, lookups)))
        except Unusable as wrong:
            said.append(f"{version}: {wrong.reason}")
        except WaitsError:
            continue
    return [_put_down(raw, known, Reason.BENCHMARK, "; ".join(said) or "asked", now_ms), *asked]


# -- what waits --------------------------------------------------------------------------------------------------------


def _waiting(raw: RawRecord, known: _Known, waiting_for: str, now_ms: int) -> Arrival:
    return Arrival(job=known.job, waiting_for=waiting_for, since_ms=now_ms, value_json=known.held, origin=raw.origin)
