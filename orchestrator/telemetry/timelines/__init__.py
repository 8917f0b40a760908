"""One program's timeline drawn: for the terminal, for reports, for trace viewers. Pure functions of the wire's type."""

from __future__ import annotations

from orchestrator.telemetry.timelines.chrome import chrome
from orchestrator.telemetry.timelines.flowchart import flowchart
from orchestrator.telemetry.timelines.gantt import gantt
from orchestrator.telemetry.timelines.svg import svg

__all__ = ["chrome", "flowchart", "gantt", "svg"]
