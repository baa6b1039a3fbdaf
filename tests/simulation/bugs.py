"""Bugs planted on purpose, each with the law that must catch it: a law that catches nothing proves nothing.

A bug takes the place of one function for as long as a story is told.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from batchmill.schemas.jobs import BreakerSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Chunk, Grant, Life, Source
from batchmill.schemas.status import ChunkState, Status
from batchmill.streams import (
    breaking,
    calling,
    chunking,
    collecting,
    committing,
    following,
    granting,
    items,
    lifecycle,
    normalizing,
    overseeing,
    promoting,
    queueing,
    reverting,
    reviewing,
    routing,
    submitting,
    validating,
)
from batchmill.streams import view as read
from batchmill.streams.facts import Rejected, ReviewUndone, TakenBack
from batchmill.streams.orders import Emit, Order, Put
from batchmill.streams.ports import NotStartedError, SinkOutcome, SinkResult
from tests.simulation import provider as simulated
from tests.simulation import stages
from tests.simulation.provider import Faults
from tests.simulation.simulation import Scale

__all__ = [
    "BAD_ROWS",
    "BLIND",
    "BUGS",
    "CASCADE",
    "CHANGES",
    "FEW_SOURCES",
    "LIMITED",
    "ONLINE",
    "PROSE",
    "REPLAYS",
    "RULED",
    "SCORED",
    "SHARED",
    "TIGHT",
    "Bug",
    "planted",
]


@dataclass(frozen=True, slots=True)
class Bug:
    """What is wrong, and which law says so."""

    name: str
    law: str
    where: Any
    what: str
    make: Callable[[Any], Any]
    scale: Scale = field(default_factory=Scale)  #: of the stories in which it shows soonest
    also: tuple[str, Callable[[Any], Any]] | None = None  #: a second function of the same module that is in its way


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    right = bug.where[bug.what] if isinstance(bug.where, dict) else getattr(bug.where, bug.what)
    _set(bug, bug.make(right))
    with planted(replace(bug, what=bug.also[0], make=bug.also[1], also=None)) if bug.also else nullcontext():
        try:
            yield
        finally:
            _set(bug, right)


def _set(bug: Bug, value: Any) -> None:
    if isinstance(bug.where, dict):
        bug.where[bug.what] = value
    else:
        setattr(bug.where, bug.what, value)


def _commits_again(right: Any) -> Any:
    """An answer of the sink that comes twice is published twice."""

    def settle(view: Any, write: Any, result: Any, *, sink: str, now_ms: int) -> list[Order]:
        life = read.life(view, write.request_id)
        if life is not None and life.status is Status.COMMITTED and life.commit_id == write.commit_id:
            return [Emit(committing._record(life, write, result, sink, now_ms), b"")]
        return right(view, write, result, sink=sink, now_ms=now_ms)

    return settle


def _joins_by_request(right: Any) -> Any:
    """Rows are found by request id, whichever attempt and chunk they belong to."""

    def collect(worker: Any, task: Any, chunk: Chunk) -> None:
        files = [worker.results.get(uri or "", []) for uri in (chunk.output_uri, chunk.error_uri)]
        cut = chunking.members(task.view, chunk.chunk_id)
        names = {life.request_id: chunking.custom_id_of(chunk, life) for life in cut}
        ours = set(names.values())
        strays_last = sorted((row for rows in files for row in rows), key=lambda row: row.custom_id not in ours)
        by_request = {row.custom_id[:32]: row for row in strays_last}
        rows = {name: replace(by_request[key], custom_id=name) for key, name in names.items() if key in by_request}
        retry = stages._spec(task, chunk.job, chunk.version).spec.retry
        now_ms = worker.world.now_ms
        price = simulated.price
        task.apply(collecting.collect_cut(task.view, chunk, cut, rows, retry=retry, price=price, now_ms=now_ms))

    del right
    return collect


def _drops_late_answers(right: Any) -> Any:
    """A cancelled batch is believed to have no answers, though part of it ran."""

    def after_poll(view: Any, chunk: Chunk, remote: Any, schedule: Any, now_ms: int) -> list[Order]:
        if chunk.cancel_requested and remote.status == "ended":
            ended = {"state": ChunkState.ENDED, "reason": Reason.CANCELLED, "file_id": None, "due_at_ms": None}
            return [Put(replace(chunk, **ended))]
        return right(view, chunk, remote, schedule, now_ms)

    return after_poll


def _counts_cost_twice(right: Any) -> Any:
    """The cost of a call is posted once for the attempt and once for the answer."""

    def posted(life: Life, charge: Any) -> dict[str, Any]:
        return right(lifecycle.evolve(life, **right(life, charge)), charge)

    return posted


def _cancels_the_committed(right: Any) -> Any:
    """The sweep ends every life of the job, whatever became of it."""

    def sweep(view: Any, job_name: str, now_ms: int) -> list[Order]:
        orders = right(view, job_name, now_ms)
        if not orders:
            return orders
        lives = [row for row in view.rows(Life.schema) if row.status is Status.COMMITTED]
        done = [lifecycle.evolve(row, status=Status.FAILED_TERMINAL, reason=Reason.CANCELLED) for row in lives]
        return [*orders, *(Put(life) for life in done)]

    return sweep


def _forgets_the_version(right: Any) -> Any:
    """A request is named by source and content only."""

    def request_id(job: str, source_id: str, sha256: str, version: str, *more: Any) -> str:
        return right(job, source_id, sha256, "", *more)

    return request_id


def _creates_blindly(right: Any) -> Any:
    """A create of unknown outcome is simply sent again."""

    def todo(chunk: Chunk, **told: Any) -> Any:
        if chunk.state is ChunkState.ATTEMPTING:
            return submitting.Todo.BEGIN
        return right(chunk, **told)

    return todo


def _adopts_nothing_and_gives_up_early(right: Any) -> Any:
    """One look that finds nothing is believed."""

    def after_look(chunk: Chunk, found: Any, now_ms: int, schedule: Any = None) -> Any:
        hasty = submitting.CreateSchedule(grace_ms=0, spacing_ms=0, looks_min=1)
        return right(replace(chunk, file_id=None) if not found else chunk, found, now_ms, hasty)

    return after_look


def _commits_the_cancelled(right: Any) -> Any:
    """The committer does not ask whether anyone still wants it."""
    del right
    return lambda view, life, **_: (life, [])


def _joins_by_position(right: Any) -> Any:
    """The nth row is taken for the nth member."""

    def collect_cut(view: Any, chunk: Chunk, cut: Any, rows: Any, **more: Any) -> list[Order]:
        values = list(rows.values())
        turned = values[1:] + values[:1]
        named = {name: replace(row, custom_id=name) for name, row in zip(rows, turned, strict=True)}
        return right(view, chunk, cut, named, **more)

    return collect_cut


def _forgets_obituaries(right: Any) -> Any:
    """Older events are passed over in silence."""

    def arrive(view: Any, item: Any, offset: int, *, now_ms: int) -> list[Order]:
        orders = right(view, item, offset, now_ms=now_ms)
        return [] if len(orders) == 1 and isinstance(orders[0], Emit) else orders

    return arrive


def _never_recalls(right: Any) -> Any:
    """A newer event of content that was committed before is a duplicate and nothing more."""

    def known(view: Any, life: Life, item: Any, source: Any, now_ms: int) -> list[Order]:
        orders = right(view, life, item, source, now_ms)
        if life.status is not Status.COMMITTED:
            return orders
        return [order for order in orders if not (isinstance(order, Put) and isinstance(order.row, Life))]

    return known


def _ignores_the_pause(right: Any) -> Any:
    return lambda chunk, **told: right(chunk, **told | {"paused": False})


def _sends_before_durable(right: Any) -> Any:
    """The create call does not wait for its attempt to be durable."""

    def durable(worker: Any, task: Any) -> None:
        del task
        worker.boom()

    del right
    return durable


def _asks_no_more(right: Any) -> Any:
    """Once the attempt is durable the create call is made, whatever the operator said meanwhile."""
    del right
    return lambda view, chunk: True


def _skips_answers_of_the_paused(right: Any) -> Any:
    """An answer that comes in while its job is paused is passed over, and never comes again."""

    def validate(view: Any, result: Any, offset: int, **more: Any) -> list[Order]:
        job = read.job(view, result.job)
        return [] if job is not None and job.paused else right(view, result, offset, **more)

    return validate


def _believes_only_the_first_answer(right: Any) -> Any:
    """What the sink took from a write in doubt is not noted with its source."""

    def committed(view: Any, life: Life, write: Any, result: Any, sink: str, now_ms: int) -> list[Order]:
        orders = right(view, life, write, result, sink, now_ms)
        if result.outcome is not SinkOutcome.ALREADY:
            return orders
        return [order for order in orders if not (isinstance(order, Put) and isinstance(order.row, Source))]

    return committed


def _retries_for_ever(right: Any) -> Any:
    """Each answer that is no good is taken for the first one."""
    return lambda life, *more: right(lifecycle.evolve(life, attempt=1), *more)


def _forgets_what_it_does_not_know(right: Any) -> Any:
    """Calls of an attempt that another process began are taken for calls that never were."""

    def in_doubt(view: Any, chunk: Chunk) -> list[calling.Called]:
        return [calling.Called(each.request_id, NotStartedError("gone")) for each in right(view, chunk)]

    return in_doubt


def _forgets_what_is_under_way(right: Any) -> Any:
    """The overseer counts a grant only when its task's row shows it."""
    del right
    return lambda books, partition, granted: None


