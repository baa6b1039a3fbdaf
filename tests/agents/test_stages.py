"""What the read model tells of jobs that feed jobs: the graph, where a record comes from, and what a path has cost."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from batchmill.agents.cli.errors import CommandError
from batchmill.agents.cli.graph import refuse_circle
from batchmill.agents.cli.program import run
from batchmill.agents.projector.stages import ancestors, descendants, graph, paths, stages
from batchmill.agents.projector.story import raw_story, story
from batchmill.schemas.jobs import JobSpec, JudgeSpec, PlaceSpec, ScoringSpec
from batchmill.schemas.promotion import JoinSpec, ThenSpec
from batchmill.schemas.state import Arrival
from batchmill.schemas.status import Status
from tests.agents.test_projector import Log, a_life
from tests.streams.making import make_row, make_spec

#: a document that is classified (a), split into two pages that are read (p, q), and joined again (j); a note (n) that
#: is filed as it is (f)
CLASSIFY = make_spec(
    job="classify",
    place=PlaceSpec(sink="none", table="none"),
    then=(ThenSpec(job="extract", when='output.label == "x"', split="$.input.pages"), ThenSpec(job="file")),
)
EXTRACT = make_spec(job="extract", then=(ThenSpec(job="review"),))
REVIEW = make_spec(job="review", join=JoinSpec(), judge=JudgeSpec(scoring=ScoringSpec(job="second", agree="true")))
FILE = make_spec(job="file")
WHOLE = "a" * 32


def the_lives() -> dict[str, dict[str, Any]]:
    part = f"{{}}/2/{WHOLE}/1.0"
    page = {"job": "extract", "parent": WHOLE}
    return {
        "a": {"job": "classify", "source_id": "doc", "cost_nanos": 100},
        "n": {"job": "classify", "source_id": "note", "cost_nanos": 1},
        "f": {"job": "file", "source_id": "note", "parent": "n" * 32, "cost_nanos": 7},
        "p": {**page, "source_id": "doc#1", "part": part.format(1), "cost_nanos": 20},
        "q": {**page, "source_id": "doc#2", "part": part.format(2), "cost_nanos": 30},
        "j": {"job": "review", "source_id": "doc", "parent": WHOLE, "cost_nanos": 4, "status": Status.FAILED_TERMINAL},
    }


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = Log(tmp_path / "view.sqlite")
    for spec in (CLASSIFY, EXTRACT, REVIEW, FILE):
        made.row(make_row(spec))
    for name, changes in the_lives().items():
        made.row(a_life(made.raw(job=changes["job"]), name, **{"status": Status.COMMITTED, **changes}))
    made.fold()
    yield made
    made.store.close()


def command(log: Log, *words: str) -> int:
    return run(["--set", f"view.path={log.path}", *words])


def test_a_path_counts_what_it_stems_from_once_and_the_sums_by_themselves_are_everything(log: Log) -> None:
    with log.view() as view:
        found = {each.path: (each.records, each.committed, each.own_nanos, each.all_nanos) for each in paths(view)}
        assert [each.path[-1] for each in paths(view, "extract")] == ["extract", "review"]
    assert found == {
        ("classify",): (2, 2, 101, 101),
        ("classify", "file"): (1, 1, 7, 8),
        ("classify", "extract"): (2, 2, 50, 150),
        ("classify", "extract", "review"): (1, 0, 4, 154),
    }
    assert sum(own for _, _, own, _ in found.values()) == 100 + 1 + 7 + 20 + 30 + 4


def test_a_child_whose_parent_has_expired_begins_its_own_path(log: Log) -> None:
    log.row(a_life(log.raw(job="file"), "z", job="file", parent="y" * 32, cost_nanos=9))
    log.fold()
    with log.view() as view:
        found = {each.path: each.own_nanos for each in paths(view)}
        assert ancestors(view, "z" * 32) == []
    assert found["file",] == 9


def test_a_record_knows_what_it_stems_from_and_what_it_started(log: Log) -> None:
    with log.view() as view:
        assert [each.job for each in ancestors(view, "j" * 32)] == ["classify"]
        assert [each.source_id for each in ancestors(view, "p" * 32)] == ["doc"]
        assert [each.source_id for each in descendants(view, WHOLE)] == ["doc#1", "doc#2", "doc"]
        assert [each.job for each in descendants(view, "p" * 32)] == ["review"], "what its whole became"
        assert [each.job for each in descendants(view, "n" * 32)] == ["file"]
        told = story(view, "p" * 32)
    assert (told.stems_from[0].request_id, told.started[0].request_id) == (WHOLE, "j" * 32)


def test_a_part_that_waits_says_for_what_and_until_when(log: Log) -> None:
    at = log.raw(job="review")
    log.row(Arrival(job="review", waiting_for="parts", since_ms=1, group=WHOLE, due_at_ms=77, origin=at))
    log.fold()
    with log.view() as view:
        told = raw_story(view, (at.generation, at.partition, at.offset))
    assert told.waits_for == f"the other parts of whole {WHOLE}, at most until 77"


def test_every_job_has_its_counts(log: Log) -> None:
    with log.view() as view:
        fed = {name: len(edges) for name, edges in graph(view).items()}
        found = stages(view)
    assert fed == {"classify": 2, "extract": 1, "review": 1, "file": 0}
    assert (found["review"].records, found["review"].committed, found["review"].failed) == (1, 0, 1)
    assert sum(each.spent_nanos for each in found.values()) == 162


def test_the_graph_is_drawn_as_a_tree(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(log, "job", "graph") == 0
    assert capsys.readouterr().out.splitlines() == [
        "classify",
        '├─ extract  for each of $.input.pages  when output.label == "x"',
        "│  └─ review",
        "│     └─ second  scores its answers (not applied)",
        "└─ file",
    ]
    assert command(log, "job", "graph", "extract", "--costs") == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "extract  [2 records, 2 committed, $0.000000]",
        "└─ review  [1 records, 0 committed, 1 failed, $0.000000]",
    ]
    assert command(log, "job", "graph", "nobody") == 4


def test_the_graph_is_told_to_machines(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(log, "job", "graph", "--costs", "--json") == 0
    told = orjson.loads(capsys.readouterr().out)
    assert [each["job"] for each in told["jobs"]] == ["classify", "extract", "file", "review"]
    assert told["jobs"][0]["cost"]["spent_nanos"] == 101
    assert [(each["job"], each["to"], each["kind"]) for each in told["edges"]][-1] == ("review", "second", "score")
    assert command(log, "job", "graph", "--dot") == 0
    dot = capsys.readouterr().out
    assert dot.startswith("digraph jobs {")
    assert '"classify" -> "extract" [label="for each of $.input.pages  when output.label == \\"x\\""];' in dot
    assert '"review" -> "second" [label="scores its answers", style=dashed];' in dot


def test_costs_by_path_and_a_story_are_told_on_the_command_line(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(log, "costs", "--path", "--json") == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["spent_nanos"] == 162
    assert command(log, "costs", "extract", "--path") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t")[0] == "path"
    assert lines[-1].startswith("classify > extract > review\t1\t0\t")
    assert command(log, "costs", "--path", "--by", "model") == 2
    capsys.readouterr()
    assert command(log, "explain", "p" * 32) == 0
    shown = capsys.readouterr().out
    assert f"stems from classify/doc  {WHOLE}  committed" in shown
    assert f"started review/doc  {'j' * 32}  failed_terminal" in shown


def feeding(job: str, to: str) -> JobSpec:
    return make_spec(job=job, then=(ThenSpec(job=to),))


def test_a_circle_is_told_before_it_is_applied() -> None:
    applied = [feeding("a", "b"), feeding("b", "c")]
    refuse_circle([feeding("c", "d")], applied)
    with pytest.raises(CommandError, match="a -> b -> c -> a; take one of these"):
        refuse_circle([feeding("c", "a")], applied)
    refuse_circle([feeding("c", "a"), feeding("a", "x")], applied)  # the folder given stands for the job applied


JOB_YAML = """job: {job}
ask:
  prompt: {{user: user.j2}}
  model: {{provider: openai, name: gpt-5-mini, params: {{max_output_tokens: 60}}}}
then:
  - job: {to}
place: {{sink: none, table: none}}
"""


def test_validation_of_several_folders_finds_a_circle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for job, to in (("a", "b"), ("b", "a"), ("c", "a")):
        folder = tmp_path / job
        folder.mkdir()
        (folder / "job.yaml").write_text(JOB_YAML.format(job=job, to=to))
        (folder / "user.j2").write_text("Say what it is: {{ input.body }}")
    assert run(["job", "validate", str(tmp_path / "a"), "--with", str(tmp_path / "c")]) == 0
    assert run(["job", "validate", str(tmp_path / "a"), "--with", str(tmp_path / "b")]) == 3
    assert "a -> b -> a" in capsys.readouterr().err
