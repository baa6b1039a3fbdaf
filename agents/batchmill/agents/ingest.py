"""Files into the raw topic: JSONL lines as they are, CSV and Parquet rows as JSON objects.

A JSONL line is never judged here: what is malformed travels too, and is accounted for as a dead letter with its reason.
Only what Kafka itself cannot take (a line longer than the topic allows) or what is no record yet (a CSV row that does
not fit its header) is refused, counted and named by line. Sending twice is harmless: the pipeline knows a duplicate.

A run that came to its end says so in a manifest, in the log of commands: from which source, how many records, the hash
of their bytes in order, from when to when. One that was interrupted has none.
"""

import asyncio
import base64
import csv
import hashlib
import importlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from batchmill.agents import clock
from batchmill.agents.commands import issue
from batchmill.agents.settings import Settings
from batchmill.agents.topics import KafkaUnreachableError, TopicsMismatchError, desired, kafka_client_options, missing
from batchmill.streams.controlling import MANIFEST
from batchmill.streams.events import RUN_HEADER
from batchmill.streams.paths import ABSENT, compile_path
from batchmill.streams.topology import topic_name

__all__ = [
    "JOB_HEADER",
    "Format",
    "IngestError",
    "IngestReport",
    "RecordFile",
    "SourceRecord",
    "declare_end",
    "format_of",
    "ingest",
    "open_records",
]

JOB_HEADER = "batchmill-job"

#: records handed to the producer before their deliveries are awaited
_CUT_RECORDS = 2_000
#: fingerprints remembered to count repeats; 8 bytes each, some 400 MB of Python set at the bound
_REPEATS_REMEMBERED_MAX = 5_000_000
_REFUSED_SHOWN_MAX = 20
_LINGER_MS = 20
_PRODUCER_BATCH_BYTES = 512 * 2**10


class IngestError(Exception):
    """The file as a whole cannot be read; says what to do about it."""


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """One record of a file. `trouble` = it cannot become a raw event, and why."""

    line: int
    key: bytes | None = None
    value: bytes = b""
    trouble: str | None = None


@dataclass(slots=True, kw_only=True)
class IngestReport:
    """The manifest of one run of `ingest`, complete or as far as it got."""

    run: str
    job: str | None
    topic: str
    read: int = 0
    sent: int = 0
    bytes: int = 0
    without_key: int = 0
    repeated: int = 0  #: same key and same bytes as an earlier record of this file
    refused: int = 0
    refused_lines: list[tuple[int, str]] = field(default_factory=list)  #: the first few
    content_sha256: str = ""  #: of all values in order, so that two runs can be compared
    began_ms: int = 0
    ended_ms: int = 0  #: 0: not ended
    manifest: str | None = None  #: id of the command that declares the end


@dataclass(slots=True)
class RecordFile:
    """An opened file: its records, and how far into it they have got."""

    records: Iterator[SourceRecord]
    size_bytes: int | None  #: None for a pipe
    position: Callable[[], int]


def format_of(path: str, named: Format | None) -> Format:
    """The format by name or by file suffix; a pipe without a name is JSONL."""
    if named is not None:
        return named
    suffixes = {".jsonl": Format.JSONL, ".ndjson": Format.JSONL, ".csv": Format.CSV, ".parquet": Format.PARQUET}
    suffix = Path(path).suffix.lower()
    if path == "-":
        return Format.JSONL
    if suffix not in suffixes:
        raise IngestError(f"{path}: its suffix names no known format; say --format jsonl|csv|parquet")
    return suffixes[suffix]


@contextmanager
def open_records(path: str, kind: Format, *, key: str | None) -> Iterator[RecordFile]:
    """The records of `path` (`-` = standard input), keyed by the field `key` ($.a.b or a plain name)."""
    if path == "-":
        stream: IO[bytes] = sys.stdin.buffer
        yield RecordFile(_reader(kind, stream, _keyer(key)), None, lambda: 0)
        return
    try:
        size_bytes = Path(path).stat().st_size
        opened = Path(path).open("rb")  # noqa: SIM115  closed by the `with` below; errors inside it are not ours
    except OSError as error:
        raise IngestError(f"{path}: {error.strerror}") from None
    with opened as file:
        yield RecordFile(_reader(kind, file, _keyer(key)), size_bytes, file.tell)