def _keeps_the_rest(right: Any) -> Any:
    """What a chunk did not use of its reservation is not given back."""

    def follow(view: Any, row: Any) -> list[Order]:
        orders = right(view, row)
        done = isinstance(row, Chunk) and row.state is ChunkState.DONE
        if not done:
            return orders
        return [
            Put(replace(order.row, returned=read.grant(view, order.row.pool).returned))
            if isinstance(order, Put) and isinstance(order.row, Grant)
            else order
            for order in orders
        ]

    return follow


def _reserves_apart(right: Any) -> Any:
    """The chunk is let go before its reservation is written."""

    def reserve(view: Any, chunk: Chunk, needs: Any, now_ms: int) -> Any:
        found = right(view, chunk, needs, now_ms)
        kept = [order for order in found.orders if not (isinstance(order, Put) and isinstance(order.row, Grant))]
        return replace(found, orders=tuple(kept)) if found.held else found

    return reserve


def _keeps_the_correction(right: Any) -> Any:
    """An undo brings the life back to review, and leaves the answer as it was corrected."""

    def changes(life: Life, fact: Any) -> dict[str, Any]:
        found = right(life, fact)
        return found | {"output_sha256": life.output_sha256} if isinstance(fact, ReviewUndone) else found

    return changes


def _settles_changes_again(right: Any) -> Any:
    """An answer to a change that comes twice is published twice."""

    def settle(view: Any, progress: Any, asked: Any, result: Any, **more: Any) -> Any:
        return right(view, replace(progress, asking=(*progress.asking, asked)), asked, result, **more)

    return settle


