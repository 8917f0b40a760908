"""What the standard environment variables ask for: where spans, metrics and events go, and what they hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from orchestrator.telemetry.content import Capture
from orchestrator.telemetry.conventions import Version
from orchestrator.telemetry.metrics import Meters, Metrics, NullMetrics
from orchestrator.telemetry.otel import OpenTelemetry, RandomIds
from orchestrator.telemetry.spans import NullTelemetry, Telemetry

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_VERSION: Final = "TENUTO_GENAI_CONVENTIONS"
"""`latest` (the default) or `1.36`, for back ends that read the older names."""


class BadEnvironment(ValueError):
    """A variable of the environment has a value that means nothing; the message names it."""


def from_environment(rng: Random, environment: Mapping[str, str] | None = None) -> Telemetry:
    """Spans as the standard variables ask: OTLP over HTTP if an endpoint is named, else trace ids only.

    Raises `BadEnvironment`.
    """
    environment = os.environ if environment is None else environment
    if not _exports(environment, "TRACES"):
        return NullTelemetry(rng)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    resource = _resource(environment)
    provider = TracerProvider(resource=resource, id_generator=RandomIds(rng), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    capture, version = Capture.of(environment), _version(environment)
    if not capture.events or not _exports(environment, "LOGS"):
        return OpenTelemetry(provider, capture=capture, version=version)
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    events = LoggerProvider(resource, shutdown_on_exit=False)
    events.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    return OpenTelemetry(provider, capture=capture, version=version, events=events)


def metrics_from_environment(wall: Callable[[], float], environment: Mapping[str, str] | None = None) -> Metrics:
    """Metrics for `/metrics`, and by OTLP too if an endpoint is named. `wall`: seconds since the epoch."""
    environment = os.environ if environment is None else environment
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NullMetrics()
    exporters: list[MetricExporter] = []
    if _exports(environment, "METRICS"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        exporters.append(OTLPMetricExporter())
    return Meters(wall, exporters, resource=_resource(environment))


def _exports(environment: Mapping[str, str], signal: str) -> bool:
    """True if the standard variables name an endpoint for the signal, and do not switch it off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get(f"OTEL_{signal}_EXPORTER", "otlp").lower() == "none":
        return False
    return bool(environment.get(_ENDPOINT) or environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


def _resource(environment: Mapping[str, str]) -> Resource:
    return Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "tenuto")})


def _version(environment: Mapping[str, str]) -> Version:
    told = environment.get(_VERSION, Version.LATEST)
    if told not in tuple(Version):
        raise BadEnvironment(f"{_VERSION}={told!r}: choose one of: {', '.join(Version)}")
    return Version(told)
