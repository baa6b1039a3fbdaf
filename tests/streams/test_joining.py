"""Parts in any order, twice, late or never: their whole is asked once or is told of, and each ends in one place."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.schemas import codec
from batchmill.schemas.asking import LookupSpec, ToolsSpec
from batchmill.schemas.ids import log_seq
from batchmill.schemas.jobs import InputSpec, JobSpec
from batchmill.schemas.promotion import JoinSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import DeadLetter, Excluded, Origin, RawEvent, WorkItem
from batchmill.schemas.state import Arrival, Job, Meta
from batchmill.schemas.versions import version_of
from batchmill.streams.assembling import again, assemble, offsets_again, offsets_of
from batchmill.streams.compiling import CompiledJobs
from batchmill.streams.dead_lettering import RawRecord, raw_of
from batchmill.streams.events import RawLimits, decoded
from batchmill.streams.items import Standing, item_of
from batchmill.streams.joining import due, group_of, joined_of
from batchmill.streams.lineage import PARENT, PART, Part, written
from batchmill.streams.looking_up import Lookups
from batchmill.streams.normalizing import normalize, revisit
from batchmill.streams.orders import Delete, Emit, Order, Put, Wake
from batchmill.streams.unusable import Unusable
from tests.streams.making import NOW_MS, carry_out, make_row, make_spec, make_view

WHOLE, LATER = "a" * 32, "b" * 32
DEADLINE_MS = 60_000
JOBS = CompiledJobs()


def joining(on_missing: Any = "dead", **changes: Any) -> JobSpec:
    join = JoinSpec(deadline_seconds=DEADLINE_MS / 1_000, on_missing=on_missing)
    return make_spec(user="{{ input.parts }} {{ input.missing }}", join=join, **changes)


class Desk:
    """A task that reads raw events of a joining job, and everything it has written."""

    def __init__(self, spec: JobSpec, *, limits: RawLimits | None = None) -> None:
        self.view = make_view(make_row(spec))
        self.spec = spec
        self.limits = limits or RawLimits()
        self.now_ms = NOW_MS
        self.raw: list[RawRecord] = []
        self.written: list[Any] = []
        self.gone: set[int] = set()

    def part(
        self, number: int, of: int, says: Any = None, *, whole: str = WHOLE, rank: int = 1, outer: Any = ()
    ) -> list[Order]:
        told = {"n": number} if says is None else {"n": number, "says": says}
        part = written([Part(number, of, whole, (rank, 0)), *outer])
        event = RawEvent(
            job=self.spec.job,
            source_id=f"doc#{number}",
            payload_json=orjson.dumps(told).decode(),
            metadata={PARENT: "c" * 32, PART: part or ""},
        )
        return self.reads(codec.encode(event))

    def reads(self, value: bytes) -> list[Order]:
        at = Origin(generation=1, partition=3, offset=len(self.raw), at_ms=self.now_ms)
        self.raw.append(RawRecord(origin=at, key=b"doc", value=value))
        return self.takes(self.raw[-1])

    def takes(self, raw: RawRecord) -> list[Order]:
        return self.carry(normalize(self.view, raw, jobs=JOBS, now_ms=self.now_ms, limits=self.limits))

    def carry(self, orders: list[Order]) -> list[Order]:
        self.written += carry_out(self.view, orders)
        return orders

    def looks(self, *, after_ms: int = 0) -> None:
        self.now_ms += after_ms
        for group in due(self.view, self.spec.job, self.now_ms, 10):
            found = {at: self.raw[at] for at in offsets_of(self.view, group) if at not in self.gone}
            orders = assemble(self.view, group, found, jobs=JOBS, now_ms=self.now_ms, limits=self.limits)
            self.carry(orders)

    def job(self, **changes: Any) -> None:
        row = self.view.get(Job.schema, self.spec.job)
        assert isinstance(row, Job)
        self.view.put(replace(row, **changes))

    @property
    def items(self) -> list[WorkItem]:
        return [each for each in self.written if isinstance(each, WorkItem)]

    @property
    def ends(self) -> list[tuple[int, Reason]]:
        ended = [each for each in self.written if isinstance(each, Excluded | DeadLetter)]
        return sorted((each.origin.offset, each.reason) for each in ended)

    @property
    def waiting(self) -> list[int]:
        return sorted(row.origin.offset for row in self.view.rows(Arrival.schema) if isinstance(row, Arrival))

    def places(self) -> Counter[int]:
        """In how many places each raw record is."""
        own = [item.origin.offset for item in self.items]
        return Counter([*own, *(offset for offset, _ in self.ends), *self.waiting])

    def each_is_in_one_place(self) -> bool:
        return self.places() == Counter(range(len(self.raw)))

    @property
    def groups(self) -> list[str]:
        return [row.key for row in self.view.rows(Meta.schema) if row.key.startswith("parts/")]


def said(item: WorkItem) -> tuple[list[int], list[int]]:
    told = orjson.loads(item.input_json)
    return [part["n"] for part in told["parts"]], told["missing"]


def test_the_last_part_makes_the_whole_one_request_about_all_parts_in_order() -> None:
    desk = Desk(joining())
    desk.part(3, 3)
    desk.part(1, 3)
    assert desk.waiting == [0, 1]
    assert Wake("arrivals") in desk.part(2, 3)
    desk.looks()
    (item,) = desk.items
    assert said(item) == ([1, 2, 3], [])
    assert (item.source_id, item.target_key, item.parent, item.part) == ("doc", "doc", WHOLE, None)
    assert (item.origin.offset, item.seq) == (2, log_seq(1, 2)), "it stands where its last part stood"
    assert desk.ends == [(0, Reason.JOINED), (1, Reason.JOINED)]
    assert {each.of_request_id for each in desk.written if isinstance(each, Excluded)} == {item.request_id}
    assert (desk.waiting, desk.groups) == ([], [])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 6).flatmap(lambda of: st.tuples(st.just(of), st.permutations([*range(1, of + 1)] * 2))), st.data()
)
def test_any_order_and_repetition_gives_exactly_one_request(drawn: tuple[int, list[int]], data: st.DataObject) -> None:
    of, order = drawn
    order = order[: data.draw(st.integers(0, len(order)))] + list(range(1, of + 1))
    desk = Desk(joining())
    for number in order:
        desk.part(number, of)
        if data.draw(st.booleans()):
            desk.looks(after_ms=data.draw(st.integers(0, 100)))
        assert desk.each_is_in_one_place()
    desk.looks()
    assert [said(item) for item in desk.items] == [([*range(1, of + 1)], [])]
    assert {reason for _, reason in desk.ends} <= {Reason.JOINED}
    assert desk.each_is_in_one_place()
    assert (desk.waiting, desk.groups) == ([], [])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["ask", "dead"]),
    st.lists(
        st.tuples(
            st.integers(1, 4),  # number
            st.sampled_from([None, "other", "third"]),
            st.sampled_from([(WHOLE, 1), (LATER, 2)]),
            st.sampled_from([0, 0, 0, DEADLINE_MS // 2, DEADLINE_MS]),
        ),
        max_size=24,
    ),
)
def test_whatever_comes_of_several_wholes_each_record_is_in_exactly_one_place(
    on_missing: str, steps: list[Any]
) -> None:
    desk = Desk(joining(on_missing))
    newest: dict[int, Any] = {}
    for number, says, (whole, rank), pause_ms in steps:
        desk.part(number, 4, says, whole=whole, rank=rank)
        if whole == LATER:
            newest[number] = says
        desk.looks(after_ms=pause_ms)
        assert desk.each_is_in_one_place()
    desk.looks(after_ms=DEADLINE_MS)
    desk.looks()
    assert desk.each_is_in_one_place()
    assert (desk.waiting, desk.groups) == ([], [])
    if on_missing == "dead":
        assert all(said(item) == ([1, 2, 3, 4], []) for item in desk.items)
    if len(newest) == 4 and on_missing == "ask":
        last = [item for item in desk.items if item.parent == LATER][-1]
        assert {part["n"]: part.get("says") for part in orjson.loads(last.input_json)["parts"]} == newest
    joined = joined_of(desk.view, "triage", "doc")
    if joined is not None:
        assert joined.request_id in {item.request_id for item in desk.items}


@pytest.mark.parametrize("on_missing", ["ask", "dead"])
def test_at_the_deadline_the_job_says_what_becomes_of_the_parts_that_came(on_missing: str) -> None:
    desk = Desk(joining(on_missing))
    desk.part(1, 3)
    desk.looks(after_ms=DEADLINE_MS - 1)
    desk.part(3, 3)
    assert desk.waiting == [0, 1], "the deadline counts from the first part"
    desk.looks(after_ms=1)
    if on_missing == "ask":
        assert [said(item) for item in desk.items] == [([1, 3], [2])]
        assert desk.ends == [(0, Reason.JOINED)]
    else:
        assert desk.items == []
        assert desk.ends == [(0, Reason.PARTS_MISSING), (1, Reason.PARTS_MISSING)]
        letter = next(each for each in desk.written if isinstance(each, DeadLetter))
        assert letter.error == "of 3 parts 1 did not come within 60 s: 2"


def test_dead_parts_wait_again_after_a_redrive_and_are_joined_with_what_comes() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    desk.looks(after_ms=DEADLINE_MS)
    (letter,) = [each for each in desk.written if isinstance(each, DeadLetter)]
    event = raw_of(letter, desk.raw[0])
    assert event is not None
    desk.written.clear()
    desk.takes(event)
    assert desk.waiting == [0]
    desk.looks(after_ms=DEADLINE_MS)
    (again,) = [each for each in desk.written if isinstance(each, DeadLetter)]
    assert again.redrives == 1
    assert again.id != letter.id, "a letter differs after each redrive"
    event = raw_of(again, desk.raw[0])
    assert event is not None
    desk.written.clear()
    desk.takes(event)
    desk.part(2, 2)
    desk.looks()
    assert [said(item) for item in desk.items] == [([1, 2], [])]


def test_a_late_part_that_had_been_missing_has_the_whole_asked_again() -> None:
    desk = Desk(joining("ask"))
    desk.part(1, 2)
    desk.looks(after_ms=DEADLINE_MS)
    desk.part(2, 2)
    desk.looks()
    assert [said(item) for item in desk.items] == [([1], [2]), ([1, 2], [])]
    assert desk.items[1].seq > desk.items[0].seq, "the full answer is the newer one"
    assert desk.each_is_in_one_place()


def test_a_part_that_is_redriven_after_the_join_makes_its_whole_the_newest_and_not_a_stale_one() -> None:
    """Its old place in raw is before that of the part in whose place the incomplete whole was asked about."""
    desk = Desk(joining("ask"), limits=RawLimits(value_bytes_max=5_000))
    desk.part(1, 3, "x" * 2_500)
    desk.part(2, 3, "y" * 2_500)
    desk.part(3, 3)
    desk.looks(after_ms=DEADLINE_MS)
    assert desk.ends == [(0, Reason.JOINED), (1, Reason.OVERSIZED)]
    desk.limits = RawLimits()
    desk.takes(replace(desk.raw[1], redrives=1))
    (event,) = [each for each in desk.written if isinstance(each, RawEvent)]
    desk.reads(codec.encode(event))
    desk.looks()
    without, whole = desk.items
    assert (said(without), said(whole)) == (([1, 3], [2]), ([1, 2, 3], []))
    assert (whole.source_id, whole.seq > without.seq) == (without.source_id, True)
    assert desk.ends == [(0, Reason.JOINED), (1, Reason.OVERSIZED), (1, Reason.SUPERSEDED)]
    assert desk.waiting == []


def test_a_part_that_another_one_has_replaced_does_not_come_back_as_the_newest() -> None:
    desk = Desk(joining())
    desk.part(1, 2, "old")
    desk.looks(after_ms=DEADLINE_MS)
    desk.part(1, 2, "new")
    desk.part(2, 2)
    desk.looks()
    desk.takes(replace(desk.raw[0], redrives=1))
    desk.looks(after_ms=DEADLINE_MS)
    assert not [each for each in desk.written if isinstance(each, RawEvent)]
    new, old = desk.items
    assert old.seq < new.seq, "it is a stale one"


def test_parts_that_say_something_new_open_the_whole_again_and_the_rest_is_as_before() -> None:
    """As when the stage before was promoted to another version, which answered one of three otherwise."""
    desk = Desk(joining())
    for number in (1, 2, 3):
        desk.part(number, 3)
    desk.looks()
    desk.part(2, 3, "other")
    desk.part(1, 3)
    desk.looks()
    assert desk.waiting == [3], "the others may still come anew; what says the same is known"
    desk.looks(after_ms=DEADLINE_MS)
    assert [part.get("says") for part in orjson.loads(desk.items[1].input_json)["parts"]] == [None, "other", None]
    assert desk.each_is_in_one_place()


def test_a_part_that_goes_back_to_what_was_joined_takes_the_place_of_what_waits() -> None:
    desk = Desk(joining())
    for number in (1, 2):
        desk.part(number, 2)
    desk.looks()
    desk.part(1, 2, "other")
    desk.part(1, 2)
    desk.looks(after_ms=DEADLINE_MS)
    assert [item.input_json for item in desk.items] == [desk.items[0].input_json] * 2
    assert desk.ends == [(0, Reason.JOINED), (2, Reason.SUPERSEDED)]
    assert desk.each_is_in_one_place()


def test_parts_of_an_older_whole_are_superseded_by_a_newer_one_that_was_joined() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    for number in (1, 2):
        desk.part(number, 2, "new", whole=LATER, rank=2)
    desk.looks()
    desk.part(2, 2)
    desk.looks(after_ms=DEADLINE_MS)
    assert [item.parent for item in desk.items] == [LATER]
    assert desk.ends == [(0, Reason.SUPERSEDED), (1, Reason.JOINED), (3, Reason.SUPERSEDED)]


def test_a_whole_that_is_a_part_itself_hands_its_place_on() -> None:
    outer = Part(2, 5, LATER, (1, 0))
    desk = Desk(joining())
    desk.part(1, 1, outer=[outer])
    desk.looks()
    assert desk.items[0].part == str(outer)


def test_a_part_whose_event_is_gone_is_told_and_the_others_wait_on() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    desk.part(2, 2)
    desk.gone.add(0)
    desk.looks()
    assert (desk.ends, desk.waiting) == ([(0, Reason.BODY_GONE)], [1])
    desk.part(1, 2)
    desk.looks()
    assert [said(item) for item in desk.items] == [([1, 2], [])]
    assert desk.each_is_in_one_place()


def test_a_paused_job_takes_nothing_up_and_a_cancelled_one_lets_its_parts_go() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    desk.part(2, 2)
    desk.job(paused=True)
    desk.looks(after_ms=2 * DEADLINE_MS)
    assert desk.waiting == [0, 1]
    desk.job(paused=False, cancelled_before_ms=desk.now_ms)
    desk.looks()
    assert desk.ends == [(0, Reason.CANCELLED), (1, Reason.CANCELLED)]
    assert (desk.items, desk.groups) == ([], [])


def test_a_part_that_waited_for_its_paused_job_waits_for_the_others_then() -> None:
    desk = Desk(joining())
    desk.job(paused=True)
    desk.part(1, 1)
    (arrival,) = [row for row in desk.view.rows(Arrival.schema) if isinstance(row, Arrival)]
    desk.job(paused=False)
    orders = revisit(desk.view, arrival, desk.raw[0], jobs=JOBS, now_ms=desk.now_ms, limits=RawLimits())
    assert not any(isinstance(order, Delete) for order in orders)
    desk.carry(orders)
    desk.looks()
    assert desk.each_is_in_one_place()
    assert len(desk.items) == 1


def test_a_job_that_joins_no_more_asks_about_each_event_by_itself() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    plain = make_row(make_spec(user="{{ input.n }}"))
    desk.job(version=plain.version, versions_json=plain.versions_json)
    desk.looks(after_ms=DEADLINE_MS)
    assert [item.source_id for item in desk.items] == ["doc#1"]
    assert desk.each_is_in_one_place()


@pytest.mark.parametrize("metadata", [{}, {PART: "1/2"}, {PART: f"3/2/{WHOLE}/1.0"}])
def test_an_event_that_is_no_part_is_refused(metadata: dict[str, str]) -> None:
    desk = Desk(joining())
    event = RawEvent(job="triage", source_id="doc", payload_json="{}", metadata=metadata)
    desk.reads(codec.encode(event))
    assert desk.ends == [(0, Reason.INVALID_INPUT)]


def test_parts_that_are_too_much_together_are_refused_as_they_come() -> None:
    desk = Desk(joining("ask"), limits=RawLimits(value_bytes_max=4_000))
    for number in (1, 2, 3):
        desk.part(number, 3, "x" * 1_200)
    assert desk.ends == [(2, Reason.OVERSIZED)]
    desk.looks(after_ms=DEADLINE_MS)
    assert [said(item) for item in desk.items] == [([1, 2], [3])]
    assert desk.each_is_in_one_place()


def test_parts_of_one_whole_agree_on_how_many_they_are() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    desk.part(2, 3)
    assert desk.ends == [(1, Reason.INVALID_INPUT)]


def test_a_whole_that_the_job_does_not_take_is_put_down_where_its_last_part_stood() -> None:
    desk = Desk(joining(given=InputSpec(schema_json='{"required":["title"]}')))
    desk.part(1, 2)
    desk.part(2, 2)
    desk.looks()
    assert desk.ends == [(0, Reason.JOINED), (1, Reason.INVALID_INPUT)]
    assert desk.each_is_in_one_place()


def test_such_a_whole_is_asked_again_by_a_redrive_of_its_letter() -> None:
    desk = Desk(joining(given=InputSpec(schema_json='{"required":["title"]}')))
    desk.part(1, 2)
    desk.part(2, 2)
    desk.looks()
    mended = make_row(replace(desk.spec, input=InputSpec()))
    desk.job(version=mended.version, versions_json=mended.versions_json)
    (letter,) = [each for each in desk.written if isinstance(each, DeadLetter)]
    event = raw_of(letter, desk.raw[1])
    assert event is not None
    desk.takes(event)
    desk.looks()
    assert [said(item) for item in desk.items] == [([1, 2], [])]


def test_a_group_that_changed_while_its_events_were_read_is_left_for_the_next_look() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    desk.part(2, 2)
    (group,) = due(desk.view, "triage", desk.now_ms, 10)
    desk.part(1, 2, "other")
    found = dict(enumerate(desk.raw))
    assert assemble(desk.view, group, found, jobs=JOBS, now_ms=desk.now_ms, limits=RawLimits()) == []
    assert group_of(desk.view, "triage", WHOLE) != group
    desk.looks()
    assert desk.each_is_in_one_place()
    assert desk.ends == [(0, Reason.SUPERSEDED), (1, Reason.JOINED)]


def test_groups_that_are_due_come_first_and_of_one_job_only() -> None:
    desk = Desk(joining())
    desk.part(1, 2)
    desk.now_ms += 10
    desk.part(1, 1, whole=LATER, rank=1)
    assert [group.whole for group in due(desk.view, "triage", desk.now_ms, 10)] == [LATER]
    assert [group.whole for group in due(desk.view, "triage", desk.now_ms + DEADLINE_MS, 10)] == [LATER, WHOLE]
    assert due(desk.view, "tria", desk.now_ms + DEADLINE_MS, 10) == []


def test_whoever_reads_raw_again_finds_the_whole_at_its_own_event_only() -> None:
    desk = Desk(joining("ask"))
    desk.part(3, 3)
    desk.part(1, 3)
    desk.looks(after_ms=DEADLINE_MS)
    (item,) = desk.items
    own = desk.raw[item.origin.offset]
    assert offsets_again(desk.view, own, "triage") == [0, 1]
    found = {at: desk.raw[at] for at in (0, 1)}
    made = again(desk.view, own, "triage", found)
    assert made is not None
    (asked,) = normalize(desk.view, made, jobs=JOBS, now_ms=desk.now_ms, limits=RawLimits())
    assert isinstance(asked, Emit)
    assert asked.record == item
    assert again(desk.view, own, "triage", {1: desk.raw[1]}) is None, "a part of it is gone"
    assert offsets_again(desk.view, desk.raw[0], "triage") == [], "that event is accounted for by the other"
    assert again(desk.view, desk.raw[0], "triage", found) is None
    assert again(desk.view, replace(own, value=b"{}"), "triage", found) is None


def test_no_version_is_ever_asked_about_a_part_as_if_it_were_a_whole() -> None:
    desk = Desk(joining())
    desk.part(1, 1)
    job = JOBS.of(make_row(desk.spec))
    assert job is not None
    event = decoded(desk.raw[0], RawLimits(), None)
    nothing = Lookups(view=desk.view, origin=desk.raw[0].origin)
    with pytest.raises(Unusable, match="asked about wholes"):
        item_of(job, event, desk.raw[0], Standing(promotion=0, run_id="r"), RawLimits(), nothing)


def rows(orders: Iterable[Order]) -> list[Any]:
    return [order.row for order in orders if isinstance(order, Put)]


def test_an_arrival_says_what_it_is_a_part_of_and_until_when_it_waits() -> None:
    desk = Desk(joining())
    arrivals = [row for row in rows(desk.part(1, 2)) if isinstance(row, Arrival)]
    assert [(row.waiting_for, row.group, row.due_at_ms) for row in arrivals] == [("parts", WHOLE, NOW_MS + DEADLINE_MS)]


def test_a_version_on_trial_that_looks_something_up_does_not_hold_a_whole_up() -> None:
    front, plain = joining(), make_spec(user="{{ input.parts }}")
    tools = ToolsSpec(lookup=LookupSpec(source="shop", sql="SELECT 1 AS n"))
    asking = replace(plain, ask=replace(plain.ask, tools=tools))
    desk = Desk(front)
    versions = {version_of(each): orjson.loads(each.to_json()) for each in (front, plain, asking)}
    shares = {version_of(each): 1.0 for each in (plain, asking)}
    desk.job(versions_json=orjson.dumps(versions).decode(), shadows_json=orjson.dumps(shares).decode())
    desk.part(1, 2)
    desk.part(2, 2)
    desk.looks()
    assert {item.version for item in desk.items} == {version_of(front), version_of(plain)}
    assert desk.waiting == []
