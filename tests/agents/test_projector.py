"""The read model over hand-made log records: what is folded, counted and told, whatever order topics are read in."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.projector import ViewBusyError, ViewStore, letters, queries
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.metrics import Scope, accounting, checks, failures, funnel, metrics
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.projector.runs import run_rows
from batchmill.agents.projector.story import find, raw_story, story
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import REASONS, Fault, Reason
from batchmill.schemas.records import (
    Check,
    Committed,
    Control,
    DeadLetter,
    Decision,
    Excluded,
    Origin,
    Result,
    Submitted,
    Verdict,
    WorkItem,
)
from batchmill.schemas.state import Arrival, Chunk, Grant, Job, Life
from batchmill.schemas.status import ChunkState, Outcome, Place, Status, VerdictStatus
from batchmill.streams.accounting import place_of

JOB, VERSION, RUN = "triage", "v1", "run-1"


@dataclass(frozen=True)
class Rec:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


class Log:
    """Topics in memory; `fold` hands all that is new to a view."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[tuple[str, int], list[Rec]] = {}
        self._clock = itertools.count(1_000)
        self.store = ViewStore(path, identity={"topics": "t"})

    def add(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None, **more: Any) -> int:
        held = self.records.setdefault((topic, partition), [])
        offset = held[-1].offset + 2 if held else 0  # gaps, as transactions leave them
        held.append(Rec(offset, next(self._clock), key, value, **more))
        return offset

    def raw(self, partition: int = 0, *, job: str | None = JOB) -> Origin:
        headers = [("batchmill-run", RUN.encode()), *([("batchmill-job", job.encode())] if job else [])]
        offset = self.add("raw", partition, b"{}", b"k", headers=headers)
        return Origin(generation=1, partition=partition, offset=offset, at_ms=5)

    def row(self, row: Any, partition: int = 0) -> None:
        self.add("state", partition, encode(row), f"{row.schema}/{row.key}".encode())

    def gone(self, row: Any, partition: int = 0) -> None:
        self.add("state", partition, None, f"{row.schema}/{row.key}".encode())

    def fold(self, order: list[tuple[str, int]] | None = None, *, at_once: bool = True) -> None:
        names = order or list(self.records)
        for group in [names] if at_once else [[name] for name in names]:
            fold = Fold(raw_generation=1)
            positions = {}
            done = self.store.positions()
            for topic, partition in group:
                records = [r for r in self.records[topic, partition] if r.offset >= done.get((topic, partition), 0)]
                if records:
                    fold.add(topic, partition, records)
                    positions[topic, partition] = (records[-1].offset + 1, records[-1].timestamp, len(records))
            self.store.write(fold.statements(), positions)

    def view(self) -> View:
        return View(self.path)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def a_life(origin: Origin, name: str = "a", **changes: Any) -> Life:
    life = Life(
        request_id=name * 32,
        job=JOB,
        version=VERSION,
        ask_key="q",
        source_id=f"source-{name}",
        seq=1,
        promotion=0,
        run_id=RUN,
        lane="l",
        target_key="t",
        status=Status.QUEUED,
        attempt=0,
        sends=0,
        chunk_id=None,
        queued_at_ms=1,
        due_at_ms=None,
        reason=None,
        tokens_estimate=1,
        bytes_estimate=1,
        input_offset=0,
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
        origin=origin,
        updated_at_ms=2,
    )
    return replace(life, **changes)


def a_chunk(**changes: Any) -> Chunk:
    numbers = dict.fromkeys(
        [
            "members", "bytes", "tokens", "first_queued_at_ms", "attempt", "looks", "acknowledged", "failures",
            "succeeded", "errored", "expired", "cancelled", "missing", "unknown_rows", "repeated_rows", "twins",
            "wasted_nanos", "cost_nanos", "created_at_ms", "updated_at_ms",
        ],
        0,
    )  # fmt: skip
    absent = dict.fromkeys(
        [
            "attempt_at_ms", "cursor", "payload_uri", "payload_sha256", "file_id", "batch_id", "remote_status",
            "output_uri", "error_uri", "due_at_ms", "reason", "note",
        ]
    )  # fmt: skip
    texts = {"chunk_id": "c1", "job": JOB, "version": VERSION, "lane": "l", "account": "a", "model": "m"}
    values = {**numbers, **absent, **texts, "endpoint": "e", "mode": "batch", "state": ChunkState.OPEN}
    return Chunk(**{**values, "cancel_requested": False, **changes})


