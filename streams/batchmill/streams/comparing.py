"""Two contenders over the same records: what they say alike, which is right how often, what each costs.

A contender is a version, one run of a version, or a baseline. A *pair* is one record that both have settled: each has
an answer that passed (validated), one that a person has to look at (needs_review), or none that is any good (dead).
`truth` is the right output where it is known. Two values are the same if their JSON is: 1 and 1.0 are, 1 and true are
not. A record that both gave up says nothing about agreement and is counted apart.

All figures are symmetric: with the contenders exchanged each is told of the other. What must not live here: where
records come from, and whether what is found is good enough (`gating`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from batchmill.schemas.strict_json import canonical_json
from batchmill.streams.estimating import (
    Interval,
    Share,
    Weighed,
    drop_of,
    holm,
    mcnemar,
    quotient,
    share,
    times,
)
from batchmill.streams.paths import ABSENT, Path, compile_path

__all__ = [
    "CHANGED_MAX",
    "USABLE",
    "Accuracy",
    "Changed",
    "Check",
    "Comparison",
    "Contended",
    "Ended",
    "FieldFound",
    "Outcome",
    "Pair",
    "Price",
    "compare",
    "same",
    "truth_fields",
]

#: the check that every record of every job has: there is an answer that is no dead letter
USABLE: Final = "(usable)"
#: changed records that are shown; all are counted
CHANGED_MAX: Final = 100
#: members that are compared one by one where none is named
_FIELDS_MAX: Final = 40
#: a field with more values, or longer ones, is no label: it has no table of confusions
_LABELS_MAX: Final = 12
_LABEL_CHARS_MAX: Final = 60


class Ended(StrEnum):
    """What came of one record under one contender."""

    VALIDATED = "validated"
    NEEDS_REVIEW = "needs_review"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One record under one contender. `cost_nanos` and `tokens` are None where they are not known."""

    ended: Ended
    output: Any = None  #: decoded; of a dead record None
    checks: Mapping[str, bool] = field(default_factory=dict)  #: those that were made -> all of that name passed
    cost_nanos: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One record under both. `key` is its own, `source_id` perhaps not."""

    key: str
    source_id: str = ""
    a: Outcome
    b: Outcome
    truth: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contended:
    """Who passed how often, over the records on which both were tried; `drop` is a's share less b's."""

    a: Share
    b: Share
    lost: int  #: passed under a only
    won: int  #: passed under b only
    drop: Interval
    p: float
    p_adjusted: float  #: as one of all that were tested together


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; `both` is None where no record met it under both."""

    id: str
    a: Share | None
    b: Share | None
    both: Contended | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFound:
    """One member of the output. `confusions` counts (a's value, b's value); empty where the values are no labels."""

    name: str
    agreement: Share | None
    accuracy: Contended | None
    confusions: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Against the truth, over the pairs that have one: all fields right at once."""

    fields: tuple[str, ...]
    whole: Contended


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of a success, that is of a validated record: nano-dollars, or tokens. `of` records are known under both."""

    of: int
    a: Weighed | None
    b: Weighed | None
    ratio: Weighed | None  #: b's over a's


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One record on which they differ, and in what."""

    key: str
    source_id: str
    fields: tuple[str, ...]
    a: Outcome
    b: Outcome
    truth: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that was found. `judged` are the members that must be the same for two outputs to agree; none: the whole."""

    confidence: float
    pairs: int
    judged: tuple[str, ...]
    neither: int  #: records that both gave up
    ended: Mapping[tuple[Ended, Ended], int]
    agreement: Share | None
    fields: tuple[FieldFound, ...]
    checks: tuple[Check, ...]
    accuracy: Accuracy | None
    cost: Price
    tokens: Price
    changed: tuple[Changed, ...]
    changes: int  #: changed records, those that are not shown included


