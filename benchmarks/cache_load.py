"""The load-adaptive policy against an engine that is asked for more than it can do, in virtual time.

Owns a queue with a fixed number of places. The decisions are the cache's own; nothing is slept or drawn but arrivals.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.cache_stream import Replay, Stream, Tally
from semantic_cache.load import LoadLevel

PLACES, SERVICE_S, QUEUE_TARGET_S = 16, 1.0, 2.0


@dataclass(slots=True)
class Engine:
    """`PLACES` calls at once, one second each; the rest waits in the order of arrival."""

    ends: list[float] = field(default_factory=list)
    waiting: deque[float] = field(default_factory=deque)
    calls: int = 0

    def advance(self, now: float) -> None:
        """Let everything end and start that does so by `now`."""
        while self.ends and self.ends[0] <= now:
            end = heapq.heappop(self.ends)
            if self.waiting:
                self.waiting.popleft()
                heapq.heappush(self.ends, end + SERVICE_S)

    def submit(self, now: float) -> None:
        """One more call."""
        self.calls += 1
        if len(self.ends) < PLACES:
            heapq.heappush(self.ends, now + SERVICE_S)
        else:
            self.waiting.append(now)


def overloaded(
    stream: Stream, make: Callable[[], Replay], order: Sequence[int], *, over: float, adapt: bool, seed: int
) -> tuple[int, Tally]:
    """Calibrate on the first half at rest, then let the second half arrive so fast that the cache at rest would send
    the engine `over` times its capacity. Returns the engine's calls and the hits of that second half."""
    replay, half = make(), len(order) // 2
    at_rest = [replay.ask(q)[0] for q in order[:half]]
    recent = at_rest[-half // 4 :]
    miss_rate = 1 - sum(recent) / len(recent)
    gaps = np.random.default_rng(seed).exponential(miss_rate / (over * PLACES / SERVICE_S), len(order) - half)
    engine, level, tally, now = Engine(), LoadLevel(), Tally(), 0.0
    for question, gap in zip(order[half:], gaps, strict=True):
        now += float(gap)
        engine.advance(now)
        queue_s = now - engine.waiting[0] if engine.waiting else 0.0
        load = level.observe(now, queue_s=queue_s, target_s=QUEUE_TARGET_S, running=len(engine.ends), capacity=PLACES)
        hit, right = replay.ask(question, load if adapt else 0.0)
        if not hit:
            engine.submit(now)
        tally.count(stream.categories[question], hit, right)
    return engine.calls, tally
