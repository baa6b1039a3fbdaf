"""What a judgement means for a life: validated, review, another attempt, or the end: results -> validated.

The checks themselves are `judging`. Each answer is judged under the version it was asked under. An answer worth reading
again is noted in `answers` before anything else is decided, so that what was paid for serves every later request with
the same question, even if nobody waits for this one any more.

Some judges read the record's input, which lies in `normalized`. A slice cannot read the log, so there it is only noted
where the answer lies (the life stays `succeeded_unvalidated`, with a result offset); effect `judge` reads both bodies
and comes back with them (`validate_beside`). All other answers are judged where they are met.

Where a job has a cascade, an answer that is no good is asked for again by the next route, at once, instead of being
rejected or shown to a person. That is no retry: it needs no attempt to be left, though the attempts of all routes are
counted together. First come the rules that mend an answer on the same route (more room for one that was cut off); what
a model declines to answer is not put to another. Only the last route's answer is judged for good.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from batchmill.schemas.ids import content_sha256, parse_custom_id
from batchmill.schemas.jobs import JobSpec, Severity
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import Check, Result, Verdict, WorkItem
from batchmill.schemas.state import Answer, Life
from batchmill.schemas.status import Outcome, Status, VerdictStatus
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.facts import Condemned, Fact, Passed, Rejected, SentToReview
from batchmill.streams.isolating import answer_gone
from batchmill.streams.judging import Judgement, judge_text
from batchmill.streams.lifecycle import Impossible, evolve
from batchmill.streams.orders import Emit, Order, Put, Wake
from batchmill.streams.retrying import SENDS_MAX, next_due_ms, or_spent
from batchmill.streams.routing import Route, next_route
from batchmill.streams.scoring import question
from batchmill.streams.settling import ImpossibleError, carried, end_if_unwanted, life_key, obituary
from batchmill.streams.view import StateView

__all__ = [
    "DERIVED",
    "STAGE",
    "compiled_version",
    "faults_of",
    "judgement_on",
    "refuses",
    "scorer_of",
    "validate",
    "validate_beside",
    "verdict_of",
    "waiting",
]

STAGE: Final = "validator"
#: by these no judge can ever pass the answer, since they depend on what was asked
_NOT_WORTH_KEEPING: Final = frozenset({Reason.NOT_JSON, Reason.TRUNCATED, Reason.SCHEMA_MISMATCH, Reason.OVERSIZED})
#: by whom a result is answered whose text is another one's, and stored as that one's
_COPIES: Final = frozenset({"store", "near"})
#: the check that marks an answer which was given to another input
DERIVED: Final = "derived"
#: of an answer that is no JSON; what it takes as a JSON text, escapes included, still fits a record
_SHOWN_CHARS_MAX: Final = 100_000


def validate(view: StateView, result: Result, offset: int, *, jobs: CompiledJobs, now_ms: int) -> list[Order]:
    """What the answer at `offset` of `results` means; nothing for rows without an answer, or for a late one."""
    life = read.life(view, result.request_id)
    if life is None or result.outcome is not Outcome.SUCCEEDED:
        return []
    job = compiled_version(view, jobs, life)
    if _waits(job):
        return _noted(life, result, offset, now_ms)
    return _judged(view, life, result, job, judgement_on(job, result, None), None, offset=offset, now_ms=now_ms)


def waiting(view: StateView, jobs: CompiledJobs, limit: int) -> list[Life]:
    """Up to `limit` lives whose answers wait to be judged beside their inputs."""
    found = [row for _, row in view.scan("judge", "", limit=limit) if isinstance(row, Life)]
    # of a job that judges at once such a life waits for a result of its own, which the slice will bring
    return [life for life in found if _waits(compiled_version(view, jobs, life))]


def validate_beside(
    view: StateView, seen: Life, result: Result | None, item: WorkItem | None, *, jobs: CompiledJobs, now_ms: int
) -> list[Order]:
    """What the answer of a waiting life means; the bodies were read where `seen` says, None: retention removed it."""
    life = read.life(view, seen.request_id)
    if life is None or life.status is not Status.SUCCEEDED_UNVALIDATED or life.result_offset != seen.result_offset:
        return []  # something else became of it while the bodies were read
    offset = life.result_offset
    assert offset is not None, f"nothing says where the answer of {life.request_id} lies"
    if result is None or item is None:
        return answer_gone(life, "results" if result is None else "normalized", now_ms)
    assert result.request_id == life.request_id, f"offset {offset} of results is another request's"
    assert item.request_id == life.request_id, f"offset {life.input_offset} of normalized is another request's"
    job = compiled_version(view, jobs, life)
    judgement = judgement_on(job, result, orjson.loads(item.input_json))
    return _judged(view, life, result, job, judgement, item, offset=offset, now_ms=now_ms)


def scorer_of(spec: JobSpec) -> str | None:
    """The job that gives second opinions on this one's answers."""
    return None if spec.judge.scoring is None else spec.judge.scoring.job


