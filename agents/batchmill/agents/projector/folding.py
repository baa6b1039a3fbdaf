"""Log records in, rows of the read model out. No SQL is run here, nothing is read.

Of the `state` topic only the newest row of each key in a fold is decoded: the older ones are history already. What
cannot be decoded is told, never skipped silently: it is one row of `unreadable`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from batchmill.agents.projector.tables import LOG_TABLES, STATE_TABLES
from batchmill.agents.runtime.codec import OVERSEER
from batchmill.schemas.codec import CodecError, decode, decode_any
from batchmill.schemas.reasons import Reason, info
from batchmill.schemas.records import Control, DeadLetter, Excluded, Record, Verdict, WorkItem
from batchmill.schemas.registry import CLASSES
from batchmill.schemas.state import Arrival, Chunk, Grant, Job, Life, Meta, Row, Source
from batchmill.schemas.status import Place
from batchmill.streams.controlling import OVERSEER_COMMANDS
from batchmill.streams.events import RUN_HEADER
from batchmill.streams.scoring import SCORE, is_job

__all__ = ["Fold", "Logged", "Statement"]

_KEY_CHARS_MAX = 512
_JOB_HEADER = "batchmill-job"
#: keys of the `state` topic that are the runtime's own, not rows
_RUNTIME_KEY = b"__"
#: of the overseer's heartbeat, and, behind a slash, of what it remembers
_OVERSEER_KEY = OVERSEER.encode()

Statement = tuple[str, Sequence[tuple[Any, ...] | dict[str, Any]]]


class Logged(Protocol):
    """A record as the consumer hands it over."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


_RAW_SEEN = """INSERT INTO raw (generation, partition, offset, at_ms, bytes, key, job, run_id)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET at_ms = excluded.at_ms, bytes = excluded.bytes,
  key = excluded.key, job = COALESCE(raw.job, excluded.job), run_id = excluded.run_id"""
_RAW_ASKED = """INSERT INTO raw (generation, partition, offset, request_id, job) VALUES (?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET request_id = excluded.request_id, job = excluded.job WHERE NOT raw.alive"""
_RAW_ALIVE = """INSERT INTO raw (generation, partition, offset, request_id, job, alive) VALUES (?, ?, ?, ?, ?, 1)
  ON CONFLICT DO UPDATE SET request_id = excluded.request_id, job = excluded.job, alive = 1"""
# A redriven record may be put down twice, in two topics that are read in any order: the later one tells where it is.
_RAW_PUT_DOWN = """INSERT INTO raw (generation, partition, offset, request_id, job, letter, letter_at_ms)
  VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET letter = excluded.letter,
  letter_at_ms = excluded.letter_at_ms, request_id = COALESCE(raw.request_id, excluded.request_id),
  job = COALESCE(NULLIF(excluded.job, ''), raw.job)
  WHERE raw.letter_at_ms IS NULL OR raw.letter_at_ms <= excluded.letter_at_ms"""
# A life that was brought back belongs to a newer event from then on; one that was set aside to none. The life that
# took its place may have been read before it.
_RAW_LEFT = """UPDATE raw SET alive = 0 WHERE request_id = :life AND (generation, partition, offset) IN
  (SELECT origin_generation, origin_partition, origin_offset FROM lives WHERE request_id = :life)"""
_CHECKED = """INSERT INTO check_counts (job, version, id, severity, passed, n) VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET n = n + excluded.n"""
_CHECK_FAILED = """INSERT OR REPLACE INTO failed_checks (partition, offset, id, request_id, severity, path, note)
  VALUES (?, ?, ?, ?, ?, ?, ?)"""
_OVERSEEN = "INSERT OR REPLACE INTO meta (partition, name, value_json) VALUES (?, ?, ?)"
_UNREADABLE = "INSERT OR REPLACE INTO unreadable (topic, partition, offset, why) VALUES (?, ?, ?, ?)"

#: How a tombstone's key names its row. A life expires after its raw event did, so both leave the account.
_RAW_EXPIRED = "DELETE FROM raw WHERE alive AND request_id = :key"
_DELETES: Mapping[str, str] = {
    Life.schema: "DELETE FROM lives WHERE request_id = :key",
    Source.schema: """DELETE FROM sources WHERE job = substr(:key, 1, instr(:key, '/') - 1)
  AND source_id = substr(:key, instr(:key, '/') + 1)""",
    Arrival.schema: """DELETE FROM arrivals WHERE partition = :partition
  AND origin_generation = CAST(substr(:key, 1, instr(:key, '/') - 1) AS INTEGER)
  AND origin_offset = CAST(substr(:key, instr(:key, '/') + 1) AS INTEGER)""",
    Chunk.schema: "DELETE FROM chunks WHERE chunk_id = :key",
    Grant.schema: "DELETE FROM grants WHERE partition = :partition AND pool = :key",
    Job.schema: "DELETE FROM jobs WHERE partition = :partition AND job = :key",
    Meta.schema: "DELETE FROM meta WHERE partition = :partition AND name = :key",
}


