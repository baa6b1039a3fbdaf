"""Law: from a text to a vector of length one, seeded. Pure. Its numbers are 32-bit floats, however they are sent."""

from __future__ import annotations

import array
import hashlib
import math
from typing import Final

__all__ = ["vector_of"]

_BYTES_EACH: Final = 2
_HALF: Final = 1 << 15


def vector_of(seed: str, text: str, dimensions: int) -> list[float]:
    """The same text gives the same vector; another, one that points elsewhere."""
    stream = hashlib.shake_256(f"{seed}\x1f{text}".encode("utf-8", "surrogatepass")).digest(dimensions * _BYTES_EACH)
    steps = [int.from_bytes(stream[at : at + _BYTES_EACH], "big") - _HALF + 0.5 for at in range(0, len(stream), 2)]
    length = math.sqrt(sum(step * step for step in steps))
    return array.array("f", (step / length for step in steps)).tolist()
