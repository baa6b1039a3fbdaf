"""What people see while the demo runs, on stderr: a live picture on a terminal, a line every few seconds elsewhere.

What must not: stdout (that is the report's), or knowing what happens next.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from batchmill.agents.clock import monotonic_s
from batchmill.agents.projector.metrics import Accounting, Funnel
from batchmill.agents.projector.reading import View
from batchmill.schemas.status import Place

__all__ = ["Screen", "Snapshot", "screen"]

_LINE_EVERY_SECONDS = 3.0
_BAR_WIDTH = 40
_NANOS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where the run is."""

    expected: int  #: raw events in all
    funnel: Funnel
    books: Accounting
    open_batches: int
    cost_nanos: int
    per_second: float  #: committed, lately

    @property
    def places(self) -> dict[Place, int]:
        return dict(self.books.account.places)

    @property
    def drained(self) -> bool:
        """Everything that was published has come to rest."""
        return (
            self.books.account.raw >= self.expected
            and not self.places.get(Place.IN_FLIGHT, 0)
            and not self.places.get(Place.HELD, 0)
        )


@dataclass(slots=True)
class Pace:
    """Committed records per second since the look before."""

    committed: int = 0
    at_s: float = field(default_factory=monotonic_s)
    per_second: float = 0.0

    def seen(self, committed: int) -> float:
        now_s = monotonic_s()
        if now_s - self.at_s >= 1.0:
            self.per_second = (committed - self.committed) / (now_s - self.at_s)
            self.committed, self.at_s = committed, now_s
        return self.per_second


class Screen(Protocol):
    """Somewhere to tell people things; a context."""

    def say(self, text: str) -> None: ...

    def show(self, snapshot: Snapshot) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def screen() -> Screen:
    """The one that fits what stderr is."""
    console = Console(stderr=True, highlight=False)
    return _LiveScreen(console) if console.is_terminal else _LineScreen(console)


class _LineScreen(Screen):
    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = monotonic_s()
        self._shown_s = float("-inf")

    @override
    def say(self, text: str) -> None:
        self._console.print(f"{monotonic_s() - self._began_s:6.1f} s  {text}", markup=False, soft_wrap=True)

    @override
    def show(self, snapshot: Snapshot) -> None:
        if monotonic_s() - self._shown_s >= _LINE_EVERY_SECONDS:
            self._shown_s = monotonic_s()
            self.say(_line(snapshot))

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""


class _LiveScreen(_LineScreen):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    @override
    def show(self, snapshot: Snapshot) -> None:
        self._live.update(_picture(snapshot))

    @override
    def __enter__(self) -> Self:
        self._live.start()
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def look(view: View, books: Accounting, funnel: Funnel, *, expected: int, pace: Pace) -> Snapshot:
    """One snapshot from the view."""
    return Snapshot(
        expected=expected,
        funnel=funnel,
        books=books,
        open_batches=view.number("SELECT COUNT(*) FROM chunks WHERE state NOT IN ('done', 'failed')"),
        cost_nanos=view.number("SELECT SUM(cost_nanos) FROM lives")
        + view.number("SELECT SUM(wasted_nanos) FROM chunks"),
        per_second=pace.seen(funnel.committed),
    )


def _line(now: Snapshot) -> str:
    steps = "  ".join(f"{name} {count:,}" for name, count in _steps(now).items())
    return f"{steps}  |  {_rest(now)}"


def _steps(now: Snapshot) -> dict[str, int]:
    funnel = now.funnel
    return {
        "raw": funnel.raw,
        "normalized": funnel.normalized,
        "submitted": funnel.submitted,
        "answered": funnel.answered,
        "validated": funnel.validated,
        "committed": funnel.committed,
    }


def _rest(now: Snapshot) -> str:
    places = now.places
    return (
        f"{now.per_second:,.0f}/s  open batches {now.open_batches}  in review {places.get(Place.IN_REVIEW, 0)}"
        f"  dead-lettered {places.get(Place.DEAD_LETTERED, 0)}  excluded {places.get(Place.EXCLUDED, 0)}"
        f"  ${now.cost_nanos / _NANOS:.4f}"
    )


def _picture(now: Snapshot) -> Group:
    table = Table.grid(padding=(0, 2))
    for name, count in _steps(now).items():
        bar = ProgressBar(total=max(now.expected, 1), completed=count, width=_BAR_WIDTH)
        table.add_row(escape(name), bar, f"{count:,}")
    return Group(table, Text(_rest(now)))
