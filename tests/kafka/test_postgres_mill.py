"""Updates out of order into a PostgreSQL that dies, deadlocks and comes back, by workers that are killed in the middle.

What must come out: the table says what `committed` says, each commit is told once and applied once, and the newest
event of every source is what its row holds.
"""

import asyncio
import contextlib
import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from batchmill.agents.demo.collecting import read_committed
from batchmill.schemas.records import Committed
from tests.chaos.mill import Mill, eventually, running_mill
from tests.chaos.workload import JOB_DIR, Event, Kind, mark_of, write_gold
from tests.postgres import PostgresServer, running_postgres

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

SOURCES, REVISIONS, SEED = 120, 6, 11
TABLE = "marks"
DEADLOCK_MS = 150
DRAIN_SECONDS_MAX = 150
DOWN_SECONDS = 2.0


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with running_postgres(options=(f"deadlock_timeout={DEADLOCK_MS}ms",)) as running:
        yield running


def event(source: int, revision: int) -> Event:
    text = f"what is known of source number {source:03d} in its revision {revision} and in no other"
    value = json.dumps({"text": text, "revision": revision})
    return Event(Kind.FRESH, f"s-{source:03d}".encode(), value.encode())


def shuffled() -> list[Event]:
    """Every revision of every source, in no order."""
    made = [event(source, revision) for source in range(SOURCES) for revision in range(1, REVISIONS + 1)]
    random.Random(SEED).shuffle(made)
    return made


def job_folder(directory: Path) -> Path:
    """The chaos job, ranked by the events' own numbers; no answer is kept back for a person."""
    folder = directory / "job"
    shutil.copytree(JOB_DIR, folder)
    text = (folder / "job.yaml").read_text()
    text = text.replace("seq: log", "seq: $.revision").replace("sink: sqlite", "sink: postgres")
    text = text.replace("  confidence: {field: confidence, review_below: 0.52}\n", "")
    (folder / "job.yaml").write_text(text.replace("max_count: 150", "max_count: 40"))
    return folder


async def quarrel(dsn: str, stop: asyncio.Event) -> None:
    """A user of the same table who locks rows one by one, in another order than anybody else."""
    chance = random.Random(SEED)
    while not stop.is_set():
        with contextlib.suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                found = await connection.execute(f"SELECT target_key FROM {TABLE} ORDER BY random() LIMIT 6")
                for (key,) in await found.fetchall():
                    await connection.execute(f"SELECT 1 FROM {TABLE} WHERE target_key = %s FOR UPDATE", (key,))
                    await asyncio.sleep(chance.random() * 0.05)
        await asyncio.sleep(0.02)


def rows(dsn: str) -> dict[str, tuple[str, str, int]]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(f"SELECT target_key, commit_id, output_json, seq FROM {TABLE}").fetchall()
    assert len({key for key, *_ in found}) == len(found)
    return {key: (commit, output, seq) for key, commit, output, seq in found}


def history(dsn: str) -> Counter[str]:
    with psycopg.connect(dsn) as connection:
        return Counter(commit for (commit,) in connection.execute(f"SELECT commit_id FROM {TABLE}__history"))


def deadlocks(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT sum(deadlocks) FROM pg_stat_database").fetchone()
    return 0 if found is None else int(found[0])


async def play(mill: Mill, server: PostgresServer) -> int:
    """The kills; how many deadlocks the server ended meanwhile."""
    commits = mill.watcher.commits
    assert await eventually(lambda: len(commits) > 30, seconds=60), "nothing is committed"

    def died() -> bool:
        return any(ended.code == -signal.SIGKILL for ended in mill.pool.ends)

    assert await eventually(died, seconds=60), "no worker died between its write and the commit that tells it"
    seen = await asyncio.to_thread(deadlocks, server.dsn())
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(DOWN_SECONDS)
    await asyncio.to_thread(server.start)
    before = len(commits)
    assert await eventually(lambda: len(commits) > before + 30, seconds=60), "nothing is committed after the restart"
    mill.pool.send("worker-2", signal.SIGKILL)
    await asyncio.to_thread(server.restart)
    return seen


async def test_the_table_is_what_the_log_says_whatever_died(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path, server: PostgresServer
) -> None:
    dsn, made = await asyncio.to_thread(server.make_database), shuffled()
    write_gold(tmp_path / "gold.jsonl", made)
    mill_of = running_mill(
        bootstrap_servers,
        tmp_path,
        prefix=topic_prefix,
        gold=tmp_path / "gold.jsonl",
        job_dir=job_folder(tmp_path),
        latency_seconds=(0.1, 0.3),
        overrides={"sink.postgres_dsn": dsn, "effects.commit_rows": 20, "sink.postgres_lock_timeout_ms": 2_000},
    )
    async with mill_of as mill:
        await mill.pool.start("worker-1", failpoint="sink.after:2:kill")
        await mill.pool.start("worker-2", failpoint="sink.after:3:kill")
        await mill.apply()
        stop = asyncio.Event()
        quarrels = [asyncio.create_task(quarrel(dsn, stop)) for _ in range(3)]
        publishing = asyncio.create_task(mill.ingest(made, per_second=150))
        seen = await play(mill, server)
        await publishing
        await asyncio.sleep(DOWN_SECONDS)
        seen = max(seen, await asyncio.to_thread(deadlocks, dsn))
        stop.set()
        await asyncio.gather(*quarrels)
        assert await mill.drained(DRAIN_SECONDS_MAX), "it never came to rest"
        codes = await mill.pool.stop_all()
        assert set(codes.values()) == {0}
        told = await read_committed(mill.settings)
    assert seen > 0, "the quarrel led to no deadlock"
    judge(told, rows(dsn), history(dsn))


def judge(told: list[Committed], held: dict[str, tuple[str, str, int]], applied: Counter[str]) -> None:
    once = Counter(record.commit_id for record in told)
    assert set(once.values()) == {1}, "a commit is told twice"
    assert applied == once, "what was applied is not what is told"
    newest = {record.target_key: record for record in told}  # of one key all lie in one partition, in their order
    assert {key: (record.commit_id, record.output_json, record.seq) for key, record in newest.items()} == held
    assert set(held) == {f"s-{source:03d}" for source in range(SOURCES)}
    for key, (_, output, seq) in held.items():
        assert seq == REVISIONS, f"{key} holds an older event"
        text = json.loads(event(int(key.removeprefix("s-")), REVISIONS).value)["text"]
        assert json.loads(output)["mark"] == mark_of(text)