Keyer = Callable[[Any], bytes | None]


def _keyer(key: str | None) -> Keyer:
    if key is None:
        return lambda _value: None
    path = compile_path(key)

    def find(value: Any) -> bytes | None:
        found = path.find(value)
        if found is ABSENT or found is None or isinstance(found, (dict, list, bool)):
            return None
        return str(found).encode()

    return find


def _reader(kind: Format, file: IO[bytes], keyer: Keyer) -> Iterator[SourceRecord]:
    match kind:
        case Format.JSONL:
            return _jsonl(file, keyer)
        case Format.CSV:
            return _csv(file, keyer)
        case Format.PARQUET:
            return _parquet(file, keyer)


def _jsonl(file: IO[bytes], keyer: Keyer) -> Iterator[SourceRecord]:
    for line, text in enumerate(file, start=1):
        value = text.rstrip(b"\r\n")
        if not value.strip():
            continue
        yield SourceRecord(line=line, key=_key_of_line(value, keyer), value=value)


def _key_of_line(value: bytes, keyer: Keyer) -> bytes | None:
    try:
        return keyer(orjson.loads(value))
    except orjson.JSONDecodeError:
        return None


def _csv(file: IO[bytes], keyer: Keyer) -> Iterator[SourceRecord]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if len(set(header)) != len(header):
            raise IngestError("the CSV header names a column twice; rename one of them")
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                yield SourceRecord(line=rows.line_num, trouble=f"{len(row)} cells, the header has {len(header)}")
                continue
            cells = dict(zip(header, row, strict=True))
            yield SourceRecord(line=rows.line_num, key=keyer(cells), value=orjson.dumps(cells))
    except UnicodeDecodeError:
        raise IngestError(f"the CSV is not UTF-8 after line {rows.line_num}; convert it with iconv first") from None
    except csv.Error as error:
        raise IngestError(f"the CSV cannot be read at line {rows.line_num}: {error}") from None


def _parquet(file: IO[bytes], keyer: Keyer) -> Iterator[SourceRecord]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise IngestError("reading Parquet needs pyarrow: pip install 'batchmill[parquet]'") from None
    if not file.seekable():
        raise IngestError("Parquet cannot be read from a pipe; name the file")
    line = 0
    for batch in parquet.ParquetFile(file).iter_batches(batch_size=_CUT_RECORDS):
        for row in batch.to_pylist():
            line += 1
            yield SourceRecord(line=line, key=keyer(row), value=orjson.dumps(row, default=_plain))


