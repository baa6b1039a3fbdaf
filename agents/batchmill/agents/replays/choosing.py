"""Which raw events a replay could be about, from the read model: what stands in front, and what never got so far.

The read model may be behind: what is chosen here is a list of places to read again, and whether a request is made of
one is decided by its task.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from batchmill.agents.projector.reading import View
from batchmill.schemas.reasons import REASONS, Reason, info
from batchmill.schemas.status import Place, Status

__all__ = ["Asked", "Candidate", "Range", "Selecting", "candidates", "known_under", "record_of"]

_NANOS: Final = 10**9
_DAY_MS: Final = 86_400_000
_DEAD: Final = ", ".join(f"'{reason}'" for reason in REASONS if not info(reason).excluded)


@dataclass(frozen=True, slots=True)
class Range:
    """Offsets of one raw partition, both ends included."""

    partition: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person, or the clock, wants to be read again."""

    job: str
    select: str = "stale"  #: stale | failed | all | a condition
    since_ms: int | None = None  #: by when the broker appended the event
    until_ms: int | None = None
    ranges: tuple[Range, ...] = ()
    sample: int | None = None
    seed: str = "0"
    max_nanos: int | None = None
    per_second: float | None = None
    version: str | None = None  #: None: the one in force
    aside: bool = False
    fresh: bool = False
    refresh_tools: bool = False  #: look up again, too
    write: bool = False  #: nothing is asked: what is committed is written once more


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One raw event, and the life in front that it has; without one it was put down for `reason`."""

    partition: int
    offset: int
    at_ms: int
    request_id: str | None = None
    version: str | None = None
    status: Status | None = None
    reason: Reason | None = None
    source_id: str | None = None
    run_id: str | None = None
    route: str = ""
    epoch: int = 0
    promotion: int = 0
    ask_key: str | None = None
    answered: bool = False
    attempt: int = 0
    confidence: float | None = None
    cost_nanos: int | None = None
    tokens_estimate: int = 0
    task: int = 0  #: the partition of its bodies
    input_offset: int | None = None
    verdict_offset: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.partition, self.offset

    @property
    def name(self) -> str:
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selecting:
    """What the selection words mean for a job just now."""

    generation: int  #: of the raw topic
    target: str  #: version
    fresh_from: int  #: lives of the target with a smaller promotion are stale; -1: none is
    by_source: bool  #: the newest event of a source can be told


_FRONT = """SELECT l.origin_partition AS partition, l.origin_offset AS offset, l.origin_at_ms AS at_ms, l.request_id,
  l.version, l.status, l.reason, l.source_id, l.run_id, l.route, l.epoch, l.promotion, l.ask_key,
  l.output_sha256 IS NOT NULL AS answered, l.attempt, l.confidence, l.cost_nanos, l.tokens_estimate,
  l.partition AS task, l.input_offset, l.verdict_offset
  FROM lives l"""
_NEWEST = " JOIN sources s ON s.job = l.job AND s.source_id = l.source_id AND s.request_id = l.request_id"
#: Of a record that was put down twice the later letter counts; one that got a life since is counted by that.
_PUT_DOWN = """SELECT r.partition, r.offset, COALESCE(r.at_ms, d.origin_at_ms) AS at_ms, NULL AS request_id, d.version,
  NULL AS status, d.reason, d.source_id, r.run_id, '' AS route, 0 AS epoch, 0 AS promotion, NULL AS ask_key,
  0 AS answered, 0 AS attempt, NULL AS confidence, d.cost_nanos, 0 AS tokens_estimate, 0 AS task,
  NULL AS input_offset, NULL AS verdict_offset
  FROM {table} d JOIN raw r ON r.generation = d.origin_generation AND r.partition = d.origin_partition
    AND r.offset = d.origin_offset AND r.letter_at_ms = d.at_ms
  WHERE d.job = :job AND d.request_id IS NULL AND d.origin_generation = :generation AND NOT r.alive
    AND r.letter = '{place}' {more}"""
_DEAD_LETTERS = _PUT_DOWN.format(table="dead_letters", place=Place.DEAD_LETTERED, more="")
#: the filter is no part of a version: what it took out it may take in by now
_FILTERED = _PUT_DOWN.format(table="excluded", place=Place.EXCLUDED, more=f"AND d.reason = '{Reason.FILTERED}'")
_ENDED = f"l.status = '{Status.FAILED_TERMINAL}'"
_MEANING: Final[Mapping[str, str]] = {
    "stale": f"l.status = '{Status.COMMITTED}' AND (l.version <> :target OR l.promotion < :fresh_from)",
    "failed": f"{_ENDED} AND l.reason IN ({_DEAD})",
}
_NOT_ENDED = f"NOT ({_ENDED} AND l.reason NOT IN ({_DEAD}))"


def candidates(view: View, asked: Asked, selecting: Selecting) -> Iterator[Candidate]:
    """By the words stale, failed and all; for a condition all are given, to be asked about."""
    narrowed, values = _narrowed(asked)
    bound = {
        "job": asked.job,
        "generation": selecting.generation,
        "target": selecting.target,
        "fresh_from": selecting.fresh_from,
        **values,
    }
    joined = _FRONT + (_NEWEST if selecting.by_source else "")
    meaning = _MEANING.get(asked.select, _NOT_ENDED)
    front = f"{joined} WHERE l.job = :job AND NOT l.aside AND l.origin_generation = :generation AND {meaning}"
    if asked.write:
        front += f" AND l.status = '{Status.COMMITTED}' AND l.version = :target AND NOT l.reverted"
    queries = [front]
    if asked.select != "stale" and not asked.write:
        queries.append(_DEAD_LETTERS)
    if asked.select not in {"stale", "failed"} and not asked.write:
        queries.append(_FILTERED)
    for query in queries:
        yield from view.each(Candidate, f"SELECT * FROM ({query}) WHERE {narrowed} ORDER BY partition, offset", bound)


def known_under(view: View, job: str, version: str, generation: int) -> dict[tuple[int, int, int], str]:
    """What is asked or answered under a version: its ask keys by partition, offset and epoch."""
    rows = view.rows(
        f"""SELECT origin_partition AS p, origin_offset AS o, epoch, ask_key FROM lives l
        WHERE job = ? AND version = ? AND origin_generation = ? AND (NOT ({_ENDED}) OR output_sha256 IS NOT NULL)""",
        (job, version, generation),
    )
    return {(row["p"], row["o"], row["epoch"]): row["ask_key"] for row in rows}


def record_of(row: Candidate, now_ms: int) -> dict[str, Any]:
    """A record as conditions look at it; absent texts are empty, an unknown cost is null."""
    return {
        "status": "" if row.status is None else row.status.value,
        "reason": "" if row.reason is None else row.reason.value,
        "version": row.version or "",
        "confidence": row.confidence,
        "cost_usd": None if row.cost_nanos is None else row.cost_nanos / _NANOS,
        "age_days": max(0, now_ms - row.at_ms) / _DAY_MS,
        "attempt": row.attempt,
        "run": row.run_id or "",
        "route": row.route,
        "source_id": row.source_id or "",
    }


def _narrowed(asked: Asked) -> tuple[str, dict[str, int]]:
    texts, values = ["1"], {}
    if asked.since_ms is not None:
        texts.append("at_ms >= :since")
        values["since"] = asked.since_ms
    if asked.until_ms is not None:
        texts.append("at_ms < :until")
        values["until"] = asked.until_ms
    either = []
    for number, each in enumerate(asked.ranges):
        either.append(f"(partition = :p{number} AND offset BETWEEN :f{number} AND :l{number})")
        values |= {f"p{number}": each.partition, f"f{number}": each.first, f"l{number}": each.last}
    if either:
        texts.append(f"({' OR '.join(either)})")
    return " AND ".join(texts), values
