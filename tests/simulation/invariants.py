"""What must hold of every finished story, each law under its name.

The laws read the log, the sink, the provider's ledger and the rows; where they can, they are told by the oracle rather
than by what the system under test believes.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import Committed, DeadLetter, Excluded, Result, WorkItem
from batchmill.schemas.state import Arrival, Chunk, Grant, Job, Life, Source
from batchmill.schemas.status import Outcome, Place, Status
from batchmill.streams import view as read
from batchmill.streams.accounting import Books, OriginKey, origin_key, place_of
from batchmill.streams.limiting import Share, counts_of
from batchmill.streams.versioning import promotions_of
from tests.simulation.oracle import (
    AGAIN,
    ATTEMPTS_MAX,
    OPENINGS,
    SECOND,
    SURE,
    WRONG,
    agrees,
    answer_to,
    asked_as,
    sha256_of,
)
from tests.simulation.simulation import Story

__all__ = ["INVARIANTS", "broken"]

Law = Callable[[Story], Iterator[str]]
INVARIANTS: dict[str, Law] = {}


def law(check: Law) -> Law:
    INVARIANTS[check.__name__] = check
    return check


def broken(story: Story) -> dict[str, list[str]]:
    """The laws that do not hold, each with what shows it."""
    found = {name: list(check(story)) for name, check in INVARIANTS.items()}
    return {name: shown for name, shown in found.items() if shown}


@law
def ends(story: Story) -> Iterator[str]:
    """In bounded time, and nothing but reviews is left, and what was taken back."""
    if not story.finished:
        yield "there is work left"
    for life in story.lives():
        if life.status is Status.VALIDATED and (life.reverted or life.aside):
            continue
        if life.status not in {Status.COMMITTED, Status.FAILED_TERMINAL, Status.NEEDS_REVIEW}:
            yield f"{life.request_id} is {life.status}"


@law
def never_lost(story: Story) -> Iterator[str]:
    """Each raw record is in exactly one place."""
    books = Books()
    for partition in range(story.world.partitions):
        books.came_in((0, partition, offset) for offset in range(len(story.world.log["raw", partition])))
    raw = sum(len(story.world.log["raw", partition]) for partition in range(story.world.partitions))
    lives = {life.request_id: life for life in story.lives()}
    for life in lives.values():
        if not life.aside:
            books.is_in(origin_key(life.origin), place_of(life))
    again = _asked_again(story)
    claimed = {origin_key(life.origin) for life in lives.values() if not life.aside} & again
    for record in _put_down(story, again):
        if origin_key(record.origin) not in claimed:  # else it has got a life after all
            _count(books, record, lives)
    for task in story.tasks:
        for row in task.view.rows(Arrival.schema):
            assert isinstance(row, Arrival)
            books.is_in(origin_key(row.origin), Place.HELD)
    yield from (f"lost: {each}" for each in books.lost())
    yield from (f"in two places: {each}" for each in books.doubled())
    if books.account().raw != raw:
        yield "a place names a raw record that never came in"


def _asked_again(story: Story) -> set[OriginKey]:
    """Events that were read again or redriven, or that more than one version was asked about."""
    versions: dict[OriginKey, set[str]] = {}
    for item in _asked(story):
        versions.setdefault(origin_key(item.origin), set()).add(item.version)
    moves = ((before, after) for before, after in story.world.moves if before is not None)
    redriven = {origin_key(before.origin) for before, after in moves if after.redrives > before.redrives}
    return (
        redriven
        | {(0, *place) for place in story.worker.reread}
        | {key for key, told in versions.items() if len(told) > 1}
    )


def _put_down(story: Story, again: set[OriginKey]) -> list[Excluded | DeadLetter]:
    """Every exclusion and letter; of an event that was put down more than once, as one whose life was declined, brought
    back and then superseded, or that several versions were asked about, the last.
    """
    told: dict[object, tuple[int, Excluded | DeadLetter]] = {}
    for topic in ("excluded", "dead-letter"):
        for partition in range(story.world.partitions):
            for offset, entry in enumerate(story.world.log[topic, partition]):
                record = entry.value
                assert isinstance(record, Excluded | DeadLetter)
                ended = record.reason is not Reason.DUPLICATE and record.request_id in story.undone
                about: object = (record.request_id, record.origin) if ended else (topic, partition, offset)
                about = origin_key(record.origin) if origin_key(record.origin) in again else about
                if record.aside:
                    continue
                if about not in told or told[about][0] < entry.at_ms:
                    told[about] = entry.at_ms, record
    return [record for _, record in told.values()]


def _count(books: Books, record: Excluded | DeadLetter, lives: dict[str, Life]) -> None:
    """An obituary is counted through its life, unless a newer event took the life over."""
    if record.aside:
        return  # another life answers for the event
    life = lives.get(record.request_id or "")
    if life is None or life.aside or life.origin != record.origin:
        place = Place.EXCLUDED if info(record.reason).excluded else Place.DEAD_LETTERED
        books.is_in(origin_key(record.origin), place)


@law
def commit_once(story: Story) -> Iterator[str]:
    """One committed record per commit, the same commits in topic and sink, one per target and rank."""
    records = Counter(record.commit_id for record in _commits(story))
    yield from (f"commit {name} was published {count} times" for name, count in records.items() if count > 1)
    if set(records) != set(story.sink.history):
        yield f"topic and sink differ in {sorted(set(records) ^ set(story.sink.history))}"
    ranks = Counter(
        (each.write.target_key, each.write.seq, each.write.promotion) for each in story.sink.history.values()
    )
    yield from (f"{rank} was written {count} times" for rank, count in ranks.items() if count > 1)


def _commits(story: Story) -> list[Committed]:
    return [record for record in _of_the_sink(story) if record.kind == "commit"]


def _of_the_sink(story: Story) -> list[Committed]:
    """What was done to the sink; what the second job decides is on `decisions`."""
    return [record for record in story.world.records("committed") if record.job != SECOND]


@law
def changed_once(story: Story) -> Iterator[str]:
    """What the sink did for a command is published once, and nothing else is."""
    records = Counter(record.commit_id for record in story.world.records("committed") if record.kind != "commit")
    yield from (f"change {name} was published {count} times" for name, count in records.items() if count > 1)
    if set(records) != story.sink.made:
        yield f"topic and sink differ in the changes {sorted(set(records) ^ story.sink.made)}"


@law
def topic_tells_the_sink(story: Story) -> Iterator[str]:
    """Who reads `committed` in order knows what each target holds, whatever was taken back and put back."""
    held: dict[str, str | None] = {}
    newest: dict[str, tuple[int, int]] = {}
    before: dict[str, str | None] = {}
    for record in _of_the_sink(story):
        now, rank = held.get(record.target_key), (record.seq, record.promotion)
        if record.kind == "commit":
            before[record.commit_id] = record.previous_commit_id
            if rank > newest.get(record.target_key, (-1, -1)):
                held[record.target_key], newest[record.target_key] = record.commit_id, rank
        elif record.kind == "revert" and now == record.reverts:
            held[record.target_key] = before[record.reverts]
        elif record.kind == "replay" and now == before[record.reverts]:
            held[record.target_key] = record.reverts
    for target_key in held.keys() | story.sink.rows.keys():
        row = story.sink.rows.get(target_key)
        if held.get(target_key) != (None if row is None else row.write.commit_id):
            yield f"{target_key}: told {held.get(target_key)}, held {row and row.write.commit_id}"


@law
def reverted_rests(story: Story) -> Iterator[str]:
    """What was taken back is in the sink no more, and what is there was not."""
    held = {row.write.commit_id for row in story.sink.rows.values()}
    for life in story.lives():
        if life.reverted and life.commit_id in held:
            yield f"{life.request_id} was taken back and is in the sink"


@law
def asked_in_order(story: Story) -> Iterator[str]:
    """A sink that cannot compare is never given an older value of a source after a newer one."""
    if story.sink.compares:
        return
    last: dict[str, tuple[int, int]] = {}
    for write in story.sink.asked:
        rank = (write.seq, write.promotion)
        if rank < last.get(write.target_key, rank):
            yield f"{write.target_key} was given {rank} after {last[write.target_key]}"
        last[write.target_key] = rank


@law
def limit_kept(story: Story) -> Iterator[str]:
    """Of no version more is committed than the operator has allowed."""
    if story.stop_after is None:
        return
    commits = Counter(record.version for record in _commits(story))
    for version, count in commits.items():
        if count > story.stop_after * (story.goes + 1):
            yield f"{count} commits of {version}, {story.goes + 1} times {story.stop_after} were allowed"
    for task in story.tasks:
        share = Share(task.partition, story.world.partitions)
        for version in story.versions:
            counts = counts_of(task.view, "sim", version)
            if counts.commits > share.part(story.stop_after, counts.turn):
                yield f"task {task.partition} made {counts.commits} commits of {version} since the last go"


@law
def newest_wins(story: Story) -> Iterator[str]:
    """What stands in front for a source's newest event is what the sink holds, once it was committed."""
    cancelled = _cancelled_before(story)
    newest: dict[str, tuple[int, set[str]]] = {}
    for item in _asked(story):
        seq, asked = newest.get(item.source_id, (-1, set()))
        if item.origin.at_ms > cancelled and not item.aside and item.seq >= seq:
            newest[item.source_id] = item.seq, {item.request_id, *(asked if item.seq == seq else ())}
    lives = {life.request_id: life for life in story.lives()}
    for source_id, (_, asked) in newest.items():
        told = [lives[name] for name in asked if name in lives and not lives[name].aside]
        if len(told) != 1 or told[0].status is not Status.COMMITTED:
            continue  # who came first on equal rank is not to be read off the topic
        held = story.sink.rows.get(source_id)
        if held is None or held.write.request_id != told[0].request_id:
            yield f"{source_id}: the sink holds {held and held.write.request_id}, newest is {told[0].request_id}"


