"""Tools that begin on a part of an argument while the planner writes the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dag.plan import PlanParser
from orchestrator.tools.python import PythonTools
from tenuto import DefinitionError, Pieces, tool
from tenuto.wire import EventKind, JsonType, PlanOptions, ProgramStatus
from tests.orchestrator.runtime.support import Server, errors, llm, program
from tests.orchestrator.runtime.test_planning import Planner

heard: list[tuple[float, str]] = []
ended: list[str] = []


@tool(effects="read", partial=("code",), share=False)
async def execute(language: str, code: Pieces) -> str:
    """Takes two seconds for every piece."""
    try:
        async for piece in code:
            heard.append((asyncio.get_running_loop().time(), piece))
            await asyncio.sleep(2.0)
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise
    return f"{language}: {await code.text()}"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    heard.clear()
    ended.clear()
    yield


async def planned(*pieces: tuple[float, str | Exception]) -> tuple[Server, str]:
    server = await Server(Planner(pieces), hosts=(PythonTools(tools=[execute]),)).start()  # type: ignore[arg-type]
    options = PlanOptions(tools=("execute",))
    id = await server.submit(program(llm("plan", type=JsonType(), plan=options), outputs=("plan",), toolset=None))
    return server, id


async def test_a_tool_works_on_what_is_written_and_its_call_ends_sooner() -> None:
    server, id = await planned(
        (0.0, '1. execute("py", code="a = 1'), (2.0, "\\nb = 2\\"), (2.0, 'n") '), (2.0, "join()")
    )
    events = await server.follow(id)
    assert heard == [(0.0, "a = 1"), (2.0, "\nb = 2"), (4.0, "\n")]
    assert server.program(id).values["plan-1"] == "py: a = 1\nb = 2\n"
    end = next(event for event in events if event.kind is EventKind.CALL_ENDED and event.call == "plan-1")
    assert end.at_s == 6.0  # two seconds after it was complete; waiting for all of it would have taken four more
    assert (server.tools.partial.begun, server.tools.partial.used) == (1, 1)
    assert server.tools.caps.held == ()
    await server.close()


@pytest.mark.parametrize(
    "rest",
    [
        '", 7)\njoin()',  # one argument too many: the call cannot be made
        '\n2. execute("py", "other")\njoin()',  # it is never closed
        "",
    ],
)
async def test_what_was_begun_for_a_call_that_does_not_come_is_cancelled(rest: str) -> None:
    server, id = await planned((0.0, '1. execute("py", "a'), (1.0, rest))
    await server.follow(id)
    await asyncio.sleep(0)
    assert ended == ["cancelled"] and "plan-1" not in server.program(id).values
    assert server.tools.caps.held == () and server.tools.partial.used == 0
    await server.close()


async def test_a_cancelled_program_cancels_what_was_begun_for_it() -> None:
    server, id = await planned((0.0, '1. execute("py", "a'), (1000.0, ""))
    while not heard:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await server.runtime.cancel(id, tenant="default")
    await asyncio.sleep(0)
    assert ended == ["cancelled"] and server.tools.caps.held == ()
    await server.close()


async def test_a_reference_in_the_text_is_waited_for() -> None:
    server, id = await planned((0.0, '1. execute("py", "x = 1")\n2. execute("py", "print(${1}'), (5.0, ')")\njoin()'))
    await server.follow(id)
    assert heard[1] == (0.0, "print(")
    assert server.program(id).values["plan-2"] == "py: print(py: x = 1)"
    await server.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('1. f("a\\', "a"),
        ('1. f("a\\n\\u00e', "a\n"),
        ('1. f("a\\u00e9', "aé"),
        ('1. f("\\ud83c\\udf0d', ""),
        ('1. f("a $', "a "),
        ("1. f('it\\'s", "it's"),
        ('1. f([1, "a', None),
        ('1. f("a"', None),
        ('1. f("""a', None),
        ('1. f(oops, "a', None),
    ],
)
def test_an_open_text_is_read_as_far_as_it_is_certain(text: str, expected: str | None) -> None:
    parser = PlanParser()
    parser.feed(text)
    found = parser.open_text()
    assert (found.text if found is not None else None) == expected


def test_only_an_async_tool_with_pieces_can_begin_on_a_part() -> None:
    def plain(code: str) -> Any: ...

    with pytest.raises(DefinitionError, match="annotate it as Pieces"):
        tool(effects="read", partial=("code",))(plain)
    with pytest.raises(DefinitionError, match="no parameter"):
        tool(effects="read", partial=("text",))(plain)
    assert execute.spec.parameters["properties"]["code"] == {"type": "string"}


@tool(effects="read", partial=("code",), share=False)
async def noted(code: Pieces, note: str = "") -> str:
    """Takes."""
    return f"{await code.text()} ({note})"


async def test_another_open_argument_is_not_taken_for_the_one_that_was_begun() -> None:
    pieces = ((0.0, '1. noted(code="a = 1'), (1.0, '", note="p'), (1.0, 'y")\n2. join()'))
    server = await Server(Planner(pieces), hosts=(PythonTools(tools=[noted]),)).start()  # type: ignore[arg-type]
    options = PlanOptions(tools=("noted",))
    id = await server.submit(program(llm("plan", type=JsonType(), plan=options), outputs=("plan",), toolset=None))
    await server.follow(id)
    assert server.view(id).status is ProgramStatus.SUCCEEDED, errors(server.view(id))
    assert server.program(id).values["plan-1"] == "a = 1 (py)"
    await server.close()
