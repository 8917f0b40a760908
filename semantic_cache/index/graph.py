"""A large partition: an unchanging neighbour graph (HNSW, half precision) and a short tail of newer rows.

The graph is never changed under a reader. New rows wait in the tail, which is scanned exactly; a worker thread
copies the graph, adds rows of the tail to the copy (or builds it anew without what has died) and the copy is swapped
in. Never decides when: `partitions` does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantic_cache.index.scan import Ids, ScanRows, Similarities, Vectors

LINKS = 16
EXPANSION_ADD = 80
_WIDTH, _NARROW_ROWS, _WIDTH_DOUBLING = 40, 65_536, 8
"""Rows looked at in a search: so many up to a size, then more for each doubling, or recall would fall."""
FIRST_ROWS = 16_384
"""Rows of a partition's first graph. Each next one at least doubles: soon most can be found, and little is copied."""

_CHUNK = 1_024  # rows added between two looks at whether the work is still wanted
_ROW_OVERHEAD = 8 + 4 * (2 * LINKS + 1) + 12  # bytes: id, links of the lowest and (on average) of all higher levels

Alive = Callable[[Ids], NDArray[np.bool_]]
"""Which of these ids are alive. Called from the worker thread too: it must only read."""


class Graph:
    """An HNSW graph (Malkov and Yashunin, arXiv 1603.09320) over unit vectors: float32 questions against half-precision
    rows, so a similarity found is exact for the row as it is kept.

    Wraps the library's objects, which are hardly typed.
    """

    def __init__(self, index: Any) -> None:
        self._library = _library()
        self._index = index
        self._graph = self._library.downcast_index(index.index)
        self._fit_width()

    @classmethod
    def empty(cls, dimensions: int) -> Graph:
        """A graph without rows."""
        faiss = _library()
        graph = faiss.IndexHNSWSQ(
            dimensions, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT
        )  # half precision needs no training
        graph.hnsw.efConstruction = EXPANSION_ADD
        return cls(faiss.IndexIDMap(graph))

    @classmethod
    def load(cls, path: Path, dimensions: int) -> Graph | None:
        """A graph from its file; None when there is none or it is not one of ours for vectors of this length."""
        faiss = _library()
        try:
            index = faiss.read_index(str(path))
        except RuntimeError:
            return None
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else None
        if not isinstance(inner, faiss.IndexHNSWSQ) or index.d != dimensions:
            return None
        return cls(index)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Bytes held, about."""
        return len(self) * (2 * int(self._index.d) + _ROW_OVERHEAD)

    @property
    def ids(self) -> Ids:
        """Ids of all rows, in their order."""
        ids: Ids = self._library.vector_to_array(self._index.id_map)
        return ids

    def rows(self, start: int, count: int) -> Vectors:
        """The vectors of rows `start` to `start + count`."""
        vectors: Vectors = self._graph.storage.reconstruct_n(start, count)
        return vectors

    def add(self, ids: Ids, vectors: NDArray[np.floating], threads: int = 1) -> None:
        """Add rows; `vectors` has shape [len(ids), dimensions]. No other thread may use the graph meanwhile."""
        self._library.omp_set_num_threads(threads)
        self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), ids)
        self._fit_width()

    def _fit_width(self) -> None:
        self._graph.hnsw.efSearch = search_width(len(self))

    def nearest(self, vector: Vectors, count: int) -> tuple[Ids, Similarities]:
        """About the `count` most similar rows, best first."""
        self._library.omp_set_num_threads(1)  # of the calling thread; to wake a team costs more than the search
        similarity, ids = self._index.search(vector[None, :], min(count, len(self)))
        found = ids[0] >= 0
        return ids[0][found], similarity[0][found]

    def copy(self) -> Graph:
        """Another graph with the same rows."""
        return Graph(self._library.clone_index(self._index))

    def save(self, path: Path) -> None:
        """Write the graph to a file, whole or not at all. For a worker thread. Raises OSError."""
        building = path.with_name(path.name + ".tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._library.write_index(self._index, str(building))
        except RuntimeError as error:  # the library's word for a full or read-only disk
            raise OSError(str(error)) from error
        with building.open("rb+") as file:
            os.fsync(file.fileno())
        building.replace(path)


def search_width(rows: int) -> int:
    """How many rows a search in a graph of this size looks at (efSearch)."""
    return _WIDTH + round(_WIDTH_DOUBLING * max(0.0, math.log2(max(rows, 1) / _NARROW_ROWS)))


def _library() -> Any:
    """Imported when there is a first graph: caches that stay small never load it."""
    import faiss

    return faiss


@dataclass(frozen=True, slots=True)
class GraphWork:
    """What a worker thread is to do, as it was when it was planned.

    `ids`, `vectors`: the oldest rows of the tail, in parts. `anew`: keep of `base` only what is alive, as a graph, or
    as plain rows when `flat`; otherwise add to a copy of `base`.
    """

    base: Graph | None
    ids: Ids
    vectors: tuple[Vectors, ...]
    alive: Alive
    anew: bool
    flat: bool
    dimensions: int

    def run(self, wanted: Callable[[], bool], threads: int = 1) -> Graph | ScanRows | None:
        """The new rows; None when `wanted` turned False meanwhile. Takes seconds to minutes, mostly without the
        interpreter's lock."""
        into: Graph | ScanRows
        if self.flat:
            into = ScanRows(self.dimensions)
        elif self.base is None or self.anew:
            into = Graph.empty(self.dimensions)
        else:
            into = self.base.copy()
        for ids, vectors in self._chunks():
            if not wanted():
                return None
            if isinstance(into, ScanRows):
                into.append(ids, vectors)
            elif len(ids):
                into.add(ids, vectors, threads)
        return into

    def _chunks(self) -> Iterator[tuple[Ids, Vectors]]:
        if self.base is not None and self.anew:
            ids = self.base.ids
            for start in range(0, len(ids), _CHUNK):
                some = ids[start : start + _CHUNK]
                living = self.alive(some)
                yield some[living], self.base.rows(start, len(some))[living]
        end = 0
        for part in self.vectors:
            ids = self.ids[end : end + len(part)]
            living = self.alive(ids)
            yield ids[living], part[living]
            end += len(part)


