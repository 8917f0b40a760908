"""Leases: the right of a program to keep a block chain on the device until a time. Each ends with one outcome.

Bounded by a budget in blocks, expired by a heap of deadlines on the injected clock, broken by rank when admitted work
cannot go on otherwise. Decides nothing about who deserves a lease: that is the orchestrator's.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.clock import Clock
from engine.kv.blocks import BlockPool
from engine.kv.prefix import PrefixIndex
from engine.protocol import EngineEvent, EngineEventKind, InvalidRequest, Lease, LeaseGrant, LeaseOutcome, Tier


@dataclass(slots=True)
class _Held:
    """A lease that was granted and has not ended. `lapsed`: its time is over, but its program's next call is queued."""

    lease: str
    program: str
    blocks: list[int]
    rank: float
    ttl_s: float
    expires_s: float
    lapsed: bool = False


class LeaseTable:
    """All leases that hold blocks now.

    Invariant, `check()`: the pool's lease counts are those of the held chains, and no more blocks are under lease than
    the budget. A chain is held from its root without gaps, so eviction stays leaf first.
    """

    def __init__(
        self, pool: BlockPool, index: PrefixIndex, clock: Clock, *, budget: int, max_ttl_s: float, block_bytes: int = 1
    ) -> None:
        self._pool, self._index, self._clock = pool, index, clock
        self._budget, self._max_ttl_s, self._block_bytes = budget, max_ttl_s, block_bytes
        self._held: dict[str, _Held] = {}
        self._by_program: dict[str, set[str]] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._ranks: list[tuple[float, str]] = []
        self.events: list[EngineEvent] = []

    def __len__(self) -> int:
        return len(self._held)

    def grant(self, lease: Lease, chain: Sequence[int]) -> LeaseGrant:
        """Hold as much of `chain` (resident blocks, root first) as the budget allows; a known id is replaced.

        Leases of smaller rank give way to one of larger rank when the budget is full. Nothing to hold: 0 bytes, and
        no lease. Raises `InvalidRequest` for a TTL that is no positive number.
        """
        ttl_s = self._ttl(lease.ttl_s)
        if math.isnan(lease.rank):
            raise InvalidRequest("a lease's rank must be a number")
        previous = self._held.pop(lease.id, None)
        if previous is not None:
            self._let_go(previous)
        if lease.tier is not Tier.DEVICE:
            chain = ()
        blocks = self._hold(chain, lease.rank)
        if not blocks:
            if previous is not None:
                self._ended(previous, LeaseOutcome.PRESSURE)
            return LeaseGrant(lease.id, 0, None, 0.0)
        held = _Held(lease.id, lease.program, blocks, lease.rank, ttl_s, self._clock.now() + ttl_s)
        self._held[held.lease] = held
        self._by_program.setdefault(held.program, set()).add(held.lease)
        self._push(self._deadlines, held.expires_s, held.lease)
        self._push(self._ranks, held.rank, held.lease)
        if previous is None:
            self.events.append(EngineEvent(EngineEventKind.LEASED, held.program, len(blocks), held.lease))
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

    def touch(self, program: str, table: Sequence[int]) -> None:
        """A sequence of `program` uses `table`: leases on chains within it start their time anew."""
        for lease in self._by_program.get(program, ()):
            held = self._held[lease]
            last = len(held.blocks) - 1
            if last < len(table) and table[last] == held.blocks[last]:
                self._renew(held)

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
            entry = heapq.heappop(self._deadlines)
            if not self._is_current(self._deadlines, entry):
                continue
            held = self._held[entry[1]]
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
        while self._deadlines and not self._is_current(self._deadlines, self._deadlines[0]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def break_one(self, below: float = math.inf) -> bool:
        """End the lease of smallest rank (less than `below`) because memory is wanted. False if there is none."""
        while self._ranks:
            rank, lease = self._ranks[0]
            if not self._is_current(self._ranks, self._ranks[0]):
                heapq.heappop(self._ranks)
                continue
            if rank >= below:
                return False
            self.release(lease, LeaseOutcome.PRESSURE)
            return True
        return False

    def break_holder(self, block: int) -> None:
        """End a lease that holds `block`."""
        lease = next(lease for lease, held in self._held.items() if block in held.blocks)
        self.release(lease, LeaseOutcome.PRESSURE)

    def _ttl(self, ttl_s: float) -> float:
        if not ttl_s > 0:
            raise InvalidRequest(f"a lease's ttl_s must be a positive number of seconds, not {ttl_s}")
        return min(ttl_s, self._max_ttl_s)

    def _hold(self, chain: Sequence[int], rank: float) -> list[int]:
        """Lease blocks of `chain` from the root until the budget is full."""
        blocks: list[int] = []
        for block in chain:
            while not self._pool.is_leased(block) and self._pool.under_lease >= self._budget:
                if not self.break_one(below=rank):
                    return blocks
            self._pool.lease(block)
            blocks.append(block)
        return blocks

    def _renew(self, held: _Held) -> None:
        held.expires_s = self._clock.now() + held.ttl_s
        held.lapsed = False
        self._push(self._deadlines, held.expires_s, held.lease)

    def _push(self, heap: list[tuple[float, str]], key: float, lease: str) -> None:
        """Add an entry; entries of ended or renewed leases are dropped when they are most of the heap."""
        heapq.heappush(heap, (key, lease))
        if len(heap) > 4 * len(self._held) + 64:
            heap[:] = [entry for entry in heap if self._is_current(heap, entry)]
            heapq.heapify(heap)

    def _is_current(self, heap: list[tuple[float, str]], entry: tuple[float, str]) -> bool:
        held = self._held.get(entry[1])
        return held is not None and entry[0] == (held.rank if heap is self._ranks else held.expires_s)

    def _granted(self, held: _Held) -> LeaseGrant:
        size = len(held.blocks) * self._block_bytes
        return LeaseGrant(held.lease, size, Tier.DEVICE, held.expires_s - self._clock.now())

    def _let_go(self, held: _Held) -> None:
        leases = self._by_program[held.program]
        leases.remove(held.lease)
        if not leases:
            del self._by_program[held.program]
        for block in reversed(held.blocks):
            self._pool.unlease(block, keep=block in self._index)

    def _ended(self, held: _Held, outcome: LeaseOutcome) -> None:
        self.events.append(
            EngineEvent(EngineEventKind.LEASE_ENDED, held.program, len(held.blocks), held.lease, outcome)
        )

    def check(self) -> None:
        """Raise AssertionError unless the pool's lease counts are those of the held chains."""
        counts: dict[int, int] = {}
        for held in self._held.values():
            assert held.blocks, "a lease holds nothing"
            assert held.lease in self._by_program[held.program], "a lease's program does not know it"
            for block in held.blocks:
                counts[block] = counts.get(block, 0) + 1
        assert sum(map(len, self._by_program.values())) == len(self._held), "a program knows an ended lease"
        assert self._pool.under_lease == len(counts) <= max(self._budget, 0), "blocks under lease are miscounted"
        assert all(self._pool.is_leased(block) for block in counts), "a leased block is not held"
