"""`batchmill drift`: whether answers and inputs have become others than they were, and what has moved."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchmill.agents.cli.door import JSON, Door, door, known_job, utc
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from batchmill.agents.projector.drift import SignalRow, WatchRow
    from batchmill.streams.drifting import Score

__all__ = ["add", "told"]

_BARS = "▁▂▃▄▅▆▇█"
_CLASSES_SHOWN = 6


def add(app: typer.Typer) -> None:
    app.command()(drift)


def drift(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts of JOB to this file.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Show how far answers, lengths, rates and inputs are from what they were, and name what moved.

    Jobs with a `drift` section are watched by the overseer. One bar is one window; `!` marks those that moved.

    \b
    Examples:
      batchmill drift
      batchmill drift triage --html drift.html
    """
    from batchmill.agents.projector.drift import watch_rows

    here = door(context)
    if html is not None and job is None:
        raise CommandError("--html: a page is about one job; say which", ExitCode.USAGE)
    with here.view() as view:
        rows = watch_rows(view, None if job is None else known_job(view, job))
    if html is not None:
        _page(here, html, rows)
    if json:
        here.emit("drift", [plain(row) for row in rows])
        return
    if not rows:
        here.say("no job is watched: a `drift` section in job.yaml says what of it is, and an overseer watches")
    for row in rows:
        _show(here, row)


def plain(row: "WatchRow") -> dict[str, Any]:
    """One version as `--json` prints it."""
    from dataclasses import asdict

    return asdict(row) | {"alarms": told(row)}


def told(row: "WatchRow") -> list[str]:
    """What has moved, one sentence each."""
    from batchmill.streams.drifting import sentence

    return [sentence(moved) for moved in row.moved]


def _page(here: Door, file: Path, rows: Sequence["WatchRow"]) -> None:
    from batchmill.agents.cli.drift_page import page

    if not rows:
        raise CommandError("nothing was counted of this job yet: there is nothing to draw", ExitCode.NOT_FOUND)
    file.write_text(page(rows), encoding="utf-8")
    here.say(f"wrote {file}")


def _show(here: Door, row: "WatchRow") -> None:
    state = "paused by an alarm" if row.held else "moved" if row.moved else "calm"
    print(f"{row.job}  {state}, version {row.version}" + ("" if row.in_force else ", not in force"))
    for line in told(row):
        print(f"  {line}")
    columns = ("signal", "reference", "windows", "filling", "PSI", "JS", "p", "scores", "before -> after")
    here.table(columns, [_cells(row, each) for each in row.signals], empty="nothing was counted yet")
    if sys.stdout.isatty():
        _plot(row)
    print()


def _cells(row: "WatchRow", each: "SignalRow") -> list[Any]:
    newest = each.scores[-1] if each.scores else None
    return [
        str(each.signal),
        sum(each.reference.values()),
        each.looks,
        each.filling,
        None if newest is None else f"{newest.psi:.3f}",
        None if newest is None else f"{newest.js:.3f}",
        None if newest is None else f"{newest.p:.1g}",
        bars(each.scores, _top(row, each)),
        ", ".join(f"{name} {before:.0%} -> {after:.0%}" for name, before, after in each.shares[:_CLASSES_SHOWN]),
    ]


def bars(scores: Sequence["Score"], top: float) -> str:
    """One character a window; a window that had moved is followed by `!`."""
    return "".join(_BARS[min(len(_BARS) - 1, int(each.psi / top * len(_BARS)))] + "!" * each.moved for each in scores)


def _top(row: "WatchRow", each: "SignalRow") -> float:
    limit = 0.2 if row.spec is None else row.spec.psi_above
    return max([2 * limit, *(score.psi for score in each.scores)])


_ROWS_PLOTTED = 8
_LABEL_CHARS = 7


def _plot(row: "WatchRow") -> None:
    """The scores of signals that came near the line above which a move is large, window by window."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    limit = 0.2 if row.spec is None else row.spec.psi_above
    for each in row.signals:
        if max((score.psi for score in each.scores), default=0) > limit / 2:
            console.print(f"\n{each.signal}: PSI by window")
            for text in plot_lines(each.scores, limit):
                styled = Text(text)
                styled.highlight_words(["█!"], "bold red")
                console.print(styled)


def plot_lines(scores: Sequence["Score"], limit: float) -> Iterator[str]:
    """The plot, top line first; the threshold is a dashed line, a window that had moved wears a `!`."""
    top = max([1.25 * limit, *(each.psi for each in scores)])
    for step in range(_ROWS_PLOTTED, 0, -1):
        low, high = top * (step - 1) / _ROWS_PLOTTED, top * step / _ROWS_PLOTTED
        empty = "--" if low <= limit < high else "  "
        body = "".join(("█!" if each.moved else "█ ") if each.psi > low else empty for each in scores)
        yield f"{high:>{_LABEL_CHARS}.2f} |{body}"
    first, last = scores[0], scores[-1]
    told = f"windows {first.look} to {last.look}, {utc(first.at_ms)} to {utc(last.at_ms)} UTC"
    yield f"{'':>{_LABEL_CHARS}} +{'-' * (2 * len(scores))}  {told}"
