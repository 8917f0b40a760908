"""What a program's function calls may rely on: intents, retries by name, totals, places of tools that go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.journal import Intent
from orchestrator.limits import Limits
from tenuto.wire import EffectClass, EventKind, Retry, ToolSpec
from tests.orchestrator.runtime.support import (
    ScriptedWorker,
    Server,
    ToolError,
    errors,
    function,
    kinds,
    program,
    states,
    values,
)

WRITE = EffectClass.WRITE


async def intents(server: Server, id: str) -> list[str]:
    return [record.call for record in await server.journal.records(id) if isinstance(record, Intent)]


async def test_an_intent_is_written_when_a_worker_has_a_place_and_not_before(tmp_path: Path) -> None:
    server = await Server(journal_path=tmp_path / "journal.db").start()
    release = asyncio.Event()

    async def busy() -> str:
        await release.wait()
        return "done"

    async def change() -> str:
        return "changed"

    server.worker(busy=busy, change=change, concurrency=1)
    first = await server.submit(program(function("a", "busy")))
    await server.until(first, EventKind.CALL_STARTED, "a")
    second = await server.submit(program(function("b", "change", effect=WRITE, effect_key="k")))
    await asyncio.sleep(1.0)
    assert await intents(server, second) == []  # a crash now leaves nothing in doubt
    release.set()
    await server.follow(second)
    assert await intents(server, second) == ["b"]
    assert values(server.view(second)) == {"b": "changed"}
    await server.close()


async def test_an_effect_whose_worker_goes_before_it_was_sent_is_given_to_another(tmp_path: Path) -> None:
    server = await Server(journal_path=tmp_path / "journal.db").start()
    ran: list[str] = []

    def worker(name: str) -> ScriptedWorker:
        async def change() -> str:
            ran.append(name)
            return name

        return server.worker(change=change)

    one = worker("one")
    id = await server.submit(program(function("a", "change", effect=WRITE)))
    await server.until(id, EventKind.CALL_READY, "a")
    while not server.program(id).calls["a"].intended:  # noqa: ASYNC110
        await asyncio.sleep(0)
    server.workers.remove(one.info.id)  # the intent is on its way to the disk, the task not yet to the worker
    worker("two")
    await server.follow(id)
    assert values(server.view(id)) == {"a": "two"} and ran == ["two"]
    await server.close()


async def test_retries_by_name_leave_other_errors_alone(server: Server) -> None:
    tried: list[str] = []

    def fails(type: str, *, retryable: bool) -> Any:
        async def tool() -> None:
            tried.append(type)
            raise ToolError(type, retryable=retryable)

        return tool

    retry = Retry(attempts=3, on=("Busy",))
    specs = tuple(ToolSpec(name=name, retry=retry, effect=EffectClass.READ) for name in ("busy", "other"))
    server.worker(specs=specs, busy=fails("Busy", retryable=False), other=fails("Other", retryable=True))
    view = await server.run(program(function("a", "busy"), function("b", "other")))
    assert errors(view) == {"a": "Busy", "b": "Other"}
    assert sorted(tried) == ["Busy", "Busy", "Busy", "Other"]


async def test_the_name_of_a_tools_own_exception_counts(server: Server) -> None:
    attempts = 0

    async def flaky() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ToolError("ConnectionError: reset", retryable=False)
        return attempts

    specs = (ToolSpec(name="flaky", retry=Retry(attempts=5, on=("the tool says ConnectionError",))),)
    server.worker(specs=specs, flaky=flaky)
    assert values(await server.run(program(function("a", "flaky")))) == {"a": 3}


async def test_all_attempts_together_end_at_the_tools_total(server: Server) -> None:
    began = asyncio.get_running_loop().time()

    async def slow() -> None:
        await asyncio.sleep(4.0)
        raise ToolError("Busy")

    spec = ToolSpec(name="slow", total_timeout_s=10.0, retry=Retry(attempts=9, first_wait_s=1.0, max_wait_s=1.0))
    server.worker(specs=(spec,), slow=slow)
    id = await server.submit(program(function("a", "slow")))
    events = await server.follow(id)
    assert errors(server.view(id)) == {"a": "timeout"}
    assert asyncio.get_running_loop().time() - began == pytest.approx(10.0)
    assert kinds(events, "a").count(EventKind.CALL_STARTED) == 3


async def test_a_call_that_waits_too_long_for_room_fails_by_name_and_its_siblings_do_not() -> None:
    server = await Server(limits=Limits(program_functions=1)).start()

    async def slow() -> str:
        await asyncio.sleep(5.0)
        return "done"

    specs = tuple(ToolSpec(name=name, queue_timeout_s=1.0, share=False) for name in ("slow",))
    server.worker(specs=specs, slow=slow)
    view = await server.run(program(function("a", "slow"), function("b", "slow")))
    assert states(view) == {"a": "ended", "b": "failed"} and errors(view) == {"b": "queue_timeout"}
    await server.close()
