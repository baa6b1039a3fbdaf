"""The writer over sinks that fail, hang and come back, and the topics of others: nobody waits for somebody else's sink,
nothing is lost, and what is inside goes out with the record that says so.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from batchmill.agents.foreign import TopicUnusableError
from batchmill.agents.settings import EffectSettings
from batchmill.agents.stages import committer as module
from batchmill.agents.stages.changer import Changer
from batchmill.agents.stages.committer import Committer
from batchmill.agents.stages.kit import Kit
from batchmill.schemas import codec
from batchmill.schemas.ids import partition_for
from batchmill.schemas.jobs import PlaceSpec
from batchmill.schemas.records import Committed, Control, DeadLetter, Decision, Verdict
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Status, VerdictStatus
from batchmill.streams.committing import DOWN_ROWS, meet_verdict
from batchmill.streams.ports import ChangeKind, SinkChange, SinkResult, SinkWrite
from batchmill.streams.publishing import publication
from batchmill.streams.reverting import change_command, command_body, under_way
from tests.review.stage import MemoryLog, MemoryTask, a_kit
from tests.simulation.sink import SimSink
from tests.streams.making import NOW_MS, make_row, make_spec
from tests.streams.rows import make_life, make_source, request_name

PARTITIONS_THERE = 7


def make_verdict(life: Life) -> Verdict:
    return Verdict(
        request_id=life.request_id,
        job=life.job,
        version=life.version,
        source_id=life.source_id,
        seq=life.seq,
        promotion=0,
        attempt=1,
        status=VerdictStatus.VALIDATED,
        output_json='{"label":"fire"}',
        output_sha256="sha",
        checks=(),
        confidence=None,
        target_key=life.target_key,
        decided_by="rules",
        judged_at_ms=NOW_MS,
    )


class Untraced:
    """Nobody looks at the sink's transactions here."""

    def commit(self, _sink: str, _writes: int) -> AbstractContextManager[None]:
        return nullcontext()


class FlakySink:
    """A sink behind a door that may be shut, or stuck."""

    name = "flaky"

    def __init__(self) -> None:
        self.inner = SimSink()
        self.capabilities = self.inner.capabilities
        self.shut = False
        self.stuck: asyncio.Event | None = None
        self.calls = 0

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        await self._door()
        return self.inner.apply(writes)

    async def change(self, changes: Sequence[SinkChange]) -> Sequence[SinkResult]:
        await self._door()
        return self.inner.change(changes)

    async def close(self) -> None: ...

    async def _door(self) -> None:
        self.calls += 1
        if self.stuck is not None:
            await self.stuck.wait()
        if self.shut:
            raise ConnectionError("shut")


