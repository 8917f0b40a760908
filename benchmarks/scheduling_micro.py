"""What scheduling costs an event, and whether it ever jams: timings and random schedules, without a trace.

Random schedules run the production gate and hold, and whole servers, with memory so tight that whatever is kept must
be given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from benchmarks.random_schedules import run_schedules
from dag.graph import ProgramGraph
from engine.protocol import Usage
from orchestrator.runtime.gate import Gate
from orchestrator.scheduling import EndedCall, Hold, ProgramArrival, ReadyCall
from orchestrator.scheduling.tenuto import Tenuto
from orchestrator.virtual_time import EverythingWaits, VirtualTimeLoop
from tenuto.wire import LLMCall, Message, Objective, TextPart

LIVE = 10_000
SCHEDULES = 10_000
_BLOCK = 500  # reading the clock costs more than an event


@dataclass(frozen=True, slots=True)
class Micro:
    """`event_s`: mean seconds of one event; `schedules` run, `faults` of them deadlocked or leaked."""

    event_s: float = float("nan")
    schedules: int = 0
    faults: int = 0


def measure(seed: int, *, quick: bool) -> Micro:
    """Everything."""
    times = event_seconds(seed, 2_000 if quick else LIVE, 2_000 if quick else 10_000)
    schedules, faults = random_schedules(seed, 300 if quick else SCHEDULES)
    whole = run_schedules(range(seed * 10_000, seed * 10_000 + (20 if quick else 500)))
    return Micro(sum(times) / len(times), schedules + whole.schedules, faults + len(whole.faults))


def event_seconds(seed: int, live: int, events: int) -> list[float]:
    """Mean processor seconds of an event of the default policy, by blocks of 500; `live` programs are there.

    An event is a call that becomes ready, makes 64 tokens, or ends, with everything that follows at the gate and in
    the hold. Programs are chains of twenty calls with pauses, half of them open.
    """
    rng = Random(seed)
    policy = Tenuto()
    gate = Gate(256, Hold(10**9))
    graphs: dict[str, ProgramGraph] = {}
    reached: dict[str, int] = {}
    message = Message(role="user", parts=(TextPart(text="x"),))
    usage = Usage(1000, 900, 100, 0.1, 0.1, 1.0)

    def arrive(name: str, now: float) -> None:
        graph = ProgramGraph(Objective())
        calls = [
            LLMCall(id=f"c{n}", messages=(message,), stage=f"s{n % 4}", after=(f"c{n - 1}",) if n else ())
            for n in range(20)
        ]
        graph.extend({}, calls, [])
        graphs[name], reached[name] = graph, 0
        policy.program_arrived(
            ProgramArrival(name, "t", f"w{rng.randrange(50)}", Objective(), graph, rng.random() < 0.5), now
        )

    names = [f"p{n}" for n in range(live)]
    for number, name in enumerate(names):
        arrive(name, float(number))
    times: list[float] = []
    now = float(live)
    for _ in range(events // _BLOCK):
        now += 1.0
        chosen = [(name, graphs[name].calls[f"c{reached[name]}"]) for name in rng.sample(names, _BLOCK)]
        begin = time.process_time()
        for name, call in chosen:
            policy.call_ready(ReadyCall(name, call), now)
            gate.hold.began(name, 1000)
            gate.let_go()
        for name, call in chosen:
            gate.reprioritize(policy.tokens_made(name, call.id, 64, now))
        for name, call in chosen:
            gate.reprioritize(policy.call_ended(EndedCall(name, call, 1.0, usage, True), now))
            gate.hold.ended(name, 1000, 1100)
            gate.let_go()
        times.append((time.process_time() - begin) / (3 * _BLOCK))
        for name, call in chosen:
            graphs[name].end(call.id)
            reached[name] += 1
            if reached[name] == 20:
                policy.program_ended(name, now)
                gate.hold.kept(name, 0)
                arrive(name, now)
    return times


@dataclass(slots=True)
class _Kept:
    program: str
    tokens: int
    remaining_s: float = 60.0
    recompute_s: float = 1.0


class _Memory:
    """What is kept for paused programs: the gate's parking."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.gate: Gate

    def victims(self, tokens: int) -> Iterable[_Kept]:
        freed = 0
        for program, size in [*self.kept.items()]:
            if freed >= tokens:
                return
            freed += size
            yield _Kept(program, size, remaining_s=5.0 * (size % 3))

    def park(self, program: str) -> None:
        if self.kept.pop(program, None) is not None:
            self.gate.kept(program, 0)

    def pressure(self, waiting: int, running: int) -> None:
        return


async def _schedule(rng: Random) -> None:
    """One random schedule: programs with calls and pauses, cancelled calls, keys that change, too little memory."""
    memory = _Memory()
    gate = memory.gate = Gate(rng.randint(1, 4), Hold(100, reserve=0.1), memory)
    loop = asyncio.get_running_loop()

    async def program(name: str) -> None:
        await asyncio.sleep(rng.uniform(0, 5))
        chain = 0
        for _ in range(rng.randint(1, 4)):
            tokens = chain + rng.randint(10, 70)
            key = (rng.uniform(0, 10), loop.time())
            if rng.random() < 0.1:
                try:
                    async with asyncio.timeout(rng.uniform(0, 2)):
                        await gate.enter(name, key, tokens)
                except TimeoutError:
                    continue
            else:
                await gate.enter(name, key, tokens)
            memory.kept.pop(name, None)
            await asyncio.sleep(rng.uniform(0, 2))
            chain = tokens if rng.random() < 0.9 else 0
            gate.leave(name, tokens, chain)
            if chain:
                memory.kept[name] = chain
            gate.hold.check()
            if rng.random() < 0.2:
                gate.reprioritize({name: (rng.uniform(0, 10), loop.time())})
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 10))))
            if rng.random() < 0.1:
                memory.park(name)
        memory.kept.pop(name, None)
        gate.kept(name, 0)

    await asyncio.gather(*(program(f"p{n}") for n in range(rng.randint(2, 8))))
    assert gate.calls == gate.held == gate.hold.used == len(gate.hold) == 0, "something was left behind"


def random_schedules(seed: int, count: int) -> tuple[int, int]:
    """(schedules run, those that deadlocked or leaked). A deadlock is certain: virtual time has nothing to wait for."""
    faults = 0
    for number in range(count):
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            try:
                runner.run(_schedule(Random(f"schedule {seed} {number}")))
            except (EverythingWaits, AssertionError):
                faults += 1
    return count, faults
