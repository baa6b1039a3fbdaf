"""Rows of the read model, typed: records, batches, jobs, reviews, and how fresh the view is."""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.agents.projector.reading import View
from batchmill.agents.runtime.codec import OVERSEER
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Job
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.granting import budget_of, money_pool
from batchmill.streams.looking_up import WAITS

__all__ = [
    "BatchRow",
    "BudgetRow",
    "CommandRow",
    "Freshness",
    "JobRow",
    "LifeRow",
    "Overseen",
    "batch",
    "batches",
    "budgets",
    "command_laggards",
    "commands",
    "freshness",
    "jobs",
    "life",
    "lives",
    "looking_up",
    "overseen",
    "review_queue",
    "source_lives",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeRow:
    """One request as its task remembers it."""

    request_id: str
    job: str
    version: str
    source_id: str
    status: Status
    reason: Reason | None
    attempt: int
    sends: int
    seq: int
    promotion: int
    run_id: str
    lane: str
    target_key: str
    chunk_id: str | None
    queued_at_ms: int
    due_at_ms: int | None
    updated_at_ms: int
    cost_nanos: int
    unpriced_calls: int
    input_tokens: int
    output_tokens: int
    confidence: float | None
    redrives: int
    commit_id: str | None
    reverted: bool
    aside: bool  #: another life answers for its raw event
    epoch: int
    route: str
    parent: str | None
    part: str | None
    follows: str | None
    output_sha256: str | None
    partition: int
    input_offset: int
    result_offset: int | None
    verdict_offset: int | None
    origin_generation: int
    origin_partition: int
    origin_offset: int
    origin_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """One chunk: the ledger of one provider batch."""

    chunk_id: str
    partition: int
    job: str
    version: str
    account: str
    model: str
    mode: str
    state: ChunkState
    members: int
    bytes: int
    tokens: int
    attempt: int
    batch_id: str | None
    file_id: str | None
    remote_status: str | None
    payload_uri: str | None
    payload_sha256: str | None
    output_uri: str | None
    error_uri: str | None
    due_at_ms: int | None
    failures: int
    looks: int
    succeeded: int
    errored: int
    expired: int
    cancelled: int
    missing: int
    unknown_rows: int
    repeated_rows: int
    twins: int
    wasted_nanos: int
    untold_nanos: int
    doubtful_nanos: int
    cost_nanos: int
    reserved_nanos: int
    waits_for: str | None  #: the pool of whose grants it waits for one
    estimated_nanos: int
    cancel_requested: bool
    reason: Reason | None
    note: str | None
    created_at_ms: int
    updated_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as all tasks together have it; what was asked for beside what is in effect."""

    job: str
    version: str  #: in force
    shadows_json: str  #: versions that are tried out -> share of live events that they are asked about
    versions: int  #: frozen versions known
    requested_paused: bool
    paused_tasks: int  #: tasks in which the pause is in effect
    pause_reason: str | None  #: the provider's code, when it paused by itself
    effective_tasks: int  #: tasks that have seen the newest command
    tasks: int
    last_command_id: str
    open_lives: int
    parked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRow:
    """One operator command."""

    command_id: str
    command: str
    job: str
    version: str | None
    actor: str
    issued_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """The money of one job, all tasks together."""

    job: str
    limit_nanos: int | None  #: None: there is no budget (any more)
    reserved_nanos: int
    posted_nanos: int
    waiting: int  #: batches that wait for money

    @property
    def left_nanos(self) -> int | None:
        """What is neither spent nor held for batches on their way."""
        return None if self.limit_nanos is None else self.limit_nanos - self.reserved_nanos - self.posted_nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Overseen:
    """What is known of the overseer, and how many batches wait for it by pool."""

    instance: str | None
    at_ms: int | None  #: of its last heartbeat; None: there was none
    waiting: Mapping[str, int]

    def silent(self, now_ms: int) -> bool:
        """Whether none has been heard of for so long that none can be running."""
        return self.at_ms is None or now_ms - self.at_ms > _SILENT_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How much of the log the view holds."""

    records: int
    newest_at_ms: int  #: broker time of the newest record folded; 0 for an empty view
    gaps: int
    unreadable: int


#: an overseer that was not heard of for so long is not running
_SILENT_MS = 30_000
_OPEN = f"('{Status.COMMITTED}', '{Status.FAILED_TERMINAL}')"


def lives(
    view: View,
    *,
    job: str | None = None,
    status: Iterable[Status] = (),
    reason: Reason | None = None,
    run: str | None = None,
    version: str | None = None,
    source: str | None = None,
    since_ms: int | None = None,
    limit: int = 100,
) -> list[LifeRow]:
    """The most recently moved first."""
    wanted = [str(each) for each in status]
    where, values = _where(
        ("job = ?", job),
        ("reason = ?", reason),
        ("run_id = ?", run),
        ("version = ?", version),
        ("source_id = ?", source),
        ("updated_at_ms >= ?", since_ms),
    )
    if wanted:
        where += f" AND status IN ({', '.join('?' * len(wanted))})"
        values = (*values, *wanted)
    sql = f"SELECT * FROM lives WHERE {where} ORDER BY updated_at_ms DESC, request_id LIMIT ?"
    return view.typed(LifeRow, sql, (*values, limit))


def life(view: View, request_id: str) -> LifeRow | None:
    found = view.typed(LifeRow, "SELECT * FROM lives WHERE request_id = ?", (request_id,))
    return found[0] if found else None


def source_lives(view: View, source_id: str, *, job: str | None = None) -> list[LifeRow]:
    """Every request of one source, oldest first."""
    where, values = _where(("source_id = ?", source_id), ("job = ?", job))
    return view.typed(LifeRow, f"SELECT * FROM lives WHERE {where} ORDER BY seq, queued_at_ms", values)


def batches(
    view: View,
    *,
    job: str | None = None,
    state: ChunkState | None = None,
    unfinished: bool = False,
    limit: int = 100,
) -> list[BatchRow]:
    """The most recently moved first."""
    where, values = _where(("job = ?", job), ("state = ?", state))
    if unfinished:
        where += f" AND state NOT IN ('{ChunkState.DONE}', '{ChunkState.FAILED}')"
    return view.typed(
        BatchRow, f"SELECT * FROM chunks WHERE {where} ORDER BY updated_at_ms DESC LIMIT ?", (*values, limit)
    )


def batch(view: View, name: str) -> BatchRow | None:
    """By chunk id or by the provider's batch id."""
    found = view.typed(BatchRow, "SELECT * FROM chunks WHERE chunk_id = ? OR batch_id = ?", (name, name))
    return found[0] if found else None


def budgets(view: View, job: str | None = None) -> list[BudgetRow]:
    """Jobs that have a budget, or had one."""
    where, values = _where(("job = ?", job))
    limits: dict[str, list[int | None]] = {}
    for row in view.typed(Job, f"SELECT * FROM jobs WHERE {where}", values):
        budget = budget_of(row)
        limits.setdefault(row.job, []).append(None if budget is None else budget.job_nanos)
    rows = view.rows("SELECT pool, SUM(reserved) AS r, SUM(posted) AS p FROM grants GROUP BY 1")
    sums = {row["pool"]: (row["r"], row["p"]) for row in rows}
    waiting = overseen(view).waiting
    found = []
    for name, known in sorted(limits.items()):
        pool = money_pool(name)
        reserved, posted = sums.get(pool, (0, 0))
        limit = min((each for each in known if each is not None), default=None)
        if limit is not None or pool in sums:
            found.append(
                BudgetRow(
                    job=name,
                    limit_nanos=limit,
                    reserved_nanos=reserved,
                    posted_nanos=posted,
                    waiting=waiting.get(pool, 0),
                )
            )
    return found


def overseen(view: View) -> Overseen:
    row = view.row("SELECT value_json FROM meta WHERE name = ?", (OVERSEER,))
    beat = {} if row is None else orjson.loads(row["value_json"])
    waiting = view.rows("SELECT waits_for, COUNT(*) AS n FROM chunks WHERE waits_for IS NOT NULL GROUP BY 1")
    return Overseen(
        instance=beat.get("instance"),
        at_ms=None if beat.get("left") else beat.get("at_ms"),
        waiting={row["waits_for"]: row["n"] for row in waiting},
    )


#: commands that leave no trace in the row of a job
_NOT_OF_A_JOB_ROW = "('redrive', 'import', 'look', 'revert', 'replay', 'manifest', 'rerun')"
_JOBS = f"""WITH newest AS (
  SELECT job, partition, MAX(offset) AS offset FROM commands WHERE command NOT IN {_NOT_OF_A_JOB_ROW} GROUP BY 1, 2
), asked AS (
  SELECT c.job, c.partition, c.offset, c.command_id FROM commands c JOIN newest USING (job, partition, offset)
), flags AS (
  SELECT job, MAX(CASE command WHEN 'pause' THEN at_ms END) AS paused_at,
    MAX(CASE command WHEN 'resume' THEN at_ms END) AS resumed_at FROM commands GROUP BY 1
), seen AS (
  SELECT j.job, j.partition, j.paused, j.pause_reason, j.version, j.versions_json, a.command_id,
    j.last_command_id = a.command_id AS level
  FROM jobs j LEFT JOIN asked a ON a.job = j.job AND a.partition = j.partition
)
SELECT n.job,
  COALESCE((SELECT version FROM jobs WHERE job = n.job ORDER BY updated_at_ms DESC LIMIT 1),
    (SELECT version FROM commands WHERE job = n.job AND command = 'apply' ORDER BY at_ms LIMIT 1), '') AS version,
  COALESCE((SELECT shadows_json FROM jobs WHERE job = n.job ORDER BY updated_at_ms DESC LIMIT 1), '{{}}')
    AS shadows_json,
  COALESCE((SELECT COUNT(DISTINCT version) FROM commands WHERE job = n.job AND command = 'apply'), 0) AS versions,
  COALESCE(f.paused_at > COALESCE(f.resumed_at, -1), 0) AS requested_paused,
  (SELECT COUNT(*) FROM seen WHERE job = n.job AND paused) AS paused_tasks,
  (SELECT MAX(pause_reason) FROM seen WHERE job = n.job AND paused) AS pause_reason,
  (SELECT COUNT(*) FROM seen WHERE job = n.job AND level) AS effective_tasks,
  COUNT(*) AS tasks, MAX(a.command_id) AS last_command_id,
  (SELECT COUNT(*) FROM lives WHERE job = n.job AND status NOT IN {_OPEN}) AS open_lives,
  (SELECT COUNT(*) FROM arrivals WHERE job = n.job) AS parked
FROM newest n JOIN asked a USING (job, partition, offset) JOIN flags f ON f.job = n.job
WHERE :job IS NULL OR n.job = :job GROUP BY n.job ORDER BY n.job"""


def jobs(view: View, job: str | None = None) -> list[JobRow]:
    """Every job that was ever commanded."""
    return view.typed(JobRow, _JOBS, {"job": job})


def looking_up(view: View, job: str | None = None) -> dict[str, int]:
    """How many raw events of each job wait for a look-up."""
    where, values = _where(("job = ?", job))
    sql = f"SELECT job, COUNT(*) AS n FROM arrivals WHERE waiting_for = ? AND {where} GROUP BY 1 ORDER BY 1"
    return {row["job"]: row["n"] for row in view.rows(sql, (WAITS, *values))}


def commands(view: View, job: str | None = None, *, limit: int = 100) -> list[CommandRow]:
    """The newest first, each command once."""
    where, values = _where(("job = ?", job))
    sql = f"""SELECT command_id, command, job, version, actor, issued_at_ms FROM commands WHERE {where}
      GROUP BY command_id ORDER BY MAX(at_ms) DESC LIMIT ?"""
    return view.typed(CommandRow, sql, (*values, limit))


def command_laggards(view: View, command_id: str) -> list[int]:
    """The tasks that have not taken a command (nor a later one of its job) yet."""
    rows = view.rows(
        """SELECT c.partition FROM commands c LEFT JOIN jobs j ON j.partition = c.partition AND j.job = c.job
        LEFT JOIN commands last ON last.partition = c.partition AND last.command_id = j.last_command_id
        WHERE c.command_id = ? AND (last.offset IS NULL OR last.offset < c.offset) ORDER BY 1""",
        (command_id,),
    )
    return [row["partition"] for row in rows]


def review_queue(view: View) -> list[tuple[str, int, int]]:
    """Per job: how many answers wait, and since when the oldest does."""
    found = view.rows(
        f"""SELECT job, COUNT(*) AS n, MIN(updated_at_ms) AS oldest FROM lives
        WHERE status = '{Status.NEEDS_REVIEW}' AND NOT aside GROUP BY 1"""
    )
    return [(row["job"], row["n"], row["oldest"]) for row in found]


def freshness(view: View) -> Freshness:
    row = view.row(
        """SELECT COALESCE(SUM(records), 0) AS records, COALESCE(MAX(at_ms), 0) AS newest_at_ms,
        (SELECT COUNT(*) FROM gaps) AS gaps, (SELECT COUNT(*) FROM unreadable) AS unreadable FROM positions"""
    )
    assert row is not None, "a query of counts has one row"
    return Freshness(**{name: int(row[name]) for name in row.keys()})  # noqa: SIM118  a Row iterates its values


def _where(*conditions: tuple[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """The conditions that have a value, and the values."""
    given = [(text, value) for text, value in conditions if value is not None]
    return " AND ".join(text for text, _ in given) or "1", tuple(value for _, value in given)
