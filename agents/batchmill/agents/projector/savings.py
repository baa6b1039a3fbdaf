"""What was not paid, lever by lever: how often, how much, and how that was reckoned.

Nothing here is an estimate of what a question might have cost where one like it was paid for. A copy is worth what the
answer that it is a copy of did cost. A record that the filter kept back is worth the mean of what the job's answered
records did cost. A call that was paid is taken apart step by step, each step changing one thing and keeping the others:

    what it did cost                                        -> provider cache: the same, nothing read from the cache
    the same without a cache                                -> routes: the same tokens at the job's own model
    the same at the job's own model, without a cache        -> batch tier: the same by single calls

So no dollar is in two lines, and they may be added up. A cheaper route whose answer was not good enough was paid for
nothing: it counts against the routes. Shrunken inputs are not here: nothing says how long they had been.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from batchmill.agents.projector.reading import View
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.costing import PriceList, Usage, cost_nanos, parse_prices

__all__ = ["HOW", "Lever", "Saving", "Savings", "savings"]


class Lever(StrEnum):
    """Why something was not paid, or less."""

    FILTERED = "filtered"
    DUPLICATES = "duplicates"
    STORED = "stored"
    FOLLOWERS = "followers"
    NEAR = "near"
    BATCH = "batch"
    CACHE = "cache"
    ROUTES = "routes"


#: how each was reckoned, for people
HOW: Final[Mapping[Lever, str]] = {
    Lever.FILTERED: "records the filter kept back, at the mean cost of the job's answered records",
    Lever.DUPLICATES: "events that ask for a request that is there already, at what its answer cost",
    Lever.STORED: "content that was answered before, at what that answer cost",
    Lever.FOLLOWERS: "content that was being asked by another record, at what that answer cost",
    Lever.NEAR: "content nearly the same as another record's (derived answers), at what that answer cost",
    Lever.BATCH: "calls by batch, against the same tokens by single calls",
    Lever.CACHE: "prompt tokens the provider read from its cache, against the same tokens in full",
    Lever.ROUTES: "calls to another model than the job's own, against the same tokens there",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """One lever."""

    lever: Lever
    count: int  #: records or calls it touched
    saved_nanos: int  #: below zero: it cost more than it saved
    unpriced: int = 0  #: of `count`: what they would have cost is not known, and not in `saved_nanos`

    @property
    def how(self) -> str:
        return HOW[self.lever]


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """All levers of a scope, beside what was paid."""

    paid_nanos: int
    savings: tuple[Saving, ...]

    @property
    def saved_nanos(self) -> int:
        return sum(each.saved_nanos for each in self.savings)

    @property
    def share(self) -> float | None:
        """Saved, of what it would have cost without all that."""
        whole = self.paid_nanos + self.saved_nanos
        return self.saved_nanos / whole if whole > 0 else None


Values = Mapping[str, str | None]

_OWN = f"""SELECT request_id, cost_nanos, received_at_ms FROM results
  WHERE outcome = '{Outcome.SUCCEEDED}' AND answered_by IN ('provider', 'import')"""
_COPIES = """SELECT r.request_id, r.answered_by, r.of_request_id, l.queued_at_ms, l.run_id FROM results r
  LEFT JOIN lives l ON l.request_id = r.request_id
  WHERE r.answered_by IN ('store', 'near') AND (:job IS NULL OR r.job = :job)
    AND (:version IS NULL OR r.version = :version) AND (:run IS NULL OR l.run_id = :run)"""
_EXCLUDED = """SELECT e.job, e.version, e.of_request_id FROM excluded e
  LEFT JOIN raw ON raw.generation = e.origin_generation AND raw.partition = e.origin_partition
    AND raw.offset = e.origin_offset
  LEFT JOIN lives l ON l.request_id = e.request_id
  WHERE e.reason = :reason AND (:job IS NULL OR e.job = :job) AND (:version IS NULL OR e.version = :version)
    AND (:run IS NULL OR :run = COALESCE(raw.run_id, l.run_id, 'live:' || e.job || ':' || e.version))"""
#: `escalated`: the same request was asked again by another route
_CALLS = """SELECT r.request_id, r.job, r.version, r.route, r.model, COALESCE(c.model, r.model) AS asked,
    COALESCE(r.tier, c.mode) AS tier, r.cost_nanos, r.input_tokens, r.output_tokens, r.cached_tokens,
    r.cache_write_tokens, EXISTS (SELECT 1 FROM results x WHERE x.request_id = r.request_id
      AND x.partition = r.partition AND x.offset > r.offset AND x.route <> r.route
      AND x.answered_by = 'provider') AS escalated
  FROM results r LEFT JOIN chunks c ON c.chunk_id = r.chunk_id LEFT JOIN lives l ON l.request_id = r.request_id
  WHERE r.answered_by = 'provider' AND (r.cost_nanos IS NULL OR r.cost_nanos > 0)
    AND (:job IS NULL OR r.job = :job) AND (:version IS NULL OR r.version = :version)
    AND (:run IS NULL OR l.run_id = :run)"""


def savings(view: View, values: Values, *, otherwise: PriceList) -> Savings:
    """Every lever of a scope (`metrics.Scope.values`); `otherwise`: prices of versions applied without their own."""
    book = _Book()
    answers = _Answers(view)
    _copies(view, values, answers, book)
    _duplicates(view, values, answers, book)
    paid = _Calls(_Versions(view, otherwise), book).take(view, values)
    _filtered(view, values, book)
    return Savings(paid_nanos=paid, savings=book.closed())


class _Book:
    """Counts and sums, by lever."""

    def __init__(self) -> None:
        self._count: Counter[Lever] = Counter()
        self._saved: Counter[Lever] = Counter()
        self._unpriced: Counter[Lever] = Counter()

    def note(self, lever: Lever, nanos: int | None) -> None:
        self._count[lever] += 1
        self._saved[lever] += nanos or 0
        self._unpriced[lever] += nanos is None

    def closed(self) -> tuple[Saving, ...]:
        return tuple(
            Saving(lever=each, count=self._count[each], saved_nanos=self._saved[each], unpriced=self._unpriced[each])
            for each in Lever
        )


class _Answers:
    """What the answer of a request did cost, whoever was asked for it."""

    def __init__(self, view: View) -> None:
        self._view = view

    def worth(self, request_id: str | None) -> tuple[int | None, int | None]:
        """(what it cost, when it came) of the newest paid answer; of a copy, of what it is a copy of."""
        for name in (request_id, self._copied(request_id)):
            row = self._view.row(f"{_OWN} AND request_id = ? ORDER BY offset DESC LIMIT 1", (name,))
            if row is not None:
                return row["cost_nanos"], row["received_at_ms"]
        return None, None

    def _copied(self, request_id: str | None) -> str | None:
        row = self._view.row(
            "SELECT of_request_id FROM results WHERE request_id = ? AND of_request_id IS NOT NULL LIMIT 1",
            (request_id,),
        )
        return None if row is None else row["of_request_id"]


def _copies(view: View, values: Values, answers: _Answers, book: _Book) -> None:
    """One that was there before the answer came had waited for it."""
    for row in view.rows(_COPIES, values):
        nanos, came_at_ms = answers.worth(row["of_request_id"])
        waited = row["queued_at_ms"] is not None and came_at_ms is not None and row["queued_at_ms"] <= came_at_ms
        lever = Lever.FOLLOWERS if waited else Lever.STORED
        book.note(Lever.NEAR if row["answered_by"] == "near" else lever, nanos)


def _duplicates(view: View, values: Values, answers: _Answers, book: _Book) -> None:
    for row in view.rows(_EXCLUDED, {**values, "reason": Reason.DUPLICATE}):
        book.note(Lever.DUPLICATES, answers.worth(row["of_request_id"])[0])


def _filtered(view: View, values: Values, book: _Book) -> None:
    means = {
        (row["job"], row["version"]): row["mean"]
        for row in view.rows(
            f"""SELECT job, version, SUM(cost_nanos) * 1.0 / COUNT(DISTINCT request_id) AS mean FROM results
            WHERE outcome = '{Outcome.SUCCEEDED}' AND answered_by = 'provider' AND cost_nanos IS NOT NULL
            GROUP BY job, version"""
        )
    }
    for row in view.rows(_EXCLUDED, {**values, "reason": Reason.FILTERED}):
        mean = means.get((row["job"], row["version"]))
        book.note(Lever.FILTERED, None if mean is None else round(mean))


class _Versions:
    """What a version's calls cost, and which model is its own."""

    def __init__(self, view: View, otherwise: PriceList) -> None:
        self._view = view
        self._otherwise = otherwise
        self.of = lru_cache(maxsize=1_000)(self._read)

    def _read(self, job: str, version: str) -> tuple[PriceList, str | None]:
        row = self._view.row("SELECT versions_json FROM jobs WHERE job = ? LIMIT 1", (job,))
        told: Any = {} if row is None else orjson.loads(row["versions_json"]).get(version)
        if not told:
            return self._otherwise, None
        spec = JobSpec.from_json(orjson.dumps(told))
        prices = self._otherwise if spec.prices_json is None else parse_prices(spec.prices_json)
        return prices, spec.ask.model.name


