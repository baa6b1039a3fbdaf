"""What the runtime needs to keep rows without knowing what they say: bytes, table and key.

The runtime calls the methods of one `RowCodec` and nothing else of this room; index entries come from
`streams.index`.
"""

from batchmill.schemas.codec import BYTES_MAX, CodecError, decode_any, encode
from batchmill.schemas.reasons import Reason
from batchmill.schemas.state import Row

__all__ = ["RowCodec"]


class RowCodec:
    """Rows of task state as bytes and names."""

    __slots__ = ()

    def encode(self, row: Row) -> bytes:
        """Write a row in the form the changelog holds."""
        return encode(row)

    def decode(self, data: bytes, *, bytes_max: int = BYTES_MAX) -> Row:
        """Read a row; a record of a flow topic is refused."""
        found = decode_any(data, bytes_max=bytes_max)
        if isinstance(found, Row):
            return found
        raise CodecError(Reason.UNDECODABLE, f"holds {found.schema}", "Only rows belong into task state")

    def table_of(self, row: Row) -> str:
        """Name the row's table, `state.lives`."""
        return row.schema

    def key_of(self, row: Row) -> str:
        """Name the row inside its table."""
        return row.key
