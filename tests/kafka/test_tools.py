"""Records that are looked up on their way, by workers that die between asking and writing down, from an API that goes.

What must come out: nothing is lost, each record is asked of the provider once, with what its sources said of it; the
same raw event normalized again, from what the log holds, is the same request whatever its sources say by then.
"""

import asyncio
import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.clock import wall_ms
from batchmill.agents.commands import issue
from batchmill.agents.settings import Settings
from batchmill.schemas import codec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, DeadLetter, Origin, Record, WorkItem
from batchmill.schemas.state import Arrival, Job, Meta, Row
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.looking_up import WAITS
from batchmill.streams.normalizing import normalize
from batchmill.streams.orders import Emit
from batchmill.streams.redriving import command_body
from batchmill.streams.topology import topic_name
from batchmill.streams.view import MemoryView
from tests.agents.tool_worlds import Shelf, fill_sqlite, serving
from tests.chaos.mill import PARTITIONS, Mill, eventually, running_mill
from tests.chaos.workload import JOB, JOB_DIR, Event, Kind, write_gold

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

FIRST, LATER = 90, 30
LOST_EVERY = 15  #: so many records apart are those of which the API knows nothing
SECONDS_MAX = 60
DOWN_SECONDS = 2.0
TOOLS = """  tools:
    lookup:
      source: shop
      sql: "SELECT name, price FROM items WHERE sku = :sku"
      params: {sku: $.sku}
    fetch: {api: stock, path: "/items/{number}", params: {number: $.number}, timeout: 2s}
    calculate: {worth: "double(tools.fetch.left) * double(tools.lookup[0].price)"}
"""


def event(number: int) -> Event:
    text = f"what is known of the thing that has the number {number:04d} and of no other thing"
    value = {"text": text, "sku": f"A{1 + number % 2}", "number": f"n{number:04d}"}
    return Event(Kind.FRESH, f"s-{number:04d}".encode(), json.dumps(value).encode())


def is_lost(number: int) -> bool:
    return number % LOST_EVERY == LOST_EVERY - 1


def left_of(number: int) -> int:
    return 1 + number % 7


def job_folder(directory: Path) -> Path:
    folder = directory / "job"
    shutil.copytree(JOB_DIR, folder)
    text = (folder / "job.yaml").read_text()
    text = text.replace("  prompt: {user: user.j2}\n", f"  prompt: {{system: system.j2, user: user.j2}}\n{TOOLS}")
    text = text.replace("  confidence: {field: confidence, review_below: 0.52}\n", "")  # nothing is kept for a person
    (folder / "job.yaml").write_text(text.replace("max_count: 150", "max_count: 40"))
    schema = json.loads((folder / "input.schema.json").read_text())
    schema["properties"] |= {"sku": {"type": "string"}, "number": {"type": "string"}}
    (folder / "input.schema.json").write_text(json.dumps(schema))
    (folder / "system.j2").write_text("There are {{ input.tools.fetch.left }} of {{ input.tools.lookup[0].name }}.")
    return folder


async def stocked(request: web.Request) -> web.StreamResponse:
    number = int(request.match_info["rest"].rpartition("/n")[2])
    return web.Response(status=404) if is_lost(number) else web.json_response({"left": left_of(number)})


async def held(settings: Settings, name: str) -> list[Any]:
    """All committed records of a topic."""
    topic = topic_name(settings.topic_prefix, name)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends, found = await consumer.end_offsets(places), []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
        return found
    finally:
        await consumer.stop()


async def records(settings: Settings, name: str) -> list[Record | Row]:
    found = await held(settings, name)
    return [codec.decode_any(each.value) for each in found if each.value is not None and each.value[:1] == b"\x00"]


async def play(mill: Mill, shelf: Shelf) -> None:
    """Two deaths, then an API that is away for a while, with records on their way."""
    await mill.ingest(event(number) for number in range(FIRST))

    def died() -> bool:
        return sum(ended.code == -signal.SIGKILL for ended in mill.pool.ends) == 2

    assert await eventually(died, seconds=SECONDS_MAX), "no worker died where it was to die"
    assert await mill.drained(SECONDS_MAX), "it never came to rest after the deaths"
    shelf.away = True
    committed = len(mill.watcher.commits)
    await mill.ingest(event(number) for number in range(FIRST, FIRST + LATER))
    assert await eventually(lambda: len(mill.watcher.arrivals) == LATER, seconds=SECONDS_MAX), "they do not wait"
    letters = mill.watcher.counts["dead-letter"]
    await asyncio.sleep(DOWN_SECONDS)
    assert len(mill.watcher.arrivals) == LATER, "what waits for its source was burned"
    assert (len(mill.watcher.commits), mill.watcher.counts["dead-letter"]) == (committed, letters)
    shelf.away = False
    assert await mill.drained(SECONDS_MAX), "it never came to rest after the API was back"


