"""`batchmill job list|show|versions|diff`: what is applied, what a job's frozen versions are, and how they differ.

What must not live here: finding out (`agents.versions`, `agents.projector.versions`, `agents.jobs.differing`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.planned import tell_comparison

if TYPE_CHECKING:
    from batchmill.agents.commands import AppliedVersion
    from batchmill.agents.projector.queries import JobRow
    from batchmill.agents.projector.versions import JobVersions, VersionRow
    from batchmill.schemas.jobs import JobSpec
    from batchmill.schemas.records import Control

__all__ = ["add", "listed"]

_NANOS = 10**9
_FINGERPRINT_CHARS = 8


def add(group: typer.Typer) -> None:
    """Into the group of `job`."""
    group.command("list")(list_)
    for command in (show, versions, diff):
        group.command()(command)


def list_(context: typer.Context, json: Annotated[bool, JSON] = False) -> None:
    """List the applied jobs: the version in force, what was asked for, what is in effect, what is paused.

    \b
    Example:
      batchmill job list
    """
    here = door(context)
    told = _jobs(here)
    if json:
        here.emit("job.list", told)
        return
    columns = ("job", "version", "shadows", "versions", "requested", "effective", "paused", "open", "parked", "applied")
    rows = [[*(_cell(each[name]) for name in columns[:-1]), each["applied_at"]] for each in told]
    here.table(columns, rows, empty="no job is applied; `batchmill init jobs/first` makes one to start from")


def show(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    version: Annotated[str | None, typer.Option(help="A frozen version; default: the one in force.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show a job's frozen spec and its versions; what has become of each is told by `job versions`.

    \b
    Example:
      batchmill job show triage --json
    """
    import orjson

    from batchmill.agents.commands import applied_versions
    from batchmill.agents.versions import promoted_version, standings

    here = door(context)
    commands = _commands(here, job)
    promoted, versions, stand = promoted_version(commands), applied_versions(commands), standings(commands)
    if promoted is None:
        raise CommandError(f"no job {job} is applied; `batchmill job list` names those that are", ExitCode.NOT_FOUND)
    chosen = versions.get(version or promoted.version)
    if chosen is None:
        raise CommandError(f"job {job} has no version {version}; it has {', '.join(versions)}", ExitCode.NOT_FOUND)
    spec = orjson.loads(chosen.spec.to_json())
    if json:
        known = [
            {
                "version": each.version,
                "standing": stand[each.version],
                "applied_at_ms": each.applied_at_ms,
                "actor": each.actor,
            }
            for each in versions.values()
        ]
        here.emit("job.show", {"job": job, "version": chosen.version, "spec": spec, "versions": known})
        return
    for each in versions.values():
        here.say(f"{each.version}  {utc(each.applied_at_ms)}  {each.actor}  {stand[each.version]}")
    typer.echo(orjson.dumps(spec, option=orjson.OPT_INDENT_2).decode())


