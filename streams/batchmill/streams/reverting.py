"""The `revert` and `replay` commands: commits that are taken back, or put back, by an operator.

A task notes the command as a row and goes through the commits that it names in cuts. What a cut is about to ask of the
sinks is in the row, durable, before they hear of it; whatever a crash leaves there is asked for again, and a sink knows
a change that it has made. So each change is settled once, whatever became of its life meanwhile. A write in doubt is
waited for: only once the sink has answered can it be taken back.

Several commits of a run may have followed each other under one target. They are taken back newest first and put back
oldest first, which their ids do not tell over the whole run: what was in the way of another one is met in a later pass,
and there is one as long as a pass has changed anything. A request whose content came back (A, B, A) has committed
twice and knows its last commit only: its earlier one is told by the sink, which says what lies beneath a commit.

The order of two commands of a job is their order in `control`; a task carries them out one after the other, and those
of two jobs beside each other. Of a reverted life
nothing is written again until a replay puts it back: it is not recalled, not superseded, not cancelled, not redriven;
an event that repeats its content is a duplicate of it. A newer event of its source is written as ever, and from then on
a replay of the older one is a conflict.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from batchmill.schemas.ids import change_id, content_sha256
from batchmill.schemas.records import Committed, Control
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Status
from batchmill.streams import view as read
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.facts import Fact, PutBack, TakenBack
from batchmill.streams.index import CHANGE_ROWS
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.ports import ChangeKind, SinkCapabilities, SinkChange, SinkOutcome, SinkResult
from batchmill.streams.settling import life_key, moved
from batchmill.streams.validating import compiled_version
from batchmill.streams.view import StateView

__all__ = [
    "COMMANDS",
    "NAMED_MAX",
    "REQUESTS_MAX",
    "Asked",
    "Progress",
    "change_command",
    "change_of",
    "command_body",
    "current",
    "fault",
    "is_waiting",
    "next_cut",
    "noted",
    "progress_of",
    "row_name",
    "settle_change",
    "under_way",
]

COMMANDS: Final = tuple(kind.value for kind in ChangeKind)
#: requests that one command may name; its row has to fit a record
REQUESTS_MAX: Final = 1_000
#: conflicts of one task that are told by name
NAMED_MAX: Final = 100
#: finished commands that a task remembers
_REMEMBERED_MAX: Final = 20
#: change rows of one task that are looked at: those remembered and those that wait their turn
_ROWS_MAX: Final = 1_000
#: writes of one job that can be in doubt at once
_DOUBTS_MAX: Final = 10_000
NOTHING_JSON: Final = "null"


@dataclass(frozen=True, slots=True)
class Asked:
    """One change that the sinks were, or are about to be, asked for."""

    request_id: str
    commit_id: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a task has got with a command."""

    command_id: str
    kind: ChangeKind
    job: str
    order: int  #: offset of the command in this task's part of `control`
    run: str | None = None  #: its commits, by request id; None: those of `requests`
    requests: tuple[str, ...] = ()  #: named by the command
    passes: int = 1
    moved: int = 0  #: changes made in this pass
    cursor: str | None = None  #: the last request of the run that was taken up in this pass
    todo: tuple[str, ...] = ()  #: requests of this pass; of a run those that were in doubt when the command came
    asking: tuple[Asked, ...] = ()
    done: int = 0
    already: int = 0  #: were as wanted before
    conflicts: int = 0  #: in this pass: the target holds something else by now
    refused: int = 0  #: in this pass: cannot be taken back at all
    named: tuple[tuple[str, str | None], ...] = ()  #: conflicts: request, commit that the target holds
    why: str | None = None  #: the first refusal
    finished: bool = False


# -- the command -------------------------------------------------------------------------------------------------------


def command_body(*, run: str | None = None, requests: Sequence[str] = ()) -> str:
    """The body of a revert or replay command: all commits of a run, or those of some requests."""
    told = {"run": run} if run is not None else {"requests": list(requests)}
    return json.dumps(told, separators=(",", ":"))


def fault(body: Mapping[str, Any]) -> str | None:
    """What is wrong with such a body."""
    run, requests = body.get("run"), body.get("requests")
    if (run is None) == (requests is None):
        return "it is expected to name a `run` or `requests`"
    if run is not None:
        return None if isinstance(run, str) and run else "`run` is expected to be a text"
    if not isinstance(requests, list) or not all(isinstance(each, str) for each in requests):
        return "`requests` is expected to be a list of request ids"
    return None if len(requests) <= REQUESTS_MAX else f"`requests` names more than {REQUESTS_MAX}"


