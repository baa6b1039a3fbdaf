"""What was decided about an answer in review, by people or by a job that scored it: decisions -> validated, or the end.

A decision counts for the answer its author saw, and only while that answer still waits; anything else is stale and
changes nothing. Accepting publishes no second verdict: the answer is the one in `validated` already, and the decision
itself is kept for ever. A correction is judged like any other answer before it may take the answer's place. What was
accepted or corrected is not written downstream for a while, so that it can be undone; what was declined can be undone
as long as it is declined. An undo names the decision it takes back.

Some answers are decided twice, independently (`needs_second`). The first decision is then an *opinion*, a row of its
own; one by another actor that says the same carries it out, another one leaves the answer in review, for a third.

A correction or a score that has to be judged beside the record's input waits as a row until effect `judge` has read
that (`review_beside`). Later decisions on the same request wait behind it, so that they are carried out in their order.
"""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Decision, Result, WorkItem
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams import scoring
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJob, CompiledJobs
from batchmill.streams.facts import ReviewAccepted, ReviewDeclined, ReviewDeferred, ReviewUndone
from batchmill.streams.index import CORRECTION_ROWS
from batchmill.streams.jsontext import canonical, decode
from batchmill.streams.judging import OUTPUT_BYTES_MAX, Judgement, agrees, in_share, judge_output
from batchmill.streams.lifecycle import evolve
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.settling import carried, end_if_unwanted, life_key, moved, obituary
from batchmill.streams.unusable import Unusable
from batchmill.streams.validating import compiled_version, judgement_on, scorer_of, verdict_of
from batchmill.streams.view import StateView

__all__ = [
    "DECIDED_ROWS",
    "OPINION_ROWS",
    "STAGE",
    "Beside",
    "Opinion",
    "Ruling",
    "Waiting",
    "correction",
    "drawn_twice",
    "needs_second",
    "opinions_of",
    "read_opinions",
    "review",
    "review_beside",
    "waiting",
]

STAGE: Final = "reviewer"
#: meta rows of the opinions on an answer that waits for a second or third decision
OPINION_ROWS: Final = "opinion/"
#: meta rows that name the decision in force on an answer, so that it can be undone
DECIDED_ROWS: Final = "decided/"
#: salt of the draw of answers that are decided twice
_DOUBLE: Final = "double"
#: a person's answer has no tokens, and is as certain as can be
_CERTAIN_LOGPROB: Final = 0.0


class Ruling(StrEnum):
    """What a decision may say."""

    ACCEPT = "accept"
    CORRECT = "correct"
    DECLINE = "decline"
    DEFER = "defer"
    UNDO = "undo"
    SCORE = scoring.SCORE


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One of several independent decisions on an answer."""

    decision_id: str
    actor: str
    action: str
    seen_sha256: str
    output_sha256: str  #: the answer it wants: the one it saw, or its correction
    reason: str | None
    offset: int  #: of the decision in `decisions`

    def says_as(self, other: "Opinion") -> bool:
        return (self.action, self.output_sha256) == (other.action, other.output_sha256)


class Waiting(NamedTuple):
    """A decision that waits to be judged beside the input of its request: its offset in `decisions`."""

    row: Meta
    request_id: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """The bodies a decision is judged beside; None: not needed for it, or removed by retention."""

    item: WorkItem | None
    result: Result | None  #: only a score needs it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One decision about one life in review, and what is known for it."""

    life: Life
    job: CompiledJob
    decision: Decision
    offset: int
    now_ms: int


def review(view: StateView, decision: Decision, offset: int, *, jobs: CompiledJobs, now_ms: int) -> list[Order]:
    """What the decision at `offset` changes; nothing when it is stale or its action is unknown."""
    life = read.life(view, decision.request_id)
    if life is None:
        return []
    if _first_waiting(view, life) or _reads(view, jobs, life, decision):
        name = f"{CORRECTION_ROWS}{life.request_id}/{offset:016d}"
        return [Put(Meta(name=name, value_json="{}")), Wake("judge")]
    return _ruled(view, life, decision, offset, None, jobs, now_ms)


