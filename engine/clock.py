"""The clock that every timed part is given. The only place where real time is read."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds. Simulations and tests pass one that they move by hand."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()


class LoopClock:
    """The time of one event loop, which may be virtual."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = loop.time

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later by the loop's time."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now = start_s

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (>= 0)."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._now += seconds


def strftime_now(pattern: str) -> str:
    """The local date and time as chat templates ask for it; never used to measure."""
    return time.strftime(pattern)