class Fold:
    """Everything one SQL transaction will write; `add` records, then take the `statements`."""

    def __init__(self, *, raw_generation: int) -> None:
        self._generation = raw_generation
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._newest: dict[tuple[int, bytes], Logged] = {}
        self._checks: Counter[tuple[str, str, str, str, bool]] = Counter()
        self.records = 0

    def add(self, topic: str, partition: int, records: Sequence[Logged]) -> None:
        """Take records of one partition of `topic` (its short name), in offset order."""
        self.records += len(records)
        if topic == "raw":
            self._rows.setdefault(_RAW_SEEN, []).extend(self._raw(partition, records))
        elif topic == "state":
            self._add_state(partition, records)
        else:
            self._add_log(topic, partition, records)

    def statements(self) -> Iterator[Statement]:
        """In the order they have to be run in."""
        deleted, upserted = self._state_rows()
        yield from deleted.items()
        lives = upserted.get(Life.schema, [])
        yield _RAW_LEFT, [{"life": life.request_id} for _, life in lives if life.redrives or life.aside]
        yield _RAW_ALIVE, [_claim(life) for _, life in lives if not life.aside]
        for name, rows in upserted.items():
            table = STATE_TABLES[name]
            yield table.upsert(), [(partition, *table.values(row)) for partition, row in rows]
        yield from self._rows.items()
        yield _CHECKED, [(*key, count) for key, count in self._checks.items()]

    def _raw(self, partition: int, records: Sequence[Logged]) -> Iterator[tuple[Any, ...]]:
        for record in records:
            job = run = None
            for name, value in record.headers:
                if name == _JOB_HEADER:
                    job = _text(value)
                elif name == RUN_HEADER:
                    run = _text(value)
            size = len(record.value) if record.value is not None else 0
            yield (self._generation, partition, record.offset, record.timestamp, size, _text(record.key), job, run)

    def _add_state(self, partition: int, records: Sequence[Logged]) -> None:
        for record in records:
            if record.key is not None and record.key.startswith(_OVERSEER_KEY):
                row = (partition, record.key.decode(), "null" if record.value is None else record.value.decode())
                self._rows.setdefault(_OVERSEEN, []).append(row)
            elif record.key is not None and not record.key.startswith(_RUNTIME_KEY):
                self._newest[partition, record.key] = record

    def _add_log(self, topic: str, partition: int, records: Sequence[Logged]) -> None:
        table, expected = LOG_TABLES[topic], CLASSES[topic]
        rows = self._rows.setdefault(table.upsert(), [])
        for record in records:
            try:
                decoded: Any = decode(record.value or b"", expected)
            except CodecError as error:
                self._unreadable(topic, partition, record.offset, error)
                continue
            if isinstance(decoded, Control) and decoded.command in OVERSEER_COMMANDS:
                continue  # what came of it is in the tasks' rows; `commands` tells what people asked for
            rows.append((partition, record.offset, record.timestamp, *table.values(decoded)))
            self._consequences(partition, record, decoded)

    def _consequences(self, partition: int, record: Logged, decoded: Record) -> None:
        match decoded:
            case WorkItem(origin=at) if not decoded.aside:
                row = (at.generation, at.partition, at.offset, decoded.request_id, decoded.job)
                self._rows.setdefault(_RAW_ASKED, []).append(row)
            case DeadLetter(origin=at) | Excluded(origin=at) if not decoded.aside or decoded.reason is Reason.BENCHMARK:
                place = Place.EXCLUDED if info(decoded.reason).excluded else Place.DEAD_LETTERED
                put_down = (at.generation, at.partition, at.offset, decoded.request_id, decoded.job, place)
                self._rows.setdefault(_RAW_PUT_DOWN, []).append((*put_down, record.timestamp))
            case Verdict():
                self._checked(partition, record.offset, decoded)
            case _:
                pass

    def _checked(self, partition: int, offset: int, verdict: Verdict) -> None:
        told_before = is_job(verdict.decided_by)  # the verdict that was scored has told all but the score
        for check in verdict.checks:
            if not told_before or check.id == SCORE:
                self._checks[verdict.job, verdict.version, check.id, check.severity, check.passed] += 1
            if not check.passed:
                row = (partition, offset, check.id, verdict.request_id, check.severity, check.path, check.note)
                self._rows.setdefault(_CHECK_FAILED, []).append(row)

    def _state_rows(self) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[tuple[int, Any]]]]:
        deleted: dict[str, list[dict[str, Any]]] = {}
        upserted: dict[str, list[tuple[int, Any]]] = {}
        for (partition, key), record in self._newest.items():
            table, _, name = key.decode("utf-8", "replace").partition("/")
            if table not in STATE_TABLES:
                continue  # not shown in this view (stored answers)
            if record.value is None:
                where = {"partition": partition, "key": name}
                if table == Life.schema:
                    deleted.setdefault(_RAW_EXPIRED, []).append(where)
                deleted.setdefault(_DELETES[table], []).append(where)
                continue
            try:
                row: Record | Row = decode_any(record.value)
            except CodecError as error:
                self._unreadable("state", partition, record.offset, error)
                continue
            upserted.setdefault(row.schema, []).append((partition, row))
        return deleted, upserted

    def _unreadable(self, topic: str, partition: int, offset: int, error: CodecError) -> None:
        self._rows.setdefault(_UNREADABLE, []).append((topic, partition, offset, str(error)))


def _claim(life: Life) -> tuple[Any, ...]:
    at = life.origin
    return (at.generation, at.partition, at.offset, life.request_id, life.job)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data[:_KEY_CHARS_MAX].decode("utf-8", "backslashreplace")
