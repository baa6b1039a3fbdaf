"""What becomes of work that kills the process which touches it: it ends as `poison`, and everything else goes on.

Known failures are data and never come here. The runtime calls for this after the third death on the same row.
"""

from dataclasses import replace
from typing import Final

from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState
from batchmill.streams import view as read
from batchmill.streams.facts import SinkRefused
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.settling import moved, obituary
from batchmill.streams.view import StateView

__all__ = ["isolate_chunk", "isolate_commit"]

_CLOSED: Final = frozenset({ChunkState.DONE, ChunkState.FAILED})


def isolate_chunk(view: StateView, chunk_id: str, step: str, now_ms: int) -> list[Order]:
    """Give a chunk up: its members that have no outcome yet are dead-lettered as poison, in cuts."""
    chunk = read.chunk(view, chunk_id)
    if chunk is None or chunk.state in _CLOSED:
        return []
    note = f"the worker died three times in step {step}; look at its payload with `batchmill batches show {chunk_id}`"
    return [Put(_given_up(chunk, note, now_ms)), Wake("poll")]


def isolate_commit(view: StateView, request_id: str, now_ms: int) -> list[Order]:
    """Give a commit up: whether the sink holds it is not known, its commit id says where to look."""
    life = read.life(view, request_id)
    if life is None or life.output_sha256 is None or life.commit_id is None:
        return []
    ended = evolve(moved(life, SinkRefused(output_sha256=life.output_sha256), now_ms), reason=Reason.POISON)
    error = f"the worker died three times while writing commit {life.commit_id}"
    return [Put(ended), obituary(ended, stage="committer", error=error, now_ms=now_ms)]


def _given_up(chunk: Chunk, note: str, now_ms: int) -> Chunk:
    return replace(
        chunk,
        state=ChunkState.ENDED,
        reason=Reason.POISON,
        note=note,
        cursor=None,
        due_at_ms=None,
        failures=0,
        updated_at_ms=now_ms,
    )
