"""Which blocks of one tier are held, and by whom: counts only. Knows neither tokens, hashes nor time.

Every block is in one state: *free*; *active* (sequences refer to it); *leased* (only leases hold it); *cached* (nobody
holds it, its contents are kept until the memory is wanted).
Invariant, `check()`: free + cached + leased + active = total.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Blocks = array  # of "i": numbers of blocks, the root first where they are a chain
Places = NDArray[np.intp]
"""Numbers of blocks as numpy indexes fastest: other integers cost ten times as much."""
_Counts = NDArray[np.int32]
_LOOK = 256


def blocks_of(numbers: Iterable[int] = ()) -> Blocks[int]:
    return array("i", numbers if isinstance(numbers, list) else [*numbers])  # an iterator's numbers would cost thrice


def places_of(blocks: Blocks[int]) -> Places:
    return np.asarray(blocks).astype(np.intp)


class BlockPool:
    """Reference and lease counts of `total` blocks, the free list, and the order in which cached blocks are evicted.

    All methods take whole chains, so that their cost hardly grows with the length. Eviction is least recently used
    first, and leaf first: whoever holds a block of a chain holds its ancestors too, and chains are let go of from
    their tail, so a child always queues before its parent. `listed` says whose contents can be found again: others
    become free when nobody holds them.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.active = self.leased = self.cached = 0
        self.under_lease = 0
        """Blocks that a lease holds, whether sequences refer to them or not: what a lease budget is counted in."""
        self.listed: NDArray[np.bool_] = np.zeros(total, np.bool_)
        self._refs: _Counts = np.zeros(total, np.int32)
        self._leases: _Counts = np.zeros(total, np.int32)
        self._stack: Places = np.arange(total - 1, -1, -1, dtype=np.intp)  # the first `free` of it are free blocks
        self.free = total
        # Runs in the order in which they were let go of. A block in a run is cached if its mark is still the run's.
        self._runs: deque[tuple[int, Places]] = deque()
        self._marks: NDArray[np.int64] = np.zeros(total, np.int64)
        self._number = 0
        self._queued = 0

    @property
    def available(self) -> int:
        """Blocks that can be had without hurting anyone."""
        return self.free + self.cached

    def refs(self, block: int) -> int:
        """How many sequences hold `block`."""
        return int(self._refs[block])

    def is_free(self, block: int) -> bool:
        return not (self._refs[block] or self._leases[block] or self._marks[block])

    def idle(self, blocks: Blocks[int]) -> int:
        """How many of `blocks` are cached."""
        return int(np.count_nonzero(self._marks.take(places_of(blocks))))

    def all_listed(self, blocks: Blocks[int]) -> bool:
        """Whether the contents of all `blocks` can be found by others."""
        return bool(self.listed.take(places_of(blocks)).all())

    def take(self, count: int) -> Blocks[int] | None:
        """`count` (>= 1) free blocks, now active with one reference; None if there are not so many."""
        if self.free < count:
            return None
        places = self._stack[self.free - count : self.free]
        self.free -= count
        self._refs[places] = 1
        self.active += count
        return Blocks("i", places.astype(np.int32).tobytes())

    def refer(self, blocks: Blocks[int]) -> None:
        """One more sequence holds `blocks`, which are active, leased or cached."""
        places = places_of(blocks)
        refs = self._refs.take(places)
        self._refs[places] = refs + 1
        idle = places[refs == 0]
        self.active += len(idle)
        self.leased -= len(idle) - self._uncache(idle)

    def drop(self, blocks: Blocks[int], *, spare: bool = False) -> None:
        """A sequence lets go of a chain. What nobody else holds becomes leased, else cached if listed, else free.

        `spare`: there is another copy, so these are to be evicted before all others.
        """
        places = places_of(blocks)[::-1].copy()
        refs = self._refs.take(places) - 1
        self._refs[places] = refs
        idle = places[refs == 0]
        self.active -= len(idle)
        if self.under_lease:
            free = self._leases.take(idle) == 0
            self.leased += len(idle)
            idle = idle[free]
            self.leased -= len(idle)
        self._leave(idle, spare=spare)

    def lease(self, blocks: Blocks[int]) -> None:
        """One more lease holds `blocks`, which are active, leased or cached."""
        places = places_of(blocks)
        leases = self._leases.take(places)
        self._leases[places] = leases + 1
        new = places[leases == 0]
        self.under_lease += len(new)
        self.leased += self._uncache(new)

    def unlease(self, blocks: Blocks[int]) -> None:
        """A lease lets go of a chain."""
        places = places_of(blocks)[::-1].copy()
        leases = self._leases.take(places) - 1
        self._leases[places] = leases
        ended = places[leases == 0]
        self.under_lease -= len(ended)
        idle = ended[self._refs.take(ended) == 0]
        self.leased -= len(idle)
        self._leave(idle)

    def newly_leased(self, blocks: Blocks[int]) -> NDArray[np.bool_]:
        """Which of `blocks` no lease holds yet."""
        unleased: NDArray[np.bool_] = self._leases.take(places_of(blocks)) == 0
        return unleased

    def holds_leases(self, counts: NDArray[np.int32]) -> bool:
        """Whether block i is held by `counts[i]` leases."""
        return bool(np.array_equal(self._leases, counts))

    def evict(self, count: int) -> Places:
        """Up to `count` cached blocks, those to go next, become free; they must be unlisted then."""
        found: list[Places] = []
        while count and self._runs:
            mark, run = self._runs.popleft()
            # Many of a run's first blocks may be cached no more: look at a good number of them at once.
            looked = run[: max(count, _LOOK)]
            live = np.flatnonzero(self._marks[looked] == mark)[:count]
            used = int(live[-1]) + 1 if len(live) == count else len(looked)
            if used < len(run):
                self._runs.appendleft((mark, run[used:]))
            self._queued -= used
            found.append(looked[live])
            count -= len(live)
        gone = np.concatenate(found) if found else np.zeros(0, np.intp)
        self._marks[gone] = 0
        self.cached -= len(gone)
        self._give(gone)
        return gone

    def discard(self, places: Places) -> None:
        """Cached ones among these blocks become free, out of turn; they are unlisted already."""
        gone = places[self._marks[places] > 0]
        self._uncache(gone)
        self._give(gone)

    def cached_order(self) -> Iterator[int]:
        """All cached blocks, the next to be evicted first."""
        for mark, run in self._runs:
            yield from run[self._marks[run] == mark].tolist()

    def _give(self, places: Places) -> None:
        """Nobody holds or finds `places`: they are free."""
        self._stack[self.free : self.free + len(places)] = places
        self.free += len(places)

    def _uncache(self, places: Places) -> int:
        """Take what is cached among `places` out of the order of eviction; how many that were."""
        cached = int(np.count_nonzero(self._marks.take(places)))
        if cached:
            self._marks[places] = 0
            self.cached -= cached
        return cached

    def _leave(self, places: Places, *, spare: bool = False) -> None:
        """Nobody holds `places` (leaves first) any more."""
        if not len(places):
            return
        kept = self.listed.take(places)
        run = places[kept]
        if len(run) < len(places):
            self._give(places[~kept])
        if len(run):
            self._number += 1
            self._marks[run] = self._number
            (self._runs.appendleft if spare else self._runs.append)((self._number, run))
            self.cached += len(run)
            self._queued += len(run)
            if self._queued > 4 * self.total + 64:
                self._compact()

    def _compact(self) -> None:
        """Drop what is no longer cached from the order of eviction."""
        kept = ((mark, run[self._marks[run] == mark]) for mark, run in self._runs)
        self._runs = deque((mark, run) for mark, run in kept if len(run))
        self._queued = self.cached

    def check(self) -> None:
        """Raise AssertionError unless every block is in exactly one state and the counts are true."""
        refs, leases, cached = self._refs, self._leases, self._marks > 0
        free = np.zeros(self.total, np.bool_)
        free[self._stack[: self.free]] = True
        assert self.total == 0 or min(int(refs.min()), int(leases.min())) >= 0, "a count fell below zero"
        assert int(free.sum()) == self.free, "a block is free twice"
        active, leased = refs > 0, (leases > 0) & (refs == 0)
        counts = (int(active.sum()), int(leased.sum()), int(cached.sum()))
        assert (self.active, self.leased, self.cached) == counts, "counters differ from states"
        assert self.under_lease == int((leases > 0).sum()), "blocks under lease are miscounted"
        states = free.astype(np.int8) + cached + leased + active
        assert self.total == 0 or bool((states == 1).all()), "states overlap or miss a block"
        assert sum(1 for _ in self.cached_order()) == self.cached, "a cached block is never evicted"
        assert not bool((self.listed & free).any()), "a free block can be found"
        assert not bool((~self.listed & (cached | leased)).any()), "a kept block cannot be found"