class GraphRows:
    """The graph and its tail. Rows that died stay in both until the next work: their ids are no longer alive.

    `scanned`: how many rows of a tail, the newest, are looked at. It is longer only while the first graphs of a
    large partition are being built; a search then misses some rows rather than make everyone wait.
    """

    def __init__(self, dimensions: int, scanned: int, graph: Graph | None = None) -> None:
        self._dimensions = dimensions
        self._scanned = scanned
        self._graph = graph
        self.tail = ScanRows(dimensions)

    def __len__(self) -> int:
        """Rows held, dead ones of the graph included."""
        return self.in_graph + len(self.tail)

    @property
    def in_graph(self) -> int:
        """Rows of the graph, dead ones included."""
        return len(self._graph) if self._graph is not None else 0

    @property
    def nbytes(self) -> int:
        """Bytes held, about."""
        return self.tail.nbytes + (self._graph.nbytes if self._graph is not None else 0)

    def append(self, ids: Ids, vectors: NDArray[np.floating]) -> None:
        """Add rows to the tail."""
        self.tail.append(ids, vectors)

    def nearest(self, vector: Vectors, count: int) -> tuple[Ids, Similarities]:
        """About the `count` most similar rows, best first."""
        if self._graph is None:
            return self.tail.nearest(vector, count, newest=self._scanned)
        ids, similarity = self._graph.nearest(vector, count)
        if len(self.tail):
            more, how_similar = self.tail.nearest(vector, count, newest=self._scanned)
            ids, similarity = np.concatenate([ids, more]), np.concatenate([similarity, how_similar])
            best = np.argsort(-similarity, kind="stable")[:count]
            ids, similarity = ids[best], similarity[best]
        return ids, similarity

    def plan(self, alive: Alive, *, anew: bool, flat: bool) -> GraphWork:
        """The work that would shorten the tail; `anew`: and drop what has died; `flat`: and give the graph up."""
        rows = min(len(self.tail), max(FIRST_ROWS, self.in_graph))
        parts, left = [], rows
        for part in self.tail.parts():
            parts.append(part[:left])
            left -= len(parts[-1])
            if not left:
                break
        return GraphWork(self._graph, self.tail.ids[:rows], tuple(parts), alive, anew, flat, self._dimensions)

    def install(self, graph: Graph, work: GraphWork) -> None:
        """Swap in the graph that `work` made and drop from the tail what is in it now."""
        self._graph = graph
        self.tail.drop_first(len(work.ids))
