"""Runs one call to its end: attempts, waits between them, and the order in which effects and records happen.

Owns the retry rules. The states themselves are the program's; the attempts are `generation` and the workers'.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from pydantic import JsonValue

from dag.values import PathError, resolve
from orchestrator.errors import JournalUnavailable
from orchestrator.journal import Intent
from orchestrator.runtime.answered import Answered
from orchestrator.runtime.calls import CallRun, CallState
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from orchestrator.scheduling import EndedCall, ReadyCall
from orchestrator.telemetry import CONSUMERS, NO_FACTS, Facts
from orchestrator.tools import CallFailure, FailureType, ToolRun
from orchestrator.tools.values import accept_result
from tenuto.wire import Call, ErrorValue, FunctionCall, LLMCall, Retry

log = logging.getLogger(__name__)

Attempt = Callable[[], Awaitable[tuple[JsonValue, bytes]]]


class Execution:
    """Runs calls. One task a running call, none for a waiting one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def launch(self, program: Program, run: CallRun) -> None:
        """Run a call whose inputs are there and whose turn it is, in a task of its own."""
        run.task = asyncio.get_running_loop().create_task(self._run(program, run))

    def take_up(self, program: Program) -> None:
        """Go on with a program that was replayed: run again what was running, unless its effect forbids that."""
        for run in [*program.calls.values()]:
            if run.state is not CallState.READY or run.task is not None:
                continue
            if run.intended and isinstance(run.call, FunctionCall):
                self._services.cache.wrote(program.tenant, run.call)  # it may have been done before the server stopped
            if run.intended and not self._rerunnable(program, run):
                message = "the server stopped while the call ran: whether it took effect is unknown"
                failure = CallFailure(FailureType.EFFECT_UNKNOWN, message)
                program.fail(run, failure.error(run.call.id, run.runs), run.facts(), program.now())
            elif program.effects.may_start(run.call.id):
                self.launch(program, run)

    async def _run(self, program: Program, run: CallRun) -> None:
        call = run.call
        try:
            if isinstance(call, LLMCall):
                await self._attempts(program, run, self._generation(program, run, call))
            else:
                deadline_s = self._deadline_s(program, call)
                attempt = partial(self._call_tool, program, run, call, deadline_s)
                await self._attempts(program, run, attempt, deadline_s)
        except JournalUnavailable:
            pass  # the runtime has stopped every program and told its readers
        except Exception as error:
            log.exception("call %s of program %s failed inside the server", call.id, program.id)
            failure = CallFailure(FailureType.INTERNAL_ERROR, f"the server failed: {type(error).__name__}: {error}")
            if program.outcome is None:  # nobody else is told: whatever failed may be the one who listens
                program.fail(run, failure.error(call.id, run.runs), run.facts(), program.now())
        finally:
            run.task = None

    def _deadline_s(self, program: Program, call: FunctionCall) -> float | None:
        """When, on the clock, all attempts of a function call must be over: as its tool says."""
        spec = self._services.tools.spec(program.tenant, program.toolset, call.tool)
        if spec is None or spec.total_timeout_s is None:
            return None
        return self._services.clock.now() + spec.total_timeout_s

    async def _intend(self, program: Program, run: CallRun) -> None:
        """Before an effect: everything that it depends on is durable, and so is the intent itself."""
        if not run.intended:
            run.intended = True
            await program.host.record(Intent(program.id, run.call.id)).committed()

    async def _attempts(
        self, program: Program, run: CallRun, attempt: Attempt, deadline_s: float | None = None
    ) -> None:
        """Attempts until one succeeds or none is left, or the next would come after the deadline."""
        limits = self._services.limits
        while True:
            run.runs += 1
            try:
                value, encoded = await attempt()
            except CallFailure as failure:
                error = failure.error(run.call.id, run.runs)
                retry = self._retry(program, run.call)
                if failure.lost and run.losses < limits.lost_reruns and self._rerunnable(program, run):
                    run.losses += 1
                    wait_s = _wait_s(Retry(), run.losses)
                elif _worth_retrying(failure, retry) and run.failures + 1 < retry.attempts:
                    run.failures += 1
                    wait_s = _wait_s(retry, run.failures)
                else:
                    self._fail(program, run, error)
                    return
                # Jitter down only: what was promised as the longest wait is the longest.
                wait_s *= self._services.rng.uniform(0.5, 1.0)
                if deadline_s is not None and self._services.clock.now() + wait_s >= deadline_s:
                    self._fail(program, run, error)
                    return
                program.retry(run, error)
                await self._services.clock.sleep(wait_s)
                run.account("pause", program.now())
            else:
                self._succeed(program, run, value, encoded)
                return

    def _succeed(self, program: Program, run: CallRun, value: JsonValue, encoded: bytes) -> None:
        if program.outcome is None:
            self._learn(program, run, succeeded=True)
            now_s = program.now()
            run.close(now_s)
            program.write(run, value, encoded, run.facts(), now_s)
            if isinstance(run.call, LLMCall):
                self._services.retention.settled(program, run.call)
            else:
                self._services.retention.evidence(program)

    def _fail(self, program: Program, run: CallRun, error: ErrorValue) -> None:
        if program.outcome is None:
            self._learn(program, run, succeeded=False)
            now_s = program.now()
            run.close(now_s)
            program.fail(run, error, run.facts(), now_s)

    def give_up(self, program: Program, run: CallRun, error: ErrorValue) -> None:
        """End a call that nobody waits for any more, as failed."""
        if run.state.final:
            return
        if run.task is not None:
            run.task.cancel()
        run.cut(program.now())
        self._fail(program, run, error)

    @staticmethod
    def _rerunnable(program: Program, run: CallRun) -> bool:
        """True if the call may run again although it is unknown how far its last run came."""
        call = run.call
        return isinstance(call, LLMCall) or call.idempotent or not program.effects.has_effect(call.id)

    def _retry(self, program: Program, call: Call) -> Retry:
        """What the call itself says, else what its tool says."""
        if isinstance(call, LLMCall) or "retry" in call.model_fields_set:
            return call.retry
        spec = self._services.tools.spec(program.tenant, program.toolset, call.tool)
        return call.retry if spec is None else spec.retry

    def _generation(self, program: Program, run: CallRun, call: LLMCall) -> Attempt:
        return lambda: Answered(self._services, program, run, call).generate()

    async def _call_tool(
        self, program: Program, run: CallRun, call: FunctionCall, deadline_s: float | None
    ) -> tuple[JsonValue, bytes]:
        """One attempt of a function call: arguments out, result in. Cancelling takes the task back."""
        services = self._services
        try:
            arguments = {name: resolve(expr, program.values) for name, expr in call.arguments.items()}
        except PathError as error:
            raise CallFailure(FailureType.PATH_MISSING, f"the arguments cannot be made: {error}") from error
        producers = program.graph.predecessors(call.id) if program.trace.recording else ()
        trace = program.trace.tool(call, run.runs, services.clock.wall(), producers)
        began_s = program.now()
        key = services.priorities.call_ready(ReadyCall(program.id, call, run.runs, 0))
        tool_run = ToolRun(
            program=program.id,
            call=call.id,
            tool=call.tool,
            tenant=program.tenant,
            toolset=program.toolset or "",
            arguments=arguments,
            attempt=run.runs,
            timeout_s=call.timeout_s,
            traceparent=trace.traceparent,
            key=key,
            deadline_s=deadline_s,
            workflow=program.workflow,
        )
        error_type: str | None = "cancelled"
        result: JsonValue = None

        def started() -> None:
            program.start(run)
            services.retention.function_started(program, call, arguments)

        try:
            intend = partial(self._intend, program, run) if program.effects.has_effect(call.id) else None
            result = await services.tools.run(tool_run, started, intend)
            accepted = accept_result(call.type, result, services.limits.value_bytes)
            error_type = None
            if services.tools.speculates:
                services.tools.ended(tool_run, call.stage or call.tool, result)
            return accepted
        except CallFailure as failure:
            error_type = failure.type
            if failure.type == FailureType.TIMEOUT and not self._rerunnable(program, run):
                message = f"{failure.message}; whether it took effect is unknown, and it is not declared idempotent"
                raise CallFailure(FailureType.TIMEOUT, message) from failure
            raise
        finally:
            # Also after a failure: how far it came is unknown. Before the value is written, so that no reader of it
            # is answered with what was true before.
            if (written := services.cache.wrote(program.tenant, call)) is not None:
                await written
            services.retention.function_ended(program, call, returned=error_type != "cancelled")
            now_s = program.now()
            run.account("tool" if run.state is CallState.RUNNING else "queue", now_s)
            facts = NO_FACTS
            if program.trace.recording:
                facts = Facts(consumers=program.graph.successors(call.id)[:CONSUMERS])
            trace.end_tool(services.clock.wall(), error=error_type, arguments=arguments, result=result, facts=facts)
            services.metrics.tool_ended(call.tool, now_s - began_s, error_type)

    def _learn(self, program: Program, run: CallRun, *, succeeded: bool) -> None:
        """Tell the policy that the call holds nothing any more, and the statistics what it took."""
        call, worked_s = run.call, run.worked_s()
        self._services.priorities.call_ended(EndedCall(program.id, call, worked_s, run.usage, succeeded))
        if succeeded:
            tokens = run.usage.output_tokens if run.usage is not None else None
            self._services.statistics.learn(program.workflow, call, seconds=worked_s, output_tokens=tokens)


def _worth_retrying(failure: CallFailure, retry: Retry) -> bool:
    """Whether another attempt may help: by the names that `retry` gives, else by what the failure says of itself.

    A name is an error's type, or that of the exception that the tool raised (`tool_error` says `Name: message`).
    """
    if not retry.on:
        return failure.retryable
    return failure.type in retry.on or failure.message.partition(":")[0] in retry.on


def _wait_s(retry: Retry, failures: int) -> float:
    """Seconds before the next attempt after `failures` (>= 1) of them, as `wire.Retry` promises, without jitter."""
    return min(retry.max_wait_s, retry.first_wait_s * 2.0 ** min(failures - 1, 60))
