"""Limits of commits: equal parts that never exceed the whole, counts that hold a version, a rate that saves little."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import CommitSpec
from batchmill.schemas.state import Meta
from batchmill.streams.limiting import (
    Bucket,
    Counts,
    HeldBy,
    Room,
    Share,
    allowance,
    counts_of,
    fault,
    go,
    marked,
    room,
    seconds_to_token,
)
from batchmill.streams.orders import Put, Wake
from tests.streams.rows import make_job, put_rows

ALONE = Share(0, 1)


def a_count(**changes: Any) -> Counts:
    return Counts(job="triage", version="v1", **changes)


@given(whole=st.integers(0, 10_000), tasks=st.integers(1, 32), turn=st.integers(0, 50))
def test_the_parts_of_all_tasks_add_up_to_the_whole_in_every_turn(whole: int, tasks: int, turn: int) -> None:
    parts = [Share(partition, tasks).part(whole, turn) for partition in range(tasks)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


@given(whole=st.integers(1, 40), tasks=st.integers(1, 16))
def test_after_enough_turns_every_task_had_a_part(whole: int, tasks: int) -> None:
    had = {p for p in range(tasks) for turn in range(tasks) if Share(p, tasks).part(whole, turn)}
    assert had == set(range(tasks))


def test_without_limits_there_is_room_for_anything() -> None:
    assert room(CommitSpec(), a_count(commits=10**6, changed=10**6), ALONE, 5) == Room(None)


def test_as_many_as_allowed_are_begun_and_then_an_operator_is_waited_for() -> None:
    limit = CommitSpec(stop_after=10)
    assert room(limit, a_count(commits=7), ALONE, 0) == Room(3)
    assert room(limit, a_count(commits=10), ALONE, 0) == Room(0, HeldBy.COUNT)


def test_writes_in_doubt_may_be_commits_and_hold_nothing_for_that() -> None:
    assert room(CommitSpec(stop_after=10), a_count(commits=7), ALONE, 3) == Room(0)


def test_what_an_operator_allowed_counts_instead_of_what_the_job_says() -> None:
    assert room(CommitSpec(stop_after=10), a_count(commits=7, more=8), ALONE, 0) == Room(1)
    assert room(CommitSpec(), a_count(commits=8, more=8), ALONE, 0) == Room(0, HeldBy.COUNT)


def test_a_task_without_a_part_holds_from_the_start() -> None:
    assert room(CommitSpec(stop_after=1), a_count(), Share(3, 4), 0) == Room(0, HeldBy.COUNT)


@given(
    share=st.floats(0.01, 0.99),
    minimum=st.integers(1, 30),
    changes=st.lists(st.booleans(), min_size=200, max_size=200),
    cut=st.integers(1, 50),
)
def test_the_share_of_changes_is_exceeded_by_one_commit_at_most_however_large_the_cuts_are(
    share: float, minimum: int, changes: list[bool], cut: int
) -> None:
    limit, counts, todo = CommitSpec(stop_changed=share, changed_minimum=minimum), a_count(), list(changes)
    while todo:
        left = room(limit, counts, ALONE, 0)
        if left.held is not None:
            assert left.held is HeldBy.CHANGE
            break
        assert left.left is not None
        assert left.left > 0
        taken, todo = todo[: min(cut, left.left)], todo[min(cut, left.left) :]
        counts = a_count(commits=counts.commits + len(taken), changed=counts.changed + sum(taken))
    if counts.commits > minimum:
        assert counts.changed - 1 <= share * counts.commits


def test_a_share_of_one_is_never_exceeded() -> None:
    found = room(CommitSpec(stop_changed=1, changed_minimum=1), a_count(commits=5, changed=5), ALONE, 0)
    assert (found.held, found.left is not None and found.left > 10**6) == (None, True)


def test_go_begins_the_counts_anew_for_one_version_or_all() -> None:
    job = make_job(versions_json='{"v1":{},"v2":{}}')
    view = put_rows(job)
    for row in marked(a_count(commits=9), HeldBy.COUNT):
        assert isinstance(row, Put)
        view.put(row.row)
    assert counts_of(view, "triage", "v1") == a_count(commits=9, held=HeldBy.COUNT)
    orders = go(view, job, {"more": 5})
    names = [order.row.name for order in orders if isinstance(order, Put) and isinstance(order.row, Meta)]
    assert names == ["commits/triage/v1", "commits/triage/v2"]
    assert orders[-1] == Wake("commit")
    only = go(view, job, {"version": "v1"})
    assert [order.row.name for order in only if isinstance(order, Put) and isinstance(order.row, Meta)] == names[:1]
    first = orders[0]
    assert isinstance(first, Put)
    view.put(first.row)
    assert counts_of(view, "triage", "v1") == a_count(turn=1, more=5)


@pytest.mark.parametrize(
    ("body", "is_right"),
    [
        ({}, True),
        ({"more": 1}, True),
        ({"version": "v"}, True),
        ({"more": 0}, False),
        ({"more": True}, False),
        ({"version": 3}, False),
        ({"more": "5"}, False),
    ],
)
def test_a_go_with_a_strange_body_is_refused(body: dict[str, Any], is_right: bool) -> None:
    assert (fault(body) is None) is is_right


def test_a_hold_that_is_known_is_not_written_again() -> None:
    assert marked(a_count(held=HeldBy.COUNT), HeldBy.COUNT) == []
    assert len(marked(a_count(held=HeldBy.COUNT), None)) == 1


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=100),
    st.floats(0.05, 200),
)
def test_no_more_is_taken_than_the_rate_and_one_second_of_it_allow(
    looks: list[tuple[float, bool]], per_second: float
) -> None:
    now_s, taken, bucket = 0.0, 0, allowance(None, 0.0, per_second)
    for wait_s, takes in looks:
        now_s += wait_s
        bucket = allowance(bucket, now_s, per_second)
        if takes and bucket.tokens >= 1:
            bucket, taken = Bucket(bucket.tokens - 1, bucket.at_s), taken + 1
        assert bucket.tokens <= max(1.0, per_second)
    assert taken <= now_s * per_second + 1e-6


def test_the_wait_for_a_token_is_as_long_as_it_takes() -> None:
    bucket = allowance(None, 100.0, 0.5)
    wait_s = seconds_to_token(bucket, 0.5)
    assert wait_s == 2
    assert allowance(bucket, 100.0 + wait_s, 0.5).tokens == 1
    assert allowance(bucket, 50.0, 0.5).tokens == 0, "a clock that goes back gives nothing"


def test_a_rate_whose_part_is_too_small_to_be_a_number_waits_and_stops_nobody() -> None:
    part = 5e-324 / 8
    assert seconds_to_token(allowance(None, 1.0, part), part) == math.inf
