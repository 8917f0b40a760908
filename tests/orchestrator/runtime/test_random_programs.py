"""Random graphs, random failures, random crashes: a program always ends, each call in exactly one state."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.protocol import EngineLost, GenerateRequest, NumericalFault, QueueFull
from orchestrator.errors import RuntimeFault
from orchestrator.virtual_time import run_virtually
from tenuto.wire import (
    TERMINAL_EVENTS,
    Call,
    EffectClass,
    Event,
    EventKind,
    GraphExtension,
    JsonType,
    ProgramStatus,
    ProgramSubmission,
    Retry,
)
from tests.orchestrator.runtime.support import (
    TENANT,
    Answer,
    Break,
    Hang,
    Say,
    ScriptedEngine,
    ScriptedWorker,
    Server,
    ToolError,
    function,
    llm,
    program,
    var,
)

FINAL = {"ended", "failed", "skipped", "cancelled"}
CALL_END = {
    EventKind.CALL_ENDED: "ended",
    EventKind.CALL_FAILED: "failed",
    EventKind.CALL_SKIPPED: "skipped",
    EventKind.CALL_CANCELLED: "cancelled",
}


@st.composite
def graphs(draw: st.DrawFn, *, most: int = 12) -> list[Call]:
    """Calls in topological order, of every kind, with retries and timeouts."""
    calls: list[Call] = []
    for index in range(draw(st.integers(1, most))):
        needs = draw(st.lists(st.sampled_from([c.id for c in calls]), unique=True, max_size=3)) if calls else []
        options: dict[str, Any] = {
            "retry": Retry(attempts=draw(st.integers(1, 3)), first_wait_s=1.0),
            "timeout_s": draw(st.sampled_from([5.0, 60.0])),
        }
        id = f"c{index}"
        if draw(st.booleans()):
            calls.append(llm(id, "p", *map(var, needs), type=JsonType(), **options))
        else:
            effect = draw(st.sampled_from(EffectClass))
            key = draw(st.sampled_from(["k", "l"])) if effect is EffectClass.WRITE else None
            arguments = {f"a{n}": var(name) for n, name in enumerate(needs)}
            options |= {"effect": effect, "effect_key": key, "idempotent": draw(st.booleans())}
            calls.append(function(id, "tool", arguments, **options))
    return calls


class World:
    """An engine and workers that fail as a seed says."""

    def __init__(self, seed: int, misfortune: float) -> None:
        self.rng = Random(seed)
        self.misfortune = misfortune
        self.engine = ScriptedEngine(self.answer)
        self.workers: list[ScriptedWorker] = []
        self.effects: dict[str, int] = {}  # runs of each call that has an effect and is not idempotent

    def answer(self, request: GenerateRequest) -> Answer:
        if self.rng.random() > self.misfortune:
            return Say("3", seconds=self.rng.choice([0.0, 1.0, 3.0]))
        return self.rng.choice(
            [
                Say("no json", seconds=1.0),
                Break(EngineLost("killed"), text="4", after_s=1.0),
                Break(QueueFull("full")),
                Break(NumericalFault("NaN")),
                Hang("5"),
            ]
        )

    def connect(self, server: Server) -> None:
        self.workers = [w for w in self.workers if w.info.id in server.workers._workers]
        while len(self.workers) < 2:
            self.workers.append(server.worker(tool=self.tool))

    async def tool(self, **arguments: Any) -> Any:
        await asyncio.sleep(self.rng.choice([0.0, 1.0, 3.0]))
        if self.rng.random() > self.misfortune:
            return {"n": len(arguments)}
        fate = self.rng.randrange(4)
        if fate == 0:
            raise ToolError("tool_error", retryable=self.rng.random() < 0.5)
        if fate == 1:
            return float("nan")
        if fate == 2:
            await asyncio.sleep(10**6)
        raise ToolError("odd")

    def ran(self) -> dict[str, int]:
        """How often each call was begun by a worker."""
        found: dict[str, int] = {}
        for worker in self.workers:
            for task in worker.seen:
                found[task.call] = found.get(task.call, 0) + 1
        return found


def _check_end(server: Server, id: str, events: list[Event]) -> None:
    view = server.view(id)
    server.program(id).check()
    assert view.status is not ProgramStatus.RUNNING
    assert [event.kind in TERMINAL_EVENTS for event in events].index(True) == len(events) - 1
    seqs = [event.seq for event in events]
    assert seqs == sorted(set(seqs))
    ends: dict[str, str] = {}
    for event in events:
        if event.kind in CALL_END and event.call is not None:
            assert event.call not in ends, "a call ended twice"
            ends[event.call] = CALL_END[event.kind]
    assert ends == {call.id: call.state for call in view.call_views}
    for name, variable in view.outputs.items():
        assert (variable.status == "written") == (ends[name] == "ended")
        assert (variable.error is None) == (variable.status == "written"), name
    if view.status is not ProgramStatus.CANCELLED:
        failed = any(variable.status == "failed" for variable in view.outputs.values())
        assert (view.status is ProgramStatus.FAILED) == failed


SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(graphs(), st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 0.6]), st.sampled_from([None, None, 3.5]))
def test_a_program_always_ends_with_every_call_in_exactly_one_state(
    calls: list[Call], seed: int, misfortune: float, cancel_at: float | None
) -> None:
    async def run() -> None:
        world = World(seed, misfortune)
        server = await Server(world.engine, seed=seed).start()
        world.connect(server)
        id = await server.submit(program(*calls))
        following = asyncio.create_task(server.follow(id))
        if misfortune:
            await asyncio.sleep(2.0)
            await world.workers[0].disconnect()
        if cancel_at is not None:
            await asyncio.sleep(cancel_at)
            await server.runtime.cancel(id, tenant=TENANT)
        _check_end(server, id, await following)
        assert not world.engine.running
        await server.close()

    run_virtually(run())


@SETTINGS
@given(graphs(), st.integers(0, 2**32), st.data())
def test_a_program_may_grow_at_any_moment(calls: list[Call], seed: int, data: st.DataObject) -> None:
    async def run() -> None:
        world = World(seed, 0.2)
        server = await Server(world.engine, seed=seed).start()
        world.connect(server)
        id = await server.submit(ProgramSubmission(workflow="w", toolset="tools", open=True))
        following = asyncio.create_task(server.follow(id))
        left = list(calls)
        while left:
            await asyncio.sleep(data.draw(st.sampled_from([0.0, 2.0])))
            number = data.draw(st.integers(1, len(left)))
            grown, left = left[:number], left[number:]
            outputs = tuple(call.variable for call in grown)
            extension = GraphExtension(calls=tuple(grown), outputs=outputs, seal=not left)
            await server.runtime.extend(id, extension, tenant=TENANT)
            server.program(id).check()
        _check_end(server, id, await following)
        await server.close()

    run_virtually(run())


@settings(SETTINGS, max_examples=25)
@given(graphs(most=8), st.integers(0, 2**32), st.sampled_from([0.0, 0.3]), st.lists(st.integers(0, 40), max_size=3))
def test_crashes_at_any_moment_lose_no_value_and_repeat_no_effect(
    calls: list[Call], seed: int, misfortune: float, crashes: list[int]
) -> None:
    async def run(path: Path) -> None:
        world = World(seed, misfortune)
        server = await Server(world.engine, seed=seed, journal_path=path).start()
        world.connect(server)
        id = await server.submit(program(*calls))
        all_workers: list[ScriptedWorker] = [*world.workers]
        events: list[Event] = []
        for steps in crashes:
            reader = server.runtime.events(id, tenant=TENANT, after_seq=events[-1].seq if events else 0)
            for _ in range(steps):
                try:
                    events.append(await anext(reader))
                except StopAsyncIteration:
                    break
            await reader.aclose()
            await server.crash()
            server = await Server(world.engine, seed=seed + 1, journal_path=path).start()
            world.connect(server)
            all_workers += world.workers
            await server.runtime.recall(id, tenant=TENANT)
        events += await server.follow(id, after_seq=events[-1].seq if events else 0)
        _check_end(server, id, events)
        written = [event.variable for event in events if event.kind is EventKind.VARIABLE_WRITTEN]
        assert len(written) == len(set(written))
        for call in calls:
            if call.kind == "function" and call.effect is not EffectClass.READ and not call.idempotent:
                attempts = {task.attempt for worker in all_workers for task in worker.seen if task.call == call.id}
                runs = sum(task.call == call.id for worker in all_workers for task in worker.seen)
                # Each run was asked for by a retry after a failure that the tool reported, never by a restart.
                assert runs == len(attempts)
        await server.close()

    with tempfile.TemporaryDirectory() as folder:
        try:
            run_virtually(run(Path(folder) / "journal.db"))
        except RuntimeFault as fault:  # a wait that ends in a fault of the server is a failure of the test
            raise AssertionError(str(fault)) from fault
