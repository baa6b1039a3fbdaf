"""docs/stages.md is true: its jobs are jobs, they feed each other as drawn, and its limits are those of the code."""

from pathlib import Path

import pytest

from batchmill.agents.cli.program import run
from batchmill.agents.jobs import load_job
from batchmill.streams.lineage import PARTS_MAX
from batchmill.streams.rendering import compile_prompt
from batchmill.streams.staging import EVENT_BYTES_MAX, FIRING_BYTES_MAX
from tests.agents.test_projector import Log
from tests.docs.pages import blocks, text_of
from tests.streams.making import make_row

PAGE = "docs/stages.md"
JOBS = ("classify", "extract", "check", "outline", "page", "summary")
BUG = {"body": "It does not start."}
DUTIES = {"input": {"item": "...", "part": 2}, "output": {"duties": ["to pay", "to wait"]}}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for block in blocks(PAGE):
        if block.label.startswith("file: "):
            file = tmp_path / block.label.removeprefix("file: ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    return tmp_path


def test_every_job_that_is_shown_is_one_and_they_are_no_circle(folders: Path):
    for job in JOBS:
        errors = [str(each) for each in load_job(folders / job).warnings if each.lint is None]
        assert errors == []
    others = [word for job in JOBS[1:] for word in ("--with", str(folders / job))]
    assert run(["job", "validate", str(folders / JOBS[0]), *others]) == 0


def test_the_graph_is_drawn_as_shown(folders: Path, capsys: pytest.CaptureFixture[str]):
    log = Log(folders / "view.sqlite")
    for job in JOBS:
        log.row(make_row(load_job(folders / job).spec))
    log.fold()
    log.store.close()
    assert run(["--set", f"view.path={log.path}", "job", "graph"]) == 0
    (shown,) = [block.text for block in blocks(PAGE) if block.label.startswith("output: ")]
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("job", "event", "said"),
    [
        ("classify", BUG, "It does not start."),
        ("extract", {"input": BUG}, "It does not start."),
        ("check", {"input": {"input": BUG}, "output": {"component": "motor", "steps": []}}, "broken: motor?"),
        ("outline", {"pages": ["Between"]}, "Between"),
        ("page", {"item": "The tenant pays.", "part": 1}, "The tenant pays."),
        ("summary", {"parts": [DUTIES], "missing": [1]}, "Page 2: to pay; to wait"),
    ],
)
def test_every_prompt_takes_what_the_stage_before_hands_it(folders: Path, job: str, event: object, said: str):
    prompt = compile_prompt(system=None, user=(folders / job / "user.j2").read_text(encoding="utf-8"))
    assert said in prompt.user_text(event)


def test_the_numbers_are_those_of_the_code():
    told = f"at most {PARTS_MAX:,} parts, one event {EVENT_BYTES_MAX // 2**10} KiB, the events of one split"
    assert f"{told} {FIRING_BYTES_MAX // 2**20} MiB." in text_of(PAGE)
