"""`batchmill job`: check, plan and apply a job folder; what is applied already."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.accounts import account_trouble
from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.planned import tell_plan
from batchmill.agents.cli.prices import told as told_prices
from batchmill.streams.finding import Lint

if TYPE_CHECKING:
    from batchmill.agents.commands import AppliedVersion
    from batchmill.agents.jobs import LoadedJob
    from batchmill.agents.jobs.planning import Plan
    from batchmill.agents.jobs.problems import Problem
    from batchmill.agents.projector.queries import JobRow
    from batchmill.agents.projector.stakes import Stake
    from batchmill.schemas.jobs import JobSpec
    from batchmill.schemas.records import Control
    from batchmill.streams.costing import Prices

__all__ = ["add", "listed", "wait_option"]

FOLDER = typer.Argument(metavar="FOLDER", help="A folder with job.yaml, or the file itself.")
_SAMPLE_FILE = "samples.jsonl"
#: samples that `validate` weighs; `plan` tries as many as it is told to
_WEIGHED_MAX = 20

wait_option = typer.Option("--wait", metavar="SECONDS", help="Longest wait for every task to take it; 0 = do not wait.")


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Validate, plan and apply jobs.")
    for command in (validate, plan, apply, show):
        group.command()(command)
    group.command("list")(list_)
    app.add_typer(group, name="job")


def validate(
    context: typer.Context,
    folder: Annotated[Path, FOLDER],
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a job that is warned of.")] = False,
    allow: Annotated[
        list[Lint] | None, typer.Option(metavar="LINT", help="Do not warn of this; the name in brackets. Repeatable.")
    ] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Explain every mistake in a job folder, with file and line, and what is odd about its prompt. Needs no broker.

    \b
    Example:
      batchmill job validate jobs/triage --strict --allow heavy-prompt
    """
    from batchmill.agents.jobs import JobFileError

    here = door(context)
    try:
        loaded = _load(here, folder, quietly=True)
        found = [*loaded.warnings, *_price_warnings(here, loaded), *_weight_warnings(here, loaded)]
    except JobFileError as error:
        if not json:
            raise
        here.emit("job.validate", {"ok": False, "problems": [_problem(each) for each in error.problems]})
        raise typer.Exit(ExitCode.GATE) from None
    warnings = [warning for warning in found if warning.lint not in (allow or ())]
    refused = strict and bool(warnings)
    if json:
        told = {"job": loaded.spec.job, "version": loaded.version, "problems": [_problem(each) for each in warnings]}
        here.emit("job.validate", {"ok": not refused, **told})
    else:
        for warning in warnings:
            here.say(str(warning))
        well = "is refused, because --strict takes no warnings" if refused else "is well-formed"
        here.say(f"{loaded.file}: job {loaded.spec.job} {well}, version {loaded.version}")
    if refused:
        raise typer.Exit(ExitCode.GATE)


