"""Runs: what was sent and asked together, by its id; under which versions, to what end, declared or not.

An ingest names itself in a header of its events and declares its end in a manifest. The run of anything else is named
by who asks: live events of a version, those it is tried out on, a benchmark, a replay. The records of a live run, a
shadow run and a replay have one version each; the events of an ingest may be answered under several, as time goes by.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from batchmill.agents.projector.reading import View, made
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Status
from batchmill.streams.controlling import MANIFEST

__all__ = ["Manifest", "RunKind", "RunRow", "RunVersion", "run_row", "run_rows"]

#: of a life that has yet to come to rest; what stands aside rests where it has an answer
_OPEN: Final = f"""status NOT IN ('{Status.COMMITTED}', '{Status.FAILED_TERMINAL}')
    AND NOT (aside AND status IN ('{Status.VALIDATED}', '{Status.NEEDS_REVIEW}')
      AND reason IS NOT '{Reason.AWAITING_SCORE}')"""


class RunKind(StrEnum):
    """What a run is; the first part of its id says so, an ingest may be called anything."""

    INGEST = "ingest"
    LIVE = "live"  #: events that name no run, under the version in force
    SHADOW = "shadow"  #: live events that a version is tried out on
    REPLAY = "replay"
    BENCHMARK = "benchmark"


#: a run of these kinds is asked under one version, whatever comes between
_ONE_VERSION: Final = frozenset({RunKind.LIVE, RunKind.SHADOW, RunKind.REPLAY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an ingest said of itself when it had sent everything."""

    source: str
    count: int
    sha256: str  #: over all published values in order, each behind its length in eight bytes
    began_ms: int
    ended_ms: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunVersion:
    """The part of a run that one version was asked about; of an ingest: that it answers for."""

    job: str
    version: str
    front: int  #: answer for their raw events
    aside: int
    committed: int  #: of those in front
    open: int
    cost_nanos: int  #: of all its lives, failed attempts included


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run."""

    run_id: str
    kind: RunKind
    events: int  #: raw events that name it
    records: int  #: lives that were born in it
    committed: int  #: in front; of an ingest, of its events
    open: int
    cost_nanos: int
    first_at_ms: int
    last_at_ms: int
    manifests: tuple[Manifest, ...]  #: an ingest that was sent again under one name has several
    versions: tuple[RunVersion, ...] = field(default=())

    @property
    def jobs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.job for each in self.versions))

    @property
    def version_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.version for each in self.versions))

    @property
    def ended(self) -> bool | None:
        """Whether an ingest has declared its end; None: it is none."""
        return bool(self.manifests) if self.kind is RunKind.INGEST else None

    @property
    def declared(self) -> int | None:
        """Events that its manifests speak of."""
        return sum(each.count for each in self.manifests) if self.manifests else None

    @property
    def mixed(self) -> tuple[str, ...]:
        """Jobs of which it has records of several versions, where there must be one; none, ever."""
        jobs = [each.job for each in self.versions]
        return tuple(sorted({job for job in jobs if jobs.count(job) > 1})) if self.kind in _ONE_VERSION else ()


def run_rows(view: View, *, job: str | None = None, limit: int = 100) -> list[RunRow]:
    """The newest first."""
    return _rows(view, job=job, run=None, limit=limit)


def run_row(view: View, run: str) -> RunRow | None:
    found = _rows(view, job=None, run=run, limit=1)
    return found[0] if found else None


#: the run that a manifest is about; whoever can write commands may write anything
_DECLARED: Final = f"""CASE WHEN command = '{MANIFEST}' AND json_valid(body_json)
    THEN CAST(json_extract(body_json, '$.run') AS TEXT) END"""
_MEMBERS: Final = {"source": str, "count": int, "sha256": str, "began_ms": int, "ended_ms": int}
_IN: Final = "run_id IS NOT NULL AND (:job IS NULL OR job = :job) AND (:run IS NULL OR run_id = :run)"
_RUNS: Final = f"""WITH told AS (
  SELECT run_id, COUNT(*) AS events, 0 AS records, 0 AS committed, 0 AS open, 0 AS cost_nanos,
    MIN(at_ms) AS first_at_ms, MAX(at_ms) AS last_at_ms FROM raw WHERE at_ms IS NOT NULL AND {_IN} GROUP BY 1
  UNION ALL SELECT run_id, 0, COUNT(*), COUNT(*) FILTER (WHERE status = '{Status.COMMITTED}' AND NOT aside),
    COUNT(*) FILTER (WHERE {_OPEN}), SUM(cost_nanos), MIN(queued_at_ms), MAX(updated_at_ms)
    FROM lives WHERE {_IN} GROUP BY 1
  UNION ALL SELECT {_DECLARED} AS run, 0, 0, 0, 0, 0, MIN(issued_at_ms), MAX(issued_at_ms) FROM commands
    WHERE run IS NOT NULL AND (:job IS NULL OR job = :job) AND (:run IS NULL OR run = :run) GROUP BY 1
)
SELECT run_id, SUM(events) AS events, SUM(records) AS records, SUM(committed) AS committed, SUM(open) AS open,
  SUM(cost_nanos) AS cost_nanos, MIN(first_at_ms) AS first_at_ms, MAX(last_at_ms) AS last_at_ms
