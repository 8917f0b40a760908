"""Holds calls back from an engine that has as many as it should, and lets them go in the policy's order.

An engine's own queue is bounded, and it knows nothing of what it has not been given: a wide program must neither
overflow it nor be served in the order of its arrival.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from heapq import heappop, heappush

from engine.protocol import PriorityKey
from orchestrator.scheduling import Changes


@dataclass(slots=True, order=True)
class _Held:
    """A call at the gate; stale once its key has changed or it has gone."""

    key: PriorityKey
    number: int
    program: str = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)
    stale: bool = field(default=False, compare=False)


class Gate:
    """At most `room` calls inside; the others wait by key, then by arrival.

    Invariant: nobody waits while there is room. `_free` + calls inside = `room`.
    """

    def __init__(self, room: int) -> None:
        self._free = room
        self._heap: list[_Held] = []
        self._held: dict[str, dict[int, _Held]] = {}  # by program
        self._arrivals = 0

    @property
    def held(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._held.values()))

    async def enter(self, program: str, key: PriorityKey) -> None:
        """Return when the call may go to the engine. `leave` must follow, unless this is cancelled."""
        if self._free:
            self._free -= 1
            return
        self._arrivals += 1
        held = _Held(key, self._arrivals, program, asyncio.get_running_loop().create_future())
        self._add(held)
        try:
            await held.turn
        except asyncio.CancelledError:
            if held.turn.done() and not held.turn.cancelled():
                self.leave()  # its turn had come already: the next one takes it
            else:
                self._remove(held)
            raise

    def leave(self) -> None:
        """A call has left the engine: the first one that waits takes its place."""
        while self._heap:
            first = heappop(self._heap)
            if not first.stale:
                self._remove(first)
                first.turn.set_result(None)
                return
        self._free += 1

    def reprioritize(self, changes: Changes) -> None:
        """New keys for the calls of some programs."""
        for program, key in changes.items():
            for held in [*self._held.get(program, {}).values()]:
                self._remove(held)
                self._add(_Held(key, held.number, program, held.turn))

    def _add(self, held: _Held) -> None:
        heappush(self._heap, held)
        self._held.setdefault(held.program, {})[held.number] = held

    def _remove(self, held: _Held) -> None:
        """Take it out of the books; the heap forgets it when it comes up."""
        of_program = self._held.get(held.program, {})
        current = of_program.pop(held.number, held)
        current.stale = held.stale = True
        if not of_program:
            self._held.pop(held.program, None)
