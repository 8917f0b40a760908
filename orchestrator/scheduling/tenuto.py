"""The project's own order: programs by arrival, handicapped by what is expected to be left of them.

Owns the handicap and its bound. Pure: events in, keys out.

A program's key is its *due time*: `arrival + WINDOW_S * r / (r + HALF_S)`, r being the engine seconds that its rest is
expected to take, in steps: programs of about the same rest go by arrival. The due time lies between its arrival and
WINDOW_S later, which is the stated bound: **no call is overtaken by a call of a program that arrived more than WINDOW_S
after its own**. Inside the window the order is that of the shortest remaining work. A deadline that can still be met
makes a program due at its latest start, if that is earlier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heappop, heappush

from dag.graph import ProgramGraph
from dag.paths import remaining
from engine.protocol import PriorityKey
from orchestrator.scheduling.learned import Learned, Lifetimes
from orchestrator.scheduling.policy import NO_CHANGES, Changes, EndedCall, ProgramArrival, ReadyCall
from orchestrator.scheduling.statistics import stage_of
from tenuto.wire import FunctionCall, Objective

WINDOW_S = 14_400.0
"""No program is overtaken by one that arrived this much later."""
HALF_S = 120.0
"""Expected engine seconds at which a program's handicap is half the window."""
_DECLARED, _GUESSED = 2.0, 10.0
"""Rests are told apart by this factor; nearer ones are alike, and go by arrival. What a graph declares is known better
than what agents still need."""
_LONG_S = 100.0
"""Above this nobody can tell which of two guessed rests is the longer one."""
_STAY = 0.75
"""A rest moves to another step once it is so many steps from its own."""
_WIDTH = 8.0
"""Calls of one program that an engine is taken to work on at once: work of wide programs is divided by it."""
_CALL_S = 2.0
"""Engine seconds of a call of which nothing is known."""
_FIRST_STEP = 64
"""Output tokens after which a running call is looked at again; then at every doubling."""


@dataclass(slots=True)
class _Active:
    """A call that is ready or runs: its seconds on the longest way to the end, itself included, and its own."""

    rest_s: float
    own_s: float
    tokens: int = 0
    look_at: int = _FIRST_STEP


@dataclass(slots=True)
class _Program:
    """What the policy knows of a live program. `rest` and `work_s` are as of the graph's first `known` calls."""

    arrival_s: float
    workflow: str
    objective: Objective
    graph: ProgramGraph
    open: bool
    known: int = 0
    rest: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)
    work_s: float = 0.0
    served: bool = False
    active: dict[str, _Active] = field(default_factory=dict)
    longest: list[tuple[float, str]] = field(default_factory=list)  # max-heap of active calls' rests, lazily cleaned
    step: int | None = None
    key: PriorityKey = (0.0,)


