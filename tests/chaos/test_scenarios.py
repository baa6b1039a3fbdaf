"""What an operator and an upstream system do to a running pipeline, each on a real Kafka and the simulator."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from batchmill.schemas.reasons import Reason
from batchmill.schemas.status import ChunkState, Status
from tests.chaos.deadly_worker import DEADLY_RECORD, DEADLY_UPLOAD
from tests.chaos.evidence import Evidence
from tests.chaos.invariants import check
from tests.chaos.judging import Expect
from tests.chaos.mill import Mill, eventually, running_mill
from tests.chaos.workload import REASON_OF, Event, Kind, answers_to, event_of, mark_of, stranger, usable, write_gold

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

DRAIN_SECONDS = 60.0


def _texts(letter: str, count: int) -> list[Event]:
    """One event per source, the same sources for every letter."""
    return [event_of(f"s-{n:03d}", f"text {letter} of source number {n:03d}, nothing else") for n in range(count)]


@asynccontextmanager
async def _mill(
    bootstrap: str, prefix: str, directory: Path, events: Sequence[Event], **more: Any
) -> AsyncIterator[Mill]:
    """One worker, the job applied."""
    write_gold(directory / "gold.jsonl", events)
    async with running_mill(bootstrap, directory, prefix=prefix, gold=directory / "gold.jsonl", **more) as mill:
        await mill.pool.start("worker-1")
        await mill.apply()
        yield mill


async def _judged(mill: Mill) -> Evidence:
    """Everybody goes home and every promise is looked at."""
    codes = await mill.pool.stop_all()
    assert set(codes.values()) == {0}
    evidence = await mill.evidence()
    findings = check(evidence, Expect(answers_to=answers_to, usable=usable))
    assert [str(finding) for finding in findings if not finding.holds] == []
    return evidence


def _spending(mill: Mill) -> int:
    """Calls that lead to a bill, by the simulator's ledger."""
    ledger = mill.simulator.ledger()
    return len(ledger.requests_to("POST", "/v1/files")) + len(ledger.requests_to("POST", "/v1/batches"))


def _outputs(evidence: Evidence) -> dict[str, str]:
    return {row.target_key: json.loads(row.output_json)["mark"] for row in evidence.sink}


def _text(event: Event) -> str:
    return json.loads(event.value)["text"]


async def test_a_paused_job_spends_nothing_and_collects_and_holds_what_is_paid_for(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
):
    first, second = _texts("a", 60), [event_of(f"t-{n}", f"a later text, number {n}, of its own") for n in range(40)]
    async with _mill(bootstrap_servers, topic_prefix, tmp_path, [*first, *second], latency_seconds=(4.0, 5.0)) as mill:
        watcher = mill.watcher
        await mill.ingest(first)

        def all_open() -> bool:
            states = [chunk.state for chunk in watcher.chunks.values()]
            return watcher.of_status(Status.PROCESSING) == 60 and set(states) == {ChunkState.OPEN}

        assert await eventually(all_open, seconds=30), "the batches were not seen open together"
        await mill.command("pause")
        spent, committed = _spending(mill), watcher.counts["committed"]
        await mill.ingest(second)
        held = await eventually(
            lambda: watcher.of_status(Status.VALIDATED) + watcher.of_status(Status.NEEDS_REVIEW) == 60, seconds=30
        )
        assert held, "paid answers were not collected while the job was paused"
        assert await eventually(lambda: len(watcher.arrivals) == 40, seconds=10), "raw records did not park"
        assert all(chunk.state is ChunkState.DONE for chunk in watcher.chunks.values())
        assert (_spending(mill), watcher.counts["committed"]) == (spent, committed)
        await mill.command("resume")
        assert await mill.drained(DRAIN_SECONDS)
        evidence = await _judged(mill)
        assert _spending(mill) > spent
        assert len(evidence.sink) + len(_in_review(evidence)) == 100


def _in_review(evidence: Evidence) -> list[str]:
    return [row.key for row in evidence.rows().values() if getattr(row, "status", None) is Status.NEEDS_REVIEW]


async def test_a_cancelled_job_ends_with_every_record_accounted_for(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
):
    made = _texts("a", 200)
    async with _mill(bootstrap_servers, topic_prefix, tmp_path, made, latency_seconds=(2.0, 3.0)) as mill:
        await mill.ingest(made[:150])
        opened = await eventually(
            lambda: any(chunk.state is ChunkState.OPEN for chunk in mill.watcher.chunks.values()), seconds=30
        )
        assert opened, "no batch was seen open"
        await mill.ingest(made[150:])
        await mill.command("cancel")
        assert await mill.drained(DRAIN_SECONDS)
        evidence = await _judged(mill)
        reasons = Counter(letter.reason for letter in evidence.values("excluded"))
        assert reasons[Reason.CANCELLED] > 0
        assert reasons[Reason.CANCELLED] + len(evidence.sink) + len(_in_review(evidence)) == 200


