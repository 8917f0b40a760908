"""A run against a scripted client: what it waits for, and that every wait ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenuto import CallFailed, ConnectionLost, ForeignVar, NoClient, Var, llm
from tenuto.execution import Execution, Job
from tenuto.typed import Typed
from tenuto.wire import ErrorValue, Event, EventKind, GraphExtension, ProgramSubmission, ProgramSummary


@llm
def say(text: str) -> str:
    """{{text}}"""


class Worker:
    async def ensure(self, tools: Any, models: Any) -> None:
        return


class FakeClient:
    """Takes what is sent, and says the events that the test puts in."""

    toolset = "tools"

    def __init__(self) -> None:
        self.worker = Worker()
        self.sent: list[Any] = []
        self.said: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.refusal: Exception | None = None

    async def open(self) -> None:
        return

    async def submit(self, submission: ProgramSubmission, *, headers: dict[str, str]) -> ProgramSummary:
        return self._take(submission)

    async def extend(self, program: str, extension: GraphExtension) -> ProgramSummary:
        return self._take(extension)

    async def cancel(self, program: str) -> None:
        self.sent.append("cancel")

    def _take(self, sent: Any) -> ProgramSummary:
        self.sent.append(sent)
        if self.refusal is not None:
            raise self.refusal
        return ProgramSummary(
            id="p1",
            workflow="w",
            tenant="t",
            status="running",  # type: ignore[arg-type]
            accepted_at=0.0,
            seconds=0.0,
            calls=1,
            calls_ended=0,
            trace_id="0",
        )

    async def events(self, program: str) -> AsyncIterator[Event]:
        while True:
            event = await self.said.get()
            if isinstance(event, Exception):
                raise event
            yield event

    def say(self, kind: EventKind, **fields: Any) -> None:
        self.said.put_nowait(Event(seq=1, at_s=0.0, kind=kind, **fields))


def execution(client: FakeClient, function: Any) -> Execution:
    return Execution(client, Job("w", function, Typed(Any, "w")))  # type: ignore[arg-type]


async def settle() -> None:
    """Let everything run that can run without news."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_the_value_comes_with_the_programs_end_if_nothing_else_runs() -> None:
    client = FakeClient()
    running = asyncio.create_task(execution(client, lambda: say("x")).run())
    await settle()
    client.say(EventKind.VARIABLE_WRITTEN, variable="say", call="say", value="said")
    await settle()
    assert not running.done()  # what a reader would see of the program now is not final yet
    client.say(EventKind.PROGRAM_SUCCEEDED)
    assert await running == "said"
    assert [type(sent) for sent in client.sent] == [ProgramSubmission]


async def test_the_value_does_not_wait_for_calls_that_nobody_needs() -> None:
    client = FakeClient()

    def two() -> Var[str]:
        say("slow")
        return say("x")

    running = asyncio.create_task(execution(client, two).run())
    await settle()
    client.say(EventKind.VARIABLE_WRITTEN, variable="say.2", call="say.2", value="said")
    assert await running == "said"


@pytest.mark.parametrize("ending", ["refused", "lost", "ended"])
async def test_every_wait_ends_when_the_server_is_heard_no_more(ending: str) -> None:
    client = FakeClient()
    if ending == "refused":
        client.refusal = ConnectionLost("no server")

    caught: list[Exception] = []

    async def wf() -> str:
        for _ in range(2):  # the second call is made when nothing can be sent any more
            try:
                await say("x")
            except (ConnectionLost, CallFailed) as error:
                caught.append(error)
        return "survived"

    running = asyncio.create_task(execution(client, wf).run())
    await settle()
    if ending == "lost":
        client.said.put_nowait(ConnectionLost("no server"))
    if ending == "ended":
        client.say(EventKind.PROGRAM_FAILED, error=ErrorValue(type="left_open", message="unused"))
    async with asyncio.timeout(60):
        with pytest.raises((ConnectionLost, CallFailed)):
            await running
    assert len(caught) == 2


async def test_a_var_is_of_no_use_after_its_run_or_in_another_loop() -> None:
    client = FakeClient()
    kept: list[Any] = []

    async def wf() -> None:
        kept.append(say("x"))
        with pytest.raises(ForeignVar, match="only in the event loop of its own workflow"):
            await asyncio.to_thread(asyncio.run, elsewhere())

    async def elsewhere() -> Any:
        return await kept[0]

    running = asyncio.create_task(execution(client, wf).run())
    async with asyncio.timeout(60):
        await running
        with pytest.raises(NoClient, match="the run of w has ended: await its Vars inside the workflow"):
            await kept[0]


async def test_cancelling_waits_for_a_submission_under_way() -> None:
    """Nobody else knows the id of a program whose acceptance is not heard yet."""
    client = FakeClient()
    accept = asyncio.Event()
    submit = client.submit

    async def slowly(submission: ProgramSubmission, *, headers: dict[str, str]) -> ProgramSummary:
        await accept.wait()
        return await submit(submission, headers=headers)

    client.submit = slowly  # type: ignore[method-assign]

    async def wf() -> str:
        return await say("x")

    running = asyncio.create_task(execution(client, wf).run())
    await settle()
    running.cancel()
    await settle()
    assert client.sent == [] and not running.done()
    accept.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [type(sent) for sent in client.sent] == [ProgramSubmission, str]
