"""The SQLite sink: one row per target, and a history row for each commit that it ever held.

What lives here: the SQL; one transaction per call, a refusal for one row that leaves the others alone. What must not:
what a write or a change means (`streams.holding`). The same commit again is answered from its history, so a crash
between this transaction and Kafka's changes nothing; the history holds whole rows, so that a revert restores them.

Several processes write one file: WAL, a busy timeout, and `BEGIN IMMEDIATE`, so that the comparison and the write see
the same row. `synchronous=FULL`: a commit that was answered has reached the disk.

Tables are the user's to read and to index. They may also add columns, constraints and triggers: what these refuse is
REFUSED, and columns of theirs are left as they are.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from batchmill.agents import clock
from batchmill.agents.sinks.rows import COLUMNS, HISTORY_COLUMNS, beneath_of, foreign, history_of, row_of, sha256_of
from batchmill.streams.holding import Past, Target, change, write
from batchmill.streams.ports import SinkChange, SinkOutcome, SinkResult, SinkWrite
from batchmill.streams.sinks import HISTORY, SINKS, table_fault

__all__ = ["SqliteSink", "valid_table"]

T = TypeVar("T", SinkWrite, SinkChange)

#: Between two tries to switch the journal of a file that another process is switching.
_WAL_RETRY_SECONDS = 0.02

_ROW = """
  target_key TEXT NOT NULL{key},
  output_json TEXT NOT NULL,
  output_sha256 TEXT NOT NULL,
  job TEXT NOT NULL,
  version TEXT NOT NULL,
  source_id TEXT NOT NULL,
  request_id TEXT NOT NULL,
  run_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  promotion INTEGER NOT NULL,
  commit_id TEXT NOT NULL,
  committed_at_ms INTEGER NOT NULL"""
_CREATE = f'CREATE TABLE IF NOT EXISTS "{{table}}" ({_ROW.format(key=" PRIMARY KEY")}\n)'
#: one row per rank of a target: that no two commits share one is a law, not a habit
_CREATE_HISTORY = f"""CREATE TABLE IF NOT EXISTS "{{table}}{HISTORY}" ({_ROW.format(key="")},
  previous_commit_id TEXT,
  changed INTEGER NOT NULL,
  reverted INTEGER NOT NULL,
  change_order INTEGER NOT NULL,
  PRIMARY KEY (target_key, seq, promotion),
  UNIQUE (target_key, commit_id)
)"""
_LIST = ", ".join(COLUMNS)
_SET = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[1:])
_MARKS = ", ".join("?" * len(COLUMNS))
_ONTO = f"ON CONFLICT (target_key) DO UPDATE SET {_SET}"
_UPSERT = f'INSERT INTO "{{table}}" ({_LIST}) VALUES ({_MARKS}) {_ONTO}'
_REMEMBER = (
    f'INSERT INTO "{{table}}{HISTORY}" ({", ".join(HISTORY_COLUMNS)}) VALUES ({", ".join("?" * len(HISTORY_COLUMNS))})'
)
_OF_COMMIT = "WHERE target_key = ? AND commit_id = ?"
_RESTORE = f'INSERT INTO "{{table}}" ({_LIST}) SELECT {_LIST} FROM "{{table}}{HISTORY}" {_OF_COMMIT} {_ONTO}'
_REMOVE = 'DELETE FROM "{table}" WHERE target_key = ?'
_MARK = f'UPDATE "{{table}}{HISTORY}" SET reverted = ?, change_order = ? {_OF_COMMIT}'
_HELD = 'SELECT commit_id, output_json FROM "{table}" WHERE target_key = ?'
_NEWEST = (
    f'SELECT seq, promotion FROM "{{table}}{HISTORY}" WHERE target_key = ? ORDER BY seq DESC, promotion DESC LIMIT 1'
)
_PAST = (
    "SELECT h.previous_commit_id, h.changed, h.reverted, h.change_order, b.request_id, b.run_id, b.seq"
    f' FROM "{{table}}{HISTORY}" h LEFT JOIN "{{table}}{HISTORY}" b'
    " ON b.target_key = h.target_key AND b.commit_id = h.previous_commit_id"
    " WHERE h.target_key = ? AND h.commit_id = ?"
)


class SqliteSink:
    """One file, one writing thread of this process."""

    name = "sqlite"
    capabilities = SINKS["sqlite"]

    def __init__(self, *, path: Path, busy_timeout_ms: int) -> None:
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-sink")
        self._connection: sqlite3.Connection | None = None
        self._tables: set[str] = set()

    async def apply(self, writes: Sequence[SinkWrite]) -> Sequence[SinkResult]:
        """Write all of them in one transaction; an exception means that none is known to be written."""
        return await self._in_thread(tuple(writes), _write_one)

    async def change(self, changes: Sequence[SinkChange]) -> Sequence[SinkResult]:
        """Revert or replay all of them in one transaction."""
        return await self._in_thread(tuple(changes), _change_one)

    async def probe(self) -> str:
        """Take the file's write lock and give it back; says where it is."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._all, (), _write_one)
        return f"{self._path} takes writes"

    async def close(self) -> None:
        """Let the running transaction end and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _in_thread(
        self, asked: tuple[T, ...], one: Callable[[sqlite3.Connection, T], SinkResult]
    ) -> Sequence[SinkResult]:
        if not asked:
            return ()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._all, asked, one)

    def _all(self, asked: tuple[T, ...], one: Callable[[sqlite3.Connection, T], SinkResult]) -> tuple[SinkResult, ...]:
        connection = self._connection or self._open()
        refused: dict[int, SinkResult] = {}
        try:
            while True:  # each turn but the last refuses one more
                results = self._attempt(connection, asked, one, refused)
                if results is not None:
                    return results
        except BaseException:
            self._forget(connection)
            raise

    def _attempt(
        self,
        connection: sqlite3.Connection,
        asked: tuple[T, ...],
        one: Callable[[sqlite3.Connection, T], SinkResult],
        refused: dict[int, SinkResult],
    ) -> tuple[SinkResult, ...] | None:
        """The transaction. None: somebody's trigger refused a row by rolling all of it back; the row is in `refused`
        now, and the others are to be written without it.
        """
        connection.execute("BEGIN IMMEDIATE")
        results: list[SinkResult] = []
        for at, each in enumerate(asked):
            results.append(refused[at] if at in refused else self._try_one(connection, each, one))
            if not connection.in_transaction:
                refused[at] = results[-1]
                self._tables.clear()  # one that was made in this transaction is gone
                return None
        connection.execute("COMMIT")
        return tuple(results)

    def _try_one(
        self, connection: sqlite3.Connection, asked: T, one: Callable[[sqlite3.Connection, T], SinkResult]
    ) -> SinkResult:
        fault = table_fault(self.name, asked.table)
        if fault:
            return _refused(asked, f"table name {asked.table!r} {fault}")
        lacking = self._ensure_table(connection, asked.table)
        if lacking:
            return _refused(asked, foreign(asked.table, lacking))
        connection.execute("SAVEPOINT one")
        try:
            result = one(connection, asked)
        except (sqlite3.IntegrityError, sqlite3.DataError, UnicodeError, OverflowError, _IgnoredError) as error:
            # The text of UnicodeError quotes the value; that of SQLite names the constraint.
            told = isinstance(error, sqlite3.Error | _IgnoredError)
            result = _refused(asked, str(error) if told else type(error).__name__)
            if not connection.in_transaction:  # RAISE(ROLLBACK): the savepoint is gone with all the rest
                return result
            connection.execute("ROLLBACK TO one")
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
        """Make both tables if they are not there; the columns that tables of these names lack. A strange table is its
        job's fault: left to fail, it would hold back all other jobs that are written in the same transaction.
        """
        if table in self._tables:
            return []
        lacking = [
            *_lacking(connection, table, COLUMNS),
            *_lacking(connection, f"{table}{HISTORY}", HISTORY_COLUMNS),
        ]
        if not lacking:
            connection.execute(_CREATE.format(table=table))
            connection.execute(_CREATE_HISTORY.format(table=table))
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


class _IgnoredError(Exception):
    """A trigger of the user's left the row out without a word."""


