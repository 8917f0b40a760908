"""The vectors of all partitions. A search sees one partition only, by construction.

Owns when a partition is scanned and when it is a graph, and what a worker thread should do next. Never starts a
thread and never stores anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semantic_cache.index.graph import Alive, Graph, GraphRows, GraphWork
from semantic_cache.index.scan import Ids, ScanRows, Similarities, Vectors

SCAN_ROWS = 4_096
TAIL_ROWS = 1_024
DEAD_SHARE = 0.25
_WIDEST = 4_096


@dataclass(slots=True)
class _Partition:
    key: bytes
    rows: ScanRows | GraphRows
    live: int = 0
    working: bool = False


@dataclass(frozen=True, slots=True)
class PartitionWork:
    """Work of one partition, for `GraphWork.run` in a thread and then `VectorIndex.install`."""

    number: int
    key: bytes
    work: GraphWork


class VectorIndex:
    """Nearest neighbours by partition, over unit vectors of `dimensions`.

    Partitions of up to `scan_rows` are scanned exactly; larger ones get a graph plus an exactly scanned tail.
    `alive` tells which ids still exist: rows of a graph are not taken out one by one.
    Invariant: every living entry is in its partition's rows exactly once, except in a graph being swapped.
    """

    def __init__(self, dimensions: int, alive: Alive, scan_rows: int = SCAN_ROWS, tail_rows: int = TAIL_ROWS) -> None:
        self.dimensions = dimensions
        self._alive = alive
        self._scan_rows = scan_rows
        self._tail_rows = tail_rows
        self._numbers: dict[bytes, int] = {}
        self._partitions: list[_Partition | None] = []
        self._free: list[int] = []
        self._large: set[int] = set()  # numbers of the partitions that are graphs, or are to become one

    def __len__(self) -> int:
        """Partitions that hold something."""
        return len(self._numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors and graphs."""
        return sum(p.rows.nbytes for p in self._partitions if p is not None)

    def number(self, key: bytes) -> int | None:
        """The number of a partition that holds something."""
        return self._numbers.get(key)

    def rows_in(self, key: bytes) -> int:
        """Living entries of a partition."""
        number = self._numbers.get(key)
        return 0 if number is None else self._at(number).live

    def add(self, key: bytes, ids: Ids, vectors: NDArray[np.floating]) -> int:
        """Add entries to a partition and return its number; `vectors` has shape [len(ids), dimensions]."""
        number = self._numbers.get(key)
        if number is None:
            number = self._free.pop() if self._free else len(self._partitions)
            if number == len(self._partitions):
                self._partitions.append(None)
            self._partitions[number] = _Partition(key, ScanRows(self.dimensions))
            self._numbers[key] = number
        partition = self._at(number)
        partition.rows.append(ids, vectors)
        partition.live += len(ids)
        if isinstance(partition.rows, ScanRows) and len(partition.rows) > self._scan_rows:
            large = self._graph_rows()
            large.tail = partition.rows
            partition.rows = large
            self._large.add(number)
        return number

    def adopt(self, key: bytes, graph: Graph, live: int) -> None:
        """Take over a graph read from disk, of which `live` rows are alive, as a partition that is not there yet."""
        if key in self._numbers or not live:
            return
        number = self.add(key, np.zeros(0, dtype=np.int64), np.zeros((0, self.dimensions), dtype=np.float32))
        partition = self._at(number)
        partition.rows = self._graph_rows(graph)
        partition.live = live
        self._large.add(number)

    def remove(self, number: int, entry: int) -> None:
        """Take an entry out; it must be in this partition and no longer be alive."""
        partition = self._at(number)
        partition.live -= 1
        if isinstance(partition.rows, ScanRows):
            partition.rows.remove(entry)
        self._drop_if_empty(number)

    def nearest(
        self, key: bytes, vector: Vectors, *, count: int, floor: float, allowed: Alive
    ) -> tuple[Ids, Similarities]:
        """The up to `count` most similar entries of the partition that are `allowed` and at least `floor` similar.

        Widens the search while what it found is not allowed (dead, or another reader's).
        """
        number = self._numbers.get(key)
        if number is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        rows = self._at(number).rows
        wide = count + 4
        while True:
            ids, similarity = rows.nearest(vector, wide)
            good = (similarity >= floor) & allowed(ids)
            if good.sum() >= count or wide >= min(len(rows), _WIDEST) or similarity[-1] < floor:
                return ids[good][:count], similarity[good][:count]
            wide *= 8

    def due(self) -> PartitionWork | None:
        """The most pressing work, or None. The partition is busy until `install` or `give_up`."""
        most, pick = 1.0, -1
        for number in self._large:
            partition = self._at(number)
            if isinstance(partition.rows, GraphRows) and not partition.working:
                pressure = self._pressure(partition, partition.rows)
                if pressure > most:
                    most, pick = pressure, number
        if pick < 0:
            return None
        partition = self._at(pick)
        assert isinstance(partition.rows, GraphRows)
        partition.working = True
        flat = partition.live <= self._scan_rows // 2
        anew = flat or self._dead_share(partition, partition.rows) > DEAD_SHARE
        return PartitionWork(pick, partition.key, partition.rows.plan(self._alive, anew=anew, flat=flat))

    def _pressure(self, partition: _Partition, rows: GraphRows) -> float:
        first_graph = rows.in_graph == 0
        return max(
            len(rows.tail) / self._tail_rows if not first_graph else 1.0 + len(rows.tail) / self._scan_rows,
            self._dead_share(partition, rows) / DEAD_SHARE,
            1.5 if partition.live <= self._scan_rows // 2 else 0.0,
        )

    @staticmethod
    def _dead_share(partition: _Partition, rows: GraphRows) -> float:
        return 1 - partition.live / len(rows)

    def install(self, done: PartitionWork, rows: Graph | ScanRows) -> None:
        """Swap in what the worker made. A large graph takes long to free: hold on to `done` and drop it elsewhere."""
        partition = self._at(done.number)
        partition.working = False
        old = partition.rows
        assert isinstance(old, GraphRows)
        if isinstance(rows, ScanRows):
            old.tail.drop_first(len(done.work.ids))
            for ids, part in old.tail.pieces():
                rows.append(ids, part)
            for entry in rows.ids[~self._alive(rows.ids)].tolist():  # died while the worker ran
                rows.remove(entry)
            partition.rows = rows
            self._large.discard(done.number)
        else:
            old.install(rows, done.work)
        self._drop_if_empty(done.number)

    def give_up(self, planned: PartitionWork) -> None:
        """The work was not finished: nothing has changed."""
        self._at(planned.number).working = False
        self._drop_if_empty(planned.number)

    def _graph_rows(self, graph: Graph | None = None) -> GraphRows:
        return GraphRows(self.dimensions, 2 * self._scan_rows, graph)

    def _drop_if_empty(self, number: int) -> None:
        partition = self._at(number)
        if partition.live == 0 and not partition.working:
            self._large.discard(number)
            del self._numbers[partition.key]
            self._partitions[number] = None
            self._free.append(number)

    def _at(self, number: int) -> _Partition:
        partition = self._partitions[number]
        assert partition is not None
        return partition
