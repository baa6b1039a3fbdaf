"""`batchmill status`: where everything stands, once or live."""

import json as jsonlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, known_job, utc

if TYPE_CHECKING:
    from batchmill.agents.projector.commits import CommitLimit, DownSink
    from batchmill.agents.projector.drift import WatchRow
    from batchmill.agents.projector.metrics import Accounting, Aside, Failure, Funnel, RunMetrics
    from batchmill.agents.projector.queries import BudgetRow, Freshness, JobRow, Overseen

__all__ = ["Report", "Speed", "add", "lines", "read_report"]

_FAILURES_SHOWN = 8
_NANOS = 10**9
_STALE_MS = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything `status` tells, read in one go."""

    at_ms: int
    job: str | None
    freshness: "Freshness"
    accounting: "Accounting"
    funnel: "Funnel"
    metrics: "RunMetrics"
    failures: "tuple[Failure, ...]"
    batches: Mapping[str, int]  #: state -> how many are not done
    jobs: "tuple[JobRow, ...]"
    budgets: "tuple[BudgetRow, ...]"
    commits_waiting: int  #: passed and not written yet
    commit_limits: "tuple[CommitLimit, ...]"
    down_sinks: "tuple[DownSink, ...]"
    overseen: "Overseen"
    watches: "tuple[WatchRow, ...]"
    looking_up: Mapping[str, int]  #: job -> raw events that wait for a look-up


class Speed:
    """How fast records get finished, smoothed over the looks of one `--watch`."""

    #: weight of the newest look
    _NEWEST = 0.3

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self.per_second: float | None = None

    def look(self, report: Report) -> None:
        """Take another look; rates exist from the second one on."""
        finished = report.accounting.account.raw - _unfinished(report)
        if self._last is not None and report.at_ms > self._last[0]:
            now = max(0.0, (finished - self._last[1]) * 1000 / (report.at_ms - self._last[0]))
            self.per_second = now if self.per_second is None else self._blend(self.per_second, now)
        self._last = (report.at_ms, finished)

    def eta_seconds(self, report: Report) -> float | None:
        """Until nothing is in flight, if it goes on like this."""
        return _unfinished(report) / self.per_second if self.per_second else None

    def _blend(self, before: float, now: float) -> float:
        return before + self._NEWEST * (now - before)


def add(app: typer.Typer) -> None:
    app.command()(status)


def status(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking until Ctrl-C.")] = False,
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 1.0,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show the funnel, the accounting, rates, cost, and failures by reason.

    With --json --watch one JSON document per line.

    \b
    Examples:
      batchmill status
      batchmill status triage --watch
    """
    here = door(context)
    if not watch:
        report = read_report(here, job=job, run=run)
        if job is not None and not report.accounting.account.raw:  # events may name a job that nobody has applied
            with here.view() as view:
                known_job(view, job)
        if json:
            here.emit("status", plain(report, None))
        else:
            typer.echo("\n".join(lines(report, None)))
        return
    _watch(here, job=job, run=run, every=every, json=json)


def read_report(here: Door, *, job: str | None, run: str | None = None) -> Report:
    """Ask the read model everything at once."""
    from batchmill.agents import clock
    from batchmill.agents.projector import queries
    from batchmill.agents.projector.commits import commit_limits, down_sinks, waiting_commits
    from batchmill.agents.projector.drift import watch_rows
    from batchmill.agents.projector.metrics import Scope, accounting, failures, funnel, metrics

    scope = Scope(job=job, run=run)
    with here.view() as view:
        batches = view.rows(
            "SELECT state, COUNT(*) AS n FROM chunks WHERE state NOT IN ('done', 'failed')"
            " AND (? IS NULL OR job = ?) GROUP BY 1",
            (job, job),
        )
        return Report(
            at_ms=clock.wall_ms(),
            job=job,
            freshness=queries.freshness(view),
            accounting=accounting(view, scope),
            funnel=funnel(view, scope),
            metrics=metrics(view, scope),
            failures=tuple(failures(view, scope)),
            batches={row["state"]: row["n"] for row in batches},
            jobs=tuple(queries.jobs(view, job)),
            budgets=tuple(queries.budgets(view, job)),
            commits_waiting=waiting_commits(view, job),
            commit_limits=tuple(commit_limits(view, job=job)),
            down_sinks=tuple(down_sinks(view)),
            overseen=queries.overseen(view),
            watches=tuple(watch_rows(view, job)),
            looking_up=queries.looking_up(view, job),
        )