@law
def one_in_front(story: Story) -> Iterator[str]:
    """Of all versions' lives of one raw event one answers for it, and no other; none of a source stands behind it."""
    fronts = Counter(origin_key(life.origin) for life in story.lives() if not life.aside)
    yield from (f"{count} lives answer for {origin}" for origin, count in fronts.items() if count > 1)
    for task in story.tasks:
        for row in task.view.rows(Source.schema):
            assert isinstance(row, Source)
            front = task.view.get(Life.schema, row.request_id)
            if isinstance(front, Life) and front.aside:
                yield f"{row.key} is answered for by {front.request_id}, which stands aside"


@law
def front_stands(story: Story) -> Iterator[str]:
    """What answers for its source's newest event was never overtaken: whoever overtakes it answers in its place."""
    for task in () if story.scale.shared else story.tasks:  # a source that shares its questions has rows in many tasks
        for row in task.view.rows(Source.schema):
            assert isinstance(row, Source)
            front = read.life(task.view, row.request_id)
            if front is not None and front.reason is Reason.SUPERSEDED:
                yield f"{row.key} is answered for by {front.request_id}, which was superseded"


@law
def only_the_promoted_commit(story: Story) -> Iterator[str]:
    """Nothing of a version is written before it is promoted."""
    promoted = {promotion.version for promotion in promotions_of(_job(story))}
    for record in _commits(story):
        if record.version not in promoted:
            yield f"{record.request_id} of {record.version} was committed, which never was promoted"


