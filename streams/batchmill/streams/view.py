"""What a decision may look at: the rows of one task, uncommitted writes included.

`StateView` is implemented by the runtime (store plus overlay) and by `MemoryView` here, which tests, playbooks and the
simulation use; one contract test holds both.
"""

from bisect import bisect_right, insort
from typing import Protocol, TypeVar

from batchmill.schemas.state import Answer, Arrival, Chunk, Grant, Job, Life, Meta, Row, Source
from batchmill.streams.index import entries

__all__ = ["MemoryView", "StateView", "chunk", "grant", "job", "life", "meta", "source", "stored_answer"]

R = TypeVar("R", Life, Source, Answer, Arrival, Chunk, Grant, Job, Meta)


class StateView(Protocol):
    """Read access to one task's rows."""

    def get(self, table: str, key: str) -> Row | None:
        """The row `key` of `table` (a schema name, `state.lives`), or None."""
        ...

    def scan(self, index: str, prefix: str, *, after: str | None = None, limit: int) -> list[tuple[str, Row]]:
        """Up to `limit` (index key, row) of `index` whose key starts with `prefix`, ascending, past `after`."""
        ...


def _typed(view: StateView, kind: type[R], key: str) -> R | None:
    row = view.get(kind.schema, key)
    assert row is None or isinstance(row, kind), f"{kind.schema} holds a {type(row).__name__}"
    return row


def life(view: StateView, request_id: str) -> Life | None:
    return _typed(view, Life, request_id)


def source(view: StateView, job_name: str, source_id: str) -> Source | None:
    return _typed(view, Source, f"{job_name}/{source_id}")


def stored_answer(view: StateView, ask_key: str) -> Answer | None:
    return _typed(view, Answer, ask_key)


def chunk(view: StateView, chunk_id: str) -> Chunk | None:
    return _typed(view, Chunk, chunk_id)


def grant(view: StateView, pool: str) -> Grant | None:
    return _typed(view, Grant, pool)


def job(view: StateView, name: str) -> Job | None:
    return _typed(view, Job, name)


def meta(view: StateView, name: str) -> Meta | None:
    return _typed(view, Meta, name)


class MemoryView:
    """A StateView over plain dictionaries, with the writes a test or a simulated task needs."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._index: dict[str, list[tuple[str, str, str]]] = {}

    def get(self, table: str, key: str) -> Row | None:
        return self._rows.get((table, key))

    def scan(self, index: str, prefix: str, *, after: str | None = None, limit: int) -> list[tuple[str, Row]]:
        listed = self._index.get(index, [])
        start = prefix if after is None else max(prefix, after)
        at = bisect_right(listed, (start, "\U0010ffff", "")) if after is not None else bisect_right(listed, (start,))
        found: list[tuple[str, Row]] = []
        for text, table, key in listed[at:]:
            if not text.startswith(prefix) or len(found) == limit:
                break
            found.append((text, self._rows[table, key]))
        return found

    def put(self, row: Row) -> None:
        self.delete(row.schema, row.key)
        self._rows[row.schema, row.key] = row
        for index, text in entries(row):
            insort(self._index.setdefault(index, []), (text, row.schema, row.key))

    def delete(self, table: str, key: str) -> None:
        old = self._rows.pop((table, key), None)
        for index, text in entries(old) if old is not None else ():
            self._index[index].remove((text, table, key))

    def rows(self, table: str) -> list[Row]:
        return [row for (name, _), row in self._rows.items() if name == table]
