"""The leases of one engine: the ledger, what the memory costs, and the messages to the engine.

Owns the way of decisions to the engine and of the engine's events back. Never decides what to keep.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from engine.protocol import (
    Capabilities,
    Engine,
    EngineError,
    EngineEvent,
    EngineEventKind,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    RetentionSupport,
)
from engine.protocol import Tier as EngineTier
from kv_ttl.decision import shadow_price
from kv_ttl.ledger import LeaseLedger, Outcome, Tier
from orchestrator.clock import OrchestratorClock
from orchestrator.retention.chains import Chain
from orchestrator.retention.costs import EngineCosts

log = logging.getLogger(__name__)

_UNBOUNDED = 2**50
"""Tokens of a tier whose size an engine does not tell."""
_SLACK_S = 1.0
"""An engine ends a lease this much later than planned: the orchestrator has looked at it again by then."""
_HOST_SHARE = 0.6
"""Of the host tier so much counts where both tiers are one pool: an engine that changes chains needs the rest."""
_SHORT = 0.9
"""Memory is short once running and kept chains need this share of it."""

Ended = Callable[[Chain, Outcome], None]


class Desk:
    """One engine's leases, in tokens.

    Messages are sent in the order of the decisions and never waited for; what an engine answers or tells later
    comes back through `ended`. An engine without leases is told nothing: its leases are books that the hold on new
    programs reads, so that what was granted is left alone by others.

    `one_pool`: whoever holds programs outside counts device and host as one memory. Whatever is leased fits in there
    somewhere, so the engine changes chains by recency, and the leases are books here too.
    """

    def __init__(
        self,
        engine: Engine,
        capabilities: Capabilities,
        clock: OrchestratorClock,
        share: float,
        ended: Ended,
        *,
        one_pool: bool = False,
    ) -> None:
        self.engine = engine
        self.capabilities = capabilities
        self.costs = EngineCosts()
        self.chains: dict[str, Chain] = {}
        self._by_program: dict[str, dict[str, Chain]] = {}
        self._clock = clock
        self._ended = ended
        one_pool = one_pool and capabilities.kv_tokens > 0 and capabilities.host_kv_tokens > 0
        self._tells = capabilities.retention in (RetentionSupport.HARD, RetentionSupport.HOST)
        self.enforced = self._tells and not one_pool
        self.pool_tokens = capabilities.kv_tokens
        """Tokens that can be kept, on the device or where both tiers are one pool; 0 = unknown."""
        if one_pool:
            self.pool_tokens += int(_HOST_SHARE * capabilities.host_kv_tokens)
        sizes = {
            Tier.DEVICE: self.pool_tokens or _UNBOUNDED,
            Tier.HOST: capabilities.host_kv_tokens if self.enforced else 0,
        }
        self.ledger = LeaseLedger(sizes, {Tier.DEVICE: share, Tier.HOST: 1.0})
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._running: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._running_tokens = self._waiting_tokens = 0
        self._told: tuple[int, int] | None = None
        self.decided_at_price = 0.0

    # -- what the memory costs ------------------------------------------------------------------

    def submitted(self, request: str, tokens: int) -> None:
        """A request of about so many tokens goes to the engine."""
        self._waiting[request] = tokens
        self._waiting_tokens += tokens

    def begun(self, request: str) -> bool:
        """A token of it has come; True for the first."""
        tokens = self._waiting.pop(request, None)
        if tokens is None:
            return False
        self._waiting_tokens -= tokens
        self._running[request] = tokens
        self._running_tokens += tokens
        return True

    def left(self, request: str) -> None:
        """It has ended, one way or another."""
        self._waiting_tokens -= self._waiting.pop(request, 0)
        self._running_tokens -= self._running.pop(request, 0)

    def told(self, waiting: int, running: int) -> None:
        """The hold on new programs knows better who waits for memory."""
        self._told = (waiting, running)

    @property
    def unit(self) -> int:
        """Tokens whose price stands for the memory's."""
        return self.pool_tokens or 1

    @property
    def demand_tokens(self) -> int:
        """Tokens of all that runs, waits and is kept."""
        return self._running_tokens + self._waiting_tokens + self.ledger.leased_bytes(Tier.DEVICE)

    @property
    def demand_share(self) -> float:
        """`demand_tokens` / tokens that fit; inf if that is unknown."""
        return self.demand_tokens / self.pool_tokens if self.pool_tokens else math.inf

    def of_program(self, program: str) -> list[Chain]:
        """The program's chains here."""
        return [*self._by_program.get(program, {}).values()]

    def add(self, chain: Chain) -> None:
        """The chain is here."""
        self.chains[chain.request] = chain
        self._by_program.setdefault(chain.program, {})[chain.request] = chain

    def remove(self, chain: Chain) -> None:
        """The chain is forgotten; no error if it was."""
        self.chains.pop(chain.request, None)
        mine = self._by_program.get(chain.program, {})
        mine.pop(chain.request, None)
        if not mine:
            self._by_program.pop(chain.program, None)

    def check(self) -> None:
        """Raise AssertionError if the books differ."""
        assert self.chains == {request: chain for of in self._by_program.values() for request, chain in of.items()}
        assert self._running_tokens == sum(self._running.values()), "running tokens are miscounted"
        assert self._waiting_tokens == sum(self._waiting.values()), "waiting tokens are miscounted"

    def price(self, tokens: int) -> float:
        """What a second of so many tokens' residence on the device costs all others, in seconds."""
        waiting, running = self._told or (len(self._waiting), len(self._running))
        if self._told is None and self.demand_share < _SHORT:
            return 0.0
        pool = self.pool_tokens or max(self.demand_tokens, tokens, 1)
        return shadow_price(min(tokens, pool), pool, waiting, running)

    def host_price(self, tokens: int) -> float:
        """The same of the host tier: nothing while it has room, its share of the tier when it is full."""
        size = self.capabilities.host_kv_tokens
        if not size:
            return 0.0
        full = self.ledger.leased_bytes(Tier.HOST) / size
        return tokens / size * max(0.0, full - 0.8) * 5

    def reload_s(self, tokens: int) -> float:
        """Seconds to copy so many tokens back from the host; inf where none can be kept there."""
        if not self.enforced or not self.capabilities.host_kv_tokens:
            return math.inf
        speed = self.capabilities.host_tokens_per_s
        return tokens / speed if speed > 0 else 0.0

    # -- messages -------------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear from now on how leases end in the engine."""
        if self._listener is None and self._tells:
            self._listener = asyncio.get_running_loop().create_task(self._listen(), name=f"leases {self.engine.name}")

    def retain(self, chain: Chain, ttl_s: float, tier: Tier, rank: float) -> None:
        """Grant or renew the chain's lease in the engine."""
        if not self.enforced:
            return
        lease = Lease(
            id=chain.request,
            program=chain.program,
            token_ids=(),
            ttl_s=min(ttl_s + _SLACK_S, self.capabilities.max_lease_ttl_s or math.inf),
            tier=EngineTier(tier.value),
            rank=rank,
            request=chain.request,
            tokens=chain.useful if chain.useful < chain.tokens else 0,
        )
        self._send(chain, self.engine.retain(lease))

    def demote(self, chain: Chain) -> None:
        """Move the chain to the host."""
        if self.enforced:
            self._send(chain, self.engine.demote(chain.request))

    def prefetch(self, chain: Chain, within_s: float) -> None:
        """Bring the chain back to the device."""
        if self.enforced and self.capabilities.prefetch:
            self._send(chain, self.engine.prefetch(chain.request, within_s))

    def release(self, chain: Chain, outcome: Outcome) -> None:
        """End the chain's lease in the engine."""
        if self.enforced:
            self._send(chain, self.engine.release(chain.request, LeaseOutcome(outcome.value)))

    def _send(self, chain: Chain, message: Awaitable[LeaseGrant | None]) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(chain, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, chain: Chain, message: Awaitable[LeaseGrant | None]) -> None:
        before = chain.lease
        try:
            grant = await message
        except EngineError as error:  # the engine is gone or refuses: nothing is kept there
            log.warning("engine %s: the lease of %s: %s", self.engine.name, chain.request, error)
            grant = LeaseGrant(chain.request, 0, None, 0.0)
        if grant is not None and not grant.bytes and chain.lease is not None and chain.lease is before:
            self._ended(chain, Outcome.PRESSURE)

    async def _listen(self) -> None:
        try:
            async for event in self.engine.events():
                self._heard(event)
        except EngineError as error:
            log.warning("engine %s tells no more of its leases: %s", self.engine.name, error)

    def _heard(self, event: EngineEvent) -> None:
        if event.kind is EngineEventKind.LOST:
            for chain in [*self.chains.values()]:
                self._ended(chain, Outcome.CANCELLED)
        elif event.kind is EngineEventKind.LEASE_ENDED and event.outcome is not None:
            known = self.chains.get(event.lease or "")
            if known is not None:
                outcome = Outcome(event.outcome.value)
                if known.lease is not None:
                    self.release(known, outcome)  # a renewal on its way may have made it anew
                self._ended(known, outcome)

    async def close(self) -> None:
        """Send nothing more."""
        tasks = [*self._tasks, *((self._listener,) if self._listener is not None else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
