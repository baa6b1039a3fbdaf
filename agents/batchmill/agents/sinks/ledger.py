"""The ledger of a folder of files: which commits its parts hold, and which parts are on their way into place.

What lives here: a small SQLite file, hidden in the folder, whose write lock is the lock between processes. What must
not: the form of a part, or what a write means. The ledger's transaction is the commit: a part that it names is shown
sooner or later, one that it does not name never. Its journal is the plain one, since a folder may lie on a network.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchmill.streams.holding import Past, Target
from batchmill.streams.ports import SinkWrite

__all__ = ["HIDDEN", "Ledger", "Note", "PartLostError", "StrangeFolderError", "fsync"]

#: parts that are being written; readers of such folders pass over names that begin with a dot
HIDDEN = ".parts"
_FILE = ".ledger.sqlite"
_CREATE = (
    "CREATE TABLE form (name TEXT NOT NULL)",
    "CREATE TABLE parts (number INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL, placed INTEGER NOT NULL)",
    "CREATE INDEX parts_on_their_way ON parts (number) WHERE placed = 0",
    """CREATE TABLE commits (
      target_key TEXT NOT NULL,
      seq INTEGER NOT NULL,
      promotion INTEGER NOT NULL,
      commit_id TEXT NOT NULL,
      previous_commit_id TEXT,
      changed INTEGER NOT NULL,
      sha256 TEXT NOT NULL,
      part INTEGER NOT NULL REFERENCES parts (number),
      PRIMARY KEY (target_key, seq, promotion),
      UNIQUE (target_key, commit_id)
    )""",
)
_NEWEST = (
    "SELECT commit_id, sha256, seq, promotion FROM commits WHERE target_key = ?"
    " ORDER BY seq DESC, promotion DESC LIMIT 1"
)
_PAST = "SELECT previous_commit_id, changed FROM commits WHERE target_key = ? AND commit_id = ?"
_NOTE = "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class StrangeFolderError(Exception):
    """The folder holds something that this sink did not write; the text says what, and what to do."""


class PartLostError(Exception):
    """A part that was committed is neither in place nor on its way: somebody removed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One commit, and the number of the part that holds its row."""

    write: SinkWrite
    past: Past
    sha256: str
    part: int


class Ledger:
    """One folder, open in one thread of this process."""

    def __init__(self, folder: Path, *, form: str, suffix: str, busy_timeout_ms: int) -> None:
        self.folder = folder
        self._hidden = folder / HIDDEN
        self._hidden.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / _FILE, isolation_level=None, timeout=busy_timeout_ms / 1_000)
        try:
            self._db.execute("PRAGMA synchronous = EXTRA")
            with self.locked():
                self._claim(form, suffix)
                self._sweep()
        except BaseException:
            self._db.close()
            raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; what is noted inside counts when this ends well."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def target(self, asked: SinkWrite) -> Target:
        """The facts of a write's target."""
        newest = self._db.execute(_NEWEST, (asked.target_key,)).fetchone()
        if newest is None:
            return Target()
        held, sha256, seq, promotion = newest
        past = self._past(asked)
        known = {} if past is None else {asked.commit_id: past}
        return Target(held_commit_id=held, held_sha256=sha256, newest=(seq, promotion), past=known)

    def new_part(self, folder: str, suffix: str) -> tuple[int, Path]:
        """Number a part that will lie in `folder`; where to write it first."""
        cursor = self._db.execute("INSERT INTO parts (path, placed) VALUES ('', 0)")
        number = cursor.lastrowid
        assert number is not None, "an insert has a row id"
        path = os.path.join(folder, f"part-{number:09d}{suffix}")  # noqa: PTH118 - a relative path, kept as text
        self._db.execute("UPDATE parts SET path = ? WHERE number = ?", (path, number))
        return number, self._hidden / Path(path).name

    def note(self, notes: Sequence[Note]) -> None:
        """Write down whose rows are where."""
        rows = [
            (
                each.write.target_key,
                each.write.seq,
                each.write.promotion,
                each.write.commit_id,
                each.past.previous_commit_id,
                each.past.changed,
                each.sha256,
                each.part,
            )
            for each in notes
        ]
        self._db.executemany(_NOTE, rows)

    def place(self) -> None:
        """Show every part that was committed: rename it into place. Another process may be doing the same."""
        waiting = self._db.execute("SELECT number, path FROM parts WHERE placed = 0 ORDER BY number").fetchall()
        for number, path in waiting:
            self._show(self.folder / path)
            self._db.execute("UPDATE parts SET placed = 1 WHERE number = ?", (number,))

    def close(self) -> None:
        self._db.close()

    def _past(self, asked: SinkWrite) -> Past | None:
        found = self._db.execute(_PAST, (asked.target_key, asked.commit_id)).fetchone()
        if found is None:
            return None
        return Past(commit_id=asked.commit_id, previous_commit_id=found[0], changed=bool(found[1]))

    def _show(self, path: Path) -> None:
        made = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            (self._hidden / path.name).rename(path)
        except FileNotFoundError:
            if not path.exists():
                raise PartLostError(
                    f"{path} was committed and is gone; put it back, or write to another folder"
                ) from None
        fsync(path.parent)
        if made:
            fsync(self.folder)

    def _claim(self, form: str, suffix: str) -> None:
        known = self._db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'form'").fetchone()[0]
        if not known:
            if next(self.folder.rglob(f"part-*{suffix}"), None) is not None:
                raise StrangeFolderError(
                    f"{self.folder} holds parts but no ledger ({_FILE}): put it back, or give the job another table"
                )
            for statement in _CREATE:
                self._db.execute(statement)
            self._db.execute("INSERT INTO form VALUES (?)", (form,))
        (found,) = self._db.execute("SELECT name FROM form").fetchone()
        if found != form:
            raise StrangeFolderError(f"{self.folder} is a folder of the {found} sink; give the job another table")

    def _sweep(self) -> None:
        """Remove what was written and never committed; under the lock nobody is writing any."""
        on_the_way = {Path(path).name for (path,) in self._db.execute("SELECT path FROM parts WHERE placed = 0")}
        for file in self._hidden.iterdir():
            if file.name not in on_the_way:
                file.unlink()


def fsync(path: Path) -> None:
    """Have a file or directory on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
