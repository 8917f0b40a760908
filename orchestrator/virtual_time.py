"""An asyncio event loop whose time jumps to the next timer, and the clock that goes with it.

Hours of waiting run in milliseconds and in one order only, so a run is a function of its seed. Owns nothing of
the program: production code runs on it unchanged.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_RESOLUTION_S = 1e-9


class EverythingWaits(RuntimeError):
    """No task can run, no timer is set and nothing outside the loop works: the program would hang for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Where a real selector would block until the next timer, this one moves the loop's time there."""

    loop: VirtualTimeLoop
    files = 0
    """How many files are watched."""

    def register(self, *args: Any, **options: Any) -> selectors.SelectorKey:
        self.files += 1
        return super().register(*args, **options)

    def unregister(self, *args: Any) -> selectors.SelectorKey:
        self.files -= 1
        return super().unregister(*args)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events: list[tuple[selectors.SelectorKey, int]] = []
        if self.loop.works_outside or self.files > 1:  # else there is only the loop's own way to be woken
            events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self.loop.works_outside:
            blocked: list[tuple[selectors.SelectorKey, int]] = super().select(None)
            return blocked
        if timeout is None:
            raise EverythingWaits("every task waits for something that can never happen")
        self.loop.jump(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector loop in virtual time, which starts at 0.

    Time stands still while a task can run and while `outside` is held: work of threads and processes takes no
    virtual time. Invariant: `time()` never goes back.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self._virtual_now = 0.0
        self._outside = 0
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Move time on by `seconds`. Timers nearer than time can be told apart, late in the run, are due together."""
        self._virtual_now += seconds
        self._clock_resolution = max(_RESOLUTION_S, math.ulp(self._virtual_now))

    @property
    def works_outside(self) -> bool:
        """True while a thread or process works for a task of this loop."""
        return self._outside > 0

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Hold time still while something outside the loop works for us."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def run_in_executor(  # type: ignore[override]  # a future, as the base class returns
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in asyncio; time stands still until the function has returned."""
        future = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: asyncio.Future[Any]) -> None:
        self._outside -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:  # 3.12 gave it a timeout
        """As in asyncio; time stands still until the threads have ended."""
        with self.outside():
            await super().shutdown_default_executor(*args)


class VirtualClock:
    """An `OrchestratorClock` over a `VirtualTimeLoop`; the calendar starts at `epoch_s`."""

    def __init__(self, epoch_s: float = 1_700_000_000.0) -> None:
        self._epoch_s = epoch_s

    def now(self) -> float:
        loop = asyncio.get_running_loop()
        return loop._virtual_now if isinstance(loop, VirtualTimeLoop) else loop.time()

    def wall(self) -> float:
        return self._epoch_s + self.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @contextmanager
    def outside(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualTimeLoop):
            raise RuntimeError("a VirtualClock needs a VirtualTimeLoop")
        with loop.outside():
            yield


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
