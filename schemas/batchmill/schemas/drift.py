"""What a job says of being watched: which signals, against what, and what an alarm does.

A part of the frozen job (`jobs`) and of none of its fingerprints. What must not live here: what a signal is told by
(`streams.signalling`), and when it has moved (`streams.drifting`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from batchmill.schemas.strict_json import StrictJsonError

__all__ = ["DriftSignal", "DriftSpec"]


class DriftSignal(StrEnum):
    """What is watched of a version's records and answers; each is a distribution over few classes."""

    CLASSES = "classes"  #: values of one output member
    CONFIDENCE = "confidence"
    OUTPUT_LENGTH = "output_length"
    INPUT_LENGTH = "input_length"
    INPUT_MEMBERS = "input_members"  #: which members the inputs have
    VERDICTS = "verdicts"  #: validated, needs_review, rejected
    FAILURES = "failures"  #: of calls, by reason
    SCORES = "scores"  #: what second opinions say
    REVIEWS = "reviews"  #: what people say


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSpec:
    """When a version's answers have become others than they were: each `window` is held against a reference."""

    field: str | None = None  #: output member whose values are watched; None: none is
    against: Literal["first", "current"] = "first"  #: the version's own beginning, or that of the version before it
    reference: int = 500  #: records that make the reference
    window: int = 200
    policy: Literal["warn", "pause"] = "warn"
    psi_above: float = 0.2  #: a smaller move is none, however sure it is
    signals: tuple[DriftSignal, ...] = ()  #: none named: all of them

    def __post_init__(self) -> None:
        for member in ("reference", "window"):
            if not 50 <= getattr(self, member) <= 100_000:
                raise StrictJsonError(f"$.drift.{member}", "must be from 50 to 100000")
        if not 0 < self.psi_above <= 10:
            raise StrictJsonError("$.drift.psi_above", "must be above 0 and at most 10")
        if DriftSignal.CLASSES in self.signals and self.field is None:
            raise StrictJsonError("$.drift.signals", "names classes: `field` must say of which output member")
