"""Keeps one engine process alive: starts it, starts it again when it dies, and holds calls back meanwhile.

Satisfies `engine.protocol.Engine`, so the runtime never sees a process. Never re-runs a call by itself: what ran
when the process died raises `EngineLost`, and the runtime decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engine.clock import Clock
from engine.protocol import (
    Capabilities,
    CountsBlocks,
    Engine,
    EngineError,
    EngineEvent,
    EngineEventKind,
    EngineLost,
    Estimate,
    GenerateRequest,
    KVBlocks,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    ModelLoadError,
    PriorityKey,
    QueueFull,
    TokenChunk,
)
from orchestrator.engines.errors import EngineNotReady

log = logging.getLogger(__name__)


class EngineStatus(StrEnum):
    """STARTING: loads its model. RESTARTING: died, waits or loads again. FAILED: its model cannot be served."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class EngineState:
    """What one engine is doing, for people and for `readyz`. `model` and `capabilities` are known once it was ready."""

    name: str
    status: EngineStatus
    restarts: int
    reason: str
    model: ModelInfo | None
    capabilities: Capabilities | None


class EngineHandle(Engine, Protocol):
    """A started engine that can die. `alive` is False before any of its calls raises `EngineLost`."""

    @property
    def alive(self) -> bool: ...

    async def lost(self) -> str:
        """Return why, when the engine has died; wait as long as it lives."""
        ...


EngineFactory = Callable[[], Awaitable[EngineHandle]]
"""Starts an engine and returns when it can serve. Raises `ModelLoadError` when no retry can help."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before restart n: `min(max_s, first_s * 2**(n-1))`; n counts anew after `healthy_s` of service."""

    first_s: float = 0.1
    max_s: float = 10.0
    healthy_s: float = 60.0

    def delay_s(self, deaths: int) -> float:
        """Seconds to wait after the `deaths`-th death in a row (1-based)."""
        return min(self.max_s, self.first_s * 2.0 ** min(deaths - 1, 30))


