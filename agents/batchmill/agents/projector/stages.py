"""Jobs that feed jobs, as the read model knows them: the graph, what a record stems from and started, cost by path.

A record's *path* is the chain of jobs from the first one to its own. What a path has cost by itself is what its last
stage has cost; what it has cost *in all* counts every record that its records stem from, each once, however many of
them share it. So the sums by themselves add up to everything, and those in all do not.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from batchmill.agents.projector.reading import View
from batchmill.schemas.state import Job
from batchmill.schemas.status import Status
from batchmill.streams.graphing import Edge, edges_of_row, route
from batchmill.streams.lineage import parts_of

__all__ = ["PathCost", "Relative", "Stage", "ancestors", "descendants", "graph", "paths", "stages"]

#: how far up a record is followed, and how many of its followers are told
_UP_MAX: Final = 64
_DOWN_MAX: Final = 100
ARROW: Final = " > "

Graph = Mapping[str, tuple[Edge, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A request that another one stems from, or has started."""

    request_id: str
    job: str
    source_id: str
    status: Status
    part: str | None
    cost_nanos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One job of the graph, and what its records came to."""

    job: str
    records: int
    committed: int
    failed: int
    spent_nanos: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCost:
    """One chain of jobs, and what its records came to."""

    path: tuple[str, ...]
    records: int
    committed: int
    own_nanos: int  #: of its last stage
    all_nanos: int  #: with everything that its records stem from
    unpriced_calls: int  #: of its last stage

    @property
    def per_success_nanos(self) -> float | None:
        return self.all_nanos / self.committed if self.committed else None


def graph(view: View) -> Graph:
    """What every applied job feeds."""
    return {job: edges_of_row(row) for job, row in _rows(view).items()}


def stages(view: View) -> dict[str, Stage]:
    """Every job that has a record, by name."""
    sql = f"""SELECT job, COUNT(*) AS records, COUNT(*) FILTER (WHERE {_DONE}) AS committed,
      COUNT(*) FILTER (WHERE status = '{Status.FAILED_TERMINAL}') AS failed, SUM(cost_nanos) AS spent_nanos,
      SUM(unpriced_calls) AS unpriced_calls FROM lives GROUP BY 1"""
    return {stage.job: stage for stage in view.typed(Stage, sql)}


def paths(view: View, job: str | None = None) -> list[PathCost]:
    """The cost of every path, or of those through `job`, in the order of the paths."""
    found, joins = graph(view), _joins(view)

    def step(start: str, end: str) -> str:
        return ARROW + ARROW.join(route(found, start, end, parts=end in joins))

    view.define("path_step", 2, step)
    view.define("is_joined", 1, lambda name: name in joins)
    rows = [
        PathCost(path=tuple(row["path"].split(ARROW)), **{name: int(row[name] or 0) for name in _SUMS})
        for row in view.rows(_PATHS)
    ]
    return [row for row in rows if job is None or job in row.path]


def ancestors(view: View, request_id: str) -> list[Relative]:
    """What a request stems from, the nearest first. A joined one stems from its whole, and that from what it is of."""
    found: list[Relative] = []
    known = {request_id}
    parent = _parent_of(view, request_id)
    while parent is not None and parent not in known and len(found) < _UP_MAX:
        known.add(parent)
        up = view.typed(Relative, f"{_RELATIVE} WHERE request_id = ?", (parent,))
        found += up
        parent = _parent_of(view, parent) if up else None
    return found


def descendants(view: View, request_id: str) -> list[Relative]:
    """What a request has started: its children, and what was made of the whole that it is a part of."""
    sql = f"{_RELATIVE} WHERE parent = ? ORDER BY job, source_id LIMIT {_DOWN_MAX}"
    children = view.typed(Relative, sql, (request_id,))
    row = view.row("SELECT part FROM lives WHERE request_id = ?", (request_id,))
    parts = parts_of(None if row is None else row["part"])
    if not parts:
        return children
    joins, whole = _joins(view), parts[0].whole
    joined = [each for each in view.typed(Relative, sql, (whole,)) if each.job in joins]
    return [*children, *joined]


#: counts for its raw event, and is downstream
_DONE = f"status = '{Status.COMMITTED}' AND NOT aside AND NOT reverted"
_RELATIVE = "SELECT request_id, job, source_id, status, part, cost_nanos FROM lives"
_SUMS = ("records", "committed", "own_nanos", "all_nanos", "unpriced_calls")
_PATHS = f"""WITH RECURSIVE placed(request_id, job, path, parent) AS (
  SELECT request_id, job, job, NULL FROM lives l
    WHERE parent IS NULL OR NOT EXISTS (SELECT 1 FROM lives p WHERE p.request_id = l.parent)
  UNION ALL
  SELECT c.request_id, c.job, p.path || path_step(p.job, c.job), p.request_id
    FROM placed p JOIN lives c ON c.parent = p.request_id
), of_whole(joined, whole, request_id) AS (
  SELECT j.request_id, j.parent, q.request_id FROM lives j JOIN lives q ON q.parent = j.parent
    WHERE is_joined(j.job) AND instr(q.part, '/' || j.parent || '/')
  UNION
  SELECT w.joined, w.whole, c.request_id FROM of_whole w JOIN lives c ON c.parent = w.request_id
    WHERE instr(c.part, '/' || w.whole || '/')
), earlier(request_id, of) AS (
  SELECT request_id, parent FROM placed WHERE parent IS NOT NULL
  UNION SELECT joined, request_id FROM of_whole
), counted(path, request_id) AS (
  SELECT path, request_id FROM placed
  UNION SELECT c.path, e.of FROM counted c JOIN earlier e ON e.request_id = c.request_id
), alls AS (
  SELECT c.path, SUM(l.cost_nanos) AS all_nanos FROM counted c JOIN lives l USING (request_id) GROUP BY 1
)
SELECT p.path, COUNT(*) AS records, COUNT(*) FILTER (WHERE {_DONE}) AS committed, SUM(l.cost_nanos) AS own_nanos,
  MAX(a.all_nanos) AS all_nanos, SUM(l.unpriced_calls) AS unpriced_calls
FROM placed p JOIN lives l USING (request_id) JOIN alls a ON a.path = p.path GROUP BY p.path ORDER BY p.path"""


def _parent_of(view: View, request_id: str) -> str | None:
    row = view.row("SELECT parent FROM lives WHERE request_id = ?", (request_id,))
    return None if row is None else row["parent"]


def _rows(view: View) -> dict[str, Job]:
    """Each job as the task has it that heard of it last."""
    return {row.job: row for row in view.typed(Job, "SELECT * FROM jobs ORDER BY updated_at_ms")}


def _joins(view: View) -> frozenset[str]:
    """Jobs that join parts."""
    rows = _rows(view).items()
    return frozenset(job for job, row in rows if orjson.loads(row.versions_json).get(row.version, {}).get("join"))