def a_work_item(origin: Origin, name: str = "a") -> WorkItem:
    return WorkItem(
        request_id=name * 32,
        job=JOB,
        version=VERSION,
        ask_key="q",
        source_id=f"source-{name}",
        seq=1,
        run_id=RUN,
        epoch=0,
        lane="l",
        input_json="{}",
        input_sha256="s",
        target_key="t",
        tokens_estimate=1,
        bytes_estimate=1,
        origin=origin,
    )


def a_letter(origin: Origin, *, request_id: str | None = None, reason: Reason = Reason.UNDECODABLE) -> DeadLetter:
    return DeadLetter(
        id=f"dl-{origin.partition}-{origin.offset}",
        request_id=request_id,
        job=JOB,
        version=None,
        source_id="source-x",
        stage="normalizer",
        reason=reason,
        error="not JSON at byte 3",
        retryable=False,
        fault=str(Fault.UPSTREAM),
        attempt=0,
        cost_nanos=0,
        original=b"{",
        original_sha256="",
        original_bytes=1,
        original_uri=None,
        redrives=0,
        failed_at_ms=9,
        origin=origin,
    )


def an_exclusion(origin: Origin, reason: Reason, *, request_id: str | None = None) -> Excluded:
    return Excluded(
        id=f"ex-{origin.partition}-{origin.offset}-{reason}",
        request_id=request_id,
        job=JOB,
        version=VERSION,
        source_id="source-x",
        stage="submitter",
        reason=reason,
        detail="",
        of_request_id=None,
        cost_nanos=0,
        excluded_at_ms=9,
        origin=origin,
    )


def a_result(name: str = "a", **changes: Any) -> Result:
    result = Result(
        request_id=name * 32,
        job=JOB,
        version=VERSION,
        attempt=1,
        chunk_id="c1",
        custom_id=f"{name * 32}-1-nonce",
        outcome=Outcome.SUCCEEDED,
        output="{}",
        output_sha256="s",
        finish_reason="stop",
        refusal=None,
        http_status=200,
        error_code=None,
        reason=None,
        model="m",
        input_tokens=10,
        output_tokens=5,
        cached_tokens=0,
        cost_nanos=7,
        price_id="p",
        answered_by="provider",
        received_at_ms=3,
    )
    return replace(result, **changes)


def a_verdict(name: str = "a", *, status: VerdictStatus = VerdictStatus.VALIDATED, passed: bool = True) -> Verdict:
    return Verdict(
        request_id=name * 32,
        job=JOB,
        version=VERSION,
        source_id="s",
        seq=1,
        promotion=0,
        attempt=1,
        status=status,
        output_json="{}",
        output_sha256="s",
        checks=(Check(id="category:label", severity="review", passed=passed, path="$.label", note=None),),
        confidence=0.9,
        target_key="t",
        decided_by="rules",
        judged_at_ms=4,
    )


def a_commit(origin: Origin, name: str = "a") -> Committed:
    return Committed(
        request_id=name * 32,
        job=JOB,
        version=VERSION,
        source_id="s",
        seq=1,
        promotion=0,
        run_id=RUN,
        sink="sqlite",
        target_key="t",
        commit_id="k",
        previous_commit_id=None,
        reverts=None,
        output_json="{}",
        output_sha256="s",
        cost_nanos=7,
        committed_at_ms=5,
        origin=origin,
    )


def a_submission(name: str = "a", chunk: str = "c1") -> Submitted:
    return Submitted(
        request_id=name * 32,
        job=JOB,
        version=VERSION,
        chunk_id=chunk,
        chunk_attempt=1,
        line=0,
        attempt=1,
        custom_id="x",
        account="a",
        model="m",
        mode="batch",
        payload_sha256="s",
        submitted_at_ms=2,
    )


