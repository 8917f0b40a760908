"""Function calls: the workers that run them, the order of their effects, and what counts as a result."""

from __future__ import annotations

from orchestrator.tools.effects import EffectOrder
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.hosted import WorkerEngine
from orchestrator.tools.pool import ToolRun, WorkerPool

__all__ = ["CallFailure", "EffectOrder", "FailureType", "ToolRun", "WorkerEngine", "WorkerPool"]
