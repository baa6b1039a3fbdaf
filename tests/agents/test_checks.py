"""Checks that are installed as Python entry points: found, hashed, frozen with a job, and refused when they are not."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchmill.agents.checks import CheckLoadError, installed_checks, installed_names, load_check
from batchmill.agents.jobs.loader import load_job
from batchmill.agents.jobs.problems import JobFileError
from batchmill.schemas.versions import judge_fingerprint
from batchmill.streams.compiling import compile_job
from batchmill.streams.judging import judge_text

Install = Callable[..., Path]
SOURCE = "def check(output, input, params):\n    return output['label'] in params['labels']\n"
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["label"],
    "properties": {"label": {"type": "string"}},
}
JOB = """\
job: triage
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: gpt-5-mini, params: {max_output_tokens: 9}}
  output: output.schema.json
judge:
  functions:
    - {id: known, call: acme-known, params: {labels: [a, b]}, else: review}
place: {sink: sqlite, table: triage}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one entry point onto the path, as pip would."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def put(name: str, module: str, source: str, *, dist: str = "acme", attribute: str = "check") -> Path:
        about = site / f"{dist}-1.0.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[batchmill.checks]\n{name} = {module}:{attribute}\n")
        file = site / f"{module}.py"
        file.write_text(source)
        return file

    yield put
    for module in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[module]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    job = tmp_path / "job"
    job.mkdir()
    (job / "output.schema.json").write_text(json.dumps(SCHEMA))
    (job / "user.j2").write_text("{{ input.body }}")
    (job / "job.yaml").write_text(JOB)
    return job


def test_an_installed_check_is_hashed_by_its_source(install: Install) -> None:
    install("acme-known", "acme_one", SOURCE)
    found = load_check("acme-known")
    assert found.sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert found.call({"label": "a"}, {}, {"labels": ["a"]}) is True
    assert installed_checks()["acme-known"].sha256 == found.sha256


@pytest.mark.parametrize(
    ("source", "attribute", "message"),
    [
        ("raise ValueError('a secret')", "check", "ValueError"),
        ("raise SystemExit(3)", "check", "SystemExit"),
        ("def (", "check", "SyntaxError"),
        (SOURCE, "nope", "AttributeError"),
        ("check = 5", "check", "is no function"),
    ],
)
def test_a_check_that_cannot_be_had_counts_as_not_installed(
    install: Install, source: str, attribute: str, message: str
) -> None:
    install("acme-broken", "acme_two", source, attribute=attribute)
    assert "acme-broken" in installed_names()
    assert "acme-broken" not in installed_checks()
    with pytest.raises(CheckLoadError, match=message) as caught:
        load_check("acme-broken")
    assert "a secret" not in str(caught.value)


def test_a_check_whose_source_is_gone_is_refused(install: Install) -> None:
    file = install("acme-known", "acme_three", SOURCE)
    load_check("acme-known")
    file.unlink()
    with pytest.raises(CheckLoadError, match="FileNotFoundError"):
        load_check("acme-known")


def test_two_checks_of_one_name_are_refused(install: Install) -> None:
    install("acme-known", "acme_four", SOURCE)
    install("acme-known", "acme_five", SOURCE, dist="other")
    with pytest.raises(CheckLoadError, match="installed twice") as caught:
        load_check("acme-known")
    assert caught.value.hint == "remove one of: acme, other"


def test_a_job_is_frozen_with_the_source_of_its_checks(install: Install, folder: Path) -> None:
    file = install("acme-known", "acme_six", SOURCE)
    before = load_job(folder).spec
    assert before.judge.functions[0].sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    file.write_text(SOURCE + "# changed\n")
    assert judge_fingerprint(load_job(folder).spec) != judge_fingerprint(before)


def test_a_job_that_names_no_installed_check_is_refused_at_its_line(install: Install, folder: Path) -> None:
    install("acme-other", "acme_seven", SOURCE)
    with pytest.raises(JobFileError) as caught:
        load_job(folder)
    (problem,) = caught.value.problems
    assert (problem.line, problem.hint) == (8, "installed: acme-other")
    assert "no check 'acme-known'" in problem.what


def test_a_worker_with_another_source_sends_to_review(install: Install, folder: Path) -> None:
    file = install("acme-known", "acme_eight", SOURCE)
    spec = load_job(folder).spec

    def judged(label: str) -> object:
        job = compile_job(spec, "version", installed_checks())
        text = json.dumps({"label": label})
        told = judge_text(job.judge, request_id="r", text=text, finish_reason="stop", refusal=None, item_input={})
        return (told.checks[-1].id, told.checks[-1].severity, told.checks[-1].passed)

    assert judged("a") == ("known", "review", True)
    assert judged("z") == ("known", "review", False)
    file.write_text(SOURCE + "# changed\n")
    assert judged("a") == ("known", "review", False)


def test_a_rule_that_cannot_be_checked_is_refused_at_its_line(folder: Path) -> None:
    rules = (
        "  rules:\n    - {id: one, require: 'output.label != 1'}\n    - id: two\n      require: output.labl == 'a'\n"
    )
    (folder / "job.yaml").write_text(JOB[: JOB.index("  functions")] + rules + "place: {sink: sqlite, table: triage}\n")
    with pytest.raises(JobFileError) as caught:
        load_job(folder)
    (problem,) = [each for each in caught.value.problems if each.level == "error"]
    assert (problem.line, problem.what) == (
        10,
        "judge.rules[1].require: names output.labl, but the output schema declares no member 'labl'; it has label",
    )