def a_command(command: str, command_id: str, version: str | None = None) -> Control:
    return Control(
        command_id=command_id, command=command, job=JOB, version=version, body_json="{}", actor="me", issued_at_ms=1
    )


def a_job(**changes: Any) -> Job:
    job = Job(
        job=JOB,
        version=VERSION,
        versions_json="{}",
        paused=False,
        cancelled_before_ms=None,
        last_command_id="1",
        updated_at_ms=1,
    )
    return replace(job, **changes)


def places(log: Log, scope: Scope | None = None) -> dict[Place, int]:
    with log.view() as view:
        return {place: n for place, n in accounting(view, scope).account.places.items() if n}


def one_of_each(log: Log) -> None:
    """Eight raw events, each ending somewhere else; one nobody has read yet."""
    lives = [
        a_life(log.raw(), "a", status=Status.COMMITTED, sends=1, cost_nanos=7, input_tokens=10, output_tokens=5),
        a_life(log.raw(), "b", status=Status.NEEDS_REVIEW, sends=1, cost_nanos=7, reason=Reason.LOW_CONFIDENCE),
        a_life(log.raw(), "c", status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON, sends=2, cost_nanos=14),
        a_life(log.raw(), "d", status=Status.FAILED_TERMINAL, reason=Reason.SUPERSEDED),
        a_life(log.raw(), "e", status=Status.QUEUED),
    ]
    for life in lives:
        log.add("normalized", 1, encode(a_work_item(life.origin, life.request_id[0])))
        log.row(life, partition=1)
    log.add(
        "dead-letter",
        1,
        encode(replace(a_letter(lives[2].origin, request_id="c" * 32, reason=Reason.NOT_JSON), id="dl-c")),
    )
    log.add("excluded", 1, encode(an_exclusion(lives[3].origin, Reason.SUPERSEDED)))
    log.add("dead-letter", 0, encode(a_letter(log.raw())))
    duplicate = log.raw()
    log.add("normalized", 1, encode(a_work_item(duplicate)))
    log.add("excluded", 1, encode(an_exclusion(duplicate, Reason.DUPLICATE, request_id="a" * 32)))
    log.row(Arrival(job=JOB, waiting_for="job_resumed", since_ms=1, origin=log.raw()), partition=0)
    log.raw()  # nobody has read this one


EXPECTED = {
    Place.COMMITTED: 1,
    Place.IN_REVIEW: 1,
    Place.DEAD_LETTERED: 2,
    Place.EXCLUDED: 2,
    Place.IN_FLIGHT: 2,
    Place.HELD: 1,
}


def test_every_raw_event_is_in_exactly_one_place(log: Log) -> None:
    one_of_each(log)
    log.fold()
    assert places(log) == EXPECTED
    with log.view() as view:
        books = accounting(view)
        assert (books.account.raw, books.unread, books.lost, books.doubled, books.unborn) == (9, 1, 0, 0, 0)
        assert books.holds


@pytest.mark.parametrize("turn", range(6))
def test_the_order_in_which_topics_are_read_does_not_matter(log: Log, turn: int) -> None:
    one_of_each(log)
    names = sorted(log.records)
    order = names[turn:] + names[:turn]
    log.fold(order[::-1] if turn % 2 else order, at_once=False)
    assert places(log) == EXPECTED


def test_folding_the_same_records_again_changes_nothing(log: Log, tmp_path: Path) -> None:
    one_of_each(log)
    log.fold()
    before = dump(log.path)
    log.fold()
    assert dump(log.path) == before
    rebuilt = Log(tmp_path / "again.sqlite")
    rebuilt.records = log.records
    rebuilt.fold(at_once=False)
    rebuilt.store.close()
    assert {name: rows for name, rows in dump(rebuilt.path).items() if name != "about"} == {
        name: rows for name, rows in before.items() if name != "about"
    }


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with View(path) as view:
        names = [row[0] for row in view.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: sorted((tuple(row) for row in view.rows(f"SELECT * FROM {name}")), key=repr) for name in names}


