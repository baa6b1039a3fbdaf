"""Each raw record in exactly one place."""

import pytest

from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.status import ChunkState, Place, Status
from batchmill.streams.accounting import Account, Books, origin_key, place_of
from tests.streams.rows import make_life, origin


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.FAILED_TERMINAL])
def test_every_status_has_its_place(status: Status) -> None:
    place = place_of(make_life(status=status))
    special = {Status.COMMITTED: Place.COMMITTED, Status.NEEDS_REVIEW: Place.IN_REVIEW}
    assert place is special.get(status, Place.IN_FLIGHT)


@pytest.mark.parametrize("reason", Reason)
def test_an_ended_life_is_excluded_or_dead_lettered_by_its_reason(reason: Reason) -> None:
    place = place_of(make_life(status=Status.FAILED_TERMINAL, reason=reason))
    assert place is (Place.EXCLUDED if info(reason).excluded else Place.DEAD_LETTERED)


def test_what_waits_on_purpose_is_held() -> None:
    assert place_of(make_life(), paused=True) is Place.HELD
    assert place_of(make_life(), chunk_state=ChunkState.HELD) is Place.HELD
    assert place_of(make_life(status=Status.PROCESSING), paused=True) is Place.IN_FLIGHT
    assert place_of(make_life(status=Status.COMMITTED), paused=True) is Place.COMMITTED


def test_the_books_name_what_was_lost_and_what_was_doubled() -> None:
    books = Books()
    books.came_in(origin_key(origin(offset)) for offset in range(4))
    for offset, place in [(0, Place.COMMITTED), (1, Place.EXCLUDED), (1, Place.IN_REVIEW), (3, Place.HELD)]:
        books.is_in(origin_key(origin(offset)), place)
    assert books.lost() == [(1, 3, 2)]
    assert books.doubled() == [(1, 3, 1)]
    assert books.account().raw == 4


def test_the_identity_holds_when_the_places_add_up_and_over_all_tasks() -> None:
    one = Account(3, {Place.COMMITTED: 2, Place.EXCLUDED: 1})
    two = Account(2, {Place.COMMITTED: 1})
    assert one.holds
    assert (two.holds, two.difference) == (False, 1)
    both = one + two
    assert (both.raw, both.places, both.difference) == (5, {Place.COMMITTED: 3, Place.EXCLUDED: 1}, 1)
