"""Retention at work: what happens to a program's KV from the end of one of its LLM calls to the start of the next.

Owns the chains and when they are decided on. What is best for one is the rule's affair, messages to an engine the
desk's, and who may start at all the scheduler's.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import JsonValue

from engine.protocol import ChatMessage, Engine, Usage
from kv_ttl.decision import BlockRange
from kv_ttl.durations import Outstanding, ToolCall
from kv_ttl.ledger import Outcome, Tier
from orchestrator.clock import OrchestratorClock
from orchestrator.retention.chains import Chain, Print, continued, fingerprint
from orchestrator.retention.costs import Returns
from orchestrator.retention.desk import Desk
from orchestrator.retention.keeper import Keeper, Kept
from orchestrator.retention.lengths import Lengths
from orchestrator.retention.pauses import Upcoming, line, upcoming
from orchestrator.retention.rules import RetentionRule, Situation, Tenuto
from orchestrator.retention.tool_times import Specs, ToolTimes
from orchestrator.retention.views import EngineLeases, PausedChain
from orchestrator.retention.visits import Visit
from tenuto.wire import Call, FunctionCall, LLMCall, ProgramStatus

if TYPE_CHECKING:
    from orchestrator.runtime.program import Program

_EVIDENCE_S = 0.1
"""So long after the first news the chains of a program are decided on again."""
_CHAINS = 16
"""Chains without a lease that are remembered for one program, so that its later calls can be known again."""


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
        one_pool: bool = False,
    ) -> None:
        """`budget_share`: of an engine's memory that leases may hold. `kept` hears what is held for whom.

        `one_pool`: programs are held outside while those inside fill device and host together (`Desk`).
        """
        self.rule: RetentionRule = Tenuto() if rule is None else rule
        self._clock = clock
        self._keeper = Keeper(clock, self._decide, kept, budget_share, one_pool=one_pool)
        self._programs: dict[str, dict[str, Chain]] = {}
        self._owners: dict[str, Program] = {}
        self._llm_calls: dict[str, int] = {}
        self._shared: dict[str, int] = {}
        self._lengths = Lengths()
        self.tools = ToolTimes(self.rule, specs)
        self._returns = Returns()
        self._asides = Returns(prior=0.3)
        self._evident: set[str] = set()
        self._closed = False

    def now(self) -> float:
        return self._clock.now()

    def tell(self, kept: Kept) -> None:
        """Let `kept` hear from now on what is held for whom."""
        self._keeper.kept = kept

    # -- LLM calls ------------------------------------------------------------------------------

    def returning(self, program: Program, call: LLMCall, messages: Sequence[ChatMessage]) -> Chain | None:
        """An LLM call of the program is ready: the chain that it goes on with, whose lease no longer expires.

        That is the one whose prompt it begins with; where prompts do not tell, that of the nearest call of the same
        stage that it descends from and that begins with the same message. Chains that calls in between left belong
        to a conversation which ends here, as a subagent's when its caller goes on: they are not kept any longer.
        """
        chains = self._programs.get(program.id)
        if not chains:
            return None
        latest = {one.call: one for one in chains.values()}
        chain = continued(chains.values(), messages)
        if chain is None:
            before = (latest.get(name) for name in line(program.graph, call.id))
            chain = next((one for one in before if one is not None and _begins_as(one, call, messages)), None)
        if chain is not None:
            if chain.returned_at is None:
                chain.returned_at, chain.returned_by = self.now(), call.id
                self._learn_pause(program, chain)
                if chain.aside:
                    self._asides.learn(program.workflow, chain.stage, True)
                self._keeper.returned(chain)
            if len(chains) > 1:
                self._drop_superseded(chain, chains, fingerprint(messages))
                for name in line(program.graph, call.id, until=chain.call):
                    self._end_aside(program, chain, latest.get(name))
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
        desk = self._keeper.desk(engine)
        if desk is None:
            return None
        if chain is not None and chain.desk is not desk:
            self._keeper.finish(chain, Outcome.CANCELLED)  # it was left behind in another engine
            chain = None
        self._llm_calls[program.id] = self._llm_calls.get(program.id, 0) + 1
        request = request_id(program.id, call.id, attempt)
        return Visit(self, desk, program, call, request, messages, chain, self._grace(desk, program, call))

    def shared(self, program: Program, chain: Chain | None, usage: Usage) -> int:
        """Tokens of a call's prompt that were computed for other programs.

        What its first call finds is not the program's own; what later ones find beyond that may be.
        """
        if chain is not None:
            return chain.shared
        first = self._shared.setdefault(program.id, usage.cached_tokens) if program.outcome is None else 0
        return min(first, usage.cached_tokens)

    def taken_up(self, chain: Chain) -> None:
        """The call that goes on with the chain runs: the chain is its own from now on."""
        self._keeper.finish(chain, Outcome.HANDOFF)

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
        chain.desk.add(chain)
        if len(chains) > _CHAINS:
            self._forget_oldest(chains)

    def settled(self, program: Program, call: LLMCall) -> None:
        """The call's variable is written and its successors know: decide on what it left, and on what waited for it."""
        for chain in [*self._programs.get(program.id, {}).values()]:
            if chain.call == call.id and chain.situation is None and chain.returned_at is None:
                self._pause(program, chain)
        self.evidence(program)

    def failed(self, program: Program, call: LLMCall) -> None:
        """The call has failed for good. If it never took up the chain that it went on with, others still may."""
        if program.outcome is not None or self._closed:
            return
        for chain in [*self._programs.get(program.id, {}).values()]:
            if chain.returned_by == call.id and chain.lease is not None:
                chain.returned_at, chain.returned_by = None, ""
                self._decide(chain, Outcome.CANCELLED)
                self._keeper.tell_kept(chain)

    # -- function calls and the program ---------------------------------------------------------

    def function_started(
        self, program: Program, call: FunctionCall, arguments: Mapping[str, JsonValue], now: float
    ) -> None:
        """A worker has the call."""
        self.tools.started(program, call, arguments, now)

    def function_ended(self, program: Program, call: FunctionCall, now: float, *, returned: bool) -> None:
        """It has returned, well or failed, or (not `returned`) will never return."""
        self.tools.ended((program.id, call.id), now, returned=returned)

    def evidence(self, program: Program, *, idle: bool | None = None) -> None:
        """What the program waits for has changed: a call ended, or its client declared more.

        `idle`: whether it is the client's turn, for all we know; None = as before. The chains are looked at a moment
        later: most often the next call has begun by then.
        """
        chains = self._programs.get(program.id)
        if not chains:
            return
        if idle is not None:
            for chain in chains.values():
                chain.idle_at = self.now() if idle else None
        if self.rule.reconsiders and program.id not in self._evident:
            self._evident.add(program.id)
            asyncio.get_running_loop().call_later(_EVIDENCE_S, self._weigh, program.id)

    def _weigh(self, program: str) -> None:
        self._evident.discard(program)
        if not self._closed:
            for chain in [*self._programs.get(program, {}).values()]:
                if chain.lease is not None and chain.returned_at is None:
                    self._decide(chain, Outcome.PRESSURE)

    def program_ended(self, program: Program) -> None:
        """Nothing more will come of the program: all its leases end."""
        outcome = Outcome.CANCELLED if program.outcome is ProgramStatus.CANCELLED else Outcome.FINAL
        for chain in self._programs.pop(program.id, {}).values():
            if chain.returned_at is None and chain.situation is not None:
                (self._asides if chain.aside else self._returns).learn(program.workflow, chain.stage, False)
            self._keeper.finish(chain, outcome)
            chain.desk.remove(chain)
        self._owners.pop(program.id, None)
        self._shared.pop(program.id, None)
        self._lengths.program_ended(program.id)
        self.rule.program_ended(program.id, self._llm_calls.pop(program.id, 0))

    # -- what the scheduler asks ----------------------------------------------------------------

    def pressure(self, engine: Engine, waiting: int, running: int) -> None:
        """So many calls wait for the engine's memory, held programs included, beside those that run."""
        desk = self._keeper.desk(engine)
        if desk is not None:
            desk.told(waiting, running)
            if self.rule.reconsiders:
                self._keeper.watch_price(desk)

    def prompt_tokens(self, engine: Engine, messages: Sequence[ChatMessage], chain: Chain | None) -> int:
        """Expected tokens of a prompt that goes on with `chain`; 0 if nothing is known of the engine."""
        desk = self._keeper.desk(engine)
        if desk is None:
            return 0
        chars = sum(len(message.content) for message in messages)
        known, behind = (chain.tokens, chain.chars) if chain is not None else (0, 0)
        return known + desk.costs.tokens(max(0, chars - behind))

    def read_s(self, engine: Engine) -> float:
        """Expected seconds of prefill a token, of a thousand; 0 if nothing is known of the engine."""
        desk = self._keeper.desk(engine)
        return desk.costs.prefill.seconds(1000, 0) / 1000 if desk is not None else 0.0

    def paused(self, engine: Engine) -> tuple[PausedChain, ...]:
        """The chains under lease in an engine."""
        desk = self._keeper.desks.get(engine)
        chains = () if desk is None else desk.chains.values()
        return tuple(self._paused(chain) for chain in chains if chain.lease is not None)

    def victims(self, engine: Engine, tokens: int) -> Iterator[PausedChain]:
        """Chains to give up, in that order, until so many tokens of the device are free; none whose call is back."""
        desk = self._keeper.desks.get(engine)
        if desk is None:
            return
        for lease in desk.ledger.victims(Tier.DEVICE, tokens):
            chain = desk.chains.get(lease.program)
            if chain is not None and chain.lease is not None and not lease.returned:
                yield self._paused(chain)

    def park(self, engine: Engine, program: str) -> int:
        """Give up the device memory that is kept for a paused program: to the host, else for good. Tokens freed."""
        freed = 0
        for chain in [*self._programs.get(program, {}).values()]:
            lease = chain.lease
            if lease is not None and chain.desk.engine is engine and lease.tier is Tier.DEVICE and not lease.returned:
                freed += lease.nbytes
                self._keeper.give_up(chain)
        return freed

    def pool_tokens(self, engine: Engine) -> int:
        """Tokens of KV that programs may have in an engine, in whichever tier; 0 = unknown."""
        desk = self._keeper.desk(engine) if engine.capabilities.kv_tokens else None
        return 0 if desk is None else desk.pool_tokens

    def leased_tokens(self, engine: Engine, tier: Tier = Tier.DEVICE) -> int:
        """Tokens under lease in a tier of an engine."""
        desk = self._keeper.desks.get(engine)
        return 0 if desk is None else desk.ledger.leased_bytes(tier)

    def snapshot(self) -> tuple[EngineLeases, ...]:
        """The books of every engine."""
        return tuple(
            EngineLeases(
                desk.engine.name,
                len(desk.ledger),
                {tier: desk.ledger.leased_bytes(tier) for tier in Tier},
                desk.ledger.counters(self.now()),
                desk.price(desk.unit),
                self.paused(desk.engine),
            )
            for desk in self._keeper.desks.values()
        )

    def ended_leases(self) -> Mapping[Outcome, int]:
        """How many leases ended in each way, over all engines."""
        counters = [desk.ledger.counters(self.now()) for desk in self._keeper.desks.values()]
        return {outcome: sum(of.ended[outcome] for of in counters) for outcome in Outcome}

    async def close(self) -> None:
        """Stop all timers and messages."""
        self._closed = True
        await self._keeper.close()

    def check(self) -> None:
        """Raise AssertionError if the invariant of the class docstring is broken."""
        self._keeper.check()
        known = {request for chains in self._programs.values() for request in chains}
        assert known == {request for desk in self._keeper.desks.values() for request in desk.chains}, "books differ"
        assert all(self._owners[program].outcome is None for program, chains in self._programs.items() if chains)

    # -- decisions ------------------------------------------------------------------------------

    def _pause(self, program: Program, chain: Chain) -> None:
        chain.useful = chain.tokens
        coming = self._upcoming(program, chain)
        if coming is None:
            self._keeper.finish(chain, Outcome.FINAL)
            self._discard(chain)
            self._keeper.tell_kept(chain)
            return
        chain.useful = max(1, min(chain.tokens, math.ceil(coming.share * chain.tokens)))
        chain.situation = self._situation(program, chain, coming)
        self._keeper.apply(chain, self.rule.plan(chain.situation), Outcome.EXPIRED)
        if chain.lease is None:
            self._keeper.tell_kept(chain)

    def _decide(self, chain: Chain, outcome: Outcome) -> None:
        """Decide again on a chain under lease; `outcome` if it is dropped."""
        program = self._owners[chain.program]
        coming = self._upcoming(program, chain)
        if coming is None:
            self._keeper.finish(chain, Outcome.FINAL)
            self._discard(chain)
            return
        self._keeper.apply(chain, self.rule.plan(self._situation(program, chain, coming)), outcome)

    def _upcoming(self, program: Program, chain: Chain) -> Upcoming | None:
        call = program.calls[chain.call].call
        assert isinstance(call, LLMCall)
        length = functools.partial(self._lengths.of, program)
        return upcoming(program.graph, call, program.open, length, length(call.variable))

    def _situation(self, program: Program, chain: Chain, coming: Upcoming) -> Situation:
        desk, now = chain.desk, self.now()
        shared = min(chain.shared, chain.useful)
        likely = 1.0 if coming.call is not None else self._returns.likely(program.workflow, chain.stage)
        private = BlockRange(
            recompute_s=chain.recompute_s * likely,
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
        )

    def _waits(self, program: Program, chain: Chain, coming: Upcoming) -> tuple[Outstanding, ...]:
        self.tools.tell()
        waits: list[Outstanding] = []
        for name, after in zip(coming.waits, coming.after, strict=True):
            call = program.graph.calls[name]
            if isinstance(call, FunctionCall):
                one, started_at = self.tools.of(program, call)
            else:
                one, started_at = _llm_call(program, call), None
            waits.append(Outstanding(one, started_at, () if started_at is not None else after))
        if not waits and coming.call is None:  # an open program, and nothing runs: its client has the turn
            waits.append(Outstanding(_client(program, chain), chain.idle_at or chain.began_at))
        return tuple(waits)

    # -- chains that nothing will go on with -----------------------------------------------------

    def _discard(self, chain: Chain) -> None:
        self._programs.get(chain.program, {}).pop(chain.request, None)
        chain.desk.remove(chain)

    def _forget_oldest(self, chains: dict[str, Chain]) -> None:
        oldest = next((chain for chain in chains.values() if chain.lease is None), next(iter(chains.values())))
        self._keeper.finish(oldest, Outcome.CANCELLED)
        self._discard(oldest)

    def _end_aside(self, program: Program, chain: Chain, aside: Chain | None) -> None:
        """A conversation that began after `chain` is over, as the call after it goes on with `chain`: most likely.

        A critic's is not, whose writer goes on: that shows when its stage's next calls come.
        """
        if aside is None or aside.aside or aside.returned_at is not None or aside.began_at <= chain.began_at:
            return
        aside.aside = True
        coming = self._upcoming(program, aside)
        if coming is None or (coming.call is None and self._asides.likely(program.workflow, aside.stage) < 0.5):
            self._keeper.finish(aside, Outcome.CANCELLED)

    def _drop_superseded(self, chain: Chain, chains: Mapping[str, Chain], prompt: tuple[Print, ...]) -> None:
        """A call has begun a newer history: what older ones have beyond it will not be asked for again."""
        for other in chains.values():
            if other is not chain and other.lease is not None and other.returned_at is None:
                alike = _alike(other.prompt, prompt)
                if max(2, len(other.prompt) // 2) <= alike < len(other.prompt):
                    self._keeper.finish(other, Outcome.CANCELLED)

    # -- small things

    def _paused(self, chain: Chain) -> PausedChain:
        lease = chain.lease
        assert lease is not None
        return PausedChain(
            program=chain.program,
            tenant=self._owners[chain.program].tenant,
            call=chain.call,
            request=chain.request,
            tier=lease.tier,
            tokens=lease.nbytes,
            shared_tokens=min(chain.shared, chain.useful),
            remaining_s=lease.remaining_s,
            recompute_s=lease.recompute_s,
            returned=lease.returned,
            until=lease.until,
        )

    def _grace(self, desk: Desk, program: Program, call: LLMCall) -> float:
        """How long the engine keeps the call's chain by itself, until it is decided on."""
        if not desk.enforced or (not program.open and not program.graph.successors(call.id)):
            return 0.0
        return self.rule.grace_s

    def _learn_pause(self, program: Program, chain: Chain) -> None:
        self._returns.learn(program.workflow, chain.stage, True)
        if chain.situation is not None and any(one.call.tool == _CLIENT for one in chain.situation.waits):
            seconds = self.now() - (chain.idle_at or chain.began_at)
            self.rule.observe(_client(program, chain), seconds)


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


def _begins_as(chain: Chain, call: LLMCall, messages: Sequence[ChatMessage]) -> bool:
    """True if a call may belong to the conversation that left the chain, although its prompt does not show it."""
    if chain.stage != (call.stage or ""):
        return False
    alone = len(chain.prompt) == len(messages) == 1 and chain.stage != ""
    return alone or chain.prompt[:1] == fingerprint(messages[:1])


def _alike(first: Sequence[Print], second: Sequence[Print]) -> int:
    """How many messages two prompts begin with in common."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
