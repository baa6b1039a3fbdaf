"""What a count, a pair of counts and a quotient of sums tell, and how surely: intervals and tests.

All of it is exact or in closed form, so the same records give the same figures, to the last digit. Every interval is
two-sided. Words: of n paired trials `lost` are those that only the first passed, `won` those that only the second did.

What must not live here: what is counted (`comparing`), and what is made of a figure (`gating`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Interval", "Share", "Weighed", "drop_of", "drop_p", "holm", "mcnemar", "quotient", "share", "times"]

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of so many, and where the share lies from which they were drawn."""

    of: int
    count: int
    value: float
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """A quotient of two sums; the interval is None where there is no telling (one record, or a sum of nothing)."""

    value: float
    interval: Interval | None


def share(count: int, of: int, confidence: float) -> Share | None:
    """With Wilson's score interval; None of nothing."""
    if of == 0:
        return None
    z2 = _z(confidence) ** 2
    p = count / of
    middle, scale = p + z2 / (2 * of), 1 + z2 / of
    half = math.sqrt(z2 * (p * (1 - p) + z2 / (4 * of)) / of)
    # at the ends the bound is the end itself, whatever the rounding
    low = 0.0 if count == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if count == of else min(1.0, (middle + half) / scale)
    return Share(of=of, count=count, value=p, interval=Interval(low=low, high=high))


def mcnemar(lost: int, won: int) -> float:
    """The exact test that a pair is as often lost as won: how often chance alone would part them at least so far."""
    n = lost + won
    if n == 0:
        return 1.0
    term = total = 1
    for k in range(min(lost, won)):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, total / (1 << (n - 1)))


def drop_of(lost: int, won: int, of: int, confidence: float) -> Interval:
    """Of the difference of two paired shares, first less second (Bonett and Price, 2012)."""
    difference, error = _drop(lost, won, of)
    half = _z(confidence) * error
    return Interval(low=max(-1.0, difference - half), high=min(1.0, difference + half))


def drop_p(lost: int, won: int, of: int, limit: float) -> float:
    """How often a true drop of `limit` would look at least so far from it; exact for a limit of nothing."""
    if limit == 0 or of == 0:
        return mcnemar(lost, won)
    difference, error = _drop(lost, won, of)
    return 2 * (1 - _NORMAL.cdf(abs(difference - limit) / error))


def holm(found: Mapping[str, float]) -> dict[str, float]:
    """Each p as it counts among all of them: the chance that any is below a level by accident is at most that level."""
    least = 0.0
    adjusted: dict[str, float] = {}
    for at, name in enumerate(sorted(found, key=lambda each: (found[each], each))):
        least = max(least, min(1.0, (len(found) - at) * found[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in found}


def quotient(above: Sequence[float], below: Sequence[float], confidence: float) -> Weighed | None:
    """Sum over sum, of values that belong to the same records; None where the lower sum is nothing."""
    if sum(below) == 0:
        return None
    value = math.fsum(above) / math.fsum(below)
    return Weighed(value=value, interval=_around(value, _pull(above, below), confidence))


def times(
    first: tuple[Sequence[float], Sequence[float]], second: tuple[Sequence[float], Sequence[float]], confidence: float
) -> Weighed | None:
    """The second quotient over the first, both of the same records; None where one of them is none, or nothing."""
    sums = [math.fsum(part) for pair in (first, second) for part in pair]
    if not sums[0] or not sums[1] or not sums[3]:
        return None
    value = sums[2] / sums[3] * sums[1] / sums[0]
    if not sums[2]:
        return Weighed(value=value, interval=None)
    pulls = [after - before for before, after in zip(_pull(*first), _pull(*second), strict=True)]
    return Weighed(value=value, interval=_around(value, pulls, confidence))


def _z(confidence: float) -> float:
    return _NORMAL.inv_cdf((1 + confidence) / 2)


def _drop(lost: int, won: int, of: int) -> tuple[float, float]:
    """(difference, its error); a pair more on either side keeps the error from being nothing."""
    a, b = (lost + 1) / (of + 2), (won + 1) / (of + 2)
    return a - b, math.sqrt((a + b - (a - b) ** 2) / (of + 2))


def _pull(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """How much each record moves the logarithm of the quotient (the delta method), times their number."""
    n, upper, lower = len(above), math.fsum(above), math.fsum(below)
    return [n * (a / upper - b / lower) if upper else 0.0 for a, b in zip(above, below, strict=True)]


def _around(value: float, pulls: Sequence[float], confidence: float) -> Interval | None:
    n = len(pulls)
    if n < 2 or value == 0:
        return None
    half = _z(confidence) * math.sqrt(math.fsum(pull * pull for pull in pulls) / (n * (n - 1)))
    return Interval(low=value * math.exp(-half), high=value * math.exp(half))
