"""Nearness of directions, exactly: whole numbers small enough that every sum of products is exact as a 32-bit float.

What lives here: one matrix and one product. What must not: where vectors come from (`embedders`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batchmill.streams.indexing import SnapshotError, Vector

__all__ = ["Vectors"]


class Vectors:
    """The vectors of all pieces, by piece number."""

    def __init__(self, vectors: Sequence[Vector]) -> None:
        sizes = {len(vector) for vector in vectors}
        if len(sizes) > 1:
            raise SnapshotError("is no snapshot: its vectors have several lengths")
        self.dimensions = max(sizes, default=0)
        # By the inequality of Cauchy and Schwarz no partial sum exceeds VECTOR_SCALE squared, which is below 2^24.
        self._matrix = np.asarray(vectors, dtype=np.float32).reshape(len(vectors), self.dimensions)

    def scores(self, vector: Vector) -> Any:
        """One whole number for each piece: the cosine, times VECTOR_SCALE squared."""
        return (self._matrix @ np.asarray(vector, dtype=np.float32)).astype(np.int64)
