"""docs/validation.md is true: its fragments are jobs, its functions all there are, its numbers those of the code."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.program import run
from batchmill.agents.jobs import load_job
from batchmill.streams.cel_functions import FUNCTION_NAMES
from batchmill.streams.citing import PASSAGES_MAX
from batchmill.streams.expressions import SOURCE_CHARS_MAX, STEPS_MAX
from batchmill.streams.members import TYPES
from batchmill.streams.repairing import LIBRARY_BYTES_MAX
from tests.docs.pages import blocks, text_of

PAGE = "docs/validation.md"
FRAGMENTS = [block.text for block in blocks(PAGE, "yaml") if not block.label]
PACKAGED = [block.text for block in blocks(PAGE, "yaml") if block.label == "needs the package"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "triage"
    with contextlib.redirect_stderr(io.StringIO()):
        assert run(["init", str(made)]) == 0
    return made


def _judged_by(folder: Path, fragment: str) -> Path:
    """The job of the folder with this `judge`, and without examples, which were written for another one."""
    file = folder / "job.yaml"
    members = re.split(r"^(?=[a-z])", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    kept = [member for member in members if not member.startswith("judge:")]
    text = re.sub(r"^  examples:.*\n", "", "".join(kept), flags=re.MULTILINE)
    file.write_text(text + fragment, encoding="utf-8")
    return folder


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_fragment_makes_a_job_without_a_warning(folder: Path, fragment: str):
    assert [str(problem) for problem in load_job(_judged_by(folder, fragment)).warnings] == []


@pytest.mark.parametrize("fragment", PACKAGED)
def test_fragments_with_functions_make_a_job_once_the_package_is_there(
    folder: Path, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    site = tmp_path / "site"
    about = site / "acme-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (entry,) = [block.text for block in blocks(PAGE, "toml")]
    points = entry.replace('[project.entry-points."batchmill.checks"]', "[batchmill.checks]").replace('"', "")
    (about / "entry_points.txt").write_text(points + "acme-second = acme_checks:check\n")
    (site / "acme_checks.py").write_text(_function())
    monkeypatch.syspath_prepend(str(site))
    spec = load_job(_judged_by(folder, fragment)).spec
    assert spec.judge.functions or spec.judge.scoring


def _function() -> str:
    (found,) = [block.text for block in blocks(PAGE, "python")]
    return found


def test_the_function_that_is_shown_checks_what_it_says():
    names: dict[str, Any] = {}
    exec(_function(), names)
    params = {"lengths": {"DE": 22}}
    assert names["check"]({"iban": "DE00 0000 0000 0000 0000 00"}, {}, params) is True
    assert names["check"]({"iban": "DE00"}, {}, params) is False


def test_every_function_of_rules_and_every_type_is_named():
    table = text_of(PAGE).partition("| function | answers |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)\(", table)) == FUNCTION_NAMES
    members = text_of(PAGE).partition("## Members")[2].partition("## Rules")[0]
    assert {kind for kind in TYPES if "-" in kind or kind in {"email", "uri", "uuid"}} <= set(
        re.findall(r"`([a-z-]+)`", members)
    )


def test_the_numbers_are_those_of_the_code():
    text = " ".join(text_of(PAGE).split())
    assert f"is at most {STEPS_MAX:,}." in text
    assert f"at most {SOURCE_CHARS_MAX:,} characters" in text
    assert f"Up to {PASSAGES_MAX:,} passages" in text
    assert f"more than {LIBRARY_BYTES_MAX // 1024} KiB" in text
