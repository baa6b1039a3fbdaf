"""The law of sinks: what outranks everything a target ever held is written, and what is held can be taken back."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from batchmill.streams.holding import NO_ORDER, Past, Target, change, write
from batchmill.streams.ports import ChangeKind, SinkChange, SinkOutcome, SinkWrite

APPLIED, ALREADY, STALE, CONFLICT = SinkOutcome.APPLIED, SinkOutcome.ALREADY, SinkOutcome.STALE, SinkOutcome.CONFLICT


def a_write(seq, promotion=1):
    return SinkWrite(
        commit_id=f"c{seq}-{promotion}",
        table="t",
        target_key="k",
        seq=seq,
        promotion=promotion,
        request_id="r",
        source_id="s",
        job="j",
        version="v",
        run_id="run",
        output_json="{}",
        output_sha256="0",
    )


def after(*ranks):
    target = Target()
    for seq, promotion in ranks:
        target = write(target, a_write(seq, promotion), f"sha-{seq}").target
    return target


def a_change(kind, commit, order=1):
    return SinkChange(kind=kind, commit_id=commit, table="t", target_key="k", order=order)


ranks = st.tuples(st.integers(0, 5), st.integers(1, 3))


@given(st.lists(ranks, min_size=1))
def test_whatever_the_order_the_highest_rank_is_held_and_the_chain_has_no_gap(given_ranks):
    target = after(*given_ranks)
    seq, promotion = max(given_ranks)
    assert (target.held_commit_id, target.newest) == (f"c{seq}-{promotion}", (seq, promotion))
    assert set(chain(target)) == set(target.past)


def chain(target):
    at = target.held_commit_id
    while at is not None:
        yield at
        at = target.past[at].previous_commit_id


@given(st.lists(ranks, min_size=1), st.data())
def test_a_write_that_was_taken_is_already_for_ever(given_ranks, data):
    target = after(*given_ranks)
    commit = data.draw(st.sampled_from(sorted(target.past)))
    seq, promotion = (int(part) for part in commit[1:].split("-"))
    again = write(target, a_write(seq, promotion), "any")
    assert (again.result.outcome, again.past, again.target) == (ALREADY, None, target)
    assert again.result.previous_commit_id == target.past[commit].previous_commit_id


@given(st.lists(ranks, min_size=1))
def test_reverting_all_from_the_newest_back_leaves_nothing_and_replaying_all_brings_it_back(given_ranks):
    target = before = after(*given_ranks)
    commits = list(chain(target))
    for commit in commits:
        done = change(target, a_change(ChangeKind.REVERT, commit, 1))
        assert (done.result.outcome, done.moves) == (APPLIED, True)
        target = done.target
    assert (target.held_commit_id, target.newest) == (None, before.newest)
    for commit in reversed(commits):
        done = change(target, a_change(ChangeKind.REPLAY, commit, 2))
        assert done.result.outcome is APPLIED
        target = done.target
    assert target.held_commit_id == before.held_commit_id
    assert not any(past.reverted for past in target.past.values())


def test_after_a_revert_nothing_older_than_what_was_taken_back_may_enter():
    target = change(after((1, 1), (5, 1)), a_change(ChangeKind.REVERT, "c5-1")).target
    assert write(target, a_write(3), "x").result.outcome is STALE
    assert write(target, a_write(5, 2), "x").result.previous_commit_id == "c1-1"


def test_a_change_says_whether_the_value_is_another_one():
    target = replace(after((1, 1), (2, 1)), past={})
    for previous, changed, expected in ((None, False, True), ("c1-1", False, False), ("c1-1", True, True)):
        past = Past(commit_id="c2-1", previous_commit_id=previous, changed=changed)
        asked = replace(target, past={"c2-1": past})
        assert change(asked, a_change(ChangeKind.REVERT, "c2-1")).result.changed is expected


def test_the_newer_of_two_commands_counts_even_when_it_found_nothing_to_do():
    target = change(after((1, 1)), a_change(ChangeKind.REVERT, "c1-1", 3)).target
    noted = change(target, a_change(ChangeKind.REVERT, "c1-1", 7))
    assert (noted.result.outcome, noted.moves) == (ALREADY, False)
    late = change(noted.target, a_change(ChangeKind.REPLAY, "c1-1", 5))
    assert (late.result.outcome, late.past) == (CONFLICT, None)


def test_a_commit_nobody_touched_takes_the_first_command_of_a_log():
    assert NO_ORDER < 0
    assert change(after((1, 1)), a_change(ChangeKind.REVERT, "c1-1", 0)).result.outcome is APPLIED
