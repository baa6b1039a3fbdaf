"""docs/retrieval.md is true: its example is a job, its commands print what it shows, its numbers are the code's."""

import contextlib
import io
import shlex
from pathlib import Path

import pytest

from batchmill.agents.cli.program import run
from batchmill.agents.jobs import load_job
from batchmill.agents.retrieval.building import DOCUMENTS_MAX, FILE_BYTES_MAX, PIECES_MAX
from batchmill.agents.settings import EffectSettings
from batchmill.streams.indexing import DOCUMENT_BYTES_MAX, Cutting
from batchmill.streams.retrieving import QUERY_CHARS_MAX
from tests.docs.pages import blocks, text_of

PAGE = "docs/retrieval.md"
FILES = {block.label: block.text for block in blocks(PAGE) if "." in block.label}
PRINTED = {block.label: block.text for block in blocks(PAGE) if block.label and "." not in block.label}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[str]:
    text = "\n".join(block.text for block in blocks(PAGE, "sh"))
    return [line for line in text.splitlines() if line.startswith("batchmill ") and "--embedder" not in line]


def printed_by(line: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = run(shlex.split(line)[1:])
    return code, out.getvalue()


def test_the_commands_of_the_example_do_and_print_what_the_page_says(example: Path) -> None:
    told = {line: printed_by(line) for line in commands()}
    assert not (example / "jobs/support/handbook.index.json").read_text().count(str(example))
    # The summer sale is over.
    assert {line: code for line, (code, _) in told.items() if code} == {commands()[-1]: 1}
    searches = [out for line, (_, out) in told.items() if " search " in line]
    assert searches == [PRINTED["search"], PRINTED["search as staff"]]
    (planned,) = [out for line, (_, out) in told.items() if " plan " in line]
    assert "context: refunds#1" in planned
    assert "[refunds#1] The money is sent back within 14 days" in planned
    assert load_job(example / "jobs/support").warnings == ()


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    page, effects = text_of(PAGE), EffectSettings()
    assert (DOCUMENT_BYTES_MAX, FILE_BYTES_MAX) == (4 * 2**20, 512 * 2**20)
    assert DOCUMENTS_MAX == PIECES_MAX
    for told in (
        "a line has at most 4 mib, a file 512 mib",
        f"{PIECES_MAX:,} documents and as many pieces",
        f"({Cutting().tokens_max} by estimate)",
        f"{QUERY_CHARS_MAX:,} characters of it",
        f"`effects.indexes_max` ({effects.indexes_max})",
        f"`effects.index_seconds` ({effects.index_seconds:g})",
    ):
        assert told in " ".join(page.lower().split()), told
