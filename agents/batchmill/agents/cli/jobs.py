"""`batchmill job`: check, plan and apply a job folder. What is applied already is told by `cli.versions`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.accounts import account_trouble
from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.graph import applied_specs, graph, refuse_circle
from batchmill.agents.cli.index import index_warnings
from batchmill.agents.cli.looked_up import source_troubles
from batchmill.agents.cli.planned import tell_plan
from batchmill.agents.cli.prices import told as told_prices
from batchmill.agents.cli.promotion import add as add_promotion
from batchmill.agents.cli.versions import add as add_versions
from batchmill.streams.finding import Lint

if TYPE_CHECKING:
    from batchmill.agents.commands import AppliedVersion
    from batchmill.agents.jobs import LoadedJob
    from batchmill.agents.jobs.planning import Plan
    from batchmill.agents.jobs.problems import Problem
    from batchmill.agents.projector.stakes import Stake
    from batchmill.schemas.jobs import JobSpec
    from batchmill.streams.costing import Prices

__all__ = ["add", "wait_option"]

FOLDER = typer.Argument(metavar="FOLDER", help="A folder with job.yaml, or the file itself.")
_SAMPLE_FILE = "samples.jsonl"
#: samples that `validate` weighs; `plan` tries as many as it is told to
_WEIGHED_MAX = 20
#: longest wait for the read model to hear of what every task has taken
_HEARD_SECONDS_MAX = 5.0
_LOOK_SECONDS = 0.2

wait_option = typer.Option("--wait", metavar="SECONDS", help="Longest wait for every task to take it; 0 = do not wait.")


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Validate, plan and apply jobs.")
    for command in (validate, plan, apply, graph):
        group.command()(command)
    add_versions(group)
    add_promotion(group)
    app.add_typer(group, name="job")


def validate(
    context: typer.Context,
    folder: Annotated[Path, FOLDER],
    with_: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="FOLDER", help="A job it feeds or is fed by: no circle of them. Repeatable."),
    ] = None,
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
        refuse_circle([loaded.spec, *(_load(here, each, quietly=True).spec for each in with_ or ())])
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
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask Kafka for the version in force.")] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what applying would mean: differences, rendered prompts, what tokens are spent on, cost. Sends nothing.

    \b
    Example:
      batchmill job plan jobs/triage --sample tickets.jsonl --limit 5 --records 20000
    """
    here = door(context)
    loaded = _load(here, folder, quietly=json)
    active = None if offline else _promoted(here, loaded.spec.job)
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
    """Freeze the job. Its first version is in force at once; a later one is tried out until it is promoted.

    What its model costs today is frozen with it. Applied again, an unchanged job takes today's prices.

    \b
    Example:
      batchmill job apply jobs/triage
    """
    here = door(context)
    loaded = _load(here, folder, quietly=json)
    stands, known = _known(here, loaded)
    prices = _prices_of(here, loaded.spec)
    told = {"prices": told_prices(prices), "standing": stands}
    if known is not None and _same(known.spec, loaded.spec, prices):
        if json:
            unchanged = {"job": known.job, "version": known.version, "changed": False, "laggards": []}
            here.emit("job.apply", unchanged | told)
        here.say(f"job {known.job} is applied already, version {known.version} ({stands}); nothing was changed")
        return
    if loaded.spec.then or loaded.spec.judge.scoring is not None:
        refuse_circle([loaded.spec], applied_specs(here))
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
    here.say(f"job {loaded.spec.job} is applied, version {loaded.version}{_APPLIED[stands]}")
    here.say(_priced_by(loaded.spec, prices))
    moved = None if known is None else of_place(known.spec, loaded.spec)
    if moved is not None:
        here.say(moved)
    _warn_of_scorer(here, loaded.spec)
    if not issued.effective:
        here.say(f"not yet in effect in tasks {_list(issued.laggards)} of {issued.partitions}: are workers running?")
        raise typer.Exit(ExitCode.TEMPORARY)
    if wait > 0 and not asyncio.run(_heard(here, loaded.spec.job, issued.command_id)):
        here.say(
            "the read model has not heard of it yet, so what asks it may not know the version: is a projector there?"
        )


async def _heard(here: Door, job: str, command_id: str) -> bool:
    """Whether the read model, where there is one, has it from every task: the next command will ask it."""
    from batchmill.agents import clock
    from batchmill.agents.projector.reading import ViewMissingError

    deadline_s = clock.monotonic_s() + _HEARD_SECONDS_MAX
    sql = "SELECT COUNT(*) FROM jobs WHERE job = ? AND last_command_id = ?"
    while True:
        try:
            with here.view() as view:
                if view.number(sql, (job, command_id)) >= here.settings.partitions:
                    return True
        except ViewMissingError:
            return True
        if clock.monotonic_s() >= deadline_s:
            return False
        await asyncio.sleep(_LOOK_SECONDS)


#: what an application makes of a version, by how it stands then
_APPLIED = {
    "promoted": "",
    "shadow": ", to be tried out: what it answers is kept, and written once it is promoted",
}


