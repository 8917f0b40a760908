"""The cache's embedder is seen in traces and metrics, as working for the call that asked."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from orchestrator.caching.options import CacheOptions
from orchestrator.caching.traced import TracedEmbedder, embedding_for
from orchestrator.telemetry import Meters, NullTelemetry
from orchestrator.telemetry.conventions import span_faults
from semantic_cache import EmbedderError
from semantic_cache.embedders.protocol import Vector
from tests.orchestrator.runtime.support import VirtualClock
from tests.orchestrator.telemetry.collected import wall
from tests.orchestrator.telemetry.test_spans import Collected, attributes


class Slow:
    """Takes two seconds; breaks on "bad"."""

    digest, dimensions = "d", 3

    def __init__(self, clock: VirtualClock) -> None:
        self.clock, self.closed = clock, False

    async def embed(self, text: str) -> Vector | None:
        await self.clock.sleep(2.0)
        if text == "bad":
            raise EmbedderError("broken")
        return np.ones(3, np.float32)

    async def close(self) -> None:
        self.closed = True


async def test_an_embedding_is_a_span_below_the_program_and_is_counted() -> None:
    collected, meters, clock = Collected(), Meters(wall), VirtualClock()
    options = CacheOptions(
        mode="semantic", embedder="http://127.0.0.1:9", embedder_model="small", embedder_dimensions=3
    )
    embedder = TracedEmbedder(Slow(clock), clock, meters, options)
    program = collected.telemetry.program("p", "w", clock.wall(), None)
    with embedding_for(program, "c"):
        assert await embedder.embed("good") is not None
        with pytest.raises(EmbedderError):
            await embedder.embed("bad")
    assert await embedder.embed("for nobody") is not None
    with embedding_for(NullTelemetry(Random(0)).program("p", "w", 0.0, None), "c"):
        await embedder.embed("nobody records this")
    good, bad = collected.all
    for span in (good, bad):
        assert span_faults(span.name, attributes(span)) == [] and span.name == "embeddings small"
        assert span.parent is not None and f"{span.parent.span_id:016x}" == program.traceparent[36:52]
        assert span.end_time is not None and span.start_time is not None
        assert span.end_time - span.start_time == pytest.approx(2e9, abs=1000)
    assert "error.type" not in attributes(good) and attributes(bad)["error.type"] == "EmbedderError"
    text = meters.exposition().decode()
    assert 'gen_ai_operation_name="embeddings"' in text and 'error_type="EmbedderError"' in text
    assert (embedder.digest, embedder.dimensions) == ("d", 3)
    await embedder.close()
