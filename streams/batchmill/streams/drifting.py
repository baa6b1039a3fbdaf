"""Whether the records of a version have become others than they were: counts in, findings out.

For each signal the first records make a reference; from then on every `window` records are one look at it. Windows do
not overlap and are as large as declared, so how many looks there will have been is known, and so is what a false alarm
costs: of `ALPHA`, the chance that a version that never changes alarms in all its life, each signal has its equal part,
and of that look number n has 1/n(n+1), which add up to one. A window has moved if the chi-square test is surer than
that *and* the move is large (`psi_above`): the one keeps small samples from crying wolf, the other large ones.

A watch is counts, never records: bounded, and the same whoever counts on from it. While a job that an alarm has paused
is paused nothing is counted; a resume begins a new window and keeps the reference.

What must not live here: what a record tells (`signalling`), whose watch it is (`watching`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from batchmill.schemas.drift import DriftSignal
from batchmill.schemas.jobs import JobSpec
from batchmill.streams.distances import Counts, Distance, distance
from batchmill.streams.signalling import OTHER, Heard, is_ordered, place_of, watched

__all__ = [
    "ALPHA",
    "PREFIX",
    "Moved",
    "Score",
    "Share",
    "Timed",
    "Track",
    "Watch",
    "begun",
    "look",
    "resumed",
    "sentence",
    "take",
    "terms_of",
    "threshold",
]

#: how the pause reason of an alarm begins
PREFIX: Final = "drift: "
ALPHA: Final = 0.01
#: classes of one histogram; what comes later is one more, `OTHER`
_CLASSES_MAX: Final = 64
#: looks of one signal that are remembered
_SCORES_MAX: Final = 60
_CLASSES_TOLD: Final = 3
#: of a share: less is not worth a word
_SHARE_TOLD: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of one class, before and after."""

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One window that has moved; `shares` begin with the class that moved most."""

    signal: DriftSignal
    look: int
    at_ms: int
    psi: float
    js: float
    p: float
    reference: int
    window: int
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One look; `at_ms` is the time of the record that completed its window."""

    look: int
    at_ms: int
    psi: float
    js: float
    p: float
    moved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One signal of one version."""

    reference: Mapping[str, int] = field(default_factory=dict)
    window: Mapping[str, int] = field(default_factory=dict)  #: the one that is being filled
    last: Mapping[str, int] = field(default_factory=dict)  #: the newest one that was looked at
    looks: int = 0
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One version. `terms` is what was counted under; other terms begin anew."""

    terms: str
    of_field: str | None = None  #: whose values the classes are
    tracks: Mapping[DriftSignal, Track] = field(default_factory=dict)
    moved: tuple[Moved, ...] = ()  #: the newest window of these signals had moved
    pausing: str | None = None  #: the reason, until a task has paused
    held: bool = False  #: paused by an alarm, and not resumed


class Timed(NamedTuple):
    """Something heard, and when the broker appended it."""

    heard: Heard
    at_ms: int


def begun(spec: JobSpec, former: Watch | None = None) -> Watch:
    """A version's watch before its first record. Against `current`, what the version before it was is the reference."""
    assert spec.drift is not None, f"nobody watches {spec.job}"
    watch = Watch(terms=terms_of(spec), of_field=spec.drift.field)
    if spec.drift.against == "first" or former is None:
        return watch
    full = {
        signal: Track(reference=track.reference)
        for signal, track in former.tracks.items()
        if sum(track.reference.values()) >= spec.drift.reference
        and (signal is not DriftSignal.CLASSES or former.of_field == watch.of_field)
    }
    return replace(watch, tracks=full)


def resumed(watch: Watch) -> Watch:
    """After an alarm a person has looked: a new window begins, the reference is kept."""
    tracks = {signal: replace(track, window={}) for signal, track in watch.tracks.items()}
    return replace(watch, tracks=tracks, moved=(), pausing=None, held=False)


def take(watch: Watch, spec: JobSpec, told: Iterable[Timed]) -> tuple[Watch, tuple[Moved, ...]]:
    """The watch after these, in the order in which they came, and every window among them that had moved."""
    assert spec.drift is not None, f"nobody watches {spec.job}"
    signals = watched(spec)
    by_signal: dict[DriftSignal, list[tuple[str, int]]] = {}
    for (signal, name), at_ms in told:
        if signal in signals:
            by_signal.setdefault(signal, []).append((name, at_ms))
    found: list[Moved] = []
    for signal, names in by_signal.items():
        watch, moved = _counted(watch, spec, signal, names)
        found += moved
    return watch, tuple(found)


