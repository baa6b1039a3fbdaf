"""The lives of two contenders side by side, as the read model has them: who they are, which belong together.

Lives are of one record if they are of one source and either of one raw event, or of the same content, or of one
benchmark run. A version without a run is its first answers; a rerun is named by its run. Bodies stay in the log: what
is found here says where. What must not live here: reading them, and judging (`agents.contenders`, `streams.comparing`).
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final

from typing_extensions import override

from batchmill.agents.projector.reading import View
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Fault, Reason, info
from batchmill.schemas.state import Job
from batchmill.schemas.status import Status
from batchmill.streams.golden import RUN_PREFIX
from batchmill.streams.scoring import is_job
from batchmill.streams.versioning import shadows_of

__all__ = [
    "CURRENT",
    "SHADOW",
    "Contender",
    "ContenderError",
    "Match",
    "Standing",
    "Told",
    "contender",
    "job_row",
    "matches",
    "reruns",
    "specs_of",
    "standing",
    "told",
    "versions_of",
]

CURRENT: Final = "current"
SHADOW: Final = "shadow"


class ContenderError(LookupError):
    """There is no such job, version or run; says which there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A version of a job, or one run of it."""

    job: str
    version: str
    run: str | None = None

    @override
    def __str__(self) -> str:
        return self.version if self.run is None else f"{self.version}@{self.run}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The life of each contender for one record, and how far each has got."""

    a: str
    b: str
    source_id: str
    a_status: Status
    b_status: Status
    a_reason: Reason | None
    b_reason: Reason | None
    a_output_sha256: str | None
    b_output_sha256: str | None
    same_event: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One life: what it was asked, where its version's judgement lies, what it took. `of_`: of what it is a copy of."""

    request_id: str
    partition: int
    source_id: str
    run_id: str
    version: str
    status: Status
    reason: Reason | None
    input_offset: int
    input_sha256: str | None
    verdict_offset: int | None  #: of the version's own judgement, not a person's
    letter_checks_json: str | None
    own_cost_nanos: int
    own_unpriced_calls: int
    own_tokens: int
    copied: bool
    of_version: str | None
    of_cost_nanos: int | None
    of_unpriced_calls: int | None
    of_tokens: int | None

    @property
    def is_dead(self) -> bool:
        """Whether its version has no good answer."""
        return self.status is Status.FAILED_TERMINAL and self.reason is not None and _is_dead(self.reason)

    @property
    def cost_nanos(self) -> int | None:
        """To have its answer, or None where that is not known."""
        if self.own_unpriced_calls:
            return None
        if not self._is_of_another:
            return self.own_cost_nanos
        return (
            None if self.of_unpriced_calls or self.of_cost_nanos is None else self.own_cost_nanos + self.of_cost_nanos
        )

    @property
    def tokens(self) -> int | None:
        if not self._is_of_another:
            return self.own_tokens
        return None if self.of_tokens is None else self.own_tokens + self.of_tokens

    @property
    def _is_of_another(self) -> bool:
        """A copy of another version's answer costs what that one did: it is not to hang on who was asked first. A copy
        within the version is free, as it is when the version is in force.
        """
        return self.copied and self.of_version != self.version


class Standing(StrEnum):
    """What a life can be counted as, before its body is read."""

    SETTLED = "settled"
    WAITING = "waiting"  #: an answer, or a second opinion on it, is still to come
    OUTSIDE = "outside"  #: it ended for reasons that are none of its version


def job_row(view: View, job: str) -> Job:
    """As the task that heard last has it."""
    found = view.typed(Job, "SELECT * FROM jobs WHERE job = ? ORDER BY updated_at_ms DESC LIMIT 1", (job,))
    if not found:
        raise ContenderError(f"the read model knows no job {job}; see `batchmill job list`")
    return found[0]


def versions_of(row: Job) -> list[str]:
    """In the order in which they were first applied."""
    return list(json.loads(row.versions_json))


