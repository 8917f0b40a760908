"""Orders that only a benchmark may use: they know what no server can know, or bind an engine as others do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from engine.costs import EngineProfile
from engine.protocol import PriorityKey
from orchestrator.scheduling import NO_CHANGES, Changes, EndedCall, Policy, ProgramArrival, ReadyCall
from orchestrator.simulation import TraceProgram
from orchestrator.simulation.trace import LLMNode
from tenuto.wire import FunctionCall


class ShortestRemaining:
    """Clairvoyant shortest remaining service first, with the project's hold: the bound of every order.

    Knows each program's true engine seconds from the trace: the n-th program that arrives is the trace's n-th.
    """

    name = "srpt"
    holds = True

    def __init__(self, programs: Sequence[TraceProgram], card: EngineProfile) -> None:
        self._lives = [true_seconds(program, card) for program in programs]
        self._arrived = 0
        self._rest: dict[str, float] = {}
        self._calls = 0

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        return False

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        self._rest[program.program] = self._lives[self._arrived]
        self._arrived += 1
        return NO_CHANGES

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        self._calls += 1
        return (self._rest[call.program], float(self._calls))

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        return NO_CHANGES

    def call_ended(self, call: EndedCall, now: float) -> Changes:
        if call.program in self._rest and not isinstance(call.call, FunctionCall):
            self._rest[call.program] -= call.seconds
        return NO_CHANGES

    def program_ended(self, program: str, now: float) -> Changes:
        self._rest.pop(program, None)
        return NO_CHANGES


def true_seconds(program: TraceProgram, card: EngineProfile) -> float:
    """Engine seconds of all its calls on an engine at a moderate batch, its own prefixes being there."""
    seconds, known = 0.0, 0
    for node in program.nodes:
        if isinstance(node, LLMNode):
            fresh = max(0, node.prompt_tokens - known)
            known = max(known, node.prompt_tokens + node.output)
            seconds += card.token_s * fresh + node.output * 2 * (card.step_s + card.weights_s)
    return seconds


Rival = Callable[[Sequence[TraceProgram], EngineProfile], Policy]
RIVALS: Mapping[str, Rival] = MappingProxyType({ShortestRemaining.name: ShortestRemaining})
