"""Feeds the read model from Kafka: every partition of every topic, read_committed, assigned by hand.

No consumer group: where to read on is in the file, in the same SQL transaction as the rows. So a crash at any point
folds nothing twice and skips nothing. Records that retention took before they were read are noted as a gap.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from batchmill.agents.clock import monotonic_s
from batchmill.agents.projector.folding import Fold
from batchmill.agents.projector.store import ViewStore
from batchmill.agents.settings import Settings
from batchmill.agents.topics import KafkaUnreachableError, kafka_client_options
from batchmill.streams.topology import TOPICS, topic_name

__all__ = ["PositionLostError", "Projector"]

_FETCH_BYTES = 16 * 2**20
_PARTITION_FETCH_BYTES = 2 * 2**20


class PositionLostError(Exception):
    """The file is further than the log: a topic was deleted and made again."""


class Projector:
    """One writer of one file; an async context. `seen` is told (records, seconds) after every fold."""

    def __init__(
        self,
        settings: Settings,
        *,
        rebuild: bool = False,
        seen: Callable[[int, float], None] = lambda _records, _seconds: None,
    ) -> None:
        self._settings = settings
        self._rebuild = rebuild
        self._seen = seen
        self._short = {topic_name(settings.topic_prefix, topic.name): topic.name for topic in TOPICS}
        self._tps = [TopicPartition(name, p) for name in self._short for p in range(settings.partitions)]
        self._positions: dict[TopicPartition, int] = {}
        self.ready = False  #: has been level with the log once

    async def __aenter__(self) -> Self:
        self._consumer = await _started(self._settings)
        try:
            self._store = await self._opened()
            await self._seek()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._consumer.stop()
        self._store.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Fold until `stop`; what was fetched by then is folded."""
        while not stop.is_set():
            folded = await self.fold()
            if folded == 0 and not self.ready:
                self.ready = await self._level()

    async def catch_up(self, *, timeout_seconds: float) -> int:
        """Fold until everything committed by now is in the file; how many records that were. TimeoutError if not."""
        deadline, folded = monotonic_s() + timeout_seconds, 0
        ends = await self._ends()
        while any(self._positions[tp] < end for tp, end in ends.items()):
            if monotonic_s() > deadline:
                raise TimeoutError(f"the view is not level with the log after {timeout_seconds:g} s")
            folded += await self.fold()
        return folded

    def lag(self) -> dict[str, int]:
        """Topic (short name) -> offsets not folded yet, as of the newest fetch of each partition."""
        behind = dict.fromkeys(self._short.values(), 0)
        for tp in self._tps:
            end = self._consumer.last_stable_offset(tp)
            if end is not None and end > self._positions[tp]:
                behind[self._short[tp.topic]] += end - self._positions[tp]
        return behind

    async def fold(self) -> int:
        """One fetch, one SQL transaction; the number of records in it."""
        view = self._settings.view
        fetched: Mapping[TopicPartition, Sequence[Any]] = await self._consumer.getmany(
            timeout_ms=view.fold_interval_ms, max_records=view.fold_records
        )
        moved = await self._moved(fetched)
        if not moved:
            return 0
        started_s = monotonic_s()
        # SQLite lets go of the interpreter while it works, so the next fetch arrives meanwhile.
        folded = await asyncio.to_thread(self._write, fetched, moved)
        self._positions.update({tp: offset for tp, (offset, _, _) in moved.items()})
        if folded:
            self._seen(folded, monotonic_s() - started_s)
        return folded

    def _write(
        self,
        fetched: Mapping[TopicPartition, Sequence[Any]],
        moved: Mapping[TopicPartition, tuple[int, int, int]],
    ) -> int:
        fold = Fold(raw_generation=self._settings.raw_generation)
        for tp, records in fetched.items():
            fold.add(self._short[tp.topic], tp.partition, records)
        self._store.write(fold.statements(), {(tp.topic, tp.partition): at for tp, at in moved.items()})
        return fold.records

    async def _moved(
        self, fetched: Mapping[TopicPartition, Sequence[Any]]
    ) -> dict[TopicPartition, tuple[int, int, int]]:
        """Where each partition stands after this fetch. Positions also move over control records, without a record."""
        moved: dict[TopicPartition, tuple[int, int, int]] = {}
        for tp in self._tps:
            records = fetched.get(tp, ())
            position = await self._consumer.position(tp)
            if records:
                position = max(position, records[-1].offset + 1)
            if position != self._positions[tp]:
                moved[tp] = (position, records[-1].timestamp if records else 0, len(records))
        return moved

    async def _opened(self) -> ViewStore:
        identity = {
            "topics": ",".join(self._short),
            "partitions": str(self._settings.partitions),
            "raw_generation": str(self._settings.raw_generation),
        }
        return await asyncio.to_thread(ViewStore, self._settings.view_path, identity=identity, rebuild=self._rebuild)

    async def _seek(self) -> None:
        self._consumer.assign(self._tps)
        first: Mapping[TopicPartition, int] = await self._consumer.beginning_offsets(self._tps)
        ends = await self._ends()
        stored = self._store.positions()
        for tp in self._tps:
            position = stored.get((tp.topic, tp.partition), first[tp])
            if position > ends[tp]:
                raise PositionLostError(
                    f"the view has read {tp.topic}/{tp.partition} up to {position}, the log ends at {ends[tp]}: the"
                    " topic was made anew; run `batchmill projector --rebuild`"
                )
            if position < first[tp]:
                self._store.note_gap((tp.topic, tp.partition), position, first[tp])
                position = first[tp]
            self._positions[tp] = position
            self._consumer.seek(tp, position)

    async def _ends(self) -> Mapping[TopicPartition, int]:
        """What is committed by now: aiokafka asks with our isolation level, so open transactions are not counted."""
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(self._tps)
        return ends

    async def _level(self) -> bool:
        ends = await self._ends()
        return all(self._positions[tp] >= end for tp, end in ends.items())


async def _started(settings: Settings) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(
        **kafka_client_options(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        fetch_max_bytes=_FETCH_BYTES,
        max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
    )
    try:
        await consumer.start()
    except KafkaConnectionError as error:
        await consumer.stop()
        raise KafkaUnreachableError(f"no Kafka broker answers at {settings.kafka.bootstrap_servers}") from error
    return consumer
