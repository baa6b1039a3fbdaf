"""How the commands about dead letters are told which ones: the options they share, and how those are read."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.schemas.reasons import Fault, Reason

if TYPE_CHECKING:
    from batchmill.agents.projector.letters import DeadLetterRow, Wanted
    from batchmill.agents.projector.reading import View

__all__ = [
    "FAULT",
    "JOB",
    "REASON",
    "SINCE",
    "STAGE",
    "UNTIL",
    "VERSION",
    "WHERE",
    "moment_ms",
    "named_letter",
    "reading",
    "wanted",
]

JOB = typer.Option(help="Only of this job.")
REASON = typer.Option(metavar="REASON", help="Only for this reason, as `list` shows it; may be said again for more.")
STAGE = typer.Option(help="Only of this stage, as `list` shows it.")
VERSION = typer.Option(help="Only of this frozen version.")
FAULT = typer.Option(help="Only where it is up to these to act.")
SINCE = typer.Option(metavar="WHEN", help="Only those put down since: 30m, 2h, 7d ago, or a time as 2026-01-31T12:00.")
UNTIL = typer.Option(metavar="WHEN", help="Only those put down before then.")
WHERE = typer.Option(metavar="CEL", help="Only those for which this holds; docs/dead-letters.md lists the names.")

_AGO: Final = re.compile(r"([0-9]+)([smhd])")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def wanted(
    *,
    job: str | None,
    reasons: list[Reason] | None,
    stage: str | None,
    version: str | None,
    fault: Fault | None,
    since: str | None,
    until: str | None,
    where: str | None,
) -> "Wanted":
    """What the options say, or a usage error that says which one cannot be read."""
    from batchmill.agents import clock
    from batchmill.agents.projector.letters import Wanted
    from batchmill.streams.expressions import ConditionError
    from batchmill.streams.selecting import compile_where

    now_ms = clock.wall_ms()
    try:
        holds = None if where is None else compile_where(where)
    except ConditionError as error:
        raise CommandError(f"--where: {error}", ExitCode.USAGE) from None
    return Wanted(
        job=job,
        reasons=tuple(reasons or ()),
        stage=stage,
        version=version,
        fault=fault,
        since_ms=None if since is None else moment_ms(since, now_ms, option="--since"),
        until_ms=None if until is None else moment_ms(until, now_ms, option="--until"),
        where=holds,
    )


def moment_ms(text: str, now_ms: int, *, option: str) -> int:
    """A time, or how long ago; a time without a zone is in UTC, as all times are shown."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now_ms - int(ago[1]) * _UNIT_MS[ago[2]]
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text}: say 30m, 2h or 7d, or a time as 2026-01-31T12:00", ExitCode.USAGE
        ) from None
    return round((told if told.tzinfo is not None else told.replace(tzinfo=UTC)).timestamp() * 1_000)


@contextmanager
def reading(
    here: Door, asked: "Wanted", *, standing: bool = True, limit: int | None = None, oldest_first: bool = False
) -> Iterator[tuple["View", Iterator["DeadLetterRow"]]]:
    """The view, and the letters that are wanted, while they are read."""
    from batchmill.agents import clock
    from batchmill.agents.projector.letters import letters
    from batchmill.streams.expressions import ConditionError

    now_ms = clock.wall_ms()
    with here.view() as view:
        try:
            yield (
                view,
                letters(view, replace(asked, standing=standing), now_ms=now_ms, limit=limit, oldest_first=oldest_first),
            )
        except ConditionError as error:
            raise CommandError(f"--where: {error}", ExitCode.USAGE) from None


def named_letter(here: Door, name: str) -> "DeadLetterRow":
    """The letter of this id, or the newest of this request."""
    from batchmill.agents.projector.letters import letter

    with here.view() as view:
        found = letter(view, name)
    if found is None:
        raise CommandError(f"no dead letter {name}; see `batchmill dlq list`", ExitCode.NOT_FOUND)
    return found
