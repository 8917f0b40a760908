"""Which blocks of KV memory are held, and by whom: counts only. Knows neither tokens, hashes nor time.

Every block is in one state: *free*; *active* (sequences refer to it); *leased* (only leases hold it); *cached* (nobody
holds it, its contents are kept until the memory is wanted).
Invariant, `check()`: free + cached + leased + active = total.
"""

from __future__ import annotations

from collections import OrderedDict


class BlockPool:
    """Reference and lease counts of `total` blocks, the free list, and the order in which cached blocks are evicted.

    Eviction is least recently used first, and leaf first by construction: whoever holds a block of a chain holds its
    ancestors too, and chains are let go of from their tail, so a child always queues before its parent.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.active = 0
        self.leased = 0
        self._refs = [0] * total
        self._leases = [0] * total
        self._free = list(range(total - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self.under_lease = 0
        """Blocks that a lease holds, whether sequences refer to them or not: what a lease budget is counted in."""

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    def refs(self, block: int) -> int:
        """How many sequences hold `block`."""
        return self._refs[block]

    def is_cached(self, block: int) -> bool:
        return block in self._cached

    def is_free(self, block: int) -> bool:
        return not self._refs[block] and not self._leases[block] and block not in self._cached

    def is_leased(self, block: int) -> bool:
        return self._leases[block] > 0

    def take(self) -> int | None:
        """A free block, now active with one reference; None if none is free."""
        if not self._free:
            return None
        block = self._free.pop()
        self._refs[block] = 1
        self.active += 1
        return block

    def refer(self, block: int) -> None:
        """One more sequence holds `block`, which is active, leased or cached."""
        if self._refs[block] == 0:
            if self._leases[block]:
                self.leased -= 1
            else:
                del self._cached[block]
            self.active += 1
        self._refs[block] += 1

    def drop(self, block: int, *, keep: bool) -> None:
        """A sequence lets go of `block`. The last one leaves it leased, else cached if `keep`, else free."""
        self._refs[block] -= 1
        if self._refs[block] == 0:
            self.active -= 1
            if self._leases[block]:
                self.leased += 1
            else:
                self._leave(block, keep)

    def lease(self, block: int) -> None:
        """One more lease holds `block`, which is active, leased or cached."""
        if self._leases[block] == 0:
            self.under_lease += 1
            if self._refs[block] == 0:
                del self._cached[block]
                self.leased += 1
        self._leases[block] += 1

    def unlease(self, block: int, *, keep: bool) -> None:
        """A lease lets go of `block`."""
        self._leases[block] -= 1
        if self._leases[block] == 0:
            self.under_lease -= 1
            if self._refs[block] == 0:
                self.leased -= 1
                self._leave(block, keep)

    def next_evicted(self) -> int | None:
        """The cached block that goes next; None if none is cached."""
        return next(iter(self._cached), None)

    def evict(self, block: int) -> None:
        """A cached block becomes free: its contents are given up."""
        del self._cached[block]
        self._free.append(block)

    def _leave(self, block: int, keep: bool) -> None:
        if keep:
            self._cached[block] = None
        else:
            self._free.append(block)

    def check(self) -> None:
        """Raise AssertionError unless every block is in exactly one state and the counts are true."""
        active = {block for block, refs in enumerate(self._refs) if refs > 0}
        leased = {block for block, leases in enumerate(self._leases) if leases > 0} - active
        free = set(self._free)
        assert min(self._refs, default=0) >= 0 and min(self._leases, default=0) >= 0, "a count fell below zero"
        assert len(free) == len(self._free), "a block is free twice"
        assert (self.active, self.leased) == (len(active), len(leased)), "counters differ from states"
        assert self.under_lease == sum(leases > 0 for leases in self._leases), "blocks under lease are miscounted"
        groups = (free, set(self._cached), leased, active)
        assert sum(map(len, groups)) == self.total == len(set().union(*groups)), "states overlap or miss a block"
