"""`batchmill job promote|demote|reject`: which version is in force. Each tells what it would do, until `--execute`.

What must not live here: whether a version may take over (`streams.gating`), and what that does (`streams.promoting`).
"""

import asyncio
import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.promotions import Stakes, Swept
    from batchmill.schemas.state import Job
    from batchmill.streams.gating import Gate

__all__ = ["add"]

JOB = typer.Argument(help="The job's name.")
VERSION = typer.Argument(help="A version or the beginning of one; shadow: the newest that is tried out.")
EXECUTE = typer.Option("--execute", help="Do it; without, only tell what would be done.")
WAIT = typer.Option("--wait", metavar="SECONDS", help="Longest wait for every task to be through; 0 = do not wait.")
ACTOR = typer.Option(help="Who does this, for the record; default: user@host.")
_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.3


def add(group: typer.Typer) -> None:
    """Into the group of `job`."""
    for command in (promote, demote, reject):
        group.command()(command)


def promote(
    context: typer.Context,
    job: Annotated[str, JOB],
    version: Annotated[
        str, typer.Argument(help="A version or the beginning of one; shadow: the newest one.")
    ] = "shadow",
    override: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote whatever the gate says; the reason is on record.")
    ] = None,
    execute: Annotated[bool, EXECUTE] = False,
    wait: Annotated[float, WAIT] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Put a version in force: new events are asked under it, and what it has answered of the present ones is written.

    The gate of its job file decides, if it has one. Records it was not asked about stay as they are until a replay.

    \b
    Examples:
      batchmill job promote triage
      batchmill job promote triage mzpb5ewp --execute
      batchmill job promote triage mzpb5ewp --execute --override "seen by legal, ticket 812"
    """
    here = door(context)
    row, name = _named(here, job, version)
    if name == row.version:
        raise CommandError(f"version {name} of {job} is in force already", ExitCode.CONFLICT)
    verdict = asyncio.run(_verdict(here, job, name))
    stands = "none" if verdict is None else "passed" if verdict.passed else "overridden" if override else "not passed"
    if not json:
        _tell_gate(here, verdict)
    _carry(
        here,
        "promote",
        job,
        name,
        allowed=stands != "not passed",
        body={"gate": stands, "reason": override, "from": row.version},
        execute=execute,
        wait=wait,
        actor=actor,
        json=json,
        gate=verdict,
    )


def demote(
    context: typer.Context,
    job: Annotated[str, JOB],
    to: Annotated[str | None, typer.Option(help="A version that was in force; default: the one before.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    execute: Annotated[bool, EXECUTE] = False,
    wait: Annotated[float, WAIT] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Roll back: put a former version in force again, and write again what it had written.

    Nobody is asked anything. Records that it never answered keep what they have until a replay.

    \b
    Examples:
      batchmill job demote triage
      batchmill job demote triage --execute --reason "too many refunds"
    """
    from batchmill.streams.versioning import former_of, was_promoted

    here = door(context)
    row, _ = _named(here, job, "current")
    name = former_of(row) if to is None else _named(here, job, to)[1]
    if name is None:
        raise CommandError(f"no other version of {job} was ever in force", ExitCode.CONFLICT)
    if name == row.version or not was_promoted(row, name):
        raise CommandError(
            f"version {name} of {job} is no former version; see `batchmill job versions {job}`", ExitCode.CONFLICT
        )
    body = {"gate": "rollback", "reason": reason, "from": row.version}
    _carry(here, "promote", job, name, body=body, execute=execute, wait=wait, actor=actor, json=json)


