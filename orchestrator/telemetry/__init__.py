"""One trace from the SDK to the engine, and metrics, by the OpenTelemetry GenAI conventions."""

from __future__ import annotations

from orchestrator.telemetry.content import Capture
from orchestrator.telemetry.environment import BadEnvironment, from_environment, metrics_from_environment
from orchestrator.telemetry.metrics import Meters, Metrics, NullMetrics
from orchestrator.telemetry.otel import OpenTelemetry
from orchestrator.telemetry.spans import (
    CONSUMERS,
    NO_FACTS,
    CallTrace,
    Facts,
    NullTelemetry,
    ProgramTrace,
    Telemetry,
    parse_traceparent,
)
from orchestrator.telemetry.steps import StepSpans

__all__ = [
    "CONSUMERS",
    "NO_FACTS",
    "BadEnvironment",
    "CallTrace",
    "Capture",
    "Facts",
    "Meters",
    "Metrics",
    "NullMetrics",
    "NullTelemetry",
    "OpenTelemetry",
    "ProgramTrace",
    "StepSpans",
    "Telemetry",
    "from_environment",
    "metrics_from_environment",
    "parse_traceparent",
]
