"""Opening the read model for reading, and rows as typed values."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from batchmill.agents.projector.tables import VIEW_VERSION
from batchmill.schemas.records import Origin

__all__ = ["View", "ViewMissingError", "made"]

T = TypeVar("T")
_BUSY_TIMEOUT_SECONDS = 5.0


class ViewMissingError(Exception):
    """There is no read model to ask, or it is another version's."""


class View:
    """Read access to the file; a context. Each call sees one state of it; the writer is never kept waiting."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ViewMissingError(f"no read model at {path}; `batchmill up` or `batchmill projector` builds it")
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_SECONDS
        )
        self._connection.row_factory = sqlite3.Row
        self._check(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def rows(self, sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> Iterator[sqlite3.Row]:
        return self._connection.execute(sql, values)

    def row(self, sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def number(self, sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> int:
        """The one value of the one row; 0 for NULL."""
        row = self.row(sql, values)
        return (row[0] if row is not None else 0) or 0

    def define(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Let queries call a pure function of ours by this name."""
        self._connection.create_function(name, arguments, function, deterministic=True)

    def each(self, cls: type[T], sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> Iterator[T]:
        """Rows as `cls`, one by one: for those that may be very many."""
        return (made(cls, row) for row in self.rows(sql, values))

    def typed(self, cls: type[T], sql: str, values: Mapping[str, Any] | tuple[Any, ...] = ()) -> list[T]:
        """Rows as `cls`, a dataclass whose fields are columns of the query."""
        return list(self.each(cls, sql, values))

    def _check(self, path: Path) -> None:
        try:
            found = dict(self._connection.execute("SELECT name, value FROM about").fetchall())
        except sqlite3.DatabaseError:
            raise ViewMissingError(f"{path} is no read model, or is being made just now; try again") from None
        if found.get("view_version") != str(VIEW_VERSION):
            raise ViewMissingError(f"{path} is of another version; start `batchmill projector` once, it rebuilds it")


def made(cls: type[T], row: sqlite3.Row, prefix: str = "") -> T:
    """`cls` from the columns of its fields; enums and booleans from their stored form, an origin from its four."""
    kind: Any = cls
    made_of: dict[str, Any] = {}
    for name, convert in _converters(kind).items():
        if convert is Origin:
            made_of[name] = made(Origin, row, f"{name}_")
        else:
            stored = row[prefix + name]
            made_of[name] = convert(stored) if convert else stored
    return cls(**made_of)


@cache
def _converters(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: _converter(hints[field.name]) for field in fields(cls)}


def _converter(kind: Any) -> Any:
    optional = get_origin(kind) in (Union, UnionType)
    plain = next(option for option in get_args(kind) if option is not type(None)) if optional else kind
    if plain in (int, str, float) or not isinstance(plain, type):
        return None
    return (lambda value: None if value is None else plain(value)) if optional else plain
