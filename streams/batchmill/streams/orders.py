"""What a decision can ask for: four orders, carried out together or not at all.

Counterpart of `facts`. A decision returns a list of these; the task that asked carries them out inside one Kafka
transaction. Nothing here does anything.
"""

from dataclasses import dataclass

from batchmill.schemas.records import Record
from batchmill.schemas.state import Row

__all__ = ["Delete", "Emit", "Order", "Put", "Wake"]


@dataclass(frozen=True, slots=True)
class Emit:
    """Write `record` to its topic. `key` decides the partition (by its first 16 bytes for request ids) unless
    `partition` names it: records about a raw event that never became a request stay in the raw event's partition."""

    record: Record
    key: bytes
    partition: int | None = None


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

    effect: str


Order = Emit | Put | Delete | Wake