def test_an_event_that_was_passed_over_is_found_to_be_lost(log: Log) -> None:
    log.raw()  # nothing ever speaks of it
    log.row(a_life(log.raw(), status=Status.COMMITTED))
    log.fold()
    with log.view() as view:
        books = accounting(view)
    assert books.lost == 1
    assert not books.holds


def test_two_lives_of_one_event_are_found_to_be_doubled(log: Log) -> None:
    origin = log.raw()
    log.row(a_life(origin, "a"))
    log.row(a_life(origin, "b"))
    log.fold()
    with log.view() as view:
        assert accounting(view).doubled == 1
        assert not accounting(view).holds


def test_a_life_brought_back_counts_for_its_newer_event_and_the_older_stays_excluded(log: Log) -> None:
    older, newer = log.raw(), log.raw()
    log.row(a_life(older, status=Status.FAILED_TERMINAL, reason=Reason.SUPERSEDED))
    log.add("excluded", 0, encode(an_exclusion(older, Reason.SUPERSEDED, request_id="a" * 32)))
    log.fold()
    log.row(a_life(newer, status=Status.QUEUED, redrives=1))
    log.fold()
    assert places(log) == {Place.EXCLUDED: 1, Place.IN_FLIGHT: 1}
    with log.view() as view:
        assert accounting(view).holds


def test_a_redriven_dead_letter_is_where_it_was_last_put(log: Log) -> None:
    origin = log.raw()
    log.add("dead-letter", 0, encode(a_letter(origin)))
    log.add("excluded", 0, encode(an_exclusion(origin, Reason.FILTERED)))
    log.fold([("raw", 0), ("excluded", 0), ("dead-letter", 0)], at_once=False)
    assert places(log) == {Place.EXCLUDED: 1}


def test_an_expired_life_leaves_the_account_together_with_its_event(log: Log) -> None:
    life = a_life(log.raw(), status=Status.COMMITTED)
    log.row(life)
    log.fold()
    log.gone(life)
    log.fold()
    with log.view() as view:
        assert accounting(view).account.raw == 0
        assert accounting(view).holds


def test_a_life_whose_event_had_expired_before_the_view_was_built_is_told_apart(log: Log) -> None:
    log.row(a_life(Origin(generation=1, partition=0, offset=99, at_ms=1), status=Status.COMMITTED))
    log.fold()
    with log.view() as view:
        books = accounting(view)
    assert (books.account.raw, books.unborn, books.holds) == (1, 1, True)


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("state", [None, ChunkState.HELD, ChunkState.OPEN])
def test_the_view_counts_each_status_where_the_pure_rule_counts_it(
    log: Log, paused: bool, state: ChunkState | None
) -> None:
    log.row(a_job(paused=paused))
    if state is not None:
        log.row(a_chunk(state=state))
    expected: dict[Place, int] = {}
    cases = [(status, None) for status in Status if status is not Status.FAILED_TERMINAL]
    for at, (status, reason) in enumerate([*cases, *((Status.FAILED_TERMINAL, reason) for reason in REASONS)]):
        chunk_id = "c1" if state is not None else None
        life = replace(a_life(log.raw(), status=status, reason=reason, chunk_id=chunk_id), request_id=f"{at:032d}")
        log.row(life)
        place = place_of(life, paused=paused, chunk_state=state)
        expected[place] = expected.get(place, 0) + 1
    log.fold()
    assert places(log) == expected


def test_a_score_adds_one_check_and_undone_decisions_are_no_measure_of_quality(log: Log) -> None:
    log.row(a_life(log.raw(), status=Status.NEEDS_REVIEW))
    first = a_verdict("a", status=VerdictStatus.NEEDS_REVIEW)
    score = Check(id="score", severity="review", passed=False, path=None, note="expected the second opinion to agree")
    log.add("validated", 1, encode(first))
    log.add("validated", 1, encode(replace(first, decided_by="job:second", checks=(*first.checks, score))))
    told = {"request_id": "a" * 32, "job": JOB, "output_sha256_seen": "s", "output_json": None, "reason": None}
    for at, (action, undoes) in enumerate([("score", None), ("decline", None), ("undo", "1"), ("accept", None)]):
        decided = Decision(id=str(at), action=action, undoes=undoes, actor="me", decided_at_ms=1, **told)
        log.add("decisions", 1, encode(decided))
    log.fold()
    with log.view() as view:
        assert [(check.id, check.passed, check.failed) for check in checks(view)] == [
            ("category:label", 1, 0),
            ("score", 0, 1),
        ]
        assert metrics(view, Scope(job=JOB)).quality_score == 1


