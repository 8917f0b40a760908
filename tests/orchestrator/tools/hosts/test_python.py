"""The server's own Python tools, async and in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.tools import CallFailure
from orchestrator.tools.python import PythonTools
from tests.orchestrator.tools.hosts import served
from tests.orchestrator.tools.hosts.support import SERVED, ask, until


@pytest.fixture
async def host() -> AsyncIterator[PythonTools]:
    host = PythonTools([SERVED], threads=2)
    await host.start()
    yield host
    await host.close()


async def test_tools_of_a_module_run_with_their_types_checked(host: PythonTools) -> None:
    assert await ask(host, "double", x=4) == 8
    assert host.specs["double"].returns == {"type": "integer"}
    with pytest.raises(CallFailure, match="x") as caught:
        await ask(host, "double", x="four")
    assert caught.value.type == "arguments_invalid" and not caught.value.retryable
    with pytest.raises(CallFailure, match="declared type") as caught:
        await ask(host, "lies")
    assert caught.value.type == "result_invalid"


@pytest.mark.parametrize("how", ["raise", "exit"])
async def test_what_a_tool_raises_is_told_by_name_and_without_its_traceback(host: PythonTools, how: str) -> None:
    with pytest.raises(CallFailure) as caught:
        await ask(host, "fails", how=how)
    assert caught.value.type == "tool_error"
    assert caught.value.message == ("SystemExit: 3" if how == "exit" else "ValueError: no such \\ud800 thing")


async def test_cancelling_reaches_an_async_tool_where_it_waits_and_a_thread_by_its_token(host: PythonTools) -> None:
    served.told.clear()
    served.stopped.clear()
    tasks = [asyncio.create_task(ask(host, "nap", seconds=60.0)), asyncio.create_task(ask(host, "spin", seconds=60.0))]
    await until(lambda: host._threads._value == 1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert served.told == ["cancelled"]
    assert await asyncio.to_thread(served.stopped.wait, 5.0)


async def test_a_thread_that_goes_on_keeps_its_place(host: PythonTools) -> None:
    tasks = [asyncio.create_task(ask(host, "spin", seconds=60.0)) for _ in range(2)]
    await until(lambda: host._threads._value == 0)
    third = asyncio.create_task(ask(host, "spin", seconds=0.0))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert host._threads._value == 0  # told to stop, not stopped
    assert await third == "done"


async def test_a_module_that_cannot_be_used_is_told_by_name() -> None:
    with pytest.raises(ValueError, match="no_such_module"):
        await PythonTools(["no_such_module"]).start()
    with pytest.raises(ValueError, match="no @tool"):
        await PythonTools(["json"]).start()
