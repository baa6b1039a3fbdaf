"""What comes back: when to poll, what a poll means, and one outcome for each member of a batch.

Rows are joined to members by custom id alone, never by position. `RowIndex` remembers where each row of the result
files lies and quarantines what is not ours (unknown) or was there before (repeated); both are counted, neither is
applied. Members are collected in cuts, in the order of their ids; a settled member leaves its chunk, so the members
that are left are the cursor. Each member ends in exactly one of succeeded, error, expired, cancelled, missing, and the
counts must add up before the chunk is done. A batch that never ran has no outcomes: its members are let go.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from batchmill.schemas.ids import chunk_nonce, parse_custom_id
from batchmill.schemas.jobs import RetrySpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Submitted
from batchmill.schemas.state import Chunk, Life
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.answering import Price, outcomes
from batchmill.streams.chunking import (
    CUT_MEMBERS,
    Place,
    custom_id_of,
    members,
    new_chunk,
    share_of_estimate,
    with_members,
)
from batchmill.streams.facts import (
    FREE,
    AttemptFailed,
    AttemptRefused,
    Refused,
    Released,
    RetryDue,
    TakenIn,
)
from batchmill.streams.lifecycle import Impossible
from batchmill.streams.orders import Order, Put, Wake
from batchmill.streams.ports import Action, BatchFailure, RemoteBatch, RemoteStatus, RowOutcome, StoredPayload
from batchmill.streams.refusing import fail_batch
from batchmill.streams.settling import ImpossibleError, end_if_unwanted, moved, obituary
from batchmill.streams.view import StateView

__all__ = [
    "PollSchedule",
    "RowIndex",
    "RowPlace",
    "acknowledge",
    "after_poll",
    "collect_cut",
    "downloaded",
    "finish",
    "gone",
    "is_gone",
    "let_go",
    "next_poll_ms",
    "queued",
    "results_missing",
    "settle_cut",
    "wait_for_twins",
]

_STAGE: Final = "collector"
#: polls of an ended batch whose files are announced but not named yet
FILES_POLLS_MAX: Final = 10
#: between two looks at what may be a twin and cannot be told yet
_TWIN_LOOK_MS: Final = 60_000
#: polls that find no such batch before its members count as missing
GONE_POLLS_MAX: Final = 20

#: reasons of a chunk that are the end of each of its members
_ENDS_MEMBERS: Final = frozenset({Reason.REFUSED_BY_PROVIDER, Reason.POISON})


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSchedule:
    """A batch is polled after a tenth of its age, within these bounds."""

    wait_ms_min: int = 5_000
    wait_ms_max: int = 300_000
    age_share: int = 10


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where one row lies in the stored files."""

    file: int  #: 0 = output, 1 = errors
    start: int
    length: int


@dataclass(slots=True)
class RowIndex:
    """Where the rows of a chunk's files lie, by custom id. Built by one pass over the files, output file first."""

    nonce: str
    places: dict[str, RowPlace] = field(default_factory=dict)
    foreign: int = 0
    repeated: int = 0

    @classmethod
    def of(cls, chunk: Chunk) -> "RowIndex":
        return cls(chunk_nonce(chunk.chunk_id))

    def add(self, custom_id: str | None, place: RowPlace) -> None:
        """Take in one row; None for a line that names no row."""
        sent = None if custom_id is None else parse_custom_id(custom_id)
        if custom_id is None or sent is None or sent.nonce != self.nonce:
            self.foreign += 1
        elif custom_id in self.places:
            self.repeated += 1
        else:
            self.places[custom_id] = place


def acknowledge(view: StateView, lines: Sequence[Submitted], now_ms: int) -> list[Order]:
    """Count the lines of each chunk that were seen on `submitted`; a chunk is done only when all were."""
    seen = Counter(line.chunk_id for line in lines)
    rows = [(read.chunk(view, chunk_id), count) for chunk_id, count in seen.items()]
    return [
        Put(replace(row, acknowledged=row.acknowledged + count, updated_at_ms=now_ms))
        for row, count in rows
        if row is not None
    ]