def test_the_run_metrics_are_those_of_the_definitions(log: Log) -> None:
    one_of_each(log)
    log.row(a_chunk(wasted_nanos=2))
    for name in "abcc":
        log.add("results", 1, encode(a_result(name)))
    log.add("results", 1, encode(a_result("e", answered_by="store", cost_nanos=0)))
    log.add("validated", 1, encode(a_verdict("a")))
    log.add("validated", 1, encode(a_verdict("b", status=VerdictStatus.NEEDS_REVIEW, passed=False)))
    decision = Decision(
        id="1", request_id="b" * 32, job=JOB, action="accept", output_sha256_seen="s", output_json=None, reason=None,
        actor="me", decided_at_ms=1,
    )  # fmt: skip
    log.add("decisions", 1, encode(decision))
    # a machine's score, and what its author took back, are nobody's opinion of the quality
    log.add("decisions", 1, encode(replace(decision, id="2", action="score", actor="job:second")))
    log.add("decisions", 1, encode(replace(decision, id="3", action="decline", actor="you")))
    log.add("decisions", 1, encode(replace(decision, id="4", action="undo", actor="you", undoes="3")))
    log.fold()
    with log.view() as view:
        told = metrics(view, Scope(job=JOB))
        assert (told.requests, told.submitted, told.completed, told.committed) == (4, 3, 3, 1)
        assert told.success_rate == pytest.approx(2 / 3)
        assert told.validation_pass_rate == pytest.approx(1 / 5)
        assert told.retry_rate == pytest.approx(1 / 3)
        assert told.terminal_failure_rate == pytest.approx(1 / 4)
        assert told.mean_tokens == pytest.approx(15 / 3)
        assert told.cost_usd == pytest.approx(30e-9)
        assert told.cost_per_record_usd == pytest.approx(10e-9)
        assert told.cost_per_success_usd == pytest.approx(30e-9)
        assert told.wasted_usd == pytest.approx(16e-9)  # a twin, and two answers that were no JSON
        assert told.manual_review_rate == pytest.approx(1 / 4)
        assert told.commit_rate == pytest.approx(1 / 4)
        assert told.quality_score == 1
        assert told.records_per_dollar == pytest.approx(1 / 30e-9)
        assert told.answered_from_store == 1
        assert [(check.id, check.passed, check.failed) for check in checks(view)] == [("category:label", 1, 1)]
        assert metrics(view, Scope(job="other")).success_rate is None
        of_run = metrics(view, Scope(run=RUN))
        assert (of_run.cost_usd, of_run.wasted_usd) == (
            pytest.approx(28e-9),
            pytest.approx(14e-9),
        )  # a twin belongs to no run
        assert (of_run.requests, of_run.success_rate) == (told.requests, told.success_rate)


def test_failures_are_counted_by_reason_and_place(log: Log) -> None:
    one_of_each(log)
    log.fold()
    with log.view() as view:
        told = {(failure.reason, failure.place): failure.count for failure in failures(view)}
    assert told == {
        (Reason.NOT_JSON, "dead_lettered"): 1,
        (Reason.UNDECODABLE, "dead_lettered"): 1,
        (Reason.SUPERSEDED, "excluded"): 1,
        (Reason.DUPLICATE, "excluded"): 1,
        (Reason.LOW_CONFIDENCE, "in_review"): 1,
    }


def test_a_letter_that_was_brought_back_is_no_failure_any_more(log: Log) -> None:
    one_of_each(log)
    life = a_life(log.raw(), "f", status=Status.COMMITTED, redrives=1)
    log.row(life, partition=1)
    letter = replace(a_letter(life.origin, request_id=life.request_id, reason=Reason.SINK_REFUSED), id="dl-f")
    log.add("dead-letter", 1, encode(letter))
    log.fold()
    with log.view() as view:
        told = [failure for failure in failures(view) if failure.place == Place.DEAD_LETTERED]
        standing = accounting(view).account.places[Place.DEAD_LETTERED]
    assert Reason.SINK_REFUSED not in {failure.reason for failure in told}
    assert sum(failure.count for failure in told) == standing


