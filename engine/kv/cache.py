"""The KV cache as the scheduler sees it: blocks for sequences in two tiers, found again by prefix, kept by leases.

Joins pools (who holds), indexes (what is inside) and leases (until when), and writes down which copies the device has
to make, in order. Never touches tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from engine.clock import Clock
from engine.config import BLOCK_TOKENS
from engine.kv.blocks import BlockPool, Blocks, Places, blocks_of, places_of
from engine.kv.leases import LeaseTable
from engine.kv.prefix import ROOT, Digest, PrefixIndex
from engine.protocol import EngineEvent, EngineEventKind, Tier


class CopyKind(Enum):
    DEVICE_TO_HOST = auto()
    HOST_TO_DEVICE = auto()
    DEVICE_TO_DEVICE = auto()


@dataclass(frozen=True, slots=True)
class Path:
    """Where a chain was. Still true if the last block is listed with the same `serial`: its ancestors are then, too."""

    blocks: Blocks[int]
    serial: int


_AHEAD, _MOST_AHEAD = 256, 64
"""Of the cached blocks, one in so many is evicted ahead of need, but no more than so many at once."""


class Store:
    """The blocks of one tier: held by `pool`, found by `index`; the least recently used give way."""

    def __init__(self, tier: Tier, total: int, spill: Callable[[Places], None] | None = None) -> None:
        self.tier, self._spill = tier, spill
        self.pool = BlockPool(total)
        self.index = PrefixIndex(self.pool.listed, closed=tier is Tier.DEVICE)
        kinds = (EngineEventKind.STORED, EngineEventKind.EVICTED, EngineEventKind.SWAPPED)
        self.changes: dict[EngineEventKind, Counter[str]] = {kind: Counter() for kind in kinds}
        """Blocks by what happened to them and by program, since `drain_events`."""

    def take(self, count: int) -> Blocks[int] | None:
        """`count` blocks to write, free or cached; None if there are not so many."""
        short = count - self.pool.free
        if short > 0:
            if short > self.pool.cached:
                return None
            self._evict(_with_more(short, self.pool.cached))
        return self.pool.take(count)

    def take_in_turns(self, count: int, turns: int) -> Blocks[int]:
        """What `turns` times `take(count)` would take and evict, at once; there must be so many."""
        free, cached = self.pool.free, self.pool.cached
        for _ in range(turns):
            if free < count:
                gone = _with_more(count - free, cached)
                free, cached = free + gone, cached - gone
            free -= count
        if cached < self.pool.cached:
            self._evict(self.pool.cached - cached)
        taken = self.pool.take(count * turns)
        assert taken is not None, "more blocks are taken than there are"
        return taken

    def _evict(self, count: int) -> None:
        gone = self.pool.evict(count)
        if self._spill is not None:
            self._spill(gone)
        self.unlist(gone)

    def unlist(self, blocks: Places) -> None:
        """Nobody finds `blocks` any more."""
        self.changes[EngineEventKind.EVICTED].update(self.index.programs(blocks))
        self.index.remove(blocks)

    def enlist(self, blocks: Blocks[int], digests: Sequence[Digest], parent: Digest | None, program: str) -> int:
        """Let others find held blocks, a run of a chain; how many of such had been evicted."""
        self.changes[EngineEventKind.STORED][program] += len(blocks)
        return self.index.insert(blocks, digests, parent, program)

    def path(self, blocks: Blocks[int]) -> Path | None:
        """Where a chain of listed blocks is now."""
        return Path(blocks, self.index.serial(blocks[-1])) if blocks and blocks[-1] in self.index else None

    def check(self) -> None:
        self.pool.check()
        self.index.check()


def _with_more(short: int, cached: int) -> int:
    """How many of the cached blocks to evict if `short` are needed: a few more, one by one costs many times as much."""
    return min(short + min(cached // _AHEAD, _MOST_AHEAD), cached)


class BlockCache:
    """Hands out blocks and takes them back. `copies` are to be made in order, before anything else is computed.

    Invariants (`check`): those of both tiers and of the leases. A block is listed if it is cached or leased, since
    nothing else could find it again.
    """

    def __init__(
        self,
        total: int,
        clock: Clock,
        *,
        host_blocks: int = 0,
        lease_share: float = 0.0,
        max_ttl_s: float = 0.0,
        block_bytes: int = 1,
    ) -> None:
        self.device = Store(Tier.DEVICE, total, self._spill if host_blocks else None)
        self.host = Store(Tier.HOST, host_blocks)
        self.spills = True
        """Whether what is evicted from the device goes to the host: whether copying is cheaper than computing."""
        self.copies: list[tuple[CopyKind, list[tuple[int, int]]]] = []
        self.leases = LeaseTable(self, clock, share=lease_share, max_ttl_s=max_ttl_s, block_bytes=block_bytes)

    def take(self, count: int, *, may_break_leases: bool) -> Blocks[int] | None:
        """`count` device blocks to write: free, else the least recently used cached ones, else broken leases'."""
        taken = self.device.take(count)
        while taken is None and may_break_leases and self.leases.break_one():
            taken = self.device.take(count)
        return taken

    def find(self, digests: Sequence[Digest], limit: int, hint: Path | None = None) -> Blocks[int]:
        """The device blocks of the longest resident prefix of at most `limit` blocks. `hint`: where a prefix was."""
        index, known = self.device.index, blocks_of()
        if hint is not None and len(hint.blocks) <= limit and index.serial(hint.blocks[-1]) == hint.serial:
            known = hint.blocks
        return known + index.run(digests, len(known), limit)

    def publish(self, table: Blocks[int], digests: Sequence[Digest], first: int, end: int, program: str) -> int:
        """Let others find the held, full blocks `table[first:end]`; how many tokens of them had been evicted before.

        A prefix that is listed already stays where it is: the table's own block is given back and the listed one held
        instead, so that the lineage stays a tree of single blocks. Blocks whose parent was forgotten stay private.
        """
        index, pool = self.device.index, self.device.pool
        while first < end:
            parent = table[first - 1] if first else ROOT
            if parent != ROOT and parent not in index:
                return 0
            block, listed = table[first], index.get(digests[first])
            if listed is None and block not in index:
                break
            if listed is None:  # it was found as somebody's partial block
                index.rename(block, digests[first])
            elif listed != block:
                pool.refer(blocks_of((listed,)))
                pool.drop(blocks_of((block,)))
                table[first] = listed
            first += 1
        if first == end:
            return 0
        new = digests[first:end]
        parent_digest = digests[first - 1] if first else None
        return self.device.enlist(table[first:end], new, parent_digest, program) * BLOCK_TOKENS

    def publish_new(
        self, blocks: Blocks[int], digests: list[Digest], parents: list[Digest], programs: list[str], above: Blocks[int]
    ) -> bool:
        """List blocks of many chains at once; `above` are the last blocks of these chains before.

        False, and nothing happens, unless all is as it nearly always is: nobody knows such blocks yet or did, and the
        chains are listed so far.
        """
        device = self.device
        listed = device.pool.listed.take(places_of(blocks + above))
        if (
            len(set(digests)) < len(digests)
            or device.index.knows_any(digests)
            or np.count_nonzero(listed) > len(above)
            or not listed[len(blocks) :].all()
        ):
            return False
        device.index.insert_each(blocks, digests, parents, programs)
        device.changes[EngineEventKind.STORED].update(programs)
        return True

    def publish_tail(self, table: Blocks[int], digest: Digest, program: str) -> None:
        """Let others find the partial last block of a chain."""
        index, block = self.device.index, table[-1]
        parent = index.name(table[-2]) if len(table) > 1 else None
        if index.get(digest) is not None or (parent is None and len(table) > 1):
            return
        if block in index:
            index.rename(block, digest)
        else:
            index.insert(table[-1:], [digest], parent, program)

    def release(self, table: Blocks[int]) -> None:
        """A sequence lets go of its chain."""
        self.device.pool.drop(table)

    # between the tiers

    def copy(self, kind: CopyKind, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Have blocks copied after all that was computed or copied before."""
        pairs = list(zip(sources, targets, strict=True))
        if self.copies and self.copies[-1][0] is kind:
            self.copies[-1][1].extend(pairs)
        elif pairs:
            self.copies.append((kind, pairs))

    def save(self, table: Blocks[int], digests: Sequence[Digest], program: str) -> Blocks[int] | None:
        """Copy a chain of listed device blocks to the host, as far as it is not there; the host blocks, now held.

        None, and nothing happens, if it does not fit beside what is held there.
        """
        host = self.host
        there = host.index.each(digests)
        absent = [index for index, block in enumerate(there) if block is None]
        known = blocks_of([block for block in there if block is not None])
        host.pool.refer(known)
        new = host.take(len(absent)) if absent else blocks_of()
        if new is None:
            host.pool.drop(known)
            return None
        if absent:
            parents = [digests[index - 1] if index else None for index in absent]
            host.index.insert_each(new, [digests[index] for index in absent], parents, program)
            self.copy(CopyKind.DEVICE_TO_HOST, [table[index] for index in absent], new)
            host.changes[EngineEventKind.SWAPPED][program] += len(absent)
            for index, block in zip(absent, new, strict=True):
                there[index] = block
        return blocks_of([block for block in there if block is not None])

    def _spill(self, blocks: Places) -> None:
        """Blocks that leave the device go to the host, as far as there is room beside what is held there."""
        if not self.spills:
            return
        digests, parents, programs = self.device.index.lineage(blocks)
        kept = self.host.index.each(digests)
        there = blocks_of([block for block in kept if block is not None])
        absent = [index for index, block in enumerate(kept) if block is None]
        self.host.pool.refer(there)  # they count as used now, like those that are copied
        # The last to go are the nearest to the root: without them the others cannot be found.
        absent = absent[max(len(absent) - self.host.pool.available, 0) :]
        new = self.host.take(len(absent)) if absent else None
        there.reverse()
        self.host.pool.drop(there)
        if new is None:
            return
        names = [programs[index] for index in absent]
        chosen = [digests[index] for index in absent]
        self.host.index.insert_each(new, chosen, [parents[index] for index in absent], names)
        self.copy(CopyKind.DEVICE_TO_HOST, blocks[absent].tolist(), new)
        self.host.changes[EngineEventKind.SWAPPED].update(names)
        new.reverse()  # leaves are let go of first
        self.host.pool.drop(new)

    def load(
        self, digests: Sequence[Digest], first: int, parent: int, sources: Blocks[int], program: str
    ) -> Blocks[int]:
        """Copy host blocks to the device, as the next of a chain; the device blocks, now held. As many as are free."""
        if parent != ROOT and parent not in self.device.index:
            return blocks_of()
        taken = self.device.take(min(len(sources), self.device.pool.available)) if sources else None
        if taken is None:
            return blocks_of()
        above = digests[first - 1] if first else None
        self.device.enlist(taken, digests[first : first + len(taken)], above, program)
        self.copy(CopyKind.HOST_TO_DEVICE, sources[: len(taken)], taken)
        self.device.changes[EngineEventKind.SWAPPED][program] += len(taken)
        return taken

    def forget(self, digest: Digest) -> None:
        """Make sure that nobody finds this prefix again, nor anything computed from it. Leases on it are broken."""
        for store in (self.device, self.host):
            gone = store.index.subtree(digest)
            if gone:
                self.leases.break_holders(store.tier, gone)
                places = np.asarray(gone, np.intp)
                store.unlist(places)
                store.pool.discard(places)

    def drain_events(self) -> list[EngineEvent]:
        """What changed since the last call, blocks summed by program."""
        events = []
        for store in (self.device, self.host):
            for kind, counts in store.changes.items():
                events += [EngineEvent(kind, program, count, tier=store.tier) for program, count in counts.items()]
                counts.clear()
        if self.leases.events:
            events += self.leases.events
            self.leases.events.clear()
        return events

    def check(self) -> None:
        """Raise AssertionError unless all invariants hold."""
        self.device.check()
        self.host.check()
        self.leases.check()
