"""Workflows as tools of an MCP server, asked by an MCP client in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from mcp import Client
from pydantic import BaseModel

from tenuto import AsyncClient, DefinitionError, tool, workflow
from tenuto.mcp import server, workflows_of
from tenuto.published import PublishedTool
from tests.sdk.flows import only_program

pytestmark = pytest.mark.usefixtures("client")


class Total(BaseModel):
    total: int


@tool(effects="read")
async def add(numbers: Sequence[int]) -> int:
    if 13 in numbers:
        raise ValueError("not that one")
    return sum(numbers)


@workflow
async def count(numbers: list[int], more: int = 0) -> int:
    """Counts."""
    return add([*numbers, more])


@workflow
async def total(numbers: list[int]) -> Total:
    return Total(total=await add(numbers))


@workflow
async def waits() -> str:
    await asyncio.Event().wait()
    return ""


async def test_workflows_are_tools_with_their_signatures(client: AsyncClient) -> None:
    async with Client(server([count, total])) as mcp:
        listed = {found.name: found for found in (await mcp.list_tools()).tools}
        assert listed["count"].description == "Counts."
        assert listed["count"].input_schema["required"] == ["numbers"]
        assert (await mcp.call_tool("count", {"numbers": [1, 2], "more": 3})).structured_content == {"result": 6}
        assert (await mcp.call_tool("total", {"numbers": [4]})).structured_content == {"total": 4}
        for name, arguments, message in (
            ("count", {"numbers": "x"}, "numbers"),
            ("count", {"numbers": [13]}, "ValueError: not that one"),
            ("absent", {}, "the workflows are count, total"),
        ):
            result = await mcp.call_tool(name, arguments)
            assert result.is_error and message in result.content[0].text  # type: ignore[union-attr]


@workflow
async def plus(numbers: list[int]) -> int:
    """Adds."""
    return add(numbers)


async def test_workflows_that_the_server_keeps_are_tools_too(client: AsyncClient) -> None:
    await count.arun([1])  # the worker that runs `add` is there now
    await client.publish("plus", plus.definition(toolset=client.toolset))
    kept = [PublishedTool(client, view) for view in await client.workflows()]
    async with Client(server(kept)) as mcp:
        (listed,) = (await mcp.list_tools()).tools
        assert (listed.name, listed.description, listed.input_schema["required"]) == ("plus", "Adds.", ["numbers"])
        assert (await mcp.call_tool("plus", {"numbers": [1, 2]})).structured_content == {"add": 3}
        for arguments, message in (
            ({"numbers": [13]}, "ValueError: not that one"),
            ({"numbers": "x"}, "numbers"),
            ({}, "numbers"),
        ):
            result = await mcp.call_tool("plus", arguments)
            assert result.is_error and message in result.content[0].text  # type: ignore[union-attr]


async def test_a_cancelled_call_cancels_its_program(client: AsyncClient) -> None:
    begun = asyncio.Event()

    @tool(effects="read")
    async def hang() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    @workflow
    async def hangs() -> str:
        return await hang()

    async with Client(server([hangs])) as mcp:
        call = asyncio.create_task(mcp.call_tool("hangs", {}))
        await begun.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        while (await only_program(client)).status == "running":  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert (await only_program(client)).status == "cancelled"


def test_a_module_is_served_by_its_workflows() -> None:
    assert [found.name for found in workflows_of(__name__)] == ["count", "total", "waits", "plus"]
    with pytest.raises(DefinitionError, match="no workflows"):
        server([])