def test_the_funnel_narrows_by_stage(log: Log) -> None:
    one_of_each(log)
    log.fold()
    with log.view() as view:
        told = funnel(view, Scope(job=JOB))
    assert (told.raw, told.normalized, told.submitted, told.committed) == (9, 5, 3, 1)


def test_a_story_tells_every_hop_in_order_and_what_is_waited_for(log: Log) -> None:
    origin = log.raw()
    asked_at = log.add("normalized", 1, encode(a_work_item(origin)))
    log.add("submitted", 1, encode(a_submission()))
    log.add("results", 1, encode(a_result()))
    log.add("validated", 1, encode(a_verdict(passed=False)))
    log.add("committed", 1, encode(a_commit(origin)))
    log.row(a_life(origin, status=Status.PROCESSING, chunk_id="c1", input_offset=asked_at), partition=1)
    log.row(a_chunk(batch_id="batch_9", remote_status="in_progress"), partition=1)
    log.fold()
    with log.view() as view:
        told = story(view, "a" * 32)
        assert [hop.topic for hop in told.hops] == [
            "raw", "normalized", "submitted", "results", "validated", "committed",
        ]  # fmt: skip
        assert told.waits_for == "batch c1 (open, provider's batch_9: in_progress)"
        assert [check["id"] for check in told.failed_checks] == ["category:label"]
        for name, kind in (("a" * 32, "request"), ("source-a", "source"), ("batch_9", "batch"), ("c1", "batch")):
            found = find(view, name)
            assert found is not None
            assert (found.kind, found.request_ids) == (kind, ("a" * 32,))
        sent_as = find(view, f"{'a' * 32}-0-{'b' * 16}")
        assert sent_as is not None
        assert sent_as.kind == "request"
        assert find(view, "nothing") is None


def test_a_raw_event_without_a_life_has_a_story_too(log: Log) -> None:
    origin = log.raw()
    log.add("dead-letter", 0, encode(a_letter(origin)))
    log.fold()
    with log.view() as view:
        for name in ("raw/0/0", "dl-0-0", "source-x"):
            found = find(view, name)
            assert found is not None
            assert found.raw == (1, 0, 0)
        told = raw_story(view, (1, 0, 0))
    assert [hop.topic for hop in told.hops] == ["raw", "dead-letter"]
    assert told.hops[1].detail["error"] == "not JSON at byte 3"


def test_lists_are_filtered_and_typed(log: Log) -> None:
    one_of_each(log)
    log.row(a_chunk())
    log.row(a_chunk(chunk_id="c2", state=ChunkState.DONE))
    log.fold()
    with log.view() as view:
        assert [row.request_id[0] for row in queries.lives(view, status=[Status.NEEDS_REVIEW])] == ["b"]
        assert {row.request_id[0] for row in queries.lives(view, job=JOB)} == set("abcde")
        assert [row.reason for row in queries.lives(view, reason=Reason.NOT_JSON)] == [Reason.NOT_JSON]
        assert [row.chunk_id for row in queries.batches(view, unfinished=True)] == ["c1"]
        assert [(job, count) for job, count, _ in queries.review_queue(view)] == [(JOB, 1)]
        assert [(run.run_id, run.records, run.committed, run.open) for run in run_rows(view)] == [(RUN, 5, 1, 2)]
        assert {letter.id for letter in letters.letters(view, letters.Wanted(), now_ms=0)} == {"dl-c", "dl-0-10"}
        assert letters.letter(view, "dl-c") is not None
        assert queries.freshness(view).records == sum(len(records) for records in log.records.values())


