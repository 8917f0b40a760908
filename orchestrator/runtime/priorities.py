"""Tells the policy what happens, and the engines what it answers.

Owns the way of changed keys to the engines. Never has an opinion about the order: that is the policy's.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from engine.protocol import Engine, EngineError, PriorityKey, PrioritySupport
from orchestrator.clock import OrchestratorClock
from orchestrator.engines import EnginePool
from orchestrator.retention import Retention
from orchestrator.runtime.gate import Gate
from orchestrator.runtime.parking import KeptChains
from orchestrator.scheduling import Changes, EndedCall, Hold, Policy, ProgramArrival, ReadyCall

log = logging.getLogger(__name__)


class Priorities:
    """The policy with the clock, the engines and their gates around it.

    Changed keys are pushed by one task, the newest key of each program only: a policy that changes its mind with
    every token costs an engine no more than one message at a time. Invariant: the task runs while keys are pending.
    """

    def __init__(self, policy: Policy, engines: EnginePool, clock: OrchestratorClock, *, engine_calls: int) -> None:
        self._policy = policy
        self._engine_calls = engine_calls
        self._gates: dict[str, Gate] = {}
        self._engines = engines
        self._clock = clock
        self._pending: dict[str, PriorityKey] = {}
        self._pusher: asyncio.Task[None] | None = None
        self._retention: Retention | None = None

    def attach(self, retention: Retention) -> None:
        """Let the gates hear what is kept for paused programs, and park them. Once, before the first call."""
        self._retention = retention
        retention.tell(self._kept)

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return self._policy.name

    @property
    def holds(self) -> bool:
        """Whether programs wait outside while those inside fill the memory."""
        return self._policy.holds

    def gate(self, engine: Engine) -> Gate:
        """The gate of one of the server's engines."""
        gate = self._gates.get(engine.name)
        if gate is None:
            parking = KeptChains(self._retention, engine) if self._retention is not None else None
            spare = partial(self._take_over, engine) if self._engines.others(engine) else None
            gate = self._gates[engine.name] = Gate(self._engine_calls, Hold(), parking, self._policy.overdue, spare)
        if self._policy.holds:
            kept = self._retention
            gate.hold.resize(engine.capabilities.kv_tokens if kept is None else kept.pool_tokens(engine))
        return gate

    def _take_over(self, idle: Engine) -> None:
        """An engine has room and nobody waits for it: one who waits for another of its model is placed anew."""
        hold = self.gate(idle).hold
        waiting = [gate for other in self._engines.others(idle) if (gate := self._gates.get(other.name)) and gate.held]
        for gate in sorted(waiting, key=lambda gate: gate.held, reverse=True):
            if gate.call_away(lambda tokens: not hold.shortage(tokens)):
                return

    def _kept(self, engine: Engine, program: str, tokens: int) -> None:
        gate = self._gates.get(engine.name)
        if gate is not None:
            gate.kept(program, tokens)

    def held(self) -> dict[str, int]:
        """How many calls wait at the gate of each engine."""
        return {engine: gate.held for engine, gate in self._gates.items()}

    def program_arrived(self, arrival: ProgramArrival) -> None:
        self._push(self._policy.program_arrived(arrival, self._clock.now()))

    def call_ready(self, call: ReadyCall) -> PriorityKey:
        return self._policy.call_ready(call, self._clock.now())

    def tokens_made(self, program: str, call: str, tokens: int) -> None:
        self._push(self._policy.tokens_made(program, call, tokens, self._clock.now()))

    def call_ended(self, call: EndedCall) -> None:
        self._push(self._policy.call_ended(call, self._clock.now()))

    def program_ended(self, program: str) -> None:
        self._pending.pop(program, None)
        for gate in self._gates.values():
            gate.kept(program, 0)
        self._push(self._policy.program_ended(program, self._clock.now()))

    def _push(self, changes: Changes) -> None:
        if not changes:
            return
        for gate in self._gates.values():
            gate.reprioritize(changes)
        self._pending.update(changes)
        if self._pusher is None or self._pusher.done():
            self._pusher = asyncio.get_running_loop().create_task(self._tell(), name="priorities")

    async def _tell(self) -> None:
        while self._pending:
            program = next(iter(self._pending))
            key = self._pending.pop(program)
            for engine in self._engines.all():
                if engine.capabilities.priority is PrioritySupport.MUTABLE:
                    try:
                        await engine.reprioritize(program, key)
                    except EngineError as error:  # an old key costs time, never correctness
                        log.warning("engine %s did not take the key of %s: %s", engine.name, program, error)

    async def close(self) -> None:
        if self._pusher is not None:
            self._pusher.cancel()
            await asyncio.gather(self._pusher, return_exceptions=True)
