"""One life of a raw event is in front: what is counted, offered and told of those that stand aside."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.cli.door import Door
from batchmill.agents.cli.program import run
from batchmill.agents.cli.status import lines, plain, read_report
from batchmill.agents.projector import letters, queries
from batchmill.agents.projector.commits import waiting_commits
from batchmill.agents.projector.costs import costs
from batchmill.agents.projector.metrics import Scope, accounting, failures, funnel, metrics
from batchmill.agents.projector.reviewing import counts, waiting, waiting_total
from batchmill.agents.projector.story import story
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Origin
from batchmill.schemas.state import Life
from batchmill.schemas.status import Place, Status, VerdictStatus
from batchmill.streams.accounting import place_of
from tests.agents.test_projector import (
    JOB,
    RUN,
    Log,
    a_letter,
    a_life,
    a_result,
    a_verdict,
    a_work_item,
    an_exclusion,
    places,
)

NEW = "v2"
CHOSEN = {"job": JOB, "reason": None, "sampled": False, "deferred": False, "now_ms": 10, "hidden": ()}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "view.sqlite")
    yield made
    made.store.close()


def twins(log: Log, *, old: Status = Status.COMMITTED, new: Status = Status.VALIDATED) -> tuple[Life, Life]:
    """One raw event that is answered by one version and tried out under another."""
    origin = log.raw()
    lives = (
        a_life(origin, "a", status=old, sends=1, cost_nanos=7, input_tokens=10),
        a_life(origin, "b", status=new, sends=1, cost_nanos=5, input_tokens=30, version=NEW, aside=True),
    )
    lives = (lives[0], replace(lives[1], source_id=lives[0].source_id))
    for life in lives:
        item = replace(a_work_item(origin, life.request_id[0]), version=life.version, aside=life.aside)
        log.add("normalized", 0, encode(item))
        log.row(life)
    return lives


def swap(log: Log, old: Life, new: Life, **changes: Any) -> None:
    """The new version is promoted: the former one's life stays what it is, aside."""
    log.row(replace(old, aside=True))
    log.row(replace(new, aside=False, **changes))


def test_a_raw_event_is_counted_once_by_the_life_in_front(log: Log) -> None:
    twins(log)
    log.fold()
    assert places(log) == {Place.COMMITTED: 1}
    with log.view() as view:
        books = accounting(view)
    assert books.holds
    (told,) = books.aside
    assert (told.version, told.validated, told.lives) == (NEW, 1, 1)


def test_promotion_moves_the_count_to_the_other_life_and_demotion_back(log: Log) -> None:
    old, new = twins(log)
    log.fold()
    swap(log, old, new)
    log.fold()
    assert places(log) == {Place.IN_FLIGHT: 1}  # validated, and about to be written
    with log.view() as view:
        books = accounting(view)
    assert books.holds
    assert [(each.version, each.committed) for each in books.aside] == [("v1", 1)]
    swap(log, replace(new, status=Status.COMMITTED), replace(old, status=Status.VALIDATED))
    log.fold()
    assert places(log) == {Place.IN_FLIGHT: 1}
    with log.view() as view:
        books = accounting(view)
        claimed = view.row("SELECT request_id, alive FROM raw")
    assert books.holds
    assert [(each.version, each.committed) for each in books.aside] == [(NEW, 1)]
    assert claimed is not None
    assert (claimed["request_id"], claimed["alive"]) == (old.request_id, 1)


@pytest.mark.parametrize("first", [0, 1])
def test_lives_of_two_tasks_may_be_read_in_any_order(log: Log, first: int) -> None:
    origin = log.raw()
    log.row(a_life(origin, "a", status=Status.COMMITTED), partition=0)
    log.row(a_life(origin, "b", status=Status.COMMITTED, version=NEW, aside=True), partition=1)
    log.fold()
    log.row(a_life(origin, "a", status=Status.COMMITTED, aside=True), partition=0)
    log.row(a_life(origin, "b", status=Status.VALIDATED, version=NEW), partition=1)
    log.fold([("state", first), ("state", 1 - first)], at_once=False)
    assert places(log) == {Place.IN_FLIGHT: 1}
    with log.view() as view:
        assert accounting(view).holds


@pytest.mark.parametrize("order", [["dead-letter", "raw"], ["raw", "dead-letter"]])
def test_the_letter_of_a_life_aside_is_never_where_its_raw_event_is(log: Log, order: list[str]) -> None:
    origin = log.raw()
    letter = replace(a_letter(origin, request_id="b" * 32, reason=Reason.NOT_JSON), version=NEW, aside=True)
    log.add("dead-letter", 0, encode(letter))
    log.add("excluded", 0, encode(replace(an_exclusion(origin, Reason.NOT_PROMOTED), aside=True)))
    log.fold([(topic, 0) for topic in [*order, "excluded"]], at_once=False)
    with log.view() as view:
        books = accounting(view)
    assert (books.unread, books.account.raw) == (1, 1)  # the life that answers for it has not been read yet


