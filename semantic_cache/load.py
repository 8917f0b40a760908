"""How loaded the engines are, smoothed and with hysteresis, as a level of 0..1 that thresholds relax by.

Owns that one number. Never reads engines: the runtime reports to it.
"""

from __future__ import annotations

import math

from semantic_cache.errors import InvalidPolicy


class LoadLevel:
    """Level 0 until the smoothed load reaches `engage`; then it follows the load until that falls under `release`.

    Between `release` and 1 the level rises evenly from 0 to 1. `time_constant_s` is that of the smoothing.
    """

    def __init__(self, engage: float = 0.85, release: float = 0.6, time_constant_s: float = 10.0) -> None:
        if not (0 <= release < engage <= 1 and time_constant_s > 0):
            raise InvalidPolicy("load: 0 <= release < engage <= 1 and a positive time constant are needed")
        self._engage = engage
        self._release = release
        self._time_constant_s = time_constant_s
        self._smooth = 0.0
        self._at: float | None = None
        self._engaged = False

    @property
    def level(self) -> float:
        """0: nothing relaxes; 1: everything that may, as far as its overload budget allows."""
        if not self._engaged:
            return 0.0
        return min(1.0, max(0.0, (self._smooth - self._release) / (1 - self._release)))

    def observe(self, now: float, *, queue_s: float, target_s: float, running: int, capacity: int) -> float:
        """Take in how long calls queue against the target, and how many of `capacity` places run; returns the level."""
        if target_s <= 0 or capacity <= 0 or queue_s < 0 or running < 0:
            raise ValueError("target_s and capacity must be positive, queue_s and running not negative")
        load = min(1.0, max(queue_s / target_s, running / capacity))
        if self._at is not None:
            keep = math.exp(-max(0.0, now - self._at) / self._time_constant_s)
            self._smooth = keep * self._smooth + (1 - keep) * load
        else:
            self._smooth = load
        self._at = now
        self._engaged = self._smooth >= self._engage or (self._engaged and self._smooth > self._release)
        return self.level
