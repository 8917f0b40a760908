"""One program: its graph, the states of its calls, its write-once variables, its events.

A state machine that moves by events and never waits: every method is one synchronous transition. It asks its `Host`
to start calls and to keep records, so the same transitions serve the live program and its replay from the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from pydantic import JsonValue

from dag.graph import ProgramGraph
from dag.limits import GraphLimits
from engine.protocol import TokenLogprob
from orchestrator.errors import RuntimeFault
from orchestrator.journal import Commit, Ended, Failed, Record, Resumed, RunFacts, Written
from orchestrator.runtime.calls import CallRun, CallState, Variable
from orchestrator.runtime.events import RESUME_STRIDE, EventLog
from orchestrator.runtime.order import effect_order
from orchestrator.telemetry import ProgramTrace
from orchestrator.tools import EffectOrder, FailureType
from orchestrator.tools.values import encode_json
from tenuto.wire import (
    CacheHit,
    ErrorValue,
    EventKind,
    Graph,
    GraphExtension,
    LargeValue,
    LLMCall,
    ProgramStatus,
    ProgramSubmission,
    ToolSpec,
)

_TERMINAL = {
    ProgramStatus.SUCCEEDED: EventKind.PROGRAM_SUCCEEDED,
    ProgramStatus.FAILED: EventKind.PROGRAM_FAILED,
    ProgramStatus.CANCELLED: EventKind.PROGRAM_CANCELLED,
}


_PREVIEW_BYTES = 200
_RUNS_PER_START = 1000  # more than a call can have: `Retry.attempts` and `limits.lost_reruns` bound them

Growth: TypeAlias = Graph | GraphExtension


class Host(Protocol):
    """What a program needs of the world."""

    def at_s(self, program: Program) -> float:
        """Now, on the program's axis."""
        ...

    def launch(self, program: Program, run: CallRun) -> None:
        """Start a call whose inputs are there and whose turn it is."""
        ...

    def record(self, record: Record) -> Commit: ...

    def grow(self, program: Program, extension: GraphExtension) -> None:
        """Calls that a planner's text made join the program. Raises dag's InvalidGraph, RuntimeFault."""
        ...

    def idle(self, program: Program) -> None:
        """Nothing runs, but the program is open: its client may extend it."""
        ...

    def ended(self, program: Program) -> None:
        """The program has ended: every call is in a final state."""
        ...

    def end_durable(self, program: Program) -> None:
        """The world has been told of the program's end: it can be read from the journal from now on."""
        ...