async def test_each_record_is_asked_once_with_what_was_found_whoever_dies_and_whatever_is_away(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    everything = range(FIRST + LATER)
    write_gold(tmp_path / "gold.jsonl", [event(number) for number in everything])
    with serving() as shelf:
        shelf.answer = stocked
        mill_of = running_mill(
            bootstrap_servers,
            tmp_path,
            prefix=topic_prefix,
            gold=tmp_path / "gold.jsonl",
            job_dir=job_folder(tmp_path),
            latency_seconds=(0.05, 0.2),
            overrides={
                "databases.shop.sqlite_path": fill_sqlite(tmp_path / "shop.sqlite"),
                "apis.stock.base_url": shelf.url,
                "tools.turn_rows": 10,
                "tools.wait_max_seconds": 0.5,
            },
        )
        async with mill_of as mill:
            await mill.pool.start("worker-1", failpoint="tools.asked:2:kill")
            await mill.pool.start("worker-2", failpoint="tools.recorded:1:kill")
            await mill.apply()
            await play(mill, shelf)
            await judge(mill, [number for number in everything if not is_lost(number)])
            asked = Counter(shelf.asked)
            await mend(mill, shelf)
            assert await mill.drained(SECONDS_MAX)
            anew = {int(path.rpartition("/n")[2]) for path, count in shelf.asked.items() if count > asked[path]}
            assert anew == set(filter(is_lost, everything)), "what was written down is asked again"
            await judge(mill, list(everything))
            await normalized_again(mill)
            codes = await mill.pool.stop_all()
            assert set(codes.values()) == {0}


async def mend(mill: Mill, shelf: Shelf) -> None:
    """The API learns of what it did not know, changes its mind on everything else, and the letters come back."""

    async def changed(request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["rest"].rpartition("/n")[2])
        return web.json_response({"left": left_of(number) if is_lost(number) else 1_000})

    shelf.answer = changed
    letters = [
        (each.partition, each.offset)
        for each in await held(mill.settings, "dead-letter")
        if codec.decode(each.value, DeadLetter).reason is Reason.TOOL_FAILED
    ]
    assert len(letters) == sum(map(is_lost, range(FIRST + LATER))), (
        "each record that its source knows nothing of is one letter"
    )
    body = command_body(requests=[], letters=letters)
    await issue(mill.settings, "redrive", JOB, actor="me", body_json=body, wait_seconds=0)
    everybody = FIRST + LATER
    assert await eventually(lambda: len(mill.watcher.commits) >= everybody, seconds=SECONDS_MAX), (
        "they do not come back"
    )


async def judge(mill: Mill, expected: list[int]) -> None:
    settings = mill.settings
    items = [each for each in await records(settings, "normalized") if isinstance(each, WorkItem)]
    commits = Counter(each.source_id for each in await records(settings, "committed") if isinstance(each, Committed))
    assert commits == {f"s-{number:04d}": 1 for number in expected}, "lost, or doubled"
    by_event: dict[tuple[int, int], set[str]] = {}
    for item in items:
        by_event.setdefault((item.origin.partition, item.origin.offset), set()).add(item.request_id)
    assert {len(ids) for ids in by_event.values()} == {1}, "one event became two requests"
    asked = Counter(each.split("-")[0] for each in mill.watcher.facts)
    assert asked == dict.fromkeys((item.request_id for item in items), 1), "what was asked is not what was to be asked"
    for item in items:
        number = int(item.source_id.removeprefix("s-"))
        name, price = [("lamp", 2.5), ("chair", 10.0)][number % 2]
        assert orjson.loads(item.input_json)["tools"] == {
            "lookup": [{"name": name, "price": price}],
            "fetch": {"left": left_of(number)},
            "worth": left_of(number) * price,
        }


async def normalized_again(mill: Mill) -> None:
    """From the rows that the log holds, without asking anybody: the same items."""
    found = [each for each in await records(mill.settings, "normalized") if isinstance(each, WorkItem)]
    items = {(item.origin.partition, item.origin.offset): item for item in found}
    views: dict[int, MemoryView] = {partition: MemoryView() for partition in range(PARTITIONS)}
    for each in await held(mill.settings, "state"):
        if each.value is None or not each.key.startswith((b"state.meta/tools/", b"state.jobs/")):
            continue
        row = codec.decode_any(each.value)
        assert isinstance(row, Job | Meta)
        views[each.partition].put(row)
    raws = await held(mill.settings, "raw")
    for each in raws:
        origin = Origin(generation=1, partition=each.partition, offset=each.offset, at_ms=each.timestamp)
        raw = RawRecord(origin=origin, key=each.key, value=each.value, headers=each.headers)
        orders = normalize(
            views[each.partition], raw, jobs=CompiledJobs(), now_ms=wall_ms(), limits=RawLimits(value_bytes_max=900_000)
        )
        assert [type(order) for order in orders] == [Emit], f"it waits for {WAITS} or {Arrival.schema}"
        item = orders[0].record  # type: ignore[union-attr]
        assert isinstance(item, WorkItem)
        assert item.request_id == items[each.partition, each.offset].request_id
        assert item.ask_key == items[each.partition, each.offset].ask_key
    assert len(raws) == len(items)
