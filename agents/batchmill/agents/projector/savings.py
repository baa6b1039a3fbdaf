"""What was not paid, lever by lever: how often, how much, and how that was reckoned.

Nothing here is an estimate of what a question might have cost where one like it was paid for. A copy is worth what the
answer that it is a copy of did cost, with the answers that a cascade passed over on the way to it. A record that the
filter kept back is worth the mean of what the job's answered records did cost. A call that was paid, or that a copy
stands for, is taken apart step by step, each step changing one thing and keeping the others:

    what it did cost                                        -> provider cache: the same, nothing read from the cache
    the same without a cache                                -> routes: the same tokens at the job's own model
    the same at the job's own model, without a cache        -> batch tier: the same by single calls

So no dollar is in two lines, and what was paid and all lines together are what single calls of the job's own model
would have cost for every record (what the filter kept back, and what another version had asked: at what was paid). A
cheaper route whose answer was not good enough was paid for nothing: it counts against the routes. What is asked under a
version that stands aside, of a benchmark or by a fresh start is paid like anything else; that a version is cheaper than
another is in no line.
Shrunken inputs are not here: nothing says how long they had been.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from batchmill.agents.projector.reading import View
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import Outcome
from batchmill.streams.costing import PriceList, Usage, cost_nanos, parse_prices
from batchmill.streams.routing import ITSELF, asked_on

__all__ = ["HOW", "Lever", "Saving", "Savings", "savings"]


class Lever(StrEnum):
    """Why something was not paid, or less."""

    FILTERED = "filtered"
    DUPLICATES = "duplicates"
    STORED = "stored"
    FOLLOWERS = "followers"
    VERSIONS = "versions"
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
    Lever.VERSIONS: "content that was asked under another version of the job, at what that answer did cost",
    Lever.NEAR: "content nearly the same as another record's (derived answers), at what that answer cost",
    Lever.BATCH: "calls by batch, copies of such included, against the same tokens by single calls",
    Lever.CACHE: "prompt tokens the provider read from its cache, against the same tokens in full",
    Lever.ROUTES: "calls to another model than the job's own, copies of such included, against the same tokens there",
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

_COPIES = """SELECT r.version, r.answered_by, r.of_request_id, r.output_sha256, l.queued_at_ms, l.run_id FROM results r
  LEFT JOIN lives l ON l.request_id = r.request_id
  WHERE r.answered_by IN ('store', 'near') AND (:job IS NULL OR r.job = :job)
    AND (:version IS NULL OR r.version = :version) AND (:run IS NULL OR l.run_id = :run)"""
_EXCLUDED = """SELECT e.job, e.version, e.of_request_id FROM excluded e
  LEFT JOIN raw ON raw.generation = e.origin_generation AND raw.partition = e.origin_partition
    AND raw.offset = e.origin_offset
  LEFT JOIN lives l ON l.request_id = e.request_id
  WHERE e.reason = :reason AND (:job IS NULL OR e.job = :job) AND (:version IS NULL OR e.version = :version)
    AND (:run IS NULL OR :run = COALESCE(raw.run_id, l.run_id, 'live:' || e.job || ':' || e.version))"""
#: `escalated`: it was asked on by another route, or got a stored answer of one; no life goes back to an earlier route
_PAID = """SELECT r.request_id, r.job, r.version, r.route, r.model, c.model AS chunk_model, r.outcome, r.answered_by,
    r.output_sha256, r.received_at_ms, COALESCE(r.tier, c.mode) AS tier, r.cost_nanos, r.input_tokens, r.output_tokens,
    r.cached_tokens, r.cache_write_tokens, EXISTS (SELECT 1 FROM results x WHERE x.request_id = r.request_id
      AND x.partition = r.partition AND x.offset > r.offset AND x.route <> r.route
      AND x.answered_by <> 'import') AS escalated
  FROM results r LEFT JOIN chunks c ON c.chunk_id = r.chunk_id LEFT JOIN lives l ON l.request_id = r.request_id
  WHERE (r.cost_nanos IS NULL OR r.cost_nanos > 0)"""
_CALLS = f"""{_PAID} AND r.answered_by = 'provider' AND (:job IS NULL OR r.job = :job)
    AND (:version IS NULL OR r.version = :version) AND (:run IS NULL OR l.run_id = :run)"""
_OF_REQUEST = f"{_PAID} AND r.answered_by IN ('provider', 'import') AND r.request_id = ? ORDER BY r.offset DESC"


def savings(view: View, values: Values, *, otherwise: PriceList) -> Savings:
    """Every lever of a scope (`metrics.Scope.values`); `otherwise`: prices of versions applied without their own."""
    book = _Book()
    calls = _Calls(_Versions(view, otherwise), book)
    copies = _Copies(_Answers(view), calls, book)
    copies.take(view, values)
    copies.take_duplicates(view, values)
    paid = calls.take(view, values)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What was paid for one answer."""

    last: Any  #: the call that brought it
    calls: tuple[Any, ...]  #: and those before it, on the routes that the cascade came through

    @property
    def nanos(self) -> int | None:
        costs = [call["cost_nanos"] for call in self.calls]
        return None if None in costs else sum(costs)


