"""What may be written downstream, and what became of it: validated -> committed.

Three steps, each durable before the next: a verdict is met (its place in the log noted), a write is intended (the life
carries its commit id), the sink has answered. A crash in between leaves a validated life with a commit id; that write
is asked for again, whatever happened to the job meanwhile, and the sink knows the id. Where a sink compares ranks, the
order in which writes arrive does not matter; a life that is the newest of its source goes at the source's newest rank.

A sink that cannot compare is told no more than the task knows: nothing older than what its source has committed is
written, and no write of a source is begun while another one of it is in doubt. So it is asked in the order of ranks.
A sink *inside* is written by the transaction that also says so; there is no doubt about it, and no intent.

`sources` says what was committed last, reverted or not. So a revert makes nothing acceptable that was too old before,
and content that becomes the newest again is committed again, whatever a revert has put under its target.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from batchmill.schemas.ids import commit_id
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, Verdict
from batchmill.schemas.state import Life, Meta, Source
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.facts import CommitApplied, CommitIntended, SinkRefused, Superseded
from batchmill.streams.index import DOWN_ROWS
from batchmill.streams.lifecycle import evolve
from batchmill.streams.limiting import Bucket, Counts, Share, allowance, counts_of, marked, room, seconds_to_token
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.ports import SinkCapabilities, SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.queueing import promotion_now, recall, recalled
from batchmill.streams.settling import end_if_unwanted, life_key, moved, obituary, unwanted
from batchmill.streams.validating import compiled_version
from batchmill.streams.view import StateView

__all__ = [
    "DOWN_ROWS",
    "STAGE",
    "Intent",
    "Terms",
    "Version",
    "commit_id_of",
    "inside_write",
    "intend",
    "line_of",
    "meet_verdict",
    "note_down",
    "note_forgotten",
    "note_up",
    "place_of",
    "settle",
    "write_of",
]

STAGE: Final = "committer"
#: writes of one job that can be in doubt at once: a cut of each sink it was ever placed in
_DOUBTS_MAX: Final = 10_000
#: of these looked at to see whether one is of a line on trial
_DOUBTS_SEEN_MAX: Final = 100
#: lines of one task that are noted to be down
_DOWN_MAX: Final = 1_000
_COMPARES: Final = SinkCapabilities(compares=True, revertible=False)

Version = tuple[str, str]  #: job, version


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a cut of writes is subject to beside the rows."""

    sinks: Mapping[str, SinkCapabilities]  #: by name; one that is not there is taken to compare, and is down
    share: Share
    down: Collection[str] = frozenset()  #: lines that are left alone for now
    trial: Collection[str] = frozenset()  #: lines that failed the last time: what is in doubt goes first, alone
    now_s: float = 0  #: of a monotonic clock
    buckets: Mapping[Version, Bucket] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A cut of writes about to be asked for; `orders` must be durable before the sink hears of `lives`."""

    orders: tuple[Order, ...]
    lives: tuple[Life, ...]  #: to be written, each with its commit id and the offset of its verdict
    inside: tuple[Life, ...] = ()  #: to be written inside, as they are
    after: str | None  #: where the next cut begins; None when the end was reached
    buckets: Mapping[Version, Bucket] = field(default_factory=dict)
    waiting: Mapping[tuple[str, str], int] = field(default_factory=dict)  #: lives left alone, by sink and cause
    due_ms: int | None = None  #: when the first of them may be looked at again
    due_s: float | None = None  #: the same for those that wait for the rate, from now


def meet_verdict(view: StateView, verdict: Verdict, offset: int, now_ms: int) -> list[Order]:
    """Note where the body of a life's verdict lies; a verdict on an answer the life no longer has is passed over.

    That of the answer a person was asked about is noted whatever they decided meanwhile: an undo brings it back.
    """
    life = read.life(view, verdict.request_id)
    if life is None:
        return []
    met = _met(life, verdict, offset)
    if not met:
        return []
    orders: list[Order] = [Put(evolve(life, **met, updated_at_ms=now_ms))]
    # Of a paused job nothing is written; the resumption wakes the writer.
    validated = life.status is Status.VALIDATED and not life.reverted
    writes = validated and "verdict_offset" in met and not _paused(view, life)
    return [*orders, Wake("commit")] if writes else orders


def _met(life: Life, verdict: Verdict, offset: int) -> dict[str, int]:
    """The offsets of a life that this verdict tells."""
    met: dict[str, int] = {}
    waits = life.status in {Status.VALIDATED, Status.NEEDS_REVIEW}
    if waits and life.output_sha256 == verdict.output_sha256:
        met["verdict_offset"] = offset
    declined = life.status is Status.FAILED_TERMINAL and life.reason is Reason.DECLINED
    asked = verdict.status is VerdictStatus.NEEDS_REVIEW and life.review_sha256 == verdict.output_sha256
    if asked and (waits or declined):
        met["review_offset"] = offset
    return met


def intend(
    view: StateView, jobs: CompiledJobs, terms: Terms, *, now_ms: int, limit: int, after: str | None = None
) -> Intent:
    """Look at up to `limit` validated lives past `after`: end the unwanted, leave those that must wait, intend the
    others. Lives in doubt are asked for again.

    A cut is to be settled before the next one takes lives of the same line, else these are met again as if in doubt.
    """
    found = view.scan("commit", "", after=after, limit=limit)
    cut = _Cut(view, jobs, terms, now_ms)
    for _, row in found:
        assert isinstance(row, Life)
        if row.verdict_offset is not None:  # else its verdict is on the way
            cut.take(row)
    return cut.intent(after=found[-1][0] if len(found) == limit else None)


class _Cut:
    """What a cut has decided so far; later lives of it must see what became of earlier ones."""

    def __init__(self, view: StateView, jobs: CompiledJobs, terms: Terms, now_ms: int) -> None:
        self._view = view
        self._jobs = jobs
        self._terms = terms
        self._now_ms = now_ms
        self._orders: list[Order] = []
        self._lives: list[Life] = []
        self._inside: list[Life] = []
        self._begun: set[tuple[str, str]] = set()  #: sources
        self._rooms: dict[Version, int | None] = {}
        self._buckets = dict(terms.buckets)
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._due_ms: list[int] = []
        self._due_s: list[float] = []

    def intent(self, *, after: str | None) -> Intent:
        return Intent(
            orders=tuple(self._orders),
            lives=tuple(self._lives),
            inside=tuple(self._inside),
            after=after,
            buckets=self._buckets,
            waiting=dict(self._waiting),
            due_ms=min(self._due_ms, default=None),
            due_s=min(self._due_s, default=None),
        )

    def take(self, life: Life) -> None:
        spec = compiled_version(self._view, self._jobs, life).spec
        can = self._terms.sinks.get(spec.place.sink, _COMPARES)
        if life.commit_id is None and self._ended(life):
            return
        if not can.compares and _outrun(self._view, life):
            self._supersede(life, spec.place.sink)
            return
        cause = self._cause(life, spec, can)
        if cause is not None:
            self._waiting[spec.place.sink, cause] += 1
        else:
            self._begin(life, can)

    def _ended(self, life: Life) -> bool:
        kept, said = end_if_unwanted(self._view, life, stage=STAGE, now_ms=self._now_ms)
        self._orders += [Put(kept), *said] if said else []
        return bool(said)

    def _supersede(self, life: Life, sink: str) -> None:
        """Known here, because a sink that cannot compare would not tell."""
        above = _above(self._view, life, self._now_ms)
        if above is not None:
            self._orders += [Put(above), Wake("commit")]
            return
        ended = moved(life, Superseded(), self._now_ms)
        detail = f"{sink} was given a newer rank of its source"
        self._orders += [Put(ended), obituary(ended, stage=STAGE, error=detail, now_ms=self._now_ms)]

    def _cause(self, life: Life, spec: JobSpec, can: SinkCapabilities) -> str | None:
        """Why the life has to wait, or None."""
        line = line_of(spec.place)
        down = line in self._terms.down
        if life.commit_id is not None:  # in doubt: nobody knows whether the sink took it
            return "sink" if down else None
        if _paused(self._view, life):
            return "paused"
        if life.due_at_ms is not None and life.due_at_ms > self._now_ms:
            self._due_ms.append(life.due_at_ms)
            return "undo"
        if down or (line in self._terms.trial and self._has_doubts(life.job, line)):
            return "sink"
        if not can.compares and self._is_source_busy(life):
            return "order"
        return self._limited(life, spec)

    def _has_doubts(self, job: str, line: str) -> bool:
        doubts = self._view.scan("doubt", f"{job}/", limit=_DOUBTS_SEEN_MAX)
        lives = [row for _, row in doubts if isinstance(row, Life)]
        return any(line_of(place_of(self._view, self._jobs, life)) == line for life in lives)

    def _is_source_busy(self, life: Life) -> bool:
        doubts = self._view.scan("doubt", f"{life.job}/{life.source_id}|", limit=1)
        return bool(doubts) or (life.job, life.source_id) in self._begun

    def _limited(self, life: Life, spec: JobSpec) -> str | None:
        version = (life.job, life.version)
        if version not in self._rooms:
            self._rooms[version] = self._room(life, spec)
        left = self._rooms[version]
        if left == 0:
            counts = counts_of(self._view, *version)
            return str(room(spec.commit, counts, self._terms.share, 0).held or "doubt")
        rate = spec.commit.per_second
        if rate is not None and not self._token(version, rate / self._terms.share.tasks):
            return "rate"
        if left is not None:
            self._rooms[version] = left - 1
        return None

    def _room(self, life: Life, spec: JobSpec) -> int | None:
        counts = counts_of(self._view, life.job, life.version)
        found = room(spec.commit, counts, self._terms.share, self._doubtful(counts, spec))
        self._orders += marked(counts, found.held)
        return found.left

    def _doubtful(self, counts: Counts, spec: JobSpec) -> int:
        """Writes that were begun and may have become commits."""
        if spec.commit.stop_after is None and spec.commit.stop_changed is None and counts.more is None:
            return 0
        doubts = self._view.scan("doubt", f"{counts.job}/", limit=_DOUBTS_MAX)
        return sum(isinstance(row, Life) and row.version == counts.version for _, row in doubts)

    def _token(self, version: Version, per_second: float) -> bool:
        bucket = allowance(self._buckets.get(version), self._terms.now_s, per_second)
        if bucket.tokens < 1:
            self._buckets[version] = bucket
            self._due_s.append(seconds_to_token(bucket, per_second))
            return False
        self._buckets[version] = replace(bucket, tokens=bucket.tokens - 1)
        return True

    def _begin(self, life: Life, can: SinkCapabilities) -> None:
        self._begun.add((life.job, life.source_id))
        if can.inside:
            self._inside.append(life)
            return
        if life.commit_id is None:
            life = _intended(self._view, life, self._now_ms)
            self._orders.append(Put(life))
        self._lives.append(life)


def _intended(view: StateView, life: Life, now_ms: int) -> Life:
    ranked = evolve(life, seq=max(life.seq, _newest_seq(view, life)))
    fact = CommitIntended(output_sha256=_sha256(ranked), commit_id=commit_id_of(ranked))
    return moved(ranked, fact, now_ms)


def _outrun(view: StateView, life: Life) -> bool:
    """Another request of its source was committed at a rank that this one does not exceed."""
    source = read.source(view, life.job, life.source_id)
    if source is None or source.committed_seq is None or source.committed_request_id == life.request_id:
        return False
    seq = life.seq if life.commit_id is not None else max(life.seq, _newest_seq(view, life))
    return (seq, life.promotion) <= (source.committed_seq, source.committed_promotion or 0)


def _newest_seq(view: StateView, life: Life) -> int:
    """The source's newest rank while this life answers for it; its own rank otherwise."""
    source = read.source(view, life.job, life.source_id)
    return life.seq if source is None or source.request_id != life.request_id else source.seq