def review_beside(
    view: StateView, asked: Waiting, decision: Decision | None, beside: Beside, *, jobs: CompiledJobs, now_ms: int
) -> list[Order]:
    """What a decision that waited changes. `decision` None: retention removed it, which `decisions` is not to do."""
    done = Delete(Meta.schema, asked.row.key)
    life = read.life(view, asked.request_id)
    if life is None or decision is None:
        return [done]
    assert decision.request_id == life.request_id, f"offset {asked.offset} of decisions is on another request"
    for name, body in (("normalized", beside.item), ("results", beside.result)):
        assert body is None or body.request_id == life.request_id, f"{name} was read for {life.request_id}, in vain"
    return [*_ruled(view, life, decision, asked.offset, beside, jobs, now_ms), done]


def waiting(view: StateView, limit: int) -> list[Waiting]:
    """Up to `limit` decisions that wait for their bodies, those on one request in their order."""
    found = [row for _, row in view.scan("correction", "", limit=limit) if isinstance(row, Meta)]
    return [_waiting(row) for row in found]


def correction(job: CompiledJob, decision: Decision, item_input: Any) -> Judgement:
    """The judgement on a correction, or `Unusable`. For the door that takes decisions, too: refuse there, at once.

    `item_input`: the record's decoded input; None when the job's judge does not read it.
    """
    output, output_json = _read(decision)
    return judge_output(
        job.judge,
        request_id=decision.request_id,
        output=output,
        output_json=output_json,
        item_input=item_input,
        logprob_mean=_CERTAIN_LOGPROB,
    )


def drawn_twice(request_id: str, spec: JobSpec) -> bool:
    """Whether two people decide on the answer to this request; the same for every worker and every door."""
    return in_share(request_id, spec.review.double, _DOUBLE)


def needs_second(view: StateView, life: Life, spec: JobSpec) -> bool:
    """Whether one of two independent decisions on this life's answer is there, and the other is not."""
    return drawn_twice(life.request_id, spec) and len(opinions_of(view, life)) == 1


def opinions_of(view: StateView, life: Life) -> tuple[Opinion, ...]:
    """The opinions there are on the answer that waits, oldest first."""
    row = read.meta(view, OPINION_ROWS + life.request_id)
    if row is None or life.status is not Status.NEEDS_REVIEW:
        return ()
    return tuple(each for each in read_opinions(row.value_json) if each.seen_sha256 == life.output_sha256)


def read_opinions(value_json: str) -> tuple[Opinion, ...]:
    """The opinions in the text of a row under OPINION_ROWS; the read model holds the same text."""
    return tuple(Opinion(**each) for each in orjson.loads(value_json)["opinions"])


# -- which decisions wait ----------------------------------------------------------------------------------------------


def _first_waiting(view: StateView, life: Life) -> bool:
    return bool(view.scan("correction", f"{CORRECTION_ROWS}{life.request_id}/", limit=1))


def _waiting(row: Meta) -> Waiting:
    request_id, _, offset = row.name.removeprefix(CORRECTION_ROWS).partition("/")
    return Waiting(row, request_id, int(offset))


def _is_about(life: Life, decision: Decision) -> bool:
    """Whether the answer its author saw is the one that waits; else it is stale."""
    return life.status is Status.NEEDS_REVIEW and life.output_sha256 == decision.output_sha256_seen


def _reads(view: StateView, jobs: CompiledJobs, life: Life, decision: Decision) -> bool:
    """Whether it can only be carried out beside the input, and is not stale already."""
    if not _is_about(life, decision):
        return False
    match decision.action:
        case Ruling.CORRECT:
            return compiled_version(view, jobs, life).judge.reads_input
        case Ruling.SCORE:
            return _is_asked(compiled_version(view, jobs, life).spec, decision)
        case _:
            return False


