"""A work item arrives at its task: a new life, an answer from the store, a duplicate, or something overtaken.

The newest event of a source wins, by rank (seq, promotion); on equal rank the request that came first. An event that is
not the newest never gets a life and is never paid for. An event whose request is known already is a duplicate of it,
and yet says that this content is the newest again. So it may bring back a life that had been superseded or cancelled
(the event is then that life's own), or recall one that was committed while the sink holds another request. A raw event
that is read again is accounted for already: what it does not change, it says nothing about.

An item aside makes a life aside, whatever else is known of its source; when the same request arrives as an event's own,
that life comes forward with whatever answer it has.

`Life.queued_at_ms` is when the newest event that asks for the life was appended, or read again; a cancellation before
that instant is not about it.
"""

from dataclasses import replace
from typing import Final

from batchmill.schemas.ids import chunk_nonce, custom_id, dead_letter_id
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import DeadLetter, Excluded, Result, WorkItem
from batchmill.schemas.state import Life, Source
from batchmill.schemas.status import Outcome, Status
from batchmill.streams import following
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.controlling import knows_version
from batchmill.streams.dead_lettering import key_of_source
from batchmill.streams.facts import AnswerFound, BroughtForward, Recalled, Redriven, Superseded
from batchmill.streams.following import Askers
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.promoting import answers_for, bring_forward, set_aside
from batchmill.streams.settling import ENDED_AT_ONCE, end_if_unwanted, life_key, moved, obituary, unwanted
from batchmill.streams.staging import regrouped
from batchmill.streams.versioning import promotion_of, was_promoted
from batchmill.streams.view import StateView

__all__ = ["STORE_NONCE", "arrive", "from_store", "promotion_now", "recall", "recalled"]

_STAGE: Final = "submitter"
#: stands in the custom id of an answer that was read from the store
STORE_NONCE: Final = chunk_nonce("store")
#: ends of a life that a newer event for it undoes
_UNDONE_BY_EVENT: Final = frozenset({Reason.SUPERSEDED, Reason.CANCELLED})
#: of a life aside that is asked for again
_UNDONE_ASIDE: Final = _UNDONE_BY_EVENT | {Reason.NOT_PROMOTED}


def arrive(view: StateView, item: WorkItem, offset: int, *, now_ms: int) -> list[Order]:
    """What a work item at `offset` of `normalized` means for this task, which need not have heard of its job yet."""
    if item.aside:
        return _beside(view, item, offset, now_ms)
    source = read.source(view, item.job, item.source_id)
    if item.seq_from_log and source is not None and source.raw_partition != item.origin.partition:
        return [_moved_source(item, source, now_ms)]
    if item.replayed and _is_outdated(view, item):
        return []
    known = read.life(view, item.request_id)
    if known is not None and not known.aside:
        return _known(view, known, item, source, now_ms)
    if _cancelled(view, item):
        return _passed_over(item, Reason.CANCELLED, None, now_ms)
    if source is not None and not _newer(view, item, source):
        return _passed_over(item, Reason.SUPERSEDED, source.request_id, now_ms)
    if known is not None:
        return _forward(view, known, item, source, now_ms)
    return _new(view, item, offset, source, now_ms)


def _is_outdated(view: StateView, item: WorkItem) -> bool:
    """Another version was promoted since the event was read again: it has answers, or a replay, of its own."""
    job = read.job(view, item.job)
    if job is None or job.version == item.version or not knows_version(view, item.job, item.version):
        return False
    return promotion_of(job, job.version) > item.promotion


def recall(view: StateView, source: Source, now_ms: int) -> list[Order]:
    """Commit the newest request of a source again if the sink, by `source`, now holds another one.

    To be asked whenever either side changed. `source` is the row about to be put; the view need not have it yet.
    """
    newest = read.life(view, source.request_id)
    if newest is None or newest.status is not Status.COMMITTED:
        return []
    return recalled(view, source, newest, now_ms)


def recalled(view: StateView, source: Source, newest: Life, now_ms: int) -> list[Order]:
    """The same of a newest life that is about to be put as committed. It goes above what the sink holds."""
    if source.committed_request_id in {None, newest.request_id}:
        return []
    again = moved(newest, Recalled(), now_ms)
    held = (source.committed_seq or 0, source.committed_promotion or 0)
    if (source.seq, again.promotion) <= held:
        again = evolve(again, promotion=max(again.promotion, promotion_now(view, again)))
    return [Put(again), Wake("commit")]


def promotion_now(view: StateView, life: Life) -> int:
    """The number at which the life's version came into force last."""
    job = read.job(view, life.job)
    return promotion_of(job, life.version) if job is not None and was_promoted(job, life.version) else life.promotion


