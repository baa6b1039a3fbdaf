"""What every command has at hand: settings, and the two mouths, one for data and one for people."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.reading import View
    from batchmill.agents.settings import Settings

__all__ = ["JSON", "YES", "Door", "door", "known_job", "utc"]

JSON = typer.Option("--json", help="Print one JSON document (lists: under `items`) instead of a table.")
YES = typer.Option("--yes", "-y", help="Do not ask.")


@dataclass
class Door:
    """Made once per command from the global options."""

    flags: Mapping[str, str] = field(default_factory=dict)
    quiet: bool = False

    @cached_property
    def settings(self) -> "Settings":
        from batchmill.agents.settings import load_settings

        return load_settings(dict(self.flags))

    def view(self) -> AbstractContextManager["View"]:
        """The read model, opened for reading."""
        from batchmill.agents.projector.reading import View

        return View(self.settings.view_path)

    def say(self, text: str) -> None:
        """To people: progress, hints, what was done."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def emit(self, kind: str, payload: Any) -> None:
        """One JSON document, named and versioned; `payload` is an object, or a list that goes under `items`."""
        import orjson

        body = payload if isinstance(payload, Mapping) else {"items": payload}
        data = orjson.dumps({"schema": f"batchmill.{kind}/1", **body}, default=str, option=orjson.OPT_NON_STR_KEYS)
        sys.stdout.write(data.decode() + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "nothing") -> None:
        """Aligned for eyes on a terminal, tab-separated with a header line for everything else."""
        told = [[_cell(value) for value in row] for row in rows]
        if not told:
            self.say(empty)
            return
        if sys.stdout.isatty():
            self._pretty(columns, told)
            return
        for line in (columns, *told):
            sys.stdout.write("\t".join(line) + "\n")

    def fields(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """One thing, member by member; what is not there is left out."""
        told = [(name, _cell(value)) for name, value in pairs if value is not None and value != ""]
        width = max((len(name) for name, _ in told), default=0)
        for name, value in told:
            sys.stdout.write(f"{name:<{width}}  {value}\n")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask a person before danger; without one, `--yes` must have been said."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise CommandError(f"{question} Nobody is there to ask; say --yes.", ExitCode.USAGE)
        if not typer.confirm(question, err=True):
            raise CommandError("not done", ExitCode.USAGE)

    def _pretty(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        made = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            made.add_row(*map(Text, row))  # as they are: `[/x]` is no markup
        Console().print(made)


def door(context: typer.Context) -> Door:
    """The door of the running command."""
    found: Door = context.find_root().obj
    return found


def known_job(view: "View", job: str) -> str:
    if view.row("SELECT 1 FROM jobs WHERE job = ?", (job,)) is None:
        raise CommandError(f"the read model knows no job {job}; see `batchmill job list`", ExitCode.NOT_FOUND)
    return job


def utc(milliseconds: int | None) -> str:
    """A time as people read it, in UTC."""
    from datetime import UTC, datetime

    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def inert(text: str) -> str:
    """What a model or a stranger wrote, without what a terminal would obey or hide."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return inert(str(value).replace("\t", " ").replace("\n", " "))
