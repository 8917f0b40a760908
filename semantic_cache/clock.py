"""The clock that the semantic cache is given. The only place of the cache where real time is read."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


async def give_way() -> None:
    """Let everyone else on the event loop have a turn, in the middle of long work."""
    await asyncio.sleep(0)


class CacheClock(Protocol):
    """Time as the cache sees it; the event loop's timers must run on the same time as `now`."""

    def now(self) -> float:
        """Monotonic seconds since an arbitrary start."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch: what ages and times to live are counted in, as they outlive the process."""
        ...

    def outside(self) -> AbstractContextManager[None]:
        """Held while a thread works for us (disk, embedder), so that virtual time can stand still."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    def outside(self) -> AbstractContextManager[None]:
        return nullcontext()


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, wall_s: float = 1_700_000_000.0) -> None:
        self._now = 0.0
        self._epoch_s = wall_s

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._epoch_s + self._now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (>= 0)."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._now += seconds

    def outside(self) -> AbstractContextManager[None]:
        return nullcontext()
