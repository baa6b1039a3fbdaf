"""What the next owner finds: whether the last one left cleanly, how much must be read, and who killed it."""

import signal
from pathlib import Path
from typing import Any

from tests.runtime.support import Flow, Worker, flow, until

QUIET = 1000


async def _died_until_quiet(pipe: Flow, expected_out: int, **options: Any) -> list[int]:
    """Restart the worker as a supervisor would, until it lives; its exit codes."""
    codes: list[int] = []
    while True:
        worker = pipe.start("one", **options)
        out = 0
        while worker.process.poll() is None and out < expected_out:
            out = len(await pipe.counts("out"))
        if worker.process.poll() is None:
            return codes
        codes.append(worker.process.returncode)
        assert len(codes) < 8, pipe.tails()


async def _owned(worker: Worker, pipe: Flow) -> list[bool]:
    await until(lambda: len(worker.said("owned")) >= pipe.partitions, 40, pipe.tails)
    return [fact["clean"] for fact in worker.said("owned")]


async def test_a_record_that_ends_the_process_is_isolated_at_its_third_death(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path, partitions=2) as pipe:
        await pipe.send("raw", [f"k{number}" for number in range(300)])
        codes = await _died_until_quiet(pipe, 299, poison="k137")
        assert codes == [33, 33, 33]
        assert await pipe.counts("dead") == {"k137": 1}
        out = await pipe.until_out(299)
        assert set(out.values()) == {1}
        assert "k137" not in out


async def test_an_effect_that_ends_the_process_is_isolated_at_its_third_death(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path, partitions=2) as pipe:
        await pipe.send("raw", [f"k{number}" for number in range(60)])
        codes = await _died_until_quiet(pipe, 59, effect_poison="k37")
        assert codes == [34, 34, 34]
        dead = await pipe.read("dead")
        assert [(record.key, record.value) for record in dead] == [(b"k37", b"3")]
        out = await pipe.until_out(59)
        assert set(out.values()) == {1}
        assert "k37" not in out


async def test_a_few_kills_condemn_nobody(bootstrap_servers: str, topic_prefix: str, tmp_path: Path) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path, partitions=2) as pipe:
        sent = 0
        for _ in range(5):
            worker = pipe.start("one")
            await _owned(worker, pipe)
            await pipe.send("raw", [f"k{number}" for number in range(sent, sent + 50)])
            sent += 50
            await pipe.until_out(sent)
            worker.kill()
        pipe.start("one")
        await pipe.until_out(sent)
        assert await pipe.read("dead") == []


async def test_the_next_owner_knows_whether_the_last_one_left_cleanly(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path, partitions=2) as pipe:
        first = pipe.start("one")
        assert await _owned(first, pipe) == [True, True], "nobody was before"
        assert await first.stop() == 0
        second = pipe.start("one")
        assert await _owned(second, pipe) == [True, True]
        second.kill()
        assert await _owned(pipe.start("one"), pipe) == [False, False]


async def test_an_effect_left_in_the_air_makes_a_hand_over_unclean(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path, partitions=1) as pipe:
        await pipe.send("raw", ["k1"])
        first = pipe.start("one", effect_seconds=60, tuning={"drain_timeout_seconds": 1})
        await until(lambda: first.said("effect"), 30, pipe.tails)
        assert await first.stop() == 0, first.tail()
        assert await _owned(pipe.start("one"), pipe) == [False]


async def test_a_restart_reads_only_what_its_local_file_has_not_seen(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path, partitions=2) as pipe:
        await pipe.send("raw", [f"k{number}" for number in range(1500)])
        first = pipe.start("one")
        await pipe.until_out(1500)
        first.signal(signal.SIGKILL)
        again = pipe.start("one")
        await _owned(again, pipe)
        assert all(fact["from_local"] for fact in again.said("restored"))
        assert sum(fact["rows"] for fact in again.said("restored")) < QUIET
        again.kill()
        stranger = pipe.start("two")
        await _owned(stranger, pipe)
        assert not any(fact["from_local"] for fact in stranger.said("restored"))
        assert sum(fact["rows"] for fact in stranger.said("restored")) >= 1500
        # The newcomer knows every key: all of them again, and none gets through.
        await pipe.send("raw", [f"k{number}" for number in range(1500)])
        await until(lambda: stranger.process.poll() is None, 1)
        dup = 0
        while dup < 1500:
            dup = sum((await pipe.counts("dup")).values())
        assert set((await pipe.counts("out")).values()) == {1}