def test_a_redriven_letter_stands_no_longer(log: Log) -> None:
    life = a_life(log.raw(), status=Status.FAILED_TERMINAL, reason=Reason.NOT_JSON)
    letter = a_letter(life.origin, request_id=life.request_id, reason=Reason.NOT_JSON)
    log.row(life)
    log.add("dead-letter", 0, encode(letter))
    log.fold()
    with log.view() as view:
        assert len(list(letters.letters(view, letters.Wanted(), now_ms=0))) == 1
    log.row(replace(life, status=Status.QUEUED, reason=None, redrives=1))
    log.fold()
    with log.view() as view:
        assert list(letters.letters(view, letters.Wanted(), now_ms=0)) == []


def test_an_undone_decline_is_in_review_and_its_letter_stands_no_longer(log: Log) -> None:
    life = a_life(log.raw(), status=Status.FAILED_TERMINAL, reason=Reason.DECLINED)
    log.row(life)
    log.add("dead-letter", 0, encode(a_letter(life.origin, request_id=life.request_id, reason=Reason.DECLINED)))
    log.fold()
    assert places(log) == {Place.DEAD_LETTERED: 1}
    log.row(replace(life, status=Status.NEEDS_REVIEW, reason=None))
    log.fold()
    assert places(log) == {Place.IN_REVIEW: 1}
    with log.view() as view:
        assert accounting(view).holds
        assert list(letters.letters(view, letters.Wanted(), now_ms=0)) == []


def test_a_command_is_asked_for_first_and_in_effect_task_by_task(log: Log) -> None:
    for partition in (0, 1):
        log.add("control", partition, encode(a_command("apply", "1", VERSION)))
        log.add("control", partition, encode(a_command("pause", "2")))
    log.row(a_job(last_command_id="1"), partition=0)
    log.row(a_job(last_command_id="2", paused=True), partition=1)
    log.fold()
    with log.view() as view:
        (job,) = queries.jobs(view)
        assert (job.requested_paused, job.paused_tasks, job.effective_tasks, job.tasks) == (True, 1, 1, 2)
        assert (job.version, job.versions) == (VERSION, 1)
        assert queries.command_laggards(view, "2") == [0]
        assert queries.command_laggards(view, "1") == []
        assert [command.command for command in queries.commands(view)] == ["pause", "apply"]


def test_what_cannot_be_decoded_is_noted_and_the_rest_is_folded(log: Log) -> None:
    log.add("results", 0, b"\x00garbage")
    log.add("results", 0, encode(a_result()))
    log.add("state", 0, b"{}", b"__heartbeat")
    log.fold()
    with log.view() as view:
        assert queries.freshness(view).unreadable == 1
        assert view.number("SELECT COUNT(*) FROM results") == 1


def test_a_failed_write_leaves_neither_rows_nor_positions(log: Log) -> None:
    one_of_each(log)
    fold = Fold(raw_generation=1)
    for (topic, partition), records in log.records.items():
        fold.add(topic, partition, records)
    broken = [*fold.statements(), ("INSERT INTO nowhere VALUES (?)", [(1,)])]
    with pytest.raises(Exception, match="nowhere"):
        log.store.write(broken, {("raw", 0): (1, 1, 1)})
    with log.view() as view:
        assert view.number("SELECT COUNT(*) FROM raw") == 0
    assert log.store.positions() == {}


def test_a_file_of_other_topics_or_another_version_is_emptied_not_continued(log: Log) -> None:
    one_of_each(log)
    log.fold()
    log.store.close()
    with ViewStore(log.path, identity={"topics": "t"}) as same:
        assert not same.rebuilt
        assert same.positions()
    with ViewStore(log.path, identity={"topics": "other"}) as other:
        assert other.rebuilt
        assert other.positions() == {}


def test_two_projectors_do_not_write_one_file(log: Log) -> None:
    with pytest.raises(ViewBusyError, match="BATCHMILL_VIEW__PATH"):
        ViewStore(log.path, identity={"topics": "t"})


def test_a_missing_view_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ViewMissingError, match="batchmill projector"):
        View(tmp_path / "none.sqlite")


# -- what all tasks share ----------------------------------------------------------------------------------------------


def a_grant(**sums: int) -> Grant:
    told = {"asked": 0, "granted": 0, "reserved": 0, "posted": 0, "returned": 0, **sums}
    return Grant(pool=f"money/{JOB}", **told, updated_at_ms=1)


