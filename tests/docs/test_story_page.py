"""The page of the story is of the job and the versions that the run has, and its figures add up."""

import re
from pathlib import Path

from batchmill.agents.jobs import load_job
from tests.docs.pages import ROOT, blocks, text_of
from tests.story.script import MODELS, job_folders, script_of

PAGE = "docs/story.md"
_RECORDS = 10_000


def figures(line: str) -> list[int]:
    return [int(each.replace(",", "")) for each in re.findall(r"\d[\d,]*\d|\d", line)]


def test_the_job_it_shows_is_the_one_that_runs():
    (shown,) = [block.text for block in blocks(PAGE, "yaml") if block.label == "job"]
    assert shown == (ROOT / "tests/story/job/job.yaml").read_text(encoding="utf-8")


def test_the_versions_it_names_are_those_of_the_folders(tmp_path: Path):
    folders = job_folders(script_of(_RECORDS), tmp_path)
    versions = {load_job(folder).version for folder in folders.values()}
    assert len(versions) == len(MODELS)
    assert versions == set(re.findall(r"\b(?=[a-z2-7]*[2-7])[a-z2-7]{16}\b", text_of(PAGE)))


def test_its_totals_add_up():
    page = text_of(PAGE)
    (last,) = re.findall(r"^\| live records have ended \|(.*)$", page, re.MULTILINE)
    live, of_v1, of_v3, *_ = figures(last)
    asked = figures(last.split("|")[4]) + figures(last.split("|")[5]) + figures(last.split("|")[6])
    (told,) = re.findall(r"^10,000 records and .*$", page, re.MULTILINE)
    records, live_told, *written = figures(re.sub(r"v\d", "", told))
    both, between, late, billed, commits = written
    assert (records, live_told) == (_RECORDS, live)
    assert both + between + late == of_v1 + of_v3 == records + live
    assert (both + late, between) == (of_v1, of_v3)
    assert commits == 3 * both + between + late
    assert billed == sum(asked)
