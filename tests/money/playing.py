"""One scenario, played on real Kafka against the simulator, and what it cost by the provider's own ledger.

What lives here: publishing, arming, waiting, and the figures of one row. What must not: what is allowed (`table`).
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from batchmill.agents.simulator.ledger import Bill
from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState, Status
from tests.chaos.mill import Mill, eventually
from tests.chaos.workload import Event, event_of
from tests.money.scenarios import Scenario

__all__ = ["REST_SECONDS_MAX", "WORKER", "Row", "Table", "play", "texts_of"]

WORKER = "worker-1"
REST_SECONDS_MAX = 240.0
QUIET_SECONDS = 1.5
OPEN_SECONDS_MAX = 5.0
OPEN_CHUNKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one scenario came to at one provider."""

    scenario: str
    chunks: int
    batches_paid: int  #: batches with a bill
    twins: int  #: batches paid beyond one per chunk
    records: int
    lost: int  #: records in no visible place
    billed_twice: int  #: requests with more bills than answers they needed
    wasted_nanos: int  #: billed beyond the first bill of each call
    said_nanos: int  #: what the product itself says it wasted, was not told, or has in doubt
    ledger_nanos: int
    booked_nanos: int  #: cost facts of all calls, waste and untold bills
    unsaid_nanos: int  #: billed for rows that never came, or that came without their usage: no row says it
    seconds: float
    died: bool  #: the worker was killed by its failpoint
    rested: bool  #: everything ended in time


@dataclass(slots=True)
class Table:
    """Rows of one provider, and how far its ledger had been read."""

    rows: list[Row]
    bills_seen: int = 0


def texts_of(number: int, count: int) -> list[Event]:
    """The records of one scenario: texts and sources no other has."""
    asks = f"Scenario {number} asks for the mark of record"
    return [event_of(f"m{number:02d}-{n:03d}", f"{asks} {n:03d}.") for n in range(count)]


async def play(
    mill: Mill, table: Table, scenario: Scenario, events: Sequence[Event], *, rest_seconds: float = REST_SECONDS_MAX
) -> Row:
    """Run one scenario to its rest, if it comes to one in time, and read what it cost."""
    before = _now(mill)
    mill.simulator.set_faults(dict(scenario.faults))
    died = await _armed(mill, scenario.failpoint)
    began_s = time.monotonic()
    await mill.ingest(events)
    if scenario.cancels:
        await _cancel_when_open(mill, before)
    rested = await mill.drained(rest_seconds, quiet_seconds=QUIET_SECONDS)
    seconds = time.monotonic() - began_s - QUIET_SECONDS
    mill.simulator.set_faults(dict.fromkeys(scenario.faults, 0))
    row = _row(mill, table, scenario, before, len(events), seconds=seconds, died=died(), rested=rested)
    table.rows.append(row)
    return row


@dataclass(frozen=True, slots=True)
class _Before:
    chunks: frozenset[str]
    ends: int
    facts: frozenset[str]
    placed: int


def _now(mill: Mill) -> _Before:
    watcher = mill.watcher
    return _Before(frozenset(watcher.chunks), len(mill.pool.ends), frozenset(watcher.facts), _placed(mill))


async def _armed(mill: Mill, failpoint: str | None):
    """The worker with `failpoint`; it was restarted for it, and its tasks are its own again."""
    ends = len(mill.pool.ends)
    if failpoint is None:
        return lambda: False
    markers = len(mill.watcher.markers)
    mill.pool.arm(WORKER, failpoint)
    await mill.pool.kill(WORKER)
    owned = await eventually(lambda: len(mill.watcher.markers) >= markers + mill.settings.partitions, seconds=60)
    assert owned, "the worker did not come back"
    return lambda: any(end.code == -signal.SIGKILL for end in mill.pool.ends[ends + 1 :])


async def _cancel_when_open(mill: Mill, before: _Before) -> None:
    def is_open() -> bool:
        fresh = (chunk for name, chunk in mill.watcher.chunks.items() if name not in before.chunks)
        return sum(chunk.state is ChunkState.OPEN for chunk in fresh) >= OPEN_CHUNKS

    await eventually(is_open, seconds=OPEN_SECONDS_MAX)
    await mill.command("cancel")


def _row(
    mill: Mill,
    table: Table,
    scenario: Scenario,
    before: _Before,
    records: int,
    *,
    seconds: float,
    died: bool,
    rested: bool,
) -> Row:
    bills = list(mill.simulator.ledger().bills[table.bills_seen :])
    table.bills_seen += len(bills)
    chunks = [chunk for name, chunk in mill.watcher.chunks.items() if name not in before.chunks]
    ran = [chunk for chunk in chunks if chunk.state is ChunkState.DONE]
    facts = {name: cost for name, cost in mill.watcher.facts.items() if name not in before.facts}
    ledger_nanos = sum(bill.cost_nanos for bill in bills)
    paid = {bill.batch_id for bill in bills if bill.batch_id}
    return Row(
        scenario=scenario.name,
        chunks=len(ran),
        batches_paid=len(paid),
        twins=max(0, len(paid) - len(ran)),
        records=records,
        lost=records - (_placed(mill) - before.placed),
        billed_twice=_billed_twice(bills),
        wasted_nanos=_beyond_the_first(bills),
        said_nanos=sum(chunk.wasted_nanos + chunk.untold_nanos + chunk.doubtful_nanos for chunk in chunks),
        ledger_nanos=ledger_nanos,
        booked_nanos=sum(cost or 0 for cost in facts.values()) + _told_beyond_rows(chunks),
        unsaid_nanos=sum(b.cost_nanos for b in bills if not b.delivered or facts.get(b.custom_id, 0) is None),
        seconds=seconds,
        died=died,
        rested=rested,
    )


def _placed(mill: Mill) -> int:
    """Records in a visible place for good: committed, dead-lettered, excluded, or in front of a person."""
    counts = mill.watcher.counts
    reviewed = mill.watcher.of_status(Status.NEEDS_REVIEW)
    return counts["committed"] + counts["dead-letter"] + counts["excluded"] + reviewed


def _told_beyond_rows(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.wasted_nanos + chunk.untold_nanos for chunk in chunks)


def _billed_twice(bills: Sequence[Bill]) -> int:
    """Requests that were billed more than once; no answer of this workload is ever worth a second question."""
    requests = Counter(_request(bill) for bill in bills)
    return sum(1 for count in requests.values() if count > 1)


def _beyond_the_first(bills: Sequence[Bill]) -> int:
    seen: set[str] = set()
    wasted = 0
    for bill in bills:
        wasted += bill.cost_nanos if _request(bill) in seen else 0
        seen.add(_request(bill))
    return wasted


def _request(bill: Bill) -> str:
    named = parse_custom_id(bill.custom_id)
    assert named is not None, f"the provider billed {json.dumps(bill.custom_id)}, which we never sent"
    return named.request_id