def _forgets_what_was_taken_back(right: Any) -> Any:
    """A commit that was taken back looks like one in doubt."""

    def changes(life: Life, fact: Any) -> dict[str, Any]:
        return {} if isinstance(fact, TakenBack) else right(life, fact)

    return changes


def _takes_any_correction(right: Any) -> Any:
    """What a person writes is taken as it is, whatever the rules say."""
    return lambda *told: replace(right(*told), reason=None)


def _takes_any_score(right: Any) -> Any:
    """A score counts for whatever answer its request has by now."""

    def is_about(life: Life, decision: Any) -> bool:
        return life.status is Status.NEEDS_REVIEW if decision.action == "score" else right(life, decision)

    return is_about


def _accepts_the_answer_there_is(right: Any) -> Any:
    def agreed(view: Any, case: Any, judgement: Any) -> list[Order]:
        seen = replace(case.decision, output_sha256_seen=case.life.output_sha256)
        return right(view, replace(case, decision=seen), judgement)

    return agreed


def _forgets_the_score(right: Any) -> Any:
    """A score that comes while another decision waits is passed over."""

    def review(view: Any, decision: Any, offset: int, **more: Any) -> list[Order]:
        return (
            []
            if decision.action == "score" and view.scan("correction", "", limit=1)
            else right(view, decision, offset, **more)
        )

    return review


