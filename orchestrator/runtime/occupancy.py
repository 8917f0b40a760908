"""Which programs have calls on which engine now: behind whom a call waits. Counts only; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

_TOLD = 4


class Occupancy:
    """Running generations by engine and program, programs in the order in which they came."""

    def __init__(self) -> None:
        self._running: dict[str, dict[str, int]] = {}
        self.functions = 0
        """Function calls that workers or the server's own tools have now."""

    @contextmanager
    def holding(self, engine: str, program: str) -> Iterator[None]:
        """The program has one call more on the engine while the context is open."""
        running = self._running.setdefault(engine, {})
        running[program] = running.get(program, 0) + 1
        try:
            yield
        finally:
            running[program] -= 1
            if not running[program]:
                del running[program]
            if not running:
                del self._running[engine]

    def others(self, engine: str, program: str) -> tuple[str, ...]:
        """Other programs with calls on the engine: the four that have been there longest. O(1)."""
        running = self._running.get(engine)
        return tuple(islice((name for name in running if name != program), _TOLD)) if running else ()
