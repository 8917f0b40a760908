"""Single flight: of equal calls that miss at the same time one goes to the engine, the others wait for its answer.

Owns who leads and who waits. A wait always ends: with the leader's answer, with its failure, or by the clock.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Flight(Generic[T]):
    """One call under way. `done` carries what it brought; None: it failed, ask again."""

    key: bytes
    done: asyncio.Future[T | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    waiting: int = 0


class Flights(Generic[T]):
    """Flights by key. Invariant: a flight under a key is not done, or has brought something that is being kept."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._flights: dict[bytes, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def lead(self, key: bytes) -> Flight[T] | None:
        """Become the leader of `key`; None when someone else is."""
        if key in self._flights:
            return None
        flight: Flight[T] = Flight(key)
        self._flights[key] = flight
        return flight

    async def follow(self, key: bytes) -> T | None:
        """Wait for the leader of `key`: its result, or None when it failed or is not there.

        Raises TimeoutError after the longest wait.
        """
        flight = self._flights.get(key)
        if flight is None:
            return None
        flight.waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                return await asyncio.shield(flight.done)
        finally:
            flight.waiting -= 1

    def tell(self, flight: Flight[T], result: T) -> None:
        """Give the result to all who wait, and to who comes until `land`."""
        if not flight.done.done():
            flight.done.set_result(result)

    def land(self, flight: Flight[T], result: T | None) -> None:
        """End a flight for all who wait; landing twice changes nothing."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        if not flight.done.done():
            flight.done.set_result(result)

    def land_all(self) -> None:
        """End every flight as failed."""
        for flight in tuple(self._flights.values()):
            self.land(flight, None)
