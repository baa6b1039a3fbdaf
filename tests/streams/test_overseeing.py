"""Who is handed what: single decisions, and laws that hold whatever tasks and overseer do between their crashes."""

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas.state import Grant, Job
from batchmill.schemas.status import ChunkState
from batchmill.streams.granting import available, creates_pool, money_pool, used
from batchmill.streams.overseeing import HOUR_MS, Books, HandOut, Limits, Posts, Spread
from tests.streams.grant_world import JOBS, NANOS, QUEUE, QUEUE_MAX, SharedWorld
from tests.streams.rows import NOW_MS, make_job

POOL = money_pool("triage")


def a_job(budget: int | None, **changes: Any) -> Job:
    declared = {} if budget is None else {"budget": {"job_nanos": budget}}
    return make_job(versions_json=json.dumps({"v1": declared}), **changes)


def a_grant(pool: str = POOL, *, at_ms: int = NOW_MS, **sums: int) -> Grant:
    told = {"asked": 0, "granted": 0, "reserved": 0, "posted": 0, "returned": 0, **sums}
    return Grant(pool=pool, **told, updated_at_ms=at_ms)


def books(budget: int | None = 100, *, tasks: int = 3, limits: Limits | None = None) -> Books:
    made = Books(limits or Limits())
    for partition in range(tasks):
        made.row(partition, a_job(budget))
    return made


# -- single decisions --------------------------------------------------------------------------------------------------


def test_a_wish_is_served_whole_as_long_as_there_is_room() -> None:
    facts = books()
    facts.row(0, a_grant(asked=60))
    facts.row(1, a_grant(asked=40))
    assert facts.decide(NOW_MS) == [
        HandOut(partition=0, granted={POOL: 60}),
        HandOut(partition=1, granted={POOL: 40}),
    ]


def test_what_was_handed_out_counts_before_a_task_has_taken_it() -> None:
    facts = books()
    facts.row(0, a_grant(asked=60))
    facts.handed(0, {POOL: 60})
    facts.row(1, a_grant(asked=50))
    assert facts.decide(NOW_MS) == []
    facts.row(0, a_grant(asked=60, granted=60, posted=50, returned=10))
    assert facts.decide(NOW_MS) == [HandOut(partition=1, granted={POOL: 50})]


def test_a_hand_out_names_the_sum_of_all() -> None:
    facts = books()
    facts.row(0, a_grant(asked=90, granted=50, posted=20, returned=30))
    assert facts.decide(NOW_MS) == [HandOut(partition=0, granted={POOL: 90})]


def test_the_oldest_wish_comes_first_and_is_not_passed_by_smaller_ones_while_it_may_still_fit() -> None:
    facts = books()
    facts.row(2, a_grant(asked=50, granted=50, reserved=50))
    facts.row(1, a_grant(asked=80, at_ms=NOW_MS + 1))
    facts.row(0, a_grant(asked=10, at_ms=NOW_MS + 2))
    assert facts.decide(NOW_MS) == []
    facts.row(2, a_grant(asked=50, granted=50, posted=10, returned=40))
    assert facts.decide(NOW_MS) == [
        HandOut(partition=0, granted={POOL: 10}),
        HandOut(partition=1, granted={POOL: 80}),
    ]


def test_one_that_can_never_fit_is_told_so_once_and_does_not_stand_in_the_way() -> None:
    facts = books()
    facts.row(1, a_grant(asked=150))
    facts.row(0, a_grant(asked=100, at_ms=NOW_MS + 2))
    told, passed = facts.decide(NOW_MS)[::-1]
    assert told == HandOut(partition=1, most={POOL: 100})
    assert passed == HandOut(partition=0, granted={POOL: 100})
    facts.told(told)
    facts.handed(0, passed.granted)
    assert facts.decide(NOW_MS) == []


def test_a_raised_budget_is_handed_out_when_every_task_has_heard_of_it() -> None:
    facts = books(tasks=2)
    facts.row(0, a_grant(asked=150))
    facts.row(0, a_job(200))
    assert [each.granted for each in facts.decide(NOW_MS)] == [{}]
    facts.row(1, a_job(200))
    assert facts.decide(NOW_MS) == [HandOut(partition=0, granted={POOL: 150})]


def test_a_lowered_budget_stops_grants_at_once_and_takes_nothing_away() -> None:
    facts = books(tasks=2)
    facts.row(0, a_grant(asked=80, granted=80, reserved=80))
    facts.row(1, a_job(50))
    facts.row(1, a_grant(asked=10))
    assert facts.decide(NOW_MS) == []
    assert facts.exposure(POOL) == 80


