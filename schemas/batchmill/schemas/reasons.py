"""Why a record did not go the straight way: one closed list that answers three questions.

May it be retried, whose fault is it, and is it counted as dead-lettered or as excluded. Metric labels and
dead-letter headers use these names; nothing matches on messages.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["REASONS", "Fault", "Reason", "ReasonInfo", "info"]


class Fault(StrEnum):
    """Who must act for the next record of this kind to pass."""

    UPSTREAM = "upstream"  #: who published the event
    JOB = "job"  #: who wrote the job: prompt, schema, rules
    PROVIDER = "provider"
    SINK = "sink"
    OPERATOR = "operator"  #: a person decided so
    US = "us"
    NOBODY = "nobody"  #: an expected, accounted-for outcome


class Reason(StrEnum):
    """Every reason a record can carry, in the order in which they came to be known."""

    UNDECODABLE = "undecodable"
    NOT_UTF8 = "not_utf8"
    OVERSIZED = "oversized"
    TOO_DEEP = "too_deep"
    TOMBSTONE = "tombstone"
    NO_JOB = "no_job"
    UNKNOWN_JOB = "unknown_job"
    NO_SOURCE = "no_source"
    BAD_SEQ = "bad_seq"
    SOURCE_MOVED = "source_moved"
    INVALID_INPUT = "invalid_input"
    FILTER_ERROR = "filter_error"
    FILTERED = "filtered"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    BODY_GONE = "body_gone"
    RENDER_ERROR = "render_error"
    OVER_BUDGET = "over_budget"
    TOO_LARGE_FOR_PROVIDER = "too_large_for_provider"
    REFUSED_BY_PROVIDER = "refused_by_provider"
    REQUEST_INVALID = "request_invalid"
    PROVIDER_ERROR = "provider_error"
    THROTTLED = "throttled"
    EXPIRED = "expired"
    PROVIDER_CANCELLED = "provider_cancelled"
    MISSING = "missing"
    OUTCOME_UNKNOWN = "outcome_unknown"
    TRUNCATED = "truncated"
    MODEL_REFUSAL = "model_refusal"
    NOT_JSON = "not_json"
    SCHEMA_MISMATCH = "schema_mismatch"
    RULE_FAILED = "rule_failed"
    UNCITED = "uncited"
    LOW_CONFIDENCE = "low_confidence"
    AWAITING_SCORE = "awaiting_score"
    DISAGREEMENT = "disagreement"
    DECLINED = "declined"
    SINK_REFUSED = "sink_refused"
    CANCELLED = "cancelled"
    NOT_PROMOTED = "not_promoted"
    POISON = "poison"
    BENCHMARK = "benchmark"
    JOINED = "joined"
    PARTS_MISSING = "parts_missing"
    NO_CONTEXT = "no_context"
    INDEX_GONE = "index_gone"
    TOOL_FAILED = "tool_failed"


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """`retryable`: a later attempt with the same input may pass. `excluded`: counted as excluded, not dead."""

    retryable: bool
    fault: Fault
    excluded: bool = False
    #: does a failure of this kind use up one of the record's attempts
    costs_attempt: bool = True


REASONS: dict[Reason, ReasonInfo] = {
    Reason.UNDECODABLE: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.NOT_UTF8: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.OVERSIZED: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.TOO_DEEP: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.TOMBSTONE: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.NO_JOB: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.UNKNOWN_JOB: ReasonInfo(retryable=False, fault=Fault.OPERATOR),
    Reason.NO_SOURCE: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.BAD_SEQ: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.SOURCE_MOVED: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.INVALID_INPUT: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.FILTER_ERROR: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.FILTERED: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.DUPLICATE: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.SUPERSEDED: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.BODY_GONE: ReasonInfo(retryable=False, fault=Fault.OPERATOR),
    Reason.RENDER_ERROR: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.OVER_BUDGET: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.TOO_LARGE_FOR_PROVIDER: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.REFUSED_BY_PROVIDER: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.REQUEST_INVALID: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.PROVIDER_ERROR: ReasonInfo(retryable=True, fault=Fault.PROVIDER),
    Reason.THROTTLED: ReasonInfo(retryable=True, fault=Fault.PROVIDER, costs_attempt=False),
    Reason.EXPIRED: ReasonInfo(retryable=True, fault=Fault.PROVIDER, costs_attempt=False),
    Reason.PROVIDER_CANCELLED: ReasonInfo(retryable=True, fault=Fault.PROVIDER, costs_attempt=False),
    Reason.MISSING: ReasonInfo(retryable=True, fault=Fault.PROVIDER),
    Reason.OUTCOME_UNKNOWN: ReasonInfo(retryable=True, fault=Fault.US, costs_attempt=False),
    Reason.TRUNCATED: ReasonInfo(retryable=True, fault=Fault.JOB),
    Reason.MODEL_REFUSAL: ReasonInfo(retryable=False, fault=Fault.PROVIDER),
    Reason.NOT_JSON: ReasonInfo(retryable=True, fault=Fault.PROVIDER),
    Reason.SCHEMA_MISMATCH: ReasonInfo(retryable=True, fault=Fault.PROVIDER),
    Reason.RULE_FAILED: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.UNCITED: ReasonInfo(retryable=False, fault=Fault.PROVIDER),
    Reason.LOW_CONFIDENCE: ReasonInfo(retryable=False, fault=Fault.NOBODY),
    Reason.AWAITING_SCORE: ReasonInfo(retryable=False, fault=Fault.NOBODY),
    Reason.DISAGREEMENT: ReasonInfo(retryable=False, fault=Fault.NOBODY),
    Reason.DECLINED: ReasonInfo(retryable=False, fault=Fault.OPERATOR),
    Reason.SINK_REFUSED: ReasonInfo(retryable=False, fault=Fault.SINK),
    Reason.CANCELLED: ReasonInfo(retryable=False, fault=Fault.OPERATOR, excluded=True),
    Reason.NOT_PROMOTED: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.POISON: ReasonInfo(retryable=False, fault=Fault.US),
    Reason.BENCHMARK: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.JOINED: ReasonInfo(retryable=False, fault=Fault.NOBODY, excluded=True),
    Reason.PARTS_MISSING: ReasonInfo(retryable=False, fault=Fault.UPSTREAM),
    Reason.NO_CONTEXT: ReasonInfo(retryable=False, fault=Fault.JOB),
    Reason.INDEX_GONE: ReasonInfo(retryable=False, fault=Fault.OPERATOR),
    Reason.TOOL_FAILED: ReasonInfo(retryable=False, fault=Fault.OPERATOR),
}


def info(reason: Reason) -> ReasonInfo:
    """The three answers for `reason`; the table is total (a test holds it)."""
    return REASONS[reason]
