"""Rows and records that the tests of the core start from: ordinary ones, changed by name."""

import json
from typing import Any

from batchmill.schemas.records import Origin, WorkItem
from batchmill.schemas.state import Chunk, Job, Life, Row, Source
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams.chunking import Place, new_chunk
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Emit, Order, Put
from batchmill.streams.view import MemoryView

__all__ = [
    "LANE",
    "NOW_MS",
    "PLACE",
    "emitted",
    "life_in",
    "make_chunk",
    "make_item",
    "make_job",
    "make_life",
    "make_source",
    "origin",
    "put_rows",
    "request_name",
]

NOW_MS = 1_800_000_000_000
LANE = "default|gpt-5-mini|/v1/chat/completions|batch"
PLACE = Place("app", 3)


def request_name(number: int) -> str:
    """Ids that sort as their numbers do, in the alphabet of request ids."""
    digits = []
    for _ in range(6):
        number, digit = divmod(number, 26)
        digits.append(chr(ord("a") + digit))
    return "a" * 26 + "".join(reversed(digits))


def origin(offset: int = 0, *, at_ms: int = NOW_MS, partition: int = 3) -> Origin:
    return Origin(generation=1, partition=partition, offset=offset, at_ms=at_ms)


def make_life(number: int = 0, **changes: Any) -> Life:
    life = Life(
        request_id=request_name(number),
        job="triage",
        version="v1",
        ask_key=f"ask-{number}",
        source_id=f"s{number}",
        seq=1,
        promotion=0,
        run_id="live:triage:v1",
        lane=LANE,
        target_key=f"s{number}",
        status=Status.QUEUED,
        attempt=0,
        sends=0,
        chunk_id=None,
        queued_at_ms=NOW_MS,
        due_at_ms=None,
        reason=None,
        tokens_estimate=10,
        bytes_estimate=100,
        input_offset=number,
        result_offset=None,
        verdict_offset=None,
        output_sha256=None,
        commit_id=None,
        cost_nanos=0,
        unpriced_calls=0,
        input_tokens=0,
        output_tokens=0,
        confidence=None,
        redrives=0,
        origin=origin(number),
        updated_at_ms=NOW_MS,
    )
    return evolve(life, **changes)


def make_item(number: int = 0, **changes: Any) -> WorkItem:
    told: dict[str, Any] = {
        "request_id": request_name(number),
        "job": "triage",
        "version": "v1",
        "ask_key": f"ask-{number}",
        "source_id": "s1",
        "seq": 1,
        "run_id": "live:triage:v1",
        "epoch": 0,
        "lane": LANE,
        "input_json": '{"body":"x"}',
        "input_sha256": f"sha-{number}",
        "target_key": "s1",
        "tokens_estimate": 10,
        "bytes_estimate": 100,
        "origin": origin(number),
    }
    return WorkItem(**{**told, **changes})


def make_job(**changes: Any) -> Job:
    told: dict[str, Any] = {
        "job": "triage",
        "version": "v1",
        "versions_json": json.dumps({"v1": {}}),
        "paused": False,
        "cancelled_before_ms": None,
        "last_command_id": "command-0",
        "updated_at_ms": NOW_MS,
    }
    return Job(**{**told, **changes})


def make_source(life: Life, **changes: Any) -> Source:
    told: dict[str, Any] = {
        "job": life.job,
        "source_id": life.source_id,
        "seq": life.seq,
        "request_id": life.request_id,
        "committed_request_id": None,
        "committed_seq": None,
        "committed_promotion": None,
        "raw_partition": 3,
        "updated_at_ms": NOW_MS,
    }
    return Source(**{**told, **changes})


def make_chunk(members: list[Life], state: ChunkState, **changes: Any) -> tuple[Chunk, list[Life]]:
    """A chunk in `state` and its members, which are in it."""
    chunk, _ = new_chunk(MemoryView(), PLACE, members[0] if members else make_life(), NOW_MS)
    told: dict[str, Any] = {
        "state": state,
        "members": len(members),
        "bytes": 100 * len(members),
        "tokens": 10 * len(members),
        **changes,
    }
    row = Chunk(
        **{name: told.get(name, getattr(chunk, name)) for name in Chunk.__dataclass_fields__ if name != "schema"}
    )
    return row, [evolve(life, chunk_id=row.chunk_id) for life in members]


def put_rows(*rows: Row) -> MemoryView:
    view = MemoryView()
    for row in rows:
        view.put(row)
    return view


def life_in(orders: list[Order], request_id: str) -> Life:
    """The last row that the orders put for a life."""
    rows = [order.row for order in orders if isinstance(order, Put) and isinstance(order.row, Life)]
    return [row for row in rows if row.request_id == request_id][-1]


def emitted(orders: list[Order]) -> list[Any]:
    return [order.record for order in orders if isinstance(order, Emit)]
