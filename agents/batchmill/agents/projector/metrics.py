"""Numbers about a run: the accounting identity, the funnel, the twelve run metrics, failures by reason.

Accounting counts raw events by where they are *now*, from two sides that must agree: every raw event that a life calls
its own against the lives themselves. A raw event that nothing speaks of, though a later one of its partition was
handled, is lost; there must be none.

Of several lives of one raw event under different versions the one in front is counted. Those aside are told beside the
account, by version. Numbers about a job leave them out, but for the money: what was paid for them was paid for the job.
Numbers about one version or one run are about all lives of it, wherever they stand.
"""

# ruff: noqa: S608  what is spliced into SQL is our own constants; every value from outside is bound

from collections.abc import Mapping
from dataclasses import dataclass

from batchmill.agents.projector.costs import Cause, costs
from batchmill.agents.projector.letters import FRONT, STANDING
from batchmill.agents.projector.reading import View
from batchmill.schemas.reasons import REASONS, Reason
from batchmill.schemas.status import ChunkState, Place, Status
from batchmill.streams.accounting import Account
from batchmill.streams.limiting import COMMIT_ROWS

__all__ = [
    "COMMITS_HELD",
    "Accounting",
    "Aside",
    "CheckCount",
    "Failure",
    "Funnel",
    "RunMetrics",
    "Scope",
    "accounting",
    "checks",
    "failures",
    "funnel",
    "metrics",
]

#: of a life: its task holds the commits of its version until an operator says `go`
COMMITS_HELD = f"""EXISTS (SELECT 1 FROM meta WHERE meta.partition = lives.partition
  AND meta.name = '{COMMIT_ROWS}' || lives.job || '/' || lives.version
  AND json_extract(meta.value_json, '$.held') IS NOT NULL)"""

_NANOS = 10**9
_EXCLUDED = ", ".join(f"'{reason}'" for reason, about in REASONS.items() if about.excluded)
_IN = "(:job IS NULL OR job = :job) AND (:run IS NULL OR run_id = :run) AND (:version IS NULL OR version = :version)"
#: what stands aside counts where its own version or run is asked for, and nowhere else
_COUNTS = "(NOT {aside} OR :version IS NOT NULL OR :run IS NOT NULL)"
_IN_FRONT = _COUNTS.format(aside="aside")
#: for tables that know job and version, not the run, nor where a life stands now
_OF = f"""(:job IS NULL OR job = :job) AND (:version IS NULL OR version = :version)
  AND (:run IS NULL OR request_id IN (SELECT request_id FROM lives WHERE run_id = :run))
  AND {_COUNTS.format(aside="COALESCE(request_id IN (SELECT request_id FROM lives WHERE aside), 0)")}"""

#: a raw event names its run in a header, or belongs to the run of the life that answers for it
_RAW_IN = """(:job IS NULL OR r.job = :job)
  AND (:run IS NULL OR :run = r.run_id
    OR :run = (SELECT run_id FROM lives WHERE lives.request_id = r.request_id AND (r.run_id IS NULL OR r.alive)))
  AND (:version IS NULL OR r.request_id IN (SELECT request_id FROM lives WHERE version = :version))"""
