"""Raw events read again: each listed one is taken exactly once, whatever interrupts it, and nothing is paid twice."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.schemas.asking import LookupSpec, ToolsSpec
from batchmill.schemas.jobs import ChunkSpec, InputSpec, JobSpec, JudgeSpec, ModeSpec
from batchmill.schemas.records import Control, WorkItem
from batchmill.schemas.state import Arrival, Job, Life, Meta
from batchmill.schemas.status import ChunkState, Status
from batchmill.schemas.versions import version_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.controlling import control, refusal
from batchmill.streams.costing import parse_prices, write_prices
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.events import RawLimits
from batchmill.streams.index import RERUN_ROWS
from batchmill.streams.lifecycle import evolve
from batchmill.streams.normalizing import BENCHMARK_HEADER
from batchmill.streams.orders import Emit, Order
from batchmill.streams.queueing import arrive
from batchmill.streams.quoting import cost_of
from batchmill.streams.rereading import Reading, lacking, rerun_cut, write_cut
from batchmill.streams.rerunning import (
    COMMAND,
    QUEUED_MAX,
    REMEMBERED_MAX,
    TRIES_MAX,
    Fate,
    Kind,
    Line,
    Next,
    Part,
    Progress,
    RunState,
    current,
    line_of,
    next_of,
    put_off,
    read_line,
    rerun_command,
    start_body,
    steer_body,
    under_way,
)
from batchmill.streams.tooling import Found
from batchmill.streams.versioning import listed, promotion_of, tried_out
from batchmill.streams.view import MemoryView
from tests.streams.making import NOW_MS, answer, carry_out, life_of, make_raw, make_row, make_spec, make_view, take_in
from tests.streams.rows import make_chunk, make_life, make_source

PRICES = parse_prices('{"models": {"gpt-5-mini": {"input": "1", "output": "10"}}}')
READING = Reading(limits=RawLimits(), default_job=None, prices=PRICES)
JOBS = CompiledJobs()
SPEC = make_spec()
V1 = version_of(SPEC)
#: another question, another rule
ASKED = make_spec(system="You sort letters.")
RULED = make_spec(judge=JudgeSpec(categories={"label": ("fire", "water")}))
PARTITION = 3


def both(other: JobSpec, **changes: Any) -> Job:
    """The job in the first version, which tries out another one."""
    versions = {version_of(each): json.loads(each.to_json()) for each in (SPEC, other)}
    row = replace(listed(make_row(SPEC)), versions_json=json.dumps(versions))
    return replace(tried_out(row, version_of(other), 0), **changes)


def promote(view: MemoryView, version: str, number: int) -> None:
    command = Control(
        command_id=f"promote-{number}",
        command="promote",
        job="triage",
        version=version,
        body_json="{}",
        actor="me",
        issued_at_ms=NOW_MS,
    )
    assert refusal(view, command) is None
    carry_out(view, control(view, command, NOW_MS, NOW_MS))


def start(view: MemoryView, version: str = V1, *, at_ms: int = NOW_MS, **told: Any) -> list[Order]:
    body = start_body(**({"run": "r", "parts": {PARTITION: Part(uri="u", lines=told.pop("lines", 1))}} | told))
    command = Control(
        command_id=f"c-{body}",
        command=COMMAND,
        job="triage",
        version=version,
        body_json=body,
        actor="me",
        issued_at_ms=NOW_MS,
    )
    assert refusal(view, command) is None
    orders = rerun_command(view, command, PARTITION, at_ms)
    carry_out(view, orders)
    return orders


def steer(view: MemoryView, do: str, run: str = "r") -> None:
    body = steer_body(run, do)
    command = Control(
        command_id=f"{do}-{run}",
        command=COMMAND,
        job="triage",
        version=None,
        body_json=body,
        actor="me",
        issued_at_ms=NOW_MS,
    )
    assert refusal(view, command) is None
    carry_out(view, rerun_command(view, command, PARTITION, NOW_MS))


def the_run(view: MemoryView, run: str = "r") -> Progress:
    found = current(view, run)
    assert found is not None
    return found


def event(number: int, **changes: Any) -> RawRecord:
    raw = make_raw({"body": f"Ticket {number}."}, offset=number, at_ms=changes.pop("at_ms", NOW_MS))
    return replace(raw, key=f"s{number}".encode(), **changes)


def read_again(view: MemoryView, lines: list[tuple[Line | None, RawRecord | None]]) -> list[Any]:
    """One cut, carried out; what it emits arrives at the same task."""
    emitted = carry_out(
        view, rerun_cut(view, the_run(view), lines, size_bytes=1, jobs=JOBS, reading=READING, now_ms=NOW_MS)
    )
    for item in emitted:
        assert isinstance(item, WorkItem)
        assert item.replayed
        carry_out(view, arrive(view, item, 100, now_ms=NOW_MS + 5))
    return emitted


# -- exactly once ------------------------------------------------------------------------------------------------------


@given(st.data())
def test_each_listed_event_is_taken_once_whatever_cuts_crashes_and_pauses_come(data: st.DataObject) -> None:
    total = data.draw(st.integers(0, 30))
    view = make_view(both(ASKED))
    start(view, version_of(ASKED), aside=True, lines=total)
    taken: Counter[int] = Counter()
    for _ in range(400):
        if the_run(view).state is RunState.DONE:
            break
        move = data.draw(st.sampled_from(["cut", "cut", "crash", "pause", "resume"]))
        if move in {"pause", "resume"}:
            steer(view, move)
            continue
        progress = the_run(view)
        todo, orders = next_of(view, progress, JOBS)
        if todo is not Next.READ:
            carry_out(view, orders)
            continue
        count = min(data.draw(st.integers(1, 7)), total - progress.done)
        numbers = range(progress.done, progress.done + count)
        lines = [(Line(offset=number), event(number)) for number in numbers]
        orders = rerun_cut(view, progress, lines, size_bytes=count, jobs=JOBS, reading=READING, now_ms=NOW_MS)
        if move == "crash":
            continue  # nothing of it was committed
        taken.update(item.origin.offset for item in carry_out(view, orders))
    else:
        steer(view, "resume")
    if the_run(view).state is RunState.DONE:
        assert taken == Counter(range(total))
    assert max(taken.values(), default=1) == 1
    assert the_run(view).at_byte == the_run(view).done == sum(taken.values())


def test_a_line_is_read_as_it_was_written_and_anything_else_is_none() -> None:
    for line in (Line(offset=0), Line(offset=2**40, epoch=3, known="k" * 52)):
        assert read_line(line_of(line).rstrip(b"\n")) == line
    for text in (b"", b"{}", b"[1]", b"[-1,0,null]", b'["1",0,null]', b"[1,0,2]", b"[true,0,null]", b"nonsense"):
        assert read_line(text) is None
    assert line_of("request") == b"request\n"


# -- what it is asked as -----------------------------------------------------------------------------------------------


def test_a_replay_under_the_same_version_asks_and_changes_nothing() -> None:
    view = make_view(make_row(SPEC))
    item = take_in(view, event(1))
    answer(view, item.request_id, '{"label":"fire","confidence":1}')
    before = life_of(view, item.request_id)
    start(view)
    (again,) = read_again(view, [(Line(offset=1, known=before.ask_key), event(1))])
    assert again.request_id == item.request_id
    assert life_of(view, item.request_id) == before
    assert len(view.rows(Life.schema)) == 1
    assert the_run(view).counts == {Fate.KNOWN: 1}


def test_a_stale_record_is_asked_under_the_version_in_force_and_outranks_its_former_answer() -> None:
    view = make_view(both(ASKED))
    item = take_in(view, event(1))
    promote(view, version_of(ASKED), 1)
    start(view, version_of(ASKED))
    (again,) = read_again(view, [(Line(offset=1), event(1))])
    assert (again.seq, again.promotion, again.aside, again.run_id) == (item.seq, 1, False, "replay:r")
    assert life_of(view, again.request_id).status is Status.QUEUED
    assert life_of(view, item.request_id).aside
    assert the_run(view).counts == {Fate.ASKED: 1}


def test_what_is_read_again_is_asked_about_now_and_so_is_not_late() -> None:
    view = make_view(both(ASKED))
    start(view, version_of(ASKED), aside=True)
    (item,) = read_again(view, [(Line(offset=1), event(1, at_ms=NOW_MS))])
    assert life_of(view, item.request_id).queued_at_ms == NOW_MS + 5


def test_aside_nothing_stands_in_front_and_the_source_is_left_alone() -> None:
    view = make_view(both(ASKED))
    item = take_in(view, event(1))
    start(view, version_of(ASKED), aside=True)
    (again,) = read_again(view, [(Line(offset=1), event(1))])
    assert (again.aside, again.promotion) == (True, 0)
    assert life_of(view, again.request_id).aside
    assert not life_of(view, item.request_id).aside


def test_a_fresh_start_is_a_promotion_of_the_same_version_and_asks_everything_anew() -> None:
    view = make_view(make_row(SPEC))
    item = take_in(view, event(1))
    start(view, fresh=True, epoch=4)
    (again,) = read_again(view, [(Line(offset=1, epoch=4), event(1))])
    job = view.get(Job.schema, "triage")
    assert isinstance(job, Job)
    assert (job.version, promotion_of(job, V1)) == (V1, 1)
    assert (again.version, again.epoch, again.promotion) == (V1, 4, 1)
    assert again.request_id != item.request_id
    assert life_of(view, item.request_id).aside


def test_a_fresh_measurement_aside_promotes_nothing() -> None:
    view = make_view(make_row(SPEC))
    start(view, fresh=True, aside=True, epoch=4)
    job = view.get(Job.schema, "triage")
    assert isinstance(job, Job)
    assert promotion_of(job, V1) == 0


@pytest.mark.parametrize(
    ("line", "raw", "fate"),
    [
        (None, None, Fate.UNREADABLE),
        (Line(offset=1), None, Fate.GONE),
        (Line(offset=1), event(1, value=b"{"), Fate.UNUSABLE),
        (Line(offset=1), event(1, headers=(("batchmill-job", b"other"),)), Fate.FOREIGN),
        (Line(offset=1), event(1, headers=((BENCHMARK_HEADER, b"v"), ("batchmill-job", b"triage"))), Fate.FOREIGN),
        (Line(offset=1), event(1, at_ms=NOW_MS - 10), Fate.CANCELLED),
    ],
)
def test_what_cannot_be_asked_is_counted_and_makes_no_letter(
    line: Line | None, raw: RawRecord | None, fate: Fate
) -> None:
    view = make_view(make_row(SPEC, cancelled_before_ms=NOW_MS - 5))
    start(view)
    assert read_again(view, [(line, raw)]) == []
    assert the_run(view).counts == {fate: 1}


def test_an_event_that_waits_to_be_taken_up_for_the_first_time_is_left_to_that() -> None:
    view = make_view(make_row(SPEC))
    start(view)
    view.put(Arrival(job="triage", waiting_for="job_resumed", since_ms=1, origin=event(1).origin))
    assert read_again(view, [(Line(offset=1), event(1))]) == []
    assert the_run(view).counts == {Fate.WAITING: 1}


def test_a_dead_letter_that_the_filter_takes_by_now_gets_its_life() -> None:
    view = make_view(make_row(make_spec(given=InputSpec(required=("$.body",)))))
    start(view, version_of(make_spec()))
    (item,) = read_again(view, [(Line(offset=1), event(1))])
    assert life_of(view, item.request_id).status is Status.QUEUED


def test_only_rules_changed_the_stored_answer_is_found_and_nothing_is_sent() -> None:
    view = make_view(both(RULED))
    item = take_in(view, event(1))
    answer(view, item.request_id, '{"label":"fire","confidence":1}')
    promote(view, version_of(RULED), 1)
    start(view, version_of(RULED), parts={PARTITION: Part(uri="u", lines=1, max_nanos=0)})
    known = life_of(view, item.request_id).ask_key
    (again,) = read_again(view, [(Line(offset=1, known=known), event(1))])
    assert again.ask_key == known
    assert (the_run(view).state, the_run(view).most_nanos) == (RunState.RUNNING, 0)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_task_stops_in_front_of_the_event_that_might_exceed_its_part() -> None:
    view = make_view(both(ASKED))
    compiled = JOBS.of(both(ASKED), version_of(ASKED))
    assert compiled is not None
    start(view, version_of(ASKED), aside=True, lines=9)
    (probe,) = read_again(view, [(Line(offset=0), event(0))])
    _, most = cost_of(probe.route, probe.tokens_estimate, compiled, PRICES)
    assert most is not None
    part = Part(uri="u", lines=9, max_nanos=3 * most)
    start(view, version_of(ASKED), aside=True, run="limited", parts={PARTITION: part})
    lines = [(Line(offset=number), event(number)) for number in range(9)]
    orders = rerun_cut(view, the_run(view, "limited"), lines, size_bytes=9, jobs=JOBS, reading=READING, now_ms=NOW_MS)
    assert sum(isinstance(order, Emit) for order in orders) == 3
    carry_out(view, orders)
    after = the_run(view, "limited")
    assert (after.state, after.done, after.most_nanos) == (RunState.OVER_COST, 3, 3 * most)


def test_a_question_without_a_price_is_over_any_limit() -> None:
    spec = make_spec(prices_json=write_prices(parse_prices('{"models": {}}')))
    view = make_view(make_row(spec))
    start(view, parts={PARTITION: Part(uri="u", lines=1, max_nanos=10**12)})
    assert read_again(view, [(Line(offset=1), event(1))]) == []
    assert the_run(view).state is RunState.OVER_COST
    assert "no price" in the_run(view).note


def test_it_reads_no_further_while_much_of_the_version_waits_to_be_sent() -> None:
    view = make_view(make_row(make_spec(mode=ModeSpec(chunk=ChunkSpec(max_count=10)))))
    start(view)
    assert next_of(view, the_run(view), JOBS)[0] is Next.READ
    chunk, _ = make_chunk([make_life(version=V1)], ChunkState.SEALED)
    chunk = replace(chunk, members=20)
    view.put(chunk)
    assert next_of(view, the_run(view), JOBS) == (Next.WAIT, [])
    view.put(replace(chunk, state=ChunkState.OPEN))
    assert next_of(view, the_run(view), JOBS)[0] is Next.READ
    for number in range(QUEUED_MAX):
        view.put(make_life(number, version=V1))
    assert next_of(view, the_run(view), JOBS) == (Next.WAIT, [])


def test_a_part_that_is_not_there_is_looked_for_and_then_given_up() -> None:
    view = make_view(make_row(SPEC))
    start(view)
    for _ in range(TRIES_MAX):
        assert the_run(view).state is RunState.RUNNING
        carry_out(view, put_off(the_run(view), "its list is gone"))
    assert the_run(view).state is RunState.FAILED
    assert under_way(view) == []


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_run_of_a_name_is_started_once() -> None:
    view = make_view(make_row(SPEC))
    start(view, fresh=True, epoch=1)
    assert start(view, fresh=True, epoch=2, parts={PARTITION: Part(uri="other", lines=9)}) == []
    job = view.get(Job.schema, "triage")
    assert isinstance(job, Job)
    assert promotion_of(job, V1) == 1
    assert the_run(view).part.uri == "u"


def test_a_task_without_a_part_is_done_and_a_tick_that_was_not_started_says_why() -> None:
    view = make_view(make_row(SPEC))
    start(view, parts={7: Part(uri="u", lines=1)})
    start(view, run="tick", parts={}, skipped="the job was paused", fresh=True)
    assert the_run(view).state is RunState.DONE
    assert (the_run(view, "tick").state, the_run(view, "tick").note) == (RunState.SKIPPED, "the job was paused")
    assert under_way(view) == []


def test_a_cancelled_job_ends_its_replays_and_a_paused_one_holds_them() -> None:
    view = make_view(make_row(SPEC, paused=True))
    start(view, at_ms=NOW_MS)
    assert next_of(view, the_run(view), JOBS) == (Next.WAIT, [])
    view.put(make_row(SPEC, cancelled_before_ms=NOW_MS - 1))
    assert next_of(view, the_run(view), JOBS)[0] is Next.READ
    view.put(make_row(SPEC, cancelled_before_ms=NOW_MS))
    steer(view, "pause")
    todo, orders = next_of(view, the_run(view), JOBS)
    carry_out(view, orders)
    assert (todo, the_run(view).state) == (Next.END, RunState.CANCELLED)


@pytest.mark.parametrize("aside", [False, True])
def test_another_promotion_overtakes_a_run_in_front_and_none_aside(*, aside: bool) -> None:
    view = make_view(both(ASKED))
    start(view, aside=aside)
    promote(view, version_of(ASKED), 1)
    todo, orders = next_of(view, the_run(view), JOBS)
    carry_out(view, orders)
    assert (the_run(view).state is RunState.OVERTAKEN) is (todo is Next.END) is (not aside)


def test_a_run_that_is_over_is_not_steered_any_more() -> None:
    view = make_view(make_row(SPEC))
    start(view)
    steer(view, "cancel")
    steer(view, "resume")
    assert the_run(view).state is RunState.CANCELLED


@pytest.mark.parametrize(
    ("version", "body", "told"),
    [
        (V1, "[]", "JSON object"),
        (V1, "{}", "`run`"),
        (V1, '{"run": "a b"}', "`run`"),
        (V1, '{"run": "r", "do": "jump"}', "`do`"),
        ("nope", '{"run": "r", "parts": {}}', "not applied"),
        (version_of(ASKED), '{"run": "r", "parts": {}}', "not in force"),
        (V1, '{"run": "r"}', "`parts`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": 1, "lines": 2}}}', "`parts`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": "u", "lines": 2, "max_nanos": 1.5}}}', "`parts`"),
        (V1, '{"run": "r", "kind": "dance", "parts": {}}', "`kind`"),
        (V1, '{"run": "r", "kind": "write", "aside": true, "parts": {}}', "`kind`"),
        (V1, '{"run": "r", "do": []}', "`do`"),
        (V1, '{"run": "r", "do": {}}', "`do`"),
        (V1, '{"run": "r", "kind": [], "parts": {}}', "`kind`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": "u", "lines": -1}}}', "`parts`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": "u", "lines": 1, "per_second": 0}}}', "`parts`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": "u", "lines": 1, "per_second": NaN}}}', "`parts`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": "u", "lines": 1, "per_second": Infinity}}}', "`parts`"),
        (V1, f'{{"run": "r", "parts": {{"0": {{"uri": "u", "lines": 1, "per_second": {10**400}}}}}}}', "`parts`"),
        (V1, '{"run": "r", "parts": {"0": {"uri": "u", "lines": 1, "fresh_tools": []}}}', "`parts`"),
        (V1, f'{{"run": "r", "parts": {{"0": {{"uri": "{"u" * 10**6}", "lines": 1}}}}}}', "`parts`"),
        (V1, f'{{"run": "r", "parts": {{}}, "skipped": "{"no" * 10**6}"}}', "`skipped`"),
        (V1, '{"run": "r", "parts": {}, "skipped": [1]}', "`skipped`"),
    ],
)
def test_a_command_that_cannot_be_obeyed_is_refused(version: str, body: str, told: str) -> None:
    command = Control(
        command_id="c", command=COMMAND, job="triage", version=version, body_json=body, actor="me", issued_at_ms=1
    )
    found = refusal(make_view(both(ASKED)), command)
    assert found is not None
    assert told in found
    assert refusal(make_view(), command) is not None


def test_of_very_many_runs_the_oldest_that_is_over_is_forgotten() -> None:
    view = make_view(make_row(SPEC))
    start(view, run="first", at_ms=NOW_MS)  # still under way
    for number in range(REMEMBERED_MAX + 5):
        start(view, run=f"n{number}", parts={}, at_ms=NOW_MS + number)
    names = {row.key.removeprefix(RERUN_ROWS) for row in view.rows(Meta.schema)}
    assert "first" in names
    assert "n0" not in names
    assert len(names) <= REMEMBERED_MAX


# -- writing again -----------------------------------------------------------------------------------------------------


def written(view: MemoryView, number: int, **changes: Any) -> Life:
    life = make_life(number, version=V1, status=Status.COMMITTED, commit_id=f"c{number}", **changes)
    view.put(life)
    view.put(make_source(life, committed_request_id=life.request_id, committed_seq=1, committed_promotion=0))
    return life


def test_what_is_committed_is_written_once_more_at_a_new_rank_and_nothing_is_asked() -> None:
    view = make_view(make_row(SPEC))
    life, aside, unsettled = (written(view, number) for number in range(3))
    view.put(evolve(aside, aside=True))
    view.put(evolve(unsettled, status=Status.VALIDATED))
    requests = [life.request_id, aside.request_id, unsettled.request_id, "unknown"]
    start(view, kind=Kind.WRITE, lines=4)
    assert next_of(view, the_run(view), JOBS)[0] is Next.READ
    orders = write_cut(view, the_run(view), requests, size_bytes=4, now_ms=NOW_MS)
    assert carry_out(view, orders) == []
    again = life_of(view, life.request_id)
    assert (again.status, again.promotion, again.commit_id) == (Status.VALIDATED, 1, None)
    assert the_run(view).counts == {Fate.WRITTEN: 1, Fate.LEFT: 3}


def test_a_cut_that_is_repeated_writes_nothing_twice() -> None:
    view = make_view(make_row(SPEC))
    life = written(view, 1)
    start(view, kind=Kind.WRITE)
    carry_out(view, write_cut(view, the_run(view), [life.request_id], size_bytes=1, now_ms=NOW_MS))
    view.put(evolve(life_of(view, life.request_id), status=Status.COMMITTED, commit_id="again"))
    carry_out(view, write_cut(view, the_run(view), [life.request_id], size_bytes=1, now_ms=NOW_MS))
    assert life_of(view, life.request_id).commit_id == "again"


# -- what is looked up -------------------------------------------------------------------------------------------------

LOOKUP = LookupSpec(source="shop", sql="SELECT name FROM items WHERE body = :body", params={"body": "$.body"})
LOOKING = replace(SPEC, ask=replace(SPEC.ask, tools=ToolsSpec(lookup=LOOKUP)))


def looked_up_again(view: MemoryView, run: str, found: str) -> WorkItem:
    """The event, read again in `run`, its source saying `found` if it is asked."""
    progress, line, raw = the_run(view, run), Line(offset=1), event(1)
    asked = lacking(view, progress, [(line, raw)], {}, jobs=JOBS, reading=READING).get(1, ())
    answers = Found()
    for question in asked:
        answers = answers.answered(question, found)
    held = {1: answers} if asked else {}
    orders = rerun_cut(view, progress, [(line, raw)], size_bytes=1, jobs=JOBS, reading=READING, held=held, now_ms=1)
    (item,) = carry_out(view, orders)
    assert isinstance(item, WorkItem)
    return item


def test_what_was_looked_up_for_an_event_is_looked_up_again_only_where_that_is_wanted() -> None:
    view, version = make_view(both(LOOKING)), version_of(LOOKING)
    for run, fresh in (("first", False), ("again", False), ("anew", True), ("after", False)):
        part = Part(uri="u", lines=1, fresh_tools=fresh)
        start(view, version, run=run, aside=True, parts={PARTITION: part})
    first = looked_up_again(view, "first", "old")
    assert looked_up_again(view, "again", "never asked").request_id == first.request_id
    anew = looked_up_again(view, "anew", "new")
    assert json.loads(anew.input_json)["tools"] == {"lookup": "new"}
    assert looked_up_again(view, "after", "never asked").request_id == anew.request_id


def test_of_a_version_that_was_rejected_nothing_is_asked_until_it_is_applied_again() -> None:
    body = start_body(run="r", parts={}, aside=True)
    version = version_of(ASKED)
    command = Control(
        command_id="c", command=COMMAND, job="triage", version=version, body_json=body, actor="me", issued_at_ms=1
    )
    assert refusal(make_view(both(ASKED)), command) is None
    assert "rejected" in (refusal(make_view(both(ASKED, shadows_json="{}")), command) or "")
