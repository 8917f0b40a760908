"""How loaded the engines are, as their callers feel it. Pure bookkeeping: the time is always given."""

from __future__ import annotations


class Waiting:
    """Calls that engines have and that have no token yet, in the order in which they came.

    The age of the oldest is a lower bound of the queue's length in seconds that needs no call to end first.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._numbers = 0

    def enter(self, now: float) -> int:
        """A call goes to an engine; returns its number."""
        self._numbers += 1
        self._since[self._numbers] = now
        return self._numbers

    def leave(self, number: int) -> None:
        """The call waits no more. A second time changes nothing."""
        self._since.pop(number, None)

    def oldest_s(self, now: float) -> float:
        """Seconds that the oldest of them has waited; 0 if none waits."""
        return now - next(iter(self._since.values())) if self._since else 0.0
