"""The `[tools]` section of the settings: where the server's own tools come from.

Owns its shape, and makes the hosts that it names. Never starts one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.clock import OrchestratorClock
from orchestrator.limits import Limits
from tenuto.wire import EffectClass

if TYPE_CHECKING:
    from orchestrator.tools.runs import ToolHost


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProcessOptions(_Section):
    """CPU-bound tools in processes of their own. `memory_mb`: of address space, or of memory where cgroups are."""

    modules: tuple[str, ...] = Field(min_length=1)
    processes: int = Field(default=4, ge=1, le=1024)
    memory_mb: int | None = Field(default=2048, ge=64)
    cpu_s: float | None = Field(default=600.0, gt=0)


class McpOptions(_Section):
    """One MCP server: `command` with its arguments, or `url`. `effects`: tool -> what it does to the world."""

    command: tuple[str, ...] = ()
    url: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    cwd: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    prefix: str | None = Field(default=None, description="before its tools' names; its own name and a point if absent")
    effects: dict[str, EffectClass] = Field(default_factory=dict)
    trust_hints: bool = False
    timeout_s: float = Field(default=60.0, gt=0)
    max_running: int | None = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _one_way(self) -> McpOptions:
        if bool(self.command) == (self.url is not None):
            raise ValueError("give either command or url")
        return self


class OpenApiOptions(_Section):
    """One HTTP API: its OpenAPI document in JSON. `hosts` may be asked beside that of `url`; `private`: inside ones."""

    document: Path
    url: str | None = None
    hosts: tuple[str, ...] = ()
    private: bool = False
    headers: dict[str, str] = Field(default_factory=dict)
    prefix: str | None = Field(default=None, description="before its tools' names; its own name and a point if absent")
    effects: dict[str, EffectClass] = Field(default_factory=dict)
    timeout_s: float = Field(default=30.0, gt=0)
    max_running: int | None = Field(default=32, ge=1)


class ToolSettings(_Section):
    """Tools that the server runs itself, beside those of its clients' workers."""

    modules: tuple[str, ...] = Field(default=(), description="Python modules with @tool functions, run in the server")
    threads: int = Field(default=64, ge=1, le=4096, description="sync tools of the modules that run at once")
    processes: ProcessOptions | None = None
    mcp: dict[str, McpOptions] = Field(default_factory=dict)
    openapi: dict[str, OpenApiOptions] = Field(default_factory=dict)


def hosts_of(settings: ToolSettings, *, clock: OrchestratorClock, limits: Limits) -> Iterator[ToolHost]:
    """The hosts that the settings name, not yet started. What is not used is not imported."""
    if settings.modules:
        from orchestrator.tools.python import PythonTools

        yield PythonTools(settings.modules, threads=settings.threads)
    if settings.processes is not None:
        from orchestrator.tools.cgroups import usable_parent
        from orchestrator.tools.processes import ProcessLimits, ProcessTools

        given = settings.processes
        memory_bytes = given.memory_mb * 2**20 if given.memory_mb is not None else None
        bounds = ProcessLimits(memory_bytes=memory_bytes, cpu_s=given.cpu_s, result_bytes=limits.value_bytes)
        yield ProcessTools(given.modules, processes=given.processes, limits=bounds, cgroups=usable_parent())
    for name, server in settings.mcp.items():
        from orchestrator.tools.mcp import McpServer, McpTools

        prefix = f"{name}." if server.prefix is None else server.prefix
        yield McpTools(McpServer(name=name, **{**server.model_dump(), "prefix": prefix}), clock)
    for name, api in settings.openapi.items():
        from orchestrator.tools.openapi import HttpApi, HttpTools

        prefix = f"{name}." if api.prefix is None else api.prefix
        yield HttpTools(
            HttpApi(name=name, **{**api.model_dump(), "prefix": prefix, "result_bytes": limits.value_bytes})
        )
