"""What the runtime saw, as metrics. Counterpart of the runtime's `Observer`: one method per thing that can happen."""

import re

from typing_extensions import override

from batchmill.agents.runtime.observer import Observer
from batchmill.agents.telemetry.recording import Telemetry

__all__ = ["RuntimeObserver"]


class RuntimeObserver(Observer):
    """Books runtime events; cheap enough to be called once per slice and per transaction."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._owned = 0
        self._outbox: dict[int, tuple[int, int]] = {}
        telemetry.watch("batchmill.tasks", lambda: [(self._owned, {})])
        telemetry.watch("batchmill.outbox.records", lambda: [(sum(r for r, _ in self._outbox.values()), {})])
        telemetry.watch("batchmill.outbox.bytes", lambda: [(sum(b for _, b in self._outbox.values()), {})])

    @override
    def committed(self, partition: int, records: int, size_bytes: int, seconds: float) -> None:
        self._telemetry.count("batchmill.transactions")
        self._telemetry.measure("batchmill.transaction.duration", seconds)
        self._telemetry.measure("batchmill.transaction.records", records)
        self._telemetry.measure("batchmill.transaction.bytes", size_bytes)
        if self._telemetry.messaging:
            self._telemetry.count("messaging.client.sent.messages", records, **{"messaging.system": "kafka"})

    @override
    def recycled(self, partition: int) -> None:
        self._telemetry.count("batchmill.transaction.recycles")

    @override
    def fenced(self, partition: int, seconds: float) -> None:
        self._telemetry.measure("batchmill.fence.duration", seconds)

    @override
    def restored(self, partition: int, rows: int, seconds: float, *, from_local: bool) -> None:
        source = "local" if from_local else "log"
        self._telemetry.measure("batchmill.restore.duration", seconds, source=source)
        self._telemetry.measure("batchmill.restore.rows", rows, source=source)

    @override
    def slice(self, topic: str, partition: int, records: int, seconds: float) -> None:
        self._telemetry.measure("batchmill.slice.duration", seconds, topic=topic)
        if self._telemetry.messaging:
            labels = {"messaging.system": "kafka", "messaging.destination.name": topic}
            self._telemetry.count("messaging.client.consumed.messages", records, **labels)
            self._telemetry.measure("messaging.process.duration", seconds, **labels)

    @override
    def dropped(self, topic: str, partition: int, records: int) -> None:
        self._telemetry.count("batchmill.records.dropped", records, topic=topic)

    @override
    def forwarded(self, topic: str, partition: int) -> None:
        self._telemetry.count("batchmill.records.forwarded", topic=topic)

    @override
    def stale(self, topic: str, partition: int) -> None:
        self._telemetry.count("batchmill.slices.stale", topic=topic)

    @override
    def backpressure(self, partition: int, *, on: bool) -> None:
        if on:
            self._telemetry.count("batchmill.backpressure")

    @override
    def poisoned(self, topic: str, partition: int, offset: int) -> None:
        self._telemetry.count("batchmill.poisoned", topic=topic)

    @override
    def suspicious(self, partition: int, what: str) -> None:
        # `what` names a row or an offset; only its kind is a label.
        self._telemetry.count("batchmill.suspicions", what=re.split(r"[ /:]", what, maxsplit=1)[0])

    @override
    def rebalanced(self, round_: int, owned: frozenset[int]) -> None:
        self._telemetry.count("batchmill.rebalances")
        self._owned = len(owned)
        self._outbox = {partition: held for partition, held in self._outbox.items() if partition in owned}

    @override
    def outbox(self, partition: int, records: int, size_bytes: int) -> None:
        self._outbox[partition] = (records, size_bytes)
