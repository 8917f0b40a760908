"""Which engine of a model a call goes to.

Owns what is known of each engine's work and speed. The estimate is scheduling's (`placement`), where KV lies is
retention's, and who may begin is the gate's affair.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from engine.protocol import Engine
from orchestrator.engines import EnginePool, EngineStatus, SupervisedEngine
from orchestrator.retention import Chain, Retention
from orchestrator.runtime.priorities import Priorities
from orchestrator.scheduling.placement import EngineLoad, order

_AT_ONCE = 3
"""Calls that an engine works on side by side at little cost to each: long contexts soon make up most of a step."""
_CALL_S = 2.0
"""Engine seconds of a call of which nothing is known."""
_WORKFLOWS = 256
"""Workflows whose shared prefixes an engine is taken to have: the latest."""


class Visitor(NamedTuple):
    """A call that wants a place.

    `seconds`: of engine time it is expected to take, None = unknown; `prompt_tokens` of which `shared_tokens` are its
    workflow's; `private_tokens`: of KV that it needs for itself; `chain`: what it goes on with.
    """

    program: str
    workflow: str
    seconds: float | None
    prompt_tokens: int
    shared_tokens: int
    private_tokens: int
    chain: Chain | None


@dataclass(slots=True)
class _Stay:
    """Where a program is: its calls under way, and the engine and seconds of the last one that ended."""

    calls: int = 0
    home: str = ""
    seconds: float = 0.0


class Placing:
    """Places calls on engines of one model by expected finish.

    An engine's work are the calls under way and, of each program that pauses there, one call more: it comes back.
    Invariant: a program that has no call under way is counted at its home until it is `ended`.
    """

    def __init__(self, engines: EnginePool, priorities: Priorities, retention: Retention) -> None:
        self._engines = engines
        self._priorities = priorities
        self._retention = retention
        self._work_s: dict[str, float] = {}
        self._stays: dict[str, _Stay] = {}
        self._workflows: dict[str, OrderedDict[str, None]] = {}

    def several(self, model: str | None) -> bool:
        """Whether there is anything to choose. Raises `NoEngine`, `UnknownModel`."""
        return len(self._engines.replicas(model)) > 1

    def choose(self, model: str | None, visitor: Visitor) -> Engine:
        """Where the call would end soonest. Raises `NoEngine`, `UnknownModel`.

        A program stays where its KV is held: what one call would gain elsewhere all later ones would pay for, and an
        engine with nothing to do calls those away who wait (`Gate.call_away`).
        """
        engines = self._engines.replicas(model)
        ready = [engine for engine in engines if _ready(engine)] or engines
        home = self._home(visitor.chain)
        if home is not None and home in ready:
            return home
        read_s = {engine.name: self._retention.read_s(engine) for engine in ready}
        known = [seconds for seconds in read_s.values() if seconds > 0]
        best_s = min(known, default=0.0)
        loads = [
            self._load(engine, visitor, best_s / (read_s[engine.name] or best_s or 1.0) or 1.0) for engine in ready
        ]
        first = order(loads, visitor.seconds or _CALL_S, visitor.prompt_tokens, best_s)[0]
        return next(engine for engine in ready if engine.name == first)

    def _home(self, chain: Chain | None) -> Engine | None:
        """Where the chain still is: held, or in memory that nobody wanted."""
        if chain is None:
            return None
        engine = chain.desk.engine
        return engine if chain.lease is not None or not self._priorities.gate(engine).hold.shortage(0) else None

    def _load(self, engine: Engine, visitor: Visitor, speed: float) -> EngineLoad:
        hold = self._priorities.gate(engine).hold
        inside = hold.is_inside(visitor.program)
        resident = visitor.shared_tokens if visitor.workflow in self._workflows.get(engine.name, ()) else 0
        return EngineLoad(
            engine.name,
            waiting_s=self._others_s(engine.name, visitor.program) / speed,
            speed=speed,
            short_tokens=0 if inside else hold.shortage(visitor.private_tokens),
            resident_tokens=resident,
            at_once=min(engine.capabilities.max_running or _AT_ONCE, _AT_ONCE),
        )

    def _others_s(self, engine: str, program: str) -> float:
        work_s, stay = self._work_s.get(engine, 0.0), self._stays.get(program)
        return work_s - stay.seconds if stay is not None and not stay.calls and stay.home == engine else work_s

    def sent(self, engine: Engine, visitor: Visitor) -> None:
        """The call goes to the engine's gate; `left` must follow."""
        stay = self._stays.setdefault(visitor.program, _Stay())
        if not stay.calls and stay.home:
            self._work_s[stay.home] -= stay.seconds
        stay.calls += 1
        self._work_s[engine.name] = self._work_s.get(engine.name, 0.0) + (visitor.seconds or _CALL_S)
        workflows = self._workflows.setdefault(engine.name, OrderedDict())
        workflows[visitor.workflow] = None
        workflows.move_to_end(visitor.workflow)
        if len(workflows) > _WORKFLOWS:
            workflows.popitem(last=False)

    def left(self, engine: Engine, visitor: Visitor) -> None:
        """It has ended, or waits elsewhere."""
        seconds, stay = visitor.seconds or _CALL_S, self._stays.get(visitor.program)
        self._work_s[engine.name] -= seconds
        if stay is None:
            return  # its program ended before it
        stay.calls -= 1
        if not stay.calls:
            stay.home, stay.seconds = engine.name, seconds
            self._work_s[engine.name] += seconds

    def ended(self, program: str) -> None:
        """The program comes back no more; no error if it never was here."""
        stay = self._stays.pop(program, None)
        if stay is not None and not stay.calls:
            self._work_s[stay.home] -= stay.seconds


def _ready(engine: Engine) -> bool:
    return not isinstance(engine, SupervisedEngine) or engine.state.status is EngineStatus.READY
