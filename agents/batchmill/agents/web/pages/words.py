"""What pages say in words: why a record waits, how severe a check is, what was decided, how long ago.

What lives here: sentences for closed lists. What must not: anything read from a record.
"""

from collections.abc import Mapping

from batchmill.schemas.reasons import Reason
from batchmill.schemas.records import Check

__all__ = ["ACTIONS", "SAMPLED", "ago", "failed", "name_of", "passed", "reason_words", "severity_words", "until"]

#: why a record waits that no check found fault with
SAMPLED = "sampled"

ACTIONS: Mapping[str, str] = {
    "accept": "accepted",
    "correct": "corrected",
    "decline": "declined",
    "defer": "deferred",
    "undo": "undid the decision",
    "score": "scored",
}

_REASONS: Mapping[Reason, str] = {
    Reason.TRUNCATED: "The answer stops in the middle.",
    Reason.MODEL_REFUSAL: "The model or its filter declined to answer.",
    Reason.NOT_JSON: "The answer is not JSON.",
    Reason.SCHEMA_MISMATCH: "The answer does not have the form its schema asks for.",
    Reason.RULE_FAILED: "A rule of the job does not hold for this answer.",
    Reason.UNCITED: "Something the answer quotes was not found in the source.",
    Reason.LOW_CONFIDENCE: "The model is not sure enough of this answer.",
    Reason.AWAITING_SCORE: "A second judge has not given its score yet.",
    Reason.DISAGREEMENT: "A second judge came to another result.",
    Reason.OVERSIZED: "The answer is larger than a verdict can carry.",
    Reason.OUTCOME_UNKNOWN: "Nobody knows whether the provider answered.",
}
_SAMPLED_WORDS = "Drawn as a sample; no check found fault with it."
_SEVERITIES = {"reject": "rejects", "review": "doubts", "warn": "warns"}
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def reason_words(reason: Reason | None) -> str:
    """Why a record waits, as a sentence."""
    if reason is None:
        return _SAMPLED_WORDS
    return _REASONS.get(reason, f"It waits because of: {name_of(reason)}.")


def name_of(reason: Reason | str | None) -> str:
    """A short name for lists: `low confidence`."""
    return (str(reason) if reason is not None else SAMPLED).replace("_", " ")


def severity_words(severity: str) -> str:
    return _SEVERITIES.get(severity, severity)


def failed(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    return tuple(check for check in checks if not check.passed)


def passed(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    return tuple(check for check in checks if check.passed)


def ago(at_ms: int, now_ms: int) -> str:
    """`5 min ago`; times to come are `in 5 min`."""
    return f"in {_span(at_ms - now_ms)}" if at_ms > now_ms else f"{_span(now_ms - at_ms)} ago"


def until(at_ms: int, now_ms: int) -> str:
    """How long from now, `0 s` when it has passed."""
    return _span(max(0, at_ms - now_ms))


def _span(milliseconds: int) -> str:
    seconds = milliseconds // 1_000
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
