"""Autellix's order (arXiv 2502.13965): least attained service of the program, in discrete queues, nobody starving.

Owns that reading of the paper, as a baseline and for traffic whose graphs nobody declares. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heappop, heappush

from engine.protocol import PriorityKey
from orchestrator.scheduling.policy import NO_CHANGES, Changes, EndedCall, ProgramArrival, ReadyCall
from tenuto.wire import FunctionCall

FIRST_QUANTUM_S = 2.0
"""Service range of the first queue; each further one is twice as wide."""
QUEUES = 12
BETA = 4.0
"""A call is promoted once its program and it have waited this many times the service they had."""


@dataclass(slots=True)
class _Waiting:
    """A call that is ready: the program's attained service when it became so, and when that was."""

    base_s: float
    since_s: float


@dataclass(slots=True)
class _Program:
    service_s: float = 0.0  # ATLAS: the longest path of service so far (section 4.2)
    served_s: float = 0.0  # all service, for the anti-starvation ratio
    waited_s: float = 0.0
    calls: dict[str, _Waiting] = field(default_factory=dict)
    key: PriorityKey = (0.0, 0.0)


class Plas:
    """Program-level attained service (PLAS), with ATLAS's one scalar for programs that branch.

    `service <- max(service, service at the call's start + its seconds)` at a call's end; a new call inherits it and
    enters the queue of that range; first come, first served inside a queue. A call whose waiting ratio
    (W_program + W_call) / (T_program + T_call) reaches BETA goes to the first queue; siblings of it come along, since
    an engine knows keys by program. O(log n) an event.
    """

    name = "plas"
    holds = False

    def __init__(self, quantum_s: float = FIRST_QUANTUM_S, beta: float = BETA) -> None:
        self._quantum_s = quantum_s
        self._beta = beta
        self._programs: dict[str, _Program] = {}
        self._promotions: list[tuple[float, int, str, str]] = []
        self._calls = 0

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        return False

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        self._programs[program.program] = _Program()
        return self._promoted(now)

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        program = self._programs[call.program]
        self._calls += 1
        program.calls[call.call.id] = _Waiting(program.service_s, now)
        program.key = (float(self._queue(program.service_s)), float(self._calls))
        if program.served_s > 0 and not isinstance(call.call, FunctionCall):
            due_s = now + max(0.0, self._beta * program.served_s - program.waited_s)
            heappush(self._promotions, (due_s, self._calls, call.program, call.call.id))
        return program.key

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        return NO_CHANGES

    def call_ended(self, call: EndedCall, now: float) -> Changes:
        program = self._programs.get(call.program)
        if program is None:
            return NO_CHANGES
        waiting = program.calls.pop(call.call.id, None)
        if waiting is not None and not isinstance(call.call, FunctionCall):
            program.service_s = max(program.service_s, waiting.base_s + call.seconds)
            program.served_s += call.seconds
            program.waited_s += max(0.0, now - waiting.since_s - call.seconds)
        return self._promoted(now)

    def program_ended(self, program: str, now: float) -> Changes:
        self._programs.pop(program, None)
        return self._promoted(now)

    def _queue(self, service_s: float) -> int:
        """The queue whose range [q, 2q) of service this falls into; 0 below the first quantum."""
        if service_s < self._quantum_s:
            return 0
        return min(QUEUES - 1, 1 + int(math.log2(service_s / self._quantum_s)))

    def _promoted(self, now: float) -> Changes:
        """Calls that have waited too long for what their program got: first queue, in the order of their waiting."""
        changes: dict[str, PriorityKey] = {}
        while self._promotions and self._promotions[0][0] <= now:
            _, number, name, call = heappop(self._promotions)
            program = self._programs.get(name)
            if program is not None and call in program.calls and program.key[0] > 0:
                program.key = changes[name] = (0.0, float(number))
        return changes or NO_CHANGES
