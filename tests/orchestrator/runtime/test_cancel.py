"""Cancelling a program reaches the engine and the workers, and ends everything in exactly one state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from orchestrator.caching.call_cache import NoCallCache
from orchestrator.errors import ShuttingDown
from tenuto.wire import EffectClass, EventKind, FunctionCall, GraphExtension, ProgramStatus, Retry
from tests.orchestrator.runtime.support import (
    TENANT,
    Break,
    Hang,
    Server,
    function,
    kinds,
    llm,
    program,
    states,
    var,
)


async def test_cancel_aborts_generations_takes_tasks_back_and_ends_what_waits(server: Server) -> None:
    server.engine.script = lambda _: Hang("some ")
    worker = server.worker(slow=lambda: asyncio.sleep(1000))
    id = await server.submit(program(llm("a"), function("t", "slow"), llm("b", var("a")), function("w", "nobody")))
    await server.until(id, EventKind.CALL_TOKENS, "a")
    await asyncio.sleep(1)
    summary = await server.runtime.cancel(id, tenant=TENANT)
    assert summary.status is ProgramStatus.CANCELLED
    assert server.engine.aborted == [server.engine.requests[0].id]
    await asyncio.sleep(1)
    assert worker.cancelled == [worker.seen[0].task]
    events = await server.follow(id)
    assert kinds(events)[-1] is EventKind.PROGRAM_CANCELLED
    assert states(server.view(id)) == dict.fromkeys(("a", "t", "b", "w"), "cancelled")
    assert kinds(events).count(EventKind.CALL_CANCELLED) == 4


async def test_what_had_ended_stays_ended_and_readable(server: Server) -> None:
    server.engine.script = lambda request: "done" if request.call == "a" else Hang()
    id = await server.submit(program(llm("a"), llm("b", var("a"))))
    await server.until(id, EventKind.CALL_STARTED, "b")
    await server.runtime.cancel(id, tenant=TENANT)
    assert states(server.view(id)) == {"a": "ended", "b": "cancelled"}
    assert (await server.runtime.variable(id, "a", tenant=TENANT)).value == "done"
    assert (await server.runtime.variable(id, "b", tenant=TENANT)).status == "failed"


async def test_waiters_are_answered_when_the_program_is_cancelled(server: Server) -> None:
    server.engine.script = lambda _: Hang()
    id = await server.submit(program(llm("a")))
    waiting = asyncio.create_task(server.runtime.variable(id, "a", tenant=TENANT, wait_s=100))
    await asyncio.sleep(1)
    await server.runtime.cancel(id, tenant=TENANT)
    view = await waiting
    assert view.error is not None and view.error.type == "cancelled"


async def test_cancelling_between_two_attempts_starts_no_other(server: Server) -> None:
    from engine.protocol import QueueFull

    server.engine.script = lambda _: Break(QueueFull("full"))
    id = await server.submit(program(llm("a", retry=Retry(attempts=9, first_wait_s=100.0, max_wait_s=100.0))))
    await server.until(id, EventKind.CALL_RETRYING, "a")
    await server.runtime.cancel(id, tenant=TENANT)
    await asyncio.sleep(1000)
    assert len(server.engine.requests) == 1


async def test_cancelling_an_ended_program_changes_nothing(server: Server) -> None:
    view = await server.run(program(llm("a")))
    again = await server.runtime.cancel(view.id, tenant=TENANT)
    assert again.status is ProgramStatus.SUCCEEDED and again.seconds == view.seconds


async def test_an_open_program_can_be_cancelled_and_takes_no_more(server: Server) -> None:
    from orchestrator.errors import ProgramEnded

    id = await server.submit(program(open=True))
    await server.runtime.cancel(id, tenant=TENANT)
    with pytest.raises(ProgramEnded, match="cancelled"):
        await server.runtime.extend(id, GraphExtension(calls=(llm("a"),)), tenant=TENANT)


async def test_effects_that_wait_for_their_turn_never_start_after_a_cancel(server: Server) -> None:
    worker = server.worker(write=lambda n: asyncio.sleep(100))
    calls = [function(f"w{n}", "write", {"n": n}, effect=EffectClass.EXCLUSIVE) for n in range(3)]
    id = await server.submit(program(*calls))
    await server.until(id, EventKind.CALL_STARTED, "w0")
    await server.runtime.cancel(id, tenant=TENANT)
    await asyncio.sleep(1000)
    assert [arguments["n"] for _, arguments in worker.ran] == [0]


async def test_closing_the_server_ends_readers_and_waiters_with_a_reason() -> None:
    server = await Server().start()
    server.engine.script = lambda _: Hang()
    id = await server.submit(program(llm("a")))
    await server.until(id, EventKind.CALL_STARTED, "a")
    reading = asyncio.create_task(server.follow(id))
    waiting = asyncio.create_task(server.runtime.variable(id, "a", tenant=TENANT, wait_s=100))
    await asyncio.sleep(1)
    await server.close()
    for task in (reading, waiting):
        with pytest.raises(ShuttingDown):
            await task
    assert not server.engine.running
    with pytest.raises(ShuttingDown):
        await server.submit(program(llm("a")))


async def test_a_cancel_while_cached_results_are_given_up_ends_the_call_in_all_books() -> None:
    class Slow(NoCallCache):
        def wrote(self, tenant: str, call: FunctionCall) -> Awaitable[None] | None:
            return asyncio.shield(asyncio.sleep(5))

    async def make(*_: object) -> Slow:
        return Slow()

    server = await Server(make_cache=make).start()
    server.worker(work=lambda: 1)
    id = await server.submit(program(function("f", "work", effect=EffectClass.WRITE, effect_key="k")))
    await asyncio.sleep(1)
    await server.runtime.cancel(id, tenant=TENANT)
    await asyncio.sleep(10)
    assert server.runtime._services.occupancy.functions == 0 and not server.runtime.retention.tools._running
    await server.close()