class _Calls:
    """Paid calls, taken apart."""

    def __init__(self, versions: _Versions, book: _Book) -> None:
        self._versions = versions
        self._book = book

    def take(self, view: View, values: Values) -> int:
        """Note what each call saved; what they cost together."""
        paid = 0
        for row in view.rows(_CALLS, values):
            paid += row["cost_nanos"] or 0
            self._apart(row)
        return paid

    def _apart(self, row: Any) -> None:
        if row["escalated"]:
            self._book.note(Lever.ROUTES, None if row["cost_nanos"] is None else -row["cost_nanos"])
            return
        prices, own = self._versions.of(row["job"], row["version"])
        usage = Usage(
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cached_tokens=row["cached_tokens"],
            cache_write_tokens=row["cache_write_tokens"],
        )
        whole = replace(usage, cached_tokens=0, cache_write_tokens=0)
        model = _priced_name(prices, row)
        elsewhere = own is not None and bool(row["route"]) and row["asked"] != own
        tier = row["tier"] or ""
        uncached = None if model is None else cost_nanos(prices, model, tier, whole)
        at_own = cost_nanos(prices, own, tier, whole) if elsewhere and own is not None else uncached
        online = None if (owner := own if elsewhere else model) is None else cost_nanos(prices, owner, "online", whole)
        if usage.cached_tokens or usage.cache_write_tokens:
            self._book.note(Lever.CACHE, _less(uncached, row["cost_nanos"]))
        if elsewhere:
            self._book.note(Lever.ROUTES, _less(at_own, uncached))
        if tier == "batch":
            self._book.note(Lever.BATCH, _less(online, at_own))


def _priced_name(prices: PriceList, row: Any) -> str | None:
    """The name its cost was taken by: that in the answer, else that in the question."""
    names: Iterator[str] = (name for name in (row["model"], row["asked"]) if name is not None)
    return next((name for name in names if prices.of(name) is not None), None)


def _less(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else before - after
