"""What the runtime tells whoever counts: one method per happening, all of them doing nothing here.

What lives here: the names. What must not: a metrics library; telemetry subclasses `Observer`. Called on the event
loop, so an observer must be quick and must not raise.
"""

__all__ = ["Observer"]


class Observer:
    """Override what you want to know."""

    def committed(self, partition: int, records: int, size_bytes: int, seconds: float) -> None: ...

    def recycled(self, partition: int) -> None:
        """A transaction ended well after a doubtful request; its producer was replaced (rule 7)."""

    def fenced(self, partition: int, seconds: float) -> None:
        """Whoever owned the task before can commit no more."""

    def restored(self, partition: int, rows: int, seconds: float, *, from_local: bool) -> None: ...

    def slice(self, topic: str, partition: int, records: int, seconds: float) -> None: ...

    def dropped(self, topic: str, partition: int, records: int) -> None:
        """Fetched, but the task was frozen; they will be fetched again."""

    def stale(self, topic: str, partition: int) -> None:
        """A slice of an earlier ownership round was refused."""

    def forwarded(self, topic: str, partition: int) -> None:
        """A record lay on a partition that is not its home (rule 12)."""

    def backpressure(self, partition: int, *, on: bool) -> None: ...

    def outbox(self, partition: int, records: int, size_bytes: int) -> None: ...

    def suspicious(self, partition: int, what: str) -> None:
        """The task died there before; it is tried alone."""

    def poisoned(self, topic: str, partition: int, offset: int) -> None: ...

    def rebalanced(self, round_: int, owned: frozenset[int]) -> None: ...
