"""The collector costs each row by the prices its job was applied with, whatever list the worker has by then."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchmill.schemas.records import Result
from batchmill.schemas.state import Chunk
from batchmill.schemas.status import ChunkState, Outcome, Status
from batchmill.streams import view as read
from batchmill.streams.chunking import custom_id_of
from batchmill.streams.costing import Prices, prices_of, write_prices
from batchmill.streams.ports import RowOutcome
from batchmill.streams.submitting import Todo
from tests.review.stage import MemoryTask, Provider, a_collector, a_kit
from tests.streams.making import make_row, make_spec
from tests.streams.rows import make_chunk, make_life, make_source

CHEAP = prices_of({"gpt-5-mini": {"input": "1", "output": "2", "batch_percent": 50}})
DEAR = prices_of({"gpt-5-mini": {"input": "100", "output": "200", "batch_percent": 50}})


class Answering(Provider):
    """Each line of a result file is a custom id; every row used a thousand tokens each way."""

    def parse_row(self, line: bytes) -> RowOutcome | None:
        return RowOutcome(
            custom_id=line.decode().strip(),
            outcome=Outcome.SUCCEEDED,
            reason=None,
            output="{}",
            model="gpt-5-mini",
            input_tokens=1_000,
            output_tokens=1_000,
        )


def collected(frozen: Prices | None, directory: Path, worker: Prices = DEAR) -> tuple[list[Result], Chunk]:
    """Three members, one without a row, collected by a worker with a list of its own."""
    row = make_row(make_spec(prices_json=None if frozen is None else write_prices(frozen)))
    lives = [
        make_life(number, status=Status.PROCESSING, version=row.version, sends=1, attempt=1) for number in range(3)
    ]
    chunk, inside = make_chunk(lives, ChunkState.DOWNLOADED, version=row.version, batch_id="batch-1")
    task = MemoryTask(row, *inside, *map(make_source, inside))
    collector = replace(a_collector(a_kit(), Answering(), directory), prices=worker)
    lines = [custom_id_of(chunk, life) + "\n" for life in inside[1:]]

    async def content() -> AsyncIterator[bytes]:
        yield "".join(lines).encode()

    async def collect() -> None:
        stored = await collector.payloads.put(content())
        task.put(replace(chunk, output_uri=stored.uri))
        loop = collector.poll()
        await asyncio.wait_for(loop.steps[Todo.COLLECT](task, replace(chunk, output_uri=stored.uri)), 10)

    asyncio.run(collect())
    after = read.chunk(task.view, chunk.chunk_id)
    assert after is not None
    return [record for record in task.records if isinstance(record, Result)], after


def test_every_row_names_the_frozen_list_and_costs_what_it_says(tmp_path: Path) -> None:
    facts, chunk = collected(CHEAP, tmp_path)
    answered = [fact for fact in facts if fact.outcome is Outcome.SUCCEEDED]
    assert [(fact.cost_nanos, fact.price_id, fact.tier) for fact in answered] == [(1_500_000, CHEAP.id, "batch")] * 2
    assert chunk.cost_nanos == sum(fact.cost_nanos or 0 for fact in facts) == 3_000_000


@pytest.mark.parametrize(("frozen", "costs"), [(None, 150_000_000), (prices_of({}), None)])
def test_only_a_job_without_a_frozen_list_falls_back_to_the_workers(
    tmp_path: Path, frozen: Prices | None, costs: int | None
) -> None:
    facts, _ = collected(frozen, tmp_path)
    assert {fact.cost_nanos for fact in facts if fact.outcome is Outcome.SUCCEEDED} == {costs}
