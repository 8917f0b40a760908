"""Random programs on engines whose memory is so tight that every lease must break: does all end, and is nothing left?

Each schedule is a function of its seed: programs, memory, policy, retention rule, cancellations, failing and hanging
tools. Used by `benchmarks.scheduling` and the tests; measures no time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import Any

from engine.costs import EngineProfile
from engine.simulated import SimulatedEngine
from orchestrator.engines import EnginePool
from orchestrator.errors import ProgramEnded
from orchestrator.journal import NullJournal
from orchestrator.limits import Limits
from orchestrator.retention import RULES, Tenuto, make_rule
from orchestrator.runtime import Runtime
from orchestrator.scheduling import POLICIES, make_policy
from orchestrator.tools import WorkerPool
from orchestrator.virtual_time import EverythingWaits, VirtualClock, run_virtually
from tenuto.wire import (
    Call,
    CancelTask,
    EffectClass,
    ErrorValue,
    EventKind,
    FunctionCall,
    FunctionTask,
    Graph,
    GraphExtension,
    LLMCall,
    Message,
    ProgramSubmission,
    Reference,
    Sampling,
    TaskResult,
    TextPart,
    TextType,
    ToolSpec,
    VariablePart,
    WorkerRegistration,
)

TENANT, TOOLSET = "default", "random"
PATIENCE_S = 50_000.0
"""Virtual seconds after which a schedule that has not ended counts as hanging."""
TOOLS = ("quick", "slow", "failing", "hanging")
_SYSTEMS = ("be brief. ", "you are one of many agents. ", "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one schedule. `fault`: what was wrong with it; "" = nothing."""

    seed: int
    fault: str
    outcomes: Counter[str]


@dataclass(frozen=True, slots=True)
class Totals:
    """What came of many. `faults`: seed and text of each schedule in which something hung or was left."""

    schedules: int
    faults: tuple[tuple[int, str], ...]
    outcomes: Counter[str]


def run_schedules(seeds: Iterable[int]) -> Totals:
    """Run the schedules of some seeds, one after another; about 20 ms each."""
    outcomes: Counter[str] = Counter()
    faults: list[tuple[int, str]] = []
    count = 0
    for seed in seeds:
        verdict = run_schedule(seed)
        count += 1
        outcomes += verdict.outcomes
        if verdict.fault:
            faults.append((seed, verdict.fault))
    return Totals(count, tuple(faults), outcomes)


def run_schedule(seed: int) -> Verdict:
    """Run one schedule to its end in virtual time and look for anything that hangs or leaks."""
    schedule = _Schedule(seed)
    try:
        run_virtually(schedule.run())
    except EverythingWaits as fault:
        return Verdict(seed, f"deadlock: {fault}", Counter())
    except TimeoutError:
        return Verdict(seed, f"not ended after {PATIENCE_S:g} s: {schedule.unfinished()}", Counter())
    except AssertionError as fault:
        return Verdict(seed, f"left behind: {fault}", Counter())
    return Verdict(seed, "", schedule.outcomes)


