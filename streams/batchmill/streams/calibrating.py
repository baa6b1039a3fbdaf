"""How sure an answer is: what the model tells -> how often it was right when it told that.

Pairs (told, true) are joined by straight lines; outside them the nearest pair counts. What lives here: the numbers.
What must not: where a confidence comes from, and what a low one means.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

__all__ = ["calibrated", "known", "token_confidence"]


def known(value: Any) -> float | None:
    """A confidence that was told as a number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        told = float(value)
    except OverflowError:
        return None
    return told if math.isfinite(told) else None


def token_confidence(logprob_mean: float | None) -> float | None:
    """The geometric mean of the tokens' probabilities; None where none, or nothing sensible, was told."""
    told = known(logprob_mean)
    return None if told is None else math.exp(min(told, 0.0))


def calibrated(pairs: Sequence[Sequence[float]], told: float) -> float:
    """How often answers with this confidence were right; as told where nothing is declared."""
    if not pairs:
        return told
    at = bisect_right(pairs, told, key=lambda pair: pair[0])
    if at == 0 or at == len(pairs):
        return pairs[min(at, len(pairs) - 1)][1]
    (x0, y0), (x1, y1) = pairs[at - 1], pairs[at]
    return y0 + (y1 - y0) * (told - x0) / (x1 - x0)
