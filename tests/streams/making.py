"""Values the tests of this room start from: one ordinary job, one ordinary record, and views that know them."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.ids import chunk_nonce, content_sha256, custom_id
from batchmill.schemas.jobs import InputSpec, JobSpec, JudgeSpec, PlaceSpec
from batchmill.schemas.records import Origin, Result, WorkItem
from batchmill.schemas.state import Job, Life, Row
from batchmill.schemas.status import Outcome, Status
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.facts import FREE, Answered, Attempted
from batchmill.streams.lifecycle import step
from batchmill.streams.normalizing import RawLimits, normalize
from batchmill.streams.orders import Delete, Emit, Order, Put
from batchmill.streams.queueing import arrive
from batchmill.streams.view import MemoryView

NOW_MS = 1_800_000_000_000

OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "confidence": {"type": "number"}, "summary": {"type": "string"}},
    "required": ["label", "confidence"],
    "additionalProperties": False,
}


def make_spec(
    *,
    given: InputSpec | None = None,
    judge: JudgeSpec | None = None,
    system: str | None = "You sort tickets.",
    user: str = "{{ input.body }}",
    output_schema: Any = OUTPUT_SCHEMA,
    params: str = '{"max_output_tokens":200}',
    **changes: Any,
) -> JobSpec:
    spec = JobSpec(
        job="triage",
        input=given or InputSpec(),
        ask=AskSpec(
            system=system,
            user=user,
            model=ModelSpec(provider="openai", name="gpt-5-mini", params_json=params),
            output_schema_json=None if output_schema is None else orjson.dumps(output_schema).decode(),
        ),
        judge=judge or JudgeSpec(),
        place=PlaceSpec(sink="sqlite", table="triage"),
    )
    return replace(spec, **changes)


def make_row(spec: JobSpec, **changes: Any) -> Job:
    version = version_of(spec)
    row = Job(
        job=spec.job,
        version=version,
        versions_json=orjson.dumps({version: orjson.loads(spec.to_json())}).decode(),
        paused=False,
        cancelled_before_ms=None,
        last_command_id="command-1",
        updated_at_ms=NOW_MS,
    )
    return replace(row, **changes)


def make_view(*rows: Row) -> MemoryView:
    view = MemoryView()
    for row in rows:
        view.put(row)
    return view


def make_raw(value: Any = None, *, offset: int = 7, at_ms: int = NOW_MS, **changes: Any) -> RawRecord:
    body = {"body": "The printer is on fire."} if value is None else value
    raw = RawRecord(
        origin=Origin(generation=1, partition=3, offset=offset, at_ms=at_ms),
        key=b"ticket-1",
        value=body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode(),
        headers=(("batchmill-job", b"triage"),),
    )
    return replace(raw, **changes)


def decide(spec: JobSpec, raw: RawRecord, *, limits: RawLimits | None = None, **flags: Any) -> Any:
    """The one record that normalizing makes of `raw`, or the arrival."""
    view = make_view(make_row(spec, **flags))
    orders = normalize(view, raw, jobs=CompiledJobs(), now_ms=NOW_MS, limits=limits or RawLimits())
    assert len(orders) == 1
    order = orders[0]
    assert isinstance(order, Emit | Put)
    return order.record if isinstance(order, Emit) else order.row


def carry_out(view: MemoryView, orders: Iterable[Order]) -> list[Any]:
    """Do to the view what the orders ask; returns the records emitted."""
    emitted: list[Any] = []
    for order in orders:
        match order:
            case Put():
                view.put(order.row)
            case Delete():
                view.delete(order.table, order.key)
            case Emit():
                emitted.append(order.record)
            case _:
                pass
    return emitted


def take_in(view: MemoryView, raw: RawRecord, *, offset: int = 0) -> WorkItem:
    """Normalize `raw` and let it arrive at its task."""
    (made,) = normalize(view, raw, jobs=CompiledJobs(), now_ms=NOW_MS, limits=RawLimits())
    assert isinstance(made, Emit)
    item = made.record
    assert isinstance(item, WorkItem)
    carry_out(view, arrive(view, item, offset, now_ms=NOW_MS))
    return item


def life_of(view: MemoryView, request_id: str) -> Life:
    row = view.get(Life.schema, request_id)
    assert isinstance(row, Life)
    return row


def answer(view: MemoryView, request_id: str, output: str, **changes: Any) -> Result:
    """Send the life and let the provider answer `output`; returns the record of `results`."""
    life = life_of(view, request_id)
    chunk = "c0003-0000000001-aaaaaaaaaaaaaaaa"
    sent = step(life, Attempted(chunk_id=chunk, sends=life.sends + 1), NOW_MS).life
    sha256 = content_sha256(output.encode())
    answered = step(sent, Answered(sends=sent.sends, output_sha256=sha256, charge=FREE), NOW_MS)
    assert answered.life.status is Status.SUCCEEDED_UNVALIDATED
    view.put(answered.life)
    result = Result(
        request_id=request_id,
        job=life.job,
        version=life.version,
        attempt=answered.life.attempt,
        chunk_id=chunk,
        custom_id=custom_id(request_id, sent.sends, chunk_nonce(chunk)),
        outcome=Outcome.SUCCEEDED,
        output=output,
        output_sha256=sha256,
        finish_reason="stop",
        refusal=None,
        http_status=200,
        error_code=None,
        reason=None,
        model="gpt-5-mini",
        input_tokens=10,
        output_tokens=5,
        cached_tokens=0,
        cost_nanos=1_000,
        price_id="p",
        answered_by="provider",
        received_at_ms=NOW_MS,
    )
    return replace(result, **changes)
