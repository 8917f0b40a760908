"""What an engine's KV is worth in seconds: learned from the usage of the calls that ended there.

Owns the fits, all bounded and pure. Never touches an engine.
"""

from __future__ import annotations

from collections import OrderedDict

from engine.protocol import Usage

_FORGET = 0.98
"""Weight of the past at each new sample: about 50 calls are remembered."""
_FIRST_GUESS_S = 1e-4
"""Seconds of prefill a token before anything was measured."""
_RIDGE = 1e-6
_STAGES = 4096


class Prefill:
    """Seconds of prefill of `fresh` tokens after `context` cached ones: a fresh + b fresh (context + fresh / 2).

    Linear layers cost by token, attention by token and what lies before it. Least squares with forgetting; where the
    data make a coefficient negative (one size of prompt only), the other one alone is fitted.
    """

    def __init__(self) -> None:
        self._xx = self._xy = self._yy = self._xs = self._ys = 0.0

    def learn(self, fresh: int, context: int, seconds: float) -> None:
        """A prompt was computed in `seconds`."""
        if fresh <= 0 or seconds <= 0:
            return
        x, y = float(fresh), _quadratic(fresh, context)
        # Relative errors count: a long prompt must not drown the short ones.
        weight = 1.0 / (seconds * seconds)
        self._xx = _FORGET * self._xx + weight * x * x
        self._xy = _FORGET * self._xy + weight * x * y
        self._yy = _FORGET * self._yy + weight * y * y
        self._xs = _FORGET * self._xs + weight * x * seconds
        self._ys = _FORGET * self._ys + weight * y * seconds

    def seconds(self, fresh: int, context: int) -> float:
        """Expected seconds."""
        if fresh <= 0:
            return 0.0
        a, b = self._coefficients()
        return a * fresh + b * _quadratic(fresh, context)

    def _coefficients(self) -> tuple[float, float]:
        if self._xx <= 0:
            return _FIRST_GUESS_S, 0.0
        determinant = self._xx * self._yy - self._xy * self._xy
        if determinant > _RIDGE * self._xx * self._yy:
            a = (self._xs * self._yy - self._ys * self._xy) / determinant
            b = (self._ys * self._xx - self._xs * self._xy) / determinant
            if a >= 0 and b >= 0:
                return a, b
            if a < 0:
                return 0.0, self._ys / self._yy
        return self._xs / self._xx, 0.0


def _quadratic(fresh: int, context: int) -> float:
    return fresh * (context + fresh / 2) / 1e4


class Mean:
    """An exponentially weighted mean that starts with its samples' plain mean."""

    __slots__ = ("count", "value")

    def __init__(self, value: float = 0.0, count: float = 0.0) -> None:
        self.value, self.count = value, count

    def add(self, sample: float) -> None:
        self.count = min(1 / (1 - _FORGET), self.count + 1)
        self.value += (sample - self.value) / self.count


class EngineCosts:
    """What one engine's calls cost."""

    def __init__(self) -> None:
        self.prefill = Prefill()
        self._kept = Mean()
        self._lost = Mean()
        self._chars_per_token = Mean(4.0, 1.0)

    def learn(self, usage: Usage, chars: int, kept: bool | None) -> None:
        """A call with a prompt of `chars` characters ended. `kept`: it went on with a chain that was (not) there."""
        self.prefill.learn(usage.prompt_tokens - usage.cached_tokens, usage.cached_tokens, usage.prefill_s)
        if usage.prompt_tokens:
            self._chars_per_token.add(max(0.1, chars / usage.prompt_tokens))
        if kept is not None:
            (self._kept if kept else self._lost).add(usage.queue_s)

    def tokens(self, chars: int) -> int:
        """Expected tokens of a text of `chars` characters."""
        return int(chars / self._chars_per_token.value) + 1

    @property
    def queue_loss_s(self) -> float:
        """How much longer a returning call waits for its first step if its chain has gone."""
        if self._lost.count < 2 or self._kept.count < 2:
            return 0.0
        return max(0.0, self._lost.value - self._kept.value)


class Returns:
    """How often a call of a stage was followed by one that went on with its chain.

    A stage's share is shrunk to its workflow's, that one to `prior`: the posterior mean of a beta distribution with
    `weight` samples' worth of the parent.
    """

    def __init__(self, prior: float = 0.9, weight: float = 2.0) -> None:
        self._prior, self._weight = prior, weight
        self._counts: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def learn(self, workflow: str, stage: str, returned: bool) -> None:
        """The program went on with the chain, or ended without."""
        for key in {(workflow, ""), (workflow, stage)}:
            counts = self._counts.get(key)
            if counts is None:
                counts = self._counts[key] = [0.0, 0.0]
                if len(self._counts) > _STAGES:
                    self._counts.popitem(last=False)
            else:
                self._counts.move_to_end(key)
            counts[0] = counts[0] * _FORGET + returned
            counts[1] = counts[1] * _FORGET + 1.0

    def likely(self, workflow: str, stage: str) -> float:
        """Chance that a call of this stage is gone on with."""
        share = self._prior
        for key in ((workflow, ""), (workflow, stage)):
            returned, count = self._counts.get(key, (0.0, 0.0))
            share = (returned + self._weight * share) / (count + self._weight)
        return share
