"""What must hold whatever was killed: one function per promise, evidence in, a finding out.

What lives here: the promises as joins over `Evidence`, each naming the records that break it. What must not: reading
anything, and any decision of the pipeline; what a legal move is, is written down here a second time, from the design.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from batchmill.schemas.ids import parse_custom_id
from batchmill.schemas.reasons import info
from batchmill.schemas.records import Origin
from batchmill.schemas.state import Arrival, Chunk, Life
from batchmill.schemas.status import ChunkState, Outcome, Status
from tests.chaos.evidence import Evidence
from tests.chaos.judging import LABEL_CHUNK, Expect, Finding, bills_beyond_failures, bills_without_intent, histories

__all__ = ["INVARIANTS", "LEGAL_MOVES", "check", "names"]


_Q, _P, _S = Status.QUEUED, Status.PROCESSING, Status.SUCCEEDED_UNVALIDATED
_V, _C, _N = Status.VALIDATED, Status.COMMITTED, Status.NEEDS_REVIEW
_R, _T = Status.FAILED_RETRYABLE, Status.FAILED_TERMINAL

#: from the design's section on a record's life, not from the table that the pipeline uses
LEGAL_MOVES: frozenset[tuple[Status, Status]] = frozenset(
    {
        (_Q, _P), (_Q, _S), (_Q, _T),
        (_P, _S), (_P, _R), (_P, _T),
        (_R, _Q), (_R, _T),
        (_S, _V), (_S, _N), (_S, _R), (_S, _T),
        (_N, _V), (_N, _T),
        (_V, _C), (_V, _T), (_V, _N),
        (_C, _V),
        (_T, _Q), (_T, _S), (_T, _V), (_T, _N),
    }
)  # fmt: skip


Check = Callable[[Evidence, Expect], Finding]
INVARIANTS: list[Check] = []


def invariant(check_: Callable[[Evidence, Expect], Iterator[str | int]]) -> Check:
    """A generator yields a number (things checked) or a sentence (a violation)."""

    def run(evidence: Evidence, expect: Expect) -> Finding:
        checked, violations = 0, []
        for each in check_(evidence, expect):
            if isinstance(each, int):
                checked += each
            else:
                violations.append(each)
        return Finding(check_.__name__, checked, tuple(violations))

    run.__name__ = check_.__name__
    INVARIANTS.append(run)
    return run


def check(evidence: Evidence, expect: Expect | None = None) -> list[Finding]:
    """Every invariant, in the order in which they are written."""
    return [each(evidence, expect or Expect()) for each in INVARIANTS]


def names() -> list[str]:
    return [each.__name__ for each in INVARIANTS]


# -- 1. never lost -----------------------------------------------------------------------------------------------------


@invariant
def no_loss(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """Every raw coordinate is in exactly one place: committed, in review, dead-lettered, excluded."""
    rows = evidence.rows()
    lives, arrivals = _of(rows, Life), _of(rows, Arrival)
    by_origin: dict[tuple[int, int], list[str]] = defaultdict(list)
    letters = list(_letters(evidence))
    with_life = {(_at(life.origin), life.request_id) for life in lives}
    told: Counter[tuple[Any, ...]] = Counter((_at(x.origin), x.request_id, kind) for kind, x in letters)
    commits = {record.request_id for record in evidence.values("committed")}
    for life in lives:
        by_origin[_at(life.origin)].append(_place(life))
        yield from _life_is_told(life, told, commits, expect)
    for kind, letter in letters:
        if letter.origin.generation != evidence.generation:
            yield f"{kind} {letter.id} is about no raw record (generation {letter.origin.generation})"
        elif (_at(letter.origin), letter.request_id) not in with_life:
            by_origin[_at(letter.origin)].append(kind)
    for arrival in arrivals:
        by_origin[_at(arrival.origin)].append("held")
    came_in = {(seen.place.partition, seen.place.offset) for seen in evidence.raw}
    yield len(came_in)
    for at in sorted(came_in):
        places = by_origin.get(at, [])
        if not places:
            yield f"raw {at} is nowhere"
        elif len(places) > 1:
            yield f"raw {at} is in {len(places)} places: {', '.join(sorted(places))}"
        elif expect.drained and places[0] in {"held", "in flight"}:
            yield f"raw {at} is still {places[0]}"
    for at in sorted(by_origin.keys() - came_in):
        yield f"something is accounted for raw {at}, which never came in"


def _life_is_told(life: Life, told: Counter[tuple[Any, ...]], commits: set[str], expect: Expect) -> Iterator[str]:
    """What state says of a life is also on the topics that others read."""
    where = _place(life)
    said = {kind: told[_at(life.origin), life.request_id, kind] for kind in ("dead-letter", "excluded")}
    if where == "committed" and life.request_id not in commits:
        yield f"life {life.request_id} is committed, and nothing on the committed topic says so"
    if where in said and said[where] == 0:
        yield f"life {life.request_id} ended as {where} ({life.reason}), and no record says so"
    if where not in said and expect.drained and sum(said.values()) > life.redrives:
        yield f"life {life.request_id} is {where}, and a dead letter or exclusion speaks of it too"


@invariant
def letters_once(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """A dead letter or an exclusion is written once."""
    ids = Counter(letter.id for _, letter in _letters(evidence))
    yield len(ids)
    yield from (f"letter {id_} was written {n} times" for id_, n in ids.items() if n > 1)


@invariant
def all_final(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """Nothing is left half-way: lives have ended, been committed or wait for a person; chunks are closed."""
    rows = evidence.rows()
    lives, chunks = _of(rows, Life), _of(rows, Chunk)
    yield len(lives) + len(chunks)
    if not expect.drained:
        return
    for life in lives:
        if life.status not in {Status.COMMITTED, Status.NEEDS_REVIEW, Status.FAILED_TERMINAL}:
            yield f"life {life.request_id} is {life.status}"
    for chunk in chunks:
        if chunk.state not in {ChunkState.DONE, ChunkState.FAILED}:
            yield f"chunk {chunk.chunk_id} is {chunk.state}"


# -- 2. never doubled, never stale -------------------------------------------------------------------------------------


@invariant
def commit_once(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """One committed record per request and rank; the sink holds the last of each target, its history all of them."""
    records = evidence.values("committed")
    yield len(records)
    for (request, seq, promotion), n in Counter((r.request_id, r.seq, r.promotion) for r in records).items():
        if n > 1:
            yield f"request {request} was committed {n} times at rank ({seq}, {promotion})"
    for commit_id, n in Counter(r.commit_id for r in records).items():
        if n > 1:
            yield f"commit {commit_id} was written {n} times"
    newest: dict[str, Any] = {}
    for record in records:
        held = newest.get(record.target_key)
        if held is None or (record.seq, record.promotion) > (held.seq, held.promotion):
            newest[record.target_key] = record
    yield from _sink_agrees(evidence, newest)
    written = Counter(row.commit_id for row in evidence.history)
    recorded = {r.commit_id for r in records}
    yield from (f"history holds commit {each} {n} times" for each, n in written.items() if n > 1)
    unknown = written.keys() - recorded
    yield from (f"the sink was written by commit {each}, which Kafka does not know" for each in unknown)
    yield from (f"commit {each} is not in the sink's history" for each in recorded - written.keys())


def _sink_agrees(evidence: Evidence, newest: dict[str, Any]) -> Iterator[str]:
    held = {row.target_key: row for row in evidence.sink}
    for target in sorted(newest.keys() | held.keys()):
        row, record = held.get(target), newest.get(target)
        if row is None:
            yield f"target {target} was committed and is not in the sink"
        elif record is None:
            yield f"target {target} is in the sink and was never committed"
        elif (row.commit_id, row.output_sha256, row.output_json) != (
            record.commit_id,
            record.output_sha256,
            record.output_json,
        ):
            yield f"target {target} holds commit {row.commit_id}, its newest committed record is {record.commit_id}"


@invariant
def newest_wins(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """Where the newest event of a source was committed, the sink holds that one."""
    lives: dict[tuple[str, str], Life] = {}
    for life in _of(evidence.rows(), Life):
        known = lives.get((life.job, life.source_id))
        if known is None or life.seq > known.seq:
            lives[life.job, life.source_id] = life
    held = {row.target_key: row for row in evidence.sink}
    yield len(lives)
    for life in lives.values():
        row = held.get(life.target_key)
        if life.status is Status.COMMITTED and (row is None or row.request_id != life.request_id):
            yield f"target {life.target_key} does not hold its newest request {life.request_id}"


@invariant
def concurrent_reader(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """A read_committed client that ran through all faults met each commit once, and all of them."""
    if evidence.live_commits is None:
        return
    met = Counter(evidence.live_commits)
    yield len(met)
    yield from (f"commit {each} was read {n} times while things died" for each, n in met.items() if n > 1)
    final = {record.commit_id for record in evidence.values("committed")}
    yield from (f"commit {each} was read and is gone" for each in met.keys() - final)
    yield from (f"commit {each} is there and was never read" for each in final - met.keys())


# -- 3. never swapped --------------------------------------------------------------------------------------------------


@invariant
def no_cross_wiring(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """Each committed output is the provider's answer to that very request, by the provider's own ledger."""
    if evidence.ledger is None:
        return
    bills = evidence.ledger.bills_by_custom_id()
    answers: dict[str, list[Any]] = defaultdict(list)
    for result in evidence.values("results"):
        if result.outcome is Outcome.SUCCEEDED:
            answers[result.request_id].append(result)
            yield from _is_the_answer(result, bills)
    raw = {(seen.place.partition, seen.place.offset): seen.value for seen in evidence.raw}
    for record in evidence.values("committed"):
        yield 1
        output = json.loads(record.output_json)
        if not any(_same(output, result.output) for result in answers[record.request_id]):
            yield f"committed output of {record.request_id} is no answer to it"
        value = raw.get(_at(record.origin))
        if value is not None and expect.answers_to is not None and not expect.answers_to(value, output):
            yield f"committed output of {record.request_id} answers another text than raw {_at(record.origin)}"


def _is_the_answer(result: Any, bills: dict[str, tuple[Any, ...]]) -> Iterator[str]:
    if result.answered_by == "store":
        return
    sent = parse_custom_id(result.custom_id)
    if sent is None or sent.request_id != result.request_id:
        yield f"result of {result.request_id} came in under custom id {result.custom_id}"
    billed = bills.get(result.custom_id, ())
    told = sha256((result.output or result.refusal or "").encode()).hexdigest()
    if result.output and told != result.output_sha256:
        yield f"result {result.custom_id} names another hash than its own text's"
    if not any(bill.result_sha256 == told for bill in billed):
        yield f"result {result.custom_id} is not what the provider answered to it"


def _same(output: Any, text: str | None) -> bool:
    try:
        return bool(json.loads(text or "") == output)
    except json.JSONDecodeError:
        return False


# -- 4. never paid twice -----------------------------------------------------------------------------------------------


@invariant
def paid_once(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """One batch with bills per chunk, one bill per line, each after a durable intent, another only after a failure."""
    ledger = evidence.ledger
    if ledger is None:
        return
    chunk_of = {made.batch_id: made.metadata.get(LABEL_CHUNK, "") for made in ledger.batches_created}
    billed_batches: dict[str, set[str]] = defaultdict(set)
    for bill in ledger.bills:
        billed_batches[chunk_of[bill.batch_id]].add(bill.batch_id)
    for chunk, batches in billed_batches.items():
        if not chunk:
            yield f"{len(batches)} batches were billed that name no chunk"
        elif len(batches) > 1:
            yield f"chunk {chunk} was billed as {len(batches)} batches"
    for custom_id, bills in ledger.bills_by_custom_id().items():
        yield len(bills)
        if len(bills) > 1:
            yield f"line {custom_id} was billed {len(bills)} times"
    yield from bills_without_intent(evidence)
    yield from bills_beyond_failures(evidence, expect)
    if expect.usable is not None:
        good = (r for r in evidence.values("results") if r.answered_by == "provider" and r.outcome is Outcome.SUCCEEDED)
        usable = Counter(r.request_id for r in good if not r.refusal and expect.usable(r.output or ""))
        yield from (f"request {id_} was asked again though it had an answer" for id_, n in usable.items() if n > 1)


@invariant
def batches_once(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """The provider accepted one batch per chunk, but for those that it failed itself before a row ran."""
    if evidence.ledger is None:
        return
    ended = {each.batch_id: each for each in evidence.ledger.batches_ended}
    accepted: Counter[str] = Counter()
    for made in evidence.ledger.batches_created:
        end = ended.get(made.batch_id)
        if end is None or end.status != "failed":
            accepted[made.metadata.get(LABEL_CHUNK, "")] += 1
    yield len(accepted)
    yield from (f"chunk {chunk} was accepted as {n} batches" for chunk, n in accepted.items() if n > 1)


@invariant
def cost_conserved(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """What our results cost, and what was billed for answers that never reached us, is the ledger's sum."""
    if evidence.ledger is None:
        return
    ours = {r.custom_id: r.cost_nanos for r in evidence.values("results") if r.answered_by == "provider"}
    booked, unreached = 0, 0
    for bill in evidence.ledger.bills:
        yield 1
        told = ours.get(bill.custom_id)
        if not bill.delivered:
            unreached += bill.cost_nanos
        elif told is None:
            unreached += bill.cost_nanos
            if bill.custom_id not in ours:
                yield f"line {bill.custom_id} was billed and delivered, and no result says so"
        elif told != bill.cost_nanos:
            yield f"line {bill.custom_id} cost {bill.cost_nanos} nanos, we booked {told}"
        else:
            booked += told
    total = sum(cost or 0 for cost in ours.values())
    if total != booked or booked + unreached != evidence.ledger.cost_nanos:
        yield f"we booked {total} nanos, of {booked} billed to us; the ledger says {evidence.ledger.cost_nanos}"
    spent: Counter[str] = Counter()
    for result in evidence.values("results"):
        spent[result.request_id] += (result.cost_nanos or 0) if result.answered_by == "provider" else 0
    for life in _of(evidence.rows(), Life):
        if spent[life.request_id] != life.cost_nanos:
            yield f"life {life.request_id} says it cost {life.cost_nanos} nanos, its results {spent[life.request_id]}"


