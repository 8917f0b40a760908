"""Programs as the protocol shows them. Pure functions of a program's state."""

from __future__ import annotations

from typing import Any, Literal

from dag.paths import critical_path
from engine.protocol import FinishReason, Usage
from orchestrator.runtime import attribution
from orchestrator.runtime.calls import CallRun, Variable
from orchestrator.runtime.events import logprob_view
from orchestrator.runtime.program import Program
from orchestrator.scheduling import StageStatistics
from tenuto.wire import (
    CallUsage,
    CallView,
    LLMCall,
    PathStep,
    ProgramStatus,
    ProgramSummary,
    ProgramView,
    Timeline,
    TimelineCall,
    VariableStatus,
    VariableView,
)

_FINISH: dict[FinishReason, Literal["stop", "length", "tool_call"]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALL: "tool_call",
}

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
        call_views=tuple(call_view(run) for run in program.calls.values()),
        outputs={name: variable_view(program, name, whole=False) for name in program.graph.outputs},
        result=program.result if ended else None,
        error=program.error if ended else None,
    )


def variable_view(program: Program, name: str, *, whole: bool = True) -> VariableView:
    """A variable as the world may see it: empty until its value or error is durable. Raises KeyError.

    `whole`: with its value, however large it is.
    """
    variable = program.variables[name]
    status = _variable_status(variable)
    written = status is VariableStatus.WRITTEN
    large = variable.large if written and not whole else None
    return VariableView.model_construct(
        name=name,
        type=variable.type,
        status=status,
        value=program.values[name] if written and large is None else None,
        error=variable.error if status is VariableStatus.FAILED else None,
        large=large,
    )


def timeline(program: Program, statistics: StageStatistics) -> Timeline:
    """Where the seconds of a program's life went, and the chain of calls that its end waits for.

    Of an ended program that chain is the measured one; of a running one it is what must be expected.
    """
    total_s = program.seconds()
    idle = program.open and not program.unfinished
    steps = attribution.path(_measured(program), total_s, total_s if idle else program.sealed_s)
    ended = program.outcome is not None
    return Timeline.model_construct(
        program=program.id,
        workflow=program.workflow,
        status=program.status,
        trace_id=program.trace.trace_id,
        seconds=total_s,
        calls=tuple(_timeline_call(program, run) for run in program.calls.values()),
        critical_path=attribution.calls_of(steps) if ended else _expected_path(program, statistics),
        path=tuple(PathStep.model_construct(**step._asdict()) for step in steps),
        causes=attribution.causes(steps),
    )


def _measured(program: Program) -> dict[str, attribution.Measured]:
    """What is known of each call's seconds; of what has not ended, up to now."""
    now_s = program.seconds()
    return {
        name: attribution.Measured(_after(program, run), run.spans_until(now_s)) for name, run in program.calls.items()
    }


def _expected_path(program: Program, statistics: StageStatistics) -> tuple[str, ...]:
    """The longest way through the graph (critical path method): by measured seconds for what has ended, by expected
    ones for what has not."""
    seconds: dict[str, float] = {}
    for name, run in program.calls.items():
        measured_s = run.spans[-1][2] - run.spans[0][1] if run.spans else 0.0
        expected_s = 0.0 if run.state.final else statistics.seconds(program.workflow, run.call) or 0.0
        seconds[name] = max(measured_s, expected_s)
    return critical_path(program.graph, lambda call: seconds[call.id]).calls


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


def call_view(run: CallRun) -> CallView:
    """A call as it is now."""
    return CallView.model_construct(
        id=run.call.id,
        kind=_kind(run),
        stage=run.call.stage,
        state=run.state.value,
        output=run.call.variable,
        error=run.error,
        cache=None if run.cache is None else run.cache.view(),
        finish=_FINISH.get(run.finish) if run.finish is not None else None,
        usage=None if run.usage is None or _kind(run) != "llm" else _usage(run.usage),
        logprobs=tuple(map(logprob_view, run.logprobs)),
    )


def _usage(usage: Usage) -> CallUsage:
    return CallUsage.model_construct(
        prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens, output_tokens=usage.output_tokens
    )


def _after(program: Program, run: CallRun) -> tuple[str, ...]:
    """The calls without which this one could not begin: those it reads from, and the one whose text made it."""
    before = program.graph.predecessors(run.call.id)
    return before if run.planner is None or run.planner in before else (run.planner, *before)


def _timeline_call(program: Program, run: CallRun) -> TimelineCall:
    facts = run.facts()
    return TimelineCall.model_construct(
        id=run.call.id,
        kind=_kind(run),
        stage=run.call.stage,
        after=_after(program, run),
        state=run.state.value,
        spans=facts.timeline(),
        prompt_tokens=facts.prompt_tokens,
        cached_tokens=facts.cached_tokens,
        output_tokens=facts.output_tokens,
        attempts=facts.attempts,
        behind=facts.behind,
        early=None if facts.early is None else facts.early[0],
        early_s=0.0 if facts.early is None else facts.early[1],
        recompute=None if facts.recompute is None else facts.recompute.view(),
        cache=None if facts.cache is None else facts.cache.view(),
    )
