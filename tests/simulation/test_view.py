"""The read model over the log of whole stories counts every raw event where the tasks have it, however it is read."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from batchmill.agents.projector import ViewStore
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.metrics import accounting
from batchmill.agents.projector.reading import View
from batchmill.schemas.codec import encode
from batchmill.schemas.reasons import info
from batchmill.schemas.records import DeadLetter, Excluded
from batchmill.schemas.state import Arrival, Chunk, Job, Life
from batchmill.schemas.status import Place
from batchmill.streams import view as read
from batchmill.streams.accounting import OriginKey, origin_key, place_of
from batchmill.streams.dead_lettering import RawRecord
from tests.simulation.simulation import Story, simulate

TOPICS = ("raw", "normalized", "excluded", "dead-letter")


@dataclass(frozen=True)
class Rec:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


def topics_of(story: Story) -> dict[tuple[str, int], list[Rec]]:
    """What a projector would read, every row of state that was ever written included."""
    found: dict[tuple[str, int], list[Rec]] = {}
    for partition in range(story.world.partitions):
        for topic in TOPICS:
            found[topic, partition] = [
                Rec(offset, entry.at_ms, entry.value.key, entry.value.value, list(entry.value.headers))
                if isinstance(entry.value, RawRecord)
                else Rec(offset, entry.at_ms, None, encode(entry.value))
                for offset, entry in enumerate(story.world.log[topic, partition])
            ]
        rows = [after for _, after in story.world.moves if story.world.place(after.request_id.encode()) == partition]
        view = story.tasks[partition].view
        last = [row for cls in (Life, Arrival, Chunk, Job) for row in view.rows(cls.schema)]
        found["state", partition] = [
            Rec(offset, offset, f"{row.schema}/{row.key}".encode(), encode(row))
            for offset, row in enumerate([*rows, *last])
        ]
    return found


def read_in_any_order(path: Path, topics: dict[tuple[str, int], list[Rec]], chance: Random) -> None:
    """Cut by cut, now from this partition of a topic, now from that."""
    left = {at: list(records) for at, records in topics.items() if records}
    with ViewStore(path, identity={}) as store:
        while left:
            fold = Fold(raw_generation=0)
            for at in chance.sample(sorted(left), min(len(left), chance.randint(1, 3))):
                size = chance.choice([1, 3, 20, 1_000])
                fold.add(*at, left[at][:size])
                left[at] = left[at][size:]
            store.write(fold.statements(), {})
            left = {at: records for at, records in left.items() if records}


def places_of(story: Story) -> Counter[Place]:
    """By the tasks' rows; of an event that no life calls its own by where it was put down last."""
    found: dict[OriginKey, Place] = {}
    told: list[tuple[int, Excluded | DeadLetter]] = []
    for task in story.tasks:
        for topic in ("excluded", "dead-letter"):
            told += [(entry.at_ms, entry.value) for entry in story.world.log[topic, task.partition]]  # type: ignore[misc]
    for _, record in sorted(told, key=lambda each: each[0]):
        if not record.aside:
            excluded = info(record.reason).excluded
            found[origin_key(record.origin)] = Place.EXCLUDED if excluded else Place.DEAD_LETTERED
    for task in story.tasks:
        for row in task.view.rows(Arrival.schema):
            assert isinstance(row, Arrival)
            found[origin_key(row.origin)] = Place.HELD
    for task in story.tasks:
        for life in (row for row in task.view.rows(Life.schema) if isinstance(row, Life) and not row.aside):
            job, chunk = read.job(task.view, life.job), read.chunk(task.view, life.chunk_id or "")
            paused = job is not None and job.paused
            state = None if chunk is None else chunk.state
            found[origin_key(life.origin)] = place_of(life, paused=paused, chunk_state=state)
    return Counter(found.values())


@pytest.mark.parametrize("seed", range(25))
def test_the_view_counts_every_raw_event_of_a_story_where_the_tasks_have_it(tmp_path: Path, seed: int) -> None:
    story = simulate(seed)
    read_in_any_order(tmp_path / "view.sqlite", topics_of(story), Random(seed))
    with View(tmp_path / "view.sqlite") as view:
        books = accounting(view)
    assert (books.lost, books.doubled, books.unborn) == (0, 0, 0)
    assert {place: n for place, n in books.account.places.items() if n} == dict(places_of(story))
    assert books.holds
    assert sum(each.lives for each in books.aside) == sum(life.aside for life in story.lives())


def test_stories_have_lives_aside() -> None:
    """Else the above shows less than it says."""
    assert sum(life.aside for seed in range(5) for life in simulate(seed).lives()) > 20
