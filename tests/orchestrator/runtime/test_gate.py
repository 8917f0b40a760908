"""The gate before an engine: bounded inside, the policy's order outside, nobody forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import QueueFull
from orchestrator.limits import Limits
from orchestrator.runtime.gate import Gate
from orchestrator.scheduling import Changes, ProgramArrival
from orchestrator.virtual_time import run_virtually
from tenuto.wire import EventKind, ProgramStatus
from tests.orchestrator.runtime.support import TENANT, Break, Hang, Say, ScriptedEngine, Server, llm, program
from tests.orchestrator.runtime.test_priorities import Recorder

operations = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "cancel", "change"]), st.integers(0, 3), st.integers(0, 5)),
    max_size=60,
)


@given(operations, st.integers(1, 3))
def test_the_gate_is_a_priority_queue_with_bounded_room(ops: list[tuple[str, int, int]], room: int) -> None:
    """Compared with a plain list that is sorted at every step."""

    async def run() -> None:
        gate = Gate(room)
        inside: list[int] = []
        waiting: list[tuple[tuple[float], int, str]] = []  # the model: (key, arrival, program)
        tasks: dict[int, asyncio.Task[None]] = {}
        for number, (what, owner, key) in enumerate(ops):
            name = f"p{owner}"
            if what == "enter":
                tasks[number] = asyncio.create_task(gate.enter(name, (float(key),)))
                if len(inside) < room:
                    inside.append(number)
                else:
                    waiting.append(((float(key),), number, name))
            elif what == "leave" and inside:
                gate.leave(f"p{ops[inside.pop()][1]}")
                if waiting:
                    first = min(waiting)
                    waiting.remove(first)
                    inside.append(first[1])
            elif what == "cancel" and waiting:
                gone = waiting.pop(key % len(waiting))
                tasks[gone[1]].cancel()
            elif what == "change":
                gate.reprioritize({name: (float(key),)})
                waiting = [((float(key),), n, p) if p == name else (k, n, p) for k, n, p in waiting]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert gate.held == len(waiting)
            entered = {n for n, task in tasks.items() if task.done() and not task.cancelled()}
            assert entered >= set(inside) and not entered & {n for _, n, _ in waiting}
        for task in tasks.values():
            task.cancel()

    run_virtually(run())


async def test_a_turn_that_came_to_one_who_is_leaving_goes_to_the_next() -> None:
    gate = Gate(1)
    await gate.enter("p", (0.0,))
    first, second = (asyncio.create_task(gate.enter("p", (float(n),))) for n in range(2))
    await asyncio.sleep(0)
    gate.leave("p")
    first.cancel()  # in the same step in which its turn came
    await asyncio.sleep(1)
    assert second.done() and gate.held == 0


async def test_one_who_leaves_after_a_change_of_its_key_is_forgotten_too() -> None:
    gate = Gate(1)
    await gate.enter("p", (0.0,))
    first, second = (asyncio.create_task(gate.enter(name, (1.0,))) for name in ("a", "b"))
    await asyncio.sleep(0)
    gate.reprioritize({"a": (0.5,)})
    first.cancel()
    await asyncio.sleep(0)
    gate.leave("p")
    await asyncio.sleep(0)
    assert second.done() and gate.held == 0


async def test_a_changed_key_moves_the_calls_that_are_held_back() -> None:
    class Demoting(Recorder):
        """Each program that arrives sends all earlier ones behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.programs: list[str] = []

        def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
            demoted = dict.fromkeys(self.programs, (9.0,))
            self.programs.append(program.program)
            return demoted

    server = await Server(limits=Limits(engine_calls=1), policy=Demoting()).start()
    server.engine.script = lambda request: Say("x", seconds=10.0)
    ids = [await server.submit(program(llm(name))) for name in ("a", "b")]
    await asyncio.sleep(1)  # "a" is inside, "b" is held
    ids.append(await server.submit(program(llm("c"))))
    for id in ids:
        await server.follow(id)
    assert [request.call for request in server.engine.requests] == ["a", "c", "b"]
    await server.close()


async def test_a_program_wider_than_the_engines_queue_neither_overflows_it_nor_fails() -> None:
    server = await Server(limits=Limits(engine_calls=50)).start()
    most = 0

    def script(request: Any) -> Any:
        nonlocal most
        most = max(most, len(server.engine.running))
        return Break(QueueFull("full")) if len(server.engine.running) > 50 else Say("x", seconds=1.0)

    server.engine.script = script
    view = await server.run(program(*(llm(f"c{n}") for n in range(500))))
    assert view.status is ProgramStatus.SUCCEEDED and most == 50
    assert 9.9 < view.seconds < 10.1
    await server.close()


async def test_held_calls_go_in_the_policys_order_and_hold_no_other_engine() -> None:
    other = ScriptedEngine(lambda _: Say("x", seconds=1.0), name="other")
    server = await Server(limits=Limits(engine_calls=1), more_engines=(other,)).start()
    server.engine.script = lambda _: Say("x", seconds=1.0)
    first = await server.submit(program(*(llm(f"a{n}") for n in range(3))))
    second = await server.submit(program(llm("b0"), llm("b1", model="other")))
    await server.follow(second)
    assert [request.call for request in server.engine.requests] == ["a0", "a1", "a2", "b0"]
    assert server.view(first).status is ProgramStatus.SUCCEEDED
    written = {e.call: e.at_s for e in await server.follow(second) if e.kind is EventKind.CALL_ENDED}
    assert written["b1"] < 1.5 < written["b0"]
    await server.close()


async def test_the_timeout_of_a_call_starts_when_the_engine_has_it() -> None:
    server = await Server(limits=Limits(engine_calls=1)).start()
    server.engine.script = lambda _: Say("x", seconds=8.0)
    view = await server.run(program(*(llm(f"c{n}", timeout_s=10.0) for n in range(3))))
    assert view.status is ProgramStatus.SUCCEEDED
    causes = [[span.cause for span in call.spans] for call in server.runtime.timeline(view.id, tenant=TENANT).calls]
    assert causes == [["decode"], ["queue", "decode"], ["queue", "decode"]]
    await server.close()


async def test_cancelled_programs_leave_the_gate() -> None:
    server = await Server(limits=Limits(engine_calls=1)).start()
    server.engine.script = lambda request: Hang() if request.call == "hang" else "x"
    first = await server.submit(program(llm("hang")))
    second = await server.submit(program(llm("b"), llm("c")))
    third = await server.submit(program(llm("d")))
    await asyncio.sleep(1)
    await server.runtime.cancel(second, tenant=TENANT)
    await server.runtime.cancel(first, tenant=TENANT)
    await server.follow(third)
    assert [request.call for request in server.engine.requests] == ["hang", "d"]
    await server.close()
