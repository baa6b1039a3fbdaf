"""The SQLite sink: one row per target, and a history row for each commit that ever changed it.

What lives here: compare-and-set on rank (`seq`, then `promotion`), one SQL transaction per call, a refusal for one row
that leaves the others alone. What must not: overwriting a newer rank, or counting a commit id twice: applying it again
gives what its history row says, so a crash between this transaction and Kafka's changes nothing.

Several processes write one file: WAL, a busy timeout, and `BEGIN IMMEDIATE`, so that the comparison and the write see
the same row. `synchronous=FULL`: a commit that was answered has reached the disk.

Tables are the user's to read and to index. They may also add constraints and triggers: what these refuse is REFUSED.
"""

import asyncio
import re
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batchmill.agents import clock
from batchmill.streams.ports import SinkCapabilities, SinkOutcome, SinkResult, SinkWrite

__all__ = ["SqliteSink", "valid_table"]

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,62}")
HISTORY = "__history"
#: Between two tries to switch the journal of a file that another process is switching.
_WAL_RETRY_SECONDS = 0.02

_CREATE = """
CREATE TABLE IF NOT EXISTS "{table}" (
  target_key TEXT NOT NULL PRIMARY KEY,
  output_json TEXT NOT NULL,
  output_sha256 TEXT NOT NULL,
  job TEXT NOT NULL,
  version TEXT NOT NULL,
  source_id TEXT NOT NULL,
  request_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  promotion INTEGER NOT NULL,
  commit_id TEXT NOT NULL,
  committed_at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS "{table}__history" (
  commit_id TEXT NOT NULL,
  target_key TEXT NOT NULL,
  request_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  promotion INTEGER NOT NULL,
  output_sha256 TEXT NOT NULL,
  previous_commit_id TEXT,
  previous_output_json TEXT,
  previous_seq INTEGER,
  previous_promotion INTEGER,
  committed_at_ms INTEGER NOT NULL,
  PRIMARY KEY (target_key, commit_id)
);
"""
_COLUMNS = (
    "target_key", "output_json", "output_sha256", "job", "version", "source_id", "request_id", "seq", "promotion",
    "commit_id", "committed_at_ms",
)  # fmt: skip
_SEEN = 'SELECT previous_commit_id FROM "{table}__history" WHERE target_key = ? AND commit_id = ?'
_HELD = 'SELECT commit_id, output_json, seq, promotion FROM "{table}" WHERE target_key = ?'
_UPSERT = """
INSERT INTO "{table}" (target_key, output_json, output_sha256, job, version, source_id, request_id, seq, promotion,
  commit_id, committed_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (target_key) DO UPDATE SET output_json = excluded.output_json, output_sha256 = excluded.output_sha256,
  job = excluded.job, version = excluded.version, source_id = excluded.source_id, request_id = excluded.request_id,
  seq = excluded.seq, promotion = excluded.promotion, commit_id = excluded.commit_id,
  committed_at_ms = excluded.committed_at_ms
"""
_REMEMBER = """
INSERT INTO "{table}__history" (commit_id, target_key, request_id, seq, promotion, output_sha256, previous_commit_id,
  previous_output_json, previous_seq, previous_promotion, committed_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class SqliteSink:
    """One file, one writing thread of this process."""

    name = "sqlite"
    capabilities = SinkCapabilities(compares=True, revertible=True)

    def __init__(self, *, path: Path, busy_timeout_ms: int) -> None:
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-sink")
        self._connection: sqlite3.Connection | None = None
        self._tables: set[str] = set()

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """Write all of them in one transaction; an exception means that none is known to be written."""
        if not writes:
            return ()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._apply, tuple(writes))

    async def close(self) -> None:
        """Let the running transaction end and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _apply(self, writes: tuple[SinkWrite, ...]) -> tuple[SinkResult, ...]:
        connection = self._connection or self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = tuple(self._try_one(connection, write) for write in writes)
            connection.execute("COMMIT")
        except BaseException:
            self._forget(connection)
            raise
        return results

    def _try_one(self, connection: sqlite3.Connection, write: SinkWrite) -> SinkResult:
        if not valid_table(write.table):
            return _refused(write, f"table name {write.table!r} must match {_TABLE.pattern} and not end in {HISTORY}")
        lacking = self._ensure_table(connection, write.table)
        if lacking:
            return _refused(write, f"table {write.table!r} is of somebody else: it lacks {', '.join(lacking)}")
        connection.execute("SAVEPOINT one")
        try:
            result = _write_one(connection, write)
        except (sqlite3.IntegrityError, sqlite3.DataError, UnicodeError, OverflowError) as error:
            connection.execute("ROLLBACK TO one")
            # The text of UnicodeError quotes the value; that of SQLite names the constraint.
            result = _refused(write, str(error) if isinstance(error, sqlite3.Error) else type(error).__name__)
        connection.execute("RELEASE one")
        return result

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=self._busy_timeout_ms / 1_000)
        self._use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        self._connection = connection
        return connection

    def _use_wal(self, connection: sqlite3.Connection) -> None:
        """Switch the journal; SQLite's own busy timeout does not cover two processes that do so on a new file."""
        until_s = clock.monotonic_s() + self._busy_timeout_ms / 1_000
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if clock.monotonic_s() >= until_s:
                    raise
                time.sleep(_WAL_RETRY_SECONDS)
            else:
                return

    def _ensure_table(self, connection: sqlite3.Connection, table: str) -> list[str]:
        """Make both tables if they are not there; the columns that a table of that name lacks. A strange table is its
        job's fault: left to fail, it would hold back all other jobs that are written in the same transaction.
        """
        if table in self._tables:
            return []
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ? AND type <> 'table'", (table,)).fetchone():
            return ["being a table"]
        # Statement by statement: executescript would commit the open transaction.
        for statement in _CREATE.format(table=table).split(";\n"):
            connection.execute(statement)
        there = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
        lacking = [column for column in _COLUMNS if column not in there]
        if not lacking:
            self._tables.add(table)
        return lacking

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Drop the connection with whatever is open on it: the next call starts from what is in the file."""
        self._connection = None
        self._tables.clear()
        connection.close()

    def _close(self) -> None:
        if self._connection is not None:
            self._forget(self._connection)


def valid_table(name: str) -> bool:
    """May `name` be the table of a job's output?"""
    return bool(_TABLE.fullmatch(name)) and not name.endswith(HISTORY) and not name.startswith("sqlite_")