#: the lives that answer for these raw events
_ANSWERS_IN = """NOT aside AND (:job IS NULL OR job = :job) AND (:version IS NULL OR version = :version)
  AND (:run IS NULL OR run_id = :run OR EXISTS (SELECT 1 FROM raw r WHERE r.generation = origin_generation
    AND r.partition = origin_partition AND r.offset = origin_offset AND r.run_id = :run))"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is counted: everything, or one job, run or version of it."""

    job: str | None = None
    run: str | None = None
    version: str | None = None

    @property
    def values(self) -> dict[str, str | None]:
        return {"job": self.job, "run": self.run, "version": self.version}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """The lives of one version that do not answer for their raw events, by where they stand."""

    job: str
    version: str
    validated: int  #: could be written, once the version is promoted
    committed: int  #: were written, before another version's came into their place
    in_review: int
    failed: int
    excluded: int
    under_way: int

    @property
    def lives(self) -> int:
        return self.validated + self.committed + self.in_review + self.failed + self.excluded + self.under_way


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """raw = committed + in review + held + in flight + dead-lettered + excluded, each raw event counted once."""

    account: Account
    unread: int  #: part of in flight: nobody has looked at these yet
    lost: int  #: handled by nobody although later ones were; must be 0
    doubled: int  #: lives that share one raw event with another life; must be 0
    unborn: int  #: lives whose raw event was not read (expired before the view was built)
    aside: tuple[Aside, ...] = ()  #: beside the account: no raw event is counted here

    @property
    def holds(self) -> bool:
        return self.account.holds and not self.lost and not self.doubled


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many requests have got at least this far."""

    raw: int
    normalized: int
    submitted: int
    answered: int
    validated: int
    committed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why records did not go the straight way: `now` = where they ended, or `retrying`."""

    reason: Reason
    place: str
    stage: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckCount:
    """One declared check over all judgements."""

    job: str
    version: str
    id: str
    severity: str
    passed: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetrics:
    """The twelve, and records per dollar. A rate is None while nothing has been counted under it."""

    requests: int  #: lives in front (of one version or run: all), without the excluded ones
    submitted: int  #: of these, ever sent to a provider
    completed: int  #: of these, the provider is done with them
    success_rate: float | None  #: completed ones that have a usable answer
    validation_pass_rate: float | None  #: answers that passed every rule, of those judged
    retry_rate: float | None  #: submitted ones sent more than once
    terminal_failure_rate: float | None  #: requests that ended dead-lettered
    mean_tokens: float | None  #: input and output, all attempts, per request that was ever sent, those aside too
    cost_per_record_usd: float | None  #: per request that was ever sent, those aside too
    cost_per_success_usd: float | None  #: all money, per committed record
    manual_review_rate: float | None  #: judged requests that a person was asked about
    commit_rate: float | None  #: requests that are committed
    quality_score: float | None  #: reviewed answers that were accepted as they were
    records_per_dollar: float | None  #: committed records
    committed: int
    cost_usd: float
    wasted_usd: float  #: part of the cost: paid for, and no use
    unpriced_calls: int  #: calls whose cost is not known, so not in it
    input_tokens: int
    output_tokens: int
    answered_from_store: int  #: not paid for, because the same question had been answered
    doubtful_usd: float = 0  #: beside the cost: of calls that may have been billed


def accounting(view: View, scope: Scope | None = None) -> Accounting:
    """Where every raw event is. A scope by job counts the events known to be of that job."""
    values = (scope or Scope()).values
    places = _places_of_lives(view, values)
    lives = sum(places.values())
    raw = _raw_counts(view, values)
    for place in (Place.DEAD_LETTERED, Place.EXCLUDED):
        places[place] += raw[place]
    places[Place.HELD] += raw["held"]
    places[Place.IN_FLIGHT] += raw["asked"] + raw["unclaimed"]
    return Accounting(
        account=Account(raw["raw"] + raw["unborn"], places),
        unread=raw["unclaimed"] - raw["lost"],
        lost=raw["lost"],
        doubled=lives - raw["alive"],
        unborn=raw["unborn"],
        aside=tuple(_aside(view, values)),
    )


def _aside(view: View, values: Mapping[str, str | None]) -> list[Aside]:
    under_way = (Status.QUEUED, Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED, Status.FAILED_RETRYABLE)
    ended = f"status = '{Status.FAILED_TERMINAL}' AND COALESCE(reason IN ({_EXCLUDED}), 0)"
    return view.typed(
        Aside,
        f"""SELECT job, version, COUNT(*) FILTER (WHERE status = '{Status.VALIDATED}') AS validated,
        COUNT(*) FILTER (WHERE status = '{Status.COMMITTED}') AS committed,
        COUNT(*) FILTER (WHERE status = '{Status.NEEDS_REVIEW}') AS in_review,
        COUNT(*) FILTER (WHERE status = '{Status.FAILED_TERMINAL}' AND NOT ({ended})) AS failed,
        COUNT(*) FILTER (WHERE {ended}) AS excluded,
        COUNT(*) FILTER (WHERE status IN ({", ".join(f"'{each}'" for each in under_way)})) AS under_way
        FROM lives WHERE aside AND {_IN} GROUP BY 1, 2 ORDER BY 1, MIN(queued_at_ms), 2""",
        values,
    )