def with_budget(nanos: int, **changes: Any) -> Job:
    declared = json.dumps({VERSION: {"budget": {"job_nanos": nanos}}})
    job = Job(
        job=JOB,
        version=VERSION,
        versions_json=declared,
        paused=False,
        cancelled_before_ms=None,
        last_command_id="1",
        updated_at_ms=1,
    )
    return replace(job, **changes)


def beat(log: Log, at_ms: int, *, left: bool = False) -> None:
    value = json.dumps({"instance": "here", "at_ms": at_ms, "left": left, "posts": {}}).encode()
    log.add("state", 0, value, b"__overseer")


def test_a_budget_is_what_all_tasks_together_have_of_it(log: Log) -> None:
    for partition, sums in ((0, {"reserved": 30, "posted": 20, "granted": 50}), (1, {"posted": 5, "granted": 5})):
        log.row(with_budget(100), partition)
        log.row(a_grant(**sums), partition)
    log.fold()
    with log.view() as view:
        (row,) = queries.budgets(view)
    assert (row.limit_nanos, row.reserved_nanos, row.posted_nanos, row.left_nanos) == (100, 30, 25, 45)


def test_while_tasks_disagree_the_lower_budget_is_told(log: Log) -> None:
    log.row(with_budget(100), 0)
    log.row(with_budget(70), 1)
    log.fold()
    with log.view() as view:
        assert [row.limit_nanos for row in queries.budgets(view)] == [70]


def test_batches_that_wait_are_counted_by_pool_and_the_overseer_is_known_by_its_heartbeat(log: Log) -> None:
    log.row(a_chunk(waits_for=f"money/{JOB}"))
    beat(log, 1_000)
    log.fold()
    with log.view() as view:
        seen = queries.overseen(view)
    assert (seen.instance, seen.at_ms, seen.waiting) == ("here", 1_000, {f"money/{JOB}": 1})
    assert not seen.silent(31_000)
    assert seen.silent(31_001)
    beat(log, 2_000, left=True)
    log.fold()
    with log.view() as view:
        assert queries.overseen(view).silent(2_001)


def test_a_story_says_that_its_batch_waits_for_a_grant_and_that_nobody_gives_any(log: Log) -> None:
    chunk = a_chunk(waits_for=f"money/{JOB}", note="used up")
    life = a_life(log.raw(), chunk_id=chunk.chunk_id)
    log.row(chunk)
    log.row(life)
    log.fold()
    with log.view() as view:
        told = story(view, life.request_id).waits_for
    assert told is not None
    assert f"waits for a grant of money/{JOB}" in told
    assert "batchmill overseer" in told
    beat(log, 1_000)
    log.fold()
    with log.view() as view:
        assert (story(view, life.request_id).waits_for or "").endswith("(used up)")


def test_a_story_of_a_batch_that_cannot_leave_says_why(log: Log) -> None:
    chunk = a_chunk(state=ChunkState.PREPARED, failures=3, note="http_404")
    life = a_life(log.raw(), chunk_id=chunk.chunk_id)
    log.row(chunk)
    log.row(life)
    log.fold()
    with log.view() as view:
        assert story(view, life.request_id).waits_for == f"batch {chunk.chunk_id} (prepared: http_404)"
    paused = {"paused": True, "pause_reason": "http_401", "cancelled_before_ms": None, "last_command_id": "1"}
    log.row(Job(job=JOB, version=VERSION, versions_json="{}", updated_at_ms=1, **paused))
    log.fold()
    with log.view() as view:
        told = story(view, life.request_id).waits_for
    assert told == f"`batchmill resume {JOB}`: the job is paused, by itself (http_401)"


def test_the_overseers_commands_are_not_what_people_asked_for(log: Log) -> None:
    for command, body in (("grant", {"granted": {"money/x": 1}}), ("pause_too", {"reason": "r", "after": "1"})):
        record = Control(
            command_id=command,
            command=command,
            job=JOB,
            version=None,
            body_json=json.dumps(body),
            actor="overseer",
            issued_at_ms=1,
        )
        log.add("control", 0, encode(record))
    log.fold()
    with log.view() as view:
        assert queries.commands(view) == []
