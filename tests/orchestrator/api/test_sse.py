"""Event streams on their own: heartbeats, coalescing, slow readers, and the release of everything at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from orchestrator.api.sse import MAX_BUFFERED_BYTES, EventStream, OpenStreams, frame, unless_left
from orchestrator.virtual_time import run_virtually


class Script:
    """Items at given times, and whether the source was closed."""

    def __init__(self, items: list[tuple[float, str]], fault: Exception | None = None) -> None:
        self.items = items
        self.fault = fault
        self.closed = False
        self.given = 0

    async def _play(self) -> AsyncIterator[str]:
        for wait_s, text in self.items:
            if wait_s:
                await asyncio.sleep(wait_s)
            self.given += 1
            yield text
        if self.fault is not None:
            raise self.fault

    def __aiter__(self) -> AsyncIterator[str]:
        return self._play()

    async def aclose(self) -> None:
        self.closed = True


class Connection:
    """The server's side of a connection, as an ASGI app sees it."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.sent: list[tuple[float, bytes]] = []
        self.ended = False
        self.started = False
        self.gone = asyncio.Event()
        self.slow_s = slow_s

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone.is_set():
            raise OSError("the client is gone")
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        if message["type"] == "http.response.start":
            self.started = True
        elif message["body"]:
            self.sent.append((asyncio.get_running_loop().time(), message["body"]))
        self.ended = message.get("more_body") is False


def stream(script: Script, streams: OpenStreams | None = None) -> EventStream[str]:
    return EventStream(script, str.encode, OpenStreams() if streams is None else streams, heartbeat_s=15.0)


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtually(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def serve(response: EventStream[str], connection: Connection) -> None:
    await response({"type": "http"}, connection.receive, connection.send)


def test_a_frame_is_what_browsers_parse() -> None:
    assert frame(b'{"a":1}', id=7, event="call.ended") == b'id: 7\nevent: call.ended\ndata: {"a":1}\n\n'
    assert frame(b"{}") == b"data: {}\n\n"


@virtually
async def test_a_quiet_stream_beats_every_heartbeat_and_nothing_is_late() -> None:
    script, connection = Script([(40.0, "a"), (1.0, "b")]), Connection()
    await serve(stream(script), connection)
    beat = b": heartbeat\n\n"
    assert connection.sent == [(15.0, beat), (30.0, beat), (40.0, b"a"), (41.0, b"b")]
    assert connection.ended
    assert script.closed


@virtually
async def test_what_is_ready_together_goes_out_together() -> None:
    script, connection = Script([(0.0, "a"), (0.0, "b"), (1.0, "c"), (0.0, "d")]), Connection()
    await serve(stream(script), connection)
    assert connection.sent == [(0.0, b"ab"), (1.0, b"cd")]


@virtually
async def test_the_headers_go_out_before_the_first_event() -> None:
    connection = Connection()
    serving = asyncio.create_task(serve(stream(Script([(5.0, "a")])), connection))
    await asyncio.sleep(0.1)
    assert connection.started
    assert not connection.sent
    await serving


@virtually
async def test_a_reader_that_leaves_closes_the_source_at_once() -> None:
    script, connection, streams = Script([(1000.0, "a")]), Connection(), OpenStreams()
    serving = asyncio.create_task(serve(stream(script, streams), connection))
    await asyncio.sleep(1.0)
    assert len(streams) == 1
    connection.gone.set()
    await serving
    assert asyncio.get_running_loop().time() == 1.0
    assert script.closed
    assert len(streams) == 0
    assert len(asyncio.all_tasks()) == 1


@virtually
async def test_a_reader_that_left_before_the_start_closes_a_source_that_never_began() -> None:
    script, connection = Script([(0.0, "a")]), Connection()
    connection.gone.set()
    await serve(stream(script), connection)
    assert script.closed


@virtually
async def test_a_server_that_stops_ends_streams_cleanly_even_new_ones() -> None:
    streams = OpenStreams()
    script, connection = Script([(1000.0, "a")]), Connection()
    serving = asyncio.create_task(serve(stream(script, streams), connection))
    await asyncio.sleep(1.0)
    streams.stop()
    await serving
    assert connection.ended
    assert script.closed
    late = Connection()
    await serve(stream(Script([(1000.0, "a")]), streams), late)
    assert late.ended
    assert asyncio.get_running_loop().time() == 1.0


@virtually
async def test_a_slow_reader_holds_its_source_back() -> None:
    piece = "x" * (MAX_BUFFERED_BYTES // 2)
    script, connection = Script([(0.0, piece)] * 8), Connection(slow_s=1.0)
    serving = asyncio.create_task(serve(stream(script), connection))
    await asyncio.sleep(1.5)
    assert script.given <= 4
    await serving
    assert b"".join(chunk for _, chunk in connection.sent) == piece.encode() * 8


@virtually
async def test_a_fault_of_the_source_breaks_the_connection_after_what_came_before() -> None:
    script, connection = Script([(0.0, "a")], RuntimeError("bug")), Connection()
    with pytest.raises(RuntimeError, match="bug"):
        await serve(stream(script), connection)
    assert connection.sent == [(0.0, b"a")]
    assert not connection.ended
    assert script.closed


@virtually
async def test_cancelling_the_request_closes_the_source() -> None:
    script, streams = Script([(1000.0, "a")]), OpenStreams()
    serving = asyncio.create_task(serve(stream(script, streams), Connection()))
    await asyncio.sleep(1.0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert script.closed
    assert len(streams) == 0


async def _slow(result: int) -> int:
    await asyncio.sleep(10.0)
    if result < 0:
        raise ValueError("negative")
    return result


@virtually
async def test_a_long_wait_ends_with_its_value_its_fault_the_client_or_the_server() -> None:
    loop, streams, connection = asyncio.get_running_loop(), OpenStreams(), Connection()
    request = Request({"type": "http"}, connection.receive)
    assert await unless_left(request, streams, _slow(3)) == 3
    assert loop.time() == 10.0
    with pytest.raises(ValueError, match="negative"):
        await unless_left(request, streams, _slow(-1))
    loop.call_later(1.0, connection.gone.set)
    assert await unless_left(request, streams, _slow(3)) is None
    assert loop.time() == 21.0
    loop.call_later(1.0, streams.stop)
    assert await unless_left(Request({"type": "http"}, Connection().receive), streams, _slow(3)) is None
    assert loop.time() == 22.0
    assert len(streams) == 0
    assert len(asyncio.all_tasks()) == 1
