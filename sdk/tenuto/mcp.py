"""Workflows as tools of an MCP server: `python -m tenuto.mcp MODULE`. Needs the extra `mcp`.

Each workflow is a tool with the schema of its signature; a call runs a program, and a cancelled call cancels it. Owns
the mapping only: what a workflow does is its own, and the programs run where every other one does.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenuto.client import AsyncClient
from tenuto.errors import CallFailed, DefinitionError, InvalidArgument, TenutoError
from tenuto.local import local
from tenuto.published import PublishedTool
from tenuto.signature import Signature
from tenuto.workflow import Workflow

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult


class WorkflowTool:
    """One workflow as a tool. Raises `DefinitionError` if its arguments or result have no JSON form."""

    def __init__(self, workflow: Workflow[..., Any]) -> None:
        self.workflow = workflow
        self.name = workflow.name
        self.description = inspect.getdoc(workflow) or ""
        self.signature = Signature(workflow.function, workflow.name, {})
        self.input_schema = self.signature.arguments_schema
        schema = dict(self.signature.result.schema("serialization"))
        definitions = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
        self._wrapped = schema.get("type") != "object"  # a tool's structured result is an object
        wrapper = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
        self.output_schema: dict[str, Any] = {**(wrapper if self._wrapped else schema), **definitions}

    async def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a program. Raises `TenutoError`, and what the workflow raises."""
        args, kwargs = self.signature.load(arguments)
        value: Any = self.signature.result.to_json(await self.workflow.arun(*args, **kwargs))
        return {"result": value} if self._wrapped else dict(value)


def server(workflows: Iterable[Workflow[..., Any] | PublishedTool], *, name: str = "tenuto") -> Server[Any]:
    """An MCP server with these workflows as tools; it runs where an `AsyncClient` is current."""
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult, ListToolsResult, TextContent, Tool

    made = (one if isinstance(one, PublishedTool) else WorkflowTool(one) for one in workflows)
    tools: dict[str, WorkflowTool | PublishedTool] = {tool.name: tool for tool in made}
    if not tools:
        raise DefinitionError("no workflows: decorate functions with @workflow, @planner or @agent")

    async def list_tools(context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=called,
                    description=tool.description,
                    input_schema=tool.input_schema,
                    output_schema=tool.output_schema,
                )
                for called, tool in tools.items()
            ]
        )

    def failed(message: str) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)

    async def call_tool(context: Any, params: Any) -> CallToolResult:
        tool = tools.get(params.name)
        if tool is None:
            return failed(f"there is no workflow {params.name!r}; the workflows are {', '.join(tools)}")
        try:
            result = await tool.call(params.arguments or {})
        except (CallFailed, InvalidArgument) as error:
            return failed(str(error))
        except TenutoError as error:
            return failed(f"{type(error).__name__}: {error}")
        except Exception as error:  # the workflow's own: told by name, without its traceback
            return failed(f"{params.name}: {type(error).__name__}: {error}")
        text = result["result"] if isinstance(result.get("result"), str) else json.dumps(result, ensure_ascii=False)
        return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=result)

    return Server(name, on_list_tools=list_tools, on_call_tool=call_tool)


def workflows_of(module: str) -> list[Workflow[..., Any]]:
    """The workflows at the top of a module, in the order of their definition."""
    return [value for value in vars(importlib.import_module(module)).values() if isinstance(value, Workflow)]


async def serve(module: str | None, *, url: str | None, port: int | None) -> None:
    """Serve a module's workflows, or (without one) those that the server keeps, over stdio, or over Streamable HTTP at
    `port` of this machine.

    Programs run on the server at `url`, else on a private one.
    """
    async with AsyncExitStack() as stack:
        if module is None:
            key = os.environ.get("TENUTO_API_KEY")
            client = await stack.enter_async_context(AsyncClient(url, api_key=key))
            made = server(PublishedTool(client, view) for view in await client.workflows())
        else:
            made = server(workflows_of(module), name=module)
            await stack.enter_async_context(AsyncClient(url) if url else local())
        if port is None:
            from mcp.server.stdio import stdio_server

            reader, writer = await stack.enter_async_context(stdio_server())
            await made.run(reader, writer, made.create_initialization_options())
        else:
            import uvicorn

            config = uvicorn.Config(made.streamable_http_app(), host="127.0.0.1", port=port, log_level="warning")
            await uvicorn.Server(config).serve()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tenuto.mcp", description="Workflows as tools of an MCP server.")
    parser.add_argument(
        "module", nargs="?", help="a Python module with workflows at its top; without one, those that the server keeps"
    )
    parser.add_argument("--url", default=os.environ.get("TENUTO_URL"), help="a Tenuto server; a private one if absent")
    parser.add_argument("--port", type=int, help="Streamable HTTP on this port; stdio if absent")
    given = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))
    asyncio.run(serve(given.module, url=given.url, port=given.port))


if __name__ == "__main__":
    main()
