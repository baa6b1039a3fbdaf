"""A job with a budget, on a real Kafka and the simulator: it stops before it exceeds it, and goes on when it is raised.

What lives here: only what a broker, processes and a ledger can show. The laws are those of `streams/test_overseeing`.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.jobs import load_job
from batchmill.schemas.jobs import BudgetSpec, JobSpec
from batchmill.schemas.state import Grant
from batchmill.schemas.status import ChunkState
from tests.chaos.invariants import check
from tests.chaos.judging import Expect
from tests.chaos.mill import PARTITIONS, Mill, eventually, running_mill
from tests.chaos.workload import JOB_DIR, answers_to, event_of, usable, write_gold

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

RECORDS = 60
SMALL_NANOS, LARGE_NANOS = 700_000, 100_000_000
QUIET_SECONDS = 4.0
POOL = "money/marks"
_AT_THE_PROVIDER = frozenset({ChunkState.ATTEMPTING, ChunkState.OPEN, ChunkState.ENDED, ChunkState.DOWNLOADED})


def job_folder(directory: Path) -> Path:
    """The chaos job in small chunks with short answers, so that a small budget is spent in many steps."""
    folder = directory / "job"
    shutil.copytree(JOB_DIR, folder)
    file = folder / "job.yaml"
    text = file.read_text().replace("max_count: 150", "max_count: 5").replace("tokens: 400", "tokens: 60")
    file.write_text(text)
    return folder


@asynccontextmanager
async def a_mill(bootstrap: str, prefix: str, directory: Path, **more: Any) -> AsyncIterator[Mill]:
    made = [event_of(f"s-{n:03d}", f"a text of source number {n:03d}, and of nobody else") for n in range(RECORDS)]
    write_gold(directory / "gold.jsonl", made)
    async with running_mill(
        bootstrap,
        directory,
        prefix=prefix,
        gold=directory / "gold.jsonl",
        job_dir=job_folder(directory),
        latency_seconds=(0.1, 0.3),
        **more,
    ) as mill:
        await mill.pool.start("worker-1")
        await mill.pool.start("overseer-1")
        yield mill
        assert len(made) == mill.ingested or mill.ingested == 0


async def apply_with(mill: Mill, budget: BudgetSpec | None) -> None:
    spec: JobSpec = replace(load_job(mill.directory / "job").spec, budget=budget)
    await mill.command("apply", version=mill.job.version, body_json=spec.to_json())


async def ingest(mill: Mill) -> None:
    await mill.ingest(
        [event_of(f"s-{n:03d}", f"a text of source number {n:03d}, and of nobody else") for n in range(RECORDS)]
    )


def creates(mill: Mill) -> int:
    return len(mill.simulator.ledger().batches_created)


async def used_up(mill: Mill, seconds: float) -> bool:
    """A record stands aside for want of money, and for a while no batch has been at the provider."""

    def waits() -> bool:
        states = [chunk.state for chunk in mill.watcher.chunks.values()]
        waiting = any(f"{POOL} is used up" in (chunk.note or "") for chunk in mill.watcher.chunks.values())
        return waiting and not _AT_THE_PROVIDER.intersection(states)

    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if not await eventually(waits, seconds=seconds):
            return False
        seen = creates(mill)
        await asyncio.sleep(QUIET_SECONDS)
        if waits() and creates(mill) == seen:
            return True
    return False


async def test_a_job_stops_before_its_budget_and_goes_on_when_it_is_raised(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with a_mill(bootstrap_servers, topic_prefix, tmp_path) as mill:
        await apply_with(mill, BudgetSpec(job_nanos=SMALL_NANOS))
        await ingest(mill)
        assert await eventually(lambda: creates(mill) >= 2, seconds=60), "nothing was sent"
        await mill.pool.kill("overseer-1")
        await mill.pool.kill("worker-1")
        assert await eventually(lambda: creates(mill) >= 4, seconds=60), "nothing is sent after the kills"
        await mill.pool.kill("overseer-1")
        assert await used_up(mill, 90), "the budget was never used up"
        spent, sent = mill.simulator.ledger().cost_nanos, creates(mill)
        assert SMALL_NANOS // 2 < spent <= SMALL_NANOS
        assert mill.watcher.counts["results"] < RECORDS
        await asyncio.sleep(QUIET_SECONDS)
        assert creates(mill) == sent, "something was sent while the budget was used up"
        await apply_with(mill, BudgetSpec(job_nanos=LARGE_NANOS))
        assert await mill.drained(90), "it did not go on"
        codes = await mill.pool.stop_all()
        assert set(codes.values()) == {0}
        evidence = await mill.evidence()
        findings = check(evidence, Expect(answers_to=answers_to, usable=usable))
        assert [str(finding) for finding in findings if not finding.holds] == []
        billed = mill.simulator.ledger().cost_nanos
        grants = [row for row in evidence.rows().values() if isinstance(row, Grant)]
        assert sum(row.posted for row in grants) == billed <= LARGE_NANOS
        assert {(row.reserved, row.granted - row.posted - row.returned) for row in grants} == {(0, 0)}


async def test_queues_and_creations_of_an_account_are_shared_and_a_standby_takes_over(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    limits = {"accounts.openai.queued_max": 1_500, "accounts.openai.batches_per_hour_max": 30}
    async with a_mill(bootstrap_servers, topic_prefix, tmp_path, overrides=limits) as mill:
        await mill.pool.start("overseer-2")
        await apply_with(mill, None)
        await ingest(mill)
        assert await eventually(lambda: creates(mill) >= 3, seconds=60), "nothing was sent"
        in_charge, standby = ("overseer-1", "overseer-2")
        if not mill.worker_said(in_charge, "overseer_in_charge"):
            in_charge, standby = standby, in_charge
        await mill.pool.kill(in_charge)
        assert await mill.drained(120), "it did not go on"
        assert mill.worker_said(standby, "overseer_in_charge")
        assert creates(mill) <= 30
        most = _most_open(mill)
        assert most <= 1_500
        codes = await mill.pool.stop_all()
        assert set(codes.values()) == {0}


def _most_open(mill: Mill) -> int:
    """Tokens, as we estimate them, of the batches that were open together at the provider."""
    ledger = mill.simulator.ledger()
    tokens = {chunk.batch_id: chunk.tokens for chunk in mill.watcher.chunks.values()}
    began = [(made.mono_s, tokens.get(made.batch_id, 0)) for made in ledger.batches_created]
    ended = [(done.mono_s, -tokens.get(done.batch_id, 0)) for done in ledger.batches_ended]
    open_now = most = 0
    for _, change in sorted([*began, *ended]):
        open_now += change
        most = max(most, open_now)
    return most


async def test_a_job_that_pauses_by_itself_in_one_task_pauses_in_all(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with a_mill(bootstrap_servers, topic_prefix, tmp_path) as mill:
        await apply_with(mill, None)
        assert await eventually(lambda: mill.worker_said("overseer-1", "overseer_in_charge"), seconds=30)
        mill.simulator.set_faults({"reject_quota": {"nth": [1]}})
        await ingest(mill)
        jobs = mill.watcher.jobs
        assert await eventually(lambda: sum(row.paused for row in jobs.values()) == PARTITIONS, seconds=30)
        assert {row.pause_reason for row in jobs.values()} == {"insufficient_quota"}
        assert mill.worker_said("overseer-1", "pause_spread")
        await mill.command("resume")
        assert await mill.drained(60), "it was paused again, or not resumed everywhere"
        assert {(row.paused, row.pause_reason) for row in jobs.values()} == {(False, None)}
        codes = await mill.pool.stop_all()
        assert set(codes.values()) == {0}
