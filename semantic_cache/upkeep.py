"""Background work that keeps lookups fast: building graphs, and fitting the category head.

Owns one worker thread. Never on the request path: readers see the old graph and the old head until the new ones are
swapped in.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from semantic_cache import admin, categories
from semantic_cache.embedders.protocol import Embedder
from semantic_cache.finder import Finder
from semantic_cache.index.graph import Graph
from semantic_cache.index.partitions import VectorIndex
from semantic_cache.index.scan import ScanRows
from semantic_cache.judge import Judging
from semantic_cache.state import CacheState, graph_path
from semantic_cache.store import Store

_TEACH_EVERY = 200
_TAUGHT_PER_CATEGORY = 400
_UNSAVED = 0.125  # share of a graph's rows


class Upkeep:
    """Runs under the tasks of `judging`, so that `settle` and `close` know of it. At most one index work at a time."""

    def __init__(
        self,
        state: CacheState,
        store: Store,
        finder: Finder,
        judging: Judging,
        embedder: Embedder | None,
        graphs: Path,
        learn_categories: bool,
    ) -> None:
        self._state = state
        self._store = store
        self._finder = finder
        self._judging = judging
        self._digest = None if embedder is None else embedder.digest
        self._graphs = graphs
        self._learn_categories = learn_categories
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="cache-index")
        self._indexing = False
        self._saved: dict[Path, int] = {}  # rows of each graph as it is on the disk
        self._untaught = 0
        self._stopped = False

    def start(self) -> None:
        """What is due right after loading."""
        self._teach()
        self.index()

    def stop(self) -> None:
        """Take on no more work; what the thread is doing ends soon and is thrown away."""
        self._stopped = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    def index(self) -> None:
        """Start index work, if some is due and none is under way."""
        if self._state.index is not None and not self._indexing and not self._stopped:
            self._indexing = True
            self._judging.spawn(self._index(self._state.index))

    def taught(self) -> None:
        """One more entry with a declared category was kept."""
        self._untaught += 1
        if self._untaught >= _TEACH_EVERY:
            self._teach()

    async def _index(self, index: VectorIndex) -> None:
        try:
            while not self._stopped and await self._build(index):
                pass
        finally:
            self._indexing = False

    async def _build(self, index: VectorIndex) -> bool:
        """Do the most pressing work; False if there was none."""
        planned = index.due()
        if planned is None:
            return False
        loop = asyncio.get_running_loop()
        try:
            made = await loop.run_in_executor(self._worker, planned.work.run, lambda: not self._stopped)
        except BaseException:
            index.give_up(planned)
            raise
        if made is None:
            index.give_up(planned)
            return True
        index.install(planned, made)
        key, done = planned.key, [planned]
        del planned
        await loop.run_in_executor(self._worker, done.clear)  # a large graph takes long to free: readers must not wait
        await loop.run_in_executor(self._worker, self._save, key, made)
        return True

    def _save(self, key: bytes, made: Graph | ScanRows) -> None:
        """Write a graph down where it has changed by much: at start, the store has the vectors that it lacks."""
        path = graph_path(self._graphs, key, self._digest or "")
        if isinstance(made, ScanRows):
            path.unlink(missing_ok=True)
            self._saved.pop(path, None)
        elif not 0 <= len(made) - self._saved.get(path, -1) < len(made) * _UNSAVED:
            made.save(path)
            self._saved[path] = len(made)

    def _teach(self) -> None:
        """Fit the category head anew from what declared calls have left."""
        self._untaught = 0
        if self._learn_categories and self._digest is not None and not self._stopped:
            self._judging.spawn(self._fit_head(self._digest))

    async def _fit_head(self, digest: str) -> None:
        examples = await admin.declared_vectors(self._state, self._store, digest, _TAUGHT_PER_CATEGORY)
        loop = asyncio.get_running_loop()
        self._finder.head = await loop.run_in_executor(self._worker, categories.fit, examples)
