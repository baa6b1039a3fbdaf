"""The effect `tools`: what waits is asked about, goes on with what was found, and no source that is away burns it."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from batchmill.agents.runtime import LogRecord, PoisonEffectError
from batchmill.agents.settings import EffectSettings, ToolSettings
from batchmill.agents.stages.kit import LogSlowError
from batchmill.agents.stages.tooler import Tooler
from batchmill.agents.tools import SourceAwayError
from batchmill.schemas.asking import FetchSpec, LookupSpec, ToolsSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, WorkItem
from batchmill.schemas.state import Arrival, Meta
from batchmill.schemas.versions import version_of
from batchmill.streams.events import RawLimits
from batchmill.streams.normalizing import JOB_RESUMED, normalize
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.tooling import Question
from tests.review.stage import PARTITION, MemoryLog, MemoryTask, a_kit
from tests.streams.making import NOW_MS, make_raw, make_row, make_spec

LOOKUP = LookupSpec(source="shop", sql="SELECT name FROM items WHERE sku = :sku", params={"sku": "$.sku"})
FETCH = FetchSpec(api="stock", path="/items/{sku}", params={"sku": "$.sku"})
TOOLS = ToolsSpec(lookup=LOOKUP, fetch=FETCH)
RUN_SECONDS_MAX = 20
AWAY = TransientError("api_refused", http_status=503)


def a_spec(tools: ToolsSpec | None = TOOLS, **changes: Any) -> Any:
    spec = make_spec(**changes)
    return replace(spec, ask=replace(spec.ask, tools=tools))


class Sources:
    """Answers that are functions of the test; counts what was asked."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.says: Callable[[Question], Any] = lambda _: {"ok": 1}

    async def ask(self, question: Question) -> Any:
        self.asked.append(question)
        await asyncio.sleep(0)
        said = self.says(question)
        if isinstance(said, Exception):
            raise said
        return said


class Bench:
    """A task with events that wait, their log, and the effect."""

    def __init__(self, *specs: Any, turn_rows: int = 10) -> None:
        front, *others = specs or (a_spec(),)
        versions = {version_of(spec): orjson.loads(spec.to_json()) for spec in (front, *others)}
        shadows = {version_of(spec): 1.0 for spec in others}
        self.row = make_row(front, versions_json=json.dumps(versions), shadows_json=json.dumps(shadows))
        self.log, self.task, self.sources = MemoryLog(), MemoryTask(self.row), Sources()
        self.kit = a_kit(self.log)
        tools = ToolSettings(turn_rows=turn_rows, wait_max_seconds=0.001)
        self.tooler = Tooler(
            kit=self.kit,
            sources=self.sources,  # type: ignore[arg-type]
            limits=RawLimits(),
            default_job=None,
            tools=tools,
            effects=EffectSettings(idle_seconds=0.01),
        )

    def event(self, number: int, *, in_log: bool = True, **members: Any) -> None:
        raw = make_raw({"body": "on fire", "sku": f"A{number}", **members}, offset=number)
        if in_log:
            at = ("t.raw.v1", number)
            self.log.records[at] = LogRecord(
                at[0], PARTITION, number, 1, f"s{number}".encode(), raw.value, tuple(raw.headers)
            )
        raw = replace(raw, origin=replace(raw.origin, partition=PARTITION, at_ms=1), key=f"s{number}".encode())
        orders = normalize(self.task.view, raw, jobs=self.kit.jobs, now_ms=NOW_MS, limits=RawLimits())
        self.kit.carry(self.task, orders, src="test")  # type: ignore[arg-type]

    def arrive_at_each_rest(self, numbers: Iterable[int]) -> None:
        left = iter(numbers)

        def arrive(place: str) -> None:
            number = next(left, None) if place.startswith("rest") else None
            if number is not None:
                self.event(number)

        self.task.at_wait = arrive

    async def run(self, *, rests: int = 3, until: Callable[[], bool] = lambda: True) -> None:
        """Until the effect has come to rest so many times, and `until` holds."""
        running = asyncio.ensure_future(self.tooler.run(self.task))  # type: ignore[arg-type]
        enough = self.task.rests + rests
        async with asyncio.timeout(RUN_SECONDS_MAX):
            while not running.done() and (self.task.rests < enough or not until()):
                await asyncio.sleep(0.001)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    @property
    def waiting(self) -> list[Arrival]:
        return [row for row in self.task.view.rows(Arrival.schema) if isinstance(row, Arrival)]

    @property
    def items(self) -> list[WorkItem]:
        return [record for record in self.task.records if isinstance(record, WorkItem)]

    @property
    def letters(self) -> list[DeadLetter]:
        return [record for record in self.task.records if isinstance(record, DeadLetter)]


async def test_every_event_that_waits_becomes_one_item_with_its_own_answers() -> None:
    bench = Bench(turn_rows=3)
    for number in range(10):
        bench.event(number)
    bench.sources.says = lambda question: {"of": question.key}
    await bench.run()
    assert not bench.waiting
    assert Counter(item.source_id for item in bench.items) == {f"s{number}": 1 for number in range(10)}
    found = {orjson.loads(item.input_json)["tools"]["fetch"]["of"] for item in bench.items}
    assert len(found) == 10
    assert len(bench.sources.asked) == 20


