"""The runtime: all programs of a server, from submission to end, and their way back after a crash.

Owns which programs live and which ended ones are still in memory. What happens inside one is `Program`'s affair,
running a call `Execution`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from random import Random

from dag.diagnostics import InvalidGraph
from orchestrator.caching.call_cache import CallCache, NoCallCache
from orchestrator.clock import OrchestratorClock
from orchestrator.engines import EnginePool
from orchestrator.errors import (
    Busy,
    Conflict,
    JournalUnavailable,
    ProgramEnded,
    RuntimeFault,
    ShuttingDown,
)
from orchestrator.journal import Accepted, Commit, Extended, Journal, Record
from orchestrator.limits import Limits
from orchestrator.retention import Retention, RetentionRule
from orchestrator.runtime import admission, views
from orchestrator.runtime.archive import Archive, check_same
from orchestrator.runtime.calls import CallRun
from orchestrator.runtime.execution import Execution
from orchestrator.runtime.ids import ProgramIds
from orchestrator.runtime.placing import Placing
from orchestrator.runtime.priorities import Priorities
from orchestrator.runtime.program import Growth, Program
from orchestrator.runtime.reading import Reader
from orchestrator.runtime.services import Services
from orchestrator.scheduling import Policy, ProgramArrival, StageStatistics
from orchestrator.telemetry import (
    Metrics,
    NullMetrics,
    NullTelemetry,
    StepSpans,
    Telemetry,
    names,
)
from orchestrator.tools import FailureType, Toolbox, WorkerPool
from tenuto.wire import (
    ErrorValue,
    EventKind,
    GraphExtension,
    LLMCall,
    ProgramSubmission,
    ProgramSummary,
)

log = logging.getLogger(__name__)


class Runtime(Reader):
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
        trace_steps: bool = False,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._telemetry = telemetry or NullTelemetry(rng)
        statistics = statistics or StageStatistics()
        tools = tools or Toolbox(workers, clock=clock, limits=limits)
        priorities = Priorities(policy, engines, clock, engine_calls=limits.engine_calls)
        kept = Retention(clock, rule=retention, specs=tools.spec, one_pool=priorities.holds)
        priorities.attach(kept)
        self._services = Services(
            clock=clock,
            engines=engines,
            workers=workers,
            tools=tools,
            priorities=priorities,
            statistics=statistics,
            limits=limits,
            rng=rng,
            metrics=metrics or NullMetrics(),
            retention=kept,
            placing=Placing(engines, priorities, kept),
            cache=cache or NoCallCache(),
        )
        self._execution = Execution(self._services)
        self._ids = ProgramIds(rng)
        archive = Archive(
            journal, self._telemetry, clock=clock, limits=limits, rng=rng, policy=self._services.priorities.policy
        )
        super().__init__(archive, statistics, limits)
        self._shelf = archive.shelf
        self._live_calls = 0
        self._seconds: defaultdict[str, float] = defaultdict(float)  # of the calls of ended programs, by cause
        self._in_flight: dict[str, str] = {}  # idempotency keys of submissions that are not durable yet

        self._steps = StepSpans(self._telemetry, clock.wall) if trace_steps else None
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
        metrics.observe("tenuto.tools.running", lambda: [(self._services.occupancy.functions, {})])
        for metric, source in self._services.tools.sources().items():
            metrics.observe(metric, source)
        metrics.observe("tenuto.program.seconds", lambda: [(s, {names.CAUSE: c}) for c, s in self._seconds.items()])
        metrics.observe("tenuto.kv.blocks", self._services.engines.kv_blocks)
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
        async for program in self._archive.unfinished():
            self._go_on(program)
        if self._steps is not None:
            self._steps.start(self._services.engines.all())

    async def close(self) -> None:
        """Stop running calls, end every wait and write what is pending; a later start goes on with live programs."""
        closing = ShuttingDown("the server is closing; accepted programs go on when it is started again")
        tasks = self._stop(closing)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._services.priorities.close()
        await self._services.retention.close()
        await self._journal.close()
        if self._steps is not None:
            await self._steps.close()
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
            check_same(self._in_flight[key], body_hash)
            raise Conflict("the first submission with this idempotency key is still on its way: ask again in a moment")
        self._in_flight[key] = body_hash
        try:
            if (earlier := await self._archive.under_key(key, body_hash, tenant)) is not None:
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
        found = await self._archive.find(program, tenant)
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

    async def cancel(self, program: str, *, tenant: str) -> ProgramSummary:
        """End a program now; returns when engines and workers were told and the end is durable.

        A program that has ended already is no error. Raises NotFound, JournalUnavailable.
        """
        self._check_alive()
        found = await self._archive.find(program, tenant)
        if found.outcome is None:
            tasks = found.cancel(ErrorValue(type=FailureType.CANCELLED, message="the program was cancelled"))
            if tasks:
                await asyncio.wait(tasks, timeout=self._limits.cancel_wait_s)
        if found.end_commit is not None:
            await found.end_commit.committed()
        return views.summary(found)

    def give_up(self, program: str, calls: Iterable[str], *, tenant: str) -> None:
        """End calls of a program that nobody waits for any more, as failed; the program goes on. Raises NotFound."""
        found = self._archive.known(program, tenant)
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
        self._services.placing.ended(program.id)
        self._services.retention.program_ended(program)
        self._services.tools.program_ended(program.id)
        error = program.error.type if program.error is not None else None
        program.trace.end(self._clock.wall(), error)
        ran = [isinstance(run.call, LLMCall) for run in program.calls.values() if run.runs]
        llm_calls, seconds = sum(ran), program.seconds()
        metrics = self._services.metrics
        metrics.program_ended(program.workflow, seconds, llm_calls, len(ran) - llm_calls, error, agent=program.agent)
        for run in program.calls.values():
            for cause, start_s, end_s in run.spans:
                self._seconds[cause] += end_s - start_s

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
        trace = self._archive.trace(id, submission, wall_s, traceparent)
        accepted = Accepted(id, tenant, wall_s, body, trace.traceparent, traceparent, key, body_hash, principal)
        program = self._archive.make(accepted, submission, trace, self)
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

    def _busy(self, what: str, limit: str) -> Busy:
        bound = getattr(self._limits, limit)
        return Busy(f"{what}, the limit is {bound} (limits.{limit})", retry_after_s=self._limits.retry_after_s)