def plain(report: Report, speed: Speed | None) -> dict[str, Any]:
    """The report as `--json` prints it."""
    account = report.accounting.account
    return {
        "at_ms": report.at_ms,
        "job": report.job,
        "accounting": {
            "raw": account.raw,
            "places": account.places,
            "difference": account.difference,
            "unread": report.accounting.unread,
            "lost": report.accounting.lost,
            "doubled": report.accounting.doubled,
            "unborn": report.accounting.unborn,
            "aside": [{**asdict(each), "lives": each.lives} for each in report.accounting.aside],
            "holds": report.accounting.holds,
        },
        "funnel": report.funnel,
        "metrics": report.metrics,
        "failures": report.failures,
        "open_batches": report.batches,
        "jobs": report.jobs,
        "budgets": [{**asdict(each), "left_nanos": each.left_nanos} for each in report.budgets],
        "commits": {
            "waiting": report.commits_waiting,
            "held": [each for each in report.commit_limits if each.held is not None],
            "down": report.down_sinks,
        },
        "drift": [{"job": each.job, "version": each.version, "moved": each.moved} for each in report.watches],
        "waiting_for_grants": report.overseen.waiting,
        "waiting_for_tools": report.looking_up,
        "view": report.freshness,
        "records_per_second": None if speed is None else speed.per_second,
        "eta_seconds": None if speed is None else speed.eta_seconds(report),
    }


def lines(report: Report, speed: Speed | None) -> list[str]:
    """The report as people read it."""
    return [
        *_job_lines(report),
        *_funnel_lines(report),
        "",
        *_account_lines(report),
        "",
        *_metric_lines(report, speed),
        *_budget_lines(report),
        *_commit_lines(report),
        *_lookup_lines(report),
        *_drift_lines(report),
        *_failure_lines(report),
        *_view_lines(report),
    ]


def _job_lines(report: Report) -> list[str]:
    told = []
    for job in report.jobs:
        lagging = job.tasks - job.effective_tasks
        told.append(
            f"{job.job}  {_condition(job)}, version {job.version}{_tried_out(job)}"
            + (f", not yet in effect in {lagging} tasks" if lagging else "")
        )
    return [*told, ""] if told else []


def _tried_out(job: "JobRow") -> str:
    """Which versions are asked beside the one in force, and about how much of what comes in."""
    shares = jsonlib.loads(job.shadows_json).items()
    told = (f"{version} ({share:.0%} of live events)" if share else version for version, share in shares)
    return "".join(f", trying out {each}" for each in told)


def _condition(job: "JobRow") -> str:
    """What was asked for, unless tasks paused the job by themselves: a provider's refusal stops one task at a time."""
    if job.requested_paused:
        return "paused"
    why = f" by itself ({job.pause_reason})" if job.pause_reason else ""
    return f"paused{why} in {job.paused_tasks} of {job.tasks} tasks" if job.paused_tasks else "running"


_BAR_CHARS = 40


def _funnel_lines(report: Report) -> list[str]:
    funnel = report.funnel
    steps = [(name, getattr(funnel, name)) for name in funnel.__slots__]
    top = max(1, *(count for _, count in steps))
    width = len(f"{top:,}")
    return [f"{name:<10} {count:>{width},}  {'█' * round(_BAR_CHARS * count / top)}" for name, count in steps]