def judgement_on(job: CompiledJob, result: Result, item_input: Any) -> Judgement:
    """The judgement on an answer as it came; `item_input` None: the judge does not read it."""
    return judge_text(
        job.judge,
        request_id=result.request_id,
        text=result.output or "",
        finish_reason=result.finish_reason,
        refusal=result.refusal,
        item_input=item_input,
        logprob_mean=result.logprob_mean,
    )


def refuses(orders: Sequence[Order]) -> bool:
    """Whether what `validate` ordered means that the answer was paid for and is no good."""
    failed = {Status.FAILED_RETRYABLE, Status.FAILED_TERMINAL}
    lives = (order.row for order in orders if isinstance(order, Put) and isinstance(order.row, Life))
    return any(life.status in failed and life.reason is not None and not info(life.reason).excluded for life in lives)


def compiled_version(view: StateView, jobs: CompiledJobs, life: Life) -> CompiledJob:
    """The version a life was made under; rows keep a version as long as lives of it are open."""
    row = read.job(view, life.job)
    job = None if row is None else jobs.of(row, life.version)
    assert job is not None, f"life {life.request_id} names version {life.version} of {life.job}, which the task lacks"
    return job


def faults_of(checks: tuple[Check, ...]) -> str:
    """The failed checks as one sentence for people, free of payload."""
    failed = (check for check in checks if not check.passed)
    return "; ".join(f"{check.id} {check.path or ''}".rstrip() + f": {check.note}" for check in failed)


def verdict_of(life: Life, judgement: Judgement, *, status: VerdictStatus, decided_by: str, now_ms: int) -> Verdict:
    """The record of a judgement on `life`, which has taken it already."""
    assert judgement.output_json is not None
    assert life.output_sha256 is not None
    return Verdict(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        seq=life.seq,
        promotion=life.promotion,
        attempt=life.attempt,
        status=status,
        output_json=judgement.output_json,
        output_sha256=life.output_sha256,
        checks=judgement.checks,
        confidence=judgement.confidence,
        target_key=life.target_key,
        decided_by=decided_by,
        aside=life.aside,
        judged_at_ms=now_ms,
    )


def _waits(job: CompiledJob) -> bool:
    """Whether its answers are judged beside their inputs: the judge reads those, or the scoring job is shown them."""
    return job.judge.reads_input or scorer_of(job.spec) is not None


def _noted(life: Life, result: Result, offset: int, now_ms: int) -> list[Order]:
    """Leave the answer to the effect; a late one, or the same again, is passed over."""
    sends = _sends_of(result)
    if sends > life.sends:
        raise ImpossibleError(Impossible(life.request_id, life.status, "Result", f"it was sent {life.sends} times"))
    waits = life.status is Status.SUCCEEDED_UNVALIDATED and life.result_offset is None
    if not waits or sends != life.sends:
        return []
    return [Put(evolve(life, result_offset=offset, updated_at_ms=now_ms)), Wake("judge")]


