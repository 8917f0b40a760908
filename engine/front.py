"""The asynchronous face of an engine that runs elsewhere: in another thread or another process.

Turns the protocol's methods into calls and sorts what comes back into streams. Generates nothing itself.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Self

from engine.ipc import Call, Method, Output, Ready
from engine.protocol import (
    Capabilities,
    EngineError,
    EngineEvent,
    EngineLost,
    Estimate,
    GenerateRequest,
    InvalidRequest,
    KVBlocks,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    TokenChunk,
)
from engine.subscribers import Subscribers


class EngineFront(ABC):
    """Satisfies `engine.protocol.Engine`. Lives in one event loop; subclasses carry calls and feed back messages."""

    def __init__(self) -> None:
        self._ready: Ready | None = None
        self._lost: EngineLost | None = None
        self._streams: dict[str, asyncio.Queue[TokenChunk | EngineError]] = {}
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._subscribers = Subscribers()
        self._numbers = 0
        self._kv: tuple[KVBlocks, ...] = ()

    @property
    def name(self) -> str:
        return f"local:{self.model.name}"

    @property
    def alive(self) -> bool:
        """Whether calls can still be made."""
        return self._lost is None

    @property
    def model(self) -> ModelInfo:
        return self._known.model

    @property
    def capabilities(self) -> Capabilities:
        return self._known.capabilities

    def kv_blocks(self) -> tuple[KVBlocks, ...]:
        """What the KV memory is used for, by tier."""
        return self._kv

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Stream the outputs; the request is sent when the first chunk is asked for. Closing the iterator aborts it."""
        self._check()
        if request.id in self._streams:
            raise InvalidRequest(f"request id {request.id!r} is in use")
        stream = self._streams[request.id] = asyncio.Queue()
        unfinished = max(request.n, 1)
        try:
            self._post(Call(0, Method.GENERATE, (request,)))
            while unfinished:
                item = await stream.get()
                if isinstance(item, EngineError):
                    unfinished = 0
                    raise item
                unfinished -= item.finish is not None
                yield item
        finally:
            del self._streams[request.id]
            if unfinished and self._lost is None:
                self._post(Call(0, Method.ABORT, (request.id,)))

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        await self._call(Method.REPRIORITIZE, program, key)

    async def limit_running(self, limit: int) -> None:
        await self._call(Method.LIMIT_RUNNING, limit)

    async def retain(self, lease: Lease) -> LeaseGrant:
        return await self._grant(Method.RETAIN, lease)

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return await self._grant(Method.EXTEND, lease, ttl_s)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        await self._call(Method.RELEASE, lease, outcome)

    async def demote(self, lease: str) -> LeaseGrant:
        return await self._grant(Method.DEMOTE, lease)

    async def prefetch(self, lease: str, within_s: float) -> None:
        await self._call(Method.PREFETCH, lease, within_s)

    async def abort(self, request: str) -> None:
        await self._call(Method.ABORT, request)

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        estimate = await self._call(Method.ESTIMATE, prompt_ids, salt)
        assert isinstance(estimate, Estimate)
        return estimate

    async def events(self) -> AsyncIterator[EngineEvent]:
        """What changes from now on, until the engine ends."""
        self._check()
        async with aclosing(self._subscribers.events()) as events:
            async for event in events:
                yield event

    @abstractmethod
    async def close(self) -> None:
        """Stop the engine; what still runs ends with `EngineLost`. Idempotent."""

    @abstractmethod
    def _post(self, call: Call) -> None:
        """Carry a call to the engine; never blocks."""

    @property
    def _known(self) -> Ready:
        if self._ready is None:
            raise RuntimeError("the engine is not started")
        return self._ready

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost

    async def _grant(self, method: Method, *arguments: object) -> LeaseGrant:
        grant = await self._call(method, *arguments)
        assert isinstance(grant, LeaseGrant)
        return grant

    async def _call(self, method: Method, *arguments: object) -> object:
        self._check()
        self._numbers += 1
        number = self._numbers
        future = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self._post(Call(number, method, arguments))
            return await future
        finally:
            del self._replies[number]

    def _on_output(self, output: Output) -> None:
        """Sort one turn's output to whoever waits for it; what nobody waits for any more is dropped."""
        self._kv = output.kv or self._kv
        for request, item in output.deliveries:
            stream = self._streams.get(request)
            if stream is not None:
                stream.put_nowait(item)
        for reply in output.replies:
            future = self._replies.get(reply.number)
            if future is None or future.done():
                continue
            if reply.error is not None:
                future.set_exception(reply.error)
            else:
                future.set_result(reply.value)
        self._subscribers.tell(output.events)

    def _on_lost(self, message: str) -> None:
        """The engine is gone: everything that waits hears it. Only the first call counts."""
        if self._lost is not None:
            return
        self._lost = EngineLost(message)
        for stream in self._streams.values():
            stream.put_nowait(EngineLost(message))
        for future in self._replies.values():
            if not future.done():
                future.set_exception(EngineLost(message))
        self._subscribers.end()