def from_store(view: StateView, life: Life, stored: Result | None, now_ms: int, *, jobs: CompiledJobs) -> list[Order]:
    """The stored answer at the life's result offset was read again: it answers this life too, at no cost.

    The life goes by the route that the answer was asked by: what the cascade went through for it is not paid again.
    If it is not there, or is not what `answers` says it is, the life queues to be paid for like any other. Nothing is
    done as long as the task has not heard of the life's version, since nobody could judge the answer.
    """
    if not knows_version(view, life.job, life.version):
        return []
    kept, said = end_if_unwanted(view, life, stage=_STAGE, now_ms=now_ms)
    if said:
        return [Put(kept), *said]
    answer = following.answer_for(view, life)
    if stored is None or answer is None or not _is_that(stored, answer.request_id, answer.output_sha256):
        return [*following.asked_after_all(view, life, answer, now_ms), Wake("sealing")]
    fact = AnswerFound(output_sha256=answer.output_sha256)
    likeness = following.likeness_to(view, life)
    found = _on_route(view, moved(life, fact, now_ms), answer.route, jobs)
    return [Put(found), Emit(_stored_result(life, stored, likeness, now_ms), key=life_key(life))]


def _on_route(view: StateView, life: Life, route: str, jobs: CompiledJobs) -> Life:
    if route == life.route:
        return life
    row = read.job(view, life.job)
    job = None if row is None else jobs.of(row, life.version)
    assert job is not None, f"life {life.request_id} has version {life.version}, which the task was said to know"
    return evolve(life, route=route, lane=job.routes.of(route).lane)


def _is_that(stored: Result, request_id: str, output_sha256: str) -> bool:
    same = stored.request_id == request_id and stored.output_sha256 == output_sha256
    return same and stored.outcome is Outcome.SUCCEEDED


def _stored_result(life: Life, stored: Result, likeness: float | None, now_ms: int) -> Result:
    """`likeness` None: to the very same question."""
    return replace(
        stored,
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        attempt=life.attempt,
        custom_id=custom_id(life.request_id, life.sends, STORE_NONCE),
        input_tokens=0,
        output_tokens=0,
        cached_tokens=0,
        cache_write_tokens=0,
        tier=None,
        cost_nanos=0,
        answered_by="store" if likeness is None else "near",
        of_request_id=stored.request_id,
        similarity=likeness,
        received_at_ms=now_ms,
    )


# -- a new request -----------------------------------------------------------------------------------------------------


def _new(view: StateView, item: WorkItem, offset: int, source: Source | None, now_ms: int) -> list[Order]:
    overtaken = _overtaken(view, source, item, now_ms)
    life = Askers(view, but=overtaken).come(_born(item, offset, now_ms))
    return [Put(life), Put(_newest(source, item, now_ms)), *overtaken, Wake(following.effect_of(life))]


def _born(item: WorkItem, offset: int, now_ms: int) -> Life:
    return Life(
        request_id=item.request_id,
        job=item.job,
        version=item.version,
        ask_key=item.ask_key,
        source_id=item.source_id,
        seq=item.seq,
        promotion=item.promotion,
        run_id=item.run_id,
        lane=item.lane,
        target_key=item.target_key,
        status=Status.QUEUED,
        attempt=0,
        sends=0,
        chunk_id=None,
        queued_at_ms=_asked_at_ms(item, now_ms),
        due_at_ms=None,
        reason=None,
        tokens_estimate=item.tokens_estimate,
        bytes_estimate=item.bytes_estimate,
        input_offset=offset,
        result_offset=None,
        verdict_offset=None,
        output_sha256=None,
        commit_id=None,
        cost_nanos=0,
        unpriced_calls=0,
        input_tokens=0,
        output_tokens=0,
        confidence=None,
        redrives=0,
        traceparent=item.traceparent,
        aside=item.aside,
        epoch=item.epoch,
        route=item.route,
        parent=item.parent,
        part=item.part,
        near_key=item.near_key,
        origin=item.origin,
        updated_at_ms=now_ms,
    )


def _newest(source: Source | None, item: WorkItem, now_ms: int) -> Source:
    if source is not None:
        return replace(source, seq=item.seq, request_id=item.request_id, updated_at_ms=now_ms)
    return Source(
        job=item.job,
        source_id=item.source_id,
        seq=item.seq,
        request_id=item.request_id,
        committed_request_id=None,
        committed_seq=None,
        committed_promotion=None,
        raw_partition=item.origin.partition,
        updated_at_ms=now_ms,
    )


