"""`batchmill schedules`: what the clock starts, when it will next, and what became of the last time."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, door, known_job, utc

if TYPE_CHECKING:
    from batchmill.agents.replays.scheduling import Scheduled

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    app.command()(schedules)


def schedules(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show the schedules of the jobs in force: their next and last ticks, in UTC. The projector starts them.

    \b
    Example:
      batchmill schedules triage
    """
    from batchmill.agents import clock
    from batchmill.agents.replays.scheduling import scheduled

    here = door(context)
    with here.view() as view:
        found = scheduled(view, clock.wall_ms(), None if job is None else known_job(view, job))
    if json:
        here.emit("schedules", [_plain(each) for each in found])
        return
    columns = ("job", "cron", "select", "fresh", "sample", "next", "last", "state", "note")
    rows = [
        [
            *(each.job, each.schedule.cron, each.schedule.select, each.schedule.fresh, each.schedule.sample),
            *(utc(each.next_ms), utc(None if each.last is None else each.last.at_ms), *_outcome(each)),
        ]
        for each in found
    ]
    here.table(columns, rows, empty="no job has a schedule; `schedule:` in its job.yaml makes one")


def _plain(each: "Scheduled") -> dict[str, Any]:
    from dataclasses import asdict

    state, note = _outcome(each)
    last = None if each.last is None else {"at_ms": each.last.at_ms, "run": each.last.run}
    told = {"job": each.job, "version": each.version, "paused": each.paused, "schedule": asdict(each.schedule)}
    return told | {"next_ms": each.next_ms, "last": last, "state": state, "note": note}


def _outcome(each: "Scheduled") -> tuple[str, str]:
    """What became of the last tick, and why."""
    if each.last is None:
        return "", ""
    found = each.last.found
    return ("due", "") if found is None else (found.state.value, found.note)
