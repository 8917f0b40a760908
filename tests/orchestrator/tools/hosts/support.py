"""How tests of hosts ask for a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from orchestrator.tools import ToolHost, ToolRun

SERVED = "tests.orchestrator.tools.hosts.served"


async def ask(host: ToolHost, tool: str, **arguments: Any) -> Any:
    """One call of one of the host's tools."""
    run = ToolRun(program="p", call="c", tool=tool, tenant="t", toolset="", arguments=arguments, attempt=1)
    return await host.run(run, host.specs[tool])


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process or thread does: nothing tells this one of it."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.002)
