"""The desk: what it shows, what it takes, what it refuses; the view may lag and two people may reach for one record."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchmill.agents.desk.desk import Desk
from batchmill.agents.desk.model import DeskError, ErrorKind, Filter
from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check
from batchmill.schemas.status import Status
from tests.agents.desk_world import ADA, BOB, VERA, World


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
