"""Engine steps become spans of their own that link to the requests in them, and to nobody who is not recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

from opentelemetry.trace import SpanKind

from engine.protocol import EngineEvent, EngineEventKind, EngineStep
from orchestrator.telemetry import NullTelemetry, StepSpans
from orchestrator.telemetry.conventions import span_faults
from tests.orchestrator.runtime.support import ScriptedEngine
from tests.orchestrator.telemetry.collected import wall
from tests.orchestrator.telemetry.test_spans import CLIENT, Collected, attributes

OTHER = f"00-{'ab' * 16}-{'cd' * 8}-01"
UNSAMPLED = f"{CLIENT[:-2]}00"


class Stepping(ScriptedEngine):
    """Tells of steps, and then nothing more."""

    def __init__(self, *steps: EngineStep) -> None:
        super().__init__()
        self.steps = steps
        self.told = asyncio.Event()

    async def events(self) -> AsyncIterator[EngineEvent]:
        yield EngineEvent(EngineEventKind.STORED, "p", 1)
        for step in self.steps:
            yield EngineEvent(EngineEventKind.STEP, "", 0, step=step)
        self.told.set()
        await asyncio.Event().wait()


async def test_a_step_links_to_its_requests_and_has_no_parent() -> None:
    collected = Collected()
    engine = Stepping(
        EngineStep(0.5, 2, 0, (CLIENT, OTHER, UNSAMPLED)),
        EngineStep(0.1, 1, 7, (UNSAMPLED,)),
        EngineStep(0.1, 0, 7, ()),
    )
    steps = StepSpans(collected.telemetry, wall)
    steps.start([engine])
    await engine.told.wait()
    await steps.close()
    (span,) = collected.all
    assert span.name == f"engine_step {engine.name}" and span.kind is SpanKind.INTERNAL and span.parent is None
    assert [f"{link.context.span_id:016x}" for link in span.links] == [CLIENT[36:52], OTHER[36:52]]
    context = span.get_span_context()
    assert context is not None and f"{context.trace_id:032x}" not in (CLIENT[3:35], OTHER[3:35])
    assert span_faults(span.name, attributes(span)) == []
    assert attributes(span)["tenuto.step.decodes"] == 2 and attributes(span)["tenuto.step.prompt_tokens"] == 0
    assert span.start_time is not None and span.end_time is not None
    assert span.end_time - span.start_time == 500_000_000 and span.end_time == int(wall()) * 10**9


async def test_nobody_listens_to_steps_where_nothing_is_recorded() -> None:
    engine = Stepping(EngineStep(0.5, 2, 0, (CLIENT,)))
    steps = StepSpans(NullTelemetry(Random(0)), wall)
    steps.start([engine])
    await asyncio.sleep(1.0)
    assert not engine.told.is_set()
    await steps.close()