def _above(view: StateView, life: Life, now_ms: int) -> Life | None:
    """A life that stands in front again, its version having come into force since it was ranked: it goes above what
    was written in between.
    """
    number = promotion_now(view, life)
    if not _is_newest(view, life) or number <= life.promotion:
        return None
    return evolve(life, commit_id=None, promotion=number, updated_at_ms=now_ms)


def _is_newest(view: StateView, life: Life) -> bool:
    source = read.source(view, life.job, life.source_id)
    return source is not None and source.request_id == life.request_id


def commit_id_of(life: Life) -> str:
    """Names one commit by content: the same request at the same rank with the same output."""
    return commit_id(life.request_id, life.seq, life.promotion, _sha256(life))


def place_of(view: StateView, jobs: CompiledJobs, life: Life) -> PlaceSpec:
    """Where the job says that output of this life goes; it may have changed since the life was made."""
    return compiled_version(view, jobs, life).spec.place


def line_of(place: PlaceSpec) -> str:
    """What fails as one, and is held as one: a sink; of Kafka, a topic."""
    return f"{place.sink}/{place.table}" if place.sink == "kafka" else place.sink


def note_down(view: StateView, line: str, why: str, now_ms: int) -> list[Order]:
    """Remember since when a line does not take writes, and what it said last, for people to see."""
    name = DOWN_ROWS + line
    known = read.meta(view, name)
    since_ms = now_ms if known is None else json.loads(known.value_json)["since_ms"]
    row = Meta(name=name, value_json=json.dumps({"since_ms": since_ms, "why": why}, separators=(",", ":")))
    return [] if row == known else [Put(row)]