class _Schedule:
    """One schedule: a server, its clients and a worker."""

    def __init__(self, seed: int) -> None:
        rng = self._rng = Random(f"schedule {seed}")
        self.outcomes: Counter[str] = Counter()
        self._profile = EngineProfile(
            "tight",
            kv_tokens=16 * rng.randint(24, 48),
            kv_bytes_per_token=1,
            weights_s=0.01,
            token_s=0.001,
            pair_s=0.0,
            read_s=0.0,
            token_budget=rng.choice((64, 256)),
            max_running=rng.choice((2, 4, 16)),
            host_bytes=rng.choice((0, 0, 16 * 8, 16 * 64)),
            copy_bytes_per_s=rng.choice((100.0, 1e6)),
        )
        self._policy, self._rule = rng.choice(sorted(POLICIES)), rng.choice(sorted(RULES))
        self._limits = Limits(engine_calls=rng.choice((1, 3, 100)), retry_after_s=1.0)
        self._open: set[str] = set()

    def unfinished(self) -> str:
        return f"{self._policy}, {self._rule}, programs {sorted(self._open)}"

    async def run(self) -> None:
        engine = SimulatedEngine(self._profile)
        workers = WorkerPool(limits=self._limits, rng=self._rng)
        rule = make_rule(self._rule)
        runtime = Runtime(
            clock=VirtualClock(),
            engines=EnginePool([engine]),
            workers=workers,
            journal=NullJournal(),
            policy=make_policy(self._policy),
            limits=self._limits,
            rng=self._rng,
            retention=rule,
        )
        await runtime.start()
        worker = asyncio.create_task(self._work(workers))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(self._client(runtime, number) for number in range(self._rng.randint(3, 7))))
        await asyncio.sleep(5.0)  # what is on its way to the engine arrives
        self._check(runtime, engine)
        if isinstance(rule, Tenuto):
            assert rule.model.running == 0, f"{rule.model.running} function calls still run for the duration model"
        await runtime.close()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)

    def _check(self, runtime: Runtime, engine: SimulatedEngine) -> None:
        """Nothing is held, nobody waits, every lease has its outcome."""
        engine.core.check()
        assert not engine.core.has_work, "the engine has work left"
        cache = engine.core._cache
        assert len(cache.leases) == 0, f"{len(cache.leases)} leases live in the engine"
        for name, store in (("device", cache.device), ("host", cache.host)):
            assert store.pool.active == 0 and store.pool.leased == 0, f"{name}: blocks are held by nobody"
        retention = runtime.retention
        retention.check()
        for books in retention.snapshot():
            assert books.live == 0, f"{books.live} leases live in the books"
            assert books.counters.opened == sum(books.counters.ended.values()), "a lease without an outcome"
            self.outcomes.update({how.value: count for how, count in books.counters.ended.items()})
        for gate in runtime._services.priorities._gates.values():
            gate.hold.check()
            assert (gate.held, gate.calls, gate.hold.used, len(gate.hold)) == (0, 0, 0, 0), "the gate is not empty"

    # -- clients --------------------------------------------------------------------------------

    async def _client(self, runtime: Runtime, number: int) -> None:
        rng = self._rng
        await asyncio.sleep(rng.uniform(0.0, 4.0))
        calls = self._agents(rng)
        online = rng.random() < 0.4
        submission = ProgramSubmission(
            workflow=f"w{number % 2}",
            graph=Graph(calls=() if online else tuple(call for turn in calls for call in turn)),
            toolset=TOOLSET,
            open=online,
        )
        summary, _ = await runtime.submit(submission, tenant=TENANT)
        self._open.add(f"{number}: {summary.id}")
        canceller = None
        if rng.random() < 0.2:
            canceller = asyncio.create_task(self._cancel(runtime, summary.id, rng.uniform(0.0, 20.0)))
        if online:
            await self._converse(runtime, summary.id, calls)
        async with aclosing(runtime.events(summary.id, tenant=TENANT)) as events:
            async for _ in events:
                pass
        self._open.discard(f"{number}: {summary.id}")
        if canceller is not None:
            await canceller

    @staticmethod
    async def _cancel(runtime: Runtime, program: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await runtime.cancel(program, tenant=TENANT)

    async def _converse(self, runtime: Runtime, program: str, turns: list[list[Call]]) -> None:
        """Submit turn after turn, each when the one before has ended, with a pause now and then; then seal."""
        try:
            for turn in turns:
                await runtime.extend(program, GraphExtension(calls=tuple(turn)), tenant=TENANT)
                left = {call.id for call in turn}
                async with aclosing(runtime.events(program, tenant=TENANT)) as events:
                    async for event in events:
                        if event.kind in (EventKind.CALL_ENDED, EventKind.CALL_FAILED, EventKind.CALL_SKIPPED):
                            left.discard(event.call or "")
                        if not left:
                            break
                if self._rng.random() < 0.3:
                    await asyncio.sleep(self._rng.uniform(0.0, 30.0))
            await runtime.extend(program, GraphExtension(seal=True), tenant=TENANT)
        except ProgramEnded:
            pass  # it was cancelled

    @staticmethod
    def _agents(rng: Random) -> list[list[Call]]:
        """Turns of one to three agents side by side, which read their own history, and a last call over them all."""
        turns: list[list[Call]] = []
        agents = rng.choice((1, 1, 2, 3))
        system = rng.choice(_SYSTEMS)
        said: dict[int, list[Message]] = {}
        for agent in range(agents):
            said[agent] = [_message("system", system)] if system else []
            said[agent].append(_message("user", f"task {agent} " + "x" * rng.randint(4, 60)))
        for turn in range(rng.randint(1, 4)):
            calls: list[Call] = []
            for agent in range(agents):
                say = f"say{agent}.{turn}"
                sampling = Sampling(max_tokens=rng.randint(1, 14))
                calls.append(LLMCall(id=say, messages=tuple(said[agent]), sampling=sampling, stage="act"))
                read = [_message("assistant", Reference(variable=say))]
                for tool in range(rng.choice((0, 1, 1, 2))):
                    name = f"do{agent}.{turn}.{tool}"
                    kind = rng.choices(TOOLS, (8, 6, 1, 1))[0]
                    calls.append(
                        FunctionCall(
                            id=name, tool=kind, type=TextType(), after=(say,), effect=EffectClass.READ, timeout_s=300.0
                        )
                    )
                    read.append(_message("user", Reference(variable=name)))
                if rng.random() < 0.1:
                    said[agent] = [_message("user", "a new history ")]  # what was kept is of no use any more
                said[agent] = [*said[agent], *read]
            turns.append(calls)
        if agents > 1 and rng.random() < 0.5:
            last = [Reference(variable=call.id) for call in turns[-1] if isinstance(call, LLMCall)]
            turns.append([LLMCall(id="sum", messages=(_message("user", *last),), sampling=Sampling(max_tokens=5))])
        return turns

    # -- tools ----------------------------------------------------------------------------------

    async def _work(self, workers: WorkerPool) -> None:
        rng, loop = self._rng, asyncio.get_running_loop()
        specs = tuple(ToolSpec(name=name, effect=EffectClass.READ, share=False) for name in TOOLS)
        info = workers.register(
            WorkerRegistration(toolset=TOOLSET, tools=specs, concurrency=rng.choice((1, 50))), TENANT
        )
        timers: dict[str, asyncio.TimerHandle] = {}

        def end(task: FunctionTask) -> None:
            timers.pop(task.task, None)
            failed = ErrorValue(type="tool_error", message="no") if task.tool == "failing" else None
            result: dict[str, Any] = {"error": failed} if failed else {"value": "y" * rng.randint(0, 30)}
            workers.results(info.id, [TaskResult(task=task.task, **result)], tenant=TENANT)

        async with aclosing(workers.tasks(info.id, tenant=TENANT)) as tasks:
            async for task in tasks:
                if isinstance(task, CancelTask):
                    timer = timers.pop(task.task, None)
                    if timer is not None:
                        timer.cancel()
                    # its place is free again when the worker says that the tool has stopped
                    workers.results(info.id, [TaskResult(task=task.task, value=None)], tenant=TENANT)
                elif isinstance(task, FunctionTask) and task.tool != "hanging":
                    seconds = rng.expovariate(1 / 8.0) if task.tool == "slow" else rng.uniform(0.0, 0.3)
                    timers[task.task] = loop.call_later(seconds, end, task)


def _message(role: Any, *parts: str | Reference) -> Message:
    made = tuple(
        TextPart(text=part) if isinstance(part, str) else VariablePart(variable=part.variable, path=part.path)
        for part in parts
    )
    return Message(role=role, parts=made)