def compare(pairs: Sequence[Pair], *, fields: Sequence[str] = (), confidence: float = 0.95) -> Comparison:
    """`fields` are what counts; none named: the members that the truth has, or the whole where there is no truth."""
    judged = tuple(fields) or truth_fields(pairs)
    readers = {name: compile_path(name) for name in judged}
    answered = [pair for pair in pairs if not _gave_up(pair)]
    changes = [pair for pair in answered if not _alike(pair, readers)]
    shown = readers if fields else {name: compile_path(name) for name in _members(pairs, judged)}
    return Comparison(
        confidence=confidence,
        pairs=len(pairs),
        judged=judged,
        neither=len(pairs) - len(answered),
        ended=dict(Counter((pair.a.ended, pair.b.ended) for pair in pairs)),
        agreement=share(len(answered) - len(changes), len(answered), confidence),
        fields=_fields(pairs, answered, shown, confidence),
        checks=_checks(pairs, confidence),
        accuracy=_accuracy(pairs, readers, confidence),
        cost=_price(pairs, lambda outcome: outcome.cost_nanos, confidence),
        tokens=_price(pairs, lambda outcome: outcome.tokens, confidence),
        changed=tuple(_changed(pair, shown) for pair in changes[:CHANGED_MAX]),
        changes=len(changes),
    )


def truth_fields(pairs: Iterable[Pair]) -> tuple[str, ...]:
    """The members that any truth has, as paths."""
    return tuple(sorted({_path_of(name) for pair in pairs for name in pair.truth or ()}))


def same(one: Any, other: Any) -> bool:
    """Whether two values are spelled alike in JSON; what is absent is like nothing but what is absent."""
    if one is ABSENT or other is ABSENT:
        return one is other
    if isinstance(one, str) and isinstance(other, str):  # by far the most of them
        return one == other
    return canonical_json(one) == canonical_json(other)


def _gave_up(pair: Pair) -> bool:
    return pair.a.ended is Ended.DEAD and pair.b.ended is Ended.DEAD


def _alike(pair: Pair, readers: Mapping[str, Path]) -> bool:
    if Ended.DEAD in (pair.a.ended, pair.b.ended):
        return False
    if not readers:
        return same(pair.a.output, pair.b.output)
    return all(_same_at(path, pair.a.output, pair.b.output) for path in readers.values())


def _same_at(path: Path, one: Any, other: Any) -> bool:
    return same(path.find(one), path.find(other))


def _members(pairs: Iterable[Pair], judged: Iterable[str]) -> list[str]:
    """The judged ones, then those the outputs have, as paths; the most frequent, if there are too many."""
    seen: Counter[str] = Counter()
    for pair in pairs:
        for output in (pair.a.output, pair.b.output):
            seen.update(map(_path_of, output) if isinstance(output, dict) else ())
    first = list(judged)
    rest = sorted(sorted(seen.keys() - set(first)), key=lambda name: -seen[name])
    return [*first, *sorted(rest[: max(0, _FIELDS_MAX - len(first))])]


def _path_of(member: str) -> str:
    """A member's name as a path; what cannot be written as one is quoted."""
    plain = member.isascii() and member.replace("-", "_").isidentifier() and not member.startswith("-")
    return member if plain else f"$['{member}']"


# -- shares ------------------------------------------------------------------------------------------------------------


def _contended(tried: Iterable[tuple[bool, bool]], confidence: float) -> Contended | None:
    """Of (passed under a, passed under b)."""
    counts = Counter(tried)
    of, lost, won = counts.total(), counts[True, False], counts[False, True]
    a = share(counts[True, True] + lost, of, confidence)
    b = share(counts[True, True] + won, of, confidence)
    if a is None or b is None:
        return None
    p = mcnemar(lost, won)
    drop = drop_of(lost, won, of, confidence)
    return Contended(a=a, b=b, lost=lost, won=won, drop=drop, p=p, p_adjusted=p)


def _adjusted(found: Mapping[str, Contended | None]) -> dict[str, Contended | None]:
    """As one family of tests."""
    ps = holm({name: each.p for name, each in found.items() if each is not None})
    return {name: None if each is None else _with_p(each, ps[name]) for name, each in found.items()}


def _with_p(each: Contended, p_adjusted: float) -> Contended:
    return Contended(a=each.a, b=each.b, lost=each.lost, won=each.won, drop=each.drop, p=each.p, p_adjusted=p_adjusted)


