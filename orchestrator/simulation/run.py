"""Runs a scenario: the production runtime on simulated engines, with a trace's clients, in virtual time.

Owns how the parts are put together; the same seed gives the same bytes.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from engine.costs import EngineProfile, profile
from engine.protocol import EngineEvent, EngineEventKind, LeaseOutcome
from engine.simulated import SimulatedEngine
from orchestrator.engines import EnginePool, replica_name
from orchestrator.journal import NullJournal
from orchestrator.limits import Limits
from orchestrator.retention import EngineLeases, make_rule
from orchestrator.runtime import Runtime
from orchestrator.scheduling import Policy, make_policy
from orchestrator.simulation.client import Clients, Tools
from orchestrator.simulation.faults import NO_FAULTS, CrashingEngine, Faults
from orchestrator.simulation.fields import bounded
from orchestrator.simulation.report import LeaseMeter, ProgramOutcome, Report, outcome
from orchestrator.simulation.trace import TraceProgram
from orchestrator.simulation.workload import (
    Blueprint,
    Library,
    distinct_tokens,
    library_of,
    resample,
    scaled,
    tool_names,
)
from orchestrator.tools import WorkerPool
from orchestrator.virtual_time import VirtualClock, VirtualTimeLoop
from tenuto.wire import Timeline

_LIMITS = Limits(
    live_programs=1_000_000, live_calls=100_000_000, ended_programs=1_024, token_events=1, engine_calls=1_000_000
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated. `infinite`: memory for everything, so that nothing is ever computed twice.

    `wait_cap_s`: pauses that no tool explains are cut to this (people go home). `engine_calls`: calls given to one
    engine at once, the others wait outside in the policy's order.
    """

    engine: EngineProfile
    replicas: int = 1
    policy: str = "fcfs"
    retention: str = "lru"
    infinite: bool = False
    seed: int = 0
    wait_cap_s: float = 120.0
    engine_calls: int = _LIMITS.engine_calls
    faults: Faults = NO_FAULTS


