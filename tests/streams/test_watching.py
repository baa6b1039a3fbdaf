"""Whose records are watched: versions, pauses and resumes, and what a successor remembers."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.records import Result
from batchmill.schemas.state import Job
from batchmill.schemas.status import Outcome
from batchmill.schemas.versions import version_of
from batchmill.streams.watching import Alarm, ScoreNow, Watches
from tests.schemas.samples import sample
from tests.streams.making import NOW_MS, make_row, make_spec
from tests.streams.test_drifting import item, verdict

TASKS = 3
OLD = make_spec(drift=DriftSpec(field="label", reference=100, window=50, policy="pause"))
NEW = replace(OLD, ask=replace(OLD.ask, system="Sort the tickets anew."))


def a_row(*specs: JobSpec, **changes: Any) -> Job:
    versions = {version_of(spec): json.loads(spec.to_json()) for spec in specs}
    return make_row(specs[-1], versions_json=json.dumps(versions), **changes)


def watches(*specs: JobSpec) -> Watches:
    made = Watches()
    tell(made, a_row(*specs))
    return made


def tell(facts: Watches, row: Job) -> None:
    for partition in range(TASKS):
        facts.row(partition, row)


def answer(version: str) -> Result:
    return replace(sample(Result), job="triage", version=version, answered_by="provider", outcome=Outcome.SUCCEEDED)


def hear(facts: Watches, labels: Iterable[str], spec: JobSpec = OLD) -> list[Alarm]:
    return facts.hear([(verdict(label, version=version_of(spec)), at) for at, label in enumerate(labels)])


def an_alarm(spec: JobSpec = OLD) -> Watches:
    facts = watches(spec)
    (alarm,) = hear(facts, ["a", "b"] * 50 + ["a"] * 50, spec)
    assert (alarm.job, alarm.version, alarm.moved.signal) == ("triage", version_of(spec), DriftSignal.CLASSES)
    return facts


def test_an_alarm_pauses_every_task_once() -> None:
    facts = an_alarm()
    told = facts.pauses()
    assert [(each.partition, each.job, each.after) for each in told] == [(p, "triage", "command-1") for p in range(3)]
    assert {each.reason[:22] for each in told} == {"drift: classes moved (P"[:22]}
    for each in told:
        facts.paused(each)
    assert facts.pauses() == []


def test_a_pause_that_an_operators_word_overtook_is_told_again() -> None:
    facts = an_alarm()
    for each in facts.pauses():
        facts.paused(each)
    tell(facts, a_row(OLD, last_command_id="command-2"))
    assert [each.after for each in facts.pauses()] == ["command-2"] * TASKS


def test_a_resume_begins_a_new_window_and_keeps_the_reference() -> None:
    facts = an_alarm()
    facts.row(0, a_row(OLD, paused=True, pause_reason="drift: x", updated_at_ms=NOW_MS + 1))
    assert facts.pauses() == []  # one task has paused: `Books` tells the others
    assert hear(facts, ["a"] * 500) == []
    tell(facts, a_row(OLD, last_command_id="command-2", updated_at_ms=NOW_MS + 2))
    assert hear(facts, ["a"] * 49) == []
    assert [alarm.moved.look for alarm in hear(facts, ["a"])] == [2]
    assert [each.after for each in facts.pauses()] == ["command-2"] * TASKS


def test_a_pause_that_was_resumed_while_nobody_was_in_charge_is_not_told_again() -> None:
    before = an_alarm()
    told, (kept,) = before.pauses(), before.changes().values()
    after = watches(OLD)
    after.row(0, a_row(OLD, paused=True, pause_reason=told[0].reason, updated_at_ms=NOW_MS + 1))
    tell(after, a_row(OLD, last_command_id="command-2", updated_at_ms=NOW_MS + 2))
    after.restore("triage", kept or "")
    assert after.pauses() == []
    assert [alarm.moved.look for alarm in hear(after, ["a"] * 50)] == [2]


def test_a_warning_pauses_nobody() -> None:
    warning = replace(OLD, drift=DriftSpec(field="label", reference=100, window=50))
    facts = an_alarm(warning)
    assert facts.pauses() == []
    (classes,) = [score for score in facts.scores() if score.signal is DriftSignal.CLASSES]
    assert classes == ScoreNow("triage", DriftSignal.CLASSES, classes.psi, moved=True)
    assert classes.psi > 0.2


def test_a_successor_counts_on_where_its_predecessor_was_known_to_be() -> None:
    before, labels = watches(OLD), ["a", "b"] * 50 + ["a"] * 30
    hear(before, labels)
    kept = before.changes()
    before.remembered(kept)
    assert before.changes() == {}
    after = watches(OLD)
    for job, text in kept.items():
        assert text is not None
        after.restore(job, text)
    assert hear(after, ["a"] * 20) == hear(before, ["a"] * 20) != []
    assert after.changes() == before.changes()
    assert [each.reason for each in after.pauses()] == [each.reason for each in before.pauses()] != []


def test_each_version_has_its_own_reference_unless_it_is_held_against_the_one_before() -> None:
    for against, expected in (("first", []), ("current", [DriftSignal.CLASSES])):
        assert OLD.drift is not None
        drift = replace(OLD.drift, against=against)
        old, new = replace(OLD, drift=drift), replace(NEW, drift=drift)
        facts = watches(old)
        hear(facts, ["a", "b"] * 50, old)
        tell(facts, a_row(old, new, updated_at_ms=NOW_MS + 1))
        assert [alarm.moved.signal for alarm in hear(facts, ["a"] * 50, new)] == expected


def test_late_answers_of_an_older_version_are_not_counted_for_the_new_one() -> None:
    facts = watches(OLD)
    hear(facts, ["a", "b"] * 50)
    tell(facts, a_row(OLD, NEW, updated_at_ms=NOW_MS + 1))
    hear(facts, ["b"] * 30, OLD)
    told = json.loads(facts.changes()["triage"] or "")
    assert told["version"] == version_of(NEW)
    assert told["versions"][version_of(NEW)]["tracks"] == {}
    assert told["versions"][version_of(OLD)]["tracks"]["classes"]["window"] == {"b": 30}


def test_what_a_version_says_while_it_is_tried_out_is_not_counted_for_it() -> None:
    promoted = [{"version": version_of(OLD), "number": 0, "at_ms": 0, "command_id": "1"}]
    facts = Watches()
    tell(facts, a_row(NEW, OLD, promotions_json=json.dumps(promoted)))
    tried = {"version": version_of(NEW), "aside": True}
    told = [replace(verdict("b"), **tried), replace(item("x"), **tried), answer(version_of(NEW))]
    assert facts.knows(told[0])
    assert facts.hear([(record, 1) for record in told * 200]) == []
    promoted.append({"version": version_of(NEW), "number": 1, "at_ms": 500, "command_id": "2"})
    tell(facts, a_row(OLD, NEW, promotions_json=json.dumps(promoted), updated_at_ms=NOW_MS + 1))
    facts.hear([(answer(version_of(NEW)), at_ms) for at_ms in (499, 500, 501)])
    facts.hear([(replace(verdict("b"), **tried), 600), (verdict("b", version=version_of(NEW)), 600)])
    ((_, text),) = facts.changes().items()
    counted = json.loads(text or "")["versions"][version_of(NEW)]["tracks"]
    assert sum(counted["failures"]["reference"].values()) == 2
    assert counted["classes"]["reference"] == {"b": 1}


def test_an_aside_verdict_is_not_the_versions_in_force_either() -> None:
    facts = watches(OLD)
    hear(facts, ["a", "b"] * 50)
    aside = replace(verdict("a", version=version_of(OLD)), aside=True)
    assert facts.hear([(aside, at) for at in range(500)]) == []
    assert [alarm.moved.look for alarm in hear(facts, ["a"] * 50)] == [1]


def test_other_terms_begin_anew_and_another_policy_does_not() -> None:
    assert OLD.drift is not None
    facts = watches(OLD)
    hear(facts, ["a"] * 30)
    tell(facts, a_row(replace(OLD, drift=replace(OLD.drift, policy="warn", psi_above=0.3)), updated_at_ms=NOW_MS + 1))
    hear(facts, ["a"] * 5)
    assert _reference(facts) == {"a": 35}
    tell(facts, a_row(replace(OLD, drift=replace(OLD.drift, reference=80)), updated_at_ms=NOW_MS + 2))
    hear(facts, ["b"])
    assert _reference(facts) == {"b": 1}


def _reference(facts: Watches) -> Any:
    return json.loads(facts.changes()["triage"] or "")["versions"][version_of(OLD)]["tracks"]["classes"]["reference"]


def test_at_most_four_versions_are_remembered_the_newest() -> None:
    specs = [replace(OLD, ask=replace(OLD.ask, system=f"Prompt {n}.")) for n in range(6)]
    facts = watches(specs[0])
    for number, spec in enumerate(specs):
        tell(facts, a_row(*specs[: number + 1], updated_at_ms=NOW_MS + number))
        hear(facts, ["a"], spec)
    told = json.loads(facts.changes()["triage"] or "")
    assert set(told["versions"]) == {version_of(spec) for spec in specs[2:]}


def test_a_job_that_is_watched_no_more_is_forgotten() -> None:
    facts = watches(OLD)
    hear(facts, ["a"])
    tell(facts, a_row(replace(OLD, drift=None), updated_at_ms=NOW_MS + 1))
    assert facts.changes() == {"triage": None}
    assert facts.since_ms is None
    assert hear(facts, ["a"] * 200) == []


def test_a_record_of_a_version_that_was_not_heard_of_is_told_apart() -> None:
    facts = watches(OLD)
    assert facts.knows(verdict("a", version=version_of(OLD)))
    assert not facts.knows(verdict("a", version=version_of(NEW)))
    assert not facts.knows(replace(item("x"), job="other"))
    assert facts.since_ms == NOW_MS
    assert Watches().since_ms is None


# -- crashes -----------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans()), max_size=12)
#: (counts by job, how far they go)
Saved = tuple[dict[str, str | None], int]


def together(facts: Watches, before: Saved, at: int) -> Saved:
    """What one transaction writes."""
    return {**before[0], **facts.changes()}, at


def positions_only(facts: Watches, before: Saved, at: int) -> Saved:
    return before[0], at


def counts_only(facts: Watches, before: Saved, at: int) -> Saved:
    return {**before[0], **facts.changes()}, before[1]


def killed(labels: list[str], steps: list[tuple[int, bool, bool]], save: Any) -> Watches:
    """Read so many, perhaps save, perhaps be killed and succeeded; and the rest in the end."""
    facts, saved, at = watches(OLD), ({}, 0), 0
    for many, saves, dies in steps:
        hear(facts, labels[at : at + many])
        at = min(len(labels), at + many)
        if saves:
            saved = save(facts, saved, at)
        if dies:
            facts, at = watches(OLD), saved[1]
            for job, text in saved[0].items():
                facts.restore(job, text)
    hear(facts, labels[at:])
    return facts


def totals(facts: Watches) -> int:
    """All that was counted so far, told by counting one more."""
    hear(facts, ["a"])
    track = json.loads(facts.changes()["triage"] or "")["versions"][version_of(OLD)]["tracks"]["classes"]
    return sum(track["reference"].values()) + sum(track["window"].values()) + 50 * track["looks"] - 1


@given(st.integers(1, 400), STEPS)
def test_whoever_is_killed_every_record_is_counted_once(many: int, steps: list[tuple[int, bool, bool]]) -> None:
    labels = ["a", "b"] * (many // 2) + ["a"]
    assert totals(killed(labels, steps, together)) == len(labels)


@pytest.mark.parametrize(("save", "difference"), [(positions_only, -40), (counts_only, 40)])
def test_counts_and_positions_that_are_not_saved_together_lose_or_double(save: Any, difference: int) -> None:
    labels = ["a", "b"] * 60
    assert totals(killed(labels, [(40, True, True)], save)) == len(labels) + difference
