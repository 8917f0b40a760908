"""An engine that keeps leases, and agents that pause: what retention is tested on.

`LeasingEngine` answers after a prefill that depends on what it still holds. Its memory is counted in tokens (words),
least recently used chains go first, leased ones never by themselves.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from engine.protocol import (
    Capabilities,
    EngineEvent,
    EngineEventKind,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    PrioritySupport,
    RetentionSupport,
    Tier,
    TokenChunk,
    Usage,
)
from orchestrator.retention import Retention, RetentionRule
from orchestrator.runtime import Runtime
from tenuto.wire import GraphExtension, LLMCall, Message, TextPart, VariablePart
from tests.orchestrator.runtime.support import TENANT, ScriptedEngine, Server, function, program

PREFILL_S, DECODE_S = 0.01, 0.02


def agent_call(id: str, turns: int, *, model: str | None = None, **options: Any) -> LLMCall:
    """Call number `turns` of an agent that reads all its earlier answers and tool results: say0, do0, say1, ..."""
    messages = [Message(role="system", parts=(TextPart(text="you are an agent " * 20),))]
    messages.append(Message(role="user", parts=(TextPart(text="solve it"),)))
    for turn in range(turns):
        messages.append(Message(role="assistant", parts=(VariablePart(variable=f"say{turn}"),)))
        messages.append(Message(role="user", parts=(VariablePart(variable=f"do{turn}"),)))
    return LLMCall(id=id, messages=tuple(messages), model=model, **options)


def agent(turns: int, *, tool: str = "work", tools: int = 1, **options: Any) -> Any:
    """A declared program of an agent: `turns` LLM calls with `tools` parallel function calls between any two."""
    calls: list[Any] = []
    more: tuple[str, ...] = ()
    for turn in range(turns):
        calls.append(agent_call(f"say{turn}", turn, after=more))
        if turn < turns - 1:
            more = tuple(f"also{turn}.{n}" for n in range(1, tools))
            for name in (f"do{turn}", *more):
                calls.append(function(name, tool, {"turn": turn}, after=(f"say{turn}",)))
    options.setdefault("outputs", (f"say{turns - 1}",))
    return program(*calls, **options)


@dataclass
class Held:
    lease: Lease
    until: float


class LeasingEngine(ScriptedEngine):
    """`retained`, `released`, `demoted`, `prefetched`: the messages that came; `held`: what is leased now."""

    def __init__(self, *, kv_tokens: int = 10_000, host_tokens: int = 0, **more: Any) -> None:
        super().__init__(name=more.pop("name", "leasing"))
        self._able = Capabilities(
            priority=PrioritySupport.MUTABLE,
            retention=RetentionSupport.HARD,
            max_lease_ttl_s=3600.0,
            prefetch=host_tokens > 0,
            kv_tokens=kv_tokens,
            host_kv_tokens=host_tokens,
            host_tokens_per_s=100_000.0 if host_tokens else 0.0,
            **more,
        )
        self.output: Callable[[GenerateRequest], int] = lambda request: 8
        self.held: dict[str, Held] = {}
        self.resident: OrderedDict[str, int] = OrderedDict()
        self.retained: list[Lease] = []
        self.released: list[tuple[str, LeaseOutcome]] = []
        self.demoted: list[str] = []
        self.prefetched: list[str] = []
        self.usages: list[Usage] = []
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()

    @property
    def capabilities(self) -> Capabilities:
        return self._able

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.requests.append(request)
        tokens = sum(len(message.content.split()) for message in request.messages)
        cached = min(self.resident.get(request.continues, 0), tokens - 1)
        await asyncio.sleep(PREFILL_S * (tokens - cached))
        if request.continues in self.held:
            self._end(request.continues, LeaseOutcome.HANDOFF)
        count = self.output(request)
        yield TokenChunk("w" + request.call, (0,))
        await asyncio.sleep(DECODE_S * count)
        usage = Usage(tokens, cached, count, 0.0, PREFILL_S * (tokens - cached), DECODE_S * count)
        self.usages.append(usage)
        self.resident[request.id] = tokens + count
        if request.hold_s > 0:
            self._hold(Lease(request.id, request.program, (), request.hold_s, request=request.id))
        yield TokenChunk(" w" * (count - 1), tuple(range(1, count)), FinishReason.STOP, usage)

    async def retain(self, lease: Lease) -> LeaseGrant:
        self.retained.append(lease)
        if lease.request not in self.resident:
            return LeaseGrant(lease.id, 0, None, 0.0)
        self._hold(lease)
        return LeaseGrant(lease.id, self.resident[lease.request], lease.tier, lease.ttl_s)

    async def demote(self, lease: str) -> LeaseGrant:
        self.demoted.append(lease)
        held = self.held.get(lease)
        if held is None:
            return LeaseGrant(lease, 0, None, 0.0)
        held.lease = replace(held.lease, tier=Tier.HOST)
        return LeaseGrant(lease, 1, Tier.HOST, 1.0)

    async def prefetch(self, lease: str, within_s: float) -> None:
        self.prefetched.append(lease)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        self.released.append((lease, outcome))
        if lease in self.held:
            self._end(lease, outcome)

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            yield await self._events.get()

    def break_lease(self, lease: str) -> None:
        """Memory was wanted by running work."""
        self.resident.pop(lease, None)
        self._end(lease, LeaseOutcome.PRESSURE)

    def die(self) -> None:
        """All that was resident is gone; the supervisor tells so."""
        self.held.clear()
        self.resident.clear()
        self._events.put_nowait(EngineEvent(EngineEventKind.LOST, "", 0))

    def _hold(self, lease: Lease) -> None:
        self.held[lease.id] = Held(lease, asyncio.get_running_loop().time() + lease.ttl_s)

    def _end(self, lease: str, outcome: LeaseOutcome) -> None:
        held = self.held.pop(lease)
        self._events.put_nowait(EngineEvent(EngineEventKind.LEASE_ENDED, held.lease.program, 1, lease, outcome))


async def served(engine: LeasingEngine, *, rule: RetentionRule | None = None, **options: Any) -> Server:
    """A server that keeps nothing on disk, with this engine and retention rule."""
    return await Server(engine, retention=rule, **options).start()


def retention_of(server: Server) -> Retention:
    """The server's retention."""
    runtime: Runtime = server.runtime
    return runtime.retention


async def extend(server: Server, id: str, *calls: Any, **options: Any) -> None:
    """Add calls to an open program."""
    await server.runtime.extend(id, GraphExtension(calls=calls, **options), tenant=TENANT)