class Program:
    """A program from its acceptance to its end.

    Invariants: a call is in exactly one state and leaves a final one never; a variable is settled once;
    `unfinished` is the number of calls in no final state; `outcome` is set exactly when the program has ended,
    and `status` shows it once the end is durable.
    """

    def __init__(
        self,
        id: str,
        tenant: str,
        submission: ProgramSubmission,
        *,
        accepted_at: float,
        began_s: float,
        limits: GraphLimits,
        token_events: int,
        inline_bytes: int,
        trace: ProgramTrace,
        host: Host,
        key: str | None = None,
        body_hash: str | None = None,
        principal: str | None = None,
    ) -> None:
        self.id = id
        self.tenant = tenant
        self.principal = principal
        self.workflow = submission.workflow
        self.agent = submission.agent
        self.objective = submission.objective
        self.toolset = submission.toolset
        self.idle_s = submission.idle_s
        self.metadata = submission.metadata
        self.accepted_at = accepted_at
        self.began_s = began_s
        self.key = key
        self.body_hash = body_hash
        self.trace = trace
        self.host = host
        self.graph = ProgramGraph(submission.objective, limits)
        self.log = EventLog(token_events)
        self._inline_bytes = inline_bytes
        self.has_large = False  # whether any variable's value is
        self.calls: dict[str, CallRun] = {}
        self.variables: dict[str, Variable] = {}
        self.values: dict[str, JsonValue] = {}
        self.effects = EffectOrder()
        self.open = submission.open
        self.result: JsonValue = None
        self.unfinished = 0
        self.ended_calls = 0
        self.bytes = 0
        self.status = ProgramStatus.RUNNING
        self.outcome: ProgramStatus | None = None
        self.error: ErrorValue | None = None
        self.ended_s = 0.0
        self.sealed_s = 0.0  # when the client said that no more calls will come
        self._last_end_s = 0.0  # when the newest end of a call was
        self.restarts = 0
        self.end_commit: Commit | None = None
        self.idle_timer: asyncio.TimerHandle | None = None
        self.holds_end = False  # while the journal is replayed, the end comes from its record

    # -- growth ---------------------------------------------------------------------------------

    def declare(self, growth: Growth, tools: Mapping[str, ToolSpec]) -> tuple[str, ...]:
        """Add to the graph without starting anything; returns the calls that are ready at once.

        Raises dag's InvalidGraph, with the program as it was.
        """
        ready = self.graph.extend(growth.inputs, growth.calls, growth.outputs, tools)
        for name, given in growth.inputs.items():
            large = self._large_input(given.value)
            self.variables[name] = Variable(given.type, settled=True, large=large)
            self.has_large = self.has_large or large is not None
            self.values[name] = given.value
        for call in growth.calls:
            self.calls[call.id] = CallRun(call, planner=self._planner(call.id))
            self.variables[call.variable] = Variable(call.type)
        self.unfinished += len(growth.calls)
        for name, effect, key in effect_order(growth.calls, tools, self.graph):
            self.effects.declare(name, effect, key)
        return ready

    def begin(self, kind: EventKind, growth: Growth, ready: Iterable[str], commit: Commit) -> None:
        """Tell of a growth that was declared, and is recorded by `commit`; skip what can never run, start the rest.

        The log must have been told to hold for the record.
        """
        now = self.now()
        self.log.add(now, kind)
        settled = list(growth.inputs)
        for name, given in growth.inputs.items():
            self._tell_value(now, None, name, given.value)
        for call in growth.calls:
            if (cause := self.graph.cause(call.id)) is not None:
                self._skip(self.calls[call.id], cause, now)
                settled.append(call.variable)
        for name in ready:
            run = self.calls[name]
            if kind is EventKind.PROGRAM_ACCEPTED:
                run.account("queue", now)
            elif run.planner is None:  # it waited for its client alone, who may have waited for other calls until then
                run.told_s = self._last_end_s
                run.account("client", now)
            self._ready(run, now)
        commit.then(_Publication(self, settled))

    def _planner(self, call: str) -> str | None:
        """The LLM call whose text made a call, by its name."""
        name, dot, _ = call.rpartition("-")
        while dot:
            run = self.calls.get(name)
            if run is not None:
                return name if isinstance(run.call, LLMCall) and run.call.plan is not None else None
            name, dot, _ = name.rpartition("-")
        return None

    def seal(self, result: JsonValue, at_s: float) -> None:
        """No more calls will come: the program ends with those it has."""
        self.open = False
        self.result = result
        self.sealed_s = at_s
        self.log.add(at_s, EventKind.PROGRAM_SEALED)

    def resume(self) -> None:
        """A new server goes on with the program: leave room for the numbers that readers saw and the journal lacks."""
        self.restarts += 1
        self.log.jump(self.log.last + RESUME_STRIDE)
        commit = self.host.record(Resumed(self.id, self.log.hold(), self.now()))
        commit.then(self.log.release)

    def settle(self, at_s: float) -> None:
        """End the program if nothing is left to do; tell the host if only its client can go on."""
        if self.unfinished or self.outcome is not None or self.holds_end:
            return
        if self.open:
            self.host.idle(self)
            return
        error = self.output_error()
        self.end(ProgramStatus.FAILED if error is not None else ProgramStatus.SUCCEEDED, error, at_s)

    # -- the life of a call ---------------------------------------------------------------------

    def _ready(self, run: CallRun, now: float) -> None:
        run.state = CallState.READY
        run.told_s = now
        self.log.add(now, EventKind.CALL_READY, run.call.id)
        if self.effects.may_start(run.call.id):
            self.host.launch(self, run)

    def start(self, run: CallRun) -> None:
        """An engine, a worker or the cache has the call now."""
        now = self.now()
        run.account("queue", now)
        run.state = CallState.RUNNING
        self.log.add(now, EventKind.CALL_STARTED, run.call.id, attempt=self.attempt(run), cache=_hit(run))

    def retry(self, run: CallRun, error: ErrorValue) -> None:
        """The run failed and another will follow."""
        run.state = CallState.READY
        self.log.add(self.now(), EventKind.CALL_RETRYING, run.call.id, attempt=self.attempt(run), error=error)

    def tokens(self, run: CallRun, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """A running generation made a piece of text."""
        self.log.add_tokens(self.now(), run.call.id, run.call.variable, self.attempt(run), text, logprobs)

    def write(self, run: CallRun, value: JsonValue, encoded: bytes, facts: RunFacts, now: float) -> None:
        """The call ended: its variable has its value for ever, and whoever waited for it alone becomes ready."""
        if run.state.final:
            return
        call = run.call
        run.state = CallState.ENDED
        self._last_end_s = now
        self.unfinished -= 1
        self.ended_calls += 1
        self.bytes += len(encoded)
        name = call.variable
        variable = self.variables[name]
        variable.settled = True
        if len(encoded) > self._inline_bytes:
            variable.large, self.has_large = _large(encoded), True
        self.values[name] = value
        seq = self.log.hold()
        commit = self.host.record(Written(self.id, call.id, encoded, seq, now, facts))
        self.log.add(now, EventKind.CALL_ENDED, call.id, attempt=self.attempt(run), cache=_hit(run))
        self._tell_value(now, call.id, name, value)
        for freed in self.graph.end(call.id):
            self._ready(self.calls[freed], now)
        self._pass_turn(call.id)
        commit.then(_Publication(self, (name,)))
        self.settle(now)

    def _tell_value(self, now: float, call: str | None, name: str, value: JsonValue) -> None:
        """Tell of a variable's value; of a large one, that it is there."""
        large = self.variables[name].large
        shown = value if large is None else None
        self.log.add(now, EventKind.VARIABLE_WRITTEN, call, variable=name, value=shown, large=large)

    def _large_input(self, value: JsonValue) -> LargeValue | None:
        """How an input is shown if it is large; values that are surely small are not measured."""
        if not isinstance(value, str | list | dict) or (isinstance(value, str) and 4 * len(value) < self._inline_bytes):
            return None
        encoded = encode_json(value)
        return _large(encoded) if len(encoded) > self._inline_bytes else None

    def fail(self, run: CallRun, error: ErrorValue, facts: RunFacts, now: float) -> None:
        """The call will never have a value: nor will its descendants. Its siblings go on."""
        if run.state.final:
            return
        call = run.call
        run.state = CallState.FAILED
        self._last_end_s = now
        run.error = error
        self.unfinished -= 1
        seq = self.log.hold()
        commit = self.host.record(Failed(self.id, call.id, error, seq, now, facts))
        self._fail_variable(call.variable, error)
        self.log.add(now, EventKind.CALL_FAILED, call.id, attempt=self.attempt(run), error=error)
        failed = [call.variable]
        for name in self.graph.fail(call.id):
            skipped = self.calls[name]
            self._skip(skipped, call.id, now)
            failed.append(skipped.call.variable)
        self._pass_turn(call.id)
        commit.then(_Publication(self, failed))
        self.settle(now)

    def _skip(self, run: CallRun, cause: str, now: float) -> None:
        """A call that can never run, since `cause` failed."""
        origin = self.calls[cause].error
        told = f": {origin.message}" if origin is not None else ""
        error = ErrorValue(
            type=FailureType.SKIPPED, message=f"call {cause!r}, which it needs, failed{told}", call=cause
        )
        run.state = CallState.SKIPPED
        run.error = error
        self.unfinished -= 1
        self._fail_variable(run.call.variable, error)
        self.log.add(now, EventKind.CALL_SKIPPED, run.call.id, error=error)
        self._pass_turn(run.call.id)

    def _pass_turn(self, call: str) -> None:
        """The call's effect is over: let those whose turn has come start, if their inputs are there."""
        for name in self.effects.finish(call):
            run = self.calls[name]
            if run.state is CallState.READY:
                run.behind = (call,)
                self.host.launch(self, run)

    def _fail_variable(self, name: str, error: ErrorValue) -> None:
        variable = self.variables[name]
        variable.settled = True
        variable.error = error

    # -- the end --------------------------------------------------------------------------------

    def cancel(self, error: ErrorValue, past: Mapping[str, RunFacts] | None = None) -> list[asyncio.Task[None]]:
        """End everything that has not ended, for the reason `error`; returns the tasks that ran, cancelled.

        `past`: how far the calls had come, if this is the replay of a record.
        """
        if self.outcome is not None:
            return []
        now = self.now()
        seq = self.log.hold()
        tasks: list[asyncio.Task[None]] = []
        cancelled: list[str] = []
        cut: list[tuple[str, RunFacts]] = []
        for run in self.calls.values():
            if run.state.final:
                continue
            if past is None:
                run.cut(now)
            elif run.call.id in past:
                run.restore(past[run.call.id])
            if run.runs or run.spans:
                cut.append((run.call.id, run.facts()))
            run.state = CallState.CANCELLED
            run.error = error.model_copy(update={"call": run.call.id, "attempts": run.runs})
            self._fail_variable(run.call.variable, run.error)
            cancelled.append(run.call.variable)
            self.log.add(now, EventKind.CALL_CANCELLED, run.call.id, error=run.error)
            if run.task is not None:
                run.task.cancel()
                tasks.append(run.task)
        self.unfinished = 0
        self._finish(Ended(self.id, ProgramStatus.CANCELLED, seq, now, error, tuple(cut)), cancelled)
        return tasks

    def end(self, status: ProgramStatus, error: ErrorValue | None, at_s: float) -> None:
        """The program has ended with all its calls."""
        self._finish(Ended(self.id, status, self.log.hold(), at_s, error), ())

    def _finish(self, record: Ended, variables: Iterable[str]) -> None:
        self.outcome = record.status
        self.error = record.error
        self.open = False
        self.ended_s = record.at_s
        commit = self.end_commit = self.host.record(record)
        self.log.add(record.at_s, _TERMINAL[record.status], error=record.error)
        commit.then(_Publication(self, variables, self._show_end))
        self.host.ended(self)

    def _show_end(self) -> None:
        if self.outcome is not None:
            self.status = self.outcome
        self.host.end_durable(self)

    def stop_idle_timer(self) -> None:
        """The client has come back, or is no longer waited for."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None

    def abandon(self, fault: RuntimeFault) -> None:
        """The server stops here, without an end: readers are told, the journal resumes the program one day."""
        self.holds_end = True
        self.stop_idle_timer()
        self.log.fail(fault)
        for variable in self.variables.values():
            variable.abandon(fault)

    def rerunnable(self, run: CallRun) -> bool:
        """True if the call may run again although it is unknown how far its last run came."""
        call = run.call
        return isinstance(call, LLMCall) or call.idempotent or not self.effects.has_effect(call.id)

    def output_error(self) -> ErrorValue | None:
        """The error of the first declared output that failed."""
        return next((e for name in self.graph.outputs if (e := self.variables[name].error) is not None), None)

    # -- questions ------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since acceptance."""
        return self.host.at_s(self)

    def attempt(self, run: CallRun) -> int:
        """Number of the call's current run, which grows over restarts too: what tells texts of two runs apart."""
        return run.runs + _RUNS_PER_START * self.restarts

    def seconds(self) -> float:
        """Since acceptance, or to the end."""
        return self.ended_s if self.outcome is not None else self.now()

    def check(self) -> None:
        """Assert the invariants; tests call it after every step."""
        unfinished = sum(not run.state.final for run in self.calls.values())
        assert self.unfinished == unfinished == self.graph.unfinished or self.outcome is ProgramStatus.CANCELLED
        for run in self.calls.values():
            variable = self.variables[run.call.variable]
            assert variable.settled == run.state.final, run.call.id
            assert (run.call.variable in self.values) == (run.state is CallState.ENDED), run.call.id
            assert (variable.error is not None) == (run.state.final and run.state is not CallState.ENDED)
        if self.outcome is not None:
            assert unfinished == 0


def _large(encoded: bytes) -> LargeValue:
    preview = encoded[:_PREVIEW_BYTES].decode(errors="ignore")
    return LargeValue.model_construct(bytes=len(encoded), preview=preview)


def _hit(run: CallRun) -> CacheHit | None:
    return None if run.cache is None else run.cache.view()


class _Publication:
    """What happens when a transition's record is durable: the world may see it."""

    __slots__ = ("_also", "_program", "_variables")

    def __init__(self, program: Program, variables: Iterable[str], also: Callable[[], Any] | None = None) -> None:
        self._program = program
        self._variables = variables
        self._also = also

    def __call__(self) -> None:
        program = self._program
        for name in self._variables:
            program.variables[name].publish()
        if self._also is not None:
            self._also()
        program.log.release()
