"""Who is suspected, who is condemned, and who must not be: lives of a task told as transcripts."""

import pytest

from batchmill.agents.runtime.codec import RESTART, TRYING
from batchmill.agents.runtime.errors import PoisonEffectError
from batchmill.agents.runtime.guard import Guard
from batchmill.agents.runtime.records import LogRecord, Slice
from batchmill.agents.runtime.suspicion import Thresholds

THRESHOLDS = Thresholds(suspicion_deaths=2, poison_deaths=3)


class Life:
    """One task through its restarts; `log` is what Kafka would have."""

    def __init__(self) -> None:
        self.log: dict[str, bytes | None] = {}
        self.clean = True

    def start(self, **positions: int) -> Guard:
        guard = Guard(THRESHOLDS, alone_records=5)
        self.clean = guard.open(self.log.get(RESTART), self.log.get(TRYING), positions)
        self.write(guard.opening())
        return guard

    def write(self, rows: list[object]) -> None:
        for row in rows:
            self.log[row.key] = row.data  # type: ignore[attr-defined]

    def hand(self, guard: Guard, start: int, count: int = 1, topic: str = "raw") -> bool:
        """A slice is handed out; True if it was announced first."""
        slice_ = _slice(start, count, topic)
        if not guard.suspects(slice_):
            return False
        self.write(guard.before(slice_))
        return True


def _slice(start: int, count: int = 1, topic: str = "raw") -> Slice:
    records = tuple(LogRecord(topic, 0, start + number, 0, None, b"", ()) for number in range(count))
    return Slice(topic, 0, records, start, start + count, 1)


def test_a_first_start_suspects_nobody_and_announces_nothing() -> None:
    life = Life()
    guard = life.start(raw=0)
    assert life.clean
    assert guard.alone("raw") == 0
    assert not life.hand(guard, 0, 100)


def test_a_record_is_condemned_at_its_third_death() -> None:
    life = Life()
    life.hand(life.start(raw=10), 10, 5)  # dies
    guard = life.start(raw=10)
    assert guard.alone("raw") == 0
    assert life.hand(guard, 10, 5), "from the second try on it is written down that these records were in hand"
    guard = life.start(raw=10)  # died again
    assert guard.alone("raw") == 5
    assert life.hand(guard, 10)
    guard.handled(_slice(10))
    assert life.hand(guard, 11)
    guard = life.start(raw=11)  # the third
    assert guard.condemned(_slice(11))
    assert not guard.condemned(_slice(12))
    assert not guard.suspects(_slice(11)), "it is dead-lettered, not tried"


def test_the_neighbours_of_a_condemned_record_go_on() -> None:
    life = Life()
    life.hand(life.start(raw=0), 0, 3)
    life.hand(life.start(raw=0), 0, 3)
    life.hand(life.start(raw=0), 0)
    guard = life.start(raw=0)
    assert guard.condemned(_slice(0))
    life.hand(guard, 1)
    guard = life.start(raw=1)  # one death while the neighbour was being tried makes three at this place, not on it
    assert not guard.condemned(_slice(2))


def test_a_quiet_topic_is_not_blamed_for_the_deaths_of_others() -> None:
    life = Life()
    for position in range(6):
        guard = life.start(raw=position, control=7)
        assert guard.alone("control") == 0
    assert life.hand(guard, 7, 1, "control"), "it died before, so its first slice is written down"
    assert life.start(raw=6, control=8).alone("control") == 0


def test_clean_stops_count_no_death_and_forgive_none() -> None:
    life = Life()
    life.hand(life.start(raw=3), 3)
    guard = life.start(raw=3)
    life.write(guard.closing({"raw": 3}, clean=True))
    guard = life.start(raw=3)
    assert life.clean
    life.hand(guard, 3)
    assert life.start(raw=3).alone("raw") == 5
    assert not life.clean


def test_suspicion_ends_after_a_slice_of_survivors() -> None:
    life = Life()
    life.hand(life.start(raw=0), 0, 9)
    life.hand(life.start(raw=0), 0, 9)
    guard = life.start(raw=0)
    for offset in range(5):
        assert guard.alone("raw") == 5 - offset
        life.hand(guard, offset)
        guard.handled(_slice(offset))
    assert guard.alone("raw") == 0


def test_an_effect_row_is_condemned_at_its_third_death_and_its_neighbour_is_not() -> None:
    life = Life()
    guard = life.start()
    assert not guard.announces  # the first death is not announced
    guard = life.start()
    assert guard.announces
    assert not guard.one_at_a_time
    life.write(guard.start("submit", "bad"))
    life.write(guard.start("submit", "good"))
    guard = life.start()
    assert guard.one_at_a_time
    life.write(guard.start("submit", "good"))
    life.write(guard.end("submit", "good"))
    life.write(guard.start("submit", "bad"))
    guard = life.start()
    with pytest.raises(PoisonEffectError) as caught:
        guard.start("submit", "bad")
    assert caught.value.deaths == 3
    guard.start("submit", "good")


def test_in_a_streak_begun_by_others_an_effect_row_has_its_own_three_deaths_too() -> None:
    life = Life()
    for _ in range(3):
        life.start(raw=0)  # three deaths of something else
    for _ in range(3):
        life.write(life.start(raw=0).start("upload", "row"))  # announced, and the process dies of it
    with pytest.raises(PoisonEffectError) as condemned:
        life.start(raw=0).start("upload", "row")
    assert condemned.value.deaths == 3


def test_a_healthy_while_forgets_the_deaths_of_effects() -> None:
    life = Life()
    life.start()
    guard = life.start()
    life.write(guard.start("poll", "c1"))
    guard = life.start()
    assert guard.one_at_a_time
    life.write(guard.healthy())
    assert not guard.announces
    assert guard.healthy() == []
    assert life.log[TRYING] is None
