"""How much of a new program's prompt others have computed already: learned by workflow and stage. Pure."""

from __future__ import annotations

from orchestrator.scheduling.learned import Learned
from orchestrator.scheduling.statistics import stage_of
from tenuto.wire import Call


class Footprints:
    """Tokens that calls without a history of their own found in an engine's cache."""

    def __init__(self) -> None:
        self._shared = Learned(prior=0.0)

    def learn(self, workflow: str, call: Call, cached_tokens: int) -> None:
        """A call that continued nothing found so much."""
        self._shared.learn(workflow, float(cached_tokens), stage_of(call))

    def shared(self, workflow: str, call: Call) -> int:
        """What such a call will find: the median; 0 while little is known."""
        return int(self._shared.quantile(workflow, 0.5, stage_of(call)) or 0.0)