def _overtaken(view: StateView, source: Source | None, item: WorkItem, now_ms: int) -> list[Order]:
    """End the request that was the newest until now, if nothing of it is in flight; others end when they settle. One
    that was asked about the same raw event stands aside.
    """
    old = None if source is None else read.life(view, source.request_id)
    if old is None or old.request_id == item.request_id:
        return []
    if old.origin == item.origin:
        return set_aside(old, by=item.request_id, now_ms=now_ms)
    if old.chunk_id is not None or old.status not in ENDED_AT_ONCE:
        return []
    ended = moved(old, Superseded(), now_ms)
    return [Put(ended), obituary(ended, stage=_STAGE, error="", now_ms=now_ms, of_request_id=item.request_id)]


def _beside(view: StateView, item: WorkItem, offset: int, now_ms: int) -> list[Order]:
    """A version that does not answer for the event is asked about it; once, however often the event comes. What ended
    because nobody waited for it is asked after all, if somebody does by now.
    """
    known = read.life(view, item.request_id)
    if _cancelled(view, item) or not (known is None or _is_wanted_again(view, known, item, now_ms)):
        return []
    life = Askers(view).come(_born(item, offset, now_ms)) if known is None else _again(view, known, item, now_ms)
    job, source = read.job(view, item.job), read.source(view, item.job, item.source_id)
    woken = Wake(following.effect_of(life))
    if job is not None and job.version == item.version and source is not None and answers_for(view, life, source):
        # its version was promoted while the item was on the way
        return [*bring_forward(view, life, source, promotion_of(job, item.version), now_ms), woken]
    return [Put(life), woken]


def _is_wanted_again(view: StateView, life: Life, item: WorkItem, now_ms: int) -> bool:
    has_ended = life.aside and life.status is Status.FAILED_TERMINAL and life.reason in _UNDONE_ASIDE
    return has_ended and unwanted(view, evolve(life, queued_at_ms=_asked_at_ms(item, now_ms))) is None


def _forward(view: StateView, life: Life, item: WorkItem, source: Source | None, now_ms: int) -> list[Order]:
    """A life that stood aside answers for this event from now on."""
    orders: list[Order] = [Put(_newest(source, item, now_ms)), *_overtaken(view, source, item, now_ms)]
    own = evolve(life, aside=False, origin=item.origin, run_id=item.run_id, queued_at_ms=_asked_at_ms(item, now_ms))
    if life.status is Status.FAILED_TERMINAL:
        return [*orders, *_brought_back(view, own, item, now_ms)]
    if life.commit_id is None:
        own = evolve(own, seq=item.seq)  # it may have been asked aside about an event of another rank
    ahead = moved(own, BroughtForward(seq=item.seq, promotion=item.promotion), now_ms)
    return [*orders, Put(ahead), Wake("commit")]


# -- a known request ---------------------------------------------------------------------------------------------------


def _known(view: StateView, life: Life, item: WorkItem, source: Source | None, now_ms: int) -> list[Order]:
    if item.replayed and item.origin != life.origin:
        return _answers_too(view, life, item, source, now_ms)
    if item.origin == life.origin:
        return []  # read again: the event is accounted for, and the life has what can be had under its version
    duplicate = _excluded(item, Reason.DUPLICATE, life.request_id, now_ms)
    told = regrouped(life, item)
    again: list[Order] = [] if told is life else [Put(told), Wake("then")]
    life = told
    if _cancelled(view, item) or source is None or item.seq <= source.seq:
        return [duplicate, *again]
    newest = _newest(source, item, now_ms)
    overtaken = _overtaken(view, source, item, now_ms)
    if life.status is Status.FAILED_TERMINAL and life.reason in _UNDONE_BY_EVENT:
        return [*_brought_back(view, life, item, now_ms), Put(newest), *overtaken]
    asked = _asked_again(life, item, now_ms)
    if asked.status is Status.COMMITTED and newest.committed_request_id not in {None, asked.request_id}:
        asked = moved(asked, Recalled(), now_ms)
    return [Put(asked), Put(newest), duplicate, *overtaken, Wake("commit"), Wake("then")]


def _answers_too(view: StateView, life: Life, item: WorkItem, source: Source | None, now_ms: int) -> list[Order]:
    """An event of the same content as the life's own was read again. Where another version answers for it, as it did
    when it came, this life does from now on; the event is a duplicate of its own.
    """
    front = None if source is None else read.life(view, source.request_id)
    if source is None or front is None or front.origin != item.origin or not _newer(view, item, source):
        return []
    if _cancelled(view, item) or life.status is Status.FAILED_TERMINAL or life.reverted:
        return []
    newest = _newest(source, item, now_ms)
    asked = evolve(_asked_again(life, item, now_ms), promotion=max(life.promotion, item.promotion))
    orders: list[Order] = [Put(newest), *_overtaken(view, source, item, now_ms)]
    written = recalled(view, newest, asked, now_ms) if asked.status is Status.COMMITTED else []
    duplicate = _excluded(item, Reason.DUPLICATE, life.request_id, now_ms)
    return [*orders, *(written or [Put(asked)]), duplicate, Wake("commit")]