@pytest.mark.parametrize("aside", [True, False])
def test_a_benchmark_event_is_excluded_and_the_lives_made_of_it_stand_beside(log: Log, *, aside: bool) -> None:
    origin = log.raw()
    log.add("excluded", 0, encode(replace(an_exclusion(origin, Reason.BENCHMARK), aside=aside)))
    log.row(a_life(origin, "a", status=Status.VALIDATED, aside=True))
    log.row(a_life(origin, "b", status=Status.VALIDATED, version=NEW, aside=True))
    log.fold()
    assert places(log) == {Place.EXCLUDED: 1}
    with log.view() as view:
        books = accounting(view)
    assert books.holds
    assert [each.validated for each in books.aside] == [1, 1]


def test_what_is_aside_costs_money_and_is_no_success_of_the_job(log: Log) -> None:
    twins(log, new=Status.COMMITTED)
    for name, of_version in (("a", "v1"), ("b", NEW)):
        log.add("results", 0, encode(replace(a_result(name), version=of_version)))
    log.add("validated", 0, encode(a_verdict("a")))
    log.add("validated", 0, encode(replace(a_verdict("b"), version=NEW, aside=True)))
    log.fold()
    with log.view() as view:
        job, version = metrics(view, Scope(job=JOB)), metrics(view, Scope(job=JOB, version=NEW))
        assert funnel(view, Scope(job=JOB)).normalized == 1
        spent = costs(view, Scope(job=JOB).values)
    assert (spent.spent_nanos, spent.records, spent.committed) == (14, 2, 1)
    assert (job.requests, job.submitted, job.committed, job.validation_pass_rate) == (1, 1, 1, 1)
    assert job.cost_usd == pytest.approx(12e-9)
    assert job.mean_tokens == pytest.approx(20)
    assert (version.requests, version.committed, version.validation_pass_rate) == (1, 1, 1)
    assert version.cost_usd == pytest.approx(5e-9)


def test_a_failure_aside_is_its_versions_and_not_the_jobs(log: Log) -> None:
    _, new = twins(log, new=Status.FAILED_TERMINAL)
    letter = replace(a_letter(new.origin, request_id=new.request_id, reason=Reason.NOT_JSON), version=NEW, aside=True)
    log.add("dead-letter", 0, encode(letter))
    log.fold()
    with log.view() as view:
        assert failures(view, Scope(job=JOB)) == []
        assert [each.reason for each in failures(view, Scope(version=NEW))] == [Reason.NOT_JSON]
        assert list(letters.letters(view, letters.Wanted(job=JOB), now_ms=0)) == []
        assert len(list(letters.letters(view, letters.Wanted(version=NEW), now_ms=0))) == 1
        assert accounting(view).aside[0].failed == 1


def test_an_ingest_counts_its_events_wherever_they_are_answered(log: Log) -> None:
    old, new = twins(log)
    swap(log, old, new, run_id="replay:1")
    log.fold()
    assert places(log, Scope(run=RUN)) == {Place.IN_FLIGHT: 1}
    assert places(log, Scope(run="replay:1")) == {Place.IN_FLIGHT: 1}
    with log.view() as view:
        assert accounting(view, Scope(run=RUN)).holds
        assert accounting(view, Scope(run="replay:1")).holds


def test_what_is_aside_waits_for_nobody(log: Log) -> None:
    twins(log, new=Status.NEEDS_REVIEW)
    log.add("validated", 0, encode(replace(a_verdict("b", status=VerdictStatus.NEEDS_REVIEW), aside=True)))
    log.row(a_life(log.raw(), "c", status=Status.VALIDATED, version=NEW, aside=True))
    log.fold()
    with log.view() as view:
        assert waiting(view, lambda *_: 0.5, CHOSEN, None, 10) == []
        assert waiting_total(view, CHOSEN) == 0
        assert counts(view, job=JOB, now_ms=10, hidden=()).waiting == 0
        assert queries.review_queue(view) == []
        assert waiting_commits(view) == 0
        (told,) = accounting(view).aside
        assert (told.in_review, told.validated) == (1, 1)


def test_what_is_brought_forward_waits_as_any_other(log: Log) -> None:
    old, new = twins(log, new=Status.NEEDS_REVIEW)
    swap(log, old, new)
    log.fold()
    with log.view() as view:
        assert [row.request_id for row in waiting(view, lambda *_: 0.5, CHOSEN, None, 10)] == [new.request_id]
        assert [(job, n) for job, n, _ in queries.review_queue(view)] == [(JOB, 1)]


