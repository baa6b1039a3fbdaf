"""How a sealed chunk becomes exactly one provider batch: one step per durable state, and what to believe after each.

    sealed -> prepared -> uploaded -> attempting(n) -> open

An online chunk has no batch: prepared is followed by attempting, that by done (`calling`).

A provider without input files takes the payload with the create call itself: there, prepared is followed by attempting.

`todo` names the next step of a chunk from its row alone, so a crash resumes where the row says. The create call is sent
once, after attempt n is durable; whoever finds a chunk in `attempting` that he did not just put there himself does not
know its outcome and has to look at the provider first. Every function returns orders; the calls are the effect's.

What a refusal means is in `refusing`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Submitted
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import (
    CUT_MEMBERS,
    ONLINE,
    at_step,
    custom_id_of,
    cut_done,
    driven_by,
    ended_for,
    members_done,
    next_members,
    without_members,
)
from batchmill.streams.facts import FREE, Attempted, AttemptRefused, Refused, Released
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.ports import (
    Action,
    BatchFailure,
    NotFoundError,
    OutcomeUnknownError,
    ProviderError,
    RemoteBatch,
    RemoteStatus,
    StoredPayload,
)
from batchmill.streams.refusing import fail_batch
from batchmill.streams.settling import end_if_unwanted, life_key, moved, obituary
from batchmill.streams.view import StateView

__all__ = [
    "LEASE_SECONDS",
    "LOOK_SPACING_MS",
    "CreateSchedule",
    "Looked",
    "Todo",
    "after_create",
    "after_look",
    "begin_cut",
    "file_deleted",
    "may_create",
    "may_spend",
    "may_upload",
    "payload_missing",
    "prepared",
    "refuse_member",
    "todo",
    "twins_of",
    "uploaded",
    "weed",
]

_STAGE: Final = "submitter"
#: how long after sending its last commit a task may start to spend, on the clock that runs during suspension
LEASE_SECONDS: Final = 10.0
#: between two looks that find nothing
LOOK_SPACING_MS: Final = 30_000
#: looks that must have found nothing, however short the grace time
LOOKS_MIN: Final = 2
#: `remote_status` of an attempt that no look found during the grace time
NOT_FOUND: Final = "not_found"
#: longest gap between two looks at batches that cannot be told from ours yet
_DOUBT_MS_MAX: Final = 300_000


class Todo(StrEnum):
    """The next step of a chunk, as an effect finds it in its row."""

    PREPARE = "prepare"  #: weed, render, write the payload
    DELETE_FILE = "delete_file"  #: the input file of an attempt that is over
    UPLOAD = "upload"
    BEGIN = "begin"  #: attempt cuts, then create
    LOOK = "look"  #: reconcile: does the provider have the batch
    CALL = "call"  #: online: attempt cuts, then one call for each member
    DOUBT = "doubt"  #: online: an attempt that others began; nobody knows what its calls came to
    POLL = "poll"
    CANCEL = "cancel"  #: ask the provider to stop it; counts as a poll
    DOWNLOAD = "download"
    COLLECT = "collect"
    SETTLE = "settle"  #: let the members of a batch that never ran go
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSchedule:
    """How long a lost create may take to show up at the provider, and how often it is looked for."""

    grace_ms: int = 120_000
    spacing_ms: int = LOOK_SPACING_MS  #: between two looks that find nothing
    looks_min: int = LOOKS_MIN  #: looks that must have found nothing before an attempt is believed to be void
    cancel_unread: bool = False  #: cancel a batch that may be this one and cannot be told yet, so that it can be sooner


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look-up came to: orders, and the batches to be cancelled as twins."""

    orders: tuple[Order, ...]
    cancel: tuple[str, ...] = ()


def todo(chunk: Chunk, *, by_file: bool, paused: bool, now_ms: int) -> Todo | None:
    """What to do for `chunk` now; None: wait (for its due time, an approval, or the job to be resumed).

    A pause stops whatever spends or leads to spending; it never stops finding out, polling and collecting. `by_file`:
    the provider takes the payload as an uploaded file.
    """
    if chunk.due_at_ms is not None and chunk.due_at_ms > now_ms:
        return None
    match chunk.state:
        case ChunkState.SEALED:
            return None if paused else Todo.PREPARE
        case ChunkState.PREPARED:
            if chunk.file_id is not None:
                return Todo.DELETE_FILE
            if paused:
                return None
            return Todo.CALL if chunk.mode == ONLINE else Todo.UPLOAD if by_file else Todo.BEGIN
        case ChunkState.UPLOADED:
            return None if paused else Todo.BEGIN
        case ChunkState.ATTEMPTING:
            if chunk.mode == ONLINE:
                return Todo.DOUBT
            over = chunk.remote_status == NOT_FOUND and chunk.file_id is not None
            return Todo.DELETE_FILE if over else Todo.LOOK
        case ChunkState.OPEN:
            stop = chunk.cancel_requested and chunk.remote_status != RemoteStatus.CANCELLING
            return Todo.CANCEL if stop else Todo.POLL
        case ChunkState.ENDED:
            if chunk.reason is None:
                return Todo.DOWNLOAD
            return Todo.SETTLE if chunk.file_id is None else Todo.DELETE_FILE
        case ChunkState.DOWNLOADED:
            return Todo.COLLECT
        case ChunkState.COLLECTED:
            return Todo.FINISH
        case ChunkState.FILLING | ChunkState.HELD | ChunkState.DONE | ChunkState.FAILED:
            return None


