"""How likely it is that an answer which waits is wrong: 0 to 1, the queue begins with the highest.

Three independent doubts are put together as if each could be the one that is right: why the answer waits, what its
failed checks say, and how sure the model was. So no doubt ever lowers the risk, and none alone makes it 1.

    two judges disagree > a rule failed > nothing in the source says so > not of the declared form > refused or cut off
    > low confidence > drawn as a sample
"""

from collections.abc import Mapping
from typing import Final

from batchmill.schemas.reasons import Reason

__all__ = ["REASON_RISK", "risk"]

#: by why it waits; a reason that is not named counts as OTHER, no reason at all as SAMPLED
REASON_RISK: Final[Mapping[Reason, float]] = {
    Reason.DISAGREEMENT: 0.7,
    Reason.RULE_FAILED: 0.65,
    Reason.UNCITED: 0.6,
    Reason.SCHEMA_MISMATCH: 0.55,
    Reason.NOT_JSON: 0.5,
    Reason.TRUNCATED: 0.5,
    Reason.MODEL_REFUSAL: 0.5,
    Reason.LOW_CONFIDENCE: 0.3,
    Reason.AWAITING_SCORE: 0.1,
}
OTHER: Final = 0.4
SAMPLED: Final = 0.05
#: of one more check that failed with this severity, beyond the reason itself
REJECTED: Final = 0.2
DOUBTED: Final = 0.05
CHECKS_MAX: Final = 5
#: how much of `1 - confidence` counts; an answer that tells none is taken as half sure
CONFIDENCE_WEIGHT: Final = 0.6
UNTOLD: Final = 0.5
_DIGITS: Final = 4


def risk(reason: Reason | None, confidence: float | None, *, rejected: int, doubted: int) -> float:
    """`rejected`, `doubted`: how many checks of severity reject and review failed."""
    by_reason = SAMPLED if reason is None else REASON_RISK.get(reason, OTHER)
    sure = UNTOLD if confidence is None else min(max(confidence, 0.0), 1.0)
    trust = (1 - by_reason) * (1 - CONFIDENCE_WEIGHT * (1 - sure))
    trust *= (1 - REJECTED) ** min(rejected, CHECKS_MAX) * (1 - DOUBTED) ** min(doubted, CHECKS_MAX)
    return round(1 - trust, _DIGITS)
