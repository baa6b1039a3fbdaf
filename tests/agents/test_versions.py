"""Which version is in force, tried out, former or rejected; what of each is in the sink; how two of them differ."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.cli.status import lines, read_report
from batchmill.agents.cli.versions import listed, told
from batchmill.agents.projector import queries
from batchmill.agents.projector.versions import job_versions
from batchmill.agents.versions import Standing, promoted_version, standings
from batchmill.schemas.codec import encode
from batchmill.schemas.jobs import JobSpec, PlaceSpec
from batchmill.schemas.promotion import GateSpec
from batchmill.schemas.records import Control
from batchmill.schemas.state import Job, Source
from batchmill.schemas.status import Status
from batchmill.schemas.versions import version_of
from batchmill.streams import versioning
from batchmill.streams.controlling import control, refusal
from batchmill.streams.orders import Put
from batchmill.streams.view import MemoryView
from tests.agents.test_projector import JOB, Log, a_commit, a_life, a_result
from tests.streams.making import make_spec

FIRST = make_spec()
SECOND = replace(FIRST, ask=replace(FIRST.ask, system="Sort the tickets anew."))
THIRD = replace(
    FIRST,
    judge=replace(FIRST.judge, categories={"label": ("fire", "water")}),
    gate=GateSpec(live_sample=0.25),
)
SPECS = {version_of(spec): spec for spec in (FIRST, SECOND, THIRD)}
V1, V2, V3 = SPECS


def command(kind: str, version: str, number: int) -> Control:
    body = SPECS[version].to_json() if kind == "apply" else "{}"
    return Control(
        command_id=f"c{number}",
        command=kind,
        job=JOB,
        version=version,
        body_json=body,
        actor=f"actor-{number}",
        issued_at_ms=1_000 + number,
    )


def commands(*told: tuple[str, str]) -> list[Control]:
    return [command(kind, version, number) for number, (kind, version) in enumerate(told)]


def obeyed(given_: Sequence[Control]) -> Job | None:
    """The row of a task that was given these commands."""
    view = MemoryView()
    for number, each in enumerate(given_):
        if refusal(view, each) is None:
            for order in control(view, each, number, number):
                if isinstance(order, Put):
                    view.put(order.row)
    row = view.get(Job.schema, JOB)
    assert row is None or isinstance(row, Job)
    return row


TOLD = st.lists(st.tuples(st.sampled_from(["apply", "promote", "reject", "pause"]), st.sampled_from([V1, V2, V3])))


@given(told_=TOLD)
def test_the_log_says_of_versions_what_the_tasks_make_of_it(told_: list[tuple[str, str]]) -> None:
    given_ = commands(*told_)
    row, found, promoted = obeyed(given_), standings(given_), promoted_version(given_)
    if row is None:
        assert (found, promoted) == ({}, None)
        return
    assert promoted is not None
    assert promoted.version == row.version
    assert list(found) == list(json.loads(row.versions_json))
    shadows = {version for version, how in found.items() if how is Standing.SHADOW}
    assert shadows == set(versioning.shadows_of(row))
    ever = {version for version, how in found.items() if how in {Standing.PROMOTED, Standing.FORMER}}
    assert ever - shadows == {version for version in found if versioning.was_promoted(row, version)} - shadows


def test_what_is_applied_again_or_later_is_not_in_force_by_that() -> None:
    given_ = commands(("apply", V1), ("apply", V2), ("apply", V1))
    promoted = promoted_version(given_)
    assert promoted is not None
    assert (promoted.version, promoted.actor) == (V1, "actor-2")  # its spec was refreshed
    assert standings(given_) == {V1: Standing.PROMOTED, V2: Standing.SHADOW}


# -- the read model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def a_source(name: str, request: str | None) -> Source:
    return Source(
        job=JOB,
        source_id=f"source-{name}",
        seq=1,
        request_id=name * 32,
        committed_request_id=None if request is None else request * 32,
        committed_seq=1,
        committed_promotion=0,
        raw_partition=0,
        updated_at_ms=1,
    )


def a_story(log: Log) -> list[Control]:
    """V2 was promoted over V1, V3 is tried out. Of three sources one is V2's by now, one still V1's, one taken back."""
    given_ = commands(("apply", V1), ("apply", V2), ("promote", V2), ("apply", V3))
    row = obeyed(given_)
    assert row is not None
    for partition in (0, 1):
        for each in given_:
            log.add("control", partition, encode(each))
        log.row(row if partition == 0 else replace(row, version=V1, updated_at_ms=0), partition)
    done = {"status": Status.COMMITTED, "sends": 1}
    origins = [log.raw() for _ in range(3)]
    log.row(a_life(origins[0], "a", version=V1, aside=True, cost_nanos=5, **done))
    log.row(a_life(origins[0], "b", version=V2, cost_nanos=7, input_tokens=10, output_tokens=2, **done))
    log.row(a_life(origins[0], "c", version=V3, aside=True, status=Status.VALIDATED, cost_nanos=1))
    log.row(a_life(origins[1], "d", version=V1, **done))
    log.row(a_life(origins[2], "e", version=V1, status=Status.VALIDATED, reverted=True))
    log.add("results", 0, encode(a_result("b", version=V2, output_tokens=2)))
    log.add("committed", 0, encode(replace(a_commit(origins[2], "f"), version=V1)))  # its life has expired
    for name, written in (("b", "b"), ("d", "d"), ("e", "e"), ("f", "f"), ("g", None)):
        log.row(a_source(name, written))
    log.fold()
    return given_


def test_every_version_is_told_with_its_standing_lives_outputs_and_cost(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        found = job_versions(view, JOB)
        assert job_versions(view, "other") is None
    assert found is not None
    first, second, third = found.versions
    assert [each.standing for each in found.versions] == [Standing.FORMER, Standing.PROMOTED, Standing.SHADOW]
    assert [(each.number, each.by) for each in first.promotions] == [(0, "actor-0")]
    assert [(each.number, each.at_ms, each.by) for each in second.promotions] == [(1, 1_002, "actor-2")]
    assert third.promotions == ()
    assert (first.lives, first.aside) == ({"committed": 1, "validated": 1}, {"committed": 1})
    assert (third.lives, third.aside) == ({}, {"validated": 1})
    assert found.in_sink == {V1: 2, V2: 1}
    assert (second.spent_nanos, second.input_tokens, second.output_tokens) == (7, 10, 2)
    assert (first.ask == third.ask, first.ask == second.ask, first.place == second.place) == (True, False, True)
    assert (found.effective_tasks, found.tasks) == (1, 2)


def test_a_merge_of_old_and_new_results_is_told_and_what_differs_is_named(log: Log) -> None:
    a_story(log)
    with log.view() as view:
        found = job_versions(view, JOB)
    assert found is not None
    assert told(found) == [
        f"version {V2} is in force in 1 of 2 tasks; the others have not heard of it yet",
        f"{V1} differs from the promoted version in: ask",
        f"{V3} differs from the promoted version in: ask, judge, operation",
        f"the sink holds results of 2 versions: 2 under {V1}, 1 under {V2}",
    ]


def test_job_versions_is_told_in_a_table_and_in_json(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    a_story(log)
    at = ["--set", f"view.path={log.path}", "job", "versions", JOB]
    assert run(at) == ExitCode.OK
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split("\t")[:3] == ["version", "is", "ask"]
    assert first.split("\t")[:2] == [V1, "former"]
    assert run([*at, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["promoted"], found["in_sink"]) == (V2, {V1: 2, V2: 1})
    assert [each["differs"] for each in found["versions"]] == [["ask"], [], ["ask", "judge", "operation"]]
    assert run([*at[:-1], "other"]) == ExitCode.NOT_FOUND


def test_status_and_job_list_name_the_version_in_force_and_those_tried_out(log: Log) -> None:
    given_ = a_story(log)
    first_line = lines(read_report(Door(flags={"view.path": str(log.path)}), job=None), None)[0]
    assert first_line == f"{JOB}  running, version {V2}, trying out {V3} (25% of live events)"
    with log.view() as view:
        (row,) = listed(given_, {each.job: each for each in queries.jobs(view)})
    assert (row["version"], row["shadows"]) == (V2, [V3])
    (alone,) = listed(given_, {})
    assert (alone["version"], alone["shadows"]) == (V2, [V3])


# -- job show and job diff ---------------------------------------------------------------------------------------------


@pytest.fixture
def in_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of commands without a broker."""
    given_ = commands(("apply", V1), ("apply", V2), ("apply", V3), ("promote", V3))

    async def read(_settings: Any, job: str | None = None) -> list[Control]:
        return [each for each in given_ if job in {None, each.job}]

    monkeypatch.setattr("batchmill.agents.commands.read_commands", read)


