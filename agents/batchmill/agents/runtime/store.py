"""The local copy of one task's state: a SQLite file that can always be thrown away.

What lives here: the file, its lock, its identity and position, and the rules for discarding it. What must not: any
write that Kafka has not committed. The truth is the changelog; the file only saves reading it from its beginning.

A file belongs to one task and one worker instance. It remembers the changelog position it has seen, and an apply names
the position it builds on: one that does not follow is refused. It is discarded when its position lies before the log's
start or behind its end, when it is of another cluster, or when it is so old that compaction may have removed deletions
it has not seen. A file that another process holds (a frozen predecessor) is left alone; the next free name is taken.
"""

import fcntl
import json
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from batchmill.agents.runtime.codec import Write

__all__ = ["Hit", "Store", "StoreBrokenError", "StoreIdentity"]

LAYOUT = 2  #: raise it when the tables below, or what rows are indexed under, change; older files are rebuilt
FILES_MAX = 16  #: names tried when others are held by frozen predecessors
CACHE_KIBIBYTES = 8 * 1024
WAL_PAGES = 4000

Hit = tuple[str, str, str, bytes]  #: index text, table, key, row bytes

_TABLES = """
CREATE TABLE rows (tbl TEXT, key TEXT, data BLOB NOT NULL, entries TEXT, PRIMARY KEY (tbl, key)) WITHOUT ROWID;
CREATE TABLE entries (idx TEXT, text TEXT, tbl TEXT, key TEXT, PRIMARY KEY (idx, text, tbl, key)) WITHOUT ROWID;
CREATE TABLE about (one INTEGER PRIMARY KEY CHECK (one = 1), identity TEXT, position INTEGER, applied_at_ms INTEGER);
"""
_SCAN = """
SELECT e.text, e.tbl, e.key, r.data FROM entries AS e JOIN rows AS r ON r.tbl = e.tbl AND r.key = e.key
WHERE e.idx = ? AND e.text {} ? AND e.text < ? ORDER BY e.text, e.tbl, e.key
"""
_SCAN_FROM, _SCAN_PAST = _SCAN.format(">="), _SCAN.format(">")


