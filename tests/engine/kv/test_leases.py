"""Leases: granted within the budget, timed on the clock, broken by rank, each with one outcome."""

from __future__ import annotations

import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.kv.cache import BlockCache
from engine.kv.prefix import ROOT, extend_chain
from engine.protocol import EngineEvent, EngineEventKind, InvalidRequest, Lease, LeaseGrant, LeaseOutcome, Tier


class Bench:
    """A cache with chains that nobody holds."""

    def __init__(self, total: int = 20, budget: int = 10) -> None:
        self.clock = ManualClock(100.0)
        self.cache = BlockCache(total, self.clock, lease_blocks=budget, max_ttl_s=60.0, block_bytes=10)

    def store(self, name: int, blocks: int, program: str = "p") -> tuple[int, ...]:
        """Compute and let go of a chain of `blocks` full blocks; its tokens."""
        tokens = tuple(name * 1000 + i for i in range(blocks * BLOCK_TOKENS))
        hashes: list[bytes] = []
        extend_chain(hashes, tokens, "")
        table: list[int] = []
        for digest in hashes:
            block = self.cache.adopt(digest)
            if block is None:
                block = self.cache.take(may_break_leases=False)
                assert block is not None
                self.cache.publish(block, digest, table[-1] if table else ROOT, program)
            table.append(block)
        self.cache.release(table)
        self.cache.check()
        return tokens

    def retain(self, name: str, tokens: tuple[int, ...], rank: float = 0.0, ttl_s: float = 10.0) -> LeaseGrant:
        lease = Lease(name, "p", tokens, ttl_s, rank=rank)
        grant = self.cache.leases.grant(lease, self.cache.chain(tokens, ""))
        self.cache.check()
        return grant

    def outcomes(self) -> list[tuple[str | None, LeaseOutcome | None]]:
        events = [event for event in self.cache.drain_events() if event.kind is EngineEventKind.LEASE_ENDED]
        return [(event.lease, event.outcome) for event in events]

    def expire(self, seconds: float, queued: bool = False) -> None:
        self.clock.advance(seconds)
        self.cache.leases.expire(lambda program: queued)
        self.cache.check()


def test_a_grant_says_what_is_held() -> None:
    bench = Bench()
    tokens = bench.store(1, 3)
    assert bench.retain("a", tokens) == LeaseGrant("a", 30, Tier.DEVICE, 10.0)
    assert (bench.cache.pool.leased, bench.cache.pool.cached) == (3, 0)
    assert EngineEvent(EngineEventKind.LEASED, "p", 3, "a") in bench.cache.drain_events()
    assert bench.retain("b", (5,) * 64) == LeaseGrant("b", 0, None, 0.0)
    assert not bench.cache.drain_events(), "what was not granted is no lease"


def test_only_the_resident_prefix_is_held_and_partial_blocks_are_not() -> None:
    bench = Bench()
    tokens = bench.store(1, 3)
    assert bench.retain("a", (*tokens, 7, 8)).bytes == 30
    assert bench.retain("b", (*tokens[:40], *range(40))).bytes == 20


def test_time_is_what_the_clock_says_and_capped() -> None:
    bench = Bench()
    tokens = bench.store(1, 2)
    assert bench.retain("a", tokens, ttl_s=1e9).expires_in_s == 60.0
    assert bench.cache.leases.next_deadline_s() == 160.0
    bench.expire(59.9)
    assert bench.outcomes() == []
    bench.expire(0.2)
    assert bench.outcomes() == [("a", LeaseOutcome.EXPIRED)]
    assert bench.cache.leases.next_deadline_s() is None
    assert bench.cache.pool.cached == 2, "an expired lease's blocks stay until the memory is wanted"


def test_extending_moves_the_end_and_ended_leases_hold_nothing() -> None:
    bench = Bench()
    tokens = bench.store(1, 2)
    bench.retain("a", tokens, ttl_s=5.0)
    bench.clock.advance(4.0)
    assert bench.cache.leases.extend("a", 5.0) == LeaseGrant("a", 20, Tier.DEVICE, 5.0)
    bench.expire(4.0)
    assert len(bench.cache.leases) == 1
    bench.expire(1.0)
    assert bench.cache.leases.extend("a", 5.0) == LeaseGrant("a", 0, None, 0.0)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
def test_a_lease_needs_a_time(ttl_s: float) -> None:
    bench = Bench()
    with pytest.raises(InvalidRequest, match="ttl_s"):
        bench.retain("a", bench.store(1, 1), ttl_s=ttl_s)