def _counts_only_the_dead(right: Any) -> Any:
    """An answer that failed and is asked for again is not taken for a failure."""

    def outcome_of(before: Life | None, life: Life) -> breaking.Outcome | None:
        return None if life.status is Status.FAILED_RETRYABLE else right(before, life)

    return outcome_of


def _hears_no_conflict(right: Any) -> Any:
    """Whatever the sink answers to a change, it is taken to have been made."""

    def settle(view: Any, progress: Any, asked: Any, result: Any, **more: Any) -> Any:
        return right(view, progress, asked, replace(result, outcome=SinkOutcome.APPLIED), **more)

    return settle


def _forgets_what_it_asked(right: Any) -> Any:
    """What a revert is about to ask the sink for is noted only when the sink has answered."""
    del right

    def change(worker: Any, task: Any, progress: Any) -> None:
        task.apply([reverting.noted(replace(progress, asking=()))])
        worker.durable(task)
        changes = [reverting.change_of(task.view, task.jobs, progress, asked)[1] for asked in progress.asking]
        answers = worker.sink.change(changes)
        worker.meanwhile(task)
        now = replace(reverting.current(task.view, progress), asking=progress.asking)
        for asked, result in zip(progress.asking, answers, strict=True):
            now, orders = reverting.settle_change(task.view, now, asked, result, sink="sim", now_ms=worker.world.now_ms)
            task.apply(orders)
        task.apply([reverting.noted(now)])

    return change


def _tells_of_reverts_only(right: Any) -> Any:
    """What is put back is published as if it were taken back."""
    return lambda *told: replace(right(*told), kind="revert")


def _changes_nothing(right: Any) -> Any:
    """The command is settled, and the sink is not asked."""
    del right

    def change(worker: Any, task: Any, progress: Any) -> None:
        now = progress
        for asked in progress.asking:
            result = SinkResult(commit_id=asked.commit_id, outcome=SinkOutcome.APPLIED)
            now, orders = reverting.settle_change(task.view, now, asked, result, sink="sim", now_ms=worker.world.now_ms)
            task.apply(orders)
        task.apply([reverting.noted(now)])

    return change


def _counts_no_doubts(right: Any) -> Any:
    """Writes in doubt are not counted against the allowance."""
    del right
    return lambda cut, counts, spec: 0


def _asks_out_of_order(right: Any) -> Any:
    """A newer write is begun while an older one of its source is in doubt."""
    del right
    return lambda cut, life: False


def _asks_for_itself(right: Any) -> Any:
    """Whoever has no stored answer asks, whoever else does by then: both are paid for."""
    del right
    return lambda askers, life, *, failed_too: None


SHARED = Scale(partitions=1, shared=True)


def _asks_as_the_events_own(right: Any) -> Any:
    """Items of a shadow version are no different from those of a version that was promoted."""
    return lambda *told: [Emit(replace(order.record, aside=False, promotion=1), order.key) for order in right(*told)]


