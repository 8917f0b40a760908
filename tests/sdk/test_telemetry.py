"""One trace from the workflow's span to the server's and the tool's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tenuto import AsyncClient, CallFailed, telemetry, tool, workflow
from tests.sdk.conftest import Recorder


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("tenuto"))
    yield exporter
    provider.shutdown()


async def test_a_workflow_has_a_span_and_the_server_continues_its_trace(
    client: AsyncClient, spans: InMemorySpanExporter
) -> None:
    seen: list[int] = []

    @tool(effects="read")
    async def look() -> int:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return 1

    @workflow
    async def wf() -> int:
        assert trace.get_current_span().get_span_context().is_valid
        return await look()

    run = await wf.asubmit()
    assert await run.result() == 1
    (span,) = spans.get_finished_spans()
    assert span.name == "invoke_workflow wf" and span.kind is trace.SpanKind.INTERNAL
    assert span.attributes == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "wf",
        "tenuto.program.id": run.id,
    }
    trace_id = span.context.trace_id
    assert run.trace_id == f"{trace_id:032x}" and seen == [trace_id]
    assert not trace.get_current_span().get_span_context().is_valid


async def test_a_failed_workflow_says_so_on_its_span(client: AsyncClient, spans: InMemorySpanExporter) -> None:
    @tool(effects="read")
    async def fail() -> int:
        raise ValueError("no")

    @workflow
    async def wf() -> int:
        return fail()

    with pytest.raises(CallFailed):
        await wf.arun()
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None and span.attributes["error.type"] == "CallFailed"
    assert span.status.status_code is trace.StatusCode.ERROR


async def test_without_a_telemetry_sdk_nothing_is_sent(client: AsyncClient, wire: Recorder) -> None:
    @workflow
    async def wf() -> int:
        return 1

    run = await wf.asubmit()
    assert await run.result() == 1
    assert len(run.trace_id) == 32  # the server's own
    assert "traceparent" not in wire.headers_of("/v1/programs")
