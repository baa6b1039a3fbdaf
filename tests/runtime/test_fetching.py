"""What is fetched around a rebalance: kept when it lies behind the newest seek, dropped when it lies before.

The group's client hands out each record once and moves on. Whatever is dropped behind the newest seek is lost: offsets
are sparse, so nobody would notice the hole.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from batchmill.agents.runtime import Observer
from batchmill.agents.runtime.shelf import Shelf
from batchmill.agents.runtime.transport import Consumer
from batchmill.agents.settings_groups import RuntimeSettings

INPUT = TP("raw", 0)


class Thread:
    """The client's thread: `script` says what a fetch meets before it returns."""

    def __init__(self) -> None:
        self.seek_done = 0
        self.log = list(range(10))
        self.position = 0
        self.before_return = lambda: None
        self.after_seek = lambda: None

    async def fetch(self, _partitions: Any, _timeout: float) -> tuple[int, Mapping[TP, list[Any]]]:
        self.before_return()
        got = [_record(offset) for offset in self.log if offset >= self.position]
        self.position = self.log[-1] + 1
        return self.seek_done, {INPUT: got} if got else {}

    async def seek_all(self, positions: Mapping[TP, int], number: int) -> None:
        self.position, self.seek_done = positions[INPUT], number
        self.after_seek()


def _record(offset: int) -> Any:
    return SimpleNamespace(topic="raw", partition=0, offset=offset, timestamp=0, key=None, value=b"v", headers=())


class OneConsumer(Consumer):
    """Our consumer around the fake thread, without Faust's services."""

    flow_active = True
    should_stop = False

    def __init__(self) -> None:
        task = SimpleNamespace(
            partition=0, positions={"raw": 0}, full=False, round=1, guard=SimpleNamespace(alone=lambda _topic: 0)
        )
        config = SimpleNamespace(observer=Observer(), tuning=RuntimeSettings())
        bodies = SimpleNamespace(put=lambda _record: None)
        self.runtime = SimpleNamespace(config=config, tasks=lambda: [task], draining=False, bodies=bodies)
        self.app = SimpleNamespace(should_stop=False, consumer_generation_id=1)
        self.task = task
        self._shelf = Shelf(self.runtime)
        self._newest_seek = 0
        self._thread = Thread()
        self._active_partitions, self._buffered_partitions = {INPUT}, set()
        self._read_offset, self._committed_offset = {}, {}

    def assignment(self) -> set[TP]:
        return {INPUT}

    async def offsets(self) -> list[int]:
        """One turn of Faust's fetching loop: the offsets handed to the agent."""
        return [record.offset async for _, message in self.getmany(timeout=1.0) for record in message.value.records]


@pytest.fixture
async def consumer() -> OneConsumer:
    made = OneConsumer()
    await made.perform_seek()
    return made


async def test_what_a_fetch_under_way_returns_behind_the_seek_but_before_the_flow_resumes_is_kept(
    consumer: OneConsumer,
) -> None:
    def rebalance() -> None:
        consumer.flow_active = False
        consumer.task.positions["raw"] = 4
        consumer._thread.position = 4
        consumer._shelf.clear({INPUT: 4})
        consumer._newest_seek += 1
        consumer._thread.seek_done = consumer._newest_seek

    consumer._thread.before_return = rebalance
    assert await consumer.offsets() == []  # nothing is handed out while the flow stands still
    consumer._thread.before_return = lambda: None
    consumer.flow_active = True
    assert await consumer.offsets() == [4, 5, 6, 7, 8, 9]


async def test_what_is_fetched_behind_a_seek_before_the_seek_is_reported_done_is_kept(consumer: OneConsumer) -> None:
    def fetched_at_once() -> None:
        records = [_record(offset) for offset in range(6, 10)]
        consumer._keep(consumer._thread.seek_done, {INPUT: records})
        consumer._thread.position = 10

    consumer.task.positions["raw"] = 6
    consumer._thread.after_seek = fetched_at_once
    await consumer.perform_seek()
    assert await consumer.offsets() == [6, 7, 8, 9]


async def test_what_was_fetched_before_the_newest_seek_is_dropped_and_comes_again(consumer: OneConsumer) -> None:
    old_seek = consumer._thread.seek_done
    consumer.task.positions["raw"] = 2
    await consumer.perform_seek()
    consumer._keep(old_seek, {INPUT: [_record(offset) for offset in range(10)]})
    assert await consumer.offsets() == [2, 3, 4, 5, 6, 7, 8, 9]
