"""Metrics of calls and programs: what is counted, under the conventions' names and buckets.

`Metrics` is what the runtime tells; `Meters` keeps it for `/metrics` and for OTLP. Never sees content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from engine.protocol import Usage
from orchestrator.telemetry import names
from orchestrator.telemetry.conventions import METRICS, Instrument
from orchestrator.telemetry.distributions import SCOPE, Distributions, WithDistributions

Sample = tuple[float, Mapping[str, str]]
"""A value and its attributes."""

Source = Callable[[], Iterable[Sample]]
"""Asked for its samples when somebody reads the metrics, on the event loop on which it was given."""

_ANSWER_S = 5.0
"""How long an exporter's thread waits for the event loop."""


class _OfPrograms(NamedTuple):
    """The names of the histograms of programs."""

    duration: str
    inference_calls: str
    tool_calls: str


_OF_WORKFLOWS, _OF_AGENTS = (
    _OfPrograms(*(f"gen_ai.{operation}.{field}" for field in _OfPrograms._fields))
    for operation in (names.INVOKE_WORKFLOW, names.INVOKE_AGENT)
)


class Metrics(Protocol):
    """What the runtime tells. Seconds are of the runtime's clock; `error` is the error's type."""

    def llm_ended(
        self, model: str, seconds: float, first_chunk_s: float | None, usage: Usage | None, error: str | None
    ) -> None: ...

    def tool_ended(self, tool: str, seconds: float, error: str | None) -> None: ...

    def embedded(self, model: str, seconds: float, error: str | None) -> None: ...

    def program_ended(
        self,
        workflow: str,
        seconds: float,
        inference_calls: int,
        tool_calls: int,
        error: str | None,
        *,
        agent: bool = False,
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

    def embedded(self, model: str, seconds: float, error: str | None) -> None:
        return

    def program_ended(
        self,
        workflow: str,
        seconds: float,
        inference_calls: int,
        tool_calls: int,
        error: str | None,
        *,
        agent: bool = False,
    ) -> None:
        return

    def observe(self, metric: str, source: Source) -> None:
        return

    def exposition(self) -> bytes:
        return b""

    async def close(self) -> None:
        return


class Meters:
    """Metrics for `/metrics` and for the exporters given (OTLP). `wall`: seconds since the epoch."""

    def __init__(
        self, wall: Callable[[], float], exporters: Sequence[MetricExporter] = (), resource: Resource | None = None
    ) -> None:
        self._registry = CollectorRegistry()
        self._distributions = Distributions(wall)
        self._registry.register(self._distributions)
        prometheus = PrometheusMetricReader(scope_info_enabled=False, disable_target_info=True, registry=self._registry)
        periodic = [PeriodicExportingMetricReader(WithDistributions(e, self._distributions)) for e in exporters]
        self._provider = MeterProvider([prometheus, *periodic], resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter(SCOPE)

    def llm_ended(
        self, model: str, seconds: float, first_chunk_s: float | None, usage: Usage | None, error: str | None
    ) -> None:
        def record(metric: str, value: float, *more: str) -> None:
            self._distributions.record(metric, value, names.CHAT, names.PROVIDER, model, error, *more)

        record("gen_ai.client.operation.duration", seconds)
        if first_chunk_s is not None:
            record("gen_ai.client.operation.time_to_first_chunk", first_chunk_s)
        if usage is None:
            return
        record("gen_ai.client.token.usage", usage.prompt_tokens, "input")
        record("gen_ai.client.token.usage", usage.output_tokens, "output")
        first_token_s = usage.queue_s + usage.prefill_s
        record("gen_ai.server.request.duration", first_token_s + usage.decode_s)
        record("gen_ai.server.time_to_first_token", first_token_s)
        if usage.output_tokens > 1:
            record("gen_ai.server.time_per_output_token", usage.decode_s / (usage.output_tokens - 1))

    def tool_ended(self, tool: str, seconds: float, error: str | None) -> None:
        self._distributions.record("gen_ai.execute_tool.duration", seconds, tool, error)

    def embedded(self, model: str, seconds: float, error: str | None) -> None:
        self._distributions.record(
            "gen_ai.client.operation.duration", seconds, names.EMBEDDINGS, names.PROVIDER, model, error
        )

    def program_ended(
        self,
        workflow: str,
        seconds: float,
        inference_calls: int,
        tool_calls: int,
        error: str | None,
        *,
        agent: bool = False,
    ) -> None:
        record, of = self._distributions.record, _OF_AGENTS if agent else _OF_WORKFLOWS
        record(of.duration, seconds, workflow, error)
        record(of.inference_calls, inference_calls, workflow, error)
        record(of.tool_calls, tool_calls, workflow, error)

    def observe(self, metric: str, source: Source) -> None:
        convention, loop = METRICS[metric], asyncio.get_running_loop()

        async def ask() -> list[Sample]:
            return [*source()]

        def read(_: CallbackOptions) -> Iterable[Observation]:
            if asyncio._get_running_loop() is loop:
                samples = [*source()]
            elif loop.is_closed():
                samples = []
            else:  # an exporter's thread: what it asks for belongs to the loop
                samples = asyncio.run_coroutine_threadsafe(ask(), loop).result(_ANSWER_S)
            return [Observation(value, dict(attributes)) for value, attributes in samples]

        create = {
            Instrument.GAUGE: self._meter.create_observable_gauge,
            Instrument.COUNTER: self._meter.create_observable_counter,
        }[convention.instrument]
        create(metric, callbacks=[read], unit=convention.unit, description=convention.description)

    def exposition(self) -> bytes:
        return generate_latest(self._registry)

    async def flush(self) -> None:
        """Hand what is recorded to the exporters now."""
        await asyncio.get_running_loop().run_in_executor(None, self._provider.force_flush)

    async def close(self) -> None:
        """Hand what is recorded to the exporters, and stop."""
        await asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)
