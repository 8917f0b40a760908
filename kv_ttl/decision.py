"""What to do with a paused program's KV: keep it on the device, move it to the host, or drop it, and until when.

Owns the stop-aware rule as pure functions of a forecast, costs and prices. Never holds state, memory or a clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kv_ttl.errors import RetentionError
from kv_ttl.forecast import BUCKETS, KNOTS, FloatArray, Forecast

CEILING_S = 600.0
"""No lease outlives this, however idle the memory."""
_IDLE = 1e-12
"""At price zero, of two TTLs worth the same the longer one wins, unless there is nothing to save."""


_TIMES: list[float] = KNOTS.tolist()


class Place(StrEnum):
    """Where a block range is while the program is paused."""

    KEEP = "keep"
    HOST = "host"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class BlockRange:
    """A run of blocks of the paused chain; a chain is its ranges from the root (the shared prefix) to the tip.

    Attributes:
        recompute_s: prefill seconds to make it again, the ranges before it being there.
        queue_s: what its absence from the device adds to the returning call's wait in the queue.
        price: what a second of its residence on the device costs all others, in seconds (`shadow_price`).
            For blocks that others hold anyway it is zero, so a shared prefix stays longest.
        reload_s: seconds to copy it back from the host; inf where no host tier can take it.
        host_price: what a second of its residence on the host costs.
    """

    recompute_s: float
    price: float
    queue_s: float = 0.0
    reload_s: float = math.inf
    host_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("recompute_s", "price", "queue_s", "host_price"):
            value: float = getattr(self, name)
            if not 0 <= value < math.inf:
                raise RetentionError(f"block range: {name} must be finite and >= 0, got {value!r}")
        if not self.reload_s >= 0:
            raise RetentionError(f"block range: reload_s must be >= 0, got {self.reload_s!r}")


@dataclass(frozen=True, slots=True)
class Choice:
    """Seconds from now: keep on the device for `keep_s`, then on the host until `host_s` (>= keep_s), then drop.

    `host_s` equal to `keep_s` means no stay on the host.
    """

    keep_s: float
    host_s: float

    @property
    def place(self) -> Place:
        """What to do at once."""
        if self.keep_s > 0:
            return Place.KEEP
        return Place.HOST if self.host_s > 0 else Place.DROP


def shadow_price(nbytes: int, pool_bytes: int, queued: int, running: int) -> float:
    """Seconds of delay a second of residence causes: share of the pool x queued / (queued + running).

    Zero while nothing waits for memory. `queued`: admitted calls that wait; `running`: calls in the batch.
    """
    if nbytes < 0 or pool_bytes <= 0 or queued < 0 or running < 0:
        raise RetentionError(
            f"shadow price: need nbytes >= 0, pool_bytes > 0, queued >= 0, running >= 0, "
            f"got {nbytes}, {pool_bytes}, {queued}, {running}"
        )
    return nbytes / pool_bytes * queued / (queued + running) if queued else 0.0


def value(forecast: Forecast, seconds: float, saved_s: float, price: float) -> float:
    """Expected net seconds of keeping for `seconds`: saved x P(R <= t) - price x E[min(t, R)].

    A lease ends when the pause does, so it costs the time it is really held and not its TTL (the
    difference to Continuum, arXiv 2511.02230, whose rule is P(t) x benefit - t).
    """
    return saved_s * forecast.probability(seconds) - price * forecast.expected_held(seconds)


def ttl(forecast: Forecast, saved_s: float, price: float, ceiling_s: float = CEILING_S) -> float:
    """The TTL in [0, ceiling] with the largest `value`; seconds from the moment of the forecast.

    Nothing saved: 0. Price zero (memory is idle): the ceiling. To decide again at elapsed time e, pass
    the forecast made at e and what is still to be saved: nothing spent so far matters.
    Raises `RetentionError` for a negative or not finite argument.
    """
    if not (0 <= saved_s < math.inf and 0 <= price < math.inf):
        raise RetentionError(f"ttl: saved_s and price must be finite and >= 0, got {saved_s!r}, {price!r}")
    worth = _worth(forecast, _last(ceiling_s), saved_s, price)
    return min(_TIMES[worth.argmax()], ceiling_s)


def choose(
    forecast: Forecast,
    chain: Sequence[BlockRange],
    ceiling_s: float = CEILING_S,
    host_ceiling_s: float = 6 * CEILING_S,
) -> tuple[Choice, ...]:
    """Where each range of the chain (root first) should be, and until when.

    A range is worth nothing without those before it, so no range stays longer than its predecessor, neither
    on the device nor anywhere; under that constraint the total value is maximised over the forecast's grid.
    With a stay on the host a return in (keep, host] still saves recompute - reload, so the device's part of
    the saving is only the rest, and its price what the device costs more than the host:
    sum over ranges of (saved - saved_host) F(keep) - (price - host_price) M(keep) + saved_host F(host)
    - host_price M(host), with F = P(R <= t) and M = E[min(t, R)]. Both parts are solved alone; where that would
    drop from the host before the device, the better of keeping only and of hosting at once is taken for the chain.
    A range that the host cannot help, or that costs less on the device, is weighed on the device alone.
    """
    if not chain:
        return ()
    last, host_last = _last(ceiling_s), _last(host_ceiling_s)
    alone = [(r.recompute_s + r.queue_s, r.price) for r in chain]
    hosted = [max(0.0, r.recompute_s - r.reload_s) if r.price >= r.host_price else 0.0 for r in chain]
    if not any(hosted):
        return tuple([_choice(at, 0, ceiling_s, host_ceiling_s) for at in _nested(forecast, last, alone)[0]])
    rest = [(s - h, p - r.host_price) if h else (s, p) for (s, p), h, r in zip(alone, hosted, chain, strict=True)]
    keep, _ = _nested(forecast, last, rest)
    # What stays on the device to the ceiling needs no room on the host, whoever after it is there.
    beside = [0.0 if at == last and not h else r.host_price for at, h, r in zip(keep, hosted, chain, strict=True)]
    end, hosted_value = _nested(forecast, host_last, list(zip(hosted, beside, strict=True)))
    if any(h and at > until for h, at, until in zip(hosted, keep, end, strict=True)):
        kept, kept_value = _nested(forecast, last, alone)
        keep, end = (kept, [0] * len(chain)) if kept_value >= hosted_value else ([0] * len(chain), end)
    return tuple([_choice(at, until, ceiling_s, host_ceiling_s) for at, until in zip(keep, end, strict=True)])


def plan_value(forecast: Forecast, chain: Sequence[BlockRange], plan: Sequence[Choice]) -> float:
    """Expected net seconds of a plan for a chain, by the formula of `choose`."""
    total = 0.0
    for blocks, choice in zip(chain, plan, strict=True):
        total += value(forecast, choice.keep_s, blocks.recompute_s + blocks.queue_s, blocks.price)
        if choice.host_s > choice.keep_s:
            hosted = max(0.0, blocks.recompute_s - blocks.reload_s)
            total += value(forecast, choice.host_s, hosted, blocks.host_price)
            total -= value(forecast, choice.keep_s, hosted, blocks.host_price)
    return total


def prefetch_at(forecast: Forecast, nbytes: int, bytes_per_s: float, early: float = 0.1) -> float:
    """Seconds from now at which to start copying from the host, to be there when the pause ends.

    The `early` quantile of the return less the copy's time; 0 = at once; inf = the return is too uncertain.
    """
    if nbytes < 0 or not bytes_per_s > 0:
        raise RetentionError(f"prefetch: need nbytes >= 0 and bytes_per_s > 0, got {nbytes!r}, {bytes_per_s!r}")
    return max(0.0, forecast.quantile(early) - nbytes / bytes_per_s)


def _last(ceiling_s: float) -> int:
    """The grid's last candidate under a ceiling: the first knot at or after it, which stands for the ceiling itself."""
    if not ceiling_s >= 0:
        raise RetentionError(f"ceiling: must be >= 0 seconds, got {ceiling_s!r}")
    return min(BUCKETS, bisect_left(_TIMES, ceiling_s))


