"""Retention at work: what happens to a program's KV from the end of one of its LLM calls to the start of the next.

Owns the chains and when they are decided on. What is best for one is the rule's affair, messages to an engine the
desk's, and who may start at all the scheduler's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import JsonValue

from engine.protocol import ChatMessage, Engine, RetentionSupport, Usage
from kv_ttl.decision import BlockRange
from kv_ttl.durations import Outstanding, ToolCall
from kv_ttl.ledger import Counters, Outcome, Tier
from orchestrator.clock import OrchestratorClock
from orchestrator.retention.chains import Chain, Print, continued, fingerprint
from orchestrator.retention.costs import Returns
from orchestrator.retention.desk import Desk
from orchestrator.retention.pauses import Upcoming, upcoming
from orchestrator.retention.rules import Plan, RetentionRule, Situation, Tenuto
from orchestrator.retention.shapes import shape_of
from tenuto.wire import Call, FunctionCall, LLMCall, ProgramStatus, ToolSpec

if TYPE_CHECKING:
    from orchestrator.runtime.program import Program

GRACE_S = 2.0
"""An engine keeps a chain so long by itself: until the decision reaches it."""
_SHORTEST_S = 0.05
"""No lease is shorter: a message to the engine costs as much."""
_AGAIN_S = 0.5
"""Two looks at all leases because of the price are at least this far apart."""
_PRICE_MOVED = 1.5
_CHAINS = 16
"""Chains without a lease that are remembered for one program, so that its later calls can be known again."""

Specs = Callable[[str, str | None, str], ToolSpec | None]
"""(tenant, toolset, tool) -> the tool as its workers declare it."""
Kept = Callable[[Engine, str, int], None]
"""(engine, program, tokens): so many tokens are kept on the device for a paused program; 0 = none any more."""


@dataclass(frozen=True, slots=True)
class PausedChain:
    """A chain under lease, for whoever must choose which one to give up. `tokens`: for this program alone."""

    program: str
    request: str
    tier: Tier
    tokens: int
    shared_tokens: int
    remaining_s: float
    recompute_s: float
    returned: bool
    until: float


@dataclass(frozen=True, slots=True)
class EngineLeases:
    """The books of one engine's leases, in tokens."""

    engine: str
    live: int
    leased_tokens: Mapping[Tier, int]
    counters: Counters
    price: float


class Visit:
    """An LLM call at an engine: what its request says of retention, and what it tells on its way."""

    __slots__ = ("_call", "_chars", "_desk", "_messages", "_owner", "_program", "_since", "chain", "hold_s", "request")

    def __init__(
        self,
        owner: Retention,
        desk: Desk,
        program: Program,
        call: LLMCall,
        request: str,
        messages: Sequence[ChatMessage],
        chain: Chain | None,
        hold_s: float,
    ) -> None:
        self._owner, self._desk, self._program, self._call = owner, desk, program, call
        self.request, self._messages, self.chain, self.hold_s = request, messages, chain, hold_s
        self._chars = sum(len(message.content) for message in messages)
        self._since = owner.now()
        new = self._chars - chain.chars if chain is not None else self._chars
        desk.submitted(request, (chain.tokens if chain is not None else 0) + desk.costs.tokens(max(0, new)))

    @property
    def continues(self) -> str:
        """The request whose chain this one extends; "" = none."""
        return self.chain.request if self.chain is not None else ""

    def begun(self) -> None:
        """Its first token has come: it holds the blocks itself."""
        self._desk.begun(self.request)
        if self.chain is not None:
            self._owner.taken_up(self.chain)

    def ended(self, usage: Usage | None, output_chars: int) -> None:
        """It ended well: its own chain begins."""
        if usage is None:
            return
        self._desk.left(self.request)
        kept = self._owner.resumed(self.chain, usage) if self.chain is not None else None
        self._desk.costs.learn(usage, self._chars, kept)
        self._owner.ended(
            Chain(
                request=self.request,
                program=self._program.id,
                call=self._call.id,
                stage=self._call.stage or "",
                prompt=fingerprint(self._messages),
                chars=self._chars + output_chars,
                tokens=usage.prompt_tokens + usage.output_tokens,
                shared=self._shared(usage),
                began_at=self._owner.now(),
                desk=self._desk,
                graced=self.hold_s > 0,
            ),
            self._program,
            self._call,
            self._owner.now() - self._since,
        )

    def left(self) -> None:
        """It is over, one way or another."""
        self._desk.left(self.request)

    def _shared(self, usage: Usage) -> int:
        """Tokens found that this program had not computed itself."""
        return self.chain.shared if self.chain is not None else usage.cached_tokens


