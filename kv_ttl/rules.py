"""A retention rule's interface, and the project's own rule behind it.

Owns what every rule may know of a pause, so that rules can be compared. The baselines are in `baselines`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kv_ttl.decision import CEILING_S, ttl
from kv_ttl.durations import DurationModel, Outstanding, ToolCall
from kv_ttl.errors import RetentionError


@dataclass(frozen=True, slots=True)
class Pause:
    """A program that waits for function calls, as it is when its TTL is decided.

    Attributes:
        key: unique among the pauses that are not over.
        calls: the calls it waits for; `after[i]` as in `Outstanding`, empty for parallel calls.
        saved_s: seconds that the kept chain saves at the return.
        price: shadow price of its memory; 1 = a second of residence costs a second.
        demand_share: tokens of all live programs / tokens that fit on the device; above 1 memory is short.
        known_s: the true length of the pause, for the oracle alone.
    """

    key: str
    now: float
    calls: tuple[ToolCall, ...]
    saved_s: float
    price: float = 1.0
    after: tuple[tuple[int, ...], ...] = ()
    demand_share: float = math.inf
    known_s: float | None = None

    def __post_init__(self) -> None:
        if not self.calls:
            raise RetentionError(f"pause {self.key!r}: waits for no call")
        if self.after and len(self.after) != len(self.calls):
            raise RetentionError(f"pause {self.key!r}: {len(self.after)} entries in after for {len(self.calls)} calls")


class Rule(Protocol):
    """Decides how long a chain is kept through a pause and learns from pauses that ended."""

    name: str

    def decide(self, pause: Pause) -> float:
        """The TTL in seconds from the pause's start; 0 = do not keep, inf = keep without end."""
        ...

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """The pause ended after `seconds`; `durations[i]` is the time of its call i alone."""
        ...


class StopAware:
    """The project's rule: the learned duration model under `decision.ttl`, calls still running used as censored."""

    name = "stop-aware"

    def __init__(self, model: DurationModel | None = None, ceiling_s: float = CEILING_S) -> None:
        self.model = DurationModel() if model is None else model
        self._ceiling_s = ceiling_s

    def decide(self, pause: Pause) -> float:
        """The TTL of largest expected value."""
        after = pause.after or ((),) * len(pause.calls)
        outstanding: list[Outstanding] = []
        for index, (call, waits_for) in enumerate(zip(pause.calls, after, strict=True)):
            if not waits_for:
                self.model.started((pause.key, index), call, pause.now)
            outstanding.append(Outstanding(call, None if waits_for else pause.now, waits_for))
        return ttl(self.model.forecast(outstanding, pause.now), pause.saved_s, pause.price, self._ceiling_s)

    def observe(self, pause: Pause, durations: Sequence[float], seconds: float) -> None:
        """Learn each call's duration."""
        after = pause.after or ((),) * len(pause.calls)
        for index, (call, duration, waits_for) in enumerate(zip(pause.calls, durations, after, strict=True)):
            if waits_for:
                self.model.observe(call, duration)
            else:
                self.model.returned((pause.key, index), pause.now + duration)
