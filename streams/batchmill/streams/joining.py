"""Parts of a whole wait for each other: who is there, who is missing, what was joined before.

A raw event of a job with `join` is one part of a whole (`lineage`). It waits as an `Arrival`, and the whole's group (a
meta row) says which parts are there and until when it waits. All parts of a whole lie in one raw partition, so one task
sees them all. Which one work item they become is `assembling`'s.

A group is taken up when all its parts are there, or when its deadline is over. Afterwards the source has a note of what
was joined. By it a part that comes twice is known and excluded; so is a part of an older whole of the same source, for
a newer one was joined. A part that says something new, as under a newer version of the stage before, or that had been
missing, opens the group again: what does not come anew by the deadline is taken from what was joined before, and the
whole is asked once more. So every raw record ends in exactly one place, whatever the order in which parts come.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from batchmill.schemas import codec
from batchmill.schemas.ids import content_sha256
from batchmill.schemas.promotion import JoinSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Excluded, Origin, RawEvent
from batchmill.schemas.state import Arrival, Meta
from batchmill.streams import view as read
from batchmill.streams.dead_lettering import RawRecord, of_raw
from batchmill.streams.events import Event
from batchmill.streams.index import PARTS_ROWS
from batchmill.streams.jsontext import canonical
from batchmill.streams.lineage import PART, Part, parts_of, whole_of, written
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.unusable import Unusable
from batchmill.streams.view import StateView

__all__ = [
    "FRAME_BYTES",
    "PARTS",
    "STAGE",
    "Coming",
    "Group",
    "Joined",
    "Seen",
    "arrival_key",
    "coming",
    "due",
    "excluded",
    "group_of",
    "joined_of",
    "meet",
]

STAGE: Final = "joiner"
#: what the arrival of a part waits for
PARTS: Final = "parts"
#: what joining adds around the parts
FRAME_BYTES: Final = 1_024
_JOINED_ROWS: Final = "joined/"
_TAG_CHARS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """One part, as its raw event tells it."""

    raw: RawRecord
    job: str
    version: str
    source_id: str  #: of the whole
    part: Part
    rest: str | None  #: which part of what the whole itself is
    tag: str  #: names what it says


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A part that is there: where its event lies, and what names its content."""

    offset: int
    at_ms: int
    tag: str
    bytes: int
    redrives: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The parts of one whole that wait for the others."""

    job: str
    whole: str
    source_id: str
    of: int
    rest: str | None
    rank: tuple[int, int]
    generation: int  #: of raw
    partition: int
    due_at_ms: int  #: when it is taken up; 0: now
    deadline_ms: int
    parts: Mapping[int, Seen] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{PARTS_ROWS}{self.job}/{self.whole}"

    @property
    def row(self) -> Meta:
        return Meta(name=self.name, value_json=_json(asdict(self)))

    def origin(self, seen: Seen) -> Origin:
        return Origin(generation=self.generation, partition=self.partition, offset=seen.offset, at_ms=seen.at_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What was joined last of a source: the note by which parts that come late are judged."""

    job: str
    source_id: str
    whole: str
    rank: tuple[int, int]
    request_id: str | None  #: None: the whole was put down before it became a request
    generation: int
    parts: Mapping[int, Seen]

    @property
    def name(self) -> str:
        return f"{_JOINED_ROWS}{self.job}/{self.source_id}"

    @property
    def row(self) -> Meta:
        return Meta(name=self.name, value_json=_json(asdict(self)))


# -- reading -----------------------------------------------------------------------------------------------------------


def coming(raw: RawRecord, job: str, version: str, source_id: str, event: Event) -> Coming:
    """The event as a part; raises Unusable when it does not say of what."""
    parts = parts_of(event.metadata.get(PART))
    if not parts:
        raise Unusable(Reason.INVALID_INPUT, "the job joins parts, and this event does not say of what it is one")
    tag = content_sha256(canonical(event.payload))[:_TAG_CHARS]
    rest = written(parts[1:])
    return Coming(raw=raw, job=job, version=version, source_id=whole_of(source_id), part=parts[0], rest=rest, tag=tag)


def due(view: StateView, job: str, now_ms: int, limit: int) -> list[Group]:
    """Groups of a job whose parts are all there, or whose deadline is over."""
    rows = [row for _, row in view.scan("parts", f"{job}/", limit=limit) if isinstance(row, Meta)]
    return [group for row in rows if (group := _group(row)).due_at_ms <= now_ms]


def group_of(view: StateView, job: str, whole: str) -> Group | None:
    row = read.meta(view, f"{PARTS_ROWS}{job}/{whole}")
    return None if row is None else _group(row)


def joined_of(view: StateView, job: str, source_id: str, whole: str | None = None) -> Joined | None:
    """What was joined last of a source; only if it was `whole`, when that is named."""
    row = read.meta(view, f"{_JOINED_ROWS}{job}/{source_id}")
    if row is None:
        return None
    told = json.loads(row.value_json)
    found = Joined(**(told | {"rank": tuple(told["rank"]), "parts": _parts(told["parts"])}))
    return found if whole in {None, found.whole} else None


# -- a part comes ------------------------------------------------------------------------------------------------------


