"""How a leaf gives one record up: a closed reason and a sentence for people.

Raised by leaves, caught once by the decision that owns the record and turned into an order; it never leaves `streams`.
The sentence says where, what was expected and what to do. It never holds a piece of the payload.
"""

from batchmill.schemas.reasons import Reason

__all__ = ["Unusable"]


class Unusable(Exception):  # noqa: N818 - a finding about a record, not an error of ours
    """A record or text that cannot go on, for `reason`; `note` is free of payload."""

    def __init__(self, reason: Reason, note: str) -> None:
        super().__init__(f"{reason}: {note}")
        self.reason = reason
        self.note = note
