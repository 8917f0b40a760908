"""One trace from the SDK to the engine, by the OpenTelemetry GenAI conventions."""

from __future__ import annotations

from orchestrator.telemetry.otel import OpenTelemetry, from_environment
from orchestrator.telemetry.spans import CallTrace, NullTelemetry, ProgramTrace, Telemetry, parse_traceparent

__all__ = [
    "CallTrace",
    "NullTelemetry",
    "OpenTelemetry",
    "ProgramTrace",
    "Telemetry",
    "from_environment",
    "parse_traceparent",
]
