"""Servers that restart, workers that are forgotten, results that are too large: programs go on or fail by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.protocol import GenerateRequest, TokenChunk
from orchestrator.app import assemble, create_app
from orchestrator.config import Settings
from orchestrator.limits import Limits
from tenuto import AsyncClient, CallFailed, ConnectionLost, InvalidArgument, gather, llm, tool, workflow
from tenuto.testing import ASGITransport, ScriptedModel, override
from tests.orchestrator.api.support import EchoEngine


class Restartable(httpx.AsyncBaseTransport):
    """A server that can be stopped and started again with the same journal; connections fail while it is down."""

    def __init__(self, journal: Path) -> None:
        self._settings = Settings(model="none", journal=journal)
        self._server: ASGITransport | None = None
        self.starts = 0

    async def start(self) -> None:
        self._server = await ASGITransport(create_app(self._settings)).__aenter__()
        self.starts += 1

    async def stop(self) -> None:
        assert self._server is not None
        server, self._server = self._server, None
        await server.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._server is None:
            raise httpx.ConnectError("connection refused")
        return await self._server.handle_async_request(request)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Restartable]:
    host = Restartable(tmp_path / "journal.db")
    await host.start()
    yield host
    await host.stop()


@llm
def say(text: str) -> str:
    """{{text}}"""


async def test_a_program_survives_the_restart_of_its_server(host: Restartable) -> None:
    reached, go = asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    @tool(effects="read")
    async def step(name: str) -> str:
        runs.append(name)
        if name == "second":
            reached.set()
            await go.wait()
        return name

    @workflow
    async def wf() -> list[str]:
        one = await step("first")
        two = await step("second")
        return [one, two, await step("third"), await say("x")]

    async with AsyncClient("http://tenuto.test", transport=host), asyncio.timeout(60):
        with override(ScriptedModel({"say": "said"})):
            running = asyncio.create_task(wf.arun())
            await reached.wait()
            await host.stop()
            go.set()
            await host.start()
            assert await running == ["first", "second", "third", "said"]
    assert runs.count("first") == 1  # written once, never computed again
    assert runs.count("second") == 2  # it ran when the server died, and only reads: it runs again
    assert runs.count("third") == 1


async def test_a_server_that_stays_away_ends_every_wait(host: Restartable) -> None:
    reached = asyncio.Event()

    @tool(effects="read")
    async def endless() -> None:
        reached.set()
        await asyncio.Event().wait()

    @workflow
    async def wf() -> None:
        await endless()

    client = AsyncClient("http://tenuto.test", transport=host, retries=1)
    waits = 0

    async def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        await asyncio.sleep(0)

    client._http.sleep = sleep
    async with client, asyncio.timeout(60):
        running = asyncio.create_task(wf.arun())
        await reached.wait()
        await host.stop()
        with pytest.raises(ConnectionLost, match="connection refused"):
            await running
    assert waits >= 12
    await host.start()


async def test_a_worker_that_the_server_forgot_registers_again(client: AsyncClient, wire: Any) -> None:
    @tool(effects="read")
    async def ping() -> str:
        return "pong"

    @workflow
    async def wf() -> str:
        return ping()

    assert await wf.arun() == "pong"
    session = client.worker._session
    assert session is not None
    await session.remove()
    async with asyncio.timeout(60):
        assert await wf.arun() == "pong"
    assert len(wire.sent("/v1/workers")) == 2


async def test_a_worker_that_disconnects_mid_call_hands_its_task_over(server: ASGITransport) -> None:
    """Two clients share a toolset; the one that holds the call goes away."""
    started: list[str] = []
    holds = asyncio.Event()

    def make(name: str) -> Any:
        @tool(effects="read", name="shared")
        async def shared() -> str:
            started.append(name)
            holds.set()
            if len(started) == 1:
                await asyncio.Event().wait()
            return name

        return shared

    tools = [make("a"), make("b")]
    clients = [AsyncClient("http://tenuto.test", transport=server, toolset="team") for _ in tools]

    @workflow
    async def wf() -> str:
        return tools[0]()

    async with asyncio.timeout(60), clients[0], clients[1]:
        for client, shared in zip(clients, tools, strict=True):
            await client.worker.ensure([shared], {})
        running = asyncio.create_task(wf.options(client=clients[0]).arun())
        await holds.wait()
        session = clients["ab".index(started[0])].worker._session
        assert session is not None
        await session.remove()
        assert await running == started[1]
    assert len(started) == 2


async def test_results_that_are_too_large_fail_their_call_alone(tmp_path: Path) -> None:
    limits = Limits(submission_bytes=200_000, value_bytes=20_000, prompt_bytes=20_000)  # a worker offers many tools
    together = asyncio.Barrier(3)

    @tool(effects="read")
    async def sized(count: int) -> str:
        await together.wait()
        return "x" * count

    @workflow
    async def wf() -> list[str]:
        small, huge, more = sized(10), sized(500_000), sized(20)
        with pytest.raises(CallFailed) as failed:
            await huge
        assert failed.value.type == "result_too_large"
        return await gather([small, more])

    async with ASGITransport(create_app(Settings(model="none", limits=limits))) as server:
        async with AsyncClient("http://tenuto.test", transport=server):
            assert await wf.arun() == ["x" * 10, "x" * 20]


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


async def test_results_that_the_server_cannot_read_fail_their_call_alone() -> None:
    together = asyncio.Barrier(4)

    @tool(effects="read")
    async def number(digits: int) -> int:
        await together.wait()
        return int(10**digits)

    @tool(effects="read")
    async def tree(depth: int) -> Any:
        await together.wait()
        return nested(depth)

    @workflow
    async def wf() -> list[Any]:
        small, huge, deep, deeper = number(3), number(5000), tree(250), tree(254)
        for refused, why in ((huge, "number out of range"), (deep, "recursion limit"), (deeper, "depth")):
            with pytest.raises(CallFailed, match=why) as failed:
                await refused
            assert failed.value.type == "result_invalid"
        return [small]

    async with ASGITransport(create_app(Settings(model="none"))) as server:
        async with AsyncClient("http://tenuto.test", transport=server), asyncio.timeout(20):
            assert await wf.arun() == [1000]


async def test_a_failed_registration_is_told_where_the_program_waits() -> None:
    @tool(effects="read")
    async def one() -> int:
        return 1

    @workflow
    async def wf() -> int:
        return one()

    async with ASGITransport(create_app(Settings(model="none"))) as server:
        refusing = Refusing(server, "/v1/workers")
        async with AsyncClient("http://tenuto.test", transport=refusing, retries=0) as client:
            with pytest.raises(Exception, match="no workers today"):
                await wf.arun()
            assert (await client.programs()).data == ()


class Refusing(httpx.AsyncBaseTransport):
    """Answers one route with a problem."""

    def __init__(self, inner: httpx.AsyncBaseTransport, path: str) -> None:
        self._inner = inner
        self._path = path

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == self._path:
            body = {"type": "urn:x", "title": "Refused", "status": 422, "detail": "no workers today"}
            return httpx.Response(422, content=json.dumps(body))
        return await self._inner.handle_async_request(request)


async def test_two_tools_of_one_name_in_one_client_are_refused(client: AsyncClient) -> None:
    def first() -> Any:
        @tool(effects="read", name="same")
        def one() -> int:
            return 1

        return one

    def second() -> Any:
        @tool(effects="read", name="same")
        def two() -> int:
            return 2

        return two

    @workflow
    async def wf(which: Any) -> int:
        return which()

    assert await wf.arun(first()) == 1
    with pytest.raises(InvalidArgument, match=r"two tools are named 'same'.*one.*two"):
        await wf.arun(second())
    assert await wf.arun(first()) == 1


class Endless(EchoEngine):
    """Begins to generate and never gets anywhere."""

    def __init__(self) -> None:
        super().__init__(word_s=3600.0)
        self.begun = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.begun.set()
        async for chunk in super().generate(request):
            yield chunk


@pytest.mark.parametrize("how", ["cancel", "timeout", "exception"])
async def test_giving_up_reaches_the_engine(how: str) -> None:
    engine = Endless()
    app = create_app(Settings(model="none"), assemble=lambda settings: assemble(settings, engines=[engine]))
    generating = asyncio.Event()

    @workflow
    async def wf() -> str:
        var = say("a text")
        await engine.begun.wait()
        generating.set()
        if how == "exception":
            raise ZeroDivisionError
        return await var

    async with ASGITransport(app) as server, AsyncClient("http://tenuto.test", transport=server), asyncio.timeout(60):
        running = asyncio.create_task(wf.arun())
        await generating.wait()
        if how == "cancel":
            running.cancel()
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await running
        with pytest.raises((asyncio.CancelledError, ZeroDivisionError)):
            await running
        assert not engine.running


async def test_a_result_that_comes_after_others_were_sent_is_sent_too(client: AsyncClient) -> None:
    go = asyncio.Event()

    @tool(effects="read")
    async def slow() -> str:
        await go.wait()
        return "slow"

    @tool(effects="read")
    async def quick() -> str:
        return "quick"

    @workflow
    async def wf() -> list[str]:
        late = slow()
        early = await quick()
        go.set()
        return [early, await late]

    async with asyncio.timeout(60):
        assert await wf.arun() == ["quick", "slow"]
