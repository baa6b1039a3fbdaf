"""Jobs that choose by deadline (`mode: auto`): by batch as long as that is in time, online what would be late.

A life's deadline runs from when the newest event that asks for it was appended. It goes by batch if from now on there
is time for the chunk to fill and for a batch to take as long as is typical of the provider. A life in the queue that
would be late moves to the online lane, and stays there. A batch that will miss the deadline of its oldest member is
cancelled a guard before it: what was answered by then is collected and kept, the others come back and are late, so they
go online. Chunks that were not sent yet come apart as soon as they would be late, at no cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from batchmill.schemas.jobs import ModeSpec
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams.chunking import BATCH, CUT_MEMBERS, ONLINE, in_mode
from batchmill.streams.controlling import stopped
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.ports import Capabilities
from batchmill.streams.sealing import Queue
from batchmill.streams.view import StateView

__all__ = ["GUARD_MS_MIN", "Haste", "batched", "haste_of", "move_late", "stop_late"]

#: before a deadline, a batch that runs is given up: this, or the share of the deadline, whichever is more
GUARD_MS_MIN: Final = 60_000
_GUARD_SHARE: Final = 10
_CHUNKS_MAX: Final = 10_000
#: states of a chunk of which nothing is at the provider
_UNSENT: Final = frozenset({ChunkState.FILLING, ChunkState.SEALED, ChunkState.PREPARED, ChunkState.UPLOADED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Haste:
    """What a job's deadline leaves, in milliseconds."""

    deadline_ms: int  #: from the event to the answer
    typical_ms: int  #: how long a batch takes as a rule
    filling_ms: int  #: how long a chunk may be open before it is sent

    @property
    def batch_by_ms(self) -> int:
        """How old a life may be when it enters a chunk; below 0: batch is never in time."""
        return self.deadline_ms - self.typical_ms - self.filling_ms

    @property
    def send_by_ms(self) -> int:
        """How old a chunk's oldest member may be when the chunk is sent."""
        return self.deadline_ms - self.typical_ms

    @property
    def give_up_ms(self) -> int:
        """How old a chunk's oldest member may be before its batch is cancelled."""
        return self.deadline_ms - max(GUARD_MS_MIN, self.deadline_ms // _GUARD_SHARE)


def haste_of(mode: ModeSpec, can: Capabilities) -> Haste | None:
    """What the deadline leaves; None where the job does not choose by it, or the provider has one way only."""
    if mode.prefer != "auto" or mode.deadline_seconds is None or not can.online_endpoints:
        return None
    return Haste(
        deadline_ms=mode.deadline_seconds * 1_000,
        typical_ms=can.typical_seconds * 1_000,
        filling_ms=round(mode.chunk.max_age_seconds * 1_000),
    )


def batched(view: StateView) -> list[tuple[str, str, str]]:
    """Every (job, version, account) that has batches: they are late whether or not anything waits beside them."""
    found = [row for _, row in view.scan("chunk_job", "", limit=_CHUNKS_MAX) if isinstance(row, Chunk)]
    return sorted({(row.job, row.version, row.account) for row in found if row.mode == BATCH})


def move_late(view: StateView, queue: Queue, haste: Haste, now_ms: int) -> list[Order]:
    """One cut of what waits in a batch lane and would be late: into the online lane. The oldest come first."""
    if not queue.lane.endswith(f"|{BATCH}"):
        return []
    moved: list[Order] = []
    for _, life in view.scan("queue", queue.prefix, limit=CUT_MEMBERS):
        assert isinstance(life, Life)
        if now_ms - life.queued_at_ms <= haste.batch_by_ms:
            break
        moved.append(Put(evolve(life, lane=in_mode(life.lane, ONLINE), updated_at_ms=now_ms)))
    return [*moved, Wake("sealing")] if moved else []


def stop_late(
    view: StateView, job: str, version: str, haste: Haste, now_ms: int, *, account: str | None = None
) -> list[Order]:
    """Stop the chunks of a job version that will not be in time; their members come back when they settle.

    `account`: of one of its accounts only, since each provider takes a time of its own.
    """
    orders: list[Order] = []
    for chunk in _batches(view, job, version):
        if account not in {None, chunk.account}:
            continue
        allowed = haste.send_by_ms if chunk.state in _UNSENT else haste.give_up_ms
        if now_ms - chunk.first_queued_at_ms <= allowed:
            continue
        row = stopped(chunk, now_ms)
        if row is not None:
            orders += [Put(row), Wake("poll")]
    return orders


def _batches(view: StateView, job: str, version: str) -> Iterator[Chunk]:
    for _, chunk in view.scan("chunk_job", f"{job}/", limit=_CHUNKS_MAX):
        assert isinstance(chunk, Chunk)
        if chunk.version == version and chunk.mode == BATCH and chunk.members and not chunk.cancel_requested:
            yield chunk
