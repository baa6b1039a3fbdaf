"""Which queued lives share a provider batch, and when that batch is closed.

One chunk is filling at a time per (lane, job, version). It takes lives in cuts of at most a thousand, oldest first, and
is closed by whichever limit is met first: count, bytes, tokens, or its age since it was opened. Closing freezes its
membership. A task may have only so many chunks on the way per lane; at that limit the filling one stays open and the
queue waits, which is the back-pressure towards the provider. A paused job is neither filled nor sealed. A life whose
next attempt may take it above its record's budget never enters a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from batchmill.schemas.jobs import ModeSpec
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.chunking import CUT_MEMBERS, Place, driven_by, new_chunk, with_members
from batchmill.streams.controlling import knows_version
from batchmill.streams.costing import Expectation
from batchmill.streams.facts import TakenIn
from batchmill.streams.granting import refuse_over_budget
from batchmill.streams.orders import Order, Put
from batchmill.streams.settling import moved
from batchmill.streams.view import StateView

__all__ = ["ChunkLimits", "Queue", "age_ms_max", "next_age_ms", "queues", "seal"]

_LAST: Final = "\U0010ffff"
#: chunks of a task that are looked through for those on the way; far above any sensible limit
_CHUNKS_SEEN_MAX: Final = 10_000


class Queue(NamedTuple):
    """What may share a chunk."""

    lane: str
    job: str
    version: str

    @property
    def prefix(self) -> str:
        return f"{self.lane}/{self.job}/{self.version}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLimits:
    """When a chunk is closed: the job's limits, never above the provider's."""

    count_max: int
    bytes_max: int
    tokens_max: int
    age_ms_max: int
    chunks_on_the_way_max: int  #: per lane of a task
    hold: bool = False  #: closed chunks wait for an approval
    account: str | None = None  #: as the settings call it, for all that is shared by its name; None: as the lane does
    over_budget: Callable[[Life], bool] | None = None  #: may its next attempt exceed the record's budget
    costs: Expectation | None = None  #: for the estimate a chunk carries; None: it carries none


def queues(view: StateView) -> list[Queue]:
    """Every queue that has something to seal: lives waiting, or a chunk filling, of a version the task has heard of."""
    found = {Queue(row.lane, row.job, row.version) for row in _heads(view)}
    for _, row in view.scan("filling", "", limit=_CHUNKS_SEEN_MAX):
        assert isinstance(row, Chunk)
        found.add(Queue(row.lane, row.job, row.version))
    return sorted(each for each in found if knows_version(view, each.job, each.version))


def seal(view: StateView, queue: Queue, limits: ChunkLimits, place: Place, now_ms: int) -> list[Order]:
    """One cut of one queue. The caller repeats while this returns orders that took lives in."""
    job = read.job(view, queue.job)
    if job is None or job.paused:
        return []
    chunk = _filling(view, queue)
    room_on_the_way = _on_the_way(view, queue) < limits.chunks_on_the_way_max
    waiting = [row for _, row in view.scan("queue", queue.prefix, limit=CUT_MEMBERS) if isinstance(row, Life)]
    if limits.over_budget is not None and (dear := [life for life in waiting if limits.over_budget(life)]):
        return refuse_over_budget(dear, now_ms)
    orders: list[Order] = []
    if chunk is None:
        if not waiting or not room_on_the_way:
            return []
        chunk, counted = new_chunk(view, place, waiting[0], now_ms)
        chunk = replace(chunk, account=limits.account or chunk.account)
        orders.append(counted)
    taken = _fitting(chunk, waiting, limits)
    full = len(taken) < len(waiting) or _full(chunk, len(taken), limits)
    filled = _estimated(with_members(chunk, taken, now_ms), taken, limits) if taken else chunk
    if room_on_the_way and filled.members and (full or _old(filled, limits, now_ms)):
        filled = _closed(filled, limits, now_ms)
        orders.append(driven_by(filled))
    if filled is chunk:
        return []
    orders.append(Put(filled))
    orders += [Put(moved(life, TakenIn(chunk_id=chunk.chunk_id), now_ms)) for life in taken]
    return orders


def age_ms_max(mode: ModeSpec, *, typical_seconds: int) -> int:
    """How long a chunk may fill: as the job says, and never so long that a batch would then miss the deadline."""
    ages = [mode.chunk.max_age_seconds]
    if mode.deadline_seconds is not None:
        ages.append(max(0, mode.deadline_seconds - typical_seconds))
    return round(min(ages) * 1_000)


def next_age_ms(view: StateView, queue: Queue, limits: ChunkLimits) -> int | None:
    """When the filling chunk of `queue` is closed by its age."""
    chunk = _filling(view, queue)
    return None if chunk is None else chunk.created_at_ms + limits.age_ms_max


def _heads(view: StateView) -> list[Life]:
    """The oldest waiting life of every queue, by skipping from queue to queue."""
    heads: list[Life] = []
    after: str | None = None
    while found := view.scan("queue", "", after=after, limit=1):
        row = found[0][1]
        assert isinstance(row, Life)
        heads.append(row)
        after = Queue(row.lane, row.job, row.version).prefix + _LAST
    return heads


def _filling(view: StateView, queue: Queue) -> Chunk | None:
    found = view.scan("filling", queue.prefix, limit=1)
    row = found[0][1] if found else None
    return row if isinstance(row, Chunk) else None


def _on_the_way(view: StateView, queue: Queue) -> int:
    """Chunks that take up the lane. One that waits for a grant holds up its own job only: others have theirs."""
    open_chunks = [row for _, row in view.scan("chunk", "", limit=_CHUNKS_SEEN_MAX) if isinstance(row, Chunk)]
    return sum(
        row.lane == queue.lane
        and row.state is not ChunkState.FILLING
        and (row.waits_for is None or row.job == queue.job)
        for row in open_chunks
    )


def _fitting(chunk: Chunk, waiting: list[Life], limits: ChunkLimits) -> list[Life]:
    """The longest run from the front that keeps every limit; a first member is taken however large it is."""
    taken: list[Life] = []
    size, tokens = chunk.bytes, chunk.tokens
    for life in waiting:
        size, tokens = size + life.bytes_estimate, tokens + life.tokens_estimate
        count = chunk.members + len(taken)
        over = count >= limits.count_max or size > limits.bytes_max or tokens > limits.tokens_max
        if over and count:
            break
        taken.append(life)
    return taken


def _estimated(chunk: Chunk, taken: list[Life], limits: ChunkLimits) -> Chunk:
    """Call by call, since a call's price depends on the length of its own prompt."""
    if limits.costs is None:
        return chunk
    expected = sum(limits.costs.expected(chunk.mode, life.route, life.tokens_estimate) for life in taken)
    return replace(chunk, estimated_nanos=chunk.estimated_nanos + expected)


def _full(chunk: Chunk, taken: int, limits: ChunkLimits) -> bool:
    return chunk.members + taken >= limits.count_max


def _old(chunk: Chunk, limits: ChunkLimits, now_ms: int) -> bool:
    return now_ms - chunk.created_at_ms >= limits.age_ms_max


def _closed(chunk: Chunk, limits: ChunkLimits, now_ms: int) -> Chunk:
    state = ChunkState.HELD if limits.hold else ChunkState.SEALED
    return replace(chunk, state=state, updated_at_ms=now_ms)