def test_status_tells_what_is_aside_by_version(log: Log) -> None:
    twins(log)
    log.row(a_life(log.raw(), "c", status=Status.NEEDS_REVIEW, version=NEW, aside=True))
    log.row(a_life(log.raw(), "d", status=Status.QUEUED, version=NEW, aside=True))
    log.fold()
    report = read_report(Door(flags={"view.path": str(log.path)}), job=None)
    told = "held aside: 3 (triage version v2: 1 validated, 1 in review, 1 under way)"
    assert told in lines(report, None)
    assert plain(report, None)["accounting"]["aside"][0]["lives"] == 3


def test_a_story_tells_which_version_answers_and_what_stands_beside(log: Log) -> None:
    old, new = twins(log)
    log.fold()
    with log.view() as view:
        front, aside = story(view, old.request_id), story(view, new.request_id)
    assert front.aside is None
    assert [(each.version, each.aside) for each in front.beside] == [(NEW, True)]
    assert aside.aside == f"version v1 answers for its raw event, by request {old.request_id}"
    assert [hop.topic for hop in aside.hops] == ["raw", "normalized"]
    assert (aside.waits_for or "").startswith("a promotion of version v2")


def test_a_story_tells_descent_route_epoch_and_whose_answer_it_was_given(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = log.raw()
    log.row(a_life(origin, "a", parent="p" * 32, part="1/3/doc", route="big", epoch=2, status=Status.VALIDATED))
    log.add("results", 0, encode(a_result("a", answered_by="near", of_request_id="q" * 32, similarity=0.9)))
    log.fold()
    assert run(["--set", f"view.path={log.path}", "explain", "a" * 32]) == 0
    out = capsys.readouterr().out
    for told in (
        f"stems from request {'p' * 32}, part 1/3/doc",
        "asked by route big",
        "asked afresh, epoch 2",
        f"answered_by=near of_request_id={'q' * 32} similarity=0.9",
    ):
        assert told in out


def test_a_benchmark_life_says_that_no_version_answers_for_its_event(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = log.raw()
    log.add("excluded", 0, encode(an_exclusion(origin, Reason.BENCHMARK)))
    log.row(a_life(origin, "a", status=Status.VALIDATED, aside=True))
    log.fold()
    assert run(["--set", f"view.path={log.path}", "explain", "a" * 32]) == 0
    assert "stands aside: its raw event is excluded, answered for by no version" in capsys.readouterr().out
    assert run(["--set", f"view.path={log.path}", "records", "list"]) == 0
    assert "\tv1\tvalidated, aside\t" in capsys.readouterr().out
    assert run(["--set", f"view.path={log.path}", "records", "list", "--version", NEW]) == 0
    assert capsys.readouterr().out == ""


# -- any history -------------------------------------------------------------------------------------------------------

STATUSES = st.sampled_from([each for each in Status if each is not Status.FAILED_TERMINAL])
#: of each raw event: which version is in front, and the status of both lives, after each step
HISTORIES = st.lists(st.lists(st.tuples(st.booleans(), STATUSES, STATUSES), min_size=1, max_size=4), max_size=5)


@given(histories=HISTORIES, tasks=st.lists(st.integers(0, 1), max_size=8))
def test_whoever_is_in_front_and_however_it_is_read_each_raw_event_is_counted_once(
    histories: list[list[tuple[bool, Status, Status]]], tasks: list[int]
) -> None:
    read = list(tasks)  #: whose rows are read after each step
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "view.sqlite")
        expected: dict[Place, int] = {}
        for number, history in enumerate(histories):
            origin: Origin = log.raw()
            lives: list[Life] = []
            for second_in_front, *statuses in history:
                lives = [
                    replace(
                        a_life(origin, status=status, version=version, aside=aside),
                        request_id=f"{number:016d}{version:>16}",
                    )
                    for status, version, aside in zip(
                        statuses, ("v1", NEW), (second_in_front, not second_in_front), strict=True
                    )
                ]
                for partition, life in enumerate(lives):
                    log.row(life, partition)
                if read:
                    log.fold([("state", read.pop())])
            (front,) = [life for life in lives if not life.aside]
            place = place_of(front)
            expected[place] = expected.get(place, 0) + 1
        log.fold(at_once=False)
        try:
            assert places(log) == expected
            with log.view() as view:
                books = accounting(view)
            assert books.holds
            assert sum(each.lives for each in books.aside) == len(histories)
        finally:
            log.store.close()
