"""Leases: granted within the budget, timed on the clock, broken by rank, each with one outcome."""

from __future__ import annotations

import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.kv.blocks import blocks_of
from engine.kv.cache import BlockCache, CopyKind
from engine.kv.prefix import extend_chain
from engine.protocol import EngineEvent, EngineEventKind, InvalidRequest, Lease, LeaseGrant, LeaseOutcome, Tier


def chain(tokens: tuple[int, ...]) -> list[bytes]:
    digests: list[bytes] = []
    extend_chain(digests, tokens, "")
    return digests


class Bench:
    """A cache with chains that nobody holds; no more than `budget` blocks of a tier may be under lease."""

    def __init__(self, total: int = 20, budget: int = 10, host: int = 0) -> None:
        self.clock = ManualClock(100.0)
        share = budget / total
        self.cache = BlockCache(total, self.clock, host_blocks=host, lease_share=share, max_ttl_s=60.0, block_bytes=10)
        self.pool = self.cache.device.pool

    def store(self, name: int, blocks: int, program: str = "p") -> tuple[int, ...]:
        """Compute and let go of a chain of `blocks` full blocks; its tokens."""
        tokens = tuple(name * 1000 + i for i in range(blocks * BLOCK_TOKENS))
        digests = chain(tokens)
        table = self.cache.find(digests, blocks)
        self.pool.refer(table)
        found = len(table)
        taken = self.cache.take(blocks - found, may_break_leases=False) if found < blocks else blocks_of()
        assert taken is not None
        table.extend(taken)
        self.cache.publish(table, digests, found, blocks, program)
        self.cache.release(table)
        self.cache.check()
        return tokens

    def resident(self, tokens: tuple[int, ...]) -> int:
        return len(self.cache.find(chain(tokens), len(tokens) // BLOCK_TOKENS))

    def retain(
        self, name: str, tokens: tuple[int, ...], rank: float = 0.0, ttl_s: float = 10.0, tier: Tier = Tier.DEVICE
    ) -> LeaseGrant:
        lease = Lease(name, "p", tokens, ttl_s, rank=rank, tier=tier)
        grant = self.cache.leases.grant(lease, chain(tokens))
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
    assert (bench.pool.leased, bench.pool.cached) == (3, 0)
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
    assert bench.pool.cached == 2, "an expired lease's blocks stay until the memory is wanted"


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
    assert bench.pool.under_lease == 4
    bench.cache.leases.release("a", LeaseOutcome.FINAL)
    assert bench.pool.leased == 4
    bench.cache.leases.release("b", LeaseOutcome.FINAL)
    assert bench.pool.leased == 0


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
    assert bench.cache.take(2, may_break_leases=False) is not None and bench.resident(cached) == 0
    assert bench.cache.take(1, may_break_leases=False) is None
    assert bench.cache.take(1, may_break_leases=True) is not None
    assert bench.outcomes() == [("second", LeaseOutcome.PRESSURE)]
    assert bench.resident(first) == 2


def test_a_lease_does_not_expire_while_its_programs_call_is_queued() -> None:
    bench = Bench()
    tokens = bench.store(1, 2)
    bench.retain("a", tokens, ttl_s=5.0)
    bench.expire(6.0, queued=True)
    assert bench.outcomes() == [] and bench.pool.leased == 2
    assert bench.cache.leases.next_deadline_s() is None, "nothing is to be done until the call leaves the queue"
    bench.cache.leases.settle("p")
    assert bench.outcomes() == [("a", LeaseOutcome.EXPIRED)]


def test_use_starts_the_time_anew() -> None:
    bench = Bench()
    tokens = bench.store(1, 3)
    bench.retain("a", tokens[:32], ttl_s=5.0)
    table = bench.cache.find(chain(tokens), 3)
    bench.expire(4.0)
    bench.cache.leases.touch("p", table)
    bench.cache.leases.touch("other", table)
    bench.expire(4.0)
    assert bench.outcomes() == []
    bench.cache.leases.touch("p", table[:1])
    bench.expire(1.5)
    assert bench.outcomes() == [("a", LeaseOutcome.EXPIRED)], "a shorter chain is no use of the lease's"


def test_ended_leases_leave_nothing_behind() -> None:
    bench = Bench()
    tokens = bench.store(1, 1)
    for index in range(5_000):
        bench.retain(f"l{index}", tokens, rank=float(index), ttl_s=50.0)
        bench.cache.leases.release(f"l{index}", LeaseOutcome.FINAL)
    leases = bench.cache.leases
    assert len(leases._deadlines) + len(leases._ranks[Tier.DEVICE]) < 200
    assert not leases._held and not leases._by_program


def test_a_lease_moves_to_the_host_before_it_drops() -> None:
    bench = Bench(total=6, budget=6, host=10)
    tokens = bench.store(1, 4)
    bench.retain("a", tokens)
    assert bench.cache.take(6, may_break_leases=True) is not None
    assert bench.outcomes() == [], "it still holds, elsewhere"
    assert bench.cache.leases.extend("a", 5.0) == LeaseGrant("a", 40, Tier.HOST, 5.0)
    ((kind, pairs),) = bench.cache.copies
    assert kind is CopyKind.DEVICE_TO_HOST and len(pairs) == 4
    bench.cache.check()
    bench.expire(6.0)
    assert bench.outcomes() == [("a", LeaseOutcome.EXPIRED)]
    assert bench.cache.host.pool.cached == 4, "what lies on the host can still be found there"


def test_a_demoted_lease_comes_back_as_soon_as_there_is_room() -> None:
    bench = Bench(total=6, budget=6, host=10)
    tokens = bench.store(1, 4)
    bench.retain("a", tokens)
    assert bench.cache.leases.demote("a").tier is Tier.HOST
    assert bench.pool.leased == 0 and bench.pool.cached == 4
    taken = bench.cache.take(4, may_break_leases=True)
    assert taken is not None
    bench.cache.copies.clear()
    bench.cache.leases.prefetch("a", 10.0)
    assert not bench.cache.copies, "there is no room yet"
    bench.cache.release(taken)
    bench.cache.leases.fetch_wanted()
    bench.cache.check()
    assert bench.cache.leases.extend("a", 5.0).tier is Tier.DEVICE
    ((kind, pairs),) = bench.cache.copies
    assert kind is CopyKind.HOST_TO_DEVICE and len(pairs) == 2, "what was not evicted needs no copy"


def test_a_prefetch_that_finds_no_room_in_time_is_forgotten() -> None:
    bench = Bench(total=6, budget=6, host=10)
    bench.retain("a", bench.store(1, 4))
    bench.cache.leases.demote("a")
    taken = bench.cache.take(6, may_break_leases=True)
    assert taken is not None
    bench.cache.leases.prefetch("a", 1.0)
    bench.clock.advance(2.0)
    bench.cache.release(taken)
    bench.cache.leases.fetch_wanted()
    assert bench.cache.leases.extend("a", 5.0).tier is Tier.HOST


def test_shared_blocks_are_copied_to_the_host_once() -> None:
    bench = Bench(host=20)
    tokens = bench.store(1, 3)
    bench.retain("a", tokens)
    bench.retain("b", tokens[:32])
    bench.cache.leases.demote("a")
    bench.cache.leases.demote("b")
    assert [len(pairs) for _, pairs in bench.cache.copies] == [3]
    assert bench.cache.host.pool.under_lease == 3


def test_the_hosts_share_bounds_what_is_demoted_and_rank_decides() -> None:
    bench = Bench(total=20, budget=10, host=8)
    for name, rank in (("low", 1.0), ("high", 2.0)):
        bench.retain(name, bench.store(ord(name[0]), 3), rank=rank)
    assert bench.cache.leases.demote("high").bytes == 30
    assert bench.cache.leases.demote("low").bytes == 10, "one block is left of the host's share of four"
    bench.cache.check()
    bench.retain("top", bench.store(7, 4), rank=3.0)
    assert bench.cache.leases.demote("top").bytes == 40
    assert sorted(bench.outcomes()) == [("high", LeaseOutcome.PRESSURE), ("low", LeaseOutcome.PRESSURE)]


def test_a_lease_may_begin_on_the_host() -> None:
    bench = Bench(host=20)
    tokens = bench.store(1, 3)
    assert bench.retain("a", tokens, tier=Tier.HOST) == LeaseGrant("a", 30, Tier.HOST, 10.0)
    assert bench.pool.leased == 0 and bench.cache.host.pool.leased == 3
    assert Bench(host=0).retain("a", tokens, tier=Tier.HOST).bytes == 0


def test_renewing_changes_rank_and_time_and_never_the_tier() -> None:
    bench = Bench(total=20, budget=6, host=20)
    tokens = bench.store(1, 3)
    bench.retain("a", tokens, rank=1.0)
    bench.cache.leases.demote("a")
    renewed = bench.cache.leases.grant(Lease("a", "p", (), 20.0, rank=9.0), [])
    assert renewed == LeaseGrant("a", 30, Tier.HOST, 20.0)
    assert bench.outcomes() == []


def test_a_handoff_ends_the_leases_on_a_requests_chain() -> None:
    bench = Bench()
    digests = chain(bench.store(1, 2))
    for name, request in (("r", "r"), ("other", "r"), ("s", "s")):
        bench.cache.leases.grant(Lease(name, "p", (), 5.0, request=request), digests)
    bench.cache.leases.hand_off("r")
    assert sorted(bench.outcomes()) == [("other", LeaseOutcome.HANDOFF), ("r", LeaseOutcome.HANDOFF)]
    assert bench.cache.leases.holds("s")