FROM told WHERE run_id IS NOT NULL GROUP BY 1 ORDER BY last_at_ms DESC, run_id LIMIT :limit"""


def _rows(view: View, *, job: str | None, run: str | None, limit: int) -> list[RunRow]:
    found = list(view.rows(_RUNS, {"job": job, "run": run, "limit": limit}))
    names = [row["run_id"] for row in found]
    ingests = [name for name in names if _kind(name) is RunKind.INGEST]
    manifests = _manifests(view, names)
    versions = _versions(view, _ANSWER, ingests) | _versions(view, _ASKED, sorted({*names} - {*ingests}))
    return [_row(row, manifests.get(row["run_id"], ()), versions.get(row["run_id"], ())) for row in found]


def _row(row: Any, manifests: tuple[Manifest, ...], versions: tuple[RunVersion, ...]) -> RunRow:
    told = {name: row[name] or 0 for name in row.keys() if name != "run_id"}  # noqa: SIM118  a Row iterates its values
    kind = _kind(row["run_id"])
    if kind is RunKind.INGEST:
        told["committed"] = sum(each.committed for each in versions)
    return RunRow(**told, run_id=row["run_id"], kind=kind, manifests=manifests, versions=versions)


def _kind(run: str) -> RunKind:
    first, colon, _ = run.partition(":")
    return RunKind(first) if colon and first in set(RunKind) else RunKind.INGEST


def _manifests(view: View, names: Sequence[str]) -> dict[str, tuple[Manifest, ...]]:
    """By run, the oldest first; each command is told once, however many partitions have a copy."""
    sql = f"""SELECT actor, body_json FROM commands WHERE {_DECLARED} IN (SELECT value FROM json_each(?))
      GROUP BY command_id ORDER BY MIN(at_ms)"""
    found: dict[str, tuple[Manifest, ...]] = {}
    for row in view.rows(sql, (orjson.dumps(names).decode(),)):
        told = orjson.loads(row["body_json"])
        if all(isinstance(told.get(name), kind) for name, kind in _MEMBERS.items()):
            manifest = Manifest(by=row["actor"], **{name: told[name] for name in _MEMBERS})
            found[str(told["run"])] = (*found.get(str(told["run"]), ()), manifest)
    return found


_TOLD: Final = "l.job, l.version, l.aside, l.status, l.reason, l.cost_nanos, l.queued_at_ms"
_NAMED: Final = "run_id IN (SELECT value FROM json_each(:names))"
#: the lives that were born in a run
_ASKED: Final = f"SELECT l.run_id AS run, {_TOLD} FROM lives l WHERE l.{_NAMED}"
#: the lives of a run's raw events, whichever run they were born in
_ANSWER: Final = f"""SELECT r.run_id AS run, {_TOLD} FROM raw r JOIN lives l ON l.request_id = r.request_id
    WHERE r.alive AND r.{_NAMED}
  UNION ALL SELECT r.run_id AS run, {_TOLD} FROM lives l JOIN raw r ON r.generation = l.origin_generation
    AND r.partition = l.origin_partition AND r.offset = l.origin_offset WHERE l.aside AND r.{_NAMED}"""


def _versions(view: View, lives: str, names: Sequence[str]) -> dict[str, tuple[RunVersion, ...]]:
    """By run and version, in the order in which they were asked."""
    sql = f"""WITH l AS ({lives}) SELECT run, job, version, COUNT(*) FILTER (WHERE NOT aside) AS front,
      COUNT(*) FILTER (WHERE aside) AS aside,
      COUNT(*) FILTER (WHERE status = '{Status.COMMITTED}' AND NOT aside) AS committed,
      COUNT(*) FILTER (WHERE {_OPEN}) AS open, SUM(cost_nanos) AS cost_nanos
      FROM l GROUP BY 1, 2, 3 ORDER BY 1, 2, MIN(queued_at_ms), 3"""
    found: dict[str, tuple[RunVersion, ...]] = {}
    for row in view.rows(sql, {"names": orjson.dumps(names).decode()}):
        found[row["run"]] = (*found.get(row["run"], ()), made(RunVersion, row))
    return found
