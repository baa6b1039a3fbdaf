"""A whole whose parts are there, or whose time is over, becomes one work item: many arrivals -> normalized.

The joined event is given to `normalizing` as if it had come in the place of the part that came last; that part's raw
event is the item's own, the events of the others end as joined. What is asked about is

    {"parts": [what each part's event says, in order], "missing": [numbers of those that are not there]}

Whoever reads raw again, as a replay does, finds the event of that last part: `again` makes the whole of it anew, from
what was joined. What must not live here: when a whole is taken up, and which part counts (`joining`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import orjson

from batchmill.schemas import codec
from batchmill.schemas.promotion import JoinSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import RawEvent, WorkItem
from batchmill.schemas.state import Arrival, Job, Meta
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord, key_of_source, of_raw
from batchmill.streams.events import RawLimits
from batchmill.streams.joining import STAGE, Group, Joined, Seen, arrival_key, excluded, group_of, joined_of
from batchmill.streams.lineage import JOINED, PARENT, PART, Part, parts_of, whole_of, written
from batchmill.streams.normalizing import normalize
from batchmill.streams.orders import Delete, Emit, Order, Put
from batchmill.streams.view import StateView

__all__ = ["again", "assemble", "offsets_again", "offsets_of"]


def offsets_of(view: StateView, group: Group) -> list[int]:
    """Where in raw everything lies that the whole may be made of: its parts, and those that were joined before."""
    before = _before(view, group)
    return sorted({seen.offset for seen in (*before.values(), *group.parts.values())})


def assemble(
    view: StateView,
    group: Group,
    found: Mapping[int, RawRecord],
    *,
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
) -> list[Order]:
    """Take a group up that is due; `found` are the raw events at its offsets, less what retention has removed."""
    row = read.job(view, group.job)
    if row is None or row.paused or group_of(view, group.job, group.whole) != group:
        return []  # not now, or not as it was when its events were asked for
    job = jobs.of(row)
    assert job is not None, f"job {row.job} promotes version {row.version}, which its row does not hold"
    letters, parts = _present(group, found, row, now_ms)
    done: list[Order] = [Delete(Arrival.schema, arrival_key(group, seen)) for seen in group.parts.values()]
    done = [*letters, *done, Delete(Meta.schema, group.name)]
    newer = joined_of(view, group.job, group.source_id)
    if newer is not None and newer.whole != group.whole and group.rank < newer.rank:
        said = "a newer whole of its source was joined"
        return [*done, *(excluded(raw, group, Reason.SUPERSEDED, said, newer, now_ms) for raw in parts.values())]
    join = job.spec.join
    if join is None:  # the job was changed meanwhile: each event is asked about by itself
        return [*done, *(order for raw in parts.values() for order in _alone(view, raw, jobs, now_ms, limits))]
    before = {number: seen for number, seen in _before(view, group).items() if seen.offset in found}
    missing = sorted(set(range(1, group.of + 1)) - set(before) - set(parts))
    if missing and now_ms < group.deadline_ms:
        return _still_waiting(group, letters, parts)
    if not parts:
        return done
    if missing and join.on_missing == "dead":
        return [*done, *_dead(group, parts, missing, join, now_ms)]
    all_parts = {number: found[seen.offset] for number, seen in before.items()} | parts
    joined = _joined(view, group, all_parts, parts, missing, jobs, now_ms, limits)
    # No job that joins looks anything up. Where one should do so all the same, its parts wait and are not lost.
    return [] if any(isinstance(order, Put) and isinstance(order.row, Arrival) for order in joined) else done + joined


def offsets_again(view: StateView, raw: RawRecord, job: str) -> list[int]:
    """Where in raw the parts of the whole lie whose own event `raw` is; none when it is not a whole's own."""
    found = _own(view, raw, job)
    return [] if found is None else sorted(seen.offset for seen in found[1].parts.values())


def again(view: StateView, raw: RawRecord, job: str, found: Mapping[int, RawRecord]) -> RawRecord | None:
    """The event of a whole that was joined, made anew of the events at `offsets_again`; None when one is gone, or when
    `raw` stands for no whole.
    """
    own = _own(view, raw, job)
    if own is None or any(seen.offset not in found for seen in own[1].parts.values()):
        return None
    part, rest, joined = own[0][0], written(own[0][1:]), own[1]
    missing = sorted(set(range(1, part.of + 1)) - set(joined.parts))
    parts = {number: found[seen.offset] for number, seen in joined.parts.items()}
    return _event(_Whole(job, joined.source_id, joined.whole, part.of, rest), parts, missing, raw)


def _own(view: StateView, raw: RawRecord, job: str) -> tuple[tuple[Part, ...], Joined] | None:
    """What the event is a part of, and the note of it, if it is the one in whose place the whole was asked about."""
    try:
        event = codec.decode(raw.value or b"", RawEvent)
    except codec.CodecError:
        return None
    parts = parts_of(event.metadata.get(PART))
    joined = joined_of(view, job, whole_of(event.source_id or ""), parts[0].whole) if parts else None
    if joined is None or joined.generation != raw.origin.generation:
        return None
    last = max(seen.offset for seen in joined.parts.values())
    return (parts, joined) if raw.origin.offset == last else None


