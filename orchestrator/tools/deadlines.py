"""Time limits of many waits at once: one timer for all that may take equally long, instead of one for each.

Owns when a wait is over. Means what `asyncio.timeout` means; a call that ends in time costs two entries of a table.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from orchestrator.clock import OrchestratorClock

_IDLE = 256
"""Lanes that nobody waits in are forgotten once there are more than so many: most come back at once."""


class Deadlines:
    """Waits by their length in seconds. Invariant: a lane is in the order of its ends, and has a timer while it is not
    empty; the timer of an emptied lane stays, since most often the next wait of that length comes soon."""

    def __init__(self, clock: OrchestratorClock) -> None:
        self._clock = clock
        self._lanes: dict[float, _Lane] = {}
        self._forget_at = _IDLE

    def within(self, seconds: float) -> Deadline:
        """To be entered by the task that waits. Past its end the task is cancelled where it is, and leaving raises
        TimeoutError."""
        lane = self._lanes.get(seconds)
        if lane is None:
            if len(self._lanes) >= self._forget_at:
                self._forget()
            lane = self._lanes[seconds] = _Lane(self._clock, seconds)
        return Deadline(lane)

    def _forget(self) -> None:
        for seconds in [seconds for seconds, lane in self._lanes.items() if not lane.waits]:
            self._lanes.pop(seconds).close()
        self._forget_at = len(self._lanes) + _IDLE

    def close(self) -> None:
        """Nobody is told of any end from now on."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()


class _Lane:
    """Waits of one length, oldest first."""

    __slots__ = ("clock", "seconds", "timer", "waits")

    def __init__(self, clock: OrchestratorClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.waits: dict[Deadline, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    def add(self, wait: Deadline) -> None:
        self.waits[wait] = self.clock.now() + self.seconds
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.seconds, self._sweep)

    def _sweep(self) -> None:
        """End what is over, and come back when the next one may be."""
        self.timer = None
        now_s = self.clock.now()
        for wait, end_s in [*self.waits.items()]:
            if end_s > now_s:
                self.timer = asyncio.get_running_loop().call_later(end_s - now_s, self._sweep)
                return
            del self.waits[wait]
            wait.expire()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Deadline:
    """One wait. `expired`: it was ended for its time."""

    __slots__ = ("_cancelling", "_lane", "_task", "expired")

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self._cancelling = 0
        self.expired = False

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        assert task is not None, "only a task can be ended"
        self._task = task
        self._cancelling = task.cancelling()
        self._lane.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lane.waits.pop(self, None)
        # Somebody else may have cancelled the task too: then it is theirs to end.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()
