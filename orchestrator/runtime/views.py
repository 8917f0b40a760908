"""Programs as the protocol shows them. Pure functions of a program's state."""

from __future__ import annotations

from typing import Any, Literal

from dag.paths import critical_path
from orchestrator.runtime.calls import CallRun, Variable
from orchestrator.runtime.program import Program
from orchestrator.scheduling import StageStatistics
from tenuto.wire import (
    CallView,
    LLMCall,
    ProgramStatus,
    ProgramSummary,
    ProgramView,
    Timeline,
    TimelineCall,
    VariableStatus,
    VariableView,
)

# `model_construct` here and below: the server's own values need no second validation, and views are hot.


def summary(program: Program) -> ProgramSummary:
    """A program in short."""
    return ProgramSummary.model_construct(**_summary_fields(program))


def view(program: Program) -> ProgramView:
    """A program with its calls and outputs."""
    ended = program.status is not ProgramStatus.RUNNING
    return ProgramView.model_construct(
        **_summary_fields(program),
        objective=program.objective,
        open=program.open,
        metadata=program.metadata,
        call_views=tuple(_call_view(run) for run in program.calls.values()),
        outputs={name: variable_view(program, name) for name in program.graph.outputs},
        result=program.result if ended else None,
        error=program.error if ended else None,
    )


def variable_view(program: Program, name: str) -> VariableView:
    """A variable as the world may see it: empty until its value or error is durable. Raises KeyError."""
    variable = program.variables[name]
    status = _variable_status(variable)
    return VariableView.model_construct(
        name=name,
        type=variable.type,
        status=status,
        value=program.values[name] if status is VariableStatus.WRITTEN else None,
        error=variable.error if status is VariableStatus.FAILED else None,
    )


def timeline(program: Program, statistics: StageStatistics) -> Timeline:
    """Where the seconds of a program's life went, and the chain of calls that its end waits for.

    The critical path is the longest way through the graph (critical path method): by measured seconds for what has
    ended, by expected ones for what has not.
    """
    calls = tuple(_timeline_call(program, run) for run in program.calls.values())
    seconds: dict[str, float] = {}
    for shown, run in zip(calls, program.calls.values(), strict=True):
        measured_s = shown.spans[-1].end_s - shown.spans[0].start_s if shown.spans else 0.0
        expected_s = 0.0 if run.state.final else statistics.seconds(program.workflow, run.call) or 0.0
        seconds[run.call.id] = max(measured_s, expected_s)
    return Timeline.model_construct(
        program=program.id,
        workflow=program.workflow,
        status=program.status,
        trace_id=program.trace.trace_id,
        seconds=program.seconds(),
        calls=calls,
        critical_path=critical_path(program.graph, lambda call: seconds[call.id]).calls,
    )


def _summary_fields(program: Program) -> dict[str, Any]:
    return {
        "id": program.id,
        "workflow": program.workflow,
        "tenant": program.tenant,
        "status": program.status,
        "accepted_at": program.accepted_at,
        "seconds": program.seconds(),
        "calls": len(program.calls),
        "calls_ended": program.ended_calls,
        "trace_id": program.trace.trace_id,
    }


def _variable_status(variable: Variable) -> VariableStatus:
    if not variable.durable:
        return VariableStatus.EMPTY
    return VariableStatus.WRITTEN if variable.error is None else VariableStatus.FAILED


def _kind(run: CallRun) -> Literal["llm", "function"]:
    return "llm" if isinstance(run.call, LLMCall) else "function"


def _call_view(run: CallRun) -> CallView:
    return CallView.model_construct(
        id=run.call.id,
        kind=_kind(run),
        stage=run.call.stage,
        state=run.state.value,
        output=run.call.variable,
        error=run.error,
        cache=None if run.cache is None else run.cache.view(),
    )


def _timeline_call(program: Program, run: CallRun) -> TimelineCall:
    facts = run.facts()
    return TimelineCall.model_construct(
        id=run.call.id,
        kind=_kind(run),
        stage=run.call.stage,
        after=program.graph.predecessors(run.call.id),
        state=run.state.value,
        spans=facts.timeline(),
        prompt_tokens=facts.prompt_tokens,
        cached_tokens=facts.cached_tokens,
        output_tokens=facts.output_tokens,
        attempts=facts.attempts,
        cache=None if facts.cache is None else facts.cache.view(),
    )
