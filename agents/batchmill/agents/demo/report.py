"""The report of a demo run: the facts, and what each must be for the run to have kept its promises. Pure.

What lives here: `Report` (its JSON form is its fields) and `checks`. What must not: collecting the facts
(`collecting`), or laying them out for people (`page`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from batchmill.agents.demo.measures import Accuracy
from batchmill.agents.projector.metrics import Failure, Funnel, RunMetrics

__all__ = ["Check", "Hostiles", "Kill", "Ledgers", "Log", "Money", "Published", "Report", "checks", "to_json"]

SCHEMA = "batchmill.demo/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was sent to `raw`."""

    events: int
    sentences: int
    repeated: int
    hostile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgers:
    """The accounting identity, counted over lives; every number is of raw events."""

    raw: int
    committed: int
    in_review: int
    held: int
    in_flight: int
    dead_lettered: int
    excluded: int
    lost: int
    doubled: int
    unreadable: int

    @property
    def places(self) -> int:
        return self.committed + self.in_review + self.held + self.in_flight + self.dead_lettered + self.excluded


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What an independent client under read_committed found on `committed`, beside the sink."""

    committed: int
    different: int  #: of these, with different requests
    sink_rows: int
    sink_unlike: int  #: rows of the sink that are not the newest committed record of their target
    compared: int  #: answers held against the provider's ledger, by custom id
    swapped: int  #: of these, not what the provider says it answered to that very line


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """Whole nano-dollars, ours and the provider's."""

    ours: int
    wasted: int  #: part of ours: paid for, and no use
    ledger: int  #: what the provider billed
    undelivered: int  #: part of the ledger: billed for answers that the provider kept to itself
    batches: int
    batches_paid_twice: int
    billed_answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostiles:
    """Hostile events of one kind."""

    kind: str
    reason: str
    published: int
    put_down: int  #: of these, found put down with that reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A worker that was killed with -9."""

    worker: str
    pid: int
    committed: int  #: records in the sink's topic at that moment
    open_chunks: int
    ready_again_seconds: float | None  #: until its successor had its tasks back; None = not seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that is known about a run when it is over."""

    accuracy_setting: float
    seed: int
    workers: int
    seconds: Mapping[str, float]
    published: Published
    funnel: Funnel
    ledgers: Ledgers
    metrics: RunMetrics
    money: Money
    log: Log
    accuracy: Accuracy
    put_down: tuple[Failure, ...]
    hostiles: tuple[Hostiles, ...]
    faults: Mapping[str, int]  #: fault of the provider -> requests it struck
    kill: Kill | None
    kill_wanted: bool
    problems: tuple[str, ...]  #: what went wrong outside the counts
    commands: tuple[tuple[str, str], ...]  #: (what it shows, command line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise, and whether this run kept it."""

    name: str
    passed: bool
    detail: str


def checks(report: Report) -> list[Check]:
    """Every promise of the demo; all must pass."""
    return [Check(name=name, passed=passed, detail=detail) for name, passed, detail in _judged(report)]


def to_json(report: Report) -> bytes:
    """One document: the facts, the checks, and whether all passed."""
    judged = checks(report)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "passed": all(each.passed for each in judged),
        "checks": judged,
    } | asdict(report)
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_DATACLASS)


def _judged(report: Report) -> Iterator[tuple[str, bool, str]]:
    books, log, money = report.ledgers, report.log, report.money
    yield (
        "every raw event is in exactly one place",
        books.raw == report.published.events == books.places and not books.doubled and not books.unreadable,
        (
            f"{books.raw} read back of {report.published.events} published, {books.places} in a place,"
            f" {books.doubled} counted twice, {books.unreadable} unreadable"
        ),
    )
    yield (
        "nothing is lost or unfinished",
        not books.lost and not books.in_flight and not books.held,
        f"{books.lost} lost, {books.in_flight} in flight, {books.held} held",
    )
    yield (
        "nothing is committed twice",
        log.committed == log.different == log.sink_rows == books.committed and not log.sink_unlike,
        (
            f"{log.committed} committed records read by an independent client, {log.different} different requests,"
            f" {log.sink_rows} rows in the sink, {log.sink_unlike} unlike their record"
        ),
    )
    yield (
        "no answer is another request's",
        not log.swapped,
        f"{log.compared} answers held against the provider's ledger by custom id, {log.swapped} unlike",
    )
    yield (
        "no batch is paid twice",
        not money.batches_paid_twice,
        f"{money.batches_paid_twice} of {money.batches} batches in the provider's ledger",
    )
    yield (
        "our cost is the provider's bill",
        money.ours == money.ledger - money.undelivered,
        f"ours {money.ours}, billed {money.ledger}, of that undelivered {money.undelivered} nano-dollars",
    )
    yield _accuracy(report)
    strays = [each for each in report.hostiles if each.put_down != each.published]
    yield (
        "hostile events are put down for the right reason",
        not strays,
        "; ".join(f"{each.kind}: {each.put_down} of {each.published} as {each.reason}" for each in strays)
        or f"{report.published.hostile} events of {len(report.hostiles)} kinds",
    )
    yield "someone is asked", books.in_review >= 1, f"{books.in_review} answers wait for a person"
    if report.kill_wanted:
        yield _killed(report.kill, report.published.sentences)
    if report.problems:
        yield "nothing else went wrong", False, "; ".join(report.problems)


def _accuracy(report: Report) -> tuple[str, bool, str]:
    found = report.accuracy
    told = f"{found.right} of {found.answered} right, 95 % {found.interval.low:.4f} to {found.interval.high:.4f}"
    held = found.answered > 0 and found.interval.holds(report.accuracy_setting)
    hint = "" if held else " (a right run misses by chance at one seed in twenty: try another --seed)"
    return "accuracy is what the simulator was set to", held, f"{told}, set to {report.accuracy_setting:g}{hint}"


def _killed(kill: Kill | None, sentences: int) -> tuple[str, bool, str]:
    name = "a worker was killed in the middle and came back"
    if kill is None:
        return name, False, "the run was over before a fifth was committed with batches open"
    back = kill.ready_again_seconds
    told = (
        f"{kill.worker} (pid {kill.pid}) at {kill.committed} of {sentences} committed, {kill.open_chunks} chunks open"
    )
    return name, back is not None, f"{told}, " + ("never ready again" if back is None else f"back after {back:.1f} s")