def look(signal: DriftSignal, track: Track, spec: JobSpec, at_ms: int) -> tuple[Score, Moved | None]:
    """Hold the filled window against the reference."""
    assert spec.drift is not None, f"nobody watches {spec.job}"
    place = (lambda name: place_of(signal, name)) if is_ordered(signal) else None
    found, number = distance(track.reference, track.window, place=place), track.looks + 1
    moved = found.psi > spec.drift.psi_above and found.p <= threshold(len(watched(spec)), number)
    score = Score(look=number, at_ms=at_ms, psi=_short(found.psi), js=_short(found.js), p=found.p, moved=moved)
    return score, _told(signal, track, score, found) if moved else None


def threshold(signals: int, number: int) -> float:
    """The p that look `number` (from 1) of one of so many signals has to reach."""
    return ALPHA / signals / (number * (number + 1))


def sentence(moved: Moved) -> str:
    """What moved, from what to what, as people read it."""
    classes = ", ".join(f"{each.name} {each.before:.0%} -> {each.after:.0%}" for each in moved.shares[:_CLASSES_TOLD])
    return f"{moved.signal} moved (PSI {moved.psi:.2f}, p {moved.p:.1g}): {classes}"


# -- counting ----------------------------------------------------------------------------------------------------------


def _counted(
    watch: Watch, spec: JobSpec, signal: DriftSignal, names: list[tuple[str, int]]
) -> tuple[Watch, list[Moved]]:
    """One signal's records. An alarm that pauses the job ends the counting: what comes behind it is not looked at."""
    assert spec.drift is not None
    track = watch.tracks.get(signal, Track())
    reference, window = dict(track.reference), dict(track.window)
    missing, filled = spec.drift.reference - sum(reference.values()), sum(window.values())
    found: list[Moved] = []
    for name, at_ms in names:
        if watch.held or watch.pausing is not None:
            break
        if missing > 0:
            _count(reference, name)
            missing -= 1
            continue
        _count(window, name)
        filled += 1
        if filled >= spec.drift.window:
            track = replace(track, reference=reference, window=window)
            score, moved = look(signal, track, spec, at_ms)
            track = replace(track, last=window, looks=score.look, scores=(*track.scores, score)[-_SCORES_MAX:])
            watch = _judged(watch, signal, moved, spec.drift.policy)
            found += [] if moved is None else [moved]
            window, filled = {}, 0
    track = replace(track, reference=reference, window=window)
    return replace(watch, tracks={**watch.tracks, signal: track}), found


def _judged(watch: Watch, signal: DriftSignal, moved: Moved | None, policy: str) -> Watch:
    others = tuple(each for each in watch.moved if each.signal is not signal)
    if moved is None:
        return replace(watch, moved=others)
    pausing = PREFIX + sentence(moved) if policy == "pause" else None
    return replace(watch, moved=(*others, moved), pausing=pausing)


def _count(counts: dict[str, int], name: str) -> None:
    known = name in counts or len(counts) < _CLASSES_MAX
    counts[name if known else OTHER] = counts.get(name if known else OTHER, 0) + 1


def _told(signal: DriftSignal, track: Track, score: Score, found: Distance) -> Moved:
    before, after = sum(track.reference.values()), sum(track.window.values())
    return Moved(
        signal=signal,
        look=score.look,
        at_ms=score.at_ms,
        psi=score.psi,
        js=score.js,
        p=found.p,
        reference=before,
        window=after,
        shares=_shares(track.reference, track.window),
    )


def _shares(reference: Counts, window: Counts) -> tuple[Share, ...]:
    before, after = sum(reference.values()), sum(window.values())
    shares = [
        Share(name=name, before=_short(reference.get(name, 0) / before), after=_short(window.get(name, 0) / after))
        for name in {*reference, *window}
    ]
    moved = [each for each in shares if abs(each.after - each.before) >= _SHARE_TOLD]
    return tuple(sorted(moved, key=lambda each: (-abs(each.after - each.before), each.name)))


def _short(number: float) -> float:
    return round(number, 4)


def terms_of(spec: JobSpec) -> str:
    """What a watch is counted under."""
    assert spec.drift is not None
    return f"{spec.drift.field or ''}|{spec.drift.against}|{spec.drift.reference}|{spec.drift.window}"