def _leaves_both_in_front(right: Any) -> Any:
    """The life that answered until now does not know that another one does."""
    del right
    return lambda front, *, by, now_ms: [Put(front)]


def _forgets_what_it_has(right: Any) -> Any:
    """A promotion is about new events only."""
    del right
    return lambda view, sweep, life, now_ms: ("elsewhere", [])


def _keeps_the_first(right: Any) -> Any:
    """Who overtakes does not answer for the source."""
    return lambda source, item, now_ms: source or right(source, item, now_ms)


CHANGES = Scale(sources=8, changes=True)
REPLAYS = Scale(sources=4, replays=True)
BLIND = Scale(sources=4, compares=False)
LIMITED = Scale(stop_after=4)
#: long enough for a source to be committed, changed, and changed back
FEW_SOURCES = Scale(sources=4, events=250, actions=2_500)
ONLINE = Scale(prefer="online")
TIGHT = Scale(sources=60, partitions=3, budget_nanos=6_000)
LOOSER = Scale(sources=60, partitions=3, budget_nanos=9_000)
MANY_SOURCES = Scale(sources=100)
STRAYS = Scale(faults=Faults(row=0.6, stray_rows=1.0))
RULED = Scale(judged="ruled", actions=2_000)
SCORED = Scale(judged="scored", actions=2_000)
BAD_ROWS = Scale(sources=200, actions=8_000, faults=Faults(row=1.0))
#: a prompt that goes wrong: every answer is prose
PROSE = Scale(
    sources=200,
    events=200,
    partitions=1,
    actions=2_500,
    crash_share=0.005,
    faults=Faults(row=0.0, chatty=1.0),
    breaker=BreakerSpec(consecutive=3, window=6),
)

#: routes, and answers that are asked for again by another
CASCADE = Scale(cascade=True)


def _asks_on_whatever_came(right: Any) -> Any:
    """The cascade is gone through to its end, however good the answer."""

    def escalated(life: Life, job: Any, _judgement: Any, _due_at_ms: Any) -> Any:
        return routing.next_route(job.routes, life.route)

    del right
    return escalated


def _stays_on_its_route(right: Any) -> Any:
    """What is to be asked on is asked by the same route again."""

    def changes(life: Life, fact: Any) -> Any:
        return right(life, replace(fact, route=None) if isinstance(fact, Rejected) else fact)

    return changes