def change_command(view: StateView, command: Control, offset: int) -> list[Order]:
    """Note what this task has to go through; a command that was noted before goes on where it is."""
    if read.meta(view, row_name(command.command_id)) is not None:
        return []
    body: dict[str, Any] = json.loads(command.body_json)
    kind, run = ChangeKind(command.command), body.get("run")
    doubtful = _doubtful(view, command.job, run) if run is not None and kind is ChangeKind.REVERT else ()
    requests = () if run is not None else _ours(view, command.job, body["requests"])
    progress = Progress(
        command_id=command.command_id,
        kind=kind,
        job=command.job,
        order=offset,
        run=run,
        requests=requests,
        todo=requests or doubtful,
    )
    return [noted(progress), Wake("change")]


def _doubtful(view: StateView, job: str, run: str) -> tuple[str, ...]:
    found = view.scan("doubt", f"{job}/", limit=_DOUBTS_MAX)
    return tuple(row.request_id for _, row in found if isinstance(row, Life) and row.run_id == run)


def _ours(view: StateView, job: str, requests: Sequence[str]) -> tuple[str, ...]:
    lives = [read.life(view, request_id) for request_id in dict.fromkeys(requests)]
    return tuple(life.request_id for life in lives if life is not None and life.job == job)


def under_way(view: StateView) -> tuple[Progress, ...]:
    """The commands that are carried out now: of each job the oldest that is not finished, the oldest of all first."""
    heads: dict[str, Progress] = {}
    for each in sorted(_noted(view), key=lambda each: each.order):
        if not each.finished:
            heads.setdefault(each.job, each)
    return tuple(heads.values())


def current(view: StateView, progress: Progress) -> Progress:
    """The command as its row says now."""
    row = read.meta(view, row_name(progress.command_id))
    assert row is not None, f"the row of {progress.kind} {progress.command_id} is gone"
    return progress_of(row)


def _noted(view: StateView) -> list[Progress]:
    rows = [row for _, row in view.scan("change", CHANGE_ROWS, limit=_ROWS_MAX)]
    return [progress_of(row) for row in rows if isinstance(row, Meta)]


# -- a cut -------------------------------------------------------------------------------------------------------------


def next_cut(
    view: StateView,
    jobs: CompiledJobs,
    progress: Progress,
    *,
    sinks: Mapping[str, SinkCapabilities],
    limit: int,
) -> list[Order]:
    """Choose what is asked for next and note it, or that nothing is left. Nothing at all: a write in doubt is waited
    for. Not to be called while something is being asked.
    """
    assert not progress.asking, f"{progress.kind} {progress.command_id} has a cut under way"
    cut = _Cut(view, jobs, sinks, progress)
    lives = _of_run(view, progress, limit)
    if lives:
        for life in lives:
            cut.take(life)
        return [noted(cut.after(cursor=lives[-1].request_id))]
    if progress.todo:
        kept = cut.take_named(progress.todo, limit)
        after = cut.after(todo=kept)
        return [noted(after)] if after != progress else []
    if progress.moved and progress.conflicts:
        return [noted(_again(progress))]
    return [noted(replace(progress, finished=True)), *_forgotten(view)]


def _again(progress: Progress) -> Progress:
    """Another pass: what was in the way may not be any more."""
    fresh = replace(progress, passes=progress.passes + 1, moved=0, conflicts=0, refused=0, named=())
    return replace(fresh, cursor=None, todo=progress.requests)


def is_waiting(view: StateView, progress: Progress) -> bool:
    """Whether nothing but writes in doubt is left of the command."""
    lives = [read.life(view, request_id) for request_id in progress.todo]
    return bool(lives) and all(life is not None and _in_doubt(life) for life in lives)


def _of_run(view: StateView, progress: Progress, limit: int) -> list[Life]:
    if progress.run is None:
        return []
    prefix = f"{progress.run}|"
    after = None if progress.cursor is None else prefix + progress.cursor
    found = [row for _, row in view.scan("run", prefix, after=after, limit=limit)]
    return [row for row in found if isinstance(row, Life)]