@law
def promotion_is_whole(story: Story) -> Iterator[str]:
    """Whatever the version in force has for an event that another version answers for, it has in front."""
    for task in story.tasks:
        job = task.view.get(Job.schema, "sim")
        assert isinstance(job, Job)
        for life in (row for row in task.view.rows(Life.schema) if isinstance(row, Life)):
            if not life.aside or life.version != job.version or life.status is Status.FAILED_TERMINAL:
                continue
            if life.epoch and life.status is not Status.COMMITTED:
                continue  # a measurement
            source = read.source(task.view, life.job, life.source_id)
            front = None if source is None else read.life(task.view, source.request_id)
            if front is not None and front.origin == life.origin and front.version != life.version:
                yield f"{life.request_id} has an answer for {life.origin}, and {front.version} stands in front"


def _job(story: Story) -> Job:
    job = story.tasks[0].view.get(Job.schema, "sim")
    assert isinstance(job, Job)
    return job


def _cancelled_before(story: Story) -> int:
    return _job(story).cancelled_before_ms or 0


@law
def sources_tell_the_truth(story: Story) -> Iterator[str]:
    """What a task believes the sink to hold is what it holds."""
    taken_back = {life.request_id for life in story.lives() if life.reverted}
    for task in story.tasks:
        for row in task.view.rows(Source.schema):
            assert isinstance(row, Source)
            if row.job == SECOND:
                continue  # what it decides is on `decisions`
            held = story.sink.rows.get(row.source_id)
            if row.committed_request_id in taken_back:
                continue  # it stays the newest that was committed
            if row.committed_request_id != (None if held is None else held.write.request_id):
                yield f"{row.key}: believed {row.committed_request_id}, held {held and held.write.request_id}"