def test_without_a_limit_any_more_a_wish_is_served_all_the_same() -> None:
    facts = books(None)
    facts.row(0, a_grant(asked=10**12))
    assert facts.decide(NOW_MS) == [HandOut(partition=0, granted={POOL: 10**12})]


def test_nothing_is_handed_out_of_the_budget_of_a_job_nobody_has_told_of() -> None:
    facts = books(tasks=0)
    facts.row(0, a_grant(asked=1))
    assert [each.granted for each in facts.decide(NOW_MS)] == [{}]


def test_what_cost_more_than_was_granted_is_missing_for_others() -> None:
    facts = books()
    facts.row(0, a_grant(asked=50, granted=50, posted=90))
    facts.row(1, a_grant(asked=20))
    assert facts.exposure(POOL) == 90
    assert [each.granted for each in facts.decide(NOW_MS)] == [{}]


# -- creations by the hour ---------------------------------------------------------------------------------------------

CREATES = creates_pool("default")
TWO_AN_HOUR = Limits(creates_max={"default": 2}, create_ms_max={"default": 40_000})


def test_creations_of_the_last_hour_and_grants_not_used_yet_make_up_the_limit() -> None:
    facts = books(limits=TWO_AN_HOUR)
    facts.note_posts(NOW_MS)
    facts.row(0, a_grant(CREATES, asked=1, granted=1, posted=1))
    facts.row(1, a_grant(CREATES, asked=1, granted=1, reserved=1))
    facts.row(2, a_grant(CREATES, asked=1))
    facts.note_posts(NOW_MS + 1)
    assert facts.decide(NOW_MS + 1) == []
    later = NOW_MS + HOUR_MS + 40_000
    facts.note_posts(later)
    assert facts.decide(later) == [], "the call may have been made later than its attempt"
    assert facts.decide(later + 1) == [HandOut(partition=2, granted={CREATES: 1})]


def test_a_new_overseer_without_memory_takes_all_creations_for_recent() -> None:
    facts = books(limits=TWO_AN_HOUR)
    facts.row(0, a_grant(CREATES, asked=8, granted=7, posted=7))
    facts.note_posts(NOW_MS)
    assert facts.decide(NOW_MS) == []
    remembers = Books(TWO_AN_HOUR, posts={CREATES: [(NOW_MS - 2 * HOUR_MS, 6)]})
    remembers.row(0, a_grant(CREATES, asked=8, granted=7, posted=7))
    remembers.note_posts(NOW_MS)
    assert remembers.decide(NOW_MS) == [HandOut(partition=0, granted={CREATES: 8})]


