"""What the money table must show, and how it is printed.

What lives here: the judgement on a row and its form. Zero everywhere a batch can be looked up; elsewhere the window is
what the product itself says, never more.
"""

from collections.abc import Iterator, Mapping, Sequence

from tests.money.accounts import Account
from tests.money.playing import Row
from tests.money.scenarios import Scenario

__all__ = ["faults_of", "printed"]

NANO_DOLLARS = 1_000_000_000


def faults_of(account: Account, scenario: Scenario, row: Row) -> Iterator[str]:
    """Every promise the row breaks, as a sentence."""
    where = f"{account.name}, {row.scenario}"
    if not row.rested:
        yield f"{where}: it did not come to rest"
    if row.lost:
        yield f"{where}: {row.lost} of {row.records} records are in no visible place"
    if scenario.failpoint is not None and not row.died:
        yield f"{where}: the worker did not die at its failpoint, so nothing is shown"
    if account.look_up is not None:
        if not scenario.asks_again and (row.twins or row.billed_twice):
            yield f"{where}: {row.twins} batches and {row.billed_twice} requests were paid twice"
        unsaid = 0 if account.tells_usage else row.unsaid_nanos
        if row.booked_nanos + unsaid != row.ledger_nanos:
            yield (
                f"{where}: {row.booked_nanos} nano-dollars are booked and {unsaid} said by nobody,"
                f" the provider billed {row.ledger_nanos}"
            )
    elif row.wasted_nanos > row.said_nanos:
        yield f"{where}: {row.wasted_nanos} nano-dollars were wasted, the product says {row.said_nanos}"


def printed(rows: Mapping[str, Sequence[Row]]) -> str:
    """A table for people, one block per provider."""
    lines = []
    for provider, played in rows.items():
        clean = next((row.seconds for row in played), 0.0)
        lines += ["", f"## {provider}", "", _HEAD, "|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(row, clean) for row in played]
    return "\n".join([*lines, ""])


_HEAD = (
    "| what went wrong | chunks | batches paid | paid twice | rows lost | rows billed twice | wasted (said) $ |"
    " booked (+ said by nobody) = billed $ | recovery s |"
)


def _line(row: Row, clean_seconds: float) -> str:
    wasted = f"{_dollars(row.wasted_nanos)} ({_dollars(row.said_nanos)})"
    unsaid = row.ledger_nanos - row.booked_nanos
    equal = f"{_dollars(row.booked_nanos)}{f' + {_dollars(unsaid)}' if unsaid else ''} = {_dollars(row.ledger_nanos)}"
    recovery = max(0.0, row.seconds - clean_seconds)
    return (
        f"| {row.scenario} | {row.chunks} | {row.batches_paid} | {row.twins} | {row.lost} | {row.billed_twice} |"
        f" {wasted} | {equal} | {recovery:.1f} |"
    )


def _dollars(nanos: int) -> str:
    return f"{nanos / NANO_DOLLARS:.6f}"