def specs_of(row: Job) -> dict[str, JobSpec]:
    return {version: JobSpec.from_json(json.dumps(spec)) for version, spec in json.loads(row.versions_json).items()}


def contender(view: View, row: Job, text: str) -> Contender:
    """`VERSION`, `VERSION@RUN`; a version by its name or the beginning of one, or `current` or `shadow`."""
    named, at, run = text.partition("@")
    made = Contender(job=row.job, version=_version(row, named), run=run or None)
    if at and not run:
        raise ContenderError(f"{text}: write VERSION@RUN")
    if run and view.row(_HAS_RUN, (row.job, run, made.version)) is None:
        known = ", ".join(_runs(view, made)) or "none"
        raise ContenderError(f"{row.job} has no run {run} under version {made.version}; it has: {known}")
    return made


def _version(row: Job, named: str) -> str:
    known = versions_of(row)
    if named == CURRENT:
        return row.version
    if named == SHADOW:
        shadows = [version for version in known if version in shadows_of(row)]
        if not shadows:
            raise ContenderError(f"job {row.job} has no shadow version: every one that was applied is promoted")
        return shadows[-1]
    found = [version for version in known if version == named] or [each for each in known if each.startswith(named)]
    if not named or len(found) != 1:
        what = "has no version" if not found else "has several versions that begin with"
        raise ContenderError(f"job {row.job} {what} {named!r}; it has: {', '.join(known)}")
    return found[0]


_HAS_RUN = "SELECT 1 FROM lives WHERE job = ? AND run_id = ? AND version = ? LIMIT 1"
_RUNS_TOLD = 20


def _runs(view: View, of: Contender) -> list[str]:
    sql = "SELECT DISTINCT run_id FROM lives WHERE job = ? AND version = ? ORDER BY 1 LIMIT ?"
    return [row["run_id"] for row in view.rows(sql, (of.job, of.version, _RUNS_TOLD))]


def reruns(view: View, job: str, version: str) -> list[str]:
    """Runs in which the version was asked anew what it had answered before, the newest first."""
    sql = """SELECT run_id FROM lives WHERE job = ? AND version = ? AND epoch > 0
      GROUP BY 1 ORDER BY MAX(queued_at_ms) DESC LIMIT ?"""
    return [row["run_id"] for row in view.rows(sql, (job, version, _RUNS_TOLD))]


# -- which belong together ---------------------------------------------------------------------------------------------

#: of one contender: the lives of its run; without a run, those that nothing of an earlier epoch goes before
_SIDE = """{0}.job = :job AND {0}.version = :{0}_version AND ({0}.run_id = :{0}_run
    OR (:{0}_run IS NULL AND ({0}.epoch = 0 OR NOT EXISTS (SELECT 1 FROM lives e WHERE e.source_id = {0}.source_id
      AND e.job = {0}.job AND e.version = {0}.version AND e.epoch < {0}.epoch
      AND e.origin_generation = {0}.origin_generation AND e.origin_partition = {0}.origin_partition
      AND e.origin_offset = {0}.origin_offset))))"""
_SAME_EVENT = """(a.origin_generation = b.origin_generation AND a.origin_partition = b.origin_partition
    AND a.origin_offset = b.origin_offset)"""
_MATCHES = f"""SELECT a.request_id AS a, b.request_id AS b, a.source_id AS source_id,
    a.status AS a_status, b.status AS b_status, a.reason AS a_reason, b.reason AS b_reason,
    a.output_sha256 AS a_output_sha256, b.output_sha256 AS b_output_sha256,
    {_SAME_EVENT} AS same_event
  FROM lives a JOIN lives b ON b.source_id = a.source_id
    LEFT JOIN work_items i ON i.partition = a.partition AND i.offset = a.input_offset
    LEFT JOIN work_items j ON j.partition = b.partition AND j.offset = b.input_offset
  WHERE {_SIDE.format("a")} AND {_SIDE.format("b")} AND a.request_id <> b.request_id
    AND ({_SAME_EVENT} OR i.input_sha256 = j.input_sha256
      OR (a.run_id = b.run_id AND substr(a.run_id, 1, {len(RUN_PREFIX)}) = '{RUN_PREFIX}'))
  ORDER BY a.request_id, same_event DESC, b.origin_at_ms DESC, b.request_id"""