def may_spend(
    *,
    now_boottime_s: float,
    last_commit_boottime_s: float,
    fenced_boottime_s: float,
    previous_owner_clean: bool,
    http_timeout_s: float,
    lease_s: float = LEASE_SECONDS,
) -> bool:
    """The lease on spending: no call that costs money may start without it.

    We may if our own last successful commit was sent just now, and if whoever owned the task before cannot have a call
    under way: he stopped cleanly, or was fenced long enough ago for his lease and his last call to be over.
    """
    ours = now_boottime_s - last_commit_boottime_s < lease_s
    his = not previous_owner_clean and now_boottime_s - fenced_boottime_s < lease_s + http_timeout_s
    return ours and not his


# -- sealed -> prepared -> uploaded ------------------------------------------------------------------------------------


def weed(view: StateView, chunk: Chunk, cut: Sequence[Life], now_ms: int) -> list[Order]:
    """Members of a sealed chunk that nobody waits for any more end here, unpaid, as long as there is no payload."""
    if chunk.state is not ChunkState.SEALED or chunk.payload_sha256 is not None:
        return []  # it was cancelled meanwhile, or its members are frozen in a payload
    orders: list[Order] = []
    gone: list[Life] = []
    for life in cut:
        released = moved(life, Released(chunk_id=chunk.chunk_id), now_ms)
        ended, said = end_if_unwanted(view, released, stage=_STAGE, now_ms=now_ms)
        if said:
            gone.append(life)
            orders += [Put(ended), *said]
    return [Put(without_members(chunk, gone, now_ms)), *orders] if gone else []


def refuse_member(
    view: StateView, chunk: Chunk, request_id: str, reason: Reason, error: str, now_ms: int
) -> list[Order]:
    """A member that cannot be rendered, or is larger than the provider takes, ends unpaid; the chunk goes on."""
    life = read.life(view, request_id)
    if life is None or life.chunk_id != chunk.chunk_id or chunk.state is not ChunkState.SEALED:
        return []
    # A payload that is made again, after an attempt that had no effect, has members which were named in that attempt.
    unsent = life.status is Status.QUEUED
    fact = Refused(reason=reason) if unsent else AttemptRefused(sends=life.sends, reason=reason, charge=FREE)
    refused = moved(life, fact, now_ms)
    return [
        Put(without_members(chunk, [life], now_ms)),
        Put(refused),
        obituary(refused, stage=_STAGE, error=error, now_ms=now_ms),
    ]


def prepared(chunk: Chunk, stored: StoredPayload, now_ms: int, *, bytes_max: int) -> list[Order]:
    """The payload lies in the store. A rebuilt one must be the very same, else a person looks at it first.

    One that came out larger than the provider takes (sizes are estimated when a chunk is filled) dissolves into halves.
    """
    if chunk.state is not ChunkState.SEALED:
        return []
    if chunk.members == 0:
        return [Put(replace(chunk, state=ChunkState.FAILED, note="no member is left", updated_at_ms=now_ms))]
    if chunk.payload_sha256 not in {None, stored.sha256}:
        note = "the payload was rebuilt after an attempt and came out different: approve it, or cancel the job"
        return [Put(at_step(chunk, ChunkState.HELD, now_ms, payload_sha256=stored.sha256, note=note))]
    if stored.size_bytes > bytes_max:
        note = f"its payload has {stored.size_bytes} bytes, the provider takes {bytes_max}"
        return [Put(ended_for(chunk, Reason.PROVIDER_CANCELLED, note, now_ms)), Wake("poll")]
    row = at_step(chunk, ChunkState.PREPARED, now_ms, payload_uri=stored.uri, payload_sha256=stored.sha256)
    return [Put(row), driven_by(row)]


def payload_missing(chunk: Chunk, now_ms: int) -> list[Order]:
    """The payload file is gone from the store: build it again."""
    if chunk.state is not ChunkState.PREPARED:
        return []
    return [Put(at_step(chunk, ChunkState.SEALED, now_ms, payload_uri=None)), driven_by(chunk)]


