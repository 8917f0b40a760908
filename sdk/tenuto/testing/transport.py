"""An ASGI app as an httpx transport, in the same event loop, with streaming.

httpx's own ASGI transport waits for the whole body, so a stream that lasts never arrives. This one hands on each
chunk as it is sent, tells the app when the reader leaves, and runs the app's lifespan.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self

import httpx

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


LEAVE_S = 5.0
"""How long an app may take to end a request whose reader has left."""


class ASGITransport(httpx.AsyncBaseTransport):
    """Serves requests by calling `app`. Entered (`async with`, or by the client that uses it) it starts the app's
    lifespan; when it is left as often, it ends it. `client`: the peer's address that the app sees."""

    def __init__(self, app: ASGIApp, *, client: tuple[str, int] = ("127.0.0.1", 123)) -> None:
        self._app = app
        self._client = client
        self._entered = 0
        self._lifespan: _Lifespan | None = None

    async def __aenter__(self) -> Self:
        self._entered += 1
        if self._entered == 1:
            self._lifespan = _Lifespan(self._app)
            await self._lifespan.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._entered:
            self._entered -= 1
            if self._entered == 0 and self._lifespan is not None:
                await self._lifespan.stop()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b"".join([chunk async for chunk in request.stream])
        exchange = _Exchange(self._app, self._scope(request), body)
        status, headers = await exchange.start()
        return httpx.Response(status, headers=headers, stream=exchange)

    def _scope(self, request: httpx.Request) -> Message:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port),
            "client": self._client,
            "state": dict(self._lifespan.state) if self._lifespan is not None else {},
        }


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer. Invariant: the app's task has ended when `aclose` returns."""

    def __init__(self, app: ASGIApp, scope: Message, body: bytes) -> None:
        self._body = body
        self._sent = False
        self._left = asyncio.Event()
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=16)
        self._task = asyncio.create_task(self._call(app, scope))

    async def _call(self, app: ASGIApp, scope: Message) -> None:
        try:
            await app(scope, self._receive, self._send)
        finally:
            if not self._left.is_set():
                await self._messages.put(None)

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            raise OSError("the reader has left")
        await self._messages.put(message)

    async def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Status and headers. Raises what the app raises before it answers."""
        try:
            message = await self._messages.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if message is None:
            await self._task
            raise httpx.RemoteProtocolError("the app ended without an answer")
        return message["status"], [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._messages.get()
            if message is None:
                if self._task.done() or await asyncio.wait({self._task}):
                    self._task.result()
                raise httpx.RemoteProtocolError("the app ended before the end of its answer")
            if chunk := message.get("body", b""):
                yield chunk
            if not message.get("more_body", False):
                return

    async def aclose(self) -> None:
        """The reader leaves: the app hears it, has a moment to end by itself, and is cancelled if it does not."""
        self._left.set()
        while not self._messages.empty():
            self._messages.get_nowait()
        await asyncio.wait({self._task}, timeout=LEAVE_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class _Lifespan:
    """The app's startup and shutdown, in one task of their own as ASGI asks. Apps without lifespan are served too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._heard = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the app has started. Raises what it raises, `RuntimeError` if it reports a failure."""
        self._task = asyncio.create_task(self._main())
        await self._told("startup")

    async def stop(self) -> None:
        """Return when the app has shut down."""
        if self._task is not None and not self._task.done():
            await self._told("shutdown")
            await self._task

    async def _main(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        await self._app(scope, self._receive, self._from_app.put)

    async def _receive(self) -> Message:
        self._heard = True
        return await self._to_app.get()

    async def _told(self, phase: str) -> None:
        assert self._task is not None
        await self._to_app.put({"type": f"lifespan.{phase}"})
        answer = asyncio.create_task(self._from_app.get())
        await asyncio.wait({self._task, answer}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            if self._heard or self._task.exception() is None:
                self._task.result()
            return  # ASGI: an app that ends before it listens has no lifespan
        message = answer.result()
        if message["type"].endswith(".failed"):
            raise RuntimeError(f"the app's {phase} failed: {message.get('message', '')}")
