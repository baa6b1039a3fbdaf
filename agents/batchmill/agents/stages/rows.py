"""How the runtime sees our state rows: bytes, table, key, index entries. The runtime itself knows none of them."""

from batchmill.schemas.row_codec import RowCodec
from batchmill.schemas.state import Row
from batchmill.streams.index import entries

__all__ = ["StateRows"]


class StateRows:
    """The runtime's row codec over the frozen row classes."""

    def __init__(self) -> None:
        self._codec = RowCodec()

    def encode(self, row: Row) -> bytes:
        return self._codec.encode(row)

    def decode(self, data: bytes) -> Row:
        return self._codec.decode(data)

    def table(self, row: Row) -> str:
        return self._codec.table_of(row)

    def key(self, row: Row) -> str:
        return self._codec.key_of(row)

    def entries(self, row: Row) -> tuple[tuple[str, str], ...]:
        return entries(row)
