"""Members of a provider's document, read as what they should be, or as nothing.

What lives here: the few readers that never raise, whatever lies there. What must not: any provider's words. Absent,
null and of another kind are all the same. Who reads a number says in which forms it may come: as a whole one only
(`plain_count`), with a fraction too (`number`), or even as text (`whole`, `count`).
"""

import math
from datetime import UTC, datetime
from typing import Any

__all__ = ["count", "listed", "mapping", "number", "plain_count", "string", "text", "time_ms", "whole"]

_DIGITS_MAX = 18


def string(value: Any) -> str | None:
    """Give a text, even one that says nothing: an empty answer is an answer."""
    return value if isinstance(value, str) else None


def text(value: Any) -> str | None:
    """Give a text that says something."""
    return value if isinstance(value, str) and value else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def whole(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS_MAX:
        return int(value)
    return number(value)


def plain_count(value: Any) -> int:
    """Give a number of things that is written as one; 0 where there is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def count(value: Any) -> int:
    """Give a number of things; 0 where there is none."""
    return max(whole(value) or 0, 0)


def time_ms(value: Any) -> int:
    """Give an RFC 3339 instant in milliseconds; 0 where there is none."""
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return 0
    return round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1_000)
