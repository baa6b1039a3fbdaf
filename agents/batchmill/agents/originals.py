"""What only the log can tell of dead letters: the events they are about, and how far back it still reaches.

What lives here: reading letters and their events in bounded cuts. What must not: which letters, what to do with them.
"""

import base64
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents.runtime import BodyCache, LogReader, LogRecord
from batchmill.agents.settings import Settings
from batchmill.agents.topics import kafka_client_options
from batchmill.schemas.codec import CodecError, decode
from batchmill.schemas.records import DeadLetter, Origin
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.topology import topic_name

__all__ = ["Original", "Placed", "kept_from", "log_reader", "originals", "shown"]

#: letters whose bodies are in memory at once; one is at most some hundred kilobytes, as is its event
CUT: Final = 100
_CACHE_BYTES: Final = 64 * 2**20
#: topics of a life's bodies
_OF_A_LIFE: Final = ("normalized", "results", "validated")


class Placed(Protocol):
    """Names a letter and its event by their places in the log."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def origin_generation(self) -> int: ...
    @property
    def origin_partition(self) -> int: ...
    @property
    def origin_offset(self) -> int: ...


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A letter and its event as the log has them; None where retention took it."""

    letter: DeadLetter | None
    event: RawRecord | None

    @property
    def value(self) -> bytes | None:
        """Of the event; the letter's own copy, where the log has it no more."""
        if self.event is not None:
            return self.event.value
        return None if self.letter is None else self.letter.original


@asynccontextmanager
async def log_reader(settings: Settings) -> AsyncIterator[LogReader]:
    """A reader of single records, closed behind."""
    options = kafka_client_options(settings.kafka)
    servers = options.pop("bootstrap_servers")
    reader = LogReader(bootstrap_servers=servers, bodies=BodyCache(bytes_max=_CACHE_BYTES), options=options)
    try:
        yield reader
    finally:
        await reader.close()


async def originals(settings: Settings, rows: Iterable[P]) -> AsyncIterator[tuple[P, Original]]:
    """Each letter with what the log holds of it, in the order given, cut by cut."""
    async with log_reader(settings) as reader:
        for cut in _cuts(rows):
            letters = await _read(reader, settings, "dead-letter", [(row.partition, row.offset) for row in cut])
            # an origin of another generation is no place in this raw topic
            places = [_event_of(row) for row in cut if row.origin_generation == settings.raw_generation]
            events = await _read(reader, settings, "raw", places)
            for row in cut:
                event = events.get(_event_of(row)) if row.origin_generation == settings.raw_generation else None
                yield row, _original(letters.get((row.partition, row.offset)), event, settings.raw_generation)


async def kept_from(settings: Settings, topics: Sequence[str] = _OF_A_LIFE) -> dict[int, dict[str, int]]:
    """By partition: the first offset that each topic (default: those of a life's bodies) still has."""
    consumer = AIOKafkaConsumer(**kafka_client_options(settings.kafka), group_id=None, enable_auto_commit=False)
    names = {topic_name(settings.topic_prefix, topic): topic for topic in topics}
    try:
        await consumer.start()
        places = [TopicPartition(name, partition) for name in names for partition in range(settings.partitions)]
        first: Mapping[TopicPartition, int] = await consumer.beginning_offsets(places)
    finally:
        await consumer.stop()
    found: dict[int, dict[str, int]] = {}
    for place, offset in first.items():
        found.setdefault(place.partition, {})[names[place.topic]] = offset
    return found


def shown(original: Original) -> dict[str, Any]:
    """A letter and its event as one JSON object: text where it is text, else base64."""
    letter = original.letter
    told = {} if letter is None else asdict(letter)
    told.pop("original", None)
    key = None if original.event is None else original.event.key
    return told | {"key": _text(key), **_body(original.value)}


def _event_of(row: Placed) -> tuple[int, int]:
    return row.origin_partition, row.origin_offset


def _body(value: bytes | None) -> dict[str, str | None]:
    text = _text(value)
    if value is None or text is not None:
        return {"original": text}
    return {"original": None, "original_base64": base64.b64encode(value).decode()}


def _text(data: bytes | None) -> str | None:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return None


def _original(letter: LogRecord | None, event: LogRecord | None, generation: int) -> Original:
    return Original(
        letter=None if letter is None else _decoded(letter), event=None if event is None else _raw(event, generation)
    )


def _raw(record: LogRecord, generation: int) -> RawRecord:
    at = Origin(generation=generation, partition=record.partition, offset=record.offset, at_ms=record.timestamp_ms)
    return RawRecord(origin=at, key=record.key, value=record.value, headers=record.headers)


def _decoded(record: LogRecord) -> DeadLetter | None:
    try:
        return decode(record.value or b"", DeadLetter)
    except CodecError:
        return None


async def _read(
    reader: LogReader, settings: Settings, topic: str, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], LogRecord]:
    wanted: dict[int, set[int]] = {}
    for partition, offset in places:
        wanted.setdefault(partition, set()).add(offset)
    name = topic_name(settings.topic_prefix, topic)
    found: dict[tuple[int, int], LogRecord] = {}
    for partition, offsets in wanted.items():
        records = await reader.read(name, partition, sorted(offsets))
        found |= {(partition, offset): record for offset, record in records.items()}
    return found


def _cuts(rows: Iterable[P]) -> Iterator[list[P]]:
    left = iter(rows)
    while cut := list(islice(left, CUT)):
        yield cut
