"""`batchmill replay`: what reading raw again would take, then doing it, and steering what runs."""

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from batchmill.agents.cli.control import ACTOR
from batchmill.agents.cli.door import JSON, Door, door, known_job, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.jobs import wait_option
from batchmill.agents.cli.redrive import EXECUTE, MAX_COST, nanos, usd

if TYPE_CHECKING:
    from batchmill.agents.projector.reruns import ReplayRow
    from batchmill.agents.replays.choosing import Range
    from batchmill.agents.replays.plan import Group, Plan, Way

__all__ = ["add"]

_NANOS: Final = 10**9
_WAIT_SECONDS: Final = 10.0
_OFFSETS: Final = re.compile(r"(\d{1,6}):(\d{1,18})-(\d{1,18})")
_RUNS_SHOWN: Final = 50

RUN = typer.Argument(help="The run's name, as `batchmill replay list` shows it.")


def add(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    group.callback()(replay)
    for command in (list_, show, pause, resume, cancel):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="replay")


def replay(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="The job's name.")] = None,
    select: Annotated[
        str,
        typer.Option(
            metavar="stale|failed|all|CEL", help="Which records; a condition speaks of record, input, output."
        ),
    ] = "stale",
    since: Annotated[str | None, typer.Option(help="Events of that moment or later: 7d, or 2026-01-31T12:00.")] = None,
    until: Annotated[str | None, typer.Option(help="Events before that moment.")] = None,
    offsets: Annotated[
        list[str] | None, typer.Option(metavar="P:FROM-TO", help="Only these offsets of raw partition P; repeatable.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="So many of them, each class with its share.")] = None,
    seed: Annotated[str, typer.Option(help="Same seed, same sample.")] = "0",
    max_cost: Annotated[str | None, MAX_COST] = None,
    rate: Annotated[float | None, typer.Option(help="Records a second that are read, all tasks together.")] = None,
    version: Annotated[str | None, typer.Option(help="A frozen version; default: the one in force.")] = None,
    aside: Annotated[bool, typer.Option("--aside", help="Ask and judge only: nothing of it is written.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask anew, whatever was answered before.")] = False,
    refresh_tools: Annotated[
        bool, typer.Option("--refresh-tools", help="With --fresh: look up again what was looked up for an event.")
    ] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="Ask nothing: write what is committed once more, at the place of now."),
    ] = False,
    run: Annotated[str | None, typer.Option(help="Name of this run; default: a new one.")] = None,
    execute: Annotated[bool, EXECUTE] = False,
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Read raw events again under one version. A dry run by default.

    What was asked under that version already is not asked again. The answers of a version that is not in force stand
    aside: nothing of them is written.

    \b
    Examples:
      batchmill replay --job triage
      batchmill replay --job triage --select stale --rate 50 --max-cost 20 --execute
      batchmill replay --job triage --version abcdefghijklmnop --select all --sample 500 --execute
      batchmill replay --job triage --write --execute
      batchmill replay --job triage --select 'record.confidence < 0.6 && output.label == "other"'
    """
    if context.invoked_subcommand is not None:
        return
    from batchmill.agents import clock
    from batchmill.agents.cli.letters import moment_ms
    from batchmill.agents.commands import new_id
    from batchmill.agents.replays.choosing import Asked
    from batchmill.streams.rerunning import is_run_name

    here, now_ms = door(context), clock.wall_ms()
    if job is None:
        raise CommandError("say --job; or `batchmill replay list` for those that run", ExitCode.USAGE)
    if rate is not None and rate <= 0:
        raise CommandError("--rate: records a second, above 0", ExitCode.USAGE)
    name = run or f"{job}-{new_id()}"
    if not is_run_name(name):
        raise CommandError(f"--run {name[:130]}: 1 to 120 letters, digits, '.', '_', ':', '/' or '-'", ExitCode.USAGE)
    asked = Asked(
        job=job,
        select="all" if write and select == "stale" else select,
        since_ms=None if since is None else moment_ms(since, now_ms, option="--since"),
        until_ms=None if until is None else moment_ms(until, now_ms, option="--until"),
        ranges=tuple(_range(text) for text in offsets or ()),
        sample=sample,
        seed=seed,
        max_nanos=None if max_cost is None else nanos(max_cost),
        per_second=rate,
        version=version,
        aside=aside,
        fresh=fresh,
        refresh_tools=refresh_tools,
        write=write,
    )
    asyncio.run(_replay(here, asked, name, now_ms, execute=execute, wait=wait, actor=actor, json=json))


async def _replay(
    here: Door, asked: Any, run: str, now_ms: int, *, execute: bool, wait: float, actor: str | None, json: bool
) -> None:
    from batchmill.agents.commands import actor_here
    from batchmill.agents.prices import load_prices
    from batchmill.agents.replays.plan import ReplayError
    from batchmill.agents.replays.planning import plan_replay
    from batchmill.agents.replays.starting import start_replay

    try:
        with here.view() as view:
            prices = load_prices(here.settings.prices_file)
            plan = await plan_replay(here.settings, view, asked, prices=prices, now_ms=now_ms)
    except ReplayError as error:
        raise CommandError(str(error), ExitCode.NOT_FOUND if error.missing else ExitCode.USAGE) from None
    _tell(here, plan, run, executed=execute and not plan.is_over, json=json)
    if plan.is_over:
        raise CommandError(_over(plan), ExitCode.GATE)
    if not execute:
        here.say("dry run: nothing was started; say --execute to do it")
        return
    if not plan.handed and not plan.redriven:
        return
    issued = await start_replay(here.settings, plan, run=run, actor=actor or actor_here(), wait_seconds=wait)
    if not issued.effective:
        names = ", ".join(map(str, issued.laggards))
        here.say(f"run {run} is requested; not yet noted in tasks {names}: are workers running?")
        raise typer.Exit(ExitCode.TEMPORARY)
    here.say(f"run {run} is started; `batchmill replay show {run}` tells how far it is")


# -- runs --------------------------------------------------------------------------------------------------------------


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only this job.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List the runs that tasks remember, the newest first.

    \b
    Example:
      batchmill replay list --job triage
    """
    from batchmill.agents.projector.reruns import replays

    here = door(context)
    with here.view() as view:
        rows = replays(view, None if job is None else known_job(view, job), limit=_RUNS_SHOWN)
    if json:
        here.emit("replay.list", [_plain(row) for row in rows])
        return
    columns = ("run", "job", "version", "state", "read", "of", "asked", "known", "started", "note")
    told = [
        [
            *(row.run, row.job, row.version, row.state.value, row.done, row.lines),
            *(row.counts.get("asked", 0), row.counts.get("known", 0), utc(row.started_at_ms), row.note),
        ]
        for row in rows
    ]
    here.table(columns, told, empty="no run is remembered; `batchmill replay --job JOB` shows what one would do")


