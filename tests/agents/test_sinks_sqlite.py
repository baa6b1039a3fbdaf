"""The SQLite sink: one commit per target and rank, whatever comes twice, late, or after a crash."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from batchmill.agents.sinks.sqlite import SqliteSink, valid_table
from batchmill.streams.ports import SinkOutcome, SinkWrite

APPLIED, ALREADY, STALE, REFUSED = SinkOutcome.APPLIED, SinkOutcome.ALREADY, SinkOutcome.STALE, SinkOutcome.REFUSED


def a_write(key="t1", seq=1, promotion=1, commit=None, table="triage", output='{"label":"a"}'):
    return SinkWrite(
        commit_id=commit or f"c-{key}-{seq}-{promotion}",
        table=table,
        target_key=key,
        seq=seq,
        promotion=promotion,
        request_id=f"r-{key}-{seq}",
        source_id=key,
        job="triage",
        version="v1",
        run_id="run-1",
        output_json=output,
        output_sha256="0" * 64,
    )


@pytest.fixture
async def sink(tmp_path):
    sink = SqliteSink(path=tmp_path / "deep" / "sink.sqlite", busy_timeout_ms=5_000)
    yield sink
    await sink.close()


def rows(sink, sql, *args):
    with sqlite3.connect(sink._path) as db:
        return db.execute(sql, args).fetchall()


async def outcomes(sink, *writes):
    return [result.outcome for result in await sink.apply(writes)]


async def test_a_first_write_is_applied_and_replaces_nothing(sink):
    (result,) = await sink.apply([a_write()])
    assert (result.outcome, result.previous_commit_id, result.commit_id) == (APPLIED, None, "c-t1-1-1")
    assert rows(sink, "SELECT target_key, output_json, seq, promotion, commit_id FROM triage") == [
        ("t1", '{"label":"a"}', 1, 1, "c-t1-1-1")
    ]


async def test_a_newer_rank_replaces_and_history_keeps_what_was_there(sink):
    await sink.apply([a_write(seq=1)])
    (result,) = await sink.apply([a_write(seq=2, output='{"label":"b"}')])
    assert (result.outcome, result.previous_commit_id) == (APPLIED, "c-t1-1-1")
    assert rows(
        sink, "SELECT commit_id, previous_commit_id, output_json, changed FROM triage__history ORDER BY seq"
    ) == [
        ("c-t1-1-1", None, '{"label":"a"}', 0),
        ("c-t1-2-1", "c-t1-1-1", '{"label":"b"}', 1),
    ]


async def test_an_older_or_equal_rank_is_stale_and_changes_nothing(sink):
    await sink.apply([a_write(seq=5, promotion=2)])
    before = rows(sink, "SELECT * FROM triage") + rows(sink, "SELECT * FROM triage__history")
    late = [a_write(seq=4, promotion=9), a_write(seq=5, promotion=1), a_write(seq=5, promotion=2, commit="other")]
    for result in await sink.apply(late):
        assert (result.outcome, result.held_commit_id) == (STALE, "c-t1-5-2")
    assert rows(sink, "SELECT * FROM triage") + rows(sink, "SELECT * FROM triage__history") == before


async def test_a_higher_promotion_of_the_same_event_replaces(sink):
    assert await outcomes(sink, a_write(seq=5, promotion=1), a_write(seq=5, promotion=2)) == [APPLIED, APPLIED]


async def test_the_same_commit_again_returns_its_history_even_after_a_newer_one(sink):
    await sink.apply([a_write(seq=1), a_write(seq=2), a_write(seq=3)])
    (again,) = await sink.apply([a_write(seq=2)])
    assert (again.outcome, again.previous_commit_id) == (ALREADY, "c-t1-1-1")
    assert rows(sink, "SELECT commit_id FROM triage") == [("c-t1-3-1",)]


async def test_results_come_in_the_order_of_the_writes_and_see_each_other(sink):
    writes = [a_write(seq=2), a_write(seq=1), a_write("t2"), a_write(seq=2)]
    assert await outcomes(sink, *writes) == [APPLIED, STALE, APPLIED, ALREADY]


async def test_one_refused_row_leaves_its_neighbours_written_and_does_not_show_its_value(sink):
    await sink.apply([a_write("seed")])
    with sqlite3.connect(sink._path) as db:
        db.execute(
            "CREATE TRIGGER no_secret BEFORE INSERT ON triage WHEN NEW.output_json LIKE '%secret%'"
            " BEGIN SELECT RAISE(ABORT, 'not allowed here'); END"
        )
    results = await sink.apply([a_write("a"), a_write("b", output='"secret"'), a_write("c")])
    assert [r.outcome for r in results] == [APPLIED, REFUSED, APPLIED]
    assert results[1].error == "not allowed here"
    assert rows(sink, "SELECT target_key FROM triage ORDER BY 1") == [("a",), ("c",), ("seed",)]
    assert rows(sink, "SELECT count(*) FROM triage__history WHERE target_key = 'b'") == [(0,)]


async def test_a_trigger_that_rolls_everything_back_refuses_its_own_rows_and_no_others(sink):
    await sink.apply([a_write("seed")])
    with sqlite3.connect(sink._path) as db:
        db.execute(
            "CREATE TRIGGER no_secret BEFORE INSERT ON triage WHEN NEW.output_json LIKE '%secret%'"
            " BEGIN SELECT RAISE(ROLLBACK, 'not allowed here'); END"
        )
    bad = [a_write(key, output='"secret"') for key in ("b", "d")]
    results = await sink.apply(
        [a_write("x", table="made_now"), a_write("a"), bad[0], a_write("c"), bad[1], a_write("e")]
    )
    assert [r.outcome for r in results] == [APPLIED, APPLIED, REFUSED, APPLIED, REFUSED, APPLIED]
    assert {r.error for r in results} == {None, "not allowed here"}
    assert rows(sink, "SELECT target_key FROM triage ORDER BY 1") == [("a",), ("c",), ("e",), ("seed",)]
    assert rows(sink, "SELECT target_key FROM made_now") == [("x",)]
    assert rows(sink, "SELECT count(*) FROM triage__history") == [(4,)]


async def test_a_value_sqlite_cannot_hold_is_refused_without_being_quoted(sink):
    lone = "private \ud800"
    results = await sink.apply([a_write("a", output=lone), a_write("b", seq=2**70), a_write("c")])
    assert [r.outcome for r in results] == [REFUSED, REFUSED, APPLIED]
    assert "private" not in results[0].error


@pytest.mark.parametrize("name", ["Robert'); DROP TABLE x;--", "", "a" * 64, "x__history", "sqlite_x", "1a", "a-b"])
async def test_a_bad_table_name_is_refused_before_any_sql(sink, name):
    assert not valid_table(name)
    results = await sink.apply([a_write(table=name), a_write()])
    assert [r.outcome for r in results] == [REFUSED, APPLIED]


async def test_a_failed_transaction_writes_nothing_and_the_sink_goes_on(sink):
    await sink.apply([a_write("a")])
    with sqlite3.connect(sink._path) as db:
        db.execute("DROP TABLE triage__history")
    with pytest.raises(sqlite3.OperationalError):
        await sink.apply([a_write("b")])
    assert await outcomes(sink, a_write("c")) == [APPLIED]
    assert rows(sink, "SELECT target_key FROM triage ORDER BY 1") == [("a",), ("c",)]


async def test_no_writes_touch_no_file(sink):
    assert list(await sink.apply([])) == []
    assert not sink._path.exists()


async def test_two_processes_agree_on_one_winner_per_rank(sink, tmp_path):
    children = [_child(sink._path, kill=False, keys=40, name=str(n)) for n in range(2)]
    told = [json.loads(line) for child in children for line in child.communicate(timeout=60)[0].splitlines()]
    assert [child.returncode for child in children] == [0, 0]
    assert len(told) == 80
    assert sorted(r["outcome"] for r in told) == ["applied"] * 40 + ["stale"] * 40
    assert rows(sink, "SELECT count(*) FROM triage__history") == [(40,)]


async def test_a_kill_between_the_write_and_its_acknowledgement_changes_nothing_on_the_second_try(sink):
    child = _child(sink._path, kill=True, keys=3, name="x")
    assert child.communicate(timeout=60)[0] == ""  # nobody was told
    assert child.returncode == -signal.SIGKILL
    before = rows(sink, "SELECT * FROM triage") + rows(sink, "SELECT * FROM triage__history")
    assert len(before) == 6
    again = await sink.apply([replace(a_write(f"k{n}"), commit_id=f"x-{n}") for n in range(3)])
    assert [r.outcome for r in again] == [ALREADY] * 3
    assert rows(sink, "SELECT * FROM triage") + rows(sink, "SELECT * FROM triage__history") == before


CHILD = """
import asyncio, json, os, signal, sys
from pathlib import Path
from batchmill.agents.sinks.sqlite import SqliteSink
from batchmill.streams.ports import SinkWrite