class Simulation:
    """One run. `report` is there when it has ended."""

    def __init__(
        self,
        programs: Sequence[TraceProgram],
        scenario: Scenario,
        *,
        scale: float = 1.0,
        library: Library | None = None,
        policy: Policy | None = None,
    ) -> None:
        """`policy`: instead of the scenario's, one that is not known by name.

        Raises TraceError if programs would arrive for longer than any trace may last.
        """
        bounded(max((p.arrival for p in programs), default=0.0), "the last arrival, as programs were drawn and scaled")
        self._policy = policy or make_policy(scenario.policy)
        self._programs, self._scenario, self._scale = programs, scenario, scale
        self._library = library or Library()
        self._outcomes: dict[str, ProgramOutcome] = {}
        self._footprint = _Footprint()
        self._cut_calls = 0
        self._meters: list[_Meter] = []

    def run(self) -> Report:
        """Run to the end of the last program, in a loop of its own."""
        return run_virtual(self._run())

    def _card(self) -> EngineProfile:
        """The profile of each engine."""
        scenario, card = self._scenario, self._scenario.engine
        if scenario.infinite:
            card = replace(card, kv_tokens=distinct_tokens(self._programs, self._library) + 64 * card.max_running)
        return card

    def _engine(self, card: EngineProfile, name: str) -> SimulatedEngine:
        engine = SimulatedEngine(card, self._library.book, name=name)
        self._meters.append(_Meter(engine))
        return engine

    def _crashed(self, engine: SimulatedEngine) -> None:
        next(meter for meter in self._meters if meter.engine is engine).lost()

    async def _run(self) -> Report:
        scenario, loop = self._scenario, asyncio.get_running_loop()
        rng = Random(f"simulation {scenario.seed}")
        clock, faults, card = VirtualClock(), scenario.faults, self._card()
        names = [replica_name(card.name, number) for number in range(scenario.replicas)]
        crashing = [
            CrashingEngine(name, card.name, partial(self._engine, card, name), faults, rng, clock, self._crashed)
            for name in names
            if faults.crash_every_s
        ]
        engines = EnginePool([each.supervised for each in crashing] or [self._engine(card, name) for name in names])
        workers = WorkerPool(limits=_LIMITS, rng=rng)
        clients: Clients
        runtime = Runtime(
            clock=clock,
            engines=engines,
            workers=workers,
            journal=NullJournal(),
            policy=self._policy,
            limits=replace(_LIMITS, engine_calls=scenario.engine_calls),
            rng=rng,
            retention=make_rule(scenario.retention, lambda program, call: clients.foresee(program, call)),
        )
        await runtime.start()
        engines.start()
        tools = Tools(workers, self._library, faults.tool_seconds(rng))
        for tenant in sorted({program.tenant for program in self._programs}):
            tools.serve(tenant, tool_names([p for p in self._programs if p.tenant == tenant]))
        await clock.sleep(0)
        clients = Clients(
            runtime,
            self._library,
            clock,
            wait_cap_s=scenario.wait_cap_s,
            ended=self._ended,
            progress=self._footprint.changed,
        )
        await asyncio.gather(*(clients.run(program) for program in self._programs))
        makespan_s = loop.time()
        books = runtime.retention.snapshot()
        await tools.close()
        await runtime.close()
        for each in crashing:
            each.stop()
        await engines.close()
        return self._report(len(names), makespan_s, books)

    def _ended(self, source: TraceProgram, timeline: Timeline, seconds: float) -> None:
        self._footprint.ended(source.program)
        self._outcomes[source.program] = outcome(
            source.program, source.arrival, seconds, source.deadline, timeline, source.tenant
        )
        outputs = self._library.blueprint(source).outputs
        self._cut_calls += sum(
            call.state == "ended" and call.output_tokens < outputs.get(call.id, 0) for call in timeline.calls
        )

    def _leases(self, books: Sequence[EngineLeases]) -> LeaseMeter:
        """What the engines told of leases; where they heard of none, what the orchestrator's books say."""
        leases = LeaseMeter()
        for meter in self._meters:
            meter.add_to(leases)
        if any(meter.heard for meter in self._meters):
            return leases
        token_bytes = self._scenario.engine.kv_bytes_per_token
        for counters in [one.counters for one in books if one.counters.opened]:
            for how, count in counters.ended.items():
                leases.ended[how.value] += count
            held, unused = sum(counters.byte_seconds.values()), sum(counters.wasted_byte_seconds.values())
            leases.byte_seconds[LeaseOutcome.HANDOFF.value] += (held - unused) * token_bytes
            leases.byte_seconds["unused"] = leases.byte_seconds.get("unused", 0.0) + unused * token_bytes
        return leases

    def _report(self, replicas: int, makespan_s: float, books: Sequence[EngineLeases]) -> Report:
        engines = [meter.engine for meter in self._meters]
        scenario = {**asdict(self._scenario), "engine": self._scenario.engine.name}
        return Report(
            scenario=scenario,
            programs=tuple(self._outcomes[p.program] for p in self._programs if p.program in self._outcomes),
            leases=self._leases(books),
            makespan_s=makespan_s,
            scale=self._scale,
            busy_share=sum(engine.busy_s for engine in engines) / (replicas * makespan_s) if makespan_s else 0.0,
            peak_private_tokens=self._footprint.peak,
            recomputed_tokens=sum(engine.recomputed_tokens for engine in engines),
            preemptions=sum(engine.preemptions for engine in engines),
            cut_calls=self._cut_calls,
        )


def simulate(
    trace: Sequence[TraceProgram],
    *,
    engine: str | EngineProfile = "h200-8b",
    replicas: int = 1,
    policy: str = "fcfs",
    retention: str = "lru",
    load: float | None = None,
    seed: int = 0,
    programs: int | None = None,
    infinite: bool = False,
    host_bytes: int | None = None,
    max_running: int | None = None,
    shared_prefix_decode: bool | None = None,
    wait_cap_s: float = 120.0,
    drawn: bool = True,
    scale: float | None = None,
    faults: Faults | None = None,
) -> Report:
    """Simulate a trace, resampled and with new arrivals by `seed` (`drawn` False: as it stands).

    `load` scales arrivals so that the peak private KV of live programs, under fcfs in an infinite memory, is `load`
    times the engines' memory; `scale` stretches them by a known factor instead (`Report.scale` of an earlier run).
    `infinite` replaces the memory by one that holds everything. Raises UnknownProfile, UnknownPolicy.
    """
    card = profile(engine) if isinstance(engine, str) else engine
    changes: Mapping[str, Any] = {
        "host_bytes": host_bytes,
        "max_running": max_running,
        "shared_prefix_decode": shared_prefix_decode,
    }
    card = replace(card, **{name: value for name, value in changes.items() if value is not None})
    chosen = resample(trace, seed=seed, count=programs) if drawn else list(trace)
    library = library_of(trace)
    scenario = Scenario(card, replicas, policy, retention, infinite, seed, wait_cap_s, faults=faults or NO_FAULTS)
    reached: float | None = None
    if scale is None:
        scale, reached = (1.0, None) if load is None else calibrate(chosen, scenario, load, library)
    report = Simulation(scaled(chosen, scale), scenario, scale=scale, library=library).run()
    return replace(report, load=reached)


