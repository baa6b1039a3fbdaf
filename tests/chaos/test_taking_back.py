"""A run that was committed is taken back and put back, byte for byte, by workers that are killed half-way."""

import asyncio
import json
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from batchmill.agents.projector.commits import committed_runs
from batchmill.agents.projector.reading import View, ViewMissingError
from batchmill.agents.settings import child_environment
from batchmill.schemas.status import Status
from tests.chaos.mill import PROJECTOR, Mill, eventually, running_mill
from tests.chaos.workload import JOB, TABLE, Event, Kind, write_gold

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

WORKER = "worker-1"
SECONDS_MAX = 300.0
#: small, so that a run takes many cuts and a kill finds it half-way
CUT = 60
#: after the sink has made the changes of this cut, before the log hears of it
HALF_WAY = "change.after:4:kill"


@dataclass(frozen=True, slots=True)
class RunEvent(Event):
    """An event of a named run."""

    run: str = ""

    @property
    @override
    def headers(self) -> list[tuple[str, bytes]]:
        return [("batchmill-job", JOB.encode()), ("batchmill-run", self.run.encode())]


def run_of(run: str, count: int) -> list[Event]:
    """One event per source, the same sources in every run."""
    texts = (f"text of the {run} run about source number {number:05d}" for number in range(count))
    return [
        RunEvent(Kind.FRESH, f"s-{number:05d}".encode(), json.dumps({"text": text}).encode(), run)
        for number, text in enumerate(texts)
    ]


def dump(mill: Mill) -> list[tuple[Any, ...]]:
    """The user's table, whole: every column of every row."""
    with sqlite3.connect(f"{mill.settings.sink_path.as_uri()}?mode=ro", uri=True) as sql:
        return sql.execute(f"SELECT * FROM {TABLE} ORDER BY target_key").fetchall()


async def command_line(mill: Mill, *words: str) -> tuple[int, dict[str, Any], str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "batchmill.agents.cli", "commits", *words, "--json"),
        env=child_environment(mill.overrides),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, said = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out else {}, said.decode()


@asynccontextmanager
async def a_mill(bootstrap: str, prefix: str, directory: Path, events: list[Event]) -> AsyncIterator[Mill]:
    write_gold(directory / "gold.jsonl", events)
    overrides = {"effects.commit_rows": CUT}
    async with running_mill(
        bootstrap, directory, prefix=prefix, gold=directory / "gold.jsonl", overrides=overrides
    ) as mill:
        await mill.pool.start(WORKER)
        await mill.pool.start(PROJECTOR)
        await mill.apply()
        yield mill


async def committed(mill: Mill, events: list[Event], run: str) -> int:
    """Publish a run and wait until it is committed, for the read model too; how many requests are."""
    await mill.ingest(events)
    assert await mill.drained(SECONDS_MAX)
    wanted = mill.watcher.counts["committed"]
    assert await eventually(lambda: sum(each.commits for each in _runs(mill)) == wanted, seconds=60, every=0.5)
    return next(each.committed for each in _runs(mill) if each.run_id == run)


def _runs(mill: Mill) -> list[Any]:
    try:
        with View(mill.settings.view_path) as view:
            return committed_runs(view)
    except ViewMissingError:
        return []


async def change_while_killed(mill: Mill, word: str, run: str, count: int) -> None:
    """Dry run, then the command, with a worker that dies after the sink has changed something and before it says so."""
    code, told, said = await command_line(mill, word, run)
    assert (code, told["executed"], told["count"], told["conflicts"]) == (0, False, count, []), said
    await mill.pool.stop(WORKER)
    deaths = len(mill.pool.ends)
    await mill.pool.start(WORKER, failpoint=HALF_WAY)
    code, told, said = await command_line(mill, word, run, "--execute")
    assert (code, told["done"], told["conflicts"], told["refused"]) == (0, count, 0, 0), said
    assert [end.code for end in mill.pool.ends[deaths:]] == [-9], "it was not killed half-way"


@pytest.mark.parametrize(
    "count", [pytest.param(1_000, id="1000"), pytest.param(10_000, id="10000", marks=pytest.mark.chaos)]
)
async def test_a_run_is_taken_back_and_put_back_byte_for_byte_by_workers_that_are_killed_half_way(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path, count: int
) -> None:
    first, second = run_of("first", count), run_of("second", count)
    async with a_mill(bootstrap_servers, topic_prefix, tmp_path, [*first, *second]) as mill:
        await committed(mill, first, "first")
        before = dump(mill)
        changed = await committed(mill, second, "second")
        after = dump(mill)
        assert changed > count * 0.8, "too few answers passed for the test to show anything"
        assert before != after

        await change_while_killed(mill, "revert", "second", changed)
        assert dump(mill) == before, "a target is not as it was"
        assert mill.watcher.of_status(Status.VALIDATED) == changed, "what was taken back is held, not lost"

        code, told, said = await command_line(mill, "revert", "second", "--execute")
        assert (code, told["done"], told["already"]) == (0, 0, changed), f"said again it changes nothing: {said}"

        await change_while_killed(mill, "replay", "second", changed)
        assert dump(mill) == after, "a target is not as the run had it"
        assert await mill.drained(SECONDS_MAX)
        await mill.pool.stop_all()
        kinds = await _kinds(mill)
        assert (kinds["revert"], kinds["replay"]) == (changed, changed), "a change was published twice, or never"


async def _kinds(mill: Mill) -> Counter[str]:
    """How many changes of each kind the log tells of, each counted once by its id and asserted to be there once."""
    evidence = await mill.evidence()
    records = evidence.values("committed")
    ids = Counter(record.commit_id for record in records)
    assert [name for name, times in ids.items() if times > 1] == []
    return Counter(record.kind for record in records)