def _places_of_lives(view: View, values: Mapping[str, str | None]) -> dict[Place, int]:
    paused = f"('{Status.QUEUED}', '{Status.FAILED_RETRYABLE}', '{Status.VALIDATED}')"
    place = f"""CASE
      WHEN status = '{Status.FAILED_TERMINAL}' THEN
        CASE WHEN reason IN ({_EXCLUDED}) THEN '{Place.EXCLUDED}' ELSE '{Place.DEAD_LETTERED}' END
      WHEN chunk_id IN (SELECT chunk_id FROM chunks WHERE state = '{ChunkState.HELD}') THEN '{Place.HELD}'
      WHEN status = '{Status.COMMITTED}' THEN '{Place.COMMITTED}'
      WHEN status = '{Status.NEEDS_REVIEW}' THEN '{Place.IN_REVIEW}'
      WHEN status = '{Status.VALIDATED}' AND (reverted OR {COMMITS_HELD}) THEN '{Place.HELD}'
      WHEN status IN {paused}
        AND EXISTS (SELECT 1 FROM jobs WHERE jobs.partition = lives.partition AND jobs.job = lives.job AND paused)
        THEN '{Place.HELD}'
      ELSE '{Place.IN_FLIGHT}' END"""
    found = view.rows(f"SELECT {place} AS place, COUNT(*) AS n FROM lives WHERE {_ANSWERS_IN} GROUP BY 1", values)
    counted = {Place(row["place"]): int(row["n"]) for row in found}
    return {place: counted.get(place, 0) for place in Place}


_RAW_COUNTS = f"""WITH claims AS (
  SELECT r.generation, r.partition, r.offset, r.at_ms IS NOT NULL AS seen, r.alive, r.letter,
    r.request_id IS NOT NULL AS asked, a.partition IS NOT NULL AS parked
  FROM raw r LEFT JOIN arrivals a ON a.partition = r.partition AND a.origin_generation = r.generation
    AND a.origin_offset = r.offset
  WHERE {_RAW_IN}
), handled AS (
  SELECT generation, partition, MAX(offset) AS up_to FROM raw
  WHERE alive OR letter IS NOT NULL OR request_id IS NOT NULL GROUP BY 1, 2
)
SELECT COUNT(*) FILTER (WHERE seen) AS raw,
  COUNT(*) FILTER (WHERE NOT seen) AS unborn,
  COUNT(*) FILTER (WHERE alive) AS alive,
  COUNT(*) FILTER (WHERE NOT alive AND parked) AS held,
  COUNT(*) FILTER (WHERE NOT alive AND NOT parked AND letter = '{Place.DEAD_LETTERED}') AS dead_lettered,
  COUNT(*) FILTER (WHERE NOT alive AND NOT parked AND letter = '{Place.EXCLUDED}') AS excluded,
  COUNT(*) FILTER (WHERE NOT alive AND NOT parked AND letter IS NULL AND asked) AS asked,
  COUNT(*) FILTER (WHERE NOT alive AND NOT parked AND letter IS NULL AND NOT asked) AS unclaimed,
  COUNT(*) FILTER (WHERE NOT alive AND NOT parked AND letter IS NULL AND NOT asked AND claims.offset <= up_to) AS lost
FROM claims LEFT JOIN handled USING (generation, partition)"""


def _raw_counts(view: View, values: Mapping[str, str | None]) -> dict[str, int]:
    row = view.row(_RAW_COUNTS, values)
    assert row is not None, "a query of counts has one row"
    return {name: int(row[name]) for name in row.keys()}  # noqa: SIM118  a Row iterates its values


