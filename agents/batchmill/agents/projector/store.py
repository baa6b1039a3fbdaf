"""The file of the read model: rows and the offsets they came from, in one SQL transaction.

One writer at a time (a lock file says who); readers come and go (WAL). A file written under another VIEW_VERSION or for
other topics is emptied, never migrated: the log has it all.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batchmill.agents.projector.folding import Statement
from batchmill.agents.projector.tables import VIEW_VERSION, create_statements

__all__ = ["Position", "ViewBusyError", "ViewStore"]

_BUSY_TIMEOUT_SECONDS = 15.0
_CACHE_KIBIBYTES = 64 * 1024

_AT = """INSERT OR REPLACE INTO positions (topic, partition, next_offset, at_ms, records) VALUES (?, ?, ?, ?,
  ? + COALESCE((SELECT records FROM positions WHERE topic = ? AND partition = ?), 0))"""

Position = tuple[str, int]  #: (topic's full name, partition)


class ViewBusyError(Exception):
    """Another projector writes this file."""


class ViewStore:
    """The writing side; `identity` names what is folded (topics, cluster), so that a foreign file is not continued."""

    def __init__(self, path: Path, *, identity: Mapping[str, str], rebuild: bool = False) -> None:
        self.path = path
        self._identity = {**identity, "view_version": str(VIEW_VERSION)}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path)
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        # What a power cut may undo is read from the log again, offsets included.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        self.rebuilt = rebuild or self._about() != self._identity
        if self.rebuilt:
            self._empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    def positions(self) -> dict[Position, int]:
        """Where to read on: (topic, partition) -> offset."""
        found = self._connection.execute("SELECT topic, partition, next_offset FROM positions")
        return {(topic, partition): offset for topic, partition, offset in found}

    def write(self, statements: Iterable[Statement], positions: Mapping[Position, tuple[int, int, int]]) -> None:
        """All of it or nothing; `positions`: (topic, partition) -> (next offset, broker time, records read)."""
        with self._transaction() as cursor:
            for statement, rows in statements:
                if rows:
                    cursor.executemany(statement, rows)
            cursor.executemany(
                _AT,
                [(*at, offset, at_ms, records, *at) for at, (offset, at_ms, records) in positions.items()],
            )

    def note_gap(self, at: Position, from_offset: int, to_offset: int) -> None:
        """Records that retention took before they were read."""
        with self._transaction() as cursor:
            cursor.execute("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?)", (*at, from_offset, to_offset))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            yield cursor
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        cursor.execute("COMMIT")

    def _about(self) -> dict[str, str]:
        try:
            return dict(self._connection.execute("SELECT name, value FROM about").fetchall())
        except sqlite3.OperationalError:
            return {}

    def _empty(self) -> None:
        with self._transaction() as cursor:
            names = cursor.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            for (name,) in names:
                cursor.execute(f"DROP TABLE {name}")
            for statement in create_statements():
                cursor.execute(statement)
            cursor.executemany("INSERT INTO about VALUES (?, ?)", list(self._identity.items()))


def _locked(path: Path) -> Any:
    lock = path.with_name(f"{path.name}.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise ViewBusyError(
            f"{path} is written by another projector (process {owner}); stop that one, or set BATCHMILL_VIEW__PATH"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