def _account_lines(report: Report) -> list[str]:
    books = report.accounting
    terms = " + ".join(
        f"{count:,} {place.value.replace('_', ' ')}" for place, count in books.account.places.items() if count
    )
    told = [f"{books.account.raw:,} raw = {terms or '0'}"]
    if books.unread:
        told.append(f"  of those in flight {books.unread:,} were not read yet")
    told += [_aside_line(each) for each in books.aside]
    if not books.holds:
        told.append(f"  THE ACCOUNT DOES NOT HOLD: {books.lost:,} lost, {books.doubled:,} counted twice")
    return told


def _aside_line(aside: "Aside") -> str:
    """What no raw event is counted by, since another version answers for it."""
    counts = [(name.replace("_", " "), getattr(aside, name)) for name in _ASIDE_COUNTS]
    told = ", ".join(f"{count:,} {name}" for name, count in counts if count)
    return f"held aside: {aside.lives:,} ({aside.job} version {aside.version}: {told})"


_ASIDE_COUNTS = ("validated", "committed", "in_review", "failed", "excluded", "under_way")


def _metric_lines(report: Report, speed: Speed | None) -> list[str]:
    told = report.metrics
    pairs = [
        ("success", _percent(told.success_rate)),
        ("validation pass", _percent(told.validation_pass_rate)),
        ("retry", _percent(told.retry_rate)),
        ("terminal failure", _percent(told.terminal_failure_rate)),
        ("manual review", _percent(told.manual_review_rate)),
        ("commit", _percent(told.commit_rate)),
        ("quality (reviewed)", _percent(told.quality_score)),
        ("tokens per record", None if told.mean_tokens is None else f"{told.mean_tokens:,.0f}"),
        ("cost", _cost(told)),
        ("cost per record", _usd(told.cost_per_record_usd)),
        ("cost per success", _usd(told.cost_per_success_usd)),
        ("records per dollar", None if told.records_per_dollar is None else f"{told.records_per_dollar:,.0f}"),
        ("open batches", ", ".join(f"{count} {state}" for state, count in report.batches.items()) or None),
        ("finished", _pace(report, speed)),
    ]
    return [f"{name:<19} {value}" for name, value in pairs if value is not None]


def _budget_lines(report: Report) -> list[str]:
    told = [_budget(each) for each in report.budgets]
    waiting = {pool: n for pool, n in report.overseen.waiting.items() if _concerns(report, pool)}
    told += [f"{n:,} batches wait for a grant of {pool}" for pool, n in waiting.items()]
    if waiting and report.overseen.silent(report.at_ms):
        told.append("no overseer was heard of for 30 s: start one with `batchmill overseer`")
    return ["", *told] if told else []


def _budget(row: "BudgetRow") -> str:
    spent = f"{_usd(row.posted_nanos / _NANOS)} spent, {_usd(row.reserved_nanos / _NANOS)} reserved"
    if row.limit_nanos is None or row.left_nanos is None:
        return f"budget of {row.job}: none any more; {spent}"
    used_up = row.waiting and not row.reserved_nanos
    left = "used up: no batch that waits fits into the " if used_up else ""
    return f"budget of {row.job}: {_usd(row.limit_nanos / _NANOS)}; {spent}, {left}{_usd(row.left_nanos / _NANOS)} left"


def _commit_lines(report: Report) -> list[str]:
    """What holds commits up, and what to type."""
    told = [
        f"sink {each.line} takes no writes in {each.tasks} tasks since {utc(each.since_ms)} UTC ({each.why});"
        " what passed waits for it"
        for each in report.down_sinks
    ]
    held: dict[tuple[str, str], list[CommitLimit]] = {}
    for each in report.commit_limits:
        if each.held is not None:
            held.setdefault((each.job, each.version), []).append(each)
    for (job, version), tasks in held.items():
        why = f"{sum(each.commits for each in tasks):,} made, {sum(each.changed for each in tasks):,} changed something"
        told.append(f"commits of {job} version {version} are held by their limit in {len(tasks)} tasks: {why};")
        told.append(f"  look at them, then `batchmill commits go {job}`")
    if told and report.commits_waiting:
        told.append(f"commits that wait: {report.commits_waiting:,}")
    return ["", *told] if told else []


