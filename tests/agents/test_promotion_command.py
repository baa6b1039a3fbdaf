"""Who comes into force, on whose word: `job promote`, `demote` and `reject`, their JSON, their exit codes."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchmill.agents import commands, contenders
from batchmill.agents.cli.program import run
from batchmill.agents.commands import Issued
from batchmill.agents.projector.promotions import Stakes, promotion_stakes, swept
from batchmill.schemas.promotion import GateSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control, Origin
from batchmill.schemas.state import Job, Meta, Source
from batchmill.schemas.status import Status
from batchmill.schemas.versions import version_of
from batchmill.streams.promoting import PROMOTE, Sweep, promote, reject
from batchmill.streams.versioning import former_of, promoted, shadows_of
from tests.agents.compare_world import FIRST, SECOND, OpenLog, World, gate_lines, two_versions

KNOWN = {f"g{at}": "pos" for at in range(20)}
GATED = replace(SECOND, gate=GateSpec(benchmark_json=gate_lines(KNOWN), min_accuracy=0.8, minimum=10))
ONE, TWO = version_of(FIRST), version_of(GATED)
PARTITIONS = 3


@dataclass
class Tasks:
    """Stand where the broker and the workers would: they obey a command, and the read model hears of it."""

    world: World
    row: Job
    asleep: tuple[int, ...] = ()
    given: list[Control] = field(default_factory=list)

    async def issue(self, _settings: Any, command: str, job: str, *, wait_seconds: float, **more: Any) -> Issued:
        record = Control(command_id=f"c{len(self.given)}", command=command, job=job, issued_at_ms=9, **more)
        self.given.append(record)
        if self.asleep:
            return Issued(command_id=record.command_id, partitions=PARTITIONS, laggards=self.asleep)
        obey = promote if command == PROMOTE else reject
        for put in obey(self.row, record, 9):
            row = getattr(put, "row", None)
            if isinstance(row, Job):
                self.row = row
                self.world.log.row(row)
            elif isinstance(row, Meta):
                self._carried_out(row)
        self.world.folded()
        return Issued(command_id=record.command_id, partitions=PARTITIONS, laggards=())

    def _carried_out(self, row: Meta) -> None:
        """Each task has one record, and the second one has no answer for another."""
        for partition in range(PARTITIONS):
            sweep = Sweep(**json.loads(row.value_json))
            self.world.log.row(replace(sweep, done=2, failed=int(partition == 1), finished=True).row, partition)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tasks]:
    world = World(tmp_path / "view.sqlite")
    made = Tasks(world, two_versions(FIRST, GATED))
    world.applied(made.row)
    monkeypatch.setattr(contenders, "LogBodies", OpenLog(world))
    monkeypatch.setattr(commands, "issue", made.issue)
    yield made
    world.log.store.close()


def newest(world: World, source: str, request: str) -> None:
    """Which life is in front for a source."""
    world.log.row(
        Source(
            job="triage", source_id=source, seq=1, request_id=request, committed_request_id=request, committed_seq=1,
            committed_promotion=0, raw_partition=0, updated_at_ms=1,
        )
    )  # fmt: skip


def filled(tasks: Tasks, *, wrong: int = 0) -> None:
    """Twenty records are committed under the first version; of what the second one says of them so many are wrong."""
    world = tasks.world
    for at, source in enumerate(KNOWN):
        front = world.answered(FIRST, source, {"label": "pos"}, status=Status.COMMITTED)
        newest(world, source, front)
        world.answered(GATED, source, {"label": "odd" if at < wrong else "pos"})
    world.folded()


def said(tasks: Tasks, *words: str) -> int:
    settings = [f"view.path={tasks.world.path}", f"partitions={PARTITIONS}"]
    return run([*(word for each in settings for word in ("--set", each)), "job", *words])


def test_what_a_promotion_would_bring_is_told_and_nothing_is_done(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tasks, wrong=2)
    assert said(tasks, "promote", "triage") == 0
    told = capsys.readouterr()
    assert "gate: passed" in told.out
    assert re.search(r"^  written at once +20$", told.err, re.MULTILINE)
    assert re.search(r"^stale until a replay +0 ", told.err, re.MULTILINE)
    assert told.err.endswith("nothing was done; say --execute to do it\n")
    assert tasks.given == []


def test_only_what_answers_for_the_newest_event_of_its_source_would_come_forward(tasks: Tasks) -> None:
    world = tasks.world
    for status, reason in (
        (Status.VALIDATED, None),
        (Status.COMMITTED, None),
        (Status.NEEDS_REVIEW, Reason.LOW_CONFIDENCE),
        (Status.QUEUED, None),
        (Status.FAILED_TERMINAL, Reason.RULE_FAILED),
    ):
        source = f"s-{status}"
        newest(world, source, world.answered(FIRST, source, {"label": "a"}, status=Status.COMMITTED))
        world.answered(GATED, source, {"label": "b"}, status=status, reason=reason)
    # one that was never asked, one that another event has come for, a benchmark record, a measurement
    newest(world, "alone", world.answered(FIRST, "alone", {"label": "a"}, status=Status.COMMITTED))
    later = Origin(generation=1, partition=0, offset=7, at_ms=6)
    newest(world, "later", world.answered(FIRST, "later", {"label": "a"}, status=Status.COMMITTED, origin=later))
    world.answered(GATED, "later", {"label": "b"})
    world.answered(GATED, "gold", {"label": "b"}, run="benchmark:1")
    newest(world, "again", world.answered(FIRST, "again", {"label": "a"}, status=Status.COMMITTED))
    world.answered(GATED, "again", {"label": "b"}, epoch=1)
    world.folded()
    with world.log.view() as view:
        found = promotion_stakes(view, "triage", TWO)
    assert found == Stakes(validated=1, committed=1, in_review=1, under_way=1, failed=1, stale=4)


def test_the_gate_keeps_a_version_out_and_no_command_is_given(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tasks, wrong=15)
    assert said(tasks, "promote", "triage", TWO, "--execute") == 3
    told = capsys.readouterr()
    assert "gate: NOT PASSED" in told.out
    assert f"version {TWO} is not promoted: see `batchmill compare triage current {TWO}`, or --override" in told.err
    assert said(tasks, "promote", "triage", "--execute", "--json") == 3
    answer = orjson.loads(capsys.readouterr().out)
    assert (answer["executed"], answer["verdict"], answer["gate"]["passed"]) == (False, "not passed", False)
    assert tasks.given == []


def test_a_person_may_override_the_gate_and_the_reason_is_on_record(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tasks, wrong=15)
    words = ("promote", "triage", "--override", "seen by legal", "--actor", "ada", "--execute", "--json")
    assert said(tasks, *words) == 0
    answer = orjson.loads(capsys.readouterr().out)
    (given,) = tasks.given
    assert (given.command, given.version, given.actor) == ("promote", TWO, "ada")
    assert json.loads(given.body_json) == {"gate": "overridden", "reason": "seen by legal", "from": ONE}
    assert (answer["schema"], answer["verdict"], answer["executed"]) == ("batchmill.job.promote/1", "overridden", True)
    assert answer["swept"] == {"done": 6, "failed": 1, "elsewhere": 0, "finished": 3, "tasks": 3}


def test_a_promotion_says_what_came_forward(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tasks)
    assert said(tasks, "promote", "triage", "--execute", "--override", "not needed") == 0
    (given,) = tasks.given
    assert json.loads(given.body_json)["gate"] == "passed"
    assert "6 records came forward; 1 have no answer under it" in capsys.readouterr().err
    assert said(tasks, "promote", "triage", TWO, "--execute") == 5
    assert f"version {TWO} of triage is in force already" in capsys.readouterr().err


def test_a_version_without_a_gate_is_for_people_to_decide(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.row = two_versions(FIRST, SECOND)
    tasks.world.applied(tasks.row)
    filled(tasks)
    assert said(tasks, "promote", "triage", "--execute") == 0
    assert "the version declares no gate: it is for you to decide" in capsys.readouterr().err
    assert json.loads(tasks.given[0].body_json)["gate"] == "none"


def test_tasks_that_sleep_are_named_and_the_exit_code_says_try_again(
    tasks: Tasks, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tasks)
    tasks.asleep = (1,)
    assert said(tasks, "promote", "triage", "--execute") == 75
    assert f"promote of {TWO} is requested; not yet in effect in tasks [1]" in capsys.readouterr().err


def test_a_rollback_puts_the_version_before_in_force(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tasks)
    assert said(tasks, "demote", "triage", "--execute") == 5
    assert "no other version of triage was ever in force" in capsys.readouterr().err
    tasks.row = promoted(tasks.row, TWO, at_ms=1, command_id="c")
    tasks.world.applied(tasks.row)
    assert said(tasks, "demote", "triage", "--execute", "--reason", "too many refunds") == 0
    (given,) = tasks.given
    assert (given.command, given.version) == ("promote", ONE)
    assert json.loads(given.body_json) == {"gate": "rollback", "reason": "too many refunds", "from": TWO}
    assert (tasks.row.version, former_of(tasks.row)) == (ONE, TWO)


def test_only_a_former_version_can_be_gone_back_to(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tasks, "demote", "triage", "--to", TWO, "--execute") == 5
    assert f"version {TWO} of triage is no former version" in capsys.readouterr().err
    assert tasks.given == []


def test_a_shadow_that_is_rejected_is_asked_no_more(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tasks)
    assert said(tasks, "reject", "triage") == 0
    assert f"20 answers of version {TWO}, had or under way, would never be written" in capsys.readouterr().err
    assert tasks.given == []
    assert said(tasks, "reject", "triage", "--execute", "--reason", "worse on refunds") == 0
    assert f"version {TWO} of triage is rejected; 6 answers ended" in capsys.readouterr().err
    (given,) = tasks.given
    assert (given.command, json.loads(given.body_json)) == ("reject", {"reason": "worse on refunds"})
    assert shadows_of(tasks.row) == {}


def test_the_version_in_force_cannot_be_rejected(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tasks, "reject", "triage", "current", "--execute") == 5
    assert f"version {ONE} of triage is in force: promote another one first" in capsys.readouterr().err
    assert tasks.given == []


def test_a_sweep_of_another_version_is_not_counted(tasks: Tasks) -> None:
    number = 1
    for partition, version in ((0, TWO), (1, ONE)):
        sweep = Sweep(kind="promote", job="triage", version=version, number=number, done=5, finished=True)
        tasks.world.log.row(sweep.row, partition)
    tasks.world.folded()
    with tasks.world.log.view() as view:
        found = swept(view, "triage", TWO)
    assert (found.done, found.finished, found.tasks) == (5, 1, 1)
