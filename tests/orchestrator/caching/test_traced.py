"""The cache's embedder is seen in traces and metrics, as working for the call that asked."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from orchestrator.caching.options import CacheOptions
from orchestrator.caching.traced import TracedEmbedder, embedding_for
from orchestrator.telemetry import Meters, NullTelemetry
from orchestrator.telemetry.conventions import span_faults
from orchestrator.virtual_time import VirtualClock
from semantic_cache import EmbedderError
from semantic_cache.embedders.protocol import Vector
from tenuto.wire import CacheControl
from tests.orchestrator.caching.conftest import Start
from tests.orchestrator.caching.test_runtime import NEAR, ask
from tests.orchestrator.runtime.support import ScriptedEngine, function, llm, var
from tests.orchestrator.telemetry.collected import wall
from tests.orchestrator.telemetry.test_spans import Collected, attributes
from tests.semantic_cache.doubles import ChosenEmbedder

OFF = CacheControl(mode="off")


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


async def test_spans_of_cached_calls_say_what_the_cache_found_and_keep_their_links(start: Start) -> None:
    collected = Collected()
    server = await start(ChosenEmbedder(**NEAR), engine=ScriptedEngine(lambda _: "four"), telemetry=collected.telemetry)
    server.worker(look=lambda: "q")
    for text in ("how many cats are there?", "how many cats exist?"):
        call = llm("answer", "Answer: ", var("q"), question="q", category="chat", after=("t",))
        view = await ask(server, function("t", "look"), call, llm("next", var("answer"), cache=OFF), inputs={"q": text})
    assert view.call_views[1].cache is not None and view.call_views[1].cache.tier == "semantic"
    spans = [(span, attributes(span)) for span in collected.all]
    assert all(span_faults(span.name, told) == [] for span, told in spans)
    embeddings = [told["tenuto.call.id"] for span, told in spans if span.name.startswith("embeddings ")]
    assert embeddings == ["answer", "answer"]
    miss, hit = ((span, told) for span, told in spans if told.get("tenuto.call.id") == "answer" and "chat" in span.name)
    assert miss[1]["tenuto.cache.verdict"].startswith("miss: ") and miss[1]["tenuto.cache.category"] == "chat"
    assert hit[0].name == "chat scripted" and hit[1]["tenuto.cache.verdict"] == "hit: semantic"
    assert hit[1]["tenuto.cache.similarity"] == pytest.approx(0.97, abs=0.01)
    for span, told in (miss, hit):
        assert [dict(link.attributes or {}) for link in span.links] == [{"tenuto.variable.producer": "t"}]
        assert told["tenuto.variable.consumers"] == ("next",)
