"""One variable is enough: spans, metrics and events reach an OTLP receiver."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from orchestrator.telemetry import from_environment, metrics_from_environment
from orchestrator.telemetry.content import CAPTURE_CONTENT
from orchestrator.telemetry.conventions import METRICS, Instrument
from tests.orchestrator.runtime.support import Server, function, llm, program, var
from tests.orchestrator.telemetry.collected import wall


class Receiver:
    """An OTLP receiver on loopback: `bodies` by path."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.bodies.setdefault(self.path, []).append(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


async def test_the_endpoint_alone_is_enough(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER", CAPTURE_CONTENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    server = await Server(telemetry=from_environment(Random(0)), metrics=metrics_from_environment(wall)).start()
    server.worker(look=lambda text: 1)
    await server.run(program(llm("a", "the secret"), function("t", "look", {"text": var("a")})))
    await server.close()
    assert set(receiver.bodies) == {"/v1/traces", "/v1/metrics"}
    spans = [
        span
        for body in receiver.bodies["/v1/traces"]
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {span.name for span in spans} == {"invoke_workflow test", "chat scripted", "execute_tool look"}
    assert len({span.trace_id for span in spans}) == 1 and b"secret" not in b"".join(receiver.bodies["/v1/traces"])
    metrics = {
        metric.name: metric
        for body in receiver.bodies["/v1/metrics"]
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {"gen_ai.client.operation.duration", "gen_ai.invoke_workflow.tool_calls", "tenuto.leases"} <= set(metrics)
    for name, metric in metrics.items():
        assert metric.unit == METRICS[name].unit
        if METRICS[name].instrument is Instrument.HISTOGRAM:
            assert {tuple(p.explicit_bounds) for p in metric.histogram.data_points} == {tuple(METRICS[name].buckets)}
    (calls,) = metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert calls.count == 1 and calls.time_unix_nano == int(wall()) * 10**9


async def test_content_goes_into_events_where_that_is_asked_for(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv(CAPTURE_CONTENT, "EVENT_ONLY")
    server = await Server(telemetry=from_environment(Random(0))).start()
    await server.run(program(llm("a", "the secret")))
    await server.close()
    assert b"secret" not in b"".join(receiver.bodies["/v1/traces"])
    (body,) = receiver.bodies["/v1/logs"]
    (record,) = ExportLogsServiceRequest.FromString(body).resource_logs[0].scope_logs[0].log_records
    told = {item.key: item.value for item in record.attributes}
    assert "the secret" in told["gen_ai.input.messages"].string_value
    assert record.event_name == "gen_ai.client.inference.operation.details" and record.trace_id and record.span_id
