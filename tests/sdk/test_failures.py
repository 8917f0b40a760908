"""Calls, workflows, outputs and users that fail or give up: each by name, and nothing else is harmed."""

from __future__ import annotations

import asyncio

import pytest

from tenuto import (
    AsyncClient,
    CallFailed,
    NoneSucceeded,
    ProgramCancelled,
    RequestInvalid,
    first,
    tool,
    workflow,
)
from tenuto.testing import ScriptedModel, override
from tenuto.wire import EventKind, ProgramStatus
from tests.sdk.flows import Sql, broken, only_program, rows_of, say, write_sql

pytestmark = pytest.mark.usefixtures("client")


async def test_a_failed_call_is_raised_at_its_await_and_can_be_caught(client: AsyncClient) -> None:
    @workflow
    async def wf() -> str:
        bad, good = broken("x"), say("fine")
        skipped = say(bad)
        with pytest.raises(CallFailed) as failed:
            await bad
        assert (failed.value.type, failed.value.call, failed.value.attempts) == ("tool_error", "broken", 1)
        assert failed.value.message == "ValueError: broken: x"
        with pytest.raises(CallFailed) as after:
            await skipped
        assert after.value.call == "broken"
        return await good

    with override(ScriptedModel({"say": "ok"})):
        assert await wf.arun() == "ok"
    view = await only_program(client)
    assert view.status is ProgramStatus.SUCCEEDED
    states = {call.id: call.state for call in view.call_views}
    assert states == {"broken": "failed", "say": "ended", "say.2": "skipped"}


async def test_a_failed_output_ends_the_program_as_failed(client: AsyncClient) -> None:
    @workflow
    async def wf() -> list[str]:
        return [say("fine"), broken("x")]

    with override(ScriptedModel({"say": "ok"})):
        with pytest.raises(CallFailed, match="broken: tool_error: ValueError: broken: x"):
            await wf.arun()
    (summary,) = (await client.programs()).data
    async for event in client.events(summary.id):
        last = event
    assert last.kind is EventKind.PROGRAM_FAILED


async def test_exceptions_of_the_workflow_propagate_untouched_and_cancel_the_program(client: AsyncClient) -> None:
    stopped = asyncio.Event()

    @tool(effects="read")
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    mine = KeyError("mine")

    @workflow
    async def wf() -> None:
        endless()
        await say("x")
        raise mine

    with override(ScriptedModel({"say": "ok"})), pytest.raises(KeyError) as raised:
        await wf.arun()
    assert raised.value is mine
    async with asyncio.timeout(20):
        await stopped.wait()
    assert (await only_program(client)).status is ProgramStatus.CANCELLED


@pytest.mark.parametrize("how", ["task", "timeout", "run"])
async def test_cancelling_reaches_tools_and_server(client: AsyncClient, how: str) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    @tool(effects="read")
    async def endless() -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    @workflow
    async def wf() -> str:
        return await endless()

    if how == "task":
        task = asyncio.create_task(wf.arun())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                task = asyncio.create_task(running.wait())
                task.add_done_callback(lambda _: limit.reschedule(0))
                await wf.arun()
    else:
        run = await wf.asubmit()
        await running.wait()
        await run.cancel()
        with pytest.raises(ProgramCancelled, match=run.id):
            await run.result()
    async with asyncio.timeout(20):
        await stopped.wait()
    assert (await only_program(client)).status is ProgramStatus.CANCELLED


async def test_a_timeout_inside_the_workflow_gives_up_one_wait_only() -> None:
    go = asyncio.Event()

    @tool(effects="read")
    async def slow() -> str:
        await go.wait()
        return "late"

    @workflow
    async def wf() -> str:
        var = slow()
        await say("x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await var
        go.set()
        return await var

    with override(ScriptedModel({"say": "ok"})):
        assert await wf.arun() == "late"


async def test_a_program_cancelled_by_another_ends_the_wait(client: AsyncClient) -> None:
    running = asyncio.Event()

    @tool(effects="read")
    async def endless() -> None:
        running.set()
        await asyncio.Event().wait()

    @workflow
    async def wf() -> None:
        await endless()

    run = await wf.asubmit()
    await running.wait()
    await client.cancel(run.id)
    with pytest.raises(ProgramCancelled, match=run.id):
        await run.result()


async def test_invalid_graphs_are_located_and_harm_nothing_else(client: AsyncClient) -> None:
    @tool(effects="read")
    def wants_text(text: str) -> str:
        return text

    @workflow
    async def bad() -> str:
        await say("x")
        return wants_text(rows_of("q"))

    @workflow
    async def good() -> str:
        return say("x")

    with override(ScriptedModel({"say": "ok"})):
        with pytest.raises(RequestInvalid, match="wants_text") as refused:
            await bad.arun()
        assert refused.value.errors[0].pointer.startswith("/calls/1/arguments/text")
        assert await good.arun() == "ok"
    statuses = {summary.workflow: summary.status for summary in (await client.programs()).data}
    assert statuses == {"bad": "cancelled", "good": "succeeded"}


async def test_first_takes_the_first_that_succeeds() -> None:
    release = asyncio.Event()

    @tool(effects="read")
    async def candidate(number: int) -> int:
        if number == 0:
            await release.wait()
        if number == 1:
            raise RuntimeError("not me")
        return number

    @workflow
    async def wf() -> int:
        found = await first((candidate(n) for n in range(4)), accept=lambda n: n != 2)
        release.set()
        return found

    @workflow
    async def none() -> int:
        return await first([candidate(1), candidate(2)], accept=lambda n: n > 5)

    async with asyncio.timeout(20):
        assert await wf.arun() == 3
        with pytest.raises(NoneSucceeded, match="1 failed, 1 refused"):
            await none.arun()


async def test_invalid_output_is_tried_again_if_asked(client: AsyncClient) -> None:
    @workflow
    async def wf(retries: int) -> Sql:
        return write_sql.options(retries=retries)("q", "s")

    model = ScriptedModel({"write_sql": ["no json", Sql(query="good"), "no json"]})
    with override(model):
        assert await wf.arun(1) == Sql(query="good")
        with pytest.raises(CallFailed, match="output_invalid"):
            await wf.arun(0)
    assert [task.attempt for task in model.calls] == [1, 2, 1]


async def test_a_model_that_has_no_answer_fails_the_call_by_name() -> None:
    @workflow
    async def wf() -> str:
        return say("x")

    with override(ScriptedModel({"other": "x"})), pytest.raises(CallFailed, match="no answer for stage 'say'"):
        await wf.arun()
    with override(ScriptedModel([])), pytest.raises(CallFailed, match="has 0 answers"):
        await wf.arun()


async def test_a_garbled_answer_of_a_double_fails_its_call_alone() -> None:
    @workflow
    async def wf() -> str:
        bad, good = say("bad"), say("good")
        with pytest.raises(CallFailed, match="model_error"):
            await bad
        return await good

    with override(lambda task: "\ud800" if "bad" in task.messages[0].content else "fine"):
        assert await wf.arun() == "fine"