def _known(here: Door, loaded: "LoadedJob") -> "tuple[str, AppliedVersion | None]":
    """How the version will stand once it is applied, and what was applied under it, if it stands so already."""
    from batchmill.agents.commands import applied_versions, read_commands
    from batchmill.agents.versions import standings

    commands = asyncio.run(read_commands(here.settings, loaded.spec.job))
    stand = standings(commands)
    after = "shadow" if "promoted" in stand.values() and stand.get(loaded.version) != "promoted" else "promoted"
    return after, applied_versions(commands).get(loaded.version) if stand.get(loaded.version) == after else None


def _load(here: Door, folder: Path, *, quietly: bool) -> "LoadedJob":
    from dataclasses import replace

    from batchmill.agents.jobs import load_job

    loaded = load_job(folder)
    _bounded(here, loaded)
    odd = (*_account_warnings(here, loaded), *index_warnings(here, loaded))
    loaded = replace(loaded, warnings=(*loaded.warnings, *odd))
    for warning in () if quietly else loaded.warnings:
        here.say(str(warning))
    return loaded


def _account_warnings(here: Door, loaded: "LoadedJob") -> "list[Problem]":
    """The workers may have other settings than this command; without account and sources nothing of it is sent."""
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.agents.jobs.lint import steps_of
    from batchmill.agents.jobs.problems import Problem
    from batchmill.streams.routing import models_of

    lined, found = read_yaml(loaded.file), dict[str, Problem]()
    accounts = ((where, account_trouble(here.settings, model)) for where, model in models_of(loaded.spec.ask).items())
    told = [((*steps_of(where), "account"), *trouble) for where, trouble in accounts if trouble is not None]
    for steps, what, hint in (*told, *source_troubles(here.settings, loaded.spec)):
        problem = Problem(file=loaded.file, line=lined.line(steps), what=what, hint=hint, level="warning")
        found.setdefault(what, problem)
    return list(found.values())


def _bounded(here: Door, loaded: "LoadedJob") -> None:
    """A budget is kept by reserving the most a request can cost: the price list has to know every model."""
    from batchmill.agents.jobs import JobFileError, Problem
    from batchmill.agents.jobs.lines import read_yaml
    from batchmill.agents.settings import env_name
    from batchmill.streams.routing import models_of

    spec = loaded.spec
    if spec.budget is None:
        return
    prices = _prices_of(here, spec)
    unknown = [model.name for model in models_of(spec.ask).values() if prices.of(model.name) is None]
    if unknown:
        what = f"budget: the price list has no model {unknown[0]!r}, so nobody knows what may be spent"
        hint = f"name a price list that has it: {env_name('prices_file')}; or leave the budget out"
        line = read_yaml(loaded.file).line(("budget",))
        raise JobFileError([Problem(file=loaded.file, line=line, what=what, hint=hint)])


def _prices_of(here: Door, spec: "JobSpec") -> "Prices":
    """What the job would be costed by if it were applied now."""
    from batchmill.agents.prices import load_prices, prices_for

    return prices_for(spec, load_prices(here.settings.prices_file))


def _priced_by(spec: "JobSpec", prices: "Prices") -> str:
    from batchmill.streams.costing import brief
    from batchmill.streams.routing import models_of

    models = {model.name: model for model in models_of(spec.ask).values()}
    told = []
    for name, model in models.items():
        price, said = prices.of(name), f"{name}: " if len(models) > 1 else ""
        if price is None:
            told.append(f"{name} is unpriced: {prices.source} does not list it for {model.provider}")
        else:
            told.append(f"prices {prices.id}, {prices.source} as of {prices.as_of}: {said}{brief(price)}")
    return "\n".join(told)


def of_place(before: "JobSpec", after: "JobSpec") -> str | None:
    """What to do about what is committed, when a version goes to another place by now; None: it does not."""
    from batchmill.schemas.versions import place_fingerprint

    if place_fingerprint(before) == place_fingerprint(after):
        return None
    return (
        f"only the place changed: later commits go there; `batchmill replay --job {after.job} --write` writes what is"
        " committed there, too, without asking anything"
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
    from batchmill.agents.jobs.lint import steps_of
    from batchmill.agents.jobs.problems import Problem
    from batchmill.agents.settings import env_name
    from batchmill.streams.routing import models_of

    prices, lined = _prices_of(here, loaded.spec), read_yaml(loaded.file)
    return [
        Problem(
            file=loaded.file,
            line=lined.line((*steps_of(where), "name")),
            what=f"{prices.source} lists no price of {model.name} at {model.provider}: its calls will be unpriced",
            hint=f"name a list that has it: {env_name('prices_file')}",
            level="warning",
        )
        for where, model in models_of(loaded.spec.ask).items()
        if prices.of(model.name) is None
    ]


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


def _promoted(here: Door, job: str) -> "AppliedVersion | None":
    from batchmill.agents.commands import read_commands
    from batchmill.agents.versions import promoted_version

    return promoted_version(asyncio.run(read_commands(here.settings, job)))


def _warn_of_scorer(here: Door, spec: "JobSpec") -> None:
    """A job that nobody applied answers no question: what waits for its scores would wait for ever."""
    from batchmill.streams.scoring import trouble

    asked = spec.judge.scoring
    if asked is None or asked.job is None:
        return
    applied = _promoted(here, asked.job)
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
    from batchmill.agents.retrieval.looking import Shelf
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
        indexes=Shelf(settings),
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


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in numbers)
