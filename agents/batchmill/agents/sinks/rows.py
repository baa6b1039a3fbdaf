"""What all sinks with tables write: the columns of a row and of its history, in one order, and the hash of its bytes.

What must not live here: SQL of one database, or a decision.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from batchmill.streams.holding import Past
from batchmill.streams.ports import Beneath, SinkWrite

__all__ = ["COLUMNS", "HISTORY_COLUMNS", "beneath_of", "foreign", "history_of", "row_of", "sha256_of"]

#: of the user's table: the row that a target holds now
COLUMNS = (
    "target_key", "output_json", "output_sha256", "job", "version", "source_id", "request_id", "run_id", "seq",
    "promotion", "commit_id", "committed_at_ms",
)  # fmt: skip
#: of its history: every row that a target ever held, and what became of it
HISTORY_COLUMNS = (*COLUMNS, "previous_commit_id", "changed", "reverted", "change_order")


def row_of(write: SinkWrite, now_ms: int) -> tuple[Any, ...]:
    """The row of a write, in the order of COLUMNS."""
    return (*(getattr(write, column) for column in COLUMNS[:-1]), now_ms)


def history_of(row: tuple[Any, ...], past: Past) -> tuple[Any, ...]:
    """The history row of a new commit, in the order of HISTORY_COLUMNS."""
    return (*row, past.previous_commit_id, past.changed, past.reverted, past.change_order)


def beneath_of(commit_id: str | None, whose: Sequence[Any]) -> Beneath | None:
    """What a commit had replaced; `whose`: request, run and seq from its history row, all None when there is none."""
    request_id, run_id, seq = whose
    if commit_id is None or request_id is None:
        return None
    return Beneath(commit_id=commit_id, request_id=request_id, run_id=run_id, seq=seq)


def sha256_of(text: str) -> str:
    """Hash the bytes of an output, to see whether a write changes anything."""
    return hashlib.sha256(text.encode()).hexdigest()


def foreign(table: str, lacking: Iterable[str]) -> str:
    """Say why a table that is there is not written to, and what to do."""
    return (
        f"table {table!r} was not made by this version of batchmill: it lacks {', '.join(lacking)};"
        " rename it and its history, or give the job another table"
    )
