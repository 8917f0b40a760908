"""Blocking use: `Client`, `run`, `submit`, and clear errors where async is meant."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.app import create_app
from orchestrator.config import Settings
from tenuto import (
    AsyncClient,
    Client,
    NoClient,
    ProgramCancelled,
    RequestInvalid,
    RunningLoop,
    llm,
    tool,
    workflow,
)
from tenuto.testing import ASGITransport, ScriptedModel, no_real_engine, override
from tenuto.wire import EventKind, ProgramStatus


@llm
def say(text: str) -> str:
    """{{text}}"""


@tool(effects="read")
def double(number: int) -> int:
    return number * 2


@workflow
async def greet(name: str) -> str:
    return say(await say(name))


@workflow
def doubled(number: int) -> int:
    return double(double(number))


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("http://tenuto.test", transport=ASGITransport(create_app(Settings(model="none")))) as client:
        yield client


def test_run_and_submit(client: Client) -> None:
    with override(ScriptedModel(lambda task: "<" + task.messages[0].content + ">")):
        assert greet.run("a") == "<<a>>"
        run = greet.submit("b")
        assert run.result() == run.result(timeout_s=10) == "<<b>>"
    assert doubled.run(3) == 12
    assert run.done and len(run.trace_id) == 32
    assert run.view().status is ProgramStatus.SUCCEEDED
    assert [call.id for call in run.timeline().calls] == ["say", "say.2"]
    events = list(run.events())
    assert events[0].kind is EventKind.PROGRAM_ACCEPTED and events[-1].kind is EventKind.PROGRAM_SUCCEEDED
    assert next(run.events(after=events[-1].seq - 1)) == events[-1]
    page = client.programs(limit=2)
    assert len(page.data) == 2 and page.has_more
    assert client.program(run.id).workflow == "greet"
    assert client.variable(run.id, "say").value == "<b>"
    assert client.timeline(run.id).status is ProgramStatus.SUCCEEDED
    assert {view.tool.name for view in client.tools()} >= {"double"}
    assert client.models() == () and client.engines() == () and client.ready()


def test_handles_cancel_and_time_out(client: Client) -> None:
    started, release = threading.Event(), threading.Event()

    @tool(effects="read")
    def wait() -> None:
        started.set()
        release.wait(20)

    @workflow
    async def wf() -> None:
        await wait()

    run = wf.submit()
    assert started.wait(20)
    with pytest.raises(TimeoutError, match=rf"program {run.id} did not end within 0.01 s"):
        run.result(timeout_s=0.01)
    assert not run.done
    run.cancel()
    release.set()
    with pytest.raises(ProgramCancelled):
        run.result()
    assert run.view().status is ProgramStatus.CANCELLED


def test_many_threads_may_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(doubled.options(client=client).run, number) for number in range(16)]
        assert [future.result(60) for future in futures] == [4 * number for number in range(16)]


def test_several_clients_of_several_servers_live_in_one_process(client: Client) -> None:
    with Client("http://other", transport=ASGITransport(create_app(Settings(model="none")))) as other:
        assert doubled.run(1) == 4
        assert doubled.options(client=client).run(2) == 8
        assert (len(other.programs().data), len(client.programs().data)) == (1, 1)
    assert doubled.run(1) == 4
    assert len(client.programs().data) == 2


def test_an_interrupt_cancels_the_program(client: Client) -> None:
    started = threading.Event()

    @tool(effects="read")
    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    @workflow
    async def wf() -> None:
        await endless()

    class Interrupting:
        """A result whose wait is interrupted, as by Ctrl-C, once the tool runs."""

        def __init__(self, inner: object) -> None:
            self.inner = inner

        def result(self) -> None:
            assert started.wait(20)
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    original = asyncio.run_coroutine_threadsafe
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "run_coroutine_threadsafe", lambda *args: Interrupting(original(*args)))
        with pytest.raises(KeyboardInterrupt):
            wf.run()
    (summary,) = client.programs().data
    assert summary.status is ProgramStatus.CANCELLED


def test_without_a_client_the_error_names_the_fix() -> None:
    with pytest.raises(NoClient, match=r"doubled.run\(\) needs a server: use `with tenuto.local\(\):`"):
        doubled.run(1)


async def test_inside_an_event_loop_the_error_names_arun(client: Client) -> None:
    with pytest.raises(RunningLoop, match=r"use `await doubled.arun\(\.\.\.\)`"):
        doubled.run(1)
    with pytest.raises(RunningLoop, match="asubmit"):
        doubled.submit(1)
    with pytest.raises(NoClient, match=r"current client is a blocking one: use doubled.run\(\.\.\.\)"):
        await doubled.options(client=client).arun(1)
    with pytest.raises(NoClient, match="blocking one"):
        await doubled.options(client=client).asubmit(1)
    with pytest.raises(NoClient, match="blocking one"):
        await anext(doubled.stream(1))


async def test_without_an_async_client_the_error_names_the_fix() -> None:
    with pytest.raises(NoClient, match=r"needs a server: use `async with tenuto.local\(\):`"):
        await doubled.arun(1)


def test_an_async_client_is_not_for_blocking_code() -> None:
    with pytest.raises(NoClient, match=r"current client is an AsyncClient: use `await doubled.arun"):
        doubled.options(client=AsyncClient("http://x")).run(1)


def test_workflows_may_run_others_on_the_clients_own_loop(client: Client) -> None:
    @workflow
    async def outer() -> int:
        with pytest.raises(RunningLoop):
            doubled.run(1)
        return await doubled.arun(5)

    @tool(effects="read")
    def blocking() -> int:
        return doubled.run(6)

    @workflow
    async def through_a_tool() -> int:
        return blocking()

    assert outer.run() == 20
    assert through_a_tool.run() == 24


def test_the_guard_refuses_real_engines_only(client: Client) -> None:
    with no_real_engine():
        with pytest.raises(Exception, match="say would reach a real engine inside no_real_engine"):
            greet.run("a")
        with override(ScriptedModel({"say": "ok"})):
            assert greet.run("a") == "ok"
        assert doubled.run(1) == 4
        assert len(greet.graph("a").calls) == 1
    with pytest.raises(RequestInvalid, match="names no model, and this server has no default one"):
        greet.run("a")


def test_a_closed_client_says_so() -> None:
    client = Client("http://tenuto.test", transport=ASGITransport(create_app(Settings(model="none"))))
    client.close()
    client.close()
    with pytest.raises(NoClient, match="closed"):
        client.programs()