def reject(
    context: typer.Context,
    job: Annotated[str, JOB],
    version: Annotated[
        str, typer.Argument(help="A version or the beginning of one; shadow: the newest one.")
    ] = "shadow",
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    execute: Annotated[bool, EXECUTE] = False,
    wait: Annotated[float, WAIT] = _WAIT_SECONDS,
    actor: Annotated[str | None, ACTOR] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Give a shadow version up: it is asked nothing any more, and what it has answered is never written.

    \b
    Example:
      batchmill job reject triage mzpb5ewp --execute --reason "worse on refunds"
    """
    here = door(context)
    row, name = _named(here, job, version)
    if name == row.version:
        raise CommandError(f"version {name} of {job} is in force: promote another one first", ExitCode.CONFLICT)
    _carry(here, "reject", job, name, body={"reason": reason}, execute=execute, wait=wait, actor=actor, json=json)


def _named(here: Door, job: str, version: str) -> "tuple[Job, str]":
    """The job's row, and the version that is meant."""
    from batchmill.agents.projector.comparing import contender, job_row

    with here.view() as view:
        row = job_row(view, job)
        return row, contender(view, row, version).version


async def _verdict(here: Door, job: str, version: str) -> "Gate | None":
    from batchmill.agents.contenders import gate_report
    from batchmill.agents.projector.comparing import job_row, specs_of

    with here.view() as view:
        if specs_of(job_row(view, job))[version].gate is None:
            return None
    verdict, _ = await gate_report(here.settings, job, version)
    return verdict


def _carry(
    here: Door,
    word: str,
    job: str,
    version: str,
    *,
    body: dict[str, Any],
    execute: bool,
    wait: float,
    actor: str | None,
    json: bool,
    allowed: bool = True,
    gate: "Gate | None" = None,
) -> None:
    """Tell what it comes to; do it, if that is wanted and allowed."""
    from batchmill.agents.cli.compare import plain
    from batchmill.agents.commands import actor_here, issue
    from batchmill.agents.projector.promotions import promotion_stakes

    with here.view() as view:
        stakes = promotion_stakes(view, job, version)
    told: dict[str, Any] = {"job": job, "version": version, "stakes": asdict(stakes), "gate": plain(gate)} | body
    told |= {"verdict": body.get("gate"), "gate": plain(gate)}
    if not execute or not allowed:
        _tell_plan(here, word, job, version, stakes, allowed=allowed, told=told, json=json)
        return
    issued = asyncio.run(
        issue(
            here.settings,
            word,
            job,
            actor=actor or actor_here(),
            version=version,
            body_json=jsonlib.dumps(body),
            wait_seconds=wait,
        )
    )
    done = asyncio.run(_through(here, word, job, version, wait)) if issued.effective and wait > 0 else None
    if json:
        swept = None if done is None else asdict(done)
        here.emit(f"job.{word}", told | {"executed": True, "laggards": issued.laggards, "swept": swept})
    if not issued.effective:
        here.say(f"{word} of {version} is requested; not yet in effect in tasks {list(issued.laggards)}")
        raise typer.Exit(ExitCode.TEMPORARY)
    _tell_done(here, word, job, version, done)


async def _through(here: Door, word: str, job: str, version: str, wait: float) -> "Swept | None":
    """Wait until every task has gone through its lives, as far as the read model hears of it."""
    from batchmill.agents import clock
    from batchmill.agents.projector.promotions import swept

    deadline_s = clock.monotonic_s() + wait
    while True:
        with here.view() as view:
            found = swept(view, job, version, rejected=word == "reject")
        if found.finished >= here.settings.partitions or clock.monotonic_s() >= deadline_s:
            return found
        await asyncio.sleep(_LOOK_SECONDS)


# -- words -------------------------------------------------------------------------------------------------------------


def _tell_gate(here: Door, verdict: "Gate | None") -> None:
    from batchmill.agents.cli.compare import tell_gate

    if verdict is None:
        here.say("the version declares no gate: it is for you to decide")
    else:
        tell_gate(here, verdict)


def _tell_plan(
    here: Door,
    word: str,
    job: str,
    version: str,
    stakes: "Stakes",
    *,
    allowed: bool,
    told: dict[str, Any],
    json: bool,
) -> None:
    if json:
        here.emit(f"job.{word}", told | {"executed": False})
    else:
        for line in _words(word, version, stakes):
            here.say(line)
        if allowed:
            here.say("nothing was done; say --execute to do it")
        else:
            here.say(
                f"version {version} is not promoted: see `batchmill compare {job} current {version}`, or --override"
            )
    if not allowed:
        raise typer.Exit(ExitCode.GATE)


def _words(word: str, version: str, stakes: "Stakes") -> list[str]:
    if word == "reject":
        waiting = stakes.validated + stakes.in_review + stakes.under_way
        return [f"{waiting:,} answers of version {version}, had or under way, would never be written"]
    return [
        f"version {version} would come into force; of what it has for the newest events of their sources:",
        f"  written at once          {stakes.validated:>9,}",
        f"  written again            {stakes.committed:>9,}",
        f"  waiting for a person     {stakes.in_review:>9,}",
        f"  under way                {stakes.under_way:>9,}",
        f"  without an answer        {stakes.failed:>9,}  (the former output stays)",
        f"stale until a replay       {stakes.stale:>9,}  (committed under another version, and not asked under it)",
    ]


def _tell_done(here: Door, word: str, job: str, version: str, done: "Swept | None") -> None:
    if word == "reject":
        here.say(f"version {version} of {job} is rejected" + ("" if done is None else f"; {done.done:,} answers ended"))
        return
    here.say(f"version {version} of {job} is in force")
    if done is not None:
        through = "" if done.finished >= here.settings.partitions else f" so far, {done.finished} tasks are through"
        here.say(f"{done.done:,} records came forward{through}; {done.failed:,} have no answer under it")
        here.say(f"what is stale now: `batchmill replay --job {job} --select stale`")
