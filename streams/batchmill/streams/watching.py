"""Whose records are watched, and what follows from an alarm: the decisions of the one overseer about drift.

`Watches` holds the facts: each task's rows of jobs, and the watch of each version that declares one. It is told records
and says which windows moved, which tasks have to pause, and what must be remembered. A restart restores what was
remembered and counts on; it does so in one transaction with the positions up to which was counted, so no record counts
twice or not at all.

What must not live here: when a window has moved (`drifting`), reading and writing (`agents.overseer`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from batchmill.schemas.drift import DriftSignal
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import Record, Result
from batchmill.schemas.state import Job
from batchmill.schemas.strict_json import from_json, to_json
from batchmill.streams.drifting import Moved, Timed, Watch, begun, resumed, take, terms_of
from batchmill.streams.overseeing import Spread
from batchmill.streams.signalling import heard, told_by

__all__ = ["Alarm", "JobWatch", "ScoreNow", "Watches"]

#: watched versions of one job that are remembered, the newest
_VERSIONS_MAX: Final = 4
#: lists of versions whose specs are remembered
_LISTS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWatch:
    """All that is remembered of one job."""

    version: str = ""  #: in force
    versions: Mapping[str, Watch] = field(default_factory=dict)


class Alarm(NamedTuple):
    """A window of this version has moved."""

    job: str
    version: str
    moved: Moved


class ScoreNow(NamedTuple):
    """How far the newest window of a version in force lay from its reference."""

    job: str
    signal: DriftSignal
    psi: float
    moved: bool


class Watches:
    """The facts, folded record by record."""

    def __init__(self) -> None:
        self._jobs: dict[str, dict[int, Job]] = {}
        self._watches: dict[str, JobWatch] = {}
        self._told: dict[tuple[str, int], str] = {}
        self._paused_for: dict[str, str] = {}
        self._changed: set[str] = set()

    # -- facts ---------------------------------------------------------------------------------------------------------

    def row(self, partition: int, row: Job) -> None:
        """A task's row as it stands."""
        self._jobs.setdefault(row.job, {})[partition] = row
        if row.paused and row.pause_reason is not None:
            self._paused_for[row.job] = row.pause_reason

    def restore(self, job: str, text: str) -> None:
        """What a predecessor remembered of a job."""
        self._watches[job] = from_json(JobWatch, text)

    def knows(self, record: Record) -> bool:
        """Whether the version that a record speaks of was heard of. If not, its job's row is on the way."""
        about = told_by(record)
        if about is None:
            return True
        job, version = about
        return job in self._jobs and (version is None or self._knowing(job, version) is not None)

    def hear(self, records: Iterable[tuple[Record, int]]) -> list[Alarm]:
        """Count records, each with the time of its append; those of versions that nobody watches are passed over."""
        self._follow()
        specs: dict[tuple[str, str | None], tuple[str, JobSpec] | None] = {}
        told: dict[tuple[str, str], list[Timed]] = {}
        for record, at_ms in records:
            about = told_by(record)
            if about is None:
                continue
            if about not in specs:
                specs[about] = self._watched(*about)
            found = specs[about]
            if found is None or (drift := found[1].drift) is None or self._is_tried(record, at_ms):
                continue
            told.setdefault((about[0], found[0]), []).extend(Timed(each, at_ms) for each in heard(record, drift))
        return [alarm for (job, version), timed in told.items() for alarm in self._take(job, version, timed)]

    # -- decisions -----------------------------------------------------------------------------------------------------

    @property
    def since_ms(self) -> int | None:
        """When the first job that is watched was applied; None: none is watched."""
        return min((self._newest(job).updated_at_ms for job in self._jobs if self._spec(job) is not None), default=None)

    def pauses(self) -> list[Spread]:
        """Where an alarm still has to pause a job; once a task has paused, `Books.spreads` tells the others."""
        self._follow()
        return [
            Spread(partition=partition, job=job, reason=watch.pausing, after=row.last_command_id)
            for job, watch in ((job, each) for job, about in self._watches.items() for each in about.versions.values())
            if watch.pausing is not None
            for partition, row in sorted(self._jobs.get(job, {}).items())
            if not row.paused and self._told.get((job, partition)) != row.last_command_id
        ]

    def paused(self, told: Spread) -> None:
        """It is in the log; it is said once."""
        self._told[told.job, told.partition] = told.after

    def changes(self) -> dict[str, str | None]:
        """What must be remembered of each job that has changed; None: nothing any more."""
        self._follow()
        return {job: to_json(self._watches[job]) if job in self._watches else None for job in sorted(self._changed)}

    def remembered(self, jobs: Iterable[str]) -> None:
        """It is in the log."""
        self._changed.difference_update(jobs)

    def scores(self) -> list[ScoreNow]:
        """Of every version in force, each signal's newest look."""
        return [
            ScoreNow(job, signal, track.scores[-1].psi, track.scores[-1].moved)
            for job, about in self._watches.items()
            if (watch := about.versions.get(about.version)) is not None
            for signal, track in watch.tracks.items()
            if track.scores
        ]

    # -- versions ------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """What the tasks' rows say now: which version is in force, who has paused, who was resumed."""
        for job in self._jobs:
            spec, before = self._spec(job), self._watches.get(job)
            if spec is None and before is None:
                continue
            after = None if spec is None else self._followed(job, spec, before or JobWatch())
            if after == before:
                continue
            self._changed.add(job)
            if after is None:
                del self._watches[job]
            else:
                self._watches[job] = after

    def _followed(self, job: str, spec: JobSpec, before: JobWatch) -> JobWatch:
        row = self._newest(job)
        versions = {version: self._minded(job, watch) for version, watch in before.versions.items()}
        known = versions.get(row.version)
        if known is None or known.terms != terms_of(spec):
            former = versions.get(before.version) if before.version != row.version else None
            versions.pop(row.version, None)
            versions[row.version] = begun(spec, former)
        others = [each for each in _versions(row.versions_json) if each in versions and each != row.version]
        kept = [*others[1 - _VERSIONS_MAX :], row.version]
        return JobWatch(version=row.version, versions={version: versions[version] for version in kept})

    def _minded(self, job: str, watch: Watch) -> Watch:
        """A watch whose alarm pauses the job, once tasks have paused, and once they have all been resumed."""
        paused = any(row.paused for row in self._jobs[job].values())
        if watch.pausing is not None and (paused or self._paused_for.get(job) == watch.pausing):
            return replace(watch, pausing=None, held=True)
        return resumed(watch) if watch.held and not paused else watch

    def _is_tried(self, record: Record, at_ms: int) -> bool:
        """Whether a result came while its version was not promoted yet: results do not say that they stand aside."""
        if not isinstance(record, Result):
            return False
        row = self._knowing(record.job, record.version)
        since_ms = None if row is None else _promotions(row.promotions_json).get(record.version)
        return since_ms is not None and at_ms < since_ms

    def _watched(self, job: str, version: str | None) -> tuple[str, JobSpec] | None:
        """(version, spec) if records of this version are counted."""
        about = self._watches.get(job)
        if about is None:
            return None
        meant = version or about.version
        row = self._knowing(job, meant) if meant in about.versions else None
        spec = None if row is None else _versions(row.versions_json)[meant]
        return None if spec is None else (meant, spec)

    def _take(self, job: str, version: str, told: list[Timed]) -> Iterator[Alarm]:
        about, found = self._watches[job], self._watched(job, version)
        assert found is not None, f"{version} of {job} is not watched"
        watch, moved = take(about.versions[version], found[1], told)
        self._watches[job] = replace(about, versions={**about.versions, version: watch})
        self._changed.add(job)
        yield from (Alarm(job, version, each) for each in moved)

    def _newest(self, job: str) -> Job:
        """Tasks take a command one after the other: the row that was written last knows most."""
        return max(self._jobs[job].values(), key=lambda row: row.updated_at_ms)

    def _knowing(self, job: str, version: str) -> Job | None:
        """The newest of those rows that have heard of the version."""
        rows = [row for row in self._jobs[job].values() if version in _versions(row.versions_json)]
        return max(rows, key=lambda row: row.updated_at_ms, default=None)

    def _spec(self, job: str) -> JobSpec | None:
        """Of the version in force, if it is watched."""
        row = self._newest(job)
        return _versions(row.versions_json).get(row.version)


@lru_cache(maxsize=_LISTS_MAX)
def _promotions(promotions_json: str) -> Mapping[str, int]:
    """When each version was first promoted."""
    found: dict[str, int] = {}
    for each in json.loads(promotions_json):
        found.setdefault(each["version"], each["at_ms"])
    return found


@lru_cache(maxsize=_LISTS_MAX)
def _versions(versions_json: str) -> Mapping[str, JobSpec | None]:
    """Every version, with its spec if it is watched."""
    told = json.loads(versions_json)
    return {
        version: JobSpec.from_json(json.dumps(spec)) if spec.get("drift") is not None else None
        for version, spec in told.items()
    }
