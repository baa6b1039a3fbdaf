"""What candidates say, read from the log in bounded cuts: their inputs, their outputs, their raw events.

What must not live here: believing that there is a log. Whoever asks while no broker answers is told `LogAwayError`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiokafka.errors import KafkaConnectionError

from batchmill.agents.originals import log_reader
from batchmill.agents.replays.choosing import Candidate
from batchmill.agents.runtime import LogReader, LogRecord
from batchmill.agents.settings import Settings
from batchmill.schemas.codec import CodecError, decode
from batchmill.schemas.records import Origin, Verdict, WorkItem
from batchmill.streams.dead_lettering import RawRecord
from batchmill.streams.topology import topic_name

__all__ = ["BODIES_MAX", "Bodies", "LogAwayError", "opened"]

#: records whose bodies one selection reads; a selection that would need more has to be narrowed
BODIES_MAX: Final = 20_000
#: records whose bodies are read at once
_CUT: Final = 500


class LogAwayError(Exception):
    """No broker answers."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """A reader of what candidates say."""

    reader: LogReader
    settings: Settings

    async def inputs(self, rows: Sequence[Candidate]) -> dict[tuple[int, int], Any]:
        """Of those that have a work item; by place."""
        return await self._told(rows, "normalized", lambda row: row.input_offset, _input)

    async def outputs(self, rows: Sequence[Candidate]) -> dict[tuple[int, int], Any]:
        """Of those that have a verdict; by place."""
        return await self._told(rows, "validated", lambda row: row.verdict_offset, _output)

    async def events(self, rows: Sequence[Candidate]) -> dict[tuple[int, int], RawRecord]:
        """What raw still holds of them."""
        found: dict[tuple[int, int], RawRecord] = {}
        for partition, offsets in _by_partition(rows, lambda row: (row.partition, row.offset)).items():
            for record in (await self._read("raw", partition, offsets)).values():
                found[partition, record.offset] = self._raw(record)
        return found

    async def _told(
        self,
        rows: Sequence[Candidate],
        topic: str,
        at: Callable[[Candidate], int | None],
        told: Callable[[bytes], tuple[str, Any] | None],
    ) -> dict[tuple[int, int], Any]:
        """A body counts as a candidate's only if it says so itself."""
        found: dict[tuple[int, int], Any] = {}
        placed = [row for row in rows if at(row) is not None]
        for start in range(0, len(placed), _CUT):
            cut = placed[start : start + _CUT]
            for task, offsets in _by_partition(cut, lambda row: (row.task, at(row) or 0)).items():
                records = await self._read(topic, task, offsets)
                for row in cut:
                    record = records.get(at(row) or 0) if row.task == task else None
                    body = None if record is None else told(record.value or b"")
                    if body is not None and body[0] == row.request_id:
                        found[row.place] = body[1]
        return found

    async def _read(self, topic: str, partition: int, offsets: Sequence[int]) -> Mapping[int, LogRecord]:
        try:
            return await self.reader.read(topic_name(self.settings.topic_prefix, topic), partition, offsets)
        except KafkaConnectionError as error:
            raise LogAwayError from error

    def _raw(self, record: LogRecord) -> RawRecord:
        at = Origin(
            generation=self.settings.raw_generation,
            partition=record.partition,
            offset=record.offset,
            at_ms=record.timestamp_ms,
        )
        return RawRecord(origin=at, key=record.key, value=record.value, headers=record.headers)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Bodies]:
    """Connects at the first read."""
    async with log_reader(settings) as reader:
        yield Bodies(reader, settings)


def _by_partition(rows: Sequence[Candidate], at: Callable[[Candidate], tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for partition, offset in map(at, rows):
        found.setdefault(partition, []).append(offset)
    return found


def _input(value: bytes) -> tuple[str, Any] | None:
    try:
        item = decode(value, WorkItem)
    except CodecError:
        return None
    return item.request_id, orjson.loads(item.input_json)


def _output(value: bytes) -> tuple[str, Any] | None:
    try:
        verdict = decode(value, Verdict)
    except CodecError:
        return None
    return verdict.request_id, orjson.loads(verdict.output_json)
