"""The eight statuses of a record's life, and where a life in each of them is counted.

Only names live here. How a life moves from one to another is `streams.lifecycle`, nowhere else.
"""

from enum import StrEnum

__all__ = ["PLACE_OF_STATUS", "ChunkState", "Outcome", "Place", "Status", "VerdictStatus"]


class Status(StrEnum):
    """Where a request stands. Order is the order of a smooth life, then the detours."""

    QUEUED = "queued"  #: accepted and unpaid; waits for a chunk
    PROCESSING = "processing"  #: named in an attempt that is durable; may be paid for
    SUCCEEDED_UNVALIDATED = "succeeded_unvalidated"  #: the provider answered; nobody has judged it yet
    VALIDATED = "validated"  #: every declared check passed, or a person accepted it
    COMMITTED = "committed"  #: written downstream
    NEEDS_REVIEW = "needs_review"  #: a person must decide
    FAILED_RETRYABLE = "failed_retryable"  #: failed, has a due time for another attempt
    FAILED_TERMINAL = "failed_terminal"  #: will not be tried again unless redriven


class Place(StrEnum):
    """Where a raw record is counted: the terms of the accounting identity, each raw record in exactly one."""

    COMMITTED = "committed"
    IN_REVIEW = "in_review"
    HELD = "held"  #: parked on purpose: paused job, submission on hold
    IN_FLIGHT = "in_flight"
    DEAD_LETTERED = "dead_lettered"
    EXCLUDED = "excluded"  #: filtered, duplicate, superseded, cancelled


#: FAILED_TERMINAL splits by reason (see `reasons`), so it has no single place here.
PLACE_OF_STATUS: dict[Status, Place] = {
    Status.QUEUED: Place.IN_FLIGHT,
    Status.PROCESSING: Place.IN_FLIGHT,
    Status.SUCCEEDED_UNVALIDATED: Place.IN_FLIGHT,
    Status.VALIDATED: Place.IN_FLIGHT,
    Status.COMMITTED: Place.COMMITTED,
    Status.NEEDS_REVIEW: Place.IN_REVIEW,
    Status.FAILED_RETRYABLE: Place.IN_FLIGHT,
}


class ChunkState(StrEnum):
    """How far a provider batch has got. Durable at every step; an effect resumes from the step it reads."""

    FILLING = "filling"  #: takes members in cuts
    SEALED = "sealed"  #: membership is frozen
    HELD = "held"  #: sealed, waits for an operator's approval (`hold: submit`)
    PREPARED = "prepared"  #: payload file written, fsynced and named by its sha256
    UPLOADED = "uploaded"  #: the provider has the payload file
    ATTEMPTING = "attempting"  #: create may have been sent; its outcome is unknown until reconciled
    OPEN = "open"  #: the provider's batch id is known
    ENDED = "ended"  #: the provider says it will not change any more
    DOWNLOADED = "downloaded"  #: result files are in the payload store
    COLLECTED = "collected"  #: every member has exactly one outcome
    DONE = "done"  #: counts reconciled, remote twins looked for; nothing left to do
    FAILED = "failed"  #: ended without a run; members went back or failed


class Outcome(StrEnum):
    """What a provider did with one row of one attempt."""

    SUCCEEDED = "succeeded"
    ERROR = "error"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    MISSING = "missing"


class VerdictStatus(StrEnum):
    """What validation (or a person) says of one answer, as written to the `validated` topic."""

    VALIDATED = "validated"
    NEEDS_REVIEW = "needs_review"
