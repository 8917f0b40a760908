"""Tools of a real MCP server over Streamable HTTP on loopback: results, cancellation, and a server that dies."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.clock import LoopClock
from orchestrator.tools import CallFailure
from orchestrator.tools.mcp import McpServer, McpTools
from tests.orchestrator.tools.hosts.support import ask, until

SERVER = Path(__file__).with_name("mcp_server.py")


@asynccontextmanager
async def serving(notes: Path, port: int = 0) -> AsyncIterator[int]:
    """The port of a server in a process of its own."""
    command = (sys.executable, str(SERVER), str(notes), str(port))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_calls_cancellation_and_the_death_of_a_server(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with serving(notes) as port:
        url = f"http://127.0.0.1:{port}/mcp"
        host = McpTools(McpServer("web", url=url), LoopClock())
        keyed = McpTools(McpServer("keyed", url=url, headers={"authorization": "Bearer secret"}), LoopClock())
        for one in (host, keyed):
            await one.start()
            assert await ask(one, "add", a=1, b=2) == {"result": 3}
        assert await ask(host, "record", name="x") == {"name": "x", "size": 3}
        with pytest.raises(CallFailure) as caught:
            await ask(host, "fails")
        assert caught.value.type == "tool_error"

        naps = [asyncio.create_task(ask(one, "nap", seconds=60.0)) for one in (host, host, keyed)]
        assert await ask(host, "add", a=1, b=2) == {"result": 3}  # beside the naps
        naps[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await naps[0]
        await until(notes.exists)  # the server's own handler was cancelled

        for call in (ask(host, "die"), *naps[1:]):
            with pytest.raises(CallFailure, match="went while it ran") as caught:
                await asyncio.wait_for(call, 20)
            assert caught.value.type == "worker_lost" and caught.value.lost
    waiting = [asyncio.create_task(ask(one, "add", a=2, b=2)) for one in (host, keyed)]
    async with serving(notes, port):  # it is there again, and what waited goes on
        assert await asyncio.wait_for(asyncio.gather(*waiting), 20) == [{"result": 4}] * 2
        for one in (host, keyed):
            await one.close()


async def test_a_server_that_is_not_there_is_told_by_name() -> None:
    host = McpTools(McpServer("absent", url="http://127.0.0.1:9/mcp", start_s=0.3), LoopClock())
    with pytest.raises(ValueError, match=r"'absent' did not connect in 0.3 s: .*Connect"):
        await host.start()