def uploaded(chunk: Chunk, file_id: str, now_ms: int) -> list[Order]:
    """The provider has the payload. For a chunk that was cancelled meanwhile that is a file to be deleted again."""
    if chunk.state is ChunkState.ENDED:
        return [Put(replace(chunk, file_id=file_id, updated_at_ms=now_ms))]
    if chunk.state is not ChunkState.PREPARED:
        return []
    return [Put(at_step(chunk, ChunkState.UPLOADED, now_ms, file_id=file_id)), Wake("dispatch")]


def file_deleted(chunk: Chunk, now_ms: int) -> list[Order]:
    """The input file of the attempt is gone: a create that is still on its way would fail from now on."""
    return [Put(replace(chunk, file_id=None, looks=0, updated_at_ms=now_ms)), Wake("dispatch")]


# -- uploaded -> attempting(n) -----------------------------------------------------------------------------------------


def begin_cut(view: StateView, chunk: Chunk, now_ms: int) -> list[Order]:
    """Name the next cut of members in attempt n.

    The chunk is `attempting` with the last cut, and only then, once all of it is durable, may the create be sent.
    Empty when the chunk has left the state it was found in (uploaded, or prepared where nothing is uploaded).
    """
    now = read.chunk(view, chunk.chunk_id)
    if now is None or now.state is not chunk.state:
        return []
    chunk, cut = now, next_members(view, now)
    orders: list[Order] = []
    attempt = chunk.attempt + 1
    for line, life in enumerate(cut, start=members_done(chunk) + 1):
        named = life
        if life.status is not Status.PROCESSING:  # from an earlier attempt of this chunk, that had no effect
            named = moved(life, Attempted(chunk_id=chunk.chunk_id, sends=life.sends + 1), now_ms)
            orders.append(Put(named))
        orders.append(Emit(_submitted(chunk, named, attempt, line, now_ms), key=life_key(life)))
    if len(cut) == CUT_MEMBERS:
        return [Put(replace(chunk, cursor=cut_done(chunk, cut), updated_at_ms=now_ms)), *orders]
    done = members_done(chunk) + len(cut)
    assert done == chunk.members, f"chunk {chunk.chunk_id} has {chunk.members} members, {done} were found"
    row = at_step(
        chunk, ChunkState.ATTEMPTING, now_ms, attempt=attempt, attempt_at_ms=now_ms, looks=0, remote_status=None
    )
    return [Put(row), *orders]


def may_upload(view: StateView, chunk: Chunk) -> bool:
    """The last question before the payload leaves: a pause may have come while the call waited for its turn."""
    now, job = read.chunk(view, chunk.chunk_id), read.job(view, chunk.job)
    return now is not None and job is not None and not job.paused and now.state is ChunkState.PREPARED


def may_create(view: StateView, chunk: Chunk) -> bool:
    """The last question before the call: a pause or a cancellation may have come while the attempt became durable."""
    now, job = read.chunk(view, chunk.chunk_id), read.job(view, chunk.job)
    if now is None or job is None or job.paused:
        return False
    return now.state is ChunkState.ATTEMPTING and now.attempt == chunk.attempt and not now.cancel_requested


def _submitted(chunk: Chunk, life: Life, attempt: int, line: int, now_ms: int) -> Submitted:
    assert chunk.payload_sha256 is not None, f"chunk {chunk.chunk_id} is attempted without a payload"
    return Submitted(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        chunk_id=chunk.chunk_id,
        chunk_attempt=attempt,
        line=line,
        attempt=life.attempt,
        custom_id=custom_id_of(chunk, life),
        account=chunk.account,
        model=chunk.model,
        mode=chunk.mode,
        payload_sha256=chunk.payload_sha256,
        submitted_at_ms=now_ms,
    )


# -- attempting(n) -> open, or back ------------------------------------------------------------------------------------


def after_create(
    view: StateView,
    chunk: Chunk,
    outcome: RemoteBatch | ProviderError,
    now_ms: int,
    schedule: CreateSchedule | None = None,
) -> list[Order]:
    """What the answer to the create call means; an error other than OutcomeUnknownError says that it had no effect."""
    assert chunk.state is ChunkState.ATTEMPTING, f"chunk {chunk.chunk_id} is {chunk.state}"
    if isinstance(outcome, RemoteBatch):
        return _opened(chunk, outcome, now_ms)
    if isinstance(outcome, OutcomeUnknownError):
        due = now_ms + (schedule or CreateSchedule()).spacing_ms
        return [Put(replace(chunk, due_at_ms=due, note=outcome.code, updated_at_ms=now_ms))]
    later = None if outcome.retry_after_seconds is None else round(outcome.retry_after_seconds * 1000)
    # Only the input file is gone: the next attempt uploads it again.
    action = Action.DEFER_CHUNK if isinstance(outcome, NotFoundError) else outcome.action
    return fail_batch(view, chunk, BatchFailure(action=action, code=outcome.code), now_ms, not_before_ms=later)