@law
def paid_once(story: Story) -> Iterator[str]:
    """No line of an attempt is billed twice, and none without a durable intent."""
    bills = Counter(bill.custom_id for bill in story.provider.bills)
    yield from (f"{name} was billed {count} times" for name, count in bills.items() if count > 1)
    intended = {record.custom_id for record in story.world.records("submitted")}
    yield from (f"{name} was billed without an intent" for name in bills if name not in intended)
    yield from (f"{name} was sent before its attempt was durable" for name in story.worker.unintended)


@law
def asked_once(story: Story) -> Iterator[str]:
    """A question is never on its way twice at once, and whoever waits for its answer waits for one who asks."""
    lives: dict[str, Life] = {}
    sent: dict[str, set[str]] = defaultdict(set)
    for _, life in story.world.moves:
        lives[life.request_id] = life
        if life.status is Status.PROCESSING:
            sent[life.ask_key].add(life.request_id)
        else:
            sent[life.ask_key].discard(life.request_id)
        if len(sent[life.ask_key]) > 1:
            yield f"{sorted(sent[life.ask_key])} have one question, and all were sent"
        if life.follows is not None and lives[life.follows].ask_key != life.ask_key:
            yield f"{life.request_id} waits for the answer to another question"
        if life.follows is not None and life.sends == 0 and lives[life.follows].follows is not None:
            yield f"{life.request_id} waits for {life.follows}, which waits as well"


@law
def cost_conserved(story: Story) -> Iterator[str]:
    """What the ledger billed is what lives and chunks say they cost, to the nano-dollar."""
    billed: Counter[str] = Counter()
    unpriced: Counter[str] = Counter()
    doubted = _in_doubt(story)
    for bill in story.provider.bills:
        if bill.custom_id in doubted:
            continue
        sent = parse_custom_id(bill.custom_id)
        assert sent is not None
        billed[sent.request_id] += bill.nanos or 0
        unpriced[sent.request_id] += bill.nanos is None
    for life in story.lives():
        if (life.cost_nanos, life.unpriced_calls) != (billed[life.request_id], unpriced[life.request_id]):
            yield f"{life.request_id} cost {life.cost_nanos}, the ledger says {billed[life.request_id]}"
    chunks = _chunks(story)
    if sum(chunk.cost_nanos + chunk.wasted_nanos for chunk in chunks) != sum(billed.values()):
        yield "the chunks do not add up to the ledger"


@law
def answers_kept(story: Story) -> Iterator[str]:
    """Each answer that was billed is in `results`, once, for the line it was given to, unless it is said to be lost."""
    results = Counter(
        record.custom_id
        for record in story.world.records("results")
        if record.outcome is Outcome.SUCCEEDED and record.answered_by == "provider"
    )
    doubted = _in_doubt(story)
    for bill in story.provider.bills:
        if results[bill.custom_id] != (bill.custom_id not in doubted):
            yield f"{bill.custom_id} was billed and is in results {results[bill.custom_id]} times"


@law
def doubt_booked(story: Story) -> Iterator[str]:
    """What calls in doubt were billed is no more than their chunks have booked for them."""
    doubted = _in_doubt(story)
    booked = {row.chunk_id: row.doubtful_nanos for row in _chunks(story)}
    billed: Counter[str] = Counter()
    for bill in story.provider.bills:
        if bill.custom_id in doubted:
            billed[doubted[bill.custom_id]] += bill.nanos or 0
    yield from (f"{name} booked {booked[name]} of {nanos}" for name, nanos in billed.items() if nanos > booked[name])


def _in_doubt(story: Story) -> dict[str, str]:
    """The lines of which the product says that it does not know what became of them, and their chunks."""
    records = story.world.records("results")
    return {each.custom_id: each.chunk_id for each in records if each.reason is Reason.OUTCOME_UNKNOWN}


def _chunks(story: Story) -> list[Chunk]:
    return [row for task in story.tasks for row in task.view.rows(Chunk.schema) if isinstance(row, Chunk)]