def meet(view: StateView, here: Coming, join: JoinSpec, *, now_ms: int, bytes_max: int) -> list[Order]:
    """A part waits, or is known already; raises Unusable for one that is too much."""
    joined = joined_of(view, here.job, here.source_id)
    if joined is not None and joined.whole != here.part.whole and here.part.rank < joined.rank:
        return [excluded(here.raw, here, Reason.SUPERSEDED, "a newer whole of its source was joined", joined, now_ms)]
    known = joined if joined is not None and joined.whole == here.part.whole else None
    if known is not None and _comes_too_early(here, known):
        return _published_again(here, known, now_ms)
    group = group_of(view, here.job, here.part.whole) or _opened(here, join, now_ms)
    waiting = group.parts.get(here.part.number)
    counted = None if known is None else known.parts.get(here.part.number)
    again = waiting is None and counted is not None and counted.tag == here.tag
    if again and here.raw.redrives == 0:
        return [excluded(here.raw, here, Reason.JOINED, "it was joined before", known, now_ms)]
    if waiting is not None and waiting.tag == here.tag and waiting.offset != here.raw.origin.offset:
        return [excluded(here.raw, here, Reason.JOINED, "the same part waits already", None, now_ms)]
    if here.part.of != group.of:
        raise Unusable(Reason.INVALID_INPUT, f"it is one of {here.part.of} parts, others of its whole of {group.of}")
    grown = _with(group, here, now_if=again or _complete(group, here, known))
    if sum(seen.bytes for seen in grown.parts.values()) > bytes_max - FRAME_BYTES:
        raise Unusable(Reason.OVERSIZED, f"the parts of its whole take more than {bytes_max} bytes together")
    orders: list[Order] = [Put(grown.row), Put(_arrival(here, grown, now_ms))]
    if waiting is not None and waiting.offset != here.raw.origin.offset:
        orders += _replaced(group, waiting, here, now_ms)
    return [*orders, Wake("arrivals")] if grown.due_at_ms == 0 else orders


def _comes_too_early(here: Coming, known: Joined) -> bool:
    """Whether a redriven part that was missing would have its whole asked anew at an older place than it has by now."""
    missed = here.part.number not in known.parts and known.generation == here.raw.origin.generation
    return (
        here.raw.redrives > 0 and missed and here.raw.origin.offset < max(seen.offset for seen in known.parts.values())
    )


def _published_again(here: Coming, known: Joined, now_ms: int) -> list[Order]:
    """A whole is ranked by the place of its last part: at the end of raw this one makes it the newest, no stale one."""
    event = replace(codec.decode(here.raw.value or b"", RawEvent), job=here.job)
    said = "it came back when its whole had been asked about without it, and was published again"
    again = Emit(event, key=here.raw.key or b"", partition=here.raw.origin.partition)
    return [again, excluded(here.raw, here, Reason.SUPERSEDED, said, known, now_ms)]


def excluded(
    raw: RawRecord, about: Coming | Group, reason: Reason, detail: str, joined: Joined | None, now_ms: int
) -> Emit:
    """Put a part down that is accounted for by the request that its whole became."""
    said = of_raw(
        raw, stage=STAGE, reason=reason, error=detail, now_ms=now_ms, job=about.job, source_id=about.source_id
    )
    assert isinstance(said.record, Excluded), f"{reason} is no exclusion"
    of_request_id = None if joined is None else joined.request_id
    return Emit(replace(said.record, of_request_id=of_request_id), said.key, said.partition)


def arrival_key(group: Group, seen: Seen) -> str:
    return Arrival(job=group.job, waiting_for=PARTS, since_ms=0, origin=group.origin(seen)).key


def _opened(here: Coming, join: JoinSpec, now_ms: int) -> Group:
    deadline_ms = now_ms + round(join.deadline_seconds * 1_000)
    return Group(
        job=here.job,
        whole=here.part.whole,
        source_id=here.source_id,
        of=here.part.of,
        rest=here.rest,
        rank=here.part.rank,
        generation=here.raw.origin.generation,
        partition=here.raw.origin.partition,
        due_at_ms=deadline_ms,
        deadline_ms=deadline_ms,
    )


def _with(group: Group, here: Coming, *, now_if: bool) -> Group:
    at, size = here.raw.origin, len(here.raw.value or b"")
    seen = Seen(offset=at.offset, at_ms=at.at_ms, tag=here.tag, bytes=size, redrives=here.raw.redrives)
    parts = {**group.parts, here.part.number: seen}
    rank = max(group.rank, here.part.rank)
    return replace(group, parts=parts, rank=rank, due_at_ms=0 if now_if else group.due_at_ms)


def _complete(group: Group, here: Coming, known: Joined | None) -> bool:
    """All parts are there, or all that had been missing when the whole was joined before."""
    there = {*group.parts, here.part.number}
    if len(there) >= group.of:
        return True
    before = set() if known is None else set(known.parts)
    return bool(before) and before.isdisjoint(there) and len(before | there) >= group.of


def _arrival(here: Coming, group: Group, now_ms: int) -> Arrival:
    return Arrival(
        job=here.job,
        waiting_for=PARTS,
        since_ms=now_ms,
        group=group.whole,
        due_at_ms=group.deadline_ms,
        origin=here.raw.origin,
    )


def _replaced(group: Group, waiting: Seen, here: Coming, now_ms: int) -> list[Order]:
    """A newer event of the same part takes the place of one that still waited."""
    old = RawRecord(origin=group.origin(waiting), key=here.raw.key, value=None, redrives=waiting.redrives)
    said = excluded(old, here, Reason.SUPERSEDED, "a newer event of the same part came", None, now_ms)
    return [said, Delete(Arrival.schema, arrival_key(group, waiting))]


def _group(row: Meta) -> Group:
    told = json.loads(row.value_json)
    return Group(**(told | {"rank": tuple(told["rank"]), "parts": _parts(told["parts"])}))


def _parts(told: Mapping[str, Any]) -> dict[int, Seen]:
    return {int(number): Seen(**seen) for number, seen in told.items()}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
