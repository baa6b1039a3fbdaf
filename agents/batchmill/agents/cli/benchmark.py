"""`batchmill benchmark`: ask versions about records whose right output is known."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.compare import usd
from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.benchmarking import Stake
    from batchmill.schemas.jobs import JobSpec
    from batchmill.schemas.state import Job
    from batchmill.streams.golden import Gold

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    app.command()(benchmark)


def benchmark(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="The job's name.")],
    version: Annotated[
        list[str] | None,
        typer.Option(help="Ask this version; repeatable. Default: the one in force and every shadow."),
    ] = None,
    gold: Annotated[
        Path | None,
        typer.Option(help="JSONL of {id, input, output}; default: the benchmark of the newest version's gate."),
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Send them. Without it only counts and costs are told.")
    ] = False,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Ask versions about records whose right output is known. Nothing of it is written downstream.

    Without --execute nothing is sent. What a version has answered before is not asked nor paid again.

    \b
    Examples:
      batchmill benchmark triage
      batchmill benchmark triage --version mzpb5ewp --gold gold.jsonl --execute
    """
    from batchmill.agents.benchmarking import stake
    from batchmill.agents.projector.comparing import job_row, specs_of
    from batchmill.streams.golden import run_of_gold

    here = door(context)
    with here.view() as view:
        row = job_row(view, job)
        specs = _specs(view, row, version or ())
        golden = _golden(gold, list(specs_of(row).values()), job)
        stakes = [stake(here.settings, view, golden, spec) for spec in specs.values()]
    sent = _send(here, golden, specs) if execute else 0
    told = {"job": job, "run": run_of_gold(golden), "records": len(golden), "sent": sent, "versions": stakes}
    if json:
        here.emit("benchmark", told)
        return
    here.fields([(name, told[name]) for name in ("job", "run", "records")])
    columns = ("version", "known", "asked", "refused", "tokens", "cost at most", "about")
    here.table(columns, [_row(each) for each in stakes])
    _say(here, job, sent, execute=execute)


def _specs(view: Any, row: "Job", named: "list[str] | tuple[()]") -> "dict[str, JobSpec]":
    from batchmill.agents.projector.comparing import contender, specs_of
    from batchmill.streams.normalizing import BENCHMARKED_MAX
    from batchmill.streams.versioning import shadows_of

    known = specs_of(row)
    chosen = [contender(view, row, text).version for text in named] or [row.version, *shadows_of(row)]
    versions = list(dict.fromkeys(chosen))
    if len(versions) > BENCHMARKED_MAX:
        raise CommandError(
            f"{len(versions)} versions: one event can name {BENCHMARKED_MAX}; say --version", ExitCode.USAGE
        )
    return {version: known[version] for version in versions}


def _golden(file: Path | None, specs: "list[JobSpec]", job: str) -> "dict[str, Gold]":
    """Of the file, or of the newest version that has a benchmark."""
    from batchmill.agents.contenders import gold_of_gate
    from batchmill.agents.json_lines import json_lines
    from batchmill.streams.golden import gold_of

    if file is not None:
        found = gold_of(json_lines(file))
    else:
        found = next((golden for spec in reversed(specs) if (golden := gold_of_gate(spec.gate))), {})
    if not found:
        why = f"job {job} has no benchmark" if file is None else f"{file} has no records"
        raise CommandError(f"{why}: name a file with --gold, or gate.benchmark in job.yaml", ExitCode.NOT_FOUND)
    return found


def _send(here: Door, golden: "dict[str, Gold]", specs: "dict[str, JobSpec]") -> int:
    from batchmill.agents.benchmarking import publish

    newest = list(specs.values())[-1]
    report = asyncio.run(publish(here.settings, golden, newest, list(specs)))
    for line, trouble in report.refused_lines:
        here.say(f"record {line}: not sent: {trouble}")
    if report.refused:
        raise CommandError(f"{report.refused} of {report.read} records were not sent", ExitCode.PARTIAL)
    return report.sent


def _row(each: "Stake") -> list[Any]:
    refused = ", ".join(f"{reason} {count}" for reason, count in each.refusals.items())
    money = [None if nanos is None else usd(nanos) for nanos in (each.most_nanos, each.expected_nanos)]
    return [each.version, each.known, each.asked, refused or 0, each.tokens, *(told or "not known" for told in money)]


def _say(here: Door, job: str, sent: int, *, execute: bool) -> None:
    if not execute:
        here.say("nothing was sent; say --execute")
        return
    here.say(f"sent {sent} records; once they are answered: batchmill compare {job} --gate")
