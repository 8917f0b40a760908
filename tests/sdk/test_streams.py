"""Texts while they are generated, and handles of runs in progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import tenuto
from tenuto import (
    AsyncClient,
    CallFailed,
    tool,
    workflow,
)
from tenuto.testing import ScriptedModel, override
from tenuto.wire import Event, EventKind, ProgramStatus
from tests.sdk.flows import broken, say

pytestmark = pytest.mark.usefixtures("client")


async def test_texts_are_read_while_they_are_generated(client: AsyncClient) -> None:
    @workflow
    async def wf() -> str:
        one = say("x")
        return say(one)

    with override(ScriptedModel({"say": "one two three"})):
        texts: dict[str, str] = {}
        stream = wf.stream()
        async for piece in stream:
            texts[piece.call] = texts.get(piece.call, "") + piece.text
        assert texts == {"say": "one two three", "say.2": "one two three"}
        assert await stream.result() == "one two three"
        assert [piece async for piece in stream] == []

        @workflow
        async def failing() -> str:
            return broken(say("x"))

        seen = []
        with pytest.raises(CallFailed, match="broken"):
            async for piece in failing.stream():
                seen.append(piece)
        assert "".join(piece.text for piece in seen) == "one two three"


@pytest.mark.parametrize("how", ["left", "dropped", "cancelled"])
async def test_leaving_a_stream_cancels_its_program(client: AsyncClient, how: str) -> None:
    forever = asyncio.Event()

    @tool(effects="read")
    async def endless(text: str) -> None:
        await forever.wait()

    @workflow
    async def wf() -> None:
        await endless(say("x"))

    async def reader(stream: tenuto.Stream[None]) -> None:
        async for _ in stream:
            got.set()

    got = asyncio.Event()
    held = wf.stream()
    with override(ScriptedModel({"say": "ok"})):
        if how == "left":
            async with wf.stream() as stream:
                assert (await anext(stream)).text == "ok"
        elif how == "dropped":
            async for piece in wf.stream():
                assert piece.text == "ok"
                break
        else:
            task = asyncio.create_task(reader(held))
            async with asyncio.timeout(60):
                await got.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    (summary,) = (await client.programs()).data
    async with asyncio.timeout(60):
        kinds = [event.kind async for event in client.events(summary.id)]
    assert kinds[-1] is EventKind.PROGRAM_CANCELLED


async def test_a_handle_shows_the_run(client: AsyncClient) -> None:
    go = asyncio.Event()

    @tool(effects="read")
    async def wait() -> str:
        await go.wait()
        return "done"

    @workflow
    async def wf() -> str:
        return wait()

    async def collect(events: AsyncIterator[Event]) -> list[EventKind]:
        return [event.kind async for event in events]

    run = await wf.asubmit()
    assert run.id and len(run.trace_id) == 32 and not run.done
    assert (await run.view()).status is ProgramStatus.RUNNING
    kinds = asyncio.create_task(collect(run.events()))
    go.set()
    assert await run.result() == await run.result() == "done"
    assert run.done
    assert (await kinds)[0] is EventKind.PROGRAM_ACCEPTED and (await kinds)[-1] is EventKind.PROGRAM_SUCCEEDED
    timeline = await run.timeline()
    assert [call.id for call in timeline.calls] == ["wait"] and timeline.status is ProgramStatus.SUCCEEDED
    await run.cancel()
    assert await run.result() == "done"


async def test_a_workflow_that_fails_before_its_first_call_raises_at_submit() -> None:
    @workflow
    async def wf() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await wf.asubmit()
