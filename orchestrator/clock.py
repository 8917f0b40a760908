"""The orchestrator's clock. The only place of the orchestrator where real time is read or slept."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class OrchestratorClock(Protocol):
    """Time as the orchestrator sees it; `asyncio.timeout` and the loop's timers run on the same time as `now`."""

    def now(self) -> float:
        """Monotonic seconds since an arbitrary start."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def outside(self) -> AbstractContextManager[None]:
        """Held while something outside the loop works for us (a thread, a process): virtual time stands still."""
        ...


class LoopClock:
    """The time of the running event loop, and the machine's calendar."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def outside(self) -> AbstractContextManager[None]:
        return nullcontext()
