"""Leases: the right of a program to keep a block chain in a tier until a time. Each ends with one outcome.

Bounded by a share of each tier, expired by a heap of deadlines on the injected clock, moved to the host or broken by
rank when admitted work cannot go on otherwise. Decides nothing about who deserves a lease: that is the orchestrator's.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.clock import Clock
from engine.kv.blocks import Blocks, blocks_of
from engine.kv.prefix import ROOT, Digest
from engine.protocol import EngineEvent, EngineEventKind, InvalidRequest, Lease, LeaseGrant, LeaseOutcome, Tier

if TYPE_CHECKING:
    from engine.kv.cache import BlockCache, Path


@dataclass(slots=True)
class _Held:
    """A lease that was granted and has not ended: the chain's digests, and the blocks that hold them in `tier`.

    `lapsed`: its time is over, but its program's next call is queued. `wanted_s`: until when it shall be moved to the
    device, should there be room.
    """

    lease: str
    program: str
    request: str
    tier: Tier
    digests: Sequence[Digest]
    blocks: Blocks[int]
    rank: float
    ttl_s: float
    expires_s: float
    lapsed: bool = False
    wanted_s: float = -math.inf


class LeaseTable:
    """All leases that hold blocks now.

    Invariant, `check()`: each tier's lease counts are those of the held chains, and no more of its blocks are under
    lease than its share. A chain is held from its root without gaps, so eviction stays leaf first.
    """

    def __init__(
        self, cache: BlockCache, clock: Clock, *, share: float, max_ttl_s: float, block_bytes: int = 1
    ) -> None:
        self._cache, self._clock = cache, clock
        self._stores = {Tier.DEVICE: cache.device, Tier.HOST: cache.host}
        self._budget = {tier: int(store.pool.total * share) for tier, store in self._stores.items()}
        self._max_ttl_s, self._block_bytes = max_ttl_s, block_bytes
        self._held: dict[str, _Held] = {}
        self._by_program: dict[str, set[str]] = {}
        self._by_request: dict[str, set[str]] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._ranks: dict[Tier, list[tuple[float, str]]] = {tier: [] for tier in Tier}
        self._wanted: dict[str, None] = {}
        self.events: list[EngineEvent] = []

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, lease: str) -> bool:
        return lease in self._held

    def grant(self, lease: Lease, digests: Sequence[Digest], hint: Path | None = None) -> LeaseGrant:
        """Hold as much of a chain as is resident and the share allows; a known id is renewed, in the tier it is in.

        Leases of smaller rank give way to one of larger rank when the share is full. Nothing to hold: 0 bytes, and
        no lease. Raises `InvalidRequest` for a TTL that is no positive number.
        """
        ttl_s = self._ttl(lease.ttl_s)
        if math.isnan(lease.rank):
            raise InvalidRequest("a lease's rank must be a number")
        previous = self._held.pop(lease.id, None)
        tier = lease.tier
        if previous is not None:
            tier, digests = previous.tier, digests or previous.digests
        if tier is Tier.DEVICE:
            found = self._cache.find(digests, len(digests), hint)
        else:
            found = previous.blocks if previous is not None and digests == previous.digests else blocks_of()
        same = (
            previous is not None
            and len(found) > 0
            and found == previous.blocks
            and lease.program == previous.program
            and lease.request in ("", previous.request)
        )
        if previous is not None and not same:
            self._let_go(previous)
        if same:
            blocks = found
        elif tier is Tier.DEVICE:
            blocks = self._hold(tier, found, lease.rank)
        else:
            blocks = self._hold_on_host(digests, lease.program, lease.rank)
        if not blocks:
            if previous is not None:
                self._ended(previous, LeaseOutcome.PRESSURE)
            return LeaseGrant(lease.id, 0, None, 0.0)
        held = _Held(
            lease.id,
            lease.program,
            lease.request or (previous.request if previous is not None else ""),
            tier,
            digests if len(digests) == len(blocks) else digests[: len(blocks)],
            blocks,
            lease.rank,
            ttl_s,
            self._clock.now() + ttl_s,
        )
        self._enter(held)
        if previous is None:
            self.events.append(EngineEvent(EngineEventKind.LEASED, held.program, len(blocks), held.lease, tier=tier))
        return self._granted(held)

    def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        """Let a held lease run for `ttl_s` from now; one that is unknown or has ended holds 0 bytes."""
        ttl_s = self._ttl(ttl_s)
        held = self._held.get(lease)
        if held is None:
            return LeaseGrant(lease, 0, None, 0.0)
        held.ttl_s = ttl_s
        self._renew(held)
        return self._granted(held)

    def demote(self, lease: str) -> LeaseGrant:
        """Move a lease to the host; if nothing of it fits there it ends as `PRESSURE`."""
        held = self._held.get(lease)
        if held is None:
            return LeaseGrant(lease, 0, None, 0.0)
        if held.tier is Tier.DEVICE and not self._move_down(held):
            return LeaseGrant(lease, 0, None, 0.0)
        return self._granted(held)

    def prefetch(self, lease: str, within_s: float) -> None:
        """Bring a lease back to the device, now or as soon as there is room within `within_s` seconds."""
        held = self._held.get(lease)
        if held is not None and held.tier is Tier.HOST:
            held.wanted_s = self._clock.now() + within_s
            self._wanted[lease] = None
            self.fetch_wanted()

    def fetch_wanted(self) -> None:
        """Move to the device what shall be there and fits beside everything that is held."""
        now = self._clock.now()
        for lease in list(self._wanted):
            held = self._held.get(lease)
            if held is None or held.tier is Tier.DEVICE or held.wanted_s < now or self._move_up(held):
                del self._wanted[lease]

    def touch(self, program: str, table: Blocks[int]) -> None:
        """A sequence of `program` uses `table`: leases on chains within it start their time anew."""
        for lease in self._by_program.get(program, ()):
            held = self._held[lease]
            last = len(held.blocks) - 1
            if held.tier is Tier.DEVICE and last < len(table) and table[last] == held.blocks[last]:
                self._renew(held)

    def hand_off(self, request: str) -> None:
        """The call that continues `request` has what it needs: leases on that request's chain end."""
        for lease in list(self._by_request.get(request, ())):
            self.release(lease, LeaseOutcome.HANDOFF)

    def release(self, lease: str, outcome: LeaseOutcome) -> None:
        """End a lease with `outcome`; no error if it is unknown or has ended."""
        held = self._held.pop(lease, None)
        if held is not None:
            self._let_go(held)
            self._ended(held, outcome)

    def expire(self, queued: Callable[[str], bool]) -> None:
        """End what is due. A lease whose program has a call queued stays until `settle`: it is about to be used."""
        now = self._clock.now()
        while self._deadlines and self._deadlines[0][0] <= now:
            due, lease = heapq.heappop(self._deadlines)
            held = self._held.get(lease)
            if held is None or held.expires_s != due:
                continue
            if queued(held.program):
                held.lapsed = True
            else:
                self.release(held.lease, LeaseOutcome.EXPIRED)

    def settle(self, program: str) -> None:
        """`program` has no call queued any more: what lapsed in the meantime ends."""
        for lease in [lease for lease in self._by_program.get(program, ()) if self._held[lease].lapsed]:
            self.release(lease, LeaseOutcome.EXPIRED)

    def next_deadline_s(self) -> float | None:
        """When `expire` has something to do next, on the clock; None if no lease runs."""
        while self._deadlines:
            due, lease = self._deadlines[0]
            held = self._held.get(lease)
            if held is not None and held.expires_s == due:
                return due
            heapq.heappop(self._deadlines)
        return None

    def break_one(self, tier: Tier = Tier.DEVICE, below: float = math.inf) -> bool:
        """Take the memory of the lease of smallest rank (less than a finite `below`) in `tier`. False if there is none.

        One on the device moves to the host if there is room for it, or room to be had from smaller ranks; else it ends
        as `PRESSURE`.
        """
        ranks = self._ranks[tier]
        while ranks:
            rank, lease = ranks[0]
            held = self._held.get(lease)
            if held is None or held.rank != rank or held.tier is not tier:
                heapq.heappop(ranks)
                continue
            if rank >= below and below < math.inf:
                return False
            if tier is Tier.DEVICE:
                self._move_down(held)
            else:
                self.release(held.lease, LeaseOutcome.PRESSURE)
            return True
        return False

    def break_holders(self, tier: Tier, blocks: Iterable[int]) -> None:
        """End all leases that hold one of `blocks` of `tier`: their contents cannot be trusted."""
        gone = set(blocks)
        for held in [held for held in self._held.values() if held.tier is tier and not gone.isdisjoint(held.blocks)]:
            self.release(held.lease, LeaseOutcome.PRESSURE)

    # memory

    def _hold(self, tier: Tier, chain: Blocks[int], rank: float) -> Blocks[int]:
        """Lease blocks of `chain` from the root as far as the tier's share goes, if need be at smaller ranks' cost."""
        pool, budget = self._stores[tier].pool, self._budget[tier]
        while True:
            room = budget - pool.under_lease
            if len(chain) <= room:
                pool.lease(chain)
                return chain
            new = pool.newly_leased(chain)
            if int(np.count_nonzero(new)) <= room:
                pool.lease(chain)
                return chain
            if not self._break_below(tier, rank):
                break
        over = np.flatnonzero(np.cumsum(new) > max(room, 0))
        if len(over):
            chain = chain[: int(over[0])]
        pool.lease(chain)
        return chain

    def _break_below(self, tier: Tier, rank: float) -> bool:
        """Because a share is full, not the memory: what gives way on the device ends, if the host has no room."""
        return self.break_one(tier, below=min(rank, _LARGEST))

    def _hold_on_host(
        self, digests: Sequence[Digest], program: str, rank: float, device: Blocks[int] | None = None
    ) -> Blocks[int]:
        """Lease a chain on the host: what is there, and copies of what is only on the device, if known in `device`."""
        cache = self._cache
        if device is None or cache.device.index.get(digests[-1]) != device[-1]:
            device = cache.find(digests, len(digests))
        here = cache.host.index.run(digests, 0, len(digests))
        count = max(len(device), len(here))
        while count and self._budget[Tier.HOST]:
            saved = here if len(here) >= count else cache.save(device, digests[:count], program)
            if saved is not None:
                held = self._hold(Tier.HOST, saved, rank)
                if saved is not here:
                    cache.host.pool.drop(saved)
                return held
            if not self.break_one(Tier.HOST, below=min(rank, _LARGEST)):
                count = min(count - 1, cache.host.pool.available)
                here = cache.host.index.run(digests, 0, count)
        return blocks_of()

    def _move_down(self, held: _Held) -> bool:
        """From the device to the host. False: it could not be held there and has ended."""
        blocks = self._hold_on_host(held.digests, held.program, held.rank, held.blocks)
        del self._held[held.lease]
        self._let_go(held)
        if not blocks:
            self._ended(held, LeaseOutcome.PRESSURE)
            return False
        held.tier, held.blocks, held.digests = Tier.HOST, blocks, held.digests[: len(blocks)]
        self._enter(held)
        return True

    def _move_up(self, held: _Held) -> bool:
        """From the host to the device, if all of it fits beside what is held there."""
        cache, device = self._cache, self._cache.device
        here = cache.find(held.digests, len(held.digests))
        missing = len(held.digests) - len(here)
        device.pool.refer(here)
        fits = missing <= device.pool.available
        fits = fits and missing + int(np.count_nonzero(device.pool.newly_leased(here))) <= (
            self._budget[Tier.DEVICE] - device.pool.under_lease
        )
        if not fits:
            device.pool.drop(here)
            return False
        parent = here[-1] if here else ROOT
        chain = here + cache.load(held.digests, len(here), parent, held.blocks[len(here) :], held.program)
        device.pool.lease(chain)
        device.pool.drop(chain)
        del self._held[held.lease]
        self._let_go(held)
        held.tier, held.blocks = Tier.DEVICE, chain
        self._enter(held)
        return True

    # the table

    def _ttl(self, ttl_s: float) -> float:
        if not ttl_s > 0:
            raise InvalidRequest(f"a lease's ttl_s must be a positive number of seconds, not {ttl_s}")
        return min(ttl_s, self._max_ttl_s)

    def _enter(self, held: _Held) -> None:
        self._held[held.lease] = held
        self._by_program.setdefault(held.program, set()).add(held.lease)
        if held.request:
            self._by_request.setdefault(held.request, set()).add(held.lease)
        self._push(self._deadlines, held.expires_s, held.lease)
        self._push(self._ranks[held.tier], held.rank, held.lease)

    def _let_go(self, held: _Held) -> None:
        for table, key in ((self._by_program, held.program), (self._by_request, held.request)):
            leases = table.get(key)
            if leases is not None:
                leases.discard(held.lease)
                if not leases:
                    del table[key]
        self._stores[held.tier].pool.unlease(held.blocks)

    def _renew(self, held: _Held) -> None:
        held.expires_s = self._clock.now() + held.ttl_s
        held.lapsed = False
        self._push(self._deadlines, held.expires_s, held.lease)

    def _push(self, heap: list[tuple[float, str]], key: float, lease: str) -> None:
        """Add an entry; entries of ended or renewed leases are dropped when they are most of the heap."""
        heapq.heappush(heap, (key, lease))
        if len(heap) > 4 * len(self._held) + 64:
            of_time = heap is self._deadlines
            held = ((entry, self._held.get(entry[1])) for entry in set(heap))
            heap[:] = [e for e, h in held if h is not None and e[0] == (h.expires_s if of_time else h.rank)]
            heapq.heapify(heap)

    def _granted(self, held: _Held) -> LeaseGrant:
        size = len(held.blocks) * self._block_bytes
        return LeaseGrant(held.lease, size, held.tier, held.expires_s - self._clock.now())

    def _ended(self, held: _Held, outcome: LeaseOutcome) -> None:
        kind, size = EngineEventKind.LEASE_ENDED, len(held.blocks)
        self.events.append(EngineEvent(kind, held.program, size, held.lease, outcome, held.tier))

    def check(self) -> None:
        """Raise AssertionError unless the pools' lease counts are those of the held chains."""
        assert sum(map(len, self._by_program.values())) == len(self._held), "a program knows an ended lease"
        for tier, store in self._stores.items():
            counts = np.zeros(store.pool.total, np.int32)
            for held in self._held.values():
                if held.tier is tier:
                    assert len(held.blocks) == len(held.digests) > 0, "a lease holds nothing"
                    assert held.lease in self._by_program[held.program], "a lease's program does not know it"
                    found = store.index.run(held.digests, 0, len(held.digests))
                    # Whoever goes on writing a partial last block gives it another name.
                    assert len(found) >= len(held.blocks) - 1, "a leased block cannot be found"
                    assert found == held.blocks[: len(found)], "a leased chain has moved"
                    counts[np.asarray(held.blocks)] += 1
            assert store.pool.holds_leases(counts), "blocks under lease are miscounted"
            assert store.pool.under_lease <= self._budget[tier], "the share of a tier is exceeded"


_LARGEST = 1.797e308
"""Below it are all finite ranks: an infinite one never gives way to another lease."""
