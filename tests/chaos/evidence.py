"""What happened, as outsiders saw it: the topics under both isolation levels, the sink's file, the bills.

What lives here: plain facts, and how they are read with nothing but aiokafka, sqlite3, the record codec and the
ledger's reader. What must not: our runtime or any decision of ours; a checker that shares code with what it checks
proves little.

A read ends at a record of our own (`END_KEY`), appended to each partition after the last worker has gone: positions and
end offsets lie around transaction markers, a record does not. A reader under read_committed that never meets it has
found an open transaction.
"""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from batchmill.agents.simulator import Ledger, read_ledger
from batchmill.schemas import codec

__all__ = [
    "END_KEY",
    "FLOW",
    "Evidence",
    "HistoryRow",
    "Marker",
    "Place",
    "Seen",
    "SinkRow",
    "Txn",
    "gather",
    "open_transactions",
    "read_sink",
    "topic_of",
    "txn_of",
]

END_KEY = b"__end_of_evidence"
#: topics whose records are decoded, by short name
FLOW = ("normalized", "submitted", "results", "validated", "committed", "dead-letter", "excluded", "control")
NAMES = ("raw", *FLOW, "decisions", "state")

_READ_SECONDS_MAX = 60.0
_POLL_MS = 250
_FETCH_BYTES = 8 * 2**20


class Txn(NamedTuple):
    """The `txn` header of everything the pipeline writes."""

    instance: str
    producer_id: int
    epoch: int
    sequence: int


class Place(NamedTuple):
    """One record's coordinates; `topic` by short name."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One record as a read_committed client sees it; `value` is decoded, except on raw."""

    place: Place
    at_ms: int
    key: bytes | None
    value: Any
    src: str | None = None
    txn: Txn | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Marker:
    """A new owner said: from here on the task is mine."""

    place: Place
    instance: str
    producer_id: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRow:
    target_key: str
    output_json: str
    output_sha256: str
    request_id: str
    seq: int
    promotion: int
    commit_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    commit_id: str
    target_key: str
    request_id: str
    previous_commit_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of it. Lists are in the order of the log, partition by partition."""

    generation: int = 1
    raw: tuple[Seen, ...] = ()
    flow: Mapping[str, tuple[Seen, ...]] = field(default_factory=dict)
    state: tuple[Seen, ...] = ()  #: key is `table/key`; value None = deleted
    markers: tuple[Marker, ...] = ()
    visible: Mapping[Txn, int] = field(default_factory=dict)  #: records per transaction under read_committed
    written: Mapping[Txn, int] = field(default_factory=dict)  #: the same under read_uncommitted
    unreached: tuple[str, ...] = ()  #: partitions in which a read_committed client waits behind an open transaction
    partitions_read: int = 0
    positions: Mapping[tuple[str, int], int] = field(default_factory=dict)  #: of the group, by short topic name
    sink: tuple[SinkRow, ...] = ()
    history: tuple[HistoryRow, ...] = ()
    ledger: Ledger | None = None
    doomed: frozenset[Txn] = frozenset()  #: seen open, their producers killed before the commit
    live_commits: tuple[str, ...] | None = None  #: commit ids met by a reader that ran through all faults

    def rows(self) -> dict[tuple[int, str], Any]:
        """Task state now: a fold of the changelog. A key is a row's name within its task."""
        now: dict[tuple[int, str], Any] = {}
        for seen in self.state:
            key = (seen.place.partition, (seen.key or b"").decode())
            if seen.value is None:
                now.pop(key, None)
            else:
                now[key] = seen.value
        return now

    def values(self, topic: str) -> list[Any]:
        return [seen.value for seen in self.flow.get(topic, ())]


def topic_of(prefix: str, name: str) -> str:
    return f"{prefix}.{name}.v1"


def txn_of(headers: Iterable[tuple[str, bytes]]) -> Txn | None:
    """The transaction a record says it belongs to."""
    for name, value in headers:
        if name == "txn":
            instance, producer_id, epoch, sequence = value.decode().rsplit("/", 3)
            return Txn(instance, int(producer_id), int(epoch), int(sequence))
    return None


async def gather(
    *,
    bootstrap_servers: str,
    prefix: str,
    group: str,
    partitions: int,
    sink_path: Path | None = None,
    table: str = "",
    ledger_path: Path | None = None,
    generation: int = 1,
    doomed: frozenset[Txn] = frozenset(),
    live_commits: tuple[str, ...] | None = None,
) -> Evidence:
    """Read everything there is. Nobody may write any more: an end is appended to every partition."""
    places = [TopicPartition(topic_of(prefix, name), p) for name in NAMES for p in range(partitions)]
    await _append_ends(bootstrap_servers, places)
    committed, unreached = await _read(bootstrap_servers, places, "read_committed")
    uncommitted, _ = await _read(bootstrap_servers, places, "read_uncommitted")
    short = {topic_of(prefix, name): name for name in NAMES}
    flow: dict[str, tuple[Seen, ...]] = {
        name: tuple(_seen(r, name) for r in committed[topic_of(prefix, name)]) for name in FLOW
    }
    state_records = committed[topic_of(prefix, "state")]
    sink, history = read_sink(sink_path, table) if sink_path is not None else ((), ())
    return Evidence(
        generation=generation,
        raw=tuple(_seen_raw(r) for r in committed[topic_of(prefix, "raw")]),
        flow=flow,
        state=tuple(_seen(r, "state") for r in state_records if not (r.key or b"").startswith(b"__")),
        markers=tuple(_marker(r) for r in state_records if r.key == b"__marker"),
        visible=_per_transaction(committed),
        written=_per_transaction(uncommitted),
        unreached=tuple(f"{short[tp.topic]}/{tp.partition}" for tp in unreached),
        partitions_read=len(places),
        positions=await _positions(bootstrap_servers, group, short),
        sink=sink,
        history=history,
        ledger=read_ledger(ledger_path) if ledger_path is not None else None,
        doomed=doomed,
        live_commits=live_commits,
    )


