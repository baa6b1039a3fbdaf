"""Who looks at what, and what was decided a moment ago: one small SQLite file beside the view, shared by all doors.

A *lock* is a courtesy with an end: it keeps two people from doing the same work, it guards nothing. A *claim* is a
decision that was written and is not yet to be seen in the view: whoever claims first is the one who decided, the next
is told so at once. The exact guard is the task: it takes a decision only for the answer its author saw, and only while
that answer waits. So this file may be deleted at any time.
"""

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from batchmill.agents.desk.model import DeskError, ErrorKind, Lock
from batchmill.schemas.records import Decision

__all__ = ["Claim", "Holding"]

_BUSY_TIMEOUT_SECONDS = 5.0
_TABLES = (
    """CREATE TABLE IF NOT EXISTS locks (request_id TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL)
  WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS claims (request_id TEXT PRIMARY KEY, decision_json TEXT NOT NULL,
  sha256_left TEXT NOT NULL, mark TEXT NOT NULL, until_ms INTEGER NOT NULL) WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A decision on its way; `mark`: how the life looked when it was made, `sha256_left`: of the answer it leaves."""

    decision: Decision
    sha256_left: str
    mark: str
    until_ms: int


class Holding:
    """The file; every method is one short transaction, from any thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._one_at_a_time = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")  # what a power cut undoes was a courtesy
        for statement in _TABLES:
            self._connection.execute(statement)

    def close(self) -> None:
        with self._one_at_a_time:
            self._connection.close()

    def locks(self, request_ids: Collection[str] | None = None, *, now_ms: int) -> dict[str, Lock]:
        """The locks in force, of these requests or of all."""
        sql = "SELECT request_id, holder, until_ms FROM locks WHERE until_ms > ?"
        with self._transaction() as cursor:
            found = cursor.execute(sql, (now_ms,)).fetchall()
        wanted = None if request_ids is None else set(request_ids)
        return {
            name: Lock(holder=holder, until_ms=until_ms)
            for name, holder, until_ms in found
            if wanted is None or name in wanted
        }

    def lock(self, request_id: str, holder: str, *, now_ms: int, until_ms: int) -> Lock:
        """Take or prolong a lock; CONFLICT where somebody else has it."""
        with self._transaction() as cursor:
            _refuse_held(cursor, request_id, holder, now_ms)
            cursor.execute("DELETE FROM locks WHERE until_ms <= ?", (now_ms,))
            cursor.execute("INSERT OR REPLACE INTO locks VALUES (?, ?, ?)", (request_id, holder, until_ms))
        return Lock(holder=holder, until_ms=until_ms)

    def release(self, request_id: str, holder: str) -> None:
        """Give one's own lock back; nothing happens where there is none."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM locks WHERE request_id = ? AND holder = ?", (request_id, holder))

    def claims(self, *, now_ms: int) -> dict[str, Claim]:
        """The decisions on their way, by request id."""
        sql = "SELECT request_id, decision_json, sha256_left, mark, until_ms FROM claims WHERE until_ms > ?"
        with self._transaction() as cursor:
            found = cursor.execute(sql, (now_ms,)).fetchall()
        return {
            name: Claim(decision=Decision(**orjson.loads(text)), sha256_left=left, mark=mark, until_ms=until_ms)
            for name, text, left, mark, until_ms in found
        }

    def claim(self, claims: Mapping[str, Claim], *, now_ms: int, replaces: str | None = None) -> None:
        """All of them or, with a CONFLICT, none. `replaces`: the id of the one decision that may be on its way."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM claims WHERE until_ms <= ?", (now_ms,))
            for request_id, claim in claims.items():
                _refuse_held(cursor, request_id, claim.decision.actor, now_ms)
                _refuse_claimed(cursor, request_id, replaces)
                # the text of a correction is in the log and may be private: it is of no use here
                text = orjson.dumps(replace(claim.decision, output_json=None)).decode()
                row = (request_id, text, claim.sha256_left, claim.mark, claim.until_ms)
                cursor.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", row)
                cursor.execute("DELETE FROM locks WHERE request_id = ?", (request_id,))

    def forget(self, decision_ids: Collection[str]) -> None:
        """Drop the claims of these decisions: they were not written, or have been seen to take effect."""
        if not decision_ids:
            return
        ids = orjson.dumps(sorted(decision_ids)).decode()
        sql = "DELETE FROM claims WHERE decision_json ->> 'id' IN (SELECT value FROM json_each(?))"
        with self._transaction() as cursor:
            cursor.execute(sql, (ids,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._one_at_a_time:
            cursor = self._connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                told = f"the desk's file was busy for {_BUSY_TIMEOUT_SECONDS:g} s; try again"
                raise DeskError(ErrorKind.UNAVAILABLE, told) from None
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")


def _refuse_held(cursor: sqlite3.Cursor, request_id: str, holder: str, now_ms: int) -> None:
    sql = "SELECT holder FROM locks WHERE request_id = ? AND until_ms > ? AND holder <> ?"
    row = cursor.execute(sql, (request_id, now_ms, holder)).fetchone()
    if row is not None:
        raise DeskError(ErrorKind.CONFLICT, f"{row[0]} is looking at request {request_id} just now")


def _refuse_claimed(cursor: sqlite3.Cursor, request_id: str, replaces: str | None) -> None:
    sql = "SELECT decision_json ->> 'id', decision_json ->> 'actor' FROM claims WHERE request_id = ?"
    row = cursor.execute(sql, (request_id,)).fetchone()
    if row is not None and row[0] != replaces:
        raise DeskError(ErrorKind.CONFLICT, f"{row[1]} has decided request {request_id} a moment ago")