def valid_table(name: str) -> bool:
    """May `name` be the table of a job's output?"""
    return table_fault(SqliteSink.name, name) is None


def _lacking(connection: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> list[str]:
    """What a table that is there is short of; nothing, when there is none yet."""
    kind = connection.execute("SELECT type FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    if kind is None:
        return []
    if kind[0] != "table":
        return [f"being a table ({table})"]
    there = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
    return [f"{table}.{column}" for column in columns if column not in there]


def _write_one(connection: sqlite3.Connection, asked: SinkWrite) -> SinkResult:
    sha256 = sha256_of(asked.output_json)
    decided = write(_target(connection, asked), asked, sha256)
    if decided.past is None:
        return decided.result
    row = row_of(asked, clock.wall_ms())
    _moving(connection, _UPSERT.format(table=asked.table), row)
    connection.execute(_REMEMBER.format(table=asked.table), history_of(row, decided.past))
    return decided.result


def _change_one(connection: sqlite3.Connection, asked: SinkChange) -> SinkResult:
    table, key = asked.table, asked.target_key
    decided = change(_target(connection, asked), asked)
    to = decided.target.held_commit_id
    if decided.moves and to is None:
        _moving(connection, _REMOVE.format(table=table), (key,))
    elif decided.moves:
        _moving(connection, _RESTORE.format(table=table), (key, to))
    if decided.past is not None:
        past = decided.past
        connection.execute(_MARK.format(table=table), (past.reverted, past.change_order, key, past.commit_id))
    held = connection.execute(_HELD.format(table=table), (key,)).fetchone()
    return replace(decided.result, output_json=None if held is None else held[1])


def _moving(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> None:
    if connection.execute(statement, values).rowcount != 1:
        raise _IgnoredError("a trigger left the row as it was, or its history is gone")


def _target(connection: sqlite3.Connection, asked: SinkWrite | SinkChange) -> Target:
    table, key = asked.table, asked.target_key
    held = connection.execute(_HELD.format(table=table), (key,)).fetchone()
    newest = connection.execute(_NEWEST.format(table=table), (key,)).fetchone()
    past = connection.execute(_PAST.format(table=table), (key, asked.commit_id)).fetchone()
    return Target(
        held_commit_id=None if held is None else held[0],
        held_sha256=None if held is None or isinstance(asked, SinkChange) else sha256_of(held[1]),
        newest=newest,
        past={} if past is None else {asked.commit_id: _past(asked.commit_id, past)},
    )


def _past(commit_id: str, row: tuple[Any, ...]) -> Past:
    previous, changed, reverted, order, *whose = row
    return Past(
        commit_id=commit_id,
        previous_commit_id=previous,
        changed=bool(changed),
        reverted=bool(reverted),
        change_order=order,
        beneath=beneath_of(previous, whose),
    )


def _refused(asked: SinkWrite | SinkChange, error: str) -> SinkResult:
    return SinkResult(commit_id=asked.commit_id, outcome=SinkOutcome.REFUSED, error=error)
