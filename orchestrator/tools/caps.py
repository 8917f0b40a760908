"""How many function calls run at once: per tool, host, program, tenant and server. Pure counters and queues.

Never knows what a call does. Calls take their caps one after the other in one fixed order, so none waits for a cap
that another call holds while that one waits for a cap of theirs: no deadlock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

Key = tuple[float, ...]

_IDLE = 1024
"""Names that nobody is under are forgotten once there are more than so many: most of them come back at once."""


@dataclass(slots=True, order=True)
class _Waiter:
    key: Key
    number: int
    turn: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _Cap:
    inside: int = 0
    waiting: list[_Waiter] = field(default_factory=list)


class Caps:
    """Counters by name; names without calls are forgotten in the end.

    Invariant: nobody waits at a cap that has room. Cost of entering and leaving: O(log waiting) each.
    """

    def __init__(self) -> None:
        self._caps: dict[Hashable, _Cap] = {}
        self._arrivals = 0
        self._forget_at = _IDLE

    def try_enter(self, wanted: Sequence[tuple[Hashable, int]]) -> bool:
        """Take one place under each cap if all have room; else take none."""
        caps = self._caps
        for taken, (name, most) in enumerate(wanted):
            cap = caps.get(name)
            if cap is None:
                cap = self._new(name)
            elif cap.inside >= most:
                self.leave(wanted[:taken])
                return False
            cap.inside += 1
        return True

    def _new(self, name: Hashable) -> _Cap:
        """A counter for a name; those of names without calls go, when they have become many."""
        caps = self._caps
        if len(caps) >= self._forget_at:
            for idle in [idle for idle, cap in caps.items() if not cap.inside and not cap.waiting]:
                del caps[idle]
            self._forget_at = len(caps) + _IDLE
        cap = caps[name] = _Cap()
        return cap

    async def enter(self, wanted: Sequence[tuple[Hashable, int]], key: Key = ()) -> None:
        """Take one place under each (name, most at once), in the order given; waits by key, then by arrival.

        `leave` with the same names must follow, unless this is cancelled: then nothing is held.
        """
        held = 0
        try:
            for name, most in wanted:
                cap = self._caps.get(name) or self._new(name)
                if cap.inside < most:
                    cap.inside += 1
                else:
                    await self._wait(cap, key)
                held += 1
        except asyncio.CancelledError:
            self.leave(wanted[:held])
            raise

    async def _wait(self, cap: _Cap, key: Key) -> None:
        self._arrivals += 1
        waiter = _Waiter(key, self._arrivals, asyncio.get_running_loop().create_future())
        heappush(cap.waiting, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self._pass_on(cap)  # its place had been given to it already
            raise

    def leave(self, wanted: Sequence[tuple[Hashable, int]]) -> None:
        """Give the places back: whoever waits first takes them."""
        caps = self._caps
        for name, _ in wanted:
            cap = caps[name]
            if cap.waiting:
                self._pass_on(cap)
            else:
                cap.inside -= 1

    @staticmethod
    def _pass_on(cap: _Cap) -> None:
        while cap.waiting:
            waiter = heappop(cap.waiting)
            if not waiter.turn.done():
                waiter.turn.set_result(None)
                return
        cap.inside -= 1

    @property
    def held(self) -> tuple[Hashable, ...]:
        """The names under which calls run or wait."""
        return tuple(name for name, cap in self._caps.items() if cap.inside or cap.waiting)

    @property
    def queued(self) -> int:
        """How many calls wait for room."""
        return sum(self.waiting(name) for name, cap in self._caps.items() if cap.waiting)

    def inside(self, name: Hashable) -> int:
        """How many calls hold a place under a cap."""
        cap = self._caps.get(name)
        return cap.inside if cap is not None else 0

    def waiting(self, name: Hashable) -> int:
        """How many calls wait at a cap."""
        cap = self._caps.get(name)
        return sum(not waiter.turn.done() for waiter in cap.waiting) if cap is not None else 0
