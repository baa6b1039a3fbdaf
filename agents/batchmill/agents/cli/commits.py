"""`batchmill commits`: what was written downstream, taking it back, putting it back, and letting more of it go."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.control import ACTOR, JOB
from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.jobs import wait_option

if TYPE_CHECKING:
    from batchmill.agents.projector.commits import Forecast
    from batchmill.streams.ports import ChangeKind
    from batchmill.streams.reverting import Progress

__all__ = ["add"]

NAMES = typer.Argument(metavar="RUN|REQUEST...", help="One run, or request ids; see `commits list` and `records list`.")
EXECUTE = typer.Option("--execute", help="Do it. Without this only what would happen is shown.")
_WAIT_SECONDS = 600.0
_GO_SECONDS = 10.0
_TARGETS_SHOWN = 20
_CONFLICTS_SHOWN = 20


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What was written downstream.")
    group.command("list")(list_)
    for command in (show, revert, replay, go):
        group.command()(command)
    app.add_typer(group, name="commits")


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List runs that have committed something, the newest first.

    \b
    Example:
      batchmill commits list --job triage
    """
    from batchmill.agents.projector.commits import committed_runs

    here = door(context)
    with here.view() as view:
        found = committed_runs(view, job=job, run=run, limit=limit)
    if json:
        here.emit("commits.list", found)
        return
    columns = ("run", "job", "versions", "commits", "committed now", "reverted now", "first", "last")
    rows = [
        [
            each.run_id,
            each.job,
            each.versions,
            each.commits,
            each.committed,
            each.reverted,
            utc(each.first_at_ms),
            utc(each.last_at_ms),
        ]
        for each in found
    ]
    here.table(columns, rows, empty="nothing was committed")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="RECORD", help="Request id, source id, commit id or target key.")],
    job: Annotated[str | None, typer.Option(help="When several jobs share the name.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show everything that was written to the targets of a record, taken back and put back, oldest first.

    \b
    Example:
      batchmill commits show ticket-1042
    """
    from batchmill.agents.projector.commits import held_by_target, history

    here = door(context)
    with here.view() as view:
        found = history(view, name, job=job)
    if not found:
        raise CommandError(f"nothing was committed by the name {name}", ExitCode.NOT_FOUND)
    targets = {(each.sink, each.job, each.target_key) for each in found}
    held = {
        held_by_target(each for each in found if (each.sink, each.job, each.target_key) == target) for target in targets
    }
    if json:
        here.emit("commits.show", {"held": sorted(each for each in held if each is not None), "records": found})
        return
    columns = ("when", "target", "kind", "commit", "replaced", "of", "request", "version", "run", "held now")
    rows = [
        [
            utc(each.at_ms),
            f"{each.sink}/{each.target_key}",
            each.kind,
            each.commit_id,
            each.previous_commit_id,
            each.reverts,
            each.request_id,
            each.version,
            each.run_id,
            each.commit_id in held,
        ]
        for each in found
    ]
    here.table(columns, rows)


def revert(
    context: typer.Context,
    names: Annotated[list[str], NAMES],
    execute: Annotated[bool, EXECUTE] = False,
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Take commits back: each target gets what it held before, byte for byte. A dry run by default.

    A target that was written since is left as it is and named; exit code 1 says that there are such. Saying the same
    again goes on where an earlier one was stopped.

    \b
    Examples:
      batchmill commits revert 2026-11-25-import
      batchmill commits revert 2026-11-25-import --execute
    """
    _change(door(context), "revert", names, execute=execute, wait=wait, actor=actor, json=json)


def replay(
    context: typer.Context,
    names: Annotated[list[str], NAMES],
    execute: Annotated[bool, EXECUTE] = False,
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Put back commits that were taken back, as they were. A dry run by default.

    \b
    Example:
      batchmill commits replay 2026-11-25-import --execute
    """
    _change(door(context), "replay", names, execute=execute, wait=wait, actor=actor, json=json)


def go(
    context: typer.Context,
    job: Annotated[str, JOB],
    version: Annotated[str | None, typer.Option(help="Only of this version; default: all of the job.")] = None,
    more: Annotated[
        int | None, typer.Option(help="So many commits until the next stop; default: as the job says.", min=1)
    ] = None,
    wait: Annotated[float, wait_option] = _GO_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Let commits go on that a limit of the job has stopped (`commit: stop_after`, `stop_changed`).

    \b
    Examples:
      batchmill commits go triage
      batchmill commits go triage --more 1000
    """
    from batchmill.agents.cli.control import command

    body = {name: value for name, value in (("version", version), ("more", more)) if value is not None}
    command(door(context), "go", job, wait=wait, actor=actor, json=json, body=body)


# -- revert and replay -------------------------------------------------------------------------------------------------


def _change(
    here: Door, word: str, names: Sequence[str], *, execute: bool, wait: float, actor: str | None, json: bool
) -> None:
    from batchmill.agents.projector.commits import forecast, run_requests
    from batchmill.streams.ports import ChangeKind

    kind = ChangeKind(word)
    with here.view() as view:
        is_run = len(names) == 1 and bool(run_requests(view, names[0]))
        run, requests = (names[0], []) if is_run else (None, list(dict.fromkeys(names)))
        found = forecast(view, kind, run=run, requests=requests)
    if not found.jobs:
        told = "no run and no request is called so"
        raise CommandError(f"{', '.join(names)}: {told}; see `batchmill commits list`", ExitCode.NOT_FOUND)
    if not execute:
        _tell_forecast(here, found, json=json)
        if found.conflicts:
            raise typer.Exit(ExitCode.PARTIAL)
        return
    done = asyncio.run(_execute(here, kind, found, run, actor=actor, wait=wait))
    _tell_done(here, kind, done, json=json)


def _tell_forecast(here: Door, found: "Forecast", *, json: bool) -> None:
    if json:
        targets = [{"request_id": request, "target_key": target} for request, target in found.targets]
        told = {"kind": found.kind, "executed": False, "count": len(targets), "targets": targets}
        here.emit(
            "commits.change",
            told
            | {
                "already": found.already,
                "not_committed": found.other,
                "refused": sum(found.refused.values()),
                "conflicts": found.conflicts,
            },
        )
    else:
        sinks, closed = (_by_sink(each) for each in (found.sinks, found.refused))
        done = "taken back" if found.kind.value == "revert" else "put back"
        here.fields(
            [
                (f"would be {done}", f"{len(found.targets):,}" + (f" ({sinks})" if sinks else "")),
                (f"{done} already", found.already),
                ("not committed", found.other),
                ("in conflict", len(found.conflicts)),
                ("refused, the sink keeps no history", closed or 0),
            ]
        )
        rows = [list(each) for each in found.targets[:_TARGETS_SHOWN]]
        here.table(("request", "target"), rows, empty="nothing to do")
        _tell_conflicts(here, [(each.request_id, each.held_commit_id) for each in found.conflicts])
    here.say("dry run: nothing was changed; say --execute to do it")


def _by_sink(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} in {sink}" for sink, count in sorted(counts.items()))


def _tell_conflicts(here: Door, named: Sequence[tuple[str, str | None]]) -> None:
    for request_id, held in named[:_CONFLICTS_SHOWN]:
        here.say(f"conflict: the target of {request_id} holds {held or 'nothing'} by now")
    if len(named) > _CONFLICTS_SHOWN:
        here.say(f"and {len(named) - _CONFLICTS_SHOWN} more conflicts; --json names more")


async def _execute(
    here: Door, kind: "ChangeKind", found: "Forecast", run: str | None, *, actor: str | None, wait: float
) -> "dict[str, dict[int, Progress]]":
    """One command after the other; how far each task has got with each."""
    from batchmill.agents.clock import monotonic_s
    from batchmill.streams.reverting import REQUESTS_MAX, command_body

    until_s = monotonic_s() + wait
    done: dict[str, dict[int, Progress]] = {}
    for job, requests in found.jobs.items():
        if run is not None:
            bodies = [command_body(run=run)]
        else:
            cuts = range(0, len(requests), REQUESTS_MAX)
            bodies = [command_body(requests=requests[start : start + REQUESTS_MAX]) for start in cuts]
        for body in bodies:
            left_s = max(1.0, until_s - monotonic_s())
            command_id, tasks = await _issue(here, kind, job, body, actor=actor, wait_seconds=left_s)
            done[command_id] = tasks
    return done


async def _issue(
    here: Door, kind: "ChangeKind", job: str, body: str, *, actor: str | None, wait_seconds: float
) -> "tuple[str, dict[int, Progress]]":
    from batchmill.agents.commands import actor_here, issue_watching, new_command
    from batchmill.schemas.codec import decode
    from batchmill.schemas.state import Meta
    from batchmill.streams.reverting import progress_of, row_name

    record = new_command(kind.value, job, actor=actor or actor_here(), body_json=body)
    tasks: dict[int, Progress] = {}
    said = [""]

    def told(partition: int, row: bytes) -> None:
        tasks[partition] = progress_of(decode(row, Meta))
        sums = [sum(getattr(each, name) for each in tasks.values()) for name in ("done", "conflicts", "refused")]
        over = sum(each.finished for each in tasks.values())
        line = f"done {sums[0]:,}, conflicts {sums[1]:,}, refused {sums[2]:,}; tasks that have finished: {over}"
        if line != said[-1]:
            said.append(line)
            here.say(line)

    await issue_watching(
        here.settings,
        record,
        key=f"{Meta.schema}/{row_name(record.command_id)}",
        counts=lambda row: progress_of(decode(row, Meta)).finished,
        told=told,
        wait_seconds=wait_seconds,
    )
    return record.command_id, tasks


def _tell_done(here: Door, kind: "ChangeKind", done: "dict[str, dict[int, Progress]]", *, json: bool) -> None:
    tasks = [each for of_command in done.values() for each in of_command.values()]
    sums = {name: sum(getattr(each, name) for each in tasks) for name in ("done", "already", "conflicts", "refused")}
    named = [pair for each in tasks for pair in each.named]
    whys = sorted({each.why for each in tasks if each.why is not None})
    waits = here.settings.partitions * len(done) - sum(each.finished for each in tasks)
    if json:
        told: dict[str, Any] = {"kind": kind, "executed": True, "commands": list(done), **sums}
        conflicts = [{"request_id": request, "held_commit_id": held} for request, held in named]
        here.emit("commits.change", told | {"conflicts_named": conflicts, "why": whys, "tasks_unfinished": waits})
    else:
        here.fields(sums.items())
        _tell_conflicts(here, named)
    for why in whys:
        here.say(f"refused: {why}")
    if waits:
        here.say(f"{waits} tasks have not finished yet: they go on by themselves; are workers running?")
        raise typer.Exit(ExitCode.TEMPORARY)
    if sums["conflicts"] or sums["refused"]:
        raise typer.Exit(ExitCode.PARTIAL)
