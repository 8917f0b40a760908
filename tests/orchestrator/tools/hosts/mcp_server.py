"""An MCP server for the tests: `python mcp_server.py FILE` notes in FILE what was cancelled. Speaks stdio."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
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
def record(name: str) -> dict[str, Any]:
    return {"name": name, "size": 3}


if __name__ == "__main__":
    server.run("stdio")
