"""`batchmill batches`: the ledger of provider batches."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, door, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.schemas.status import ChunkState

if TYPE_CHECKING:
    from batchmill.agents.projector.queries import BatchRow

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at provider batches.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="batches")


def list_(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    state: Annotated[ChunkState | None, typer.Option(help="Only in this state.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Only those that are not done.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    json: Annotated[bool, JSON] = False,
) -> None:
    """List batches, the most recently moved first.

    \b
    Example:
      batchmill batches list --job triage --open
    """
    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        found = queries.batches(view, job=job, state=state, unfinished=open_, limit=limit)
    if json:
        here.emit("batches.list", found)
        return
    columns = ("chunk", "job", "state", "members", "done", "failed", "batch id", "provider says", "cost $", "moved")
    here.table(columns, [_row(each) for each in found], empty="no batches")


def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CHUNK|BATCH", help="Our chunk id or the provider's batch id.")],
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show one batch: its state, files, counts and cost.

    \b
    Example:
      batchmill batches show batch_68f0c2
    """
    from dataclasses import asdict

    from batchmill.agents.projector import queries

    here = door(context)
    with here.view() as view:
        found = queries.batch(view, name)
    if found is None:
        raise CommandError(f"no batch {name}; see `batchmill batches list`", ExitCode.NOT_FOUND)
    if json:
        here.emit("batches.show", {"batch": found})
        return
    here.fields((field, _readable(field, value)) for field, value in asdict(found).items() if value != 0)


def _row(each: "BatchRow") -> list[Any]:
    failed = each.errored + each.expired + each.cancelled + each.missing
    cost = each.cost_nanos / 10**9
    return [
        each.chunk_id,
        each.job,
        _state(each),
        each.members,
        each.succeeded,
        failed,
        each.batch_id,
        each.remote_status,
        f"{cost:.6f}",
        utc(each.updated_at_ms),
    ]


def _state(each: "BatchRow") -> str:
    """The state, and why a batch is where it is: `failed` alone would look like a loss where it was split."""
    if each.waits_for is not None:
        return f"{each.state}, waits for {each.waits_for}"
    stuck = each.state in {ChunkState.FAILED, ChunkState.HELD} or each.failures
    return f"{each.state}: {each.note}" if stuck and each.note else str(each.state)


def _readable(field: str, value: Any) -> Any:
    return utc(value) if field.endswith("_at_ms") else value