def plan(
    context: typer.Context,
    folder: Annotated[Path, FOLDER],
    sample: Annotated[Path | None, typer.Option(help=f"JSONL events to try; default FOLDER/{_SAMPLE_FILE}.")] = None,
    limit: Annotated[int, typer.Option(help="Sample events to try.")] = 3,
    key: Annotated[str | None, typer.Option(help="Member that would be the record's key.")] = None,
    records: Annotated[
        int | None,
        typer.Option("--records", "--count", help="Expected number of events, to multiply the estimate with."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask Kafka for the active version.")] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what applying would mean: differences, rendered prompts, what tokens are spent on, cost. Sends nothing.

    \b
    Example:
      batchmill job plan jobs/triage --sample tickets.jsonl --limit 5 --records 20000
    """
    here = door(context)
    loaded = _load(here, folder, quietly=json)
    active = None if offline else _active(here, loaded.spec.job)
    if not offline and not json:
        _warn_of_scorer(here, loaded.spec)
    prices = _prices_of(here, loaded.spec)
    made = _planned(here, loaded, active, prices, sample, limit, key)
    stake = None if active is None else _stake(here, loaded.spec.job)
    if json:
        means = {
            "weight_mean": made.weight_mean,
            "tokens_mean": made.tokens_mean,
            "cost_mean_nanos": made.cost_mean_nanos,
            "expected_mean_nanos": made.expected_mean_nanos,
        }
        here.emit("job.plan", {"plan": made, **means, "stake": stake, "prices": told_prices(prices)})
        return
    tell_plan(here, made, stake=stake, priced_by=_priced_by(loaded.spec, prices), records=records)


def apply(
    context: typer.Context,
    folder: Annotated[Path, FOLDER],
    wait: Annotated[float, wait_option] = 10.0,
    actor: Annotated[str | None, typer.Option(help="Who does this, for the record; default: user@host.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Freeze the job and make it the version that new events are processed under.

    What its model costs today is frozen with it. Applied again, an unchanged job takes today's prices.

    \b
    Example:
      batchmill job apply jobs/triage
    """
    here = door(context)
    loaded = _load(here, folder, quietly=json)
    active = _active(here, loaded.spec.job)
    prices = _prices_of(here, loaded.spec)
    told = {"prices": told_prices(prices)}
    if active is not None and _same(active.spec, loaded.spec, prices):
        if json:
            unchanged = {"job": active.job, "version": active.version, "changed": False, "laggards": []}
            here.emit("job.apply", unchanged | told)
        here.say(f"job {active.job} is applied already, version {active.version}; nothing was changed")
        return
    issued = asyncio.run(_apply(here, loaded, prices, actor, wait))
    if json:
        here.emit(
            "job.apply",
            {
                "job": loaded.spec.job,
                "version": loaded.version,
                "changed": True,
                "command_id": issued.command_id,
                "laggards": issued.laggards,
            }
            | told,
        )
    here.say(f"job {loaded.spec.job} is applied, version {loaded.version}")
    here.say(_priced_by(loaded.spec, prices))
    _say_of_place(here, active, loaded)
    _warn_of_scorer(here, loaded.spec)
    if not issued.effective:
        here.say(f"not yet in effect in tasks {_list(issued.laggards)} of {issued.partitions}: are workers running?")
        raise typer.Exit(ExitCode.TEMPORARY)


def list_(context: typer.Context, json: Annotated[bool, JSON] = False) -> None:
    """List the applied jobs: what was asked for, what is in effect, what is paused.

    \b
    Example:
      batchmill job list
    """
    here = door(context)
    told = _jobs(here)
    if json:
        here.emit("job.list", told)
        return
    columns = ("job", "version", "versions", "requested", "effective", "paused", "open", "parked", "applied")
    rows = [[each[name] for name in (*columns[:-1], "applied_at")] for each in told]
    here.table(columns, rows, empty="no job is applied; `batchmill init jobs/first` makes one to start from")


def show(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    version: Annotated[str | None, typer.Option(help="A frozen version; default: the active one.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show a job's frozen spec and its versions.

    \b
    Example:
      batchmill job show triage --json
    """
    import orjson

    here = door(context)
    versions = _versions(here, job)
    if not versions:
        raise CommandError(f"no job {job} is applied; `batchmill job list` names those that are", ExitCode.NOT_FOUND)
    chosen = versions.get(version or _newest(versions).version)
    if chosen is None:
        raise CommandError(f"job {job} has no version {version}; it has {', '.join(versions)}", ExitCode.NOT_FOUND)
    spec = orjson.loads(chosen.spec.to_json())
    if json:
        known = [
            {"version": each.version, "applied_at_ms": each.applied_at_ms, "actor": each.actor}
            for each in versions.values()
        ]
        here.emit("job.show", {"job": job, "version": chosen.version, "spec": spec, "versions": known})
        return
    for each in versions.values():
        mark = "active" if each is _newest(versions) else ""
        here.say(f"{each.version}  {utc(each.applied_at_ms)}  {each.actor}  {mark}")
    typer.echo(orjson.dumps(spec, option=orjson.OPT_INDENT_2).decode())


def _load(here: Door, folder: Path, *, quietly: bool) -> "LoadedJob":
    from dataclasses import replace

    from batchmill.agents.jobs import load_job

    loaded = load_job(folder)
    _bounded(here, loaded)
    loaded = replace(loaded, warnings=(*loaded.warnings, *_account_warnings(here, loaded)))
    for warning in () if quietly else loaded.warnings:
        here.say(str(warning))
    return loaded


def _account_warnings(here: Door, loaded: "LoadedJob") -> "list[Problem]":
    """The workers may have other settings than this command; without the account nothing of the job is sent."""
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.agents.jobs.problems import Problem

    trouble = account_trouble(here.settings, loaded.spec.ask.model)
    if trouble is None:
        return []
    lined, (what, hint) = read_yaml(loaded.file), trouble
    line = lined.line(("ask", "model", "account"))
    return [Problem(file=loaded.file, line=line, what=what, hint=hint, level="warning")]


def _bounded(here: Door, loaded: "LoadedJob") -> None:
    """A budget is kept by reserving the most a request can cost: the price list has to know the model."""
    from batchmill.agents.jobs import JobFileError, Problem
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.agents.settings import env_name

    spec = loaded.spec
    if spec.budget is not None and _prices_of(here, spec).of(spec.ask.model.name) is None:
        what = f"budget: the price list has no model {spec.ask.model.name!r}, so nobody knows what may be spent"
        hint = f"name a price list that has it: {env_name('prices_file')}; or leave the budget out"
        line = read_yaml(loaded.file).line(("budget",))
        raise JobFileError([Problem(file=loaded.file, line=line, what=what, hint=hint)])


def _prices_of(here: Door, spec: "JobSpec") -> "Prices":
    """What the job would be costed by if it were applied now."""
    from batchmill.agents.prices import load_prices, prices_for

    return prices_for(spec, load_prices(here.settings.prices_file))


def _priced_by(spec: "JobSpec", prices: "Prices") -> str:
    from batchmill.streams.costing import brief

    price = prices.of(spec.ask.model.name)
    if price is None:
        return f"{spec.ask.model.name} is unpriced: {prices.source} does not list it for {spec.ask.model.provider}"
    return f"prices {prices.id}, {prices.source} as of {prices.as_of}: {brief(price)}"


def _say_of_place(here: Door, active: "AppliedVersion | None", loaded: "LoadedJob") -> None:
    """A new place asks and judges nothing anew, so what is committed has to be told to move."""
    from batchmill.schemas.versions import place_fingerprint

    same = active is not None and active.version == loaded.version
    if active is not None and same and place_fingerprint(active.spec) != place_fingerprint(loaded.spec):
        here.say(
            f"only the place changed: later commits go there; `batchmill replay --job {loaded.spec.job} --write` writes"
            " what is committed there, too, without asking anything"
        )


def _same(active: "JobSpec", planned: "JobSpec", prices: "Prices") -> bool:
    """Whether applying would change nothing, the prices included."""
    from dataclasses import replace

    from batchmill.streams.costing import parse_prices

    if replace(active, prices_json=None) != planned or active.prices_json is None:
        return False
    return parse_prices(active.prices_json).id == prices.id


def _price_warnings(here: Door, loaded: "LoadedJob") -> list["Problem"]:
    """What `validate` says of a model without a price: legal, but its cost will not be known."""
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.agents.jobs.problems import Problem
    from batchmill.agents.settings import env_name

    model = loaded.spec.ask.model
    prices = _prices_of(here, loaded.spec)
    if prices.of(model.name) is not None:
        return []
    warning = Problem(
        file=loaded.file,
        line=read_yaml(loaded.file).line(("ask", "model", "name")),
        what=f"{prices.source} lists no price of {model.name} at {model.provider}: its calls will be unpriced",
        hint=f"name a list that has it: {env_name('prices_file')}",
        level="warning",
    )
    return [warning]


def _weight_warnings(here: Door, loaded: "LoadedJob") -> "list[Problem]":
    """What the samples beside the job say of its prompt: how much of a question is the record."""
    from batchmill.agents.jobs import Problem
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.streams.weighing import heavy

    found = heavy(_planned(here, loaded, None, _prices_of(here, loaded.spec), None, _WEIGHED_MAX, None).weights)
    if found is None:
        return []
    line = read_yaml(loaded.file).line(("ask", "prompt"))
    told = Problem(file=loaded.file, line=line, what=found.message, hint=found.hint, level="warning", lint=found.lint)
    return [told]


def _problem(problem: Any) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("line", "what", "hint", "level", "lint")} | {
        "file": str(problem.file)
    }


def _versions(here: Door, job: str) -> "dict[str, AppliedVersion]":
    from batchmill.agents.commands import applied_versions, read_commands

    return applied_versions(asyncio.run(read_commands(here.settings, job)))


def _newest(versions: "dict[str, AppliedVersion]") -> "AppliedVersion":
    return max(versions.values(), key=lambda version: version.applied_at_ms)


def _active(here: Door, job: str) -> "AppliedVersion | None":
    versions = _versions(here, job)
    return _newest(versions) if versions else None


def _warn_of_scorer(here: Door, spec: "JobSpec") -> None:
    """A job that nobody applied answers no question: what waits for its scores would wait for ever."""
    from batchmill.streams.scoring import trouble

    asked = spec.judge.scoring
    if asked is None or asked.job is None:
        return
    applied = _active(here, asked.job)
    what = trouble(asked.job, None if applied is None else applied.spec)
    if what is not None:
        here.say(f"warning: judge.scoring.job: {what}")


async def _apply(here: Door, loaded: "LoadedJob", prices: "Prices", actor: str | None, wait: float) -> Any:
    from batchmill.agents.commands import actor_here, issue
    from batchmill.agents.prices import with_prices

    return await issue(
        here.settings,
        "apply",
        loaded.spec.job,
        actor=actor or actor_here(),
        version=loaded.version,
        body_json=with_prices(loaded.spec, prices).to_json(),
        wait_seconds=wait,
    )


def _planned(
    here: Door,
    loaded: "LoadedJob",
    active: "AppliedVersion | None",
    prices: "Prices",
    sample: Path | None,
    limit: int,
    key: str | None,
) -> "Plan":
    from itertools import islice

    from batchmill.agents import clock
    from batchmill.agents.ingest import format_of, open_records
    from batchmill.agents.jobs.planning import plan_job
    from batchmill.streams.events import RawLimits

    settings = here.settings
    limits = RawLimits(
        value_bytes_max=settings.limits.raw_bytes_max,
        depth_max=settings.limits.nesting_max,
        source_id_chars_max=settings.limits.source_id_chars_max,
    )
    beside = loaded.file.parent / _SAMPLE_FILE
    file = sample or (beside if beside.is_file() else None)
    pairs: list[tuple[bytes | None, bytes]] = []
    if file is not None:
        with open_records(str(file), format_of(str(file), None), key=key) as opened:
            pairs = [(record.key, record.value) for record in islice(opened.records, limit)]
    return plan_job(
        loaded.spec,
        active=None if active is None else active.spec,
        samples=pairs,
        prices=prices,
        limits=limits,
        now_ms=clock.wall_ms(),
    )


def _stake(here: Door, job: str) -> "Stake | None":
    """What the read model knows of the job's records; None when there is none."""
    from batchmill.agents.projector.reading import ViewMissingError
    from batchmill.agents.projector.stakes import stake

    try:
        with here.view() as view:
            return stake(view, job)
    except ViewMissingError:
        return None


def _jobs(here: Door) -> list[dict[str, Any]]:
    from batchmill.agents.commands import read_commands

    return listed(asyncio.run(read_commands(here.settings)), _effects(here))


def listed(commands: Sequence["Control"], seen: Mapping[str, "JobRow"]) -> list[dict[str, Any]]:
    """What `job list` tells: the log says what was asked for, the read model what the tasks made of it."""
    from batchmill.agents.commands import applied_versions

    told = []
    for job in sorted({command.job for command in commands if command.command == "apply"}):
        own = [command for command in commands if command.job == job]
        versions = applied_versions(own)
        active = _newest(versions)
        flags = [command.command for command in own if command.command in {"pause", "resume"}]
        effect = seen.get(job)
        told.append(
            {
                "job": job,
                "version": active.version,
                "versions": len(versions),
                "requested": "paused" if flags[-1:] == ["pause"] else "running",
                "effective": None if effect is None else f"{effect.effective_tasks}/{effect.tasks} tasks",
                "paused": _paused(effect),
                "paused_tasks": None if effect is None else effect.paused_tasks,
                "tasks": None if effect is None else effect.tasks,
                "open": None if effect is None else effect.open_lives,
                "parked": None if effect is None else effect.parked,
                "applied_at": utc(active.applied_at_ms),
            }
        )
    return told


def _paused(effect: "JobRow | None") -> str | None:
    return None if effect is None or not effect.paused_tasks else f"{effect.paused_tasks}/{effect.tasks} tasks"


def _effects(here: Door) -> dict[str, "JobRow"]:
    """What the read model says is in effect; nothing when there is none, for the log alone tells what was asked for."""
    from batchmill.agents.projector import queries
    from batchmill.agents.projector.reading import ViewMissingError

    try:
        with here.view() as view:
            return {row.job: row for row in queries.jobs(view)}
    except ViewMissingError:
        return {}


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers)