def test_each_lease_has_one_outcome() -> None:
    bench = Bench()
    bench.retain("a", bench.store(1, 2))
    bench.cache.leases.release("a", LeaseOutcome.HANDOFF)
    bench.cache.leases.release("a", LeaseOutcome.FINAL)
    bench.expire(100.0)
    assert bench.outcomes() == [("a", LeaseOutcome.HANDOFF)]


def test_shared_blocks_count_once_and_stay_for_the_last_holder() -> None:
    bench = Bench(budget=4)
    tokens = bench.store(1, 4)
    assert bench.retain("a", tokens).bytes == bench.retain("b", tokens).bytes == 40
    assert bench.cache.pool.under_lease == 4
    bench.cache.leases.release("a", LeaseOutcome.FINAL)
    assert bench.cache.pool.leased == 4
    bench.cache.leases.release("b", LeaseOutcome.FINAL)
    assert bench.cache.pool.leased == 0


def test_the_budget_bounds_and_rank_decides_who_gives_way() -> None:
    bench = Bench(budget=5)
    low, high, newcomer = bench.store(1, 3), bench.store(2, 2), bench.store(3, 4)
    bench.retain("low", low, rank=1.0)
    bench.retain("high", high, rank=5.0)
    assert bench.retain("equal", newcomer, rank=1.0).bytes == 0
    assert bench.outcomes() == []
    assert bench.retain("mid", newcomer, rank=3.0).bytes == 30, "three blocks: what the budget has left"
    assert bench.outcomes() == [("low", LeaseOutcome.PRESSURE)]


def test_no_budget_no_lease() -> None:
    bench = Bench(budget=0)
    assert bench.retain("a", bench.store(1, 2)).bytes == 0


def test_retaining_again_replaces_the_chain() -> None:
    bench = Bench()
    short = bench.store(1, 2)
    long = bench.store(1, 5)
    bench.retain("a", short, ttl_s=5.0)
    assert bench.retain("a", long, ttl_s=20.0).bytes == 50
    bench.expire(10.0)
    assert bench.outcomes() == []
    bench.retain("a", (1,) * 32)
    assert bench.outcomes() == [("a", LeaseOutcome.PRESSURE)], "nothing of the new chain is here: the lease is over"


def test_memory_takes_cached_blocks_before_leases_and_leases_by_rank() -> None:
    bench = Bench(total=6, budget=6)
    first, second, cached = bench.store(1, 2), bench.store(2, 2), bench.store(3, 2)
    bench.retain("first", first, rank=2.0)
    bench.retain("second", second, rank=1.0)
    taken = [bench.cache.take(may_break_leases=False) for _ in range(2)]
    assert None not in taken and bench.cache.chain(cached, "") == []
    assert bench.cache.take(may_break_leases=False) is None
    assert bench.cache.take(may_break_leases=True) is not None
    assert bench.outcomes() == [("second", LeaseOutcome.PRESSURE)]
    assert len(bench.cache.chain(first, "")) == 2


def test_a_lease_does_not_expire_while_its_programs_call_is_queued() -> None:
    bench = Bench()
    tokens = bench.store(1, 2)
    bench.retain("a", tokens, ttl_s=5.0)
    bench.expire(6.0, queued=True)
    assert bench.outcomes() == [] and bench.cache.pool.leased == 2
    assert bench.cache.leases.next_deadline_s() is None, "nothing is to be done until the call leaves the queue"
    bench.cache.leases.settle("p")
    assert bench.outcomes() == [("a", LeaseOutcome.EXPIRED)]


def test_use_starts_the_time_anew() -> None:
    bench = Bench()
    tokens = bench.store(1, 3)
    bench.retain("a", tokens[:32], ttl_s=5.0)
    chain = bench.cache.chain(tokens, "")
    bench.expire(4.0)
    bench.cache.leases.touch("p", chain)
    bench.cache.leases.touch("other", chain)
    bench.expire(4.0)
    assert bench.outcomes() == []
    bench.cache.leases.touch("p", chain[:1])
    bench.expire(1.5)
    assert bench.outcomes() == [("a", LeaseOutcome.EXPIRED)], "a shorter chain is no use of the lease's"


def test_ended_leases_leave_nothing_behind() -> None:
    bench = Bench()
    tokens = bench.store(1, 1)
    for index in range(5_000):
        bench.retain(f"l{index}", tokens, rank=float(index), ttl_s=50.0)
        bench.cache.leases.release(f"l{index}", LeaseOutcome.FINAL)
    leases = bench.cache.leases
    assert len(leases._deadlines) + len(leases._ranks) < 200
    assert not leases._held and not leases._by_program
