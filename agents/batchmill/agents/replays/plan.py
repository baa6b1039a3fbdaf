"""A replay as it is planned: what was chosen, what becomes of it, what it costs.

What must not live here: finding anything out (`planning`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from batchmill.agents.replays.choosing import Asked
from batchmill.schemas.ids import content_sha256
from batchmill.streams.rerunning import Line, line_of

__all__ = ["FREE", "Group", "Plan", "ReplayError", "Way", "selection_sha256"]


class ReplayError(Exception):
    """A replay cannot be planned as it was asked for; `missing`: what it names is not there."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class Way(StrEnum):
    """What becomes of a chosen event."""

    ASKED = "asked"
    JUDGED = "judged again"  #: from the stored answer: the question is the same
    ALREADY = "nothing: asked already"  #: the same request
    REDRIVEN = "redriven"  #: a failure under the version itself
    GONE = "gone from the log"
    WRITTEN = "written again"  #: as it is committed


#: what costs nothing
FREE: Final = frozenset({Way.JUDGED, Way.ALREADY, Way.GONE, Way.WRITTEN})


@dataclass(slots=True, kw_only=True)
class Group:
    """Chosen events with version, status and way in common."""

    count: int = 0
    tokens: int = 0
    expected_nanos: int = 0
    most_nanos: int = 0
    unpriced: int = 0  #: of whose cost one bound or both are not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A replay, ready to be told or started."""

    asked: Asked
    version: str  #: the target
    in_force: str
    epoch: int  #: of a fresh one; 0 else
    groups: Mapping[tuple[str, str, Way], Group]  #: by version, status and way
    lines: Mapping[int, Sequence[Line | str]]  #: what is handed over, by task, in order
    most_nanos: Mapping[int, int]  #: at most, by task
    redriven: Sequence[str]  #: requests
    sampled_from: int  #: as many had been chosen before the sample was drawn
    strata: Mapping[str, int] = field(default_factory=dict)  #: of the sample, by class
    no_answer: int = 0  #: records that the condition gave no answer for
    notes: tuple[str, ...] = ()  #: what could not be found out, and what was assumed

    @property
    def total(self) -> Group:
        together = list(self.groups.values())
        names = ("count", "tokens", "expected_nanos", "most_nanos", "unpriced")
        return Group(**{name: sum(getattr(each, name) for each in together) for name in names})

    def count(self, *ways: Way) -> int:
        return sum(group.count for (_, _, way), group in self.groups.items() if way in ways)

    @property
    def handed(self) -> int:
        """Raw events that are read again, or requests that are written."""
        return sum(len(lines) for lines in self.lines.values())

    @property
    def seconds(self) -> float | None:
        """How long reading takes at the rate; None without one."""
        rate = self.asked.per_second
        return None if rate is None else self.handed / rate

    @property
    def left_nanos(self) -> int | None:
        """Of what is allowed: what the events that are read again may use, after those that are redriven."""
        allowed = self.asked.max_nanos
        redriven = sum(group.most_nanos for (_, _, way), group in self.groups.items() if way is Way.REDRIVEN)
        return None if allowed is None else max(0, allowed - redriven)

    @property
    def is_over(self) -> bool:
        """It might cost more than is allowed, or nobody knows."""
        allowed, total = self.asked.max_nanos, self.total
        return allowed is not None and (total.most_nanos > allowed or total.unpriced > 0)

    @property
    def sample_that_fits(self) -> int | None:
        """A sample whose worst case is within what is allowed; None where no price says so."""
        allowed, total = self.asked.max_nanos, self.total
        if allowed is None or total.unpriced or not total.most_nanos:
            return None
        return total.count * allowed // total.most_nanos


def selection_sha256(lines: Mapping[int, Sequence[Line | str]]) -> str:
    """Names the whole list."""
    told = {str(task): [content_sha256(line_of(each)) for each in part] for task, part in sorted(lines.items())}
    return content_sha256(orjson.dumps(told))
