"""The runtime: all programs of a server, from submission to end, and their way back after a crash.

Owns which programs live and which ended ones are still in memory. What happens inside one is `Program`'s affair,
running a call `Execution`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from random import Random

from pydantic import JsonValue

from dag.diagnostics import InvalidGraph
from orchestrator.caching.call_cache import CallCache, NoCallCache
from orchestrator.caching.caller import Caller
from orchestrator.clock import OrchestratorClock
from orchestrator.engines import EnginePool
from orchestrator.errors import (
    Busy,
    Conflict,
    IdempotencyMismatch,
    JournalUnavailable,
    NotFound,
    ProgramEnded,
    RuntimeFault,
    ShuttingDown,
)
from orchestrator.journal import Accepted, Commit, Extended, Journal, Record
from orchestrator.limits import Limits
from orchestrator.retention import Retention, RetentionRule
from orchestrator.runtime import admission, views
from orchestrator.runtime.answered import caller, drives_effects
from orchestrator.runtime.calls import CallRun
from orchestrator.runtime.events import Entry
from orchestrator.runtime.execution import Execution
from orchestrator.runtime.ids import ProgramIds
from orchestrator.runtime.priorities import Priorities
from orchestrator.runtime.program import Growth, Host, Program
from orchestrator.runtime.replay import UnreadableProgram, replay
from orchestrator.runtime.services import Services
from orchestrator.runtime.shelf import Shelf
from orchestrator.scheduling import Policy, ProgramArrival, StageStatistics
from orchestrator.telemetry import (
    Metrics,
    NullMetrics,
    NullTelemetry,
    ProgramTrace,
    Telemetry,
    names,
    parse_traceparent,
)
from orchestrator.tools import FailureType, Toolbox, WorkerPool
from tenuto.wire import (
    CacheHit,
    CallView,
    ErrorValue,
    Event,
    EventKind,
    GraphExtension,
    LLMCall,
    Page,
    ProgramStatus,
    ProgramSubmission,
    ProgramSummary,
    ProgramView,
    Timeline,
    VariableView,
)

log = logging.getLogger(__name__)


class Runtime:
    """Drives every program of one server by events, on one event loop.

    Invariant: a program is on the shelf from its acceptance until memory is wanted for others after its end, and
    live exactly while it has no outcome.
    """

    def __init__(
        self,
        *,
        clock: OrchestratorClock,
        engines: EnginePool,
        workers: WorkerPool,
        journal: Journal,
        policy: Policy,
        limits: Limits,
        rng: Random,
        telemetry: Telemetry | None = None,
        metrics: Metrics | None = None,
        statistics: StageStatistics | None = None,
        cache: CallCache | None = None,
        retention: RetentionRule | None = None,
        tools: Toolbox | None = None,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._limits = limits
        self._telemetry = telemetry or NullTelemetry(rng)
        tools = tools or Toolbox(workers, clock=clock, limits=limits)
        self._services = Services(
            clock=clock,
            engines=engines,
            workers=workers,
            tools=tools,
            priorities=Priorities(policy, engines, clock, engine_calls=limits.engine_calls),
            statistics=statistics or StageStatistics(),
            limits=limits,
            rng=rng,
            metrics=metrics or NullMetrics(),
            retention=Retention(clock, rule=retention, specs=tools.spec),
            cache=cache or NoCallCache(),
        )
        self._services.priorities.attach(self._services.retention)
        self._execution = Execution(self._services)
        self._ids = ProgramIds(rng)
        self._shelf = Shelf(limits)
        self._live_calls = 0
        self._in_flight: dict[str, str] = {}  # idempotency keys of submissions that are not durable yet
        self._fault: RuntimeFault | None = ShuttingDown("the runtime has not been started")

        self._observe(self._services.metrics)

    @property
    def metrics(self) -> Metrics:
        """What reads this runtime's metrics."""
        return self._services.metrics

    @property
    def retention(self) -> Retention:
        """What is kept of paused programs' KV."""
        return self._services.retention

    def _observe(self, metrics: Metrics) -> None:
        """Let whoever reads the metrics read the numbers that are kept anyway."""
        metrics.observe("tenuto.programs.live", lambda: [(self._shelf.live_count, {})])
        metrics.observe("tenuto.calls.live", lambda: [(self._live_calls, {})])
        metrics.observe("tenuto.cache.lookups", self._services.cache.lookups)
        metrics.observe(
            "tenuto.queue.calls",
            lambda: [(held, {names.ENGINE: engine}) for engine, held in self._services.priorities.held().items()],
        )
        metrics.observe(
            "tenuto.leases",
            lambda: [(count, {names.LEASE_OUTCOME: how.value}) for how, count in self.retention.ended_leases().items()],
        )

    # -- start and end --------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal and go on with every program that it holds. Raises JournalUnavailable."""
        await self._journal.open(self._halt)
        self._fault = None
        for id in await self._journal.unfinished():
            try:
                program = replay(await self._journal.records(id), self._remake, self._limits.graph())
            except UnreadableProgram:  # must not keep the others from going on
                log.exception("program %s cannot be taken up; it stays in the journal", id)
            else:
                self._go_on(program)

    async def close(self) -> None:
        """Stop running calls, end every wait and write what is pending; a later start goes on with live programs."""
        closing = ShuttingDown("the server is closing; accepted programs go on when it is started again")
        tasks = self._stop(closing)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._services.priorities.close()
        await self._services.retention.close()
        await self._journal.close()
        await self._telemetry.close()
        await self._services.metrics.close()

    def _halt(self, fault: JournalUnavailable) -> None:
        """The disk refused: no promise can be kept, so nothing more is done or told."""
        log.error("%s", fault.detail)
        self._stop(fault)

    def _stop(self, fault: RuntimeFault) -> list[asyncio.Task[None]]:
        if self._fault is None:
            self._fault = fault
        tasks: list[asyncio.Task[None]] = []
        for program in self._shelf.live():
            program.abandon(fault)
            for run in program.calls.values():
                if run.task is not None:
                    run.task.cancel()
                    tasks.append(run.task)
        return tasks

    def _go_on(self, program: Program) -> None:
        """Take up a replayed program where its journal ends."""
        known_s = program.now()
        program.host = self
        # The calendar may have been set back meanwhile: the program's own time never goes back.
        program.began_s = self._clock.now() - max(known_s, self._clock.wall() - program.accepted_at)
        self._live_calls += len(program.calls)
        self._adopt(program)
        log.info("program %s goes on: %d calls left", program.id, program.unfinished)
        program.resume()
        self._execution.take_up(program)
        program.settle(program.now())

    @property
    def fault(self) -> RuntimeFault | None:
        """Why nothing can be accepted: the journal's fault, or that the server is closing. None if all is well."""
        return self._fault

    # -- what a client may ask ------------------------------------------------------------------

    async def submit(
        self,
        submission: ProgramSubmission,
        *,
        tenant: str,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        principal: str | None = None,
    ) -> tuple[ProgramSummary, bool]:
        """Accept a program and start it; returns when it is durable. False: the key was used, this is its program.

        `principal`: who of the tenant asks. Raises InvalidSubmission (located), TooLarge, Busy, IdempotencyMismatch,
        Conflict (the key's first submission is still on its way), JournalUnavailable.
        """
        self._check_alive()
        body = submission.model_dump_json().encode()
        if idempotency_key is None:
            return await self._accept(submission, body, tenant, traceparent, principal), True
        key = hashlib.sha256(f"{tenant}\n{idempotency_key}".encode()).hexdigest()
        body_hash = hashlib.sha256(body).hexdigest()
        if key in self._in_flight:
            _check_same(self._in_flight[key], body_hash)
            raise Conflict("the first submission with this idempotency key is still on its way: ask again in a moment")
        self._in_flight[key] = body_hash
        try:
            if (earlier := await self._accepted_under(key, body_hash, tenant)) is not None:
                return views.summary(earlier), False
            return await self._accept(submission, body, tenant, traceparent, principal, key, body_hash), True
        finally:
            del self._in_flight[key]

    async def extend(
        self, program: str, extension: GraphExtension, *, tenant: str, body: bytes | None = None
    ) -> ProgramSummary:
        """Add calls to an open program, and seal it if asked; returns when that is durable.

        `body`: the extension's JSON, if the caller has it from `model_dump_json`.
        Raises NotFound, ProgramEnded, InvalidSubmission (located), TooLarge, Busy, JournalUnavailable.
        """
        self._check_alive()
        found = await self._find(program, tenant)
        if not found.open:
            state = "is sealed" if found.outcome is None else f"has {found.outcome.value}"
            raise ProgramEnded(f"program {program!r} {state}: it takes no more calls")
        commit = self._extend(found, extension, body or extension.model_dump_json().encode())
        await commit.committed()
        return views.summary(found)

    def _extend(self, found: Program, extension: GraphExtension, body: bytes) -> Commit:
        ready = self._declare(found, extension, body, prefix="")
        found.stop_idle_timer()
        seq, now_s = found.log.hold(), found.now()
        commit = self.record(Extended(found.id, body, seq, now_s))
        found.begin(EventKind.PROGRAM_EXTENDED, extension, ready, commit)
        if extension.seal:
            found.seal(extension.result, now_s)
        self._services.retention.evidence(found)
        found.settle(now_s)
        return commit

    async def recall(self, program: str, *, tenant: str) -> None:
        """Bring an ended program back into memory from the journal, if it is not there. Raises NotFound."""
        await self._find(program, tenant)

    def view(self, program: str, *, tenant: str) -> ProgramView:
        """A program in memory. Raises NotFound."""
        return views.view(self._known(program, tenant))

    def cached(self, program: str, name: str, *, tenant: str) -> CacheHit | None:
        """How the semantic cache answered the call that writes a variable of a program in memory; None if it did not.

        Raises NotFound.
        """
        found = self._known(program, tenant)
        producer = found.graph.producer(name) if name in found.variables else None
        hit = None if producer is None else found.calls[producer].cache
        return None if hit is None else hit.view()

    def llm_call(
        self, program: str, call: str, *, tenant: str
    ) -> tuple[LLMCall, Mapping[str, JsonValue], Caller, bool]:
        """An LLM call of a program in memory, the values that there are, whose it is, and whether an effect reads what
        it answers. Raises NotFound."""
        found = self._known(program, tenant)
        run = found.calls.get(call)
        if run is None or not isinstance(run.call, LLMCall):
            raise NotFound(f"program {program!r} has no LLM call {call!r}")
        return run.call, found.values, caller(found), drives_effects(found, call)

    def timeline(self, program: str, *, tenant: str) -> Timeline:
        """Where the time of a program in memory went. Raises NotFound."""
        return views.timeline(self._known(program, tenant), self._services.statistics)

    def list(
        self,
        *,
        tenant: str,
        limit: int = 20,
        after: str | None = None,
        order: str = "desc",
        status: ProgramStatus | None = None,
        workflow: str | None = None,
    ) -> Page[ProgramSummary]:
        """A page of the tenant's programs in memory, newest first unless `order` is "asc"."""
        limit = max(1, min(limit, self._limits.page))
        found: list[ProgramSummary] = []
        for program in self._shelf.of_tenant(tenant, after=after, newest_first=order != "asc"):
            if (status is None or program.status is status) and (workflow is None or program.workflow == workflow):
                if len(found) == limit:
                    return _page(found, has_more=True)
                found.append(views.summary(program))
        return _page(found, has_more=False)

    async def variable(self, program: str, name: str, *, tenant: str, wait_s: float = 0.0) -> VariableView:
        """A variable; waits up to `wait_s` seconds for its value or error.

        Raises NotFound, and what stopped the server if that happens while it waits.
        """
        found = await self._find(program, tenant)
        variable = found.variables.get(name)
        if variable is None:
            raise NotFound(f"program {program!r} has no variable {name!r}")
        if not variable.durable and wait_s > 0:
            self._check_alive()
            waiter = asyncio.get_running_loop().create_future()
            variable.waiters = [*(variable.waiters or ()), waiter]
            try:
                async with asyncio.timeout(min(wait_s, self._limits.variable_wait_s)):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if variable.waiters is not None:
                    variable.waiters.remove(waiter)
        return views.variable_view(found, name)

    def events(self, program: str, *, tenant: str, after_seq: int = 0) -> AsyncGenerator[Event, None]:
        """The events beyond number `after_seq` of a program in memory: those that were, then live ones, to the
        terminal event. Raises NotFound at once; while it is read, what stopped the server if that happens."""
        return _events(self._known(program, tenant), after_seq)

    def entries(self, program: str, *, tenant: str, after_seq: int = 0) -> AsyncGenerator[Entry, None]:
        """As `events`, in the form in which they are kept: for readers in this process."""
        return self._known(program, tenant).log.follow(after_seq)

    def last_event(self, program: str, *, tenant: str) -> int:
        """Number of the last event that readers of a program in memory may see. Raises NotFound."""
        return self._known(program, tenant).log.visible

    def call(self, program: str, call: str, *, tenant: str) -> CallView:
        """One call of a program in memory. Raises NotFound."""
        run = self._known(program, tenant).calls.get(call)
        if run is None:
            raise NotFound(f"program {program!r} has no call {call!r}")
        return views.call_view(run)

    async def cancel(self, program: str, *, tenant: str) -> ProgramSummary:
        """End a program now; returns when engines and workers were told and the end is durable.

        A program that has ended already is no error. Raises NotFound, JournalUnavailable.
        """
        self._check_alive()
        found = await self._find(program, tenant)
        if found.outcome is None:
            tasks = found.cancel(ErrorValue(type=FailureType.CANCELLED, message="the program was cancelled"))
            if tasks:
                await asyncio.wait(tasks, timeout=self._limits.cancel_wait_s)
        if found.end_commit is not None:
            await found.end_commit.committed()
        return views.summary(found)

    def give_up(self, program: str, calls: Iterable[str], *, tenant: str) -> None:
        """End calls of a program that nobody waits for any more, as failed; the program goes on. Raises NotFound."""
        found = self._known(program, tenant)
        for id in calls:
            message = "the client left before it had the answer"
            error = ErrorValue(type=FailureType.CANCELLED, message=message, call=id, attempts=found.calls[id].runs)
            self._execution.give_up(found, found.calls[id], error)

    # -- what a program asks: `Host` ------------------------------------------------------------

    def at_s(self, program: Program) -> float:
        """Now, on the program's axis."""
        return self._clock.now() - program.began_s

    def launch(self, program: Program, run: CallRun) -> None:
        self._execution.launch(program, run)

    def record(self, record: Record) -> Commit:
        """Append to the journal. After a fault the ticket is one that fails: programs have been stopped already."""
        try:
            return self._journal.append(record)
        except JournalUnavailable as fault:
            commit = Commit()
            commit.fail(fault)
            return commit

    def grow(self, program: Program, extension: GraphExtension) -> None:
        """Calls that a planner's text made join the program at once, as durably as those of its client.

        Raises dag's InvalidGraph, with the program as it was, and Busy.
        """
        if self._live_calls + len(extension.calls) > self._limits.live_calls:
            raise self._busy(f"live programs hold {self._live_calls} calls", "live_calls")
        ready = program.declare(extension, self._services.tools.specs(program.tenant, program.toolset))
        body = extension.model_dump_json().encode()
        program.bytes += len(body)
        self._live_calls += len(extension.calls)
        commit = self.record(Extended(program.id, body, program.log.hold(), program.now()))
        program.begin(EventKind.PROGRAM_EXTENDED, extension, ready, commit)

    def idle(self, program: Program) -> None:
        """Give the client of an open program time to go on, but not for ever."""
        self._services.retention.evidence(program, idle=True)
        if program.idle_timer is None:
            loop = asyncio.get_running_loop()
            idle_s = min(self._limits.open_idle_s, program.idle_s or self._limits.open_idle_s)
            program.idle_timer = loop.call_later(idle_s, self._idled, program)

    def _idled(self, program: Program) -> None:
        program.idle_timer = None
        if not program.open or program.unfinished or self._fault is not None:
            return
        if program.idle_s is not None:
            seal = GraphExtension(seal=True)
            self._extend(program, seal, seal.model_dump_json().encode())
        else:
            message = f"the program was left open and unused for {self._limits.open_idle_s:g} s (limits.open_idle_s)"
            program.cancel(ErrorValue(type=FailureType.ABANDONED, message=message))

    def ended(self, program: Program) -> None:
        program.stop_idle_timer()
        self._live_calls -= len(program.calls)
        self._services.priorities.program_ended(program.id)
        self._services.footprints.ended(program.id)
        self._services.retention.program_ended(program)
        self._services.tools.program_ended(program.id)
        error = program.error.type if program.error is not None else None
        program.trace.end(self._clock.wall(), error)
        ran = [isinstance(run.call, LLMCall) for run in program.calls.values() if run.runs]
        self._services.metrics.program_ended(program.workflow, program.seconds(), sum(ran), len(ran) - sum(ran), error)

    def end_durable(self, program: Program) -> None:
        self._shelf.end(program)

    # -- acceptance -----------------------------------------------------------------------------

    async def _accept(
        self,
        submission: ProgramSubmission,
        body: bytes,
        tenant: str,
        traceparent: str | None,
        principal: str | None,
        key: str | None = None,
        body_hash: str | None = None,
    ) -> ProgramSummary:
        """Make the program and start it at once; return when it is durable."""
        if self._shelf.live_count >= self._limits.live_programs:
            raise self._busy(f"{self._shelf.live_count} programs are running", "live_programs")
        wall_s = self._clock.wall()
        id = self._ids.next(wall_s)
        trace = self._telemetry.program(
            id,
            submission.workflow,
            wall_s,
            parse_traceparent(traceparent),
            objective=submission.objective.kind,
            policy=self._services.priorities.policy,
        )
        accepted = Accepted(id, tenant, wall_s, body, trace.traceparent, traceparent, key, body_hash, principal)
        program = self._make(accepted, submission, trace, self)
        try:
            ready = self._declare(program, submission.graph, body, prefix="/graph")
        except RuntimeFault as fault:
            trace.end(self._clock.wall(), fault.name)
            raise
        program.log.hold()
        commit = self.record(accepted)
        self._adopt(program)
        program.begin(EventKind.PROGRAM_ACCEPTED, submission.graph, ready, commit)
        program.settle(program.now())
        await commit.committed()
        return views.summary(program)

    def _declare(self, program: Program, growth: Growth, body: bytes, prefix: str) -> tuple[str, ...]:
        """Put calls into the program's graph, after every check. Raises InvalidSubmission, TooLarge, Busy."""
        admission.check_size(body, self._limits)
        admission.check_inputs(body, growth, self._limits, prefix)
        admission.check_numbers(body)
        tenant, toolset = program.tenant, program.toolset
        admission.check_models(growth, self._services, tenant=tenant, toolset=toolset, prefix=prefix)
        if not (growth.inputs or growth.calls or growth.outputs):
            return ()  # a seal alone is taken whatever the limits
        if self._live_calls + len(growth.calls) > self._limits.live_calls:
            raise self._busy(f"live programs hold {self._live_calls} calls", "live_calls")
        try:
            ready = program.declare(growth, self._services.tools.specs(tenant, toolset))
        except InvalidGraph as fault:
            raise admission.invalid_graph(fault, prefix) from fault
        program.bytes += len(body)
        self._live_calls += len(growth.calls)
        return ready

    def _adopt(self, program: Program) -> None:
        """The program lives from now on."""
        self._shelf.put(program)
        arrival = ProgramArrival(
            program.id, program.tenant, program.workflow, program.objective, program.graph, program.open
        )
        self._services.priorities.program_arrived(arrival)

    def _make(self, accepted: Accepted, submission: ProgramSubmission, trace: ProgramTrace, host: Host) -> Program:
        return Program(
            accepted.program,
            accepted.tenant,
            submission,
            accepted_at=accepted.accepted_at,
            began_s=self._clock.now(),
            limits=self._limits.graph(),
            token_events=self._limits.token_events,
            inline_bytes=self._limits.inline_bytes,
            trace=trace,
            host=host,
            key=accepted.key,
            body_hash=accepted.body_hash,
            principal=accepted.principal,
        )

    def _remake(self, accepted: Accepted, submission: ProgramSubmission, host: Host) -> Program:
        """A program of an earlier server, whose trace goes on."""
        trace = self._telemetry.program(
            accepted.program,
            submission.workflow,
            self._clock.wall(),
            parse_traceparent(accepted.traceparent),
            parse_traceparent(accepted.span),
            objective=submission.objective.kind,
            policy=self._services.priorities.policy,
        )
        return self._make(accepted, submission, trace, host)

    def _recall(self, accepted: Accepted, submission: ProgramSubmission, host: Host) -> Program:
        """An ended program, for reading only: its trace is over."""
        trace = NullTelemetry(self._services.rng).program(
            accepted.program, submission.workflow, accepted.accepted_at, parse_traceparent(accepted.span)
        )
        return self._make(accepted, submission, trace, host)

    # -- finding --------------------------------------------------------------------------------

    async def _accepted_under(self, key: str, body_hash: str, tenant: str) -> Program | None:
        """The program that a key was used for. Raises IdempotencyMismatch if that was for another body."""
        program = self._shelf.under_key(key)
        if program is None:
            accepted = await self._journal.find_key(key)
            if accepted is None:
                return None
            program = await self._find(accepted.program, tenant)
        _check_same(program.body_hash, body_hash)
        return program

    async def _find(self, id: str, tenant: str) -> Program:
        """A program in memory or in the journal. Raises NotFound, JournalUnavailable."""
        program = self._shelf.get(id)
        if program is None and (records := await self._journal.records(id)):
            try:
                program = replay(records, self._recall, self._limits.graph())
            except UnreadableProgram as error:
                raise JournalUnavailable(str(error)) from error
            self._shelf.put_recalled(program)
        if program is None or program.tenant != tenant:
            raise NotFound(f"there is no program {id!r}")
        return program

    def _known(self, id: str, tenant: str) -> Program:
        program = self._shelf.get(id)
        if program is None or program.tenant != tenant:
            raise NotFound(f"there is no program {id!r} in memory")
        return program

    def _check_alive(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _busy(self, what: str, limit: str) -> Busy:
        bound = getattr(self._limits, limit)
        return Busy(f"{what}, the limit is {bound} (limits.{limit})", retry_after_s=self._limits.retry_after_s)


async def _events(program: Program, after_seq: int) -> AsyncGenerator[Event, None]:
    async with aclosing(program.log.follow(after_seq)) as entries:
        async for entry in entries:
            yield entry.event()


def _check_same(first: str | None, again: str) -> None:
    if first != again:
        raise IdempotencyMismatch("this idempotency key was used for another body: use a fresh key for a new program")


def _page(found: Sequence[ProgramSummary], *, has_more: bool) -> Page[ProgramSummary]:
    first_id, last_id = (found[0].id, found[-1].id) if found else (None, None)
    return Page[ProgramSummary].model_construct(
        data=tuple(found), first_id=first_id, last_id=last_id, has_more=has_more
    )
