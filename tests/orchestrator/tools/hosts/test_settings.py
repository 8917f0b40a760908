"""Tools that the settings name are there when the server answers, or the server says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.app import assemble, running
from orchestrator.clock import LoopClock
from orchestrator.config import ConfigError, Settings
from orchestrator.limits import Limits
from orchestrator.tools.settings import ToolSettings, hosts_of
from tenuto.wire import Constant, FunctionCall, Graph, JsonType, ProgramSubmission, Reference
from tests.orchestrator.tools.hosts.support import SERVED


def call(id: str, tool: str, **arguments: Any) -> FunctionCall:
    exprs = {name: v if isinstance(v, Reference) else Constant(value=v) for name, v in arguments.items()}
    return FunctionCall(id=id, tool=tool, arguments=exprs, type=JsonType())


async def test_a_program_without_workers_calls_the_servers_own_tools() -> None:
    settings = Settings(model="none", tools=ToolSettings(modules=(SERVED,)))
    calls = (call("a", "double", x=4), call("b", "double", x=Reference(variable="a")), call("c", "fails", how="raise"))
    graph = Graph(calls=calls, outputs=("b", "c"))
    async with running(assemble(settings)) as parts:
        summary, _ = await parts.runtime.submit(ProgramSubmission(workflow="w", graph=graph), tenant="t")
        async for _ in parts.runtime.events(summary.id, tenant="t"):
            pass
        view = parts.runtime.view(summary.id, tenant="t")
        listed = {tool.spec.name: tool.toolset for tool in parts.tools.tools("t")}
    assert view.outputs["b"].value == 16
    assert view.outputs["c"].error is not None and view.outputs["c"].error.type == "tool_error"
    assert listed["double"] == "server"


async def test_tools_that_cannot_be_are_told_when_the_server_starts() -> None:
    settings = Settings(model="none", tools=ToolSettings(modules=("no_such_module",)))
    with pytest.raises(ConfigError, match="no_such_module"):
        async with running(assemble(settings)):
            pass


def test_every_kind_of_host_can_be_named(tmp_path: Path) -> None:
    document = {
        "modules": ["m"],
        "processes": {"modules": ["n"], "processes": 2, "memory_mb": 100},
        "mcp": {"files": {"command": ["server", "--x"]}, "web": {"url": "http://x/mcp", "prefix": ""}},
        "openapi": {"weather": {"document": str(tmp_path / "w.json"), "effects": {"save": "write"}}},
    }
    settings = ToolSettings.model_validate(document)
    found = [host.name for host in hosts_of(settings, clock=LoopClock(), limits=Limits())]
    assert found == ["python", "processes", "mcp:files", "mcp:web", "http:weather"]
    with pytest.raises(ValidationError, match="either command or url"):
        ToolSettings.model_validate({"mcp": {"both": {"command": ["x"], "url": "http://x"}}})
    with pytest.raises(ValidationError, match="comand"):
        ToolSettings.model_validate({"mcp": {"x": {"comand": ["x"]}}})
