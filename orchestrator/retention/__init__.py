"""What is kept of a paused program's KV, where, and until when: the decisions of `kv_ttl` at work in the runtime."""

from __future__ import annotations

from orchestrator.retention.chains import Chain
from orchestrator.retention.registry import RULES, UnknownRule, make_rule
from orchestrator.retention.retention import Retention, request_id
from orchestrator.retention.rules import Plan, RetentionRule, Situation, Tenuto
from orchestrator.retention.views import EngineLeases, PausedChain
from orchestrator.retention.visits import Visit

__all__ = [
    "RULES",
    "Chain",
    "EngineLeases",
    "PausedChain",
    "Plan",
    "Retention",
    "RetentionRule",
    "Situation",
    "Tenuto",
    "UnknownRule",
    "Visit",
    "make_rule",
    "request_id",
]
