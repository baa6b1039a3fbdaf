"""The poison rule of one task at work: what must be written down before something suspected is touched.

What lives here: the current `Restart` and `Trying` of a task, and which rows each step asks for. What must not:
awaiting; the task writes the rows and waits until they are durable. The rule itself is in `suspicion`.
"""

from collections.abc import Mapping
from dataclasses import replace

from batchmill.agents.runtime.codec import OWN_TABLE, RESTART, TRYING, Write
from batchmill.agents.runtime.errors import PoisonEffectError
from batchmill.agents.runtime.records import Slice
from batchmill.agents.runtime.suspicion import (
    EffectTrial,
    RecordTrial,
    Restart,
    Thresholds,
    Trying,
    closed,
    reopened,
)

__all__ = ["Guard"]


class Guard:
    """One task's memory of its deaths."""

    def __init__(self, thresholds: Thresholds, *, alone_records: int) -> None:
        self._thresholds = thresholds
        self._alone_records = alone_records
        self._alone_left: dict[str, int] = {}
        self._condemned: dict[str, int] = {}  #: topic -> offset
        self._restart = Restart(clean=False)
        self._trying = Trying()

    def open(self, restart: bytes | None, trying: bytes | None, positions: Mapping[str, int]) -> bool:
        """Take over from what the last owner left; True when it left cleanly."""
        before = Restart.from_json(restart)
        self._restart, self._trying = reopened(before, Trying.from_json(trying), positions)
        self._condemned = {
            topic: trial.offset
            for topic, trial in self._trying.records.items()
            if trial.deaths >= self._thresholds.poison_deaths
        }
        self._alone_left = {
            topic: self._alone_records
            for topic, place in self._restart.places.items()
            if place.deaths >= self._thresholds.suspicion_deaths or topic in self._condemned
        }
        return before is None or before.clean

    def opening(self) -> list[Write]:
        """Rows that must be durable before the task does anything."""
        self._restart = replace(self._restart, clean=False)
        return [self._restart_row(), self._trying_row()]

    def closing(self, positions: Mapping[str, int], *, clean: bool) -> list[Write]:
        """Rows of the last transaction of an owner."""
        self._restart = closed(self._restart, positions, clean=clean)
        return [self._restart_row()]

    def healthy(self) -> list[Write]:
        """The task has run well for a while: effects are trusted again. Empty when they were."""
        if not self._restart.streak and not self._trying.effects:
            return []
        self._restart = replace(self._restart, streak=0)
        self._trying = replace(self._trying, effects={})
        return [self._restart_row(), self._trying_row()]

    @property
    def suspected(self) -> tuple[str, ...]:
        """Input topics whose next records are tried one at a time."""
        return tuple(sorted(self._alone_left))

    # --- records ---

    def alone(self, topic: str) -> int:
        """How many of the next records must go one at a time."""
        return self._alone_left.get(topic, 0)

    def condemned(self, slice_: Slice) -> bool:
        """Its one record has killed the process often enough."""
        return len(slice_.records) == 1 and self._condemned.get(slice_.topic) == slice_.records[0].offset

    def suspects(self, slice_: Slice) -> bool:
        """It may be what killed the process: it is announced, and nothing else suspected is tried meanwhile."""
        place = self._restart.places.get(slice_.topic)
        if place is None or not place.deaths or self.condemned(slice_):
            return False
        return slice_.topic in self._alone_left or (place.position == slice_.start and not place.touched)

    def before(self, slice_: Slice) -> list[Write]:
        """Rows that must be durable before a suspected slice is handed to its agent."""
        topic, place = slice_.topic, self._restart.places[slice_.topic]
        rows = []
        if place.position == slice_.start and not place.touched:
            self._restart = replace(self._restart, places={**self._restart.places, topic: replace(place, touched=True)})
            rows.append(self._restart_row())
        if topic in self._alone_left:
            # Whatever happened here before, it takes a death of its own to be condemned.
            trial = RecordTrial(slice_.records[0].offset, min(place.deaths, self._thresholds.suspicion_deaths))
            self._trying = self._trying.with_record(topic, trial)
            rows.append(self._trying_row())
        return rows

    def handled(self, slice_: Slice) -> None:
        """The process survived it."""
        left = self._alone_left.get(slice_.topic)
        if left is None:
            return
        if left > len(slice_.records):
            self._alone_left[slice_.topic] = left - len(slice_.records)
        else:
            del self._alone_left[slice_.topic]

    # --- effects ---

    @property
    def announces(self) -> bool:
        """Effects are written down before they start."""
        return self._restart.streak > 0

    @property
    def one_at_a_time(self) -> bool:
        return self._restart.streak >= self._thresholds.suspicion_deaths

    def start(self, effect: str, row_id: str) -> list[Write]:
        """Rows that must be durable before the effect touches the row; raises when it is condemned."""
        name = f"{effect}/{row_id}"
        # Only the death that began the streak was not announced. In a longer one a row that is new here killed nobody.
        unseen = int(self._restart.streak == 1)
        trial = self._trying.effects.get(name, EffectTrial(0, running=False, unseen=unseen))
        deaths = trial.deaths + trial.unseen
        if deaths >= self._thresholds.poison_deaths:
            raise PoisonEffectError(effect, row_id, deaths)
        self._trying = self._trying.with_effect(name, replace(trial, running=True))
        return [self._trying_row()]

    def end(self, effect: str, row_id: str) -> list[Write]:
        """The process survived the effect on this row."""
        name = f"{effect}/{row_id}"
        if name not in self._trying.effects:
            return []
        self._trying = self._trying.with_effect(name, None)
        return [self._trying_row()]

    # --- rows ---

    def _restart_row(self) -> Write:
        return Write(OWN_TABLE, RESTART, self._restart.to_json(), ())

    def _trying_row(self) -> Write:
        return Write(OWN_TABLE, TRYING, self._trying.to_json() if self._trying else None, ())
