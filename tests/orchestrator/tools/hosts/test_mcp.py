"""Tools of an MCP server over its pipes and in memory: results, errors, cancellation, and a server that dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.clock import LoopClock
from orchestrator.tools import CallFailure, ToolRun
from orchestrator.tools.mcp import McpServer, McpTools
from tenuto.wire import EffectClass
from tests.orchestrator.tools.hosts import mcp_server
from tests.orchestrator.tools.hosts.support import ask, until

SERVER = Path(__file__).with_name("mcp_server.py")


def server(notes: Path, **options: object) -> McpServer:
    command = (sys.executable, str(SERVER), str(notes))
    return McpServer("test", command=command, prefix="t.", **options)  # type: ignore[arg-type]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[McpTools]:
    host = McpTools(server(tmp_path / "notes"), LoopClock())
    await host.start()
    yield host
    await host.close()


async def test_calls_cancellation_and_the_death_of_a_server(host: McpTools, tmp_path: Path) -> None:
    assert await ask(host, "t.add", a=1, b=2) == {"result": 3}
    assert await ask(host, "t.record", name="x") == {"name": "x", "size": 3}
    run = ToolRun("p", "c", "t.trace", "t", "", {}, 1, traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
    assert await host.run(run, host.specs["t.trace"]) == {"result": run.traceparent}
    with pytest.raises(CallFailure) as caught:
        await ask(host, "t.fails")
    assert caught.value.type == "tool_error"
    with pytest.raises(CallFailure):
        await ask(host, "t.add", a="no number")

    nap = asyncio.create_task(ask(host, "t.nap", seconds=60.0))
    await ask(host, "t.add", a=1, b=2)  # the pipe is in order: the nap has begun
    nap.cancel()
    with pytest.raises(asyncio.CancelledError):
        await nap
    await until((tmp_path / "notes").exists)

    sibling = asyncio.create_task(ask(host, "t.nap", seconds=60.0))
    await asyncio.sleep(0)
    for call in (ask(host, "t.die"), sibling):
        with pytest.raises(CallFailure) as caught:
            await call
        assert caught.value.type == "worker_lost" and caught.value.lost
    assert await ask(host, "t.add", a=2, b=2) == {"result": 4}  # it is there again


async def test_hints_are_believed_only_if_the_settings_say_so() -> None:
    effects = {"record": EffectClass.WRITE}
    untrusted = McpTools(McpServer("test", url="memory", effects=effects), LoopClock(), target=mcp_server.server)
    trusted = McpTools(McpServer("test", url="memory", trust_hints=True), LoopClock(), target=mcp_server.server)
    for host in (untrusted, trusted):
        await host.start()
        assert await ask(host, "add", a=1, b=2) == {"result": 3}
        await host.close()
    assert untrusted.specs["add"].effect is EffectClass.EXCLUSIVE
    assert untrusted.specs["record"].effect is EffectClass.WRITE
    assert trusted.specs["add"].effect is EffectClass.READ
    assert trusted.specs["nap"].effect is EffectClass.EXCLUSIVE


async def test_a_server_that_cannot_be_started_is_told_by_name() -> None:
    host = McpTools(McpServer("absent", command=("/no/such/program",), start_s=0.3), LoopClock())
    with pytest.raises(ValueError, match="'absent' did not connect"):
        await host.start()
    with pytest.raises(ValueError, match="either a command or a url"):
        McpServer("both", command=("x",), url="http://x")
