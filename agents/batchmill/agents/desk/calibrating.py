"""What a told confidence was worth: how often answers that told it were accepted as they were. Pure.

Only answers count that waited for no other fault than their confidence, or were drawn as a sample: of the others people
saw the worst. The proposed curve is the isotonic fit (pool adjacent violators) over groups of at least `GROUP_MIN`
answers, so a surer answer is never called less likely to be right; a job declares it as `judge.confidence.calibration`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from batchmill.agents.desk.model import Bin, Calibration
from batchmill.agents.projector.reviewing import RatedRow

__all__ = ["BINS", "GROUP_MIN", "Curve", "calibration", "isotonic", "untold"]

BINS: Final = 10
#: answers behind each point of the proposed curve; fewer say too little
GROUP_MIN: Final = 20
_DIGITS: Final = 4

Told = tuple[float, bool]  #: (confidence, accepted as it was)
Curve = Sequence[Sequence[float]]  #: (told, right) pairs, as a job declares them


def calibration(job: str, rows: Sequence[RatedRow], curves: Mapping[str, Curve]) -> Calibration:
    """`curves`: by version, the calibration that was in force when its confidences were recorded."""
    found = [(untold(curves.get(row.version or "", ()), row.confidence), row) for row in rows if not row.faults]
    usable = sorted((share, row.action == "accept") for share, row in found if share is not None and 0 <= share <= 1)
    bins = _bins(usable)
    n = len(usable)
    return Calibration(
        job=job,
        records=n,
        left_out=len(rows) - n,
        bins=bins,
        brier=round(sum((share - right) ** 2 for share, right in usable) / n, _DIGITS) if n else None,
        expected_error=_expected_error(bins, n),
        proposed=isotonic(usable),
    )


def untold(curve: Curve, recorded: float | None) -> float | None:
    """What was told before `curve` made `recorded` of it; None where that is not known."""
    if recorded is None or not curve:
        return recorded
    for (x0, y0), (x1, y1) in pairwise(curve):
        if y0 < y1 and y0 <= recorded <= y1:
            return x0 + (x1 - x0) * (recorded - y0) / (y1 - y0)
    return None


def isotonic(told: Sequence[Told]) -> tuple[tuple[float, float], ...]:
    """(told, right) pairs, the first strictly and the second not strictly ascending; empty when two cannot be made."""
    pooled: list[tuple[int, float, int]] = []  # (answers, sum of told, right ones)
    for group in _groups(told):
        pooled.append(group)
        while len(pooled) > 1 and _right(pooled[-2]) >= _right(pooled[-1]):
            n, total, right = pooled.pop()
            before = pooled.pop()
            pooled.append((before[0] + n, before[1] + total, before[2] + right))
    pairs = tuple((round(total / n, _DIGITS), round(right / n, _DIGITS)) for n, total, right in pooled)
    return pairs if len(pairs) > 1 and len({share for share, _ in pairs}) == len(pairs) else ()


def _groups(told: Sequence[Told]) -> list[tuple[int, float, int]]:
    """Neighbours in groups of at least GROUP_MIN; equal confidences are never parted."""
    groups: list[list[Told]] = []
    for each in sorted(told):
        full = groups and len(groups[-1]) >= GROUP_MIN and groups[-1][-1][0] != each[0]
        if not groups or full:
            groups.append([])
        groups[-1].append(each)
    if len(groups) > 1 and len(groups[-1]) < GROUP_MIN:
        groups[-2].extend(groups.pop())
    if groups and len(groups[0]) < GROUP_MIN:
        return []
    return [(len(group), sum(share for share, _ in group), sum(right for _, right in group)) for group in groups]


def _right(group: tuple[int, float, int]) -> float:
    return group[2] / group[0]


def _bins(told: Sequence[Told]) -> tuple[Bin, ...]:
    held: dict[int, list[Told]] = {}
    for share, right in told:
        held.setdefault(min(int(share * BINS), BINS - 1), []).append((share, right))
    return tuple(
        Bin(
            low=at / BINS,
            high=(at + 1) / BINS,
            records=len(group),
            told_mean=round(sum(share for share, _ in group) / len(group), _DIGITS),
            right_share=round(sum(right for _, right in group) / len(group), _DIGITS),
        )
        for at, group in sorted(held.items())
    )


def _expected_error(bins: Sequence[Bin], n: int) -> float | None:
    if not n:
        return None
    return round(sum(each.records * abs(each.told_mean - each.right_share) for each in bins) / n, _DIGITS)
