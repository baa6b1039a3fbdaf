"""docs/prompts.md is true: its words and remarks are those of the code, its figures those of what `init` makes."""

import contextlib
import io
import re
from pathlib import Path

import orjson
import pytest

from batchmill.agents.cli.program import run
from batchmill.agents.jobs import load_job
from batchmill.streams.exemplifying import EXAMPLES_MAX
from batchmill.streams.finding import Lint
from batchmill.streams.rendering import closing_rules
from batchmill.streams.weighing import FIXED_RATIO_MAX, FIXED_TOKENS_MIN
from batchmill.streams.wording import VAGUE_WORDS
from tests.docs.pages import blocks, text_of

PAGE = "docs/prompts.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "triage"
    with contextlib.redirect_stderr(io.StringIO()):
        assert run(["init", str(made)]) == 0
    return made


def _labelled(label: str) -> str:
    (found,) = [block.text for block in blocks(PAGE) if block.label.startswith(label)]
    return found


def test_the_examples_and_rules_are_those_that_init_makes(folder: Path):
    assert (folder / "examples.jsonl").read_text("utf-8") == _labelled("file: examples.jsonl")
    spec = load_job(folder).spec
    assert closing_rules(spec.ask) + "\n" == _labelled("output: rules")
    (fragment,) = [block.text for block in blocks(PAGE, "yaml")]
    job = (folder / "job.yaml").read_text("utf-8")
    assert [line for line in fragment.splitlines() if line.split("#")[0].rstrip() not in job] == []


def test_the_weight_is_told_as_shown(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["job", "plan", str(folder), "--offline"]) == 0
    assert _labelled("output: weight") in capsys.readouterr().out


def test_every_remark_and_every_vague_word_is_listed():
    text = " ".join(text_of(PAGE).split())
    assert re.findall(r"\| `([a-z-]+)` \| (?:error|warning)", text) == [lint.value for lint in Lint]
    listed = text.partition("Vague are: ")[2].partition(". ## ")[0]
    assert sorted(re.findall(r"`([a-z ]+)`", listed)) == sorted(VAGUE_WORDS)


def test_the_numbers_are_those_of_the_code():
    text = " ".join(text_of(PAGE).split())
    assert f"one example a line, {EXAMPLES_MAX} at most" in text
    assert f"{FIXED_TOKENS_MIN} tokens or more, and more than ten times" in text
    assert FIXED_RATIO_MAX == 10


def test_the_command_that_is_shown_passes_what_init_makes(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["job", "validate", str(folder), "--strict", "--allow", "heavy-prompt", "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["problems"] == []
