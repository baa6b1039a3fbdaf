"""What a database gave -> JSON: rows as objects, and values in the one form that JSON has for them.

What must not live here: a connection. A kind that JSON has no form for is refused by its column, never by its value.
"""

import datetime as dt
import math
import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from batchmill.streams.ports import RefusedError

__all__ = ["as_rows"]

_NESTING_MAX: Final = 32


def as_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, rows_max: int) -> list[dict[str, Any]]:
    """The rows as objects; RefusedError for more than `rows_max`, for columns of one name and for other kinds."""
    if len(set(columns)) != len(columns):
        raise RefusedError("columns_alike", hint="two columns have one name: give one of them another with AS")
    found: list[dict[str, Any]] = []
    for row in rows:
        if len(found) == rows_max:
            raise RefusedError("too_many_rows", hint=f"more than {rows_max} rows: say LIMIT, or raise rows_max")
        found.append({column: _value(column, value, 0) for column, value in zip(columns, row, strict=True)})
    return found


def _value(column: str, value: Any, depth: int) -> Any:
    match value:
        case None | bool() | int():
            return value
        case str() if _is_text(value):
            return value
        case float() if math.isfinite(value):
            return value
        case Decimal() if value.is_finite():
            return _number(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case uuid.UUID():
            return str(value)
        case list() | tuple() if depth < _NESTING_MAX:
            return [_value(column, each, depth + 1) for each in value]
        case dict() if depth < _NESTING_MAX and all(map(_is_text, value)):
            return {str(name): _value(column, each, depth + 1) for name, each in value.items()}
        case _:
            raise RefusedError("no_json", hint=f"the column {column} holds what JSON has no form for: cast it to text")


def _is_text(value: Any) -> bool:
    """A half of a pair of UTF-16 is no character; PostgreSQL keeps what a `json` column was given."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: Decimal) -> int | float | str:
    """A number where that is exact, else its digits."""
    if value == value.to_integral_value():
        return int(value)
    as_float = float(value)
    return as_float if Decimal(repr(as_float)) == value else str(value)
