"""Metrics of calls and programs: what is counted, under the conventions' names and buckets.

`Metrics` is what the runtime tells; `Meters` records it with the OpenTelemetry SDK, for OTLP and for `/metrics`. Never
sees content. How many names a client can make it remember is bounded by the SDK's cardinality limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from engine.protocol import Usage
from orchestrator.telemetry import names
from orchestrator.telemetry.conventions import METRICS, Instrument

Sample = tuple[float, Mapping[str, str]]
"""A value and its attributes."""

Source = Callable[[], Iterable[Sample]]
"""Asked for its samples when somebody reads the metrics, from any thread: it reads plain numbers."""


class Metrics(Protocol):
    """What the runtime tells. Seconds are of the runtime's clock; `error` is the error's type."""

    def llm_ended(
        self, model: str, seconds: float, first_chunk_s: float | None, usage: Usage | None, error: str | None
    ) -> None: ...

    def tool_ended(self, tool: str, seconds: float, error: str | None) -> None: ...

    def program_ended(
        self, workflow: str, seconds: float, inference_calls: int, tool_calls: int, error: str | None
    ) -> None: ...

    def observe(self, metric: str, source: Source) -> None:
        """Read `metric`, a gauge or counter of the table, from `source`."""
        ...

    def exposition(self) -> bytes:
        """All metrics now, in the Prometheus text format."""
        ...

    async def close(self) -> None: ...


class NullMetrics:
    """Nobody reads any metrics."""

    def llm_ended(
        self, model: str, seconds: float, first_chunk_s: float | None, usage: Usage | None, error: str | None
    ) -> None:
        return

    def tool_ended(self, tool: str, seconds: float, error: str | None) -> None:
        return

    def program_ended(
        self, workflow: str, seconds: float, inference_calls: int, tool_calls: int, error: str | None
    ) -> None:
        return

    def observe(self, metric: str, source: Source) -> None:
        return

    def exposition(self) -> bytes:
        return b""

    async def close(self) -> None:
        return


class Meters:
    """Metrics by the OpenTelemetry SDK, read by `/metrics` and by the other readers given (OTLP)."""

    def __init__(self, readers: Sequence[MetricReader] = (), resource: Resource | None = None) -> None:
        self._registry = CollectorRegistry()
        prometheus = PrometheusMetricReader(scope_info_enabled=False, disable_target_info=True, registry=self._registry)
        provider = self._provider = MeterProvider([prometheus, *readers], resource, shutdown_on_exit=False)
        self._meter = provider.get_meter("tenuto")
        self._histograms = {
            metric.name: self._meter.create_histogram(
                metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.buckets
            )
            for metric in METRICS.values()
            if metric.instrument is Instrument.HISTOGRAM
        }

    def llm_ended(
        self, model: str, seconds: float, first_chunk_s: float | None, usage: Usage | None, error: str | None
    ) -> None:
        attributes = {
            names.OPERATION: names.CHAT,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: model,
        }
        if error is not None:
            attributes[names.ERROR_TYPE] = error
        self._record("gen_ai.client.operation.duration", seconds, attributes)
        if first_chunk_s is not None:
            self._record("gen_ai.client.operation.time_to_first_chunk", first_chunk_s, attributes)
        if usage is None:
            return
        tokens = self._histograms["gen_ai.client.token.usage"]
        tokens.record(usage.prompt_tokens, attributes | {names.TOKEN_TYPE: "input"})
        tokens.record(usage.output_tokens, attributes | {names.TOKEN_TYPE: "output"})
        first_token_s = usage.queue_s + usage.prefill_s
        self._record("gen_ai.server.request.duration", first_token_s + usage.decode_s, attributes)
        self._record("gen_ai.server.time_to_first_token", first_token_s, attributes)
        if usage.output_tokens > 1:
            self._record("gen_ai.server.time_per_output_token", usage.decode_s / (usage.output_tokens - 1), attributes)

    def tool_ended(self, tool: str, seconds: float, error: str | None) -> None:
        attributes = {names.TOOL_NAME: tool}
        if error is not None:
            attributes[names.ERROR_TYPE] = error
        self._record("gen_ai.execute_tool.duration", seconds, attributes)

    def program_ended(
        self, workflow: str, seconds: float, inference_calls: int, tool_calls: int, error: str | None
    ) -> None:
        attributes = {names.WORKFLOW_NAME: workflow}
        if error is not None:
            attributes[names.ERROR_TYPE] = error
        self._record("gen_ai.invoke_workflow.duration", seconds, attributes)
        self._record("gen_ai.invoke_workflow.inference_calls", inference_calls, attributes)
        self._record("gen_ai.invoke_workflow.tool_calls", tool_calls, attributes)

    def observe(self, metric: str, source: Source) -> None:
        convention = METRICS[metric]

        def read(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, dict(attributes)) for value, attributes in source()]

        create = {
            Instrument.GAUGE: self._meter.create_observable_gauge,
            Instrument.COUNTER: self._meter.create_observable_counter,
        }[convention.instrument]
        create(metric, callbacks=[read], unit=convention.unit, description=convention.description)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    async def close(self) -> None:
        """Hand what is recorded to the readers, and stop."""
        await asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)

    def _record(self, name: str, value: float, attributes: Mapping[str, str]) -> None:
        self._histograms[name].record(value, dict(attributes))
