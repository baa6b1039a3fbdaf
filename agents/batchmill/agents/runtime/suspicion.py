"""The poison rule: who is suspected of killing the process, and who is condemned.

A known failure is data. What kills the process outright (a crash of the interpreter, an exit, no memory) leaves only
its traces in state, and they are what lives here, as plain values: `Restart` (where each input stood, how often the
task died there, whether the last owner left cleanly) and `Trying` (what was being tried when it died). What must not:
anything that awaits or writes; the task writes the rows these functions return.

- An unclean stop counts one death at every input position, a further one only if records at that position had been
  handed out again (`touched`): a quiet topic is not blamed for another's crash.
- From `suspicion_deaths` on, the next slice's worth of records is tried one at a time, each announced first.
- What is found announced and `poison_deaths` were counted, is condemned: it never reaches its agent again.
- Effects: after one unclean stop they are announced while they run, after `suspicion_deaths` in a row they run one at a
  time, until the task was healthy for a while.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

__all__ = ["EffectTrial", "Place", "RecordTrial", "Restart", "Thresholds", "Trying", "closed", "reopened"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    suspicion_deaths: int
    poison_deaths: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where one input topic stood."""

    position: int
    deaths: int = 0
    touched: bool = False  #: records at `position` were handed out in this run


@dataclass(frozen=True, slots=True)
class Restart:
    """Row `__restart`."""

    clean: bool = True
    streak: int = 0  #: unclean stops without a healthy while in between
    places: Mapping[str, Place] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes | None) -> "Restart | None":
        if data is None:
            return None
        read = json.loads(data)
        places = {topic: Place(**place) for topic, place in read["places"].items()}
        return cls(read["clean"], read["streak"], places)


@dataclass(frozen=True, slots=True)
class RecordTrial:
    offset: int
    deaths: int


@dataclass(frozen=True, slots=True)
class EffectTrial:
    deaths: int
    running: bool
    unseen: int = 0  #: a death before anything was announced, which may have been this row's


@dataclass(frozen=True, slots=True)
class Trying:
    """Row `__trying`."""

    records: Mapping[str, RecordTrial] = field(default_factory=dict)  #: by topic
    effects: Mapping[str, EffectTrial] = field(default_factory=dict)  #: by effect/row

    def __bool__(self) -> bool:
        return bool(self.records or self.effects)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes | None) -> "Trying":
        read = json.loads(data) if data is not None else {"records": {}, "effects": {}}
        return cls(
            {topic: RecordTrial(**trial) for topic, trial in read["records"].items()},
            {name: EffectTrial(**trial) for name, trial in read["effects"].items()},
        )

    def with_record(self, topic: str, trial: RecordTrial) -> "Trying":
        return replace(self, records={**self.records, topic: trial})

    def with_effect(self, name: str, trial: EffectTrial | None) -> "Trying":
        effects = {known: kept for known, kept in self.effects.items() if known != name}
        if trial is not None:
            effects[name] = trial
        return replace(self, effects=effects)


def reopened(before: Restart | None, trying: Trying, positions: Mapping[str, int]) -> tuple[Restart, Trying]:
    """What a new owner writes first, from what the last one left and where the inputs stand now."""
    if before is None:
        before = Restart()
    died = not before.clean
    places = {topic: _place(before.places.get(topic), position, died=died) for topic, position in positions.items()}
    records = {
        topic: RecordTrial(trial.offset, trial.deaths + died)
        for topic, trial in trying.records.items()
        if trial.offset >= positions.get(topic, 0)
    }
    effects = {
        name: replace(trial, deaths=trial.deaths + (died and trial.running), running=False)
        for name, trial in trying.effects.items()
    }
    return (
        Restart(clean=False, streak=before.streak + died, places=places),
        Trying(records, {name: trial for name, trial in effects.items() if trial.deaths}),
    )


def _place(before: Place | None, position: int, *, died: bool) -> Place:
    if before is None or before.position != position:
        return Place(position, int(died))
    further = died and (before.touched or before.deaths == 0)
    return Place(position, before.deaths + further)


def closed(now: Restart, positions: Mapping[str, int], *, clean: bool) -> Restart:
    """What an owner writes last: where it stands. An unmoved place keeps its deaths, a clean stop adds none."""
    places = {
        topic: known if (known := now.places.get(topic)) is not None and known.position == position else Place(position)
        for topic, position in positions.items()
    }
    return replace(now, clean=clean, places=places)