class Retention:
    """All chains of a server, by program and by request.

    Invariant (`check`): a chain with a lease is on its desk, in the ledger and in its program's books; every lease
    ends in exactly one outcome; a program that has ended has no chain.
    """

    def __init__(
        self,
        clock: OrchestratorClock,
        *,
        rule: RetentionRule | None = None,
        specs: Specs = lambda tenant, toolset, tool: None,
        kept: Kept = lambda engine, program, tokens: None,
        budget_share: float = 0.95,
    ) -> None:
        """`budget_share`: of an engine's device memory that leases may hold. `kept` hears what is held for whom."""
        self.rule: RetentionRule = Tenuto() if rule is None else rule
        self.kept = kept
        self._clock = clock
        self._specs = specs
        self._share = budget_share
        self._desks: dict[Engine, Desk] = {}
        self._programs: dict[str, dict[str, Chain]] = {}
        self._owners: dict[str, Program] = {}
        self._llm_calls: dict[str, int] = {}
        self._started: dict[tuple[str, str], float] = {}
        self._returns = Returns()
        self._expiries: dict[Desk, asyncio.TimerHandle] = {}
        self._looks: dict[Desk, asyncio.TimerHandle] = {}
        self._closed = False

    def now(self) -> float:
        return self._clock.now()

    # -- LLM calls ------------------------------------------------------------------------------

    def returning(self, program: Program, messages: Sequence[ChatMessage]) -> Chain | None:
        """An LLM call of the program is ready: the chain that it goes on with, whose lease no longer expires."""
        chains = self._programs.get(program.id)
        if not chains:
            return None
        chain = continued(chains.values(), messages)
        if chain is None or chain.returned_at is not None:
            return chain
        chain.returned_at = self.now()
        self._learn_pause(program, chain)
        self._stop_prefetch(chain)
        desk = chain.desk
        if chain.lease is not None:
            (chain.lease,) = desk.ledger.returned(chain.request, self.now())
            if chain.lease.tier is Tier.HOST:
                desk.prefetch(chain, 0.0)
            desk.retain(chain, math.inf, chain.lease.tier, math.inf)
        self._drop_superseded(chain, chains, fingerprint(messages))
        return chain

    def visit(
        self,
        program: Program,
        call: LLMCall,
        engine: Engine,
        attempt: int,
        messages: Sequence[ChatMessage],
        chain: Chain | None,
    ) -> Visit | None:
        """The call goes to an engine now; None if nothing of it can be kept there."""
        desk = self._desk(engine)
        if desk is None:
            return None
        if chain is not None and chain.desk is not desk:
            self._finish(chain, Outcome.CANCELLED)  # it was left behind in another engine
            chain = None
        self._llm_calls[program.id] = self._llm_calls.get(program.id, 0) + 1
        request = request_id(program.id, call.id, attempt)
        return Visit(self, desk, program, call, request, messages, chain, self._grace(program, call))

    def taken_up(self, chain: Chain) -> None:
        """The call that goes on with the chain runs: the chain is its own from now on."""
        self._finish(chain, Outcome.HANDOFF)

    def resumed(self, chain: Chain, usage: Usage) -> bool:
        """The call that went on with the chain has ended; whether it found it."""
        kept = usage.cached_tokens >= 0.9 * max(1, chain.useful)
        if chain.situation is not None and chain.returned_at is not None:
            self.rule.resumed(replace(chain.situation, now=chain.returned_at), kept, usage.queue_s)
            chain.situation = None
        return kept

    def ended(self, chain: Chain, program: Program, call: LLMCall, seconds: float) -> None:
        """An LLM call ended well and left a chain; `settled` follows once its variable is written."""
        if program.outcome is not None or self._closed:
            if chain.graced:
                chain.desk.release(chain, Outcome.CANCELLED)
            return
        self.rule.observe(_llm_call(program, call), seconds)
        self._owners[program.id] = program
        chains = self._programs.setdefault(program.id, {})
        chains[chain.request] = chain
        chain.desk.chains[chain.request] = chain
        if len(chains) > _CHAINS:
            self._forget_oldest(chains)

    def settled(self, program: Program, call: LLMCall) -> None:
        """The call's variable is written and its successors know: decide on what it left, and on what waited for it."""
        for chain in [*self._programs.get(program.id, {}).values()]:
            if chain.call == call.id and chain.situation is None and chain.returned_at is None:
                self._pause(program, chain)
            elif chain.lease is not None and chain.returned_at is None and self.rule.reconsiders:
                self._decide(chain)

    # -- function calls and the program ---------------------------------------------------------

    def function_started(self, program: Program, call: FunctionCall, arguments: Mapping[str, JsonValue]) -> None:
        """A worker has the call."""
        now = self.now()
        self._started[program.id, call.id] = now
        self.rule.started((program.id, call.id), self._tool_call(program, call, shape_of(arguments)), now)

    def function_ended(self, program: Program, call: FunctionCall, *, returned: bool) -> None:
        """It has returned, well or failed, or (not `returned`) will never return."""
        if self._started.pop((program.id, call.id), None) is None:
            return
        if returned:
            self.rule.returned((program.id, call.id), self.now())
        else:
            self.rule.cancelled((program.id, call.id))

    def evidence(self, program: Program, *, idle: bool = False) -> None:
        """What the program waits for has changed: a function call returned, or its client declared more.

        `idle`: for all we know it is the client's turn.
        """
        for chain in [*self._programs.get(program.id, {}).values()]:
            if chain.returned_at is None:
                chain.idle_at = self.now() if idle else None
                if chain.lease is not None and self.rule.reconsiders:
                    self._decide(chain)

    def program_ended(self, program: Program) -> None:
        """Nothing more will come of the program: all its leases end."""
        outcome = Outcome.CANCELLED if program.outcome is ProgramStatus.CANCELLED else Outcome.FINAL
        for chain in self._programs.pop(program.id, {}).values():
            if chain.returned_at is None and chain.situation is not None:
                self._returns.learn(program.workflow, chain.stage, False)
            self._finish(chain, outcome)
            chain.desk.chains.pop(chain.request, None)
        self._owners.pop(program.id, None)
        self.rule.program_ended(program.id, self._llm_calls.pop(program.id, 0))

    # -- what the scheduler asks ----------------------------------------------------------------

    def pressure(self, engine: Engine, waiting: int, running: int) -> None:
        """So many calls wait for the engine's memory, held programs included, beside those that run."""
        desk = self._desk(engine)
        if desk is not None:
            desk.told(waiting, running)
            self._watch_price(desk)

    def paused(self, engine: Engine) -> tuple[PausedChain, ...]:
        """The chains under lease in an engine."""
        desk = self._desks.get(engine)
        chains = () if desk is None else desk.chains.values()
        return tuple(_paused(chain) for chain in chains if chain.lease is not None)

    def victims(self, engine: Engine, tokens: int) -> Iterator[PausedChain]:
        """Chains to give up, in that order, until so many tokens of the device are free; none whose call is back."""
        desk = self._desks.get(engine)
        if desk is None:
            return
        for lease in desk.ledger.victims(Tier.DEVICE, tokens):
            chain = desk.chains.get(lease.program)
            if chain is not None and chain.lease is not None and not lease.returned:
                yield _paused(chain)

    def park(self, engine: Engine, program: str) -> int:
        """Give up the device memory that is kept for a paused program: to the host, else for good. Tokens freed."""
        freed = 0
        for chain in [*self._programs.get(program, {}).values()]:
            lease = chain.lease
            if lease is not None and chain.desk.engine is engine and lease.tier is Tier.DEVICE and not lease.returned:
                freed += lease.nbytes
                self._give_up(chain)
        return freed

    def leased_tokens(self, engine: Engine, tier: Tier = Tier.DEVICE) -> int:
        """Tokens under lease in a tier of an engine."""
        desk = self._desks.get(engine)
        return 0 if desk is None else desk.ledger.leased_bytes(tier)

    def snapshot(self) -> tuple[EngineLeases, ...]:
        """The books of every engine."""
        return tuple(
            EngineLeases(
                desk.engine.name,
                len(desk.ledger),
                {tier: desk.ledger.leased_bytes(tier) for tier in Tier},
                desk.ledger.counters(self.now()),
                desk.price(desk.pool_tokens),
            )
            for desk in self._desks.values()
        )

    async def close(self) -> None:
        """Stop all timers and messages."""
        self._closed = True
        for timer in (*self._expiries.values(), *self._looks.values()):
            timer.cancel()
        for chains in self._programs.values():
            for chain in chains.values():
                self._stop_prefetch(chain)
        await asyncio.gather(*(desk.close() for desk in self._desks.values()))

    def check(self) -> None:
        """Raise AssertionError if the invariant of the class docstring is broken."""
        for desk in self._desks.values():
            desk.ledger.check()
            leased = {chain.request for chain in desk.chains.values() if chain.lease is not None}
            assert len(leased) == len(desk.ledger), f"{desk.engine.name}: a lease without a chain, or the other way"
            for request in leased:
                assert len(desk.ledger.held(request)) == 1, f"the lease of {request} is not in the ledger"
        known = {request for chains in self._programs.values() for request in chains}
        assert known == {request for desk in self._desks.values() for request in desk.chains}, "a chain is in one book"
        assert all(self._owners[program].outcome is None for program, chains in self._programs.items() if chains)

    # -- decisions ------------------------------------------------------------------------------

    def _pause(self, program: Program, chain: Chain) -> None:
        chain.useful = chain.tokens
        coming = self._upcoming(program, chain)
        if coming is None:
            self._finish(chain, Outcome.FINAL)
            self._discard(chain)
            return
        chain.useful = max(1, min(chain.tokens, math.ceil(coming.share * chain.tokens)))
        chain.situation = self._situation(program, chain, coming)
        self._apply(chain, self.rule.plan(chain.situation), Outcome.EXPIRED)
        self.kept(chain.desk.engine, program.id, self._kept_tokens(program.id, chain.desk))

    def _decide(self, chain: Chain, outcome: Outcome = Outcome.PRESSURE) -> None:
        """Decide again on a chain under lease; `outcome` if it is dropped."""
        program = self._owners[chain.program]
        coming = self._upcoming(program, chain)
        if coming is None:
            self._finish(chain, Outcome.FINAL)
            self._discard(chain)
            return
        self._apply(chain, self.rule.plan(self._situation(program, chain, coming)), outcome)

    def _upcoming(self, program: Program, chain: Chain) -> Upcoming | None:
        call = program.calls[chain.call].call
        assert isinstance(call, LLMCall)

        def length(variable: str) -> int:
            value = program.values.get(variable)
            return len(value) if isinstance(value, str) else 0 if value is None else len(str(value))

        return upcoming(program.graph, call, program.open, length, length(call.variable))

    def _situation(self, program: Program, chain: Chain, coming: Upcoming) -> Situation:
        desk, now = chain.desk, self.now()
        shared = min(chain.shared, chain.useful)
        likely = 1.0 if coming.call is not None else self._returns.likely(program.workflow, chain.stage)
        private = BlockRange(
            recompute_s=desk.costs.prefill.seconds(chain.private, shared) * likely,
            price=desk.price(chain.private),
            queue_s=desk.costs.queue_loss_s * likely,
            reload_s=desk.reload_s(chain.private),
            host_price=desk.host_price(chain.private),
        )
        root = (BlockRange(desk.costs.prefill.seconds(shared, 0) * likely, 0.0),) if shared else ()
        return Situation(
            request=chain.request,
            program=chain.program,
            call=chain.call,
            began_at=chain.began_at,
            now=now,
            waits=self._waits(program, chain, coming),
            chain=(*root, private),
            tokens=chain.private,
            pool_tokens=desk.pool_tokens,
            demand_share=desk.demand_share,
            likely=likely,
            host_room=desk.ledger.free_bytes(Tier.HOST) >= chain.private,
        )

    def _waits(self, program: Program, chain: Chain, coming: Upcoming) -> tuple[Outstanding, ...]:
        waits: list[Outstanding] = []
        for name, after in zip(coming.waits, coming.after, strict=True):
            call = program.graph.calls[name]
            started_at = self._started.get((program.id, name))
            one = self._tool_call(program, call) if isinstance(call, FunctionCall) else _llm_call(program, call)
            waits.append(Outstanding(one, started_at, () if started_at is not None else after))
        if not waits and coming.call is None:  # an open program, and nothing runs: its client has the turn
            waits.append(Outstanding(_client(program, chain), chain.idle_at or chain.began_at))
        return tuple(waits)

    def _apply(self, chain: Chain, plan: Plan, outcome: Outcome) -> None:
        """Do what was planned. `outcome`: of a lease that ends here."""
        now, desk = self.now(), chain.desk
        chain.rank = plan.rank
        if plan.keep_s > 0 and (chain.lease is None or chain.lease.tier is Tier.DEVICE):
            keep_s = min(max(plan.keep_s, _SHORTEST_S), desk.capabilities.max_lease_ttl_s or math.inf)
            if self._hold(chain, plan, Tier.DEVICE, now + keep_s):
                desk.retain(chain, keep_s, Tier.DEVICE, plan.rank)
                self._arm(desk)
                return
        host_s = max(plan.host_s, plan.keep_s)
        if host_s > 0 and math.isfinite(desk.reload_s(1)) and self._to_host(chain, plan, now + host_s):
            self._arm(desk)
            return
        self._finish(chain, outcome)

    def _hold(self, chain: Chain, plan: Plan, tier: Tier, until: float) -> bool:
        """Enter or renew a lease in the books; where the budget is full, chains that deserve it less give way."""
        ledger, now = chain.desk.ledger, self.now()
        if chain.lease is not None:
            chain.lease = ledger.extend(chain.lease.id, now, until=until, remaining_s=plan.remaining_s)
            return chain.lease is not None
        short = chain.private - ledger.free_bytes(tier)
        if short > 0:
            self._make_room(chain, tier, short)
        chain.lease = ledger.open(
            chain.request,
            0,
            tier,
            chain.private,
            now,
            until=until,
            remaining_s=plan.remaining_s,
            recompute_s=self._recompute_s(chain),
        )
        return chain.lease is not None

    def _make_room(self, chain: Chain, tier: Tier, tokens: int) -> None:
        victims = [chain.desk.chains[lease.program] for lease in chain.desk.ledger.victims(tier, tokens)]
        if all(v.rank < chain.rank and v.returned_at is None for v in victims):
            for victim in victims:
                self._give_up(victim)

    def _to_host(self, chain: Chain, plan: Plan, until: float) -> bool:
        """Keep the chain in the host tier from now on, if that has room."""
        desk, now = chain.desk, self.now()
        if chain.lease is not None and chain.lease.tier is Tier.DEVICE:
            moved = desk.ledger.demote(chain.lease.id, now, until=until)
            if moved is None:
                return False
            chain.lease = moved
            desk.demote(chain)
            self.kept(desk.engine, chain.program, self._kept_tokens(chain.program, desk))
        elif self._hold(chain, plan, Tier.HOST, until):
            desk.retain(chain, until - now, Tier.HOST, plan.rank)
        else:
            return False
        self._plan_prefetch(chain, plan)
        return True

    def _give_up(self, chain: Chain) -> None:
        """Memory is wanted: to the host if it is worth the copy and has room, else the lease ends."""
        desk, lease = chain.desk, chain.lease
        assert lease is not None
        plan = Plan(0.0, max(lease.remaining_s * 2, 60.0), chain.rank, lease.remaining_s)
        worth = lease.tier is Tier.DEVICE and desk.reload_s(chain.private) < self._recompute_s(chain)
        if worth and self._to_host(chain, plan, self.now() + plan.host_s):
            self._arm(desk)
        else:
            self._finish(chain, Outcome.PRESSURE)

    def _recompute_s(self, chain: Chain) -> float:
        return chain.desk.costs.prefill.seconds(chain.private, min(chain.shared, chain.useful))

    # -- ends -----------------------------------------------------------------------------------

    def _finish(self, chain: Chain, outcome: Outcome) -> None:
        """End what is kept of the chain, in the books and in the engine; no error if nothing is."""
        self._stop_prefetch(chain)
        if chain.lease is None and not chain.graced:
            return
        chain.desk.release(chain, outcome)
        chain.graced = False
        self._closed_lease(chain, outcome)

    def _closed_lease(self, chain: Chain, outcome: Outcome) -> None:
        lease, chain.lease = chain.lease, None
        if lease is None:
            return
        chain.desk.ledger.close(lease.id, outcome, self.now())
        if outcome is not Outcome.HANDOFF:
            self.kept(chain.desk.engine, chain.program, self._kept_tokens(chain.program, chain.desk))

    def _lost(self, chain: Chain, outcome: Outcome) -> None:
        """The engine has ended the lease."""
        self._stop_prefetch(chain)
        chain.graced = False
        self._closed_lease(chain, outcome)

    def _discard(self, chain: Chain) -> None:
        """No later call can go on with the chain."""
        self._programs.get(chain.program, {}).pop(chain.request, None)
        chain.desk.chains.pop(chain.request, None)

    def _forget_oldest(self, chains: dict[str, Chain]) -> None:
        oldest = next((chain for chain in chains.values() if chain.lease is None), next(iter(chains.values())))
        self._finish(oldest, Outcome.CANCELLED)
        self._discard(oldest)

    def _drop_superseded(self, chain: Chain, chains: Mapping[str, Chain], prompt: tuple[Print, ...]) -> None:
        """A call has begun a newer history: what older ones have beyond it will not be asked for again."""
        for other in [*chains.values()]:
            if other is chain or other.lease is None or other.returned_at is not None:
                continue
            alike = _alike(other.prompt, prompt)
            if max(2, len(other.prompt) // 2) <= alike < len(other.prompt):
                self._finish(other, Outcome.CANCELLED)

    def _kept_tokens(self, program: str, desk: Desk) -> int:
        return sum(
            chain.lease.nbytes
            for chain in self._programs.get(program, {}).values()
            if chain.desk is desk and chain.lease is not None and chain.lease.tier is Tier.DEVICE
        )

    # -- time -----------------------------------------------------------------------------------

    def _arm(self, desk: Desk) -> None:
        """Look at the desk's leases when the next one runs out."""
        due = desk.ledger.next_expiry()
        known = self._expiries.get(desk)
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, due - self.now())
        if known is not None and not known.cancelled():
            if known.when() <= at:
                return
            known.cancel()
        if math.isfinite(due):
            self._expiries[desk] = loop.call_at(at, self._expire, desk)

    def _expire(self, desk: Desk) -> None:
        del self._expiries[desk]
        for lease in desk.ledger.expired(self.now()):
            chain = desk.chains[lease.program]
            if chain.lease is not None and chain.lease.id == lease.id:
                self._decide(chain, Outcome.EXPIRED)
        self._arm(desk)

    def _watch_price(self, desk: Desk) -> None:
        """Look at all leases again if memory's price has moved."""
        if not self.rule.reconsiders or desk in self._looks:
            return
        price, known = desk.price(desk.pool_tokens or 1), desk.decided_at_price
        if (price > 0) != (known > 0) or not known / _PRICE_MOVED <= price <= known * _PRICE_MOVED:
            loop = asyncio.get_running_loop()
            self._looks[desk] = loop.call_later(_AGAIN_S, self._look_again, desk)

    def _look_again(self, desk: Desk) -> None:
        del self._looks[desk]
        desk.decided_at_price = desk.price(desk.pool_tokens or 1)
        for chain in [*desk.chains.values()]:
            if chain.lease is not None and chain.returned_at is None:
                self._decide(chain)

    def _plan_prefetch(self, chain: Chain, plan: Plan) -> None:
        """Start the copy back in time for the expected return."""
        if not chain.desk.capabilities.prefetch:
            return
        self._stop_prefetch(chain)
        copy_s = chain.desk.reload_s(chain.private)
        wait_s = max(0.0, plan.remaining_s - 2 * copy_s)
        chain.prefetch = asyncio.get_running_loop().call_later(wait_s, self._prefetch, chain, copy_s)

    def _prefetch(self, chain: Chain, within_s: float) -> None:
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

    # -- small things ---------------------------------------------------------------------------

    def _desk(self, engine: Engine) -> Desk | None:
        """The desk of an engine that keeps something, or whose memory at least has a known size."""
        desk = self._desks.get(engine)
        if desk is None:
            able = engine.capabilities
            if able.retention is RetentionSupport.NONE and not able.kv_tokens:
                return None
            desk = self._desks[engine] = Desk(engine, able, self._clock, self._share, self._lost)
            desk.listen()
        return desk

    def _grace(self, program: Program, call: LLMCall) -> float:
        """How long the engine keeps the call's chain by itself, until it is decided on."""
        if self.rule.name == "lru":
            return 0.0
        if not program.open and not program.graph.successors(call.id):
            return 0.0
        return GRACE_S

    def _learn_pause(self, program: Program, chain: Chain) -> None:
        self._returns.learn(program.workflow, chain.stage, True)
        if chain.situation is not None and any(one.call.tool == _CLIENT for one in chain.situation.waits):
            seconds = self.now() - (chain.idle_at or chain.began_at)
            self.rule.observe(_client(program, chain), seconds)

    def _tool_call(self, program: Program, call: FunctionCall, shape: str = "") -> ToolCall:
        spec = self._specs(program.tenant, program.toolset, call.tool)
        declared_s = call.expected_s if call.expected_s is not None else spec.expected_s if spec is not None else None
        timeout_s = call.timeout_s if call.timeout_s is not None else spec.timeout_s if spec is not None else None
        return ToolCall(
            tool=call.tool,
            environment=program.toolset or program.workflow,
            tenant=program.tenant,
            program=program.id,
            shape=shape,
            declared_s=declared_s,
            timeout_s=math.inf if timeout_s is None else timeout_s,
        )


def request_id(program: str, call: str, attempt: int) -> str:
    """The name of one attempt of a call at an engine, by which its chain and its lease are known too."""
    return f"{program}/{call}/{attempt}"


_CLIENT = "the client"


def _client(program: Program, chain: Chain) -> ToolCall:
    """What an open program's client does between our answer and its next call."""
    return ToolCall(_CLIENT, program.workflow, program.tenant, program.id, shape=chain.stage)


def _llm_call(program: Program, call: Call) -> ToolCall:
    """Another LLM call that a pause waits for."""
    return ToolCall(f"llm: {call.stage or 'any'}", program.workflow, program.tenant)


def _paused(chain: Chain) -> PausedChain:
    lease = chain.lease
    assert lease is not None
    return PausedChain(
        program=chain.program,
        request=chain.request,
        tier=lease.tier,
        tokens=lease.nbytes,
        shared_tokens=min(chain.shared, chain.useful),
        remaining_s=lease.remaining_s,
        recompute_s=lease.recompute_s,
        returned=lease.returned,
        until=lease.until,
    )


def _alike(first: Sequence[Print], second: Sequence[Print]) -> int:
    """How many messages two prompts begin with in common."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
