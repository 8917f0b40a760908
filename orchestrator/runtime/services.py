"""What running calls needs, put together once per server."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from engine.protocol import Engine
from orchestrator.caching.call_cache import CallCache, NoCallCache
from orchestrator.clock import OrchestratorClock
from orchestrator.engines import EnginePool
from orchestrator.limits import Limits
from orchestrator.retention import Retention
from orchestrator.runtime.gate import Gate
from orchestrator.runtime.occupancy import Occupancy
from orchestrator.runtime.placing import Placing
from orchestrator.runtime.priorities import Priorities
from orchestrator.scheduling import Footprints, StageStatistics
from orchestrator.telemetry import Metrics
from orchestrator.tools import Toolbox, WorkerEngine, WorkerPool


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a server that calls run on. Each is replaced by a double in tests, none is optional."""

    clock: OrchestratorClock
    engines: EnginePool
    workers: WorkerPool
    tools: Toolbox
    priorities: Priorities
    statistics: StageStatistics
    limits: Limits
    rng: Random
    metrics: Metrics
    retention: Retention
    placing: Placing
    occupancy: Occupancy = field(default_factory=Occupancy)
    footprints: Footprints = field(default_factory=Footprints)
    cache: CallCache = field(default_factory=NoCallCache)

    def place(self, model: str | None, *, tenant: str, toolset: str | None) -> tuple[Engine, Gate | None]:
        """The engine of a call, and its gate: a model that the program's own workers host, else one of the server's.

        A model that the server lacks is taken to be a hosted one whose worker will come (after a restart it may be
        late); such an engine needs no gate, since workers have queues of their own. Raises `NoEngine`.
        """
        if model is None or (model in self.engines.models() and not self.workers.hosts(tenant, toolset, model)):
            engine = self.engines.for_model(model)
            return engine, self.priorities.gate(engine)
        return WorkerEngine(self.workers, clock=self.clock, tenant=tenant, toolset=toolset or "", model=model), None

    def serves(self, model: str | None, *, tenant: str, toolset: str | None) -> bool:
        """True if a call for `model` could run now."""
        if model is None:
            return self.engines.default is not None
        return model in self.engines.models() or self.workers.hosts(tenant, toolset, model)
