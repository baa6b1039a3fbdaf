"""What was written downstream, as the read model has it: runs, histories of targets, what a revert would do, and what
holds commits up.

What a target holds is told by its records in the order of the log: a commit that outranks all before it, a revert of
what is held, a replay onto what its commit had replaced.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from batchmill.agents.projector.reading import View
from batchmill.schemas.state import Meta
from batchmill.schemas.status import Status
from batchmill.streams.committing import DOWN_ROWS
from batchmill.streams.index import CHANGE_ROWS
from batchmill.streams.limiting import COMMIT_ROWS, HeldBy
from batchmill.streams.ports import ChangeKind
from batchmill.streams.reverting import Progress, progress_of
from batchmill.streams.sinks import SINKS

__all__ = [
    "CommitLimit",
    "CommitRow",
    "CommittedRun",
    "DownSink",
    "Forecast",
    "InTheWay",
    "change_progress",
    "commit_limits",
    "committed_runs",
    "down_sinks",
    "forecast",
    "held_by_target",
    "history",
    "run_requests",
    "waiting_commits",
]

#: values bound to one statement; SQLite's own limit is far above
_BOUND_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRow:
    """One record of `committed`."""

    partition: int
    offset: int
    at_ms: int
    request_id: str
    job: str
    version: str
    source_id: str
    seq: int
    promotion: int
    run_id: str
    sink: str
    target_key: str
    kind: str
    commit_id: str
    previous_commit_id: str | None
    reverts: str | None
    removed: bool
    output_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedRun:
    """What one run has written, and how much of it was taken back."""

    run_id: str
    job: str
    versions: str  #: under which it wrote, by commas; an ingest's events may be answered under several, over time
    commits: int  #: writes, repeated ones of one request included
    committed: int  #: requests that are committed now, and in front
    reverted: int  #: requests whose commit is taken back now
    first_at_ms: int
    last_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitLimit:
    """What one task counts against the limits of a version."""

    partition: int
    job: str
    version: str
    commits: int
    changed: int
    held: HeldBy | None

    @property
    def why(self) -> str:
        if self.held is HeldBy.CHANGE:
            return f"{self.changed:,} of {self.commits:,} commits changed what was there"
        return f"{self.commits:,} commits were allowed and made"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownSink:
    """A sink, or a topic of Kafka, that tasks cannot write to."""

    line: str
    tasks: int
    since_ms: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InTheWay:
    """A commit that cannot be changed, because its target holds another one by now."""

    request_id: str
    target_key: str
    held_commit_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a revert or replay would find, as far as the read model knows."""

    kind: ChangeKind
    targets: tuple[tuple[str, str], ...]  #: request, target key: of those that would be changed
    already: int
    other: int  #: named requests that are not committed
    conflicts: tuple[InTheWay, ...]
    sinks: Mapping[str, int]
    refused: Mapping[str, int]  #: sinks that keep no history: what they were given cannot be taken back
    jobs: Mapping[str, tuple[str, ...]]  #: job -> the requests it has among those named


def committed_runs(
    view: View, *, job: str | None = None, run: str | None = None, limit: int = 100
) -> list[CommittedRun]:
    """The newest first."""
    sql = f"""SELECT c.run_id, c.job, GROUP_CONCAT(DISTINCT c.version) AS versions, COUNT(*) AS commits,
      MIN(c.at_ms) AS first_at_ms, MAX(c.at_ms) AS last_at_ms,
      (SELECT COUNT(*) FROM lives l WHERE l.run_id = c.run_id AND l.job = c.job AND l.status = '{Status.COMMITTED}'
        AND NOT l.aside) AS committed,
      (SELECT COUNT(*) FROM lives l WHERE l.run_id = c.run_id AND l.job = c.job AND l.reverted) AS reverted
      FROM commits c WHERE kind = 'commit' AND (:job IS NULL OR job = :job) AND (:run IS NULL OR run_id = :run)
      GROUP BY 1, 2 ORDER BY last_at_ms DESC, c.run_id LIMIT :limit"""
    return view.typed(CommittedRun, sql, {"job": job, "run": run, "limit": limit})


