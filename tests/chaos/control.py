"""One kill script and one duplicate checker for two drivers: stock Faust `exactly_once`, and ours.

What lives here: the pass-through experiment. Records are fed at a steady pace to two workers; at a quarter, a half and
three quarters of the output one of them gets a kill -9 and is started again; an independent read_committed client
counts what came out.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.chaos.processes import Pool, Start

__all__ = ["Driver", "Passed", "pass_through"]

Driver = Literal["stock", "ours"]

PARTITIONS = 4
KILL_AT_SHARES = (0.25, 0.5, 0.75)
FEED_SECONDS = 12.0
GUESTS = 8
FEED_CUTS = 600  #: many small ones, so that records arrive at every moment of a rebalance
READY_RECORDS = 16
READY_SECONDS_MAX = 60.0
SILENCE_SECONDS = 20.0  #: no new output for so long: nothing comes any more
_MODULE: dict[Driver, str] = {"stock": "tests.chaos.stock_app", "ours": "tests.chaos.our_app"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What came out of one run."""

    driver: Driver
    seed: int
    records: int
    kills: int
    duplicates: int
    lost: int
    seconds: float

    @property
    def exact(self) -> bool:
        return self.duplicates == 0 and self.lost == 0

    def __str__(self) -> str:
        return (
            f"{self.driver:5}  seed {self.seed}: {self.records} records, {self.kills} kill -9, "
            f"{self.duplicates} duplicated, {self.lost} lost, {self.seconds:.0f} s"
        )


async def pass_through(
    driver: Driver, bootstrap: str, directory: Path, *, records: int, seed: int, guests: bool = False
) -> Passed:
    """Run the script once; leaves no process behind. With `guests`, nobody is killed and workers join instead."""
    began_s = time.monotonic()
    prefix = f"{driver}-{seed}-{os.urandom(3).hex()}"
    options = {
        "group": prefix,
        "bootstrap": bootstrap,
        "partitions": str(PARTITIONS),
        "source": f"{prefix}.in",
        "target": f"{prefix}.out",
        "state": f"{prefix}.state",
    }
    await _make_topics(bootstrap, options)

    def command(name: str, _failpoint: str | None) -> Start:
        told = {**options, "instance": name, "data_dir": str(directory / prefix / name)}
        return Start([sys.executable, "-m", _MODULE[driver], json.dumps(told)], os.environ)

    pool, output = Pool(directory / prefix, command), _Output()
    reading = asyncio.create_task(output.read(bootstrap, options["target"]))
    try:
        for name in ("worker-1", "worker-2"):
            await pool.start(name)
        await _feed_one(bootstrap, options["source"], output)
        feeding = asyncio.create_task(_feed(bootstrap, options["source"], records))
        disturb = _invite if guests else _kill
        kills = await disturb(pool, output, records, Random(seed))
        await feeding
        await _until_silent(output, records)
    finally:
        await pool.kill_all()
        reading.cancel()
    found = output.counts
    expected = {_value(n) for n in range(records)}
    return Passed(
        driver=driver,
        seed=seed,
        records=records,
        kills=kills,
        duplicates=sum(n - 1 for value, n in found.items() if value in expected),
        lost=len(expected - found.keys()),
        seconds=time.monotonic() - began_s,
    )


class _Output:
    """What an independent read_committed client has met so far."""

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()
        self.last_s = time.monotonic()

    async def read(self, bootstrap: str, topic: str) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, p) for p in range(PARTITIONS)])
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    self.counts.update(record.value for record in records)
                    self.last_s = time.monotonic()
        finally:
            await consumer.stop()


def _value(n: int) -> bytes:
    return b"record-%06d" % n


async def _make_topics(bootstrap: str, options: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        topics = [NewTopic(options[name], PARTITIONS, 1) for name in ("source", "target")]
        topics.append(NewTopic(options["state"], PARTITIONS, 1, topic_configs={"cleanup.policy": "compact"}))
        await admin.create_topics(topics)
    finally:
        await admin.close()


async def _feed_one(bootstrap: str, topic: str, output: _Output) -> None:
    """The script begins when a few records have gone all the way."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for n in range(READY_RECORDS):
            await producer.send_and_wait(topic, b"ready-%d" % n, key=b"ready-%d" % n)
    deadline = time.monotonic() + READY_SECONDS_MAX
    while len(output.counts) < READY_RECORDS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no record went through {topic} in {READY_SECONDS_MAX:g} s")
        await asyncio.sleep(0.1)


async def _feed(bootstrap: str, topic: str, records: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for cut in _cuts(records):
            sent = [await producer.send(topic, _value(n), key=_value(n)) for n in cut]
            await asyncio.gather(*sent)
            await asyncio.sleep(FEED_SECONDS / FEED_CUTS)


def _cuts(records: int) -> Iterator[range]:
    size = -(-records // FEED_CUTS)
    return (range(start, min(records, start + size)) for start in range(0, records, size))


async def _kill(pool: Pool, output: _Output, records: int, chance: Random) -> int:
    kills = 0
    for share in KILL_AT_SHARES:
        while len(output.counts) < records * share and time.monotonic() - output.last_s < SILENCE_SECONDS:
            await asyncio.sleep(0.02)
        await asyncio.sleep(chance.uniform(0, 0.3))
        await pool.kill(f"worker-{kills % 2 + 1}")
        kills += 1
    return kills


async def _invite(pool: Pool, output: _Output, records: int, chance: Random) -> int:
    """Each newcomer makes the group rebalance in a moment, with records on their way to workers that stay."""
    for guest in range(GUESTS):
        while len(output.counts) < records * guest / GUESTS and time.monotonic() - output.last_s < SILENCE_SECONDS:
            await asyncio.sleep(0.02)
        await asyncio.sleep(chance.uniform(0, 0.3))
        await pool.start(f"guest-{guest + 1}")
    return 0


async def _until_silent(output: _Output, records: int) -> None:
    """Everything is out and nothing more comes, or nothing has come for long."""

    def silence() -> float:
        return time.monotonic() - output.last_s

    def complete() -> bool:
        return len(output.counts) >= records + READY_RECORDS

    while silence() < (SILENCE_SECONDS / 2 if complete() else SILENCE_SECONDS):
        await asyncio.sleep(0.2)


def run(driver: Driver, bootstrap: str, directory: Path, **options: Any) -> Passed:
    return asyncio.run(pass_through(driver, bootstrap, directory, **options))
