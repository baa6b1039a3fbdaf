"""Replays in the read model: the commands that started them, and how far each task has got."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from batchmill.agents.projector.reading import View
from batchmill.streams.index import RERUN_ROWS
from batchmill.streams.rerunning import OVER, Progress, RunState, progress_of, run_id_of

__all__ = ["ReplayRow", "replay", "replays"]

#: the state of a run, of those that its tasks are in: the first of these that any is in
_TELLS: Final = (
    RunState.RUNNING,
    RunState.PAUSED,
    RunState.FAILED,
    RunState.OVER_COST,
    RunState.OVERTAKEN,
    RunState.CANCELLED,
    RunState.SKIPPED,
    RunState.DONE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRow:
    """One run, all tasks together."""

    run: str
    job: str
    version: str
    aside: bool
    state: RunState
    note: str
    started_at_ms: int
    lines: int
    done: int
    tasks: Mapping[str, int]  #: by state
    counts: Mapping[str, int]  #: by what became of a line
    most_nanos: int  #: what was asked so far can cost
    cost_nanos: int = 0  #: of its lives
    lives: Mapping[str, int] = field(default_factory=dict)  #: by status
    selection: Mapping[str, Any] = field(default_factory=dict)  #: as the command says it

    @property
    def is_over(self) -> bool:
        return self.state in OVER


def replays(view: View, job: str | None = None, *, limit: int | None = None) -> list[ReplayRow]:
    """The newest first, without their lives."""
    runs: dict[str, list[Progress]] = {}
    sql = "SELECT name, value_json FROM meta WHERE name >= ? AND name < ? ORDER BY partition"
    for row in view.rows(sql, (RERUN_ROWS, f"{RERUN_ROWS}\U0010ffff")):
        progress = progress_of(row["name"], row["value_json"])
        if job in {None, progress.job}:
            runs.setdefault(progress.run, []).append(progress)
    made = sorted((_made(tasks) for tasks in runs.values()), key=lambda row: (-row.started_at_ms, row.run))
    return made[:limit]


def replay(view: View, run: str) -> ReplayRow | None:
    """One run with its lives and its manifest."""
    rows = view.rows("SELECT name, value_json FROM meta WHERE name = ? ORDER BY partition", (RERUN_ROWS + run,))
    tasks = [progress_of(row["name"], row["value_json"]) for row in rows]
    if not tasks:
        return None
    lives, cost = Counter[str](), 0
    sql = "SELECT status, COUNT(*) AS n, SUM(cost_nanos) AS cost FROM lives WHERE run_id = ? AND job = ? GROUP BY 1"
    for row in view.rows(sql, (run_id_of(run), tasks[0].job)):
        lives[row["status"]] += row["n"]
        cost += row["cost"] or 0
    return _made(tasks, lives=lives, cost_nanos=cost, selection=_selection(view, tasks[0].job, run))


def _made(tasks: list[Progress], **more: Any) -> ReplayRow:
    states = Counter(each.state for each in tasks)
    state = next(each for each in _TELLS if states[each])
    counts: Counter[str] = Counter()
    for each in tasks:
        counts.update(each.counts)
    first = tasks[0]
    return ReplayRow(
        run=first.run,
        job=first.job,
        version=first.version,
        aside=first.aside,
        state=state,
        note=next((each.note for each in tasks if each.state is state and each.note), ""),
        started_at_ms=min(each.at_ms for each in tasks),
        lines=sum(each.part.lines for each in tasks),
        done=sum(each.done for each in tasks),
        tasks={name.value: count for name, count in states.items()},
        counts=dict(counts),
        most_nanos=sum(each.most_nanos for each in tasks),
        **more,
    )


def _selection(view: View, job: str, run: str) -> Mapping[str, Any]:
    """Of the first command of that name."""
    sql = "SELECT body_json FROM commands WHERE job = ? AND command = 'rerun' AND partition = 0 ORDER BY offset"
    for row in view.rows(sql, (job,)):
        body = orjson.loads(row["body_json"])
        if body.get("run") == run and "selection" in body:
            found: Mapping[str, Any] = body["selection"]
            return found
    return {}
