"""Unit vectors that are searched whole: exact, and the fastest there is while they are few.

Owns rows and their order. Never knows who may read an entry or when it expires.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Similarities = NDArray[np.float32]

_FIRST_ROWS = 4
BLOCK_ROWS = 1_024


class ScanRows:
    """Ids and float32 vectors: row i belongs to `ids[i]` for i < len(self). Order is not kept on removal.

    Vectors lie in blocks: a partition that grows never copies more than the first of them, so that nobody waits for
    it. Row i is row `_first + i` of the blocks laid end to end; all but the only or the last one have `BLOCK_ROWS`.
    """

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._ids = np.zeros(0, dtype=np.int64)
        self._blocks: list[Vectors] = []
        self._first = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes held, spare room included."""
        return self._ids.nbytes + sum(block.nbytes for block in self._blocks)

    @property
    def ids(self) -> Ids:
        """Ids of all rows (a view)."""
        return self._ids[: self._count]

    def parts(self) -> Iterator[Vectors]:
        """The vectors of all rows in order, as views of the blocks."""
        left, start = self._count, self._first
        for block in self._blocks:
            part = block[start : start + left]
            if len(part):
                yield part
            left -= len(part)
            start = 0

    def pieces(self) -> Iterator[tuple[Ids, Vectors]]:
        """`parts`, each with its ids."""
        end = 0
        for part in self.parts():
            yield self._ids[end : end + len(part)], part
            end += len(part)

    def append(self, ids: Ids, vectors: NDArray[np.floating]) -> None:
        """Add rows; `vectors` has shape [len(ids), dimensions]."""
        end = self._count + len(ids)
        if end > len(self._ids):
            room = max(end, len(self._ids) + len(self._ids) // 2)
            self._ids = np.concatenate([self.ids, np.zeros(room - self._count, dtype=np.int64)])
        self._ids[self._count : end] = ids
        done = 0
        while done < len(ids):
            block, row = divmod(self._first + self._count + done, BLOCK_ROWS)
            self._reserve(block, row + len(ids) - done)
            some = self._blocks[block][row : row + len(ids) - done]
            some[:] = vectors[done : done + len(some)]
            done += len(some)
        self._count = end

    def _reserve(self, block: int, rows: int) -> None:
        """Room for at least one more row in a block, for `rows` in all if they fit; only the first one starts small."""
        if block == len(self._blocks):
            size = max(_FIRST_ROWS, min(rows, BLOCK_ROWS)) if block == 0 else BLOCK_ROWS
            self._blocks.append(np.empty((size, self._dimensions), dtype=np.float32))
        old = self._blocks[block]
        if len(old) < min(rows, BLOCK_ROWS):
            size = min(BLOCK_ROWS, max(rows, len(old) + len(old) // 2))
            self._blocks[block] = np.empty((size, self._dimensions), dtype=np.float32)
            self._blocks[block][: len(old)] = old

    def remove(self, entry: int) -> bool:
        """Drop the row of an id by moving the last row into its place; False when there is none."""
        found = np.flatnonzero(self.ids == entry)
        if not len(found):
            return False
        row, last = int(found[0]), self._count - 1
        self._ids[row] = self._ids[last]
        self._row(row)[:] = self._row(last)
        self._count = last
        return True

    def _row(self, row: int) -> Vectors:
        block, at = divmod(self._first + row, BLOCK_ROWS)
        vector: Vectors = self._blocks[block][at]
        return vector

    def drop_first(self, count: int) -> None:
        """Forget the first `count` rows, keeping the order of the rest."""
        self._ids = self.ids[count:].copy()
        self._count -= count
        whole, self._first = divmod(self._first + count, BLOCK_ROWS)
        del self._blocks[:whole]
        if not self._count:
            self._blocks, self._first = [], 0

    def nearest(self, vector: Vectors, count: int, newest: int | None = None) -> tuple[Ids, Similarities]:
        """The `count` most similar rows, best first: ids and cosines (vectors are of unit length). `newest`: look at
        no more than about so many, those that came last."""
        skipped, end, parts = 0, 0, []
        for part in self.parts():
            end += len(part)
            if newest is not None and self._count - end >= newest:
                skipped = end
            else:
                parts.append(part @ vector)
        similarity = parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, dtype=np.float32)])
        rows = len(similarity)
        best = np.argpartition(similarity, rows - count)[rows - count :] if count < rows else np.arange(rows)
        best = best[np.argsort(-similarity[best], kind="stable")]
        return self.ids[best + skipped], similarity[best]