def note_up(view: StateView, line: str) -> list[Order]:
    name = DOWN_ROWS + line
    return [] if read.meta(view, name) is None else [Delete(Meta.schema, name)]


def note_forgotten(view: StateView, failed: Collection[str]) -> list[Order]:
    """Take back what was noted of lines that are not known to fail: nothing waits for them any more, as when a job was
    given another place, or another worker noted it.
    """
    rows = [row for _, row in view.scan("down", DOWN_ROWS, limit=_DOWN_MAX) if isinstance(row, Meta)]
    return [Delete(Meta.schema, row.name) for row in rows if row.name.removeprefix(DOWN_ROWS) not in failed]


def inside_write(
    view: StateView, life: Life, verdict: Verdict, place: PlaceSpec, now_ms: int
) -> tuple[SinkWrite, list[Order]] | None:
    """The write of a life of an inside sink and its intent, for the transaction that also settles it. None when the
    life is not as it was when its verdict was asked for, or must not be written any more.
    """
    if read.life(view, life.request_id) != life:
        return None
    if life.commit_id is not None:
        return write_of(life, verdict, place), []
    if _paused(view, life) or unwanted(view, life) is not None:
        return None
    intended = _intended(view, life, now_ms)
    return write_of(intended, verdict, place), [Put(intended)]