def _asked_again(life: Life, item: WorkItem, now_ms: int) -> Life:
    """Take the newer rank, unless a sink write of the older one is in doubt: that one is repeated as it was."""
    in_doubt = life.status is Status.VALIDATED and life.commit_id is not None
    seq = life.seq if in_doubt else item.seq
    return evolve(life, seq=seq, queued_at_ms=item.origin.at_ms, updated_at_ms=now_ms)


def _brought_back(view: StateView, life: Life, item: WorkItem, now_ms: int) -> list[Order]:
    again = _again(view, life, item, now_ms)
    return [Put(again), Wake(following.effect_of(again))]


def _again(view: StateView, life: Life, item: WorkItem, now_ms: int) -> Life:
    """Make the event the life's own; its earlier event stays counted as excluded. A known answer is not paid again."""
    fact = Redriven(to=Status.QUEUED, asked_at_ms=_asked_at_ms(item, now_ms), result_offset=None)
    own = {"seq": item.seq, "promotion": item.promotion, "origin": item.origin, "run_id": item.run_id}
    # what became of its earlier answer was not that answer's fault: it may take it again
    return Askers(view).come(evolve(moved(life, fact, now_ms), **own, output_sha256=None))


# -- shared ------------------------------------------------------------------------------------------------------------


def _newer(view: StateView, item: WorkItem, source: Source) -> bool:
    """A promotion ranks versions of one event: read again under it, an event does not overtake another of its rank."""
    newest = read.life(view, source.request_id)
    if item.replayed and item.seq == source.seq and newest is not None and newest.origin != item.origin:
        return False
    known_promotion = newest.promotion if newest is not None else source.committed_promotion or 0
    return (item.seq, item.promotion) > (source.seq, known_promotion)


def _cancelled(view: StateView, item: WorkItem) -> bool:
    job = read.job(view, item.job)
    return job is not None and job.cancelled_before_ms is not None and item.origin.at_ms <= job.cancelled_before_ms


def _asked_at_ms(item: WorkItem, now_ms: int) -> int:
    """An event that is read again is asked about now: it is not late, and stands behind what is live."""
    return now_ms if item.replayed else item.origin.at_ms


def _passed_over(item: WorkItem, reason: Reason, of_request_id: str | None, now_ms: int) -> list[Order]:
    """Excluded; an event that is read again stays where it is accounted for."""
    return [] if item.replayed else [_excluded(item, reason, of_request_id, now_ms)]


def _excluded(item: WorkItem, reason: Reason, of_request_id: str | None, now_ms: int) -> Emit:
    record = Excluded(
        id=_letter_id(item, reason),
        request_id=item.request_id,
        job=item.job,
        version=item.version,
        source_id=item.source_id,
        stage=_STAGE,
        reason=reason,
        detail="",
        of_request_id=of_request_id,
        cost_nanos=0,
        excluded_at_ms=now_ms,
        origin=item.origin,
    )
    return Emit(record, key=item.request_id.encode())


def _letter_id(item: WorkItem, reason: Reason) -> str:
    at = item.origin
    return dead_letter_id(
        _STAGE, reason, generation=at.generation, partition=at.partition, offset=at.offset, request_id=item.request_id
    )


def _moved_source(item: WorkItem, source: Source, now_ms: int) -> Emit:
    record = DeadLetter(
        id=_letter_id(item, Reason.SOURCE_MOVED),
        request_id=None,  # it never became one: redriving reads the raw event again, in its own partition
        job=item.job,
        version=item.version,
        source_id=item.source_id,
        stage=_STAGE,
        reason=Reason.SOURCE_MOVED,
        error=(
            f"the job ranks events by their place in raw, but this source was seen on raw partition "
            f"{source.raw_partition} and now on {item.origin.partition}: key raw by source id, or declare `seq`"
        ),
        retryable=info(Reason.SOURCE_MOVED).retryable,
        fault=info(Reason.SOURCE_MOVED).fault.value,
        attempt=0,
        cost_nanos=0,
        original=item.input_json.encode(),
        original_sha256=item.input_sha256,
        original_bytes=len(item.input_json.encode()),
        original_uri=None,
        redrives=0,
        failed_at_ms=now_ms,
        origin=item.origin,
    )
    return Emit(record, key=key_of_source(item.source_id), partition=item.origin.partition)
