"""What tells of drift, read from the flow's own topics, and the counts of it, carried over restarts.

What lives here: positions, fetching, and the names under which the overseer remembers counts and positions. What must
not: what is counted and when it is an alarm (`streams.drifting`), and writing (`overseer`).

Positions and counts are remembered in one transaction, so a successor counts on exactly where its predecessor was last
known to be: no record twice, none left out. What lies between is counted again from the log. Nothing is read while no
job is watched; the first one that is begins at the time at which it was applied.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from batchmill.agents import clock
from batchmill.agents.overseer.reading import Reader
from batchmill.agents.settings import Settings
from batchmill.agents.topics import kafka_client_options
from batchmill.schemas.codec import CodecError, decode
from batchmill.schemas.records import Record
from batchmill.schemas.registry import CLASSES
from batchmill.schemas.strict_json import StrictJsonError
from batchmill.streams.overseeing import Spread
from batchmill.streams.signalling import TOPICS_HEARD
from batchmill.streams.topology import topic_name
from batchmill.streams.watching import Alarm, Watches

__all__ = ["WRITE_SECONDS", "Watcher"]

_log = structlog.get_logger(__name__)

#: counts are written so often, and at once when a job has to pause
WRITE_SECONDS: Final = 2.0
_POSITIONS: Final = "drift"
_JOBS: Final = "drift/"
_RECORDS_MAX: Final = 2_000
_FETCH_BYTES: Final = 8 * 2**20
_PARTITION_FETCH_BYTES: Final = 2**20
#: clocks of workers and brokers may be so far apart
_EARLIER_MS: Final = 60_000


class Watcher:
    """Reads ahead of what is remembered; `rows` and `pauses` are to be written together, `written` says they are."""

    def __init__(self, settings: Settings, watches: Watches) -> None:
        self._settings = settings
        self._watches = watches
        self._short = {topic_name(settings.topic_prefix, name): name for name in TOPICS_HEARD}
        self._tps = [TopicPartition(name, p) for name in self._short for p in range(settings.partitions)]
        self._positions: dict[TopicPartition, int] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._written_s = 0.0
        self._further = False

    def restore(self, kept: Mapping[str, str]) -> None:
        """Count on from what a predecessor has left."""
        for name, text in kept.items():
            if name.startswith(_JOBS):
                self._restore(name.removeprefix(_JOBS), text)
        for place, offset in json.loads(kept.get(_POSITIONS, "{}")).items():
            topic, _, partition = place.rpartition("/")
            self._positions[TopicPartition(topic, int(partition))] = offset

    def _restore(self, job: str, text: str) -> None:
        try:
            self._watches.restore(job, text)
        except StrictJsonError as error:
            _log.error("drift_forgotten", job=job, error=f"written by another release, counted anew: {error}")

    async def stop(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def turn(self, reader: Reader) -> None:
        """One fetch, counted; told of aloud where something has moved."""
        since_ms = self._watches.since_ms
        if since_ms is None:
            await self._rest()
            return
        if self._consumer is None:
            await self._start(since_ms)
        assert self._consumer is not None
        fetched = await self._consumer.getmany(timeout_ms=0, max_records=_RECORDS_MAX)
        records = [pair for tp, logged in fetched.items() for pair in self._decoded(tp, logged)]
        if not all(self._watches.knows(record) for record, _ in records):
            await reader.level()
        for alarm in self._watches.hear(records):
            _say(alarm)
        self._further |= bool(fetched)
        for tp, logged in fetched.items():
            self._positions[tp] = logged[-1].offset + 1

    def pauses(self) -> list[Spread]:
        return self._watches.pauses()

    def rows(self) -> dict[str, str | None]:
        """What is to be remembered under the overseer's name; None: nothing any more. Empty: it is early for it."""
        jobs = self._watches.changes()
        early = clock.monotonic_s() - self._written_s < WRITE_SECONDS and not self._watches.pauses()
        if early or not (jobs or self._further):
            return {}
        places = {f"{tp.topic}/{tp.partition}": offset for tp, offset in self._positions.items()}
        return {_POSITIONS: json.dumps(places), **{f"{_JOBS}{job}": text for job, text in jobs.items()}}

    def written(self, rows: Mapping[str, str | None]) -> None:
        if rows:
            self._watches.remembered(name.removeprefix(_JOBS) for name in rows if name.startswith(_JOBS))
            self._written_s, self._further = clock.monotonic_s(), False

    async def _rest(self) -> None:
        """No job is watched: where one will begin is not known yet."""
        await self.stop()
        self._further |= bool(self._positions)
        self._positions = {}

    async def _start(self, since_ms: int) -> None:
        self._consumer = AIOKafkaConsumer(
            **kafka_client_options(self._settings.kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=_PARTITION_FETCH_BYTES,
        )
        await self._consumer.start()
        self._consumer.assign(self._tps)
        first = await self._consumer.beginning_offsets(self._tps)
        ends = await self._consumer.end_offsets(self._tps)
        at = await self._consumer.offsets_for_times(dict.fromkeys(self._tps, max(0, since_ms - _EARLIER_MS)))
        for tp in self._tps:
            found = at.get(tp)
            begin = self._positions.get(tp, ends[tp] if found is None else found.offset)
            if begin < first[tp]:
                _log.warning("drift_gap", topic=tp.topic, partition=tp.partition, records=first[tp] - begin)
            self._positions[tp] = min(max(begin, first[tp]), ends[tp])
            self._consumer.seek(tp, self._positions[tp])

    def _decoded(self, tp: TopicPartition, logged: list[Any]) -> list[tuple[Record, int]]:
        """Records with the time of their append; what cannot be read is told by the projector."""
        expected, found = CLASSES[self._short[tp.topic]], []
        for each in logged:
            try:
                record: Any = decode(each.value or b"", expected)
            except CodecError:
                continue
            found.append((record, each.timestamp))
        return found


def _say(alarm: Alarm) -> None:
    moved = alarm.moved
    _log.warning(
        "drift",
        job=alarm.job,
        version=alarm.version,
        signal=str(moved.signal),
        look=moved.look,
        psi=moved.psi,
        js=moved.js,
        p=moved.p,
        moved=[f"{each.name}: {each.before:.3f} -> {each.after:.3f}" for each in moved.shares[:8]],
    )
