"""What the decisions about chunks share: making one, walking its members in cuts, and its durable counter.

Members are the lives that name the chunk, walked in the order of their ids; that order is the order of the payload's
lines. A cut is at most `CUT_MEMBERS` of them, one transaction.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from batchmill.schemas import ids
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Life, Meta
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.orders import Put, Wake
from batchmill.streams.view import StateView

__all__ = [
    "BATCH",
    "CUT_MEMBERS",
    "ONLINE",
    "Place",
    "at_step",
    "custom_id_of",
    "cut_done",
    "driven_by",
    "ended_for",
    "in_mode",
    "members",
    "members_done",
    "new_chunk",
    "next_members",
    "sends_of",
    "share_of_estimate",
    "with_members",
    "without_members",
]

#: the two ways to the provider: all members in one order, or each by itself
BATCH: Final = "batch"
ONLINE: Final = "online"
#: lives that one transaction moves
CUT_MEMBERS: Final = 1_000
_COUNTER: Final = "chunks"


class Place(NamedTuple):
    """Whose chunks these are: an application's task. Makes chunk ids unique and repeatable."""

    app: str
    partition: int


def in_mode(lane: str, mode: str) -> str:
    """The same lane (account|model|endpoint|mode), by the other way."""
    return f"{lane.rpartition('|')[0]}|{mode}"


def driven_by(chunk: Chunk) -> Wake:
    """Wake the effect that takes the chunk to its provider."""
    return Wake("calls" if chunk.mode == ONLINE else "dispatch")


def new_chunk(view: StateView, place: Place, like: Life, now_ms: int, *, made_before: int = 0) -> tuple[Chunk, Put]:
    """An empty filling chunk for `like`'s lane, job and version, and the counter to put with it.

    `made_before` counts the chunks that the same decision has made already.
    """
    row = read.meta(view, _COUNTER)
    counter = (0 if row is None else int(json.loads(row.value_json))) + made_before
    account, model, endpoint, mode = like.lane.split("|")
    chunk = Chunk(
        chunk_id=ids.chunk_id(place.app, place.partition, counter),
        job=like.job,
        version=like.version,
        lane=like.lane,
        account=account,
        model=model,
        endpoint=endpoint,
        mode=mode,
        state=ChunkState.FILLING,
        members=0,
        bytes=0,
        tokens=0,
        first_queued_at_ms=like.queued_at_ms,
        attempt=0,
        attempt_at_ms=None,
        looks=0,
        cursor=None,
        acknowledged=0,
        payload_uri=None,
        payload_sha256=None,
        file_id=None,
        batch_id=None,
        remote_status=None,
        output_uri=None,
        error_uri=None,
        due_at_ms=None,
        failures=0,
        succeeded=0,
        errored=0,
        expired=0,
        cancelled=0,
        missing=0,
        unknown_rows=0,
        repeated_rows=0,
        twins=0,
        wasted_nanos=0,
        cost_nanos=0,
        cancel_requested=False,
        reason=None,
        note=None,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    return chunk, Put(Meta(name=_COUNTER, value_json=json.dumps(counter + 1)))


def with_members(chunk: Chunk, taken: Sequence[Life], now_ms: int) -> Chunk:
    """The chunk, larger by `taken`."""
    return replace(
        chunk,
        members=chunk.members + len(taken),
        bytes=chunk.bytes + sum(life.bytes_estimate for life in taken),
        tokens=chunk.tokens + sum(life.tokens_estimate for life in taken),
        first_queued_at_ms=min([chunk.first_queued_at_ms, *(life.queued_at_ms for life in taken)]),
        updated_at_ms=now_ms,
    )


def without_members(chunk: Chunk, gone: Sequence[Life], now_ms: int) -> Chunk:
    """The chunk, smaller by `gone`."""
    return replace(
        chunk,
        members=chunk.members - len(gone),
        bytes=chunk.bytes - sum(life.bytes_estimate for life in gone),
        tokens=chunk.tokens - sum(life.tokens_estimate for life in gone),
        estimated_nanos=chunk.estimated_nanos - share_of_estimate(chunk, len(gone)),
        updated_at_ms=now_ms,
    )


def share_of_estimate(chunk: Chunk, some: int) -> int:
    """What so many of the chunk's members were expected to cost together."""
    return chunk.estimated_nanos * some // max(1, chunk.members)


def members(view: StateView, chunk_id: str, *, after: str | None = None, limit: int = CUT_MEMBERS) -> list[Life]:
    """The next members past request id `after`, ascending."""
    past = None if after is None else f"{chunk_id}/{after}"
    found = view.scan("member", f"{chunk_id}/", after=past, limit=limit)
    return [row for _, row in found if isinstance(row, Life)]


def next_members(view: StateView, chunk: Chunk, limit: int = CUT_MEMBERS) -> list[Life]:
    """The members past the chunk's cursor."""
    return members(
        view, chunk.chunk_id, after=None if chunk.cursor is None else chunk.cursor.partition("/")[2], limit=limit
    )


def cut_done(chunk: Chunk, cut: Sequence[Life]) -> str:
    """The cursor after `cut`: how many members are done, and the last one's request id."""
    return f"{members_done(chunk) + len(cut):09d}/{cut[-1].request_id}"


def members_done(chunk: Chunk) -> int:
    """How many members the running step has done."""
    return 0 if chunk.cursor is None else int(chunk.cursor.partition("/")[0])


def sends_of(life: Life) -> int:
    """The send number of a member in its chunk's payload: the one to come, or the one that is under way."""
    return life.sends if life.status is Status.PROCESSING else life.sends + 1


def custom_id_of(chunk: Chunk, life: Life) -> str:
    """What the member's line is called at the provider."""
    return ids.custom_id(life.request_id, sends_of(life), ids.chunk_nonce(chunk.chunk_id))


def at_step(chunk: Chunk, state: ChunkState, now_ms: int, **changes: object) -> Chunk:
    """The chunk at the beginning of a step: nothing of it failed yet, no cut of it is done."""
    fresh: dict[str, object] = {"cursor": None, "due_at_ms": None, "failures": 0, "updated_at_ms": now_ms}
    return replace(chunk, state=state, **{**fresh, **changes})  # type: ignore[arg-type]  # names checked by replace


def ended_for(chunk: Chunk, reason: Reason, note: str, now_ms: int) -> Chunk:
    """The chunk, whose batch never ran, on its way to let its members go."""
    return at_step(chunk, ChunkState.ENDED, now_ms, reason=reason, note=note)