async def test_the_same_input_twice_costs_nothing_and_a_b_a_is_billed_twice(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
):
    a, b = _texts("a", 30), _texts("b", 30)
    async with _mill(bootstrap_servers, topic_prefix, tmp_path, [*a, *b]) as mill:
        await mill.ingest(a)
        assert await mill.drained(DRAIN_SECONDS)
        bills, commits = len(mill.simulator.ledger().bills), len(mill.watcher.commits)
        await mill.ingest(a)
        assert await mill.drained(DRAIN_SECONDS)
        assert (len(mill.simulator.ledger().bills), len(mill.watcher.commits)) == (bills, commits) == (30, commits)
        for events in (b, a):
            await mill.ingest(events)
            assert await mill.drained(DRAIN_SECONDS)
        evidence = await _judged(mill)
        assert len(mill.simulator.ledger().bills) == 60
        wanted = {event.key.decode(): mark_of(_text(event)) for event in a}
        assert {target: mark for target, mark in _outputs(evidence).items() if target in _committed_both(evidence)} == {
            target: mark for target, mark in wanted.items() if target in _committed_both(evidence)
        }
        assert len(_committed_both(evidence)) > 15


def _committed_both(evidence: Evidence) -> set[str]:
    """Sources of which no answer waits for a reviewer: of those the sink must hold the newest."""
    waiting = {row.source_id for row in evidence.rows().values() if getattr(row, "status", None) is Status.NEEDS_REVIEW}
    return {row.target_key for row in evidence.sink} - waiting


async def test_answers_that_return_in_the_wrong_order_leave_the_newest_in_the_sink(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
):
    old, new = _texts("old", 30), _texts("new", 30)
    async with _mill(bootstrap_servers, topic_prefix, tmp_path, [*old, *new]) as mill:
        await asyncio.to_thread(mill.simulator.set_faults, {"late_output_file": {"rate": 1.0, "seconds": 8.0}})
        await mill.ingest(old)
        assert await eventually(lambda: mill.watcher.of_status(Status.PROCESSING) == 30, seconds=30)
        await eventually(lambda: all(c.state is ChunkState.OPEN for c in mill.watcher.chunks.values()), seconds=10)
        await asyncio.to_thread(mill.simulator.set_faults, {"late_output_file": {"rate": 0.0}})
        await mill.ingest(new)
        assert await mill.drained(DRAIN_SECONDS)
        evidence = await _judged(mill)
        _assert_overtaken(evidence)
        marks = _outputs(evidence)
        for event in new:
            if event.key.decode() in marks:
                assert marks[event.key.decode()] == mark_of(_text(event))
        assert len(marks) > 20


def _assert_overtaken(evidence: Evidence) -> None:
    """The older answers did come in, and later than the newer ones."""
    lives = {row.request_id: row for row in evidence.rows().values() if hasattr(row, "ask_key") and hasattr(row, "seq")}
    arrived: dict[str, list[int]] = {}
    for seen in sorted(evidence.flow["results"], key=lambda seen: (seen.place.partition, seen.place.offset)):
        life = lives[seen.value.request_id]
        arrived.setdefault(life.source_id, []).append(life.seq)
    assert sum(1 for seqs in arrived.values() if len(seqs) == 2 and seqs[0] > seqs[1]) == 30


async def test_what_strangers_send_is_put_down_with_a_reason_and_the_rest_flows(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
):
    good = _texts("a", 20)
    strange = [stranger(kind, f"x-{kind}") for kind in REASON_OF]
    async with _mill(bootstrap_servers, topic_prefix, tmp_path, good) as mill:
        await mill.ingest([*good[:10], *strange, *good[10:]])
        assert await mill.drained(DRAIN_SECONDS)
        evidence = await _judged(mill)
        letters = [*evidence.values("dead-letter"), *evidence.values("excluded")]
        assert Counter(letter.reason for letter in letters) == Counter(REASON_OF.values())
        assert REASON_OF.keys() >= {Kind.BROKEN, Kind.OVERSIZED, Kind.DEEP, Kind.NOT_UTF8}
        assert len(evidence.sink) + len(_in_review(evidence)) == 20


async def test_a_record_and_an_upload_that_end_the_process_are_isolated_after_three_deaths(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
):
    good, deadly = _texts("a", 20), [event_of("d-1", DEADLY_RECORD), event_of("d-2", DEADLY_UPLOAD)]
    write_gold(tmp_path / "gold.jsonl", [*good, *deadly])
    async with running_mill(
        bootstrap_servers,
        tmp_path,
        prefix=topic_prefix,
        gold=tmp_path / "gold.jsonl",
        worker=("-m", "tests.chaos.deadly_worker"),
    ) as mill:
        await mill.pool.start("worker-1")
        await mill.apply()
        for event in deadly:
            await mill.ingest([event])
            assert await mill.drained(DRAIN_SECONDS)
        await mill.ingest(good)
        assert await mill.drained(DRAIN_SECONDS)
        evidence = await _judged(mill)
        deaths = Counter(end.code for end in mill.pool.ends if end.code != 0)
        assert deaths == {33: 3, 34: 3}
        assert Counter(letter.reason for letter in evidence.values("dead-letter")) == {Reason.POISON: 2}
        assert len(evidence.sink) + len(_in_review(evidence)) == 20
