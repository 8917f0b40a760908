"""When will this pause end? One distribution of the time from now, on one log-spaced grid.

Owns the grid, conditioning on elapsed time, and the joining of parallel and consecutive calls.
Never learns anything and never reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kv_ttl.errors import RetentionError

FloatArray = NDArray[np.float64]

PER_OCTAVE = 5
"""Grid points for each doubling: neighbouring candidates differ by 15 %."""
FIRST_OCTAVE, LAST_OCTAVE = -10, 13
"""The grid spans 2^-10 s (1 ms) to 2^13 s (2.3 h); a return after that counts as never."""

BUCKETS = (LAST_OCTAVE - FIRST_OCTAVE) * PER_OCTAVE + 1
EDGES: FloatArray = np.exp2(FIRST_OCTAVE + np.arange(BUCKETS) / PER_OCTAVE)
"""Upper ends of the buckets, seconds; bucket j is (EDGES[j-1], EDGES[j]], the first one starts at 0."""
KNOTS: FloatArray = np.concatenate(([0.0], EDGES))
"""0 and the edges: the times at which a forecast is known."""
HORIZON_S = float(EDGES[-1])
_HALF_WIDTHS: FloatArray = np.diff(KNOTS) / 2
_MIDDLES: FloatArray = (KNOTS[:-1] + KNOTS[1:]) / 2
for _array in (EDGES, KNOTS, _HALF_WIDTHS, _MIDDLES):
    _array.flags.writeable = False


def bucket(seconds: float) -> int:
    """The bucket that holds a duration; `BUCKETS` for one beyond the horizon."""
    if seconds <= KNOTS[1]:
        return 0
    if seconds > HORIZON_S:
        return BUCKETS
    # Rounding guard: a duration that equals an edge belongs to the bucket that the edge closes.
    return min(BUCKETS - 1, math.ceil((math.log2(seconds) - FIRST_OCTAVE) * PER_OCTAVE - 1e-9))


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """The remaining time R until a pause ends, counted from the moment of the forecast.

    `returned[j]` = P(R <= KNOTS[j]); `held[j]` = E[min(KNOTS[j], R)] in seconds: how long a lease of
    that length is really held. Both have `BUCKETS + 1` entries, start at 0 and never fall.
    """

    returned: FloatArray
    held: FloatArray

    @staticmethod
    def of(returned: FloatArray) -> Forecast:
        """The forecast with this distribution function at `KNOTS`; E[min(t, R)] is the integral of 1 - P(R <= t).

        Raises `RetentionError` unless it has `BUCKETS + 1` entries, starts at 0, never falls and stays within [0, 1].
        """
        if returned.shape != (BUCKETS + 1,):
            raise RetentionError(f"returned: expected {BUCKETS + 1} entries, got shape {returned.shape}")
        if returned[0] != 0 or np.any(np.diff(returned) < 0) or not returned[-1] <= 1:
            raise RetentionError("returned: must start at 0, never fall, and stay within [0, 1]")
        return _integrated(returned)

    def probability(self, seconds: float) -> float:
        """P(R <= seconds)."""
        return float(np.interp(seconds, KNOTS, self.returned))

    def expected_held(self, seconds: float) -> float:
        """E[min(seconds, R)], seconds; with a ceiling it is the expected remaining pause under that ceiling."""
        return float(np.interp(seconds, KNOTS, self.held))

    def quantile(self, q: float) -> float:
        """The earliest time by which the pause has ended with probability `q` (0 < q <= 1); inf if none is known."""
        if not 0 < q <= 1:
            raise RetentionError(f"quantile: q must be in (0, 1], got {q!r}")
        above = int(np.searchsorted(self.returned, q))
        if above > BUCKETS:
            return math.inf
        low, high = float(self.returned[above - 1]), float(self.returned[above])
        share = (q - low) / (high - low)
        return float(KNOTS[above - 1] + share * (KNOTS[above] - KNOTS[above - 1]))


def _integrated(returned: FloatArray) -> Forecast:
    held = np.empty(BUCKETS + 1)
    held[0] = 0.0
    trapezia = 2.0 - returned[1:]
    trapezia -= returned[:-1]
    trapezia *= _HALF_WIDTHS
    trapezia.cumsum(out=held[1:])
    return Forecast(returned, held)


@dataclass(frozen=True, slots=True, eq=False)
class Life:
    """The distribution of a call's duration D.

    `outlives[j]` = P(D after bucket j | D after bucket j-1), always > 0, for nothing can follow a certain end;
    `survived[j]` = P(D > KNOTS[j]), their running product.
    """

    outlives: FloatArray
    survived: FloatArray

    @staticmethod
    def of(outlives: FloatArray) -> Life:
        """The life with these shares, each in (0, 1]."""
        survived = np.empty(BUCKETS + 1)
        survived[0] = 1.0
        outlives.cumprod(out=survived[1:])
        return Life(outlives, survived)

    def returned(self, elapsed_s: float = 0.0, timeout_s: float = math.inf) -> FloatArray:
        """P(D <= elapsed + KNOTS | D > elapsed). Within a bucket the hazard rate is constant (piecewise exponential).

        `timeout_s` is the call's own limit: it has returned by then, if only as failed.
        """
        if elapsed_s <= 0:
            survived = self.survived
        else:
            left = np.zeros(BUCKETS + 1)
            np.log(self.outlives).cumsum(out=left[1:])
            survived = np.interp(KNOTS + elapsed_s, KNOTS, left)
            survived -= survived[0]
            np.exp(survived, out=survived)
        returned: FloatArray = 1.0 - survived
        if timeout_s < HORIZON_S + elapsed_s:
            returned[max(1, int(KNOTS.searchsorted(timeout_s - elapsed_s))) :] = 1.0
        return returned


def mixture(one: Life, weight: float, other: Life) -> Life:
    """The call is of kind `one` with probability `weight`, else of kind `other`."""
    survived = one.survived * weight
    survived += other.survived * (1.0 - weight)
    np.maximum(survived, 1e-300, out=survived)
    return Life.of(survived[1:] / survived[:-1])


def consecutive(first: FloatArray, second: FloatArray) -> FloatArray:
    """P(X + Y <= KNOTS) of two independent times given at `KNOTS`: the second starts when the first has ended.

    The mass of X in a bucket stands at its middle. Costs about 100 us: for graphs with function calls in a row.
    """
    low, share = _shifts()
    ended = second[low]
    ended += share * (second[low + 1] - ended)
    # Rounding may leave differences of 1e-17 below zero.
    return np.minimum(np.maximum.accumulate(ended @ np.diff(first)), 1.0)


@lru_cache(maxsize=1)
def _shifts() -> tuple[NDArray[np.intp], FloatArray]:
    """Where KNOTS[i] less the middle of bucket j lies: the knot before it and the share of the way to the next."""
    waits = np.maximum(KNOTS[:, None] - _MIDDLES[None, :], 0.0)
    low = np.clip(np.searchsorted(KNOTS, waits, side="right") - 1, 0, BUCKETS - 1)
    return low, (waits - KNOTS[low]) / (KNOTS[low + 1] - KNOTS[low])


def joined(calls: Sequence[FloatArray], after: Sequence[Sequence[int]] = ()) -> Forecast:
    """The end of a pause that waits for all of its calls, given each call's own time at `KNOTS`.

    `after[i]` names the earlier calls of the pause whose end call i waits for; empty = all are parallel.
    Parallel calls end with the slowest: the product of their distribution functions, calls taken as independent.
    """
    if not calls:
        return _integrated(np.concatenate(([0.0], np.ones(BUCKETS))))
    if not any(after):
        return _integrated(_product(calls))
    finished: list[FloatArray] = []
    last = [True] * len(calls)
    for index, (own, waits_for) in enumerate(zip(calls, after, strict=True)):
        end = own
        if waits_for:
            for earlier in waits_for:
                if not 0 <= earlier < index:
                    raise RetentionError(f"call {index}: waits for call {earlier}, which is not an earlier one")
                last[earlier] = False
            end = consecutive(_product([finished[earlier] for earlier in waits_for]), own)
        finished.append(end)
    return _integrated(_product([end for end, is_last in zip(finished, last, strict=True) if is_last]))


def _product(ends: Sequence[FloatArray]) -> FloatArray:
    out = ends[0]
    for end in ends[1:]:
        out = out * end
    return out