path, kill, keys, name = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3]), sys.argv[4]

def write(n):
    return SinkWrite(commit_id=f"{name}-{n}", table="triage", target_key=f"k{n}", seq=1, promotion=1,
        request_id="r", source_id="s", job="j", version="v", run_id="r", output_json="{}", output_sha256="0")

async def main():
    sink = SqliteSink(path=Path(path), busy_timeout_ms=30_000)
    told = []
    groups = [range(keys)] if kill else [[n] for n in range(keys)]
    for group in groups:
        told += await sink.apply([write(n) for n in group])
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
    for result in told:
        print(json.dumps({"commit": result.commit_id, "outcome": result.outcome}))
    await sink.close()

asyncio.run(main())
"""


def _child(path, *, kill, keys, name):
    command = [sys.executable, "-c", CHILD, str(path), str(kill), str(keys), name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(
    "strange",
    ["CREATE TABLE orders (id INTEGER PRIMARY KEY, output_json TEXT)", "CREATE VIEW orders AS SELECT 1 AS target_key"],
)
async def test_a_strange_table_of_one_job_does_not_hold_back_the_others(sink, strange):
    await sink.apply([a_write()])
    with sqlite3.connect(sink._path) as db:
        db.execute(strange)
    refused, applied = await sink.apply([a_write(table="orders"), a_write("t2")])
    assert (refused.outcome, applied.outcome) == (REFUSED, APPLIED)
    assert "lacks" in refused.error
