"""What a commit starts: the raw events of the jobs that follow, and how each says what it stems from.

A life whose job has a `then` is marked by the transaction that says that it is committed (`Life.fires`); one later
transaction emits its children and takes the mark away. So a crash at any moment fires exactly once, and a commit that
was overtaken by a newer one of its source before it fired does not fire any more: its children would be stale. One that
was taken back before it fired keeps its mark, and fires when it is put back.

A child is an ordinary raw event. What it holds is what was asked and what was answered, and nothing that changes with
the version that answered: the same answer under a newer version is the same child, and is not paid for again. What it
stems from is told beside it (`lineage`).

It has no rank of its own: all events of one source are written by one task in the order of its commits, into one raw
partition, so their place in raw is the order that also knows of promotions. Its source is its parent's; that of part i
has `#i` behind it, and lies in raw where the whole would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from batchmill.schemas.ids import dead_letter_id, partition_for
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.promotion import ThenSpec
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import DeadLetter, Origin, RawEvent, Verdict, WorkItem
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.dead_lettering import FOREIGN_GENERATION, key_of_source
from batchmill.streams.expressions import Condition, ConditionError, compile_condition
from batchmill.streams.lifecycle import evolve
from batchmill.streams.lineage import NESTED_MAX, PARENT, PART, PARTS_MAX, Part, parts_of, whole_of, written
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.paths import Path, compile_path
from batchmill.streams.settling import life_key
from batchmill.streams.unusable import Unusable
from batchmill.streams.view import StateView

__all__ = [
    "EVENT_BYTES_MAX",
    "FIRING_BYTES_MAX",
    "STAGE",
    "THEN_VARIABLES",
    "CompiledThen",
    "again",
    "compile_then",
    "fire",
    "fire_nothing",
    "firing",
    "regrouped",
]

STAGE: Final = "firing"
THEN_VARIABLES: Final = frozenset({"input", "output"})
#: an event has to fit one record, whatever the limits of input and answer
EVENT_BYTES_MAX: Final = 768 * 2**10
#: the events of one `then` are one transaction
FIRING_BYTES_MAX: Final = 16 * 2**20

#: where the original of a letter lies: with the commit that fired
_URI: Final = "then:"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledThen:
    """One job that follows, ready to be fired."""

    spec: ThenSpec
    when: Condition | None
    split: Path | None


def compile_then(spec: JobSpec) -> tuple[CompiledThen, ...]:
    """Compile every `then`, or ConditionError, PathError."""
    return tuple(
        CompiledThen(
            spec=each,
            when=None if each.when is None else compile_condition(each.when, variables=THEN_VARIABLES),
            split=None if each.split is None else compile_path(each.split),
        )
        for each in spec.then
    )


def firing(view: StateView, limit: int) -> list[Life]:
    """Lives whose commit has yet to start the jobs that follow."""
    return [row for _, row in view.scan("then", "", limit=limit) if isinstance(row, Life)]


def fire(
    view: StateView,
    seen: Life,
    verdict: Verdict | None,
    item: WorkItem | None,
    *,
    then: Sequence[CompiledThen],
    tasks: int,
    now_ms: int,
) -> list[Order]:
    """The children of a commit, once; `verdict` and `item` are what lay at the offsets of the life as it was `seen`.

    What cannot be made into an event is a dead letter of the job it was meant for, and is fired anew by a redrive.
    """
    life = read.life(view, seen.request_id)
    if life is None or not life.fires or life.reverted or life.verdict_offset != seen.verdict_offset:
        return []
    orders: list[Order] = [Put(evolve(life, fires=False))]
    if _overtaken(view, life):
        return orders
    for each in then:
        try:
            orders += _events(life, _bodies(verdict, item), each, tasks)
        except Unusable as wrong:
            orders.append(_letter(life, each.spec.job, wrong, now_ms))
    return orders


def fire_nothing(
    view: StateView, request_id: str, *, then: Sequence[CompiledThen], error: str, now_ms: int
) -> list[Order]:
    """Give up firing a commit that kills who fires it: every job that would have followed has its letter."""
    life = read.life(view, request_id)
    if life is None or not life.fires:
        return []
    wrong = Unusable(Reason.POISON, error)
    return [Put(evolve(life, fires=False)), *(_letter(life, each.spec.job, wrong, now_ms) for each in then)]


def again(view: StateView, letter: DeadLetter) -> list[Order]:
    """Fire the commit that a letter of ours is about once more; children that came are known by their ids."""
    if letter.stage != STAGE or letter.original_uri is None:
        return []
    life = read.life(view, letter.original_uri.removeprefix(_URI).partition("/")[0])
    return [] if life is None or life.commit_id is None else [Put(evolve(life, fires=True)), Wake("then")]


def regrouped(life: Life, item: WorkItem) -> Life:
    """The life of a request that came again, as what its newest event says it is a part of.

    Another whole may be waiting for the answer: what is committed already is told to it.
    """
    if item.part is None or item.part == life.part:
        return life
    stands = life.status is Status.COMMITTED and not life.aside
    return evolve(life, parent=item.parent, part=item.part, fires=life.fires or stands)


def _overtaken(view: StateView, life: Life) -> bool:
    source = read.source(view, life.job, life.source_id)
    return source is not None and source.committed_request_id not in {None, life.request_id}


def _bodies(verdict: Verdict | None, item: WorkItem | None) -> dict[str, Any]:
    if verdict is None or item is None:
        raise Unusable(Reason.BODY_GONE, "retention removed what the jobs that follow are fed with")
    return {"input": orjson.loads(item.input_json), "output": orjson.loads(verdict.output_json)}


def _events(life: Life, beside: dict[str, Any], each: CompiledThen, tasks: int) -> list[Emit]:
    if each.when is not None:
        try:
            if not each.when.holds(beside):
                return []
        except ConditionError as error:
            raise Unusable(Reason.FILTER_ERROR, f"then.when: {error}") from None
    above = parts_of(life.part)
    if each.split is None:
        key = key_of_source(whole_of(life.source_id) if above else life.source_id)
        return [_event(life, each.spec.job, life.source_id, beside, above, key, tasks)]
    return _split(life, beside, each, above, tasks)


def _split(life: Life, beside: dict[str, Any], each: CompiledThen, above: tuple[Part, ...], tasks: int) -> list[Emit]:
    assert each.split is not None, "what is not split has no parts"
    items = each.split.find(beside)
    if not isinstance(items, list):
        raise Unusable(Reason.INVALID_INPUT, f"then.split: expected a list at {each.split.text}")
    if len(items) > PARTS_MAX:
        raise Unusable(Reason.OVERSIZED, f"{len(items)} parts, a whole has at most {PARTS_MAX}")
    if len(above) >= NESTED_MAX:
        raise Unusable(Reason.TOO_DEEP, f"parts of parts, more than {NESTED_MAX} deep")
    rest = _without(beside, each.split.steps)
    key, rank = key_of_source(life.source_id), (life.seq, life.promotion)
    made: list[Emit] = []
    size = 0
    for number, item in enumerate(items, 1):
        told = {**rest, "item": item, "part": number, "parts": len(items)}
        part = Part(number, len(items), life.request_id, rank)
        event = _event(life, each.spec.job, f"{life.source_id}#{number}", told, (part, *above), key, tasks)
        assert isinstance(event.record, RawEvent)
        size += len(event.record.payload_json)
        if size > FIRING_BYTES_MAX:
            raise Unusable(Reason.OVERSIZED, f"its parts take more than {FIRING_BYTES_MAX} bytes together")
        made.append(event)
    return made


def _event(
    life: Life, job: str, source_id: str, told: dict[str, Any], parts: tuple[Part, ...], key: bytes, tasks: int
) -> Emit:
    payload = orjson.dumps(told)
    if len(payload) > EVENT_BYTES_MAX:
        raise Unusable(Reason.OVERSIZED, f"{len(payload)} bytes for one event, at most {EVENT_BYTES_MAX} are sent")
    part = written(parts)
    event = RawEvent(
        job=job,
        source_id=source_id,
        payload_json=payload.decode(),
        metadata={PARENT: life.request_id} | ({} if part is None else {PART: part}),
    )
    return Emit(event, key=key, partition=partition_for(key, tasks))


def _without(value: Any, steps: Sequence[str | int]) -> Any:
    """A copy of `value` without what lies there: a list that was split is in its parts."""
    step, rest = steps[0], steps[1:]
    if isinstance(step, str):
        kept = {name: member for name, member in value.items() if name != step}
        return kept | {step: _without(value[step], rest)} if rest else kept
    return [(_without(item, rest) if rest else None) if at == step else item for at, item in enumerate(value)]


def _letter(life: Life, job: str, wrong: Unusable, now_ms: int) -> Emit:
    """Of an event that never came to be: it has no place in raw, so it counts for none."""
    about = info(wrong.reason)
    offset = life.verdict_offset or 0
    name = dead_letter_id(
        STAGE,
        wrong.reason,
        generation=FOREIGN_GENERATION,
        partition=life.origin.partition,
        offset=offset,
        request_id=f"{life.request_id}/{job}",
    )
    record = DeadLetter(
        id=name,
        request_id=None,
        job=job,
        version=None,
        source_id=life.source_id,
        stage=STAGE,
        reason=wrong.reason,
        error=f"request {life.request_id} of {life.job} was to feed it: {wrong.note}",
        retryable=about.retryable,
        fault=about.fault.value,
        attempt=0,
        cost_nanos=0,
        original=None,
        original_sha256=life.output_sha256 or "",
        original_bytes=0,
        original_uri=f"{_URI}{life.request_id}/{job}",
        redrives=0,
        failed_at_ms=now_ms,
        origin=Origin(
            generation=FOREIGN_GENERATION, partition=life.origin.partition, offset=offset, at_ms=life.updated_at_ms
        ),
    )
    return Emit(record, key=life_key(life))