class StoreBrokenError(Exception):
    """The file does not follow on from what was committed; it must not be used any further."""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Whose state it is."""

    cluster: str
    topic: str
    partition: int

    def text(self) -> str:
        return json.dumps([LAYOUT, self.cluster, self.topic, self.partition])


class Store:
    """One open, locked file. Not safe for concurrent use; one task uses it."""

    def __init__(self, path: Path, lock: IO[bytes], connection: sqlite3.Connection) -> None:
        self.path = path
        self._lock = lock
        self._sql = connection
        self.position = 0
        self.applied_at_ms = 0

    # --- opening ---

    @classmethod
    def open(cls, directory: Path, identity: StoreIdentity) -> "Store":
        """The task's file, created if absent, emptied if it is somebody else's."""
        path, lock = _locked(directory, identity.partition)
        try:
            store = cls(path, lock, _connect(path))
            known = store._about()
        except sqlite3.DatabaseError:
            _remove(path)  # a torn file is as good as none
            store = cls(path, lock, _connect(path))
            known = None
        if known is None or known[0] != identity.text():
            store._recreate(identity)
        else:
            _, store.position, store.applied_at_ms = known
        return store

    def discard_unless_usable(self, identity: StoreIdentity, *, start: int, end: int, oldest_ms: int) -> bool:
        """False when it had to be emptied: its position is outside of the log, or its last apply was too long ago."""
        usable = self.position > 0 and start <= self.position <= end and self.applied_at_ms >= oldest_ms
        if not usable and self.position > 0:
            self._recreate(identity)
        return usable

    def _about(self) -> tuple[str, int, int] | None:
        if not self._sql.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
            return None
        row: tuple[str, int, int] | None = self._sql.execute(
            "SELECT identity, position, applied_at_ms FROM about"
        ).fetchone()
        return row

    def _recreate(self, identity: StoreIdentity) -> None:
        self._sql.close()
        _remove(self.path)
        self._sql = _connect(self.path)
        self._sql.executescript(_TABLES)
        self._sql.execute("INSERT INTO about VALUES (1, ?, 0, 0)", (identity.text(),))
        self.position = self.applied_at_ms = 0

    def close(self) -> None:
        self._sql.close()
        self._lock.close()

    # --- reading ---

    def get(self, table: str, key: str) -> bytes | None:
        found = self._sql.execute("SELECT data FROM rows WHERE tbl = ? AND key = ?", (table, key)).fetchone()
        return found[0] if found else None

    def scan(self, index: str, low: str, high: str, *, past: bool) -> Generator[Hit, None, None]:
        """Entries from `low` (or past it) to before `high`, in order. The caller closes it before the next write."""
        cursor = self._sql.execute(_SCAN_PAST if past else _SCAN_FROM, (index, low, high))
        try:
            yield from cursor
        finally:
            cursor.close()

    def count(self) -> int:
        return int(self._sql.execute("SELECT count(*) FROM rows").fetchone()[0])

    # --- writing ---

    def apply(self, writes: Iterable[Write], *, expect: int, position: int, now_ms: int) -> None:
        """All of `writes` and the new position, or nothing; `expect` is the position they build on."""
        sql = self._sql
        sql.execute("BEGIN IMMEDIATE")
        try:
            moved = sql.execute(
                "UPDATE about SET position = ?, applied_at_ms = ? WHERE position = ?", (position, now_ms, expect)
            )
            self._assert_followed(moved.rowcount, expect)
            for write in writes:
                self._write(write)
            sql.execute("COMMIT")
        except BaseException:
            sql.execute("ROLLBACK")
            raise
        self.position, self.applied_at_ms = position, now_ms

    def _assert_followed(self, moved_rows: int, expect: int) -> None:
        if moved_rows != 1:
            raise StoreBrokenError(
                f"{self.path.name} is at changelog position {self.position}, the commit builds on {expect}; "
                "the file will be rebuilt if you delete it"
            )

    def _write(self, write: Write) -> None:
        sql, table, key = self._sql, write.table, write.key
        known = sql.execute("SELECT entries FROM rows WHERE tbl = ? AND key = ?", (table, key)).fetchone()
        listed = json.dumps(write.entries) if write.entries else None
        if known is not None and known[0] is not None and known[0] != listed:
            sql.executemany(
                "DELETE FROM entries WHERE idx = ? AND text = ? AND tbl = ? AND key = ?",
                [(index, text, table, key) for index, text in json.loads(known[0])],
            )
        if write.data is None:
            sql.execute("DELETE FROM rows WHERE tbl = ? AND key = ?", (table, key))
            return
        sql.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?) "
            "ON CONFLICT (tbl, key) DO UPDATE SET data = excluded.data, entries = excluded.entries",
            (table, key, write.data, listed),
        )
        if listed is not None and (known is None or known[0] != listed):
            sql.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)",
                [(index, text, table, key) for index, text in write.entries],
            )


def _locked(directory: Path, partition: int) -> tuple[Path, IO[bytes]]:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(FILES_MAX):
        path = directory / f"task-{partition}{f'-{number}' if number else ''}.sqlite"
        lock = path.with_suffix(".lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return path, lock
    raise StoreBrokenError(
        f"{FILES_MAX} processes hold state files of task {partition} in {directory}; end the frozen ones"
    )


def _connect(path: Path) -> sqlite3.Connection:
    sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    sql.execute("PRAGMA locking_mode = EXCLUSIVE")  # the lock file keeps others out; this saves the shared memory file
    sql.execute("PRAGMA journal_mode = WAL")
    # A power cut may lose the newest applies but not their order; they are read again from the changelog.
    sql.execute("PRAGMA synchronous = NORMAL")
    sql.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    sql.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
    return sql


def _remove(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        with suppress(FileNotFoundError):
            name.unlink()