def _checks(pairs: Sequence[Pair], confidence: float) -> tuple[Check, ...]:
    names = sorted({name for pair in pairs for outcome in (pair.a, pair.b) for name in outcome.checks})
    met = {name: [(pair.a.checks.get(name), pair.b.checks.get(name)) for pair in pairs] for name in names} | {
        USABLE: [(pair.a.ended is not Ended.DEAD, pair.b.ended is not Ended.DEAD) for pair in pairs]
    }
    both = _adjusted({name: _contended(_under_both(tried), confidence) for name, tried in met.items()})
    return tuple(
        Check(
            id=name,
            a=_passed((a for a, _ in tried), confidence),
            b=_passed((b for _, b in tried), confidence),
            both=both[name],
        )
        for name, tried in met.items()
    )


def _under_both(tried: Iterable[tuple[bool | None, bool | None]]) -> Iterator[tuple[bool, bool]]:
    return ((a, b) for a, b in tried if a is not None and b is not None)


def _passed(tried: Iterable[bool | None], confidence: float) -> Share | None:
    counts = Counter(tried)
    return share(counts[True], counts[True] + counts[False], confidence)


def _fields(
    pairs: Sequence[Pair], answered: Sequence[Pair], shown: Mapping[str, Path], confidence: float
) -> tuple[FieldFound, ...]:
    accuracies = _adjusted({name: _contended(_rights(pairs, {name: path}), confidence) for name, path in shown.items()})
    return tuple(
        FieldFound(
            name=name,
            agreement=share(sum(_alike(pair, {name: path}) for pair in answered), len(answered), confidence),
            accuracy=accuracies[name],
            confusions=_confusions(answered, path),
        )
        for name, path in shown.items()
    )


def _rights(pairs: Iterable[Pair], readers: Mapping[str, Path]) -> Iterator[tuple[bool, bool]]:
    """Of the pairs whose truth has any of these members."""
    for pair in pairs:
        known = [path for path in readers.values() if path.find(pair.truth) is not ABSENT]
        if known:
            yield _right(pair.a, pair.truth, known), _right(pair.b, pair.truth, known)


def _right(outcome: Outcome, truth: Any, known: Iterable[Path]) -> bool:
    return outcome.ended is not Ended.DEAD and all(_same_at(path, outcome.output, truth) for path in known)


def _accuracy(pairs: Sequence[Pair], readers: Mapping[str, Path], confidence: float) -> Accuracy | None:
    whole = _contended(_rights(pairs, readers), confidence)
    return None if whole is None else Accuracy(fields=tuple(readers), whole=whole)


def _confusions(answered: Iterable[Pair], path: Path) -> dict[tuple[str, str], int]:
    counts: Counter[tuple[str, str]] = Counter()
    for pair in answered:
        counts[_label(pair.a, path), _label(pair.b, path)] += 1
    labels = {label for both in counts for label in both}
    small = len(labels) <= _LABELS_MAX and all(len(label) <= _LABEL_CHARS_MAX for label in labels)
    return dict(sorted(counts.items())) if small else {}


def _label(outcome: Outcome, path: Path) -> str:
    value = path.find(outcome.output)
    if outcome.ended is Ended.DEAD or value is ABSENT:
        return "(none)"
    return value if isinstance(value, str) else canonical_json(value)


# -- money and tokens --------------------------------------------------------------------------------------------------


def _price(pairs: Iterable[Pair], of: Callable[[Outcome], int | None], confidence: float) -> Price:
    """Over the records for which it is known under both: what one lacks would make the other dear."""
    known = [pair for pair in pairs if of(pair.a) is not None and of(pair.b) is not None]
    a, b = _spent([pair.a for pair in known], of), _spent([pair.b for pair in known], of)
    return Price(
        of=len(known),
        a=quotient(*a, confidence),
        b=quotient(*b, confidence),
        ratio=times(a, b, confidence),
    )


def _spent(outcomes: Iterable[Outcome], of: Callable[[Outcome], int | None]) -> tuple[list[int], list[int]]:
    """What each record took, and whether it was a success."""
    told = [(of(each) or 0, int(each.ended is Ended.VALIDATED)) for each in outcomes]
    return [amount for amount, _ in told], [success for _, success in told]


def _changed(pair: Pair, shown: Mapping[str, Path]) -> Changed:
    differ = [name for name, path in shown.items() if not _same_at(path, pair.a.output, pair.b.output)]
    return Changed(key=pair.key, source_id=pair.source_id, fields=tuple(differ), a=pair.a, b=pair.b, truth=pair.truth)
