"""What calls have cost, by what it was for: spent, estimated, wasted by cause, doubtful; and the sums that must agree.

A cost fact is one row of `results` that was paid for: one (request, attempt, call), never changed; an imported answer
is one, too, though it is on no bill of ours. What twin
batches cost, and rows that were billed and never came, is known per batch only and is no fact of any record; it stands
in `chunks.wasted_nanos` and `chunks.untold_nanos`. So

    spent  = the facts + twins + untold
    wasted = twins + untold + failed calls + rejected answers + declined answers, a part of what was spent

`doubtful` is beside it: what calls may have cost of which nobody can say whether they were billed. An answer whose
record was cancelled or overtaken meanwhile is not counted as wasted: it was good, and is stored.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from batchmill.agents.projector.reading import View
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.status import ChunkState, Outcome, Status

__all__ = [
    "ITSELF",
    "Bills",
    "By",
    "Cause",
    "Conservation",
    "CostGroup",
    "Costs",
    "conservation",
    "cost_groups",
    "costs",
    "match_bills",
]

_NANOS = 10**9
#: what was asked by no route of the job; no route can be called so
ITSELF = "(no route)"
#: custom ids that a comparison names
_NAMED_MAX = 20


class Cause(StrEnum):
    """Why money was spent for nothing."""

    TWIN = "twin"  #: a second batch with the same questions
    UNTOLD = "untold"  #: billed by the provider's count of a batch, and in no row of it
    FAILED = "failed"  #: a call that was billed and brought no answer
    REJECTED = "rejected"  #: an answer that validation refused, or that was asked for again
    DECLINED = "declined"  #: an answer that a reviewer refused


class By(StrEnum):
    """What costs can be grouped by."""

    MODEL = "model"
    ROUTE = "route"
    TIER = "tier"
    REASON = "reason"
    VERSION = "version"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The money of one job, run or version, or of everything."""

    spent_nanos: int
    wasted_nanos: Mapping[Cause, int]  #: part of what was spent
    doubtful_nanos: int  #: beside what was spent: if it was billed
    calls: int  #: that were billed, or may have been
    unpriced_calls: int  #: part of them: what they cost is not known, and not in `spent_nanos`
    estimated_nanos: int  #: of the batches that are done: what they were expected to cost when they were closed
    actual_nanos: int  #: what these same batches did cost
    open_nanos: int  #: what the batches on the way are expected to cost
    records: int  #: requests that were ever sent
    committed: int  #: in front; of one version or run: wherever they stand
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    answered_tokens_estimate: int  #: prompt tokens of the answered calls, as they were estimated
    answered_input_tokens: int  #: and as the provider counted them

    @property
    def wasted(self) -> int:
        return sum(self.wasted_nanos.values())

    @property
    def estimate_ratio(self) -> float | None:
        """What was paid over what was expected."""
        return _rate(self.actual_nanos, self.estimated_nanos)

    @property
    def tokens_ratio(self) -> float | None:
        """Prompt tokens counted over prompt tokens estimated."""
        return _rate(self.answered_input_tokens, self.answered_tokens_estimate)

    @property
    def per_record_usd(self) -> float | None:
        return _rate(self.spent_nanos / _NANOS, self.records)

    @property
    def per_success_usd(self) -> float | None:
        return _rate(self.spent_nanos / _NANOS, self.committed)

    @property
    def records_per_dollar(self) -> float | None:
        return _rate(self.committed, self.spent_nanos / _NANOS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostGroup:
    """The costs that share a model, route, tier, reason, version or day (of the answer, in UTC)."""

    key: str
    calls: int
    unpriced_calls: int
    input_tokens: int
    output_tokens: int
    spent_nanos: int
    wasted_nanos: int
    estimated_nanos: int  #: of batches that are done
    actual_nanos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conservation:
    """Sums that are equal as soon as the view has read everything."""

    facts_nanos: int  #: over the results of requests that have a life
    lives_nanos: int  #: over the lives
    expired_nanos: int  #: over the results of requests whose life has expired
    chunks_nanos: int  #: over the batches the view knows
    chunk_facts_nanos: int  #: over the results of these batches

    @property
    def holds(self) -> bool:
        return self.facts_nanos == self.lives_nanos and self.chunks_nanos == self.chunk_facts_nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """Our facts against a provider's bills, one by one, by custom id."""

    billed_nanos: int
    booked_nanos: int  #: over our facts
    wasted_nanos: int  #: twins, and what no row told
    doubtful_nanos: int
    unpriced_calls: int
    differing: tuple[str, ...]  #: custom ids whose fact no bill equals; at most the first 20
    differing_count: int
    unknown_bills: int  #: for custom ids of which we have no result at all

    @property
    def unexplained_nanos(self) -> int:
        return self.billed_nanos - self.booked_nanos - self.wasted_nanos

    @property
    def exact(self) -> bool:
        """Every fact has its bill, and all the rest is known waste: to the nano-dollar."""
        return self.differing_count == self.unknown_bills == 0 and self.unexplained_nanos == 0

    @property
    def holds(self) -> bool:
        """Exact, or off by no more than was said to be doubtful."""
        return self.differing_count == 0 and 0 <= self.unexplained_nanos <= self.doubtful_nanos


_GOOD_ENDS = ", ".join(
    f"'{reason}'" for reason, about in REASONS.items() if about.excluded or reason is Reason.SINK_REFUSED
)
#: the send number in a custom id, `<request>-<send number>-<nonce>`
_SENDS = "CAST(substr(r.custom_id, length(r.request_id) + 2) AS INTEGER)"

#: Whether a fact was money for nothing. A row of the view may be older than the result beside it, or newer.
_CAUSE = f"""CASE
    WHEN r.outcome <> '{Outcome.SUCCEEDED}' THEN '{Cause.FAILED}'
    WHEN l.request_id IS NULL THEN CASE WHEN EXISTS (SELECT 1 FROM verdicts v
      WHERE v.request_id = r.request_id AND v.attempt = r.attempt) THEN NULL ELSE '{Cause.REJECTED}' END
    WHEN l.sends < {_SENDS} THEN NULL
    WHEN l.sends > {_SENDS} OR l.status IN ('{Status.QUEUED}', '{Status.FAILED_RETRYABLE}') THEN '{Cause.REJECTED}'
    WHEN l.status <> '{Status.FAILED_TERMINAL}' THEN NULL
    WHEN l.reason = '{Reason.DECLINED}' THEN '{Cause.DECLINED}'
    WHEN l.reason IN ({_GOOD_ENDS}) THEN NULL
    ELSE '{Cause.REJECTED}' END"""

_FACTS = f"""SELECT r.*, l.tokens_estimate, COALESCE(r.reason, 'answered') AS why,
    COALESCE(c.model, r.model, '') AS asked,
    COALESCE(r.tier, c.mode, '') AS at_tier, date(r.received_at_ms / 1000, 'unixepoch') AS day, {_CAUSE} AS cause,
    r.cost_nanos IS NULL OR r.cost_nanos <> 0 OR r.input_tokens <> 0 AS billed
  FROM results r LEFT JOIN lives l ON l.request_id = r.request_id LEFT JOIN chunks c ON c.chunk_id = r.chunk_id
  WHERE r.answered_by NOT IN ('store', 'near') AND (:job IS NULL OR r.job = :job)
    AND (:version IS NULL OR r.version = :version) AND (:run IS NULL OR l.run_id = :run)"""
#: a batch may hold the records of several runs, so it is of none
_CHUNKS = """SELECT *, date(updated_at_ms / 1000, 'unixepoch') AS day FROM chunks
  WHERE (:job IS NULL OR job = :job) AND (:version IS NULL OR version = :version) AND :run IS NULL"""
_DONE = f"state = '{ChunkState.DONE}' AND estimated_nanos > 0"
_ON_THE_WAY = f"state NOT IN ('{ChunkState.FILLING}', '{ChunkState.DONE}', '{ChunkState.FAILED}')"

#: (of a fact, of a chunk): a chunk has no reason and may have several routes, what is known of it as a whole is one
_KEYS: Mapping[By, tuple[str, str]] = {
    By.MODEL: ("asked", "model"),
    By.ROUTE: (f"CASE route WHEN '' THEN '{ITSELF}' ELSE route END", "'({why})'"),
    By.TIER: ("at_tier", "mode"),
    By.REASON: ("why", "'{why}'"),
    By.VERSION: ("version", "version"),
    By.DAY: ("day", "day"),
}

Values = Mapping[str, str | None]


def costs(view: View, values: Values) -> Costs:
    """Everything about the money of a scope (`metrics.Scope.values`)."""
    facts = _numbers(
        view,
        f"""WITH facts AS ({_FACTS}) SELECT SUM(cost_nanos) AS spent, SUM(billed) AS calls,
        SUM(cost_nanos IS NULL) AS unpriced, SUM(input_tokens) AS input_tokens, SUM(cached_tokens) AS cached_tokens,
        SUM(cache_write_tokens) AS cache_write_tokens, SUM(output_tokens) AS output_tokens,
        SUM(tokens_estimate) FILTER (WHERE outcome = '{Outcome.SUCCEEDED}') AS estimate,
        SUM(input_tokens) FILTER (WHERE outcome = '{Outcome.SUCCEEDED}' AND tokens_estimate IS NOT NULL) AS counted
        FROM facts""",
        values,
    )
    chunks = _numbers(
        view,
        f"""WITH chunks_in AS ({_CHUNKS}) SELECT SUM(wasted_nanos) AS twins,
        SUM(untold_nanos) AS untold, SUM(doubtful_nanos) AS doubtful,
        SUM(estimated_nanos) FILTER (WHERE {_DONE}) AS estimated, SUM(cost_nanos) FILTER (WHERE {_DONE}) AS actual,
        SUM(estimated_nanos) FILTER (WHERE {_ON_THE_WAY}) AS on_the_way FROM chunks_in""",
        values,
    )
    lives = _numbers(
        view,
        f"""SELECT COUNT(*) FILTER (WHERE sends > 0) AS records,
        COUNT(*) FILTER (WHERE status = '{Status.COMMITTED}'
          AND (NOT aside OR :version IS NOT NULL OR :run IS NOT NULL)) AS committed FROM lives
        WHERE (:job IS NULL OR job = :job) AND (:version IS NULL OR version = :version)
          AND (:run IS NULL OR run_id = :run)""",
        values,
    )
    return Costs(
        spent_nanos=facts["spent"] + chunks["twins"] + chunks["untold"],
        wasted_nanos=_causes(view, values) | {Cause.TWIN: chunks["twins"], Cause.UNTOLD: chunks["untold"]},
        doubtful_nanos=chunks["doubtful"],
        calls=facts["calls"],
        unpriced_calls=facts["unpriced"],
        estimated_nanos=chunks["estimated"],
        actual_nanos=chunks["actual"],
        open_nanos=chunks["on_the_way"],
        records=lives["records"],
        committed=lives["committed"],
        input_tokens=facts["input_tokens"],
        cached_tokens=facts["cached_tokens"],
        cache_write_tokens=facts["cache_write_tokens"],
        output_tokens=facts["output_tokens"],
        answered_tokens_estimate=facts["estimate"],
        answered_input_tokens=facts["counted"],
    )


def cost_groups(view: View, by: By, values: Values) -> list[CostGroup]:
    """The costs of a scope by model, route, tier, reason, version or day; the dearest first, days in their order."""
    of_fact, of_chunk = _KEYS[by]
    order = "key" if by is By.DAY else "spent_nanos DESC, key"
    return view.typed(
        CostGroup,
        f"""WITH facts AS ({_FACTS}), chunks_in AS ({_CHUNKS}), rows AS (
          SELECT {of_fact} AS key, billed AS calls, cost_nanos IS NULL AS unpriced, input_tokens, output_tokens,
            COALESCE(cost_nanos, 0) AS spent, CASE WHEN cause IS NULL THEN 0 ELSE COALESCE(cost_nanos, 0) END AS wasted,
            0 AS estimated, 0 AS actual FROM facts
          UNION ALL SELECT {of_chunk.format(why=Cause.TWIN)}, 0, 0, 0, 0, wasted_nanos, wasted_nanos,
            CASE WHEN {_DONE} THEN estimated_nanos ELSE 0 END, CASE WHEN {_DONE} THEN cost_nanos ELSE 0 END
            FROM chunks_in WHERE wasted_nanos > 0 OR (:by NOT IN ('{By.REASON}', '{By.ROUTE}') AND {_DONE})
          UNION ALL SELECT {of_chunk.format(why=Cause.UNTOLD)}, 0, 0, 0, 0, untold_nanos, untold_nanos, 0, 0
            FROM chunks_in WHERE untold_nanos > 0
        ) SELECT key, SUM(calls) AS calls, SUM(unpriced) AS unpriced_calls, SUM(input_tokens) AS input_tokens,
          SUM(output_tokens) AS output_tokens, SUM(spent) AS spent_nanos, SUM(wasted) AS wasted_nanos,
          SUM(estimated) AS estimated_nanos, SUM(actual) AS actual_nanos FROM rows GROUP BY key ORDER BY {order}""",
        {**values, "by": by},
    )


def conservation(view: View, values: Values) -> Conservation:
    """The same money added up over facts, records and batches."""
    facts = _numbers(
        view,
        f"""SELECT SUM(r.cost_nanos) FILTER (WHERE l.request_id IS NOT NULL) AS living,
        SUM(r.cost_nanos) FILTER (WHERE l.request_id IS NULL) AS expired,
        SUM(r.cost_nanos) FILTER (WHERE c.chunk_id IS NOT NULL) AS of_chunks
        FROM ({_FACTS}) r LEFT JOIN lives l ON l.request_id = r.request_id
        LEFT JOIN chunks c ON c.chunk_id = r.chunk_id""",
        values,
    )
    lives = _numbers(
        view,
        """SELECT SUM(cost_nanos) AS cost FROM lives WHERE (:job IS NULL OR job = :job)
        AND (:version IS NULL OR version = :version) AND (:run IS NULL OR run_id = :run)""",
        values,
    )
    chunks = _numbers(view, f"WITH chunks_in AS ({_CHUNKS}) SELECT SUM(cost_nanos) AS cost FROM chunks_in", values)
    of_run = values["run"] is not None
    return Conservation(
        facts_nanos=facts["living"],
        lives_nanos=lives["cost"],
        expired_nanos=facts["expired"],
        chunks_nanos=0 if of_run else chunks["cost"],
        chunk_facts_nanos=0 if of_run else facts["of_chunks"],
    )


def match_bills(view: View, bills: Iterable[tuple[str, int]]) -> Bills:
    """Every fact of the view against (custom id, nano-dollars) as a provider billed them.

    A custom id that was billed twice was sent in a twin batch: one bill is the fact's, the others have to be waste.
    """
    billed: dict[str, Counter[int]] = {}
    total = 0
    for custom_id, nanos in bills:
        billed.setdefault(custom_id, Counter())[nanos] += 1
        total += nanos
    booked = unpriced = count = 0
    differing: list[str] = []
    known: set[str] = set()
    for row in view.rows("SELECT custom_id, cost_nanos FROM results WHERE answered_by = 'provider'"):
        known.add(row["custom_id"])
        if row["cost_nanos"] is None:
            unpriced += 1
            continue
        booked += row["cost_nanos"]
        if row["cost_nanos"] and not billed.get(row["custom_id"], Counter())[row["cost_nanos"]]:
            count += 1
            differing += [row["custom_id"]] if len(differing) < _NAMED_MAX else []
    sums = _numbers(
        view, "SELECT SUM(wasted_nanos + untold_nanos) AS wasted, SUM(doubtful_nanos) AS doubtful FROM chunks", {}
    )
    return Bills(
        billed_nanos=total,
        booked_nanos=booked,
        wasted_nanos=sums["wasted"],
        doubtful_nanos=sums["doubtful"],
        unpriced_calls=unpriced,
        differing=tuple(differing),
        differing_count=count,
        unknown_bills=sum(each.total() for custom_id, each in billed.items() if custom_id not in known),
    )


def _causes(view: View, values: Values) -> dict[Cause, int]:
    found = view.rows(
        f"""WITH facts AS ({_FACTS}) SELECT cause, SUM(cost_nanos) AS nanos FROM facts
        WHERE cause IS NOT NULL GROUP BY 1""",
        values,
    )
    known = {Cause(row["cause"]): int(row["nanos"] or 0) for row in found}
    return {cause: known.get(cause, 0) for cause in Cause}


def _numbers(view: View, sql: str, values: Values) -> dict[str, int]:
    row = view.row(sql, values)
    assert row is not None, "a query of sums has one row"
    return {name: int(row[name] or 0) for name in row.keys()}  # noqa: SIM118  a Row iterates its values


def _rate(part: float, whole: float) -> float | None:
    return part / whole if whole else None
