"""`batchmill dlq`: what was dead-lettered, why, what mends it, and its originals. `cli.redrive` brings it back."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.letters import (
    FAULT,
    JOB,
    REASON,
    SINCE,
    STAGE,
    UNTIL,
    VERSION,
    WHERE,
    named_letter,
    reading,
    wanted,
)
from batchmill.agents.cli.redrive import redrive
from batchmill.schemas.reasons import Fault, Reason

if TYPE_CHECKING:
    from typing import BinaryIO

    from batchmill.agents.cli.door import Door
    from batchmill.agents.projector.letters import DeadLetterRow, Group

__all__ = ["add"]

ALL = typer.Option("--all", help="Also those that were brought back since.")
_NANOS = 10**9


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at dead letters and bring them back.")
    group.command("list")(list_)
    for command in (summary, show, export, redrive):
        group.command()(command)
    app.add_typer(group, name="dlq")


def list_(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    reason: Annotated[list[Reason] | None, REASON] = None,
    stage: Annotated[str | None, STAGE] = None,
    version: Annotated[str | None, VERSION] = None,
    fault: Annotated[Fault | None, FAULT] = None,
    since: Annotated[str | None, SINCE] = None,
    until: Annotated[str | None, UNTIL] = None,
    where: Annotated[str | None, WHERE] = None,
    all_: Annotated[bool, ALL] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List dead letters, the newest first.

    \b
    Examples:
      batchmill dlq list --job triage --reason schema_mismatch --since 2h
      batchmill dlq list --where 'checks.exists(c, c.id == "refund-has-amount" && !c.passed)'
    """
    here = door(context)
    asked = wanted(
        job=job, reasons=reason, stage=stage, version=version, fault=fault, since=since, until=until, where=where
    )
    with reading(here, asked, standing=not all_, limit=limit) as (_, letters):
        found = list(letters)
    if json:
        here.emit("dlq.list", found)
        return
    columns = ("id", "job", "source", "stage", "reason", "fault", "error", "when")
    rows = [
        [each.id, each.job, each.source_id, each.stage, each.reason, each.fault, each.error, utc(each.failed_at_ms)]
        for each in found
    ]
    here.table(columns, rows, empty="no dead letters")


def summary(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    reason: Annotated[list[Reason] | None, REASON] = None,
    stage: Annotated[str | None, STAGE] = None,
    version: Annotated[str | None, VERSION] = None,
    fault: Annotated[Fault | None, FAULT] = None,
    since: Annotated[str | None, SINCE] = None,
    until: Annotated[str | None, UNTIL] = None,
    where: Annotated[str | None, WHERE] = None,
    all_: Annotated[bool, ALL] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Group dead letters by reason, stage and version: how many, what they cost, what usually mends them.

    \b
    Examples:
      batchmill dlq summary
      batchmill dlq summary --job triage --fault job --since 1d
    """
    from batchmill.agents.projector.letters import summary as grouped

    here = door(context)
    asked = wanted(
        job=job, reasons=reason, stage=stage, version=version, fault=fault, since=since, until=until, where=where
    )
    with reading(here, asked, standing=not all_) as (_, letters):
        groups = grouped(letters)
    if json:
        here.emit("dlq.summary", groups)
        return
    columns = ("reason", "stage", "job", "version", "count", "cost", "newest", "example")
    rows = [
        (each.reason, each.stage, each.job, each.version, each.count, _cost(each), utc(each.newest_at_ms), each.example)
        for each in groups
    ]
    here.table(columns, rows, empty="no dead letters")
    for told in dict.fromkeys((each.reason, each.remedy) for each in groups):
        here.say(f"{told[0]}: {told[1]}")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="Dead letter id or request id.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show one dead letter: its failed checks, what usually mends it, and its original.

    \b
    Example:
      batchmill dlq show m2zxq5r4t7v6w3y2 --json
    """
    from batchmill.agents.originals import shown
    from batchmill.streams.remedies import REMEDIES

    here = door(context)
    row = named_letter(here, name)
    told = asyncio.run(_first(here, row))
    remedy = REMEDIES[row.reason]
    if json:
        here.emit("dlq.show", {"letter": row, "remedy": remedy, **shown(told)})
        return
    fields = shown(told)
    here.fields(_for_people(name, value) for name, value in fields.items() if name not in {"origin", "checks"})
    for check in () if told.letter is None else told.letter.checks:
        if not check.passed:
            typer.echo(f"failed: {check.id} ({check.severity}) at {check.path or '$'}: {check.note or ''}")
    typer.echo(f"raw event: raw/{row.origin_partition}/{row.origin_offset}")
    here.say(f"what usually mends it: {remedy}")


def export(
    context: typer.Context,
    job: Annotated[str | None, JOB] = None,
    reason: Annotated[list[Reason] | None, REASON] = None,
    stage: Annotated[str | None, STAGE] = None,
    version: Annotated[str | None, VERSION] = None,
    fault: Annotated[Fault | None, FAULT] = None,
    since: Annotated[str | None, SINCE] = None,
    until: Annotated[str | None, UNTIL] = None,
    where: Annotated[str | None, WHERE] = None,
    all_: Annotated[bool, ALL] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    output: Annotated[Path, typer.Option(metavar="FILE|-", help="A new file; - is standard output.")] = Path("-"),
) -> None:
    """Write dead letters with their originals, one JSON object a line, the newest first.

    `original` is the event as text, `original_base64` the event where it is no text; both null where it is gone.

    \b
    Examples:
      batchmill dlq export --job triage --output letters.jsonl
      batchmill dlq export --reason not_json | jq -r .original > again.jsonl
    """
    here = door(context)
    asked = wanted(
        job=job, reasons=reason, stage=stage, version=version, fault=fault, since=since, until=until, where=where
    )
    with reading(here, asked, standing=not all_, limit=limit) as (_, letters):
        if str(output) == "-":
            written = asyncio.run(_export(here, letters, sys.stdout.buffer))
        else:
            try:
                with output.open("xb") as file:
                    written = asyncio.run(_export(here, letters, file))
            except FileExistsError:
                raise CommandError(f"{output} exists already; name a new file", ExitCode.CONFLICT) from None
    here.say(f"dead letters written: {written:,}")


async def _export(here: "Door", rows: Any, file: "BinaryIO") -> int:
    import orjson

    from batchmill.agents.originals import originals, shown

    written = 0
    async for row, original in originals(here.settings, rows):
        told = {"id": row.id, "letter_offset": row.offset, **shown(original)}
        file.write(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))
        written += 1
    file.flush()
    return written


async def _first(here: "Door", row: "DeadLetterRow") -> Any:
    from batchmill.agents.originals import originals

    async for _, original in originals(here.settings, [row]):
        return original
    raise AssertionError("one was asked for, one is told of")


def _for_people(name: str, value: Any) -> tuple[str, Any]:
    if value is not None and name == "cost_nanos":
        return "cost", f"${value / _NANOS:,.6f}"
    return ("failed", utc(value)) if name == "failed_at_ms" else (name, value)


def _cost(group: "Group") -> str:
    return f"${group.cost_nanos / _NANOS:,.6f}" + (f" and {group.unpriced} unpriced" if group.unpriced else "")
