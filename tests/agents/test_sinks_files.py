"""JSONL and Parquet: parts that are whole or not there, in folders that a model's answer cannot leave."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from batchmill.agents.sinks.files import JSONL, PARQUET, FileSink, latest
from batchmill.agents.sinks.ledger import HIDDEN
from batchmill.streams.ports import SinkOutcome
from tests.agents.sink_worlds import TABLE, a_write

APPLIED, ALREADY, REFUSED = SinkOutcome.APPLIED, SinkOutcome.ALREADY, SinkOutcome.REFUSED
FORMS = pytest.mark.parametrize("form", [JSONL, PARQUET], ids=lambda form: form.name)


def a_sink(form, folder):
    return FileSink(form=form, folder=folder, busy_timeout_ms=20_000)


async def applied(form, folder, *writes):
    sink = a_sink(form, folder)
    try:
        return [result.outcome for result in await sink.apply(writes)]
    finally:
        await sink.close()


def parts(folder):
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("part-*") if HIDDEN not in file.relative_to(folder).parts
    )


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from batchmill.agents.sinks import files, ledger
from tests.agents.sink_worlds import a_write

form, folder, where = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(ledger.Ledger, where, die)

async def main():
    sink = files.FileSink(form=getattr(files, form), folder=Path(folder), busy_timeout_ms=20_000)
    await sink.apply([a_write("a"), a_write("b")])

asyncio.run(main())
"""


def die_in(form, folder, where):
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *(p for p in sys.path if p)])}
    arguments = [form.name.upper(), str(folder), where]
    died = subprocess.run([sys.executable, "-c", CHILD, *arguments], env=environment, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL


@FORMS
async def test_a_crash_before_the_ledgers_commit_leaves_nothing(form, tmp_path):
    die_in(form, tmp_path, "note")
    assert parts(tmp_path / TABLE) == []
    assert await applied(form, tmp_path, a_write("a"), a_write("b")) == [APPLIED, APPLIED]
    assert len(parts(tmp_path / TABLE)) == 1
    assert list((tmp_path / TABLE / HIDDEN).iterdir()) == []


@FORMS
async def test_a_crash_between_the_commit_and_the_rename_is_made_good_by_the_next(form, tmp_path):
    die_in(form, tmp_path, "_show")
    assert parts(tmp_path / TABLE) == []
    assert await applied(form, tmp_path, a_write("c")) == [APPLIED]
    assert set(latest(tmp_path / TABLE)) == {"a", "b", "c"}
    assert await applied(form, tmp_path, a_write("a"), a_write("b")) == [ALREADY, ALREADY]
    assert len(parts(tmp_path / TABLE)) == 2


@FORMS
async def test_output_is_split_up_by_a_member_or_by_day(form, tmp_path):
    await applied(
        form,
        tmp_path,
        *(a_write(f"k{n}", output=f'{{"label":"{"ab"[n % 2]}"}}', partition="$.label") for n in range(4)),
    )
    await applied(form, tmp_path, a_write("d", partition="date"), a_write("e"))
    folders = {Path(part).parent.name for part in parts(tmp_path / TABLE)}
    assert {"label=a", "label=b", ""} < folders
    assert any(len(name) == len("date=2026-01-01") and name.startswith("date=20") for name in folders)
    assert set(latest(tmp_path / TABLE)) == {"k0", "k1", "k2", "k3", "d", "e"}


@FORMS
@pytest.mark.parametrize(
    "label", ["../../../x", "/etc", "..", ".", "", "a=b", "a\\b", "x" * 5_000, "é" * 300, "%2e%2e", "\n"]
)
async def test_a_hostile_answer_stays_in_its_folder(form, tmp_path, label):
    write = a_write(output=json.dumps({"label": label}), partition="$.label")
    assert await applied(form, tmp_path / "files", write) == [APPLIED]
    (part,) = parts(tmp_path / "files" / TABLE)
    assert len(Path(part).parts) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["files"]
    assert set(latest(tmp_path / "files" / TABLE)) == {"t1"}


async def test_other_tools_read_the_folder_and_pass_over_what_is_hidden(tmp_path):
    writes = [
        a_write(f"k{n}", output=f'{{"label":"{"a/b" if n % 2 else "c"}"}}', partition="$.label") for n in range(4)
    ]
    await applied(PARQUET, tmp_path, *writes)
    table = ds.dataset(tmp_path / TABLE, format="parquet", partitioning="hive").to_table()
    assert sorted(zip(table["target_key"].to_pylist(), table["label"].to_pylist(), strict=True)) == [
        ("k0", "c"), ("k1", "a/b"), ("k2", "c"), ("k3", "a/b"),
    ]  # fmt: skip


async def test_a_line_is_one_row_with_the_output_as_it_was_written(tmp_path):
    await applied(JSONL, tmp_path, a_write(output='{\n "n": 123456789012345678901234567890,\r\n "x": 1.10\n}'))
    (part,) = parts(tmp_path / TABLE)
    (line,) = (tmp_path / TABLE / part).read_text().splitlines()
    assert '"n": 123456789012345678901234567890' in line
    assert "1.10" in line


async def test_a_folder_of_the_other_form_is_refused(tmp_path):
    await applied(JSONL, tmp_path, a_write())
    assert await applied(PARQUET, tmp_path, a_write("t2"), a_write(table="other")) == [REFUSED, APPLIED]


async def test_a_folder_whose_ledger_is_gone_is_refused_rather_than_doubled(tmp_path):
    await applied(JSONL, tmp_path, a_write())
    (tmp_path / TABLE / ".ledger.sqlite").unlink()
    sink = a_sink(JSONL, tmp_path)
    (result,) = await sink.apply([a_write()])
    await sink.close()
    assert result.outcome is REFUSED
    assert "ledger" in result.error
    assert len(parts(tmp_path / TABLE)) == 1


@FORMS
@pytest.mark.parametrize("table", ["../x", "a/b", ".hidden", "", "x" * 65])
async def test_a_table_that_is_no_folders_name_is_refused(form, tmp_path, table):
    assert await applied(form, tmp_path, a_write(table=table), a_write()) == [REFUSED, APPLIED]
    assert [file.name for file in tmp_path.iterdir()] == [TABLE]
