"""Dead letters in the read model: found by what they say, grouped, and told what bringing them back would take.

The view holds what a letter says, not what it is about: originals lie in the log. Letters are handed out one by one, so
a million of them is no list in memory.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import orjson

from batchmill.agents.projector.reading import View, made
from batchmill.schemas.reasons import Fault, Reason
from batchmill.schemas.records import DeadLetter
from batchmill.schemas.state import Job, Life, Source
from batchmill.schemas.status import Status
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.costing import PriceList
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.quoting import Kept, Quote, Way, quote, quote_event
from batchmill.streams.remedies import REMEDIES
from batchmill.streams.selecting import Letter, LetterCheck, Where

__all__ = [
    "FRONT",
    "STANDING",
    "DeadLetterRow",
    "Group",
    "Quoter",
    "Taking",
    "Wanted",
    "letter",
    "letter_of",
    "letters",
    "summary",
]

_NANOS: Final = 10**9
_MS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """One dead letter; it lies in the log at partition and offset."""

    id: str
    partition: int
    offset: int
    request_id: str | None
    job: str | None
    version: str | None
    source_id: str | None
    stage: str
    reason: Reason
    fault: str
    retryable: bool
    error: str
    attempt: int
    cost_nanos: int | None
    checks_json: str
    original_bytes: int
    redrives: int
    failed_at_ms: int
    origin_generation: int
    origin_partition: int
    origin_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters a person means; what is None or empty does not narrow."""

    job: str | None = None
    reasons: tuple[Reason, ...] = ()
    stage: str | None = None
    version: str | None = None
    fault: Fault | None = None
    since_ms: int | None = None  #: put down at this moment or later
    until_ms: int | None = None  #: put down before this moment
    standing: bool = True  #: only those whose record is still dead-lettered now; of one version also those aside
    where: Where | None = None

    @property
    def narrows(self) -> bool:
        """Whether it names anything at all: what is to be brought back has to be named."""
        return self != Wanted(standing=self.standing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Letters that have reason, stage, job and version in common."""

    reason: Reason
    stage: str
    job: str | None
    version: str | None
    count: int
    cost_nanos: int
    unpriced: int  #: letters of whose cost a part is not known
    newest_at_ms: int
    example: str  #: id of the newest one
    remedy: str


#: A letter stands as long as its life is where it left it; one without a life, as long as nothing else was said of it.
STANDING = f"""CASE WHEN EXISTS (SELECT 1 FROM lives l WHERE l.request_id = d.request_id)
  THEN (SELECT l.status = '{Status.FAILED_TERMINAL}' AND l.redrives = d.redrives FROM lives l
    WHERE l.request_id = d.request_id)
  ELSE (SELECT r.letter = 'dead_lettered' AND NOT r.alive AND r.letter_at_ms = d.at_ms FROM raw r
    WHERE r.generation = d.origin_generation AND r.partition = d.origin_partition
      AND r.offset = d.origin_offset) END"""

#: Not of a life that stands aside: that its raw event is dead-lettered is not for it to say.
FRONT = "NOT COALESCE((SELECT l.aside FROM lives l WHERE l.request_id = d.request_id), d.aside)"


def letters(
    view: View, wanted: Wanted, *, now_ms: int, limit: int | None = None, oldest_first: bool = False
) -> Iterator[DeadLetterRow]:
    """The newest first, or the oldest; ConditionError where the condition gives no answer for one of them."""
    where, values = _where(wanted)
    order = "at_ms, id" if oldest_first else "at_ms DESC, id"
    found = view.each(DeadLetterRow, f"SELECT d.* FROM dead_letters d WHERE {where} ORDER BY {order}", values)
    if wanted.where is not None:
        holds = wanted.where
        found = (row for row in found if holds(letter_of(row, now_ms)))
    return islice(found, limit)


def letter(view: View, name: str) -> DeadLetterRow | None:
    """The newest one by its id or by its request's."""
    sql = "SELECT * FROM dead_letters WHERE id = ? OR request_id = ? ORDER BY at_ms DESC LIMIT 1"
    found = view.typed(DeadLetterRow, sql, (name, name))
    return found[0] if found else None


def letter_of(row: DeadLetterRow, now_ms: int) -> Letter:
    """A letter as conditions look at it."""
    return Letter(
        id=row.id,
        request_id=row.request_id or "",
        job=row.job or "",
        version=row.version or "",
        source_id=row.source_id or "",
        stage=row.stage,
        reason=row.reason.value,
        fault=row.fault,
        error=row.error,
        retryable=row.retryable,
        attempt=row.attempt,
        redrives=row.redrives,
        cost_usd=None if row.cost_nanos is None else row.cost_nanos / _NANOS,
        original_bytes=row.original_bytes,
        age_seconds=max(0, now_ms - row.failed_at_ms) // _MS,
        checks=[LetterCheck(**each) for each in orjson.loads(row.checks_json)],
    )


def summary(found: Iterable[DeadLetterRow]) -> list[Group]:
    """Letters by reason, stage, job and version, the largest group first. They come with the newest first."""
    groups: dict[tuple[Reason, str, str | None, str | None], _Sums] = {}
    for row in found:
        key = (row.reason, row.stage, row.job, row.version)
        sums = groups.get(key)
        if sums is None:
            sums = groups[key] = _Sums(newest=row)
        sums.add(row)
    made = [_group(key, sums) for key, sums in groups.items()]
    return sorted(made, key=lambda group: (-group.count, group.reason, group.stage, group.job or ""))


@dataclass(slots=True)
class _Sums:
    newest: DeadLetterRow
    count: int = 0
    cost_nanos: int = 0
    unpriced: int = 0

    def add(self, row: DeadLetterRow) -> None:
        self.count += 1
        self.cost_nanos += row.cost_nanos or 0
        self.unpriced += row.cost_nanos is None


def _group(key: tuple[Reason, str, str | None, str | None], sums: _Sums) -> Group:
    reason, stage, job, version = key
    return Group(
        reason=reason,
        stage=stage,
        job=job,
        version=version,
        count=sums.count,
        cost_nanos=sums.cost_nanos,
        unpriced=sums.unpriced,
        newest_at_ms=sums.newest.failed_at_ms,
        example=sums.newest.id,
        remedy=REMEDIES[reason],
    )


# -- what bringing them back would take --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """How raw events are taken in: what the settings say."""

    limits: RawLimits
    default_job: str | None


class Quoter:
    """Quotes from the rows of the view; `kept`: by partition, from where on each topic still has its records."""

    def __init__(self, view: View, *, kept: Mapping[int, Kept], prices: PriceList, now_ms: int) -> None:
        self._view = view
        self._kept = kept
        self._prices = prices
        self._now_ms = now_ms
        self._jobs = CompiledJobs()
        self._rows = {(row["partition"], row["job"]): made(Job, row) for row in view.rows("SELECT * FROM jobs")}
        #: each once, as one of the tasks has it
        self._every_job = list({name: row for (_, name), row in self._rows.items()}.values())

    def of(self, row: DeadLetterRow) -> Quote:
        """What would become of the letter of a life."""
        life, source = self._life(row), None
        if life is not None:
            source = self._source(life, row.partition)
        return quote(
            life,
            source,
            None if life is None else self._rows.get((row.partition, life.job)),
            kept=self._kept.get(row.partition, {}),
            jobs=self._jobs,
            prices=self._prices,
            now_ms=self._now_ms,
        )

    def of_event(self, letter: DeadLetter | None, event: RawRecord | None, at: Taking) -> Quote:
        """What would become of a letter without a life; `letter` and `event` are what the log has of it."""
        if letter is None:
            return Quote(way=Way.GONE)
        return quote_event(
            letter,
            event,
            self._every_job,
            jobs=self._jobs,
            prices=self._prices,
            limits=at.limits,
            default_job=at.default_job,
            now_ms=self._now_ms,
        )

    def _life(self, row: DeadLetterRow) -> Life | None:
        found = self._view.typed(Life, "SELECT * FROM lives WHERE request_id = ?", (row.request_id,))
        return found[0] if found else None

    def _source(self, life: Life, partition: int) -> Source | None:
        sql = "SELECT * FROM sources WHERE job = ? AND source_id = ? AND partition = ?"
        found = self._view.typed(Source, sql, (life.job, life.source_id, partition))
        return found[0] if found else None


def _where(wanted: Wanted) -> tuple[str, tuple[object, ...]]:
    """The conditions that were named, and their values."""
    named = (
        ("job = ?", wanted.job),
        ("stage = ?", wanted.stage),
        ("version = ?", wanted.version),
        ("fault = ?", wanted.fault),
        ("failed_at_ms >= ?", wanted.since_ms),
        ("failed_at_ms < ?", wanted.until_ms),
    )
    given = [(text, value) for text, value in named if value is not None]
    texts = [text for text, _ in given]
    values: list[object] = [value for _, value in given]
    if wanted.reasons:
        texts.append(f"reason IN ({', '.join('?' * len(wanted.reasons))})")
        values += wanted.reasons
    if wanted.standing:
        texts.append(STANDING)
        texts += [FRONT] if wanted.version is None else []
    return " AND ".join(texts) or "1", tuple(values)
