"""`batchmill index`, and what the commands about jobs say of an index that is gone or stale."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli import examining
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.settings import load_settings
from tests.agents.index_world import Install, install, written

__all__ = ["install"]

REFUNDS = {"id": "refunds", "text": "The money is back within 14 days."}
STAFF = {"id": "goodwill", "text": "Money may be given.", "allow": ["staff"]}
JOB = """\
job: support
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: gpt-5-mini, params: {max_output_tokens: 9}}
  retrieval: {index: faq.index.json, query: $.question}
place: {sink: sqlite, table: support}
"""


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["--set", f"data_dir={tmp_path}/data"]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs" / "support"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB)
    (folder / "user.j2").write_text("{% for each in input.context %}{{ each.text }}{% endfor %}{{ input.question }}")
    (folder / "samples.jsonl").write_text('{"question": "money?"}\n')
    return folder


def build(at: list[str], folder: Path, *documents: dict[str, Any], more: tuple[str, ...] = ()) -> int:
    file = written(folder.parent, *documents)
    return run([*at, "index", "build", str(file), "--name", "faq", "--out", str(folder), *more])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def snapshot_of(folder: Path, tmp_path: Path) -> Path:
    sha256 = json.loads((folder / "faq.index.json").read_text())["sha256"]
    return next((tmp_path / "data" / "payloads" / "sha256").glob(f"*/{sha256}"))


def test_what_was_built_is_shown_and_searched_as_a_record_would(
    at: list[str], job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(at, job, REFUNDS, STAFF, more=("--json",)) == 0
    built = printed(capsys)
    assert (built["documents"], built["pieces"], built["documents_file"]) == (2, 2, "../docs.jsonl")
    pointer = str(job / "faq.index.json")
    assert run([*at, "index", "show", pointer, "--json"]) == 0
    shown = printed(capsys)
    assert (shown["groups"], shown["public"], shown["sha256"]) == (["staff"], 1, built["sha256"])
    for group, ids in (((), ["refunds#1"]), (("--group", "staff"), ["goodwill#1", "refunds#1"])):
        assert run([*at, "index", "search", pointer, "money", *group, "--json"]) == 0
        assert sorted(each["id"] for each in printed(capsys)["items"]) == ids
    assert run([*at, "index", "search", pointer, "nothing"]) == 0
    assert capsys.readouterr().err.startswith("nothing: ")


def test_an_index_with_an_embedder_is_built_and_searched_by_it(
    at: list[str], job: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(at, job, REFUNDS, more=("--embedder", "toy")) == ExitCode.USAGE
    install()
    assert build(at, job, REFUNDS, more=("--embedder", "toy")) == 0
    capsys.readouterr()
    assert run([*at, "index", "search", str(job / "faq.index.json"), "reimburse", "--json"]) == 0
    assert [each["id"] for each in printed(capsys)["items"]] == ["refunds#1"]


def test_mistakes_have_exit_codes_and_say_where(at: list[str], job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(at, job, {"id": "a"}) == ExitCode.GATE
    assert "docs.jsonl:1: `text`: expected a text" in capsys.readouterr().err
    assert build(at, job, REFUNDS, more=("--require-allow",)) == ExitCode.GATE
    assert build(at, job, REFUNDS, more=("--piece-tokens", "3")) == ExitCode.USAGE
    assert run([*at, "index", "build", "nowhere.jsonl", "--name", "faq", "--out", str(job)]) == ExitCode.GATE
    assert run([*at, "index", "show", "nowhere.index.json"]) == ExitCode.NOT_FOUND
    assert build(at, job, REFUNDS) == 0
    elsewhere = ["--set", "data_dir=elsewhere"]
    assert run([*elsewhere, "index", "show", str(job / "faq.index.json")]) == ExitCode.NOT_FOUND
    assert not Path("elsewhere").exists()
    Path("data/payloads/HOST").write_text("another")
    assert build(at, job, REFUNDS) == ExitCode.CONFLICT
    assert run([*at, "index", "show", str(job / "faq.index.json")]) == ExitCode.NOT_FOUND
    Path("data/payloads/HOST").unlink()
    assert run([*at, "index", "search", str(job / "faq.index.json"), "x", "--at", "soon"]) == ExitCode.USAGE
    snapshot_of(job, job.parents[1]).unlink()
    assert run([*at, "index", "show", str(job / "faq.index.json")]) == ExitCode.NOT_FOUND


def test_check_says_what_is_no_longer_so(
    at: list[str], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pointer = str(job / "faq.index.json")
    assert build(at, job, REFUNDS, STAFF) == 0
    assert run([*at, "index", "check", pointer]) == 0
    newer = written(tmp_path, REFUNDS | {"text": "Never."}, {"id": "new", "text": "x"}, name="newer.jsonl")
    capsys.readouterr()
    assert run([*at, "index", "check", pointer, "--documents", str(newer), "--json"]) == ExitCode.PARTIAL
    found = printed(capsys)
    assert (found["added"], found["changed"], found["removed"]) == (["new"], ["refunds"], ["goodwill"])
    assert run([*at, "index", "check", pointer, "--documents", str(newer)]) == ExitCode.PARTIAL
    assert "changed 1: refunds\n" in capsys.readouterr().out


def test_plan_shows_the_context_of_a_sample(at: list[str], job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(at, job, REFUNDS) == 0
    assert run([*at, "job", "plan", str(job), "--offline"]) == 0
    told = capsys.readouterr().out
    assert "context: refunds#1" in told
    assert "[user] The money is back within 14 days.money?" in told


def test_a_snapshot_that_is_gone_is_told_by_validate_plan_and_doctor(
    at: list[str], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(at, job, REFUNDS) == 0
    snapshot_of(job, tmp_path).unlink()
    capsys.readouterr()
    assert run([*at, "job", "validate", str(job)]) == 0
    told = capsys.readouterr().err
    assert "job.yaml:5: warning: index faq: payload:sha256/" in told
    assert "records wait and are then put down as index_gone" in told
    assert run([*at, "job", "plan", str(job), "--offline"]) == 0
    assert "sample 1: waits (index)\n  index faq: payload:sha256/" in capsys.readouterr().out
    (finding,) = looked(tmp_path)
    assert (finding.what, finding.level) == ("index faq", examining.Level.FAIL)


def test_documents_that_moved_on_or_expired_are_told_by_validate_and_doctor(
    at: list[str], job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(at, job, REFUNDS) == 0
    assert [each.level for each in looked(tmp_path)] == [examining.Level.OK]
    assert build(at, job, REFUNDS, STAFF | {"valid_until": "2020-01-01"}) == 0
    written(job.parent, REFUNDS)
    capsys.readouterr()
    assert run([*at, "job", "validate", str(job), "--strict"]) == ExitCode.GATE
    told = capsys.readouterr().err
    assert "index faq: the file of documents is another one than it was built from" in told
    assert "index faq: 1 of its documents have expired, 'goodwill' first" in told
    (finding,) = looked(tmp_path)
    assert finding.level is examining.Level.WARN
    assert "another one" in finding.found


@pytest.mark.parametrize("content", ['{"name": "faq", "sha256": "../../x"}', "[]", '{"name": 7}', "no json"])
def test_a_pointer_that_is_none_is_a_mistake_of_the_job(
    at: list[str], job: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "faq.index.json").write_text(content)
    assert run([*at, "job", "validate", str(job)]) == ExitCode.GATE
    assert "index" in capsys.readouterr().err


def test_a_pointer_outside_the_job_is_refused(at: list[str], job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(at, job, REFUNDS) == 0
    shutil.move(job / "faq.index.json", job.parent / "faq.index.json")
    (job / "job.yaml").write_text(JOB.replace("faq.index.json", "../faq.index.json"))
    assert run([*at, "job", "validate", str(job)]) == ExitCode.GATE
    assert "lies outside the job's folder" in capsys.readouterr().err


def looked(folder: Path) -> list[examining.Finding]:
    settings = load_settings({"data_dir": f"{folder}/data", "jobs_dir": f"{folder}/jobs"})

    async def every() -> list[examining.Finding]:
        return [each async for each in examining._indexes(settings)]

    return asyncio.run(every())
