"""How a turn's answer leaves: whole, or as a stream whose first item is waited for a moment, so that what is refused at
once is refused with its own status. A client that leaves stops its generation either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.openai.errors import GenerationFailed, error_body
from orchestrator.api.openai.turns import Turn
from orchestrator.api.parts import Parts, answer
from orchestrator.api.sse import EventStream, unless_left
from orchestrator.errors import RuntimeFault
from tenuto.wire.base import WireModel

FIRST_S = 10.0
"""How long an answer without a first token keeps its status open."""


async def whole(request: Request, parts: Parts, turn: Turn, work: Coroutine[Any, Any, WireModel]) -> Response:
    """The answer that `work` returns. Raises what it raises."""
    completed = await unless_left(request, parts.streams, work)
    if completed is None:
        await parts.turns.leave(turn)
        return Response(status_code=503)
    return answer(completed, headers=parts.turns.headers(turn))


async def streamed(parts: Parts, turn: Turn, source: AsyncGenerator[bytes, None]) -> Response:
    """The frames of `source`, as an answer that has begun. Raises GenerationFailed and RuntimeFault before that."""
    frames = Primed(source)
    await frames.ready()
    stream = EventStream(frames, bytes, parts.streams, heartbeat_s=parts.limits.heartbeat_s)
    stream.headers.update(parts.turns.headers(turn))
    return stream


class Primed:
    """The frames of `source`. Its faults are exceptions of `ready`, and frames of the stream once that has begun.

    Closing it closes `source`, begun or not.
    """

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        self._source = source
        self._first: asyncio.Task[bytes] = asyncio.ensure_future(anext(source))

    async def ready(self) -> None:
        """Wait for the first frame, but not for long. Raises GenerationFailed and RuntimeFault."""
        try:
            await asyncio.wait((self._first,), timeout=FIRST_S)
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._first.done():
            self._first.result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            yield await self._first
            async for item in self._source:
                yield item
        except (GenerationFailed, RuntimeFault) as fault:
            yield fault_frame(fault)

    async def aclose(self) -> None:
        self._first.cancel()
        await asyncio.gather(self._first, return_exceptions=True)
        await self._source.aclose()


def fault_frame(fault: GenerationFailed | RuntimeFault) -> bytes:
    """A fault as the stream's last event, which OpenAI's clients raise."""
    if isinstance(fault, GenerationFailed):
        return b"data: %s\n\n" % orjson.dumps(fault.body())
    return b"data: %s\n\n" % orjson.dumps(error_body(fault.status, fault.name, fault.detail))
