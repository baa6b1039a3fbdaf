"""The desk: what it shows, what it takes, what it refuses; the view may lag and two people may reach for one record."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import Change, DeskError, ErrorKind, Filter
from batchmill.agents.desk.watching import Watch
from batchmill.agents.topics import KafkaUnreachableError
from batchmill.agents.web.api import _events as api_events
from batchmill.agents.web.pages.queues import _told as page_events
from batchmill.schemas.jobs import ReviewSpec
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check
from batchmill.schemas.status import Status
from tests.agents.desk_world import ADA, BOB, NOW_MS, OLGA, VERA, World, a_spec


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def desk(world: World) -> Desk:
    return world.desk()


async def test_the_queue_begins_with_the_highest_risk_and_goes_on_where_a_page_ended(world: World, desk: Desk) -> None:
    sampled = world.ask(reason=None, confidence=0.99)
    broken = world.ask(reason=Reason.RULE_FAILED, confidence=0.9)
    low, lower = world.ask(confidence=0.6), world.ask(confidence=0.2)
    first = await desk.queue(Filter(), user=VERA, limit=3)
    assert [item.request_id for item in first.items] == [broken, lower, low]
    assert first.total == 4
    rest = await desk.queue(Filter(), user=VERA, limit=3, after=first.after)
    assert ([item.request_id for item in rest.items], rest.after) == ([sampled], None)


async def test_a_card_shows_input_answer_checks_and_form(world: World, desk: Desk) -> None:
    check = Check(id="category", severity="review", passed=False, path="$.label", note="expected one of 3")
    name = world.ask({"label": "fire", "confidence": 0.5}, given={"body": "on fire!"}, checks=(check,))
    card = await desk.card(name, user=VERA)
    assert (card.input, card.output) == ({"body": "on fire!"}, {"label": "fire", "confidence": 0.5})
    assert card.checks == (check,)
    assert card.output_schema is not None
    assert card.status is Status.NEEDS_REVIEW
    (passage,) = card.passages
    assert (passage.path, "on fire!"[passage.start : passage.end], passage.cited_by) == ("$.body", "fire", "$.label")


async def test_an_accepted_answer_goes_on_and_leaves_the_queue(world: World, desk: Desk) -> None:
    name = world.ask()
    answer = await desk.accept(name, user=ADA)
    assert world.life(name).status is Status.VALIDATED
    assert (await desk.queue(Filter(), user=ADA)).total == 0
    assert answer.decision.actor == "ada"


async def test_a_decided_record_is_out_of_the_queue_before_the_view_knows(tmp_path: Path) -> None:
    world = World(tmp_path, eager=False)
    desk, other = world.desk(), world.desk()
    name = world.ask()
    await desk.accept(name, user=ADA)
    assert (await other.queue(Filter(), user=BOB)).total == 0
    with pytest.raises(DeskError, match="ada has decided") as refused:
        await other.decline(name, "wrong", user=BOB)
    assert refused.value.kind is ErrorKind.CONFLICT
    assert len(world.decided) == 1
    world.close()


async def test_the_decision_is_shown_on_the_card_until_the_view_has_it(tmp_path: Path) -> None:
    world = World(tmp_path, eager=False)
    desk = world.desk()
    name = world.ask()
    answer = await desk.accept(name, user=ADA)
    assert (await desk.card(name, user=BOB)).pending == answer.decision
    world.work()
    card = await desk.card(name, user=BOB)
    assert (card.pending, card.status, card.decisions) == (None, Status.VALIDATED, (answer.decision,))
    world.close()


async def test_a_decision_that_changed_nothing_is_forgotten_after_its_time(tmp_path: Path) -> None:
    world = World(tmp_path, eager=False, claim_seconds=30)
    desk = world.desk()
    name = world.ask()
    await desk.accept(name, user=ADA)
    world.fold()  # in the log, and no task is running
    assert (await desk.queue(Filter(), user=BOB)).total == 0
    world.now_ms += 30_001
    assert (await desk.queue(Filter(), user=BOB)).total == 1
    world.close()


async def test_what_was_certainly_not_written_can_be_decided_at_once(world: World, desk: Desk) -> None:
    name = world.ask()
    world.broken = KafkaUnreachableError("no broker")
    with pytest.raises(DeskError) as refused:
        await desk.accept(name, user=ADA)
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    world.broken = None
    await desk.decline(name, "wrong", user=BOB)
    assert world.life(name).status is Status.FAILED_TERMINAL


async def test_what_may_have_been_written_is_held_until_that_is_known(world: World, desk: Desk) -> None:
    name = world.ask()
    world.broken = KafkaTimeoutError()
    with pytest.raises(DeskError, match="did not confirm"):
        await desk.accept(name, user=ADA)
    world.broken = None
    with pytest.raises(DeskError, match="ada has decided"):
        await desk.decline(name, "wrong", user=BOB)


async def test_what_stands_aside_is_not_offered_and_not_decided_until_it_is_brought_forward(
    world: World, desk: Desk
) -> None:
    name = world.ask()
    world.row(replace(world.life(name), aside=True))
    world.fold()
    assert (await desk.queue(Filter(), user=BOB)).total == 0
    assert (await desk.card(name, user=BOB)).aside
    with pytest.raises(DeskError, match="stands aside"):
        await desk.accept(name, user=ADA)
    world.row(replace(world.life(name), aside=False))
    world.fold()
    await desk.accept(name, user=ADA)
    assert world.life(name).status is Status.VALIDATED


@pytest.mark.parametrize("deed", ["accept", "correct", "decline", "defer"])
async def test_a_changed_answer_is_not_decided_by_who_saw_the_old_one(world: World, desk: Desk, deed: str) -> None:
    name = world.ask()
    more: dict[str, Any] = {"user": ADA, "seen": "0" * 64}
    calls = {
        "accept": lambda: desk.accept(name, **more),
        "correct": lambda: desk.correct(name, '{"label":"water","confidence":1}', **more),
        "decline": lambda: desk.decline(name, "wrong", **more),
        "defer": lambda: desk.defer(name, world.now_ms + 1, **more),
    }
    with pytest.raises(DeskError, match="another one now") as refused:
        await calls[deed]()
    assert refused.value.kind is ErrorKind.CONFLICT
    assert world.decided == []


# -- locks -------------------------------------------------------------------------------------------------------------


async def test_two_people_who_ask_for_the_next_get_different_records(world: World, desk: Desk) -> None:
    first, second = world.ask(confidence=0.1), world.ask(confidence=0.9)
    other = world.desk()  # another server process
    assert await desk.next_for(ADA, Filter()) == first
    await desk.lock(first, ADA)
    assert await other.next_for(BOB, Filter()) == second
    assert await desk.next_for(ADA, Filter()) == first


async def test_a_held_record_is_decided_by_its_holder_only_and_by_all_when_the_lease_is_over(tmp_path: Path) -> None:
    world = World(tmp_path, lock_seconds=10)
    desk = world.desk()
    name = world.ask()
    await desk.lock(name, ADA)
    for refused in (desk.accept(name, user=BOB), desk.lock(name, BOB)):
        with pytest.raises(DeskError, match="ada is looking"):
            await refused
    (item,) = (await desk.queue(Filter(), user=BOB)).items
    assert item.lock is not None
    assert item.lock.holder == "ada"
    assert (await desk.queue(Filter(mine=True), user=BOB)).total == 0
    world.now_ms += 10_001
    await desk.accept(name, user=BOB)
    assert world.life(name).status is Status.VALIDATED
    world.close()


async def test_a_lock_given_back_is_free_and_nobody_gives_back_anothers(world: World, desk: Desk) -> None:
    name = world.ask()
    await desk.lock(name, ADA)
    await desk.release(name, BOB)
    with pytest.raises(DeskError, match="ada is looking"):
        await desk.lock(name, BOB)
    await desk.release(name, ADA)
    assert (await desk.lock(name, BOB)).holder == "bob"


# -- decisions ---------------------------------------------------------------------------------------------------------


async def test_a_correction_takes_the_answers_place_and_says_whose_it_is(world: World, desk: Desk) -> None:
    name = world.ask()
    await desk.correct(name, '{"confidence": 1, "label": "water"}', user=ADA)
    card = await desk.card(name, user=VERA)
    assert (card.status, card.output) == (Status.VALIDATED, {"confidence": 1, "label": "water"})
    assert card.decisions[0].output_json == '{"confidence":1,"label":"water"}'


@pytest.mark.parametrize("text", ["", "{", '{"label":"x","confidence":1}', '{"label":"fire"}', '{"a":1,"a":2}'])
async def test_a_correction_that_does_not_pass_is_refused_at_the_door(world: World, desk: Desk, text: str) -> None:
    name = world.ask()
    with pytest.raises(DeskError) as refused:
        await desk.correct(name, text, user=ADA)
    assert refused.value.kind is ErrorKind.REFUSED
    assert world.decided == []


async def test_a_decline_needs_a_reason_from_the_jobs_list(world: World, desk: Desk) -> None:
    name = world.ask()
    with pytest.raises(DeskError, match="one of: wrong, unsupported"):
        await desk.decline(name, "because", user=ADA)
    await desk.decline(name, "unsupported", user=ADA)
    life = world.life(name)
    assert (life.status, life.reason) == (Status.FAILED_TERMINAL, Reason.DECLINED)
    assert await desk.decline_reasons("triage") == a_spec().review.decline_reasons


async def test_what_is_put_off_comes_back_in_its_time(world: World, desk: Desk) -> None:
    name = world.ask()
    until_ms = world.now_ms + 60_000
    await desk.defer(name, until_ms, user=ADA)
    assert (await desk.queue(Filter(), user=ADA)).total == 0
    (item,) = (await desk.queue(Filter(deferred=True), user=ADA)).items
    assert item.deferred_until_ms == until_ms
    assert (await desk.progress()).deferred == 1
    world.now_ms = until_ms
    assert (await desk.queue(Filter(), user=ADA)).total == 1


@pytest.mark.parametrize("seconds", [-1, 0, 91 * 86_400])
async def test_nobody_puts_a_record_off_into_the_past_or_for_ever(world: World, desk: Desk, seconds: int) -> None:
    name = world.ask()
    with pytest.raises(DeskError, match="to come"):
        await desk.defer(name, world.now_ms + seconds * 1_000, user=ADA)


async def test_a_viewer_decides_nothing(world: World, desk: Desk) -> None:
    name = world.ask()
    for refused in (
        desk.accept(name, user=VERA),
        desk.correct(name, "{}", user=VERA),
        desk.decline(name, "wrong", user=VERA),
        desk.defer(name, NOW_MS * 2, user=VERA),
        desk.undo(name, user=VERA),
        desk.lock(name, VERA),
        desk.accept_many([name], user=VERA, expect=1),
    ):
        with pytest.raises(DeskError) as error:
            await refused
        assert error.value.kind is ErrorKind.FORBIDDEN
    assert world.decided == []


async def test_many_are_accepted_with_their_exact_number_or_not_at_all(tmp_path: Path) -> None:
    world = World(tmp_path, bulk_max=3)
    desk = world.desk()
    names = [world.ask() for _ in range(4)]
    for chosen, expect in ((names[:3], 2), (names, 4), ([names[0], names[0]], 2)):
        with pytest.raises(DeskError) as refused:
            await desk.accept_many(chosen, user=ADA, expect=expect)
        assert refused.value.kind is ErrorKind.REFUSED
    await desk.lock(names[2], BOB)
    with pytest.raises(DeskError, match="bob is looking"):
        await desk.accept_many(names[:3], user=ADA, expect=3)
    assert world.decided == []
    assert (await desk.queue(Filter(), user=ADA)).total == 4  # nothing is claimed either
    await desk.accept_many(names[:2], user=ADA, expect=2)
    assert [world.life(name).status for name in names[:2]] == [Status.VALIDATED] * 2
    world.close()


# -- undo --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["accept", "correct", "decline"])
async def test_a_decision_is_taken_back_and_the_answer_waits_as_before(world: World, desk: Desk, deed: str) -> None:
    name = world.ask()
    before = world.life(name).output_sha256
    match deed:
        case "accept":
            answer = await desk.accept(name, user=ADA)
        case "correct":
            answer = await desk.correct(name, '{"label":"water","confidence":1}', user=ADA)
        case _:
            answer = await desk.decline(name, "wrong", user=ADA)
    assert answer.undo_until_ms == answer.decision.decided_at_ms + 15_000
    undone = await desk.undo(name if deed == "accept" else answer.decision.id, user=ADA)
    assert undone.decision.undoes == answer.decision.id
    assert (world.life(name).status, world.life(name).output_sha256) == (Status.NEEDS_REVIEW, before)
    assert (await desk.queue(Filter(), user=ADA)).total == 1
    counted = await desk.progress()
    assert (counted.accepted, counted.corrected, counted.declined, counted.by_actor) == (0, 0, 0, {})


async def test_a_decision_is_taken_back_before_the_view_or_the_task_has_it(tmp_path: Path) -> None:
    world = World(tmp_path, eager=False)
    desk = world.desk()
    name = world.ask()
    await desk.correct(name, '{"label":"water","confidence":1}', user=ADA)
    await desk.undo(name, user=ADA)
    with pytest.raises(DeskError):
        await desk.accept(name, user=BOB)
    world.work()
    assert world.life(name).status is Status.NEEDS_REVIEW
    assert (await desk.queue(Filter(), user=BOB)).total == 1
    await desk.accept(name, user=BOB)
    world.work()
    assert world.life(name).status is Status.VALIDATED
    world.close()


async def test_too_late_is_a_conflict_that_names_the_way_back(world: World, desk: Desk) -> None:
    name = world.ask()
    await desk.accept(name, user=ADA)
    world.now_ms += 16_000
    with pytest.raises(DeskError, match=f"commits revert {name}") as late:
        await desk.undo(name, user=ADA)
    assert late.value.kind is ErrorKind.CONFLICT
    world.commit(name)
    with pytest.raises(DeskError, match=f"commits revert {name}"):
        await desk.undo(name, user=ADA)


async def test_a_decline_is_undone_as_long_as_it_stands(world: World, desk: Desk) -> None:
    name = world.ask()
    await desk.decline(name, "wrong", user=ADA)
    world.now_ms += 10**9
    await desk.undo(name, user=ADA)
    assert world.life(name).status is Status.NEEDS_REVIEW


async def test_nobody_takes_back_anothers_decision_but_an_operator(world: World, desk: Desk) -> None:
    name = world.ask()
    await desk.accept(name, user=ADA)
    with pytest.raises(DeskError, match="only an operator") as refused:
        await desk.undo(name, user=BOB)
    assert refused.value.kind is ErrorKind.FORBIDDEN
    await desk.undo(name, user=OLGA)
    assert world.life(name).status is Status.NEEDS_REVIEW


async def test_what_was_never_decided_cannot_be_taken_back(world: World, desk: Desk) -> None:
    name = world.ask()
    with pytest.raises(DeskError) as refused:
        await desk.undo(name, user=ADA)
    assert refused.value.kind is ErrorKind.NOT_FOUND


# -- two opinions ------------------------------------------------------------------------------------------------------


@pytest.fixture
def double(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, spec=a_spec(review=ReviewSpec(double=1)))
    yield made
    made.close()


async def test_two_people_decide_on_their_own(double: World) -> None:
    desk = double.desk()
    name = double.ask()
    first = await desk.accept(name, user=ADA)
    (item,) = (await desk.queue(Filter(), user=BOB)).items
    assert item.needs_second
    assert (await desk.card(name, user=BOB)).decisions == ()  # not to lead the second one
    assert await desk.next_for(ADA, Filter()) is None
    with pytest.raises(DeskError, match="another person") as refused:
        await desk.decline(name, "wrong", user=ADA)
    assert refused.value.kind is ErrorKind.CONFLICT
    assert await desk.next_for(BOB, Filter()) == name
    await desk.accept(name, user=BOB)
    assert double.life(name).status is Status.VALIDATED
    told = await desk.agreement("triage")
    assert (told.records, told.pairs[0].agreed, told.pairs[0].kappa) == (1, 1, None)
    assert (await desk.card(name, user=VERA)).decisions[0].id == first.decision.id


async def test_what_the_first_says_is_not_told_to_the_second_while_it_is_on_its_way(tmp_path: Path) -> None:
    world = World(tmp_path, spec=a_spec(review=ReviewSpec(double=1)), eager=False)
    desk, name = world.desk(), world.ask()
    await desk.decline(name, "wrong", user=ADA)
    own, other = [(await desk.card(name, user=user)).pending for user in (ADA, BOB)]
    assert own is not None
    assert other is not None
    assert (own.action, own.reason) == ("decline", "wrong")
    assert (other.actor, other.action, other.reason) == ("ada", "decided", None)
    world.close()


async def test_an_opinion_is_no_example_before_it_holds(double: World) -> None:
    desk, name = double.desk(), double.ask()
    for user, examples in ((ADA, 0), (BOB, 1)):
        await desk.accept(name, user=user)
        assert len([example async for example in desk.export_gold("triage")]) == examples


async def test_who_disagrees_calls_a_third(double: World) -> None:
    desk = double.desk()
    name = double.ask()
    await desk.accept(name, user=ADA)
    await desk.decline(name, "wrong", user=BOB)
    (item,) = (await desk.queue(Filter(reason=Reason.DISAGREEMENT), user=OLGA)).items
    assert not item.needs_second
    assert len((await desk.card(name, user=OLGA)).decisions) == 2
    await desk.decline(name, "wrong", user=OLGA)
    assert double.life(name).status is Status.FAILED_TERMINAL
    (pair,) = (await desk.agreement("triage")).pairs
    assert (pair.first, pair.second, pair.agreed) == ("ada", "bob", 0)


async def test_a_first_opinion_is_taken_back_at_any_time(double: World) -> None:
    desk = double.desk()
    name = double.ask()
    await desk.accept(name, user=ADA)
    double.now_ms += 10**6
    await desk.undo(name, user=ADA)
    (item,) = (await desk.queue(Filter(), user=ADA)).items
    assert not item.needs_second


# -- numbers -----------------------------------------------------------------------------------------------------------


async def test_progress_counts_what_waits_and_who_decided(world: World, desk: Desk) -> None:
    names = [world.ask() for _ in range(4)]
    world.ask(reason=None)
    world.ask(reason=Reason.AWAITING_SCORE)
    await desk.accept(names[0], user=ADA)
    await desk.decline(names[1], "wrong", user=BOB)
    told = await desk.progress("triage")
    assert (told.waiting, told.awaiting_score, told.accepted, told.declined) == (3, 1, 1, 1)
    assert told.by_reason == {"low_confidence": 2, "sampled": 1}
    assert told.by_actor == {"ada": 1, "bob": 1}
    assert told.by_job == {"triage": 3}


async def test_what_waits_for_a_score_is_shown_to_people_only_when_asked_for(world: World, desk: Desk) -> None:
    name = world.ask(reason=Reason.AWAITING_SCORE)
    assert (await desk.queue(Filter(), user=ADA)).total == 0
    (item,) = (await desk.queue(Filter(reason=Reason.AWAITING_SCORE), user=ADA)).items
    assert item.request_id == name


async def test_gold_is_what_is_in_force(world: World, desk: Desk) -> None:
    accepted, corrected, declined, undone = (world.ask() for _ in range(4))
    await desk.accept(accepted, user=ADA)
    await desk.correct(corrected, '{"label":"water","confidence":1}', user=BOB)
    await desk.decline(declined, "wrong", user=ADA)
    await desk.accept(undone, user=ADA)
    await desk.undo(undone, user=ADA)
    found = [example async for example in desk.export_gold("triage")]
    assert [(each.request_id, each.action, each.decided_by) for each in found] == [
        (accepted, "accept", "ada"),
        (corrected, "correct", "bob"),
    ]
    assert found[1].original == {"label": "fire", "confidence": 0.5}
    assert found[1].output == {"label": "water", "confidence": 1}


async def test_nobody_is_told_for_longer_than_they_may_listen(tmp_path: Path) -> None:
    world = World(tmp_path)
    looks = iter(range(10**6))
    change = await world.desk().freshness()
    watch = Watch(
        look=lambda: replace(change, position=next(looks)), seconds=0.001, listeners_max=1, listen_seconds=0.05
    )
    async with asyncio.timeout(20):
        for _ in range(2):  # whoever listened may come again
            told = [change.position async for change in watch.listen()]
            assert told == sorted(told) != []
    world.close()


async def test_an_event_stream_ends_when_nothing_more_is_told() -> None:
    async def heard() -> AsyncIterator[Change]:
        yield Change(position=7, waiting=1, by_job={}, locked=0, stale_seconds=None)

    assert len([each async for each in api_events([], heard())]) == 1
    assert len([each async for each in page_events(heard())]) == 1


async def test_listeners_share_one_look_and_hear_of_a_decision(tmp_path: Path) -> None:
    world = World(tmp_path, look_seconds=0.02, listeners_max=2)
    desk = world.desk()
    name = world.ask()
    heard, also = desk.changes(), desk.changes()
    assert ((await anext(heard)).waiting, (await anext(also)).waiting) == (1, 1)
    with pytest.raises(DeskError) as refused:
        await anext(desk.changes())
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    await desk.accept(name, user=ADA)
    assert ((await anext(heard)).waiting, (await anext(also)).waiting) == (0, 0)
    await heard.aclose()
    await also.aclose()
    assert (await anext(desk.changes())).waiting == 0
    world.close()


async def test_a_view_that_reads_nothing_is_called_stale(world: World, desk: Desk) -> None:
    world.ask()
    assert (await desk.freshness()).stale_seconds is None
    world.now_ms += 40_000
    stale = (await desk.freshness()).stale_seconds
    assert stale is not None
    assert stale >= 40


async def test_a_missing_view_is_unavailable_and_says_what_makes_one(world: World, desk: Desk) -> None:
    world.view_path.unlink()
    with pytest.raises(DeskError, match="batchmill projector") as refused:
        await desk.queue(Filter(), user=ADA)
    assert refused.value.kind is ErrorKind.UNAVAILABLE
