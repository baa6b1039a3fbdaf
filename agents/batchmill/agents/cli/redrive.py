"""`batchmill dlq redrive`: what bringing dead letters back would take, then doing it."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from batchmill.agents.cli.door import JSON, Door, door
from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.letters import (
    FAULT,
    JOB,
    REASON,
    SINCE,
    STAGE,
    UNTIL,
    VERSION,
    WHERE,
    named_letter,
    reading,
    wanted,
)
from batchmill.schemas.reasons import Fault, Reason

if TYPE_CHECKING:
    from batchmill.agents.projector.letters import DeadLetterRow, Quoter, Wanted
    from batchmill.agents.projector.reading import View
    from batchmill.streams.quoting import Kept, Quote

__all__ = ["EXECUTE", "MAX_COST", "nanos", "redrive", "usd"]

#: letters of one command; its body must stay far below the size of a record
AT_ONCE: Final = 5_000
#: letters of one call; more are brought back by calling again
LETTERS_MAX: Final = 1_000_000
#: events that are read and tried out for a dry run; the others are told as not tried
TRIED_MAX: Final = 2_000
#: of --max-cost; more is a mistake
DOLLARS_MAX: Final = 10**9
_NANOS: Final = 10**9

LIMIT = typer.Option(min=1, max=LETTERS_MAX, help="At most so many, the oldest first.")
MAX_COST = typer.Option(metavar="DOLLARS", help="Refuse if it can cost more than this, or nobody knows.")
EXECUTE = typer.Option("--execute", help="Do it. Without this it is only counted and priced.")


def redrive(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Dead letters; else a filter.")] = None,
    job: Annotated[str | None, JOB] = None,
    reason: Annotated[list[Reason] | None, REASON] = None,
    stage: Annotated[str | None, STAGE] = None,
    version: Annotated[str | None, VERSION] = None,
    fault: Annotated[Fault | None, FAULT] = None,
    since: Annotated[str | None, SINCE] = None,
    until: Annotated[str | None, UNTIL] = None,
    where: Annotated[str | None, WHERE] = None,
    limit: Annotated[int, LIMIT] = LETTERS_MAX,
    max_cost: Annotated[str | None, MAX_COST] = None,
    execute: Annotated[bool, EXECUTE] = False,
    actor: Annotated[str | None, typer.Option(help="Who does this, for the record; default: user@host.")] = None,
    json: Annotated[bool, JSON] = False,
) -> None:
    """Give dead-lettered records another chance, at the earliest step that is not yet paid for. A dry run by default.

    Requests keep their version; events that never became a request are taken under the job as it is now.

    \b
    Examples:
      batchmill dlq redrive --job triage --reason sink_refused
      batchmill dlq redrive --reason not_json --reason truncated --since 1d --max-cost 2.50 --execute
    """
    here = door(context)
    asked = wanted(
        job=job, reasons=reason, stage=stage, version=version, fault=fault, since=since, until=until, where=where
    )
    if not names and not asked.narrows:
        raise CommandError("name dead letters, or say which: --job, --reason, --where, ...", ExitCode.USAGE)
    allowed = None if max_cost is None else nanos(max_cost)
    plan = _plan(here, _chosen(here, names or [], asked, limit))
    _tell(here, plan, executed=execute, json=json)
    if allowed is not None:
        _refuse_above(plan, allowed)
    if not execute:
        here.say(f"dry run: {len(plan.chosen)} would be brought back; say --execute to do it")
    elif plan.chosen:
        asyncio.run(_issue(here, plan.chosen, actor))
        here.say(f"{len(plan.chosen)} are asked back; `batchmill status` shows them move")


class Chosen(NamedTuple):
    """One letter that is to be brought back: by its request, or by its own place."""

    job: str
    request_id: str | None
    partition: int
    offset: int


@dataclass(slots=True)
class Sums:
    """Letters that go the same way."""

    count: int = 0
    expected_nanos: int = 0
    most_nanos: int = 0
    unpriced: int = 0  #: of whose cost one bound or both are not known

    def add(self, quote: "Quote") -> None:
        self.count += 1
        self.unpriced += quote.expected_nanos is None or quote.most_nanos is None
        self.expected_nanos += quote.expected_nanos or 0
        self.most_nanos += quote.most_nanos or 0


@dataclass(slots=True)
class Plan:
    """What would be done: who is brought back, and the sums by way, job, reason and note."""

    chosen: list[Chosen] = field(default_factory=list)
    groups: dict[tuple[str, str, str, str], Sums] = field(default_factory=dict)

    def add(self, row: "DeadLetterRow", quote: "Quote") -> None:
        from batchmill.streams.quoting import STAYS

        key = (quote.way.value, row.job or "", row.reason.value, quote.note)
        self.groups.setdefault(key, Sums()).add(quote)
        if quote.way not in STAYS:
            self.chosen.append(Chosen(row.job or "", row.request_id, row.partition, row.offset))

    @property
    def total(self) -> Sums:
        together = self.groups.values()
        return Sums(
            count=len(self.chosen),
            expected_nanos=sum(each.expected_nanos for each in together),
            most_nanos=sum(each.most_nanos for each in together),
            unpriced=sum(each.unpriced for each in together),
        )


def _chosen(here: Door, names: list[str], asked: "Wanted", limit: int) -> "Iterator[tuple[View, DeadLetterRow]]":
    """Each letter with the view it was found in."""
    if not names:
        with reading(here, asked, limit=limit, oldest_first=True) as (view, letters):
            yield from ((view, row) for row in letters)
        return
    rows = [named_letter(here, name) for name in dict.fromkeys(names)]
    with here.view() as view:
        yield from ((view, row) for row in rows)


# -- planning ----------------------------------------------------------------------------------------------------------


def _plan(here: Door, found: "Iterable[tuple[View, DeadLetterRow]]") -> Plan:
    from batchmill.agents import clock
    from batchmill.agents.prices import load_prices
    from batchmill.agents.projector.letters import Quoter
    from batchmill.streams.quoting import Quote, Way

    plan, now_ms = Plan(), clock.wall_ms()
    quoter: Quoter | None = None
    events: list[DeadLetterRow] = []
    for view, row in found:
        if quoter is None:
            quoter = Quoter(view, kept=_kept(here), prices=load_prices(here.settings.prices_file), now_ms=now_ms)
        if row.request_id is not None:
            plan.add(row, quoter.of(row))
        elif len(events) < TRIED_MAX:
            events.append(row)
        else:
            plan.add(row, Quote(way=Way.UNTRIED, expected_nanos=None, most_nanos=None))
    if quoter is not None and events:
        for row, quote in asyncio.run(_tried(here, events, quoter)):
            plan.add(row, quote)
    return plan


def _kept(here: Door) -> "dict[int, Kept]":
    """What the log still has; nothing is known of it while no broker answers."""
    from aiokafka.errors import KafkaConnectionError

    from batchmill.agents.originals import kept_from

    try:
        return dict(asyncio.run(kept_from(here.settings)))
    except KafkaConnectionError:
        here.say("no Kafka broker answers: what retention has removed since is not known, and no event is tried")
        return {}


async def _tried(here: Door, rows: "list[DeadLetterRow]", quoter: "Quoter") -> "list[tuple[DeadLetterRow, Quote]]":
    """Events that never became a request, normalized here as they would be there."""
    from aiokafka.errors import KafkaConnectionError

    from batchmill.agents.originals import originals
    from batchmill.agents.projector.letters import Taking
    from batchmill.streams.events import RawLimits
    from batchmill.streams.quoting import Quote, Way

    limits = here.settings.limits
    taking = Taking(
        limits=RawLimits(
            value_bytes_max=limits.raw_bytes_max,
            depth_max=limits.nesting_max,
            source_id_chars_max=limits.source_id_chars_max,
        ),
        default_job=here.settings.default_job,
    )
    try:
        return [
            (row, quoter.of_event(original.letter, original.event, taking))
            async for row, original in originals(here.settings, rows)
        ]
    except KafkaConnectionError:
        untried = Quote(way=Way.UNTRIED, expected_nanos=None, most_nanos=None)
        return [(row, untried) for row in rows]


def nanos(dollars: str) -> int:
    """What `--max-cost` says."""
    try:
        told = Decimal(dollars)
    except InvalidOperation:
        told = Decimal("nan")
    if not told.is_finite() or not 0 <= told <= DOLLARS_MAX:
        raise CommandError(f"--max-cost {dollars}: say dollars, as 2.50", ExitCode.USAGE)
    return int(told * _NANOS)


def _refuse_above(plan: Plan, allowed_nanos: int) -> None:
    total = plan.total
    if total.unpriced:
        raise CommandError(
            f"--max-cost: of {total.unpriced} letters nobody knows what they can cost (no price, no max_output_tokens,"
            " or not tried); give the job both and apply it, or narrow the filter; nothing was done",
            ExitCode.GATE,
        )
    if total.most_nanos > allowed_nanos:
        raise CommandError(
            f"--max-cost: it can cost up to {usd(total.most_nanos)}, more than {usd(allowed_nanos)}; say --limit or"
            " allow more; nothing was done",
            ExitCode.GATE,
        )


# -- telling -----------------------------------------------------------------------------------------------------------


def _tell(here: Door, plan: Plan, *, executed: bool, json: bool) -> None:
    total = plan.total
    if json:
        groups = [
            {"way": way, "job": job, "reason": reason, "note": note, **_sums(sums)}
            for (way, job, reason, note), sums in _sorted(plan)
        ]
        here.emit("dlq.redrive", {"executed": executed, **_sums(total), "by_reason": groups})
        return
    columns = ("what happens", "job", "reason", "count", "expected", "at most", "note")
    rows = [[way, job, reason, sums.count, *_costs(sums), note] for (way, job, reason, note), sums in _sorted(plan)]
    here.table(columns, rows, empty="nothing fits")
    if plan.groups:
        expected, most = _costs(total)
        here.say(f"{total.count} would come back: expected {expected or '$0'}, at most {most or '$0'} with every retry")


def _sorted(plan: Plan) -> list[tuple[tuple[str, str, str, str], Sums]]:
    return sorted(plan.groups.items(), key=lambda each: (-each[1].count, each[0]))


def _sums(sums: Sums) -> dict[str, object]:
    return {
        "count": sums.count,
        "expected_usd": sums.expected_nanos / _NANOS,
        "most_usd": sums.most_nanos / _NANOS,
        "unpriced": sums.unpriced,
    }


def _costs(sums: Sums) -> tuple[str, str]:
    more = f" and {sums.unpriced} unpriced" if sums.unpriced else ""
    return (
        (usd(sums.expected_nanos) if sums.expected_nanos else "") + more,
        (usd(sums.most_nanos) if sums.most_nanos else "") + more,
    )


def usd(nanos: int) -> str:
    """Cents where there are dollars; less would be told as nothing."""
    return f"${nanos / _NANOS:,.2f}" if nanos >= _NANOS else f"${nanos / _NANOS:.6f}"


# -- doing -------------------------------------------------------------------------------------------------------------


async def _issue(here: Door, chosen: list[Chosen], actor: str | None) -> None:
    """One command for each job and cut. Letters of events that no job claimed travel under no job's name."""
    from batchmill.agents.commands import actor_here, issue
    from batchmill.streams.redriving import COMMAND, command_body

    done = 0
    for job, cut in cuts(chosen):
        body = command_body(
            requests=[each.request_id for each in cut if each.request_id is not None],
            letters=[(each.partition, each.offset) for each in cut if each.request_id is None],
        )
        await issue(here.settings, COMMAND, job, actor=actor or actor_here(), body_json=body, wait_seconds=0)
        done += len(cut)
        if done < len(chosen):
            here.say(f"{done} of {len(chosen)} are asked back")


def cuts(chosen: Iterable[Chosen]) -> Iterator[tuple[str, list[Chosen]]]:
    """By job, at most so many at once, in the order in which they were chosen."""
    by_job: dict[str, list[Chosen]] = {}
    for each in chosen:
        by_job.setdefault(each.job, []).append(each)
    for job, letters in sorted(by_job.items()):
        for start in range(0, len(letters), AT_ONCE):
            yield job, letters[start : start + AT_ONCE]
