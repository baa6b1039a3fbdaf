"""`batchmill runs`: what was sent or asked together, under which versions, and what has become of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.metrics import Accounting
    from batchmill.agents.projector.runs import RunRow

__all__ = ["add"]

_NANOS = 10**9


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Ingests, live runs, shadow runs, replays.")
    group.command("list")(list_)
    group.command()(show)
    app.add_typer(group, name="runs")


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List every run that was seen, the newest first: ingests, live events, what versions are tried out on, replays.

    \b
    Example:
      batchmill runs list --job triage
    """
    from batchmill.agents.projector.runs import run_rows

    here = door(context)
    with here.view() as view:
        found = run_rows(view, job=job, limit=limit)
    if json:
        here.emit("runs.list", [plain(each) for each in found])
        return
    counts = ("events", "declared", "records", "committed", "open", "cost $")
    here.table(
        ("run", "kind", "versions", *counts, "first", "last"),
        [_cells(each) for each in found],
        empty="no run was seen yet",
    )


def show(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show one run: its manifest, its records by place, and which versions answer for them.

    Exit code 1: it has records of several versions where there must be one, or other events than it declared.

    \b
    Example:
      batchmill runs show live:triage:mrqxk4zq6yw2v5pt
    """
    from batchmill.agents.projector.metrics import Scope, accounting
    from batchmill.agents.projector.runs import run_row

    here = door(context)
    with here.view() as view:
        found = run_row(view, run)
        books = accounting(view, Scope(run=run))
    if found is None:
        raise CommandError(f"no run {run} was seen; `batchmill runs list` names those that were", ExitCode.NOT_FOUND)
    wrong = troubles(found)
    if json:
        here.emit("runs.show", plain(found) | {"places": books.account.places, "aside": books.aside, "wrong": wrong})
    else:
        here.fields(_fields(found, books))
        columns = ("job", "version", "in front", "aside", "committed", "open", "cost $")
        here.table(columns, [_version_cells(each) for each in found.versions], empty="it has no records yet")
        for line in (*_notes(found), *wrong):
            typer.echo(line)
    if wrong:
        raise typer.Exit(ExitCode.PARTIAL)


def plain(found: "RunRow") -> dict[str, Any]:
    """One run as `--json` prints it."""
    from dataclasses import asdict

    return asdict(found) | {"ended": found.ended, "declared": found.declared, "mixed": found.mixed}


def troubles(found: "RunRow") -> list[str]:
    """What must not be, in words."""
    told = [f"RECORDS OF SEVERAL VERSIONS of job {job} are in this run; there must be one" for job in found.mixed]
    if found.declared is not None and found.events > found.declared:
        more = "an ingest of this name was interrupted, or somebody else sent some"
        told.append(f"{found.events:,} events name this run, {found.declared:,} were declared: {more}")
    return told


def _notes(found: "RunRow") -> list[str]:
    """What is worth a word, and right."""
    told = []
    if found.ended is False:
        told.append("it has not ended: no manifest declares what it consists of")
    if found.declared is not None and found.events < found.declared:
        told.append(f"{found.declared - found.events:,} of its events have left the log, or were not read yet")
    fronts = [each for each in found.versions if each.front]
    if len(fronts) > 1 and not found.mixed:
        answered = ", ".join(f"{each.front:,} under {each.version}" for each in fronts)
        told.append(f"its events are answered under {len(fronts)} versions: {answered}")
    return told


def _fields(found: "RunRow", books: "Accounting") -> list[tuple[str, Any]]:
    places = ", ".join(
        f"{count:,} {place.value.replace('_', ' ')}" for place, count in books.account.places.items() if count
    )
    told: list[tuple[str, Any]] = [
        ("run", found.run_id),
        ("kind", found.kind),
        ("events", found.events),
        ("places", places or None),
        ("records", found.records),
        ("cost", f"${found.cost_nanos / _NANOS:,.6f}"),
        ("first", utc(found.first_at_ms)),
        ("last", utc(found.last_at_ms)),
    ]
    for each in found.manifests:
        when = f"from {utc(each.began_ms)} to {utc(each.ended_ms)} UTC by {each.by}"
        told += [("manifest", f"{each.count:,} records of {each.source}, {when}"), ("sha256", each.sha256)]
    return told


def _cells(found: "RunRow") -> list[Any]:
    return [
        found.run_id,
        str(found.kind),
        ", ".join(found.version_names),
        found.events,
        "not ended" if found.ended is False else found.declared,
        found.records,
        found.committed,
        found.open,
        f"{found.cost_nanos / _NANOS:.6f}",
        utc(found.first_at_ms),
        utc(found.last_at_ms),
    ]


def _version_cells(each: Any) -> list[Any]:
    cost = f"{each.cost_nanos / _NANOS:.6f}"
    return [each.job, each.version, each.front, each.aside, each.committed, each.open, cost]
