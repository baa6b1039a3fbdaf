"""`batchmill savings`: what was not paid, and why."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, door, known_job

if TYPE_CHECKING:
    from batchmill.agents.projector.savings import Saving, Savings

__all__ = ["add", "plain"]

_NANOS = 10**9


def add(app: typer.Typer) -> None:
    app.command()(savings)


def savings(
    context: typer.Context,
    job: Annotated[str | None, typer.Option(help="Only this job.")] = None,
    version: Annotated[str | None, typer.Option(help="Only this frozen version.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what was not paid, lever by lever, measured against what the same records would have cost.

    No dollar is in two lines. A copy is worth what the answer that it is a copy of did cost.

    \b
    Examples:
      batchmill savings --job triage
      batchmill savings --job triage --run monday --json
    """
    from batchmill.agents.prices import load_prices
    from batchmill.agents.projector.metrics import Scope
    from batchmill.agents.projector.savings import savings as of_scope

    here = door(context)
    values = Scope(job=job, run=run, version=version).values
    with here.view() as view:
        if job is not None:
            known_job(view, job)
        found = of_scope(view, values, otherwise=load_prices(here.settings.prices_file))
    if json:
        here.emit("savings", plain(found))
        return
    columns = ("lever", "count", "not priced", "saved $", "how it was reckoned")
    here.table(columns, [_row(each) for each in found.savings if each.count], empty="nothing was saved yet")
    share = "" if found.share is None else f", {found.share:.1%} of what it would have cost"
    here.say(f"paid ${_usd(found.paid_nanos)}, saved ${_usd(found.saved_nanos)}{share}")
    here.say("what shorter inputs saved is not in it: nothing says how long they had been")


def plain(found: "Savings") -> dict[str, Any]:
    """As `--json` prints it; all levers, those too that saved nothing."""
    from dataclasses import asdict

    listed = [asdict(each) | {"how": each.how} for each in found.savings]
    sums = {"paid_nanos": found.paid_nanos, "saved_nanos": found.saved_nanos, "share": found.share}
    return {"savings": listed} | sums


def _row(each: "Saving") -> list[Any]:
    return [str(each.lever), each.count, each.unpriced or None, _usd(each.saved_nanos), each.how]


def _usd(nanos: int) -> str:
    return f"{nanos / _NANOS:,.6f}"
