"""How loaded the engines are, as their callers feel it. Pure bookkeeping: the time is always given."""

from __future__ import annotations


class Waiting:
    """Calls that engines have, in the order in which they came: how many, and since when the oldest has no token.

    That age is a lower bound of the queue's length in seconds, and needs no call to end first.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._numbers = 0
        self._inside: set[int] = set()

    def enter(self, now: float) -> int:
        """A call goes to an engine; returns its number."""
        self._numbers += 1
        self._since[self._numbers] = now
        self._inside.add(self._numbers)
        return self._numbers

    def begin(self, number: int) -> None:
        """The call has its first token. A second time changes nothing."""
        self._since.pop(number, None)

    def leave(self, number: int) -> None:
        """The call has ended. A second time changes nothing."""
        self.begin(number)
        self._inside.discard(number)

    @property
    def inside(self) -> int:
        """Calls that engines have."""
        return len(self._inside)

    def oldest_s(self, now: float) -> float:
        """Seconds that the oldest of them has waited for its first token; 0 if none waits."""
        return now - next(iter(self._since.values())) if self._since else 0.0