def _is_asked(spec: JobSpec, decision: Decision) -> bool:
    """Whether a score comes from the job that gives second opinions on this one's answers."""
    scorer = scorer_of(spec)
    return scorer is not None and decision.actor == scoring.actor_of(scorer)


# -- what a decision does ----------------------------------------------------------------------------------------------


def _ruled(
    view: StateView,
    life: Life,
    decision: Decision,
    offset: int,
    beside: Beside | None,
    jobs: CompiledJobs,
    now_ms: int,
) -> list[Order]:
    if decision.action == Ruling.UNDO:
        return _undone(view, life, decision, now_ms)
    if not _is_about(life, decision):
        return []
    job = compiled_version(view, jobs, life)
    case = _Case(life=life, job=job, decision=decision, offset=offset, now_ms=now_ms)
    match decision.action:
        case Ruling.ACCEPT | Ruling.DECLINE:
            return _decided(view, case, None)
        case Ruling.CORRECT:
            return _corrected(view, case, beside)
        case Ruling.DEFER:
            return _deferred(case)
        case Ruling.SCORE:
            return _scored(view, case, beside)
        case _:
            return []


def _corrected(view: StateView, case: _Case, beside: Beside | None) -> list[Order]:
    if case.job.judge.reads_input and (beside is None or beside.item is None):
        return _stays(case, Reason.BODY_GONE)
    item_input = None if beside is None or beside.item is None else orjson.loads(beside.item.input_json)
    try:
        judgement = correction(case.job, case.decision, item_input)
    except Unusable as wrong:
        return _stays(case, wrong.reason)
    # if it is no good the answer stays in review, and says why; the door that took it should have refused it
    return _decided(view, case, judgement) if judgement.reason is None else _stays(case, judgement.reason)


def _decided(view: StateView, case: _Case, judgement: Judgement | None) -> list[Order]:
    """Carry a decision out, or keep it as an opinion; `judgement` is that on a correction."""
    opinion = _opinion(case, judgement)
    others = tuple(each for each in opinions_of(view, case.life) if each.actor != opinion.actor)
    if drawn_twice(case.life.request_id, case.job.spec) and not _settled(opinion, others):
        return _kept(view, case, (*others, opinion))
    return [*_carried_out(case, judgement), *_in_force(view, case, others)]


def _settled(opinion: Opinion, others: tuple[Opinion, ...]) -> bool:
    """Two that say the same decide; after two that do not, whoever comes third."""
    return len(others) > 1 or any(opinion.says_as(each) for each in others)


def _opinion(case: _Case, judgement: Judgement | None) -> Opinion:
    decision = case.decision
    corrected = None if judgement is None else judgement.output_json
    return Opinion(
        decision_id=decision.id,
        actor=decision.actor,
        action=decision.action,
        seen_sha256=decision.output_sha256_seen,
        output_sha256=decision.output_sha256_seen if corrected is None else content_sha256(corrected.encode()),
        reason=decision.reason,
        offset=case.offset,
    )


def _kept(view: StateView, case: _Case, opinions: tuple[Opinion, ...]) -> list[Order]:
    """Leave the answer in review with these opinions on it."""
    kept = _opinion_row(case.life, opinions, _was(view, case.life))
    return [Put(kept), *(_stays(case, Reason.DISAGREEMENT) if len(opinions) > 1 else [])]


