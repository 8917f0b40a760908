"""Who may write how fast. Owns one token bucket per principal; never looks at what is written."""

from __future__ import annotations

from collections import OrderedDict

_PRINCIPALS = 100_000


class InsertRates:
    """At most `burst` entries at once and `per_minute` lasting, for each tenant's principal.

    A flood of principals cannot grow the memory: the longest unseen are forgotten, which only refills them.
    """

    def __init__(self, per_minute: float = 600.0, burst: float = 200.0) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, tenant: str, principal: str, now: float) -> bool:
        """Take one insert; False when this principal has used up its rate."""
        key = (tenant, principal)
        tokens, at = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_second)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > _PRINCIPALS:
            self._buckets.popitem(last=False)
        return allowed
