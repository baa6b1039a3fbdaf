"""Law: the simulator's memory on disk: one SQLite file for files, batches and counters, one directory for payloads.

Everything accepted is here before the answer leaves, so a killed simulator forgets nothing. Ledger lines that belong to
a change of state lie in the same transaction (`outbox`) until they are in the ledger file. Used from one thread.
"""

from __future__ import annotations

import fcntl
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson

from batchmill.agents.simulator.records import Batch, StoredFile, batch_from_json, batch_to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["Store"]

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, provider TEXT NOT NULL, filename TEXT NOT NULL,
    purpose TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, created_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, provider TEXT NOT NULL, status TEXT NOT NULL,
    due_ms INTEGER, listed_ms INTEGER NOT NULL, input_file_id TEXT NOT NULL,
    billed_rows INTEGER NOT NULL, cost_nanos INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS batches_due ON batches (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS batches_input ON batches (input_file_id) WHERE due_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (first_seq INTEGER PRIMARY KEY, lines BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
_FILE_COLUMNS: Final = "id, provider, filename, purpose, size_bytes, sha256, created_ms"


class Store:
    def __init__(self, data_dir: Path) -> None:
        self._payloads = data_dir / "payloads"
        self._payloads.mkdir(parents=True, exist_ok=True)
        self._lock = (data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RuntimeError(f"{data_dir} is in use by another simulator; stop it or give another data_dir") from None
        self._db = sqlite3.connect(data_dir / "state.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # survives the death of the process; the ledger alone is fsynced
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """No await inside: what is written here is one step."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Files ---------------------------------------------------------------------------------------------------------

    def payload_path(self, file_id: str) -> Path:
        return self._payloads / file_id

    def add_file(self, file: StoredFile) -> None:
        values = (file.id, file.provider, file.filename, file.purpose, file.size_bytes, file.sha256, file.created_ms)
        self._db.execute(f"INSERT INTO files ({_FILE_COLUMNS}) VALUES (?,?,?,?,?,?,?)", values)  # noqa: S608 - constant

    def file(self, provider: str, file_id: str) -> StoredFile | None:
        query = f"SELECT {_FILE_COLUMNS} FROM files WHERE provider = ? AND id = ?"  # noqa: S608 - constant
        row = self._db.execute(query, (provider, file_id)).fetchone()
        return None if row is None else _file_of(row)

    def delete_file(self, file_id: str) -> None:
        self._db.execute("DELETE FROM files WHERE id = ?", (file_id,))

    def drop_unused_payload(self, file_id: str) -> None:
        """A deleted file's bytes stay while a running batch still reads them."""
        known = self._db.execute("SELECT 1 FROM files WHERE id = ?", (file_id,)).fetchone()
        live = "SELECT 1 FROM batches WHERE input_file_id = ? AND due_ms IS NOT NULL"
        if known is None and self._db.execute(live, (file_id,)).fetchone() is None:
            self.payload_path(file_id).unlink(missing_ok=True)

    def files_after(self, provider: str, after: str | None, limit: int) -> list[StoredFile] | None:
        """Newest first; None when `after` is unknown."""
        seq = self._seq_of("files", after)
        if seq is None:
            return None
        query = f"SELECT {_FILE_COLUMNS} FROM files WHERE provider = ? AND seq < ? ORDER BY seq DESC LIMIT ?"  # noqa: S608
        return [_file_of(row) for row in self._db.execute(query, (provider, seq, limit))]

    # Batches -------------------------------------------------------------------------------------------------------

    def add_batch(self, batch: Batch) -> None:
        columns = "id, provider, input_file_id, listed_ms, status, due_ms, billed_rows, cost_nanos, body"
        head = (batch.id, batch.provider, batch.input_file_id, batch.listed_ms)
        query = f"INSERT INTO batches ({columns}) VALUES (?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constant
        self._db.execute(query, (*head, *_moving(batch)))

    def save_batch(self, batch: Batch) -> None:
        query = "UPDATE batches SET status = ?, due_ms = ?, billed_rows = ?, cost_nanos = ?, body = ? WHERE id = ?"
        self._db.execute(query, (*_moving(batch), batch.id))

    def batch(self, batch_id: str) -> Batch | None:
        row = self._db.execute("SELECT body FROM batches WHERE id = ? AND provider <> ''", (batch_id,)).fetchone()
        return None if row is None else batch_from_json(row[0])

    def batches_after(self, provider: str, after: str | None, *, now_ms: int, limit: int) -> list[Batch] | None:
        """Newest first, without those the list does not show yet; None when `after` is unknown."""
        seq = self._seq_of("batches", after)
        if seq is None:
            return None
        query = "SELECT body FROM batches WHERE provider = ? AND seq < ? AND listed_ms <= ? ORDER BY seq DESC LIMIT ?"
        return [batch_from_json(row[0]) for row in self._db.execute(query, (provider, seq, now_ms, limit))]

    def batches_before(self, provider: str, before: str, *, now_ms: int, limit: int) -> list[Batch] | None:
        """The next newer ones, newest first; None when `before` is unknown."""
        seq = self._seq_of("batches", before)
        if seq is None:
            return None
        query = "SELECT body FROM batches WHERE provider = ? AND seq > ? AND listed_ms <= ? ORDER BY seq LIMIT ?"
        return [batch_from_json(row[0]) for row in self._db.execute(query, (provider, seq, now_ms, limit))][::-1]

    def hide_batch(self, batch_id: str) -> None:
        """A deleted batch is found and listed no more; its place in the list, and what it cost, stay."""
        self._db.execute("UPDATE batches SET provider = '' WHERE id = ?", (batch_id,))

    def unfinished(self) -> list[Batch]:
        query = "SELECT body FROM batches WHERE due_ms IS NOT NULL"
        return [batch_from_json(row[0]) for row in self._db.execute(query)]

    def due_ids(self, now_ms: int) -> list[str]:
        rows = self._db.execute("SELECT id FROM batches WHERE due_ms <= ? ORDER BY due_ms, seq", (now_ms,))
        return [row[0] for row in rows]

    def next_due_ms(self, after_ms: int) -> int | None:
        query = "SELECT min(due_ms) FROM batches WHERE due_ms > ?"
        due: int | None = self._db.execute(query, (after_ms,)).fetchone()[0]
        return due

    def totals(self) -> dict[str, Any]:
        by_status = dict(self._db.execute("SELECT status, count(*) FROM batches GROUP BY status"))
        rows, cost = self._db.execute(
            "SELECT coalesce(sum(billed_rows), 0), coalesce(sum(cost_nanos), 0) FROM batches"
        ).fetchone()
        files = self._db.execute("SELECT count(*) FROM files").fetchone()[0]
        return {"batches": by_status, "files": files, "billed_rows": rows, "cost_nanos": cost}

    # Counters, settings, outbox ------------------------------------------------------------------------------------

    def count(self, name: str) -> int:
        """One more: 1 the first time."""
        query = "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value"
        return int(self._db.execute(query, (name,)).fetchone()[0])

    def forget_count(self, name: str) -> None:
        self._db.execute("DELETE FROM counters WHERE name = ?", (name,))

    def setting(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else orjson.loads(row[0])

    def keep_setting(self, name: str, value: Mapping[str, Any]) -> None:
        self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, orjson.dumps(value)))

    def stage(self, groups: Mapping[int, bytes]) -> None:
        self._db.executemany("INSERT INTO outbox VALUES (?, ?)", groups.items())

    def staged(self) -> dict[int, bytes]:
        return dict(self._db.execute("SELECT first_seq, lines FROM outbox ORDER BY first_seq"))

    def unstage(self, groups: Iterable[int]) -> None:
        """Forget groups that are in the ledger now."""
        with self.transaction():
            self._db.executemany("DELETE FROM outbox WHERE first_seq = ?", ((first_seq,) for first_seq in groups))

    def _seq_of(self, table: str, thing_id: str | None) -> int | None:
        if thing_id is None:
            return 1 << 62
        row = self._db.execute(f"SELECT seq FROM {table} WHERE id = ?", (thing_id,)).fetchone()  # noqa: S608 - constant
        return None if row is None else int(row[0])


def _moving(batch: Batch) -> tuple[str, int | None, int, int, bytes]:
    return (str(batch.status), batch.due_ms, batch.billed_rows, batch.cost_nanos, batch_to_json(batch))


def _file_of(row: tuple[Any, ...]) -> StoredFile:
    names = ("id", "provider", "filename", "purpose", "size_bytes", "sha256", "created_ms")
    return StoredFile(**dict(zip(names, row, strict=True)))
