"""An MCP server for the tests: `python mcp_server.py FILE [PORT]` notes in FILE what was cancelled. Speaks stdio, or
Streamable HTTP at PORT (0: a free one) of this machine, which it prints when it listens."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("test", log_level="ERROR")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool()
async def nap(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        Path(sys.argv[1]).write_text("cancelled")  # noqa: ASYNC240
        raise
    return "rested"


@server.tool()
def die() -> str:
    os._exit(7)


@server.tool()
def fails() -> str:
    raise ValueError("no such thing")


@server.tool()
def trace(context: Context[Any, Any]) -> str:
    return str((context.request_context.meta or {}).get("traceparent"))


@server.tool()
def record(name: str) -> dict[str, Any]:
    return {"name": name, "size": 3}


def serve(port: int) -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", port))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        serve(int(sys.argv[2]))
    else:
        server.run("stdio")
