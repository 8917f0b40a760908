"""A contiguous matrix of unit vectors that is searched whole: exact, and the fastest there is while it is small.

Owns rows and their order. Never knows who may read an entry or when it expires.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Similarities = NDArray[np.float32]

_FIRST_ROWS = 4


class ScanRows:
    """Ids and float32 vectors, packed: row i belongs to `ids[i]` for i < len(self). Order is not kept on removal."""

    def __init__(self, dimensions: int) -> None:
        self._ids = np.zeros(0, dtype=np.int64)
        self._vectors = np.zeros((0, dimensions), dtype=np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes held, spare room included."""
        return self._ids.nbytes + self._vectors.nbytes

    @property
    def ids(self) -> Ids:
        """Ids of all rows (a view)."""
        return self._ids[: self._count]

    @property
    def vectors(self) -> Vectors:
        """Shape [rows, dimensions] (a view)."""
        return self._vectors[: self._count]

    def append(self, ids: Ids, vectors: NDArray[np.floating]) -> None:
        """Add rows; `vectors` has shape [len(ids), dimensions]."""
        end = self._count + len(ids)
        if end > len(self._ids):
            room = max(end, _FIRST_ROWS if end <= _FIRST_ROWS else len(self._ids) + len(self._ids) // 2)
            grown = np.empty((room, self._vectors.shape[1]), dtype=np.float32)
            grown[: self._count] = self.vectors
            self._vectors = grown
            self._ids = np.concatenate([self.ids, np.zeros(room - self._count, dtype=np.int64)])
        self._ids[self._count : end] = ids
        self._vectors[self._count : end] = vectors
        self._count = end

    def remove(self, entry: int) -> bool:
        """Drop the row of an id by moving the last row into its place; False when there is none."""
        found = np.flatnonzero(self.ids == entry)
        if not len(found):
            return False
        row, last = int(found[0]), self._count - 1
        self._ids[row] = self._ids[last]
        self._vectors[row] = self._vectors[last]
        self._count = last
        return True

    def drop_first(self, count: int) -> None:
        """Forget the first `count` rows, keeping the order of the rest."""
        left = self._count - count
        self._ids = self.ids[count:].copy()
        self._vectors = self.vectors[count:].copy()
        self._count = left

    def nearest(self, vector: Vectors, count: int) -> tuple[Ids, Similarities]:
        """The `count` most similar rows, best first: ids and cosines (vectors are of unit length)."""
        similarity = self.vectors @ vector
        if count < self._count:
            best = np.argpartition(similarity, self._count - count)[self._count - count :]
        else:
            best = np.arange(self._count)
        best = best[np.argsort(-similarity[best], kind="stable")]
        return self.ids[best], similarity[best]
