"""`batchmill costs`: what was spent, on what, and how much of it for nothing."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, known_job
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.costs import CostGroup, Costs

__all__ = ["add", "lines"]

_NANOS = 10**9
_GROUPS = "model, route, tier, reason, version, day"


def add(app: typer.Typer) -> None:
    app.command()(costs)


def costs(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    by: Annotated[str | None, typer.Option(metavar="WHAT", help=f"Split by one of: {_GROUPS}.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run; waste by twin batches belongs to none.")] = None,
    version: Annotated[str | None, typer.Option(help="Only this frozen version.")] = None,
    path: Annotated[
        bool, typer.Option("--path", help="Split by the chain of jobs; with a job: chains through it.")
    ] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show what calls have cost, against what was expected, and what of it was wasted, by cause.

    \b
    Examples:
      batchmill costs triage
      batchmill costs triage --by reason
      batchmill costs --path
    """
    from batchmill.agents.projector.costs import By, conservation, cost_groups
    from batchmill.agents.projector.costs import costs as of_scope
    from batchmill.agents.projector.metrics import Scope

    if by is not None and by not in set(By):
        raise CommandError(f"--by {by}: costs are split by one of {_GROUPS}", ExitCode.USAGE)
    here = door(context)
    if path:
        _by_path(here, job, json=json, other=by or run or version)
        return
    values = Scope(job=job, run=run, version=version).values
    with here.view() as view:
        found = of_scope(view, values)
        if job is not None and not found.records:
            known_job(view, job)
        groups = None if by is None else cost_groups(view, By(by), values)
        sums = conservation(view, values)
    if not sums.holds:
        here.say("records, results and batches do not add up to the same sum: not everything has been read yet")
    if json:
        told = {"job": job, "by": by, "costs": plain(found), "groups": groups, "conservation": sums}
        here.emit("costs", told | {"conserved": sums.holds})
    elif groups is None:
        here.fields(lines(found))
    else:
        columns = (by or "", "calls", "unpriced", "input", "output", "spent $", "wasted $", "estimated $", "ratio")
        here.table(columns, _rows(groups), empty="nothing was spent")


def _by_path(here: Door, job: str | None, *, json: bool, other: str | None) -> None:
    from batchmill.agents.projector.stages import paths

    if other is not None:
        raise CommandError("--path goes with a job only, not with --by, --run or --version", ExitCode.USAGE)
    with here.view() as view:
        if job is not None:
            known_job(view, job)
        found = paths(view, job)
    if json:
        here.emit("costs.paths", {"job": job, "paths": found, "spent_nanos": sum(each.own_nanos for each in found)})
        return
    columns = ("path", "records", "committed", "last stage $", "in all $", "per success $")
    rows = [
        [
            " > ".join(each.path),
            each.records,
            each.committed,
            f"{each.own_nanos / _NANOS:.6f}",
            f"{each.all_nanos / _NANOS:.6f}",
            None if each.per_success_nanos is None else f"{each.per_success_nanos / _NANOS:.9f}",
        ]
        for each in found
    ]
    here.table(columns, rows, empty="nothing was asked yet")


def plain(found: "Costs") -> dict[str, Any]:
    """The sums and the rates, as `--json` prints them."""
    from dataclasses import asdict

    rates = ("estimate_ratio", "tokens_ratio", "per_record_usd", "per_success_usd", "records_per_dollar")
    return asdict(found) | {"wasted_nanos_total": found.wasted} | {name: getattr(found, name) for name in rates}


def lines(found: "Costs") -> list[tuple[str, str | None]]:
    """The report as people read it; what is not known is left out, never shown as 0."""
    causes = ", ".join(f"{_usd(nanos)} {cause}" for cause, nanos in found.wasted_nanos.items() if nanos)
    share = f"{found.wasted / found.spent_nanos:.1%}" if found.spent_nanos else None
    ratio = found.estimate_ratio
    return [
        ("spent", _usd(found.spent_nanos)),
        ("wasted", f"{_usd(found.wasted)}" + (f" ({share}): {causes}" if causes else "")),
        ("doubtful", f"perhaps {_usd(found.doubtful_nanos)} more" if found.doubtful_nanos else None),
        ("unpriced calls", f"{found.unpriced_calls:,} of {found.calls:,}" if found.unpriced_calls else None),
        ("estimated", None if ratio is None else _estimate(found, ratio)),
        ("on the way", f"about {_usd(found.open_nanos)}" if found.open_nanos else None),
        ("cost per record", _each(found.per_record_usd)),
        ("cost per success", _each(found.per_success_usd)),
        ("records per dollar", None if found.records_per_dollar is None else f"{found.records_per_dollar:,.0f}"),
        ("tokens", _tokens(found)),
    ]


def _estimate(found: "Costs", ratio: float) -> str:
    return f"{_usd(found.estimated_nanos)}; the same batches cost {_usd(found.actual_nanos)}, {ratio:.2f} of it"


def _tokens(found: "Costs") -> str:
    parts = [f"{found.input_tokens:,} in", f"{found.output_tokens:,} out"]
    if found.cached_tokens:
        parts.append(f"{found.cached_tokens:,} of those in from cache")
    if found.tokens_ratio is not None:
        parts.append(f"prompts {found.tokens_ratio:.2f} of their estimate")
    return ", ".join(parts)


def _rows(groups: Iterable["CostGroup"]) -> list[list[Any]]:
    return [
        [
            each.key,
            each.calls,
            each.unpriced_calls,
            each.input_tokens,
            each.output_tokens,
            f"{each.spent_nanos / _NANOS:.6f}",
            f"{each.wasted_nanos / _NANOS:.6f}",
            f"{each.estimated_nanos / _NANOS:.6f}" if each.estimated_nanos else None,
            f"{each.actual_nanos / each.estimated_nanos:.2f}" if each.estimated_nanos else None,
        ]
        for each in groups
    ]


def _usd(nanos: int) -> str:
    return f"${nanos / _NANOS:,.6f}"


def _each(usd: float | None) -> str | None:
    return None if usd is None else f"${usd:,.9f}"
