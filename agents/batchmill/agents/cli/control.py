"""`batchmill pause|resume|cancel|approve`: commands to a running job."""

import asyncio
import json as jsonlib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, YES, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.jobs import wait_option

__all__ = ["add", "command"]

JOB = typer.Argument(help="The job's name.")
ACTOR = typer.Option(help="Who does this, for the record; default: user@host.")
_WAIT_SECONDS = 10.0


def add(app: typer.Typer) -> None:
    for each in (pause, resume, cancel, approve):
        app.command()(each)


def pause(
    context: typer.Context,
    job: Annotated[str, JOB],
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Stop spending on a job: nothing is sent or committed until `resume`. Answers already paid for are collected.

    \b
    Example:
      batchmill pause triage
    """
    command(door(context), "pause", job, wait=wait, actor=actor, json=json)


def resume(
    context: typer.Context,
    job: Annotated[str, JOB],
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Let a paused job go on.

    \b
    Example:
      batchmill resume triage
    """
    command(door(context), "resume", job, wait=wait, actor=actor, json=json)


def cancel(
    context: typer.Context,
    job: Annotated[str, JOB],
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    yes: Annotated[bool, YES] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """End everything of a job that was published up to now; later events are taken as ever.

    What is committed stays. Open batches are cancelled at the provider; what they have answered is still counted.

    \b
    Example:
      batchmill cancel triage --yes
    """
    here = door(context)
    here.confirm(f"Cancel {_open_of(here, job)} of job {job}?", yes=yes)
    command(here, "cancel", job, wait=wait, actor=actor, json=json)


def approve(
    context: typer.Context,
    chunks: Annotated[list[str] | None, typer.Argument(metavar="[CHUNK]...", help="Batches that are held.")] = None,
    job: Annotated[str | None, typer.Option(help="Approve every held batch of this job.")] = None,
    wait: Annotated[float, wait_option] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Let held batches be sent (`hold: submit`).

    \b
    Examples:
      batchmill batches list --state held
      batchmill approve c0003-0000000007-abcdefghijklmnop
      batchmill approve --job triage
    """
    here = door(context)
    if chunks:
        for name, members in _by_job(here, chunks).items():
            command(here, "approve", name, wait=wait, actor=actor, json=json, body={"chunks": members})
    elif job is not None:
        command(here, "approve", job, wait=wait, actor=actor, json=json)
    else:
        raise CommandError("name the batches, or say --job", ExitCode.USAGE)


def command(
    here: Door,
    word: str,
    job: str,
    *,
    wait: float,
    actor: str | None,
    json: bool,
    body: Mapping[str, Any] | None = None,
) -> None:
    """Give a command to a job that was applied, and tell what came of it."""
    from batchmill.agents.commands import actor_here, issue, read_commands

    if not any(each.command == "apply" for each in asyncio.run(read_commands(here.settings, job))):
        raise CommandError(f"no job {job} is applied; `batchmill job list` names those that are", ExitCode.NOT_FOUND)
    issued = asyncio.run(
        issue(
            here.settings,
            word,
            job,
            actor=actor or actor_here(),
            body_json=jsonlib.dumps(body or {}),
            wait_seconds=wait,
        )
    )
    if json:
        here.emit(
            "command",
            {"command": word, "job": job, "command_id": issued.command_id, "laggards": issued.laggards},
        )
    if not issued.effective:
        names = ", ".join(str(partition) for partition in issued.laggards)
        here.say(f"{word} of {job} is requested; not yet in effect in tasks {names}: are workers running?")
        raise typer.Exit(ExitCode.TEMPORARY)
    here.say(f"{word} of {job} is {'in effect in every task' if wait > 0 else 'requested'}")


def _open_of(here: Door, job: str) -> str:
    """How many requests a cancellation is about, as far as the read model knows."""
    from batchmill.agents.projector import queries
    from batchmill.agents.projector.reading import ViewMissingError

    try:
        with here.view() as view:
            found = queries.jobs(view, job)
    except ViewMissingError:
        found = []
    return f"{found[0].open_lives} open requests and {found[0].parked} parked events" if found else "whatever is open"


def _by_job(here: Door, chunks: list[str]) -> dict[str, list[str]]:
    from batchmill.agents.projector import queries

    found: dict[str, list[str]] = {}
    with here.view() as view:
        for name in chunks:
            row = queries.batch(view, name)
            if row is None:
                raise CommandError(f"no batch {name}; see `batchmill batches list --state held`", ExitCode.NOT_FOUND)
            if row.state.value != "held":
                raise CommandError(f"batch {name} is {row.state}, not held", ExitCode.CONFLICT)
            found.setdefault(row.job, []).append(row.chunk_id)
    return found