def matches(view: View, a: Contender, b: Contender) -> Iterator[Match]:
    """Each life of A with the life of B that is nearest to it: of the same raw event, else of the newest one alike."""
    values = {"job": a.job, "a_version": a.version, "a_run": a.run, "b_version": b.version, "b_run": b.run}
    found = view.each(Match, _MATCHES, values)
    return (next(alike) for _, alike in groupby(found, key=lambda match: match.a))


# -- what became of one ------------------------------------------------------------------------------------------------

#: an answer is a copy if its result is another request's, or says so
_TOLD = """SELECT l.request_id, l.partition, l.source_id, l.run_id, l.version, l.status, l.reason, l.input_offset,
    i.input_sha256,
    (SELECT MAX(v.offset) FROM verdicts v WHERE v.request_id = l.request_id AND by_version(v.decided_by))
      AS verdict_offset,
    (SELECT d.checks_json FROM dead_letters d WHERE d.request_id = l.request_id ORDER BY d.at_ms DESC LIMIT 1)
      AS letter_checks_json,
    l.cost_nanos AS own_cost_nanos, l.unpriced_calls AS own_unpriced_calls,
    l.input_tokens + l.output_tokens AS own_tokens,
    COALESCE(r.request_id <> l.request_id OR r.answered_by IN ('store', 'near'), 0) AS copied,
    o.version AS of_version, o.cost_nanos AS of_cost_nanos, o.unpriced_calls AS of_unpriced_calls,
    o.input_tokens + o.output_tokens AS of_tokens
  FROM lives l LEFT JOIN work_items i ON i.partition = l.partition AND i.offset = l.input_offset
    LEFT JOIN results r ON r.partition = l.partition AND r.offset = l.result_offset
    LEFT JOIN lives o ON o.request_id =
      CASE WHEN r.request_id <> l.request_id THEN r.request_id ELSE r.of_request_id END
  WHERE l.request_id = ?"""


def told(view: View, request_ids: Iterable[str]) -> Iterator[Told]:
    """One by one, in the order given; what has expired since is left out."""
    view.define("by_version", 1, lambda decided_by: decided_by == "rules" or is_job(decided_by))
    for request_id in request_ids:
        yield from view.each(Told, _TOLD, (request_id,))


_WITH_ANSWER = frozenset({Status.VALIDATED, Status.COMMITTED, Status.NEEDS_REVIEW})
_OF_THE_VERSION = frozenset({Fault.JOB, Fault.PROVIDER})
#: a person, or the sink, had an answer of the version before them
_AFTER_AN_ANSWER = frozenset({Reason.DECLINED, Reason.SINK_REFUSED})


def standing(status: Status, reason: Reason | None, *, answered: bool) -> Standing:
    """`answered`: there was an answer, whatever became of it."""
    if status in _WITH_ANSWER:
        return Standing.WAITING if reason is Reason.AWAITING_SCORE else Standing.SETTLED
    if status is not Status.FAILED_TERMINAL or reason is None:
        return Standing.WAITING
    if _is_dead(reason) or reason in _AFTER_AN_ANSWER:
        return Standing.SETTLED
    return Standing.SETTLED if answered and info(reason).excluded else Standing.OUTSIDE


def _is_dead(reason: Reason) -> bool:
    """Whether it says that the version has no good answer: a model or a prompt may be blamed for it."""
    about = info(reason)
    return about.fault in _OF_THE_VERSION and not about.excluded and reason is not Reason.OVER_BUDGET