BUGS = (
    Bug("asked on for nothing", "asked_on_for_a_reason", validating, "_escalated", _asks_on_whatever_came, CASCADE),
    Bug("a step of the cascade not made", "attempts_bounded", lifecycle, "_changes", _stays_on_its_route, CASCADE),
    Bug("a change settled twice", "changed_once", reverting, "settle_change", _settles_changes_again, CHANGES),
    Bug("a revert forgotten", "commit_once", lifecycle, "_changes", _forgets_what_was_taken_back, CHANGES),
    Bug("conflicts not heard", "changed_once", reverting, "settle_change", _hears_no_conflict, CHANGES),
    Bug("a replay told as a revert", "topic_tells_the_sink", reverting, "_record", _tells_of_reverts_only, CHANGES),
    Bug("a revert that is only said", "reverted_rests", stages, "_change", _changes_nothing, CHANGES),
    Bug("a change asked before it is noted", "changed_once", stages, "_change", _forgets_what_it_asked, CHANGES),
    Bug("doubts not counted", "limit_kept", committing._Cut, "_doubtful", _counts_no_doubts, LIMITED),
    Bug("newer beside older", "asked_in_order", committing._Cut, "_is_source_busy", _asks_out_of_order, BLIND),
    Bug("double commit", "commit_once", stages.committing, "settle", _commits_again),
    Bug("both are paid", "asked_once", following.Askers, "asker_beside", _asks_for_itself, SHARED),
    Bug("wrong attempt", "right_attempt", stages.STEPS, submitting.Todo.COLLECT, _joins_by_request, STRAYS),
    Bug("lost late result", "answers_kept", stages.collecting, "after_poll", _drops_late_answers, MANY_SOURCES),
    Bug("cost counted twice", "cost_conserved", lifecycle, "_posted", _counts_cost_twice),
    Bug("cancel after commit", "committed_stays", stages.controlling, "sweep", _cancels_the_committed),
    Bug("a new version reusing an old id", "id_never_reused", items, "request_id", _forgets_the_version),
    Bug("create retried blindly", "paid_once", stages.submitting, "todo", _creates_blindly),
    Bug("believing the first look", "paid_once", stages.submitting, "after_look", _adopts_nothing_and_gives_up_early),
    Bug("commit after cancel", "no_commit_after_cancel", committing, "end_if_unwanted", _commits_the_cancelled),
    Bug("join by position", "never_swapped", stages.collecting, "collect_cut", _joins_by_position),
    Bug("silent exclusion", "never_lost", stages.queueing, "arrive", _forgets_obituaries),
    Bug("no recall", "newest_wins", queueing, "_known", _never_recalls, FEW_SOURCES),
    Bug("spending while paused", "quiet_when_stopped", stages.submitting, "todo", _ignores_the_pause),
    Bug("a pause that comes too late", "quiet_when_stopped", stages.submitting, "may_create", _asks_no_more),
    Bug("create before the intent is durable", "paid_once", stages.Worker, "durable", _sends_before_durable),
    Bug("answers skipped during a pause", "ends", stages.validating, "validate", _skips_answers_of_the_paused),
    Bug("doubt not noted", "sources_tell_the_truth", committing, "_committed", _believes_only_the_first_answer),
    Bug("unknown calls forgotten", "answers_kept", calling, "in_doubt", _forgets_what_it_does_not_know, ONLINE),
    Bug("a call before its intent is durable", "paid_once", stages.Worker, "durable", _sends_before_durable, ONLINE),
    Bug("calls while paused", "quiet_when_stopped", calling, "may_call", _asks_no_more, ONLINE),
    Bug("doubt that costs nothing", "doubt_booked", stages, "worst_nanos", lambda _: lambda _life: 0, ONLINE),
    Bug("grants under way forgotten", "budget_kept", overseeing.Books, "handed", _forgets_what_is_under_way, LOOSER),
    Bug("the rest not given back", "grants_add_up", granting, "follow", _keeps_the_rest, TIGHT),
    Bug("reserved apart from the chunk", "grants_add_up", granting, "reserve", _reserves_apart, TIGHT),
    Bug("an undo that leaves the correction", "undone_is_gone", lifecycle, "_changes", _keeps_the_correction, RULED),
    Bug("corrections nobody checks", "rules_hold", reviewing, "correction", _takes_any_correction, RULED),
    Bug(
        "a score for an older answer",
        "scores_are_about_the_answer",
        reviewing,
        "_is_about",
        _takes_any_score,
        SCORED,
        also=("_agreed", _accepts_the_answer_there_is),
    ),
    Bug(
        "a score lost on the way", "scores_are_about_the_answer", stages.reviewing, "review", _forgets_the_score, SCORED
    ),
    Bug(
        "failures that are tried again not counted",
        "breaker_kept",
        breaking,
        "outcome_of",
        _counts_only_the_dead,
        PROSE,
    ),
    Bug("a shadow that commits", "only_the_promoted_commit", normalizing, "_shadowed", _asks_as_the_events_own),
    Bug("nobody steps back", "one_in_front", promoting, "set_aside", _leaves_both_in_front),
    Bug("a promotion by name", "promotion_is_whole", promoting, "come_forward", _forgets_what_it_has),
    Bug("overtaken by nobody", "front_stands", queueing, "_newest", _keeps_the_first),
    Bug("attempts not counted", "attempts_bounded", stages.validating, "next_due_ms", _retries_for_ever, BAD_ROWS),
)