def write_of(life: Life, verdict: Verdict, place: PlaceSpec) -> SinkWrite:
    """The write of an intended life; `verdict` was read back from the log at the life's verdict offset."""
    assert verdict.request_id == life.request_id, f"offset {life.verdict_offset} of validated is another request's"
    assert verdict.output_sha256 == life.output_sha256, f"verdict of {life.request_id} is on another answer"
    assert life.commit_id is not None, f"the commit of {life.request_id} was not intended"
    return SinkWrite(
        commit_id=life.commit_id,
        table=place.table,
        target_key=life.target_key,
        seq=life.seq,
        promotion=life.promotion,
        request_id=life.request_id,
        source_id=life.source_id,
        job=life.job,
        version=life.version,
        run_id=life.run_id,
        partition=place.partition,
        output_json=verdict.output_json,
        output_sha256=verdict.output_sha256,
    )


def settle(
    view: StateView, write: SinkWrite, result: SinkResult, *, sink: str, now_ms: int, fires: bool = False
) -> list[Order]:
    """What the sink's answer to one write means. Carry its orders out before settling the next write of a cut.

    `fires`: other jobs follow what this one commits.
    """
    assert result.commit_id == write.commit_id, f"the sink answered {result.commit_id} to {write.commit_id}"
    life = read.life(view, write.request_id)
    if life is None or life.commit_id != write.commit_id or life.status is not Status.VALIDATED or life.reverted:
        return []  # settled before: an answer that came twice
    match result.outcome:
        case SinkOutcome.APPLIED | SinkOutcome.ALREADY:
            return _committed(view, evolve(life, fires=fires), write, result, sink, now_ms)
        case SinkOutcome.STALE if _newest_seq(view, life) > life.seq:
            # it became the newest again while this write was in doubt: it goes once more, at its newer rank
            return [Put(evolve(life, commit_id=None, updated_at_ms=now_ms)), Wake("commit")]
        case SinkOutcome.STALE if (above := _above(view, life, now_ms)) is not None:
            return [Put(above), Wake("commit")]
        case SinkOutcome.STALE:
            ended = moved(life, Superseded(), now_ms)
            detail = f"the sink holds a newer rank, commit {result.held_commit_id}"
            return [Put(ended), obituary(ended, stage=STAGE, error=detail, now_ms=now_ms)]
        case SinkOutcome.CONFLICT:
            raise AssertionError(f"{sink} answered a write of {write.request_id} as if it were a change")
        case SinkOutcome.REFUSED:
            ended = moved(life, SinkRefused(output_sha256=write.output_sha256), now_ms)
            error = f"{sink} refused it: {result.error or 'without a reason'}"
            return [Put(ended), obituary(ended, stage=STAGE, error=error, now_ms=now_ms)]