class SupervisedEngine:
    """One engine, whatever happens to its process.

    Invariant: `_engine` is set exactly while the status is READY; `_changed` is replaced, after being set, at every
    change of status, so that a waiter never misses one. `start_wait_s` bounds how long a call waits for an engine,
    `max_waiting` how many do.
    """

    def __init__(
        self,
        name: str,
        factory: EngineFactory,
        *,
        clock: Clock,
        serves: str = "",
        backoff: Backoff | None = None,
        start_wait_s: float = 60.0,
        max_waiting: int = 4096,
    ) -> None:
        """`serves`: the model's name, where the engine has another one."""
        self._name = name
        self.serves = serves or name
        self._factory = factory
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._start_wait_s = start_wait_s
        self._max_waiting = max_waiting
        self._status = EngineStatus.STARTING
        self._reason = "the engine is loading its model"
        self._engine: EngineHandle | None = None
        self._model: ModelInfo | None = None
        self._capabilities: Capabilities | None = None
        self._restarts = 0
        self._waiting = 0
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin loading in the background; `ready()` tells when it is done. A second start is no error."""
        if self._task is None and self._status is not EngineStatus.CLOSED:
            self._task = asyncio.create_task(self._supervise(), name=f"engine {self._name}")

    @property
    def name(self) -> str:
        return self._name

    @property
    def state(self) -> EngineState:
        """What the engine is doing now."""
        return EngineState(self._name, self._status, self._restarts, self._reason, self._model, self._capabilities)

    @property
    def model(self) -> ModelInfo:
        """The model, known from the first start on; before that raises `EngineNotReady` or `ModelLoadError`."""
        if self._model is None:
            raise self._unavailable()
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do: nothing extra until it has started once."""
        return self._capabilities or Capabilities()

    async def ready(self) -> EngineHandle:
        """Wait for the engine.

        Raises `ModelLoadError` if its model cannot be served, `EngineNotReady` after `start_wait_s` or on close,
        `QueueFull` if `max_waiting` others wait already.
        """
        engine = self._alive()
        if engine is not None:
            return engine
        if self._waiting >= self._max_waiting:
            raise QueueFull(f"{self._waiting} calls already wait for engine {self._name!r} to start; try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._start_wait_s):
                while (engine := self._alive()) is None:
                    if self._status in (EngineStatus.FAILED, EngineStatus.CLOSED):
                        raise self._unavailable()
                    await self._changed.wait()
                return engine
        except TimeoutError:
            message = f"engine {self._name!r} was not ready within {self._start_wait_s:g} s: {self._reason}"
            raise EngineNotReady(message) from None
        finally:
            self._waiting -= 1

    def kv_blocks(self) -> tuple[KVBlocks, ...]:
        """What the KV memory is used for, by tier; nothing is known of an engine that is not up."""
        engine = self._alive()
        return engine.kv_blocks() if isinstance(engine, CountsBlocks) else ()

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """Stream the output, once the engine is up. Raises what `ready` raises, and the engine's own errors."""
        engine = self._alive()
        # The engine's own iterator is handed through: nothing of ours runs per token.
        return engine.generate(request) if engine is not None else self._generate_when_ready(request)

    async def _generate_when_ready(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        engine = await self.ready()
        chunks = engine.generate(request)
        async with aclosing(chunks) as stream:  # type: ignore[type-var]  # engines return async generators
            async for chunk in stream:
                yield chunk

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        if (engine := self._alive()) is not None:
            await engine.reprioritize(program, key)

    async def limit_running(self, limit: int) -> None:
        if (engine := self._alive()) is not None:
            await engine.limit_running(limit)

    async def retain(self, lease: Lease) -> LeaseGrant:
        return await self._granted(lease.id, lambda engine: engine.retain(lease))

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return await self._granted(lease, lambda engine: engine.extend(lease, ttl_s))

    async def demote(self, lease: str) -> LeaseGrant:
        return await self._granted(lease, lambda engine: engine.demote(lease))

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        if (engine := self._alive()) is not None:
            await engine.release(lease, outcome)

    async def prefetch(self, lease: str, within_s: float) -> None:
        if (engine := self._alive()) is not None:
            await engine.prefetch(lease, within_s)

    async def abort(self, request: str) -> None:
        if (engine := self._alive()) is not None:
            await engine.abort(request)

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        engine = self._alive()
        if engine is None:
            raise self._unavailable()
        return await engine.estimate(prompt_ids, salt)

    async def events(self) -> AsyncIterator[EngineEvent]:
        """Changes of what is resident, over all incarnations; ends when the engine is closed or cannot be served."""
        while True:
            try:
                engine = await self._next_incarnation()
            except EngineError:
                return
            try:
                async for event in engine.events():
                    yield event
            except EngineLost:
                pass
            if self._engine is engine and engine.alive:
                return
            yield EngineEvent(EngineEventKind.LOST, "", 0)

    async def close(self) -> None:
        """Stop the process and everything that waits for it. A second close is no error."""
        if self._status is EngineStatus.CLOSED:
            return
        engine = self._engine
        self._become(EngineStatus.CLOSED, "the server is closing")
        self._closing.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if engine is not None:
            await engine.close()

    # -- supervision ------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        deaths = 0
        while True:
            began_s = self._clock.now()
            try:
                reason = await self._serve(await self._factory())
            except ModelLoadError as fault:
                # The same files give the same fault: a restart loop would only hide it.
                self._become(EngineStatus.FAILED, str(fault))
                log.error("engine %s cannot serve its model: %s", self._name, fault)
                return
            except Exception as fault:  # whatever it is, the engine is down and the server is not
                reason = f"the engine process failed: {type(fault).__name__}: {fault}"
            if self._clock.now() - began_s >= self._backoff.healthy_s:
                deaths = 0
            deaths += 1
            delay_s = self._backoff.delay_s(deaths)
            self._become(EngineStatus.RESTARTING, reason)
            log.warning("engine %s: %s; starting it again in %.1f s", self._name, reason, delay_s)
            try:
                async with asyncio.timeout(delay_s):
                    await self._closing.wait()
                return
            except TimeoutError:
                self._restarts += 1

    async def _serve(self, engine: EngineHandle) -> str:
        """Be ready until the engine dies; return why it did."""
        self._model = engine.model
        self._capabilities = engine.capabilities
        self._become(EngineStatus.READY, "", engine)
        log.info("engine %s serves model %s", self._name, engine.model.name)
        reason = await engine.lost()
        self._become(EngineStatus.RESTARTING, reason)
        await engine.close()
        return reason

    def _become(self, status: EngineStatus, reason: str, engine: EngineHandle | None = None) -> None:
        self._status, self._reason, self._engine = status, reason, engine
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _alive(self) -> EngineHandle | None:
        # A process may be dead a moment before its supervisor hears of it: calls must not run into it again.
        return self._engine if self._engine is not None and self._engine.alive else None

    def _unavailable(self) -> EngineError:
        if self._status is EngineStatus.FAILED:
            return ModelLoadError(self._reason)
        return EngineNotReady(f"engine {self._name!r} is not ready: {self._reason}")

    async def _granted(self, lease: str, ask: Callable[[EngineHandle], Awaitable[LeaseGrant]]) -> LeaseGrant:
        # Nothing is resident in an engine that is not up, and leases ended with the process that granted them.
        engine = self._alive()
        return LeaseGrant(lease, 0, None, 0.0) if engine is None else await ask(engine)

    async def _next_incarnation(self) -> EngineHandle:
        """Wait, without bound, for a living engine; raises when there will be none."""
        while (engine := self._alive()) is None:
            if self._status in (EngineStatus.FAILED, EngineStatus.CLOSED):
                raise self._unavailable()
            await self._changed.wait()
        return engine
