"""A tool of a client's worker that begins on a part of its argument, while the planner still writes the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import pytest

from engine.protocol import FinishReason, GenerateRequest, TokenChunk, Usage
from orchestrator.app import assemble, create_app
from orchestrator.clock import LoopClock
from orchestrator.config import Settings
from orchestrator.tools.partial import PartialRuns
from tenuto import AsyncClient, Pieces, planner, tool
from tenuto.testing import ASGITransport
from tenuto.wire import CancelTask, FunctionTask, TaskPiece
from tenuto.worker import Session
from tests.orchestrator.api.support import EchoEngine
from tests.sdk.conftest import URL

_USAGE = Usage(1, 0, 1, 0.0, 0.0, 0.0)


class Writer(EchoEngine):
    """Writes a plan, each piece when the test lets it; then the joiner's answer."""

    def __init__(self, *pieces: str) -> None:
        super().__init__()
        self.pieces = pieces
        self.go_on: asyncio.Queue[None] = asyncio.Queue()
        self.joined = ""

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        if request.messages[0].content.startswith("Plan the task"):
            for index, piece in enumerate(self.pieces):
                if index:
                    await self.go_on.get()
                yield TokenChunk(piece, (index,))
        else:
            self.joined = request.messages[-1].content
            yield TokenChunk('{"thought": "", "answer": "done"}', (0,))
        yield TokenChunk("", (), FinishReason.STOP, _USAGE)


class Ran:
    """What the tool heard and when; what came over the worker's stream."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.cancelled = 0
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.messages: list[Any] = []


ran: Ran


@tool(effects="read", partial=("code",), share=False)
async def execute(language: str, code: Pieces) -> str:
    try:
        async for piece in code:
            ran.heard.append(piece)
            ran.news.put_nowait(piece)
    except asyncio.CancelledError:
        ran.cancelled += 1
        ran.news.put_nowait("cancelled")
        raise
    return f"{language}: {await code.text()}"


@planner(tools=[execute], rounds=1)
async def solve(question: str) -> str:
    """{{question}}"""
    raise AssertionError("never called")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global ran
    ran = Ran()
    take = Session._take

    def noted(session: Session, message: Any) -> None:
        ran.messages.append(message)
        take(session, message)

    monkeypatch.setattr(Session, "_take", noted)


@asynccontextmanager
async def solving(engine: Writer) -> AsyncIterator[tuple[asyncio.Task[str], PartialRuns]]:
    """A run of the planner over the real server app, and the server's book of begun runs."""
    make = partial(assemble, clock=LoopClock(), engines=[engine], rng=Random(7))
    app = create_app(Settings(), assemble=make)
    async with ASGITransport(app) as transport, AsyncClient(URL, transport=transport):
        yield asyncio.create_task(solve.arun("do it")), app.state.parts.tools.partial


async def test_a_workers_tool_begins_while_the_planner_writes_its_argument() -> None:
    engine = Writer('1. execute("py", code="a = 1', "\\nb", ' = 2")\njoin()')
    async with solving(engine) as (result, begun):
        assert await ran.news.get() == "a = 1"  # the planner has not written more than this
        assert not result.done() and begun.begun == 1
        engine.go_on.put_nowait(None)
        assert await ran.news.get() == "\nb"
        engine.go_on.put_nowait(None)
        assert await result == "done"
        assert begun.used == 1
    assert "py: a = 1\nb = 2" in engine.joined
    assert "".join(ran.heard) == "a = 1\nb = 2"
    first, *rest = ran.messages
    assert isinstance(first, FunctionTask) and first.partial == "code" and first.arguments == {"language": "py"}
    assert all(isinstance(message, TaskPiece) and message.task == first.task for message in rest)
    assert [message.last for message in rest] == [False] * (len(rest) - 1) + [True]


async def test_a_call_that_turns_out_otherwise_is_taken_back_from_the_worker() -> None:
    engine = Writer('1. execute("py", code="a', '", 7)\n2. execute("sh", "ls")\njoin()')
    async with solving(engine) as (result, begun):
        assert await ran.news.get() == "a"
        engine.go_on.put_nowait(None)
        assert await result == "done"
        assert ran.cancelled == 1 and begun.used == 0
    assert any(isinstance(message, CancelTask) for message in ran.messages)
    assert "sh: ls" in engine.joined and "py: " not in engine.joined


async def test_a_begun_run_that_failed_is_made_anew_with_the_whole_argument() -> None:
    engine = Writer('1. execute("py", code="a', ' = 1")\njoin()')
    async with solving(engine) as (result, begun):
        assert await ran.news.get() == "a"
        (first,) = {message.task: message for message in ran.messages if isinstance(message, FunctionTask)}.values()
        (run,) = begun._runs.values()
        run.task.cancel()
        assert await ran.news.get() == "cancelled"
        engine.go_on.put_nowait(None)
        assert await result == "done"
        assert begun.used == 0
    again = [message for message in ran.messages if isinstance(message, FunctionTask)][1]
    assert again.task != first.task and again.partial is None and again.arguments["code"] == "a = 1"
    assert "py: a = 1" in engine.joined
