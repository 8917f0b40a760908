"""Runs one call to its end: attempts, waits between them, and the order in which effects and records happen.

Owns the retry rules. The states themselves are the program's; the attempts are `generation` and the workers'.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pydantic import JsonValue

from orchestrator.errors import JournalUnavailable
from orchestrator.runtime.answered import Answered
from orchestrator.runtime.calls import CallRun, CallState
from orchestrator.runtime.function import FunctionAttempt
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from orchestrator.scheduling import EndedCall
from orchestrator.tools import CallFailure, FailureType
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
            if run.intended and not program.rerunnable(run):
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
                attempt = FunctionAttempt(self._services, program, run, call, deadline_s).value
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
                if failure.lost and run.losses < limits.lost_reruns and program.rerunnable(run):
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
            now_s = program.now() if isinstance(run.call, LLMCall) else run.told_s  # a function's result was just taken
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
            if isinstance(run.call, LLMCall):
                self._services.retention.failed(program, run.call)

    def give_up(self, program: Program, run: CallRun, error: ErrorValue) -> None:
        """End a call that nobody waits for any more, as failed."""
        if run.state.final:
            return
        if run.task is not None:
            run.task.cancel()
        run.cut(program.now())
        self._fail(program, run, error)

    def _retry(self, program: Program, call: Call) -> Retry:
        """What the call itself says, else what its tool says."""
        if isinstance(call, LLMCall) or "retry" in call.model_fields_set:
            return call.retry
        spec = self._services.tools.spec(program.tenant, program.toolset, call.tool)
        return call.retry if spec is None else spec.retry

    def _generation(self, program: Program, run: CallRun, call: LLMCall) -> Attempt:
        return lambda: Answered(self._services, program, run, call).generate()

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
