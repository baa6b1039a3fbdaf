"""`batchmill dlq`: what was dead-lettered, and another chance for it."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.schemas.reasons import Reason

if TYPE_CHECKING:
    from batchmill.agents.projector.queries import DeadLetterRow

__all__ = ["add"]

#: of one command; its body must stay far below the size of a record
_REDRIVEN_AT_ONCE = 5_000
_REDRIVE_MAX = 1_000_000


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at dead letters and bring them back.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("redrive")(redrive)
    app.add_typer(group, name="dlq")


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    reason: Annotated[Reason | None, typer.Option(help="Only for this reason.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that were brought back since.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List dead letters, the newest first.

    \b
    Example:
      batchmill dlq list --job triage --reason schema_mismatch
    """
    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        found = queries.dead_letters(view, job=job, reason=reason, standing=not all_, limit=limit)
    if json:
        here.emit("dlq.list", found)
        return
    columns = ("id", "job", "source", "stage", "reason", "fault", "error", "when")
    rows = [
        [each.id, each.job, each.source_id, each.stage, each.reason, each.fault, each.error, utc(each.failed_at_ms)]
        for each in found
    ]
    here.table(columns, rows, empty="no dead letters")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="Dead letter id or request id.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show one dead letter, its original included.

    \b
    Example:
      batchmill dlq show m2zxq5r4t7v6w3y2 --json
    """
    from batchmill.agents.cli.bodies import read_bodies
    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        row = queries.dead_letter(view, name)
    if row is None:
        raise CommandError(f"no dead letter {name}; see `batchmill dlq list`", ExitCode.NOT_FOUND)
    at = ("dead-letter", row.partition, row.offset)
    raw = ("raw", row.origin_partition, row.origin_offset)
    bodies = asyncio.run(read_bodies(here.settings, [at, raw]))
    letter = bodies.get(at, {})
    told = {**letter, "original": _text(letter.get("original")) or bodies.get(raw, {}).get("value")}
    if json:
        here.emit("dlq.show", {"letter": row, "original": told["original"]})
        return
    here.fields((field, told[field]) for field in told if field != "origin")
    typer.echo(f"raw event: raw/{row.origin_partition}/{row.origin_offset}")


def redrive(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters; else a filter.")] = None,
    job: Annotated[str | None, typer.Option(help="Those of this job.")] = None,
    reason: Annotated[Reason | None, typer.Option(help="Those with this reason.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Do it. Without this only the counts are shown.")] = False,
    actor: Annotated[str | None, typer.Option(help="Who does this, for the record; default: user@host.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Give dead-lettered records another chance, at the earliest step that is not yet paid for. A dry run by default.

    \b
    Examples:
      batchmill dlq redrive --job triage --reason sink_refused
      batchmill dlq redrive --job triage --reason sink_refused --execute
    """
    here = door(context)
    if not names and job is None and reason is None:
        raise CommandError("name dead letters, or say --job or --reason", ExitCode.USAGE)
    chosen = _chosen(here, names or [], job, reason)
    counts = Counter((each.job or "", each.reason.value) for each in chosen)
    if json:
        told = [{"job": of, "reason": why, "count": count} for (of, why), count in counts.most_common()]
        here.emit("dlq.redrive", {"executed": execute, "count": len(chosen), "by_reason": told})
    else:
        here.table(
            ("job", "reason", "count"), [[*key, count] for key, count in counts.most_common()], empty="nothing fits"
        )
    if not execute:
        here.say(f"dry run: {len(chosen)} would be redriven; say --execute to do it")
        return
    if chosen:
        asyncio.run(_redrive(here, chosen, actor))
        here.say(f"{len(chosen)} are being redriven; `batchmill status` shows them move")


def _chosen(here: Door, names: list[str], job: str | None, reason: Reason | None) -> "list[DeadLetterRow]":
    from batchmill.agents.projector import queries

    with here.view() as view:
        if not names:
            return queries.dead_letters(view, job=job, reason=reason, standing=True, limit=_REDRIVE_MAX)
        found = [queries.dead_letter(view, name) for name in names]
    missing = [name for name, row in zip(names, found, strict=True) if row is None]
    if missing:
        raise CommandError(f"no dead letter {missing[0]}; see `batchmill dlq list`", ExitCode.NOT_FOUND)
    return [row for row in found if row is not None]


async def _redrive(here: Door, chosen: "list[DeadLetterRow]", actor: str | None) -> None:
    from batchmill.agents.commands import actor_here, issue
    from batchmill.streams.redriving import COMMAND, command_body

    for start in range(0, len(chosen), _REDRIVEN_AT_ONCE):
        cut = chosen[start : start + _REDRIVEN_AT_ONCE]
        body = command_body(
            requests=[each.request_id for each in cut if each.request_id is not None],
            letters=[(each.partition, each.offset) for each in cut if each.request_id is None],
        )
        jobs = {each.job for each in cut}
        name = jobs.pop() if len(jobs) == 1 else None
        await issue(here.settings, COMMAND, name or "", actor=actor or actor_here(), body_json=body, wait_seconds=0)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
