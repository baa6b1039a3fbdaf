"""`batchmill ingest`: files into the raw topic."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.ingest import IngestReport, RecordFile, SourceRecord

__all__ = ["Progress", "add", "send", "source_name", "tell"]

_SAY_SECONDS = 2.0


def add(app: typer.Typer) -> None:
    app.command("ingest")(ingest)


def ingest(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSONL, CSV or Parquet; - reads standard input.")],
    job: Annotated[str | None, typer.Option(help="Job of these records; else each record's own member `job`.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Member that holds the source id, a name or a path ($.a.b); becomes the key.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Name of this run; default: a new one.")] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="jsonl|csv|parquet", help="If the name does not say.")
    ] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Send a file's records to the raw topic; malformed lines travel too and are accounted for.

    Sending the same file twice is harmless: what was answered is not asked again. At its end the run says what it sent,
    in a manifest; see `batchmill runs list`.

    \b
    Examples:
      batchmill ingest tickets.jsonl --job triage --key ticket_id
      zcat tickets.jsonl.gz | batchmill ingest - --job triage --key $.meta.id
    """
    from batchmill.agents.commands import new_id
    from batchmill.agents.ingest import Format, format_of, open_records

    here = door(context)
    if format_ is not None and format_ not in set(Format):
        raise typer.BadParameter(f"{format_!r} is none of jsonl, csv, parquet", param_hint="--format")
    kind = format_of(file, Format(format_) if format_ else None)
    name = run or f"ingest-{new_id()}"
    with open_records(file, kind, key=key) as opened, Progress(here, opened) as progress:
        sent = send(here, opened.records, run=name, job=job, source=source_name(file), progress=progress)
        report = asyncio.run(sent)
    tell(here, report, json=json)
    if report.refused:
        raise typer.Exit(ExitCode.PARTIAL)


async def send(
    here: Door, records: "Iterator[SourceRecord]", *, run: str, job: str | None, source: str, progress: "Progress"
) -> "IngestReport":
    """Send everything, then say that it is everything."""
    from batchmill.agents.commands import actor_here
    from batchmill.agents.ingest import declare_end
    from batchmill.agents.ingest import ingest as publish

    report = await publish(here.settings, records, run=run, job=job, on_progress=progress.moved)
    await declare_end(here.settings, report, source=source, actor=actor_here())
    return report


def source_name(file: str) -> str:
    """What a manifest calls the file: its name, not where it lies."""
    return "standard input" if file == "-" else Path(file).name


def tell(here: Door, report: "IngestReport", *, json: bool, dry_run: bool = False) -> None:
    """What became of the records, and what a person should know of it."""
    for line, trouble in report.refused_lines:
        here.say(f"line {line}: not sent: {trouble}")
    if json:
        here.emit("ingest", {name: getattr(report, name) for name in report.__slots__} | {"dry_run": dry_run})
    else:
        here.fields(
            [
                ("run", report.run),
                ("topic", report.topic),
                ("read", report.read),
                ("would send" if dry_run else "sent", report.sent),
                ("bytes", report.bytes),
                ("refused", report.refused or None),
                ("without key", report.without_key or None),
                ("repeated", report.repeated or None),
                ("sha256", report.content_sha256),
                ("manifest", report.manifest),
            ]
        )
    if report.repeated:
        here.say(f"{report.repeated} records repeat an earlier one of this file; they will be excluded as duplicates")
    if report.without_key == report.sent > 0:
        here.say("no record has a key: say --key, or let the job's `id` find the source id")


class Progress:
    """A bar on a terminal, a line now and then elsewhere; on standard error either way."""

    def __init__(self, here: Door, opened: "RecordFile") -> None:
        self._here = here
        self._opened = opened
        self._update: Callable[[int, int], None] = lambda _sent, _position: None

    def __enter__(self) -> Self:
        if self._here.quiet or not sys.stderr.isatty():
            return self
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = self._bar.add_task("sending", total=self._opened.size_bytes)
        self._update = lambda sent, position: self._bar.update(
            task, completed=position, description=f"{sent:,} records sent"
        )
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()

    def moved(self, report: "IngestReport") -> None:
        """Show how far it has got."""
        self._update(report.sent, self._opened.position())
