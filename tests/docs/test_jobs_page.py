"""docs/jobs.md is true: its folder is the one `init` makes, its fragments are jobs, its mistakes are told as shown."""

import contextlib
import io
import re
from pathlib import Path

import jinja2
import pytest
import yaml

from batchmill.agents.cli.program import run
from batchmill.agents.jobs import JobFileError, load_job, loader
from batchmill.agents.settings import STANDARD_VARIABLES
from batchmill.streams.capabilities import PROVIDERS
from batchmill.streams.rendering import compile_prompt
from tests.docs.pages import blocks, text_of

PAGE = "docs/jobs.md"
FRAGMENTS = [block.text for block in blocks(PAGE, "yaml") if not block.label]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `batchmill init` makes."""
    made = tmp_path / "triage"
    with contextlib.redirect_stderr(io.StringIO()):
        assert run(["init", str(made)]) == 0
    return made


def _labelled(label: str) -> str:
    (found,) = [block.text for block in blocks(PAGE) if block.label.startswith(label)]
    return found


def _merged(folder: Path, fragment: str) -> None:
    """The job of the folder with `fragment` in place of its members; as text, because YAML 1.1 reads `on` as true."""
    file = folder / "job.yaml"
    named = re.findall(r"^([a-z]+):", fragment, re.MULTILINE)
    members = re.split(r"^(?=[a-z])", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    kept = [member for member in members if member.partition(":")[0] not in named]
    file.write_text("".join(kept) + fragment, encoding="utf-8")


def test_the_job_that_is_shown_is_the_one_that_init_makes(folder: Path):
    assert (folder / "job.yaml").read_text(encoding="utf-8") == _labelled("file: job.yaml")
    assert load_job(folder).warnings == ()


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_fragment_makes_a_job(folder: Path, fragment: str):
    _merged(folder, fragment)
    told = [str(problem) for problem in load_job(folder).warnings if problem.lint is None]
    assert told == []  # what a fragment leaves out of the prompt is another page's matter


def test_the_template_that_is_shown_takes_an_event_without_the_member():
    (template,) = blocks(PAGE, "jinja")
    prompt = compile_prompt(system=None, user=template.text)
    assert prompt.user_text({"body": "Broken."}).strip() == "Broken."
    assert "Subject: Refund" in prompt.user_text({"body": "Broken.", "subject": "Refund"})
    assert isinstance(prompt.user, jinja2.Template)


def test_the_plan_ends_as_shown(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["job", "plan", str(folder), "--offline", "--count", "20000"]) == 0
    assert capsys.readouterr().out.endswith(_labelled("output: batchmill job plan"))


def test_mistakes_are_told_as_shown(folder: Path):
    file = folder / "job.yaml"
    text = file.read_text(encoding="utf-8").replace("review_below: 0.6", "review_bellow: 0.6")
    file.write_text(text.replace("max_age: 60s", "max_age: soon") + "on_delete: delete\n", encoding="utf-8")
    with pytest.raises(JobFileError) as told:
        load_job(folder)
    assert str(told.value).replace(f"{folder}/", "") == _labelled("broken:").strip()


def test_every_provider_that_has_an_adapter_is_listed_with_what_it_can_do():
    section = text_of(PAGE).partition("## Who is asked")[2].partition("##")[0]
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \| (yes|no) \| (.*) \|$", section, re.MULTILINE)
    told = {kind: (tuple(re.findall(r"`(.*?)`", endpoints)), single == "yes") for kind, endpoints, single, _ in listed}
    served = {kind: row.can for kind, row in PROVIDERS.items() if row.protocol is not None}
    assert told == {kind: (can.endpoints, bool(can.online_endpoints)) for kind, can in served.items()}
    variables = [name for *_, last in listed for name in re.findall(r"`([A-Z_]+)`", last)]
    assert set(variables) <= set(STANDARD_VARIABLES)


def test_what_is_refused_today_is_refused_with_that_advice(folder: Path):
    section = text_of(PAGE).partition("## What is refused today")[2]
    listed = dict(re.findall(r"^\| `([a-z_.]+)` \| (.*) \|$", section, re.MULTILINE))
    assert listed == {".".join(map(str, steps)): advice for steps, advice in loader._NOT_YET.items()}
    job = (folder / "job.yaml").read_text(encoding="utf-8")
    for name in listed:
        document = yaml.safe_load(job)
        *parents, leaf = name.split(".")
        part = document
        for parent in parents:
            part = part[parent]
        part[leaf] = {}
        (folder / "job.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        with pytest.raises(JobFileError, match=f"`{re.escape(name)}` is not supported"):
            load_job(folder)
