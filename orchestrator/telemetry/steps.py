"""Spans of engines' steps, for servers that are told to trace them (`[engine] trace_steps`). One task an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from engine.protocol import Engine
from orchestrator.telemetry.spans import Telemetry


class StepSpans:
    """Follows the events of engines from `start` to `close`. `wall`: seconds since the epoch."""

    def __init__(self, telemetry: Telemetry, wall: Callable[[], float]) -> None:
        self._telemetry = telemetry
        self._wall = wall
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, engines: Iterable[Engine]) -> None:
        """Make spans of what these engines tell; nothing if nobody would see them."""
        if self._telemetry.recording:
            self._tasks += [asyncio.create_task(self._follow(engine), name="engine steps") for engine in engines]

    async def _follow(self, engine: Engine) -> None:
        async for event in engine.events():
            if event.step is not None:
                self._telemetry.step(engine.name, self._wall(), event.step)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
