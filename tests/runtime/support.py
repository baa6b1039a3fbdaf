"""Workers of `tests.runtime.worker`: starting, watching, killing; their topics read by an independent client."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

ROOT = Path(__file__).parents[2]
TOPICS = ("raw", "mid", "out", "dup", "state", "dead")
#: Quick to notice, so that the tests are quick; the proportions are those of production.
TUNING = {"session_timeout_seconds": 6, "heartbeat_seconds": 1, "rebalance_timeout_seconds": 10}


class Worker:
    """One worker process; everything it says is kept."""

    def __init__(self, options: dict[str, Any], log: Path) -> None:
        self.log = log
        self._file = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.worker", json.dumps(options)],
            cwd=ROOT,
            stdout=self._file,
            stderr=self._file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def said(self, what: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            at = line.find('{"what"')
            if at >= 0 and line.endswith("}"):
                fact = json.loads(line[at:])
                if fact["what"] == what:
                    found.append(fact)
        return found

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self, seconds: float = 30) -> int:
        await until(lambda: self.process.poll() is not None, seconds, lambda: f"worker runs on: {self.tail()}")
        return self.process.returncode

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Flow:
    """The topics of one test, and the workers on them."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path, partitions: int) -> None:
        self.bootstrap, self.prefix, self.directory, self.partitions = bootstrap, prefix, directory, partitions
        self.workers: list[Worker] = []

    def start(self, instance: str, **options: Any) -> Worker:
        tuning = {**TUNING, **options.pop("tuning", {})}
        full = {
            "bootstrap": self.bootstrap,
            "prefix": self.prefix,
            "partitions": self.partitions,
            "instance": instance,
            "state_dir": str(self.directory / "state" / instance),
            "tuning": tuning,
            **options,
        }
        worker = Worker(full, self.directory / f"{instance}-{len(self.workers)}.log")
        self.workers.append(worker)
        return worker

    async def send(self, topic: str, values: Iterable[str], *, partition: int | None = None) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5)
        await producer.start()
        try:
            sent = [
                await producer.send(f"{self.prefix}.{topic}", value.encode(), key=value.encode(), partition=partition)
                for value in values
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def read(self, topic: str, *, isolation: str = "read_committed") -> list[Any]:
        """All records there are now."""
        name = f"{self.prefix}.{topic}"
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level=isolation, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            where = [TopicPartition(name, partition) for partition in range(self.partitions)]
            consumer.assign(where)
            await consumer.seek_to_beginning()
            found: list[Any] = []
            quiet = 0
            while quiet < 3:
                fetched = await consumer.getmany(timeout_ms=200)
                quiet = 0 if fetched else quiet + 1
                for records in fetched.values():
                    found += records
            return found
        finally:
            await consumer.stop()

    async def counts(self, topic: str) -> Counter[str]:
        return Counter((record.key or b"").decode() for record in await self.read(topic))

    async def until_out(self, expected: int, seconds: float = 45) -> Counter[str]:
        """Until `out` holds that many different keys."""
        deadline = time.monotonic() + seconds
        while True:
            counts = await self.counts("out")
            if len(counts) >= expected:
                return counts
            assert time.monotonic() < deadline, f"{len(counts)} of {expected}; {self.tails()}"
            await asyncio.sleep(0.3)

    def tails(self) -> str:
        return "\n".join(f"--- {worker.log.name} {worker.process.poll()}\n{worker.tail()}" for worker in self.workers)


@asynccontextmanager
async def flow(bootstrap: str, prefix: str, directory: Path, *, partitions: int = 4) -> AsyncIterator[Flow]:
    """Topics before, nothing left running after."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [
                NewTopic(
                    f"{prefix}.{name}",
                    partitions,
                    1,
                    topic_configs={"cleanup.policy": "compact"} if name == "state" else {},
                )
                for name in TOPICS
            ]
        )
    finally:
        await admin.close()
    made = Flow(bootstrap, prefix, directory, partitions)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.kill()


async def until(condition: Callable[[], object], seconds: float, explain: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain() or "did not happen in time"
        await asyncio.sleep(0.05)
