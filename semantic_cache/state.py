"""What the cache knows in memory, rebuilt from the store at start: table, index, keys, bumps, room.

Owns that these agree with each other. Everything here is synchronous and runs on the event loop's thread; only
`load` reads the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semantic_cache.calibration import Calibrator
from semantic_cache.eviction import Limits, Room
from semantic_cache.index.graph import Graph
from semantic_cache.index.partitions import VectorIndex
from semantic_cache.index.table import SHARED, EntryTable
from semantic_cache.policy import UNSURE, Policies
from semantic_cache.store import EVERYWHERE, IndexRow, Statement, Store

NO_VECTOR = -1
NOBODY = -1
"""The reader number of a principal that owns no entry."""


class CacheState:
    """Entries in memory. Invariant: an entry is in the table exactly while it can be served, and then its key is in
    `_exact` and its vector, if it has one, in its partition."""

    def __init__(self, policies: Policies, limits: Limits, calibrator: Calibrator, dimensions: int | None) -> None:
        self.policies = policies
        self.calibrator = calibrator
        self.names = tuple(policies)
        self.numbers = {name: i for i, name in enumerate(self.names)}
        self.room = Room(policies, limits)
        self.table = EntryTable(capacity=limits.entries + 1)
        self.index = None if dimensions is None else VectorIndex(dimensions, self._alive)
        self.bump_count = 0
        self._bumps: dict[tuple[str, str], int] = {}
        self._exact: dict[int, int] = {}
        self._waiting: dict[int, int] = {}  # entries not yet shared, by the key they would have if they were
        self._readers: dict[tuple[str, str], int] = {}
        self._promoted: dict[int, list[int]] = {}

    def _alive(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self.table.living(ids)

    # -- entries --------------------------------------------------------------------------------

    def put(self, row: IndexRow, vector: NDArray[np.floating] | None) -> None:
        """Make a stored entry findable. Its id was allocated (or restored) by the table."""
        category = self.numbers.get(row.category, self.numbers[UNSURE])
        reader = SHARED if row.shared else self._reader(row.tenant, row.author)
        common = exact_number(row.exact, None)
        key = common if row.shared else exact_number(row.exact, row.author)
        partition = NO_VECTOR
        self.table.put(
            row.id, exact=key, common=common, category=category, reader=reader, created=row.created,
            expires=row.expires, hits=row.hits, last_hit=row.last_hit, seconds=row.seconds, tokens=row.tokens,
            size=row.size,
        )  # fmt: skip
        if vector is not None and self.index is not None:
            partition = self.index.add(row.partition, np.array([row.id]), vector[None, :])
        self.table.partition[self.table.slot(row.id)] = partition
        self._exact[key] = row.id
        if not row.shared:
            self._waiting.setdefault(common, row.id)
        if row.source is not None:
            self._promoted.setdefault(row.source, []).append(row.id)
        self.room.taken(category, row.size)

    def remove(self, entry: int) -> list[int]:
        """Make an entry, and what was promoted to it, unfindable at once; returns the ids that were there."""
        gone: list[int] = []
        for one in (entry, *self._promoted.pop(entry, ())):
            slot = self.table.slot(one)
            if not self.table.alive(one):
                continue
            key, partition = int(self.table.exact[slot]), int(self.table.partition[slot])
            common = int(self.table.common[slot])
            self.room.freed(int(self.table.category[slot]), int(self.table.size[slot]))
            self.table.remove(one)
            if self._exact.get(key) == one:
                del self._exact[key]
            if self._waiting.get(common) == one:
                del self._waiting[common]
            if partition != NO_VECTOR and self.index is not None:
                self.index.remove(partition, one)
            self.calibrator.forget(one)
            gone.append(one)
        return gone

    def share(self, entry: int, exact: bytes) -> None:
        """Let everyone in the tenant read an entry that was its author's alone."""
        slot = self.table.slot(entry)
        old, new = int(self.table.exact[slot]), exact_number(exact, None)
        if self._exact.get(old) == entry:
            del self._exact[old]
        self._exact[new] = entry
        self._waiting.pop(new, None)
        self.table.exact[slot] = new
        self.table.reader[slot] = SHARED

    def hit(self, entry: int, wall_s: float) -> None:
        """Count a hit of an entry."""
        slot = self.table.slot(entry)
        self.table.hits[slot] += 1
        self.table.last_hit[slot] = wall_s

    # -- finding --------------------------------------------------------------------------------

    def exact(self, exact: bytes, principal: str | None) -> int | None:
        """The entry of an exact key that this principal may read."""
        entry = self._exact.get(exact_number(exact, None))
        if entry is None and principal is not None:
            entry = self._exact.get(exact_number(exact, principal))
        return entry if entry is not None and self.table.alive(entry) else None

    def unshared(self, exact: bytes) -> int | None:
        """The first author's entry of an exact key that waits for a second sighting."""
        return self._waiting.get(exact_number(exact, None))

    def nearest(
        self,
        partition: bytes,
        vector: NDArray[np.float32],
        tenant: str,
        principal: str | None,
        count: int,
        floor: float,
    ) -> list[tuple[int, float]]:
        """The most similar entries that this principal may read: ids and similarities, best first."""
        if self.index is None:
            return []
        reader = NOBODY if principal is None else self._readers.get((tenant, principal), NOBODY)
        ids, similarity = self.index.nearest(
            partition, vector, count=count, floor=floor, allowed=lambda found: self.table.readable(found, reader)
        )
        return list(zip(ids.tolist(), similarity.tolist(), strict=True))

    def _reader(self, tenant: str, principal: str) -> int:
        return self._readers.setdefault((tenant, principal), len(self._readers) + 1)

    # -- tags -----------------------------------------------------------------------------------

    def bump(self, tenant: str, tag: str) -> int:
        """Note that what a tag names has changed; from now on nothing older is served. Returns the bump's number."""
        self.bump_count += 1
        self._bumps[tenant, tag] = self.bump_count
        return self.bump_count

    def stale(self, tenant: str, tags: Iterable[str], since: int) -> bool:
        """Whether one of the tags was bumped after bump number `since`."""
        bumps = self._bumps
        return bool(bumps) and any(
            bumps.get((tenant, tag), 0) > since or bumps.get((EVERYWHERE, tag), 0) > since for tag in tags
        )

    # -- start ----------------------------------------------------------------------------------

    async def load(self, store: Store, digest: str | None, graphs: Path) -> None:
        """Rebuild everything from the store. Vectors of another embedder are left out: exact tier only."""
        for tenant, tag, number in await store.query("SELECT tenant, tag, number FROM bumps"):
            self._bumps[tenant, tag] = number
            self.bump_count = max(self.bump_count, number)
        ((last,),) = await store.query("SELECT coalesce(max(value), 0) FROM meta WHERE key = 'sequence'")
        ids = await store.query("SELECT id FROM entries WHERE quarantined IS NULL")
        self.table.sequence = int(last)
        lost = self.table.restore(np.array([row[0] for row in ids], dtype=np.int64)).tolist()
        if lost:
            await store.write(delete_statements(lost))
        known = await self._load_graphs(store, digest, graphs)
        async for rows in store.index_rows():
            for row in rows:
                self.put(row, None)
            await self._load_vectors(store, digest, rows, known)

    async def _load_graphs(self, store: Store, digest: str | None, graphs: Path) -> dict[bytes, frozenset[int]]:
        """Adopt the graphs on disk; returns which entries each of them holds."""
        if self.index is None or digest is None:
            return {}
        held: dict[bytes, frozenset[int]] = {}
        unusable: list[Path] = []
        for path in graph_files(graphs, digest):
            key = bytes.fromhex(path.name.partition("-")[0])
            rows = await store.query(
                "SELECT id FROM entries WHERE partition = ? AND digest = ? AND quarantined IS NULL", (key, digest)
            )
            ids = np.array([row[0] for row in rows], dtype=np.int64)
            graph = Graph.load(path, self.index.dimensions)
            if graph is None or not len(ids):
                unusable.append(path)
                continue
            inside = np.intersect1d(ids, graph.ids)
            self.index.adopt(key, graph, len(inside))
            held[key] = frozenset(inside.tolist())
        remove_files(unusable)
        return held

    async def _load_vectors(
        self, store: Store, digest: str | None, rows: list[IndexRow], known: Mapping[bytes, frozenset[int]]
    ) -> None:
        if self.index is None or digest is None:
            return
        partitions = {row.id: row.partition for row in rows}
        wanted: list[int] = []
        for row in rows:
            if row.id in known.get(row.partition, ()):
                number = self.index.number(row.partition)
                self.table.partition[self.table.slot(row.id)] = NO_VECTOR if number is None else number
            elif row.embedded:
                wanted.append(row.id)
        groups: dict[bytes, list[tuple[int, bytes]]] = {}
        for entry, blob in await store.vectors(wanted, digest):
            groups.setdefault(partitions[entry], []).append((entry, blob))
        for key, found in groups.items():
            ids = np.array([entry for entry, _ in found], dtype=np.int64)
            vectors = np.frombuffer(b"".join(blob for _, blob in found), dtype=np.float16)
            number = self.index.add(key, ids, vectors.reshape(len(ids), self.index.dimensions))
            for entry in ids.tolist():
                self.table.partition[self.table.slot(entry)] = number

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        self.table.check()
        alive = set(self.table.entries())
        assert self.room.entries.sum() == len(alive)
        assert alive <= set(self._exact.values()), "an entry without its exact key"
        for key, entry in self._exact.items():
            assert entry in alive and int(self.table.exact[self.table.slot(entry)]) == key, "a key without its entry"
        for key, entry in self._waiting.items():
            assert entry in alive and int(self.table.common[self.table.slot(entry)]) == key, (
                "a dead entry is waited for"
            )


def exact_number(exact: bytes, author: str | None) -> int:
    """64 bits of an exact key for everyone, or for one author alone. A collision is found out when the row is read."""
    if author is not None:
        exact = hashlib.sha256(exact + b"\0" + author.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(exact[:8], "big")


def graph_path(graphs: Path, partition: bytes, digest: str) -> Path:
    """Where the graph of a partition is kept."""
    return graphs / f"{partition.hex()}-{digest[:16]}.hnsw"


def graph_files(graphs: Path, digest: str) -> list[Path]:
    """All graphs made of this embedder's vectors."""
    return sorted(graphs.glob(f"*-{digest[:16]}.hnsw"))


def remove_files(paths: Iterable[Path]) -> None:
    """Delete files, as far as they are there."""
    for path in paths:
        path.unlink(missing_ok=True)


def delete_statements(entries: Iterable[int]) -> list[Statement]:
    """Statements that delete entries and what hangs on them."""
    ids = list(entries)
    return [
        *(("DELETE FROM tags WHERE entry = ?", (i,)) for i in ids),
        *(("DELETE FROM entries WHERE id = ?", (i,)) for i in ids),
    ]
