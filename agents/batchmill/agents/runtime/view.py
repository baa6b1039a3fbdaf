"""What a decision sees of its task's state: the local store with the writes not yet committed laid over it.

What lives here: `TaskView`, the runtime's implementation of `StateView`, and the bounded set of rows it keeps decoded.
What must not: deciding when a write becomes durable; the task tells it (`applied`).
"""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

from batchmill.agents.runtime.codec import Entries, RowCodec, Write
from batchmill.agents.runtime.store import Store

__all__ = ["TaskView"]

LAST = "\U0010ffff"  #: sorts after every character an index text contains

Key = tuple[str, str]  #: table, key
_Hit = tuple[tuple[str, str, str], Any]  #: (index text, table, key), row


class _Over(NamedTuple):
    write: Write
    row: Any


class TaskView:
    """Rows of one task, uncommitted writes included."""

    def __init__(self, store: Store, codec: RowCodec, *, hot_rows_max: int) -> None:
        self._store = store
        self._codec = codec
        self._hot_rows_max = hot_rows_max
        self._hot: OrderedDict[Key, Any] = OrderedDict()  # decoded rows as the store has them
        self._over: dict[Key, _Over] = {}
        self._over_index: dict[str, list[tuple[str, str, str]]] = {}

    # --- StateView ---

    def get(self, table: str, key: str) -> Any:
        """The row `key` of `table`, or None."""
        over = self._over.get((table, key))
        if over is not None:
            return over.row
        hot = self._hot.get((table, key))
        if hot is not None:
            self._hot.move_to_end((table, key))
            return hot
        data = self._store.get(table, key)
        return None if data is None else self._warm((table, key), data)

    def scan(self, index: str, prefix: str, *, after: str | None = None, limit: int) -> list[tuple[str, Any]]:
        """Up to `limit` (index text, row) whose text starts with `prefix`, ascending, strictly past `after`."""
        found: list[tuple[str, Any]] = []
        if limit <= 0:
            return found
        with closing(self._merged(index, prefix, after)) as merged:
            found.extend(islice(merged, limit))
        return found

    def _merged(self, index: str, prefix: str, after: str | None) -> Generator[tuple[str, Any], None, None]:
        over = self._over_hits(index, prefix, after)
        with closing(self._stored_hits(index, prefix, after)) as stored:
            ours, theirs = next(over, None), next(stored, None)
            while ours is not None or theirs is not None:
                if theirs is None or (ours is not None and ours[0] < theirs[0]):
                    assert ours is not None
                    (text, _, _), row = ours
                    ours = next(over, None)
                else:
                    (text, _, _), row = theirs
                    theirs = next(stored, None)
                yield text, row

    def _over_hits(self, index: str, prefix: str, after: str | None) -> Iterator[_Hit]:
        listed = self._over_index.get(index, [])
        at = bisect_left(listed, (prefix,)) if after is None else bisect_right(listed, (max(prefix, after), LAST, LAST))
        for place in range(at, len(listed)):
            text, table, key = listed[place]
            if not text.startswith(prefix):
                return
            yield (text, table, key), self._over[table, key].row

    def _stored_hits(self, index: str, prefix: str, after: str | None) -> Generator[_Hit, None, None]:
        low = prefix if after is None else max(prefix, after)
        with closing(self._store.scan(index, low, prefix + LAST, past=after is not None)) as hits:
            for text, table, key, data in hits:
                if (table, key) not in self._over:
                    hot = self._hot.get((table, key))
                    yield (text, table, key), self._warm((table, key), data) if hot is None else hot

    def _warm(self, at: Key, data: bytes) -> Any:
        row = self._codec.decode(data)
        self._keep(at, row)
        return row

    def _keep(self, at: Key, row: Any) -> None:
        self._hot[at] = row
        self._hot.move_to_end(at)
        if len(self._hot) > self._hot_rows_max:
            self._hot.popitem(last=False)

    # --- writes ---

    def written(self, row: Any) -> Write:
        """The change that remembers `row`; nothing has happened yet."""
        codec = self._codec
        return Write(codec.table(row), codec.key(row), codec.encode(row), codec.entries(row))

    def lay(self, write: Write, row: Any) -> None:
        """Show `row` (None: nothing) from now on."""
        at = (write.table, write.key)
        before = self._over.get(at)
        if before is not None:
            self._unlist(at, before.write.entries)
        self._over[at] = _Over(write, row)
        for index, text in write.entries:
            insort(self._over_index.setdefault(index, []), (text, *at))

    def _unlist(self, at: Key, entries: Entries) -> None:
        for index, text in entries:
            listed = self._over_index[index]
            place = bisect_left(listed, (text, *at))
            if place < len(listed) and listed[place] == (text, *at):
                del listed[place]

    def applied(self, writes: Iterable[Write]) -> None:
        """The store holds these now; what was overwritten since then stays on top."""
        for write in writes:
            at = (write.table, write.key)
            over = self._over.get(at)
            if over is None or over.write is not write:
                self._hot.pop(at, None)
                continue
            self._unlist(at, write.entries)
            del self._over[at]
            if over.row is None:
                self._hot.pop(at, None)
            else:
                self._keep(at, over.row)