class _Answers:
    """What the answer of a request did cost, whoever was asked for it."""

    def __init__(self, view: View) -> None:
        self._view = view

    def of(self, request_id: str | None, output_sha256: str | None = None) -> _Answer | None:
        """The answer of that hash, else the newest one; of a copy, what it is a copy of."""
        for name in (request_id, self._copied(request_id)):
            calls = list(self._view.rows(_OF_REQUEST, (name,)))
            good = [call for call in calls if call["outcome"] == Outcome.SUCCEEDED]
            if good:
                last = next((call for call in good if call["output_sha256"] == output_sha256), good[0])
                before = [call for call in calls[calls.index(last) + 1 :] if call["escalated"]]
                return _Answer(last=last, calls=(last, *(call for call in before if call["route"] != last["route"])))
        return None

    def _copied(self, request_id: str | None) -> str | None:
        row = self._view.row(
            "SELECT of_request_id FROM results WHERE request_id = ? AND of_request_id IS NOT NULL LIMIT 1",
            (request_id,),
        )
        return None if row is None else row["of_request_id"]


class _Copies:
    """Answers that were not paid again: each is worth its original, whose calls are taken apart once more for it."""

    def __init__(self, answers: _Answers, calls: "_Calls", book: _Book) -> None:
        self._answers = answers
        self._calls = calls
        self._book = book

    def take(self, view: View, values: Values) -> None:
        for row in view.rows(_COPIES, values):
            answer = self._answers.of(row["of_request_id"], row["output_sha256"])
            self._note(_lever_of(row, answer), answer)

    def take_duplicates(self, view: View, values: Values) -> None:
        for row in view.rows(_EXCLUDED, {**values, "reason": Reason.DUPLICATE}):
            self._note(Lever.DUPLICATES, self._answers.of(row["of_request_id"]))

    def _note(self, lever: Lever, answer: _Answer | None) -> None:
        self._book.note(lever, None if answer is None else answer.nanos)
        # what a version was spared is no more than was paid for it: the steps are in the lines of the one that asked
        for call in () if answer is None or lever is Lever.VERSIONS else answer.calls:
            self._calls.apart(call)


def _lever_of(row: Any, answer: _Answer | None) -> Lever:
    """One that was there before the answer came had waited for it."""
    if row["answered_by"] == "near":
        return Lever.NEAR
    if answer is None:
        return Lever.STORED
    if answer.last["version"] != row["version"]:
        return Lever.VERSIONS
    waited = row["queued_at_ms"] is not None and row["queued_at_ms"] <= answer.last["received_at_ms"]
    return Lever.FOLLOWERS if waited else Lever.STORED


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """What a version's calls cost, and whom it asks."""

    prices: PriceList
    models: Mapping[str, str]  #: by route, the question itself under its empty name; empty: the version is not known

    @property
    def own(self) -> str | None:
        return self.models.get(ITSELF)


class _Versions:
    """The versions that calls were made under."""

    def __init__(self, view: View, otherwise: PriceList) -> None:
        self._view = view
        self._otherwise = otherwise
        self.of = lru_cache(maxsize=1_000)(self._read)

    def _read(self, job: str, version: str) -> _Version:
        rows = self._view.rows("SELECT versions_json FROM jobs WHERE job = ?", (job,))
        told: Any = next((found for row in rows if (found := orjson.loads(row["versions_json"]).get(version))), None)
        if told is None:
            return _Version(prices=self._otherwise, models={})
        spec = JobSpec.from_json(orjson.dumps(told))
        prices = self._otherwise if spec.prices_json is None else parse_prices(spec.prices_json)
        others = {route.name: asked_on(spec.ask, route).model.name for route in spec.ask.routes}
        return _Version(prices=prices, models={ITSELF: spec.ask.model.name} | others)


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
            self.apart(row)
        return paid

    def apart(self, row: Any) -> None:
        """Note what one call saved, whether it was made or a copy stands for it."""
        if row["escalated"]:
            self._book.note(Lever.ROUTES, _less(0, row["cost_nanos"]))
            return
        ways = _ways(self._versions.of(row["job"], row["version"]), row)
        if row["cached_tokens"] or row["cache_write_tokens"]:
            self._book.note(Lever.CACHE, _less(ways.uncached, row["cost_nanos"]))
        if ways.elsewhere:
            self._book.note(Lever.ROUTES, _less(ways.at_own, ways.uncached))
        if row["tier"] == "batch":
            self._book.note(Lever.BATCH, _less(ways.online, ways.at_own))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """What the tokens of one call would have cost, one step further each; None: nobody knows."""

    elsewhere: bool  #: it was put to another model than the job's own
    uncached: int | None = None
    at_own: int | None = None
    online: int | None = None


def _ways(version: _Version, row: Any) -> _Ways:
    asked = version.models.get(row["route"], row["chunk_model"])
    elsewhere = row["route"] != ITSELF and asked != version.own
    if row["cost_nanos"] is None:
        return _Ways(elsewhere=elsewhere)
    usage = Usage(input_tokens=row["input_tokens"], output_tokens=row["output_tokens"])
    named = _priced_name(version.prices, row["model"], asked)
    own = version.own if elsewhere else named
    return _Ways(
        elsewhere=elsewhere,
        uncached=_cost(version, named, row["tier"], usage),
        at_own=_cost(version, own, row["tier"], usage),
        online=_cost(version, own, "online", usage),
    )


def _cost(version: _Version, model: str | None, tier: str | None, usage: Usage) -> int | None:
    return None if model is None or tier is None else cost_nanos(version.prices, model, tier, usage)


def _priced_name(prices: PriceList, *names: str | None) -> str | None:
    """The name its cost was taken by: that in the answer, else that in the question."""
    return next((name for name in names if name is not None and prices.of(name) is not None), None)


def _less(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else before - after