def _judged(
    view: StateView,
    life: Life,
    result: Result,
    job: CompiledJob,
    judgement: Judgement,
    item: WorkItem | None,
    *,
    offset: int,
    now_ms: int,
) -> list[Order]:
    judgement = _marked(_readable(judgement, result), result)
    due_at_ms = _due_at_ms(life, judgement, job, now_ms)
    asked = _question(life, job.spec, judgement, item)
    onto = _escalated(life, job, judgement, due_at_ms)
    due_at_ms = due_at_ms if onto is None else now_ms
    fact = _fact(result, offset, job.spec, judgement, due_at_ms if due_at_ms is not None else now_ms, asked, onto)
    after, did_move = carried(life, fact, now_ms)
    if not did_move:
        return [] if after is life else [Put(after)]
    if isinstance(fact, Rejected):
        after = or_spent(_with_room(after, fact, due_at_ms), due_at_ms, now_ms)
    kept, said = end_if_unwanted(view, after, stage=STAGE, now_ms=now_ms)
    if not said and kept.status is Status.FAILED_TERMINAL:
        error, checks = faults_of(judgement.checks), judgement.checks
        said = [obituary(kept, stage=STAGE, error=error, now_ms=now_ms, checks=checks)]
    orders: list[Order] = []
    asks_on = onto is not None and not said  # whoever has the same question waits for the better answer
    if judgement.reason not in _NOT_WORTH_KEEPING and result.answered_by not in _COPIES and not asks_on:
        orders += [Put(_answer(life, result, offset, now_ms)), Wake("stored")]
    if not said and isinstance(fact, Passed | SentToReview):
        # the offset of the new verdict is known when the committer meets it; an older one is another answer's
        kept = evolve(kept, verdict_offset=None)
        said = [_published(kept, judgement, fact, now_ms), *([] if asked is None else [asked])]
    return [*orders, Put(kept), *said, *([Wake("retry")] if asks_on else [])]


def _escalated(life: Life, job: CompiledJob, judgement: Judgement, due_at_ms: int | None) -> Route | None:
    """The route that is asked next because this answer is no good; None: it is judged for good."""
    onto, reason = next_route(job.routes, life.route), judgement.reason
    if onto is None or life.sends >= SENDS_MAX or reason is Reason.MODEL_REFUSAL:
        return None
    if reason is Reason.TRUNCATED and job.spec.judge.on_reject == "retry" and due_at_ms is not None:
        return None  # it is given more room first
    low = (check for check in judgement.checks if check.id == "confidence" and not check.passed)
    found = {"rejected": reason is not None, "unsure": any(low)}
    return onto if any(found[kind] for kind in job.routes.escalate_on) else None


def _question(life: Life, spec: JobSpec, judgement: Judgement, item: WorkItem | None) -> Emit | None:
    """What the scoring job is asked about this answer; None when it is not asked, or cannot be."""
    if not judgement.wants_score:
        return None
    scorer = scorer_of(spec)
    assert scorer is not None, f"the judge of {spec.job} wants a score that no job gives"
    assert item is not None, f"an answer of {life.request_id} was judged without its input"
    assert judgement.output_json is not None, f"an answer of {life.request_id} passed and is none"
    return question(life, scorer=scorer, input_json=item.input_json, output_json=judgement.output_json)


def _readable(judgement: Judgement, result: Result) -> Judgement:
    """A reviewer has to see what is no JSON as well: as the text it is."""
    if judgement.output_json is not None:
        return judgement
    shown = orjson.dumps((result.output or result.refusal or "")[:_SHOWN_CHARS_MAX]).decode()
    return replace(judgement, output_json=shown)


