"""The doers of the simulation: slices and effects as the real agents run them, in a world where anything may die.

Each function takes facts from the world, asks a decision (through its module, so that a planted bug can take its place)
and carries the orders out. `Worker.boom` is called wherever a real worker could be killed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from batchmill.schemas.ids import content_sha256
from batchmill.schemas.records import Committed, Control, Origin, Result, Verdict
from batchmill.schemas.state import Arrival, Chunk, Job, Life
from batchmill.schemas.status import ChunkState
from batchmill.streams import (
    calling,
    chunking,
    collecting,
    committing,
    controlling,
    events,
    following,
    granting,
    hastening,
    items,
    limiting,
    looking_up,
    normalizing,
    promoting,
    queueing,
    redriving,
    refusing,
    rereading,
    rerunning,
    retrying,
    reverting,
    reviewing,
    scoring,
    sealing,
    submitting,
    validating,
    versioning,
)
from batchmill.streams import view as read
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.orders import Emit, Order
from batchmill.streams.ports import (
    Label,
    NotStartedError,
    ProviderError,
    RemoteBatch,
    SinkOutcome,
    SinkResult,
    StoredPayload,
    TransientError,
)
from batchmill.streams.sinks import SINKS
from batchmill.streams.submitting import Todo
from batchmill.streams.unusable import Unusable
from tests.simulation.provider import OUTPUT_TOKEN_NANOS, PRICES, SimProvider, price
from tests.simulation.sink import SimSink
from tests.simulation.world import Killed, SimTask, World

__all__ = ["EFFECTS", "TOPICS", "Worker", "raw_record"]

LIMITS = events.RawLimits()
POLLS = collecting.PollSchedule(wait_ms_min=2_000, wait_ms_max=20_000)
GRACE = submitting.CreateSchedule(grace_ms=120_000)
HTTP_TIMEOUT_S = 30.0
CHUNKS_ON_THE_WAY_MAX = 4
COMMIT_CUT = 5
RERUN_CUT = 5
#: of the instants at which the writer looks, the sink is down at one in so many
DOWN_EVERY = 9
#: how often a sink hangs up; one that cannot compare is only in danger when it does so again and again
HANGS_UP, HANGS_UP_BLIND = 0.1, 0.9
TYPICAL_MS = 60_000
ANSWER_TOKENS_MAX = 50
#: states whose steps the polling loop takes
POLLED = (ChunkState.OPEN, ChunkState.ENDED, ChunkState.DOWNLOADED, ChunkState.COLLECTED)
#: by which a provider's clock may be behind
SKEW_MS = 1_000


@dataclass(slots=True)
class Worker:
    """What all tasks share outside Kafka, and the dice that kill them."""

    world: World
    provider: SimProvider
    sink: SimSink
    crash_share: float
    outages: bool = False  #: now and then the sink is known to be down
    rough: bool = True  #: files vanish, the sink hangs up or answers twice
    payloads: dict[str, bytes] = field(default_factory=dict)
    results: dict[str, list[collecting.RowOutcome]] = field(default_factory=dict)
    #: uploads and creates begun for a job known to be paused or cancelled: must stay empty
    spent_while_stopped: list[str] = field(default_factory=list)
    #: custom ids sent to `create` before their attempt was durable: must stay empty
    unintended: list[str] = field(default_factory=list)
    #: writes first asked of the sink for lives whose cancellation was known
    late_writes: list[str] = field(default_factory=list)
    #: places in raw that are to be read again
    rereads: list[tuple[int, int]] = field(default_factory=list)
    reread: set[tuple[int, int]] = field(default_factory=set)  #: those that were
    parts: dict[str, list[rerunning.Line | str]] = field(default_factory=dict)  #: what runs have to read, by uri
    #: chunks a step is under way for, by loop: each of the two loops begins one step of a chunk at a time
    busy: set[str] = field(default_factory=set)
    _inside: bool = False

    def boom(self) -> None:
        if self.world.chance.random() < self.crash_share:
            raise Killed

    def mishap(self, share: float) -> bool:
        return self.rough and self.world.chance.random() < share

    def meanwhile(self, task: SimTask) -> None:
        """What else the task does while a call is under way: commands, slices, the other effects."""
        self.boom()
        if not self.mishap(0.2) or self._inside:
            return
        self._inside = True
        try:
            for consume in TOPICS.values():
                consume(self, task, 3)
            for name in ("sealing", "sweep", "promote", "retry", "judge", "commit", "change", "dispatch", "poll"):
                EFFECTS[name](self, task)
        finally:
            self._inside = False

    def durable(self, task: SimTask) -> None:
        self.boom()
        task.commit()
        self.boom()


# -- slices ------------------------------------------------------------------------------------------------------------


def raw_record(task: SimTask, offset: int, value: RawRecord, at_ms: int) -> RawRecord:
    origin = Origin(generation=0, partition=task.partition, offset=offset, at_ms=at_ms)
    return RawRecord(origin=origin, key=value.key, value=value.value, headers=value.headers)


def normalizer(worker: Worker, task: SimTask, limit: int) -> bool:
    found = task.next("raw", limit)
    for offset, entry in found:
        raw = raw_record(task, offset, entry.value, entry.at_ms)
        task.apply(normalizing.normalize(task.view, raw, jobs=task.jobs, now_ms=worker.world.now_ms, limits=LIMITS))
    return bool(found)


def submitter(worker: Worker, task: SimTask, limit: int) -> bool:
    found = task.next("normalized", limit)
    for offset, entry in found:
        task.apply(queueing.arrive(task.view, entry.value, offset, now_ms=worker.world.now_ms))
    return bool(found)


def validator(worker: Worker, task: SimTask, limit: int) -> bool:
    found = task.next("results", limit)
    for offset, entry in found:
        task.apply(validating.validate(task.view, entry.value, offset, jobs=task.jobs, now_ms=worker.world.now_ms))
    return bool(found)


def committer(worker: Worker, task: SimTask, limit: int) -> bool:
    found = task.next("validated", limit)
    for offset, entry in found:
        task.apply(committing.meet_verdict(task.view, entry.value, offset, worker.world.now_ms))
    return bool(found)


def reviewer(worker: Worker, task: SimTask, limit: int) -> bool:
    found = task.next("decisions", limit)
    for offset, entry in found:
        task.apply(reviewing.review(task.view, entry.value, offset, jobs=task.jobs, now_ms=worker.world.now_ms))
    return bool(found)


def controller(worker: Worker, task: SimTask, limit: int) -> bool:
    found = task.next("control", limit)
    for offset, entry in found:
        if entry.value.command in reverting.COMMANDS:
            task.apply(reverting.change_command(task.view, entry.value, offset))
        elif controlling.refusal(task.view, entry.value) is None:
            task.apply(_obeyed(worker, task, entry.value, entry.at_ms))
    return bool(found)


def _obeyed(worker: Worker, task: SimTask, command: Control, at_ms: int) -> list[Order]:
    match command.command:
        case redriving.COMMAND:
            return redriving.redrive_command(task.view, command, task.partition, worker.world.now_ms)
        case rerunning.COMMAND:
            return rerunning.rerun_command(task.view, command, task.partition, at_ms)
        case _:
            return controlling.control(task.view, command, at_ms, worker.world.now_ms)


TOPICS: dict[str, Callable[[Worker, SimTask, int], bool]] = {
    "control": controller,
    "raw": normalizer,
    "normalized": submitter,
    "results": validator,
    "decisions": reviewer,
    "validated": committer,
}


# -- effects -----------------------------------------------------------------------------------------------------------


def arrivals(worker: Worker, task: SimTask) -> bool:
    did = False
    for _, row in task.view.scan("arrival", "", limit=10):
        assert isinstance(row, Arrival)
        entry = worker.world.log["raw", task.partition][row.origin.offset]
        raw = raw_record(task, row.origin.offset, entry.value, entry.at_ms)
        orders = normalizing.revisit(task.view, row, raw, jobs=task.jobs, now_ms=worker.world.now_ms, limits=LIMITS)
        task.apply(orders)
        did = did or bool(orders)
    return did


def _spec(task: SimTask, job_name: str, version: str):
    job = read.job(task.view, job_name)
    assert job is not None
    compiled = task.jobs.of(job, version)
    assert compiled is not None
    return compiled


def seal(worker: Worker, task: SimTask) -> bool:
    did = False
    for queue in sealing.queues(task.view):
        mode = _spec(task, queue.job, queue.version).spec.mode
        if mode.prefer == "auto":
            hasten(worker, task, queue)
        online = queue.lane.endswith(f"|{chunking.ONLINE}")
        limits = sealing.ChunkLimits(
            count_max=mode.online.max_count if online else mode.chunk.max_count,
            bytes_max=mode.chunk.max_bytes,
            tokens_max=mode.chunk.max_tokens,
            age_ms_max=0 if online else round(mode.chunk.max_age_seconds * 1000),
            chunks_on_the_way_max=CHUNKS_ON_THE_WAY_MAX,
            hold=mode.hold_submit,
        )
        orders = sealing.seal(task.view, queue, limits, task.place, worker.world.now_ms)
        task.apply(orders)
        did = did or bool(orders)
    return did


def hasten(worker: Worker, task: SimTask, queue: sealing.Queue) -> None:
    mode = _spec(task, queue.job, queue.version).spec.mode
    assert mode.deadline_seconds is not None
    haste = hastening.Haste(
        deadline_ms=mode.deadline_seconds * 1000,
        typical_ms=TYPICAL_MS,
        filling_ms=round(mode.chunk.max_age_seconds * 1000),
    )
    task.apply(hastening.stop_late(task.view, queue.job, queue.version, haste, worker.world.now_ms))
    task.apply(hastening.move_late(task.view, queue, haste, worker.world.now_ms))


def stored(worker: Worker, task: SimTask) -> bool:
    step = following.walk(task.view, None, worker.world.now_ms)
    task.apply(step.orders)
    found = task.view.scan("stored", "", limit=5)
    for _, life in found:
        assert isinstance(life, Life)
        log = worker.world.log["results", task.partition]
        value = log[life.result_offset].value if life.result_offset < len(log) else None
        assert value is None or isinstance(value, Result)
        task.apply(queueing.from_store(task.view, life, value, worker.world.now_ms, jobs=task.jobs))
    return bool(found or step.orders)


def retry(worker: Worker, task: SimTask) -> bool:
    orders = retrying.due(task.view, now_ms=worker.world.now_ms, limit=20)
    task.apply(orders)
    return bool(orders)


def sweep(worker: Worker, task: SimTask) -> bool:
    did = False
    for job in controlling.jobs(task.view):
        orders = controlling.sweep(task.view, job.job, worker.world.now_ms)
        task.apply(orders)
        did = did or bool(orders)
    return did


def promote(worker: Worker, task: SimTask) -> bool:
    under_way = promoting.sweeps(task.view)
    for each in under_way:
        lives, after = promoting.next_cut(task.view, each)
        outcomes: list[str] = []
        for life in lives:
            outcome, orders = promoting.come_forward(task.view, each, life, worker.world.now_ms)
            task.apply(orders)
            outcomes.append(outcome)
        task.apply(promoting.carried_on(task.view, after, outcomes))
    return bool(under_way)


def reread(worker: Worker, task: SimTask) -> bool:
    """Raw events that an operator wants to have read again, as a replay does it."""
    due = {(task.partition, offset) for offset in range(task.read["raw"])}  # none before it was read at all
    here = sorted(due.intersection(worker.rereads))
    worker.rereads = [place for place in worker.rereads if place not in due]
    for _, offset in here:
        worker.reread.add((task.partition, offset))
        entry = worker.world.log["raw", task.partition][offset]
        raw = raw_record(task, offset, entry.value, entry.at_ms)
        waits = f"{raw.origin.generation}/{raw.origin.offset:016d}"
        if task.view.get(Arrival.schema, waits) is not None:
            continue  # it will be taken up for the first time
        try:
            event = events.decoded(raw, LIMITS, None)
        except Unusable:
            continue
        row = read.job(task.view, event.job or "")
        job = None if row is None else task.jobs.of(row)
        if row is None or job is None:
            continue
        number = versioning.promotion_of(row, row.version)
        standing = items.Standing(promotion=number, run_id="replay:again", replayed=True)
        lookups = looking_up.Lookups(view=task.view, origin=raw.origin)
        item = items.item_of(job, event, raw, standing, LIMITS, lookups)
        task.apply([Emit(item, item.request_id.encode())])
    return bool(here)


def rerun(worker: Worker, task: SimTask) -> bool:
    """A cut of each run."""
    went_on = False
    for progress in rerunning.under_way(task.view):
        todo, orders = rerunning.next_of(task.view, progress, task.jobs)
        task.apply(orders)
        went_on = went_on or bool(orders)
        if todo is rerunning.Next.READ:
            _rerun_cut(worker, task, progress)
            went_on = True
    return went_on


def _rerun_cut(worker: Worker, task: SimTask, progress: rerunning.Progress) -> None:
    lines = worker.parts[progress.part.uri][progress.done : progress.done + RERUN_CUT]
    now_ms = worker.world.now_ms
    if progress.kind is rerunning.Kind.WRITE:
        requests = [line for line in lines if isinstance(line, str)]
        task.apply(rereading.write_cut(task.view, progress, requests, size_bytes=0, now_ms=now_ms))
        return
    found = [(line, _event(task, line.offset)) for line in lines if isinstance(line, rerunning.Line)]
    if not progress.aside:
        worker.reread |= {(task.partition, raw.origin.offset) for _, raw in found}
    reading = rereading.Reading(limits=LIMITS, default_job=None, prices=PRICES)
    task.apply(
        rereading.rerun_cut(task.view, progress, found, size_bytes=0, jobs=task.jobs, reading=reading, now_ms=now_ms)
    )


def _event(task: SimTask, offset: int) -> RawRecord:
    entry = task.world.log["raw", task.partition][offset]
    return raw_record(task, offset, entry.value, entry.at_ms)


def write(worker: Worker, task: SimTask) -> bool:
    busy = f"commit/{task.partition}"
    if worker.sink.compares:  # an answer that is waited for and another cut at once do no harm
        return _write(worker, task)
    if busy in worker.busy:
        return False
    worker.busy.add(busy)
    try:
        return _write(worker, task)
    finally:
        worker.busy.discard(busy)


def _write(worker: Worker, task: SimTask) -> bool:
    now_ms = worker.world.now_ms
    terms = committing.Terms(
        sinks={"sim": worker.sink.capabilities, scoring.SINK: SINKS[scoring.SINK]},
        share=limiting.Share(task.partition, worker.world.partitions),
        down={"sim"} if worker.outages and now_ms % DOWN_EVERY == 0 else frozenset(),
    )
    intent = committing.intend(task.view, task.jobs, terms, now_ms=now_ms, limit=COMMIT_CUT)
    while intent.after is not None and not (intent.lives or intent.inside or intent.orders):
        intent = committing.intend(task.view, task.jobs, terms, now_ms=now_ms, limit=COMMIT_CUT, after=intent.after)
    for order in intent.orders:
        _watch_intent(worker, task, order)
    task.apply(intent.orders)
    for life in intent.inside:
        _decide(worker, task, life)
    if not intent.lives:
        return bool(intent.orders or intent.inside)
    worker.durable(task)
    log = worker.world.log["validated", task.partition]
    writes = []
    for life in intent.lives:
        verdict = log[life.verdict_offset].value
        assert isinstance(verdict, Verdict)
        place = committing.place_of(task.view, task.jobs, life)
        writes.append(committing.write_of(life, verdict, place))
    results = worker.sink.apply(writes)
    worker.meanwhile(task)
    if worker.mishap(HANGS_UP if worker.sink.compares else HANGS_UP_BLIND):
        return True  # the sink hung up; the lives stay in doubt
    again = worker.mishap(0.1)  # its answer is delivered twice
    done = []
    for each, result in [*zip(writes, results, strict=True)] * (2 if again else 1):
        orders = committing.settle(task.view, each, result, sink="sim", now_ms=now_ms)
        task.apply(orders)
        done += [(order.record, result.changed) for order in orders if _is_commit(order)]
    task.apply(limiting.counted(task.view, done))
    assert all(result.outcome is not SinkOutcome.REFUSED for result in results)
    return True


def _decide(worker: Worker, task: SimTask, life: Life) -> None:
    """What is placed into `decisions` is written in the very transaction that says it is."""
    now_ms = worker.world.now_ms
    verdict = worker.world.log["validated", task.partition][life.verdict_offset].value
    place = committing.place_of(task.view, task.jobs, life)
    found = committing.inside_write(task.view, life, verdict, place, now_ms)
    assert found is not None
    wanted, intended = found
    task.apply(intended)
    decision = scoring.decision_of(life, verdict, now_ms)
    assert decision is not None
    result = SinkResult(commit_id=wanted.commit_id, outcome=SinkOutcome.APPLIED)
    settled = committing.settle(task.view, wanted, result, sink=scoring.SINK, now_ms=now_ms)
    task.apply([Emit(decision, key=decision.request_id.encode()), *settled])


def judge(worker: Worker, task: SimTask) -> bool:
    """Answers, then decisions, that are judged beside what is read back from the log."""
    now_ms, partition = worker.world.now_ms, task.partition
    results, items = (worker.world.log[name, partition] for name in ("results", "normalized"))
    lives = validating.waiting(task.view, task.jobs, 5)
    asked = reviewing.waiting(task.view, 5)
    if lives or asked:
        worker.meanwhile(task)
    for life in lives:
        assert life.result_offset is not None
        bodies = results[life.result_offset].value, items[life.input_offset].value
        task.apply(validating.validate_beside(task.view, life, *bodies, jobs=task.jobs, now_ms=now_ms))
    for each in asked:
        life = read.life(task.view, each.request_id)
        assert life is not None
        answer = None if life.result_offset is None else results[life.result_offset].value
        ours = answer if isinstance(answer, Result) and answer.request_id == life.request_id else None
        beside = reviewing.Beside(item=items[life.input_offset].value, result=ours)
        decision = worker.world.log["decisions", partition][each.offset].value
        task.apply(reviewing.review_beside(task.view, each, decision, beside, jobs=task.jobs, now_ms=now_ms))
    return bool(lives or asked)


def _is_commit(order: object) -> bool:
    return isinstance(order, Emit) and isinstance(order.record, Committed)


def change(worker: Worker, task: SimTask) -> bool:
    """One step of a revert or a replay."""
    commands = reverting.under_way(task.view)
    if not commands:
        return False
    progress = commands[0]
    if not progress.asking:
        sinks = {"sim": worker.sink.capabilities}
        orders = reverting.next_cut(task.view, task.jobs, progress, sinks=sinks, limit=COMMIT_CUT)
        task.apply(orders)
        return bool(orders)
    busy = f"change/{task.partition}"
    if busy in worker.busy:
        return False
    worker.busy.add(busy)
    try:
        _change(worker, task, progress)
    finally:
        worker.busy.discard(busy)
    return True


def _change(worker: Worker, task: SimTask, progress: reverting.Progress) -> None:
    worker.durable(task)
    changes = [reverting.change_of(task.view, task.jobs, progress, asked)[1] for asked in progress.asking]
    answers = list(zip(progress.asking, worker.sink.change(changes), strict=True))
    worker.meanwhile(task)
    if worker.mishap(0.1):
        return  # the sink hung up; the same is asked again
    now = reverting.current(task.view, progress)
    for asked, result in answers * (2 if worker.mishap(0.1) else 1):
        now, orders = reverting.settle_change(task.view, now, asked, result, sink="sim", now_ms=worker.world.now_ms)
        task.apply(orders)
    task.apply([reverting.noted(now)])


def _watch_intent(worker: Worker, task: SimTask, order: object) -> None:
    life = getattr(order, "row", None)
    if not isinstance(life, Life) or life.commit_id is None:
        return
    job = read.job(task.view, life.job)
    assert isinstance(job, Job)
    if job.cancelled_before_ms is not None and life.queued_at_ms <= job.cancelled_before_ms:
        worker.late_writes.append(life.request_id)


def dispatch(worker: Worker, task: SimTask) -> bool:
    """One step of one chunk on its way to the provider."""
    return _one_step(worker, task, polled=False)


def poll(worker: Worker, task: SimTask) -> bool:
    """One step of one chunk on its way back."""
    return _one_step(worker, task, polled=True)


def _one_step(worker: Worker, task: SimTask, *, polled: bool) -> bool:
    ready: list[tuple[str, Chunk, Todo]] = []
    for _, row in task.view.scan("chunk", "", limit=100):
        assert isinstance(row, Chunk)
        job = read.job(task.view, row.job)
        assert job is not None
        stopped = job.paused or granting.waits(task.view, row)
        step = submitting.todo(row, by_file=True, paused=stopped, now_ms=worker.world.now_ms)
        busy = f"{row.chunk_id}/{polled}"
        if step is not None and (row.state in POLLED) is polled and busy not in worker.busy:
            ready.append((busy, row, step))
    if not ready:
        return False
    busy, chunk, step = worker.world.chance.choice(ready) if worker.rough else min(ready, key=lambda each: each[0])
    worker.busy.add(busy)
    try:
        STEPS[step](worker, task, chunk)
    except ProviderError as error:
        now = _reread(task, chunk)
        if now.state is chunk.state:
            task.apply(refusing.try_later(task.view, now, error, worker.world.now_ms))
    finally:
        worker.busy.discard(busy)
    return True


EFFECTS: dict[str, Callable[[Worker, SimTask], bool]] = {
    "arrivals": arrivals,
    "sealing": seal,
    "stored": stored,
    "retry": retry,
    "dispatch": dispatch,
    "poll": poll,
    "sweep": sweep,
    "promote": promote,
    "reread": reread,
    "rerun": rerun,
    "judge": judge,
    "commit": write,
    "change": change,
}


# -- steps of a chunk --------------------------------------------------------------------------------------------------


def _reread(task: SimTask, chunk: Chunk) -> Chunk:
    row = read.chunk(task.view, chunk.chunk_id)
    assert row is not None
    return row


def _all_members(task: SimTask, chunk: Chunk) -> list[Life]:
    return chunking.members(task.view, chunk.chunk_id, limit=100_000)


def _prepare(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    now_ms = worker.world.now_ms
    task.apply(submitting.weed(task.view, chunk, _all_members(task, chunk), now_ms))
    chunk = _reread(task, chunk)
    routes = _spec(task, chunk.job, chunk.version).routes
    log = worker.world.log["normalized", task.partition]
    lines = []
    for life in _all_members(task, chunk):
        item = log[life.input_offset].value
        assert item.request_id == life.request_id
        body = json.loads(routes.of(life.route).form.body(item.input_json.encode()))
        name = chunking.custom_id_of(chunk, life)
        lines.append(json.dumps({"custom_id": name, "body": body}).encode() + b"\n")
    payload = b"".join(lines)
    sha256 = content_sha256(payload)
    worker.payloads[sha256] = payload
    worker.meanwhile(task)
    stored_as = StoredPayload(uri=sha256, sha256=sha256, size_bytes=len(payload))
    task.apply(submitting.prepared(_reread(task, chunk), stored_as, now_ms, bytes_max=10**8))


def _delete_file(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    assert chunk.file_id is not None
    worker.provider.delete_file(chunk.file_id)
    worker.meanwhile(task)
    task.apply(submitting.file_deleted(_reread(task, chunk), worker.world.now_ms))


def _holds(worker: Worker, task: SimTask, chunk: Chunk) -> bool:
    """As the submitter does before a chunk leaves: the worst case is reserved, or the chunk waits."""
    job = read.job(task.view, chunk.job)
    assert job is not None
    budget, now_ms = granting.budget_of(job), worker.world.now_ms
    if budget is None or budget.job_nanos is None:
        return True
    worst = granting.worst_case(_spec(task, chunk.job, chunk.version), PRICES, chunk.lane)
    assert worst is not None
    nanos = sum(worst.of(life) for life in _all_members(task, chunk))
    needs = granting.needs_of(chunk, nanos=nanos, share=granting.Share())
    found = granting.reserve(task.view, chunk, needs, now_ms)
    task.apply(found.orders)
    return found.held


def _upload(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    if worker.mishap(0.03):
        worker.payloads.pop(chunk.payload_uri or "", None)
    payload = worker.payloads.get(chunk.payload_uri or "")
    if payload is None:
        task.apply(submitting.payload_missing(chunk, worker.world.now_ms))
        return
    if not _holds(worker, task, chunk):
        return
    _watch_stop(worker, task, chunk)
    file_id = worker.provider.upload(payload)
    worker.meanwhile(task)
    task.apply(submitting.uploaded(_reread(task, chunk), file_id, worker.world.now_ms))


def _attempted(worker: Worker, task: SimTask, chunk: Chunk) -> Chunk | None:
    """The chunk with every member named in a durable attempt; None when it may not be, or was stopped."""
    task.commit()  # a heartbeat
    now_ms = worker.world.now_ms
    lease = submitting.may_spend(
        now_boottime_s=now_ms / 1000,
        last_commit_boottime_s=task.committed_at_ms / 1000,
        fenced_boottime_s=task.fenced_at_ms / 1000,
        previous_owner_clean=task.clean,
        http_timeout_s=HTTP_TIMEOUT_S,
    )
    if not lease:
        return None
    if not _holds(worker, task, chunk):
        return None
    while chunk.state in {ChunkState.PREPARED, ChunkState.UPLOADED}:
        task.apply(submitting.begin_cut(task.view, chunk, now_ms))
        worker.meanwhile(task)
        chunk = _reread(task, chunk)
    if chunk.state is not ChunkState.ATTEMPTING:
        return None
    worker.durable(task)
    worker.meanwhile(task)
    return chunk


def _begin(worker: Worker, task: SimTask, found: Chunk) -> None:
    chunk = _attempted(worker, task, found)
    if chunk is None:
        return
    outcome = _created(worker, task, chunk)
    worker.meanwhile(task)
    task.apply(submitting.after_create(task.view, _reread(task, chunk), outcome, worker.world.now_ms))


def _call(worker: Worker, task: SimTask, found: Chunk) -> None:
    """One question after the other, answers written down now and then."""
    chunk = _attempted(worker, task, found)
    if chunk is None:
        return
    payload = worker.payloads[chunk.payload_uri or ""]
    questions = {line["custom_id"]: line["body"]["messages"][-1]["content"] for line in _lines_of(payload)}
    asked = _all_members(task, chunk)
    worker.world.chance.shuffle(asked)
    ends: list[calling.Called] = []
    for life in asked:
        name = chunking.custom_id_of(chunk, life)
        ends.append(calling.Called(life.request_id, _asked(worker, task, chunk, name, questions[name])))
        worker.meanwhile(task)
        if worker.mishap(0.4):
            _ended(worker, task, chunk, ends)
            ends = []
    _ended(worker, task, chunk, ends)


def _asked(
    worker: Worker, task: SimTask, chunk: Chunk, name: str, question: str
) -> collecting.RowOutcome | ProviderError:
    if not calling.may_call(task.view, chunk):
        return NotStartedError("lease_ended")
    _watch_stop(worker, task, chunk)
    intended = {record.custom_id for record in worker.world.records("submitted")}
    worker.unintended += [] if name in intended else [name]
    try:
        return worker.provider.ask(name, question)
    except ProviderError as error:
        return error


def _doubt(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    _ended(worker, task, chunk, calling.in_doubt(task.view, chunk))


def _ended(worker: Worker, task: SimTask, chunk: Chunk, ends: list[calling.Called]) -> None:
    if not ends:
        return
    terms = calling.Terms(
        retry=_spec(task, chunk.job, chunk.version).spec.retry,
        on_unknown="resend",
        price=price,
        worst=worst_nanos,
        output_bytes_max=10**6,
    )
    task.apply(calling.after_calls(task.view, _reread(task, chunk), ends, terms, worker.world.now_ms))


def worst_nanos(life: Life) -> int:
    return life.bytes_estimate + OUTPUT_TOKEN_NANOS * ANSWER_TOKENS_MAX


def _lines_of(payload: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in payload.splitlines()]


def _created(worker: Worker, task: SimTask, chunk: Chunk) -> RemoteBatch | ProviderError:
    if not submitting.may_create(task.view, chunk):
        return TransientError("not now")
    _watch_stop(worker, task, chunk)
    _watch_intents(worker, chunk)
    assert chunk.file_id is not None
    try:
        return worker.provider.create(chunk.file_id, _label(chunk), worker.world.now_ms)
    except ProviderError as error:
        return error


def _label(chunk: Chunk) -> Label:
    return Label(
        app="sim",
        chunk_id=chunk.chunk_id,
        chunk_attempt=chunk.attempt,
        payload_sha256=chunk.payload_sha256 or "",
        members=chunk.members,
    )


def _watch_stop(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    job = read.job(task.view, chunk.job)
    if job is None or job.paused or _reread(task, chunk).cancel_requested:
        worker.spent_while_stopped.append(chunk.chunk_id)


def _watch_intents(worker: Worker, chunk: Chunk) -> None:
    intended = {
        record.custom_id
        for record in worker.world.records("submitted")
        if (record.chunk_id, record.chunk_attempt) == (chunk.chunk_id, chunk.attempt)
    }
    sent = {custom_id for custom_id, _ in worker.provider.files.get(chunk.file_id or "", [])}
    worker.unintended += sorted(sent - intended)


def _look(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    now_ms = worker.world.now_ms
    found = worker.provider.find(_label(chunk), (chunk.attempt_at_ms or 0) - SKEW_MS, now_ms)
    worker.meanwhile(task)
    looked = submitting.after_look(_reread(task, chunk), found, now_ms, GRACE)
    task.apply(looked.orders)
    for batch_id in looked.cancel:
        worker.provider.cancel(batch_id, now_ms)


def _poll(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    now_ms = worker.world.now_ms
    remote = worker.provider.get(chunk.batch_id or "", now_ms)
    worker.meanwhile(task)
    task.apply(collecting.after_poll(task.view, _reread(task, chunk), remote, POLLS, now_ms))


def _cancel(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    now_ms = worker.world.now_ms
    remote = worker.provider.cancel(chunk.batch_id or "", now_ms)
    worker.meanwhile(task)
    task.apply(collecting.after_poll(task.view, _reread(task, chunk), remote, POLLS, now_ms))


def _download(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    output, errors = worker.provider.rows(chunk.batch_id or "")
    names = []
    for kind, rows in (("output", output), ("errors", errors)):
        uri = f"{chunk.batch_id}/{kind}"
        worker.results[uri] = rows
        names.append(StoredPayload(uri=uri, sha256=uri, size_bytes=len(rows)))
    worker.meanwhile(task)
    task.apply(collecting.downloaded(_reread(task, chunk), names[0], names[1], worker.world.now_ms))


def _index(worker: Worker, chunk: Chunk) -> collecting.RowIndex:
    index = collecting.RowIndex.of(chunk)
    for number, uri in enumerate((chunk.output_uri, chunk.error_uri)):
        for at, row in enumerate(worker.results.get(uri or "", [])):
            index.add(row.custom_id, collecting.RowPlace(number, at, 1))
    return index


def _collect(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    if worker.mishap(0.05):
        task.apply(collecting.results_missing(chunk, worker.world.now_ms))
        return
    index = _index(worker, chunk)
    cut = chunking.members(task.view, chunk.chunk_id, limit=4)
    files = [worker.results.get(uri or "", []) for uri in (chunk.output_uri, chunk.error_uri)]
    rows = {}
    for life in cut:
        name = chunking.custom_id_of(chunk, life)
        place = index.places.get(name)
        if place is not None:
            rows[name] = files[place.file][place.start]
    spec = _spec(task, chunk.job, chunk.version).spec
    task.apply(
        collecting.collect_cut(task.view, chunk, cut, rows, retry=spec.retry, price=price, now_ms=worker.world.now_ms)
    )


def _settle(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    task.apply(collecting.settle_cut(task.view, chunk, task.place, worker.world.now_ms))


def _finish(worker: Worker, task: SimTask, chunk: Chunk) -> None:
    now_ms = worker.world.now_ms
    found = worker.provider.find(_label(chunk), 0, now_ms)
    looked = submitting.twins_of(chunk, found, lambda batch: _waste(worker, batch.batch_id), now_ms)
    task.apply(looked.orders)
    for batch_id in looked.cancel:
        worker.provider.cancel(batch_id, now_ms)
    task.apply(collecting.finish(_reread(task, chunk), _index(worker, chunk), now_ms))


def _waste(worker: Worker, batch_id: str) -> int:
    return sum(bill.nanos or 0 for bill in worker.provider.bills if bill.batch_id == batch_id)


STEPS: dict[Todo, Callable[[Worker, SimTask, Chunk], None]] = {
    Todo.PREPARE: _prepare,
    Todo.DELETE_FILE: _delete_file,
    Todo.UPLOAD: _upload,
    Todo.BEGIN: _begin,
    Todo.LOOK: _look,
    Todo.CALL: _call,
    Todo.DOUBT: _doubt,
    Todo.POLL: _poll,
    Todo.CANCEL: _cancel,
    Todo.DOWNLOAD: _download,
    Todo.COLLECT: _collect,
    Todo.SETTLE: _settle,
    Todo.FINISH: _finish,
}
