"""What tools may do and may not, and what becomes of those that do it all the same."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import tenuto
from tenuto import (
    AsyncClient,
    CallFailed,
    tool,
    workflow,
)
from tenuto.testing import ScriptedModel, override
from tests.sdk.flows import Mood, Point, Sql, rows_of, say, total, write_sql

pytestmark = pytest.mark.usefixtures("client")


async def test_sync_tools_run_in_parallel_and_see_their_cancellation(client: AsyncClient) -> None:
    together = threading.Barrier(3, timeout=20)
    saw_cancel = threading.Event()

    @tool(effects="read")
    def meet(number: int) -> int:
        together.wait()
        return number

    @tool(effects="read", timeout=0.05)
    def stubborn() -> None:
        while not tenuto.cancelled():
            together_or_not.wait(0.01)
        saw_cancel.set()

    together_or_not = threading.Event()

    @workflow
    async def wf() -> list[int]:
        return [meet(n) for n in range(3)]

    @workflow
    async def late() -> None:
        await stubborn()

    assert await wf.arun() == [0, 1, 2]
    with pytest.raises(CallFailed, match="timeout"):
        await late.arun()
    assert await asyncio.to_thread(saw_cancel.wait, 20)
    assert not tenuto.cancelled()


async def test_arguments_arrive_as_the_annotated_types() -> None:
    @tool(effects="read")
    def kinds(sql: Sql, mood: Mood, points: list[Point], flag: bool = True, *, name: str = "n") -> list[str]:
        assert mood is Mood.BAD and flag is True and name == "n"
        return [type(sql).__name__, *(type(point).__name__ for point in points)]

    @workflow
    async def wf() -> list[str]:
        return kinds(write_sql("q", "s"), Mood.BAD, [Point(1, 2), Point(3, 4)])

    with override(ScriptedModel({"write_sql": Sql(query="x")})):
        assert await wf.arun() == ["Sql", "Point", "Point"]


class Opaque:
    """JSON cannot hold it."""


def bad_tool(kind: str) -> Any:
    async def value() -> Any:
        if kind == "raises":
            raise RuntimeError("deep\nreason")
        if kind == "exits":
            raise SystemExit(3)
        if kind == "silent":
            raise ValueError
        if kind == "garbled":
            raise ValueError("lone \ud800")
        return {
            "opaque": {"x": [Opaque()]},
            "nan": float("nan"),
            "surrogate": "\ud800",
            "bytes": b"\xff",
            "keys": {(1, 2): 3},
        }[kind]

    if kind in ("raises", "exits", "silent", "garbled"):
        return tool(effects="read", name="bad")(value)

    def sync_value() -> Any:
        return asyncio.run(value())

    return tool(effects="read", name="bad")(sync_value)


@pytest.mark.parametrize(
    ("kind", "type", "message"),
    [
        ("raises", "tool_error", "RuntimeError: deep\nreason"),
        ("exits", "tool_error", "SystemExit: 3"),
        ("silent", "tool_error", "ValueError"),
        ("garbled", "tool_error", "ValueError: lone \\ud800"),
        ("opaque", "result_invalid", "tool 'bad' returned dict, which is not Any in JSON: bad: dict cannot be"),
        ("nan", "result_invalid", "tool 'bad' returned float"),
        ("surrogate", "result_invalid", "tool 'bad' returned str"),
        ("bytes", "result_invalid", "tool 'bad' returned bytes"),
    ],
)
async def test_bad_tools_fail_their_call_alone(kind: str, type: str, message: str) -> None:
    bad = bad_tool(kind)

    @workflow
    async def wf() -> str:
        good = say("x")
        with pytest.raises(CallFailed) as failed:
            await bad()
        assert failed.value.type == type
        assert failed.value.message.startswith(message)
        assert "Traceback" not in failed.value.message
        return await good

    with override(ScriptedModel({"say": "ok"})):
        assert await wf.arun() == "ok"


async def test_a_tool_that_breaks_its_own_declaration_says_so() -> None:
    @tool(effects="read")
    def promised() -> list[int]:
        return ["x"]  # type: ignore[list-item]

    @workflow
    async def wf() -> list[int]:
        return promised()

    with pytest.raises(CallFailed, match=r"'promised' returned list, which is not list\[int\].*\[0\]: Input should be"):
        await wf.arun()


async def test_retries_of_tools_are_counted() -> None:
    attempts = 0

    @tool(effects="read", retries=tenuto.Retry(attempts=3, first_wait_s=0.0))
    async def shaky() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("again")
        return attempts

    @workflow
    async def wf() -> int:
        return shaky()

    assert await wf.arun() == 3


async def test_tools_defined_later_are_registered_later(client: AsyncClient, wire: Any) -> None:
    @workflow
    async def wf(version: int) -> list[str]:
        @tool(effects="read")
        def now() -> str:
            return f"v{version}"

        return [await now(), await now()]

    assert await wf.arun(1) == ["v1", "v1"]
    assert await wf.arun(1) == ["v1", "v1"]
    assert await wf.arun(2) == ["v2", "v2"]
    assert len(wire.sent("/v1/workers")) == 3


async def test_module_tools_are_offered_from_the_start(client: AsyncClient, wire: Any) -> None:
    @workflow
    async def one() -> list[int]:
        return rows_of("x")

    @workflow
    async def two() -> int:
        return total([[1], [2]])

    assert await one.arun() == [1]
    assert await two.arun() == 3
    assert len(wire.sent("/v1/workers")) == 1
    assert {"rows_of", "total", "broken"} <= {view.tool.name for view in await client.tools()}


async def test_a_tool_that_nobody_asked_for_gives_way_to_one_of_its_name() -> None:
    elsewhere: dict[str, Any] = {"tool": tool, "__name__": "elsewhere"}
    exec("@tool(effects='read')\ndef same_name(x: int) -> int:\n    return -x", elsewhere)  # another module's

    @tool(effects="read")
    def other(x: int) -> int:
        return x

    @tool(effects="read")
    def same_name(x: int) -> int:
        return 2 * x

    @workflow
    async def first() -> int:
        return other(1)  # the worker registers, and offers what there is

    @workflow
    async def second() -> int:
        return same_name(4)

    assert await first.arun() == 1
    assert await second.arun() == 8
    assert elsewhere["same_name"].name == "same_name"
