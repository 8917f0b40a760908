"""Simulation: whole programs of a trace on the production runtime and simulated engines, in virtual time."""

from __future__ import annotations

from orchestrator.simulation.faults import Faults
from orchestrator.simulation.lines import TraceError
from orchestrator.simulation.report import CallOutcome, ProgramOutcome, Report
from orchestrator.simulation.run import Scenario, Simulation, simulate
from orchestrator.simulation.trace import TraceProgram, read
from orchestrator.simulation.workload import resample

__all__ = [
    "CallOutcome",
    "Faults",
    "ProgramOutcome",
    "Report",
    "Scenario",
    "Simulation",
    "TraceError",
    "TraceProgram",
    "read",
    "resample",
    "simulate",
]
