"""How the runtime handles rows it knows nothing about, and its own few rows among them.

What lives here: the `RowCodec` protocol, the changelog key `table/key`, and `Write`, one change of state. What must
not: what any row means.

Keys that begin with `__` are the runtime's own (JSON, no table): `__marker` ends a restore, `__restart` and `__trying`
carry the poison rule, `__heartbeat` proves ownership of an idle task, `__overseer` that of the overseer, whose
own rows lie under `__overseer/`. Any other reader of the state topic skips them.
"""

from typing import Any, NamedTuple, Protocol

__all__ = [
    "HEARTBEAT",
    "MARKER",
    "OVERSEER",
    "OWN_TABLE",
    "RESTART",
    "TRYING",
    "Entries",
    "RowCodec",
    "Write",
    "changelog_key",
    "split_key",
]

Entries = tuple[tuple[str, str], ...]  #: (index, sortable text) pairs under which a row is found

OWN_TABLE = ""
MARKER = "__marker"
RESTART = "__restart"
TRYING = "__trying"
HEARTBEAT = "__heartbeat"
OVERSEER = "__overseer"


class RowCodec(Protocol):
    """What the runtime must know of a row."""

    def encode(self, row: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...

    def table(self, row: Any) -> str: ...

    def key(self, row: Any) -> str: ...

    def entries(self, row: Any) -> Entries: ...


class Write(NamedTuple):
    """One row as it shall be (data None: gone)."""

    table: str
    key: str
    data: bytes | None
    entries: Entries


def changelog_key(table: str, key: str) -> bytes:
    return (f"{table}/{key}" if table else key).encode()


def split_key(data: bytes) -> tuple[str, str]:
    """Inverse of `changelog_key`; the runtime's own keys have no table."""
    text = data.decode()
    if text.startswith("__"):
        return OWN_TABLE, text
    table, _, key = text.partition("/")
    return table, key
