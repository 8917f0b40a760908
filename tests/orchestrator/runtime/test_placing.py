"""Several engines of one model: where programs go, that they stay with their KV, and that nobody waits in vain."""

from __future__ import annotations

import asyncio

import pytest

from engine.costs import profile
from engine.protocol import Capabilities
from engine.simulated import SimulatedEngine
from engine.streams import PromptBook
from orchestrator.caching.call_cache import LAST
from orchestrator.clock import OrchestratorClock
from orchestrator.engines import EnginePool, replica_name
from orchestrator.limits import Limits
from orchestrator.retention import Retention
from orchestrator.runtime.admitting import admitted
from orchestrator.runtime.gate import Gate
from orchestrator.runtime.placing import Placing, Visitor
from orchestrator.runtime.priorities import Priorities
from orchestrator.scheduling import Hold, make_policy
from orchestrator.virtual_time import VirtualClock, run_virtually
from tenuto.wire import LLMCall
from tests.orchestrator.runtime.support import Say, ScriptedEngine, Server, llm, program


def visitor(program: str, *, seconds: float | None = 2.0, private: int = 100, workflow: str = "w") -> Visitor:
    return Visitor(program, workflow, seconds, 1000, 500, private, None)


class Fleet:
    """Simulated engines of one model, with all that placing asks."""

    def __init__(self, count: int) -> None:
        card = profile("h200-8b")
        self.engines = [
            SimulatedEngine(card, PromptBook(), name=replica_name(card.name, number)) for number in range(count)
        ]
        self.pool = EnginePool(self.engines)
        clock: OrchestratorClock = VirtualClock()
        self.priorities = Priorities(make_policy("tenuto"), self.pool, clock, engine_calls=1000)
        self.retention = Retention(clock)
        self.priorities.attach(self.retention)
        self.placing = Placing(self.pool, self.priorities, self.retention)

    def send(self, program: str, seconds: float = 2.0) -> SimulatedEngine:
        """Place a call and say that it went there."""
        asks = visitor(program, seconds=seconds)
        engine = self.placing.choose(None, asks)
        self.placing.sent(engine, asks)
        assert isinstance(engine, SimulatedEngine)
        return engine


def test_programs_spread_and_a_pausing_one_still_counts() -> None:
    async def run() -> None:
        fleet = Fleet(3)
        where = {name: fleet.send(name) for name in ("a", "b", "c")}
        assert len(set(where.values())) == 3
        fleet.placing.left(where["a"], visitor("a"))  # it pauses: its next call will want the same engine
        where["d"] = fleet.send("d")
        assert [*where.values()].count(where["d"]) == 2
        fleet.placing.ended("a")
        assert fleet.send("e") is where["a"]

    run_virtually(run())


def test_an_engine_with_much_work_gets_less() -> None:
    async def run() -> None:
        fleet = Fleet(2)
        busy = fleet.send("long", seconds=60.0)
        assert all(fleet.send(f"short-{n}", seconds=1.0) is not busy for n in range(20))

    run_virtually(run())


def test_an_engine_without_room_is_the_last_choice() -> None:
    async def run() -> None:
        fleet = Fleet(2)
        first = fleet.send("first")
        fleet.placing.left(first, visitor("first"))
        fleet.placing.ended("first")
        gate = fleet.priorities.gate(first)
        gate.hold.began("huge", gate.hold.capacity)
        assert fleet.send("next") is not first

    run_virtually(run())


def test_one_who_waits_is_called_to_an_idle_engine() -> None:
    async def run() -> None:
        fleet = Fleet(2)
        full, idle = (fleet.priorities.gate(engine) for engine in fleet.engines)
        assert await full.enter("inside", (0.0,), full.hold.capacity) is None
        waiting = asyncio.create_task(full.enter("waiting", (3.0,), 1000))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert await idle.enter("guest", (0.0,), 10) is None
        idle.leave("guest", 10)
        assert await waiting == (3.0,)  # with the key under which it waits there
        assert full.held == 0 and not full.hold.is_inside("waiting")

    run_virtually(run())


@pytest.mark.parametrize("tokens", [10, 95])
def test_only_who_finds_room_elsewhere_is_called_away(tokens: int) -> None:
    async def run() -> None:
        gate = Gate(8, Hold(100, reserve=0.0))
        assert await gate.enter("inside", (0.0,), 90) is None
        first = asyncio.create_task(gate.enter("first", (1.0,), 95))
        second = asyncio.create_task(gate.enter("second", (2.0,), 20))
        await asyncio.sleep(0)
        assert gate.call_away(lambda wanted: wanted <= tokens) is (tokens == 95)
        await asyncio.sleep(0)
        assert first.done() is (tokens == 95) and not second.done()
        second.cancel()

    run_virtually(run())


def test_a_call_that_is_cancelled_as_it_is_called_away_leaves_nothing_behind() -> None:
    async def run() -> None:
        gate = Gate(1)
        assert await gate.enter("inside", (0.0,)) is None
        waiting = asyncio.create_task(gate.enter("waiting", (1.0,)))
        await asyncio.sleep(0)
        assert gate.call_away(lambda tokens: True)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert gate.held == 0 and gate.calls == 1 and not gate._gone

    run_virtually(run())


def test_engines_of_one_model_have_names_of_their_own() -> None:
    async def run() -> None:
        pool = Fleet(2).pool
        (model,) = pool.models()
        assert [engine.name for engine in pool.replicas(None)] == [model, f"{model}@2"]
        assert isinstance(pool.for_model(model).capabilities, Capabilities)
        with pytest.raises(AssertionError, match="two engines are called"):
            EnginePool([*pool.all(), *pool.all()])

    run_virtually(run())


async def two_engines() -> tuple[Server, ScriptedEngine]:
    """A server with two engines of one model, which take one call each; the second engine."""
    second = ScriptedEngine(name="scripted@2", serves="scripted")
    server = await Server(more_engines=(second,), limits=Limits(engine_calls=1)).start()
    server.engine.script = lambda request: Say("a", seconds=100.0)
    second.script = lambda request: Say("b", seconds=1.0)
    return server, second


async def test_a_call_that_waits_for_a_busy_engine_moves_to_the_one_that_is_free_first() -> None:
    server, second = await two_engines()
    slow, quick, waiting = [await server.submit(program(llm("c"))) for _ in range(3)]
    for id in (quick, waiting):
        await server.follow(id)
    assert asyncio.get_running_loop().time() < 10.0
    assert [request.program for request in second.requests] == [quick, waiting]
    await server.follow(slow)
    assert [request.program for request in server.engine.requests] == [slow]
    await server.close()


async def test_a_call_beside_a_program_is_called_away_like_any_other() -> None:
    server, second = await two_engines()
    for _ in range(2):
        await server.submit(program(llm("c")))
    await asyncio.sleep(0.5)
    services = server.runtime._services
    owner = next(iter(server.runtime._archive.shelf.live()))
    call = owner.calls["c"].call
    assert isinstance(call, LLMCall)
    nothing = Visitor("aside", "w", None, 0, 0, 0, None)
    async with admitted(services, owner, call, "aside", LAST, lambda engine: nothing) as (engine, gate):
        assert engine is second and gate is not None and gate.calls == 1
    services.placing.ended("aside")
    assert gate.calls == 0 and gate.held == 0 and "aside" not in services.placing._stays
    await server.close()
