"""Engines as the orchestrator sees them: a pool by model, each engine kept alive by a supervisor."""

from orchestrator.engines.errors import EngineNotReady, NoEngine, UnknownModel
from orchestrator.engines.pool import EnginePool, replica_name
from orchestrator.engines.supervisor import (
    Backoff,
    EngineFactory,
    EngineHandle,
    EngineState,
    EngineStatus,
    SupervisedEngine,
)

__all__ = [
    "Backoff",
    "EngineFactory",
    "EngineHandle",
    "EngineNotReady",
    "EnginePool",
    "EngineState",
    "EngineStatus",
    "NoEngine",
    "SupervisedEngine",
    "UnknownModel",
    "replica_name",
]