class Topics:
    """The broker's view of topics that are not ours."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    async def look(self, topic: str) -> None:
        if topic not in self.there:
            raise TopicUnusableError("UnknownTopicOrPartitionError")

    def partition_of(self, topic: str, key: bytes) -> int:
        assert topic in self.there
        return partition_for(key, PARTITIONS_THERE)


class PublishingTask(MemoryTask):
    """Keeps what goes to topics of others as it is."""

    def __init__(self, *rows: Any) -> None:
        super().__init__(*rows)
        self.published: list[tuple[str, int | None, bytes | None, bytes]] = []
        self.headers: list[dict[str, bytes]] = []

    def emit(self, topic: str, *, value: bytes, **told: Any) -> None:
        if topic.startswith("t."):
            super().emit(topic, value=value, **told)
            return
        self.published.append((topic, told["partition"], told["key"], value))
        self.headers.append(dict(told["headers"]))


class Stage:
    """One task with validated lives of several jobs, each placed somewhere else."""

    def __init__(self, now_s: list[float], places: dict[str, PlaceSpec], lives_each: int = 2) -> None:
        self.now_s = now_s
        self.log, self.topics = MemoryLog(), Topics()
        self.task = PublishingTask()
        self.sinks = {"sqlite": FlakySink(), "postgres": FlakySink()}
        kit = a_kit(self.log)
        self.kit = Kit(**{name: getattr(kit, name) for name in kit.__slots__} | {"foreign": self.topics})
        self.effects = EffectSettings(idle_seconds=0.01, commit_rows=3)
        number = 0
        for job, place in places.items():
            spec = make_spec(job=job, place=place)
            row = make_row(spec)
            self.task.put(row)
            for _ in range(lives_each):
                number += 1
                self._validated(number, job, row.version)

    def _validated(self, number: int, job: str, version: str, **changes: Any) -> None:
        life = make_life(number, job=job, version=version, status=Status.VALIDATED, output_sha256="sha", **changes)
        verdict = make_verdict(life)
        self.task.put(life)
        self.task.put(make_source(life))
        self.log.add("t.validated.v1", number, codec.encode(verdict))
        for order in meet_verdict(self.task.view, verdict, number, NOW_MS):
            if hasattr(order, "row"):
                self.task.put(order.row)

    def committer(self) -> Committer:
        return Committer(kit=self.kit, sinks=self.sinks, effects=self.effects, traces=Untraced(), tasks_total=1)

    def changer(self) -> Changer:
        return Changer(kit=self.kit, sinks=self.sinks, effects=self.effects, traces=Untraced())

    async def until(self, holds: Callable[[], bool], *effects: Any) -> None:
        """Run effects, with time passing, until it is so."""
        running = [asyncio.ensure_future(effect.run(self.task)) for effect in effects]
        try:
            for _ in range(5_000):
                if holds():
                    return
                await asyncio.sleep(0)
                self.now_s[0] += 0.05
                for each in running:
                    if each.done():
                        each.result()
            raise AssertionError("it never came to that")
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def of(self, job: str) -> list[Life]:
        return [row for row in self.task.view.rows(Life.schema) if isinstance(row, Life) and row.job == job]

    def all_are(self, job: str, status: Status) -> bool:
        return all(life.status is status for life in self.of(job))

    def down(self) -> list[str]:
        names = [row.name for row in self.task.view.rows(Meta.schema) if isinstance(row, Meta)]
        return [name.removeprefix(DOWN_ROWS) for name in names if name.startswith(DOWN_ROWS)]

    def committed(self) -> list[Committed]:
        return [record for record in self.task.records if isinstance(record, Committed)]


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1_000.0]
    monkeypatch.setattr(module.clock, "monotonic_s", lambda: now[0])
    return now


BROKEN, WELL = PlaceSpec(sink="sqlite", table="a"), PlaceSpec(sink="postgres", table="b")


async def test_a_sink_that_is_down_holds_its_own_writes_and_nobody_elses(now_s: list[float]) -> None:
    stage = Stage(now_s, {"broken": BROKEN, "well": WELL}, lives_each=5)
    stage.sinks["sqlite"].shut = True
    committer = stage.committer()
    await stage.until(
        lambda: stage.all_are("well", Status.COMMITTED) and stage.task.partition in committer.waiting, committer
    )
    assert stage.down() == ["sqlite"]
    assert stage.all_are("broken", Status.VALIDATED)
    assert sum(life.commit_id is not None for life in stage.of("broken")) <= 3, "no more is begun than one cut"
    stage.sinks["sqlite"].shut = False
    await stage.until(lambda: stage.all_are("broken", Status.COMMITTED), stage.committer())
    assert stage.down() == []
    assert len({record.commit_id for record in stage.committed()}) == len(stage.committed()) == 10


async def test_a_sink_that_hangs_after_it_failed_delays_nobody(now_s: list[float]) -> None:
    stage = Stage(now_s, {"broken": BROKEN, "well": WELL})
    sink = stage.sinks["sqlite"]
    sink.shut = True
    committer = stage.committer()
    await stage.until(lambda: stage.all_are("well", Status.COMMITTED), committer)
    for number in range(20, 24):
        stage._validated(number, "well", stage.of("well")[0].version)
    running = stage.committer()
    failed = sink.calls

    def fails_then_hangs() -> bool:
        if sink.calls > failed and sink.stuck is None:
            sink.stuck = asyncio.Event()
        return sink.stuck is not None and sink.calls > failed + 1 and stage.all_are("well", Status.COMMITTED)

    await stage.until(fails_then_hangs, running)
    assert not stage.all_are("broken", Status.COMMITTED)


async def test_a_topic_that_is_not_there_holds_its_writes_and_another_topic_goes_on(now_s: list[float]) -> None:
    stage = Stage(
        now_s, {"lost": PlaceSpec(sink="kafka", table="x.lost"), "well": PlaceSpec(sink="kafka", table="x.there")}
    )
    stage.topics.there.add("x.there")
    await stage.until(
        lambda: stage.all_are("well", Status.COMMITTED) and stage.down() == ["kafka/x.lost"], stage.committer()
    )
    assert {topic for topic, *_ in stage.task.published} == {"x.there"}
    assert all(life.commit_id is None for life in stage.of("lost")), "inside nothing is in doubt"
    stage.topics.there.add("x.lost")
    await stage.until(lambda: stage.all_are("lost", Status.COMMITTED), stage.committer())
    assert stage.down() == []


async def test_a_line_that_nothing_waits_for_any_more_is_forgotten_and_not_tried_for_ever(now_s: list[float]) -> None:
    stage = Stage(now_s, {"moved": PlaceSpec(sink="kafka", table="x.lost")})
    stage.effects = EffectSettings(idle_seconds=7, commit_rows=3)
    await stage.until(lambda: stage.down() == ["kafka/x.lost"], stage.committer())
    stage.task.put(Meta(name=f"{DOWN_ROWS}webhook", value_json='{"since_ms":1,"why":"noted by a worker of before"}'))
    running = stage.committer()
    await stage.until(lambda: stage.task.rests > 3, running)
    assert stage.down() == ["kafka/x.lost"], "what still fails is told, the other is not"
    stage.topics.there.add("x.there")
    stage.task.put(make_row(make_spec(job="moved", place=PlaceSpec(sink="kafka", table="x.there"))))
    rests_s: list[float] = []
    rest = stage.task.rest

    async def watched(effect: str, seconds: float) -> bool:
        rests_s.append(seconds)
        return await rest(effect, seconds)

    stage.task.rest = watched  # type: ignore[method-assign]
    await stage.until(
        lambda: stage.all_are("moved", Status.COMMITTED) and len(rests_s) > 40 and rests_s[-1] >= 7, running
    )
    assert stage.down() == []


async def test_an_output_goes_where_kafkas_own_clients_would_put_its_key_with_what_names_it(now_s: list[float]) -> None:
    stage = Stage(now_s, {"well": PlaceSpec(sink="kafka", table="x.there")}, lives_each=1)
    stage.topics.there.add("x.there")
    await stage.until(lambda: stage.all_are("well", Status.COMMITTED), stage.committer())
    ((topic, partition, key, value),) = stage.task.published
    (life,), (record,), (headers,) = stage.of("well"), stage.committed(), stage.task.headers
    assert key == life.target_key.encode()
    assert (topic, partition) == ("x.there", partition_for(key, PARTITIONS_THERE))
    assert value.decode() == record.output_json
    assert headers["ce_id"] == headers["batchmill-commit"] == record.commit_id.encode()
    assert headers["batchmill-request"] == life.request_id.encode()
    assert headers["ce_source"] == b"app"


async def test_nothing_is_published_to_a_topic_of_our_own_and_nothing_that_does_not_fit(now_s: list[float]) -> None:
    places = {"ours": PlaceSpec(sink="kafka", table="t.raw.v1"), "big": PlaceSpec(sink="kafka", table="x.there")}
    stage = Stage(now_s, places, lives_each=1)
    stage.topics.there.add("x.there")
    stage.task.fits = lambda *_: False  # type: ignore[method-assign]
    await stage.until(
        lambda: stage.all_are("ours", Status.FAILED_TERMINAL) and stage.all_are("big", Status.FAILED_TERMINAL),
        stage.committer(),
    )
    errors = sorted(record.error for record in stage.task.records if isinstance(record, DeadLetter))
    assert len(errors) == 2
    assert any("larger than a record may be" in error for error in errors)
    assert any("batchmill's own" in error for error in errors)
    assert stage.task.published == []


async def test_with_no_sink_the_committed_record_is_all_there_is(now_s: list[float]) -> None:
    stage = Stage(now_s, {"none": PlaceSpec(sink="none", table="x")})
    await stage.until(lambda: stage.all_are("none", Status.COMMITTED), stage.committer())
    assert [record.sink for record in stage.committed()] == ["none", "none"]
    assert stage.task.published == []


async def test_a_score_becomes_a_decision_on_the_answer_it_is_about_and_anything_else_is_refused(
    now_s: list[float],
) -> None:
    stage = Stage(now_s, {"scorer": PlaceSpec(sink="decisions", table="x")}, lives_each=0)
    version = make_row(make_spec(job="scorer", place=PlaceSpec(sink="decisions", table="x"))).version
    scored = request_name(77)
    stage._validated(1, "scorer", version, source_id=f"triage/{scored}/1/{'a' * 64}")
    stage._validated(2, "scorer", version, source_id="no question of ours")
    await stage.until(
        lambda: {life.status for life in stage.of("scorer")} == {Status.COMMITTED, Status.FAILED_TERMINAL},
        stage.committer(),
    )
    (decision,) = [record for record in stage.task.records if isinstance(record, Decision)]
    assert (decision.request_id, decision.job, decision.output_json) == (scored, "triage", '{"label":"fire"}')
    (letter,) = [record for record in stage.task.records if isinstance(record, DeadLetter)]
    assert "names no answer that was to be scored" in letter.error


async def test_a_sink_that_is_not_configured_holds_and_loses_nothing(now_s: list[float]) -> None:
    stage = Stage(now_s, {"far": PlaceSpec(sink="webhook", table="x")})
    await stage.until(lambda: stage.down() == ["webhook"], stage.committer())
    assert stage.all_are("far", Status.VALIDATED)


async def test_a_revert_waits_for_a_sink_that_is_down_and_is_made_once_when_it_is_back(now_s: list[float]) -> None:
    stage = Stage(now_s, {"broken": BROKEN}, lives_each=4)
    await stage.until(lambda: stage.all_are("broken", Status.COMMITTED), stage.committer())
    command = Control(
        command_id="c",
        command=ChangeKind.REVERT.value,
        job="broken",
        version=None,
        body_json=command_body(run=stage.of("broken")[0].run_id),
        actor="me",
        issued_at_ms=NOW_MS,
    )
    stage.kit.carry(stage.task, change_command(stage.task.view, command, 1), src="x")  # type: ignore[arg-type]
    sink = stage.sinks["sqlite"]
    sink.shut, calls = True, sink.calls
    await stage.until(lambda: sink.calls > calls + 2, stage.changer())
    assert stage.all_are("broken", Status.COMMITTED)
    sink.shut = False
    await stage.until(lambda: not under_way(stage.task.view), stage.changer())
    assert sink.inner.rows == {}
    assert [record.kind for record in stage.committed()].count("revert") == 4


async def test_a_revert_that_waits_for_its_sink_holds_up_no_other_jobs(now_s: list[float]) -> None:
    stage = Stage(now_s, {"broken": BROKEN, "well": PlaceSpec(sink="postgres", table="well")})
    both = ("broken", "well")
    await stage.until(lambda: all(stage.all_are(job, Status.COMMITTED) for job in both), stage.committer())
    for order, job in enumerate(both, start=1):
        command = Control(
            command_id=job,
            command=ChangeKind.REVERT.value,
            job=job,
            version=None,
            body_json=command_body(run=stage.of(job)[0].run_id),
            actor="me",
            issued_at_ms=NOW_MS,
        )
        stage.kit.carry(stage.task, change_command(stage.task.view, command, order), src="x")  # type: ignore[arg-type]
    stage.sinks["sqlite"].shut = True
    await stage.until(lambda: [each.job for each in under_way(stage.task.view)] == ["broken"], stage.changer())
    assert all(life.reverted for life in stage.of("well"))
    assert not any(life.reverted for life in stage.of("broken"))


def test_what_is_published_is_named_by_its_commit() -> None:
    write = SinkWrite(
        commit_id="c",
        table="topic",
        target_key="k",
        seq=3,
        promotion=1,
        request_id="r",
        source_id="s",
        job="j",
        version="v",
        run_id="run",
        output_json='{"a":1}',
        output_sha256="h",
    )
    order = publication(write)
    assert (order.topic, order.key, order.value) == ("topic", b"k", b'{"a":1}')
    assert dict(order.headers)["batchmill-seq"] == b"3"