@law
def right_attempt(story: Story) -> Iterator[str]:
    """A result says what the provider said to that very line."""
    said = {bill.custom_id: bill.output for bill in story.provider.bills}
    for record in story.world.records("results"):
        if record.outcome is Outcome.SUCCEEDED and record.answered_by == "provider":
            if said.get(record.custom_id) != record.output:
                yield f"{record.custom_id} carries another line's output"
            elif not record.custom_id.startswith(record.request_id):
                yield f"{record.custom_id} was given to {record.request_id}"


@law
def never_swapped(story: Story) -> Iterator[str]:
    """What is committed is the answer to the question that was asked, or a reviewer's correction."""
    own, routes = _own_answers(story), {life.request_id: life.route for life in story.lives()}
    for record in _commits(story):
        output = json.loads(record.output_json)
        if output != own[record.request_id][routes[record.request_id]] and output not in story.corrections:
            yield f"{record.request_id} committed {output}"


def _own_answers(story: Story) -> dict[str, dict[str, dict[str, object]]]:
    """What the model must have answered, by request and route."""
    texts = {item.request_id: (item.version, json.loads(item.input_json)["text"]) for item in _asked(story)}
    versions = story.versions
    return {
        name: {route: answer_to(asked_as(versions.index(version), text, route)) for route in OPENINGS}
        for name, (version, text) in texts.items()
    }


def _asked(story: Story) -> list[WorkItem]:
    return [item for item in story.world.records("normalized") if item.job != SECOND]


@law
def undone_is_gone(story: Story) -> Iterator[str]:
    """An answer that waits in review is the model's own, whatever was put in its place before and taken back."""
    own = _own_answers(story)
    for _, after in story.world.moves:
        if after.status is Status.NEEDS_REVIEW and after.output_sha256 != sha256_of(own[after.request_id][after.route]):
            yield f"{after.request_id} waits in review with a correction"


@law
def rules_hold(story: Story) -> Iterator[str]:
    """Where there is a rule nothing is committed that breaks it, no more from a person than from a model."""
    for record in _commits(story) if story.ruled else ():
        if str(json.loads(record.output_json)["label"]).startswith(WRONG):
            yield f"{record.request_id} committed {record.output_json}"


@law
def scores_are_about_the_answer(story: Story) -> Iterator[str]:
    """What a score let pass was asked about, and its own score agreed; what a score is there for is moved by it."""
    told = {
        (each.request_id, each.output_sha256_seen): agrees(json.loads(each.output_json))
        for each in story.world.records("decisions")
        if each.action == "score"
    }
    for before, after in story.world.moves:
        if before is None or before.status is not Status.NEEDS_REVIEW or after.status is not Status.VALIDATED:
            continue
        by_score = before.reason is Reason.AWAITING_SCORE and after.due_at_ms is None
        if by_score and not told.get((after.request_id, after.output_sha256 or "")):
            yield f"{after.request_id} passed by a score that was not for it"
    for life in story.lives():
        if life.reason is Reason.AWAITING_SCORE and (life.request_id, life.output_sha256) in told:
            yield f"{life.request_id} waits for a score that is there"


@law
def no_commit_after_cancel(story: Story) -> Iterator[str]:
    """No write is begun for a life whose cancellation is known."""
    yield from story.worker.late_writes


@law
def committed_stays(story: Story) -> Iterator[str]:
    """Commits are undone by nothing but a recall; an ended life comes back only at its beginning, or to be written, or
    to the review it was declined in.
    """
    back = {Status.QUEUED, Status.SUCCEEDED_UNVALIDATED, Status.VALIDATED, Status.FAILED_TERMINAL}
    for before, after in story.world.moves:
        if before is None:
            continue
        if before.status is Status.COMMITTED and after.status not in {Status.COMMITTED, Status.VALIDATED}:
            yield f"{after.request_id} was committed and became {after.status}"
        undone = before.reason is Reason.DECLINED and after.status is Status.NEEDS_REVIEW
        if before.status is Status.FAILED_TERMINAL and after.status not in back and not undone:
            yield f"{after.request_id} had ended and became {after.status}"


