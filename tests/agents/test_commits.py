"""What the read model tells of commits: runs, histories, what a revert would find, and what holds commits up."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.cli.status import lines, plain, read_report
from batchmill.agents.projector.commits import (
    change_progress,
    commit_limits,
    committed_runs,
    down_sinks,
    forecast,
    held_by_target,
    history,
)
from batchmill.agents.projector.metrics import accounting
from batchmill.agents.projector.reading import View
from batchmill.agents.projector.story import story
from batchmill.schemas.codec import encode
from batchmill.schemas.records import Committed
from batchmill.schemas.state import Life, Meta
from batchmill.schemas.status import Place, Status
from batchmill.streams.accounting import place_of
from batchmill.streams.limiting import Counts, HeldBy, marked
from batchmill.streams.orders import Put
from batchmill.streams.ports import ChangeKind
from batchmill.streams.reverting import Progress, noted
from tests.agents.test_projector import JOB, RUN, VERSION, Log, a_commit, a_life

REVERT, REPLAY = ChangeKind.REVERT, ChangeKind.REPLAY


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def put(log: Log, orders: list[Any]) -> None:
    for order in orders:
        assert isinstance(order, Put)
        log.row(order.row)


def write(
    log: Log, name: str, target: str, seq: int, *, previous: str | None = None, sink: str = "sqlite", **changes: Any
) -> Life:
    """A committed request and its record."""
    origin = log.raw()
    told = {"target_key": target, "seq": seq, "commit_id": f"c-{name}", "status": Status.COMMITTED}
    life = a_life(origin, name, **{**told, **changes})
    record = replace(
        a_commit(origin, name),
        target_key=target,
        seq=seq,
        commit_id=f"c-{name}",
        sink=sink,
        previous_commit_id=previous,
        run_id=life.run_id,
        source_id=life.source_id,
    )
    log.row(life)
    publish(log, record)
    return life


def publish(log: Log, record: Committed) -> None:
    log.add("committed", 0, encode(record), record.request_id.encode())


def changed(log: Log, life: Life, kind: ChangeKind, number: int) -> None:
    """What a task leaves after a revert or replay of a life."""
    is_revert = kind is REVERT
    status = Status.VALIDATED if is_revert else Status.COMMITTED
    log.row(replace(life, status=status, reverted=is_revert))
    record = replace(
        a_commit(life.origin, life.request_id[0]),
        kind=kind.value,
        commit_id=f"change-{number}",
        reverts=life.commit_id,
        target_key=life.target_key,
        seq=life.seq,
        run_id=life.run_id,
    )
    publish(log, record)


def test_runs_tell_what_they_wrote_and_what_of_it_was_taken_back(log: Log) -> None:
    first = write(log, "a", "t1", 1)
    write(log, "b", "t2", 1)
    write(log, "c", "t3", 1, run_id="other")
    changed(log, first, REVERT, 1)
    log.fold()
    with View(log.path) as view:
        found = {each.run_id: (each.commits, each.committed, each.reverted) for each in committed_runs(view)}
        assert found == {RUN: (2, 1, 1), "other": (1, 1, 0)}
        assert [each.run_id for each in committed_runs(view, run="other")] == ["other"]
        assert committed_runs(view, job="nobody") == []


def test_the_history_of_a_target_is_found_by_request_commit_source_and_key(log: Log) -> None:
    write(log, "a", "t1", 1)
    second = write(log, "b", "t1", 2, previous="c-a")
    write(log, "c", "t2", 1)
    changed(log, second, REVERT, 1)
    log.fold()
    with View(log.path) as view:
        for name in ("b" * 32, "c-b", "source-b", "t1"):
            found = history(view, name)
            assert [(each.kind, each.request_id[0]) for each in found] == [
                ("commit", "a"),
                ("commit", "b"),
                ("revert", "b"),
            ]
            assert held_by_target(found) == "c-a"
        assert history(view, "t1", job="nobody") == []


def test_a_forecast_tells_what_would_change_what_did_already_and_what_is_in_the_way(log: Log) -> None:
    write(log, "a", "t1", 1, run_id="early")
    write(log, "b", "t1", 2, previous="c-a")
    write(log, "c", "t2", 1)
    write(log, "d", "t2", 2, previous="c-c", run_id="late")
    done = write(log, "e", "t3", 1)
    changed(log, done, REVERT, 1)
    log.row(a_life(log.raw(), "f", status=Status.PROCESSING))
    log.fold()
    with View(log.path) as view:
        found = forecast(view, REVERT, run=RUN)
        assert found.targets == (("b" * 32, "t1"),)
        assert (found.already, found.other) == (1, 1)
        assert [(each.request_id[0], each.held_commit_id) for each in found.conflicts] == [("c", "c-d")]
        assert found.sinks == {"sqlite": 1}
        back = forecast(view, REPLAY, run=RUN)
        assert (back.targets, back.already, back.conflicts) == ((("e" * 32, "t3"),), 2, ())


def test_a_forecast_counts_the_earlier_commit_of_a_request_whose_content_came_back(log: Log) -> None:
    write(log, "z", "t1", 1, run_id="early")
    first = write(log, "a", "t1", 2, previous="c-z")
    second = write(log, "b", "t1", 3, previous="c-a")
    again = replace(first, seq=4, commit_id="c-a-again")
    log.row(again)
    publish(
        log,
        replace(a_commit(again.origin, "a"), target_key="t1", seq=4, commit_id="c-a-again", previous_commit_id="c-b"),
    )
    log.fold()
    with View(log.path) as view:
        found = forecast(view, REVERT, run=RUN)
        assert [request[0] for request, _ in found.targets] == ["a", "b", "a"]
        assert found.conflicts == ()
    changed(log, again, REVERT, 1)
    changed(log, second, REVERT, 2)
    changed(log, first, REVERT, 3)
    log.row(replace(again, status=Status.VALIDATED, reverted=True))
    log.fold()
    with View(log.path) as view:
        assert forecast(view, REVERT, run=RUN).targets == ()
        back = forecast(view, REPLAY, run=RUN)
        assert [request[0] for request, _ in back.targets] == ["a", "b", "a"]
        assert back.conflicts == ()


def test_commits_of_one_command_that_followed_each_other_are_not_in_each_others_way(log: Log) -> None:
    lives = [write(log, "a", "t1", 1), write(log, "b", "t1", 2, previous="c-a")]
    log.fold()
    names = [life.request_id for life in lives]
    with View(log.path) as view:
        assert len(forecast(view, REVERT, requests=names).targets) == 2
        assert len(forecast(view, REVERT, requests=[*names, "nobody"]).conflicts) == 0
        assert forecast(view, REVERT, requests=[*names, "nobody"]).other == 1
        assert len(forecast(view, REVERT, requests=names[:1]).conflicts) == 1
    for number, life in enumerate(reversed(lives)):
        changed(log, life, REVERT, number)
    log.fold()
    with View(log.path) as view:
        assert len(forecast(view, REPLAY, requests=names).targets) == 2
        assert len(forecast(view, REPLAY, requests=names[1:]).conflicts) == 1


def test_what_was_taken_back_and_what_waits_for_go_are_held_in_the_account(log: Log) -> None:
    taken = write(log, "a", "t1", 1)
    changed(log, taken, REVERT, 1)
    waits = a_life(log.raw(), "b", status=Status.VALIDATED)
    log.row(waits)
    flows = a_life(log.raw(), "c", status=Status.VALIDATED, version="v2")
    log.row(flows)
    put(log, marked(Counts(job=JOB, version=VERSION, commits=5), HeldBy.COUNT))
    log.fold()
    with View(log.path) as view:
        books = accounting(view)
        assert books.holds
        assert books.account.places[Place.HELD] == 2
        assert books.account.places[Place.IN_FLIGHT] == 1
        assert "commits replay" in (story(view, taken.request_id).waits_for or "")
        assert "commits go" in (story(view, waits.request_id).waits_for or "")
        assert story(view, flows.request_id).waits_for == "the sink"
    assert place_of(replace(taken, status=Status.VALIDATED, reverted=True)) is Place.HELD
    assert place_of(waits, commits_held=True) is Place.HELD
    assert place_of(waits) is Place.IN_FLIGHT
    assert place_of(replace(waits, status=Status.COMMITTED), commits_held=True) is Place.COMMITTED


def test_limits_sinks_that_are_down_and_progress_are_read_from_the_tasks_rows(log: Log) -> None:
    put(log, marked(Counts(job=JOB, version=VERSION, commits=5, changed=2), HeldBy.CHANGE))
    log.row(Meta(name="sink_down/sqlite", value_json='{"since_ms":9,"why":"OperationalError"}'))
    log.row(Meta(name="sink_down/sqlite", value_json='{"since_ms":7,"why":"OperationalError"}'), partition=1)
    progress = Progress(command_id="x", kind=REVERT, job=JOB, order=3, done=4, named=(("r", None),))
    put(log, [noted(progress)])
    log.fold()
    with View(log.path) as view:
        (limit,) = commit_limits(view, job=JOB)
        assert (limit.held, limit.why) == (HeldBy.CHANGE, "2 of 5 commits changed what was there")
        assert [(each.line, each.tasks, each.since_ms) for each in down_sinks(view)] == [("sqlite", 2, 7)]
        assert change_progress(view, "x") == {0: progress}


@pytest.fixture
def at(log: Log, tmp_path: Path) -> list[str]:
    return ["--set", f"view.path={log.path}", "--set", f"data_dir={tmp_path}/data"]


def test_the_command_line_shows_a_dry_run_with_its_conflicts(
    log: Log, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(log, "a", "t1", 1)
    write(log, "b", "t1", 2, previous="c-a", run_id="late")
    log.fold()
    assert run([*at, "commits", "revert", "late", "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["count"], told["executed"], told["conflicts"]) == (1, False, [])
    assert run([*at, "commits", "revert", RUN]) == ExitCode.PARTIAL
    said = capsys.readouterr()
    assert "holds c-b by now" in said.err
    assert "say --execute" in said.err
    assert run([*at, "commits", "revert", "nobody"]) == ExitCode.NOT_FOUND


def test_the_command_line_lists_runs_and_shows_histories(
    log: Log, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(log, "a", "t1", 1)
    log.fold()
    assert run([*at, "commits", "list"]) == ExitCode.OK
    assert RUN in capsys.readouterr().out
    assert run([*at, "commits", "show", "t1", "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["held"], len(told["records"])) == (["c-a"], 1)
    assert run([*at, "commits", "show", "nobody"]) == ExitCode.NOT_FOUND


def test_status_says_what_holds_commits_up_and_what_to_type(log: Log) -> None:
    log.row(a_life(log.raw(), "b", status=Status.VALIDATED))
    put(log, marked(Counts(job=JOB, version=VERSION, commits=5), HeldBy.COUNT))
    log.row(Meta(name="sink_down/sqlite", value_json='{"since_ms":9,"why":"OperationalError"}'))
    log.fold()
    here = Door(flags={"view.path": str(log.path)})
    report = read_report(here, job=None)
    text = "\n".join(lines(report, None))
    assert f"`batchmill commits go {JOB}`" in text
    assert "sink sqlite takes no writes in 1 tasks" in text
    assert "commits that wait: 1" in text
    assert plain(report, None)["commits"]["waiting"] == 1


def test_what_a_sink_without_history_was_given_is_told_to_be_refused_and_counts_as_no_change(log: Log) -> None:
    write(log, "a", "t1", 1)
    write(log, "b", "t2", 1, sink="webhook")
    log.fold()
    with View(log.path) as view:
        found = forecast(view, REVERT, run=RUN)
    assert (found.targets, found.sinks, found.refused) == ((("a" * 32, "t1"),), {"sqlite": 1}, {"webhook": 1})
