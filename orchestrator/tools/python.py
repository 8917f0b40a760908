"""The server's own Python tools: `@tool` functions of configured modules, run in this process.

Owns their threads. An async tool is cancelled where it awaits; a sync one runs in a thread, is told by
`tenuto.cancelled()`, and keeps its thread's place until it returns. Never runs what a client sent.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import JsonValue

from orchestrator.tools.failures import CallFailure
from orchestrator.tools.runs import ToolRun
from tenuto import Tool
from tenuto.errors import InvalidArgument
from tenuto.tasks import in_thread, running_token, start_thread
from tenuto.wire import ToolSpec

_LONGEST_MESSAGE = 4_000


def tools_of(module: str) -> dict[str, Tool[..., Any, Any]]:
    """The `@tool` functions of a module by name. Raises ValueError if it cannot be imported or has none."""
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        hint = ": install it, or put its folder on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise ValueError(
            f"tools module {module!r} cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error
    found = {tool.name: tool for tool in vars(loaded).values() if isinstance(tool, Tool)}
    if not found:
        raise ValueError(f"tools module {module!r} has no @tool functions at its top")
    return found


class PythonTools:
    """Satisfies `ToolHost` for `@tool` functions."""

    def __init__(
        self,
        modules: Iterable[str] = (),
        *,
        tools: Iterable[Tool[..., Any, Any]] = (),
        threads: int = 64,
        name: str = "python",
    ) -> None:
        self._modules = tuple(modules)
        self._tools = {tool.name: tool for tool in tools}
        self._threads = asyncio.Semaphore(threads)
        self._name = name
        self._specs: dict[str, ToolSpec] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def max_running(self) -> int | None:
        return None

    @property
    def specs(self) -> Mapping[str, ToolSpec]:
        return self._specs

    async def start(self) -> None:
        for module in self._modules:
            for name, tool in tools_of(module).items():
                if name in self._tools and self._tools[name] is not tool:
                    raise ValueError(f"two tools modules define a tool {name!r}: rename one with @tool(name=...)")
                self._tools[name] = tool
        self._specs = {name: tool.spec for name, tool in self._tools.items()}

    async def run(self, run: ToolRun, spec: ToolSpec) -> JsonValue:
        tool = self._tools[run.tool]
        try:
            args, kwargs = tool.signature.load(run.arguments)
        except InvalidArgument as error:
            raise CallFailure("arguments_invalid", str(error)) from error
        try:
            if tool.is_async:
                value = await tool.raw(*args, **kwargs)
            else:
                value = await self._threaded(tool, args, kwargs)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallFailure("tool_error", f"tool {tool.name!r} cancelled itself", retryable=True) from None
        except CallFailure:
            raise
        except BaseException as error:  # a tool that raises SystemExit must not end the server
            raise tool_error(error) from error
        return result_of(tool, value)

    async def _threaded(self, tool: Tool[..., Any, Any], args: Any, kwargs: Any) -> Any:
        await self._threads.acquire()
        token = threading.Event()
        running_token.set(token)
        thread = start_thread(tool.name, lambda: tool.raw(*args, **kwargs))
        thread.add_done_callback(lambda _: self._threads.release())
        try:
            return await in_thread(thread)
        finally:
            token.set()

    async def close(self) -> None:
        return


def tool_error(error: BaseException) -> CallFailure:
    """What a tool raised, by its name and message; never its traceback."""
    try:
        told = str(error)
    except Exception:
        told = "(its message cannot be shown)"
    message = f"{type(error).__name__}: {told}" if told else type(error).__name__
    message = message[:_LONGEST_MESSAGE].encode("utf-8", "backslashreplace").decode()
    return CallFailure("tool_error", message, retryable=True)


def result_of(tool: Tool[..., Any, Any], value: Any) -> JsonValue:
    """A tool's return value as JSON. Raises CallFailure `result_invalid`."""
    try:
        dumped: JsonValue = tool.signature.result.dump(value)
        return dumped
    except (InvalidArgument, ValueError, TypeError, RecursionError) as error:
        message = f"tool {tool.name!r} returned {type(value).__name__}, which is not its declared type: {error}"
        raise CallFailure("result_invalid", message) from error
