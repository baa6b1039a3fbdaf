"""Writing downstream: intended before asked, newest rank wins in any order, a doubt is asked again under its own id."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas import codec
from batchmill.schemas.jobs import CommitSpec, PlaceSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Committed, DeadLetter, Excluded, Verdict
from batchmill.schemas.state import Life, Source
from batchmill.schemas.status import Status
from batchmill.streams import view as views
from batchmill.streams.committing import (
    Intent,
    Terms,
    commit_id_of,
    inside_write,
    intend,
    line_of,
    meet_verdict,
    place_of,
    settle,
    write_of,
)
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.lifecycle import evolve
from batchmill.streams.limiting import Share, counted, counts_of, go
from batchmill.streams.orders import Wake
from batchmill.streams.ports import SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.sinks import SINKS
from batchmill.streams.validating import validate
from tests.streams.making import (
    NOW_MS,
    answer,
    carry_out,
    life_of,
    make_raw,
    make_row,
    make_spec,
    make_view,
    take_in,
)

TERMS = Terms(sinks=SINKS, share=Share(0, 1))


class MemorySink:
    """Compare-and-set on rank with a history, as a sink must do it."""

    def __init__(self) -> None:
        self.rows: dict[str, SinkWrite] = {}
        self.history: dict[str, str | None] = {}

    def apply(self, write: SinkWrite) -> SinkResult:
        if write.commit_id in self.history:
            return self._result(write, SinkOutcome.ALREADY, self.history[write.commit_id])
        held = self.rows.get(write.target_key)
        if held is not None and (held.seq, held.promotion) >= (write.seq, write.promotion):
            return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.STALE, held_commit_id=held.commit_id)
        self.history[write.commit_id] = None if held is None else held.commit_id
        self.rows[write.target_key] = write
        return self._result(write, SinkOutcome.APPLIED, self.history[write.commit_id])

    def _result(self, write: SinkWrite, outcome: SinkOutcome, previous: str | None) -> SinkResult:
        return SinkResult(commit_id=write.commit_id, outcome=outcome, previous_commit_id=previous)


class Bench:
    """One task up to its sink; bodies of verdicts are kept where the log would keep them."""

    def __init__(self, **changes: Any) -> None:
        self.spec = make_spec(**changes)
        self.view = make_view(make_row(self.spec))
        self.sink = MemorySink()
        self.validated: list[Verdict] = []
        self.raw_offset = 0

    def event(self, body: str) -> str:
        self.raw_offset += 1
        return take_in(self.view, make_raw({"body": body}, offset=self.raw_offset)).request_id

    def answered(self, request_id: str, label: str = "fire") -> None:
        result = answer(self.view, request_id, f'{{"label":"{label}","confidence":0.9}}')
        self._publish(carry_out(self.view, validate(self.view, result, 11, jobs=CompiledJobs(), now_ms=NOW_MS)))

    def _publish(self, records: list[Any]) -> None:
        for record in records:
            assert codec.decode(codec.encode(record), type(record)) == record
            if isinstance(record, Verdict):
                self.validated.append(record)
                carry_out(self.view, meet_verdict(self.view, record, len(self.validated) - 1, NOW_MS))

    def life(self, request_id: str) -> Life:
        return life_of(self.view, request_id)

    def intended(self) -> list[SinkWrite]:
        cut = intend(self.view, CompiledJobs(), TERMS, now_ms=NOW_MS, limit=100)
        self.said = carry_out(self.view, cut.orders)
        return [self.write(life) for life in cut.lives]

    def write(self, life: Life) -> SinkWrite:
        assert life.verdict_offset is not None
        return write_of(life, self.validated[life.verdict_offset], place_of(self.view, CompiledJobs(), life))

    def settled(self, write: SinkWrite, result: SinkResult) -> list[Any]:
        orders = settle(self.view, write, result, sink="sqlite", now_ms=NOW_MS)
        said = carry_out(self.view, orders)
        for record in said:
            assert codec.decode(codec.encode(record), type(record)) == record
        return said

    def commit(self) -> list[Any]:
        """Rounds of the commit effect until it has nothing left."""
        said: list[Any] = []
        while writes := self.intended():
            said += self.said
            for write in writes:
                said += self.settled(write, self.sink.apply(write))
        return said + self.said

    @property
    def source(self) -> Source:
        row = views.source(self.view, "triage", "ticket-1")
        assert row is not None
        return row


def test_a_validated_life_is_intended_then_written_then_committed() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    (write,) = bench.intended()
    life = bench.life(name)
    assert (life.status, life.commit_id) == (Status.VALIDATED, write.commit_id), "durable before the sink is asked"
    assert (write.table, write.target_key, write.seq, write.promotion) == ("triage", "ticket-1", life.seq, 0)
    assert write.output_json == '{"confidence":0.9,"label":"fire"}'
    (committed,) = bench.settled(write, bench.sink.apply(write))
    assert isinstance(committed, Committed)
    assert (committed.commit_id, committed.previous_commit_id, committed.reverts) == (write.commit_id, None, None)
    assert committed.origin == life.origin
    assert bench.life(name).status is Status.COMMITTED
    assert (bench.source.committed_request_id, bench.source.committed_seq) == (name, life.seq)


def test_the_transaction_that_commits_says_that_other_jobs_have_yet_to_follow() -> None:
    for fires in (False, True):
        bench = Bench()
        name = bench.event("a")
        bench.answered(name)
        (write,) = bench.intended()
        result = bench.sink.apply(write)
        orders = settle(bench.view, write, result, sink="sqlite", now_ms=NOW_MS, fires=fires)
        carry_out(bench.view, orders)
        assert (bench.life(name).fires, Wake("then") in orders) == (fires, fires)
        assert settle(bench.view, write, result, sink="sqlite", now_ms=NOW_MS, fires=fires) == [], "once"


def test_a_life_whose_verdict_was_not_met_yet_waits() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    bench.view.put(evolve(bench.life(name), verdict_offset=None))
    assert bench.intended() == []


def test_a_verdict_on_an_answer_the_life_no_longer_has_is_passed_over() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    bench.view.put(evolve(bench.life(name), output_sha256="0" * 64, verdict_offset=None))
    assert meet_verdict(bench.view, bench.validated[0], 5, NOW_MS) == []
    bench.view.put(evolve(bench.life(name), status=Status.COMMITTED))
    assert meet_verdict(bench.view, bench.validated[0], 5, NOW_MS) == []


def test_the_wrong_body_is_never_written() -> None:
    bench = Bench()
    first, second = bench.event("a"), bench.event("b")
    bench.answered(second)
    (write,) = bench.intended()
    life = bench.life(second)
    assert write.request_id == second != first
    place = place_of(bench.view, CompiledJobs(), life)
    with pytest.raises(AssertionError, match="another request"):
        write_of(evolve(life, request_id=first), bench.validated[0], place)
    with pytest.raises(AssertionError, match="another answer"):
        write_of(evolve(life, output_sha256="0" * 64), bench.validated[0], place)
    with pytest.raises(AssertionError, match="not intended"):
        write_of(evolve(life, commit_id=None), bench.validated[0], place)


def test_a_crash_after_the_sink_ends_in_one_commit_with_the_same_id() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    (write,) = bench.intended()
    bench.sink.apply(write)  # and the process dies before anybody hears of it
    (again,) = bench.intended()
    assert again == write
    result = bench.sink.apply(again)
    assert result.outcome is SinkOutcome.ALREADY
    (committed,) = bench.settled(again, result)
    assert committed.commit_id == write.commit_id
    assert bench.settled(again, result) == [], "an answer that comes twice is settled once"
    assert len(bench.sink.history) == 1


def test_a_paused_job_commits_nothing_but_what_is_in_doubt() -> None:
    bench = Bench()
    doubtful = bench.event("a")
    bench.answered(doubtful)
    bench.intended()
    bench.view.put(make_row(bench.spec, paused=True))
    (write,) = bench.intended()
    assert write.request_id == doubtful
    bench.settled(write, bench.sink.apply(write))
    assert bench.intended() == []


def test_a_held_life_of_a_paused_job_commits_when_it_is_resumed() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    bench.view.put(make_row(bench.spec, paused=True))
    assert bench.commit() == []
    assert bench.life(name).status is Status.VALIDATED
    bench.view.put(make_row(bench.spec))
    assert [type(record) for record in bench.commit()] == [Committed]


def test_a_cancelled_life_ends_before_it_is_intended_and_not_after() -> None:
    bench = Bench()
    first = bench.event("a")
    bench.answered(first)
    bench.view.put(make_row(bench.spec, cancelled_before_ms=NOW_MS))
    (excluded,) = bench.commit()
    assert isinstance(excluded, Excluded)
    assert (excluded.reason, bench.life(first).status) == (Reason.CANCELLED, Status.FAILED_TERMINAL)
    assert bench.sink.rows == {}

    bench = Bench()
    doubtful = bench.event("a")
    bench.answered(doubtful)
    bench.intended()
    bench.view.put(make_row(bench.spec, cancelled_before_ms=NOW_MS))
    assert [type(record) for record in bench.commit()] == [Committed]


def test_an_older_event_whose_answer_comes_late_is_not_written() -> None:
    bench = Bench()
    older = bench.event("a")
    result = answer(bench.view, older, '{"label":"old","confidence":1}')
    newer = bench.event("b")
    bench.answered(newer, "new")
    bench._publish(carry_out(bench.view, validate(bench.view, result, 12, jobs=CompiledJobs(), now_ms=NOW_MS)))
    bench.commit()
    assert bench.sink.rows["ticket-1"].request_id == newer
    assert (bench.life(older).status, bench.life(older).reason) == (Status.FAILED_TERMINAL, Reason.SUPERSEDED)


def test_a_write_in_doubt_that_the_sink_finds_old_is_excluded() -> None:
    bench = Bench()
    older = bench.event("a")
    bench.answered(older, "old")
    (write,) = bench.intended()  # in doubt
    newer = bench.event("b")
    bench.answered(newer, "new")
    bench.sink.rows["ticket-1"] = SinkWrite(
        **{name: getattr(write, name) for name in write.__slots__} | {"seq": write.seq + 1, "commit_id": "n"}
    )
    (excluded,) = bench.settled(write, bench.sink.apply(write))
    assert isinstance(excluded, Excluded)
    assert (excluded.reason, excluded.detail) == (Reason.SUPERSEDED, "the sink holds a newer rank, commit n")


def test_a_value_the_sink_will_never_take_is_dead_lettered_and_can_be_redriven() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    (write,) = bench.intended()
    refused = SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.REFUSED, error="CHECK constraint failed: label")
    (letter,) = bench.settled(write, refused)
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.stage) == (Reason.SINK_REFUSED, "committer")
    assert letter.error == "sqlite refused it: CHECK constraint failed: label"


def test_content_that_becomes_the_newest_again_is_committed_again_at_its_newer_rank() -> None:
    bench = Bench()
    first = bench.event("A")
    bench.answered(first, "a")
    bench.commit()
    second = bench.event("B")
    bench.answered(second, "b")
    bench.commit()
    assert bench.sink.rows["ticket-1"].request_id == second
    assert bench.event("A") == first
    (committed,) = bench.commit()
    assert bench.sink.rows["ticket-1"].request_id == first
    assert committed.previous_commit_id is not None
    assert bench.life(first).status is Status.COMMITTED
    assert bench.source.committed_request_id == first


def test_the_newest_content_is_not_lost_when_its_older_write_was_in_doubt() -> None:
    """A is in doubt, the sink takes B, A becomes the newest again: the doubt is settled, then A goes once more."""
    bench = Bench()
    first = bench.event("A")
    bench.answered(first, "a")
    bench.intended()
    second = bench.event("B")
    bench.answered(second, "b")
    cut = intend(bench.view, CompiledJobs(), TERMS, now_ms=NOW_MS, limit=100)
    carry_out(bench.view, cut.orders)
    assert bench.event("A") == first
    newest_first = sorted(cut.lives, key=lambda life: -life.seq)
    for life in newest_first:
        write = bench.write(life)
        bench.settled(write, bench.sink.apply(write))
    bench.commit()
    assert bench.sink.rows["ticket-1"].request_id == first
    assert bench.life(first).status is Status.COMMITTED


def test_an_older_write_that_is_settled_after_a_newer_one_does_not_recall_it() -> None:
    """Both are in doubt after a crash, and the answers come newest first."""
    bench = Bench()
    first = bench.event("A")
    bench.answered(first, "a")
    (older,) = bench.intended()
    bench.sink.apply(older)
    second = bench.event("B")
    bench.answered(second, "b")
    (newer,) = [write for write in bench.intended() if write.request_id == second]
    bench.settled(newer, bench.sink.apply(newer))
    (said,) = bench.settled(older, bench.sink.apply(older))
    assert said.request_id == first
    assert bench.source.committed_request_id == second
    assert bench.life(second).status is Status.COMMITTED
    assert bench.commit() == []


def test_a_cut_has_a_limit_and_the_next_begins_behind_it() -> None:
    bench = Bench()
    for number in range(5):
        raw = make_raw({"body": str(number)}, offset=100 + number, key=b"t-%d" % number)
        name = take_in(bench.view, raw).request_id
        bench.answered(name)
        bench.view.put(evolve(bench.life(name), updated_at_ms=number))
    cut = intend(bench.view, CompiledJobs(), TERMS, now_ms=NOW_MS, limit=2)
    assert (len(cut.lives), cut.after is not None) == (2, True)
    rest = intend(bench.view, CompiledJobs(), TERMS, now_ms=NOW_MS, limit=5, after=cut.after)
    assert (len(rest.lives), rest.after) == (3, None)
    assert not {life.request_id for life in cut.lives} & {life.request_id for life in rest.lives}


def test_the_same_request_at_another_rank_is_another_commit() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    life = bench.life(name)
    ids = {
        commit_id_of(evolve(life, seq=seq, promotion=promotion)) for seq, promotion in itertools.product((1, 2), (0, 1))
    }
    assert len(ids) == 4


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.sampled_from(["event", "answer", "intend", "apply", "lose"])), max_size=25
    )
)
def test_in_whatever_order_things_happen_the_sink_ends_with_the_newest_content(steps: list[tuple[str, str]]) -> None:
    """`apply` asks the sink for an open write and settles it; `lose` asks, and the answer is lost with the process."""
    bench = Bench()
    names: dict[str, str] = {}
    newest = None
    for body, step in steps:
        if step == "event":
            names[body] = bench.event(body)
            newest = names[body]
        elif step == "answer" and body in names and bench.life(names[body]).status is Status.QUEUED:
            if bench.life(names[body]).result_offset is None:
                bench.answered(names[body], body)
        elif step in {"intend", "apply", "lose"}:
            for write in bench.intended():
                if step == "intend":
                    continue
                result = bench.sink.apply(write)
                if step == "apply":
                    bench.settled(write, result)
    for name in names.values():
        life = bench.life(name)
        if life.status is Status.QUEUED:
            bench.view.put(evolve(life, result_offset=None))
            bench.answered(name, "late")
    bench.commit()
    if newest is not None:
        assert bench.sink.rows["ticket-1"].request_id == newest
        assert bench.life(newest).status is Status.COMMITTED
    settled = {Status.COMMITTED, Status.FAILED_TERMINAL}
    assert all(bench.life(name).status in settled for name in names.values())


# -- a sink that cannot compare ----------------------------------------------------------------------------------------

WEBHOOK = PlaceSpec(sink="webhook", table="triage")


class Overwriting:
    """Takes whatever comes; remembers the ranks in which it came."""

    def __init__(self) -> None:
        self.ranks: list[tuple[int, int]] = []
        self.last: str | None = None

    def apply(self, write: SinkWrite) -> SinkResult:
        self.ranks.append((write.seq, write.promotion))
        self.last = write.request_id
        return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.APPLIED)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.sampled_from(["event", "answer", "intend", "apply", "lose", "miss"])),
        max_size=25,
    )
)
def test_a_sink_that_cannot_compare_is_asked_in_the_order_of_ranks_whatever_happens(
    steps: list[tuple[str, str]],
) -> None:
    """`miss`: the write never arrives; `lose`: it arrives, and the answer is lost; both leave it in doubt."""
    bench, sink = Bench(place=WEBHOOK), Overwriting()
    names: dict[str, str] = {}
    newest = None
    for body, step in steps:
        if step == "event":
            newest = names[body] = bench.event(body)
        elif step == "answer" and body in names and bench.life(names[body]).status is Status.QUEUED:
            if bench.life(names[body]).result_offset is None:
                bench.answered(names[body], body)
        elif step in {"intend", "apply", "lose", "miss"}:
            writes = bench.intended()
            assert len(writes) <= 1, "at most one write of a source is in doubt"
            for write in writes if step in {"apply", "lose"} else ():
                result = sink.apply(write)
                if step == "apply":
                    bench.settled(write, result)
    for name in names.values():
        life = bench.life(name)
        if life.status is Status.QUEUED:
            bench.view.put(evolve(life, result_offset=None))
            bench.answered(name, "late")
    bench.sink = sink  # type: ignore[assignment]
    bench.commit()
    assert sink.ranks == sorted(sink.ranks), "an older one never follows a newer one"
    if newest is not None:
        assert sink.last == newest
        assert bench.source.committed_request_id == newest


@pytest.mark.parametrize("order", list(itertools.permutations(["intend older", "answer newer", "settle"])))
def test_an_older_write_in_doubt_and_a_newer_one_are_asked_one_after_the_other(order: tuple[str, ...]) -> None:
    bench, sink = Bench(place=WEBHOOK), Overwriting()
    older = bench.event("a")
    bench.answered(older, "old")
    newer = None
    for step in order:
        if step == "answer newer":
            newer = bench.event("b")
            bench.answered(newer, "new")
        for write in bench.intended() if step != "answer newer" else ():
            result = sink.apply(write)
            if step == "settle":
                bench.settled(write, result)
    bench.sink = sink  # type: ignore[assignment]
    bench.commit()
    assert (sink.last, sink.ranks == sorted(sink.ranks)) == (newer, True)


def test_a_write_in_doubt_that_its_source_has_outrun_elsewhere_is_excluded_and_not_asked() -> None:
    """It was begun before the job was placed into a sink that cannot compare."""
    bench = Bench(place=WEBHOOK)
    older = bench.event("a")
    bench.answered(older, "old")
    (write,) = bench.intended()
    newer = bench.event("b")
    bench.answered(newer, "new")
    bench.view.put(
        evolve_source(bench.source, committed_request_id=newer, committed_seq=write.seq + 1, committed_promotion=0)
    )
    assert bench.intended() == []
    assert [type(each) for each in bench.said][:1] == [Excluded]
    assert bench.life(older).reason is Reason.SUPERSEDED


def evolve_source(source: Source, **changes: Any) -> Source:
    return Source(**{name: changes.get(name, getattr(source, name)) for name in source.__slots__})


# -- inside, undo, lines -----------------------------------------------------------------------------------------------


def cut_of(bench: Bench, **terms: Any) -> Intent:
    told = {"sinks": SINKS, "share": Share(0, 1), **terms}
    cut = intend(bench.view, CompiledJobs(), Terms(**told), now_ms=NOW_MS, limit=100)
    carry_out(bench.view, cut.orders)
    return cut


def test_inside_a_life_is_intended_and_settled_in_one_go_and_nothing_is_ever_in_doubt() -> None:
    bench = Bench(place=PlaceSpec(sink="none", table="triage"))
    name = bench.event("a")
    bench.answered(name)
    cut = cut_of(bench)
    assert (cut.orders, cut.lives, [life.request_id for life in cut.inside]) == ((), (), [name])
    place = place_of(bench.view, CompiledJobs(), cut.inside[0])
    found = inside_write(bench.view, cut.inside[0], bench.validated[0], place, NOW_MS)
    assert found is not None
    write, intended = found
    carry_out(bench.view, intended)
    (record,) = bench.settled(write, SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.APPLIED))
    assert (type(record), bench.life(name).status) == (Committed, Status.COMMITTED)


def test_inside_nothing_is_written_of_a_life_that_changed_while_its_verdict_was_read() -> None:
    bench = Bench(place=PlaceSpec(sink="none", table="triage"))
    name = bench.event("a")
    bench.answered(name)
    (life,) = cut_of(bench).inside
    place = place_of(bench.view, CompiledJobs(), life)
    for spoilt in (make_row(bench.spec, paused=True), make_row(bench.spec, cancelled_before_ms=NOW_MS)):
        bench.view.put(spoilt)
        assert inside_write(bench.view, life, bench.validated[0], place, NOW_MS) is None
    bench.view.put(make_row(bench.spec))
    bench.view.put(evolve(life, updated_at_ms=NOW_MS + 1))
    assert inside_write(bench.view, life, bench.validated[0], place, NOW_MS) is None


def test_a_reviewed_answer_is_written_when_it_can_no_longer_be_undone() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    bench.view.put(evolve(bench.life(name), due_at_ms=NOW_MS + 5))
    cut = cut_of(bench)
    assert (cut.lives, cut.due_ms, cut.waiting) == ((), NOW_MS + 5, {("sqlite", "undo"): 1})
    bench.view.put(evolve(bench.life(name), due_at_ms=NOW_MS))
    assert len(cut_of(bench).lives) == 1


def test_what_goes_into_a_sink_that_is_down_is_left_alone_in_doubt_or_not() -> None:
    bench = Bench()
    name = bench.event("a")
    bench.answered(name)
    assert cut_of(bench, down={"sqlite"}).waiting == {("sqlite", "sink"): 1}
    assert bench.life(name).commit_id is None
    assert len(cut_of(bench, down={"postgres"}).lives) == 1
    assert cut_of(bench, down={"sqlite"}).lives == ()


def test_a_sink_on_trial_is_asked_for_what_is_in_doubt_and_for_nothing_new() -> None:
    bench = Bench()
    lives = [bench_life(bench, number) for number in range(2)]
    (doubtful,) = intend(bench.view, CompiledJobs(), TERMS, now_ms=NOW_MS, limit=1).lives
    bench.view.put(doubtful)
    cut = cut_of(bench, trial={"sqlite"})
    assert [life.request_id for life in cut.lives] == [doubtful.request_id]
    assert cut.waiting == {("sqlite", "sink"): len(lives) - 1}


def bench_life(bench: Bench, number: int) -> Life:
    raw = make_raw({"body": str(number)}, offset=100 + number, key=b"t-%d" % number)
    name = take_in(bench.view, raw).request_id
    bench.answered(name)
    return bench.life(name)


def test_each_topic_of_kafka_is_held_by_itself() -> None:
    assert line_of(PlaceSpec(sink="kafka", table="a")) != line_of(PlaceSpec(sink="kafka", table="b"))
    assert line_of(PlaceSpec(sink="sqlite", table="a")) == line_of(PlaceSpec(sink="sqlite", table="b"))


# -- limits ------------------------------------------------------------------------------------------------------------


def write_all(bench: Bench, **terms: Any) -> int:
    """One cut, applied and settled as the effect does it; how many were written."""
    cut = cut_of(bench, **terms)
    done = []
    for life in cut.lives:
        write = bench.write(life)
        result = bench.sink.apply(write)
        done += [(record, result.changed) for record in bench.settled(write, result)]
    carry_out(bench.view, counted(bench.view, done))
    return len(cut.lives)


def test_commits_stop_where_the_job_says_and_go_on_when_an_operator_says_so() -> None:
    bench = Bench(commit=CommitSpec(stop_after=3))
    for number in range(8):
        bench_life(bench, number)
    job = views.job(bench.view, "triage")
    assert job is not None
    assert [write_all(bench), write_all(bench)] == [3, 0]
    assert counts_of(bench.view, "triage", job.version).held == "count"
    assert cut_of(bench).waiting == {("sqlite", "count"): 5}
    carry_out(bench.view, go(bench.view, job, {"more": 1}))
    assert [write_all(bench), write_all(bench)] == [1, 0]
    carry_out(bench.view, go(bench.view, job, {}))
    assert [write_all(bench), write_all(bench)] == [3, 0]


def test_writes_in_doubt_use_up_the_allowance_and_are_counted_once_when_they_are_settled() -> None:
    bench = Bench(commit=CommitSpec(stop_after=2))
    for number in range(3):
        bench_life(bench, number)
    assert len(cut_of(bench).lives) == 2  # and the sink does not answer
    again = cut_of(bench)
    assert (len(again.lives), again.waiting) == (2, {("sqlite", "doubt"): 1})
    assert write_all(bench) == 2
    job = views.job(bench.view, "triage")
    assert job is not None
    assert counts_of(bench.view, "triage", job.version).commits == 2


def test_a_limit_that_was_raised_lets_go_what_it_held() -> None:
    bench = Bench(commit=CommitSpec(stop_after=1))
    for number in range(3):
        bench_life(bench, number)
    assert [write_all(bench), write_all(bench)] == [1, 0]
    bench.view.put(make_row(make_spec(commit=CommitSpec(stop_after=3))))
    assert write_all(bench) == 2


def test_a_rate_lets_through_what_it_has_saved_up_and_says_when_there_is_more() -> None:
    bench = Bench(commit=CommitSpec(per_second=2))
    for number in range(5):
        bench_life(bench, number)
    first = cut_of(bench, now_s=10.0)
    assert (len(first.lives), first.due_s) == (0, 0.5)
    second = cut_of(bench, now_s=11.0, buckets=first.buckets)
    assert (len(second.lives), second.waiting) == (2, {("sqlite", "rate"): 3})
    two_tasks = cut_of(bench, now_s=10.0, share=Share(0, 2))
    assert two_tasks.due_s == 1.0
