"""What the overseer has counted of drift, as the read model has it: signals, their looks, and what has moved."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from batchmill.agents.projector.reading import View
from batchmill.agents.runtime.codec import OVERSEER
from batchmill.schemas.drift import DriftSignal, DriftSpec
from batchmill.schemas.jobs import JobSpec
from batchmill.schemas.strict_json import from_json
from batchmill.streams.drifting import Moved, Score, Watch
from batchmill.streams.watching import JobWatch

__all__ = ["SignalRow", "WatchRow", "watch_rows"]

_ROWS = f"{OVERSEER}/drift/"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRow:
    """One signal of one version."""

    signal: DriftSignal
    reference: Mapping[str, int]
    last: Mapping[str, int]  #: the newest full window
    filling: int  #: records of the window that is not full yet
    looks: int
    scores: tuple[Score, ...]
    moved: Moved | None  #: the newest window had moved

    @property
    def shares(self) -> list[tuple[str, float, float]]:
        """(class, before, after), those that moved most first; empty before the first full window."""
        before, after = sum(self.reference.values()) or 1, sum(self.last.values())
        if not after:
            return []
        found = [
            (name, self.reference.get(name, 0) / before, self.last.get(name, 0) / after)
            for name in {*self.reference, *self.last}
        ]
        return sorted(found, key=lambda share: (-abs(share[2] - share[1]), share[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRow:
    """One version that is watched, or was."""

    job: str
    version: str
    in_force: bool
    spec: DriftSpec | None  #: None: the version is not watched any more
    held: bool  #: an alarm has paused the job, and it was not resumed
    signals: tuple[SignalRow, ...]

    @property
    def moved(self) -> tuple[Moved, ...]:
        return tuple(each.moved for each in self.signals if each.moved is not None)


def watch_rows(view: View, job: str | None = None) -> list[WatchRow]:
    """Every watched version, the one in force first."""
    ours = "SELECT name, value_json FROM meta WHERE substr(name, 1, ?) = ? ORDER BY name"
    found = view.rows(ours, (len(_ROWS), _ROWS))
    told = [(row["name"].removeprefix(_ROWS), row["value_json"]) for row in found]
    return [
        row
        for name, text in told
        if text != "null" and job in (None, name)
        for row in sorted(_versions(view, name, from_json(JobWatch, text)), key=lambda row: not row.in_force)
    ]


def _versions(view: View, job: str, about: JobWatch) -> Iterator[WatchRow]:
    specs = _specs(view, job)
    for version, watch in about.versions.items():
        yield WatchRow(
            job=job,
            version=version,
            in_force=version == about.version,
            spec=specs.get(version),
            held=watch.held,
            signals=tuple(_signals(watch)),
        )


def _signals(watch: Watch) -> Iterator[SignalRow]:
    moved = {each.signal: each for each in watch.moved}
    for signal in DriftSignal:
        track = watch.tracks.get(signal)
        if track is not None:
            yield SignalRow(
                signal=signal,
                reference=track.reference,
                last=track.last,
                filling=sum(track.window.values()),
                looks=track.looks,
                scores=track.scores,
                moved=moved.get(signal),
            )


def _specs(view: View, job: str) -> dict[str, DriftSpec | None]:
    newest = view.row("SELECT versions_json FROM jobs WHERE job = ? ORDER BY updated_at_ms DESC LIMIT 1", (job,))
    told = {} if newest is None else json.loads(newest["versions_json"])
    return {version: JobSpec.from_json(json.dumps(spec)).drift for version, spec in told.items()}
