"""The accounting identity: each raw record is in exactly one place, and the places add up to what came in.

Lives are counted by where they are now. A raw record that never got a life is where its exclusion, its dead letter or
its parking says. A life that was excluded once and brought back by a newer event belongs to that event; the earlier one
stays counted where it was, or, if it was put down more than once (declined, undone, superseded), where it was put last.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchmill.schemas.reasons import info
from batchmill.schemas.records import Origin
from batchmill.schemas.state import Life
from batchmill.schemas.status import PLACE_OF_STATUS, ChunkState, Place, Status

__all__ = ["Account", "Books", "OriginKey", "origin_key", "place_of"]

OriginKey = tuple[int, int, int]
#: not spending for now, on purpose
_HOLDABLE = frozenset({Status.QUEUED, Status.FAILED_RETRYABLE, Status.VALIDATED})


@dataclass(frozen=True, slots=True)
class Account:
    """How many raw records there were, and how many are in each place."""

    raw: int
    places: Mapping[Place, int]

    @property
    def difference(self) -> int:
        """0 when every raw record is accounted for exactly once; positive: lost, negative: counted twice."""
        return self.raw - sum(self.places.values())

    @property
    def holds(self) -> bool:
        return self.difference == 0

    def __add__(self, other: "Account") -> "Account":
        merged = Counter(self.places)
        merged.update(other.places)
        return Account(self.raw + other.raw, dict(merged))


def place_of(
    life: Life, *, paused: bool = False, chunk_state: ChunkState | None = None, commits_held: bool = False
) -> Place:
    """Where a life is counted. `paused` is its job's flag, `chunk_state` that of the chunk it is a member of;
    `commits_held`: its version's commits wait for an operator's `go`. What was taken back is held until it is put back.
    """
    if life.status is Status.FAILED_TERMINAL:
        excluded = life.reason is not None and info(life.reason).excluded
        return Place.EXCLUDED if excluded else Place.DEAD_LETTERED
    waits = life.status is Status.VALIDATED and (life.reverted or commits_held)
    held = waits or chunk_state is ChunkState.HELD or (paused and life.status in _HOLDABLE)
    return Place.HELD if held else PLACE_OF_STATUS[life.status]


def origin_key(origin: Origin) -> OriginKey:
    return origin.generation, origin.partition, origin.offset


class Books:
    """Every raw record's places, for finding not only that the identity fails but for which records."""

    def __init__(self) -> None:
        self._places: dict[OriginKey, list[Place]] = {}

    def came_in(self, origins: Iterable[OriginKey]) -> None:
        for each in origins:
            self._places.setdefault(each, [])

    def is_in(self, origin: OriginKey, place: Place) -> None:
        """Count a record; naming one that never came in makes it known, and `raw` then does not match."""
        self._places.setdefault(origin, []).append(place)

    def lost(self) -> list[OriginKey]:
        return sorted(each for each, places in self._places.items() if not places)

    def doubled(self) -> list[OriginKey]:
        return sorted(each for each, places in self._places.items() if len(places) > 1)

    def account(self) -> Account:
        return Account(len(self._places), dict(Counter(place for places in self._places.values() for place in places)))
