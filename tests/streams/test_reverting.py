"""Taking back and putting back: asked durably, settled once, in the order of commands; what was taken back stays so."""

import itertools
import json
from typing import Any

import pytest

from batchmill.schemas import codec
from batchmill.schemas.records import Committed, Control, Excluded
from batchmill.schemas.state import Meta
from batchmill.schemas.status import Status
from batchmill.streams import view as views
from batchmill.streams.committing import meet_verdict, note_down
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.controlling import control, refusal, sweep
from batchmill.streams.dead_lettering import redrive
from batchmill.streams.index import CHANGE_ROWS
from batchmill.streams.lifecycle import evolve
from batchmill.streams.ports import ChangeKind, SinkCapabilities, SinkOutcome, SinkResult
from batchmill.streams.reverting import (
    REQUESTS_MAX,
    Progress,
    change_command,
    change_of,
    command_body,
    current,
    is_waiting,
    next_cut,
    noted,
    settle_change,
    under_way,
)
from batchmill.streams.sinks import SINKS
from tests.simulation.sink import SimSink
from tests.streams.making import NOW_MS, carry_out, make_row
from tests.streams.test_committing import Bench

REVERT, REPLAY = ChangeKind.REVERT, ChangeKind.REPLAY
_ids = itertools.count()


class Desk(Bench):
    """A bench with a sink that keeps history, and an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = SimSink()
        self.sink: Any = self
        self.offset = 0

    def apply(self, write: Any) -> SinkResult:
        return self.ledger.apply([write])[0]

    def order(self, kind: ChangeKind, *, command_id: str | None = None, **named: Any) -> str:
        self.offset += 1
        name = command_id or f"command-{next(_ids)}"
        command = Control(
            command_id=name,
            command=kind,
            job="triage",
            version=None,
            body_json=command_body(**named),
            actor="me",
            issued_at_ms=NOW_MS,
        )
        assert refusal(self.view, command) is None
        carry_out(self.view, change_command(self.view, command, self.offset))
        return name

    def choose(self, *, limit: int = 100, sinks: Any = SINKS) -> Progress:
        (progress,) = under_way(self.view)
        carry_out(self.view, next_cut(self.view, CompiledJobs(), progress, sinks=sinks, limit=limit))
        return current(self.view, progress)

    def ask(self, progress: Progress) -> list[Any]:
        asked = [change_of(self.view, CompiledJobs(), progress, each)[1] for each in progress.asking]
        return list(zip(progress.asking, self.ledger.change(asked), strict=True))

    def settle(self, progress: Progress, answers: list[Any]) -> list[Any]:
        said: list[Any] = []
        for asked, result in answers:
            progress, orders = settle_change(self.view, progress, asked, result, sink="sqlite", now_ms=NOW_MS)
            said += carry_out(self.view, orders)
        carry_out(self.view, [noted(progress)])
        for record in said:
            assert codec.decode(codec.encode(record), type(record)) == record
        return said

    def work(self, **more: Any) -> list[Any]:
        """Rounds of the change effect until every command is finished."""
        said: list[Any] = []
        for _ in range(1_000):
            commands = under_way(self.view)
            if not commands:
                return said
            progress = commands[0] if commands[0].asking else self.choose(**more)
            said += self.settle(progress, self.ask(progress))
        raise AssertionError("a command never ends")

    def progress(self, name: str) -> Progress:
        row = views.meta(self.view, CHANGE_ROWS + name)
        assert row is not None
        return current(self.view, Progress(command_id=name, kind=REVERT, job="triage", order=0))

    def held(self) -> str | None:
        return self.ledger.output_of("ticket-1")

    def committed(self, body: str, label: str) -> str:
        name = self.event(body)
        self.answered(name, label)
        self.commit()
        assert self.life(name).status is Status.COMMITTED
        return name


def output(label: str) -> str:
    return json.dumps({"confidence": 0.9, "label": label}, separators=(",", ":"))


def test_a_revert_gives_the_target_what_the_commit_replaced_and_says_so() -> None:
    desk = Desk()
    first, second = desk.committed("a", "old"), desk.committed("b", "new")
    was = desk.life(second).commit_id
    desk.order(REVERT, requests=[second])
    (record,) = desk.work()
    assert desk.held() == output("old") == record.output_json
    assert (record.kind, record.reverts, record.previous_commit_id, record.removed) == ("revert", was, was, False)
    assert record.commit_id not in {was, desk.life(first).commit_id}
    assert (desk.life(second).status, desk.life(second).reverted) == (Status.VALIDATED, True)
    assert desk.life(first).status is Status.COMMITTED


def test_a_replay_puts_it_back_as_it_was() -> None:
    desk = Desk()
    desk.committed("a", "old")
    second = desk.committed("b", "new")
    before = desk.ledger.dump()
    desk.order(REVERT, requests=[second])
    desk.work()
    desk.order(REPLAY, requests=[second])
    (record,) = desk.work()
    assert desk.ledger.dump() == before
    assert (record.kind, record.reverts, record.output_json) == ("replay", desk.life(second).commit_id, output("new"))
    assert (desk.life(second).status, desk.life(second).reverted) == (Status.COMMITTED, False)


def test_a_revert_of_the_first_commit_leaves_nothing() -> None:
    desk = Desk()
    only = desk.committed("a", "old")
    desk.order(REVERT, requests=[only])
    (record,) = desk.work()
    assert (desk.held(), record.removed, record.output_json) == (None, True, "null")


def test_a_run_is_gone_through_in_cuts_and_only_its_own_commits_are_taken_back() -> None:
    desk = Desk()
    names = [desk.committed(f"a{number}", f"l{number}") for number in range(5)]
    for name in names[:3]:
        desk.view.put(evolve(desk.life(name), run_id="early"))
    for name in names[3:]:
        desk.view.put(evolve(desk.life(name), run_id="late"))
    command = desk.order(REVERT, run="late")
    desk.work(limit=1)
    found = desk.progress(command)
    assert (found.done, found.conflicts, found.finished) == (2, 0, True)
    assert desk.held() == output("l2")
    assert all(desk.life(name).status is Status.COMMITTED for name in names[:3])


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_run_that_wrote_a_target_many_times_goes_back_to_before_it_and_comes_back_whole(limit: int) -> None:
    desk = Desk()
    before = desk.committed("a", "before")
    desk.view.put(evolve(desk.life(before), run_id="other"))
    names = [desk.committed(f"b{number}", f"l{number}") for number in range(8)]
    after = desk.ledger.dump()
    revert = desk.order(REVERT, run=desk.life(names[0]).run_id)
    desk.work(limit=limit)
    assert desk.held() == output("before")
    assert (desk.progress(revert).done, desk.progress(revert).conflicts) == (8, 0)
    replay = desk.order(REPLAY, run=desk.life(names[0]).run_id)
    desk.work(limit=limit)
    assert desk.ledger.dump() == after
    assert (desk.progress(replay).done, desk.progress(replay).conflicts) == (8, 0)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_run_in_which_content_came_back_leaves_none_of_its_commits_and_comes_back_whole(limit: int) -> None:
    desk = Desk()
    desk.view.put(evolve(desk.life(desk.committed("z", "before")), run_id="other"))
    first, second = desk.committed("a", "A"), desk.committed("b", "B")
    for body in "abab":
        desk.event(body)
        desk.commit()
    after, run = desk.ledger.dump(), desk.life(first).run_id
    revert = desk.order(REVERT, run=run)
    told = desk.work(limit=limit)
    assert desk.held() == output("before")
    assert (len(told), desk.progress(revert).done, desk.progress(revert).conflicts) == (6, 6, 0)
    assert len({record.reverts for record in told}) == 6
    replay = desk.order(REPLAY, run=run)
    told = desk.work(limit=limit)
    assert desk.ledger.dump() == after
    assert {record.reverts for record in told} >= {desk.life(first).commit_id, desk.life(second).commit_id}
    assert desk.progress(replay).conflicts == 0


def test_an_earlier_commit_of_another_run_is_left_as_it_is() -> None:
    desk = Desk()
    first = desk.committed("a", "A")
    desk.view.put(evolve(desk.life(first), run_id="early"))
    second = desk.committed("b", "B")
    desk.order(REVERT, run=desk.life(second).run_id)
    desk.work()
    assert desk.held() == output("A")


def test_named_requests_in_any_order_are_taken_back_newest_first() -> None:
    for names in itertools.permutations(range(3)):
        desk = Desk()
        made = [desk.committed(f"b{number}", f"l{number}") for number in range(3)]
        desk.order(REVERT, requests=[made[number] for number in names])
        desk.work(limit=1)
        assert desk.held() is None


def test_a_commit_that_is_not_the_newest_of_its_target_is_a_conflict_and_told_by_name() -> None:
    desk = Desk()
    first, second = desk.committed("a", "old"), desk.committed("b", "new")
    command = desk.order(REVERT, requests=[first])
    assert desk.work() == []
    found = desk.progress(command)
    assert (found.conflicts, found.named) == (1, ((first, desk.life(second).commit_id),))
    assert desk.held() == output("new")
    assert desk.life(first).status is Status.COMMITTED


def test_after_a_crash_the_same_changes_are_asked_again_and_settled_once() -> None:
    desk = Desk()
    name = desk.committed("a", "old")
    desk.order(REVERT, requests=[name])
    progress = desk.choose()
    desk.ask(progress)  # and the process dies before anybody hears of it
    assert under_way(desk.view) == (progress,)
    answers = desk.ask(progress)
    assert [result.outcome for _, result in answers] == [SinkOutcome.ALREADY]
    assert [type(each) for each in desk.settle(progress, answers)] == [Committed]
    assert desk.settle(current(desk.view, progress), answers) == [], "an answer that comes twice is settled once"


def test_the_same_command_twice_is_one_and_another_like_it_finds_nothing_to_do() -> None:
    desk = Desk()
    name = desk.committed("a", "old")
    first = desk.order(REVERT, requests=[name])
    desk.work()
    desk.order(REVERT, command_id=first, requests=[name])
    assert under_way(desk.view) == ()
    second = desk.order(REVERT, requests=[name])
    assert desk.work() == []
    assert (desk.progress(first).done, desk.progress(second).done, desk.progress(second).already) == (1, 0, 1)


def test_a_write_in_doubt_is_waited_for_and_then_taken_back() -> None:
    desk = Desk()
    name = desk.event("a")
    desk.answered(name)
    (write,) = desk.intended()
    command = desk.order(REVERT, run=desk.life(name).run_id)
    progress = desk.choose()
    assert progress.todo == (name,)
    assert is_waiting(desk.view, progress)
    desk.settled(write, desk.apply(write))
    assert not is_waiting(desk.view, desk.progress(command))
    assert [each.kind for each in desk.work()] == ["revert"]
    assert desk.held() is None


def test_commands_are_carried_out_in_their_order() -> None:
    desk = Desk()
    name = desk.committed("a", "old")
    desk.order(REVERT, requests=[name], command_id="z")
    desk.order(REPLAY, requests=[name], command_id="a")
    assert [each.kind for each in desk.work(limit=1)] == ["revert", "replay"]
    assert desk.held() == output("old")


def test_what_cannot_be_taken_back_is_refused_with_the_reason() -> None:
    desk = Desk()
    name, waiting = desk.committed("a", "old"), desk.event("b")
    plain = {"sqlite": SinkCapabilities(compares=True, revertible=False)}
    command = desk.order(REVERT, requests=[name, waiting, "nobody"])
    desk.work(sinks=plain)
    found = desk.progress(command)
    assert (found.refused, found.done) == (2, 0)
    assert found.why is not None
    assert "keeps no history" in found.why


def test_an_answer_for_a_life_that_has_gone_on_is_published_and_moves_nothing() -> None:
    """The revert was on its way while a newer event had the life recalled."""
    desk = Desk()
    name = desk.committed("a", "old")
    desk.order(REVERT, requests=[name])
    progress = desk.choose()
    answers = desk.ask(progress)
    desk.view.put(evolve(desk.life(name), status=Status.VALIDATED, commit_id=None))
    (record,) = desk.settle(progress, answers)
    assert (record.kind, desk.life(name).reverted) == ("revert", False)


# -- what a reverted life does not do ----------------------------------------------------------------------------------


def taken_back() -> tuple[Desk, str]:
    desk = Desk()
    desk.committed("a", "old")
    name = desk.committed("b", "new")
    desk.order(REVERT, requests=[name])
    desk.work()
    return desk, name


def test_it_is_not_written_again_by_itself_nor_when_its_verdict_is_met_again() -> None:
    desk, name = taken_back()
    life = desk.life(name)
    assert life.verdict_offset is not None
    orders = meet_verdict(desk.view, desk.validated[life.verdict_offset], life.verdict_offset, NOW_MS)
    assert len(orders) == 1, "nobody is woken for it"
    carry_out(desk.view, orders)
    assert desk.commit() == []
    assert desk.held() == output("old")


def test_it_is_neither_cancelled_nor_swept_nor_redriven() -> None:
    desk, name = taken_back()
    cancel = Control(
        command_id="c", command="cancel", job="triage", version=None, body_json="{}", actor="me", issued_at_ms=NOW_MS
    )
    carry_out(desk.view, control(desk.view, cancel, NOW_MS + 1, NOW_MS))
    assert carry_out(desk.view, sweep(desk.view, "triage", NOW_MS)) == []
    assert redrive(desk.view, name, now_ms=NOW_MS) == []
    assert desk.commit() == []
    assert desk.life(name).reverted


def test_the_same_content_again_is_a_duplicate_and_leaves_it_reverted() -> None:
    desk, name = taken_back()
    assert desk.event("b") == name
    assert desk.commit() == []
    assert desk.life(name).reverted
    assert desk.held() == output("old")
    desk.order(REPLAY, requests=[name])
    desk.work()
    assert (desk.life(name).status, desk.held()) == (Status.COMMITTED, output("new"))


def test_a_newer_event_is_committed_as_ever_and_then_a_replay_is_a_conflict() -> None:
    desk, name = taken_back()
    third = desk.committed("c", "newest")
    assert desk.held() == output("newest")
    command = desk.order(REPLAY, requests=[name])
    assert desk.work() == []
    found = desk.progress(command)
    assert (found.conflicts, found.named[0][1]) == (1, desk.life(third).commit_id)
    assert desk.held() == output("newest")


def test_content_that_the_revert_brought_back_and_that_is_the_newest_again_is_committed_at_its_newer_rank() -> None:
    desk, name = taken_back()
    old = desk.event("a")
    (record,) = [each for each in desk.commit() if isinstance(each, Committed)]
    assert (record.request_id, desk.held()) == (old, output("old"))
    assert desk.life(name).reverted


def test_nothing_older_than_what_was_taken_back_gets_in() -> None:
    desk = Desk()
    older = desk.event("a")
    desk.answered(older, "old")
    (write,) = desk.intended()  # in doubt, and lost on the way
    newer = desk.event("b")
    desk.answered(newer, "new")
    (_, second) = sorted(desk.intended(), key=lambda each: each.seq)
    desk.settled(second, desk.apply(second))
    desk.order(REVERT, requests=[newer])
    desk.work()
    (said,) = desk.settled(write, desk.apply(write))
    assert isinstance(said, Excluded)
    assert desk.held() is None


def test_reverting_newest_first_goes_back_step_by_step_and_replaying_oldest_first_comes_back() -> None:
    desk = Desk()
    names = [desk.committed(body, body) for body in "abc"]
    shots = [desk.ledger.dump()]
    for name in reversed(names):
        desk.order(REVERT, requests=[name])
        desk.work()
        shots.append(desk.ledger.dump())
    assert desk.held() is None
    for name in names:
        shots.pop()
        desk.order(REPLAY, requests=[name])
        desk.work()
        assert desk.ledger.dump() == shots[-1]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"run":""}',
        '{"run":5}',
        '{"run":"r","requests":[]}',
        '{"requests":"x"}',
        '{"requests":[1]}',
        json.dumps({"requests": ["r"] * (REQUESTS_MAX + 1)}),
    ],
)
def test_a_command_with_a_strange_body_is_refused(body: str) -> None:
    desk = Desk()
    command = Control(
        command_id="c", command="revert", job="triage", version=None, body_json=body, actor="me", issued_at_ms=NOW_MS
    )
    assert refusal(desk.view, command) is not None


def test_only_so_many_finished_commands_are_remembered() -> None:
    desk = Desk()
    for _ in range(30):
        desk.order(REVERT, requests=["nobody"])
        desk.work()
    rows = [row for row in desk.view.rows(Meta.schema) if isinstance(row, Meta) and row.name.startswith(CHANGE_ROWS)]
    assert len(rows) == 20


def test_a_line_that_is_down_is_noted_once() -> None:
    desk = Desk()
    desk.view.put(make_row(desk.spec))
    carry_out(desk.view, note_down(desk.view, "sqlite", "OperationalError", NOW_MS))
    assert note_down(desk.view, "sqlite", "OperationalError", NOW_MS + 1) == []