def after_look(
    chunk: Chunk, found: Sequence[RemoteBatch], now_ms: int, schedule: CreateSchedule | None = None
) -> Looked:
    """What the provider's list means for an attempt of unknown outcome.

    One batch: adopt it. Several: adopt the first that did not fail, cancel the rest. One that may be it and cannot be
    told yet: wait until it can; nothing is sent again meanwhile. None, all through the grace time:
    its input file is deleted, so that a create which is still under way fails, and the grace time runs once more for
    one that was just ahead of the deletion. Only then did the attempt have no effect.
    """
    assert chunk.state is ChunkState.ATTEMPTING, f"chunk {chunk.chunk_id} is {chunk.state}"
    known = (batch for batch in found if batch.identified and _of_this_attempt(chunk, batch))
    candidates = sorted(known, key=_adoption_order)
    if candidates:
        first, *rest = candidates
        cancel = tuple(batch.batch_id for batch in rest if _runs(batch))
        return Looked(tuple(_opened(replace(chunk, twins=len(rest)), first, now_ms)), cancel)
    patience = schedule or CreateSchedule()
    unread = [batch for batch in found if not batch.identified]
    if unread:
        return _in_doubt(chunk, unread, patience, now_ms)
    looks = chunk.looks + 1
    if looks < patience.looks_min or (looks - 1) * patience.spacing_ms < patience.grace_ms:
        due = now_ms + patience.spacing_ms
        return Looked((Put(replace(chunk, looks=looks, due_at_ms=due, updated_at_ms=now_ms)),))
    if chunk.file_id is not None:
        row = at_step(chunk, ChunkState.ATTEMPTING, now_ms, looks=looks, remote_status=NOT_FOUND)
        return Looked((Put(row), Wake("dispatch")))
    if chunk.cancel_requested:
        return Looked((Put(ended_for(chunk, Reason.CANCELLED, "cancelled before it ran", now_ms)), Wake("poll")))
    return Looked((Put(at_step(chunk, ChunkState.PREPARED, now_ms, remote_status=None)), Wake("dispatch")))


def twins_of(chunk: Chunk, found: Sequence[RemoteBatch], price: Callable[[RemoteBatch], int], now_ms: int) -> Looked:
    """Look for batches of this chunk beside the one it follows. Their number and waste are counted anew each time."""
    others = [
        each
        for each in found
        if each.identified and each.batch_id != chunk.batch_id and each.status is not RemoteStatus.FAILED
    ]
    if not others:
        return Looked(())
    wasted = max(chunk.wasted_nanos, sum(price(batch) for batch in others))
    cancel = tuple(batch.batch_id for batch in others if _runs(batch))
    if (len(others), wasted) == (chunk.twins, chunk.wasted_nanos):
        return Looked((), cancel)
    row = replace(chunk, twins=max(chunk.twins, len(others)), wasted_nanos=wasted, updated_at_ms=now_ms)
    return Looked((Put(row),), cancel)


def _in_doubt(chunk: Chunk, unread: Sequence[RemoteBatch], patience: CreateSchedule, now_ms: int) -> Looked:
    """Candidates that only their results can tell: look again after a tenth of the attempt's age, within bounds."""
    age_ms = now_ms - (chunk.attempt_at_ms or now_ms)
    wait_ms = max(patience.spacing_ms, min(_DOUBT_MS_MAX, age_ms // 10))
    note = f"{len(unread)} batch(es) at the provider may be this one; their results will tell"
    row = replace(chunk, due_at_ms=now_ms + wait_ms, note=note, updated_at_ms=now_ms)
    cancel = tuple(batch.batch_id for batch in unread if patience.cancel_unread and _runs(batch))
    return Looked((Put(row),), cancel)


def _opened(chunk: Chunk, remote: RemoteBatch, now_ms: int) -> list[Order]:
    row = at_step(
        chunk, ChunkState.OPEN, now_ms, batch_id=remote.batch_id, remote_status=str(remote.status), looks=0, note=None
    )
    return [Put(row), Wake("poll")]


def _of_this_attempt(chunk: Chunk, batch: RemoteBatch) -> bool:
    """A refused batch of an earlier attempt was dealt with; one of it that runs came late, and counts."""
    attempt = batch.label.get("chunk_attempt")
    return batch.status is not RemoteStatus.FAILED or attempt in {None, str(chunk.attempt)}


def _adoption_order(batch: RemoteBatch) -> tuple[bool, int, str]:
    return batch.status is RemoteStatus.FAILED, batch.created_at_ms, batch.batch_id


def _runs(batch: RemoteBatch) -> bool:
    return batch.status is RemoteStatus.RUNNING
