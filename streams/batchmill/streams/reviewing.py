"""What a person decided about an answer that waits in review: decisions -> validated, or the end.

A decision counts for the answer its author saw, and only while that answer still waits; anything else is stale and
changes nothing. Accepting publishes no second verdict: the answer is the one in `validated` already, and the decision
itself is kept for ever. A correction is judged like any other answer before it may take the answer's place.
"""

from enum import StrEnum
from typing import Final

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.records import Decision
from batchmill.schemas.state import Life
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.facts import ReviewAccepted, ReviewDeclined
from batchmill.streams.jsontext import canonical, decode
from batchmill.streams.judging import OUTPUT_BYTES_MAX, Judgement, judge_output
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.settling import carried, life_key, obituary
from batchmill.streams.unusable import Unusable
from batchmill.streams.validating import compiled_version, verdict_of
from batchmill.streams.view import StateView

__all__ = ["STAGE", "Ruling", "correction", "review"]

STAGE: Final = "reviewer"


class Ruling(StrEnum):
    """What a decision may say."""

    ACCEPT = "accept"
    CORRECT = "correct"
    DECLINE = "decline"


def review(view: StateView, decision: Decision, *, jobs: CompiledJobs, now_ms: int) -> list[Order]:
    """What `decision` changes; nothing when it is stale or its action is unknown."""
    life = read.life(view, decision.request_id)
    if life is None or life.status is not Status.NEEDS_REVIEW:
        return []
    match decision.action:
        case Ruling.ACCEPT:
            return _accepted(life, decision.output_sha256_seen, now_ms)
        case Ruling.CORRECT:
            return _corrected(life, decision, compiled_version(view, jobs, life), now_ms)
        case Ruling.DECLINE:
            return _declined(life, decision, now_ms)
        case _:
            return []


def correction(job: CompiledJob, decision: Decision) -> Judgement:
    """The judgement on a correction, or `Unusable`. For the door that takes decisions, too: refuse there, at once."""
    output = decode((decision.output_json or "").encode(), bytes_max=OUTPUT_BYTES_MAX)
    output_json = canonical(output).decode()
    return judge_output(job.judge, request_id=decision.request_id, output=output, output_json=output_json)


def _accepted(life: Life, seen_sha256: str, now_ms: int) -> list[Order]:
    after, did_move = carried(life, ReviewAccepted(seen_sha256=seen_sha256, output_sha256=seen_sha256), now_ms)
    return [Put(after), Wake("commit")] if did_move else []


def _corrected(life: Life, decision: Decision, job: CompiledJob, now_ms: int) -> list[Order]:
    try:
        judgement = correction(job, decision)
    except Unusable as wrong:
        return [Put(evolve(life, reason=wrong.reason, updated_at_ms=now_ms))]
    if judgement.reason is not None:
        # it stays in review, and says why; the door that took it should have refused it
        return [Put(evolve(life, reason=judgement.reason, updated_at_ms=now_ms))]
    assert judgement.output_json is not None
    sha256 = content_sha256(judgement.output_json.encode())
    fact = ReviewAccepted(seen_sha256=decision.output_sha256_seen, output_sha256=sha256)
    after, did_move = carried(life, fact, now_ms)
    if not did_move:
        return []
    after = evolve(after, verdict_offset=None, confidence=judgement.confidence)
    verdict = verdict_of(after, judgement, status=VerdictStatus.VALIDATED, decided_by=decision.actor, now_ms=now_ms)
    return [Put(after), Emit(verdict, life_key(after))]


def _declined(life: Life, decision: Decision, now_ms: int) -> list[Order]:
    after, did_move = carried(life, ReviewDeclined(seen_sha256=decision.output_sha256_seen), now_ms)
    if not did_move:
        return []
    error = f"declined by {decision.actor}" + (f": {decision.reason}" if decision.reason else "")
    return [Put(after), obituary(after, stage=STAGE, error=error, now_ms=now_ms)]