def _committed(
    view: StateView, life: Life, write: SinkWrite, result: SinkResult, sink: str, now_ms: int
) -> list[Order]:
    fact = CommitApplied(output_sha256=write.output_sha256, commit_id=write.commit_id)
    done = moved(life, fact, now_ms)
    orders: list[Order] = [Put(done), Emit(_record(done, write, result, sink, now_ms), life_key(done))]
    orders += [Wake("then")] if done.fires else []
    source = read.source(view, life.job, life.source_id)
    if source is None:
        return orders
    if _is_older(write, source):
        # it was written before what the sink holds, and answers for the source again
        return [*orders, *(recalled(view, source, done, now_ms) if _is_newest(view, done) else [])]
    held = _holding(source, write, now_ms)
    return [*orders, Put(held), *recall(view, held, now_ms)]


def _is_older(write: SinkWrite, source: Source) -> bool:
    """Two writes of one source may be in doubt together, and the answer to the older one may be the later one."""
    noted = (source.committed_seq or 0, source.committed_promotion or 0)
    return source.committed_seq is not None and (write.seq, write.promotion) < noted


def _holding(source: Source, write: SinkWrite, now_ms: int) -> Source:
    return replace(
        source,
        committed_request_id=write.request_id,
        committed_seq=write.seq,
        committed_promotion=write.promotion,
        updated_at_ms=now_ms,
    )


def _record(life: Life, write: SinkWrite, result: SinkResult, sink: str, now_ms: int) -> Committed:
    return Committed(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        seq=write.seq,
        promotion=write.promotion,
        run_id=life.run_id,
        sink=sink,
        target_key=write.target_key,
        commit_id=write.commit_id,
        previous_commit_id=result.previous_commit_id,
        reverts=None,
        output_json=write.output_json,
        output_sha256=write.output_sha256,
        cost_nanos=None if life.unpriced_calls else life.cost_nanos,
        committed_at_ms=now_ms,
        origin=life.origin,
    )


def _sha256(life: Life) -> str:
    assert life.output_sha256 is not None, f"validated life {life.request_id} has no output"
    return life.output_sha256


def _paused(view: StateView, life: Life) -> bool:
    job = read.job(view, life.job)
    return job is not None and job.paused
