"""Rules of retention, by name: what is done with the KV of a program that pauses. Pure; no engine, no clock.

Owns the project's own rule and the registry. Other projects' rules, and the bounds, are in `baselines`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from kv_ttl.decision import CEILING_S, BlockRange, choose, prefetch_at
from kv_ttl.durations import DurationModel, Outstanding, ToolCall
from kv_ttl.errors import UnknownCall

GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class Situation:
    """A paused program's chain, at the moment when its future is decided.

    Attributes:
        program, call: the program and its LLM call that left the chain; `request` names the chain.
        began_at: when the pause began; `now` is the moment of the decision.
        waits: the calls that must return before the next LLM call, in the order of `Outstanding.after`.
        chain: its block ranges, root first; costs and prices as `kv_ttl.decision` defines them.
        tokens: kept for this program alone; `pool_tokens`: that fit on the device.
        demand_share: tokens of all running and kept chains / tokens that fit; above 1 memory is short.
        likely: chance that any call will go on with the chain.
    """

    request: str
    program: str
    call: str
    began_at: float
    now: float
    waits: tuple[Outstanding, ...]
    chain: tuple[BlockRange, ...]
    tokens: int
    pool_tokens: int
    demand_share: float
    likely: float = 1.0
    ceiling_s: float = CEILING_S

    @property
    def recompute_s(self) -> float:
        """Prefill seconds to make the chain again."""
        return sum(one.recompute_s for one in self.chain)

    @property
    def share(self) -> float:
        """Share of the device's memory."""
        return self.tokens / self.pool_tokens if self.pool_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds from now: on the device for `keep_s`, then on the host until `host_s`, then dropped.

    `rank`: under pressure the smallest goes first. `remaining_s`: the expected rest of the pause. `prefetch_s`: when
    to start the copy back from the host; inf = when the call is back.
    """

    keep_s: float
    host_s: float
    rank: float
    remaining_s: float
    prefetch_s: float = math.inf


DROP = Plan(0.0, 0.0, -math.inf, 0.0)


class RetentionRule(Protocol):
    """Decides at a pause, is asked again at the end of what it planned, and hears how pauses and calls ended.

    `reconsiders`: it may also be asked in between, when memory's price or the calls that are awaited have changed.
    `grace_s`: how long an engine keeps a chain by itself, until the decision on it arrives; 0 = not at all.
    """

    @property
    def name(self) -> str: ...

    @property
    def reconsiders(self) -> bool: ...

    @property
    def grace_s(self) -> float: ...

    def plan(self, situation: Situation) -> Plan: ...

    def started(self, id: Hashable, call: ToolCall, now: float) -> None:
        """A function call runs."""
        ...

    def returned(self, id: Hashable, now: float) -> None:
        """It has returned, well or failed."""
        ...

    def cancelled(self, id: Hashable) -> None:
        """It will never return."""
        ...

    def observe(self, call: ToolCall, seconds: float) -> None:
        """A wait that no function call explains has ended."""
        ...

    def resumed(self, situation: Situation, kept: bool, queue_s: float) -> None:
        """The program's next call was served: its pause had ended at `situation.now`. `kept`: its chain was there."""
        ...

    def program_ended(self, program: str, calls: int) -> None: ...


class Silent:
    """A rule that learns nothing."""

    reconsiders = False
    grace_s = GRACE_S

    def started(self, id: Hashable, call: ToolCall, now: float) -> None: ...

    def returned(self, id: Hashable, now: float) -> None: ...

    def cancelled(self, id: Hashable) -> None: ...

    def observe(self, call: ToolCall, seconds: float) -> None: ...

    def resumed(self, situation: Situation, kept: bool, queue_s: float) -> None: ...

    def program_ended(self, program: str, calls: int) -> None: ...


class Tenuto:
    """The project's own: expected value of keep, host and drop under memory's price, from the learned durations.

    Under pressure that chain goes first whose expected rest of the pause x share of memory / seconds to make it
    again is largest.
    """

    name = "tenuto"
    reconsiders = True
    grace_s = GRACE_S

    def __init__(self, model: DurationModel | None = None) -> None:
        self.model = DurationModel() if model is None else model

    def plan(self, situation: Situation) -> Plan:
        forecast = self.model.forecast(situation.waits, situation.now)
        remaining_s = forecast.expected_held(situation.ceiling_s)
        private = situation.chain[-1]
        # However often it is decided anew: no pause is sat out on the device for longer than the ceiling.
        left_s = max(0.0, situation.ceiling_s - (situation.now - situation.began_at))
        choice = choose(forecast, situation.chain, left_s)[-1]
        rank = -(remaining_s * situation.share) / max(private.recompute_s, 1e-9)
        prefetch_s = math.inf
        if choice.host_s > choice.keep_s and private.reload_s > 0:
            prefetch_s = prefetch_at(forecast, situation.tokens, situation.tokens / private.reload_s)
        return Plan(choice.keep_s, choice.host_s, rank, remaining_s, prefetch_s)

    def started(self, id: Hashable, call: ToolCall, now: float) -> None:
        self.model.started(id, call, now)

    def returned(self, id: Hashable, now: float) -> None:
        with contextlib.suppress(UnknownCall):  # it never reached a worker
            self.model.returned(id, now)

    def cancelled(self, id: Hashable) -> None:
        with contextlib.suppress(UnknownCall):
            self.model.cancelled(id)

    def observe(self, call: ToolCall, seconds: float) -> None:
        self.model.observe(call, seconds)

    def resumed(self, situation: Situation, kept: bool, queue_s: float) -> None:
        """The function calls have told it all."""

    def program_ended(self, program: str, calls: int) -> None:
        self.model.end_program(program)
