"""What a task has decided and Kafka does not know yet.

What lives here: `Batch`, the content of one transaction, and `Outbox`, the one being filled and the one under way, with
their sizes and the tickets that wait for them. What must not: anything that awaits the network.

A batch is taken whole between two awaits of the event loop, so whatever was put, emitted and finished without an await
between lies in the same batch. Tickets count batches: ticket n is due when batch n is known committed.
"""

import asyncio
from dataclasses import dataclass, field

from batchmill.agents.runtime.codec import Write
from batchmill.agents.runtime.records import Headers, Outgoing, size_bytes

__all__ = ["Batch", "Outbox"]


@dataclass(slots=True)
class Batch:
    """The content of one transaction."""

    sequence: int
    records: list[Outgoing] = field(default_factory=list)
    writes: dict[tuple[str, str], Write] = field(default_factory=dict)  # the last one of a row wins
    positions: dict[str, int] = field(default_factory=dict)  #: input topic -> next offset to read
    size_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.records or self.writes or self.positions)

    @property
    def count(self) -> int:
        return len(self.records) + len(self.writes)


class Outbox:
    """One task's work on its way into the log."""

    def __init__(self) -> None:
        self._filling = Batch(1)
        self._under_way: Batch | None = None
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._broken: Exception | None = None
        self.changed = asyncio.Event()  #: set while there is something to commit

    # --- filling ---

    def emit(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self._filling.records.append(Outgoing(topic, partition, key, value, headers))
        self._filling.size_bytes += size_bytes(key, value, headers)
        self.changed.set()

    def write(self, write: Write) -> None:
        self._filling.writes[write.table, write.key] = write
        self._filling.size_bytes += size_bytes(write.key.encode(), write.data, ())
        self.changed.set()

    def finished(self, topic: str, position: int) -> None:
        self._filling.positions[topic] = position
        self.changed.set()

    # --- sizes ---

    @property
    def filling(self) -> Batch:
        return self._filling

    @property
    def count(self) -> int:
        """Records and rows not known committed."""
        return self._filling.count + (self._under_way.count if self._under_way else 0)

    @property
    def size_bytes(self) -> int:
        return self._filling.size_bytes + (self._under_way.size_bytes if self._under_way else 0)

    def __bool__(self) -> bool:
        return bool(self._filling) or self._under_way is not None

    # --- one transaction ---

    def take(self) -> Batch:
        """Close the batch being filled; it is under way until `committed` says so."""
        assert self._under_way is None, "two transactions of one task at once"
        batch, self._filling = self._filling, Batch(self._filling.sequence + 1)
        self._under_way = batch
        self.changed.clear()
        return batch

    def committed(self) -> None:
        batch, self._under_way = self._under_way, None
        assert batch is not None, "nothing was under way"
        for waiting in self._waiting.pop(batch.sequence, []):
            if not waiting.done():
                waiting.set_result(None)

    # --- tickets ---

    def ticket(self) -> int:
        """The batch that carries everything put so far."""
        if self._filling:
            return self._filling.sequence
        return self._filling.sequence - 1

    async def durable(self, ticket: int) -> None:
        """Until batch `ticket` is known committed; raises what `abandon` was given."""
        done_up_to = self._filling.sequence - (2 if self._under_way else 1)
        if ticket <= done_up_to:
            return
        if self._broken is not None:
            raise self._broken
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ticket, []).append(waiting)
        await waiting

    def abandon(self, why: Exception) -> None:
        """Drop everything not under way; whoever waits learns why."""
        self._filling = Batch(self._filling.sequence)
        self._broken = why
        self.changed.clear()
        for futures in self._waiting.values():
            for waiting in futures:
                if not waiting.done():
                    waiting.set_exception(why)
        self._waiting.clear()
