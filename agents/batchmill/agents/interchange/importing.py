"""Batch files into the pipeline: requests become raw events, joined answers become a command to every task.

What lives here: handing joined answers over. Each task's part lies in the payload store first, durable under its
content's name; then one command names all parts, in one transaction. A crash before the command leaves files that
nobody reads; after it the tasks go on by themselves. What must not: deciding whether an answer is taken.
"""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from batchmill.agents.commands import issue_watching, new_command
from batchmill.agents.ingest import SourceRecord
from batchmill.agents.interchange.forms import Form, LineError, event_value, read_request
from batchmill.agents.payloads import READ_BYTES, FilePayloadStore
from batchmill.agents.settings import Settings
from batchmill.schemas.codec import decode
from batchmill.schemas.state import Meta
from batchmill.streams.importing import COMMAND, Bought, Part, bought_line, command_body, counts_of
from batchmill.streams.index import IMPORTED_ROWS

__all__ = ["Handed", "Parts", "hand_over", "request_records"]

#: lines of one task that are held in memory before they are appended to its file
_HELD_BYTES = 64 * 2**10


def request_records(
    lines: Iterable[tuple[int, bytes | None]], form: Form | None, *, bytes_max: int
) -> Iterator[SourceRecord]:
    """A raw event per request line, named by its custom id; a line that is none is refused by its number."""
    for number, line in lines:
        if line is None:
            yield SourceRecord(line=number, trouble=f"longer than {bytes_max} bytes")
            continue
        try:
            asked = read_request(line, form, bytes_max=bytes_max)
        except LineError as wrong:
            yield SourceRecord(line=number, trouble=str(wrong))
        else:
            yield SourceRecord(line=number, key=asked.custom_id.encode(), value=event_value(asked))


class Parts:
    """The joined answers, one file per task, until they are handed over; a context."""

    def __init__(self) -> None:
        self._held: dict[int, bytearray] = {}
        self._lines: Counter[int] = Counter()

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="batchmill-import-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()

    def take(self, partition: int, bought: Bought) -> None:
        """Add one answer to its task's part."""
        held = self._held.setdefault(partition, bytearray())
        held += bought_line(bought)
        self._lines[partition] += 1
        if len(held) >= _HELD_BYTES:
            self._append(partition)

    async def store(self, payloads: FilePayloadStore) -> dict[int, Part]:
        """Put every part into the payload store."""
        parts: dict[int, Part] = {}
        for partition, lines in sorted(self._lines.items()):
            self._append(partition)
            stored = await payloads.put(_content(self._path(partition)))
            parts[partition] = Part(stored.uri, lines)
        return parts

    def _append(self, partition: int) -> None:
        with self._path(partition).open("ab") as file:
            file.write(self._held[partition])
        self._held[partition].clear()

    def _path(self, partition: int) -> Path:
        return Path(self._directory.name) / str(partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """An import that the tasks have been told of."""

    command_id: str
    counts: dict[str, int]  #: by `streams.importing.Fate`, of the tasks that are done
    laggards: tuple[int, ...]  #: tasks that were not done when we stopped waiting


async def hand_over(settings: Settings, parts: Parts, *, job: str, actor: str, wait_seconds: float) -> Handed:
    """Store the parts, tell every task, and wait for what becomes of them."""
    payloads = FilePayloadStore(directory=settings.payload_dir, shared=settings.payloads.shared)
    body = command_body(await parts.store(payloads))
    record = new_command(COMMAND, job, actor=actor, body_json=body)
    key = f"{Meta.schema}/{IMPORTED_ROWS}{record.command_id}"
    seen = await issue_watching(settings, record, key=key, wait_seconds=wait_seconds)
    counts: Counter[str] = Counter()
    for row in seen.values():
        counts.update(counts_of(decode(row, Meta)))
    laggards = tuple(sorted(set(range(settings.partitions)) - seen.keys()))
    return Handed(command_id=record.command_id, counts=dict(counts), laggards=laggards)


async def _content(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            yield part