def versions(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """List a job's frozen versions: which is in force, which are tried out, what of each is in the sink, what it cost.

    Parts are fingerprints: versions with the same `ask` are asked once; what differs is told by `job diff`.

    \b
    Example:
      batchmill job versions triage
    """
    from batchmill.agents.projector.versions import job_versions

    here = door(context)
    with here.view() as view:
        found = job_versions(view, job)
    if found is None:
        raise CommandError(f"the read model knows no job {job}; see `batchmill job list`", ExitCode.NOT_FOUND)
    if json:
        here.emit("job.versions", plain(found))
        return
    columns = ("version", "is", "ask", "judge", "place", "promoted", "in front", "aside", "in sink", "cost $", "tokens")
    here.table(columns, [_cells(each) for each in found.versions])
    for line in told(found):
        typer.echo(line)


def plain(found: "JobVersions") -> dict[str, Any]:
    """What `job versions --json` prints; the frozen specs are `job show`'s."""
    from dataclasses import fields

    rows = [
        {each.name: getattr(row, each.name) for each in fields(row) if each.name != "spec"}
        | {"differs": list(_parts(found, row))}
        for row in found.versions
    ]
    tasks = {"effective_tasks": found.effective_tasks, "tasks": found.tasks}
    return {"job": found.job, "promoted": found.promoted.version, **tasks, "in_sink": found.in_sink, "versions": rows}


def told(found: "JobVersions") -> list[str]:
    """What the table has no column for."""
    lines = []
    if found.effective_tasks < found.tasks:
        told_by = f"{found.effective_tasks} of {found.tasks} tasks"
        lines.append(f"version {found.promoted.version} is in force in {told_by}; the others have not heard of it yet")
    differing = ((each.version, parts) for each in found.versions if (parts := _parts(found, each)))
    lines += [f"{version} differs from the promoted version in: {', '.join(parts)}" for version, parts in differing]
    if len(found.in_sink) > 1:
        merged = ", ".join(f"{count:,} under {version}" for version, count in found.in_sink.items())
        lines.append(f"the sink holds results of {len(found.in_sink)} versions: {merged}")
    return lines


def diff(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="JOB|FOLDER", help="A job's name, or a folder with job.yaml.")],
    a: Annotated[str | None, typer.Argument(metavar="A", help="A version; its first letters will do.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another one; default: the promoted one, as A.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Tell part by part what differs between two versions, or between a folder and the promoted one, and what follows.

    Exit code 0: nothing differs; 1: something does.

    \b
    Examples:
      batchmill job diff triage mrqxk 7hd2p
      batchmill job diff jobs/triage
    """
    from batchmill.agents.jobs.differing import compare

    here = door(context)
    before, after = _specs(here, what, a, b)
    found = compare(before, after)
    if json:
        from dataclasses import asdict

        here.emit("job.diff", {"job": after.job, **asdict(found), "parts": found.parts})
    else:
        here.fields([("job", after.job), ("from", found.active_version), ("to", found.version)])
        tell_comparison(found)
    if found.differences:
        raise typer.Exit(ExitCode.PARTIAL)


def _specs(here: Door, what: str, a: str | None, b: str | None) -> "tuple[JobSpec, JobSpec]":
    """(from, to). One version alone is held against the promoted one, and so is a folder."""
    from batchmill.agents.commands import applied_versions
    from batchmill.agents.jobs import load_job
    from batchmill.agents.versions import promoted_version

    folder = load_job(Path(what)).spec if a is None and Path(what).exists() else None
    job = what if folder is None else folder.job
    commands = _commands(here, job)
    promoted, known = promoted_version(commands), applied_versions(commands)
    if promoted is None:
        raise CommandError(f"no job {job} is applied; `batchmill job list` names those that are", ExitCode.NOT_FOUND)
    if folder is not None:
        return promoted.spec, folder
    if a is None:
        raise CommandError(f"{what} is no folder; say which versions of job {what} to compare", ExitCode.USAGE)
    if b is None:
        return promoted.spec, _named(known, a).spec
    return _named(known, a).spec, _named(known, b).spec


def _named(known: "Mapping[str, AppliedVersion]", name: str) -> "AppliedVersion":
    found = [each for version, each in known.items() if version.startswith(name)]
    if len(found) == 1:
        return found[0]
    trouble = "is no version of the job" if not found else "begins several versions of the job"
    raise CommandError(f"{name} {trouble}; it has {', '.join(known)}", ExitCode.NOT_FOUND)


def _parts(found: "JobVersions", row: "VersionRow") -> tuple[str, ...]:
    from batchmill.agents.jobs.differing import compare

    return tuple(str(part) for part in compare(found.promoted.spec, row.spec).parts)


def _cells(row: "VersionRow") -> list[Any]:
    share = f" ({row.live_share:.0%} live)" if row.live_share else ""
    return [
        row.version,
        f"{row.standing}{share}",
        *(each[:_FINGERPRINT_CHARS] for each in (row.ask, row.judge, row.place)),
        "; ".join(_promoted(each.number, each.at_ms, each.by) for each in row.promotions),
        _counts(row.lives),
        _counts(row.aside),
        row.in_sink,
        f"{row.spent_nanos / _NANOS:.6f}" + (f" and {row.unpriced_calls} calls unpriced" if row.unpriced_calls else ""),
        f"{row.input_tokens:,} in, {row.output_tokens:,} out",
    ]


def _promoted(number: int, at_ms: int | None, by: str | None) -> str:
    return f"{number}: {utc(at_ms)}".rstrip() + (f" by {by}" if by else "")


def _counts(lives: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in lives.items())


def _commands(here: Door, job: str) -> "list[Control]":
    from batchmill.agents.commands import read_commands

    return asyncio.run(read_commands(here.settings, job))


def _jobs(here: Door) -> list[dict[str, Any]]:
    from batchmill.agents.commands import read_commands

    return listed(asyncio.run(read_commands(here.settings)), _effects(here))


def listed(commands: Sequence["Control"], seen: Mapping[str, "JobRow"]) -> list[dict[str, Any]]:
    """What `job list` tells: the log says what was asked for, the read model what the tasks made of it."""
    from batchmill.agents.commands import applied_versions
    from batchmill.agents.versions import Standing, promoted_version, standings

    told = []
    for job in sorted({command.job for command in commands if command.command == "apply"}):
        own = [command for command in commands if command.job == job]
        versions, promoted, stand = applied_versions(own), promoted_version(own), standings(own)
        assert promoted is not None, "the first version that is applied is in force"
        flags = [command.command for command in own if command.command in {"pause", "resume"}]
        effect = seen.get(job)
        told.append(
            {
                "job": job,
                "version": promoted.version if effect is None or not effect.version else effect.version,
                "shadows": _shadows(effect, [each for each, how in stand.items() if how is Standing.SHADOW]),
                "versions": len(versions),
                "requested": "paused" if flags[-1:] == ["pause"] else "running",
                "effective": None if effect is None else f"{effect.effective_tasks}/{effect.tasks} tasks",
                "paused": _paused(effect),
                "paused_tasks": None if effect is None else effect.paused_tasks,
                "tasks": None if effect is None else effect.tasks,
                "open": None if effect is None else effect.open_lives,
                "parked": None if effect is None else effect.parked,
                "applied_at": utc(max(each.applied_at_ms for each in versions.values())),
            }
        )
    return told


def _shadows(effect: "JobRow | None", asked: list[str]) -> list[str]:
    """Versions that are tried out: as the tasks say, or as was asked for."""
    import orjson

    return asked if effect is None else list(orjson.loads(effect.shadows_json))


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


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
