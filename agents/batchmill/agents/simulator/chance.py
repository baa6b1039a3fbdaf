"""Law: chance without a generator. The same words always give the same number, in any process, on any day.

Nothing here keeps state or reads a clock. A number is the hash of what it is about (seed, fault name, custom id), so
the order in which things happen can never change what happens to a row.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["digest_of", "pick", "sha256_hex", "unit"]

_SEPARATOR: Final = "\x1f"
_UNIT_STEPS: Final = float(
    1 << 53
)  # 53 bits: every value below 1.0 is exact in a float, and 1.0 itself never comes out


def digest_of(*parts: str | int) -> bytes:
    words = _SEPARATOR.join(map(str, parts))
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()


def unit(*parts: str | int) -> float:
    """A number in [0, 1), uniform over its words."""
    return (int.from_bytes(digest_of(*parts)[:8], "big") >> 11) / _UNIT_STEPS


def pick(count: int, *parts: str | int) -> int:
    """An index below `count`; `count` is at least one."""
    return int.from_bytes(digest_of(*parts)[:8], "big") % count


def sha256_hex(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
