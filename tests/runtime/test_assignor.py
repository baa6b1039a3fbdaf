"""Who owns which task: complete, balanced, sticky, and the same for every topic."""

from hypothesis import given
from hypothesis import strategies as st

from batchmill.agents.runtime.assignor import assign_tasks

TASKS = st.integers(1, 32)
MEMBERS = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)
TOPICS = ("raw", "normalized")


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, dict[str, list[str]], dict[str, set[int]]]:
    """Any group: members that know fewer topics, members that are out of date or claim what others claim."""
    tasks, members = draw(TASKS), draw(MEMBERS)
    topics = {member: draw(st.sampled_from([["raw"], list(TOPICS)])) for member in members}
    previous = {member: draw(st.sets(st.integers(0, 40))) for member in draw(st.sets(st.sampled_from(members)))}
    return tasks, topics, previous


@given(groups())
def test_every_task_has_exactly_one_owner(group: tuple[int, dict[str, list[str]], dict[str, set[int]]]) -> None:
    tasks, topics, previous = group
    owned = assign_tasks(tasks, topics, previous)
    assert sorted(task for some in owned.values() for task in some) == list(range(tasks))
    assert owned.keys() == topics.keys()


@given(groups())
def test_loads_differ_by_at_most_one(group: tuple[int, dict[str, list[str]], dict[str, set[int]]]) -> None:
    loads = [len(tasks) for tasks in assign_tasks(*group).values()]
    assert max(loads) - min(loads) <= 1


@given(TASKS, MEMBERS)
def test_a_second_assignment_of_the_same_group_moves_nothing(tasks: int, members: list[str]) -> None:
    topics = dict.fromkeys(members, TOPICS)
    first = assign_tasks(tasks, topics, {})
    assert assign_tasks(tasks, topics, first) == first


@given(TASKS, MEMBERS)
def test_a_newcomer_takes_only_its_share_and_nothing_else_moves(tasks: int, members: list[str]) -> None:
    before = assign_tasks(tasks, dict.fromkeys(members, TOPICS), {})
    after = assign_tasks(tasks, dict.fromkeys([*members, "new"], TOPICS), before)
    moved = {task for member in members for task in set(before[member]) - set(after[member])}
    assert moved == set(after["new"])


@given(TASKS, MEMBERS.filter(lambda members: len(members) > 1))
def test_when_a_member_leaves_only_its_tasks_move(tasks: int, members: list[str]) -> None:
    before = assign_tasks(tasks, dict.fromkeys(members, TOPICS), {})
    stay = members[1:]
    after = assign_tasks(tasks, dict.fromkeys(stay, TOPICS), before)
    assert all(set(before[member]) <= set(after[member]) for member in stay)


def test_a_task_that_two_members_claim_belongs_to_neither_claim() -> None:
    owned = assign_tasks(2, {"a": TOPICS, "b": TOPICS}, {"a": {0, 1}, "b": {0, 1}})
    assert [len(tasks) for tasks in owned.values()] == [1, 1]


def test_the_member_that_knows_more_topics_takes_the_task_left_over() -> None:
    owned = assign_tasks(3, {"old": ["raw"], "young": TOPICS}, {})
    assert len(owned["young"]) == 2
