"""What calls and programs of a workflow are expected to need, learned from those that ended. Pure.

Owns shrinkage: a stage that was seen twice is believed a little, its workflow more, all workflows together most.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import accumulate

PSEUDO_SAMPLES = 4.0
"""How many samples of its own a key needs to be believed as much as the next wider one."""


class Sample:
    """The last `size` observations, also sorted: means, quantiles and mean residuals. Every operation is O(size)."""

    __slots__ = ("_arrival", "_size", "_sorted", "_sum", "_sums")

    def __init__(self, size: int = 128) -> None:
        self._size = size
        self._arrival: deque[float] = deque()
        self._sorted: list[float] = []
        self._sum = 0.0
        self._sums: list[float] | None = None  # of the first n values, for all n; made when asked for

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """Learn one observation; the oldest goes when there are too many."""
        if len(self._arrival) == self._size:
            oldest = self._arrival.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._sum -= oldest
        self._arrival.append(value)
        insort(self._sorted, value)
        self._sum += value
        self._sums = None

    @property
    def average(self) -> float:
        """The plain mean. Raises ZeroDivisionError if nothing was learned."""
        return self._sum / len(self._sorted)

    def mean(self, prior: float) -> float:
        """The mean, drawn towards `prior` as if that had been seen `PSEUDO_SAMPLES` times."""
        return (max(0.0, self._sum) + PSEUDO_SAMPLES * prior) / (len(self._sorted) + PSEUDO_SAMPLES)

    def residual(self, reached: float, prior: float) -> float:
        """E[X - reached | X > reached], drawn towards `prior` as `mean` is."""
        above = bisect_right(self._sorted, reached)
        count = len(self._sorted) - above
        if self._sums is None:
            self._sums = list(accumulate(self._sorted, initial=0.0))
        total = max(0.0, self._sums[-1] - self._sums[above] - count * reached)
        return (total + PSEUDO_SAMPLES * prior) / (count + PSEUDO_SAMPLES)

    def quantile(self, q: float) -> float:
        """The `q`-quantile (0..1). Raises IndexError if nothing was learned."""
        return self._sorted[min(len(self._sorted) - 1, int(q * len(self._sorted)))]


class Learned:
    """Samples by (workflow, stage), by workflow, and of everything, each drawn towards the next wider one.

    Bounded: of at most `keys` keys, the one least recently learned is forgotten first.
    """

    def __init__(self, *, prior: float, keys: int = 10_000) -> None:
        self._prior = prior
        self._keys = keys
        self._samples: OrderedDict[tuple[str, ...], Sample] = OrderedDict()

    def learn(self, workflow: str, value: float, stage: str | None = None) -> None:
        """One observation: of a stage's call, or of a whole program where `stage` is None."""
        for key in _path(workflow, stage):
            sample = self._samples.get(key)
            if sample is None:
                sample = self._samples[key] = Sample()
                if len(self._samples) > self._keys:
                    self._samples.popitem(last=False)
            else:
                self._samples.move_to_end(key)
            sample.add(value)

    def mean(self, workflow: str, stage: str | None = None, hint: float | None = None) -> float:
        """The expected value. `hint`: the client's own expectation, which stands where the workflow is not known."""
        expected = self._prior if hint is None else hint
        return self._narrowed(workflow, stage, expected, Sample.mean, known_only=hint is not None)

    def residual(self, workflow: str, reached: float, stage: str | None = None) -> float:
        """What is expected to follow of something that has `reached` this much and goes on.

        Without evidence as much again as it has had, which is the mean residual of Pareto's law and what lengths
        of agent sessions resemble; at least the prior.
        """

        def narrow(sample: Sample, prior: float) -> float:
            return sample.residual(reached, prior)

        return self._narrowed(workflow, stage, max(self._prior, reached), narrow)

    def quantile(self, workflow: str, q: float, stage: str | None = None) -> float | None:
        """The `q`-quantile of the narrowest key with at least `PSEUDO_SAMPLES` observations; None if there is none."""
        for key in reversed(_path(workflow, stage)):
            sample = self._samples.get(key)
            if sample is not None and len(sample) >= PSEUDO_SAMPLES:
                return sample.quantile(q)
        return None

    def _narrowed(
        self,
        workflow: str,
        stage: str | None,
        expected: float,
        narrow: Callable[[Sample, float], float],
        known_only: bool = False,
    ) -> float:
        for key in _path(workflow, stage)[1 if known_only else 0 :]:
            sample = self._samples.get(key)
            if sample is not None:
                expected = narrow(sample, expected)
        return expected


class Lifetimes:
    """How long things of a workflow still go on that nobody declared, if how long they have lasted tells nothing.

    All that was lived / ends seen: the maximum-likelihood mean of an exponential law when some have not ended yet
    (Epstein and Sobel, 1953). The living count, so the short ones that end first do not deceive. A workflow is drawn
    towards all workflows as if one of those had ended in it; without any end the rest is endless. The last
    `window` ends weigh most. Bounded like `Learned`.
    """

    def __init__(self, *, window: int = 128, keys: int = 10_000) -> None:
        self._kept = 1 - 1 / window
        self._keys = keys
        self._lived: OrderedDict[tuple[str, ...], tuple[float, float]] = OrderedDict()

    def live(self, workflow: str, seconds: float) -> None:
        """Something of the workflow has gone on for so long."""
        for key in _path(workflow, None):
            lived, ends = self._lived.get(key, (0.0, 0.0))
            self._put(key, lived + seconds, ends)

    def end(self, workflow: str) -> None:
        """Something of the workflow has ended."""
        for key in _path(workflow, None):
            lived, ends = self._lived.get(key, (0.0, 0.0))
            self._put(key, lived * self._kept, ends * self._kept + 1)

    def _put(self, key: tuple[str, ...], lived: float, ends: float) -> None:
        self._lived[key] = (lived, ends)
        self._lived.move_to_end(key)
        if len(self._lived) > self._keys:
            self._lived.popitem(last=False)

    def rest(self, workflow: str) -> float:
        """Expected rest of what goes on; inf if nothing has ended yet."""
        (all_lived, all_ends), (lived, ends) = (self._lived.get(key, (0.0, 0.0)) for key in _path(workflow, None))
        return (lived + all_lived / all_ends) / (ends + 1) if all_ends else math.inf


def _path(workflow: str, stage: str | None) -> tuple[tuple[str, ...], ...]:
    """Keys from the widest to the narrowest."""
    return ((), (workflow,)) if stage is None else ((), (workflow,), (workflow, stage))
