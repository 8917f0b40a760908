"""Ids of programs: sorted by acceptance, unguessable, from injected time and randomness."""

from __future__ import annotations

from random import Random


class ProgramIds:
    """`prog_` + milliseconds since the epoch + a counter within them + 40 random bits, all in hex.

    Invariant: each id is greater than the one before, even if the calendar is set back.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._last = (0, 0)

    def next(self, wall_s: float) -> str:
        """A fresh id, accepted at `wall_s` seconds since the epoch."""
        ms = int(wall_s * 1000)
        last_ms, count = self._last
        self._last = (ms, 0) if ms > last_ms else (last_ms, count + 1)
        return f"prog_{self._last[0]:011x}{self._last[1]:04x}{self._rng.getrandbits(40):010x}"
