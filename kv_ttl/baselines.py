"""Other projects' retention rules, and the bounds: what the project's own rule is compared with.

Owns their faithful reading, with the source of each. Never used to serve unless someone asks for one by name.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence

from kv_ttl.rules import Pause


class Fixed:
    """The same TTL for every pause; `never` and `keep-always` are its ends."""

    def __init__(self, ttl_s: float) -> None:
        self.name = {0.0: "never", math.inf: "keep-always"}.get(ttl_s, f"fixed {ttl_s:g} s")
        self._ttl_s = ttl_s

    def decide(self, pause: Pause) -> float:
        """The fixed TTL."""
        return self._ttl_s

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """Learns nothing."""


class ContinuumPublic:
    """What Continuum's public code does (Hanchenli/vllm-continuum at 3761e57): 2 s if the tool's plain mean is <= 2 s.

    An unseen tool counts as 0 s. Calls are known by their set of tools (the code itself finds a tool only in
    one fenced shell block; here it gets the name, which is to its advantage).
    """

    name = "continuum public"

    def __init__(self) -> None:
        self._totals: dict[str, tuple[int, float]] = {}

    def decide(self, pause: Pause) -> float:
        """2 s or 0."""
        count, total = self._totals.get(_tools(pause), (0, 0.0))
        return 2.0 if total <= 2.0 * count else 0.0

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """Add to the tool's mean over all time."""
        count, total = self._totals.get(_tools(pause), (0, 0.0))
        self._totals[_tools(pause)] = (count + 1, total + seconds)


class ContinuumPaper:
    """The rule of Continuum's paper (arXiv 2511.02230): maximise P(t, f) B - t over {0} and the durations seen.

    P is the share of all recorded durations of tool f that are <= t. With at most `enough` samples of the
    tool: of all tools; with at most `enough` of these: durations are taken as exponential with mean 1 s, so
    t = max(0, ln B). The paper gives `enough` = 100 and no rule for ties (here: the shorter).
    """

    def __init__(self, enough: int = 100) -> None:
        self.name = "continuum paper" if enough == 100 else f"continuum paper, K={enough}"
        self._enough = enough
        self._all = _Durations()
        self._by_tool: dict[str, _Durations] = {}

    def decide(self, pause: Pause) -> float:
        """The TTL of largest P B - t."""
        if len(self._all) <= self._enough:
            return max(0.0, math.log(pause.saved_s)) if pause.saved_s > 0 else 0.0
        own = self._by_tool.get(_tools(pause))
        return (own if own is not None and len(own) > self._enough else self._all).best(pause.saved_s)

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """Record the duration for the tool and for all."""
        self._all.add(seconds)
        self._by_tool.setdefault(_tools(pause), _Durations()).add(seconds)


class ContinuumBenefit:
    """What Continuum's paper takes as saved by a kept chain: T x eta + prefill seconds.

    T: mean of the last 100 extra queue waits of returning calls whose KV was evicted. eta: -Corr(k, N - k) over
    (turns served, turns left) of ended programs, 1 before there are any two that differ.
    """

    def __init__(self, window: int = 100) -> None:
        self._waits: deque[float] = deque(maxlen=window)
        self._sums = [0.0] * 6

    def waited(self, extra_s: float) -> None:
        """An evicted program's call waited this much longer than it would have with its KV."""
        self._waits.append(extra_s)

    def program_ended(self, turns: int) -> None:
        """A program ended after so many turns."""
        for served in range(1, turns + 1):
            left = turns - served
            for at, term in enumerate((1, served, left, served * left, served * served, left * left)):
                self._sums[at] += term

    @property
    def eta(self) -> float:
        """-Corr(served, left), in [-1, 1]."""
        count, served, left, product, served2, left2 = self._sums
        spread = (count * served2 - served * served) * (count * left2 - left * left)
        return -(count * product - served * left) / math.sqrt(spread) if spread > 0 else 1.0

    def saved_s(self, prefill_s: float) -> float:
        """Seconds saved by a kept chain whose prefill takes `prefill_s`."""
        mean = sum(self._waits) / len(self._waits) if self._waits else 0.0
        return mean * self.eta + prefill_s


class ThunderAgent:
    """ThunderAgent (arXiv 2602.13692), as far as it decides a TTL: keep until a check finds memory short.

    It compares the live programs' tokens with the engine's capacity every 5 s and pauses programs that wait for
    tools first, smallest first. Which programs it takes at a check is a choice among programs, not a TTL;
    taken alone, a paused program is dropped at the next check while demand exceeds capacity.
    """

    name = "thunderagent"

    def __init__(self, period_s: float = 5.0) -> None:
        self._period_s = period_s

    def decide(self, pause: Pause) -> float:
        """Until the next check if memory is short, else without end."""
        if pause.demand_share <= 1:
            return math.inf
        return self._period_s - pause.now % self._period_s

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """Learns nothing."""


class Oracle:
    """Knows each pause: keep to its end exactly when that costs less than it saves. The bound of every rule."""

    name = "oracle"

    def decide(self, pause: Pause) -> float:
        """The pause's true length or 0. Raises `ValueError` where the pause does not tell it."""
        if pause.known_s is None:
            raise ValueError(f"pause {pause.key!r}: the oracle needs known_s")
        return pause.known_s if pause.price * pause.known_s < pause.saved_s else 0.0

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """Knows already."""


def _tools(pause: Pause) -> str:
    return "+".join(sorted({call.tool for call in pause.calls}))


class _Durations:
    """Recorded durations, sorted."""

    __slots__ = ("_sorted",)

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, seconds: float) -> None:
        insort(self._sorted, seconds)

    def best(self, saved_s: float) -> float:
        """argmax over {0} and the recorded d of saved x share(<= d) - d; the smallest of equals."""
        # Beyond `saved` even a certain return is worth less than nothing.
        useful = bisect_left(self._sorted, saved_s)
        best, at = saved_s * bisect_right(self._sorted, 0.0) / len(self._sorted), 0.0
        for rank, seconds in enumerate(self._sorted[:useful], start=1):
            worth = saved_s * rank / len(self._sorted) - seconds
            if worth > best:
                best, at = worth, seconds
        return at
