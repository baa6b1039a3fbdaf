"""What a decision can ask for: five orders, carried out together or not at all.

Counterpart of `facts`. A decision returns a list of these; the task that asked carries them out inside one Kafka
transaction. Nothing here does anything.
"""

from dataclasses import dataclass
from typing import Literal

from batchmill.schemas.records import Record
from batchmill.schemas.state import Row

__all__ = ["Delete", "Effect", "Emit", "Order", "Publish", "Put", "Wake"]

#: the loops that read rows of task state and act
Effect = Literal[
    "arrivals",  # waiting raw records
    "sealing",  # queued lives into chunks
    "stored",  # answers that were paid for before
    "retry",  # failed attempts whose wait is over
    "sweep",  # lives of cancelled jobs
    "redrive",  # dead letters that come back
    "imports",  # answers that were bought elsewhere
    "dispatch",  # sealed chunks to the provider
    "calls",  # chunks whose members are asked one by one
    "poll",  # open batches, until they are done
    "judge",  # answers and corrections that are judged beside their input
    "commit",  # validated lives to the sink
    "change",  # commits that are taken back or put back
    "promote",  # lives of a version that takes over, or never will
    "rerun",  # raw events that are read again
    "then",  # jobs that a commit starts
    "tools",  # what is looked up for waiting raw records
]


@dataclass(frozen=True, slots=True)
class Emit:
    """Write `record` to its topic. `key` decides the partition (by its first 16 bytes for request ids) unless
    `partition` names it: records about a raw event that never became a request stay in the raw event's partition.
    """

    record: Record
    key: bytes
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """Write bytes to a topic that is not ours, in the same transaction. Its partition is the one that Kafka's own
    clients would choose for the key.
    """

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Put:
    """Remember `row` under its own key."""

    row: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """Forget the row `key` of `table` (a schema name such as `state.arrivals`)."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Let the named effect look at its rows now instead of at its next tick."""

    effect: Effect


Order = Emit | Publish | Put | Delete | Wake