def history(view: View, name: str, *, job: str | None = None, limit: int = 1_000) -> list[CommitRow]:
    """Everything written to the targets that `name` names: as a request, a commit, a source or a target; oldest
    first.
    """
    sql = """SELECT * FROM commits WHERE (sink, job, target_key) IN (
        SELECT sink, job, target_key FROM commits
        WHERE (request_id = :name OR commit_id = :name OR source_id = :name OR target_key = :name)
          AND (:job IS NULL OR job = :job))
      ORDER BY sink, job, target_key, partition, offset LIMIT :limit"""
    return view.typed(CommitRow, sql, {"name": name, "job": job, "limit": limit})


def run_requests(view: View, run: str) -> dict[str, int]:
    """How many requests of the run each job has."""
    found = view.rows("SELECT job, COUNT(*) AS n FROM lives WHERE run_id = ? GROUP BY 1", (run,))
    return {row["job"]: row["n"] for row in found}


def forecast(view: View, kind: ChangeKind, *, run: str | None = None, requests: Sequence[str] = ()) -> Forecast:
    """What the command would find now. What a change of the same command clears the way for is no conflict."""
    lives = _lives(view, run, requests)
    history_ = _histories(view, {(row["job"], row["target_key"]) for row in lives})
    asked: dict[tuple[str, str], list[CommitRow]] = defaultdict(list)
    already = other = 0
    jobs: dict[str, list[str]] = defaultdict(list)
    for row in lives:
        jobs[row["job"]].append(row["request_id"])
        is_committed = row["status"] == Status.COMMITTED
        if not is_committed and not row["reverted"]:
            other += 1
        elif bool(row["reverted"]) is (kind is ChangeKind.REVERT):
            already += 1
        else:
            target = (row["job"], row["target_key"])
            asked[target] += [each for each in history_[target] if each.commit_id == row["commit_id"]][:1]
    able, conflicts = _tried(kind, asked, history_, run)
    done = [each for each in able if _keeps_history(each.sink)]
    named = len(set(requests)) - sum(map(len, jobs.values())) if run is None else 0
    return Forecast(
        kind=kind,
        targets=tuple((each.request_id, each.target_key) for each in done),
        already=already,
        other=other + named,
        conflicts=conflicts,
        sinks=Counter(each.sink for each in done),
        refused=Counter(each.sink for each in able if not _keeps_history(each.sink)),
        jobs={job: tuple(found) for job, found in jobs.items()},
    )


def _keeps_history(sink: str) -> bool:
    return sink not in SINKS or SINKS[sink].revertible


def _tried(
    kind: ChangeKind,
    asked: Mapping[tuple[str, str], Sequence[CommitRow]],
    histories: Mapping[tuple[str, str], Sequence[CommitRow]],
    run: str | None,
) -> tuple[list[CommitRow], tuple[InTheWay, ...]]:
    done: list[CommitRow] = []
    conflicts: list[InTheWay] = []
    for target, commits in asked.items():
        held = held_by_target(histories[target])
        is_revert = kind is ChangeKind.REVERT
        whole = [*commits, *_earlier(histories[target], commits, run)]
        for each in sorted(whole, key=lambda row: (row.seq, row.promotion), reverse=is_revert):
            wanted, then = (each.commit_id, each.previous_commit_id) if is_revert else _other_way(each)
            if held == wanted:
                held = then
                done.append(each)
            elif each in commits:
                conflicts.append(InTheWay(request_id=each.request_id, target_key=each.target_key, held_commit_id=held))
    return done, tuple(conflicts)


def _earlier(history: Sequence[CommitRow], commits: Sequence[CommitRow], run: str | None) -> list[CommitRow]:
    """Commits of the run whose requests went on to another one (A, B, A): they are met only where they lie beneath."""
    of_run = [each for each in history if each.kind == "commit" and each.run_id == run]
    known = {each.commit_id for each in commits}
    return list({each.commit_id: each for each in of_run if each.commit_id not in known}.values())


def _other_way(commit: CommitRow) -> tuple[str | None, str]:
    return commit.previous_commit_id, commit.commit_id


