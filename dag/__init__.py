"""The program graph: semantic variables, readiness, critical paths, objectives, groups, validation.

Pure: no I/O, no clock, no randomness. Owns what follows from a graph's shape; never runs a call.
"""

from dag.diagnostics import Diagnostic, InvalidGraph, pointer
from dag.draw import mermaid
from dag.graph import CallState, CallStateError, ProgramGraph
from dag.groups import PrefixGroup, TaskGroup, constant_prefix_groups, task_groups
from dag.limits import GraphLimits
from dag.objectives import CallObjective, objectives
from dag.paths import CriticalPath, critical_path, expected_seconds, remaining, slack
from dag.schema import SchemaError
from dag.values import (
    PathError,
    UnwrittenVariable,
    as_text,
    check_value,
    json_faults,
    project,
    render,
    resolve,
    value_faults,
)

__all__ = [
    "CallObjective",
    "CallState",
    "CallStateError",
    "CriticalPath",
    "Diagnostic",
    "GraphLimits",
    "InvalidGraph",
    "PathError",
    "PrefixGroup",
    "ProgramGraph",
    "SchemaError",
    "TaskGroup",
    "UnwrittenVariable",
    "as_text",
    "check_value",
    "constant_prefix_groups",
    "critical_path",
    "expected_seconds",
    "json_faults",
    "mermaid",
    "objectives",
    "pointer",
    "project",
    "remaining",
    "render",
    "resolve",
    "slack",
    "task_groups",
    "value_faults",
]
