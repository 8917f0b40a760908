"""One attempt of a function call: arguments out, result in, and everybody told who counts on either.

Owns the order around a tool's run: intent, start, end, value. Never retries: that is `Execution`'s.
"""

from __future__ import annotations

from pydantic import JsonValue

from dag.values import PathError, resolve
from orchestrator.journal import Early, Intent
from orchestrator.runtime.calls import CallRun, CallState
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from orchestrator.scheduling import ReadyCall
from orchestrator.telemetry import CONSUMERS, NO_FACTS, CallTrace, Facts
from orchestrator.tools import CallFailure, FailureType, ToolRun
from orchestrator.tools.values import accept_result, encode_json
from tenuto.wire import FunctionCall, Reference


class FunctionAttempt:
    """The attempts of one function call. `deadline_s`: when, on the clock, the last must be over."""

    __slots__ = ("_arguments", "_call", "_deadline_s", "_program", "_run", "_running", "_services")

    def __init__(
        self, services: Services, program: Program, run: CallRun, call: FunctionCall, deadline_s: float | None
    ) -> None:
        self._services = services
        self._program = program
        self._run = run
        self._call = call
        self._deadline_s = deadline_s
        self._arguments: dict[str, JsonValue] = {}
        self._running = False

    async def value(self) -> tuple[JsonValue, bytes]:
        """The tool's result and its JSON. Raises CallFailure. Cancelling takes the task back."""
        services, program, run, call = self._services, self._program, self._run, self._call
        try:
            self._arguments = {name: resolve(expr, program.values) for name, expr in call.arguments.items()}
        except PathError as error:
            raise CallFailure(FailureType.PATH_MISSING, f"the arguments cannot be made: {error}") from error
        producers = program.graph.predecessors(call.id) if program.trace.recording else ()
        trace = program.trace.tool(call, run.runs, services.clock.wall(), producers)
        began_s = program.now()
        tool_run = self._tool_run(trace)
        error_type: str | None = "cancelled"
        result: JsonValue = None
        try:
            intend = self._intend if program.effects.has_effect(call.id) else None
            result = await services.tools.run(tool_run, self._started, intend)
            accepted = accept_result(call.type, result, services.limits.value_bytes)
            error_type = None
            if services.tools.speculates:
                services.tools.ended(tool_run, call.stage or call.tool, result)
            return accepted
        except CallFailure as failure:
            error_type = failure.type
            if failure.type == FailureType.TIMEOUT and not program.rerunnable(run):
                message = f"{failure.message}; whether it took effect is unknown, and it is not declared idempotent"
                raise CallFailure(FailureType.TIMEOUT, message) from failure
            raise
        finally:
            # Also after a failure: how far it came is unknown. Before the value is written, so that no reader of it
            # is answered with what was true before.
            try:
                if (written := services.cache.wrote(program.tenant, call)) is not None:
                    await written
            finally:
                self._ended(trace, began_s, error_type, result)

    def _tool_run(self, trace: CallTrace) -> ToolRun:
        program, call = self._program, self._call
        return ToolRun(
            program=program.id,
            call=call.id,
            tool=call.tool,
            tenant=program.tenant,
            toolset=program.toolset or "",
            arguments=self._arguments,
            attempt=self._run.runs,
            timeout_s=call.timeout_s,
            traceparent=trace.traceparent,
            key=self._services.priorities.call_ready(ReadyCall(program.id, call)),
            deadline_s=self._deadline_s,
            workflow=program.workflow,
            large=self._large() if program.has_large else {},
            early=self._came_early,
            handed=call.handed,
        )

    def _large(self) -> dict[str, Reference]:
        """The arguments that are long, and parts of variables as they are."""
        most = self._services.limits.inline_bytes
        variables = self._program.variables
        found: dict[str, Reference] = {}
        for name, expr in self._call.arguments.items():
            if not isinstance(expr, Reference) or variables[expr.variable].large is None:
                continue
            if not expr.path or len(encode_json(self._arguments[name])) > most:
                found[name] = expr
        return found

    async def _intend(self) -> None:
        """Before an effect: everything that it depends on is durable, and so is the intent itself."""
        if not self._run.intended:
            self._run.intended = True
            await self._program.host.record(Intent(self._program.id, self._call.id)).committed()

    def _came_early(self, how: Early, seconds: float) -> None:
        self._run.early = (how, seconds)

    def _started(self) -> None:
        self._services.occupancy.functions += not self._running
        self._running = True
        program = self._program
        program.start(self._run)
        began = program.began_s + self._run.told_s
        self._services.retention.function_started(program, self._call, self._arguments, began)

    def _ended(self, trace: CallTrace, began_s: float, error_type: str | None, result: JsonValue) -> None:
        services, program, run, call = self._services, self._program, self._run, self._call
        services.occupancy.functions -= self._running
        self._running = False
        now_s = program.now()
        services.retention.function_ended(program, call, program.began_s + now_s, returned=error_type != "cancelled")
        run.account("tool" if run.state is CallState.RUNNING else "queue", now_s)
        facts = NO_FACTS
        if program.trace.recording:
            facts = Facts(consumers=program.graph.successors(call.id)[:CONSUMERS])
        trace.end_tool(services.clock.wall(), error=error_type, arguments=self._arguments, result=result, facts=facts)
        services.metrics.tool_ended(call.tool, now_s - began_s, error_type)
