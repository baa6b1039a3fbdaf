"""A SQLite file that is asked and cannot be changed: opened with `mode=ro`, told `query_only`, one statement at a time.

What lives here: the connection of one question, its end in time. What must not: SQL of ours. The file may be written by
others meanwhile; a lock of theirs is waited for within the question's time.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from batchmill.agents import clock
from batchmill.agents.tools.values import as_rows
from batchmill.streams.ports import RefusedError, TransientError
from batchmill.streams.tooling import ANSWER_BYTES_MAX, Lookup

__all__ = ["SqliteDatabase"]

#: instructions of SQLite's machine between two looks at the time
_STEPS_BETWEEN_LOOKS: Final = 1_000
_READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
#: functions that reach beyond the file; they are not there as a rule
_BEYOND: Final = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})


class SqliteDatabase:
    """One file; it need not be there yet."""

    def __init__(self, *, name: str, path: Path) -> None:
        self._name, self._path = name, path

    async def ask(self, question: Lookup) -> Any:
        """The rows, as a list of objects."""
        return await asyncio.to_thread(self._ask, question)

    async def probe(self) -> str:
        """Open it and read its schema's version; says where it is."""
        nothing = Lookup(source=self._name, sql="SELECT 1 AS one", params=(), rows_max=1, timeout_seconds=5)
        await self.ask(nothing)
        return f"SQLite, {self._path}, read only"

    async def close(self) -> None:
        """Nothing stays open."""

    def _ask(self, question: Lookup) -> list[dict[str, Any]]:
        until_s = clock.monotonic_s() + question.timeout_seconds
        try:
            with closing(self._opened(question.timeout_seconds)) as connection:
                connection.set_progress_handler(lambda: int(clock.monotonic_s() >= until_s), _STEPS_BETWEEN_LOOKS)
                cursor = connection.execute(question.sql, dict(question.params))
                columns = [column[0] for column in cursor.description or ()]
                return as_rows(columns, cursor, rows_max=question.rows_max)
        except sqlite3.Error as error:
            raise self._told(error, late=clock.monotonic_s() >= until_s) from None

    def _opened(self, timeout_seconds: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self._path.resolve()))}?mode=ro", uri=True, timeout=timeout_seconds, isolation_level=None
        )
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 64 * ANSWER_BYTES_MAX)
        connection.execute("PRAGMA query_only = ON")
        connection.set_authorizer(_reads_only)
        return connection

    def _told(self, error: sqlite3.Error, *, late: bool) -> RefusedError | TransientError:
        """The text of an error of SQLite may quote the statement, never a value; its name is enough."""
        code = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if code == "SQLITE_INTERRUPT" or late:
            return RefusedError("timeout", hint="the look-up took longer than ask.tools.lookup.timeout")
        if code.startswith(_AWAY):
            return TransientError(f"database_{code}", hint=f"{self._name} cannot be read: look at {self._path}")
        return RefusedError(f"database_{code}", hint="the database does not take the SELECT with these parameters")


#: the file is not there, is locked, or is not to be read just now
_AWAY: Final = ("SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB")


def _reads_only(action: int, *told: str | None) -> int:
    if action not in _READING or (action == sqlite3.SQLITE_FUNCTION and told[1] in _BEYOND):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
