"""Other projects' retention rules at work, and the bounds: what the project's own rule is compared with.

Owns how a TTL rule of `kv_ttl.baselines` becomes a plan, and which chain each project breaks first under pressure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kv_ttl.baselines import ContinuumBenefit, ContinuumPaper, ContinuumPublic, ThunderAgent
from kv_ttl.durations import ToolCall
from kv_ttl.rules import Pause, Rule
from orchestrator.retention.rules import DROP, Plan, Silent, Situation

_UNKNOWN = (ToolCall("unknown"),)


class Lru(Silent):
    """Nothing is kept on purpose: what prefix caching and least recently used eviction leave."""

    name = "lru"
    grace_s = 0.0

    def plan(self, situation: Situation) -> Plan:
        return DROP


class KeepAlways(Silent):
    """Every chain is kept; under pressure the pause that began first goes first."""

    name = "keep_always"

    def plan(self, situation: Situation) -> Plan:
        return Plan(math.inf, math.inf, situation.began_at, situation.ceiling_s)


class Ttl(Silent):
    """A TTL rule, decided once at the pause's start."""

    def __init__(self, name: str, rule: Rule, rank: Callable[[Situation, float], float]) -> None:
        self.name = name
        self._rule = rule
        self._rank = rank

    def plan(self, situation: Situation) -> Plan:
        if situation.now > situation.began_at:
            return DROP  # the time that it planned is over
        ttl_s = self._rule.decide(self._pause(situation))
        return Plan(ttl_s, ttl_s, self._rank(situation, ttl_s), min(ttl_s, situation.ceiling_s))

    def resumed(self, situation: Situation, kept: bool, queue_s: float) -> None:
        seconds = situation.now - situation.began_at
        self._rule.observe(self._pause(situation), [seconds] * len(situation.waits), seconds)

    def saved_s(self, situation: Situation) -> float:
        """What the project takes as saved by a kept chain: its prefill."""
        return situation.recompute_s

    def _pause(self, situation: Situation) -> Pause:
        calls = tuple(one.call for one in situation.waits) or _UNKNOWN
        return Pause(
            situation.request,
            situation.began_at,
            calls,
            self.saved_s(situation),
            demand_share=situation.demand_share,
        )


class ContinuumPaperRule(Ttl):
    """Continuum's paper with its benefit: prefill, and the queue wait of returning turns times their correlation."""

    def __init__(self) -> None:
        super().__init__("continuum_paper", ContinuumPaper(), _latest_expiry_first)
        self._benefit = ContinuumBenefit()

    def saved_s(self, situation: Situation) -> float:
        return self._benefit.saved_s(situation.recompute_s)

    def resumed(self, situation: Situation, kept: bool, queue_s: float) -> None:
        super().resumed(situation, kept, queue_s)
        if not kept:
            self._benefit.waited(queue_s)

    def program_ended(self, program: str, calls: int) -> None:
        self._benefit.program_ended(calls)


class Checked(Ttl):
    """ThunderAgent: asked again at each of its checks, smallest chain first under pressure."""

    def __init__(self) -> None:
        super().__init__("thunderagent", ThunderAgent(), lambda situation, ttl_s: float(situation.tokens))

    def plan(self, situation: Situation) -> Plan:
        if situation.now > situation.began_at and situation.demand_share > 1:
            return DROP
        until_check_s = 5.0 - situation.now % 5.0
        return Plan(until_check_s, until_check_s, float(situation.tokens), situation.ceiling_s)


Foresight = Callable[[str, str], float | None]
"""(program, LLM call) -> seconds from its end to the program's next LLM call; None = there will be none."""


class Oracle(Silent):
    """Every pause is known: a chain is kept to its end where that costs less than it saves; Belady's choice under
    pressure, weighed as the project's own rule weighs it."""

    name = "oracle"
    reconsiders = True

    def __init__(self, foresight: Foresight) -> None:
        self._foresight = foresight

    def plan(self, situation: Situation) -> Plan:
        seconds = self._foresight(situation.program, situation.call)
        if seconds is None:
            return DROP
        left_s = max(0.0, situation.began_at + seconds - situation.now)
        private = situation.chain[-1]
        rank = -(left_s * situation.share) / max(private.recompute_s, 1e-9)
        keep_s = left_s + 1e-3 if private.price * left_s <= private.recompute_s + private.queue_s else 0.0
        hosted = max(0.0, private.recompute_s - private.reload_s)
        host_s = left_s + 1e-3 if private.host_price * left_s < hosted else keep_s
        return Plan(keep_s, max(keep_s, host_s), rank, left_s)


def _latest_expiry_first(situation: Situation, ttl_s: float) -> float:
    return -(situation.now + ttl_s)


def continuum_public() -> Ttl:
    """Continuum's public code: 2 s for tools that are fast in the mean."""
    return Ttl("continuum_public", ContinuumPublic(), _latest_expiry_first)
