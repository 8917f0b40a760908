"""An engine in a thread of this process: for tests, and for programs that want no second process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Self

from engine.clock import Clock, SystemClock
from engine.config import EngineConfig
from engine.driver import Driver
from engine.front import EngineFront
from engine.ipc import Call, Method
from engine.local import LocalEngine


def _load(config: EngineConfig, clock: Clock) -> LocalEngine:
    from engine.loading import load_engine

    return load_engine(config, clock)


class AsyncEngine(EngineFront):
    """`await AsyncEngine.start(config)`, then the engine protocol. One thread loads the model and runs its steps."""

    def __init__(self, build: Callable[[], LocalEngine], clock: Clock) -> None:
        super().__init__()
        self._build, self._clock = build, clock
        self._loop = asyncio.get_running_loop()
        self._driver: Driver | None = None
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    async def start(cls, config: EngineConfig, clock: Clock | None = None) -> Self:
        """Load the model of `config`. Raises `ModelLoadError`."""
        clock = clock or SystemClock()
        return await cls.of(lambda: _load(config, clock), clock)

    @classmethod
    async def of(cls, build: Callable[[], LocalEngine], clock: Clock) -> Self:
        """Run the core that `build` makes; it is called in the engine's thread."""
        engine = cls(build, clock)
        engine._thread.start()
        await engine._started
        return engine

    async def close(self) -> None:
        if self._driver is not None:
            self._driver.post(Call(0, Method.CLOSE))
        await asyncio.shield(self._ended)
        self._on_lost("the engine was closed")

    def _post(self, call: Call) -> None:
        assert self._driver is not None
        self._driver.post(call)

    def _run(self) -> None:
        """The thread: load, say so, serve. Whatever goes wrong is told to those who wait."""
        try:
            driver = Driver(self._build(), self._clock, lambda output: self._tell(self._on_output, output))
        except Exception as error:
            self._tell(self._started.set_exception, error)
            self._tell(self._ended.set_result, None)
            return
        self._tell(self._on_ready, driver)
        try:
            driver.run()
        except Exception as error:
            self._tell(self._on_lost, f"the engine's loop failed: {error!r}")
        self._tell(self._ended.set_result, None)

    def _on_ready(self, driver: Driver) -> None:
        self._driver, self._ready = driver, driver.ready
        self._started.set_result(None)

    def _tell(self, function: Callable[..., object], *values: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)
