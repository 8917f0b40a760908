"""Server-sent events (WHATWG HTML §9.2) over ASGI: frames, heartbeats, and a prompt end on both sides.

Owns one stream's life. Never keeps anything after it: a reader that goes away closes the source at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)

MAX_BUFFERED_BYTES = 1 << 20
"""A reader slower than its source is waited for when this much is unsent."""

_HEARTBEAT = b": heartbeat\n\n"


def frame(data: bytes, *, id: int | None = None, event: str | None = None) -> bytes:
    """One event. `data` is JSON on one line, as pydantic writes it."""
    head = b"" if id is None else b"id: %d\n" % id
    if event is not None:
        head += b"event: %s\n" % event.encode()
    return b"%sdata: %s\n\n" % (head, data)


class OpenStreams:
    """The streams and long waits that are open, so that a server that stops can end them.

    Invariant: an entry is kept exactly while its request is being answered.
    """

    def __init__(self) -> None:
        self._ends: set[Callable[[], object]] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._ends)

    @contextmanager
    def entered(self, end: Callable[[], object]) -> Iterator[None]:
        """While held, a server that stops calls `end` (at once, if it stops already)."""
        if self._stopped:
            end()
        self._ends.add(end)
        try:
            yield
        finally:
            self._ends.discard(end)

    def stop(self) -> None:
        """End every stream now, and those to come."""
        self._stopped = True
        for end in tuple(self._ends):
            end()


class Source(Protocol[Item_co]):
    """Where a stream's items come from. `aclose` frees what it holds, begun or not."""

    def __aiter__(self) -> AsyncIterator[Item_co]: ...

    async def aclose(self) -> None: ...


class EventStream(Response, Generic[Item]):
    """An ASGI response that sends the items of `source`, each as the frame that `encode` makes of it, until it ends,
    the reader leaves or the server stops.

    Frames that are ready together go out together. `source` is closed in every case. An exception of `source` ends
    the connection without the last chunk, so that the reader knows it has not seen the end.
    """

    media_type = "text/event-stream"

    def __init__(
        self, source: Source[Item], encode: Callable[[Item], bytes], streams: OpenStreams, *, heartbeat_s: float
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]  # nobody knows it yet
        self._source = source
        self._encode = encode
        self._streams = streams
        self._heartbeat_s = heartbeat_s
        self._buffer = bytearray()
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.create_task(self._pump())
        pump.add_done_callback(lambda _: self._wake.set())
        watcher = asyncio.create_task(until_disconnected(receive))
        watcher.add_done_callback(lambda _: self._end())
        try:
            with self._streams.entered(self._end):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._write(send, pump)
        except OSError:
            pass  # the reader is gone, which is how streams may end
        finally:
            pump.cancel()
            watcher.cancel()
            await asyncio.gather(pump, watcher, return_exceptions=True)
            await self._source.aclose()

    async def _write(self, send: Send, pump: asyncio.Task[None]) -> None:
        while not self._ended:
            if self._buffer:
                chunk = bytes(self._buffer)
                self._buffer.clear()
                await send(_body(chunk, more=True))
                self._drained.set()
            elif pump.done():
                pump.result()
                break
            else:
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await self._wake.wait()
                except TimeoutError:
                    await send(_body(_HEARTBEAT, more=True))
        await send(_body(b"", more=False))

    async def _pump(self) -> None:
        async for item in self._source:
            self._buffer += self._encode(item)
            self._wake.set()
            if len(self._buffer) >= MAX_BUFFERED_BYTES:
                self._drained.clear()
                await self._drained.wait()

    def _end(self) -> None:
        self._ended = True
        self._wake.set()


async def until_disconnected(receive: Receive) -> None:
    """Return when the client has closed its side."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return


async def unless_left(request: Request, streams: OpenStreams, waiting: Coroutine[Any, Any, T]) -> T | None:
    """What `waiting` returns or raises; None, and it is cancelled, if the client leaves or the server stops first."""
    work = asyncio.create_task(waiting)
    watcher = asyncio.create_task(until_disconnected(request.receive))
    watcher.add_done_callback(lambda _: work.cancel())
    try:
        with streams.entered(work.cancel):
            await asyncio.wait((work,))
        return None if work.cancelled() else work.result()
    finally:
        work.cancel()
        watcher.cancel()
        await asyncio.gather(work, watcher, return_exceptions=True)


def _body(chunk: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": chunk, "more_body": more}
