"""The entries' figures in memory: one row of plain numbers per entry, no Python object each.

Owns ids and who may read what. Never holds vectors (that is `partitions`) or bodies (that is `store`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLOT_BITS = 24
MAX_ENTRIES = 1 << SLOT_BITS
_SLOT_MASK = MAX_ENTRIES - 1
SHARED = 0
"""The `reader` of an entry that everyone in its tenant may read."""

_COLUMNS: dict[str, type] = {
    "ids": np.int64,  # 0 = free slot
    "exact": np.uint64,
    "common": np.uint64,  # the exact key that it would have if everyone might read it
    "partition": np.int32,
    "category": np.int16,
    "reader": np.int32,
    "created": np.float64,
    "expires": np.float64,
    "last_hit": np.float64,
    "hits": np.int32,
    "seconds": np.float32,
    "tokens": np.int32,
    "size": np.int32,
}


class EntryTable:
    """Columns over slots. An id is `sequence << 24 | slot`, so finding a row needs no map.

    Invariant: `ids[id & mask] == id` exactly while the entry is alive. The sequence grows with every allocation
    and is never used twice, so an id that outlived its entry (in a graph, in a user's hand) finds nothing.
    Ids stay under 2**53 for the first 2**29 allocations: JSON readers that know only doubles keep them exact.
    """

    def __init__(self, sequence: int = 0, capacity: int = 1024) -> None:
        self.sequence = sequence
        self._free: list[int] = []
        self._end = 0
        self._alive = 0
        for name, kind in _COLUMNS.items():
            setattr(self, name, np.zeros(capacity, dtype=kind))

    ids: NDArray[np.int64]
    exact: NDArray[np.uint64]
    common: NDArray[np.uint64]
    partition: NDArray[np.int32]
    category: NDArray[np.int16]
    reader: NDArray[np.int32]
    created: NDArray[np.float64]
    expires: NDArray[np.float64]
    last_hit: NDArray[np.float64]
    hits: NDArray[np.int32]
    seconds: NDArray[np.float32]
    tokens: NDArray[np.int32]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return self._alive

    @property
    def end(self) -> int:
        """One past the highest slot ever used; slots under it may be free."""
        return self._end

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(getattr(self, name).nbytes for name in _COLUMNS)

    def allocate(self) -> int:
        """A fresh id with an empty row; not alive until `put`. The caller puts it or gives it back."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._end
            if slot >= MAX_ENTRIES:
                raise MemoryError(f"the cache holds at most {MAX_ENTRIES} entries")
            self._end += 1
            self._grow(self._end)
        self.sequence += 1
        return self.sequence << SLOT_BITS | slot

    def give_back(self, entry: int) -> None:
        """Free the slot of an id that was allocated and never put."""
        self._free.append(entry & _SLOT_MASK)

    def put(self, entry: int, **row: float) -> None:
        """Make an allocated (or, at start, a stored) id alive with these columns; the rest is 0."""
        slot = entry & _SLOT_MASK
        for name in _COLUMNS:
            getattr(self, name)[slot] = row.get(name, 0)
        self.ids[slot] = entry
        self._alive += 1

    def restore(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """Claim the slots of stored ids, to be followed by `put` of each; only on an empty table.

        Returns the ids that lost their slot to a newer one: remains of a deletion that was never written.
        """
        ordered = np.sort(entries)
        slots = ordered & _SLOT_MASK
        self._end = int(slots.max()) + 1 if len(slots) else 0
        self._grow(self._end)
        newest = np.zeros(self._end, dtype=np.int64)
        newest[slots] = ordered  # of equal slots the last, the newest, stays
        self._free = np.flatnonzero(newest == 0).tolist()
        if len(ordered):
            self.sequence = max(self.sequence, int(ordered[-1]) >> SLOT_BITS)
        lost: NDArray[np.int64] = ordered[newest[slots] != ordered]
        return lost

    def remove(self, entry: int) -> bool:
        """End an entry; False when it was not alive."""
        slot = entry & _SLOT_MASK
        if not self.alive(entry):
            return False
        self.ids[slot] = 0
        self._alive -= 1
        self._free.append(slot)
        return True

    def slot(self, entry: int) -> int:
        """Where the row of an id stands."""
        return entry & _SLOT_MASK

    def alive(self, entry: int) -> bool:
        """Whether this very entry is still there."""
        slot = entry & _SLOT_MASK
        return slot < self._end and int(self.ids[slot]) == entry

    def living(self, entries: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each id: whether this very entry is still there."""
        same: NDArray[np.bool_] = self.ids[np.minimum(entries & _SLOT_MASK, len(self.ids) - 1)] == entries
        return same

    def readable(self, entries: NDArray[np.int64], reader: int) -> NDArray[np.bool_]:
        """For each id: alive, and shared or this reader's own."""
        slots = np.minimum(entries & _SLOT_MASK, len(self.ids) - 1)  # an id out of range matches no row
        owner = self.reader[slots]
        mine: NDArray[np.bool_] = (self.ids[slots] == entries) & ((owner == SHARED) | (owner == reader))
        return mine

    def entries(self) -> Iterator[int]:
        """Ids of all that is alive, in slot order."""
        used = self.ids[: self._end]
        yield from used[used != 0].tolist()

    def _grow(self, needed: int) -> None:
        have = len(self.ids)
        if needed <= have:
            return
        size = max(needed, have + have // 2)
        for name, kind in _COLUMNS.items():
            grown: NDArray[Any] = np.zeros(size, dtype=kind)
            grown[:have] = getattr(self, name)
            setattr(self, name, grown)

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        used = self.ids[: self._end]
        alive = np.flatnonzero(used)
        assert len(alive) == self._alive
        assert ((used[alive] & _SLOT_MASK) == alive).all()
        assert len(set(self._free)) == len(self._free)
        assert not set(self._free) & set(alive.tolist())
