"""HexGen-Flow's order (arXiv 2505.05286): each stage gets its share of the program's time, least slack first.

Owns that rule without the defects of its public code: every program has a list of stages of its own, a call is
expected to take what calls of its stage and length took, tools count, and nothing assigned is ever forgotten. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dag.graph import ProgramGraph
from dag.paths import remaining
from engine.protocol import PriorityKey
from orchestrator.scheduling.learned import Learned
from orchestrator.scheduling.policy import NO_CHANGES, Changes, EndedCall, ProgramArrival, ReadyCall
from orchestrator.scheduling.statistics import stage_of
from tenuto.wire import Call

SLO_SCALE = 5.0
"""A program without a deadline should end within this many times its expected critical path (the paper: 3 to 14.8)."""


@dataclass(slots=True)
class _Program:
    arrival_s: float
    workflow: str
    graph: ProgramGraph
    slo_s: float | None
    known: int = 0
    rest: dict[str, float] = field(default_factory=dict)


class Urgency:
    """Stage budgets and least slack.

    Budget of call j: `(SLO - elapsed) * t_j / (t_j + expected seconds of the stages still to come)`; urgency
    `t_j - (budget - waited)`, largest first. Both sides grow with waiting alike, so the order is that of the latest
    start `ready + budget - t_j`, which is the key. O(unfinished calls) an extension, O(1) an event.
    """

    name = "urgency"
    holds = False

    def __init__(self, slo_scale: float = SLO_SCALE) -> None:
        self._slo_scale = slo_scale
        self._programs: dict[str, _Program] = {}
        self._seconds = Learned(prior=2.0)
        self._calls = 0

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        return False

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        deadline_s = program.objective.deadline_s
        self._programs[program.program] = _Program(now, program.workflow, program.graph, deadline_s)
        return NO_CHANGES

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        program = self._programs[call.program]
        self._calls += 1
        if len(program.graph.calls) != program.known:
            self._plan(program, now)
        own_s = max(1e-6, self._expected(program, call.call))
        rest_s = max(own_s, program.rest.get(call.call.id, own_s))
        slo_s = program.slo_s if program.slo_s is not None else rest_s
        budget_s = (slo_s - (now - program.arrival_s)) * own_s / rest_s
        return (now + budget_s - own_s, float(self._calls))

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        return NO_CHANGES

    def call_ended(self, call: EndedCall, now: float) -> Changes:
        program = self._programs.get(call.program)
        if program is not None and call.succeeded:
            self._seconds.learn(program.workflow, call.seconds, stage_of(call.call))
        return NO_CHANGES

    def program_ended(self, program: str, now: float) -> Changes:
        self._programs.pop(program, None)
        return NO_CHANGES

    def _plan(self, program: _Program, now: float) -> None:
        program.known = len(program.graph.calls)
        program.rest = remaining(program.graph, lambda call: self._expected(program, call))
        if program.slo_s is None or program.graph.objective.deadline_s is None:
            # Of a program that grows, what it has had already belongs to its time.
            longest_s = max(program.rest.values(), default=0.0)
            program.slo_s = (now - program.arrival_s) + self._slo_scale * longest_s

    def _expected(self, program: _Program, call: Call) -> float:
        return self._seconds.mean(program.workflow, stage_of(call), call.expected_s)
