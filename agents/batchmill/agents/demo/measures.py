"""The arithmetic of the report: shares with their uncertainty, the gold join. Pure.

What must not: reading files, the log or the view; judging (`report`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Accuracy", "Interval", "score", "wilson"]

#: of the normal distribution: 95 % of it lies within so many standard deviations
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, both shares."""

    low: float
    high: float

    def holds(self, share: float) -> bool:
        return self.low <= share <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Answers against what people said."""

    answered: int
    right: int
    share: float | None  #: None while nothing was answered
    interval: Interval  #: 95 %, Wilson


def wilson(successes: int, trials: int, z: float = Z_95) -> Interval:
    """The Wilson score interval of a share; everything is possible while nothing was tried."""
    assert 0 <= successes <= trials, f"{successes} of {trials}"
    if trials == 0:
        return Interval(0.0, 1.0)
    share, squared = successes / trials, z * z / trials
    centre = share + squared / 2
    spread = z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials))
    low, high = (centre - spread) / (1 + squared), (centre + spread) / (1 + squared)
    return Interval(0.0 if successes == 0 else low, 1.0 if successes == trials else high)


def score(answers: Mapping[str, str], gold: Mapping[str, str]) -> Accuracy:
    """Join by id alone; an answer to what nobody labelled is not counted."""
    judged = [label == gold[name] for name, label in answers.items() if name in gold]
    right, answered = sum(judged), len(judged)
    return Accuracy(
        answered=answered,
        right=right,
        share=right / answered if answered else None,
        interval=wilson(right, answered),
    )
