"""How far reviewers decide alike: Cohen's kappa of two, Krippendorff's alpha of all. Pure.

A unit is one answer that two people decided on their own: the first two, for a third one is called to end their
disagreement and has seen both. What they said is accept, correct or decline. A kappa of pairs who always said one and
the same, and an alpha without any difference, are not numbers but None: there was nothing to tell apart, which says
nothing about agreeing where there is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from batchmill.agents.desk.model import Agreement, Pair
from batchmill.agents.projector.reviewing import ReviewedRow

__all__ = ["agreement", "kappa"]

_VALUES: Final = ("accept", "correct", "decline")
_INDEPENDENT: Final = 2
_DIGITS: Final = 6

Unit = dict[str, str]  #: actor -> what they said


def agreement(job: str | None, decided: Sequence[ReviewedRow]) -> Agreement:
    """Over decisions in force, those about one answer in their order."""
    units: dict[tuple[str, str], Unit] = {}
    for row in decided:
        unit = units.setdefault((row.request_id, row.output_sha256_seen), {})
        if len(unit) < _INDEPENDENT:
            unit[row.actor] = row.action
    doubly = [unit for unit in units.values() if len(unit) > 1]
    said: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for unit in doubly:
        for first, second in combinations(sorted(unit), 2):
            said.setdefault((first, second), []).append((unit[first], unit[second]))
    pairs = tuple(_pair(names, both) for names, both in sorted(said.items()))
    return Agreement(job=job, records=len(doubly), alpha=_alpha(doubly), pairs=pairs)


def kappa(both: Sequence[tuple[str, str]]) -> float | None:
    """Agreement beyond what the two would reach by their habits alone."""
    n = len(both)
    first, second = Counter(a for a, _ in both), Counter(b for _, b in both)
    by_chance = sum(first[value] * second[value] for value in _VALUES) / n**2
    if by_chance >= 1:
        return None
    observed = sum(a == b for a, b in both) / n
    return round((observed - by_chance) / (1 - by_chance), _DIGITS)


def _pair(names: tuple[str, str], both: Sequence[tuple[str, str]]) -> Pair:
    agreed = sum(a == b for a, b in both)
    return Pair(first=names[0], second=names[1], records=len(both), agreed=agreed, kappa=kappa(both))


def _alpha(units: Sequence[Mapping[str, str]]) -> float | None:
    counts = [[sum(said == value for said in unit.values()) for value in _VALUES] for unit in units]
    if sum(any(row[at] for row in counts) for at in range(len(_VALUES))) < 2:
        return None
    import krippendorff  # noqa: PLC0415  brings numpy, which only this needs
    import numpy as np  # noqa: PLC0415

    found = krippendorff.alpha(value_counts=np.array(counts), level_of_measurement="nominal")
    return round(float(found), _DIGITS)
