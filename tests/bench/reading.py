"""Where the bench's figures come from: the topics themselves, and what the kernel remembers of each process.

What must not: the pipeline's own metrics; a bench that asks the thing it measures measures what it says of itself.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.settings import Settings
from batchmill.agents.topics import kafka_client_options
from batchmill.streams.topology import TOPICS, topic_name
from tests.bench.tables import Span

__all__ = ["Usage", "read_spans"]

_POLL_MS = 200
_EMPTY_POLLS_MAX = 25
_SAMPLE_SECONDS = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")


async def read_spans(settings: Settings) -> list[Span]:
    """Every topic, in the order of the flow, counted record by record under read_committed."""
    consumer = AIOKafkaConsumer(
        **kafka_client_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_bytes=32 * 2**20,
        max_partition_fetch_bytes=8 * 2**20,
    )
    await consumer.start()
    try:
        return [await _span(consumer, settings, topic.name) for topic in TOPICS]
    finally:
        await consumer.stop()


async def _span(consumer: AIOKafkaConsumer, settings: Settings, name: str) -> Span:
    tps = [TopicPartition(topic_name(settings.topic_prefix, name), part) for part in range(settings.partitions)]
    consumer.assign(tps)
    ends = await consumer.end_offsets(tps)
    records, first_ms, last_ms, empty = 0, 0, 0, 0
    while [tp for tp in tps if await consumer.position(tp) < ends[tp]] and empty < _EMPTY_POLLS_MAX:
        fetched = await consumer.getmany(timeout_ms=_POLL_MS)
        empty = 0 if fetched else empty + 1
        for found in fetched.values():
            records += len(found)
            first_ms = min([first_ms or found[0].timestamp, *(record.timestamp for record in found)])
            last_ms = max([last_ms, *(record.timestamp for record in found)])
    return Span(topic=name, records=records, first_ms=first_ms, last_ms=last_ms)


class Usage:
    """Peak memory and CPU time of processes while they run, from /proc; the last look before an end counts."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self.peak_mib: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}

    async def sample(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_SAMPLE_SECONDS)

    def look(self) -> None:
        for name, pid in self._pids.items():
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
                stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            times = stat.rpartition(")")[2].split()  # the name before it may hold anything
            peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")), None)
            if peak is not None:
                self.peak_mib[name] = int(peak) / 1024
                self.cpu_s[name] = (int(times[11]) + int(times[12])) / _TICKS