def _lookup_lines(report: Report) -> list[str]:
    """Records that are to be asked about first; where their source is away they wait for it."""
    told = [f"{n:,} records of {job} wait for what is looked up for them" for job, n in report.looking_up.items()]
    return ["", *told, "  `batchmill doctor` tries the databases and APIs"] if told else []


def _drift_lines(report: Report) -> list[str]:
    from batchmill.agents.cli.drift import told

    moved = [f"drift of {each.job}: {line}" for each in report.watches for line in told(each)]
    return ["", *moved, "  look at `batchmill drift`; after a pause `batchmill resume JOB` goes on"] if moved else []


def _concerns(report: Report, pool: str) -> bool:
    return report.job is None or not pool.startswith("money/") or pool == f"money/{report.job}"


def _failure_lines(report: Report) -> list[str]:
    if not report.failures:
        return []
    shown = [f"{each.count:>8,}  {each.reason:<22} {each.place}" for each in report.failures[:_FAILURES_SHOWN]]
    return ["", "not the straight way:", *shown]


def _view_lines(report: Report) -> list[str]:
    fresh = report.freshness
    told = []
    if report.at_ms - fresh.newest_at_ms > _STALE_MS:
        told.append(f"newest record in the view: {utc(fresh.newest_at_ms) or 'none'} UTC; is a projector running?")
    if fresh.gaps or fresh.unreadable:
        told.append(f"the view has {fresh.gaps} gaps and {fresh.unreadable} unreadable records")
    return ["", *told] if told else []


def _watch(here: Door, *, job: str | None, run: str | None, every: float, json: bool) -> None:
    """Live on a terminal; elsewhere one report after the other."""
    speed = Speed()

    def look() -> Report:
        report = _patient_report(here, job=job, run=run, every=every)
        speed.look(report)
        return report

    if json or not sys.stdout.isatty():
        while True:
            report = look()
            if json:
                here.emit("status", plain(report, speed))
            else:
                typer.echo("\n".join([*lines(report, speed), ""]))
            _rest(every)
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, screen=False) as live:
        while True:
            live.update(Text("\n".join(lines(look(), speed))), refresh=True)
            _rest(every)


def _patient_report(here: Door, *, job: str | None, run: str | None, every: float) -> Report:
    """Whoever watches may have come before the projector."""
    from batchmill.agents.projector.reading import ViewMissingError

    waited = False
    while True:
        try:
            return read_report(here, job=job, run=run)
        except ViewMissingError as error:
            if not waited:
                here.say(f"waiting: {error}")
            waited = True
            _rest(every)


def _rest(seconds: float) -> None:
    import time

    time.sleep(seconds)


def _unfinished(report: Report) -> int:
    from batchmill.schemas.status import Place

    return report.accounting.account.places.get(Place.IN_FLIGHT, 0)


def _pace(report: Report, speed: Speed | None) -> str | None:
    if speed is None or speed.per_second is None:
        return None
    eta = speed.eta_seconds(report)
    return f"{speed.per_second:,.0f} records/s" + (f", done in about {eta:,.0f} s" if eta else "")


def _cost(told: "RunMetrics") -> str:
    parts = [f"${told.cost_usd:,.4f}"]
    if told.wasted_usd:
        parts.append(f"${told.wasted_usd:,.4f} of it wasted")
    if told.doubtful_usd:
        parts.append(f"perhaps ${told.doubtful_usd:,.4f} more")
    if told.unpriced_calls:
        parts.append(f"{told.unpriced_calls} calls unpriced")
    if told.answered_from_store:
        parts.append(f"{told.answered_from_store} answers from store")
    return ", ".join(parts)


def _percent(rate: float | None) -> str | None:
    return None if rate is None else f"{rate:.1%}"


def _usd(amount: float | None) -> str | None:
    return None if amount is None else f"${amount:,.6f}"
