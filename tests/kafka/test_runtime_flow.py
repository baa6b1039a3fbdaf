"""What only a broker can show: the pipeline ends exactly once, however its workers die."""

import asyncio
import random
from pathlib import Path

from tests.runtime.support import flow, until


async def test_a_worker_carries_every_record_through_once(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with flow(bootstrap_servers, topic_prefix, tmp_path) as pipe:
        await pipe.send("raw", [f"k{number}" for number in range(2000)])
        worker = pipe.start("one")
        counts = await pipe.until_out(2000)
        assert set(counts.values()) == {1}
        assert await worker.stop() == 0, worker.tail()