def _choice(keep: int, end: int, ceiling_s: float, host_ceiling_s: float) -> Choice:
    keep_s = min(_TIMES[keep], ceiling_s)
    return Choice(keep_s, max(keep_s, min(_TIMES[end], host_ceiling_s)))


def _worth(forecast: Forecast, last: int, saved_s: float, price: float) -> FloatArray:
    worth = forecast.returned[: last + 1] * saved_s
    if price > 0:
        worth -= forecast.held[: last + 1] * price
    else:
        worth += KNOTS[: last + 1] * (_IDLE if saved_s > 0 else -_IDLE)
    return worth


def _nested(forecast: Forecast, last: int, ranges: Sequence[tuple[float, float]]) -> tuple[list[int], float]:
    """The grid times t_1 >= t_2 >= ... of largest total value, and that value; `ranges`: (saved, price), root first.

    Dynamic programming from the tip to the root: the best of the inner ranges up to each time is a running maximum.
    """
    rows: list[FloatArray] = []
    inner: FloatArray | None = None
    for saved_s, price in reversed(ranges):
        row = _worth(forecast, last, saved_s, price)
        if inner is not None:
            row += np.maximum.accumulate(inner)
        inner = row
        rows.append(row)
    chosen: list[int] = []
    at = last
    for row in reversed(rows):
        at = int(row[: at + 1].argmax())
        chosen.append(at)
    return chosen, float(rows[-1][chosen[0]])
