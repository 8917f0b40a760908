"""Function calls: the workers that run them, the order of their effects, and what counts as a result."""

from __future__ import annotations

from orchestrator.tools.effects import EffectOrder
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.hosted import WorkerEngine
from orchestrator.tools.pool import WorkerPool
from orchestrator.tools.runs import ToolHost, ToolRun
from orchestrator.tools.toolbox import Toolbox

__all__ = [
    "CallFailure",
    "EffectOrder",
    "FailureType",
    "ToolHost",
    "ToolRun",
    "Toolbox",
    "WorkerEngine",
    "WorkerPool",
]
