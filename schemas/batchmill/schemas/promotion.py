"""When a version may take over, what is started when one has committed, and what is started by the clock.

Parts of the frozen job that are in none of its fingerprints: they change no question and no judgement. What must not
live here: how two versions are compared (`streams.comparing`) or a join is carried out (`streams.joining`).
"""

from dataclasses import dataclass
from typing import Literal

from batchmill.schemas.spec_rules import compacted, named, require, written

__all__ = ["GateSpec", "JoinSpec", "ScheduleSpec", "ThenSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """What a version has to show before it is promoted without a person overriding it."""

    benchmark_json: str | None = None  #: list of {id, input, output}: records whose right output is known
    fields: tuple[str, ...] = ()  #: output members that must be right; none named: all that the benchmark has
    min_accuracy: float | None = None  #: share of the benchmark that is right
    max_accuracy_drop: float | None = 0  #: below the version in force; only a sure drop counts
    min_agreement: float | None = None  #: share of the sample on which it says what the version in force says
    max_cost_ratio: float | None = None  #: its cost per success over that of the version in force
    max_rule_drop: float | None = 0  #: of the pass rate of any one check; only a sure drop counts
    minimum: int = 100  #: records that both versions have answered
    confidence: float = 0.95  #: of every interval and test
    live_sample: float = 0  #: share of live events that a shadow version is asked about, too

    def __post_init__(self) -> None:
        compacted(self, "benchmark_json", "$.gate.benchmark_json")
        for member in ("min_accuracy", "max_accuracy_drop", "min_agreement", "max_rule_drop", "live_sample"):
            share = getattr(self, member)
            require(share is None or 0 <= share <= 1, f"$.gate.{member}", "must be from 0 to 1")
        ratio = self.max_cost_ratio
        require(ratio is None or ratio > 0, "$.gate.max_cost_ratio", "must be above 0")
        require(self.minimum >= 1, "$.gate.minimum", "must be at least 1")
        require(0.5 <= self.confidence < 1, "$.gate.confidence", "must be from 0.5 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThenSpec:
    """A job that is fed by what this one has committed."""

    job: str
    when: str | None = None  #: CEL over `output` and `input`
    split: str | None = None  #: path to a list ($.output.parts or $.input.pages): one event for each of its items

    def __post_init__(self) -> None:
        named(self.job, "$.then.job")
        written(self.when, "$.then.when")
        inside = self.split is None or self.split.startswith(("$.output", "$.input"))
        require(inside, "$.then.split", "must be a JSON path into $.output or $.input")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSpec:
    """The job's events are parts of a whole: it is asked once, about all of them, under `input.parts`."""

    deadline_seconds: float = 3_600  #: from the first part's arrival
    on_missing: Literal["ask", "dead"] = "dead"  #: at the deadline: about those that came, or not at all

    def __post_init__(self) -> None:
        require(self.deadline_seconds > 0, "$.join.deadline", "must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    """A replay that the clock starts."""

    cron: str  #: five fields, in UTC
    select: Literal["stale", "failed", "all"] = "stale"
    fresh: bool = False  #: ask anew what was answered before
    sample: int | None = None  #: records at most, drawn by class
    max_nanos: int | None = None  #: a tick that might cost more is not started
    per_second: float | None = None

    def __post_init__(self) -> None:
        require(len(self.cron.split()) == 5, "$.schedule.cron", "must have five fields")
        for member in ("sample", "max_nanos", "per_second"):
            limit = getattr(self, member)
            require(limit is None or limit > 0, f"$.schedule.{member}", "must be above 0")