def _carried_out(case: _Case, judgement: Judgement | None) -> list[Order]:
    life, decision, now_ms = case.life, case.decision, case.now_ms
    seen = decision.output_sha256_seen
    if decision.action == Ruling.DECLINE:
        ended = moved(life, ReviewDeclined(seen_sha256=seen), now_ms)
        error = f"declined by {decision.actor}" + (f": {decision.reason}" if decision.reason else "")
        return [Put(ended), obituary(ended, stage=STAGE, error=error, now_ms=now_ms)]
    held_until_ms = now_ms + round(case.job.spec.review.undo_seconds * 1_000)
    if judgement is None:
        fact = ReviewAccepted(seen_sha256=seen, output_sha256=seen, held_until_ms=held_until_ms)
        return [Put(moved(life, fact, now_ms)), Wake("commit")]
    assert judgement.output_json is not None, f"the correction of {life.request_id} passed and is none"
    sha256 = content_sha256(judgement.output_json.encode())
    fact = ReviewAccepted(seen_sha256=seen, output_sha256=sha256, held_until_ms=held_until_ms)
    after = evolve(moved(life, fact, now_ms), verdict_offset=None, confidence=judgement.confidence)
    verdict = verdict_of(after, judgement, status=VerdictStatus.VALIDATED, decided_by=decision.actor, now_ms=now_ms)
    return [Put(after), Emit(verdict, life_key(after))]


def _deferred(case: _Case) -> list[Order]:
    if case.decision.until_ms is None:
        return []
    fact = ReviewDeferred(seen_sha256=case.decision.output_sha256_seen, until_ms=case.decision.until_ms)
    return [Put(moved(case.life, fact, case.now_ms))]


def _stays(case: _Case, reason: Reason | None) -> list[Order]:
    return [Put(evolve(case.life, reason=reason, updated_at_ms=case.now_ms))]


def _read(decision: Decision) -> tuple[Any, str]:
    """The output of a decision, decoded and in canonical form; or Unusable."""
    output = decode((decision.output_json or "").encode(), bytes_max=OUTPUT_BYTES_MAX)
    return output, canonical(output).decode()


# -- a second opinion by a job -----------------------------------------------------------------------------------------


def _scored(view: StateView, case: _Case, beside: Beside | None) -> list[Order]:
    """Let a score move an answer that waits for it. Once a person took it in hand, or another job scored it: stale."""
    if case.life.reason is not Reason.AWAITING_SCORE or not _is_asked(case.job.spec, case.decision):
        return []
    if beside is None or beside.item is None or beside.result is None:
        return _stays(case, Reason.BODY_GONE)
    item_input = orjson.loads(beside.item.input_json)
    judgement = judgement_on(case.job, beside.result, item_input)
    try:
        score, _ = _read(case.decision)
    except Unusable as wrong:
        return _stays(case, wrong.reason)
    output_json = judgement.output_json or ""
    if content_sha256(output_json.encode()) != case.life.output_sha256:
        return _stays(case, Reason.DISAGREEMENT)  # it is read otherwise by now: a person looks
    check = agrees(case.job.judge, orjson.loads(output_json), item_input, score)
    judged = replace(judgement, checks=(*judgement.checks, check))
    return _agreed(view, case, judged) if check.passed else _told(case, judged, Reason.DISAGREEMENT)


def _agreed(view: StateView, case: _Case, judgement: Judgement) -> list[Order]:
    """It counts as if it had never waited, unless it was drawn for a person, or a person has said something already.

    It was judged once more, and a function need not say the same twice: what rejects now is a doubt, too.
    """
    doubt = judgement.wants_review if judgement.reason is None else judgement.reason
    if doubt is not False or opinions_of(view, case.life):
        return _told(case, judgement, doubt if isinstance(doubt, Reason) else None)
    seen = case.decision.output_sha256_seen
    after = moved(case.life, ReviewAccepted(seen_sha256=seen, output_sha256=seen), case.now_ms)
    earlier = _gone(view, DECIDED_ROWS + after.request_id)  # on an answer it had before: not to be undone any more
    return [*_published(case, after, judgement, VerdictStatus.VALIDATED), *earlier]


def _told(case: _Case, judgement: Judgement, reason: Reason | None) -> list[Order]:
    """It stays in review for that reason, and its record says how the scoring went."""
    after = evolve(case.life, reason=reason, updated_at_ms=case.now_ms)
    return _published(case, after, judgement, VerdictStatus.NEEDS_REVIEW)