@pytest.mark.usefixtures("in_log")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([V1, V1], ExitCode.OK, "nothing differs"),
        ([V1, V2], ExitCode.PARTIAL, "the question: every event that comes again is asked and paid again"),
        ([V1[:6], V3[:6]], ExitCode.PARTIAL, "the judgement: stored answers are judged again, at no cost"),
        ([V3], ExitCode.OK, "nothing differs"),  # held against the promoted one
        ([V1], ExitCode.PARTIAL, "~ judge.categories.label: ['fire', 'water'] -> nothing"),
    ],
)
def test_two_versions_are_told_apart_by_their_parts(
    words: list[str], code: ExitCode, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["job", "diff", JOB, *words]) == code
    assert says in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("in_log")
def test_lines_of_a_prompt_are_told_as_a_diff(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "diff", JOB, V1, V2]) == ExitCode.PARTIAL
    assert "  +Sort the tickets anew." in capsys.readouterr().out.splitlines()
    assert run(["job", "diff", JOB, V1, V2, "--json"]) == ExitCode.PARTIAL
    found = json.loads(capsys.readouterr().out)
    assert (found["parts"], found["asks_again"], found["judges_again"]) == (["ask"], True, False)


@pytest.mark.usefixtures("in_log")
@pytest.mark.parametrize(("words", "code"), [(["zzz"], ExitCode.NOT_FOUND), ([], ExitCode.USAGE)])
def test_a_version_nobody_applied_is_not_found(words: list[str], code: ExitCode) -> None:
    assert run(["job", "diff", JOB, *words]) == code
    assert run(["job", "diff", "nobody", *words]) == ExitCode.NOT_FOUND


@pytest.mark.usefixtures("in_log")
def test_a_folder_is_held_against_the_promoted_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(tmp_path / JOB)]) == ExitCode.OK
    assert run(["job", "diff", str(tmp_path / JOB)]) == ExitCode.PARTIAL
    assert f"from  {V3}" in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("in_log")
def test_job_show_shows_the_version_in_force_and_how_each_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "show", JOB, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == V3
    assert {each["version"]: each["standing"] for each in found["versions"]} == {
        V1: "former",
        V2: "shadow",
        V3: "promoted",
    }


def test_another_place_is_no_other_version() -> None:
    moved = replace(FIRST, place=PlaceSpec(sink="sqlite", table="other"))
    assert isinstance(moved, JobSpec)
    assert version_of(moved) == V1
