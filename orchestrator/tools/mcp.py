"""Tools of MCP servers (Model Context Protocol), by stdio and Streamable HTTP. Needs the extra `mcp`.

Owns one connection a server, and its way back after a loss. A server's annotations are hints: what its tools may do
side by side is said by the settings, and without a word they run alone in their program.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from orchestrator.clock import OrchestratorClock
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.runs import ToolRun
from tenuto.wire import EffectClass, ToolSpec

if TYPE_CHECKING:
    from mcp import Client

log = logging.getLogger(__name__)

_FOREIGN = re.compile(r"[^A-Za-z0-9_.\-]")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 30.0


@dataclass(frozen=True, slots=True)
class McpServer:
    """One MCP server: a `command` that is started here and spoken to over its pipes, or a `url`.

    `effects` says what tools do, by their names on the server; `trust_hints` believes the server itself where it calls
    a tool read-only. `prefix` stands before the names of its tools. `start_s`: how long it may take to connect.
    """

    name: str
    command: tuple[str, ...] = ()
    url: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    effects: Mapping[str, EffectClass] = field(default_factory=dict)
    trust_hints: bool = False
    timeout_s: float = 60.0
    max_running: int | None = 64
    start_s: float = 30.0

    def __post_init__(self) -> None:
        if bool(self.command) == (self.url is not None):
            raise ValueError(f"MCP server {self.name!r}: give either a command or a url")


class McpTools:
    """Satisfies `ToolHost` for one MCP server.

    The connection lives in a task of its own, since it must be closed where it was opened. Invariant: `_client` is set
    exactly while the server can be asked; calls made meanwhile wait for it as long as their own timeouts allow.
    """

    def __init__(self, server: McpServer, clock: OrchestratorClock, *, target: Any = None) -> None:
        self._server = server
        self._target = target  # a server in this very process, for tests
        self._clock = clock
        self._client: Client | None = None
        self._specs: dict[str, ToolSpec] = {}
        self._names: dict[str, str] = {}  # our name -> the server's
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._fault = "it has not been started"

    @property
    def name(self) -> str:
        return f"mcp:{self._server.name}"

    @property
    def max_running(self) -> int | None:
        return self._server.max_running

    @property
    def specs(self) -> Mapping[str, ToolSpec]:
        return self._specs

    async def start(self) -> None:
        self._task = asyncio.create_task(self._serve(), name=self.name)
        try:
            async with asyncio.timeout(self._server.start_s):
                await self._connected.wait()
        except TimeoutError:
            await self.close()
            told = f"MCP server {self._server.name!r} did not connect in {self._server.start_s:g} s: {self._fault}"
            raise ValueError(told) from None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    # -- the connection -------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Keep a connection, with longer and longer pauses between attempts that fail."""
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                async with self._connection() as client:
                    await self._list(client)
                    self._client = client
                    self._connected.set()
                    wait_s = _FIRST_WAIT_S
                    await self._lost.wait()
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # exception groups of the transport, too
                self._fault = _told(error)
                log.warning("MCP server %s: %s", self._server.name, self._fault)
            finally:
                self._client = None
                self._connected.clear()
                self._lost.clear()
            await self._clock.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, wait_s * 2)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Client]:
        try:
            from mcp import Client, StdioServerParameters
        except ImportError as error:
            raise ValueError("MCP servers need the extra: pip install 'tenuto[mcp]'") from error
        server = self._server
        if self._target is not None:
            async with Client(self._target) as client:
                yield client
        elif server.url is None:
            command, *args = server.command
            target = StdioServerParameters(command=command, args=args, env=dict(server.env) or None, cwd=server.cwd)
            async with Client(target) as client:
                yield client
        elif not server.headers:
            async with Client(server.url) as client:
                yield client
        else:
            from httpx2 import AsyncClient
            from mcp.client.streamable_http import streamable_http_client

            async with AsyncClient(headers=dict(server.headers)) as http:
                async with Client(streamable_http_client(server.url, http_client=http)) as client:
                    yield client

    async def _list(self, client: Client) -> None:
        """All pages of the server's tools."""
        specs: dict[str, ToolSpec] = {}
        names: dict[str, str] = {}
        cursor: str | None = None
        while True:
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                spec = self._spec(tool)
                specs[spec.name] = spec
                names[spec.name] = tool.name
            cursor = page.next_cursor
            if not cursor:
                break
        self._specs, self._names = specs, names

    def _spec(self, tool: Any) -> ToolSpec:
        server, hints = self._server, tool.annotations
        reads = server.trust_hints and hints is not None and bool(hints.read_only_hint)
        effect = server.effects.get(tool.name, EffectClass.READ if reads else EffectClass.EXCLUSIVE)
        known_idempotent = server.trust_hints and hints is not None and bool(hints.idempotent_hint)
        name = _FOREIGN.sub("_", server.prefix + tool.name)
        return ToolSpec(
            name=name if name[:1].isalpha() or name[:1] == "_" else f"_{name}",
            description=tool.description or "",
            parameters=tool.input_schema or {},
            returns=tool.output_schema or {},
            effect=effect,
            idempotent=known_idempotent or effect is EffectClass.READ,
            timeout_s=server.timeout_s,
        )

    # -- calls ----------------------------------------------------------------------------------

    async def run(self, run: ToolRun, spec: ToolSpec) -> JsonValue:
        await self._connected.wait()
        client = self._client
        assert client is not None
        arguments: dict[str, Any] = dict(run.arguments)
        meta: Any = {"tenuto/idempotency-key": run.idempotency_key}
        if run.traceparent is not None:
            meta["traceparent"] = run.traceparent  # where OpenTelemetry's MCP conventions look for it
        try:
            result = await client.call_tool(self._names[run.tool], arguments, meta=meta)
        except Exception as error:
            if _is_loss(error):
                if self._client is client:
                    self._client = None
                    self._connected.clear()
                    self._lost.set()
                message = f"MCP server {self._server.name!r} went while it ran {run.tool!r}"
                raise CallFailure(FailureType.WORKER_LOST, message, lost=True) from error
            raise CallFailure("mcp_error", f"MCP server {self._server.name!r}: {_told(error)}") from error
        blocks: list[JsonValue] = [
            block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content
        ]
        if result.is_error:
            texts = [block.text for block in result.content if block.type == "text"]
            raise CallFailure("tool_error", "\n".join(texts)[:4000] or "the tool failed", retryable=True)
        if result.structured_content is not None:
            structured: JsonValue = result.structured_content
            return structured
        if len(result.content) == 1 and result.content[0].type == "text":
            return result.content[0].text
        return blocks


def _is_loss(error: Exception) -> bool:
    """Whether the connection is gone, so that nobody will ever answer."""
    from mcp import MCPError
    from mcp.types import CONNECTION_CLOSED

    if isinstance(error, MCPError):
        return error.code == CONNECTION_CLOSED
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("anyio", "httpx2", "httpcore2")


def _told(error: BaseException) -> str:
    """The first fault inside a group of them, by name and message."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:500]