def _forgotten(view: StateView) -> list[Order]:
    """The oldest of the finished commands, when one more is finished than a task remembers."""
    finished = sorted((each for each in _noted(view) if each.finished), key=lambda each: each.order)
    old = finished[: max(0, len(finished) + 1 - _REMEMBERED_MAX)]
    return [Delete(Meta.schema, row_name(each.command_id)) for each in old]


class _Cut:
    """What is asked for next, and what need not be."""

    def __init__(
        self, view: StateView, jobs: CompiledJobs, sinks: Mapping[str, SinkCapabilities], progress: Progress
    ) -> None:
        self._view = view
        self._jobs = jobs
        self._sinks = sinks
        self._progress = progress
        self._asking: list[Asked] = []

    def after(self, **changes: Any) -> Progress:
        newest_first = self._progress.kind is ChangeKind.REVERT
        asking = sorted(self._asking, key=lambda each: each.seq, reverse=newest_first)
        return replace(self._progress, asking=tuple(asking), **changes)

    def take(self, life: Life) -> None:
        """A life of the run's index: it is committed, or it was taken back."""
        if life.job != self._progress.job:
            return  # a run's name may be used by several jobs
        if life.reverted is (self._progress.kind is ChangeKind.REVERT):
            if self._progress.passes == 1:
                self._progress = replace(self._progress, already=self._progress.already + 1)
            return
        place = compiled_version(self._view, self._jobs, life).spec.place
        if not self._can(place.sink):
            self._refuse(f"sink {place.sink} keeps no history: what it was given cannot be taken back")
            return
        assert life.commit_id is not None, f"the commit of {life.request_id} has no name"
        self._asking.append(Asked(life.request_id, life.commit_id, life.seq))

    def take_named(self, named: Sequence[str], limit: int) -> tuple[str, ...]:
        """Those that are left: in doubt, or beyond the limit of a cut."""
        kept: list[str] = []
        for at, request_id in enumerate(named):
            if len(self._asking) >= limit:
                return (*kept, *named[at:])
            life = read.life(self._view, request_id)
            if life is not None and _in_doubt(life):
                kept.append(request_id)
            elif life is not None and (life.status is Status.COMMITTED or life.reverted):
                self._take_named(life)
            elif self._progress.run is None:
                self._refuse("it is not committed")
        return tuple(kept)

    def _take_named(self, life: Life) -> None:
        """Of a run, one that was in doubt may have been met on the way through its index."""
        if self._progress.run is None or not life.reverted:
            self.take(life)

    def _can(self, sink: str) -> bool:
        can = self._sinks.get(sink)
        return can is None or can.revertible  # one that is not configured here is waited for

    def _refuse(self, why: str) -> None:
        before = self._progress
        self._progress = replace(before, refused=before.refused + 1, why=before.why or why)


def _in_doubt(life: Life) -> bool:
    return life.status is Status.VALIDATED and life.commit_id is not None and not life.reverted


def change_of(view: StateView, jobs: CompiledJobs, progress: Progress, asked: Asked) -> tuple[str, SinkChange]:
    """The name of the sink, and what it is asked for: where the job places its output now."""
    life = read.life(view, asked.request_id)
    assert life is not None, f"life {asked.request_id} is gone while its commit is being changed"
    place = compiled_version(view, jobs, life).spec.place
    change = SinkChange(
        kind=progress.kind,
        commit_id=asked.commit_id,
        table=place.table,
        target_key=life.target_key,
        order=progress.order,
    )
    return place.sink, change


# -- the answer --------------------------------------------------------------------------------------------------------


def settle_change(
    view: StateView, progress: Progress, asked: Asked, result: SinkResult, *, sink: str, now_ms: int
) -> tuple[Progress, list[Order]]:
    """What the sink's answer to one change means: the command as it is then, and the orders beside its row. That is
    `noted` once, when all answers of a cut were settled.
    """
    assert result.commit_id == asked.commit_id, f"the sink answered {result.commit_id} to {asked.commit_id}"
    if asked not in progress.asking:
        return progress, []  # settled before: an answer that came twice
    after = replace(progress, asking=tuple(each for each in progress.asking if each != asked))
    life = read.life(view, asked.request_id)
    assert life is not None, f"life {asked.request_id} is gone while its commit is being changed"
    match result.outcome:
        case SinkOutcome.APPLIED | SinkOutcome.ALREADY:
            record = _record(life, progress, asked, result, sink, now_ms)
            orders: list[Order] = [*_moved(life, progress, asked, now_ms), Emit(record, life_key(life))]
            asking = after.asking if progress.kind is ChangeKind.REPLAY else _with_earlier(view, after, result)
            return replace(after, asking=asking, done=after.done + 1, moved=after.moved + 1), orders
        case SinkOutcome.CONFLICT | SinkOutcome.STALE:
            asking = after.asking if progress.kind is ChangeKind.REVERT else _with_earlier(view, after, result)
            named = (*after.named, (asked.request_id, result.held_commit_id))[:NAMED_MAX]
            return replace(after, asking=asking, conflicts=after.conflicts + 1, named=named), []
        case SinkOutcome.REFUSED:
            why = after.why or f"{sink} refused it: {result.error or 'without a reason'}"
            return replace(after, refused=after.refused + 1, why=why), []


