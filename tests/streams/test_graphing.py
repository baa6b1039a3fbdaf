"""Which job feeds which, and the circle that is refused wherever it is closed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.jobs import JobSpec, JudgeSpec, ScoringSpec
from batchmill.schemas.promotion import ThenSpec
from batchmill.schemas.records import Control
from batchmill.schemas.versions import version_of
from batchmill.streams.controlling import control, refusal
from batchmill.streams.graphing import Edge, cycle, edges, edges_of_row, route, told_cycle
from tests.streams.making import NOW_MS, carry_out, make_row, make_spec, make_view


def job(name: str, *to: str, scorer: str | None = None) -> JobSpec:
    judge = JudgeSpec() if scorer is None else JudgeSpec(scoring=ScoringSpec(job=scorer, agree="true"))
    return make_spec(job=name, judge=judge, then=tuple(ThenSpec(job=each) for each in to))


def edge(start: str, end: str, split: str | None = None) -> Edge:
    return Edge(job=start, to=end, kind="then", split=split)


def test_a_job_feeds_its_followers_and_its_scorer() -> None:
    found = edges(job("a", "b", "c", scorer="d"))
    assert [(each.to, each.kind) for each in found] == [("b", "then"), ("c", "then"), ("d", "score")]


@given(st.permutations(range(8)), st.data())
def test_jobs_in_any_order_that_only_feed_later_ones_are_no_circle(order: list[int], data: st.DataObject) -> None:
    pairs = st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] < pair[1])
    drawn = data.draw(st.lists(pairs, max_size=30))
    found = [edge(str(order[start]), str(order[end])) for start, end in drawn]
    assert cycle(found) is None
    if found:
        ends = data.draw(st.sampled_from(found))
        back = cycle([*found, edge(ends.to, ends.job)])
        assert back is not None
        links = {(each.job, each.to) for each in [*found, edge(ends.to, ends.job)]}
        assert all(pair in links for pair in zip(back, (*back[1:], back[0]), strict=True)), "every step is one that is"


def test_a_row_is_of_the_version_in_force_and_of_those_that_are_tried_out() -> None:
    first, second = job("a", "b"), job("a", "c", scorer="s")
    row = make_row(first)
    other = make_row(second)
    versions = '{"' + row.version + '":' + first.to_json() + ',"' + other.version + '":' + second.to_json() + "}"
    both = replace(row, versions_json=versions)
    assert {each.to for each in edges_of_row(both)} == {"b"}
    tried = replace(both, shadows_json='{"' + other.version + '":0.1}')
    assert {each.to for each in edges_of_row(tried)} == {"b", "c", "s"}


def applying(spec: JobSpec) -> Control:
    return Control(
        command_id=f"apply-{spec.job}",
        command="apply",
        job=spec.job,
        version=version_of(spec),
        body_json=spec.to_json(),
        actor="me",
        issued_at_ms=NOW_MS,
    )


@pytest.mark.parametrize("last", [job("c", "a"), job("c", scorer="a"), job("c", "c")], ids=["then", "scorer", "itself"])
def test_the_command_that_would_close_a_circle_is_refused_and_says_which(last: JobSpec) -> None:
    view = make_view()
    for spec in (job("a", "b"), job("b", "c")):
        assert refusal(view, applying(spec)) is None
        carry_out(view, control(view, applying(spec), NOW_MS, NOW_MS))
    told = refusal(view, applying(last)) or ""
    assert "feed each other in a circle" in told
    assert refusal(view, applying(job("c", "d"))) is None, "a job behind the chain is welcome"


def test_a_circle_is_told_to_its_end() -> None:
    assert told_cycle(("a", "b")) == "jobs would feed each other in a circle: a -> b -> a"


def test_the_way_of_parts_begins_with_a_split_and_other_ways_are_the_shortest() -> None:
    found = {
        "a": [edge("a", "d"), edge("a", "b", split="$.output.parts")],
        "b": [edge("b", "c")],
        "c": [edge("c", "d")],
    }
    assert route(found, "a", "d", parts=False) == ("d",)
    assert route(found, "a", "d", parts=True) == ("b", "c", "d")
    assert route(found, "a", "x", parts=True) == ("x",), "no edge leads there any more"
