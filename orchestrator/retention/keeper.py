"""Carries plans out: leases in the books and in the engines, through time and under pressure.

Owns every lease from its grant to its one outcome. Never decides: a plan is given, and asked for again when its time is
over or memory's price has moved.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from engine.protocol import Engine, RetentionSupport
from kv_ttl.ledger import Outcome, Tier
from orchestrator.clock import OrchestratorClock
from orchestrator.retention.chains import Chain
from orchestrator.retention.desk import Desk
from orchestrator.retention.rules import Plan

_SHORTEST_S, _SHORTEST_SHARE = 0.05, 0.125
"""No lease is shorter than these seconds, as a message to the engine costs as much, nor, where a return is due at once
and does not come, than this share of the pause so far."""
_AGAIN_S = 0.5
"""Two looks at all leases because of the price are at least this far apart."""
_PRICE_MOVED = 1.5
"""Leases are looked at again when the price is this many times what it was, or a part of it."""
_HOST_S = 60.0
"""What was given up to the host stays there for twice its expected pause, and this long at least."""

Again = Callable[[Chain, Outcome], None]
"""Decide on a chain again; the outcome is that of a lease which is dropped."""
Kept = Callable[[Engine, str, int], None]
"""(engine, program, tokens): so many tokens are kept on the device for a paused program; 0 = none any more."""


class Keeper:
    """The leases of all engines.

    Invariant (`check`): a chain has a lease exactly while its desk's ledger has one under its name; the earliest
    expiry of each desk has a timer.
    """

    def __init__(
        self, clock: OrchestratorClock, again: Again, kept: Kept, budget_share: float, *, one_pool: bool = False
    ) -> None:
        self.kept = kept
        self._clock = clock
        self._again = again
        self._share = budget_share
        self._one_pool = one_pool
        self.desks: dict[Engine, Desk] = {}
        self._expiries: dict[Desk, asyncio.TimerHandle] = {}
        self._looks: dict[Desk, asyncio.TimerHandle] = {}

    def desk(self, engine: Engine) -> Desk | None:
        """The desk of an engine that keeps something, or whose memory at least has a known size."""
        desk = self.desks.get(engine)
        if desk is None:
            able = engine.capabilities
            if able.retention is RetentionSupport.NONE and not able.kv_tokens:
                return None
            desk = self.desks[engine] = Desk(engine, able, self._clock, self._share, self.lost, one_pool=self._one_pool)
            desk.listen()
        return desk

    # -- plans ----------------------------------------------------------------------------------

    def apply(self, chain: Chain, plan: Plan, outcome: Outcome) -> None:
        """Do what was planned. `outcome`: of a lease that ends here."""
        now, desk = self._clock.now(), chain.desk
        chain.rank = plan.rank
        shortest_s = max(_SHORTEST_S, _SHORTEST_SHARE * (now - chain.began_at))
        if plan.keep_s > 0 and (chain.lease is None or chain.lease.tier is Tier.DEVICE):
            keep_s = plan.keep_s if plan.keep_s >= _SHORTEST_S else shortest_s
            keep_s = min(keep_s, desk.capabilities.max_lease_ttl_s or math.inf)
            if self._hold(chain, plan, Tier.DEVICE, now + keep_s):
                desk.retain(chain, keep_s, Tier.DEVICE, plan.rank)
                self._arm(desk)
                return
        host_s = max(plan.host_s, plan.keep_s)
        if 0 < host_s < _SHORTEST_S:
            host_s = shortest_s
        if host_s > 0 and self._to_host(chain, plan, now + host_s):
            self._arm(desk)
            return
        self.finish(chain, outcome)

    def returned(self, chain: Chain) -> None:
        """The chain's call is back and will wait in a queue: its lease no longer expires, and goes last."""
        self._stop_prefetch(chain)
        if chain.lease is None:
            return
        (chain.lease,) = chain.desk.ledger.returned(chain.request, self._clock.now())
        chain.desk.retain(chain, math.inf, chain.lease.tier, math.inf)
        if chain.lease.tier is Tier.HOST:
            chain.desk.prefetch(chain, 0.0)

    def give_up(self, chain: Chain) -> None:
        """Memory is wanted: to the host if it is worth the copy and has room, else the lease ends."""
        desk, lease = chain.desk, chain.lease
        assert lease is not None
        back_s = max(0.0, lease.remaining_s - 2 * desk.reload_s(lease.nbytes))
        plan = Plan(0.0, max(2 * lease.remaining_s, _HOST_S), chain.rank, lease.remaining_s, back_s)
        worth = lease.tier is Tier.DEVICE and desk.reload_s(lease.nbytes) < lease.recompute_s
        if worth and self._to_host(chain, plan, self._clock.now() + plan.host_s):
            self._arm(desk)
        else:
            self.finish(chain, Outcome.PRESSURE)

    def finish(self, chain: Chain, outcome: Outcome) -> None:
        """End what is kept of the chain, in the books and in the engine; no error if nothing is."""
        if chain.lease is not None or chain.graced:
            chain.desk.release(chain, outcome)
        self.lost(chain, outcome)

    def lost(self, chain: Chain, outcome: Outcome) -> None:
        """The engine keeps nothing of the chain any more; no error if it was known."""
        self._stop_prefetch(chain)
        chain.graced = False
        lease, chain.lease = chain.lease, None
        if lease is not None:
            chain.tier, chain.outcome = lease.tier, outcome
            chain.desk.ledger.close(lease.id, outcome, self._clock.now())
            if lease.tier is Tier.DEVICE and outcome is not Outcome.HANDOFF:
                self.tell_kept(chain)

    def _hold(self, chain: Chain, plan: Plan, tier: Tier, until: float) -> bool:
        """Enter or renew a lease in the books; where the budget is full, chains that deserve it less give way."""
        ledger, now = chain.desk.ledger, self._clock.now()
        chain.ttl_s = until - now
        if chain.lease is not None:
            chain.lease = ledger.extend(chain.lease.id, now, until=until, remaining_s=plan.remaining_s)
            return chain.lease is not None
        short = chain.private - ledger.free_bytes(tier)
        if short > 0:
            self._make_room(chain, tier, short)
            now = self._clock.now()  # what gave way was booked meanwhile
        chain.lease = ledger.open(
            chain.request,
            0,
            tier,
            chain.private,
            now,
            until=max(until, now),
            remaining_s=plan.remaining_s,
            recompute_s=chain.recompute_s,
        )
        if chain.lease is None:
            return False
        if tier is Tier.DEVICE:
            self.tell_kept(chain)
        return True

    def _make_room(self, chain: Chain, tier: Tier, tokens: int) -> None:
        victims = [chain.desk.chains[lease.program] for lease in chain.desk.ledger.victims(tier, tokens)]
        if all(victim.rank < chain.rank and victim.returned_at is None for victim in victims):
            for victim in victims:
                if victim.lease is not None and victim.lease.tier is tier:  # the first may have made others go
                    self.give_up(victim)

    def _to_host(self, chain: Chain, plan: Plan, until: float) -> bool:
        """Keep the chain in the host tier from now on, if that has room."""
        desk, now = chain.desk, self._clock.now()
        if not desk.capabilities.host_kv_tokens:
            return False
        if chain.lease is not None and chain.lease.tier is Tier.DEVICE:
            moved = desk.ledger.demote(chain.lease.id, now, until=until)
            if moved is None:
                return False
            chain.lease = moved
            desk.retain(chain, until - now, Tier.HOST, plan.rank)  # its time, and then the place
            desk.demote(chain)
            self.tell_kept(chain)
        elif self._hold(chain, plan, Tier.HOST, until):
            desk.retain(chain, until - now, Tier.HOST, plan.rank)
            if chain.graced:  # it is on the device already, and a renewal leaves it there
                desk.demote(chain)
        else:
            return False
        self._plan_prefetch(chain, plan)
        return True

    def tell_kept(self, chain: Chain) -> None:
        """Whoever wants to know hears what is held on the device for the chain's program."""
        desk = chain.desk
        tokens = sum(
            one.lease.nbytes
            for one in desk.of_program(chain.program)
            if one.lease is not None and one.lease.tier is Tier.DEVICE
        )
        self.kept(desk.engine, chain.program, tokens)

    # -- time -----------------------------------------------------------------------------------

    def _arm(self, desk: Desk) -> None:
        """Look at the desk's leases when the next one runs out."""
        due = desk.ledger.next_expiry()
        known = self._expiries.get(desk)
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, due - self._clock.now())
        if known is not None:
            if known.when() <= at:
                return
            known.cancel()
            del self._expiries[desk]
        if math.isfinite(due):
            self._expiries[desk] = loop.call_at(at, self._expire, desk)

    def _expire(self, desk: Desk) -> None:
        del self._expiries[desk]
        for lease in desk.ledger.expired(self._clock.now()):
            chain = desk.chains.get(lease.program)
            if chain is not None and chain.lease is not None and chain.lease.id == lease.id:
                self._again(chain, Outcome.EXPIRED)
        self._arm(desk)

    def watch_price(self, desk: Desk) -> None:
        """Look at all leases again, before long, if memory's price has moved."""
        if desk in self._looks:
            return
        price, known = desk.price(desk.unit), desk.decided_at_price
        if (price > 0) != (known > 0) or not known / _PRICE_MOVED <= price <= known * _PRICE_MOVED:
            loop = asyncio.get_running_loop()
            self._looks[desk] = loop.call_later(_AGAIN_S, self._look_again, desk)

    def _look_again(self, desk: Desk) -> None:
        del self._looks[desk]
        desk.decided_at_price = desk.price(desk.unit)
        for chain in [*desk.chains.values()]:
            if chain.lease is not None and chain.returned_at is None:
                self._again(chain, Outcome.PRESSURE)

    def _plan_prefetch(self, chain: Chain, plan: Plan) -> None:
        """Start the copy back in time for the expected return."""
        self._stop_prefetch(chain)
        if chain.desk.capabilities.prefetch and math.isfinite(plan.prefetch_s):
            copy_s = chain.desk.reload_s(chain.private)
            chain.prefetch = asyncio.get_running_loop().call_later(plan.prefetch_s, self._prefetch, chain, copy_s)

    @staticmethod
    def _prefetch(chain: Chain, within_s: float) -> None:
        chain.prefetch = None
        desk = chain.desk
        # Only into memory that nobody wants: otherwise the copy waits for the call itself.
        if chain.lease is not None and chain.lease.tier is Tier.HOST and desk.price(chain.private) == 0.0:
            desk.prefetch(chain, within_s)

    @staticmethod
    def _stop_prefetch(chain: Chain) -> None:
        if chain.prefetch is not None:
            chain.prefetch.cancel()
            chain.prefetch = None

    async def close(self) -> None:
        """Stop all timers and messages."""
        for timer in (*self._expiries.values(), *self._looks.values()):
            timer.cancel()
        self._expiries.clear()
        self._looks.clear()
        for desk in self.desks.values():
            for chain in desk.chains.values():
                self._stop_prefetch(chain)
        await asyncio.gather(*(desk.close() for desk in self.desks.values()))

    def check(self) -> None:
        """Raise AssertionError if the invariant of the class docstring is broken."""
        for desk in self.desks.values():
            desk.ledger.check()
            desk.check()
            leased = {chain.request for chain in desk.chains.values() if chain.lease is not None}
            assert len(leased) == len(desk.ledger), f"{desk.engine.name}: a lease without a chain, or the other way"
            for request in leased:
                assert len(desk.ledger.held(request)) == 1, f"the lease of {request} is not in the ledger"
            assert math.isinf(desk.ledger.next_expiry()) or desk in self._expiries, "nobody waits for an expiry"