def _published(case: _Case, life: Life, judgement: Judgement, status: VerdictStatus) -> list[Order]:
    after = evolve(life, verdict_offset=None)
    verdict = verdict_of(after, judgement, status=status, decided_by=case.decision.actor, now_ms=case.now_ms)
    return [Put(after), Emit(verdict, life_key(after))]


# -- undo --------------------------------------------------------------------------------------------------------------


def _undone(view: StateView, life: Life, decision: Decision, now_ms: int) -> list[Order]:
    """Take back the decision that is named: the one in force, or an opinion. What names any other is stale."""
    if any(each.decision_id == decision.undoes for each in opinions_of(view, life)):
        return _withdrawn(view, life, decision, now_ms)
    row = read.meta(view, DECIDED_ROWS + life.request_id)
    told: dict[str, Any] = {} if row is None else orjson.loads(row.value_json)
    if row is None or told["decision_id"] != decision.undoes or life.output_sha256 is None:
        return []
    back, did_move = carried(life, ReviewUndone(seen_sha256=life.output_sha256), now_ms)
    if not did_move:
        return []
    others = tuple(Opinion(**each) for each in told["opinions"])
    back = evolve(back, reason=_reason(told["was"], others), confidence=told.get("confidence", back.confidence))
    kept, said = end_if_unwanted(view, back, stage=STAGE, now_ms=now_ms)
    again: list[Order] = [Put(_opinion_row(kept, others, told["was"]))] if others else []
    return [Put(kept), Delete(Meta.schema, row.key), *again, *said]


def _withdrawn(view: StateView, life: Life, decision: Decision, now_ms: int) -> list[Order]:
    left = tuple(each for each in opinions_of(view, life) if each.decision_id != decision.undoes)
    was = _was(view, life)
    reason = _reason(was, left) if life.reason is Reason.DISAGREEMENT else life.reason
    row = _opinion_row(life, left, was)
    kept = Put(row) if left else Delete(Meta.schema, row.key)
    return [kept, Put(evolve(life, reason=reason, updated_at_ms=now_ms))]


# -- the rows of opinions and of the decision in force -----------------------------------------------------------------


def _in_force(view: StateView, case: _Case, others: tuple[Opinion, ...]) -> list[Order]:
    """Remember what an undo has to name, and bring back."""
    told = {
        "decision_id": case.decision.id,
        "was": _was(view, case.life),
        "confidence": case.life.confidence,
        "opinions": [asdict(each) for each in others],
    }
    name = case.life.request_id
    row = Meta(name=DECIDED_ROWS + name, value_json=orjson.dumps(told).decode())
    return [Put(row), *_gone(view, OPINION_ROWS + name)]


def _gone(view: StateView, name: str) -> list[Order]:
    return [] if read.meta(view, name) is None else [Delete(Meta.schema, name)]


def _opinion_row(life: Life, opinions: tuple[Opinion, ...], was: Reason | None) -> Meta:
    told = {"opinions": [asdict(each) for each in opinions], "was": was}
    return Meta(name=OPINION_ROWS + life.request_id, value_json=orjson.dumps(told).decode())


def _was(view: StateView, life: Life) -> Reason | None:
    """Why the answer waited before anybody said anything. A score does not move it again: a person has it in hand."""
    row = read.meta(view, OPINION_ROWS + life.request_id)
    if row is not None and opinions_of(view, life):
        told = orjson.loads(row.value_json)["was"]
        return None if told is None else Reason(told)
    return None if life.reason is Reason.AWAITING_SCORE else life.reason


def _reason(was: str | None, opinions: tuple[Opinion, ...]) -> Reason | None:
    """Why an answer with these opinions on it waits."""
    if len(opinions) > 1:
        return Reason.DISAGREEMENT
    return None if was is None else Reason(was)
