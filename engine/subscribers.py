"""Who hears of an engine's events: each reader has a queue of its own, and a slow one loses the oldest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from engine.protocol import EngineEvent

_MOST = 65_536
"""Events that a reader may be behind."""


class Subscribers:
    """The readers of one engine's events."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[EngineEvent | None]] = set()

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        """What is told from now on, until `end`."""
        queue: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)

    def tell(self, events: Sequence[EngineEvent]) -> None:
        """Let every reader have the events."""
        for queue in self._queues:
            for event in events:
                if queue.qsize() >= _MOST:
                    queue.get_nowait()
                queue.put_nowait(event)

    def end(self) -> None:
        """Nothing more will be told to those who read now."""
        for queue in self._queues:
            queue.put_nowait(None)