@given(st.lists(st.tuples(st.integers(0, HOUR_MS // 4), st.integers(0, 3)), max_size=60))
def test_the_creations_of_any_hour_are_never_taken_for_fewer(steps: list[tuple[int, int]]) -> None:
    posts, total, now_ms, made = Posts(), 0, NOW_MS, []
    posts.note(0, now_ms, HOUR_MS)
    for wait_ms, more in steps:
        now_ms += wait_ms
        total += more
        made += [now_ms] * more
        posts.note(total, now_ms, HOUR_MS)
        within = sum(at_ms > now_ms - HOUR_MS for at_ms in made)
        assert posts.within(total, now_ms, HOUR_MS) >= within
        assert len(posts.seen) < HOUR_MS // 5_000 + 3


# -- a job that paused by itself ---------------------------------------------------------------------------------------


def test_a_job_that_paused_by_itself_pauses_in_the_other_tasks_once() -> None:
    facts = books()
    facts.row(1, a_job(100, paused=True, pause_reason="insufficient_quota"))
    wanted = [Spread(partition=each, job="triage", reason="insufficient_quota", after="command-0") for each in (0, 2)]
    assert facts.spreads() == wanted
    for each in wanted:
        facts.spread(each)
    assert facts.spreads() == []


def test_a_persons_pause_and_a_task_that_has_heard_a_newer_command_are_left_alone() -> None:
    facts = books()
    facts.row(1, a_job(100, paused=True))
    assert facts.spreads() == []
    facts.row(1, a_job(100, paused=True, pause_reason="insufficient_quota"))
    facts.row(0, a_job(100, last_command_id="command-1"))
    assert [each.partition for each in facts.spreads()] == [2]


# -- whatever happens --------------------------------------------------------------------------------------------------

ACTIONS = (
    "chunk",
    "step",
    "step",
    "step",
    "commit",
    "commit",
    "crash",
    "take",
    "take",
    "redeliver",
    "oversee",
    "oversee",
    "appoint",
    "raise",
    "lower",
    "apply",
    "pause",
)


def act(world: SharedWorld, action: str, number: int) -> None:
    task, job = world.tasks[number % len(world.tasks)], JOBS[number % 2]
    match action:
        case "chunk":
            task.carry_new(job, 1 + number % 9)
        case "step":
            chunks = task.chunks()
            if chunks:
                task.step(chunks[number % len(chunks)], number)
        case "commit":
            task.commit()
        case "crash":
            task.crash()
        case "take":
            task.take()
        case "redeliver":
            task.redeliver(number % 5)
        case "oversee":
            world.oversee_reading(1 + number % 4)
            world.hand_out()
        case "appoint":
            world.appoint()
        case "raise":
            world.budgets[job] += number % 200
        case "lower":
            world.budgets[job] = max(1, world.budgets[job] - number % 100)
        case "apply":
            world.apply(task, job)
        case "pause":
            world.pause(task, job, paused=number % 3 == 0)


class Watch:
    """The highest limit there ever was, and what exposure may not exceed at any moment."""

    def __init__(self, world: SharedWorld) -> None:
        self.world = world
        self.highest = dict(world.budgets)

    def look(self) -> None:
        for job, budget in self.world.budgets.items():
            self.highest[job] = max(self.highest[job], budget)
            exposed = self.world.exposed(money_pool(job))
            assert exposed <= self.highest[job], f"{exposed} exposed of {self.highest[job]}"
        exposed = self.world.exposed(QUEUE)
        assert exposed <= QUEUE_MAX, f"{exposed} exposed of {QUEUE_MAX}"


def sums_add_up(world: SharedWorld) -> None:
    for task in world.tasks:
        for row in task.grants():
            assert row.granted == row.posted + row.returned + row.reserved + available(row)
            assert available(row) >= 0
            held = [
                chunk.reserved_nanos if row.pool.startswith("money/") else chunk.reserved_tokens
                for chunk in task.chunks()
                if row.pool in {money_pool(chunk.job), QUEUE}
            ]
            assert row.reserved == sum(held)


@settings(max_examples=150, deadline=None)
@given(
    tasks=st.integers(1, 3),
    budget=st.integers(20, 300),
    actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1_000)), max_size=150),
)
def test_the_limit_holds_at_all_times_and_nothing_waits_that_fits(
    tasks: int, budget: int, actions: list[tuple[str, int]]
) -> None:
    world = SharedWorld(tasks, budget)
    watch = Watch(world)
    for action, number in actions:
        act(world, action, number)
        watch.look()
        sums_add_up(world)
    world.settle()
    watch.look()
    sums_add_up(world)
    for job in JOBS:
        pool = money_pool(job)
        spent = sum(row.posted for task in world.tasks for row in task.grants() if row.pool == pool)
        for chunk in (each for task in world.tasks for each in task.chunks() if each.job == job):
            if chunk.state not in {ChunkState.DONE, ChunkState.FAILED}:
                assert (chunk.state, chunk.waits_for, chunk.members) == (ChunkState.PREPARED, pool, 1)
                assert spent + NANOS > world.budgets[job], "it waits though there is room"
    for task in world.tasks:
        assert all(available(row) == 0 and row.reserved == 0 for row in task.grants())


@pytest.mark.parametrize("lost", ["handed", "returned"])
def test_the_world_above_notices_a_limit_that_is_exceeded(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it proves nothing: the overseer forgets what no task has taken yet, or believes in too much returned."""
    if lost == "handed":
        monkeypatch.setattr(Books, "handed", lambda *_: None)
    else:
        right = Books.row
        monkeypatch.setattr(
            Books,
            "row",
            lambda self, at, row: right(self, at, replace(row, returned=used(row)) if isinstance(row, Grant) else row),
        )
    with pytest.raises(AssertionError, match="exposed"):
        busy_days()


def test_busy_days_are_survived() -> None:
    busy_days()


def busy_days() -> None:
    """Long days without a change of budgets: chunks come, go and settle up, the overseer is replaced now and then."""
    for seed in range(20):
        chance, world = Random(seed), SharedWorld(3, 60)
        watch = Watch(world)
        for _ in range(300):
            act(
                world,
                chance.choice([each for each in ACTIONS if each not in {"raise", "lower"}]),
                chance.randrange(999),
            )
            watch.look()
