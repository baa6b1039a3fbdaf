"""How far two samples of classes lie apart: by how much, and how surely.

By how much: the population stability index, and the Jensen-Shannon distance (base 2, so from 0 to 1). How surely: the
chi-square test that both were drawn from one distribution. All three are taken over the same cells: classes that are
too small to say anything are merged until each cell is expected to hold `EXPECTED_MIN` of the smaller sample.

What must not live here: what the classes are of, and what is made of a distance (`drifting`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["EXPECTED_MIN", "Counts", "Distance", "cells", "chi_square_p", "distance"]

Counts = Mapping[str, int]  #: class -> how many

#: below it the chi-square distribution is no fair picture of the test's own one (Cochran's rule)
EXPECTED_MIN: Final = 5.0
#: added to each cell before shares are taken, so that an empty cell has a finite index
_SMOOTHED: Final = 0.5

_Cell = tuple[int, int]  #: (in the reference, in the window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Between a reference and a window."""

    psi: float
    js: float
    chi2: float
    df: int  #: cells less one; 0: there is nothing to compare
    p: float  #: how often samples of one distribution lie at least so far apart


def distance(reference: Counts, window: Counts, *, place: Callable[[str], float] | None = None) -> Distance:
    """`place` says where a class stands among the others, where they have an order: it then merges with a neighbour."""
    found = cells(reference, window, place=place)
    chi2, df = _chi_square(found), max(0, len(found) - 1)
    return Distance(psi=_psi(found), js=_jensen_shannon(found), chi2=chi2, df=df, p=chi_square_p(chi2, df))


def cells(reference: Counts, window: Counts, *, place: Callable[[str], float] | None = None) -> list[_Cell]:
    """The pairs of counts that are compared, none too small; their sums are those of the samples."""
    pairs = {name: (reference.get(name, 0), window.get(name, 0)) for name in {*reference, *window}}
    by: Callable[[str], Any] = (lambda name: (sum(pairs[name]), name)) if place is None else place
    total = sum(map(sum, pairs.values()))
    smaller = min(sum(reference.values()), sum(window.values()))
    merged: list[_Cell] = []
    held: _Cell = (0, 0)
    for name in sorted(pairs, key=by):
        held = _added(held, pairs[name])
        if sum(held) * smaller >= EXPECTED_MIN * total:
            merged.append(held)
            held = (0, 0)
    if any(held):
        merged = [*merged[:-1], _added(merged[-1], held)] if merged else [held]
    return merged


def chi_square_p(chi2: float, df: int) -> float:
    """The upper tail of the chi-square distribution; for whole degrees of freedom it is a finite sum."""
    if df <= 0 or chi2 <= 0:
        return 1.0
    half, odd = chi2 / 2, df % 2
    start = 0.5 if odd else 0.0
    logs = ((start + k) * math.log(half) - half - math.lgamma(start + k + 1) for k in range(df // 2))
    return min(1.0, (math.erfc(math.sqrt(half)) if odd else 0.0) + math.fsum(map(math.exp, logs)))


def _added(one: _Cell, other: _Cell) -> _Cell:
    return one[0] + other[0], one[1] + other[1]


def _chi_square(found: list[_Cell]) -> float:
    """Of the table with two rows. A row without a count says nothing."""
    rows = sum(cell[0] for cell in found), sum(cell[1] for cell in found)
    if not all(rows):
        return 0.0
    total = sum(rows)
    return math.fsum(
        (cell[row] - expected) ** 2 / expected
        for cell in found
        for row in (0, 1)
        for expected in (rows[row] * sum(cell) / total,)
    )


def _shares(found: list[_Cell], row: int, smoothed: float) -> list[float]:
    total = sum(cell[row] for cell in found) + smoothed * len(found)
    return [(cell[row] + smoothed) / total if total else 0.0 for cell in found]


def _psi(found: list[_Cell]) -> float:
    before, after = _shares(found, 0, _SMOOTHED), _shares(found, 1, _SMOOTHED)
    return math.fsum((q - p) * math.log(q / p) for p, q in zip(before, after, strict=True))


def _jensen_shannon(found: list[_Cell]) -> float:
    """The square root of the mean divergence from the mixture of both."""
    both = list(zip(_shares(found, 0, 0), _shares(found, 1, 0), strict=True))
    nats = math.fsum(each * math.log(2 * each / (p + q)) / 2 for p, q in both for each in (p, q) if each > 0)
    return math.sqrt(max(0.0, nats) / math.log(2))
