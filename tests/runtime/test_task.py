"""What a task accepts, refuses and remembers, without a broker."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.runtime import LogRecord, NotOwnedError, RuntimeConfig, Slice, Task, TooLargeError
from batchmill.agents.runtime import task as task_module
from batchmill.agents.runtime.errors import VersionError
from batchmill.agents.runtime.failpoints import FailpointError, Failpoints
from batchmill.agents.runtime.log import BodyCache
from batchmill.agents.runtime.outbox import Outbox
from batchmill.agents.runtime.producers import is_plain
from batchmill.agents.runtime.runtime import Runtime
from batchmill.agents.runtime.store import Store, StoreIdentity
from batchmill.agents.runtime.versions import PROVEN, check_versions, installed_versions
from batchmill.agents.runtime.view import TaskView
from batchmill.agents.settings_groups import RuntimeSettings
from tests.runtime.worker import Item, ItemCodec


def _config(directory: Path, **tuning: int) -> RuntimeConfig:
    return RuntimeConfig(
        app_id="app",
        instance="one",
        bootstrap_servers="127.0.0.1:1",
        partitions=4,
        state_topic="state",
        state_dir=directory,
        codec=ItemCodec(),
        place=lambda key: key[0] % 4,
        tuning=RuntimeSettings(**tuning),
    )


def _task(directory: Path, **tuning: int) -> Task:
    """Owned, with an empty state, and nothing behind it that could commit."""
    task = Task(2, _config(directory, **tuning), asyncio.Lock())
    store = Store.open(directory, StoreIdentity("", "state", 2))
    task._view = TaskView(store, ItemCodec(), hot_rows_max=10)
    task.positions = {"raw": 5}
    task.owned = True
    return task


def _slice(start: int, end: int) -> Slice:
    return Slice("raw", 2, (LogRecord("raw", 2, end - 1, 0, b"k", b"v", ()),), start, end, 0)


async def test_what_the_application_opened_is_closed_at_the_end_whatever_else_fails(tmp_path: Path) -> None:
    runtime, closed = Runtime(_config(tmp_path)), []

    async def fails() -> None:
        raise OSError

    async def closes() -> None:
        closed.append(runtime.tasks())

    runtime.on_end(fails)
    runtime.on_end(closes)
    await runtime.stop()
    assert closed == [[]]


def test_everything_asked_between_two_awaits_lies_in_one_batch(tmp_path: Path) -> None:
    task = _task(tmp_path)
    task.put(Item("a", "queued"))
    task.emit("mid", key=b"\x03", value=b"v", src="raw/2/5", intent="rekey", headers=[("h", b"1")])
    task.emit("dup", key=None, value=b"v", src="effect:pump")
    task.finish(_slice(5, 9))
    batch = task._outbox.take()
    assert [(record.topic, record.partition) for record in batch.records] == [("mid", 3), ("dup", 2)]
    assert batch.records[0].headers == (("src", b"raw/2/5"), ("intent", b"rekey"), ("h", b"1"))
    assert batch.positions == {"raw": 9}
    assert list(batch.writes) == [("items", "a")]


def test_a_row_is_seen_before_it_is_committed_and_the_last_write_of_a_row_wins(tmp_path: Path) -> None:
    task = _task(tmp_path)
    task.put(Item("a", "queued"))
    task.put(Item("a", "done"))
    assert task.view.get("items", "a") == Item("a", "done")
    assert task.view.scan("queue", "", limit=9) == []
    assert len(task._outbox.take().writes) == 1
    task.delete("items", "a")
    assert task.view.get("items", "a") is None


def test_a_slice_must_start_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(code: Any, _why: str, **where: Any) -> None:
        raise SystemExit(int(code), where["expected"])

    monkeypatch.setattr(task_module, "fail_stop", stop)
    task = _task(tmp_path)
    task.finish(_slice(5, 9))
    with pytest.raises(SystemExit) as stopped:
        task.finish(_slice(8, 12))
    assert stopped.value.args == (72, 9)
    assert task.positions == {"raw": 9}


def test_a_frozen_task_takes_no_orders(tmp_path: Path) -> None:
    task = _task(tmp_path)
    task.freeze()
    for order in (
        lambda: task.put(Item("a", "queued")),
        lambda: task.delete("items", "a"),
        lambda: task.emit("mid", key=b"k", value=b"v", src="x"),
        lambda: task.finish(_slice(5, 9)),
    ):
        with pytest.raises(NotOwnedError):
            order()
    assert not task._outbox


async def test_no_effect_begins_while_a_hand_over_is_near(tmp_path: Path) -> None:
    task = _task(tmp_path)
    async with task.effect("pump", "a"):
        task.draining = True
        assert not task._effects_idle.is_set()
    await task.effects_ended()
    with pytest.raises(NotOwnedError):
        async with task.effect("pump", "b"):
            pytest.fail("it began")


def test_a_record_beyond_the_limit_is_refused_before_anything_is_noted(tmp_path: Path) -> None:
    task = _task(tmp_path, record_bytes_max=2_000)
    assert task.fits(b"k", b"v" * 1_000)
    assert not task.fits(b"k", b"v" * 1_990)
    with pytest.raises(TooLargeError, match="mid"):
        task.emit("mid", key=b"k", value=b"v" * 2_000, src="x")
    with pytest.raises(TooLargeError, match="state"):
        task.put(Item("x" * 2_000, "queued"))
    assert not task._outbox
    assert task.view.get("items", "x" * 2_000) is None


@pytest.mark.parametrize("caps", [{"outbox_records": 3}, {"outbox_bytes": 3 * 90}], ids=["records", "bytes"])
async def test_an_outbox_at_its_cap_makes_effects_wait_until_it_is_committed(
    tmp_path: Path, caps: dict[str, int]
) -> None:
    task = _task(tmp_path, **caps)
    for _ in range(3):
        assert not task.full
        await task.capacity()
        task.emit("mid", key=b"k", value=b"v" * 49, src="x")
    assert task.full
    waiting = asyncio.ensure_future(task.capacity())
    task._outbox.take()
    await asyncio.sleep(0)
    assert not waiting.done(), "what is under way is not gone yet"
    task._outbox.committed()
    task._room.set()
    await waiting


async def test_an_effect_waiting_for_room_learns_that_its_task_is_gone(tmp_path: Path) -> None:
    task = _task(tmp_path, outbox_records=1)
    task.emit("mid", key=b"k", value=b"v", src="x")
    waiting = asyncio.ensure_future(task.capacity())
    await asyncio.sleep(0)
    task.freeze()
    with pytest.raises(NotOwnedError):
        await waiting


async def test_rest_ends_when_woken_or_when_the_time_is_over(tmp_path: Path) -> None:
    task = _task(tmp_path)
    assert await task.rest("pump", 0.001) is False
    task.wake("pump")
    assert await task.rest("pump", 60) is True
    resting = asyncio.ensure_future(task.rest("pump", 60))
    await asyncio.sleep(0)
    task.freeze()
    with pytest.raises(NotOwnedError):
        await resting


async def test_a_ticket_is_due_when_its_batch_is_committed_and_not_before() -> None:
    outbox = Outbox()
    await outbox.durable(outbox.ticket())  # nothing to wait for
    outbox.finished("raw", 1)
    first = outbox.ticket()
    outbox.take()
    outbox.finished("raw", 2)
    second = outbox.ticket()
    waiting = [asyncio.ensure_future(outbox.durable(ticket)) for ticket in (first, second)]
    await asyncio.sleep(0)
    assert [one.done() for one in waiting] == [False, False]
    outbox.committed()
    await asyncio.sleep(0)
    assert [one.done() for one in waiting] == [True, False]
    outbox.abandon(NotOwnedError(0))
    with pytest.raises(NotOwnedError):
        await waiting[1]
    with pytest.raises(NotOwnedError):
        await outbox.durable(second)


def test_bodies_are_kept_up_to_a_number_of_bytes_oldest_first_out() -> None:
    bodies = BodyCache(bytes_max=1_000)
    for offset in range(10):
        bodies.put(LogRecord("raw", 0, offset, 0, None, b"x" * 260, ()))
        bodies.get("raw", 0, 0)
    assert bodies.size_bytes <= 1_000
    assert [offset for offset in range(10) if bodies.get("raw", 0, offset)] == [0, 8, 9]


class _Answer:
    def __init__(self, **fields: Any) -> None:
        self.__dict__ |= fields


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        (_Answer(error_code=0), True),
        (_Answer(error_code=51), True),  # concurrent transactions: nothing was begun
        (_Answer(error_code=14), True),  # coordinator is loading
        (_Answer(error_code=15), False),  # not available: what became of the append?
        (_Answer(error_code=7), False),  # timed out inside the broker
        (_Answer(errors=[("t", [(0, 0), (1, 0)])]), True),
        (_Answer(errors=[("t", [(0, 0), (1, 16)])]), False),
    ],
)
def test_only_an_answer_that_leaves_nothing_under_way_is_plain(answer: _Answer, plain: bool) -> None:
    assert is_plain(answer) is plain


def test_other_versions_than_the_proven_ones_are_refused_unless_allowed() -> None:
    assert check_versions(installed_versions(), allow_untested=False) == ()
    other = {**PROVEN, "aiokafka": "0.15.0"}
    with pytest.raises(VersionError, match=r"aiokafka 0\.15\.0 is installed, 0\.14\.0 is proven"):
        check_versions(other, allow_untested=False)
    assert len(check_versions(other, allow_untested=True)) == 1


def test_a_failpoint_acts_at_its_nth_hit_only() -> None:
    points = Failpoints()
    points.arm("commit.sent:2:raise")
    points.hit("commit.sent")
    points.hit("elsewhere")
    with pytest.raises(FailpointError):
        points.hit("commit.sent")
    points.hit("commit.sent")


@pytest.mark.parametrize("value", ["commit.sent", "commit.sent:0:kill", "commit.sent:x:kill", "a:1:explode", ":1:kill"])
def test_a_misspelt_failpoint_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="name:nth:action"):
        Failpoints().arm(value)
