"""Bodies by their place in the log, as plain values: for people, not for the pipeline.

What lives here: one started reader for a process that asks again and again. What must not: believing a body to be of
whom it was asked for; whoever asks compares the request id.
"""

from collections.abc import Iterable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from batchmill.agents.originals import log_reader
from batchmill.agents.settings import Settings
from batchmill.schemas.codec import CodecError, decode_any
from batchmill.streams.topology import topic_name

__all__ = ["At", "LogBodies"]

At = tuple[str, int, int]  #: topic's short name, partition, offset


class LogBodies:
    """A context; connects at the first read. One read at a time: others wait their turn."""

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.topic_prefix
        self._opening = log_reader(settings)

    async def __aenter__(self) -> Self:
        self._reader = await self._opening.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opening.__aexit__(kind, error, trace)

    async def read(self, places: Iterable[At]) -> dict[At, dict[str, Any]]:
        """What the log holds at these places; what retention took is absent."""
        wanted: dict[tuple[str, int], list[int]] = {}
        for topic, partition, offset in places:
            wanted.setdefault((topic, partition), []).append(offset)
        found: dict[At, dict[str, Any]] = {}
        for (topic, partition), offsets in wanted.items():
            records = await self._reader.read(topic_name(self._prefix, topic), partition, offsets)
            for offset, record in records.items():
                found[topic, partition, offset] = _shown(topic, record.key, record.value)
        return found


def _shown(topic: str, key: bytes | None, value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {"tombstone": True}
    try:
        return asdict(decode_any(value))
    except CodecError as error:
        if topic != "raw":
            return {"unreadable": str(error)}
        shown = None if key is None else key.decode("utf-8", "backslashreplace")
        return {"key": shown, "value": value.decode("utf-8", "backslashreplace")}
