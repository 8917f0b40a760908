"""The ASGI transport: streams arrive as they are sent, leaving is heard, lifespans run once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tenuto.testing import ASGITransport, transport


def http(handler: Any) -> Any:
    """An app without lifespan."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError("no lifespan here")
        await handler(scope, receive, send)

    return app


async def start(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})


async def test_chunks_arrive_before_the_end() -> None:
    more = asyncio.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await start(send, 207)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await more.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
        async with client.stream("GET", "/") as response:
            assert (response.status_code, response.headers.get_list("x-a")) == (207, ["1", "2"])
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"one"
            more.set()
            assert [chunk async for chunk in chunks] == [b"two"]


async def test_requests_arrive_whole() -> None:
    seen: dict[str, Any] = {}

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, message=await receive())
        await start(send)
        await send({"type": "http.response.body", "body": b""})

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://host:81") as client:
        response = await client.post("/a%20b/c?q=1&r=%20", content=b"body", headers={"X-Key": "v"})
        assert response.content == b""
    assert (seen["method"], seen["path"], seen["raw_path"], seen["query_string"]) == (
        *("POST", "/a b/c", b"/a%20b/c"),
        b"q=1&r=%20",
    )
    assert seen["message"] == {"type": "http.request", "body": b"body", "more_body": False}
    assert (b"x-key", b"v") in seen["headers"] and seen["server"] == ("host", 81)


async def test_a_reader_that_leaves_is_heard() -> None:
    heard = asyncio.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert await receive() == {"type": "http.disconnect"}
        heard.set()
        with pytest.raises(OSError, match="left"):
            await send({"type": "http.response.body", "body": b"y", "more_body": True})

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
        async with client.stream("GET", "/") as response:
            assert await anext(response.aiter_bytes()) == b"x"
        assert heard.is_set()


async def test_a_slow_reader_holds_the_app_back() -> None:
    sent = 0

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await start(send)
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
        async with client.stream("GET", "/") as response:
            for _ in range(50):
                await asyncio.sleep(0)
            assert 10 <= sent <= 20
            assert await response.aread() == b"x" * 100


async def test_an_app_that_does_not_listen_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LEAVE_S", 0.0)
    ended = asyncio.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
        async with asyncio.timeout(60), client.stream("GET", "/") as response:
            assert await anext(response.aiter_bytes()) == b"x"
        assert ended.is_set()


async def test_a_cancelled_request_cancels_the_app() -> None:
    called, ended = asyncio.Event(), asyncio.Event()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        called.set()
        try:
            await receive()
        finally:
            ended.set()

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
        request = asyncio.create_task(client.get("/"))
        await called.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert ended.is_set()


@pytest.mark.parametrize("begun", [False, True])
async def test_exceptions_of_the_app_come_out(begun: bool) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await start(send)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ZeroDivisionError

    async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/")


async def test_an_app_that_ends_early_breaks_the_connection() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    for handler in (silent, cut):
        async with httpx.AsyncClient(transport=ASGITransport(http(handler)), base_url="http://x") as client:
            with pytest.raises(httpx.RemoteProtocolError, match="the app ended"):
                await client.get("/")


class Living:
    """An app that writes down its lifespan."""

    def __init__(self, fail: str | None = None) -> None:
        self.told: list[str] = []
        self.fail = fail

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["key"] = "value"
            while True:
                phase = (await receive())["type"]
                self.told.append(phase)
                if self.fail == phase:
                    await send({"type": phase + ".failed", "message": "no database"})
                    return
                await send({"type": phase + ".complete"})
                if phase == "lifespan.shutdown":
                    return
        else:
            self.told.append(scope["state"]["key"])
            await start(send)
            await send({"type": "http.response.body", "body": b"ok"})


async def test_the_lifespan_lasts_from_the_first_entry_to_the_last_exit() -> None:
    app = Living()
    async with ASGITransport(app) as served:
        for _ in range(2):
            async with httpx.AsyncClient(transport=served, base_url="http://x") as client:
                assert (await client.get("/")).text == "ok"
        assert app.told == ["lifespan.startup", "value", "value"]
    assert app.told[-1] == "lifespan.shutdown"
    assert len(app.told) == 4


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_a_failed_lifespan_is_told(phase: str) -> None:
    with pytest.raises(RuntimeError, match=f"the app's {phase} failed: no database"):
        async with ASGITransport(Living(fail=f"lifespan.{phase}")):
            pass


async def test_an_exception_at_startup_is_told() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ZeroDivisionError("at startup")

    with pytest.raises(ZeroDivisionError, match="at startup"):
        async with ASGITransport(app):
            pass
