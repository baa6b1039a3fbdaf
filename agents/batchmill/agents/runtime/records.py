"""What an agent gets and what the outbox holds: bytes and positions, never a decoded record.

What lives here: `LogRecord` (one record of the log), `Slice` (one fetch of one partition, what a Faust event carries),
`Outgoing` (one record on its way out), and how a fetch is cut into slices. What must not: anything that awaits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Headers", "LogRecord", "Outgoing", "Slice", "cut", "size_bytes"]

Headers = tuple[tuple[str, bytes], ...]

#: What Kafka's record format adds to key, value and headers, rounded up; and the same for one header.
RECORD_OVERHEAD_BYTES = 40
HEADER_OVERHEAD_BYTES = 10


class LogRecord(NamedTuple):
    """One record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def src(self) -> str:
        """How an effect of this record names its cause."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def header(self, name: str) -> bytes | None:
        """The last header of that name, or None."""
        return next((value for header, value in reversed(self.headers) if header == name), None)

    @classmethod
    def of(cls, raw: Any) -> "LogRecord":
        """From an aiokafka ConsumerRecord."""
        # Kafka allows a header without a value; nobody here tells it from an empty one.
        headers = tuple((name, value or b"") for name, value in raw.headers) if raw.headers else ()
        return cls(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, headers)


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive records of one partition, handed to an agent as one Faust event.

    `start` is where the previous slice ended and `end` the position after this one. Offsets are sparse: transaction
    markers and compaction leave holes, so `end - start` is not the number of records.
    """

    topic: str
    partition: int
    records: tuple[LogRecord, ...]
    start: int
    end: int
    round: int  #: the ownership round it was fetched in; a task of another round refuses it


class Outgoing(NamedTuple):
    """One record in an outbox."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def size_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """What a record will take in a request, a little overestimated."""
    total = RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    for name, content in headers:
        total += HEADER_OVERHEAD_BYTES + len(name) + len(content)
    return total


def cut(
    records: Sequence[LogRecord], start: int, round_: int, *, records_max: int, bytes_max: int, alone: int = 0
) -> Iterator[Slice]:
    """Slices of `records` in order, each within the caps but never empty; the first `alone` records go one by one."""
    pending: list[LogRecord] = []
    pending_bytes = 0
    for index, record in enumerate(records):
        size = size_bytes(record.key, record.value, record.headers)
        full = len(pending) >= records_max or pending_bytes + size > bytes_max or index <= alone
        if pending and full:
            yield _slice(pending, start, round_)
            start, pending, pending_bytes = pending[-1].offset + 1, [], 0
        pending.append(record)
        pending_bytes += size
    if pending:
        yield _slice(pending, start, round_)


def _slice(records: list[LogRecord], start: int, round_: int) -> Slice:
    last = records[-1]
    return Slice(last.topic, last.partition, tuple(records), start, last.offset + 1, round_)
