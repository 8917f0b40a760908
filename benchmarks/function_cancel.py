"""From the cancellation of a program to the end of its tool: async function, thread token, HTTP, MCP, process.

Used by `benchmarks.functions`. A tool's end is seen where the tool is: in its own code, in the HTTP server that it
talks to, in the MCP server's process, by the kernel for a process. Times are CLOCK_MONOTONIC, one for all processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.function_server import Bench, bench, function, program
from orchestrator.clock import LoopClock
from orchestrator.tools.mcp import McpServer, McpTools
from orchestrator.tools.openapi import HttpApi, HttpTools
from orchestrator.tools.processes import ProcessTools
from tenuto import cancelled, tool
from tenuto.wire import EventKind

KINDS = ("async", "thread", "http", "mcp", "process")

begun: list[float] = []
ended: list[float] = []

MCP_SERVER = """
import asyncio, sys, time
from mcp.server.mcpserver import MCPServer

server = MCPServer("bench", log_level="ERROR")


@server.tool()
async def wait(file: str) -> str:
    with open(file, "a") as notes:
        print("begun", time.monotonic(), file=notes)
    try:
        await asyncio.sleep(3600)
    finally:
        with open(file, "a") as notes:
            print("ended", time.monotonic(), file=notes)
    return ""


server.run("stdio")
"""


@tool(effects="read", share=False, name="async_wait")
async def async_wait(file: str) -> str:
    begun.append(time.monotonic())
    try:
        await asyncio.sleep(3600)
    finally:
        ended.append(time.monotonic())
    return ""


@tool(effects="read", share=False, name="thread_wait")
def thread_wait(file: str) -> str:
    begun.append(time.monotonic())
    while not cancelled():
        time.sleep(0.001)
    ended.append(time.monotonic())
    return ""


@tool(effects="read", share=False, name="process_wait")
def process_wait(file: str) -> str:
    with Path(file).open("a") as notes:
        print("begun", os.getpid(), file=notes)
    while True:
        time.sleep(3600)


async def latencies(kind: str, repeats: int) -> list[float]:
    """Seconds from `cancel` to the tool's end, `repeats` times."""
    with tempfile.TemporaryDirectory() as folder:
        async with _server(kind, Path(folder)) as server:
            return [await _one(server, kind, Path(folder) / f"notes{i}") for i in range(repeats)]


async def _one(server: Bench, kind: str, file: Path) -> float:
    begun.clear()
    ended.clear()
    name = "bench.wait" if kind == "mcp" else f"{kind}_wait"
    summary, _ = await server.runtime.submit(
        program([function("c", name, {"file": str(file)}, effect="read")]), tenant="default"
    )
    async for event in server.runtime.events(summary.id, tenant="default"):
        if event.kind is EventKind.CALL_STARTED:
            break
    await _until(lambda: bool(begun) or "begun" in _read(file))
    gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    if kind == "process":
        _watch(int(_read(file).split()[1]), gone)
    await asyncio.sleep(0.01)
    began_s = time.monotonic()
    await server.runtime.cancel(summary.id, tenant="default")
    if kind == "process":
        return await asyncio.wait_for(gone, 10.0) - began_s
    await _until(lambda: bool(ended) or "ended" in _read(file))
    at_s = ended[0] if ended else float(_read(file).split()[-1])
    return at_s - began_s


def _read(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text()
    return ""


async def _until(holds: Any) -> None:
    """What another process or thread does: nothing tells this one of it."""
    async with asyncio.timeout(20.0):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def _watch(pid: int, gone: asyncio.Future[float]) -> None:
    """Note when the process ends: its pidfd becomes readable."""
    descriptor = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()

    def ready() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        gone.set_result(time.monotonic())

    loop.add_reader(descriptor, ready)


@asynccontextmanager
async def _server(kind: str, folder: Path) -> AsyncIterator[Bench]:
    if kind == "async":
        async with bench([async_wait]) as server:
            yield server
    elif kind == "thread":
        async with bench([thread_wait]) as server:
            yield server
    elif kind == "process":
        async with bench(hosts=[ProcessTools(["benchmarks.function_cancel"], processes=1)]) as server:
            yield server
    elif kind == "mcp":
        path = folder / "server.py"
        path.write_text(textwrap.dedent(MCP_SERVER))
        host = McpTools(McpServer("bench", command=(sys.executable, str(path)), prefix="bench."), LoopClock())
        async with bench(hosts=[host]) as server:
            yield server
    else:
        async with _http(folder) as host, bench(hosts=[host]) as server:
            yield server


@asynccontextmanager
async def _http(folder: Path) -> AsyncIterator[HttpTools]:
    """A loopback server that never answers, and notes when its client goes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.append(time.monotonic())
        await reader.read()
        ended.append(time.monotonic())
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    parameter = {"name": "file", "in": "query", "schema": {"type": "string"}}
    document = {
        "openapi": "3.1.0",
        "servers": [{"url": f"http://127.0.0.1:{port}"}],
        "paths": {"/wait": {"get": {"operationId": "http_wait", "parameters": [parameter], "responses": {}}}},
    }
    path = folder / "api.json"
    path.write_text(json.dumps(document))
    try:
        yield HttpTools(HttpApi("bench", path, private=True))
    finally:
        listener.close()