def _with_earlier(view: StateView, progress: Progress, result: SinkResult) -> tuple[Asked, ...]:
    """What is being asked, and the commit beneath, if it is the run's and its request has gone on to another one."""
    beneath = result.beneath
    if beneath is None or beneath.run_id != progress.run:
        return progress.asking
    life = read.life(view, beneath.request_id)
    if life is None or life.job != progress.job or life.commit_id == beneath.commit_id:
        return progress.asking
    return (*progress.asking, Asked(beneath.request_id, beneath.commit_id, beneath.seq))


def _moved(life: Life, progress: Progress, asked: Asked, now_ms: int) -> list[Order]:
    """The life moves with its commit, unless it has gone on to another one meanwhile."""
    if life.commit_id != asked.commit_id:
        return []
    fact: Fact
    if progress.kind is ChangeKind.REVERT:
        fact, due = TakenBack(commit_id=asked.commit_id), life.status is Status.COMMITTED
    else:
        fact, due = PutBack(commit_id=asked.commit_id), life.reverted
    return [Put(moved(life, fact, now_ms))] if due else []


def _record(life: Life, progress: Progress, asked: Asked, result: SinkResult, sink: str, now_ms: int) -> Committed:
    """`reverts` names the commit that was taken back or put back; what the target holds now is the output."""
    is_revert = progress.kind is ChangeKind.REVERT
    output_json = NOTHING_JSON if result.output_json is None else result.output_json
    return Committed(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        seq=asked.seq,
        promotion=life.promotion,
        run_id=life.run_id,
        sink=sink,
        target_key=life.target_key,
        kind=progress.kind.value,
        commit_id=change_id(progress.kind, asked.commit_id, progress.order),
        previous_commit_id=asked.commit_id if is_revert else result.previous_commit_id,
        reverts=asked.commit_id,
        removed=is_revert and result.output_json is None,
        output_json=output_json,
        output_sha256=content_sha256(output_json.encode()),
        cost_nanos=None if life.unpriced_calls else life.cost_nanos,
        committed_at_ms=now_ms,
        origin=life.origin,
    )


# -- the row -----------------------------------------------------------------------------------------------------------


def row_name(command_id: str) -> str:
    return CHANGE_ROWS + command_id


def noted(progress: Progress) -> Put:
    """Remember how far the command has got."""
    told = {
        "kind": progress.kind,
        "job": progress.job,
        "order": progress.order,
        "run": progress.run,
        "requests": progress.requests,
        "passes": progress.passes,
        "moved": progress.moved,
        "cursor": progress.cursor,
        "todo": progress.todo,
        "asking": [(each.request_id, each.commit_id, each.seq) for each in progress.asking],
        "done": progress.done,
        "already": progress.already,
        "conflicts": progress.conflicts,
        "refused": progress.refused,
        "named": progress.named,
        "why": progress.why,
        "finished": progress.finished,
    }
    return Put(Meta(name=row_name(progress.command_id), value_json=json.dumps(told, separators=(",", ":"))))


def progress_of(row: Meta) -> Progress:
    """What a change row says."""
    told: dict[str, Any] = json.loads(row.value_json)
    return Progress(
        command_id=row.name.removeprefix(CHANGE_ROWS),
        kind=ChangeKind(told.pop("kind")),
        requests=tuple(told.pop("requests")),
        todo=tuple(told.pop("todo")),
        asking=tuple(Asked(*each) for each in told.pop("asking")),
        named=tuple((request_id, held) for request_id, held in told.pop("named")),
        **told,
    )