def held_by_target(records: Iterable[CommitRow]) -> str | None:
    """The commit that a target holds after these records of it, in the order of the log; None: nothing."""
    held: str | None = None
    newest = (-1, -1)
    before: dict[str, str | None] = {}
    for record in records:
        if record.kind == "commit":
            before[record.commit_id] = record.previous_commit_id
            if (record.seq, record.promotion) > newest:
                held, newest = record.commit_id, (record.seq, record.promotion)
        elif record.kind == ChangeKind.REVERT and record.reverts == held:
            held = before.get(record.reverts) if record.reverts is not None else held
        elif record.kind == ChangeKind.REPLAY and record.reverts is not None and before.get(record.reverts) == held:
            held = record.reverts
    return held


def _lives(view: View, run: str | None, requests: Sequence[str]) -> list[Mapping[str, Any]]:
    columns = "SELECT request_id, job, target_key, status, reverted, commit_id FROM lives"
    if run is not None:
        return [dict(row) for row in view.rows(f"{columns} WHERE run_id = ?", (run,))]
    found: list[Mapping[str, Any]] = []
    names = sorted(set(requests))
    for start in range(0, len(names), _BOUND_MAX):
        part = names[start : start + _BOUND_MAX]
        marks = ", ".join("?" * len(part))
        found += [dict(row) for row in view.rows(f"{columns} WHERE request_id IN ({marks})", tuple(part))]
    return found


def _histories(view: View, targets: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[CommitRow]]:
    found: dict[tuple[str, str], list[CommitRow]] = defaultdict(list)
    keys = sorted({target_key for _, target_key in targets})
    for start in range(0, len(keys), _BOUND_MAX):
        part = keys[start : start + _BOUND_MAX]
        marks = ", ".join("?" * len(part))
        sql = f"SELECT * FROM commits WHERE target_key IN ({marks}) ORDER BY partition, offset"
        for row in view.typed(CommitRow, sql, tuple(part)):
            found[row.job, row.target_key].append(row)
    return found


def commit_limits(
    view: View, *, job: str | None = None, version: str | None = None, partition: int | None = None
) -> list[CommitLimit]:
    """What each task counts, of every version that has committed anything."""
    found = view.rows(
        "SELECT partition, name, value_json FROM meta WHERE name LIKE ? AND (? IS NULL OR partition = ?) ORDER BY 1, 2",
        (f"{COMMIT_ROWS}%", partition, partition),
    )
    limits = []
    for row in found:
        of_job, _, of_version = row["name"].removeprefix(COMMIT_ROWS).partition("/")
        told = orjson.loads(row["value_json"])
        if job in {None, of_job} and version in {None, of_version}:
            limits.append(
                CommitLimit(
                    partition=row["partition"],
                    job=of_job,
                    version=of_version,
                    commits=told["commits"],
                    changed=told["changed"],
                    held=None if told["held"] is None else HeldBy(told["held"]),
                )
            )
    return limits


def down_sinks(view: View) -> list[DownSink]:
    """By line, the first that failed first."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in view.rows("SELECT name, value_json FROM meta WHERE name LIKE ?", (f"{DOWN_ROWS}%",)):
        told = orjson.loads(row["value_json"])
        found[row["name"].removeprefix(DOWN_ROWS)].append((told["since_ms"], told["why"]))
    told_ = [
        DownSink(line=line, tasks=len(each), since_ms=min(each)[0], why=min(each)[1]) for line, each in found.items()
    ]
    return sorted(told_, key=lambda each: each.since_ms)


def waiting_commits(view: View, job: str | None = None) -> int:
    """Requests that passed and are not written yet, those taken back and those aside apart."""
    sql = f"""SELECT COUNT(*) FROM lives WHERE status = '{Status.VALIDATED}' AND NOT reverted AND NOT aside
      AND (? IS NULL OR job = ?)"""
    return view.number(sql, (job, job))


def change_progress(view: View, command_id: str) -> dict[int, Progress]:
    """How far each task has got with a revert or replay."""
    found = view.rows("SELECT partition, name, value_json FROM meta WHERE name = ?", (CHANGE_ROWS + command_id,))
    return {row["partition"]: progress_of(Meta(name=row["name"], value_json=row["value_json"])) for row in found}
