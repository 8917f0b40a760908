"""The simulated engine: its core stepped by timers of the event loop. Under a virtual-time loop hours pass in seconds.

Owns when a step ends, and jumps over steps in which nothing changes. Never decides what a step does or costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Seq
from contextlib import aclosing

from engine.clock import LoopClock
from engine.costs import EngineProfile
from engine.outputs import Delivery
from engine.protocol import (
    Capabilities,
    ChatMessage,
    EngineError,
    EngineEvent,
    EngineLost,
    Estimate,
    GenerateRequest,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    TokenChunk,
)
from engine.simulated_core import Pace, SimulatedCore
from engine.step import Step
from engine.streams import PromptBook
from engine.subscribers import Subscribers


class _Stream:
    """What one request gets, and who waits for it."""

    __slots__ = ("items", "waiter")

    def __init__(self) -> None:
        self.items: deque[TokenChunk | EngineError] = deque()
        self.waiter: asyncio.Future[None] | None = None

    def put(self, item: TokenChunk | EngineError) -> None:
        self.items.append(item)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class SimulatedEngine:
    """Satisfies `engine.protocol.Engine` in the running loop, without threads or tasks: a timer ends each step.

    As in the real driver, what is asked while a step runs is heard before the next one begins: a jump over many steps
    ends with the step in which somebody asks for something that may change the next.
    Invariant: while the core has work, a step runs or is about to begin.
    """

    def __init__(
        self, profile: EngineProfile, book: PromptBook | None = None, *, name: str = "", lease_share: float = 0.95
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = LoopClock(self._loop)
        self.profile = profile
        self.book = book or PromptBook()
        self._name = name or profile.name
        self._lease_share = lease_share
        self.core = self._fresh()
        self._streams: dict[str, _Stream] = {}
        self._subscribers = Subscribers()
        self._step: Step | None = None
        self._steps = 0
        self._began_s = 0.0
        self._pace = Pace(0.0, 0.0)
        self._timer: asyncio.Handle | None = None
        self._aborts: list[str] = []
        self._lost: EngineLost | None = None
        self._death: asyncio.Future[None] | None = None
        self.busy_s = 0.0
        """Seconds in which a step ran."""
        self.recomputed_tokens = self.preemptions = 0
        self.on_event: Callable[[EngineEvent], None] | None = None
        """Told of every event, besides those who subscribe."""

    def _fresh(self) -> SimulatedCore:
        return SimulatedCore(self.profile, self._clock, self.book, lease_share=self._lease_share)

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self.core.capabilities

    @property
    def model(self) -> ModelInfo:
        return self.core.model

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Stream the output, some tokens a chunk. Raises `EngineError`s. Closing the iterator aborts the request."""
        self._check()
        if self.profile.call_s:
            await self._clock.sleep(self.profile.call_s)
        self._ask().submit(request)
        stream = self._streams[request.id] = _Stream()
        self._changed()
        unfinished = max(request.n, 1)
        try:
            while unfinished:
                if not stream.items:
                    stream.waiter = self._loop.create_future()
                    await stream.waiter
                item = stream.items.popleft()
                if isinstance(item, EngineError):
                    unfinished = 0
                    raise item
                unfinished -= item.finish is not None
                yield item
        finally:
            if self._streams.get(request.id) is stream:
                del self._streams[request.id]
            if unfinished and self._lost is None:
                self._abort(request.id)

    async def abort(self, request: str) -> None:
        self._check()
        self._abort(request)

    def _abort(self, request: str) -> None:
        if self._step is None:
            self.core.abort(request)
        else:
            self._cut()
            self._aborts.append(request)
        self._changed()

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        self._ask().reprioritize(program, key)
        self._changed()

    async def retain(self, lease: Lease) -> LeaseGrant:
        grant = self._ask().retain(lease)
        self._changed()
        return grant

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        grant = self._ask().extend(lease, ttl_s)
        self._changed()
        return grant

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        self._ask().release(lease, outcome)
        self._changed()

    async def demote(self, lease: str) -> LeaseGrant:
        grant = self._ask().demote(lease)
        self._changed()
        return grant

    async def prefetch(self, lease: str, within_s: float) -> None:
        self._ask().prefetch(lease, within_s)
        self._changed()

    async def limit_running(self, limit: int) -> None:
        self._ask().limit_running(limit)
        self._changed()

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        self._check()
        return self.core.estimate(prompt_ids, salt)

    def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        """The length of the prompt that `messages` render to."""
        return self.core.codec.count(messages)

    async def events(self) -> AsyncIterator[EngineEvent]:
        """What changes from now on, until the engine ends."""
        self._check()
        async with aclosing(self._subscribers.events()) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        self.lose("the engine was closed")

    @property
    def alive(self) -> bool:
        """Whether calls can still be made."""
        return self._lost is None

    async def lost(self) -> str:
        """Return why, when the engine is lost; wait as long as it lives."""
        if self._lost is None:
            self._death = self._death or self._loop.create_future()
            await asyncio.shield(self._death)
        return str(self._lost)

    def lose(self, message: str) -> None:
        """The engine is gone, with all that it held: whoever waits hears `EngineLost`."""
        if self._lost is not None:
            return
        self._lost = EngineLost(message)
        self._cancel_timer()
        self._step = None
        for stream in self._streams.values():
            stream.put(EngineLost(message))
        self._subscribers.end()
        if self._death is not None and not self._death.done():
            self._death.set_result(None)

    def restart(self) -> None:
        """A lost engine comes back empty."""
        self.core, self._lost = self._fresh(), None
        self._aborts.clear()

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _ask(self) -> SimulatedCore:
        """The core as it is now, for whoever asks for something that may change its next step: the jump ends there."""
        self._check()
        self._cut()
        return self.core

    # the loop of steps

    def _changed(self) -> None:
        """Something was asked: whoever sleeps wakes up."""
        if self._step is None and (self._timer is None or isinstance(self._timer, asyncio.TimerHandle)):
            self._cancel_timer()
            self._timer = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Begin a step, or sleep until a lease ends."""
        self._timer = None
        core = self.core
        step = core.begin()
        if not step:
            self._tell(core.finish(step, []))
            deadline_s = core.next_deadline_s()
            if deadline_s is not None:
                self._timer = self._loop.call_at(deadline_s, self._begin)
            return
        self._step, self._began_s = step, self._loop.time()
        self._steps, self._pace = core.alike(step), core.pace(step)
        if self._steps > 1 and (deadline_s := core.next_deadline_s()) is not None:
            self._steps = self._pace.begun(deadline_s - self._began_s, self._steps)
        seconds = self._pace.seconds(self._steps)
        self._timer = self._loop.call_at(self._began_s + seconds, self._end, seconds)

    def _cut(self) -> None:
        """End a jump with the step that runs now; those before it are done."""
        if self._steps == 1 or self._step is None:
            return
        steps = self._pace.begun(self._loop.time() - self._began_s, self._steps)
        if steps > 1:
            self.core.skip(self._step, steps - 1, self._pace)
        if steps < self._steps:
            self._cancel_timer()
            seconds = self._pace.seconds(steps)
            self._timer = self._loop.call_at(self._began_s + seconds, self._end, seconds)
        self._steps = 1

    def _end(self, seconds: float) -> None:
        """The step, or the jump, has ended: tell what came of it, and begin the next."""
        step, self._timer = self._step, None
        assert step is not None
        if self._steps > 1:
            self.core.skip(step, self._steps - 1, self._pace)
        self._step = None
        self.busy_s += seconds
        deliveries = self.core.finish_one(step)
        if self._aborts:
            for request in self._aborts:
                self.core.abort(request)
            self._aborts.clear()
            deliveries += self.core.finish(Step(), [])
        self._tell(deliveries)
        self._timer = self._loop.call_soon(self._begin)

    def _tell(self, deliveries: Seq[Delivery]) -> None:
        for request, item in deliveries:
            stream = self._streams.get(request)
            if stream is not None:
                stream.put(item)
            if isinstance(item, TokenChunk) and item.usage is not None:
                self.recomputed_tokens += item.usage.recomputed_tokens
                self.preemptions += item.usage.preemptions
        events = self.core.drain_events()
        if self.on_event is not None:
            for event in events:
                self.on_event(event)
        self._subscribers.tell(events)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