def funnel(view: View, scope: Scope | None = None) -> Funnel:
    values = (scope or Scope()).values
    raw = view.number(f"SELECT COUNT(*) FROM raw r WHERE at_ms IS NOT NULL AND {_RAW_IN}", values)
    row = view.row(
        f"""SELECT COUNT(*) AS normalized, COUNT(*) FILTER (WHERE sends > 0) AS submitted,
        COUNT(*) FILTER (WHERE output_sha256 IS NOT NULL) AS answered,
        COUNT(*) FILTER (WHERE verdict_offset IS NOT NULL AND status <> '{Status.NEEDS_REVIEW}'
          AND NOT (status = '{Status.FAILED_TERMINAL}' AND reason = '{Reason.DECLINED}')) AS validated,
        COUNT(*) FILTER (WHERE status = '{Status.COMMITTED}') AS committed FROM lives WHERE {_IN} AND {_IN_FRONT}""",
        values,
    )
    assert row is not None, "a query of counts has one row"
    return Funnel(raw=raw, **{name: int(row[name]) for name in row.keys()})  # noqa: SIM118


def failures(view: View, scope: Scope | None = None) -> list[Failure]:
    """By reason, the most frequent first: ended, put down before a life, and failing but still tried.

    Letters as `dlq list` has them: what was brought back since is no failure any more.
    """
    found = view.rows(
        f"""SELECT reason, 'dead_lettered' AS place, stage, COUNT(DISTINCT id) AS count FROM dead_letters d
          WHERE {STANDING} AND (:version IS NOT NULL OR :run IS NOT NULL OR {FRONT})
          AND (:job IS NULL OR job = :job) AND (:version IS NULL OR version = :version)
          AND (:run IS NULL OR request_id IN (SELECT request_id FROM lives WHERE run_id = :run)) GROUP BY 1, 3
        UNION ALL SELECT reason, 'excluded', stage, COUNT(DISTINCT id) FROM excluded
          WHERE {_OF} GROUP BY 1, 3
        UNION ALL SELECT reason, 'retrying', '', COUNT(*) FROM lives
          WHERE status = '{Status.FAILED_RETRYABLE}' AND {_IN} AND {_IN_FRONT} GROUP BY 1
        UNION ALL SELECT reason, 'in_review', 'validator', COUNT(*) FROM lives
          WHERE status = '{Status.NEEDS_REVIEW}' AND reason IS NOT NULL AND {_IN} AND {_IN_FRONT} GROUP BY 1
        ORDER BY count DESC, reason""",
        (scope or Scope()).values,
    )
    return [
        Failure(reason=Reason(row["reason"]), place=row["place"], stage=row["stage"], count=row["count"])
        for row in found
    ]


def checks(view: View, scope: Scope | None = None) -> list[CheckCount]:
    """How often each declared check passed and failed."""
    return view.typed(
        CheckCount,
        """SELECT job, version, id, severity, COALESCE(SUM(n) FILTER (WHERE passed), 0) AS passed,
        COALESCE(SUM(n) FILTER (WHERE NOT passed), 0) AS failed FROM check_counts
        WHERE (:job IS NULL OR job = :job) AND (:version IS NULL OR version = :version) GROUP BY 1, 2, 3, 4""",
        {name: value for name, value in (scope or Scope()).values.items() if name != "run"},
    )


def metrics(view: View, scope: Scope | None = None) -> RunMetrics:
    """The run metrics over what is known now; rates settle when the run does."""
    values = (scope or Scope()).values
    lives = _lives(view, values)
    judged = _judged(view, values)
    money = costs(view, values)
    usd = (lives["cost"] + money.wasted_nanos[Cause.TWIN] + money.wasted_nanos[Cause.UNTOLD]) / _NANOS
    return RunMetrics(
        requests=lives["requests"],
        submitted=lives["submitted"],
        completed=lives["completed"],
        success_rate=_rate(lives["usable"], lives["completed"]),
        validation_pass_rate=_rate(judged["passed"], judged["judged"]),
        retry_rate=_rate(lives["retried"], lives["submitted"]),
        terminal_failure_rate=_rate(lives["dead"], lives["requests"]),
        mean_tokens=_rate(lives["input_tokens"] + lives["output_tokens"], lives["sent"]),
        cost_per_record_usd=_rate(usd, lives["sent"]),
        cost_per_success_usd=_rate(usd, lives["committed"]),
        manual_review_rate=_rate(judged["reviewed"], judged["judged_requests"]),
        commit_rate=_rate(lives["committed"], lives["requests"]),
        quality_score=_quality(view, values),
        records_per_dollar=_rate(lives["committed"], usd),
        committed=lives["committed"],
        cost_usd=usd,
        wasted_usd=money.wasted / _NANOS,
        doubtful_usd=money.doubtful_nanos / _NANOS,
        unpriced_calls=lives["unpriced_calls"],
        input_tokens=lives["input_tokens"],
        output_tokens=lives["output_tokens"],
        answered_from_store=view.number(f"SELECT COUNT(*) FROM results WHERE answered_by = 'store' AND {_OF}", values),
    )


