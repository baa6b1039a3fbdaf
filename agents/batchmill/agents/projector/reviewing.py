"""What the review desk asks of the read model: the queue, one record, decisions in force, counts.

A decision is *in force* when it was not undone and is its author's newest about that answer. What an answer waits for
is its life's; what a person thinks is in `decisions`; the first of two opinions is a row of `meta`.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.agents.projector.reading import View
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Job
from batchmill.schemas.status import Status

__all__ = [
    "OPINION_ROWS",
    "Counts",
    "DecisionRow",
    "GoldRow",
    "Mark",
    "Position",
    "RatedRow",
    "ReviewedRow",
    "Risk",
    "WaitingRow",
    "counts",
    "decision",
    "decisions",
    "gold_rows",
    "job_row",
    "marks",
    "opinions_in_force",
    "position",
    "rated",
    "reviewed",
    "waiting",
    "waiting_by_job",
    "waiting_total",
]

#: meta rows that hold the first of two independent decisions
OPINION_ROWS = "opinion/"
#: (reason, confidence, failed checks that reject, failed checks that doubt) -> 0 to 1
Risk = Callable[[str | None, float | None, int, int], float]

#: what of a life changes when a decision has taken effect
Mark = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in the queue."""

    risk: float
    since_ms: int
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRow:
    """A request that waits for a person, or did."""

    request_id: str
    job: str
    version: str
    source_id: str
    status: Status
    reason: Reason | None
    confidence: float | None
    risk: float
    output_sha256: str | None
    commit_id: str | None
    reverted: bool
    aside: bool  #: another version answers for its raw event
    updated_at_ms: int
    due_at_ms: int | None
    partition: int
    input_offset: int
    verdict_at: int | None  #: offset in `validated` of the verdict on this very answer
    opinion_json: str | None

    @property
    def mark(self) -> Mark:
        return f"{self.status}/{self.updated_at_ms}/{self.output_sha256}/{self.opinion_json or ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """One decision; a correction's text lies in the log at partition and offset."""

    id: str
    request_id: str
    job: str
    action: str
    output_sha256_seen: str
    reason: str | None
    until_ms: int | None
    undoes: str | None
    actor: str
    decided_at_ms: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewedRow:
    """One person's decision in force about one answer."""

    request_id: str
    output_sha256_seen: str
    actor: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedRow:
    """A decision beside what the model had told; `faults`: failed checks other than that on the confidence."""

    action: str
    version: str | None
    confidence: float | None
    faults: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRow:
    """An accept or correction in force, and where its texts lie; `verdict_at` None: the verdict is not known."""

    id: str
    request_id: str
    job: str
    version: str
    source_id: str
    action: str
    actor: str
    reason: str | None
    decided_at_ms: int
    partition: int
    offset: int
    input_offset: int
    verdict_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Of the queue and of the decisions in force."""

    waiting: int
    deferred: int
    awaiting_score: int
    oldest_ms: int | None
    by_reason: Mapping[str, int]
    by_job: Mapping[str, int]
    by_action: Mapping[str, int]
    by_actor: Mapping[str, int]


_VERDICT_AT = """(SELECT MAX(v.offset) FROM verdicts v WHERE v.request_id = l.request_id
    AND v.partition = l.partition AND v.output_sha256 = {sha})"""
_FAILED = """(SELECT COUNT(*) FROM failed_checks f WHERE f.partition = l.partition AND f.offset = l.verdict_offset
    AND f.severity = '{severity}')"""
_RISK = f"""risk(l.reason, l.confidence, {_FAILED.format(severity="reject")}, {_FAILED.format(severity="review")})"""
_OPINION = f"""(SELECT m.value_json FROM meta m WHERE m.partition = l.partition
    AND m.name = '{OPINION_ROWS}' || l.request_id)"""
_ROW = f"""SELECT l.*, {_RISK} AS risk, {_VERDICT_AT.format(sha="l.output_sha256")} AS verdict_at,
    {_OPINION} AS opinion_json FROM lives l"""
#: what stands aside is not offered: its version may never come forward, and then nobody needs to have looked
_WAITS = f"l.status = '{Status.NEEDS_REVIEW}' AND NOT l.aside"
#: what a machine decides soon is shown to people only where they ask for it
_FOR_PEOPLE = f"(l.reason IS NULL OR l.reason <> '{Reason.AWAITING_SCORE}')"
_CHOSEN = f"""{_WAITS} AND (:job IS NULL OR l.job = :job)
    AND CASE WHEN :sampled THEN l.reason IS NULL WHEN :reason IS NULL THEN {_FOR_PEOPLE} ELSE l.reason = :reason END
    AND (:deferred OR l.due_at_ms IS NULL OR l.due_at_ms <= :now_ms)
    AND l.request_id NOT IN (SELECT value FROM json_each(:hidden))"""
_BEHIND = """(:risk IS NULL OR risk < :risk OR (risk = :risk AND (updated_at_ms > :since_ms
    OR (updated_at_ms = :since_ms AND request_id > :request_id))))"""
_DECIDES = "('accept', 'correct', 'decline')"
_IN_FORCE = f"""SELECT d.*, MAX(d.offset) FROM decisions d WHERE d.action IN {_DECIDES}
    AND (:job IS NULL OR d.job = :job) AND NOT EXISTS (SELECT 1 FROM decisions u
      WHERE u.request_id = d.request_id AND u.action = 'undo' AND u.undoes = d.id)
    GROUP BY d.request_id, d.output_sha256_seen, d.actor"""


def waiting(view: View, risk: Risk, chosen: Mapping[str, Any], after: Position | None, limit: int) -> list[WaitingRow]:
    """The highest risk first, then the longest wait. `chosen`: job, reason, sampled, deferred, now_ms, hidden (ids)."""
    view.define("risk", 4, risk)
    ranked = f"SELECT l.request_id, l.updated_at_ms, {_RISK} AS risk FROM lives l WHERE {_CHOSEN}"
    sql = f"""WITH w AS MATERIALIZED ({ranked})
      SELECT request_id FROM w WHERE {_BEHIND} ORDER BY risk DESC, updated_at_ms, request_id LIMIT :limit"""
    at = {
        "risk": None if after is None else after.risk,
        "since_ms": None if after is None else after.since_ms,
        "request_id": None if after is None else after.request_id,
    }
    names = [row["request_id"] for row in view.rows(sql, {**_bound(chosen), **at, "limit": limit})]
    rows = reviewed(view, risk, names)
    return [rows[name] for name in names if name in rows]  # one that expired between the two is not there any more


def waiting_total(view: View, chosen: Mapping[str, Any]) -> int:
    return view.number(f"SELECT COUNT(*) FROM lives l WHERE {_CHOSEN}", _bound(chosen))


def reviewed(view: View, risk: Risk, request_ids: Collection[str]) -> dict[str, WaitingRow]:
    """The requests of these ids, whatever has become of them."""
    view.define("risk", 4, risk)
    sql = f"{_ROW} WHERE l.request_id IN (SELECT value FROM json_each(:ids))"
    found = view.typed(WaitingRow, sql, {"ids": _ids(request_ids)})
    return {row.request_id: row for row in found}


def marks(view: View, request_ids: Collection[str]) -> dict[str, Mark]:
    return {name: row.mark for name, row in reviewed(view, lambda *_: 0.0, request_ids).items()}


def job_row(view: View, partition: int, job: str) -> Job | None:
    """The job as the task of this partition has it, its frozen versions included."""
    found = view.typed(Job, "SELECT * FROM jobs WHERE partition = ? AND job = ?", (partition, job))
    return found[0] if found else None


def decisions(view: View, request_id: str, *, limit: int) -> list[DecisionRow]:
    """All that was ever decided about a request, oldest first; of more than `limit` the newest."""
    sql = (
        """SELECT * FROM (SELECT * FROM decisions WHERE request_id = ? ORDER BY offset DESC LIMIT ?) ORDER BY offset"""
    )
    return view.typed(DecisionRow, sql, (request_id, limit))


def decision(view: View, name: str) -> DecisionRow | None:
    """By its id."""
    found = view.typed(DecisionRow, "SELECT * FROM decisions WHERE id = ?", (name,))
    return found[0] if found else None


def opinions_in_force(view: View, job: str | None) -> list[ReviewedRow]:
    """Decisions about answers that two or more people decided; those about one answer in their order."""
    sql = f"""WITH f AS ({_IN_FORCE}) SELECT * FROM f WHERE (request_id, output_sha256_seen) IN
      (SELECT request_id, output_sha256_seen FROM f GROUP BY 1, 2 HAVING COUNT(*) > 1)
      ORDER BY request_id, output_sha256_seen, offset"""
    return view.typed(ReviewedRow, sql, {"job": job})


def rated(view: View, job: str) -> list[RatedRow]:
    """Every decision in force beside the confidence of the answer it is about."""
    sql = f"""WITH f AS ({_IN_FORCE}), at AS (
        SELECT f.action, f.partition, (SELECT MAX(v.offset) FROM verdicts v WHERE v.request_id = f.request_id
          AND v.output_sha256 = f.output_sha256_seen AND v.status = 'needs_review') AS verdict_at FROM f)
      SELECT at.action, v.version, v.confidence, (SELECT COUNT(*) FROM failed_checks c WHERE c.partition = at.partition
        AND c.offset = at.verdict_at AND c.id <> 'confidence' AND c.severity <> 'warn') AS faults
      FROM at LEFT JOIN verdicts v ON v.partition = at.partition AND v.offset = at.verdict_at"""
    return view.typed(RatedRow, sql, {"job": job})


def gold_rows(view: View, job: str, *, after: str, limit: int) -> list[GoldRow]:
    """By request id behind `after`: the newest accept or correction in force of each request that is still known.

    One of several opinions about an answer that still waits is no example: nobody knows yet which of them holds.
    """
    at = _VERDICT_AT.format(sha="f.output_sha256_seen")
    sql = f"""WITH f AS ({_IN_FORCE}), g AS (SELECT *, MAX(offset) FROM f WHERE request_id > :after GROUP BY request_id)
      SELECT f.id, f.request_id, f.job, l.version, l.source_id, f.action, f.actor, f.reason, f.decided_at_ms,
        f.partition, f.offset, l.input_offset, {at} AS verdict_at
      FROM g f JOIN lives l ON l.request_id = f.request_id WHERE f.action <> 'decline'
        AND NOT (l.status = '{Status.NEEDS_REVIEW}' AND l.output_sha256 = f.output_sha256_seen)
      ORDER BY f.request_id LIMIT :limit"""
    return view.typed(GoldRow, sql, {"job": job, "after": after, "limit": limit})


def counts(view: View, *, job: str | None, now_ms: int, hidden: Collection[str]) -> Counts:
    """How much waits, by what, and what was decided."""
    values = {"job": job, "now_ms": now_ms, "hidden": _ids(hidden)}
    rows = view.rows(
        f"""SELECT l.job, l.reason, COALESCE(l.due_at_ms > :now_ms, 0) AS later, COUNT(*) AS n,
        MIN(l.updated_at_ms) AS oldest FROM lives l WHERE {_WAITS} AND (:job IS NULL OR l.job = :job)
        AND l.request_id NOT IN (SELECT value FROM json_each(:hidden)) GROUP BY 1, 2, 3""",
        values,
    )
    found = list(rows)
    scores = [row for row in found if row["reason"] == Reason.AWAITING_SCORE]
    people = [row for row in found if row["reason"] != Reason.AWAITING_SCORE]
    now = [row for row in people if not row["later"]]
    decided = list(
        view.rows(f"WITH f AS ({_IN_FORCE}) SELECT action, actor, COUNT(*) AS n FROM f GROUP BY 1, 2", {"job": job})
    )
    return Counts(
        waiting=sum(row["n"] for row in now),
        deferred=sum(row["n"] for row in people if row["later"]),
        awaiting_score=sum(row["n"] for row in scores),
        oldest_ms=min((row["oldest"] for row in now), default=None),
        by_reason=_summed((row["reason"] or "sampled", row["n"]) for row in now),
        by_job=_summed((row["job"], row["n"]) for row in now),
        by_action=_summed((row["action"], row["n"]) for row in decided),
        by_actor=_summed((row["actor"], row["n"]) for row in decided),
    )


def waiting_by_job(view: View, *, now_ms: int, hidden: Collection[str]) -> dict[str, int]:
    """How much waits for people now: what is looked at again and again."""
    sql = f"SELECT l.job, COUNT(*) AS n FROM lives l WHERE {_CHOSEN} GROUP BY 1 ORDER BY 1"
    values = {"job": None, "reason": None, "sampled": False, "deferred": False, "now_ms": now_ms}
    return {row["job"]: row["n"] for row in view.rows(sql, {**values, "hidden": _ids(hidden)})}


def position(view: View) -> tuple[int, int]:
    """(how far the log was read, over all partitions; broker time of the newest record)."""
    row = view.row("SELECT COALESCE(SUM(next_offset), 0) AS at, COALESCE(MAX(at_ms), 0) AS newest FROM positions")
    assert row is not None, "a query of sums has one row"
    return int(row["at"]), int(row["newest"])


def _bound(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {**chosen, "hidden": _ids(chosen["hidden"])}


def _ids(request_ids: Collection[str]) -> str:
    return orjson.dumps(sorted(request_ids)).decode()


def _summed(pairs: Iterator[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, n in pairs:
        found[name] = found.get(name, 0) + n
    return dict(sorted(found.items()))
