"""Plans that a model writes: LLMCompiler's text grammar and streamed `tool_calls`, read while they arrive.

Pure. Owns the way from characters to typed calls; never starts one.
"""

from dag.plan.compile import CallFault, PlanCompiler, argument_of, effect_key, result_type
from dag.plan.model import (
    Argument,
    OpenText,
    PlanDiagnostic,
    PlanEvent,
    PlanLimits,
    PlannedCall,
    PlannedJoin,
    PlanRef,
    PlanText,
    PlanValue,
    Span,
    references_of,
)
from dag.plan.parser import PlanParser
from dag.plan.tool_calls import EmittedCall, ToolCallDeltas, ToolCallParser, read_arguments

__all__ = [
    "Argument",
    "CallFault",
    "EmittedCall",
    "OpenText",
    "PlanCompiler",
    "PlanDiagnostic",
    "PlanEvent",
    "PlanLimits",
    "PlanParser",
    "PlanRef",
    "PlanText",
    "PlanValue",
    "PlannedCall",
    "PlannedJoin",
    "Span",
    "ToolCallDeltas",
    "ToolCallParser",
    "argument_of",
    "effect_key",
    "read_arguments",
    "references_of",
    "result_type",
]
