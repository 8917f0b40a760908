"""A large partition: an unchanging neighbour graph (HNSW, half precision) and a short tail of newer rows.

The graph is never changed under a reader. New rows wait in the tail, which is scanned exactly; a worker thread
copies the graph, adds the tail to the copy (or builds it anew without what has died) and the copy is swapped in.
Never decides when: `partitions` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from semantic_cache.index.scan import Ids, ScanRows, Similarities, Vectors

if TYPE_CHECKING:  # a cache without an embedder has no graph and needs no such library
    from usearch.index import Index

CONNECTIVITY = 16
EXPANSION_ADD = 128
EXPANSION_SEARCH = 64
_CHUNK = 256  # rows added between two looks at whether the work is still wanted


Alive = Callable[[Ids], NDArray[np.bool_]]
"""Which of these ids are alive. Called from the worker thread too: it must only read."""


@dataclass(frozen=True, slots=True)
class GraphWork:
    """What a worker thread is to do, as it was when it was planned.

    `ids`, `vectors`: the tail as it stood, in parts (later rows only ever come after them). `anew`: keep of `base`
    only what is alive, as a graph, or as plain rows when `flat`; otherwise add to a copy of `base`.
    """

    base: Index | None
    ids: Ids
    vectors: tuple[Vectors, ...]
    alive: Alive
    anew: bool
    flat: bool
    dimensions: int

    def run(self, wanted: Callable[[], bool], threads: int = 1) -> Index | ScanRows | None:
        """The new rows; None when `wanted` turned False meanwhile. Takes seconds to minutes, mostly without the
        interpreter's lock."""
        into: Index | ScanRows
        if self.flat:
            into = ScanRows(self.dimensions)
        elif self.base is None or self.anew:
            into = empty_graph(self.dimensions)
        else:
            into = self.base.copy()
        for ids, vectors in self._chunks():
            if not wanted():
                return None
            if isinstance(into, ScanRows):
                into.append(ids, vectors)
            elif len(ids):
                into.add(ids, vectors, threads=threads)
        return into

    def _chunks(self) -> Iterator[tuple[Ids, NDArray[np.float16]]]:
        if self.base is not None and self.anew:
            for start in range(0, len(self.base), _CHUNK):
                keys = np.asarray(self.base.keys[start : start + _CHUNK]).astype(np.int64)
                keys = keys[self.alive(keys)]
                if len(keys):
                    yield keys, np.asarray(self.base.get(keys), dtype=np.float16)
        end = 0
        for part in self.vectors:
            for start in range(0, len(part), _CHUNK):
                some = part[start : start + _CHUNK]
                ids = self.ids[end : end + len(some)]
                living = self.alive(ids)
                yield ids[living], some[living].astype(np.float16)
                end += len(some)


def empty_graph(dimensions: int) -> Index:
    """A graph for unit vectors: inner product, half precision, real keys."""
    from usearch.index import Index

    return Index(
        ndim=dimensions,
        metric="ip",
        dtype="f16",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )


class GraphRows:
    """The graph and its tail. Rows that died stay in both until the next work: their ids are no longer alive."""

    def __init__(self, dimensions: int, graph: Index | None = None) -> None:
        self._dimensions = dimensions
        self._graph = graph
        self.tail = ScanRows(dimensions)

    def __len__(self) -> int:
        """Rows that can be found, dead ones of the graph included."""
        return self.in_graph + len(self.tail)

    @property
    def in_graph(self) -> int:
        """Rows of the graph, dead ones included."""
        return len(self._graph) if self._graph is not None else 0

    @property
    def nbytes(self) -> int:
        """Bytes held, as far as the graph library tells."""
        return self.tail.nbytes + (int(self._graph.memory_usage) if self._graph is not None else 0)

    def append(self, ids: Ids, vectors: NDArray[np.floating]) -> None:
        """Add rows to the tail."""
        self.tail.append(ids, vectors)

    def nearest(self, vector: Vectors, count: int) -> tuple[Ids, Similarities]:
        """About the `count` most similar rows, best first. The graph's candidates are scored again, exactly."""
        ids, similarity = self.tail.nearest(vector, count)
        if self._graph is not None and len(self._graph):
            found = self._graph.search(vector.astype(np.float16), min(count, len(self._graph)), threads=1)
            keys = np.asarray(found.keys).astype(np.int64)
            rows = np.asarray(self._graph.get(keys), dtype=np.float32)
            ids = np.concatenate([ids, keys])
            similarity = np.concatenate([similarity, rows @ vector])
            best = np.argsort(-similarity, kind="stable")[:count]
            ids, similarity = ids[best], similarity[best]
        return ids, similarity

    def plan(self, alive: Alive, *, anew: bool, flat: bool) -> GraphWork:
        """The work that would empty the tail; `anew`: and drop what has died; `flat`: and give the graph up."""
        parts = tuple(self.tail.parts())
        return GraphWork(self._graph, self.tail.ids, parts, alive, anew, flat, self._dimensions)

    def install(self, graph: Index, work: GraphWork) -> None:
        """Swap in the graph that `work` made and drop from the tail what is in it now."""
        self._graph = graph
        self.tail.drop_first(len(work.ids))


def save_graph(graph: Index, path: Path) -> None:
    """Write a graph to a file, whole or not at all. Runs in a worker thread."""
    building = path.with_name(path.name + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    graph.save(str(building))
    with building.open("rb+") as file:
        os.fsync(file.fileno())
    building.replace(path)


def load_graph(path: Path, dimensions: int) -> Index | None:
    """A graph from its file; None when there is none or it is not one of ours for vectors of this length."""
    from usearch.compiled import ScalarKind
    from usearch.index import Index

    try:
        about = Index.metadata(str(path))
        if about is None or about["dimensions"] != dimensions or about["kind_scalar"] != ScalarKind.F16:
            return None
        graph = empty_graph(dimensions)
        graph.load(str(path))
    except (OSError, RuntimeError, ValueError):
        return None
    graph.path = None  # the library's own `copy` would read the file again
    return graph
