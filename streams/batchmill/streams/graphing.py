"""Which job feeds which: the edges that specs declare, and the round that must not be among them.

A job feeds the jobs of its `then`, and the job that scores its answers. What must not live here: when a job fires
(`staging`), what a job has cost, how a graph is drawn.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.state import Job

__all__ = ["Edge", "cycle", "edges", "edges_of_row", "route", "told_cycle"]

_JOBS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`job` feeds `to`."""

    job: str
    to: str
    kind: Literal["then", "score"]
    when: str | None = None
    split: str | None = None


def edges(spec: JobSpec) -> tuple[Edge, ...]:
    """What a frozen job feeds."""
    fed = [Edge(job=spec.job, to=each.job, kind="then", when=each.when, split=each.split) for each in spec.then]
    scoring = spec.judge.scoring
    scored = [] if scoring is None or scoring.job is None else [Edge(job=spec.job, to=scoring.job, kind="score")]
    return (*fed, *scored)


def edges_of_row(row: Job) -> tuple[Edge, ...]:
    """What a job feeds by the version in force, and would by those that may be promoted."""
    versions = orjson.loads(row.versions_json)
    alive = [row.version, *orjson.loads(row.shadows_json)]
    found = [edge for version in alive for edge in _edges_of(row.job, versions.get(version) or {})]
    return tuple(dict.fromkeys(found))


def cycle(found: Iterable[Edge]) -> tuple[str, ...] | None:
    """Jobs of which each feeds the next and the last one the first; None: there is no such round."""
    fed: dict[str, list[str]] = {}
    for edge in found:
        fed.setdefault(edge.job, []).append(edge.to)
    done: set[str] = set()
    for start in sorted(fed):
        way = _round(start, fed, done)
        if way is not None:
            return way
    return None


def told_cycle(way: tuple[str, ...]) -> str:
    """A round as people read it."""
    return f"jobs would feed each other in a circle: {' -> '.join((*way, way[0]))}"


def route(found: Mapping[str, Iterable[Edge]], start: str, end: str, *, parts: bool) -> tuple[str, ...]:
    """The jobs after `start` on the shortest way to `end`, `end` included; just that one when there is no way.

    With `parts` the first step is one that splits, where there is such a way: so come what is joined.
    """
    for first in (True, False) if parts else (False,):
        ways: list[tuple[str, ...]] = [
            (edge.to,) for edge in found.get(start, ()) if edge.kind == "then" and (edge.split is not None or not first)
        ]
        seen: set[str] = set()
        while ways:
            way = ways.pop(0)
            if way[-1] == end:
                return way
            if way[-1] not in seen and len(seen) < _JOBS_MAX:
                seen.add(way[-1])
                ways += [(*way, edge.to) for edge in found.get(way[-1], ()) if edge.kind == "then"]
    return (end,)


def _round(start: str, fed: Mapping[str, list[str]], done: set[str]) -> tuple[str, ...] | None:
    """Depth first, without recursion: a chain of jobs may be long."""
    way: list[str] = []
    todo: list[tuple[str, bool]] = [(start, False)]
    while todo:
        job, left = todo.pop()
        if left:
            way.pop()
            done.add(job)
        elif job in way:
            return tuple(way[way.index(job) :])
        elif job not in done:
            way.append(job)
            todo.append((job, True))
            todo += [(to, False) for to in sorted(fed.get(job, ()), reverse=True)]
    return None


def _edges_of(job: str, spec: Mapping[str, Any]) -> list[Edge]:
    """Of a spec as the row carries it; reading it strictly would cost a thousand times as much."""
    found = [
        Edge(job=job, to=each["job"], kind="then", when=each.get("when"), split=each.get("split"))
        for each in spec.get("then") or ()
    ]
    scorer = ((spec.get("judge") or {}).get("scoring") or {}).get("job")
    return found if scorer is None else [*found, Edge(job=job, to=scorer, kind="score")]