# -- open -> ended -> downloaded ---------------------------------------------------------------------------------------


def next_poll_ms(chunk: Chunk, schedule: PollSchedule, now_ms: int) -> int:
    """When an open batch is polled next."""
    age = now_ms - (chunk.attempt_at_ms or now_ms)
    return now_ms + max(schedule.wait_ms_min, min(schedule.wait_ms_max, age // schedule.age_share))


def after_poll(view: StateView, chunk: Chunk, remote: RemoteBatch, schedule: PollSchedule, now_ms: int) -> list[Order]:
    """What the provider's word on an open batch means."""
    assert chunk.state is ChunkState.OPEN, f"chunk {chunk.chunk_id} is {chunk.state}"
    seen = replace(chunk, remote_status=str(remote.status), failures=0, looks=0, updated_at_ms=now_ms)
    match remote.status:
        case RemoteStatus.RUNNING | RemoteStatus.CANCELLING:
            return [Put(replace(seen, due_at_ms=next_poll_ms(chunk, schedule, now_ms)))]
        case RemoteStatus.ENDED:
            if _files_to_come(remote) and chunk.failures < FILES_POLLS_MAX:
                due = now_ms + schedule.wait_ms_min
                return [Put(replace(seen, failures=chunk.failures + 1, due_at_ms=due))]
            return [Put(replace(seen, state=ChunkState.ENDED, due_at_ms=None)), Wake("poll")]
        case RemoteStatus.FAILED:
            unnamed = BatchFailure(action=Action.RETRY_ROW, code="failed")
            return fail_batch(view, seen, remote.failure or unnamed, now_ms)


def _files_to_come(remote: RemoteBatch) -> bool:
    """The provider counts rows whose file it does not name yet."""
    no_output = bool(remote.completed) and remote.output_file_id is None
    no_errors = bool(remote.failed) and remote.error_file_id is None and remote.output_file_id is None
    return no_output or no_errors


def gone(chunk: Chunk, schedule: PollSchedule, now_ms: int) -> list[Order]:
    """The provider does not know the batch or its files: believed after it said so again and again, in a row; then
    every row is missing.
    """
    if is_gone(chunk):
        return downloaded(replace(chunk, note="the provider does not know the batch any more"), None, None, now_ms)
    due = max(next_poll_ms(chunk, schedule, now_ms), now_ms + schedule.wait_ms_min)
    return [Put(replace(chunk, looks=chunk.looks + 1, due_at_ms=due, updated_at_ms=now_ms))]


def is_gone(chunk: Chunk) -> bool:
    """Whether the next denial of the batch or of a file of it is the one to believe. Errors are no denials."""
    return chunk.looks + 1 >= GONE_POLLS_MAX


def downloaded(chunk: Chunk, output: StoredPayload | None, errors: StoredPayload | None, now_ms: int) -> list[Order]:
    """The result files are in the payload store."""
    row = replace(
        chunk,
        state=ChunkState.DOWNLOADED,
        output_uri=None if output is None else output.uri,
        error_uri=None if errors is None else errors.uri,
        due_at_ms=None,
        failures=0,
        updated_at_ms=now_ms,
    )
    return [Put(row), Wake("poll")]


def results_missing(chunk: Chunk, now_ms: int) -> list[Order]:
    """A result file is gone from the payload store: fetch it again."""
    return [Put(replace(chunk, state=ChunkState.ENDED, updated_at_ms=now_ms)), Wake("poll")]


# -- downloaded -> collected -> done -----------------------------------------------------------------------------------


def collect_cut(
    view: StateView,
    chunk: Chunk,
    cut: Sequence[Life],
    rows: Mapping[str, RowOutcome],
    *,
    retry: RetrySpec,
    price: Price,
    now_ms: int,
) -> list[Order]:
    """Give each member of `cut` (the next ones of `chunking.members`) its one outcome; no member left: collected.

    `rows` holds the parsed rows of these members by custom id; a member without a row is missing.
    """
    assert chunk.state is ChunkState.DOWNLOADED, f"chunk {chunk.chunk_id} is {chunk.state}"
    if not cut:
        return [Put(replace(chunk, state=ChunkState.COLLECTED, updated_at_ms=now_ms)), Wake("poll")]
    found: list[tuple[Life, RowOutcome]] = []
    for life in cut:
        name = custom_id_of(chunk, life)
        none = RowOutcome(custom_id=name, outcome=Outcome.MISSING, reason=Reason.MISSING, billed=False)
        found.append((life, rows.get(name) or none))
    row, orders = outcomes(view, chunk, found, retry=retry, price=price, now_ms=now_ms)
    return [Put(row), *orders]


def finish(
    chunk: Chunk, index: RowIndex, now_ms: int, *, told: RemoteBatch | None = None, told_nanos: int | None = None
) -> list[Order]:
    """Close the ledger: each member had exactly one outcome; rows that no member asked for are counted.

    `told` is the batch in the provider's own counts, `told_nanos` what its usage as a whole costs, where it says so.
    What does not reconcile is the chunk's note; what was billed and no row told is booked.
    """
    settled = chunk.succeeded + chunk.errored + chunk.expired + chunk.cancelled + chunk.missing
    if settled != chunk.members:
        why = f"chunk {chunk.chunk_id} has {chunk.members} members and {settled} outcomes"
        raise ImpossibleError(Impossible(chunk.chunk_id, Status.PROCESSING, "Finished", why))
    # Fewer rows than outcomes: the files were lost after they had been collected, and the provider has them no more.
    unclaimed = max(0, len(index.places) - (settled - chunk.missing))
    row = replace(
        chunk,
        state=ChunkState.DONE,
        unknown_rows=index.foreign + unclaimed,
        repeated_rows=index.repeated,
        untold_nanos=_untold_nanos(chunk, told_nanos),
        doubtful_nanos=chunk.doubtful_nanos + (0 if told_nanos is not None else _missing_nanos(chunk)),
        due_at_ms=None,
        updated_at_ms=now_ms,
    )
    return [Put(replace(row, note="; ".join(_discrepancies(row, told)) or None))]


def wait_for_twins(chunk: Chunk, found: Sequence[RemoteBatch], window_ms: int, now_ms: int) -> list[Order]:
    """A chunk that was attempted more than once stays open while a batch that may be its twin cannot be told yet."""
    unread = any(not batch.identified for batch in found)
    over = chunk.attempt_at_ms is None or now_ms - chunk.attempt_at_ms > window_ms
    if chunk.attempt < 2 or not unread or over:
        return []
    return [Put(replace(chunk, due_at_ms=now_ms + _TWIN_LOOK_MS, updated_at_ms=now_ms))]


def _discrepancies(chunk: Chunk, told: RemoteBatch | None) -> Iterator[str]:
    """Whatever does not add up, as sentences for people; an alarm is raised for any."""
    if chunk.missing:
        yield f"{chunk.missing} of {chunk.members} rows are missing"
    if chunk.unknown_rows:
        yield f"{chunk.unknown_rows} rows that nobody asked for"
    if chunk.repeated_rows:
        yield f"{chunk.repeated_rows} rows more than once"
    if chunk.untold_nanos:
        yield f"the provider billed {chunk.untold_nanos} nano-dollars more than its rows tell"
    if told is None or told.total is None:
        return
    ran = chunk.succeeded + chunk.errored
    counted = (told.completed or 0) + (told.failed or 0)
    if told.total != chunk.members:
        yield f"the provider counts {told.total} rows of {chunk.members}"
    if counted > ran:
        yield f"the provider counts {counted} rows that ran, {ran} came"


def _untold_nanos(chunk: Chunk, told_nanos: int | None) -> int:
    """What was billed beyond what the rows told; less than their roundings come to is nothing."""
    beyond = (told_nanos or 0) - chunk.cost_nanos
    return beyond if 2 * beyond > chunk.members else 0


def _missing_nanos(chunk: Chunk) -> int:
    """What rows that never came may have cost: as much as those that did, where nobody says what was billed."""
    if not chunk.missing:
        return 0
    if chunk.succeeded:
        return -(-chunk.missing * chunk.cost_nanos // chunk.succeeded)
    return -(-chunk.missing * chunk.estimated_nanos // max(1, chunk.members))


# -- a batch that never ran --------------------------------------------------------------------------------------------


def settle_cut(view: StateView, chunk: Chunk, place: Place, now_ms: int) -> list[Order]:
    """Let the next members go, by the chunk's reason; no member left: failed.

    cancelled: back to the queue, or ended if they are what was cancelled. refused_by_provider: each is refused.
    provider_cancelled: into a new sealed chunk of at most half the size, until a chunk of one shows who is to blame.
    """
    assert chunk.state is ChunkState.ENDED, f"chunk {chunk.chunk_id} is {chunk.state}"
    alone = chunk.members == 1
    half = CUT_MEMBERS if chunk.reason is not Reason.PROVIDER_CANCELLED else min(CUT_MEMBERS, -(-chunk.members // 2))
    cut = members(view, chunk.chunk_id, limit=half)
    if not cut:
        return [Put(replace(chunk, state=ChunkState.FAILED, updated_at_ms=now_ms)), Wake("dispatch")]
    if chunk.reason in _ENDS_MEMBERS:
        return _refused(chunk, cut, chunk.reason, now_ms)
    if chunk.reason is Reason.PROVIDER_CANCELLED and alone:
        return _refused(chunk, cut, Reason.REQUEST_INVALID, now_ms)
    orders: list[Order] = []
    wanted: list[Life] = []
    for life in cut:
        kept, said = end_if_unwanted(view, let_go(chunk, life, now_ms), stage=_STAGE, now_ms=now_ms)
        if said:
            orders += [Put(kept), *said]
        else:
            wanted.append(queued(kept, now_ms))
    if chunk.reason is not Reason.PROVIDER_CANCELLED or not wanted:
        return [*orders, *(Put(life) for life in wanted), Wake("sealing")]
    return [*orders, *_regrouped(view, chunk, place, wanted, now_ms)]


def let_go(chunk: Chunk, life: Life, now_ms: int) -> Life:
    """Out of the chunk, as if the attempt had not been. One that nobody waits for is then the caller's to end."""
    if life.status is Status.QUEUED:
        return moved(life, Released(chunk_id=chunk.chunk_id), now_ms)
    free = AttemptFailed(sends=life.sends, reason=Reason.PROVIDER_CANCELLED, due_at_ms=now_ms, charge=FREE)
    return moved(life, free, now_ms)


def queued(life: Life, now_ms: int) -> Life:
    """What was let go, and is wanted, waits to be sent again."""
    return life if life.status is Status.QUEUED else moved(life, RetryDue(), now_ms)


def _refused(chunk: Chunk, cut: Sequence[Life], reason: Reason, now_ms: int) -> list[Order]:
    orders: list[Order] = []
    for life in cut:
        unsent = life.status is Status.QUEUED
        fact = Refused(reason=reason) if unsent else AttemptRefused(sends=life.sends, reason=reason, charge=FREE)
        ended = moved(life, fact, now_ms)
        orders += [Put(ended), obituary(ended, stage=_STAGE, error=chunk.note or "", now_ms=now_ms)]
    return orders


def _regrouped(view: StateView, chunk: Chunk, place: Place, wanted: Sequence[Life], now_ms: int) -> list[Order]:
    made, counted = new_chunk(view, place, wanted[0], now_ms)
    estimated = share_of_estimate(chunk, len(wanted))
    half = with_members(replace(made, account=chunk.account, estimated_nanos=estimated), wanted, now_ms)
    sealed = replace(half, state=ChunkState.SEALED)
    taken = [Put(moved(life, TakenIn(chunk_id=made.chunk_id), now_ms)) for life in wanted]
    return [counted, Put(sealed), *taken, Wake("dispatch")]
