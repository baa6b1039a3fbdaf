"""What only a broker can show: whatever happens to the workers, every record goes through exactly once."""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from batchmill.agents.kafka import LocalCluster
from batchmill.agents.runtime.failstop import Exit
from tests.runtime.support import Flow, flow, until

DYNAMIC = {"static_membership": False}


async def _assert_exactly_once(pipe: Flow, sent: list[str]) -> None:
    out = await pipe.until_out(len(set(sent)))
    assert set(out) == set(sent)
    assert set(out.values()) == {1}, f"repeated: {[key for key, times in out.items() if times > 1][:5]}"
    repeats = len(sent) - len(set(sent))
    for _ in range(50):
        if sum((await pipe.counts("dup")).values()) >= repeats:
            break
        await asyncio.sleep(0.2)
    assert sum((await pipe.counts("dup")).values()) == repeats


async def test_a_worker_carries_every_record_through_once_and_leaves_cleanly(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number % 1500}" for number in range(2000)]
        await pipe.send("raw", sent)
        worker = pipe.start("one")
        await _assert_exactly_once(pipe, sent)
        assert await worker.stop() == 0, worker.tail()


async def test_kill_9_of_either_worker_at_any_time_neither_loses_nor_doubles(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    chance = random.Random(7)
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{chance.randrange(4000)}" for _ in range(6000)]
        running = {name: pipe.start(name) for name in ("one", "two")}
        await until(lambda: running["one"].said("owned") or running["two"].said("owned"), 30, pipe.tails)
        for part in range(5):
            await pipe.send("raw", sent[part * 1200 : (part + 1) * 1200])
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            victim = chance.choice(["one", "two"])
            running[victim].kill()
            running[victim] = pipe.start(victim)
            await asyncio.sleep(chance.uniform(0.5, 2.5))
        await _assert_exactly_once(pipe, sent)


@pytest.mark.parametrize(
    "place",
    ["commit.begun", "commit.sent", "commit.delivered", "commit.offsets", "commit.committed", "commit.applied"],
)
async def test_dying_inside_a_step_of_a_transaction_neither_loses_nor_doubles(
    place: str, bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number}" for number in range(300)]
        await pipe.send("raw", sent)
        # The first transactions say who owns the tasks; a later one carries records.
        nth = 1 if place == "commit.offsets" else pipe.partitions + 2
        worker = pipe.start("one", failpoint=f"{place}:{nth}:kill")
        assert await worker.ended() == -signal.SIGKILL, worker.tail()
        pipe.start("one")
        await _assert_exactly_once(pipe, sent)


async def test_a_rebalance_in_the_middle_of_a_restore_leaves_no_task_with_half_its_state(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        first = [f"k{number}" for number in range(1000)]
        await pipe.send("raw", first)
        pipe.start("one", tuning=DYNAMIC)
        await pipe.until_out(1000)
        pipe.workers[0].kill()
        # Every key a second time: a task that does not remember the first will let it through again.
        await pipe.send("raw", first)
        slow = pipe.start("slow", tuning=DYNAMIC, failpoint="restore.read:1:pause")
        await until(lambda: slow.said("fenced"), 30, pipe.tails)
        pipe.start("late", tuning=DYNAMIC)
        await _assert_exactly_once(pipe, first + first)
        assert "restore_abandoned" in slow.tail(), slow.tail()
        assert slow.process.poll() is None, "a fail-stop would hide it"


async def test_a_zombie_woken_inside_a_transaction_is_refused_and_stops(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number}" for number in range(600)]
        await pipe.send("raw", sent)
        zombie = pipe.start("zombie", tuning=DYNAMIC, failpoint="commit.delivered:6:stop")
        await until(lambda: zombie.said("owned"), 30, pipe.tails)
        heir = pipe.start("heir", tuning=DYNAMIC)
        await until(lambda: len(heir.said("owned")) >= pipe.partitions, 40, pipe.tails)
        zombie.signal(signal.SIGCONT)
        assert await zombie.ended() == 71, zombie.tail()
        await _assert_exactly_once(pipe, sent)


async def test_a_record_on_a_foreign_partition_is_sent_home_and_counted(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number}" for number in range(100)]
        await pipe.send("mid", sent, partition=0)
        worker = pipe.start("one", route=True)
        await _assert_exactly_once(pipe, sent)
        assert 50 < len(worker.said("forwarded")) < 100


async def test_a_send_past_the_task_is_refused(bootstrap_servers: str, topic_prefix: str, tmp_path: Path) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        worker = pipe.start("one", bare=True)
        await until(lambda: worker.said("bare_sends"), 30, pipe.tails)
        assert worker.said("bare_sends")[0]["refused"] == ["topic", "producer"]


async def test_a_full_outbox_stops_fetching_until_it_is_committed(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number}" for number in range(3000)]
        await pipe.send("raw", sent)
        caps = {"outbox_records": 200, "slice_records": 50, "commit_interval_ms": 400}
        worker = pipe.start("one", tuning=caps, step=10)
        await _assert_exactly_once(pipe, sent)
        turns = [fact["on"] for fact in worker.said("backpressure")]
        assert True in turns
        assert False in turns
        # At the cap nothing more is begun; what was handed out or being pumped by then still ends.
        assert max(fact["records"] for fact in worker.said("outbox")) <= 200 + 4 * 50 + 2 * 10


async def test_tasks_that_stay_over_a_rebalance_are_neither_fenced_nor_restored_again(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number}" for number in range(400)]
        await pipe.send("raw", sent)
        elder = pipe.start("elder", tuning=DYNAMIC)
        await pipe.until_out(len(sent))
        newcomer = pipe.start("newcomer", tuning=DYNAMIC)
        await until(lambda: len(newcomer.said("owned")) == 2, 40, pipe.tails)
        await until(lambda: len(elder.said("owned")) == 4 + 2, 40, pipe.tails)
        assert len(elder.said("fenced")) == len(elder.said("restored")) == 4
        assert all(fact["clean"] for fact in newcomer.said("owned"))
        await pipe.send("raw", sent)
        await _assert_exactly_once(pipe, sent + sent)


async def test_a_broker_that_dies_and_comes_back_neither_loses_nor_doubles(
    own_broker: LocalCluster, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(own_broker.bootstrap_servers, topic_prefix, tmp_path) as pipe:
        sent = [f"k{number}" for number in range(3000)]
        await pipe.send("raw", sent)
        worker = pipe.start("one")
        await until(lambda: worker.said("owned"), 30, pipe.tails)
        await asyncio.to_thread(own_broker.kill, 0)
        await asyncio.to_thread(own_broker.restart, 0)
        for _ in range(60):
            if worker.process.poll() is not None:
                # It may not know how a transaction ended; then it has to say so and be started again.
                assert worker.process.returncode in set(Exit), worker.tail()
                worker = pipe.start("one")
            if len(await pipe.counts("out")) == len(sent):
                break
        await _assert_exactly_once(pipe, sent)
