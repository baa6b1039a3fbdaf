"""Every frozen version of a job, as the read model has it: which is in force, which were, which are tried out, what has
become of their lives, what of each is in the sink, what each has cost.

Which version stands how is the tasks' own word (`streams.versioning` reads their rows); of tasks that do not agree yet
the row that was written last is told, and how many say so.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchmill.agents.projector.costs import costs
from batchmill.agents.projector.metrics import Scope
from batchmill.agents.projector.reading import View
from batchmill.agents.versions import Standing
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.state import Job
from batchmill.schemas.status import Status
from batchmill.schemas.versions import ask_fingerprint, judge_fingerprint, place_fingerprint
from batchmill.streams.versioning import Promotion, promotions_of, shadows_of

__all__ = ["JobVersions", "PromotedAt", "VersionRow", "job_versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotedAt:
    """One time at which a version came into force."""

    number: int  #: second half of the rank of what was written under it from then on
    at_ms: int | None  #: None: by a release that did not write it down
    by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One frozen version."""

    version: str
    standing: Standing
    live_share: float | None  #: of live events that a shadow is asked about, too
    ask: str  #: fingerprints
    judge: str
    place: str
    spec: JobSpec
    applied_at_ms: int | None  #: last; None: the command has left the log
    applied_by: str | None
    promotions: tuple[PromotedAt, ...]
    lives: Mapping[str, int]  #: in front, by status
    aside: Mapping[str, int]  #: by status
    in_sink: int  #: sources whose output in the sink is this version's
    spent_nanos: int
    unpriced_calls: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVersions:
    """The versions of one job, in the order in which they were first applied."""

    job: str
    effective_tasks: int  #: tasks in which the version that is told as promoted is in force
    tasks: int
    versions: tuple[VersionRow, ...]

    @property
    def promoted(self) -> VersionRow:
        (found,) = [each for each in self.versions if each.standing is Standing.PROMOTED]
        return found

    @property
    def in_sink(self) -> dict[str, int]:
        """Sources by the version whose output the sink holds; more than one: old and new results are merged there."""
        return {each.version: each.in_sink for each in self.versions if each.in_sink}


def job_versions(view: View, job: str) -> JobVersions | None:
    """None when no task knows the job."""
    rows = view.typed(Job, "SELECT * FROM jobs WHERE job = ? ORDER BY updated_at_ms DESC, partition", (job,))
    if not rows:
        return None
    newest = rows[0]
    specs: dict[str, Any] = json.loads(newest.versions_json)
    lives, sink, applied = _lives(view, job), _in_sink(view, job), _applied(view, job)
    promotions = _promotions(view, newest)
    made = []
    for version, spec_json in specs.items():
        spec = JobSpec.from_json(json.dumps(spec_json))
        money = costs(view, Scope(job=job, version=version).values)
        made.append(
            VersionRow(
                version=version,
                standing=_standing(newest, version, promoted=bool(promotions.get(version))),
                live_share=shadows_of(newest).get(version),
                ask=ask_fingerprint(spec),
                judge=judge_fingerprint(spec),
                place=place_fingerprint(spec),
                spec=spec,
                applied_at_ms=applied.get(version, (None, None))[0],
                applied_by=applied.get(version, (None, None))[1],
                promotions=tuple(promotions.get(version, ())),
                lives=lives.get((version, False), {}),
                aside=lives.get((version, True), {}),
                in_sink=sink[version],
                spent_nanos=money.spent_nanos,
                unpriced_calls=money.unpriced_calls,
                input_tokens=money.input_tokens,
                output_tokens=money.output_tokens,
            )
        )
    level = sum(row.version == newest.version for row in rows)
    return JobVersions(job=job, effective_tasks=level, tasks=len(rows), versions=tuple(made))


def _standing(row: Job, version: str, *, promoted: bool) -> Standing:
    if version == row.version:
        return Standing.PROMOTED
    if version in shadows_of(row):
        return Standing.SHADOW
    return Standing.FORMER if promoted else Standing.REJECTED


def _promotions(view: View, row: Job) -> dict[str, list[PromotedAt]]:
    found: dict[str, list[PromotedAt]] = {}
    for each in promotions_of(row):
        found.setdefault(each.version, []).append(
            PromotedAt(number=each.number, at_ms=each.at_ms or None, by=_actor(view, each))
        )
    return found


def _actor(view: View, promotion: Promotion) -> str | None:
    found = view.row("SELECT actor FROM commands WHERE command_id = ? LIMIT 1", (promotion.command_id,))
    return None if found is None else str(found["actor"])


def _applied(view: View, job: str) -> dict[str, tuple[int, str]]:
    """Version -> when and by whom it was last applied."""
    found = view.rows(
        "SELECT version, actor, issued_at_ms FROM commands WHERE job = ? AND command = 'apply' ORDER BY at_ms", (job,)
    )
    return {row["version"]: (row["issued_at_ms"], row["actor"]) for row in found}


def _lives(view: View, job: str) -> dict[tuple[str, bool], dict[str, int]]:
    sql = "SELECT version, aside, status, COUNT(*) AS n FROM lives WHERE job = ? GROUP BY 1, 2, 3"
    found: dict[tuple[str, bool], dict[str, int]] = {}
    for row in view.rows(sql, (job,)):
        found.setdefault((row["version"], bool(row["aside"])), {})[str(Status(row["status"]))] = row["n"]
    return found


def _in_sink(view: View, job: str) -> Counter[str]:
    """Sources by the version of what they have written last, those whose write was taken back left out. A request whose
    life has expired is known by its commit.
    """
    sql = """SELECT COALESCE(l.version, (SELECT c.version FROM commits c
        WHERE c.request_id = s.committed_request_id LIMIT 1)) AS version, COUNT(*) AS n
      FROM sources s LEFT JOIN lives l ON l.request_id = s.committed_request_id
      WHERE s.job = ? AND s.committed_request_id IS NOT NULL AND NOT COALESCE(l.reverted, 0) GROUP BY 1"""
    return Counter({row["version"]: row["n"] for row in view.rows(sql, (job,)) if row["version"] is not None})