# -- 5. transactions ---------------------------------------------------------------------------------------------------


@invariant
def no_hanging_transaction(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """A read_committed client reaches the end of every partition."""
    yield evidence.partitions_read
    yield from (f"{partition} is held open by a transaction" for partition in evidence.unreached)


@invariant
def aborted_invisible(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """Whatever lay in a transaction that was open when its producer was killed is in the log and seen by nobody."""
    for txn in sorted(evidence.doomed):
        yield 1
        if not evidence.written.get(txn):
            yield f"{txn} was seen open, and its records are not in the log"
        if evidence.visible.get(txn):
            yield f"{evidence.visible[txn]} records of {txn} are visible"


@invariant
def whole_transactions(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """A transaction is visible as a whole or not at all."""
    yield len(evidence.visible)
    for txn, n in evidence.visible.items():
        if n != evidence.written.get(txn, 0):
            yield f"{n} of {evidence.written.get(txn, 0)} records of {txn} are visible"


@invariant
def fenced_is_silent(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """After a new owner's marker nothing of an earlier owner appears in that task's changelog."""
    yield len(evidence.markers)
    log = [(m.place.partition, m.place.offset, m.producer_id, m.epoch, m.instance) for m in evidence.markers]
    log += [(s.place.partition, s.place.offset, s.txn.producer_id, s.txn.epoch, None) for s in evidence.state if s.txn]
    fence: dict[int, tuple[int, int, str]] = {}
    for partition, offset, producer_id, epoch, new_owner in sorted(log, key=lambda entry: entry[:2]):
        if new_owner is not None:
            fence[partition] = (producer_id, epoch, new_owner)
        elif partition in fence and (producer_id, epoch) < fence[partition][:2]:
            yield f"state/{partition}/{offset} is of epoch {epoch}, written after {fence[partition][2]} had fenced it"


@invariant
def prefix_exact(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """No output stems from an input beyond the committed position, and no input before it is without one."""
    sources: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    for name in ("normalized", "submitted", "results", "validated", "committed", "dead-letter", "excluded"):
        for seen in evidence.flow.get(name, ()):
            parts = (seen.src or "").rsplit("/", 2)
            if len(parts) == 3 and not parts[0].startswith("effect:"):
                yield 1
                topic = parts[0].split(".")[-2]
                end = evidence.positions.get((topic, int(parts[1])))
                if end is not None and int(parts[2]) >= end:
                    yield f"{seen.place} stems from {topic}/{parts[1]}/{parts[2]}, the position is {end}"
                sources[topic][int(parts[1]), int(parts[2])] += name in {"normalized", "dead-letter", "excluded"}
    for at, n in sources["raw"].items():
        if n > 1:
            yield f"raw {at} gave {n} outputs"
    last: dict[tuple[str, int], int] = {}
    for seen in (*evidence.raw, *(s for name in evidence.flow for s in evidence.flow[name])):
        last[seen.place.topic, seen.place.partition] = seen.place.offset
    for (topic, partition), end in evidence.positions.items():
        if expect.drained and end <= last.get((topic, partition), -1):
            yield f"{topic}/{partition} was read to {end}, its last record is {last[topic, partition]}"


# -- 6. lives ----------------------------------------------------------------------------------------------------------


@invariant
def legal_moves(evidence: Evidence, expect: Expect) -> Iterator[str | int]:
    """Statuses follow one another as the design says; moves of one transaction need no durable step between them."""
    for request, moves in histories(evidence):
        for before, after in moves:
            yield 1
            if before is None:
                # in the transaction in which it began it may be overtaken by an event of the same slice, or be named
                # in an attempt; the call itself waits for that transaction
                if after.status not in {Status.QUEUED, Status.PROCESSING, Status.FAILED_TERMINAL}:
                    yield f"life {request} begins as {after.status}"
            elif before.status is after.status:
                continue
            elif (before.status, after.status) not in LEGAL_MOVES and not _two_moves(before.status, after.status):
                yield f"life {request} went from {before.status} to {after.status}"


def _two_moves(first: Status, last: Status) -> bool:
    """Moves that one decision makes together: a failure that is final, an end right after a judgement, a recall."""
    allowed = {
        (_P, _R, _Q),
        (_P, _R, _T),
        (_S, _R, _Q),
        (_S, _R, _T),
        (_S, _V, _T),
        (_S, _N, _T),
        (_Q, _P, _R),
        (_T, _Q, _P),
    }
    allowed |= {(_V, _C, _V), (_C, _V, _T), (_R, _Q, _P), (_R, _Q, _T)}
    return any((first, middle, last) in allowed for middle in Status)


# -- shared ------------------------------------------------------------------------------------------------------------


def _of(rows: Mapping[Any, Any], kind: type) -> list[Any]:
    return [row for row in rows.values() if isinstance(row, kind)]


def _letters(evidence: Evidence) -> Iterable[tuple[str, Any]]:
    for kind in ("dead-letter", "excluded"):
        for value in evidence.values(kind):
            yield kind, value


def _at(origin: Origin) -> tuple[int, int]:
    return origin.partition, origin.offset


def _place(life: Life) -> str:
    match life.status:
        case Status.COMMITTED:
            return "committed"
        case Status.NEEDS_REVIEW:
            return "in review"
        case Status.FAILED_TERMINAL:
            excluded = life.reason is not None and info(life.reason).excluded
            return "excluded" if excluded else "dead-letter"
        case _:
            return "in flight"
