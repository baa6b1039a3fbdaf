"""What `status` and `job list` say of a job that some of its tasks paused by themselves."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchmill.agents import commands
from batchmill.agents.cli import jobs
from batchmill.agents.cli.door import Door
from batchmill.agents.cli.jobs import of_place
from batchmill.agents.cli.program import run
from batchmill.agents.cli.status import lines, read_report
from batchmill.agents.cli.versions import listed
from batchmill.agents.commands import Issued
from batchmill.agents.projector import ViewStore, queries
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.reading import View
from batchmill.schemas.asking import AskSpec, ModelSpec
from batchmill.schemas.codec import encode
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.records import Control
from batchmill.schemas.state import Job
from batchmill.schemas.versions import version_of

TASKS = 3
SPEC = JobSpec(
    job="triage",
    ask=AskSpec(user="{{ input.text }}", model=ModelSpec(provider="openai", name="m")),
    place=PlaceSpec(sink="sqlite", table="triage"),
)
APPLY = Control(
    command_id="1",
    command="apply",
    job="triage",
    version="v1",
    body_json=SPEC.to_json(),
    actor="me",
    issued_at_ms=1,
)
PAUSE = Control(command_id="2", command="pause", job="triage", version=None, body_json="{}", actor="me", issued_at_ms=2)


@dataclass(frozen=True)
class Rec:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def view_of(directory: Path, *, commands: list[Control], paused: set[int]) -> Path:
    """A view in which every task has taken every command, and those in `paused` have the job paused."""
    path = directory / "view.sqlite"
    fold = Fold(raw_generation=1)
    for task in range(TASKS):
        given = [Rec(offset, 1_000 + offset, None, encode(command)) for offset, command in enumerate(commands)]
        job = Job(
            job="triage",
            version="v1",
            versions_json="{}",
            paused=task in paused,
            cancelled_before_ms=None,
            last_command_id=commands[-1].command_id,
            updated_at_ms=1,
        )
        fold.add("control", task, given)
        fold.add("state", task, [Rec(0, 2_000, f"{job.schema}/{job.key}".encode(), encode(job))])
    with ViewStore(path, identity={}) as store:
        store.write(fold.statements(), {})
    return path


@pytest.mark.parametrize(
    ("commands", "paused", "says"),
    [
        ([APPLY], set(), "triage  running, version v1"),
        ([APPLY], {1}, "triage  paused in 1 of 3 tasks, version v1"),
        ([APPLY], {0, 1, 2}, "triage  paused in 3 of 3 tasks, version v1"),
        ([APPLY, PAUSE], {0, 1, 2}, "triage  paused, version v1"),
    ],
)
def test_status_says_in_how_many_tasks_a_job_paused_by_itself(
    tmp_path: Path, commands: list[Control], paused: set[int], says: str
) -> None:
    path = view_of(tmp_path, commands=commands, paused=paused)
    assert lines(read_report(Door(flags={"view.path": str(path)}), job=None), None)[0] == says


def test_status_in_json_counts_the_paused_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = view_of(tmp_path, commands=[APPLY], paused={0, 2})
    assert run(["--set", f"view.path={path}", "status", "--json"]) == 0
    (job,) = orjson.loads(capsys.readouterr().out)["jobs"]
    assert (job["requested_paused"], job["paused_tasks"], job["tasks"]) == (False, 2, TASKS)


def test_job_list_tells_what_was_asked_for_beside_the_tasks_that_paused_by_themselves(tmp_path: Path) -> None:
    with View(view_of(tmp_path, commands=[APPLY], paused={0, 2})) as view:
        seen = {row.job: row for row in queries.jobs(view)}
    (told,) = listed([APPLY], seen)
    assert (told["requested"], told["effective"], told["paused"]) == ("running", "3/3 tasks", "2/3 tasks")
    assert (told["paused_tasks"], told["tasks"]) == (2, TASKS)


def test_job_list_without_a_view_says_nothing_of_tasks() -> None:
    (told,) = listed([APPLY, PAUSE], {})
    assert (told["requested"], told["effective"], told["paused"], told["paused_tasks"]) == ("paused", None, None, None)


def test_a_new_place_of_the_same_version_says_what_to_do_about_what_is_committed() -> None:
    spec = SPEC
    moved = replace(spec, place=PlaceSpec(sink="sqlite", table="elsewhere"))
    assert version_of(moved) == version_of(spec)
    assert of_place(spec, spec) is None
    said = of_place(spec, moved)
    assert said is not None
    assert "`batchmill replay --job triage --write`" in said


@pytest.mark.parametrize(("last", "said"), [(APPLY, False), (PAUSE, True)])
def test_an_application_waits_until_the_read_model_has_heard_of_it_from_every_task(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: Control,
    said: bool,
) -> None:
    async def nothing_yet(*_: Any) -> list[Control]:
        return []

    async def taken(*_: Any, **__: Any) -> Issued:
        return Issued(command_id=APPLY.command_id, partitions=TASKS, laggards=())

    monkeypatch.setattr(commands, "read_commands", nothing_yet)
    monkeypatch.setattr(commands, "issue", taken)
    monkeypatch.setattr(jobs, "_HEARD_SECONDS_MAX", 0.1)
    path = view_of(tmp_path, commands=[last], paused=set())
    flags = [word for each in (f"view.path={path}", f"partitions={TASKS}") for word in ("--set", each)]
    assert run([*flags, "init", str(tmp_path / "triage")]) == 0
    assert run([*flags, "job", "apply", str(tmp_path / "triage")]) == 0
    assert ("the read model has not heard of it yet" in capsys.readouterr().err) == said