def _write_one(connection: sqlite3.Connection, write: SinkWrite) -> SinkResult:
    table, key = write.table, write.target_key
    seen = connection.execute(_SEEN.format(table=table), (key, write.commit_id)).fetchone()
    if seen is not None:
        return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.ALREADY, previous_commit_id=seen[0])
    held = connection.execute(_HELD.format(table=table), (key,)).fetchone() or (None, None, None, None)
    held_commit, held_json, held_seq, held_promotion = held
    if held_commit is not None and (write.seq, write.promotion) <= (held_seq, held_promotion):
        return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.STALE, held_commit_id=held_commit)
    now_ms = clock.wall_ms()
    value = (write.output_json, write.output_sha256, write.job, write.version, write.source_id, write.request_id)
    rank = (write.seq, write.promotion)
    connection.execute(_UPSERT.format(table=table), (key, *value, *rank, write.commit_id, now_ms))
    replaced = (held_commit, held_json, held_seq, held_promotion)
    connection.execute(
        _REMEMBER.format(table=table),
        (write.commit_id, key, write.request_id, *rank, write.output_sha256, *replaced, now_ms),
    )
    return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.APPLIED, previous_commit_id=held_commit)


def _refused(write: SinkWrite, error: str) -> SinkResult:
    return SinkResult(commit_id=write.commit_id, outcome=SinkOutcome.REFUSED, error=error)
