"""Small things measured side by side in one run, so that the machine cancels out.

What must not: anything that needs a broker.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict

from batchmill.schemas import codec
from batchmill.schemas.records import Origin, WorkItem
from tests.bench.tables import Ratio

__all__ = ["ratios"]

_ROUNDS = 5


def ratios() -> tuple[Ratio, ...]:
    """All of them; a second or two."""
    return (*_codec(), _slices())


def _codec() -> tuple[Ratio, Ratio]:
    items = [_item(number) for number in range(500)]
    frames = [codec.encode(item) for item in items]
    texts = [json.dumps(asdict(item)) for item in items]
    return (
        Ratio(
            what="encode a work item",
            ours="codec (Avro)",
            ours_us=_us(lambda: [codec.encode(item) for item in items], len(items)),
            other="asdict + json.dumps",
            other_us=_us(lambda: [json.dumps(asdict(item)) for item in items], len(items)),
        ),
        Ratio(
            what="decode a work item",
            ours="codec (Avro, strict)",
            ours_us=_us(lambda: [codec.decode(frame, WorkItem) for frame in frames], len(frames)),
            other="json.loads, unchecked",
            other_us=_us(lambda: [_from_json(text) for text in texts], len(texts)),
        ),
    )


def _slices() -> Ratio:
    """What an event loop costs per record when records are handed over one by one, and when they come as slices."""
    records, size = list(range(20_000)), 500
    cuts = [records[start : start + size] for start in range(0, len(records), size)]
    return Ratio(
        what="hand a record to an agent",
        ours=f"slices of {size}",
        ours_us=_us(lambda: asyncio.run(_handed(cuts)), len(records)),
        other="one by one",
        other_us=_us(lambda: asyncio.run(_handed([[record] for record in records])), len(records)),
    )


async def _handed(slices: list[list[int]]) -> int:
    queue: asyncio.Queue[list[int] | None] = asyncio.Queue(maxsize=16)

    async def feed() -> None:
        for each in slices:
            await queue.put(each)
        await queue.put(None)

    feeding = asyncio.create_task(feed())
    total = 0
    while (found := await queue.get()) is not None:
        for record in found:
            total += record
    await feeding
    return total


def _us(work: Callable[[], object], count: int) -> float:
    """Microseconds each, the best of some rounds: the least disturbed one."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def _from_json(text: str) -> WorkItem:
    members = json.loads(text)
    return WorkItem(**{**members, "origin": Origin(**members["origin"])})


def _item(number: int) -> WorkItem:
    return WorkItem(
        request_id=f"{number:032d}",
        job="sentiment",
        version="agyyuhwy46f3sfis",
        ask_key=f"{number:032d}",
        source_id=f"sentiment-{number:016x}",
        seq=number,
        promotion=0,
        seq_from_log=True,
        run_id="bench",
        epoch=0,
        lane="openai|gpt-5-mini|/v1/chat/completions|batch",
        input_json=json.dumps({"text": "It would be hard to think of a movie that has worked this hard. " * 2}),
        input_sha256="0" * 64,
        target_key=f"sentiment-{number:016x}",
        tokens_estimate=80,
        bytes_estimate=600,
        origin=Origin(generation=1, partition=0, offset=number, at_ms=1_700_000_000_000),
    )
