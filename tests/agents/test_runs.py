"""Runs: manifests, records by place, and under which versions they are answered."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchmill.agents.cli.exit_codes import ExitCode
from batchmill.agents.cli.program import run
from batchmill.agents.projector.runs import Manifest, RunKind, run_row, run_rows
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Control
from batchmill.schemas.status import Status
from tests.agents.test_projector import JOB, RUN, Log, a_life

SHADOW, LIVE, REPLAY = f"shadow:{JOB}:v2", f"live:{JOB}:v1", "replay:1"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def a_manifest(count: Any) -> Control:
    told = {"source": "x.jsonl", "count": count, "sha256": "5", "began_ms": 1, "ended_ms": 2}
    return Control(
        command_id="m1",
        command="manifest",
        job=JOB,
        version=None,
        body_json=json.dumps({"run": RUN, "kind": "ingest", **told}),
        actor="me",
        issued_at_ms=3,
    )


def declare(log: Log, count: int) -> None:
    for partition in (0, 1):
        log.add("control", partition, encode(a_manifest(count)))


def an_ingest(log: Log) -> None:
    """Three events: one answered under v1, one replayed under v2, one tried out under v2."""
    done = {"status": Status.COMMITTED, "cost_nanos": 10}
    log.row(a_life(log.raw(), "a", **done))
    replayed = log.raw()
    log.row(a_life(replayed, "b", aside=True, **done))
    log.row(a_life(replayed, "c", version="v2", run_id=REPLAY, **done))
    tried = log.raw()
    log.row(a_life(tried, "d", status=Status.QUEUED))
    log.row(a_life(tried, "e", version="v2", run_id=SHADOW, aside=True, status=Status.VALIDATED))


def test_an_ingest_is_told_with_its_manifest_once_and_the_versions_that_answer(log: Log) -> None:
    an_ingest(log)
    declare(log, 3)
    log.fold()
    with log.view() as view:
        found = run_row(view, RUN)
        assert run_row(view, "nothing") is None
    assert found is not None
    assert found.manifests == (Manifest(source="x.jsonl", count=3, sha256="5", began_ms=1, ended_ms=2, by="me"),)
    assert (found.kind, found.ended, found.events, found.declared, found.records) == (RunKind.INGEST, True, 3, 3, 3)
    assert [(each.version, each.front, each.aside, each.committed) for each in found.versions] == [
        ("v1", 2, 1, 1),
        ("v2", 1, 1, 1),
    ]
    assert (found.committed, found.mixed) == (2, ())


def test_every_run_is_listed_by_its_kind(log: Log) -> None:
    an_ingest(log)
    log.row(a_life(log.raw(), "f", run_id=LIVE))
    log.row(a_life(log.raw(), "g", run_id="benchmark:x", aside=True))
    log.fold()
    with log.view() as view:
        kinds = {each.run_id: each.kind for each in run_rows(view)}
        shadow = run_row(view, SHADOW)
        assert {each.run_id for each in run_rows(view, job="other")} == set()
    assert kinds == {
        RUN: RunKind.INGEST,
        LIVE: RunKind.LIVE,
        SHADOW: RunKind.SHADOW,
        REPLAY: RunKind.REPLAY,
        "benchmark:x": RunKind.BENCHMARK,
    }
    assert shadow is not None
    assert [(each.version, each.front, each.aside) for each in shadow.versions] == [("v2", 0, 1)]
    assert shadow.ended is None


def test_what_stands_aside_with_an_answer_is_not_open_while_a_second_opinion_is(log: Log) -> None:
    said = {"status": Status.NEEDS_REVIEW, "aside": True, "version": "v2", "run_id": SHADOW}
    log.row(a_life(log.raw(), "a", **said | {"status": Status.VALIDATED}))
    log.row(a_life(log.raw(), "b", **said, reason=Reason.LOW_CONFIDENCE))
    log.row(a_life(log.raw(), "c", **said, reason=Reason.AWAITING_SCORE))
    log.row(a_life(log.raw(), "d", **said | {"status": Status.PROCESSING}))
    log.fold()
    with log.view() as view:
        found = run_row(view, SHADOW)
    assert found is not None
    assert (found.records, found.open, found.versions[0].open) == (4, 2, 2)


def test_an_interrupted_ingest_is_shown_as_not_ended(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    an_ingest(log)
    log.fold()
    at = ["--set", f"view.path={log.path}", "runs"]
    assert run([*at, "list"]) == ExitCode.OK
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[4] for row in rows if row[0] == RUN] == ["not ended"]
    assert run([*at, "show", RUN]) == ExitCode.OK
    assert "it has not ended: no manifest declares what it consists of" in capsys.readouterr().out.splitlines()


def test_a_run_is_shown_with_its_places_and_how_old_and_new_results_are_mixed_in_it(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    an_ingest(log)
    declare(log, 4)
    log.fold()
    at = ["--set", f"view.path={log.path}", "runs", "show"]
    assert run([*at, RUN]) == ExitCode.OK
    out = capsys.readouterr().out.splitlines()
    assert "places    2 committed, 1 in flight" in out
    assert "1 of its events have left the log, or were not read yet" in out
    assert "its events are answered under 2 versions: 2 under v1, 1 under v2" in out
    assert run([*at, RUN, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["places"]["committed"], found["wrong"], found["ended"]) == (2, [], True)
    assert [each["version"] for each in found["aside"]] == ["v1"]
    assert run([*at, "nothing"]) == ExitCode.NOT_FOUND


def test_a_replay_with_records_of_two_versions_fails_the_check(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    an_ingest(log)
    log.fold()
    at = ["--set", f"view.path={log.path}", "runs", "show"]
    assert run([*at, REPLAY]) == ExitCode.OK
    log.row(a_life(log.raw(), "f", version="v3", run_id=REPLAY))
    log.fold()
    assert run([*at, REPLAY]) == ExitCode.PARTIAL
    assert f"RECORDS OF SEVERAL VERSIONS of job {JOB}" in capsys.readouterr().out


def test_more_events_than_were_declared_fail_the_check(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    an_ingest(log)
    declare(log, 2)
    log.fold()
    assert run(["--set", f"view.path={log.path}", "runs", "show", RUN]) == ExitCode.PARTIAL
    assert "3 events name this run, 2 were declared" in capsys.readouterr().out


def test_a_manifest_that_is_none_declares_nothing(log: Log) -> None:
    an_ingest(log)
    log.add("control", 0, encode(replace(a_manifest(3), body_json="{")))
    log.add("control", 0, encode(replace(a_manifest("many"), command_id="m2")))
    log.add("control", 0, encode(replace(a_manifest(3), command_id="m3", body_json='{"run": [5]}')))
    log.fold()
    with log.view() as view:
        found = run_row(view, RUN)
        assert {each.run_id for each in run_rows(view)} == {RUN, REPLAY, SHADOW, "[5]"}
    assert found is not None
    assert (found.manifests, found.ended) == ((), False)


def test_an_ingest_of_events_that_are_not_read_yet_is_seen_by_its_manifest(log: Log) -> None:
    declare(log, 5)
    log.fold()
    with log.view() as view:
        (found,) = run_rows(view)
    assert (found.run_id, found.events, found.declared, found.versions) == (RUN, 0, 5, ())