@law
def id_never_reused(story: Story) -> Iterator[str]:
    """A request id stands for one source, content and version; a line's name for one line of one attempt."""
    meanings: dict[str, set[tuple[str, str, str]]] = {}
    for item in story.world.records("normalized"):
        meanings.setdefault(item.request_id, set()).add((item.source_id, item.input_sha256, item.version))
    yield from (f"{name} means {len(told)} things" for name, told in meanings.items() if len(told) > 1)
    sent = Counter((record.custom_id, record.chunk_attempt) for record in story.world.records("submitted"))
    yield from (f"{name} names {count} lines" for name, count in sent.items() if count > 1)


@law
def quiet_when_stopped(story: Story) -> Iterator[str]:
    """A paused or cancelled job makes no upload and no create call."""
    yield from story.worker.spent_while_stopped


@law
def attempts_bounded(story: Story) -> Iterator[str]:
    """No life counts more attempts than its job allows, and one for each step of the cascade."""
    allowed = ATTEMPTS_MAX + story.scale.cascade
    over = [life for life in story.lives() if life.attempt > allowed]
    yield from (f"{life.request_id} counts {life.attempt} attempts" for life in over)


@law
def asked_on_for_a_reason(story: Story) -> Iterator[str]:
    """The cascade's route is asked for what the one before gave no good answer to, and for nothing else."""
    for partition in range(story.world.partitions):
        good: dict[str, bool] = {}
        for entry in story.world.log["results", partition]:
            record = entry.value
            assert isinstance(record, Result)
            if record.route != AGAIN:
                if record.outcome is Outcome.SUCCEEDED:
                    good[record.request_id] = _is_good(record)
            elif record.answered_by == "provider" and good.get(record.request_id, True):
                yield f"{record.request_id} was asked on after {good.get(record.request_id, 'no answer')}"


def _is_good(record: Result) -> bool:
    try:
        told = json.loads(record.output or "")
    except json.JSONDecodeError:
        return False
    whole = record.refusal is None and record.finish_reason not in {"length", "content_filter"}
    return whole and isinstance(told, dict) and told.get("confidence", 0) >= SURE


@law
def breaker_kept(story: Story) -> Iterator[str]:
    """While its job runs, no task sees more answers of one version fail in a row than the breaker allows."""
    if story.scale.breaker is None:
        return
    for partition in range(story.world.partitions):
        rows = [row for at, row in story.world.history if at == partition]
        worst = max(_failed_in_a_row(rows), default=0)
        if worst > story.scale.breaker.consecutive:
            yield f"task {partition} went on until {worst} answers in a row had failed"


def _failed_in_a_row(rows: list[Life | Job | None]) -> Iterator[int]:
    """How many had failed after each answer. A word on the job, or the death of the worker, begins the count anew."""
    lives: dict[str, Life] = {}
    count: Counter[str] = Counter()
    paused = False
    for row in rows:
        if isinstance(row, Life):
            before, lives[row.request_id] = lives.get(row.request_id), row
            if paused or row.aside or before is None or before.status is not Status.SUCCEEDED_UNVALIDATED:
                continue
            if row.status in {Status.VALIDATED, Status.NEEDS_REVIEW}:
                count[row.version] = 0
            elif row.reason in {Reason.NOT_JSON, Reason.TRUNCATED, Reason.SCHEMA_MISMATCH}:
                count[row.version] += 1
                yield count[row.version]
        else:
            count.clear()
            paused = row.paused if row is not None else paused


@law
def budget_kept(story: Story) -> Iterator[str]:
    """At no moment is more billed, or held for batches on their way, than the highest budget there has been."""
    yield from story.overspent


@law
def grants_add_up(story: Story) -> Iterator[str]:
    """At the end everything that was handed out was used up or given back, and what was used up is what it cost."""
    posted = 0
    for task in story.tasks:
        for row in task.view.rows(Grant.schema):
            assert isinstance(row, Grant)
            posted += row.posted
            if row.reserved or row.granted != row.posted + row.returned:
                yield f"task {task.partition}: {row.granted} granted, {row.posted} used up, {row.returned} given back"
    if story.budgets:
        chunks = [row for task in story.tasks for row in task.view.rows(Chunk.schema) if isinstance(row, Chunk)]
        cost = sum(row.cost_nanos + row.wasted_nanos + max(row.untold_nanos, row.doubtful_nanos) for row in chunks)
        if posted != cost:
            yield f"{posted} is used up of grants, the chunks cost {cost}"
