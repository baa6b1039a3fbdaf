"""`batchmill topics`: the cluster against the declared table."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from batchmill.agents.cli.door import JSON, YES, Door, door
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.topics import Change

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Plan, apply and verify the topics.")
    group.command("plan")(plan)
    group.command("apply")(apply)
    group.command("verify")(verify)
    app.add_typer(group, name="topics")


def plan(context: typer.Context, json: Annotated[bool, JSON] = False) -> None:
    """Show what `apply` would do; changes nothing.

    \b
    Example:
      batchmill topics plan
    """
    here = door(context)
    changes = asyncio.run(_plan(here))
    _show(here, changes, json=json)
    if not changes:
        here.say("the topics are as declared")


def apply(context: typer.Context, yes: Annotated[bool, YES] = False, json: Annotated[bool, JSON] = False) -> None:
    """Create the topics that are missing and set what differs. Never changes a partition count.

    \b
    Example:
      batchmill topics apply --yes
    """
    here = door(context)
    changes = asyncio.run(_plan(here))
    if changes and not json:
        _show(here, changes, json=False)
    if any(change.kind.value == "config" for change in changes):
        here.confirm("Change the settings of existing topics?", yes=yes)
    made = asyncio.run(_apply(here))
    if json:
        _show(here, made, json=True)
    here.say(f"{len(made)} changes made" if made else "the topics are as declared")


def verify(context: typer.Context, json: Annotated[bool, JSON] = False) -> None:
    """Fail unless every topic is as declared; what a worker does when it starts.

    \b
    Example:
      batchmill topics verify && batchmill up
    """
    here = door(context)
    changes = asyncio.run(_plan(here))
    if json:
        _show(here, changes, json=True)
        if changes:
            raise typer.Exit(ExitCode.CONFLICT)
    elif changes:
        from batchmill.agents.topics import TopicsMismatchError

        raise TopicsMismatchError(changes)
    here.say("the topics are as declared")


async def _plan(here: Door) -> "list[Change]":
    from batchmill.agents.topics import TopicAdmin

    async with TopicAdmin(here.settings) as admin:
        return await admin.plan()


async def _apply(here: Door) -> "list[Change]":
    from batchmill.agents.topics import TopicAdmin

    async with TopicAdmin(here.settings) as admin:
        return await admin.apply()


def _show(here: Door, changes: "Sequence[Change]", *, json: bool) -> None:
    if json:
        here.emit("topics.changes", [_plain(change) for change in changes])
        return
    for change in changes:
        typer.echo(str(change))


def _plain(change: "Change") -> dict[str, object]:
    return {
        "topic": change.topic,
        "kind": change.kind,
        "what": change.what,
        "have": change.have,
        "want": change.want,
        "mendable": change.mendable,
    }
