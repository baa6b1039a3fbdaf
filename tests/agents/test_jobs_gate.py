"""The benchmark beside a job: frozen with it, its mistakes told at their lines."""

import json
from pathlib import Path

import pytest

from batchmill.agents.contenders import gold_of_gate
from batchmill.agents.jobs import JobFileError, load_job

JOB = """\
job: triage
ask:
  prompt: {user: user.j2}
  model: {provider: openai, name: gpt-5-mini, params: {max_output_tokens: 9}}
place: {sink: sqlite, table: triage}
gate: {benchmark: gold.jsonl, min_accuracy: 0.9}
"""
GOLD = {"id": "a", "input": {"body": "x"}, "output": {"label": "pos"}}


def folder(tmp_path: Path, *lines: str) -> Path:
    (tmp_path / "user.j2").write_text("{{ input.body }}")
    (tmp_path / "gold.jsonl").write_text("\n".join(lines))
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def test_the_benchmark_is_frozen_with_the_job_and_names_no_new_version(tmp_path: Path) -> None:
    one = load_job(folder(tmp_path, json.dumps(GOLD), "", json.dumps(GOLD | {"id": "b"})))
    assert list(gold_of_gate(one.spec.gate)) == ["a", "b"]
    other = load_job(folder(tmp_path, json.dumps(GOLD)))
    assert one.version == other.version


def test_a_mistake_in_it_is_told_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(JobFileError) as caught:
        load_job(folder(tmp_path, "", json.dumps(GOLD), "", json.dumps(GOLD)))
    (problem,) = [each for each in caught.value.problems if each.level == "error"]
    assert str(problem).removeprefix(f"{tmp_path}/").startswith("gold.jsonl:4: error: the id of an earlier line")