def _marked(judgement: Judgement, result: Result) -> Judgement:
    """An answer to another question says so wherever its verdict is seen."""
    if result.answered_by != "near":
        return judgement
    note = f"the answer of request {result.of_request_id}, whose input is about {result.similarity or 0:.0%} the same"
    derived = Check(id=DERIVED, severity=Severity.WARN, passed=True, path=None, note=note)
    return replace(judgement, checks=(*judgement.checks, derived))


def _due_at_ms(life: Life, judgement: Judgement, job: CompiledJob, now_ms: int) -> int | None:
    if judgement.reason is None:
        return None
    if judgement.reason is Reason.TRUNCATED and not _more_room(life, job):
        return None  # the same question would be cut off at the same place, and be paid for again
    return next_due_ms(life, judgement.reason, job.spec.retry, now_ms)


def _more_room(life: Life, job: CompiledJob) -> bool:
    form = job.routes.of(life.route).form
    return life.room < job.spec.retry.truncated.times and form.output_tokens_max() is not None


def _with_room(life: Life, fact: Rejected, due_at_ms: int | None) -> Life:
    """Its next attempt may answer at greater length; on another route it begins with that one's own limit."""
    if fact.route is not None:
        return evolve(life, room=0)
    grows = fact.reason is Reason.TRUNCATED and due_at_ms is not None
    return evolve(life, room=life.room + 1) if grows else life


def _sends_of(result: Result) -> int:
    named = parse_custom_id(result.custom_id)
    assert named is not None, f"result of {result.request_id} has a custom id that is none of ours"
    return named.sends


def _fact(
    result: Result,
    offset: int,
    spec: JobSpec,
    judgement: Judgement,
    due_at_ms: int,
    asked: Emit | None,
    onto: Route | None,
) -> Fact:
    sends, reason = _sends_of(result), judgement.reason
    if onto is not None:
        return Rejected(
            sends=sends,
            output_sha256=_sha256_of(result),
            result_offset=offset,
            reason=reason or Reason.LOW_CONFIDENCE,
            due_at_ms=due_at_ms,
            route=onto.name,
            lane=onto.lane,
        )
    if reason is not None and spec.judge.on_reject != "review":
        sha256 = _sha256_of(result)
        if spec.judge.on_reject == "retry" and info(reason).retryable:
            return Rejected(sends=sends, output_sha256=sha256, result_offset=offset, reason=reason, due_at_ms=due_at_ms)
        return Condemned(sends=sends, output_sha256=sha256, result_offset=offset, reason=reason)
    sha256 = content_sha256((judgement.output_json or "").encode())
    told: dict[str, Any] = {"output_sha256": sha256, "confidence": judgement.confidence}
    told |= {"sends": sends, "result_offset": offset}
    if reason is None and judgement.wants_review is False and not judgement.wants_score:
        return Passed(**told)
    return SentToReview(**told, reason=_doubt(judgement, asked))


def _sha256_of(result: Result) -> str:
    return result.output_sha256 or content_sha256((result.output or "").encode())


def _doubt(judgement: Judgement, asked: Emit | None) -> Reason | None:
    """Why it goes to review; None: drawn as a sample, no fault was found."""
    if judgement.wants_score:
        return Reason.OVERSIZED if asked is None else Reason.AWAITING_SCORE
    return judgement.wants_review if isinstance(judgement.wants_review, Reason) else judgement.reason


def _published(life: Life, judgement: Judgement, fact: Passed | SentToReview, now_ms: int) -> Emit:
    status = VerdictStatus.VALIDATED if isinstance(fact, Passed) else VerdictStatus.NEEDS_REVIEW
    return Emit(verdict_of(life, judgement, status=status, decided_by="rules", now_ms=now_ms), life_key(life))


def _answer(life: Life, result: Result, offset: int, now_ms: int) -> Answer:
    return Answer(
        ask_key=life.ask_key,
        request_id=life.request_id,
        result_offset=offset,
        output_sha256=_sha256_of(result),
        route=life.route,
        stored_at_ms=now_ms,
    )