def _plain(value: object) -> str:
    """What JSON has no form for: bytes as base64, decimals and the like as their text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


async def ingest(
    settings: Settings,
    records: Iterator[SourceRecord],
    *,
    run: str,
    job: str | None = None,
    more_headers: Sequence[tuple[str, bytes]] = (),
    on_progress: Callable[[IngestReport], None] = lambda _report: None,
    dry_run: bool = False,
) -> IngestReport:
    """Send every record to `raw`, acknowledged by all replicas and without duplicates from our own retries.

    A dry run reads, checks and counts everything and sends nothing: no broker is asked.
    """
    topic = topic_name(settings.topic_prefix, "raw")
    report = IngestReport(run=run, job=job, topic=topic, began_ms=clock.wall_ms())
    limit = _record_bytes_max(settings)
    headers = [*_headers(run, job), *more_headers]
    repeats, content = _Repeats(), hashlib.sha256()
    async with _Nobody() if dry_run else _producer(settings, limit) as producer:
        waiting: list[asyncio.Future[Any]] = []
        for record in records:
            report.read += 1
            if trouble := record.trouble or _too_long(record, limit):
                _refuse(report, record.line, trouble)
                continue
            report.repeated += repeats.seen(record)
            report.without_key += record.key is None
            content.update(len(record.value).to_bytes(8, "big") + record.value)
            waiting.append(await producer.send(report.topic, value=record.value, key=record.key, headers=headers))
            report.bytes += len(record.value)
            if len(waiting) >= _CUT_RECORDS:
                await _delivered(waiting, report)
                on_progress(report)
        await producer.flush()
        await _delivered(waiting, report)
    report.content_sha256 = content.hexdigest()
    report.ended_ms = clock.wall_ms()
    on_progress(report)
    return report


async def declare_end(settings: Settings, report: IngestReport, *, source: str, actor: str) -> None:
    """Write the manifest of a run that has sent everything; `source` is what its records came from, by name."""
    assert report.ended_ms, f"run {report.run} has not ended"
    body = {
        "run": report.run,
        "kind": "ingest",
        "source": source,
        "count": report.sent,
        "sha256": report.content_sha256,
        "began_ms": report.began_ms,
        "ended_ms": report.ended_ms,
    }
    body_json = orjson.dumps(body).decode()
    issued = await issue(settings, MANIFEST, report.job or "", actor=actor, body_json=body_json, wait_seconds=0)
    report.manifest = issued.command_id


async def _delivered(waiting: list[asyncio.Future[Any]], report: IngestReport) -> None:
    for delivery in waiting:
        await delivery
        report.sent += 1
    waiting.clear()


def _headers(run: str, job: str | None) -> list[tuple[str, bytes]]:
    named = [(JOB_HEADER, job.encode())] if job is not None else []
    return [*named, (RUN_HEADER, run.encode())]


def _record_bytes_max(settings: Settings) -> int:
    raw = next(topic for topic in desired(settings) if topic.name == topic_name(settings.topic_prefix, "raw"))
    return int(raw.configs["max.message.bytes"])


#: key, headers and framing of one record, at most
_FRAME_BYTES = 4 * 2**10


def _too_long(record: SourceRecord, limit: int) -> str | None:
    size = len(record.value) + len(record.key or b"") + _FRAME_BYTES
    return f"{len(record.value)} bytes, the raw topic takes {limit - _FRAME_BYTES}" if size > limit else None


def _refuse(report: IngestReport, line: int, trouble: str) -> None:
    report.refused += 1
    if len(report.refused_lines) < _REFUSED_SHOWN_MAX:
        report.refused_lines.append((line, trouble))


class _Repeats:
    """Counts records equal to an earlier one, up to a bound of memory."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def seen(self, record: SourceRecord) -> bool:
        key = record.key or b""
        mark = hashlib.blake2b(len(key).to_bytes(4, "big") + key + record.value, digest_size=8).digest()
        if mark in self._seen:
            return True
        if len(self._seen) < _REPEATS_REMEMBERED_MAX:
            self._seen.add(mark)
        return False


class _producer:  # noqa: N801  used as a function: `async with _producer(...)`
    """An idempotent producer; a broker or a topic that is not there is said in words."""

    def __init__(self, settings: Settings, record_bytes_max: int) -> None:
        self._settings = settings
        self._options: Mapping[str, Any] = kafka_client_options(settings.kafka) | {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": _LINGER_MS,
            "max_batch_size": _PRODUCER_BATCH_BYTES,
            "max_request_size": record_bytes_max,
        }

    async def __aenter__(self) -> AIOKafkaProducer:
        self._producer = AIOKafkaProducer(**self._options)
        try:
            await self._producer.start()
        except KafkaConnectionError as error:
            await self._producer.stop()
            raise KafkaUnreachableError(
                f"no Kafka broker answers at {self._settings.kafka.bootstrap_servers};"
                " start one (`make kafka`) or set KAFKA_BOOTSTRAP_SERVERS"
            ) from error
        cluster = await self._producer.client.fetch_all_metadata()
        if absent := missing(self._settings, ("raw",), cluster.topics()):
            await self._producer.stop()
            raise TopicsMismatchError(absent)
        return self._producer

    async def __aexit__(self, *exc_info: object) -> None:
        await self._producer.stop()


class _Nobody:
    """Takes every record of a dry run."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """There is nothing to close."""

    async def send(self, *_: object, **__: object) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def flush(self) -> None:
        """Nothing waits."""