async def test_a_source_that_is_away_burns_nobody_and_the_other_answer_is_kept() -> None:
    bench = Bench()
    bench.event(1)
    bench.sources.says = lambda question: AWAY if question.tool == "fetch" else [{"name": "lamp"}]
    await bench.run(rests=5)
    assert len(bench.waiting) == 1
    assert "lamp" in (bench.waiting[0].value_json or "")
    assert not bench.task.records
    bench.sources.asked.clear()
    bench.sources.says = lambda _: {"left": 4}
    await bench.run()
    assert [question.tool for question in bench.sources.asked] == ["fetch"], "what was answered is not asked again"
    assert orjson.loads(bench.items[0].input_json)["tools"] == {"lookup": [{"name": "lamp"}], "fetch": {"left": 4}}


async def test_a_refusal_ends_its_record_and_no_other() -> None:
    bench = Bench()
    for number in range(3):
        bench.event(number)
    no = RefusedError("api_refused", http_status=404, hint="stock has no answer for this path")
    bench.sources.says = lambda question: no if getattr(question, "path", "") == "/items/A1" else []
    await bench.run()
    assert [item.source_id for item in bench.items] == ["s0", "s2"]
    assert [(letter.reason, letter.source_id) for letter in bench.letters] == [(Reason.TOOL_FAILED, "s1")]
    assert "HTTP 404" in bench.letters[0].error
    kept = [row for row in bench.task.view.rows(Meta.schema) if isinstance(row, Meta) and row.name.startswith("tools/")]
    assert len(kept) == 2


async def test_a_source_that_answers_others_and_fails_for_one_again_and_again_refuses_that_one() -> None:
    bench = Bench(a_spec(ToolsSpec(fetch=FETCH)), turn_rows=5)
    bench.event(0)
    bench.sources.says = lambda question: AWAY if getattr(question, "path", "") == "/items/A0" else {}
    await bench.run(rests=20)
    assert len(bench.waiting) == 1, "alone it waits: nobody knows whether the source is there"
    bench.arrive_at_each_rest(range(1, 1_000))
    await bench.run(until=lambda: bool(bench.letters))
    assert [letter.source_id for letter in bench.letters] == ["s0"]
    assert "answers others" in bench.letters[0].error
    assert len(bench.items) >= 5


async def test_what_was_not_really_tried_counts_against_nobody() -> None:
    bench = Bench(a_spec(ToolsSpec(fetch=FETCH)))
    bench.event(0)
    first: list[Question] = []

    def says(question: Question) -> Any:
        first.append(question)
        return SourceAwayError("stock") if question.key == first[0].key else {}

    bench.sources.says = says
    await bench.run(rests=1)
    bench.arrive_at_each_rest(range(1, 20))
    await bench.run(until=lambda: len(bench.items) == 19)
    assert [arrival.origin.offset for arrival in bench.waiting] == [0]
    assert not bench.letters


async def test_versions_that_are_tried_out_hold_up_nobody() -> None:
    bench = Bench(a_spec(None), a_spec(TOOLS, user="other {{ input.body }}"))
    bench.event(0)
    bench.sources.says = lambda _: AWAY
    await bench.run()
    assert not bench.waiting
    assert [(item.source_id, item.aside) for item in bench.items] == [("s0", False)]


async def test_a_job_that_is_paused_or_cancelled_meanwhile_is_asked_nothing() -> None:
    bench = Bench()
    bench.event(0)
    bench.task.put(replace(bench.row, paused=True))
    await bench.run()
    assert (bench.sources.asked, bench.waiting[0].waiting_for) == ([], JOB_RESUMED)

    bench = Bench()
    bench.event(0)
    bench.task.put(replace(bench.row, cancelled_before_ms=NOW_MS))
    await bench.run()
    assert (bench.sources.asked, bench.waiting) == ([], [])
    assert [record.schema for record in bench.task.records] == ["excluded"]


async def test_an_event_that_goes_while_it_is_asked_about_is_left_alone() -> None:
    bench = Bench()
    bench.event(0)
    arrival = bench.waiting[0]

    def gone(_: Question) -> Any:
        bench.task.delete(Arrival.schema, arrival.key)
        return {}

    bench.sources.says = gone
    await bench.run()
    assert not bench.task.records


async def test_an_event_that_retention_has_taken_is_said_aloud() -> None:
    bench = Bench()
    bench.event(0, in_log=False)
    bench.event(1)
    await bench.run()
    assert [letter.reason for letter in bench.letters] == [Reason.BODY_GONE]
    assert [item.source_id for item in bench.items] == ["s1"]


async def test_an_event_whose_look_up_kills_the_worker_is_put_down_alone() -> None:
    bench = Bench()
    bench.event(0)
    bench.event(1)
    bench.task.guard.one_at_a_time = True
    tried: Counter[str] = Counter()

    def dies(place: str) -> None:
        if place == "effect tools":
            tried[place] += 1
            if tried[place] == 1:
                raise PoisonEffectError("tools", "row", 3)

    bench.task.at_wait = dies
    await bench.run()
    assert [letter.reason for letter in bench.letters] == [Reason.POISON]
    assert [item.source_id for item in bench.items] == ["s1"]


async def test_a_log_that_is_slow_concludes_nothing() -> None:
    bench = Bench()
    bench.event(0)
    slow = [LogSlowError(), LogSlowError()]

    def late(place: str) -> None:
        if place == "effect tools" and slow:
            raise slow.pop()

    bench.task.at_wait = late
    await bench.run(rests=5)
    assert (len(bench.items), bench.waiting) == (1, [])
