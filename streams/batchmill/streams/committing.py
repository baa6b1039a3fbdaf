"""What may be written downstream, and what became of it: validated -> committed.

Three steps, each durable before the next: a verdict is met (its place in the log noted), a write is intended (the life
carries its commit id), the sink has answered. A crash in between leaves a validated life with a commit id; that write
is asked for again, whatever happened to the job meanwhile, and the sink knows the id. The sink compares ranks, so the
order in which writes arrive does not matter; a life that is the newest of its source goes at the source's newest rank.
"""

from dataclasses import dataclass, replace
from typing import Final

from batchmill.schemas.ids import commit_id
from batchmill.schemas.jobs import PlaceSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, Verdict
from batchmill.schemas.state import Life, Source
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.facts import CommitApplied, CommitIntended, SinkRefused, Superseded
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.ports import SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.queueing import recall
from batchmill.streams.settling import end_if_unwanted, life_key, moved, obituary
from batchmill.streams.validating import compiled_version
from batchmill.streams.view import StateView

__all__ = ["STAGE", "Intent", "commit_id_of", "intend", "meet_verdict", "place_of", "settle", "write_of"]

STAGE: Final = "committer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A cut of writes about to be asked for; `orders` must be durable before the sink hears of `lives`."""

    orders: tuple[Order, ...]
    lives: tuple[Life, ...]  #: to be written, each with its commit id and the offset of its verdict
    after: str | None  #: where the next cut begins; None when the end was reached


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
    writes = life.status is Status.VALIDATED and "verdict_offset" in met and not _paused(view, life)
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


def intend(view: StateView, *, now_ms: int, limit: int, after: str | None = None) -> Intent:
    """Look at up to `limit` validated lives past `after`: end the unwanted, leave the paused, intend the others.

    A cut is to be settled before the next is taken, else its lives are met again, as writes in doubt.
    """
    found = view.scan("commit", "", after=after, limit=limit)
    orders: list[Order] = []
    lives: list[Life] = []
    for _, row in found:
        assert isinstance(row, Life)
        if row.verdict_offset is None:
            continue  # its verdict is on the way
        if row.commit_id is not None:
            lives.append(row)  # in doubt: nobody knows whether the sink took it
            continue
        kept, said = end_if_unwanted(view, row, stage=STAGE, now_ms=now_ms)
        if said:
            orders += [Put(kept), *said]
        elif not _paused(view, row):
            kept = _intended(view, row, now_ms)
            orders.append(Put(kept))
            lives.append(kept)
    return Intent(orders=tuple(orders), lives=tuple(lives), after=found[-1][0] if len(found) == limit else None)


def _intended(view: StateView, life: Life, now_ms: int) -> Life:
    ranked = evolve(life, seq=max(life.seq, _newest_seq(view, life)))
    fact = CommitIntended(output_sha256=_sha256(ranked), commit_id=commit_id_of(ranked))
    return moved(ranked, fact, now_ms)


def _newest_seq(view: StateView, life: Life) -> int:
    """The source's newest rank while this life answers for it; its own rank otherwise."""
    source = read.source(view, life.job, life.source_id)
    return life.seq if source is None or source.request_id != life.request_id else source.seq


def commit_id_of(life: Life) -> str:
    """Names one commit by content: the same request at the same rank with the same output."""
    return commit_id(life.request_id, life.seq, life.promotion, _sha256(life))


def place_of(view: StateView, jobs: CompiledJobs, life: Life) -> PlaceSpec:
    """Where the job says that output of this life goes; it may have changed since the life was made."""
    return compiled_version(view, jobs, life).spec.place


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
        output_json=verdict.output_json,
        output_sha256=verdict.output_sha256,
    )


def settle(view: StateView, write: SinkWrite, result: SinkResult, *, sink: str, now_ms: int) -> list[Order]:
    """What the sink's answer to one write means. Carry its orders out before settling the next write of a cut."""
    assert result.commit_id == write.commit_id, f"the sink answered {result.commit_id} to {write.commit_id}"
    life = read.life(view, write.request_id)
    if life is None or life.commit_id != write.commit_id or life.status is not Status.VALIDATED:
        return []  # settled before: an answer that came twice
    match result.outcome:
        case SinkOutcome.APPLIED | SinkOutcome.ALREADY:
            return _committed(view, life, write, result, sink, now_ms)
        case SinkOutcome.STALE if _newest_seq(view, life) > life.seq:
            # it became the newest again while this write was in doubt: it goes once more, at its newer rank
            return [Put(evolve(life, commit_id=None, updated_at_ms=now_ms)), Wake("commit")]
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
    source = read.source(view, life.job, life.source_id)
    if source is None or _is_older(write, source):
        return orders
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