def read_sink(path: Path, table: str) -> tuple[tuple[SinkRow, ...], tuple[HistoryRow, ...]]:
    """The table and its history; both empty when nothing was ever written."""
    if not path.exists():
        return (), ()
    columns = "target_key, output_json, output_sha256, request_id, seq, promotion, commit_id"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if table not in known:
            return (), ()
        rows = connection.execute(f'SELECT {columns} FROM "{table}"').fetchall()
        past = connection.execute(
            f'SELECT commit_id, target_key, request_id, previous_commit_id FROM "{table}__history"'
        ).fetchall()
    return tuple(SinkRow(**dict(row)) for row in rows), tuple(HistoryRow(**dict(row)) for row in past)


async def open_transactions(
    bootstrap_servers: str, topics: Mapping[str, str], partitions: int
) -> dict[Txn, Counter[str]]:
    """Transactions that are open now: their records lie beyond what read_committed may read.

    `topics` is full name -> short name; the counts are by short name.
    """
    places = [TopicPartition(topic, p) for topic in topics for p in range(partitions)]
    stable = await _ends(bootstrap_servers, places, "read_committed")
    highest = await _ends(bootstrap_servers, places, "read_uncommitted")
    behind = {tp: end for tp, end in highest.items() if stable[tp] < end}
    found: dict[Txn, Counter[str]] = {}
    if not behind:
        return found
    async with _consumer(bootstrap_servers, "read_uncommitted") as consumer:
        consumer.assign(list(behind))
        for tp in behind:
            consumer.seek(tp, stable[tp])
        left = set(behind)
        # What is open was written already; what comes now is not asked for, and half a second of silence is the end.
        while left and (fetched := await consumer.getmany(*left, timeout_ms=500)):
            for tp, records in fetched.items():
                for record in records:
                    txn = txn_of(record.headers)
                    if txn is not None and record.offset < behind[tp]:
                        found.setdefault(txn, Counter())[topics[tp.topic]] += 1
                if records[-1].offset >= behind[tp] - 1:
                    left.discard(tp)
    return found


# -- reading -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _consumer(bootstrap_servers: str, isolation: str) -> Any:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        isolation_level=isolation,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _ends(bootstrap_servers: str, places: list[TopicPartition], isolation: str) -> dict[TopicPartition, int]:
    """Under read_committed this is the last stable offset, else the high watermark."""
    async with _consumer(bootstrap_servers, isolation) as consumer:
        return dict(await consumer.end_offsets(places))


async def _append_ends(bootstrap_servers: str, places: list[TopicPartition]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    await producer.start()
    try:
        sent = [await producer.send(tp.topic, key=END_KEY, value=b"end", partition=tp.partition) for tp in places]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def _read(
    bootstrap_servers: str, places: list[TopicPartition], isolation: str
) -> tuple[dict[str, list[Any]], list[TopicPartition]]:
    """All records up to the newest end of each partition, and the partitions whose end was never met."""
    highest = await _ends(bootstrap_servers, places, "read_uncommitted")
    found: dict[str, list[Any]] = {tp.topic: [] for tp in places}
    left = set(places)
    deadline = time.monotonic() + _READ_SECONDS_MAX
    async with _consumer(bootstrap_servers, isolation) as consumer:
        consumer.assign(places)
        while left and time.monotonic() < deadline:
            for tp, records in (await consumer.getmany(*left, timeout_ms=_POLL_MS)).items():
                found[tp.topic] += [record for record in records if record.key != END_KEY]
                if records and records[-1].key == END_KEY and records[-1].offset == highest[tp] - 1:
                    left.discard(tp)
    return found, sorted(left)


async def _positions(bootstrap_servers: str, group: str, short: Mapping[str, str]) -> dict[tuple[str, int], int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        committed = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {
        (short[tp.topic], tp.partition): at.offset
        for tp, at in committed.items()
        if tp.topic in short and at.offset >= 0
    }


def _per_transaction(records: Mapping[str, list[Any]]) -> dict[Txn, int]:
    counts: Counter[Txn] = Counter()
    for per_topic in records.values():
        for record in per_topic:
            txn = txn_of(record.headers)
            if txn is not None:
                counts[txn] += 1
    return dict(counts)


def _seen_raw(record: Any) -> Seen:
    run = next((value.decode() for name, value in record.headers if name == "batchmill-run"), None)
    return Seen(Place("raw", record.partition, record.offset), record.timestamp, record.key, record.value, run=run)


def _seen(record: Any, name: str) -> Seen:
    place = Place(name, record.partition, record.offset)
    value = None if record.value is None else codec.decode_any(record.value)
    src = next((text.decode() for header, text in record.headers if header == "src"), None)
    return Seen(place, record.timestamp, record.key, value, src=src, txn=txn_of(record.headers))


def _marker(record: Any) -> Marker:
    told = json.loads(record.value)
    place = Place("state", record.partition, record.offset)
    return Marker(place, told["instance"], told["producer_id"], told["epoch"])
