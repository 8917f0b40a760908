"""An embedder whose work is seen in traces and metrics: an `embeddings` span below the program whose call asked.

Owns which call the embedder works for: the semantic cache itself knows nothing of programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from orchestrator.caching.options import CacheOptions
from orchestrator.clock import OrchestratorClock
from orchestrator.telemetry import Metrics, ProgramTrace
from semantic_cache.embedders import Embedder
from semantic_cache.embedders.export import MINILM_HUB_ID
from semantic_cache.embedders.protocol import Vector

_asking: ContextVar[tuple[ProgramTrace, str] | None] = ContextVar("tenuto_embedding_for", default=None)


@contextmanager
def embedding_for(trace: ProgramTrace, call: str) -> Iterator[None]:
    """What is embedded in this task meanwhile is embedded for the call."""
    if not trace.recording:
        yield
        return
    token = _asking.set((trace, call))
    try:
        yield
    finally:
        _asking.reset(token)


class TracedEmbedder:
    """An `Embedder` around another. Vectors and digest are the other's."""

    def __init__(self, embedder: Embedder, clock: OrchestratorClock, metrics: Metrics, options: CacheOptions) -> None:
        self._embedder = embedder
        self._clock = clock
        self._metrics = metrics
        self._model = options.embedder_model or Path(options.embedder or MINILM_HUB_ID).name

    @property
    def digest(self) -> str:
        return self._embedder.digest

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    async def embed(self, text: str) -> Vector | None:
        began, began_s = self._clock.wall(), self._clock.now()
        error: str | None = None
        try:
            return await self._embedder.embed(text)
        except BaseException as fault:
            error = type(fault).__name__
            raise
        finally:
            seconds = self._clock.now() - began_s
            self._metrics.embedded(self._model, seconds, error)
            if (asking := _asking.get()) is not None:
                trace, call = asking
                trace.embedding(self._model, call, began, began + seconds, self.dimensions, error)

    async def close(self) -> None:
        await self._embedder.close()