def _before(view: StateView, group: Group) -> Mapping[int, Seen]:
    """Parts that were joined when the whole was taken up the last time."""
    joined = joined_of(view, group.job, group.source_id, group.whole)
    return {} if joined is None or joined.generation != group.generation else joined.parts


def _present(
    group: Group, found: Mapping[int, RawRecord], row: Job, now_ms: int
) -> tuple[list[Order], dict[int, RawRecord]]:
    """The parts that are there and still wanted, and the letters of the others."""
    letters: list[Order] = []
    parts: dict[int, RawRecord] = {}
    for number, seen in sorted(group.parts.items()):
        raw = found.get(seen.offset)
        cancelled = row.cancelled_before_ms is not None and seen.at_ms <= row.cancelled_before_ms
        if cancelled and not seen.redrives:
            gone = raw or RawRecord(origin=group.origin(seen), key=None, value=None)
            said = "the job was cancelled after this event"
            letters.append(excluded(gone, group, Reason.CANCELLED, said, None, now_ms))
        elif raw is None:
            gone = RawRecord(origin=group.origin(seen), key=None, value=None, redrives=seen.redrives)
            error = "retention removed this event from raw while it waited for the other parts; publish it again"
            letters.append(_letter(gone, group, Reason.BODY_GONE, error, now_ms))
        else:
            parts[number] = replace(raw, origin=group.origin(seen), redrives=seen.redrives)
    return letters, parts


def _still_waiting(group: Group, letters: Sequence[Order], parts: Mapping[int, RawRecord]) -> list[Order]:
    """All had come, and one of them cannot be used: the others wait on."""
    left = {number: group.parts[number] for number in parts}
    lost = [seen for number, seen in group.parts.items() if number not in parts]
    kept = replace(group, parts=left, due_at_ms=group.deadline_ms)
    return [*letters, *(Delete(Arrival.schema, arrival_key(group, seen)) for seen in lost), Put(kept.row)]


def _dead(
    group: Group, parts: Mapping[int, RawRecord], missing: Sequence[int], join: JoinSpec, now_ms: int
) -> list[Order]:
    shown = ", ".join(str(number) for number in missing[:10]) + (", ..." if len(missing) > 10 else "")
    error = f"of {group.of} parts {len(missing)} did not come within {join.deadline_seconds:g} s: {shown}"
    return [_letter(raw, group, Reason.PARTS_MISSING, error, now_ms) for raw in parts.values()]


def _joined(
    view: StateView,
    group: Group,
    all_parts: Mapping[int, RawRecord],
    parts: Mapping[int, RawRecord],
    missing: Sequence[int],
    jobs: CompiledJobs,
    now_ms: int,
    limits: RawLimits,
) -> list[Order]:
    """The item, its note, and the ends of the events that are not its own."""
    last = max(parts.values(), key=lambda raw: raw.origin.offset)
    whole = _Whole(group.job, group.source_id, group.whole, group.of, group.rest)
    made = normalize(view, _event(whole, all_parts, missing, last), jobs=jobs, now_ms=now_ms, limits=limits)
    note = Joined(
        job=group.job,
        source_id=group.source_id,
        whole=group.whole,
        rank=group.rank,
        request_id=_request_of(made),
        generation=group.generation,
        parts=dict(sorted({**_before(view, group), **group.parts}.items())),
    )
    note = replace(note, parts={number: seen for number, seen in note.parts.items() if number in all_parts})
    others = [raw for raw in parts.values() if raw is not last]
    detail = f"part of whole {group.whole}"
    return [*made, Put(note.row), *(excluded(raw, group, Reason.JOINED, detail, note, now_ms) for raw in others)]


class _Whole(NamedTuple):
    job: str
    source_id: str
    request_id: str  #: that was split
    of: int
    rest: str | None


def _event(whole: _Whole, parts: Mapping[int, RawRecord], missing: Sequence[int], last: RawRecord) -> RawRecord:
    told = [orjson.Fragment(_payload(parts[number])) for number in sorted(parts)]
    event = RawEvent(
        job=whole.job,
        source_id=whole.source_id,
        payload_json=orjson.dumps({"parts": told, "missing": list(missing)}).decode(),
        metadata={PARENT: whole.request_id, JOINED: str(whole.of)} | ({} if whole.rest is None else {PART: whole.rest}),
    )
    return replace(last, key=key_of_source(whole.source_id), value=codec.encode(event))


def _payload(raw: RawRecord) -> str:
    return codec.decode(raw.value or b"", RawEvent).payload_json


def _request_of(made: Sequence[Order]) -> str | None:
    """The request that answers for the whole; a shadow's does not."""
    items = [order.record for order in made if isinstance(order, Emit) and isinstance(order.record, WorkItem)]
    return next((item.request_id for item in items if not item.aside), None)


def _alone(view: StateView, raw: RawRecord, jobs: CompiledJobs, now_ms: int, limits: RawLimits) -> list[Order]:
    return normalize(view, raw, jobs=jobs, now_ms=now_ms, limits=limits)


def _letter(raw: RawRecord, group: Group, reason: Reason, error: str, now_ms: int) -> Emit:
    return of_raw(raw, stage=STAGE, reason=reason, error=error, now_ms=now_ms, job=group.job, source_id=group.source_id)