class Tenuto:
    """Shortest expected rest first, within a window of arrival times. The default policy.

    What is left of a program: of its declared graph the longest way, or its work if that is wide, in seconds learned
    by workflow and stage; of an open program, whose future nobody declared, at least what those of its workflow
    need, whatever it has had already. A call gets its program's key when it is ready, those that are there already with
    the next change. O(log calls) an event; an extension costs its size.
    """

    name = "tenuto"
    holds = True

    def __init__(self, window_s: float = WINDOW_S, half_s: float = HALF_S) -> None:
        self._window_s = window_s
        self._half_s = half_s
        self._programs: dict[str, _Program] = {}
        self._calls = Learned(prior=_CALL_S)
        self._tokens = Learned(prior=64.0)
        self._lives = Lifetimes()

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        return running[1] > waiting[1] + self._window_s  # keys are (due, arrival)

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        self._programs[program.program] = _Program(
            now, program.workflow, program.objective, program.graph, program.open
        )
        return NO_CHANGES

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        program = self._programs[call.program]
        self._plan(program)
        name = call.call.id
        rest_s = program.rest.get(name, 0.0)
        program.active[name] = _Active(rest_s, program.own.get(name, 0.0))
        heappush(program.longest, (-rest_s, name))
        return self._rekey(program, now)

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        """A call that outlives its expectation moves its program back, at most once for each doubling of tokens."""
        known = self._programs.get(program)
        active = known.active.get(call) if known is not None else None
        if known is None or active is None:
            return NO_CHANGES
        active.tokens += tokens
        if active.tokens < active.look_at:
            return NO_CHANGES
        active.look_at = 2 * active.tokens
        stage = stage_of(known.graph.calls[call])
        expected = max(1.0, self._tokens.mean(known.workflow, stage))
        left = self._tokens.residual(known.workflow, float(active.tokens), stage)
        later_s = max(0.0, active.own_s * left / expected)
        after_s = active.rest_s - active.own_s
        active.rest_s = later_s + after_s
        known.work_s += later_s - known.own.get(call, 0.0)
        known.own[call] = later_s
        heappush(known.longest, (-active.rest_s, call))
        return self._changed(program, known, now)

    def call_ended(self, call: EndedCall, now: float) -> Changes:
        program = self._programs.get(call.program)
        if program is None:
            return NO_CHANGES
        name = call.call.id
        program.active.pop(name, None)
        program.work_s -= program.own.pop(name, 0.0)
        program.rest.pop(name, None)
        if not isinstance(call.call, FunctionCall):
            program.served = True
            self._lives.live(program.workflow, call.seconds)
        if call.succeeded:
            self._calls.learn(program.workflow, call.seconds, stage_of(call.call))
            if call.usage is not None:
                self._tokens.learn(program.workflow, float(call.usage.output_tokens), stage_of(call.call))
        return self._changed(call.program, program, now) if program.active else NO_CHANGES

    def program_ended(self, program: str, now: float) -> Changes:
        known = self._programs.pop(program, None)
        if known is not None and known.served:
            self._lives.end(known.workflow)
        return NO_CHANGES

    def due_s(self, program: str) -> float:
        """A live program's place in the order: the time that its key stands for."""
        return self._programs[program].key[0]

    # -- what is left ---------------------------------------------------------------------------

    def _plan(self, program: _Program) -> None:
        """Take in what was declared since the last time: the longest way from each unfinished call to the end."""
        if len(program.graph.calls) == program.known:
            return
        program.known = len(program.graph.calls)
        counted = program.objective.kind == "deadline"  # waits for tools count only where a time of day does
        program.own = {}
        known: dict[tuple[str, float | None], float] = {}  # graphs repeat their stages
        for name, call in program.graph.unfinished_calls.items():
            if isinstance(call, FunctionCall) and not counted:
                program.own[name] = 0.0
                continue
            like = stage_of(call), call.expected_s
            seconds = known.get(like)
            if seconds is None:
                seconds = known[like] = self._calls.mean(program.workflow, *like)
            program.own[name] = seconds
        program.rest = remaining(program.graph, lambda call: program.own.get(call.id, 0.0))
        program.work_s = sum(program.own.values())

    def _declared_s(self, program: _Program) -> float:
        """Engine seconds that what is declared of the program still needs."""
        longest = program.longest
        while longest and ((active := program.active.get(longest[0][1])) is None or active.rest_s != -longest[0][0]):
            heappop(longest)
        way_s = -longest[0][0] if longest else 0.0
        return max(way_s, program.work_s / _WIDTH)

    @staticmethod
    def _stepped_s(program: _Program, rest_s: float) -> float:
        """The step that a rest belongs to. An order by every second changes all the time: it makes the last wait
        longest and takes memory from programs that had it. By how long agents run on it ends nobody sooner, for the
        longer one has run the longer it goes on; what can be told is a chat from an agent."""
        factor = _DECLARED
        if program.open:
            factor, rest_s = _GUESSED, min(rest_s, _LONG_S)
        at = math.log(max(rest_s, 0.01), factor)
        if program.step is None or abs(at - program.step) > _STAY:
            program.step = round(at)
        return float(factor**program.step)

    # -- keys -----------------------------------------------------------------------------------

    def _rekey(self, program: _Program, now: float) -> PriorityKey:
        declared_s = rest_s = self._declared_s(program)
        if program.open:
            rest_s = max(declared_s, self._lives.rest(program.workflow))
        alike_s = self._stepped_s(program, rest_s)
        handicap = alike_s / (alike_s + self._half_s)
        if program.objective.kind == "throughput":
            handicap = 1.0
        due_s = program.arrival_s + self._window_s * handicap
        if program.objective.deadline_s is not None:
            known_s = rest_s if rest_s < math.inf else declared_s
            latest_s = program.arrival_s + program.objective.deadline_s - known_s
            if latest_s >= now:  # one that is lost already takes its turn like any other
                due_s = min(due_s, latest_s)
        program.key = (due_s, program.arrival_s)
        return program.key

    def _changed(self, name: str, program: _Program, now: float) -> Changes:
        before = program.key
        key = self._rekey(program, now)
        # A step of the order that nobody would notice is not worth a message.
        if abs(key[0] - before[0]) < 0.01 * (before[0] - program.arrival_s):
            program.key = before
            return NO_CHANGES
        return {name: key}