def _lives(view: View, values: Mapping[str, str | None]) -> dict[str, int]:
    row = view.row(
        f"""SELECT COUNT(*) FILTER (WHERE counts AND NOT gone) AS requests,
        COUNT(*) FILTER (WHERE counts AND sends > 0) AS submitted,
        COUNT(*) FILTER (WHERE counts AND sends > 0 AND done) AS completed,
        COUNT(*) FILTER (WHERE counts AND sends > 0 AND done AND status <> '{Status.FAILED_TERMINAL}') AS usable,
        COUNT(*) FILTER (WHERE counts AND sends > 1) AS retried,
        COUNT(*) FILTER (WHERE counts AND status = '{Status.FAILED_TERMINAL}' AND NOT gone) AS dead,
        COUNT(*) FILTER (WHERE counts AND status = '{Status.COMMITTED}') AS committed,
        COUNT(*) FILTER (WHERE sends > 0) AS sent, SUM(cost_nanos) AS cost, SUM(unpriced_calls) AS unpriced_calls,
        SUM(input_tokens) AS input_tokens, SUM(output_tokens) AS output_tokens
        FROM (SELECT *, status = '{Status.FAILED_TERMINAL}' AND COALESCE(reason IN ({_EXCLUDED}), 0) AS gone,
          status NOT IN ('{Status.QUEUED}', '{Status.PROCESSING}', '{Status.FAILED_RETRYABLE}') AS done,
          {_IN_FRONT} AS counts FROM lives WHERE {_IN})""",
        values,
    )
    assert row is not None, "a query of counts has one row"
    return {name: int(row[name] or 0) for name in row.keys()}  # noqa: SIM118


def _judged(view: View, values: Mapping[str, str | None]) -> dict[str, int]:
    """Every answer is judged once; a refused one leaves no verdict, so answers are counted by their results."""
    return {
        "judged": view.number(f"SELECT COUNT(*) FROM results WHERE outcome = 'succeeded' AND {_OF}", values),
        "judged_requests": view.number(
            f"SELECT COUNT(DISTINCT request_id) FROM results WHERE outcome = 'succeeded' AND {_OF}", values
        ),
        "passed": view.number(
            f"SELECT COUNT(*) FROM verdicts WHERE status = 'validated' AND decided_by = 'rules' AND {_OF}", values
        ),
        "reviewed": view.number(
            f"SELECT COUNT(DISTINCT request_id) FROM verdicts WHERE status = 'needs_review' AND {_OF}", values
        ),
    }


def _quality(view: View, values: Mapping[str, str | None]) -> float | None:
    """Of what people decided and nobody took back, the share that was right as it was."""
    row = view.row(
        """SELECT COUNT(*) AS n, COUNT(*) FILTER (WHERE action = 'accept') AS accepted FROM decisions d
        WHERE action IN ('accept', 'correct', 'decline') AND NOT EXISTS (SELECT 1 FROM decisions u
          WHERE u.request_id = d.request_id AND u.action = 'undo' AND u.undoes = d.id)
        AND (:job IS NULL OR job = :job) AND ((:run IS NULL AND :version IS NULL) OR request_id IN
          (SELECT request_id FROM lives WHERE (:run IS NULL OR run_id = :run)
            AND (:version IS NULL OR version = :version)))""",
        values,
    )
    assert row is not None, "a query of counts has one row"
    return _rate(row["accepted"], row["n"])


def _rate(part: float, whole: float) -> float | None:
    return part / whole if whole else None