def show(context: typer.Context, run: Annotated[str, RUN], json: Annotated[bool, JSON] = False) -> None:
    """Show how far one run is, what became of its events and of its requests, and how it was chosen.

    \b
    Example:
      batchmill replay show triage-0198c0de-0000-7000-8000-000000000000
    """
    here = door(context)
    row = _found(here, run)
    if json:
        here.emit("replay.show", _plain(row))
        return
    here.fields(
        [
            *(("run", row.run), ("job", row.job), ("version", row.version + (", aside" if row.aside else ""))),
            *(("state", row.state.value), ("note", row.note), ("started", utc(row.started_at_ms))),
            ("read", f"{row.done:,} of {row.lines:,}"),
            *((f"events {name}", count) for name, count in row.counts.items()),
            *((f"requests {name}", count) for name, count in row.lives.items()),
            ("cost so far", usd(row.cost_nanos)),
            *((f"tasks {name}", count) for name, count in row.tasks.items()),
            *((f"chosen: {name}", value) for name, value in row.selection.items()),
        ]
    )


def pause(
    context: typer.Context,
    run: Annotated[str, RUN],
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Let a run read no further until it is resumed. What it has asked goes on.

    \b
    Example:
      batchmill replay pause nightly-1
    """
    _steer(door(context), run, "pause", wait=wait, actor=actor, json=json)


def resume(
    context: typer.Context,
    run: Annotated[str, RUN],
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Let a paused run go on where it was.

    \b
    Example:
      batchmill replay resume nightly-1
    """
    _steer(door(context), run, "resume", wait=wait, actor=actor, json=json)


def cancel(
    context: typer.Context,
    run: Annotated[str, RUN],
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """End a run. What it has asked is answered and counted; the events it has not read stay as they are.

    \b
    Example:
      batchmill replay cancel nightly-1
    """
    _steer(door(context), run, "cancel", wait=wait, actor=actor, json=json)


def _steer(here: Door, run: str, do: str, *, wait: float, actor: str | None, json: bool) -> None:
    from batchmill.agents.commands import actor_here
    from batchmill.agents.replays.starting import steer_replay

    row = _found(here, run)
    if row.is_over:
        raise CommandError(f"run {run} is over: {row.state.value}", ExitCode.CONFLICT)
    told = steer_replay(
        here.settings, row.job, row.version, run=run, do=do, actor=actor or actor_here(), wait_seconds=wait
    )
    issued = asyncio.run(told)
    if json:
        here.emit("replay.steer", {"run": run, "do": do, "laggards": issued.laggards})
    if not issued.effective:
        names = ", ".join(map(str, issued.laggards))
        here.say(f"{do} of {run} is requested; not yet in effect in tasks {names}: are workers running?")
        raise typer.Exit(ExitCode.TEMPORARY)
    here.say(f"{do} of {run} is {'in effect in every task' if wait > 0 else 'requested'}")


def _found(here: Door, run: str) -> "ReplayRow":
    from batchmill.agents.projector.reruns import replay as one

    with here.view() as view:
        row = one(view, run)
    if row is None:
        raise CommandError(f"the read model knows no run {run}; see `batchmill replay list`", ExitCode.NOT_FOUND)
    return row


def _plain(row: "ReplayRow") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)


# -- telling -----------------------------------------------------------------------------------------------------------


def _tell(here: Door, plan: "Plan", run: str, *, executed: bool, json: bool) -> None:
    if json:
        here.emit("replay", _told(plan, run, executed=executed))
    else:
        _table(here, plan)
    for note in plan.notes:
        here.say(note)
    for sentence in _sentences(plan):
        here.say(sentence)


def _told(plan: "Plan", run: str, *, executed: bool) -> dict[str, Any]:
    from batchmill.agents.replays.plan import Way

    total = plan.total
    return {
        "run": run,
        "executed": executed,
        "job": plan.asked.job,
        "version": plan.version,
        "aside": plan.asked.aside,
        "fresh": plan.asked.fresh,
        "epoch": plan.epoch,
        "select": plan.asked.select,
        **_sums(total),
        "by_way": {way.value: plan.count(way) for way in Way if plan.count(way)},
        "groups": [
            {"version": version, "status": status, "way": way.value, **_sums(group)}
            for (version, status, way), group in _sorted(plan)
        ],
        "read_again": plan.handed,
        "seconds": plan.seconds,
        "sampled_from": plan.sampled_from,
        "strata": plan.strata,
        "no_answer": plan.no_answer,
        "notes": plan.notes,
    }


def _table(here: Door, plan: "Plan") -> None:
    columns = ("version now", "status", "what happens", "count", "tokens", "expected", "at most")
    rows = [
        [version, status, way.value, group.count, group.tokens, *_costs(group)]
        for (version, status, way), group in _sorted(plan)
    ]
    here.table(columns, rows, empty="nothing is selected")
    if plan.strata:
        told = ", ".join(f"{name} {count}" for name, count in sorted(plan.strata.items()))
        here.say(f"a sample of {sum(plan.strata.values()):,} from {plan.sampled_from:,}, by version and class: {told}")
    if plan.groups:
        total = plan.total
        expected, most = _costs(total)
        here.say(
            f"{total.count:,} selected under version {plan.version}: {total.tokens:,} tokens, expected"
            f" {expected or '$0'}, at most {most or '$0'} with every retry"
        )


def _sentences(plan: "Plan") -> list[str]:
    """What the counts come to, in words."""
    from batchmill.agents.replays.plan import Way

    total, free, already = plan.total.count, plan.count(Way.JUDGED), plan.count(Way.ALREADY)
    said = []
    if plan.asked.aside:
        said.append("the answers stand aside: nothing of them is written")
    elif plan.asked.fresh and total:
        said.append("a fresh start: every other record of the version becomes stale by it")
    if plan.no_answer:
        said.append(f"{plan.no_answer:,} records gave no answer to the condition, and are not selected")
    if gone := plan.count(Way.GONE):
        said.append(f"{gone:,} are gone from the log: retention has removed their events; publish them again")
    if redriven := plan.count(Way.REDRIVEN):
        said.append(f"{redriven:,} failed under this version: they are redriven, as `batchmill dlq redrive` does")
    if free and not plan.count(Way.ASKED):
        said.append(f"only rules changed: {free:,} stored answers are judged again, 0 requests")
    if total and already == total:
        said.append(
            "nothing to ask: all of them were asked under this version already. If only the place changed, say --write"
        )
    if written := plan.count(Way.WRITTEN):
        said.append(f"{written:,} are written once more, at the place that the job names now; 0 requests")
    seconds = plan.seconds
    if seconds is not None and plan.handed:
        said.append(f"reading takes about {seconds:,.0f} s at {plan.asked.per_second:g} records a second")
    return said


def _over(plan: "Plan") -> str:
    total, allowed = plan.total, plan.asked.max_nanos or 0
    if total.unpriced:
        return (
            f"--max-cost: of {total.unpriced:,} records nobody knows what they can cost (no price, or no"
            " max_output_tokens); give the job both and apply it; nothing was started"
        )
    fits = plan.sample_that_fits
    hint = f"--sample {fits} would fit" if fits else "not even one record fits"
    return (
        f"--max-cost: it can cost up to {usd(total.most_nanos)}, more than {usd(allowed)}: {hint}, or allow more;"
        " nothing was started"
    )


def _sorted(plan: "Plan") -> "list[tuple[tuple[str, str, Way], Group]]":
    return sorted(plan.groups.items(), key=lambda each: (-each[1].count, each[0]))


def _sums(group: "Group") -> dict[str, Any]:
    return {
        "count": group.count,
        "tokens": group.tokens,
        "expected_usd": group.expected_nanos / _NANOS,
        "most_usd": group.most_nanos / _NANOS,
        "unpriced": group.unpriced,
    }


def _costs(group: "Group") -> tuple[str, str]:
    more = f" and {group.unpriced:,} unpriced" if group.unpriced else ""
    return (
        (usd(group.expected_nanos) if group.expected_nanos else "") + more,
        (usd(group.most_nanos) if group.most_nanos else "") + more,
    )


def _range(text: str) -> "Range":
    from batchmill.agents.replays.choosing import Range

    match = _OFFSETS.fullmatch(text)
    if match is None or int(match[2]) > int(match[3]):
        raise CommandError(f"--offsets {text}: write PARTITION:FROM-TO, such as 3:1000-1999", ExitCode.USAGE)
    return Range(int(match[1]), int(match[2]), int(match[3]))