def calibrate(
    programs: Sequence[TraceProgram], scenario: Scenario, load: float, library: Library
) -> tuple[float, float]:
    """The factor on arrivals at which the peak private KV, under fcfs in an infinite memory, is `load` times memory,
    and the load that is really reached: few programs may never reach it, or go past it in one step.

    Searches by the secant rule in logarithms, for at most 8 runs, to within 3 %.
    """
    capacity = scenario.engine.kv_tokens * scenario.replicas
    scenario = replace(scenario, policy="fcfs", retention="lru", infinite=True, faults=NO_FAULTS)

    def reached(factor: float) -> float:
        report = Simulation(scaled(programs, factor), scenario, library=library).run()
        return max(report.peak_private_tokens, 1) / capacity

    low, high, factor = 1e-6, 1e6, 1.0
    nearest: tuple[float, float, float] | None = None
    for _ in range(8):
        found = reached(factor)
        off = abs(math.log(found / load))
        if nearest is None or off < nearest[0]:
            nearest = off, factor, found
        if off <= 0.03 or factor < 1e-4:
            break
        if found > load:
            low = factor
        else:
            high = factor
        guess = factor * found / load
        factor = guess if low < guess < high else (low * high) ** 0.5
    assert nearest is not None
    return nearest[1:]


def run_virtual(work: Coroutine[Any, Any, Report]) -> Report:
    """Run a coroutine in a virtual-time loop of its own.

    Few objects of a simulation die in cycles: the collector is let look for them seldom, and never at what was there.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(3_000_000, 20, 1000)
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(work)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@dataclass(slots=True)
class _Use:
    """One live program: private tokens of its running calls, and of the last one that ended."""

    running: dict[int, int] = field(default_factory=dict)
    last: int = 0
    counted: int = 0


class _Footprint:
    """The private KV that live programs need: of each, what its running calls hold or what its last one left."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._uses: dict[str, _Use] = {}

    def changed(self, source: TraceProgram, blueprint: Blueprint, place: int, ready: bool) -> None:
        use = self._uses.setdefault(source.program, _Use())
        tokens = blueprint.private_tokens[place]
        if ready:
            use.running[place] = tokens
        else:
            use.running.pop(place, None)
            use.last = tokens
        self._count(use, max(sum(use.running.values()), use.last))

    def ended(self, program: str) -> None:
        use = self._uses.pop(program, None)
        if use is not None:
            self._count(use, 0)

    def _count(self, use: _Use, tokens: int) -> None:
        self.now += tokens - use.counted
        use.counted = tokens
        self.peak = max(self.peak, self.now)


class _Meter:
    """Measures an engine's leases from its events. `heard`: there was one."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, tuple[float, int]] = {}
        self._ended: list[tuple[str, float]] = []
        self.heard = False
        engine.on_event = self._hear

    def _hear(self, event: EngineEvent) -> None:
        now_s = self._loop.time()
        if event.kind is EngineEventKind.LEASED and event.lease is not None:
            self.heard = True
            self._open.setdefault(event.lease, (now_s, event.blocks))
        elif event.kind is EngineEventKind.LEASE_ENDED and event.lease is not None and event.outcome is not None:
            self._end(event.lease, event.outcome, now_s)

    def _end(self, lease: str, outcome: LeaseOutcome, now_s: float) -> None:
        since_s, blocks = self._open.pop(lease, (now_s, 0))
        block_bytes = 16 * self.engine.profile.kv_bytes_per_token
        self._ended.append((outcome.value, blocks * block_bytes * (now_s - since_s)))

    def lost(self) -> None:
        """The engine died, and its leases with it."""
        for lease in [*self._open]:
            self._end(lease, LeaseOutcome.CANCELLED, self._loop.time())

    def add_to(self, leases: LeaseMeter) -> None:
        for name, byte_seconds in self._ended:
            leases.ended[name] += 1
            leases.byte_seconds[name] += byte_seconds
